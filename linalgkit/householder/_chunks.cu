// The delta rule's walks over chunks, and the inverses of their triangles.
//
// A walk keeps a strip of a head's state, COLUMNS wide, in shared memory from the first chunk to
// the last; what it multiplies by was prepared for all chunks at once. Each thread holds 4 rows of
// a result of 64. Bounded by reads of shared memory.
#include "numbers.cuh"

namespace linalgkit {

constexpr int ROWS = 64;    // of a chunk, at most
constexpr int DEPTH = 32;   // of what is staged of the left factor at a time
constexpr int SLAB = DEPTH * (ROWS + 4);
constexpr int SIDE = 16;    // threads across and down

__device__ inline float add_product(float sum, float a, float b) { return fmaf(a, b, sum); }
__device__ inline double add_product(double sum, double a, double b) { return fma(a, b, sum); }
template <typename Real>
__device__ Complex<Real> add_product(Complex<Real> sum, Complex<Real> a, Complex<Real> b) {
    return sum + a * b;
}

__device__ inline float one(float) { return 1; }
__device__ inline double one(double) { return 1; }
template <typename Real>
__device__ Complex<Real> one(Complex<Real>) { return {1, 0}; }

template <typename Real>
__device__ Real negative(Real a) { return -a; }
template <typename Real>
__device__ Complex<Real> negative(Complex<Real> a) { return {-a.re, -a.im}; }

// Put (I + tril(A, -1))⁻¹ in the place of A, `rows` square: a block a matrix, a thread a column.
// Shared memory holds A below the diagonal and, transposed, the inverse above.
template <typename T>
__global__ void inverses(T* matrices, int rows) {
    extern __shared__ __align__(16) unsigned char memory[];
    T* shared = reinterpret_cast<T*>(memory);
    const int column = threadIdx.x, across = rows + 1;
    T* matrix = matrices + (long long)blockIdx.x * rows * rows;
    if (column < rows) {
        for (int i = 0; i < rows; ++i) shared[i * across + column] = matrix[i * rows + column];
    }
    __syncthreads();
    if (column >= rows) return;
    for (int i = column + 1; i < rows; ++i) {
        T sum = shared[i * across + column];
        for (int m = column + 1; m < i; ++m) {
            sum = add_product(sum, shared[i * across + m], shared[column * across + m]);
        }
        shared[column * across + i] = negative(sum);
    }
    for (int i = 0; i < rows; ++i) {
        T value = T();
        if (i == column) value = one(value);
        if (i > column) value = shared[column * across + i];
        matrix[i * rows + column] = value;
    }
}

// Numbers that are read at once.
template <typename T, int COUNT>
struct alignas(sizeof(T) * COUNT < 16 ? sizeof(T) * COUNT : 16) Pack {
    T of[COUNT];
};

// sums[r][c] += Σ_k A[row + r, k] B[k, column + c] for the thread's rows and columns. A is in
// global memory, with any strides; B (depth, COLUMNS) in shared memory.
template <typename T, int COLUMNS>
__device__ void multiply(
    T (&sums)[4][COLUMNS / SIDE], const T* a, long long a_row, long long a_step, int rows, int depth,
    const T* b, T* slab
) {
    constexpr int EACH = COLUMNS / SIDE;
    const int me = threadIdx.x, row = me / SIDE * 4, column = me % SIDE * EACH;
    for (int begin = 0; begin < depth; begin += DEPTH) {
        __syncthreads();
        for (int e = me; e < DEPTH * ROWS; e += SIDE * SIDE) {
            // Neighbouring threads read what lies side by side.
            const int i = a_step == 1 ? e / DEPTH : e % ROWS;
            const int k = a_step == 1 ? e % DEPTH : e / ROWS;
            const bool is_inside = i < rows && begin + k < depth;
            slab[k * (ROWS + 4) + i] = is_inside ? a[i * a_row + (begin + k) * a_step] : T(0);
        }
        __syncthreads();
        const int last = min(DEPTH, depth - begin);
        for (int k = 0; k < last; ++k) {
            const auto left = *reinterpret_cast<const Pack<T, 4>*>(slab + k * (ROWS + 4) + row);
            const auto right =
                *reinterpret_cast<const Pack<T, EACH>*>(b + (begin + k) * COLUMNS + column);
            for (int r = 0; r < 4; ++r) {
                for (int c = 0; c < EACH; ++c) {
                    sums[r][c] = add_product(sums[r][c], left.of[r], right.of[c]);
                }
            }
        }
    }
}

struct Walk {
    int strips, chunks, rows, tokens, width, values;
    int gates;  // 0, 1 or width numbers in `left` for each chunk
};

template <typename T, int COLUMNS>
struct Place {
    static constexpr int EACH = COLUMNS / SIDE;
    int row, column, head, first, used;
    T *state, *held, *other, *slab;

