// Sparse × sparse by rows. A team of threads (a warp or a block) takes a row: its products side by
// side, as many as it has threads, in stored order. Columns are entered into a hash table in shared
// memory; products that fall on one column are added one after the other in that order (`work_off`),
// so that sums have the bits of the CPU engine on every run. Then the columns are sorted there. Rows
// too long for a table have a bitmap, by whose counts their sums stand in order at once. Bound:
// latency of the gathers of B's rows. Rows of few products have a way of their own (_short_rows.cu).
#include "_rows.cuh"

namespace linalgkit {

// No column; sorts behind all columns. A column that only the mask has is kept as its complement,
// a negative number.
constexpr int EMPTY = 0x7fffffff;

__device__ bool is_entry(int key) { return (unsigned int)key < (unsigned int)EMPTY; }

template <int SLOTS>
__device__ int first_slot(int column) {
    return ((unsigned int)column * 0x9E3779B1u) >> (32 - __popc(SLOTS - 1));
}

// Enter a column of the mask. SLOTS is a power of two and at least twice the columns that come.
template <int SLOTS>
__device__ void enter_mask(int* keys, int column) {
    for (int slot = first_slot<SLOTS>(column);; slot = (slot + 1) & (SLOTS - 1)) {
        const int seen = atomicCAS(&keys[slot], EMPTY, ~column);
        if (seen == EMPTY || seen == ~column) return;
    }
}

// Slot of a product's column, entered if it is new; -1 where the mask says no.
template <int SLOTS>
__device__ int find_slot(int* keys, int column, int mode) {
    for (int slot = first_slot<SLOTS>(column);; slot = (slot + 1) & (SLOTS - 1)) {
        int seen = ((volatile int*)keys)[slot];
        if (seen == column) return slot;
        if (seen == ~column) {
            if (mode == COMPLEMENT) return -1;
            atomicExch(&keys[slot], column);  // whoever comes writes the same
            return slot;
        }
        if (seen == EMPTY) {
            if (mode != ALL && mode != COMPLEMENT) return -1;
            seen = atomicCAS(&keys[slot], EMPTY, column);
            if (seen == EMPTY || seen == column) return slot;
        }
    }
}

// Where the products of the entries of A at hand come from, one for each thread of the team.
template <int TEAM>
struct Sources {
    long long offset[TEAM];  // of an entry's products in B, from the first product on
    int before[TEAM];        // products before an entry's, from the first of those at hand on
};

// A team's shared memory: `values` first, for alignment. _cupy.py knows the sizes.
template <typename T, int SLOTS, int TEAM>
struct Table {
    T values[SLOTS];
    Queue<T, TEAM, 1> queue;
    Sources<TEAM> sources;
    int keys[SLOTS];
    int sorted[SLOTS / 2];
};
template <int SLOTS, int TEAM>
struct Columns {
    Sources<TEAM> sources;
    int keys[SLOTS];
};

template <int TEAM, typename T, int EACH>
__device__ void clear(Queue<T, TEAM, EACH>& queue) {
    unsigned short* before = queue.before[0];
    for (int i = threadIdx.x % TEAM; i < queue.WARPS * queue.PARTS; i += TEAM) before[i] = 0;
}

// For the products of the entries [begin, end) of A in stored order, TEAM EACH at a time, call
// take(place, is_one, t, q), product `place` of these being of entry t of A and entry q of B, then
// finish(). By all threads, also those that get none.
template <int TEAM, int EACH, typename Take, typename Finish>
__device__ void for_products(const int* a_indices, long long begin, long long end,
                             const long long* b_indptr, Sources<TEAM>& sources, Take take,
                             Finish finish) {
    constexpr int SIZE = TEAM * EACH;
    const int member = threadIdx.x % TEAM;
    for (long long base = begin; base < end; base += TEAM) {
        long long first = 0, length = 0, total;
        if (base + member < end) {
            const int k = a_indices[base + member];
            first = b_indptr[k];
            length = b_indptr[k + 1] - first;
        }
        const long long ahead = exclusive_sum<TEAM>(length, total);
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
                take(place, p < total, base + source, sources.offset[source] + p);
            }
            finish();
            meet<TEAM>();
        }
    }
}

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

