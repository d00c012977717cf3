// What the kernels of a row's products share: what adds and multiplies, which products count.
#pragma once
#include "block.cuh"
#include "numbers.cuh"

namespace linalgkit {

struct PlusTimes {
    template <typename T> __device__ static T absent() { return T{}; }
    template <typename T> __device__ static T add(T a, T b) { return plus(a, b); }
    template <typename T> __device__ static T multiply(T a, T b) { return times(a, b); }
};
struct PlusPair : PlusTimes {
    template <typename T> __device__ static T multiply(T, T) { return T{1}; }
};
struct Least {
    template <typename T> __device__ static T absent() { return greatest<T>(); }
    template <typename T> __device__ static T add(T a, T b) { return lesser(a, b); }
};
struct Greatest {
    template <typename T> __device__ static T absent() { return least<T>(); }
    template <typename T> __device__ static T add(T a, T b) { return greater(a, b); }
};
struct MinPlus : Least {
    template <typename T> __device__ static T multiply(T a, T b) { return plus(a, b); }
};
struct MaxPlus : Greatest {
    template <typename T> __device__ static T multiply(T a, T b) { return plus(a, b); }
};
struct MaxMin : Greatest {
    template <typename T> __device__ static T multiply(T a, T b) { return lesser(a, b); }
};
struct MinMax : Least {
    template <typename T> __device__ static T multiply(T a, T b) { return greater(a, b); }
};
struct OrAnd {
    template <typename T> __device__ static T absent() { return T{}; }
    template <typename T> __device__ static T add(T a, T b) { return a | b; }
    template <typename T> __device__ static T multiply(T a, T b) { return a & b; }
};

// Which products count: ALL; those in MASKED, or not in COMPLEMENT; those in the result's pattern,
// which is KNOWN. PAIRS counts products of MASKED, not entries. As in _cupy.py.
enum Mode { ALL, MASKED, COMPLEMENT, KNOWN, PAIRS };

}  // namespace linalgkit