    __device__ Place(const Walk& walk, unsigned char* memory) {
        row = threadIdx.x / SIDE * 4;
        column = threadIdx.x % SIDE * EACH;
        head = blockIdx.x / walk.strips;
        first = blockIdx.x % walk.strips * COLUMNS;
        used = min(COLUMNS, walk.values - first);
        slab = reinterpret_cast<T*>(memory);
        state = slab + SLAB;
        held = state + walk.width * COLUMNS;
        other = held + ROWS * COLUMNS;
    }

    // Bring the strip of (width, values) to shared memory, or zeros.
    __device__ void load(const Walk& walk, const T* source) {
        for (int e = threadIdx.x; e < walk.width * COLUMNS; e += SIDE * SIDE) {
            const int c = e % COLUMNS;
            const bool is_there = source && c < used;
            state[e] = is_there ? source[(long long)(e / COLUMNS) * walk.values + first + c] : T(0);
        }
        __syncthreads();
    }

    __device__ void store(const Walk& walk, T* target) const {
        __syncthreads();
        for (int e = threadIdx.x; e < walk.width * COLUMNS; e += SIDE * SIDE) {
            const int c = e % COLUMNS;
            if (c < used) target[(long long)(e / COLUMNS) * walk.values + first + c] = state[e];
        }
    }

    // Start the sums of rows of the state with what is left of them.
    __device__ void keep(
        const Walk& walk, const T* left, int begin, T (&sums)[4][EACH]
    ) const {
        for (int r = 0; r < 4; ++r) {
            const int d = begin + row + r;
            const T factor = d >= walk.width || !walk.gates ? T(1) : left[walk.gates > 1 ? d : 0];
            for (int c = 0; c < EACH; ++c) {
                sums[r][c] = d < walk.width ? factor * state[d * COLUMNS + column + c] : T(0);
            }
        }
    }

