// Products of Monarch factors with the rows of a matrix, by tensor cores.
//
// What a lane loads by 16 bytes is what the tensor core wants of it, as soon as the terms of a sum
// are counted in the order of these loads: so factors and rows go from global memory into registers
// without a detour. Two ways:
// both_factors: u = R x of a few rows stays in shared memory, both factors stream from the L2 cache.
//     x is read and y written once; bound by the reading of the factors, once for each block.
// right_blocks, left_blocks: u goes through global memory in tiles of TILE rows of x,
//     [tile][entry][row of x]; bound by memory. For vectors that are too long for shared memory,
//     for float32, and for few rows, which both_factors would leave to few processors.
// In all of them y is turned back to rows in shared memory, where L wrote its sums over the entries
// of u that it had read.

namespace linalgkit {

struct Half {
    unsigned short bits;
};

template <typename T>
constexpr int CHUNK = 16 / sizeof(T);  // numbers that a lane loads at once
template <typename T>
constexpr int STEP = 4 * CHUNK<T>;  // of a sum, that the four lanes of a row load at once
template <typename T>
constexpr int TILE = 64 / sizeof(T);  // rows of x for a warp
template <typename T>
constexpr int PARTS = TILE<T> / 8;  // tensor-core columns in a tile
template <typename T>
constexpr int GROUP = 32 / sizeof(T);  // blocks of L whose entries are neighbours in y, for a block

// Blocks that a processor should hold of a kernel, where the registers suffice; and how many 16 rows
// of a factor a warp loads at a time.
template <typename T, int STEPS, int BLOCKS>
constexpr int RESIDENT = STEPS * PARTS<T> > 8 ? 1 : BLOCKS;
template <int STEPS>
constexpr int AHEAD = STEPS > 2 ? 1 : 4 / STEPS;

__device__ void tensor_core(float (&sum)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                            unsigned b0, unsigned b1, Half) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ void tensor_core(float (&sum)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                            unsigned b0, unsigned b1, float) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Four numbers as the sum of two with 11 bits each, which is what the tensor core multiplies.
struct Split {
    uint4 high, low;

    __device__ explicit Split(uint4 x)
        : high{round(x.x), round(x.y), round(x.z), round(x.w)},
          low{rest(x.x, high.x), rest(x.y, high.y), rest(x.z, high.z), rest(x.w, high.w)} {}

