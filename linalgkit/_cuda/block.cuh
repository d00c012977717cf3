// What the threads of a team do together. A team is a whole block of TEAM threads, or one warp
// of a block of several (TEAM is 32): then each warp goes its own way.
#pragma once

namespace linalgkit {

constexpr unsigned int WARP = 0xffffffffu;

// Wait for the team, and see what its threads wrote.
template <int TEAM>
__device__ void meet() {
    if constexpr (TEAM == 32) {
        __syncwarp();
    } else {
        __syncthreads();
    }
}

// Exclusive running sum over the team's threads; `total` is the sum of all.
template <int TEAM>
__device__ long long exclusive_sum(long long value, long long& total) {
    const int lane = threadIdx.x & 31;
    long long inclusive = value;
    for (int step = 1; step < 32; step <<= 1) {
        const long long below = __shfl_up_sync(WARP, inclusive, step);
        if (lane >= step) inclusive += below;
    }
    if constexpr (TEAM == 32) {
        total = __shfl_sync(WARP, inclusive, 31);
        return inclusive - value;
    } else {
        __shared__ long long warp_sums[TEAM / 32];
        const int warp = threadIdx.x >> 5;
        if (lane == 31) warp_sums[warp] = inclusive;
        __syncthreads();
        long long before = 0;
        total = 0;
        for (int w = 0; w < TEAM / 32; ++w) {
            if (w < warp) before += warp_sums[w];
            total += warp_sums[w];
        }
        __syncthreads();
        return before + inclusive - value;
    }
}

// All threads of a team call it; those with a slot >= 0 act, and where slots are equal, one after
// the other in the order of the threads. `claims` has a number for each slot, NOBODY between calls
// (a warp does without).
constexpr int NOBODY = 0x7fffffff;

template <int TEAM, typename Act>
__device__ void in_turn(int slot, int* claims, Act act) {
    bool waits = slot >= 0;
    if constexpr (TEAM == 32) {
        const unsigned int lane = threadIdx.x & 31;
        const int turn = __popc(__match_any_sync(WARP, slot) & ((1u << lane) - 1));
        for (int round = 0; __any_sync(WARP, waits); ++round) {
            if (waits && turn == round) {
                act();
                waits = false;
            }
            __syncwarp();
        }
    } else {
        const int me = threadIdx.x;
        do {
            if (waits) atomicMin(&claims[slot], me);
            __syncthreads();
            if (waits && ((volatile int*)claims)[slot] == me) {
                act();
                atomicExch(&claims[slot], NOBODY);  // others read it now: not theirs, before and after
                waits = false;
            }
        } while (__syncthreads_or(waits));
    }
}

}  // namespace linalgkit
