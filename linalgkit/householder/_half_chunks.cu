// The delta rule of half precision: what is done for all chunks at once, see _halves.cuh. Bound by
// global memory.
#include "_halves.cuh"

namespace linalgkit {

constexpr int COLUMNS = 128;  // of the values that `prepare` takes at a time
constexpr int ACROSS = ROWS + 4;

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

// Bring the strengths of a chunk to `betas`, zeros where it has no token, and sum up its gates, of
// which there may be none. All threads call it, at least ROWS.
template <typename T>
__device__ Decays strengths_and_decays(
    const void* beta, const void* gates, int wide, long long token, int rows, float* betas,
    float* each, double* sums_of_gates
) {
    const bool is_token = threadIdx.x < rows;
    const long long place = token + threadIdx.x;
    if (threadIdx.x < ROWS) {
        betas[threadIdx.x] = is_token ? value_at<T>(beta, place, wide & WIDE_BETA) : 0;
    }
    if (!gates) return {nullptr};
    const float gate = is_token ? value_at<T>(gates, place, wide & WIDE_GATES) : 0;
    return Decays::of(gate, each, sums_of_gates);
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
    const Decays decays = strengths_and_decays<T>(
        beta, gates, wide, token, rows, betas, each, sums_of_gates
    );
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
    const Decays decays = strengths_and_decays<T>(
        beta, gates, wide, token, rows, betas, each, sums_of_gates
    );
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