    static __device__ unsigned round(unsigned x) { return (x + 0x1000u) & 0xffffe000u; }
    static __device__ unsigned rest(unsigned x, unsigned high) {
        return __float_as_uint(__uint_as_float(x) - __uint_as_float(high));
    }
};

template <typename T>
__device__ void two_steps(float (&sum)[4], uint4 upper, uint4 lower, uint4 column) {
    tensor_core(sum, upper.x, lower.x, upper.y, lower.y, column.x, column.y, T());
    tensor_core(sum, upper.z, lower.z, upper.w, lower.w, column.z, column.w, T());
}

// Add STEP products to 16 rows (lane / 4, and 8 below) of COUNT parts.
template <typename T, int COUNT>
__device__ void add_products(float (&sums)[COUNT][4], uint4 upper, uint4 lower,
                             const uint4 (&columns)[COUNT]) {
    if constexpr (sizeof(T) == 2) {
        for (int part = 0; part < COUNT; ++part)
            two_steps<T>(sums[part], upper, lower, columns[part]);
    } else {
        const Split above(upper), below(lower);
        for (int part = 0; part < COUNT; ++part) {
            const Split column(columns[part]);
            two_steps<T>(sums[part], above.low, below.low, column.high);
            two_steps<T>(sums[part], above.high, below.high, column.low);
            two_steps<T>(sums[part], above.high, below.high, column.high);
        }
    }
}

__device__ unsigned two_halves(float first, float second) {
    unsigned both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
}

template <typename T>
__device__ void put_two(void* to, float first, float second) {
    if constexpr (sizeof(T) == 2) {
        *static_cast<unsigned*>(to) = two_halves(first, second);
    } else {
        *static_cast<float2*>(to) = {first, second};
    }
}

__device__ uint4 load(const void* from) { return __ldg(static_cast<const uint4*>(from)); }

// R x for 4 * TILE rows of x (`blockIdx.y`) and one block of R: a warp has a tile.
template <typename T, int STEPS>
__global__ void __launch_bounds__(128, (RESIDENT<T, STEPS, 4>))
    right_blocks(const T* x, const T* right, T* u, int rows, int k, int q) {
    constexpr int p = STEPS * STEP<T>;
    const int lane = threadIdx.x % 32, upper = lane / 4, quad = lane % 4;
    const long long tile = 4ll * blockIdx.y + threadIdx.x / 32;
    const int block = blockIdx.x;
    if (tile * TILE<T> >= rows) return;

    uint4 columns[STEPS][PARTS<T>];
    for (int part = 0; part < PARTS<T>; ++part) {
        const long long row = tile * TILE<T> + CHUNK<T> * (upper / 2) + 2 * part + upper % 2;
        const T* from = x + (min(row, rows - 1ll) * k + block) * p + CHUNK<T> * quad;
#pragma unroll
        for (int step = 0; step < STEPS; ++step) columns[step][part] = load(from + step * STEP<T>);
    }
    const T* weights = right + (static_cast<long long>(block) * q + upper) * p + CHUNK<T> * quad;
    T* out = u + ((tile * k + block) * q + upper) * TILE<T> + CHUNK<T> * quad;
#pragma unroll(AHEAD<STEPS>)
    for (int first = 0; first < q; first += 16) {
        float sums[PARTS<T>][4] = {};
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            const T* from = weights + first * p + step * STEP<T>;
            add_products<T>(sums, load(from), load(from + 8 * p), columns[step]);
        }
        for (int half = 0; half < 2; ++half) {
            uint4 packed;
            if constexpr (sizeof(T) == 2) {
                packed = {two_halves(sums[0][2 * half], sums[0][2 * half + 1]),
                          two_halves(sums[1][2 * half], sums[1][2 * half + 1]),
                          two_halves(sums[2][2 * half], sums[2][2 * half + 1]),
                          two_halves(sums[3][2 * half], sums[3][2 * half + 1])};
            } else {
                packed = {__float_as_uint(sums[0][2 * half]), __float_as_uint(sums[0][2 * half + 1]),
                          __float_as_uint(sums[1][2 * half]), __float_as_uint(sums[1][2 * half + 1])};
            }
            *reinterpret_cast<uint4*>(out + (first + 8 * half) * TILE<T>) = packed;
        }
    }
}

// Where the entries that have the same rho (or sigma) begin in shared memory: shifted against each
// other so that the eight rows of a load lie in different banks. `width` is what they take.
template <typename T>
__device__ int begin_of(int rho, int width) {
    return rho * (width + 8 * static_cast<int>(sizeof(T))) + rho / CHUNK<T> * 32;
}

// CHUNK entries of one row of x: entries CHUNK * (lane % 4) and on, row lane / 4. `where` tells the
// shared address of an entry's eight rows.
template <typename T, typename Where>
__device__ uint4 turned(Where where) {
    const int lane = threadIdx.x % 32;
    uint4 chunk;
    if constexpr (sizeof(T) == 2) {
        const int entry = 8 * (lane % 8 / 2) + 2 * (lane / 8) + lane % 2;
        const unsigned address = __cvta_generic_to_shared(where(entry));
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(chunk.x), "=r"(chunk.y), "=r"(chunk.z), "=r"(chunk.w)
                     : "r"(address)
                     : "memory");
    } else {
        const int entry = 4 * (lane % 4), row = lane / 4;
        auto at = [&](int i) { return reinterpret_cast<unsigned*>(where(entry + i))[row]; };
        chunk = {at(0), at(1), at(2), at(3)};
    }
    return chunk;
}

