// What the host must know of the patterns of A, B and a mask before rows are multiplied: are they
// valid, how many products and entries the rows have, which rows are alike. Bound: reading them once.
#include "_rows.cuh"

namespace linalgkit {

// LANES lanes for each row: a few, since rows are short.
constexpr int LANES = 8;

// Tell whether row `row` of a matrix goes beyond its `entries`.
template <typename Index>
__device__ bool is_bad_row(const Index* indptr, long long row, long long entries) {
    const long long begin = indptr[row], end = indptr[row + 1];
    return begin < 0 || begin > end || end > entries || (row == 0 && begin != 0);
}

// Keep the end of row `row` in int64, unless `wide` is null.
template <typename Index>
__device__ void widen(const Index* indptr, long long row, long long* wide) {
    if (!wide) return;
    wide[row + 1] = indptr[row + 1];
    if (row == 0) wide[0] = indptr[0];
}

// Tell whether the entry of a row at t is not before the next one: then columns may come again.
__device__ bool is_mixed_at(const int* indices, long long t, long long end) {
    return t + 1 < end && indices[t] >= indices[t + 1];
}

// Products of every row of A. Sets `invalid` unless A has rows of as many columns as
// B has rows, and `mixed`, if it is told, where A's columns do not rise.
template <typename Index, typename Other>
__global__ void count_products(const int* a_indices, const Index* a_indptr, long long entries,
                               long long rows, long long* wide, const Other* b_indptr,
                               long long columns, long long* products, long long* invalid,
                               long long* mixed) {
    const long long row = (blockIdx.x * (long long)blockDim.x + threadIdx.x) / LANES;
    const int lane = threadIdx.x % LANES;
    bool bad = row < rows && is_bad_row(a_indptr, row, entries);
    long long sum = 0;
    if (row < rows && !bad)
        for (long long t = a_indptr[row] + lane; t < a_indptr[row + 1]; t += LANES) {
            const int k = a_indices[t];
            if (k < 0 || k >= columns)
                bad = true;
            else
                sum += b_indptr[k + 1] - b_indptr[k];
            if (mixed && is_mixed_at(a_indices, t, a_indptr[row + 1])) *mixed = 1;
        }
    for (int step = LANES / 2; step; step >>= 1) sum += __shfl_down_sync(WARP, sum, step, LANES);
    if (row < rows && lane == 0) {
        products[row] = sum;
        widen(a_indptr, row, wide);
    }
    if (bad) *invalid = 1;
}

// Set `invalid` unless the arrays are rows of `columns` columns, `mixed` unless these rise.
template <typename Index>
__global__ void check_rows(const int* indices, const Index* indptr, long long entries,
                           long long rows, long long* wide, long long columns,
                           long long* invalid, long long* mixed) {
    const long long row = (blockIdx.x * (long long)blockDim.x + threadIdx.x) / LANES;
    if (row >= rows) return;
    bool bad = is_bad_row(indptr, row, entries);
    if (!bad)
        for (long long t = indptr[row] + threadIdx.x % LANES; t < indptr[row + 1]; t += LANES) {
            bad |= indices[t] < 0 || indices[t] >= columns;
            if (mixed && is_mixed_at(indices, t, indptr[row + 1])) *mixed = 1;
        }
    if (bad) *invalid = 1;
    if (threadIdx.x % LANES == 0) widen(indptr, row, wide);
}

// Bin of every row, by the columns that a table needs room for: as many as are `needed`, and with
// a mask the mask's. 0 for none, b for at most 32 << (b - 1), `tables` + 1 beyond the last table.
// `sizes` counts the rows of the BINS. Rows of at most `sorted` products are left out.
constexpr int BINS = 16;

__global__ void bin_rows(const long long* needed, long long rows, const long long* mask_indptr,
                         int mode, const long long* products, long long sorted, long long most,
                         int tables, unsigned char* bins, long long* sizes) {
    __shared__ int here[BINS];
    if (threadIdx.x < BINS) here[threadIdx.x] = 0;
    __syncthreads();
    const long long row = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (row < rows) {
        long long room = products && products[row] <= sorted ? 0 : needed[row];
        if (room && mode != ALL)
            room = mask_indptr[row + 1] - mask_indptr[row] + (mode == COMPLEMENT ? room : 0);
        room = min(room, most);
        const int bits = room < 2 ? 0 : 64 - __clzll(room - 1);
        const int bin = room == 0 ? 0 : min(max(bits - 5, 0), tables) + 1;
        bins[row] = bin;
        atomicAdd(&here[bin], 1);
    }
    __syncthreads();
    if (threadIdx.x < BINS && here[threadIdx.x])
        atomicAdd((unsigned long long*)&sizes[threadIdx.x], (unsigned long long)here[threadIdx.x]);
}

// The rows by their bins, those of a bin in any order; `sizes` counts them, `taken` is all zero.
__global__ void list_rows(const unsigned char* bins, long long rows, const long long* sizes,
                          unsigned long long* taken, int* listed) {
    const long long row = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (row >= rows) return;
    const int bin = bins[row];
    const unsigned int same = __match_any_sync(__activemask(), bin);
    const int lane = threadIdx.x & 31, leader = __ffs(same) - 1;
    unsigned long long place = 0;
    if (lane == leader) {
        place = atomicAdd(&taken[bin], (unsigned long long)__popc(same));
        for (int b = 0; b < bin; ++b) place += sizes[b];
    }
    place = __shfl_sync(same, place, leader);
    listed[place + __popc(same & ((1u << lane) - 1))] = row;
}

// Row pointers from the rows' counts, in their place; in int32 too, which hold where the total, also
// in `answer`, fits. A block sums its own part, then looks back until it meets a block that knows
// the sum of all before (Merrill and Garland 2016). `states`, all zero at first, has a turn and then
// a word a block: its sum and, in the two bits above, whether it is of the block or of all so far.
constexpr int SCAN = 256, SCANNED = 8;  // threads of a block, rows of a thread

__global__ void __launch_bounds__(SCAN)
sum_counts(long long rows, unsigned long long* states, long long* indptr, int* narrow,
           long long* answer) {
    constexpr unsigned long long OWN = 1ull << 62, ALL_SO_FAR = 2ull << 62, SUM = OWN - 1;
    __shared__ long long turn, ahead;
    if (threadIdx.x == 0) turn = atomicAdd(&states[0], 1ull);
    __syncthreads();
    const long long block = turn, first = (block * SCAN + threadIdx.x) * SCANNED;
    volatile unsigned long long* words = states + 1;
    long long own[SCANNED], mine = 0, total;
#pragma unroll
    for (int i = 0; i < SCANNED; ++i) {
        own[i] = first + i < rows ? indptr[first + i] : 0;
        mine += own[i];
    }
    const long long before = exclusive_sum<SCAN>(mine, total);
    if (threadIdx.x == 0) {
        words[block] = (block ? OWN : ALL_SO_FAR) | total;
        ahead = 0;
    }
    if (threadIdx.x < 32 && block) {
        long long sum = 0;
        for (long long last = block - 1;; last -= 32) {
            const long long other = last - (int)threadIdx.x;
            unsigned long long word = other < 0 ? ALL_SO_FAR : words[other];
            while (__any_sync(WARP, word == 0))
                if (word == 0) word = words[other];
            const unsigned int ends = __ballot_sync(WARP, word >= ALL_SO_FAR);
            const int end = ends ? __ffs(ends) - 1 : 31;
            long long part = (int)threadIdx.x <= end ? word & SUM : 0;
            for (int step = 16; step; step >>= 1) part += __shfl_xor_sync(WARP, part, step);
            sum += part;
            if (ends) break;
        }
        if (threadIdx.x == 0) {
            words[block] = ALL_SO_FAR | (sum + total);
            ahead = sum;
        }
    }
    __syncthreads();
    long long place = ahead + before;
#pragma unroll
    for (int i = 0; i < SCANNED; ++i) {
        if (first + i <= rows) {
            indptr[first + i] = place;
            narrow[first + i] = (int)place;
            if (first + i == rows) *answer = place;
        }
        place += own[i];
    }
}

}  // namespace linalgkit
