// Mode products of a grid (left, n, right) with small matrices (m, n): a thread has a fibre.
//
// The fibre stays in registers and the matrix in shared memory, where all threads of a warp read
// the same number at once, so the grid is read once and written once: bounded by memory.

namespace linalgkit {

__device__ inline float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ inline double fused(double a, double b, double c) { return __fma_rn(a, b, c); }

// y[l, i, r] = sum over k of a[i, k] x[l, k, r], for n <= N and m <= 32; with `adds` added to y.
template <typename Real, int N>
__global__ void mode(const Real* x, const Real* a, Real* y, long long fibres, long long right,
                     int m, int n, int adds) {
    __shared__ Real matrix[32 * N];
    for (int entry = threadIdx.x; entry < m * N; entry += blockDim.x) {
        const int i = entry / N, k = entry % N;
        matrix[entry] = k < n ? a[i * n + k] : Real(0);
    }
    __syncthreads();
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long fibre = (long long)blockIdx.x * blockDim.x + threadIdx.x; fibre < fibres;
         fibre += step) {
        const long long left = fibre / right, place = fibre % right;
        const Real* source = x + left * n * right + place;
        Real* target = y + left * m * right + place;
        Real points[N];
#pragma unroll
        for (int k = 0; k < N; ++k) points[k] = k < n ? source[k * right] : Real(0);
        for (int i = 0; i < m; ++i) {
            Real sum = adds ? target[i * right] : Real(0);
#pragma unroll
            for (int k = 0; k < N; ++k) {
                // A NaN meets no zero that pads the fibre: these terms are left out.
                if (k < n) sum = fused(matrix[i * N + k], points[k], sum);
            }
            target[i * right] = sum;
        }
    }
}

}  // namespace linalgkit
