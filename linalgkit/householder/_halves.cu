// The delta rule of float16 and bfloat16, by tensor cores.
//
// `prepare` makes for all chunks of 64 tokens at once what the walks multiply by. With L = tril(K Kᵀ,
// -1), the decays between, and X = (I + L B)⁻¹ L, which stays bounded where L is not small:
//     R = I - X B,   W = R K,   U = R V,   P = scale tril(Q Kᵀ)
// A walk keeps Hᵀ in registers, 16 columns of the state in a warp (or in SPLIT warps, where there are
// few): products of Hᵀ from the left need no exchange between warps. For each chunk
//     E = U - W H;   N = B E;   O = scale Q H + P N;   H ← Kᵀ N
// where decays multiply rows (`factors`: from the chunk's start, and to its end). Operands are rounded
// to T, sums are float32. Walks are bound by shared memory and the way from one chunk to the next,
// `prepare` and `gradients` by global memory.
#include "tensor_cores.cuh"

namespace linalgkit {

constexpr int ROWS = 64;      // of a chunk
constexpr int BLOCK = 16;     // columns of the state for a warp
constexpr int COLUMNS = 128;  // of the values that `prepare` takes at a time
constexpr int ACROSS = ROWS + 4;
constexpr float FORGETS = -1000;  // exp is zero; sums of such gates stay exact enough in float64

// Strengths and gates are T, or float32 where the bit says so.
constexpr int WIDE_BETA = 1, WIDE_GATES = 2;

template <typename T>
__device__ float value_at(const void* from, long long place, bool is_wide) {
    return is_wide ? static_cast<const float*>(from)[place]
                   : unpack<T>(static_cast<const T*>(from)[place].bits).x;
}
template <typename T>
__device__ void put_value(void* to, long long place, float value, bool is_wide) {
    if (is_wide) static_cast<float*>(to)[place] = value;
    else static_cast<T*>(to)[place] = rounded<T>(value);
}

struct Sizes {
    int chunks, first;  // of the segment
    int length, width, values;

    __device__ int tiles() const { return (values + BLOCK - 1) / BLOCK; }
    __device__ int begin(int chunk) const { return (first + chunk) * ROWS; }
    __device__ int rows(int chunk) const { return min(ROWS, length - begin(chunk)); }
    __device__ long long token(int head, int chunk) const {
        return static_cast<long long>(head) * length + begin(chunk);
    }
};

// Decays between rows of a chunk: one number a token.
struct Decays {
    const double* sums;  // null for none

    __device__ float between(int later, int earlier) const {
        return sums ? expf(static_cast<float>(sums[later] - sums[earlier])) : 1;
    }
    __device__ float since(int row) const { return sums ? expf(static_cast<float>(sums[row])) : 1; }