    __device__ void put(const Walk& walk, int begin, const T (&sums)[4][EACH]) {
        for (int r = 0; r < 4; ++r) {
            const int d = begin + row + r;
            if (d < walk.width) {
                for (int c = 0; c < EACH; ++c) state[d * COLUMNS + column + c] = sums[r][c];
            }
        }
    }
};

// For each chunk: N = U - W H; output = scale (Q H + P N); H ← left H + Kᵀ N. What is not wanted
// of output, writes and states is null, as `initial` is for zeros.
template <typename T, int COLUMNS>
__global__ void __launch_bounds__(SIDE * SIDE) walk_forwards(
    int strips, int chunks, int rows_each, int tokens_each, int width, int values, int gates,
    T scale, const T* w, const T* u, const T* queries, const T* reads, const T* late,
    const T* left, const T* initial, T* output, T* writes, T* states, T* end
) {
    const Walk walk = {strips, chunks, rows_each, tokens_each, width, values, gates};
    extern __shared__ __align__(16) unsigned char memory[];
    constexpr int EACH = COLUMNS / SIDE;
    Place<T, COLUMNS> at(walk, memory);
    const long long size = (long long)walk.width * walk.values;
    at.load(walk, initial ? initial + at.head * size : nullptr);
    for (int chunk = 0; chunk < walk.chunks; ++chunk) {
        const long long number = (long long)at.head * walk.chunks + chunk;
        const long long rows = number * walk.rows, tokens = number * walk.tokens;
        if (states) at.store(walk, states + number * size);
        T sums[4][EACH] = {};
        multiply<T, COLUMNS>(
            sums, w + rows * walk.width, walk.width, 1, walk.rows, walk.width, at.state, at.slab
        );
        for (int r = 0; r < 4; ++r) {
            const int i = at.row + r;
            for (int c = 0; c < EACH; ++c) {
                const int column = at.column + c;
                T value = 0;
                if (i < walk.rows && column < at.used) {
                    const long long place = (rows + i) * walk.values + at.first + column;
                    value = u[place] - sums[r][c];
                    if (writes) writes[place] = value;
                }
                at.held[i * COLUMNS + column] = value;
                sums[r][c] = 0;
            }
        }
        if (output) {
            multiply<T, COLUMNS>(
                sums, queries + tokens * walk.width, walk.width, 1, walk.tokens, walk.width,
                at.state, at.slab
            );
            multiply<T, COLUMNS>(
                sums, reads + tokens * walk.rows, walk.rows, 1, walk.tokens, walk.rows, at.held,
                at.slab
            );
            for (int r = 0; r < 4; ++r) {
                for (int c = 0; c < EACH; ++c) {
                    const int i = at.row + r, column = at.column + c;
                    if (i < walk.tokens && column < at.used) {
                        output[(tokens + i) * walk.values + at.first + column] = scale * sums[r][c];
                    }
                }
            }
        }
        __syncthreads();  // all have read the state
        for (int begin = 0; begin < walk.width; begin += ROWS) {
            at.keep(walk, left + number * walk.gates, begin, sums);
            multiply<T, COLUMNS>(
                sums, late + rows * walk.width + begin, 1, walk.width, walk.width - begin,
                walk.rows, at.held, at.slab
            );
            at.put(walk, begin, sums);
        }
    }
    at.store(walk, end + at.head * size);
}

// For each chunk, the last first, with G the cotangent of the state at its end, which goes to
// `ends`: dN = X + K G; G ← left G + Qᵀ g - Wᵀ dN. `of_writes` holds X and gets dN.
template <typename T, int COLUMNS>
__global__ void __launch_bounds__(SIDE * SIDE) walk_backwards(
    int strips, int chunks, int rows_each, int tokens_each, int width, int values, int gates,
    const T* w, const T* queries, const T* late, const T* left, const T* of_output,
    const T* of_end, T* of_writes, T* ends, T* of_initial
) {
    const Walk walk = {strips, chunks, rows_each, tokens_each, width, values, gates};
    extern __shared__ __align__(16) unsigned char memory[];
    constexpr int EACH = COLUMNS / SIDE;
    Place<T, COLUMNS> at(walk, memory);
    const long long size = (long long)walk.width * walk.values;
    at.load(walk, of_end + at.head * size);
    for (int chunk = walk.chunks - 1; chunk >= 0; --chunk) {
        const long long number = (long long)at.head * walk.chunks + chunk;
        const long long rows = number * walk.rows, tokens = number * walk.tokens;
        at.store(walk, ends + number * size);
        T sums[4][EACH] = {};
        multiply<T, COLUMNS>(
            sums, late + rows * walk.width, walk.width, 1, walk.rows, walk.width, at.state, at.slab
        );
        for (int r = 0; r < 4; ++r) {
            const int i = at.row + r;
            for (int c = 0; c < EACH; ++c) {
                const int column = at.column + c;
                const bool is_used = column < at.used;
                T value = 0, of_token = 0;
                if (i < walk.rows && is_used) {
                    const long long place = (rows + i) * walk.values + at.first + column;
                    value = of_writes[place] + sums[r][c];
                    of_writes[place] = value;
                }
                if (i < walk.tokens && is_used) {
                    of_token = of_output[(tokens + i) * walk.values + at.first + column];
                }
                at.held[i * COLUMNS + column] = -value;
                at.other[i * COLUMNS + column] = of_token;
            }
        }
        __syncthreads();  // all have read the state
        for (int begin = 0; begin < walk.width; begin += ROWS) {
            at.keep(walk, left + number * walk.gates, begin, sums);
            multiply<T, COLUMNS>(
                sums, queries + tokens * walk.width + begin, 1, walk.width, walk.width - begin,
                walk.tokens, at.other, at.slab
            );
            multiply<T, COLUMNS>(
                sums, w + rows * walk.width + begin, 1, walk.width, walk.width - begin, walk.rows,
                at.held, at.slab
            );
            at.put(walk, begin, sums);
        }
    }
    at.store(walk, of_initial + at.head * size);
}

}  // namespace linalgkit
