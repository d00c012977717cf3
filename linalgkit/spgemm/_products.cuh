// What tables and bitmaps share: the products of a row side by side, by the threads of a team (a warp
// or a block), as many at a time as they have places for, in stored order.
#pragma once
#include "_rows.cuh"

namespace linalgkit {

// No column; sorts behind all columns. A column that only the mask has is kept as its complement,
// a negative number.
constexpr int EMPTY = 0x7fffffff;

// Where the products of the entries of A at hand come from, one for each thread of the team.
template <int TEAM>
struct Sources {
    long long offset[TEAM];  // of an entry's products in B, from the first product on
    int before[TEAM];        // products before an entry's, from the first of those at hand on
};
template <int TEAM, typename T, int EACH>
__device__ void clear(Queue<T, TEAM, EACH>& queue) {
    unsigned short* before = queue.before[0];
    for (int i = threadIdx.x % TEAM; i < queue.WARPS * queue.PARTS; i += TEAM) before[i] = 0;
}

// For the products of the entries [begin, end) of A in stored order, TEAM EACH at a time, call
// take(place, number, t, q), product `place` of these `number` being of entry t of A and entry q of
// B, then finish(). By all threads, also those whose place is beyond. `narrow(first, last)` may
// leave out entries of a row of B.
template <int TEAM, int EACH, typename Take, typename Finish, typename Narrow>
__device__ void for_products(const int* a_indices, long long begin, long long end,
                             const long long* b_indptr, Sources<TEAM>& sources, Take take,
                             Finish finish, Narrow narrow) {
    constexpr int SIZE = TEAM * EACH;
    const int member = threadIdx.x % TEAM;
    for (long long base = begin; base < end; base += TEAM) {
        long long first = 0, last = 0, total;
        if (base + member < end) {
            const int k = a_indices[base + member];
            first = b_indptr[k];
            last = b_indptr[k + 1];
            narrow(first, last);
        }
        const long long ahead = exclusive_sum<TEAM>(last - first, total);
        sources.offset[member] = first - ahead;
        for (long long start = 0; start < total; start += SIZE) {
            sources.before[member] = (int)min(max(ahead - start, -1ll), (long long)SIZE);
            meet<TEAM>();
#pragma unroll
            for (int place = member; place < SIZE; place += TEAM) {
                int source = 0;
#pragma unroll
                for (int step = TEAM / 2; step; step >>= 1)
                    if (sources.before[source + step] <= place) source += step;
                const long long p = start + place;
                take(place, min(total - start, (long long)SIZE), base + source,
                     sources.offset[source] + p);
            }
            finish();
            meet<TEAM>();
        }
    }
}

// All entries, and nothing to finish.
struct Whole {
    __device__ void operator()(long long&, long long&) const {}
    __device__ void operator()() const {}
};

}  // namespace linalgkit