    // Sum up the gates of a chunk, which threads hold; all threads call it.
    static __device__ Decays of(float gate, float* each, double* sums) {
        const int row = threadIdx.x;
        if (row < ROWS) each[row] = gate < FORGETS ? FORGETS : gate;
        __syncthreads();
        if (row < ROWS) {
            double sum = 0;
            for (int m = 0; m <= row; ++m) sum += each[m];
            sums[row] = sum;
        }
        __syncthreads();
        return {sums};
    }
};

// Put X = (I + L B)⁻¹ L to `all`, R = I - X B to the tile. Diagonal halves by substitution, a column
// a thread; then X₂₁ = R₂ L₂₁ (I - B X₁) by all threads. Rows of B X go to `strong`.
template <typename T>
__device__ void solve(float* scores, const float* betas, float* strong, unsigned char* tile, T* all) {
    constexpr int HALF = ROWS / 2;
    const auto put = [&](int row, int column, float value) {
        *reinterpret_cast<T*>(tile + place<ROWS>(0, row, column)) =
            rounded<T>((row == column) - value * betas[column]);
        if (all) all[row * ROWS + column] = rounded<T>(value);
    };
    const int column = threadIdx.x, half = column / HALF * HALF;
    if (column < ROWS) {
        for (int begin = half; begin < half + HALF; begin += 8) {
            float sums[8];
            for (int r = 0; r < 8; ++r) sums[r] = scores[(begin + r) * ACROSS + column];
            for (int m = half; m < begin; m += 4) {
                float known[4];
                for (int i = 0; i < 4; ++i) known[i] = strong[(m + i) * ROWS + column];
                for (int r = 0; r < 8; ++r) {
                    const float4 l =
                        *reinterpret_cast<const float4*>(scores + (begin + r) * ACROSS + m);
                    sums[r] = fmaf(-l.x, known[0], sums[r]);
                    sums[r] = fmaf(-l.y, known[1], sums[r]);
                    sums[r] = fmaf(-l.z, known[2], sums[r]);
                    sums[r] = fmaf(-l.w, known[3], sums[r]);
                }
            }
            for (int r = 0; r < 8; ++r) {
                const float mine = betas[begin + r] * sums[r];
                strong[(begin + r) * ROWS + column] = mine;
                for (int s = r + 1; s < 8; ++s) {
                    sums[s] = fmaf(-scores[(begin + s) * ACROSS + begin + r], mine, sums[s]);
                }
                put(begin + r, column, sums[r]);
            }
            __syncwarp();  // these rows of L have been read; X B takes the place of the second half
            for (int r = 0; r < 8 && half; ++r) {
                scores[(begin + r) * ACROSS + column] = sums[r] * betas[column];
            }
        }
    } else if (all) {
        for (int e = column - ROWS; e < HALF * HALF / 2; e += ROWS) {
            reinterpret_cast<unsigned*>(all)[e / (HALF / 2) * HALF + HALF / 2 + e % (HALF / 2)] = 0;
        }
    }
    __syncthreads();
    const int row = HALF + threadIdx.x / 8 * 2, first = threadIdx.x % 8 * 4;
    const auto subtract = [&](float (&sums)[2][4], const float* left, const float* right) {
#pragma unroll 2
        for (int m = 0; m < HALF; m += 4) {
            float a[2][4];
            for (int r = 0; r < 2; ++r) {
                *reinterpret_cast<float4*>(a[r]) =
                    *reinterpret_cast<const float4*>(left + (row + r) * ACROSS + m);
            }
            for (int i = 0; i < 4; ++i) {
                const float4 b =
                    *reinterpret_cast<const float4*>(right + (m + i) * ROWS + first);
                for (int r = 0; r < 2; ++r) {
                    sums[r][0] = fmaf(-a[r][i], b.x, sums[r][0]);
                    sums[r][1] = fmaf(-a[r][i], b.y, sums[r][1]);
                    sums[r][2] = fmaf(-a[r][i], b.z, sums[r][2]);
                    sums[r][3] = fmaf(-a[r][i], b.w, sums[r][3]);
                }
            }
        }
    };
    float sums[2][4];
    for (int r = 0; r < 2; ++r) {
        for (int c = 0; c < 4; ++c) sums[r][c] = scores[(row + r) * ACROSS + first + c];
    }
    subtract(sums, scores, strong);
    for (int r = 0; r < 2; ++r) {
        for (int c = 0; c < 4; ++c) strong[(row + r) * ROWS + first + c] = sums[r][c];
    }
    __syncthreads();
    subtract(sums, scores + HALF, strong + HALF * ROWS);
    for (int r = 0; r < 2; ++r) {
        for (int c = 0; c < 4; ++c) put(row + r, first + c, sums[r][c]);
    }
}

// A block for each chunk of each head. `gates` and `x` may be null.
template <typename T, int KEYS>
__global__ void __launch_bounds__(128) prepare(
    int chunks, int first, int length, int width, int values, float scale, int wide, const T* q,
    const T* k, const T* v, const void* beta, const void* gates, T* w, uint4* u, T* p, T* x, float* factors
) {
    const Sizes sizes = {chunks, first, length, width, values};
    extern __shared__ __align__(128) unsigned char memory[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, upper = lane / 4, quad = lane % 4;
    const int head = blockIdx.x / chunks, chunk = blockIdx.x % chunks, rows = sizes.rows(chunk);
    const long long number = blockIdx.x, token = sizes.token(head, chunk);

    constexpr int KEY_TILE = 2 * ROWS * KEYS;
    const unsigned base = __cvta_generic_to_shared(memory);
    constexpr int STRONG = 4 * ROWS * ROWS;  // bytes; in the place of queries
    const unsigned keys = base, queries = keys + KEY_TILE;
    const unsigned some_values = queries + (STRONG > KEY_TILE ? STRONG : KEY_TILE);
    const unsigned inverse = some_values + 2 * ROWS * COLUMNS;
    float* strong = reinterpret_cast<float*>(memory + KEY_TILE);
    float* scores = reinterpret_cast<float*>(memory + (inverse - base) + 2 * ROWS * ROWS);
    float* betas = scores + ROWS * ACROSS;
    float* each = betas + ROWS;
    double* sums_of_gates = reinterpret_cast<double*>(each + ROWS);

    fetch<ROWS, KEYS>(keys, k + token * width, width, rows, width);
    fetch<ROWS, KEYS>(queries, q + token * width, width, rows, width);
    commit_copies();
    fetch<ROWS, COLUMNS>(some_values, v + token * values, values, rows, values);
    commit_copies();
    const bool is_token = threadIdx.x < rows;
    if (threadIdx.x < ROWS) {
        betas[threadIdx.x] =
            is_token ? value_at<T>(beta, token + threadIdx.x, wide & WIDE_BETA) : 0;
    }
    Decays decays = {nullptr};
    if (gates) {
        const float gate =
            is_token ? value_at<T>(gates, token + threadIdx.x, wide & WIDE_GATES) : 0;
        decays = Decays::of(gate, each, sums_of_gates);
    }
    if (threadIdx.x < ROWS) {
        float* to = factors + number * 3 * ROWS + threadIdx.x;
        to[0] = betas[threadIdx.x];
        to[ROWS] = decays.since(threadIdx.x);
        to[2 * ROWS] = decays.between(ROWS - 1, threadIdx.x);
    }
    wait_for_copies<1>();
    __syncthreads();

    // K Kᵀ and Q Kᵀ up to the diagonal: a warp has 16 rows.
    for (int pair = 0; pair < 4; ++pair) {
        float of_keys[2][4] = {}, of_queries[2][4] = {};
        if (pair <= warp) {
#pragma unroll
            for (int step = 0; step < KEYS; step += 16) {
                unsigned a[4];
                left_factor<KEYS>(a, keys, 16 * warp, step);
                add_by_rows<T, KEYS>(of_keys, a, keys, 16 * pair, step);
                left_factor<KEYS>(a, queries, 16 * warp, step);
                add_by_rows<T, KEYS>(of_queries, a, keys, 16 * pair, step);
            }
        }
        for (int place = 0; place < 4; ++place) {
            const int i = 16 * warp + upper + place % 2 * 8;
            const int j = 16 * pair + place / 2 * 8 + 2 * quad;
            const float* score = of_keys[place / 2] + place % 2 * 2;
            const float* read = of_queries[place / 2] + place % 2 * 2;
            float between[2], kept[2];
            for (int c = 0; c < 2; ++c) {
                between[c] = i >= j + c ? decays.between(i, j + c) : 0;
                kept[c] = i > j + c ? between[c] * score[c] : 0;
                between[c] = i >= j + c ? scale * between[c] * read[c] : 0;
            }
            *reinterpret_cast<float2*>(scores + i * ACROSS + j) = {kept[0], kept[1]};
            *reinterpret_cast<unsigned*>(p + (number * ROWS + i) * ROWS + j) =
                pack<T>(between[0], between[1]);
        }
    }
    __syncthreads();
    solve<T>(
        scores, betas, strong, memory + (inverse - base), x ? x + number * ROWS * ROWS : nullptr
    );
    if (gates) {  // keys as the state at the start sees them
        for (int e = threadIdx.x; e < ROWS * KEYS / 2; e += blockDim.x) {
            unsigned* both = reinterpret_cast<unsigned*>(memory) + e;
            const float factor = decays.since(e / (KEYS / 2));
            const float2 two = unpack<T>(*both);
            *both = pack<T>(factor * two.x, factor * two.y);
        }
    }
    wait_for_copies<0>();
    __syncthreads();

    float sums[KEYS / 8][4] = {};
    for (int step = 0; step <= warp; ++step) {  // R is lower triangular
        unsigned a[4];
        left_factor<ROWS>(a, inverse, 16 * warp, 16 * step);
        add_by_columns<T, KEYS>(sums, a, keys, 16 * step, 0);
    }
    for (int i = 0; i < KEYS / 8; ++i) {
        T* to = w + (number * ROWS + 16 * warp + upper) * KEYS + 8 * i + 2 * quad;
        *reinterpret_cast<unsigned*>(to) = pack<T>(sums[i][0], sums[i][1]);
        *reinterpret_cast<unsigned*>(to + 8 * KEYS) = pack<T>(sums[i][2], sums[i][3]);
    }
    for (int begin = 0; begin < values; begin += COLUMNS) {
        if (begin) {
            __syncthreads();
            fetch<ROWS, COLUMNS>(
                some_values, v + token * values + begin, values, rows, values - begin
            );
            commit_copies();
            wait_for_copies<0>();
            __syncthreads();
        }
        const int last = min(COLUMNS, values - begin);
        for (int column = BLOCK * warp; column < last; column += 4 * BLOCK) {
            uint4* to = u + (number * sizes.tiles() + (begin + column) / BLOCK) * 4 * 32 + lane;
            unsigned a[4][4];
            for (int step = 0; step < 4; ++step) {
                left_transposed<COLUMNS>(a[step], some_values, 16 * step, column);
            }
#pragma unroll
            for (int pair = 0; pair < 4; ++pair) {
                float two[2][4] = {};
#pragma unroll
                for (int step = 0; step <= pair; ++step) {
                    add_by_rows<T, ROWS>(two, a[step], inverse, 16 * pair, 16 * step);
                }
                unsigned packed[4];
                as_left<T>(packed, two[0], two[1]);
                to[32 * pair] = {packed[0], packed[1], packed[2], packed[3]};
            }
        }
    }
}

// Put transposed sums, 16 columns of 8 COUNT tokens, to rows of `values` numbers.
template <typename T, int COUNT>
__device__ void store_rows(
    T* to, const float (&sums)[COUNT][4], int row, int rows, int column, int values
) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        const unsigned low = turned(pack<T>(sums[i][0], sums[i][1]));
        const unsigned high = turned(pack<T>(sums[i][2], sums[i][3]));
        const int token = row + 8 * i + lane / 4, at = column + lane % 4 * 2;
        T* place = to + static_cast<long long>(token) * values + at;
        if (token < rows && at < values) *reinterpret_cast<unsigned*>(place) = low;
        if (token < rows && at + 8 < values) *reinterpret_cast<unsigned*>(place + 8) = high;
    }
}

