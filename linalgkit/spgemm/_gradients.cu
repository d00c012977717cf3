// Gradients of a product with respect to the values of its operands.
#include "numbers.cuh"

namespace linalgkit {

// Row of an entry: the last one that begins at it or before.
__device__ long long row_of(const long long* indptr, long long rows, long long entry) {
    long long low = 0, high = rows;
    while (high - low > 1) {
        const long long middle = (low + high) >> 1;
        if (indptr[middle] <= entry) low = middle; else high = middle;
    }
    return low;
}

// Where a column stands in a sorted row, -1 where it does not.
__device__ long long place_of(const int* indices, long long low, long long end, int column) {
    long long high = end;
    while (low < high) {
        const long long middle = (low + high) >> 1;
        if (indices[middle] < column) low = middle + 1; else high = middle;
    }
    return low < end && indices[low] == column ? low : -1;
}

// Gradient at the entries of A, dC B^H, by a warp each; its lanes' sums are added as a tree. What a
// mask left out takes no part, whatever B holds.
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
    for (long long q = b_indptr[k] + lane; q < b_indptr[k + 1]; q += 32) {
        const long long p = place_of(indices, indptr[row], indptr[row + 1], b_indices[q]);
        if (p >= 0) mine = mine + cotangent[p] * conjugate(b_data[q]);
    }
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
        const long long p = place_of(indices, indptr[row], indptr[row + 1], b_indices[q]);
        if (p >= 0) mine = mine + conjugate(a_data[column_entries[s]]) * cotangent[p];
    }
    gradient[q] = mine;
}

}  // namespace linalgkit
