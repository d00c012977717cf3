// Tensor cores on float16 and bfloat16: products of 16 × 16 with 16 × 8 numbers, sums in float32.
//
// Lane l of a warp holds of sums (16, 8) rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next;
// so sums of two neighbours are, rounded, the left factor of another product. Tiles in shared memory
// have rows of WIDTH numbers (64 or 128) whose eights are exchanged, so that eight rows of a column
// of eights lie in different banks.
#pragma once

namespace linalgkit {

struct Half {
    unsigned short bits;
};
struct Bfloat {
    unsigned short bits;
};

template <typename T>
__device__ unsigned pack(float first, float second);
template <>
__device__ unsigned pack<Half>(float first, float second) {
    unsigned both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
}
template <>
__device__ unsigned pack<Bfloat>(float first, float second) {
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
}

template <typename T>
__device__ T rounded(float value) {
    return {static_cast<unsigned short>(pack<T>(value, 0))};
}

template <typename T>
__device__ float2 unpack(unsigned both);
template <>
__device__ float2 unpack<Half>(unsigned both) {
    float2 two;
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
        : "=f"(two.x), "=f"(two.y)
        : "r"(both));
    return two;
}
template <>
__device__ float2 unpack<Bfloat>(unsigned both) {
    return {__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u)};
}

// sum += A B
template <typename T>
__device__ void tensor_core(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);
template <>
__device__ void tensor_core<Half>(
    float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1
) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ void tensor_core<Bfloat>(
    float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1
) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Address in a tile.
template <int WIDTH>
__device__ unsigned place(unsigned tile, int row, int column) {
    return tile + 2 * (row * WIDTH + (((column >> 3) ^ (row & 7)) << 3) + (column & 7));
}

__device__ inline void load_fours(unsigned (&to)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}
__device__ inline void load_turned(unsigned (&to)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}

// A left factor: the 16 rows and columns of a tile from here; or the transpose of these.
template <int WIDTH>
__device__ void left_factor(unsigned (&a)[4], unsigned tile, int row, int column) {
    const int lane = threadIdx.x % 32;
    load_fours(a, place<WIDTH>(tile, row + lane % 16, column + lane / 16 * 8));
}
template <int WIDTH>
__device__ void left_transposed(unsigned (&a)[4], unsigned tile, int row, int column) {
    const int lane = threadIdx.x % 32;
    load_turned(
        a, place<WIDTH>(tile, row + lane / 16 * 8 + lane % 8, column + lane / 8 % 2 * 8)
    );
}

// sums (16, 8 COUNT) += A B. The tile holds B's transpose, rows from `row`, 16 columns of it...
template <typename T, int WIDTH, int COUNT>
__device__ void add_by_rows(
    float (&sums)[COUNT][4], const unsigned (&a)[4], unsigned tile, int row, int column
) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < COUNT; i += 2) {
        unsigned b[4];
        load_fours(b, place<WIDTH>(
            tile, row + 8 * i + lane / 16 * 8 + lane % 8, column + lane / 8 % 2 * 8
        ));
        tensor_core<T>(sums[i], a, b[0], b[1]);
        tensor_core<T>(sums[i + 1], a, b[2], b[3]);
    }
}
// ...or B as it is, 16 rows of it, columns from `column`.
template <typename T, int WIDTH, int COUNT>
__device__ void add_by_columns(
    float (&sums)[COUNT][4], const unsigned (&a)[4], unsigned tile, int row, int column
) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < COUNT; i += 2) {
        unsigned b[4];
        load_turned(b, place<WIDTH>(tile, row + lane % 16, column + 8 * i + lane / 16 * 8));
        tensor_core<T>(sums[i], a, b[0], b[1]);
        tensor_core<T>(sums[i + 1], a, b[2], b[3]);
    }
}

// Sums of two neighbours as a left factor.
template <typename T>
__device__ void as_left(unsigned (&a)[4], const float (&first)[4], const float (&second)[4]) {
    a[0] = pack<T>(first[0], first[1]);
    a[1] = pack<T>(first[2], first[3]);
    a[2] = pack<T>(second[0], second[1]);
    a[3] = pack<T>(second[2], second[3]);
}

// The transpose of 8 × 8 numbers, two of a row in each lane.
__device__ inline unsigned turned(unsigned both) {
    unsigned result;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(both));
    return result;
}

// Copy 16 bytes to shared memory without waiting, or zeros where nothing is there.
__device__ inline void copy_16(unsigned to, const void* from, bool is_there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(is_there ? 16 : 0)
                 : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT>
__device__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

// Threads of a block that do something together.
struct Group {
    int thread, threads;

    static __device__ Group whole() {
        return {static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)};
    }
};

// Bring a matrix to a tile of HEIGHT rows, zeros where it has none; rows are `across` numbers apart.
template <int HEIGHT, int WIDTH, typename T>
__device__ void fetch(
    unsigned tile, const T* from, int across, int rows, int columns, Group group = Group::whole()
) {
    for (int e = group.thread; e < HEIGHT * WIDTH / 8; e += group.threads) {
        const int row = e / (WIDTH / 8), column = e % (WIDTH / 8) * 8;
        const bool is_there = row < rows && column < columns;
        const T* source = is_there ? from + static_cast<long long>(row) * across + column : from;
        copy_16(place<WIDTH>(tile, row, column), source, is_there);
    }
}

}  // namespace linalgkit