// Who a warp is: 16 columns of a head's state, and of these one of SPLIT parts of keys and tokens.
template <int KEYS, int SPLIT>
struct Walker {
    static constexpr int TOKENS = ROWS / SPLIT, OWN = KEYS / SPLIT;
    static constexpr int FACTORS = KEYS / 16;  // left factors that make up the state
    int head, team, part, column, token, key;  // the first ones of its own
    int teams;
    // Where warps share columns, a third of the block goes on with the state, a third reads out, and
    // a third brings the next chunk; else every warp does all.
    bool goes_on, reads_out, brings;
    Group bringers;

    __device__ explicit Walker(const Sizes& sizes) {
        const int walkers = SPLIT > 1 ? blockDim.x / 3 : blockDim.x, role = threadIdx.x / walkers;
        const int warp = threadIdx.x % walkers / 32;
        teams = walkers / 32 / SPLIT;
        goes_on = SPLIT == 1 || role == 0;
        reads_out = SPLIT == 1 || role == 1;
        brings = SPLIT == 1 || role == 2;
        bringers = {static_cast<int>(threadIdx.x) % walkers, walkers};
        const int strips = (sizes.tiles() + teams - 1) / teams;
        head = blockIdx.x / strips;
        team = warp / SPLIT;
        part = warp % SPLIT;
        column = (blockIdx.x % strips * teams + team) * BLOCK;
        token = part * TOKENS;
        key = part * OWN;
    }

    // Wait for those who go on and read out, but not for the others.
    static __device__ void meet() {
        asm volatile("bar.sync 1, %0;" ::"r"(blockDim.x / 3 * 2) : "memory");
    }

