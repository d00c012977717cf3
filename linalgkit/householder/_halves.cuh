// The delta rule of float16 and bfloat16, by tensor cores: what its kernels share.
//
// `prepare` makes for all chunks of 64 tokens at once what the walks multiply by. With L = tril(K Kᵀ,
// -1), the decays between, and X = (I + L B)⁻¹ L, which stays bounded where L is not small:
//     R = I - X B,   W = R K,   U = R V,   P = scale tril(Q Kᵀ)
// The walks go from chunk to chunk with the state, and `gradients` takes the chunks in parallel again,
// with the states at hand. Operands of products are rounded to T, sums are float32.
#pragma once
#include "tensor_cores.cuh"

namespace linalgkit {

constexpr int ROWS = 64;      // of a chunk
constexpr int BLOCK = 16;     // columns of the state for a warp
constexpr float FORGETS = -1000;  // exp is zero; sums of such gates stay exact enough in float64

// Strengths and gates are T, or float32 where the bit says so.
constexpr int WIDE_BETA = 1, WIDE_GATES = 2;

template <typename T>
__device__ float value_at(const void* from, long long place, bool is_wide) {
    return is_wide ? static_cast<const float*>(from)[place]
                   : unpack<T>(static_cast<const T*>(from)[place].bits).x;
}
template <typename T>
__device__ void put_value(void* to, long long place, float value, bool is_wide) {
    if (is_wide) static_cast<float*>(to)[place] = value;
    else static_cast<T*>(to)[place] = rounded<T>(value);
}

struct Sizes {
    int chunks, first;  // of the segment
    int length, width, values;

    __device__ int tiles() const { return (values + BLOCK - 1) / BLOCK; }
    __device__ int begin(int chunk) const { return (first + chunk) * ROWS; }
    __device__ int rows(int chunk) const { return min(ROWS, length - begin(chunk)); }
    __device__ long long token(int head, int chunk) const {
        return static_cast<long long>(head) * length + begin(chunk);
    }
};

// Decays between rows of a chunk: one number a token.
struct Decays {
    const double* sums;  // null for none

    __device__ float between(int later, int earlier) const {
        return sums ? expf(static_cast<float>(sums[later] - sums[earlier])) : 1;
    }
    __device__ float since(int row) const { return sums ? expf(static_cast<float>(sums[row])) : 1; }

    // Sum up the gates of a chunk, which threads hold; all threads call it.
    static __device__ Decays of(float gate, float* each, double* sums) {
        const int row = threadIdx.x;
        if (row < ROWS) each[row] = gate < FORGETS ? FORGETS : gate;
        __syncthreads();
        if (row < ROWS) {
            double sum = 0;
            for (int m = 0; m <= row; ++m) sum += each[m];
            sums[row] = sum;
        }
        __syncthreads();
        return {sums};
    }
};

}  // namespace linalgkit