// One block of L, by a warp: its sums replace the entries of u. `weights` begins at row lane / 4.
template <typename T, int STEPS, int COUNT>
__device__ void replace_by_sums(char* mine, int width, const T* weights, int s) {
    constexpr int r = STEPS * STEP<T>;
    const int lane = threadIdx.x % 32, upper = lane / 4, quad = lane % 4;
    uint4 columns[STEPS][COUNT];
#pragma unroll
    for (int step = 0; step < STEPS; ++step)
        for (int part = 0; part < COUNT; ++part)
            columns[step][part] = turned<T>([&](int entry) {
                return mine + begin_of<T>(step * STEP<T> + entry, width) + part * 8 * sizeof(T);
            });
    __syncwarp();
#pragma unroll(AHEAD<STEPS>)
    for (int first = 0; first < s; first += 16) {
        float sums[COUNT][4] = {};
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            const T* at = weights + first * r + step * STEP<T> + CHUNK<T> * quad;
            add_products<T>(sums, load(at), load(at + 8 * r), columns[step]);
        }
        for (int half = 0; half < 2; ++half) {
            char* to = mine + begin_of<T>(first + upper + 8 * half, width) + 2 * quad * sizeof(T);
            for (int part = 0; part < COUNT; ++part)
                put_two<T>(to + part * 8 * sizeof(T), sums[part][2 * half], sums[part][2 * half + 1]);
        }
    }
}

// A warp for each block of L where shared memory leaves room for one group only.
template <typename T, int STEPS>
constexpr int LEFT_WARPS = STEPS * STEP<T> > 64 && sizeof(T) == 2 ? 16 : 8;

// y = L u for one group of blocks of L (`blockIdx.x`) and one tile (`blockIdx.y`).
template <typename T, int STEPS>
__global__ void __launch_bounds__(32 * LEFT_WARPS<T, STEPS>, (RESIDENT<T, STEPS, 2>))
    left_blocks(const T* u, const T* left, T* y, int rows, int l, int s) {
    constexpr int r = STEPS * STEP<T>, WARPS = LEFT_WARPS<T, STEPS>, WIDTH = GROUP<T> * 64;
    extern __shared__ __align__(128) char entries[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int upper = lane / 4, quad = lane % 4;
    const int group = blockIdx.x * GROUP<T>;
    const long long tile = blockIdx.y;

    const T* from = u + (tile * r * l + group) * TILE<T>;
    for (int i = threadIdx.x; i < r * GROUP<T> * 4; i += 32 * WARPS) {
        const int rho = i / (GROUP<T> * 4), chunk = i % (GROUP<T> * 4);
        char* to = entries + begin_of<T>(rho, WIDTH) + 16 * chunk;
        const T* at = from + static_cast<long long>(rho) * l * TILE<T> + chunk * CHUNK<T>;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                         static_cast<unsigned>(__cvta_generic_to_shared(to))),
                     "l"(at)
                     : "memory");
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();

    for (int block = warp; block < GROUP<T>; block += WARPS)
        replace_by_sums<T, STEPS, PARTS<T>>(
            entries + block * 64, WIDTH,
            left + (static_cast<long long>(group + block) * s + upper) * r, s);
    __syncthreads();

    // Two neighbours in sigma of all blocks of the group at a time, which are STEP entries.
    for (int task = warp; task < s / 2 * PARTS<T>; task += WARPS) {
        const int sigma = task / PARTS<T> * 2, part = task % PARTS<T>;
        const uint4 chunk = turned<T>([&](int entry) {
            return entries + begin_of<T>(sigma + entry / GROUP<T>, WIDTH) + entry % GROUP<T> * 64 +
                   part * 8 * sizeof(T);
        });
        const long long row = tile * TILE<T> + part * 8 + upper;
        const long long entry = (sigma + quad / 2) * static_cast<long long>(l) + group;
        if (row < rows)
            *reinterpret_cast<uint4*>(y + row * l * s + entry + quad % 2 * CHUNK<T>) = chunk;
    }
}

// Where the blocks of L keep their entries of u: in each 32 such that `turned` reads neighbours.
__device__ int position(int block) {
    return block / 32 * 32 + block / 2 % 4 * 8 + block / 8 % 4 * 2 + block % 2;
}