    // Call f(sum, key, column) for all own entries of the state.
    template <typename F>
    __device__ void each(float (&state)[OWN / 8][4], F f) const {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < OWN / 8; ++i) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                f(state[i][c], key + 8 * i + lane % 4 * 2 + c % 2, column + lane / 4 + c / 2 * 8);
            }
        }
    }

    __device__ void load(const Sizes& sizes, float (&state)[OWN / 8][4], const float* from) const {
        const long long size = static_cast<long long>(sizes.width) * sizes.values;
        each(state, [&](float& value, int d, int v) {
            const bool is_there = from && d < sizes.width && v < sizes.values;
            value = is_there ? from[head * size + static_cast<long long>(d) * sizes.values + v] : 0;
        });
    }
    __device__ void store(const Sizes& sizes, float (&state)[OWN / 8][4], float* to) const {
        const long long size = static_cast<long long>(sizes.width) * sizes.values;
        each(state, [&](float value, int d, int v) {
            if (d < sizes.width && v < sizes.values) {
                to[head * size + static_cast<long long>(d) * sizes.values + v] = value;
            }
        });
    }

    // Put the state's transpose to rows of KEYS numbers, for the gradients.
    template <typename T>
    __device__ void keep(const Sizes& sizes, const float (&state)[OWN / 8][4], T* to) const {
        const int lane = threadIdx.x % 32, row = column + lane / 4;
        if (column >= sizes.values) return;
#pragma unroll
        for (int i = 0; i < OWN / 8; ++i) {
            T* place = to + static_cast<long long>(row) * KEYS + key + 8 * i + lane % 4 * 2;
            *reinterpret_cast<unsigned*>(place) = pack<T>(state[i][0], state[i][1]);
            *reinterpret_cast<unsigned*>(place + 8 * KEYS) = pack<T>(state[i][2], state[i][3]);
        }
    }

    // Own left factors, from own sums; others' come through shared memory.
    template <typename T, int COUNT>
    __device__ void show(uint4* shared, const float (&sums)[COUNT][4]) const {
        uint4* to = shared + part * (COUNT / 2) * 32 + threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < COUNT / 2; ++i) {
            unsigned a[4];
            as_left<T>(a, sums[2 * i], sums[2 * i + 1]);
            to[32 * i] = {a[0], a[1], a[2], a[3]};
        }
    }
    template <int COUNT>
    static __device__ void see(const uint4* shared, unsigned (&factors)[COUNT][4]) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const uint4 a = shared[32 * i + threadIdx.x % 32];
            factors[i][0] = a.x, factors[i][1] = a.y, factors[i][2] = a.z, factors[i][3] = a.w;
        }
    }
    template <typename T, int COUNT>
    static __device__ void take(const float (&sums)[COUNT][4], unsigned (&factors)[COUNT / 2][4]) {
#pragma unroll
        for (int i = 0; i < COUNT / 2; ++i) as_left<T>(factors[i], sums[2 * i], sums[2 * i + 1]);
    }
};

// What a walk keeps in shared memory of a chunk: one is read while the next ones arrive.
constexpr int STAGES = 3;

template <int KEYS>
struct Stage {
    static constexpr int TILE = 2 * ROWS * KEYS, SQUARE = 2 * ROWS * ROWS;
    unsigned w, queries, keys, reads, numbers, more;  // addresses; `numbers`: beta, since, late

    __device__ Stage(unsigned base, int size, int chunk) {
        w = base + chunk % STAGES * size;
        queries = w + TILE;
        keys = queries + TILE;
        reads = keys + TILE;
        numbers = reads + SQUARE;
        more = numbers + 3 * ROWS * 4;
    }

    template <typename T>
    __device__ void bring(
        const Sizes& sizes, int head, int chunk, bool reads_too, const T* w_, const T* q, const T* k,
        const T* p, const float* factors, Group group
    ) const {
        const long long number = static_cast<long long>(head) * sizes.chunks + chunk;
        const long long token = sizes.token(head, chunk);
        const int rows = sizes.rows(chunk);
        const int width = sizes.width;
        fetch<ROWS, KEYS>(w, w_ + number * ROWS * KEYS, KEYS, ROWS, KEYS, group);
        fetch<ROWS, KEYS>(keys, k + token * width, width, rows, width, group);
        if (reads_too) {
            fetch<ROWS, KEYS>(queries, q + token * width, width, rows, width, group);
            fetch<ROWS, ROWS>(reads, p + number * ROWS * ROWS, ROWS, ROWS, ROWS, group);
        }
        for (int e = group.thread; e < 3 * ROWS / 4; e += group.threads) {
            copy_16(numbers + 16 * e, factors + number * 3 * ROWS + 4 * e, true);
        }
    }
};

template <int SPLIT>
constexpr int WALKERS = SPLIT > 1 ? 384 : 256;  // threads of a walk, at most

