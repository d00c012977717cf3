// Sparse × sparse by rows. One block a row: its sources (entries of A) one after the other, the
// entries of a source's row of B side by side. So sums run in stored order and have the bits of
// the CPU engine; no atomic touches a value. Short rows are kept in a hash table in shared
// memory and sorted there; long ones in a dense row with a bitmap in global memory.
// Bound: latency of the gathers of B's rows.
#include "block.cuh"
#include "numbers.cuh"

namespace linalgkit {

constexpr int EMPTY = 0x7fffffff;  // no column; sorts behind all columns

// Where one block's share of a row of B begins and how far it steps. A row of B with repeated
// columns is left to one thread: two threads must not add to one place at once.
template <int THREADS>
__device__ void share(const long long* b_indptr, int k, bool distinct, long long& q,
                      long long& end, int& step) {
    end = b_indptr[k + 1];
    step = distinct ? THREADS : 1;
    q = b_indptr[k] + threadIdx.x;
    if (!distinct && threadIdx.x) q = end;
}

// Slot of a column in the table, entered if it is new. SLOTS is a power of two and at least
// twice the number of columns that come.
template <int SLOTS>
__device__ int find_slot(int* keys, int column) {
    int slot = (column * 0x9E3779B1u) >> (32 - __popc(SLOTS - 1));
    while (true) {
        const int seen = atomicCAS(&keys[slot], EMPTY, column);
        if (seen == EMPTY || seen == column) return slot;
        slot = (slot + 1) & (SLOTS - 1);
    }
}

// Products of every row.
__global__ void row_products(const int* a_indices, const long long* a_indptr,
                                        const long long* b_indptr, long long rows,
                                        long long* products) {
    const long long warp = (blockIdx.x * (long long)blockDim.x + threadIdx.x) >> 5;
    if (warp >= rows) return;
    long long sum = 0;
    for (long long t = a_indptr[warp] + (threadIdx.x & 31); t < a_indptr[warp + 1]; t += 32) {
        const int k = a_indices[t];
        sum += b_indptr[k + 1] - b_indptr[k];
    }
    for (int step = 16; step; step >>= 1) sum += __shfl_down_sync(0xffffffffu, sum, step);
    if ((threadIdx.x & 31) == 0) products[warp] = sum;
}

// Number of entries of the rows listed, by the table.
template <int SLOTS, int THREADS>
__global__ void count_hash(const int* a_indices, const long long* a_indptr, const int* b_indices,
                           const long long* b_indptr, const long long* listed,
                           long long* counts) {
    extern __shared__ int keys[];
    __shared__ int count;
    for (int s = threadIdx.x; s < SLOTS; s += THREADS) keys[s] = EMPTY;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    const long long row = listed[blockIdx.x];
    for (long long t = a_indptr[row]; t < a_indptr[row + 1]; ++t) {
        const int k = a_indices[t];
        for (long long q = b_indptr[k] + threadIdx.x; q < b_indptr[k + 1]; q += THREADS)
            find_slot<SLOTS>(keys, b_indices[q]);
    }
    __syncthreads();
    int mine = 0;
    for (int s = threadIdx.x; s < SLOTS; s += THREADS) mine += keys[s] != EMPTY;
    atomicAdd(&count, mine);
    __syncthreads();
    if (threadIdx.x == 0) counts[row] = count;
}

// The rows listed, by the table, sorted in shared memory.
template <typename T, int SLOTS, int THREADS>
__global__ void multiply_hash(const T* a_data, const int* a_indices, const long long* a_indptr,
                              const T* b_data, const int* b_indices, const long long* b_indptr,
                              bool distinct, const long long* listed, const long long* indptr,
                              T* data, int* indices) {
    extern __shared__ __align__(16) unsigned char shared[];
    T* values = reinterpret_cast<T*>(shared);
    int* keys = reinterpret_cast<int*>(values + SLOTS);
    for (int s = threadIdx.x; s < SLOTS; s += THREADS) {
        keys[s] = EMPTY;
        values[s] = T{};
    }
    __syncthreads();
    const long long row = listed[blockIdx.x];
    for (long long t = a_indptr[row]; t < a_indptr[row + 1]; ++t) {
        const T factor = a_data[t];
        long long q, end;
        int step;
        share<THREADS>(b_indptr, a_indices[t], distinct, q, end, step);
        for (; q < end; q += step) {
            const int slot = find_slot<SLOTS>(keys, b_indices[q]);
            values[slot] = values[slot] + factor * b_data[q];
        }
        __syncthreads();
    }
    for (int size = 2; size <= SLOTS; size <<= 1) {  // bitonic, keys with their values
        for (int stride = size >> 1; stride; stride >>= 1) {
            for (int s = threadIdx.x; s < SLOTS / 2; s += THREADS) {
                const int low = 2 * s - (s & (stride - 1)), high = low + stride;
                const int left = keys[low], right = keys[high];
                if ((left > right) == ((low & size) == 0)) {
                    const T kept = values[low];
                    keys[low] = right, keys[high] = left;
                    values[low] = values[high], values[high] = kept;
                }
            }
            __syncthreads();
        }
    }
    const long long begin = indptr[row], count = indptr[row + 1] - begin;
    for (long long s = threadIdx.x; s < count; s += THREADS) {
        data[begin + s] = values[s];
        indices[begin + s] = keys[s];
    }
}

// Number of entries of the long rows listed, by a bitmap for each block, all zero between rows.
template <int THREADS>
__global__ void count_dense(const int* a_indices, const long long* a_indptr, const int* b_indices,
                            const long long* b_indptr, const long long* listed,
                            long long number, long long words, unsigned int* bitmaps,
                            long long* counts) {
    unsigned int* bits = bitmaps + blockIdx.x * words;
    for (long long r = blockIdx.x; r < number; r += gridDim.x) {
        const long long row = listed[r];
        for (long long t = a_indptr[row]; t < a_indptr[row + 1]; ++t) {
            const int k = a_indices[t];
            for (long long q = b_indptr[k] + threadIdx.x; q < b_indptr[k + 1]; q += THREADS)
                atomicOr(&bits[b_indices[q] >> 5], 1u << (b_indices[q] & 31));
        }
        __syncthreads();
        long long mine = 0, total;
        for (long long w = threadIdx.x; w < words; w += THREADS) {
            mine += __popc(bits[w]);
            bits[w] = 0;
        }
        exclusive_sum<THREADS>(mine, total);
        if (threadIdx.x == 0) counts[row] = total;
        __syncthreads();
    }
}

// The long rows listed, by a dense row and a bitmap for each block, all zero between rows.
template <typename T, int THREADS>
__global__ void multiply_dense(const T* a_data, const int* a_indices, const long long* a_indptr,
                               const T* b_data, const int* b_indices, const long long* b_indptr,
                               bool distinct, const long long* listed, long long number,
                               long long columns, long long words, T* dense,
                               unsigned int* bitmaps, const long long* indptr, T* data,
                               int* indices) {
    T* sums = dense + blockIdx.x * columns;
    unsigned int* bits = bitmaps + blockIdx.x * words;
    for (long long r = blockIdx.x; r < number; r += gridDim.x) {
        const long long row = listed[r];
        for (long long t = a_indptr[row]; t < a_indptr[row + 1]; ++t) {
            const T factor = a_data[t];
            long long q, end;
            int step;
            share<THREADS>(b_indptr, a_indices[t], distinct, q, end, step);
            for (; q < end; q += step) {
                const int column = b_indices[q];
                sums[column] = sums[column] + factor * b_data[q];
                atomicOr(&bits[column >> 5], 1u << (column & 31));
            }
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
                data[mine] = sums[column];
                indices[mine++] = (int)column;
                sums[column] = T{};
            }
            if (w < words) bits[w] = 0;
            place += total;
        }
        __syncthreads();
    }
}

}  // namespace linalgkit
