// Numbers as kernels use them: NumPy's layout and rules, and no fused operations.
#pragma once

namespace linalgkit {

template <typename Real>
struct Complex {
    Real re, im;
};

template <typename Real>
__device__ Complex<Real> operator*(Complex<Real> a, Complex<Real> b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

template <typename Real>
__device__ Complex<Real> operator+(Complex<Real> a, Complex<Real> b) {
    return {a.re + b.re, a.im + b.im};
}

template <typename T>
__device__ T conjugate(T a) { return a; }
template <typename Real>
__device__ Complex<Real> conjugate(Complex<Real> a) { return {a.re, -a.im}; }

// Sums and products; those of integers wrap, which only unsigned ones are defined to do.
template <typename T>
__device__ T plus(T a, T b) { return a + b; }
template <typename T>
__device__ T times(T a, T b) { return a * b; }
template <>
__device__ int plus(int a, int b) { return int(unsigned(a) + unsigned(b)); }
template <>
__device__ int times(int a, int b) { return int(unsigned(a) * unsigned(b)); }
template <>
__device__ long long plus(long long a, long long b) {
    return (long long)((unsigned long long)a + (unsigned long long)b);
}
template <>
__device__ long long times(long long a, long long b) {
    return (long long)((unsigned long long)a * (unsigned long long)b);
}

// The lesser and the greater of two numbers, NaN if one is.
template <typename T>
__device__ T lesser(T a, T b) { return a < b || a != a ? a : b; }
template <typename T>
__device__ T greater(T a, T b) { return a > b || a != a ? a : b; }

// The greatest and the least number of a type; `unsigned char` is a bool.
template <typename T>
__device__ T greatest();
template <typename T>
__device__ T least();
template <>
__device__ float greatest() { return __int_as_float(0x7f800000); }
template <>
__device__ float least() { return -greatest<float>(); }
template <>
__device__ double greatest() { return __longlong_as_double(0x7ff0000000000000ll); }
template <>
__device__ double least() { return -greatest<double>(); }
template <>
__device__ int greatest() { return 0x7fffffff; }
template <>
__device__ int least() { return -greatest<int>() - 1; }
template <>
__device__ long long greatest() { return 0x7fffffffffffffffll; }
template <>
__device__ long long least() { return -greatest<long long>() - 1; }
template <>
__device__ unsigned char greatest() { return 1; }
template <>
__device__ unsigned char least() { return 0; }

}  // namespace linalgkit