// What is not wanted of output, errors (E), states and the end is null, as `initial` is for zeros.
template <typename T, int KEYS, int SPLIT>
__global__ void __launch_bounds__(WALKERS<SPLIT>) walk_forwards(
    int chunks, int first, int length, int width, int values, float scale, const T* w,
    const uint4* u, const T* p, const T* q, const T* k, const float* factors, const float* initial,
    T* output, T* errors, T* states, float* end
) {
    const Sizes sizes = {chunks, first, length, width, values};
    const Walker<KEYS, SPLIT> me(sizes);
    const bool goes_on = me.goes_on, reads_out = me.reads_out && output;
    constexpr int OWN = me.OWN, TOKENS = me.TOKENS, FACTORS = me.FACTORS;
    constexpr int STAGE = 3 * Stage<KEYS>::TILE + Stage<KEYS>::SQUARE + 3 * ROWS * 4;
    extern __shared__ __align__(128) unsigned char memory[];
    const unsigned base = __cvta_generic_to_shared(memory);
    const int lane = threadIdx.x % 32, quad = lane % 4;
    // Left factors of a team: of the state, of N, and of N as the end sees it.
    uint4* of_state = reinterpret_cast<uint4*>(memory + STAGES * STAGE);
    of_state += me.team * (FACTORS + 8) * 32;
    uint4 *of_writes = of_state + FACTORS * 32, *of_late = of_writes + 4 * 32;

    const auto bring = [&](int chunk) {
        if (me.brings && chunk < chunks) {
            Stage<KEYS>(base, STAGE, chunk)
                .template bring<T>(sizes, me.head, chunk, output, w, q, k, p, factors, me.bringers);
        }
        commit_copies();
    };
    float state[OWN / 8][4];
    me.load(sizes, state, initial);
    if constexpr (SPLIT > 1) {
        if (goes_on) me.template show<T>(of_state, state);
    }
    for (int chunk = 0; chunk < STAGES - 1; ++chunk) bring(chunk);
    for (int chunk = 0; chunk < chunks; ++chunk) {
        const long long number = static_cast<long long>(me.head) * chunks + chunk;
        const long long token = sizes.token(me.head, chunk);
        const int rows = sizes.rows(chunk);
        const Stage<KEYS> at(base, STAGE, chunk);
        const float* betas = reinterpret_cast<const float*>(memory + (at.numbers - base));
        const float *since = betas + ROWS, *late = since + ROWS;
        if (states && goes_on) me.keep(sizes, state, states + number * sizes.tiles() * BLOCK * KEYS);
        uint4 solved[TOKENS / 16];
        if (goes_on && me.column < values) {
            const uint4* from = u + (number * sizes.tiles() + me.column / BLOCK) * 4 * 32 + lane;
#pragma unroll
            for (int i = 0; i < TOKENS / 16; ++i) solved[i] = from[32 * (me.token / 16 + i)];
        }
        wait_for_copies<STAGES - 2>();
        __syncthreads();
        bring(chunk + STAGES - 1);

        if (SPLIT > 1 && me.brings) continue;
        unsigned h[FACTORS][4], n[4][4], late_n[4][4];
        if constexpr (SPLIT > 1) me.see(of_state, h);
        else me.template take<T>(state, h);
        if (goes_on) {
            float sums[TOKENS / 8][4] = {}, lates[TOKENS / 8][4];
#pragma unroll
            for (int step = 0; step < FACTORS; ++step) {
                add_by_rows<T, KEYS>(sums, h[step], at.w, me.token, 16 * step);
            }
#pragma unroll
            for (int i = 0; i < TOKENS / 8; ++i) {
                const unsigned* two = reinterpret_cast<const unsigned*>(solved + i / 2) + i % 2 * 2;
                for (int half = 0; half < 2; ++half) {
                    const float2 whole = unpack<T>(two[half]);
                    sums[i][2 * half] = whole.x - sums[i][2 * half];
                    sums[i][2 * half + 1] = whole.y - sums[i][2 * half + 1];
                }
            }
            if (errors) {
                store_rows(errors + token * values, sums, me.token, rows, me.column, values);
            }
#pragma unroll
            for (int i = 0; i < TOKENS / 8; ++i) {
                for (int c = 0; c < 4; ++c) {
                    const int row = me.token + 8 * i + 2 * quad + c % 2;
                    sums[i][c] *= betas[row];
                    lates[i][c] = sums[i][c] * late[row];
                }
            }
            if constexpr (SPLIT > 1) {
                me.template show<T>(of_writes, sums);
                me.template show<T>(of_late, lates);
            } else {
                me.template take<T>(sums, n);
                me.template take<T>(lates, late_n);
            }
        }
        float read[TOKENS / 8][4] = {};
        if (reads_out) {
#pragma unroll
            for (int step = 0; step < FACTORS; ++step) {
                add_by_rows<T, KEYS>(read, h[step], at.queries, me.token, 16 * step);
            }
#pragma unroll
            for (int i = 0; i < TOKENS / 8; ++i) {
                for (int c = 0; c < 4; ++c) {
                    read[i][c] *= scale * since[me.token + 8 * i + 2 * quad + c % 2];
                }
            }
        }
        if constexpr (SPLIT > 1) {
            me.meet();
            me.see(of_writes, n);
            me.see(of_late, late_n);
        }
        if (goes_on) {
            me.each(state, [&](float& value, int, int) { value *= since[ROWS - 1]; });
#pragma unroll
            for (int step = 0; step < 4; ++step) {
                add_by_columns<T, KEYS>(state, late_n[step], at.keys, 16 * step, me.key);
            }
            if constexpr (SPLIT > 1) me.template show<T>(of_state, state);
        }
        if (reads_out) {
#pragma unroll
            for (int i = 0; i < TOKENS / 16; ++i) {
                const int row = me.token + 16 * i;
                auto& two = reinterpret_cast<float(&)[2][4]>(read[2 * i]);
#pragma unroll
                for (int step = 0; step < 4; ++step) {  // reads are lower triangular
                    if (16 * step <= row) {
                        add_by_rows<T, ROWS>(two, n[step], at.reads, row, 16 * step);
                    }
                }
            }
            store_rows(output + token * values, read, me.token, rows, me.column, values);
        }
    }
    if (goes_on && end) me.store(sizes, state, end);
}

