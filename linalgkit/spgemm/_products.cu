// Sparse × sparse by rows. A team of threads (a warp for short rows, else a block) takes a row:
// its products side by side, as many as it has threads, in stored order. Columns are entered
// into a hash table in shared memory; products that fall on one column are added one after the
// other in that order (`in_turn`), so that sums have the bits of the CPU engine on every run. Then
// the columns are sorted there. Rows too long for a table have a dense row and a bitmap in global
// memory. Bound: latency of the gathers of B's rows.
#include "block.cuh"
#include "numbers.cuh"

namespace linalgkit {

struct PlusTimes {
    template <typename T> __device__ static T absent() { return T{}; }
    template <typename T> __device__ static T add(T a, T b) { return plus(a, b); }
    template <typename T> __device__ static T multiply(T a, T b) { return times(a, b); }
};
struct PlusPair : PlusTimes {
    template <typename T> __device__ static T multiply(T, T) { return T{1}; }
};
struct Least {
    template <typename T> __device__ static T absent() { return greatest<T>(); }
    template <typename T> __device__ static T add(T a, T b) { return lesser(a, b); }
};
struct Greatest {
    template <typename T> __device__ static T absent() { return least<T>(); }
    template <typename T> __device__ static T add(T a, T b) { return greater(a, b); }
};
struct MinPlus : Least {
    template <typename T> __device__ static T multiply(T a, T b) { return plus(a, b); }
};
struct MaxPlus : Greatest {
    template <typename T> __device__ static T multiply(T a, T b) { return plus(a, b); }
};
struct MaxMin : Greatest {
    template <typename T> __device__ static T multiply(T a, T b) { return lesser(a, b); }
};
struct MinMax : Least {
    template <typename T> __device__ static T multiply(T a, T b) { return greater(a, b); }
};
struct OrAnd {
    template <typename T> __device__ static T absent() { return T{}; }
    template <typename T> __device__ static T add(T a, T b) { return a | b; }
    template <typename T> __device__ static T multiply(T a, T b) { return a & b; }
};

// Which products count: ALL; those in MASKED, or not in COMPLEMENT; those in the result's pattern,
// which is KNOWN. PAIRS counts products of MASKED, not entries. As in _cupy.py.
enum Mode { ALL, MASKED, COMPLEMENT, KNOWN, PAIRS };

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

// A team's shared memory: `values` first, for alignment. _cupy.py knows the sizes.
template <typename T, int SLOTS, int TEAM>
struct Table {
    T values[SLOTS];
    long long before[TEAM], offset[TEAM];  // of the sources at hand: products before, first place
    int keys[SLOTS];
    int claims[SLOTS];  // for `in_turn`, then the columns in order
};
template <int SLOTS, int TEAM>
struct Columns {
    long long before[TEAM], offset[TEAM];
    int keys[SLOTS];
};

// Call take(is_one, t, q) for the products of the entries [begin, end) of A, entry t of A with
// entry q of B, in stored order, TEAM at a time; by all threads, also those that get none.
template <int TEAM, typename Take>
__device__ void for_products(const int* a_indices, long long begin, long long end,
                             const long long* b_indptr, long long* before, long long* offset,
                             Take take) {
    const int member = threadIdx.x % TEAM;
    for (long long base = begin; base < end; base += TEAM) {
        long long first = 0, length = 0, total;
        if (base + member < end) {
            const int k = a_indices[base + member];
            first = b_indptr[k];
            length = b_indptr[k + 1] - first;
        }
        const long long ahead = exclusive_sum<TEAM>(length, total);
        before[member] = ahead;
        offset[member] = first - ahead;
        meet<TEAM>();
        for (long long start = 0; start < total; start += TEAM) {
            const long long p = start + member;
            int source = 0;
            for (int step = TEAM / 2; step; step >>= 1)
                if (before[source + step] <= p) source += step;
            take(p < total, base + source, offset[source] + p);
        }
        meet<TEAM>();
    }
}

// Products of every row, by a warp each.
__global__ void count_products(const int* a_indices, const long long* a_indptr,
                               const long long* b_indptr, long long rows, long long* products) {
    const long long row = (blockIdx.x * (long long)blockDim.x + threadIdx.x) >> 5;
    if (row >= rows) return;
    long long sum = 0;
    for (long long t = a_indptr[row] + (threadIdx.x & 31); t < a_indptr[row + 1]; t += 32) {
        const int k = a_indices[t];
        sum += b_indptr[k + 1] - b_indptr[k];
    }
    for (int step = 16; step; step >>= 1) sum += __shfl_down_sync(WARP, sum, step);
    if ((threadIdx.x & 31) == 0) products[row] = sum;
}

// Set `invalid` unless the arrays are rows of `columns` columns; by a warp for each row.
__global__ void check_rows(const int* indices, const long long* indptr, long long entries,
                           long long rows, long long columns, int* invalid) {
    const long long row = (blockIdx.x * (long long)blockDim.x + threadIdx.x) >> 5;
    if (row >= rows) return;
    const long long begin = indptr[row], end = indptr[row + 1];
    bool bad = begin < 0 || begin > end || end > entries || (row == 0 && begin != 0);
    if (!bad)
        for (long long t = begin + (threadIdx.x & 31); t < end; t += 32)
            bad |= indices[t] < 0 || indices[t] >= columns;
    if (bad) *invalid = 1;
}

// Bin of every row, by the entries that a table needs room for: 0 for none, b for at most
// 32 << (b - 1), `tables` + 1 beyond the last table. `sizes` counts the rows of the BINS.
constexpr int BINS = 16;

__global__ void bin_rows(const long long* needed, long long rows, long long most, int tables,
                         unsigned char* bins, long long* sizes) {
    __shared__ int here[BINS];
    if (threadIdx.x < BINS) here[threadIdx.x] = 0;
    __syncthreads();
    const long long row = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (row < rows) {
        const long long room = min(needed[row], most);
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
                          unsigned long long* taken, long long* listed) {
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

// Entries of the rows listed, by the table (with PAIRS: products).
template <int SLOTS, int TEAM, int TEAMS>
__global__ void __launch_bounds__(TEAM * TEAMS)
count_by_table(const int* a_indices, const long long* a_indptr, const int* b_indices,
               const long long* b_indptr, const int* mask_indices, const long long* mask_indptr,
               int mode, const long long* listed, long long number, long long* counts) {
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
    for_products<TEAM>(
        a_indices, a_indptr[row], a_indptr[row + 1], b_indptr, table.before, table.offset,
        [&](bool is_one, long long, long long q) {
            if (is_one && find_slot<SLOTS>(table.keys, b_indices[q], mode) >= 0) ++mine;
        });
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
    int own[SLOTS / TEAM], mine = 0;
    for (int i = 0; i < SLOTS / TEAM; ++i) {
        own[i] = keys[member + i * TEAM];
        mine += is_entry(own[i]);
    }
    long long count;
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
                  const long long* listed, long long number, const long long* indptr, T* data,
                  int* indices) {
    extern __shared__ __align__(16) unsigned char shared[];
    auto& table = reinterpret_cast<Table<T, SLOTS, TEAM>*>(shared)[threadIdx.x / TEAM];
    const int member = threadIdx.x % TEAM;
    const long long place = blockIdx.x * (long long)TEAMS + threadIdx.x / TEAM;
    if (place >= number) return;
    const long long row = listed[place], begin = indptr[row];
    for (int s = member; s < SLOTS; s += TEAM) {
        table.keys[s] = EMPTY;
        table.claims[s] = NOBODY;
        table.values[s] = Semiring::template absent<T>();
    }
    meet<TEAM>();
    if (mode != ALL)
        for (long long t = mask_indptr[row] + member; t < mask_indptr[row + 1]; t += TEAM)
            enter_mask<SLOTS>(table.keys, mask_indices[t]);
    meet<TEAM>();
    for_products<TEAM>(
        a_indices, a_indptr[row], a_indptr[row + 1], b_indptr, table.before, table.offset,
        [&](bool is_one, long long t, long long q) {
            int slot = -1;
            T term;
            if (is_one) {
                slot = find_slot<SLOTS>(table.keys, b_indices[q], mode);
                term = Semiring::multiply(a_data[t], b_data[q]);
            }
            in_turn<TEAM>(slot, table.claims, [&] {
                table.values[slot] = Semiring::add(table.values[slot], term);
            });
        });
    meet<TEAM>();
    if (mode == KNOWN) {
        for (long long t = mask_indptr[row] + member; t < mask_indptr[row + 1]; t += TEAM)
            data[t] = table.values[find_slot<SLOTS>(table.keys, mask_indices[t], mode)];
        return;
    }
    const int count = sort_columns<SLOTS, TEAM>(table.keys, table.claims);
    for (int s = member; s < count; s += TEAM) {
        const int column = table.claims[s];
        indices[begin + s] = column;
        data[begin + s] = table.values[find_slot<SLOTS>(table.keys, column, KNOWN)];
    }
}

__device__ bool is_marked(const unsigned int* bits, int column) {
    return bits[column >> 5] >> (column & 31) & 1;
}

__device__ void mark(unsigned int* bits, int column) {
    atomicOr(&bits[column >> 5], 1u << (column & 31));
}

// Entries of the long rows listed (with PAIRS: products), by a bitmap for each block, all zero
// between rows; another one marks the mask. Blocks take rows as they get free, from `next` on.
template <int THREADS>
__global__ void __launch_bounds__(THREADS)
count_by_bitmap(const int* a_indices, const long long* a_indptr, const int* b_indices,
                const long long* b_indptr, const int* mask_indices, const long long* mask_indptr,
                int mode, const long long* listed, unsigned long long number,
                unsigned long long* next, long long words, unsigned int* bitmaps,
                unsigned int* masks, long long* counts) {
    __shared__ long long before[THREADS], offset[THREADS];
    __shared__ unsigned long long turn;  // place in the list
    unsigned int* bits = bitmaps + blockIdx.x * words;
    unsigned int* marks = masks + blockIdx.x * words;
    while (true) {
        if (threadIdx.x == 0) turn = atomicAdd(next, 1ull);
        __syncthreads();
        if (turn >= number) return;
        const long long row = listed[turn];
        if (mode != ALL)
            for (long long t = mask_indptr[row] + threadIdx.x; t < mask_indptr[row + 1];
                 t += THREADS)
                mark(marks, mask_indices[t]);
        __syncthreads();
        long long mine = 0, total;
        for_products<THREADS>(
            a_indices, a_indptr[row], a_indptr[row + 1], b_indptr, before, offset,
            [&](bool is_one, long long, long long q) {
                if (!is_one) return;
                const int column = b_indices[q];
                if (mode != ALL && is_marked(marks, column) == (mode == COMPLEMENT)) return;
                ++mine;
                if (!is_marked(bits, column)) mark(bits, column);
            });
        __syncthreads();
        if (mode != PAIRS) mine = 0;
        for (long long w = threadIdx.x; w < words; w += THREADS) {
            if (mode != PAIRS) mine += __popc(bits[w]);
            bits[w] = 0;
            if (mode != ALL) marks[w] = 0;
        }
        exclusive_sum<THREADS>(mine, total);
        if (threadIdx.x == 0) counts[row] = total;
        __syncthreads();
    }
}

// The long rows listed, by a dense row, all absent between rows, and bitmaps as above.
template <typename T, typename Semiring, int THREADS>
__global__ void __launch_bounds__(THREADS)
multiply_by_bitmap(const T* a_data, const int* a_indices, const long long* a_indptr,
                   const T* b_data, const int* b_indices, const long long* b_indptr,
                   const int* mask_indices, const long long* mask_indptr, int mode,
                   const long long* listed, unsigned long long number,
                   unsigned long long* next, long long columns, long long words, T* dense,
                   unsigned int* bitmaps, unsigned int* masks, const long long* indptr,
                   T* data, int* indices) {
    __shared__ long long before[THREADS], offset[THREADS];
    __shared__ int keys[2 * THREADS], claims[2 * THREADS];  // of the products at hand
    for (int s = threadIdx.x; s < 2 * THREADS; s += THREADS) keys[s] = EMPTY, claims[s] = NOBODY;
    T* sums = dense + blockIdx.x * columns;
    __shared__ unsigned long long turn;  // place in the list
    unsigned int* bits = bitmaps + blockIdx.x * words;
    unsigned int* marks = masks + blockIdx.x * words;
    while (true) {
        if (threadIdx.x == 0) turn = atomicAdd(next, 1ull);
        __syncthreads();
        if (turn >= number) return;
        const long long row = listed[turn];
        if (mode != ALL)
            for (long long t = mask_indptr[row] + threadIdx.x; t < mask_indptr[row + 1];
                 t += THREADS)
                mark(marks, mask_indices[t]);
        __syncthreads();
        for_products<THREADS>(
            a_indices, a_indptr[row], a_indptr[row + 1], b_indptr, before, offset,
            [&](bool is_one, long long t, long long q) {
                int slot = -1, column = 0;
                T term;
                if (is_one) {
                    column = b_indices[q];
                    if (mode == ALL || is_marked(marks, column) != (mode == COMPLEMENT)) {
                        slot = find_slot<2 * THREADS>(keys, column, ALL);
                        term = Semiring::multiply(a_data[t], b_data[q]);
                    }
                }
                in_turn<THREADS>(slot, claims, [&] {
                    sums[column] = Semiring::add(sums[column], term);
                    if (!is_marked(bits, column)) mark(bits, column);
                });
                if (slot >= 0) keys[slot] = EMPTY;
                __syncthreads();
            });
        if (mode == KNOWN) {
            for (long long t = mask_indptr[row] + threadIdx.x; t < mask_indptr[row + 1];
                 t += THREADS)
                data[t] = sums[mask_indices[t]];
            __syncthreads();
        }
        long long place = indptr[row];
        for (long long base = 0; base < words; base += THREADS) {
            const long long w = base + threadIdx.x;
            unsigned int left = w < words ? bits[w] : 0;
            long long total;
            long long mine = place + exclusive_sum<THREADS>(__popc(left), total);
            while (left) {
                const long long column = (w << 5) + __ffs(left) - 1;
                left &= left - 1;
                if (mode != KNOWN) {
                    data[mine] = sums[column];
                    indices[mine++] = (int)column;
                }
                sums[column] = Semiring::template absent<T>();
            }
            if (w < words) {
                bits[w] = 0;
                if (mode != ALL) marks[w] = 0;
            }
            place += total;
        }
        __syncthreads();
    }
}

// Row of an entry: the last one that begins at it or before.
__device__ long long row_of(const long long* indptr, long long rows, long long entry) {
    long long low = 0, high = rows;
    while (high - low > 1) {
        const long long middle = (low + high) >> 1;
        if (indptr[middle] <= entry) low = middle; else high = middle;
    }
    return low;
}

// Value at a column of a sorted row, 0 where it has none.
template <typename T>
__device__ T value_at(const T* data, const int* indices, long long low, long long end,
                      int column) {
    long long high = end;
    while (low < high) {
        const long long middle = (low + high) >> 1;
        if (indices[middle] < column) low = middle + 1; else high = middle;
    }
    return low < end && indices[low] == column ? data[low] : T{};
}

// Gradient at the entries of A, dC B^H, by a warp each; its lanes' sums are added as a tree.
template <typename T>
__global__ void pull_to_a(const T* cotangent, const int* indices, const long long* indptr,
                          const int* a_indices, const long long* a_indptr, long long rows,
                          const T* b_data, const int* b_indices, const long long* b_indptr,
                          long long entries, T* gradient) {
    const long long t = (blockIdx.x * (long long)blockDim.x + threadIdx.x) >> 5;
    if (t >= entries) return;
    const long long row = row_of(a_indptr, rows, t);
    const int k = a_indices[t], lane = threadIdx.x & 31;
    T mine{};
    for (long long q = b_indptr[k] + lane; q < b_indptr[k + 1]; q += 32)
        mine = mine + value_at(cotangent, indices, indptr[row], indptr[row + 1], b_indices[q]) *
                          conjugate(b_data[q]);
    __shared__ T sums[256];
    sums[threadIdx.x] = mine;
    for (int step = 16; step; step >>= 1) {
        __syncwarp();
        if (lane < step) sums[threadIdx.x] = sums[threadIdx.x] + sums[threadIdx.x + step];
    }
    if (lane == 0) gradient[t] = sums[threadIdx.x];
}

// Gradient at the entries of B, A^H dC, by a thread each: along the column of A, whose entries
// `column_entries` lists with their rows.
template <typename T>
__global__ void pull_to_b(const T* cotangent, const int* indices, const long long* indptr,
                          const T* a_data, const long long* column_indptr,
                          const long long* column_entries, const long long* column_rows,
                          const int* b_indices, const long long* b_indptr, long long rows,
                          long long entries, T* gradient) {
    const long long q = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (q >= entries) return;
    const long long k = row_of(b_indptr, rows, q);
    T mine{};
    for (long long s = column_indptr[k]; s < column_indptr[k + 1]; ++s) {
        const long long row = column_rows[s];
        mine = mine + conjugate(a_data[column_entries[s]]) *
                          value_at(cotangent, indices, indptr[row], indptr[row + 1], b_indices[q]);
    }
    gradient[q] = mine;
}

}  // namespace linalgkit
