// Rows too long for a table, by a bitmap of their columns, whose counts tell where each sum stands in
// the sorted result. Sums have the bits of the CPU engine on every run. Bound: latency of the gathers
// of B's rows and of shared memory.
#include "_products.cuh"

namespace linalgkit {

__device__ bool is_marked(const unsigned int* bits, int column) {
    return bits[column >> 5] >> (column & 31) & 1;
}

__device__ void mark(unsigned int* bits, int column) {
    if (!is_marked(bits, column)) atomicOr(&bits[column >> 5], 1u << (column & 31));
}

// Call take(row) for the rows of a list, by all threads; blocks take rows as they get free, from
// `next` on.
template <typename Take>
__device__ void for_rows(const int* listed, unsigned long long number, unsigned long long* next,
                         Take take) {
    __shared__ unsigned long long turn;  // place in the list
    while (true) {
        if (threadIdx.x == 0) turn = atomicAdd(next, 1ull);
        __syncthreads();
        if (turn >= number) return;
        take((long long)listed[turn]);
        __syncthreads();
    }
}

// Entries of the long rows listed (with PAIRS: products), by a bitmap for each block, all zero
// between rows: in shared memory, unless `bitmaps` says where. Another one, if there is a mask,
// marks that.
template <int THREADS, int EACH>
__global__ void __launch_bounds__(THREADS)
count_by_bitmap(const int* a_indices, const long long* a_indptr, const int* b_indices,
                const long long* b_indptr, const int* mask_indices, const long long* mask_indptr,
                int mode, const int* listed, unsigned long long number, unsigned long long* next,
                long long words, unsigned int* bitmaps, unsigned int* masks, long long* counts) {
    extern __shared__ __align__(16) unsigned char shared[];
    auto& sources = *reinterpret_cast<Sources<THREADS>*>(shared);
    unsigned int* bits = bitmaps ? bitmaps + blockIdx.x * words : (unsigned int*)(&sources + 1);
    unsigned int* marks = masks + blockIdx.x * words;
    if (!bitmaps)
        for (long long w = threadIdx.x; w < words; w += THREADS) bits[w] = 0;
    for_rows(listed, number, next, [&](long long row) {
        if (mode != ALL)
            for (long long t = mask_indptr[row] + threadIdx.x; t < mask_indptr[row + 1];
                 t += THREADS)
                mark(marks, mask_indices[t]);
        __syncthreads();
        long long mine = 0, total;
        for_products<THREADS, EACH>(
            a_indices, a_indptr[row], a_indptr[row + 1], b_indptr, sources,
            [&](int place, int number, long long, long long q) {
                if (place >= number) return;
                const int column = b_indices[q];
                if (mode != ALL && is_marked(marks, column) == (mode == COMPLEMENT)) return;
                ++mine;
                mark(bits, column);
            },
            Whole(), Whole());
        __syncthreads();
        if (mode != PAIRS) mine = 0;
        for (long long w = threadIdx.x; w < words; w += THREADS) {
            if (mode != PAIRS) mine += __popc(bits[w]);
            bits[w] = 0;
            if (mode != ALL) marks[w] = 0;
        }
        exclusive_sum<THREADS>(mine, total);
        if (threadIdx.x == 0) counts[row] = total;
    });
}

// A block's shared memory. Behind it `room` sums, then the bitmap and the entries before each of its
// words, if they have room there. _cupy.py knows the size.
template <typename T, int THREADS, int EACH>
struct Long {
    Queue<T, THREADS, EACH> queue;
    Sources<THREADS> sources;
};

// First entry of a row of B, whose columns rise, that is in `column` or behind it.
__device__ long long first_from(const int* indices, long long begin, long long end, int column) {
    while (begin < end) {
        const long long middle = (begin + end) / 2;
        if (indices[middle] < column)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

// So many entries of A the products at hand may be of, to be added entry after entry.
constexpr int TURNS = 64;

// The long rows listed. Bitmaps as above, with the entries before each word beside it: they tell
// where a column's sum stands in the result, once all columns are marked. So many sums as there is
// room for are made at a time, from the parts of B's rows that fall there. The products of one entry of A fall on columns of their own, unless
// B's rows are mixed: they are added side by side, entry after entry. Those of many entries, with
// a few products each, are worked off by queue.
template <typename T, typename Semiring, int THREADS, int EACH>
__global__ void __launch_bounds__(THREADS)
multiply_by_bitmap(const T* a_data, const int* a_indices, const long long* a_indptr,
                   const T* b_data, const int* b_indices, const long long* b_indptr,
                   const int* mask_indices, const long long* mask_indptr, int mode,
                   const int* listed, unsigned long long number, unsigned long long* next,
                   long long words, unsigned int* bitmaps, unsigned int* masks, int room,
                   const long long* is_mixed, const long long* indptr, T* data, int* indices) {
    extern __shared__ __align__(16) unsigned char shared[];
    auto& own = *reinterpret_cast<Long<T, THREADS, EACH>*>(shared);
    T* sums = reinterpret_cast<T*>(&own + 1);
    unsigned int* bits = bitmaps ? bitmaps + 2 * blockIdx.x * words : (unsigned int*)(sums + room);
    int* ahead = (int*)(bits + words);
    unsigned int* marks = masks + blockIdx.x * words;
    const int lane = threadIdx.x & 31;
    __shared__ int ends[2];  // entries of A that the first and the last product at hand are of
    T terms[EACH];
    int slots[EACH], entries[EACH];
    clear<THREADS>(own.queue);
    if (!bitmaps)
        for (long long w = threadIdx.x; w < words; w += THREADS) bits[w] = 0;
    for_rows(listed, number, next, [&](long long row) {
        const long long begin = a_indptr[row], end = a_indptr[row + 1];
        if (mode != ALL)
            for (long long t = mask_indptr[row] + threadIdx.x; t < mask_indptr[row + 1];
                 t += THREADS)
                mark(mode == KNOWN ? bits : marks, mask_indices[t]);
        __syncthreads();
        if (mode != KNOWN)
            for_products<THREADS, EACH>(
                a_indices, begin, end, b_indptr, own.sources,
                [&](int place, int number, long long, long long q) {
                    if (place >= number) return;
                    const int column = b_indices[q];
                    if (mode == ALL || is_marked(marks, column) != (mode == COMPLEMENT))
                        mark(bits, column);
                },
                Whole(), Whole());
        __syncthreads();
        int* written = indices + indptr[row];
        const int* columns = mode == KNOWN ? mask_indices + mask_indptr[row] : written;
        int count = 0;
        for (long long base = 0; base < words; base += THREADS) {
            const long long w = base + threadIdx.x;
            unsigned int left = w < words ? bits[w] : 0;
            int total, place = exclusive_sum<THREADS>(__popc(left), total) + count;
            if (w < words) ahead[w] = place;
            count += total;
            if (mode == KNOWN) continue;
            if (__reduce_add_sync(WARP, __popc(left)) > 256) {  // a word side by side
                for (int i = 0; i < 32; ++i) {
                    const unsigned int word = __shfl_sync(WARP, left, i);
                    const int to = __shfl_sync(WARP, place, i) + __popc(word & ((1u << lane) - 1));
                    if (word >> lane & 1) written[to] = (int)((w - lane + i) << 5) + lane;
                }
            } else {
                for (; left; left &= left - 1) written[place++] = (int)(w << 5) + __ffs(left) - 1;
            }
        }
        __syncthreads();
        for (int first = 0; first < count; first += room) {
            const int some = min(room, count - first);
            const bool is_part = some < count && !*is_mixed;
            const int from = is_part ? columns[first] : 0;
            const int to = is_part && first + some < count ? columns[first + some] : EMPTY;
            for (int s = threadIdx.x; s < some; s += THREADS)
                sums[s] = Semiring::template absent<T>();
            for_products<THREADS, EACH>(
                a_indices, begin, end, b_indptr, own.sources,
                [&](int place, int number, long long t, long long q) {
                    const int each = place / THREADS;
                    slots[each] = -1;
                    entries[each] = (int)(t - begin);
                    if (place == 0) ends[0] = entries[each];
                    if (place == number - 1) ends[1] = entries[each];
                    if (place >= number) return;
                    const int column = b_indices[q];
                    const unsigned int word = bits[column >> 5], bit = 1u << (column & 31);
                    if (!(word & bit)) return;
                    const int slot = ahead[column >> 5] + __popc(word & (bit - 1)) - first;
                    if (slot < 0 || slot >= some) return;
                    slots[each] = slot;
                    terms[each] = Semiring::multiply(a_data[t], b_data[q]);
                },
                [&] {
                    __syncthreads();
                    if (!*is_mixed && ends[1] - ends[0] < TURNS) {
                        for (int turn = ends[0]; turn <= ends[1]; ++turn) {
#pragma unroll
                            for (int e = 0; e < EACH; ++e)
                                if (entries[e] == turn && slots[e] >= 0)
                                    sums[slots[e]] = Semiring::add(sums[slots[e]], terms[e]);
                            __syncthreads();
                        }
                        return;
                    }
#pragma unroll
                    for (int e = 0; e < EACH; ++e) {
                        own.queue.terms[e * THREADS + threadIdx.x] = terms[e];
                        own.queue.slots[e * THREADS + threadIdx.x] = slots[e];
                    }
                    work_off(own.queue, sums, [](T a, T b) { return Semiring::add(a, b); });
                },
                [&](long long& begin, long long& end) {
                    if (!is_part) return;
                    begin = first_from(b_indices, begin, end, from);
                    end = first_from(b_indices, begin, end, to);
                });
            for (int s = threadIdx.x; s < some; s += THREADS)
                data[indptr[row] + first + s] = sums[s];
            __syncthreads();
        }
        for (long long w = threadIdx.x; w < words; w += THREADS) {
            bits[w] = 0;
            if (mode != ALL && mode != KNOWN) marks[w] = 0;
        }
    });
}

}  // namespace linalgkit
