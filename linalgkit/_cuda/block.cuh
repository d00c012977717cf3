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

__device__ constexpr int bits_of(int power) { return power > 1 ? 1 + bits_of(power / 2) : 0; }

// Running sum, with its own, over the lanes of a part of a warp.
template <int LANES>
__device__ int inclusive_sum(int value) {
    const int lane = threadIdx.x & (LANES - 1);
#pragma unroll
    for (int step = 1; step < LANES; step <<= 1) {
        const int below = __shfl_up_sync(WARP, value, step, LANES);
        if (lane >= step) value += below;
    }
    return value;
}

// Exclusive running sum over the team's threads; `total` is the sum of all.
template <int TEAM, typename Number>
__device__ Number exclusive_sum(Number value, Number& total) {
    const int lane = threadIdx.x & 31;
    Number inclusive = value;
    for (int step = 1; step < 32; step <<= 1) {
        const Number below = __shfl_up_sync(WARP, inclusive, step);
        if (lane >= step) inclusive += below;
    }
    if constexpr (TEAM == 32) {
        total = __shfl_sync(WARP, inclusive, 31);
        return inclusive - value;
    } else {
        __shared__ Number warp_sums[TEAM / 32];
        const int warp = threadIdx.x >> 5;
        if (lane == 31) warp_sums[warp] = inclusive;
        __syncthreads();
        const Number own = lane < TEAM / 32 ? warp_sums[lane] : Number(0);
        Number before = lane < warp ? own : Number(0);
        total = own;
        for (int step = 16; step; step >>= 1) {
            before += __shfl_xor_sync(WARP, before, step);
            total += __shfl_xor_sync(WARP, total, step);
        }
        __syncthreads();
        return before + inclusive - value;
    }
}

// What a team wants done: a term for each slot, -1 for none, in order. `before` is all zero at first.
template <typename T, int TEAM, int EACH>
struct Queue {
    static constexpr int SIZE = TEAM * EACH, PARTS = SIZE / 32, WARPS = TEAM / 32;
    T terms[SIZE];
    int slots[SIZE];
    int totals[WARPS];
    unsigned short before[WARPS][PARTS];  // of the places that fall to a warp, by parts of the queue
    unsigned short places[SIZE];          // by the warps to which they fall
};

// Add what is in a team's queue to `sums`, what falls on one slot in the queue's order. Each slot
// belongs to a warp, to which the places are handed in order: so none waits for another. Of a
// warp's 32 next ones the first on each slot adds all of them.
template <typename T, int TEAM, int EACH, typename Add>
__device__ void work_off(Queue<T, TEAM, EACH>& queue, T* sums, Add add) {
    constexpr int WARPS = TEAM / 32, PARTS = WARPS * EACH, RUN = (PARTS + 31) / 32;
    const int warp = threadIdx.x % TEAM / 32, lane = threadIdx.x & 31;
    const unsigned int lower = (1u << lane) - 1;
    int owner[EACH], ahead[EACH];
#pragma unroll
    for (int e = 0; e < EACH; ++e) {
        const int part = e * WARPS + warp, slot = queue.slots[32 * part + lane];
        // By a hash, since in power-law graphs round numbers come more often.
        owner[e] = slot < 0 ? WARPS : (slot * 0x9E3779B1u >> 27) % WARPS;
        const unsigned int same = __match_any_sync(WARP, owner[e]);
        ahead[e] = __popc(same & lower);
        if (slot >= 0 && ahead[e] == 0) queue.before[owner[e]][part] = __popc(same);
    }
    meet<TEAM>();
    int counts[RUN], mine = 0;
    for (int r = 0; r < RUN; ++r) {
        const int part = lane * RUN + r;
        counts[r] = part < PARTS ? queue.before[warp][part] : 0;
        mine += counts[r];
    }
    int after = inclusive_sum<32>(mine), place = after - mine;
    if (lane == 31) queue.totals[warp] = after;
    for (int r = 0; r < RUN; ++r) {
        if (lane * RUN + r < PARTS) queue.before[warp][lane * RUN + r] = place;
        place += counts[r];
    }
    meet<TEAM>();
    const int total = lane < WARPS ? queue.totals[lane] : 0;
    const int begins = inclusive_sum<32>(total) - total;
#pragma unroll
    for (int e = 0; e < EACH; ++e) {
        const int part = e * WARPS + warp;
        const int begin = __shfl_sync(WARP, begins, owner[e] & 31);
        if (owner[e] < WARPS)
            queue.places[begin + queue.before[owner[e]][part] + ahead[e]] = 32 * part + lane;
    }
    meet<TEAM>();
    for (int r = 0; r < RUN; ++r)
        if (lane * RUN + r < PARTS) queue.before[warp][lane * RUN + r] = 0;
    int next = __shfl_sync(WARP, begins, warp);
    const int end = next + __shfl_sync(WARP, total, warp);
    for (; next < end; next += 32) {
        const int slot = next + lane < end ? queue.slots[queue.places[next + lane]] : -1;
        unsigned int same = __match_any_sync(WARP, slot);
        if (slot >= 0 && !(same & lower)) {
            T sum = sums[slot];
            for (; same; same &= same - 1)
                sum = add(sum, queue.terms[queue.places[next + __ffs(same) - 1]]);
            sums[slot] = sum;
        }
        __syncwarp();
    }
    meet<TEAM>();
}

}  // namespace linalgkit
