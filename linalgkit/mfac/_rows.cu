// Passes over the gradients G (rows, columns): dots of all rows with a vector, and combinations of
// rows. Bounded by reading G; numbers are widened in registers and summed in float64.
//   dots:    a block holds COLUMNS entries of x in shared memory; each of its warps takes SIDE
//            rows at a time and writes that piece's sums. The sums of pieces are added
//            afterwards, in one order.
//   combine: a thread holds the sums of as many columns as it loads at once, over all rows.

namespace linalgkit {

struct Half {
    unsigned short bits;
};
struct BFloat {
    unsigned short bits;
};

__device__ double widen(double value) { return value; }
__device__ double widen(float value) { return value; }
__device__ double widen(BFloat value) { return __uint_as_float((unsigned int)value.bits << 16); }
__device__ double widen(Half value) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
}

constexpr int COLUMNS = 4096;  // of x in shared memory: 32 KiB
constexpr int WARPS = 8;
constexpr int ROWS = 128;  // that a block takes
constexpr int SIDE = 4;  // rows that a warp takes side by side, for one read of the vector
template <typename T>
constexpr int PACK = 16 / sizeof(T);  // numbers that a thread loads at once

template <typename T>
union Pack {
    int4 whole;
    T parts[PACK<T>];
    __device__ Pack() {}
};

// Load numbers side by side; `Aligned` tells that 16 bytes may be loaded at once.
template <typename T, bool Aligned>
__device__ Pack<T> load(const T* source, long long count) {
    Pack<T> pack;
    if constexpr (Aligned) {
        pack.whole = *reinterpret_cast<const int4*>(source);
    } else {
        pack.whole = make_int4(0, 0, 0, 0);
        for (int k = 0; k < PACK<T>; ++k) {
            if (k < count) pack.parts[k] = source[k];
        }
    }
    return pack;
}

// Where a column's entry of x lies: what the lanes of a warp read at a time is side by side.
template <typename T>
__device__ int place(int column) {
    return column % PACK<T> * (COLUMNS / PACK<T>) + column / PACK<T>;
}

template <typename T, typename X, bool Aligned>
__global__ void __launch_bounds__(32 * WARPS)
dots(const T* g, const X* x, double* sums, int rows, long long columns) {
    __shared__ double vector[COLUMNS];
    const long long begin = (long long)blockIdx.x * COLUMNS;
    const int count = min((long long)COLUMNS, columns - begin);
    for (int k = threadIdx.x; k < COLUMNS; k += 32 * WARPS) {
        vector[place<T>(k)] = k < count ? double(x[begin + k]) : 0.0;
    }
    __syncthreads();
    const int lane = threadIdx.x & 31, last = min(rows, int(blockIdx.y + 1) * ROWS);
    for (int row = blockIdx.y * ROWS + (threadIdx.x >> 5); row < last; row += SIDE * WARPS) {
        const T* sources[SIDE];
        double sum[SIDE] = {};
        for (int r = 0; r < SIDE; ++r) {  // of fewer rows the last one again
            sources[r] = g + min(row + r * WARPS, last - 1) * columns + begin;
        }
#pragma unroll 2
        for (int k = PACK<T> * lane; k < count; k += 32 * PACK<T>) {
            Pack<T> packs[SIDE];
#pragma unroll
            for (int r = 0; r < SIDE; ++r) packs[r] = load<T, Aligned>(sources[r] + k, count - k);
#pragma unroll
            for (int j = 0; j < PACK<T>; ++j) {
                const double entry = vector[place<T>(k + j)];
#pragma unroll
                for (int r = 0; r < SIDE; ++r) {
                    sum[r] = fma(widen(packs[r].parts[j]), entry, sum[r]);
                }
            }
        }
#pragma unroll
        for (int r = 0; r < SIDE; ++r) {
            for (int step = 16; step; step >>= 1) {
                sum[r] += __shfl_down_sync(0xffffffffu, sum[r], step);
            }
            const int own = row + r * WARPS;
            if (lane == 0 && own < last) sums[(long long)blockIdx.x * rows + own] = sum[r];
        }
    }
}

template <typename T, typename X, bool Aligned>
__global__ void __launch_bounds__(32 * WARPS)
combine(const T* g, const double* coefficients, const X* x, double factor, X* result, int rows,
        long long columns) {
    __shared__ double some[1024];
    const long long begin = PACK<T> * ((long long)blockIdx.x * 32 * WARPS + threadIdx.x);
    const long long count = columns - begin;
    double sums[PACK<T>];
#pragma unroll
    for (int j = 0; j < PACK<T>; ++j) {
        sums[j] = x != nullptr && j < count ? factor * double(x[begin + j]) : 0.0;
    }
    for (int first = 0; first < rows; first += 1024) {
        const int height = min(1024, rows - first);
        __syncthreads();
        for (int k = threadIdx.x; k < height; k += 32 * WARPS) some[k] = coefficients[first + k];
        __syncthreads();
        if (count <= 0) continue;
        const T* source = g + first * columns + begin;
#pragma unroll 8
        for (int i = 0; i < height; ++i) {
            const Pack<T> pack = load<T, Aligned>(source + i * columns, count);
#pragma unroll
            for (int j = 0; j < PACK<T>; ++j) sums[j] = fma(some[i], widen(pack.parts[j]), sums[j]);
        }
    }
#pragma unroll
    for (int j = 0; j < PACK<T>; ++j) {
        if (j < count) result[begin + j] = X(sums[j]);
    }
}

}  // namespace linalgkit
