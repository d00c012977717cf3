// The delta rule of half precision: the walks from chunk to chunk, see _halves.cuh.
//
// A walk keeps Hᵀ in registers, 16 columns of the state in a warp (or in SPLIT warps, where there are
// few): products of Hᵀ from the left need no exchange between warps. For each chunk
//     E = U - W H;   N = B E;   O = scale Q H + P N;   H ← Kᵀ N
// where decays multiply rows (`factors`: from the chunk's start, and to its end). Bound by shared
// memory and by the way from one chunk to the next.
#include "_halves.cuh"

namespace linalgkit {

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

    // Wait for those who go on and read out, but not for the others: 10 % of a walk with few heads.
    // A race checker that knows no barriers of parts of a block reports what follows; with
    // __syncthreads here, by those who bring too, it reports nothing.
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

}  // namespace linalgkit
