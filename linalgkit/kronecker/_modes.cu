// Mode products of a grid with small matrices, whose fibres stay in registers.
//
// A fibre is padded with zeros up to N points, and so is the matrix, which stands in shared memory,
// where all threads of a warp read the same numbers at once.

namespace linalgkit {

__device__ inline float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ inline double fused(double a, double b, double c) { return __fma_rn(a, b, c); }

template <typename Real, int N>
__device__ void load(Real* matrix, const Real* a, int m, int n) {
    for (int entry = threadIdx.x; entry < N * N; entry += blockDim.x) {
        const int i = entry / N, k = entry % N;
        matrix[entry] = i < m && k < n ? a[i * n + k] : Real(0);
    }
}

template <typename Real, int N>
__device__ inline Real dot(const Real* row, const Real (&points)[N], Real sum) {
#pragma unroll
    for (int k = 0; k < N; ++k) sum = fused(row[k], points[k], sum);
    return sum;
}

// y[l, i, r] = sum over k of a[i, k] x[l, k, r], for m, n <= N; with `adds` added to y.
// A thread has a fibre, so the grid is read once and written once: bounded by memory.
template <typename Real, int N>
__global__ void mode(const Real* x, const Real* a, Real* y, long long fibres, long long right,
                     int m, int n, int adds) {
    __shared__ alignas(16) Real matrix[N * N];
    load<Real, N>(matrix, a, m, n);
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
            const Real sum = adds ? target[i * right] : Real(0);
            target[i * right] = dot<Real, N>(matrix + i * N, points, sum);
        }
    }
}

// A tile of columns (l, r) of a grid (left, n1, n2, right), in shared memory: entry (i1, i2) of
// column c is at (i1 N + i2) PITCH + c.
template <int N>
constexpr int COLUMNS = 4096 / (N * N);
template <int N>
constexpr int PITCH = COLUMNS<N> + 1;
constexpr int THREADS = 256;

// Call move(place in the grid, place in the tile) for all entries of `count` columns from `begin`;
// neighbouring threads have neighbouring places in the grid.
template <int N, typename Move>
__device__ void each(long long begin, int count, long long right, int n1, int n2, Move move) {
    const int t = threadIdx.x, size = n1 * n2;
    if (right == 1) {  // one column behind the other: digits (c, i1, i2) of a number
        const int step2 = THREADS % n2, step1 = THREADS / n2 % n1, step = THREADS / size;
        int i2 = t % n2, i1 = t / n2 % n1, c = t / size;
        for (int entry = t; entry < count * size; entry += THREADS) {
            move(begin * size + entry, (i1 * N + i2) * PITCH<N> + c);
            i2 += step2, i1 += step1, c += step;
            if (i2 >= n2) i2 -= n2, ++i1;
            if (i1 >= n1) i1 -= n1, ++c;
        }
        return;
    }
    const int c = t % COLUMNS<N>;
    if (c >= count) return;
    const long long left = (begin + c) / right, base = (left * size - left) * right + begin + c;
    constexpr int STEP = THREADS / COLUMNS<N>;
    const int step2 = STEP % n2, step1 = STEP / n2;
    int i2 = t / COLUMNS<N> % n2, i1 = t / COLUMNS<N> / n2;
    for (int entry = t / COLUMNS<N>; entry < size; entry += STEP) {
        move(base + entry * right, (i1 * N + i2) * PITCH<N> + c);
        i2 += step2, i1 += step1;
        if (i2 >= n2) i2 -= n2, ++i1;
    }
}

// Multiply the fibre whose points are `step` apart by the matrix, in its place.
template <typename Real, int N>
__device__ void contract(Real* fibre, int step, const Real* matrix, int m, int n) {
    Real points[N];
#pragma unroll
    for (int k = 0; k < N; ++k) points[k] = k < n ? fibre[k * step] : Real(0);
    for (int i = 0; i < m; ++i) fibre[i * step] = dot<Real, N>(matrix + i * N, points, Real(0));
}

// y[l, i, j, r] = sum over k, p of a[i, k] b[j, p] x[l, k, p, r], for all of m and n <= N: two
// neighbouring modes for one way through memory.
template <typename Real, int N>
__global__ void pair(const Real* x, const Real* a, const Real* b, Real* y, long long columns,
                     long long right, int m1, int n1, int m2, int n2) {
    __shared__ alignas(16) Real first[N * N], second[N * N];
    __shared__ Real tile[N * N * PITCH<N>];
    load<Real, N>(first, a, m1, n1);
    load<Real, N>(second, b, m2, n2);
    const long long step = (long long)gridDim.x * COLUMNS<N>;
    for (long long begin = (long long)blockIdx.x * COLUMNS<N>; begin < columns; begin += step) {
        const int count = columns - begin < COLUMNS<N> ? columns - begin : COLUMNS<N>;
        each<N>(begin, count, right, n1, n2, [&](long long place, int spot) {
            tile[spot] = x[place];
        });
        __syncthreads();
        for (int fibre = threadIdx.x; fibre < n2 * COLUMNS<N>; fibre += THREADS) {
            const int c = fibre % COLUMNS<N>, i2 = fibre / COLUMNS<N>;
            contract<Real, N>(tile + i2 * PITCH<N> + c, N * PITCH<N>, first, m1, n1);
        }
        __syncthreads();
        for (int fibre = threadIdx.x; fibre < m1 * COLUMNS<N>; fibre += THREADS) {
            const int c = fibre % COLUMNS<N>, i1 = fibre / COLUMNS<N>;
            contract<Real, N>(tile + i1 * N * PITCH<N> + c, PITCH<N>, second, m2, n2);
        }
        __syncthreads();
        each<N>(begin, count, right, m1, m2, [&](long long place, int spot) {
            y[place] = tile[spot];
        });
        __syncthreads();
    }
}

}  // namespace linalgkit