// Products of every row of A. Sets `invalid` unless A has rows of as many columns as
// B has rows.
template <typename Index, typename Other>
__global__ void count_products(const int* a_indices, const Index* a_indptr, long long entries,
                               long long rows, long long* wide, const Other* b_indptr,
                               long long columns, long long* products, long long* invalid) {
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
        }
    for (int step = LANES / 2; step; step >>= 1) sum += __shfl_down_sync(WARP, sum, step, LANES);
    if (row < rows && lane == 0) {
        products[row] = sum;
        widen(a_indptr, row, wide);
    }
    if (bad) *invalid = 1;
}

// Set `invalid` unless the arrays are rows of `columns` columns.
template <typename Index>
__global__ void check_rows(const int* indices, const Index* indptr, long long entries,
                           long long rows, long long* wide, long long columns,
                           long long* invalid) {
    const long long row = (blockIdx.x * (long long)blockDim.x + threadIdx.x) / LANES;
    if (row >= rows) return;
    bool bad = is_bad_row(indptr, row, entries);
    if (!bad)
        for (long long t = indptr[row] + threadIdx.x % LANES; t < indptr[row + 1]; t += LANES)
            bad |= indices[t] < 0 || indices[t] >= columns;
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

// Row pointers from the rows' counts: in int64, and in int32, which hold where the total, also in
// `answer`, fits. A block sums its own part, then looks back until it meets a block that knows the
// sum of all before (Merrill and Garland 2016). `states`, all zero at first, has a turn and then a
// word a block: its sum and, in the two bits above, whether it is of the block or of all so far.
constexpr int SCAN = 256, SCANNED = 8;  // threads of a block, rows of a thread

__global__ void __launch_bounds__(SCAN)
sum_counts(const long long* counts, long long rows, unsigned long long* states, long long* indptr,
           int* narrow, long long* answer) {
    constexpr unsigned long long OWN = 1ull << 62, ALL_SO_FAR = 2ull << 62, SUM = OWN - 1;
    __shared__ long long turn, ahead;
    if (threadIdx.x == 0) turn = atomicAdd(&states[0], 1ull);
    __syncthreads();
    const long long block = turn, first = (block * SCAN + threadIdx.x) * SCANNED;
    volatile unsigned long long* words = states + 1;
    long long own[SCANNED], mine = 0, total;
#pragma unroll
    for (int i = 0; i < SCANNED; ++i) {
        own[i] = first + i < rows ? counts[first + i] : 0;
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

// Entries of the rows listed, by the table (with PAIRS: products).
template <int SLOTS, int TEAM, int TEAMS>
__global__ void __launch_bounds__(TEAM * TEAMS)
count_by_table(const int* a_indices, const long long* a_indptr, const int* b_indices,
               const long long* b_indptr, const int* mask_indices, const long long* mask_indptr,
               int mode, const int* listed, long long number, long long* counts) {
    extern __shared__ __align__(16) unsigned char shared[];
    auto& table = reinterpret_cast<Columns<SLOTS, TEAM>*>(shared)[threadIdx.x / TEAM];
    const int member = threadIdx.x % TEAM;
    const long long place = blockIdx.x * (long long)TEAMS + threadIdx.x / TEAM;
    if (place >= number) return;
    const long long row = listed[place];
    for (int s = member; s < SLOTS; s += TEAM) table.keys[s] = EMPTY;
    meet<TEAM>();
    if (mode != ALL)
        for (long long t = mask_indptr[row] + member; t < mask_indptr[row + 1]; t += TEAM)
            enter_mask<SLOTS>(table.keys, mask_indices[t]);
    meet<TEAM>();
    long long mine = 0;
    for_products<TEAM, 1>(
        a_indices, a_indptr[row], a_indptr[row + 1], b_indptr, table.sources,
        [&](int, bool is_one, long long, long long q) {
            if (is_one && find_slot<SLOTS>(table.keys, b_indices[q], mode) >= 0) ++mine;
        },
        [] {});
    meet<TEAM>();
    if (mode != PAIRS) {
        mine = 0;
        for (int s = member; s < SLOTS; s += TEAM) mine += is_entry(table.keys[s]);
    }
    long long total;
    exclusive_sum<TEAM>(mine, total);
    if (member == 0) counts[row] = total;
}

// Sort a value of every lane of a warp (bitonic).
__device__ int sort_warp(int key) {
    const int lane = threadIdx.x & 31;
    for (int size = 2; size <= 32; size <<= 1) {
        for (int stride = size >> 1; stride; stride >>= 1) {
            const int other = __shfl_xor_sync(WARP, key, stride);
            const bool rises = (lane & size) == 0, is_low = (lane & stride) == 0;
            key = rises == is_low ? min(key, other) : max(key, other);
        }
    }
    return key;
}

// Copy the columns of the products to `sorted`, in order; return how many. At most MOST, half of
// SLOTS. Runs of 32 are sorted in registers, then merged: a column moves as far as there are
// lesser ones in the run beside.
template <int SLOTS, int TEAM>
__device__ int sort_columns(const int* keys, int* sorted) {
    constexpr int MOST = SLOTS / 2, EACH = MOST / TEAM;
    const int member = threadIdx.x % TEAM;
    int own[SLOTS / TEAM], mine = 0, count;
    for (int i = 0; i < SLOTS / TEAM; ++i) {
        own[i] = keys[member + i * TEAM];
        mine += is_entry(own[i]);
    }
    int place = exclusive_sum<TEAM>(mine, count);
    for (int i = 0; i < SLOTS / TEAM; ++i)
        if (is_entry(own[i])) sorted[place++] = own[i];
    meet<TEAM>();
    int key[EACH], to[EACH];
    for (int i = 0; i < EACH; ++i) {
        const int at = member + i * TEAM;
        key[i] = at < count ? sorted[at] : EMPTY;
        if ((at & ~31) < count) key[i] = sort_warp(key[i]);  // or not: the warp is of one mind
    }
    meet<TEAM>();
    for (int i = 0; i < EACH; ++i) sorted[member + i * TEAM] = key[i];
    meet<TEAM>();
#pragma unroll
    for (int size = 32; size < MOST; size <<= 1) {
        if (size >= count) break;
        for (int i = 0; i < EACH; ++i) {
            const int at = member + i * TEAM;
            if (at >= count) break;
            const int other = (at & -size) ^ size;
            key[i] = sorted[at];
            int low = other;  // EMPTY fills up: no end to heed
            for (int step = size / 2; step; step >>= 1)
                if (sorted[low + step - 1] < key[i]) low += step;
            low += sorted[low] < key[i];
            to[i] = (at & ~size) + low - other;
        }
        meet<TEAM>();
        for (int i = 0; i < EACH && member + i * TEAM < count; ++i) sorted[to[i]] = key[i];
        meet<TEAM>();
    }
    return count;
}

// The rows listed, by the table.
template <typename T, typename Semiring, int SLOTS, int TEAM, int TEAMS>
__global__ void __launch_bounds__(TEAM * TEAMS)
multiply_by_table(const T* a_data, const int* a_indices, const long long* a_indptr,
                  const T* b_data, const int* b_indices, const long long* b_indptr,
                  const int* mask_indices, const long long* mask_indptr, int mode,
                  const int* listed, long long number, const long long* indptr, T* data,
                  int* indices) {
    extern __shared__ __align__(16) unsigned char shared[];
    auto& table = reinterpret_cast<Table<T, SLOTS, TEAM>*>(shared)[threadIdx.x / TEAM];
    const int member = threadIdx.x % TEAM;
    const long long place = blockIdx.x * (long long)TEAMS + threadIdx.x / TEAM;
    if (place >= number) return;
    const long long row = listed[place], begin = indptr[row];
    for (int s = member; s < SLOTS; s += TEAM) {
        table.keys[s] = EMPTY;
        table.values[s] = Semiring::template absent<T>();
    }
    clear<TEAM>(table.queue);
    meet<TEAM>();
    if (mode != ALL)
        for (long long t = mask_indptr[row] + member; t < mask_indptr[row + 1]; t += TEAM)
            enter_mask<SLOTS>(table.keys, mask_indices[t]);
    meet<TEAM>();
    for_products<TEAM, 1>(
        a_indices, a_indptr[row], a_indptr[row + 1], b_indptr, table.sources,
        [&](int place, bool is_one, long long t, long long q) {
            int slot = -1;
            if (is_one) {
                slot = find_slot<SLOTS>(table.keys, b_indices[q], mode);
                table.queue.terms[place] = Semiring::multiply(a_data[t], b_data[q]);
            }
            table.queue.slots[place] = slot;
        },
        [&] {
            work_off(table.queue, table.values, [](T a, T b) { return Semiring::add(a, b); });
        });
    meet<TEAM>();
    if (mode == KNOWN) {
        for (long long t = mask_indptr[row] + member; t < mask_indptr[row + 1]; t += TEAM)
            data[t] = table.values[find_slot<SLOTS>(table.keys, mask_indices[t], mode)];
        return;
    }
    const int count = sort_columns<SLOTS, TEAM>(table.keys, table.sorted);
    for (int s = member; s < count; s += TEAM) {
        const int column = table.sorted[s];
        indices[begin + s] = column;
        data[begin + s] = table.values[find_slot<SLOTS>(table.keys, column, KNOWN)];
    }
}

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
            [&](int, bool is_one, long long, long long q) {
                if (!is_one) return;
                const int column = b_indices[q];
                if (mode != ALL && is_marked(marks, column) == (mode == COMPLEMENT)) return;
                ++mine;
                mark(bits, column);
            },
            [] {});
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

// The long rows listed. Bitmaps as above, with the entries before each word beside it: they tell
// where a column's sum stands in the result, once all columns are marked. So many sums as there is
// room for are made at a time.
template <typename T, typename Semiring, int THREADS, int EACH>
__global__ void __launch_bounds__(THREADS)
multiply_by_bitmap(const T* a_data, const int* a_indices, const long long* a_indptr,
                   const T* b_data, const int* b_indices, const long long* b_indptr,
                   const int* mask_indices, const long long* mask_indptr, int mode,
                   const int* listed, unsigned long long number, unsigned long long* next,
                   long long words, unsigned int* bitmaps, unsigned int* masks, int room,
                   const long long* indptr, T* data, int* indices) {
    extern __shared__ __align__(16) unsigned char shared[];
    auto& own = *reinterpret_cast<Long<T, THREADS, EACH>*>(shared);
    T* sums = reinterpret_cast<T*>(&own + 1);
    unsigned int* bits = bitmaps ? bitmaps + 2 * blockIdx.x * words : (unsigned int*)(sums + room);
    int* ahead = (int*)(bits + words);
    unsigned int* marks = masks + blockIdx.x * words;
    const int lane = threadIdx.x & 31;
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
                [&](int, bool is_one, long long, long long q) {
                    if (!is_one) return;
                    const int column = b_indices[q];
                    if (mode == ALL || is_marked(marks, column) != (mode == COMPLEMENT))
                        mark(bits, column);
                },
                [] {});
        __syncthreads();
        int count = 0;
        for (long long base = 0; base < words; base += THREADS) {
            const long long w = base + threadIdx.x;
            unsigned int left = w < words ? bits[w] : 0;
            int total, place = exclusive_sum<THREADS>(__popc(left), total) + count;
            if (w < words) ahead[w] = place;
            count += total;
            if (mode == KNOWN) continue;
            int* columns = indices + indptr[row];
            if (__reduce_add_sync(WARP, __popc(left)) > 256) {  // a word side by side
                for (int i = 0; i < 32; ++i) {
                    const unsigned int word = __shfl_sync(WARP, left, i);
                    const int to = __shfl_sync(WARP, place, i) + __popc(word & ((1u << lane) - 1));
                    if (word >> lane & 1) columns[to] = (int)((w - lane + i) << 5) + lane;
                }
            } else {
                for (; left; left &= left - 1) columns[place++] = (int)(w << 5) + __ffs(left) - 1;
            }
        }
        __syncthreads();
        for (int first = 0; first < count; first += room) {
            const int some = min(room, count - first);
            for (int s = threadIdx.x; s < some; s += THREADS)
                sums[s] = Semiring::template absent<T>();
            for_products<THREADS, EACH>(
                a_indices, begin, end, b_indptr, own.sources,
                [&](int place, bool is_one, long long t, long long q) {
                    int slot = -1;
                    if (is_one) {
                        const int column = b_indices[q];
                        const unsigned int word = bits[column >> 5], bit = 1u << (column & 31);
                        if (word & bit)
                            slot = ahead[column >> 5] + __popc(word & (bit - 1)) - first;
                        if (slot >= some) slot = -1;
                        if (slot >= 0)
                            own.queue.terms[place] = Semiring::multiply(a_data[t], b_data[q]);
                    }
                    own.queue.slots[place] = slot;
                },
                [&] {
                    work_off(own.queue, sums, [](T a, T b) { return Semiring::add(a, b); });
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
