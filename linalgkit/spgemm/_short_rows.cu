// Rows of few products, for a team of lanes each. They bring all products at once, sort them in
// registers by column, and those of one column by their places in stored order, in which one lane
// then adds them: so sums have the bits of the CPU engine on every run. Bound: latency of the
// gathers of B's rows, then the exchanges of the sort.
#include "_rows.cuh"

namespace linalgkit {

// Where the products of the entries of A at hand come from, a part for each team.
struct Sources {
    long long offset[32];  // of an entry's products in B, from the row's first product on
    int before[32];        // products before an entry's
};

// Call take(i, p, t, q) for every product of the entries [begin, end) of A: product p, in lane
// p % LANES of the team with i = p / LANES, is of entry t of A and entry q of B. Return the number
// of products, at most LANES EACH. By all lanes of a warp.
template <int LANES, int EACH, typename Take>
__device__ int for_all_products(const int* __restrict__ a_indices, long long begin, long long end,
                                const long long* __restrict__ b_indptr, Sources& sources,
                                Take take) {
    const int lane = threadIdx.x & 31, member = lane % LANES;
    const int* before = sources.before + (lane - member);
    const long long* offset = sources.offset + (lane - member);
    int done = 0;
    for (long long base = begin; __any_sync(WARP, base < end); base += LANES) {
        long long first = 0;
        int length = 0;
        if (base + member < end) {
            const int k = a_indices[base + member];
            first = b_indptr[k];
            length = b_indptr[k + 1] - first;
        }
        int after = done + inclusive_sum<LANES>(length);
        sources.before[lane] = after - length;
        sources.offset[lane] = first - (after - length);
        after = __shfl_sync(WARP, after, LANES - 1, LANES);
        __syncwarp();
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const int p = LANES * i + member;
            if (p < done || p >= after) continue;
            int source = 0;
#pragma unroll
            for (int step = LANES / 2; step; step >>= 1)
                if (before[source + step] <= p) source += step;
            take(i, p, base + source, offset[source] + p);
        }
        __syncwarp();
        done = after;
    }
    return done;
}

template <typename Key>
__device__ void put_in_order(Key& low, Key& high) {
    const Key one = low, other = high;
    low = min(one, other);
    high = max(one, other);
}

// Sort a lane's runs of `size` keys that have met their mirror images, and so need merges of halves
// only.
template <typename Key, int EACH>
__device__ void merge_own(Key (&keys)[EACH], int size) {
#pragma unroll
    for (int stride = EACH / 2; stride; stride >>= 1)
#pragma unroll
        for (int i = 0; i < EACH; ++i)
            if (stride < size && !(i & stride)) put_in_order(keys[i], keys[i ^ stride]);
}

// Sort the LANES EACH keys of a team; lane l has the keys [l EACH, (l + 1) EACH). Merges of two
// sorted runs, in which a key meets first its mirror image: so all go upwards.
template <int LANES, typename Key, int EACH>
__device__ void sort_keys(Key (&keys)[EACH]) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int size = 2; size <= EACH; size <<= 1) {
#pragma unroll
        for (int i = 0; i < EACH; ++i)
            if (!(i & size / 2)) put_in_order(keys[i], keys[i ^ (size - 1)]);
        merge_own(keys, size / 2);
    }
#pragma unroll 1  // or compiling takes seconds
    for (int lanes = 2; lanes <= LANES; lanes <<= 1) {
        const bool is_low = !(lane & lanes / 2);
#pragma unroll
        for (int i = 0; i < EACH / 2; ++i) {
            const int mirror = EACH - 1 - i;
            const Key one = __shfl_xor_sync(WARP, keys[mirror], lanes - 1);
            const Key other = __shfl_xor_sync(WARP, keys[i], lanes - 1);
            keys[i] = is_low ? min(keys[i], one) : max(keys[i], one);
            keys[mirror] = is_low ? min(keys[mirror], other) : max(keys[mirror], other);
        }
#pragma unroll 1
        for (int far = lanes / 4; far; far >>= 1) {
            const bool is_near = !(lane & far);
#pragma unroll
            for (int i = 0; i < EACH; ++i) {
                const Key other = __shfl_xor_sync(WARP, keys[i], far);
                keys[i] = is_near ? min(keys[i], other) : max(keys[i], other);
            }
        }
        merge_own(keys, EACH);
    }
}

// No product; sorts behind all.
template <typename Key>
constexpr Key NOTHING = ~Key(0);

// Bits of a lane's sorted keys that are the first ones of a column; `place` are the bits below it.
template <int LANES, typename Key, int EACH>
__device__ unsigned int first_of_columns(const Key (&keys)[EACH], int place) {
    Key before = __shfl_up_sync(WARP, keys[EACH - 1], 1);
    if (threadIdx.x % LANES == 0) before = NOTHING<Key>;
    unsigned int firsts = 0;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const bool is_other = before == NOTHING<Key> || keys[i] >> place != before >> place;
        if (keys[i] != NOTHING<Key> && is_other) firsts |= 1u << i;
        before = keys[i];
    }
    return firsts;
}