// y = L R x for 8 * COUNT rows of x. Blocks of both factors go to the warps one by one.
template <typename T, int RIGHT_STEPS, int LEFT_STEPS, int COUNT, int WARPS>
__global__ void __launch_bounds__(32 * WARPS, WARPS == 8 ? 2 : 1)
    both_factors(const T* x, const T* right, const T* left, T* y, int rows, int k, int q, int l,
                 int s) {
    static_assert(sizeof(T) == 2, "for wider numbers L2 is too slow");
    constexpr int p = RIGHT_STEPS * STEP<T>, r = LEFT_STEPS * STEP<T>;
    constexpr int ROW = COUNT == 4 ? 80 : 48;  // bytes of an entry: eight of them hit all banks
    extern __shared__ __align__(128) char entries[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int upper = lane / 4, quad = lane % 4, width = l * ROW;
    const long long begin = 8ll * COUNT * blockIdx.x;

    for (int block = warp; block < k; block += WARPS) {
        uint4 columns[RIGHT_STEPS][COUNT];
        for (int part = 0; part < COUNT; ++part) {
            const long long row = min(begin + 8 * part + upper, rows - 1ll);
            const T* from = x + (row * k + block) * p + CHUNK<T> * quad;
#pragma unroll
            for (int step = 0; step < RIGHT_STEPS; ++step)
                columns[step][part] = load(from + step * STEP<T>);
        }
        // Rows of R in the order of their positions: 8 (upper / 2) + upper % 2, + 2, + 4, + 6.
        const int permuted = 8 * (upper / 2) + upper % 2;
        const T* weights = right + (static_cast<long long>(block) * q + permuted) * p;
#pragma unroll 2
        for (int first = 0; first < q; first += 16) {
            const int thirty_two = first / 32 * 32, pair = first % 32 / 16;
            const T* at = weights + (thirty_two + 4 * pair) * p + CHUNK<T> * quad;
            float sums[COUNT][4] = {};
#pragma unroll
            for (int step = 0; step < RIGHT_STEPS; ++step)
                add_products<T>(sums, load(at + step * STEP<T>), load(at + 2 * p + step * STEP<T>),
                                columns[step]);
            const int t = block * q + thirty_two, rho = t / l;
            char* to = entries + begin_of<T>(rho, width) + (t - rho * l + 16 * pair + upper) * ROW +
                       2 * quad * sizeof(T);
            for (int half = 0; half < 2; ++half)
                for (int part = 0; part < COUNT; ++part)
                    put_two<T>(to + 8 * half * ROW + part * 8 * sizeof(T), sums[part][2 * half],
                               sums[part][2 * half + 1]);
        }
    }
    __syncthreads();

    for (int block = warp; block < l; block += WARPS)
        replace_by_sums<T, LEFT_STEPS, COUNT>(
            entries + position(block) * ROW, width,
            left + (static_cast<long long>(block) * s + upper) * r, s);
    __syncthreads();

    for (int task = warp; task < l / 32 * s * COUNT; task += WARPS) {
        const int part = task % COUNT, entry = task / COUNT * 32;
        const int sigma = entry / l, first = entry - sigma * l;
        const uint4 chunk = turned<T>([&](int i) {
            return entries + begin_of<T>(sigma, width) + (first + position(i)) * ROW +
                   part * 8 * sizeof(T);
        });
        const long long row = begin + part * 8 + upper;
        if (row < rows)
            *reinterpret_cast<uint4*>(y + row * l * s + entry + CHUNK<T> * quad) = chunk;
    }
}

// Transposes of contiguous matrices, `apart` numbers from each other; `skipped` come before them.
template <typename T>
__global__ void __launch_bounds__(256) transpose(const T* from, T* to, long long rows,
                                                 long long columns, long long apart,
                                                 long long skipped) {
    __shared__ T tile[32][33];
    const long long across = (columns + 31) / 32, down = (rows + 31) / 32;
    const long long matrix = blockIdx.x / (across * down), place = blockIdx.x % (across * down);
    const long long row = place / across * 32, column = place % across * 32;
    const int x = threadIdx.x % 32, y = threadIdx.x / 32;
    from += matrix * rows * columns;
    to += matrix * apart + skipped;
    for (int i = y; i < 32; i += 8)
        if (row + i < rows && column + x < columns)
            tile[i][x] = from[(row + i) * columns + column + x];
    __syncthreads();
    for (int i = y; i < 32; i += 8)
        if (column + i < columns && row + x < rows) to[(column + i) * rows + row + x] = tile[x][i];
}

}  // namespace linalgkit
