// Rows by hash tables in shared memory, of a warp or of a block each. Columns are entered into the
// table; products that fall on one column are added one after the other in stored order
// (`work_off`), so that sums have the bits of the CPU engine on every run. Then the columns are
// sorted there. Bound: latency of the gathers of B's rows.
#include "_products.cuh"

namespace linalgkit {

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
        [&](int place, int number, long long, long long q) {
            if (place < number && find_slot<SLOTS>(table.keys, b_indices[q], mode) >= 0) ++mine;
        },
        Whole(), Whole());
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
        [&](int place, int number, long long t, long long q) {
            int slot = -1;
            if (place < number) {
                slot = find_slot<SLOTS>(table.keys, b_indices[q], mode);
                table.queue.terms[place] = Semiring::multiply(a_data[t], b_data[q]);
            }
            table.queue.slots[place] = slot;
        },
        [&] {
            work_off(table.queue, table.values, [](T a, T b) { return Semiring::add(a, b); });
        },
        Whole());
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

}  // namespace linalgkit
