// The Gram matrix of half-precision rows by tensor cores for 8-bit integers: what stands before and
// after their products. Bounded by memory: split writes PLANES bytes for a number of G.
//   largest:    bits of the largest magnitude of every row.
//   remainders: squared lengths of rows, and of what their integers leave, by pieces.
//   split:      rows as integers a = sum D_i 128^i of DIGITS digits -64...63; planes hold D_i, and
//               D_i + D_j for i < j, which fit in 8 bits.
//   collect:    a aT = sum 128^(2 i) D_i D_iT + sum 128^(i + j) ((D_i + D_j)(D_i + D_j)T - D_i D_iT
//               - D_j D_jT), whose brackets are exact.

#include "_stored.cuh"

namespace linalgkit {

constexpr int WIDTH = 16384;  // columns of a piece: sums of their products are below 2^31
constexpr int BLOCK = 256;    // rows of a block
constexpr int WARPS = 8;
template <int DIGITS>
constexpr int PLANES = DIGITS * (DIGITS + 1) / 2;

// The row of a warp; a block takes WARPS rows of one piece.
__device__ int own_row() { return blockIdx.y * WARPS + (threadIdx.x >> 5); }

template <typename T>
__global__ void __launch_bounds__(32 * WARPS)
largest(const T* g, unsigned* result, int rows, long long columns) {
    const int row = own_row(), lane = threadIdx.x & 31;
    if (row >= rows) return;
    const long long begin = (long long)blockIdx.x * WIDTH;
    const int count = min((long long)WIDTH, columns - begin);
    const T* source = g + row * columns + begin;
    unsigned most = 0;
#pragma unroll 8
    for (int k = lane; k < count; k += 32) most = max(most, source[k].bits & 0x7fffu);
    for (int step = 16; step; step >>= 1) {
        most = max(most, __shfl_down_sync(0xffffffffu, most, step));
    }
    if (lane == 0) atomicMax(result + row, most);
}

template <typename T>
__global__ void __launch_bounds__(32 * WARPS)
remainders(const T* g, const double* scales, double2* result, int rows, long long columns) {
    const int row = own_row(), lane = threadIdx.x & 31;
    if (row >= rows) return;
    const long long begin = (long long)blockIdx.x * WIDTH;
    const int count = min((long long)WIDTH, columns - begin);
    const T* source = g + row * columns + begin;
    const double scale = scales[row];
    double2 sums = make_double2(0, 0);
#pragma unroll 8
    for (int k = lane; k < count; k += 32) {
        const double value = scale * widen(source[k]), rest = value - rint(value);
        sums.x = fma(value, value, sums.x);
        sums.y = fma(rest, rest, sums.y);
    }
    for (int step = 16; step; step >>= 1) {
        sums.x += __shfl_down_sync(0xffffffffu, sums.x, step);
        sums.y += __shfl_down_sync(0xffffffffu, sums.y, step);
    }
    if (lane == 0) result[(long long)blockIdx.x * rows + row] = sums;
}

// planes (blocks of rows, PLANES, pieces, BLOCK, WIDTH); a thread takes four columns of a row.
template <typename T, int DIGITS>
__global__ void __launch_bounds__(256)
split(const T* g, const double* scales, char4* planes, int rows, long long columns,
      long long first, int pieces) {
    const int row = blockIdx.y, quarter = blockIdx.x * 256 + threadIdx.x;
    const int piece = 4 * quarter / WIDTH, k = quarter % (WIDTH / 4);
    const long long begin = first + 4LL * quarter;
    signed char digits[DIGITS][4];
    const double scale = row < rows ? scales[row] : 0.0;
#pragma unroll
    for (int lane = 0; lane < 4; ++lane) {
        long long rest = 0;
        if (row < rows && begin + lane < columns) {
            rest = __double2ll_rn(scale * widen(g[row * columns + begin + lane]));
        }
#pragma unroll
        for (int i = 0; i < DIGITS - 1; ++i) {
            const int digit = ((int(rest) + 64) & 127) - 64;
            digits[i][lane] = digit;
            rest = (rest - digit) >> 7;
        }
        digits[DIGITS - 1][lane] = rest;
    }
    const long long across = (long long)pieces * BLOCK * (WIDTH / 4);  // from plane to plane
    char4* target = planes + row / BLOCK * PLANES<DIGITS> * across;
    target += ((long long)piece * BLOCK + row % BLOCK) * (WIDTH / 4) + k;
#pragma unroll
    for (int i = 0; i < DIGITS; ++i) {
        *target = make_char4(digits[i][0], digits[i][1], digits[i][2], digits[i][3]);
        target += across;
    }
#pragma unroll
    for (int i = 0; i < DIGITS; ++i) {
#pragma unroll
        for (int j = i + 1; j < DIGITS; ++j) {
            *target = make_char4(
                digits[i][0] + digits[j][0], digits[i][1] + digits[j][1],
                digits[i][2] + digits[j][2], digits[i][3] + digits[j][3]
            );
            target += across;
        }
    }
}

// Add products (blocks, PLANES, pieces, BLOCK, BLOCK) to total (blocks, BLOCK, BLOCK).
template <int DIGITS>
__global__ void __launch_bounds__(256)
collect(const int* products, double* total, int pieces) {
    constexpr int SIZE = BLOCK * BLOCK;
    const int place = blockIdx.x * 256 + threadIdx.x;
    products += (long long)blockIdx.y * PLANES<DIGITS> * pieces * SIZE + place;
    long long sums[PLANES<DIGITS>];
#pragma unroll
    for (int plane = 0; plane < PLANES<DIGITS>; ++plane) {
        sums[plane] = 0;
        for (int piece = 0; piece < pieces; ++piece, products += SIZE) sums[plane] += *products;
    }
    double sum = 0;
    int plane = DIGITS;
#pragma unroll
    for (int i = 0; i < DIGITS; ++i) {
        sum += double(1LL << 14 * i) * double(sums[i]);
#pragma unroll
        for (int j = i + 1; j < DIGITS; ++j, ++plane) {
            sum += double(1LL << 7 * (i + j)) * double(sums[plane] - sums[i] - sums[j]);
        }
    }
    total[(long long)blockIdx.y * SIZE + place] += sum;
}

}  // namespace linalgkit
