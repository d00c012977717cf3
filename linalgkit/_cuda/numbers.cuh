// Numbers as kernels use them: complex values with NumPy's layout, and no fused operations.
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

}  // namespace linalgkit