// Entries of the rows listed, of at most LANES EACH products.
template <int LANES, int EACH, int THREADS>
__global__ void __launch_bounds__(THREADS)
count_by_sort(const int* __restrict__ a_indices, const long long* __restrict__ a_indptr,
              const int* __restrict__ b_indices, const long long* __restrict__ b_indptr,
              const int* __restrict__ listed, long long number, long long* __restrict__ counts) {
    __shared__ Sources sources[THREADS / 32];
    const long long place = (blockIdx.x * (long long)blockDim.x + threadIdx.x) / LANES;
    if (place - threadIdx.x % 32 / LANES >= number) return;  // the whole warp
    const long long row = place < number ? listed[place] : 0;
    const long long begin = a_indptr[row], end = place < number ? a_indptr[row + 1] : begin;
    unsigned int keys[EACH];
#pragma unroll
    for (int i = 0; i < EACH; ++i) keys[i] = NOTHING<unsigned int>;
    for_all_products<LANES, EACH>(
        a_indices, begin, end, b_indptr, sources[threadIdx.x >> 5],
        [&](int i, int, long long, long long q) { keys[i] = b_indices[q]; });
    sort_keys<LANES>(keys);
    const int count = inclusive_sum<LANES>(__popc(first_of_columns<LANES>(keys, 0)));
    if (place < number && threadIdx.x % LANES == LANES - 1) counts[row] = count;
}

// Spread places over the banks of shared memory, where each lane has a run of them.
__device__ int spread(int place) { return place + (place >> 5); }

// A team's shared memory. _cupy.py knows the size.
template <typename T, typename Key, int SIZE>
struct Products {
    T terms[SIZE];
    Key sorted[SIZE + SIZE / 32];
    unsigned short firsts[SIZE + SIZE / 32 + 2];  // of the columns, in `sorted`; behind them the end
};

// Values of the rows listed, of at most LANES EACH products, and their columns, unless `indices` is
// null. A Key has the column and behind it the product's place in the row.
template <typename T, typename Semiring, typename Key, int LANES, int EACH, int THREADS>
__global__ void __launch_bounds__(THREADS)
multiply_by_sort(const T* __restrict__ a_data, const int* __restrict__ a_indices,
                 const long long* __restrict__ a_indptr, const T* __restrict__ b_data,
                 const int* __restrict__ b_indices, const long long* __restrict__ b_indptr,
                 const int* __restrict__ listed, long long number,
                 const long long* __restrict__ indptr, T* __restrict__ data,
                 int* __restrict__ indices) {
    constexpr int SIZE = LANES * EACH, BITS = bits_of(SIZE);
    extern __shared__ __align__(16) unsigned char shared[];
    __shared__ Sources sources[THREADS / 32];
    auto& products = reinterpret_cast<Products<T, Key, SIZE>*>(shared)[threadIdx.x / LANES];
    const int member = threadIdx.x % LANES;
    const long long place = (blockIdx.x * (long long)blockDim.x + threadIdx.x) / LANES;
    if (place - threadIdx.x % 32 / LANES >= number) return;  // the whole warp
    const long long row = place < number ? listed[place] : 0;
    const long long begin = a_indptr[row], end = place < number ? a_indptr[row + 1] : begin;
    Key keys[EACH];
#pragma unroll
    for (int i = 0; i < EACH; ++i) keys[i] = NOTHING<Key>;
    const int all = for_all_products<LANES, EACH>(
        a_indices, begin, end, b_indptr, sources[threadIdx.x >> 5],
        [&](int i, int p, long long t, long long q) {
            keys[i] = Key(b_indices[q]) << BITS | p;
            products.terms[p] = Semiring::multiply(a_data[t], b_data[q]);
        });
    sort_keys<LANES>(keys);
    const unsigned int firsts = first_of_columns<LANES>(keys, BITS);
    const int mine = __popc(firsts), after = inclusive_sum<LANES>(mine);
    const int count = __shfl_sync(WARP, after, LANES - 1, LANES);
    int column = after - mine;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        products.sorted[spread(EACH * member + i)] = keys[i];
        if (firsts >> i & 1) products.firsts[spread(column++)] = EACH * member + i;
    }
    if (member == 0) products.firsts[spread(count)] = all;
    __syncwarp();
    const long long to = indptr[row];
    for (int j = member; j < count; j += LANES) {
        int s = products.firsts[spread(j)];
        const int end = products.firsts[spread(j + 1)];
        const Key first = products.sorted[spread(s)];
        T sum = Semiring::template absent<T>();
        for (; s < end; ++s)
            sum = Semiring::add(sum, products.terms[products.sorted[spread(s)] & Key(SIZE - 1)]);
        data[to + j] = sum;
        if (indices) indices[to + j] = first >> BITS;
    }
}

}  // namespace linalgkit