// For each chunk, the last first, with G the cotangent of the state at its end, whose transpose goes
// to `ends`: dN = K G + Pᵀ g, which goes to `of_writes`; G ← G + scale Qᵀ g - Wᵀ B dN.
template <typename T, int KEYS, int SPLIT>
__global__ void __launch_bounds__(WALKERS<SPLIT>) walk_backwards(
    int chunks, int first, int length, int width, int values, float scale, const T* w, const T* p,
    const T* q, const T* k, const float* factors, const T* of_output, const float* of_end,
    T* of_writes, T* ends, float* of_initial
) {
    const Sizes sizes = {chunks, first, length, width, values};
    const Walker<KEYS, SPLIT> me(sizes);
    const bool goes_on = me.goes_on;
    constexpr int OWN = me.OWN, TOKENS = me.TOKENS, FACTORS = me.FACTORS;
    constexpr int WIDE = SPLIT > 1 ? 64 : 128;  // room for the columns of a block
    constexpr int STAGE =
        3 * Stage<KEYS>::TILE + Stage<KEYS>::SQUARE + 3 * ROWS * 4 + 2 * ROWS * WIDE;
    extern __shared__ __align__(128) unsigned char memory[];
    const unsigned base = __cvta_generic_to_shared(memory);
    const int lane = threadIdx.x % 32, quad = lane % 4;
    uint4* of_state = reinterpret_cast<uint4*>(memory + STAGES * STAGE);
    of_state += me.team * (FACTORS + 4) * 32;
    uint4* of_errors = of_state + FACTORS * 32;

    const int strip = me.column - me.team * BLOCK;
    const int wide = min(values - strip, me.teams * BLOCK);
    const auto bring = [&](int chunk) {
        if (me.brings && chunk >= 0) {
            const Stage<KEYS> to(base, STAGE, chunk);
            const long long from = sizes.token(me.head, chunk) * values + strip;
            const int rows = sizes.rows(chunk);
            to.template bring<T>(sizes, me.head, chunk, true, w, q, k, p, factors, me.bringers);
            fetch<ROWS, WIDE>(to.more, of_output + from, values, rows, wide, me.bringers);
        }
        commit_copies();
    };
    float state[OWN / 8][4];
    me.load(sizes, state, of_end);
    if constexpr (SPLIT > 1) {
        if (goes_on) me.template show<T>(of_state, state);
    }
    for (int before = 1; before < STAGES; ++before) bring(chunks - before);
    for (int chunk = chunks - 1; chunk >= 0; --chunk) {
        const long long number = static_cast<long long>(me.head) * chunks + chunk;
        const long long token = sizes.token(me.head, chunk);
        const Stage<KEYS> at(base, STAGE, chunk);
        const float* betas = reinterpret_cast<const float*>(memory + (at.numbers - base));
        const float *since = betas + ROWS, *late = since + ROWS;
        if (goes_on) me.keep(sizes, state, ends + number * sizes.tiles() * BLOCK * KEYS);
        wait_for_copies<STAGES - 2>();
        __syncthreads();
        bring(chunk - STAGES + 1);

        if (SPLIT > 1 && me.brings) continue;
        unsigned cotangents[4][4], e[4][4];
        if (goes_on) {
#pragma unroll
            for (int step = 0; step < 4; ++step) {
                left_transposed<WIDE>(cotangents[step], at.more, 16 * step, me.team * BLOCK);
            }
            float sums[TOKENS / 8][4] = {};
            unsigned g[FACTORS][4];
            if constexpr (SPLIT > 1) me.see(of_state, g);
            else me.template take<T>(state, g);
#pragma unroll
            for (int step = 0; step < FACTORS; ++step) {
                add_by_rows<T, KEYS>(sums, g[step], at.keys, me.token, 16 * step);
            }
#pragma unroll
            for (int i = 0; i < TOKENS / 8; ++i) {
                for (int c = 0; c < 4; ++c) {
                    sums[i][c] *= late[me.token + 8 * i + 2 * quad + c % 2];
                }
            }
#pragma unroll
            for (int i = 0; i < TOKENS / 16; ++i) {
                const int column = me.token + 16 * i;
                auto& two = reinterpret_cast<float(&)[2][4]>(sums[2 * i]);
#pragma unroll
                for (int step = 0; step < 4; ++step) {
                    if (16 * step >= column) {
                        add_by_columns<T, ROWS>(two, cotangents[step], at.reads, 16 * step, column);
                    }
                }
            }
            store_rows(
                of_writes + token * values, sums, me.token, sizes.rows(chunk), me.column, values
            );
#pragma unroll
            for (int i = 0; i < TOKENS / 8; ++i) {
                for (int c = 0; c < 4; ++c) {
                    sums[i][c] *= -betas[me.token + 8 * i + 2 * quad + c % 2];
                }
            }
            if constexpr (SPLIT > 1) me.template show<T>(of_errors, sums);
            else me.template take<T>(sums, e);
        }
        if constexpr (SPLIT > 1) {
            me.meet();
            me.see(of_errors, e);
        }
        if (goes_on) {
            me.each(state, [&](float& value, int, int) { value *= since[ROWS - 1]; });
#pragma unroll
            for (int step = 0; step < 4; ++step) {
                add_by_columns<T, KEYS>(state, e[step], at.w, 16 * step, me.key);
                for (int part = 0; part < 4; ++part) {
                    const int row = 16 * step + part / 2 * 8 + 2 * quad;
                    const float2 two = unpack<T>(cotangents[step][part]);
                    cotangents[step][part] =
                        pack<T>(scale * since[row] * two.x, scale * since[row + 1] * two.y);
                }
                add_by_columns<T, KEYS>(state, cotangents[step], at.queries, 16 * step, me.key);
            }
            if constexpr (SPLIT > 1) me.template show<T>(of_state, state);
        }
    }
    if (goes_on) me.store(sizes, state, of_initial);
}

