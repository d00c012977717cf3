// What the threads of one block do together.
#pragma once

namespace linalgkit {

// Exclusive running sum over the block's threads; `total` is the sum of all. THREADS is a
// multiple of 32 and the block's size.
template <int THREADS>
__device__ long long exclusive_sum(long long value, long long& total) {
    __shared__ long long warp_sums[THREADS / 32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    long long inclusive = value;
    for (int step = 1; step < 32; step <<= 1) {
        const long long below = __shfl_up_sync(0xffffffffu, inclusive, step);
        if (lane >= step) inclusive += below;
    }
    if (lane == 31) warp_sums[warp] = inclusive;
    __syncthreads();
    long long before = 0;
    total = 0;
    for (int w = 0; w < THREADS / 32; ++w) {
        if (w < warp) before += warp_sums[w];
        total += warp_sums[w];
    }
    __syncthreads();
    return before + inclusive - value;
}

}  // namespace linalgkit