// Gradients of a chunk's rows, with the states at hand: a block for each chunk of each head, warps
// 0-3 for those of queries, 4-7 for those of keys, 16 rows each. With D = B (dN - Xᵀ B dN):
//     dv = D;   dbeta = rows of (dN - Xᵀ B dN) · E;   dq = scale g Hᵀ + S K, S = scale tril(g Nᵀ)
//     dk = Sᵀ Q + N Gᵀ + (M + Mᵀ) K - D Hᵀ, M = -tril(D Nᵀ, -1)
// A gate's gradient follows from those of q and k: exp of gates stands beside them only.
template <typename T, int KEYS>
__global__ void __launch_bounds__(256) gradients(
    int chunks, int first, int length, int width, int values, float scale, int wide, const T* q,
    const T* k, const T* x, const void* beta, const void* gates, const T* of_output,
    const T* errors, const T* of_writes, const T* states, const T* ends, T* of_q, T* of_k, T* of_v,
    void* of_beta, void* of_gates
) {
    const Sizes sizes = {chunks, first, length, width, values};
    extern __shared__ __align__(128) unsigned char memory[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, upper = lane / 4, quad = lane % 4;
    const int row = warp % 4 * 16, head = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
    const int rows = sizes.rows(chunk);
    const bool is_of_queries = warp < 4;
    const long long number = blockIdx.x, token = sizes.token(head, chunk);

    constexpr int KEY_TILE = 2 * ROWS * KEYS, SQUARE = 2 * ROWS * ROWS;
    constexpr int PART = 2 * KEY_TILE + 3 * SQUARE;  // 64 columns of the values and states
    const unsigned base = __cvta_generic_to_shared(memory);
    const unsigned keys = base, queries = keys + KEY_TILE, solves = queries + KEY_TILE;
    const unsigned of_reads = solves + SQUARE, of_scores = of_reads + SQUARE;
    const unsigned parts = of_scores + SQUARE;
    float* betas = reinterpret_cast<float*>(memory + (parts - base) + 2 * PART);
    float *each = betas + ROWS, *dots = each + ROWS, *inner = dots + 2 * ROWS;
    double* sums_of_gates = reinterpret_cast<double*>(inner + 8);
    float* shared_sums = reinterpret_cast<float*>(memory + (parts - base));  // when these are done

    const auto bring = [&](int begin) {
        const unsigned to = parts + begin / ROWS % 2 * PART;
        const long long at = token * values + begin;
        const long long state = (number * sizes.tiles() * BLOCK + begin) * KEYS;
        const int some = values - begin, all = sizes.tiles() * BLOCK - begin;
        fetch<ROWS, ROWS>(to, of_output + at, values, rows, some);
        fetch<ROWS, ROWS>(to + SQUARE, errors + at, values, rows, some);
        fetch<ROWS, ROWS>(to + 2 * SQUARE, of_writes + at, values, rows, some);
        fetch<ROWS, KEYS>(to + 3 * SQUARE, states + state, KEYS, all, KEYS);
        fetch<ROWS, KEYS>(to + 3 * SQUARE + KEY_TILE, ends + state, KEYS, all, KEYS);
        commit_copies();
    };
    fetch<ROWS, KEYS>(keys, k + token * width, width, rows, width);
    fetch<ROWS, KEYS>(queries, q + token * width, width, rows, width);
    fetch<ROWS, ROWS>(solves, x + number * ROWS * ROWS, ROWS, ROWS, ROWS);
    bring(0);
    if (ROWS < values) bring(ROWS);
    const bool is_token = threadIdx.x < rows;
    if (threadIdx.x < ROWS) {
        betas[threadIdx.x] =
            is_token ? value_at<T>(beta, token + threadIdx.x, wide & WIDE_BETA) : 0;
    }
    Decays decays = {nullptr};
    if (gates) {
        const float gate =
            is_token ? value_at<T>(gates, token + threadIdx.x, wide & WIDE_GATES) : 0;
        decays = Decays::of(gate, each, sums_of_gates);
    }
    __syncthreads();

    float from_state[KEYS / 8][4] = {};  // of queries: g Hᵀ, of keys: D Hᵀ
    float from_end[KEYS / 8][4] = {};    // of queries: E Gᵀ, a part of the gradient of keys
    float squares[8][4] = {};            // g Eᵀ and D Eᵀ
    float for_beta[2] = {};
    float product = 0;  // of H and G
    for (int begin = 0; begin < values; begin += ROWS) {
        if (begin + ROWS < values) wait_for_copies<1>();
        else wait_for_copies<0>();
        __syncthreads();
        const unsigned of_outputs = parts + begin / ROWS % 2 * PART, these = of_outputs + SQUARE;
        const unsigned of_these = these + SQUARE, start = of_these + SQUARE, end = start + KEY_TILE;
        if (begin == 0) {  // rows of X times beta
            for (int e = threadIdx.x; e < ROWS * ROWS / 2; e += blockDim.x) {
                unsigned* both = reinterpret_cast<unsigned*>(memory + (solves - base)) + e;
                const float2 two = unpack<T>(*both);
                const float factor = betas[e / (ROWS / 2)];
                *both = pack<T>(factor * two.x, factor * two.y);
            }
            __syncthreads();
        }
        if (is_of_queries) {
#pragma unroll
            for (int step = 0; step < ROWS; step += 16) {
                unsigned a[4];
                left_factor<ROWS>(a, of_outputs, row, step);
                add_by_rows<T, ROWS>(squares, a, these, 0, step);
                add_by_columns<T, KEYS>(from_state, a, start, step, 0);
                left_factor<ROWS>(a, these, row, step);
                add_by_columns<T, KEYS>(from_end, a, end, step, 0);
            }
        } else {
            float solved[8][4] = {};
#pragma unroll
            for (int step = 0; step < ROWS; step += 16) {
                unsigned a[4];
                left_transposed<ROWS>(a, solves, step, row);
                add_by_columns<T, ROWS>(solved, a, of_these, step, 0);
            }
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                for (int half = 0; half < 2; ++half) {
                    const int j = row + upper + 8 * half, column = 8 * i + 2 * quad;
                    const auto at = [&](unsigned tile) {
                        return unpack<T>(*reinterpret_cast<unsigned*>(
                            memory + (place<ROWS>(tile, j, column) - base)
                        ));
                    };
                    const float2 whole = at(of_these), error = at(these);
                    float* two = solved[i] + 2 * half;
                    two[0] = whole.x - two[0];
                    two[1] = whole.y - two[1];
                    for_beta[half] += two[0] * error.x + two[1] * error.y;
                    two[0] *= betas[j];
                    two[1] *= betas[j];
                    if (j < rows && begin + column < values) {
                        *reinterpret_cast<unsigned*>(of_v + (token + j) * values + begin + column) =
                            pack<T>(two[0], two[1]);
                    }
                }
            }
#pragma unroll
            for (int step = 0; step < 4; ++step) {
                unsigned a[4];
                as_left<T>(a, solved[2 * step], solved[2 * step + 1]);
                add_by_rows<T, ROWS>(squares, a, these, 0, 16 * step);
                add_by_columns<T, KEYS>(from_state, a, start, 16 * step, 0);
            }
        }
        if (gates) {
            for (int e = threadIdx.x; e < ROWS * KEYS / 2; e += blockDim.x) {
                const float2 h = unpack<T>(
                    *(reinterpret_cast<unsigned*>(memory + (start - base)) + e)
                );
                const float2 g = unpack<T>(
                    *(reinterpret_cast<unsigned*>(memory + (end - base)) + e)
                );
                product += h.x * g.x + h.y * g.y;
            }
        }
        if (begin + 2 * ROWS < values) {
            __syncthreads();
            bring(begin + 2 * ROWS);
        }
    }

    // What was read, and scores, with decays and what makes N of E.
    const unsigned square = is_of_queries ? of_reads : of_scores;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        for (int half = 0; half < 2; ++half) {
            const int later = row + upper + 8 * half, earlier = 8 * i + 2 * quad;
            float two[2];
            for (int c = 0; c < 2; ++c) {
                const int j = earlier + c;
                const bool is_kept = is_of_queries ? later >= j : later > j;
                const float factor = (is_of_queries ? scale : -1) * betas[j];
                two[c] = is_kept ? factor * decays.between(later, j) * squares[i][2 * half + c] : 0;
            }
            *reinterpret_cast<unsigned*>(memory + (place<ROWS>(square, later, earlier) - base)) =
                pack<T>(two[0], two[1]);
        }
    }
    float since[2], late[2];
    for (int half = 0; half < 2; ++half) {
        const int j = row + upper + 8 * half;
        since[half] = decays.since(j);
        late[half] = decays.between(ROWS - 1, j) * betas[j];
    }
#pragma unroll
    for (int i = 0; i < KEYS / 8; ++i) {
        for (int c = 0; c < 4; ++c) {
            from_state[i][c] *= (is_of_queries ? scale : -1) * since[c / 2];
            from_end[i][c] *= late[c / 2];
        }
    }
    __syncthreads();

    // Products of rows with those of a tile, as far as this lane has them.
    const auto dot = [&](const float (&sums)[KEYS / 8][4], unsigned tile, float (&found)[2]) {
        for (int half = 0; half < 2; ++half) {
            found[half] = 0;
            for (int i = 0; i < KEYS / 8; ++i) {
                const float2 two = unpack<T>(*reinterpret_cast<unsigned*>(
                    memory + (place<KEYS>(tile, row + upper + 8 * half, 8 * i + 2 * quad) - base)
                ));
                found[half] += two.x * sums[i][2 * half] + two.y * sums[i][2 * half + 1];
            }
        }
    };
    float of_row[2] = {}, found[2];
#pragma unroll
    for (int step = 0; step < 4; ++step) {
        unsigned a[4];
        left_factor<ROWS>(a, square, row, 16 * step);
        add_by_columns<T, KEYS>(from_state, a, keys, 16 * step, 0);
    }
    if (is_of_queries) {
        if (gates) {
            dot(from_end, keys, found);
            product = decays.since(ROWS - 1) * product + found[0] + found[1];
        }
#pragma unroll
        for (int step = 0; step < 4; ++step) {
            unsigned a[4];
            left_transposed<ROWS>(a, of_reads, 16 * step, row);
            add_by_columns<T, KEYS>(from_end, a, queries, 16 * step, 0);
        }
        if (gates) {
            dot(from_end, keys, found);
            for (int half = 0; half < 2; ++half) of_row[half] -= found[half];
            dot(from_state, queries, found);
            for (int half = 0; half < 2; ++half) of_row[half] += found[half];
        }
#pragma unroll
        for (int i = 0; i < KEYS / 8; ++i) {
            for (int c = 0; c < 4; ++c) {
                const int d = 8 * i + 2 * quad + c % 2;
                shared_sums[(row + upper + c / 2 * 8) * (KEYS + 8) + d] = from_end[i][c];
            }
        }
    } else {
        if (gates) {
            product *= decays.since(ROWS - 1);
            dot(from_state, keys, found);
            for (int half = 0; half < 2; ++half) of_row[half] += 2 * found[half];
        }
#pragma unroll
        for (int step = 0; step < 4; ++step) {
            unsigned a[4];
            left_transposed<ROWS>(a, of_scores, 16 * step, row);
            add_by_columns<T, KEYS>(from_state, a, keys, 16 * step, 0);
        }
        if (gates) {
            dot(from_state, keys, found);
            for (int half = 0; half < 2; ++half) of_row[half] -= found[half];
        }
        for (int half = 0; half < 2; ++half) {
            float sum = for_beta[half];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            const int j = row + upper + 8 * half;
            if (quad == 0 && j < rows) put_value<T>(of_beta, token + j, sum, wide & WIDE_BETA);
        }
    }
    if (gates) {
        for (int half = 0; half < 2; ++half) {
            float sum = of_row[half];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            if (quad == 0) dots[is_of_queries * ROWS + row + upper + 8 * half] = sum;
        }
        for (int step = 16; step; step /= 2) product += __shfl_xor_sync(0xffffffffu, product, step);
        if (lane == 0) inner[warp] = product;
    }
    __syncthreads();
    if (gates && threadIdx.x < rows) {
        float sum = 0;
        for (int w = 0; w < 8; ++w) sum += inner[w];
        for (int j = ROWS - 1; j >= static_cast<int>(threadIdx.x); --j) sum += dots[j] + dots[ROWS + j];
        put_value<T>(of_gates, token + threadIdx.x, sum, wide & WIDE_GATES);
    }
    T* to = is_of_queries ? of_q : of_k;
#pragma unroll
    for (int i = 0; i < KEYS / 8; ++i) {
        for (int half = 0; half < 2; ++half) {
            const int j = row + upper + 8 * half, d = 8 * i + 2 * quad;
            float* two = from_state[i] + 2 * half;
            if (!is_of_queries) {
                two[0] += shared_sums[j * (KEYS + 8) + d];
                two[1] += shared_sums[j * (KEYS + 8) + d + 1];
            }
            if (j < rows && d < width) {
                *reinterpret_cast<unsigned*>(to + (token + j) * width + d) =
                    pack<T>(two[0], two[1]);
            }
        }
    }
}

}  // namespace linalgkit
