"""GPU engine of the sparse product: count the rows' entries, then compute and sort them.

Rows go by their greatest possible number of entries to one of three sizes of hash table in
shared memory, or to a dense row in global memory. Deterministic: the same bits on every run.
"""

from pathlib import Path

from .._cuda import Source
from . import _array_api
from ._csr import check_csr

# (entries at most, slots of the table, threads of the block)
_TABLES = ((32, 64, 32), (512, 1024, 128), (4096, 8192, 512))
_DENSE_THREADS = 512
_TYPES = {
    "float32": "float",
    "float64": "double",
    "complex64": "linalgkit::Complex<float>",
    "complex128": "linalgkit::Complex<double>",
}
_WORKSPACE = 1 << 30  # bytes of dense rows at most, where a row fits at all

KERNELS = Source(
    Path(__file__).with_name("_products.cu"),
    (
        "linalgkit::row_products",
        f"linalgkit::count_dense<{_DENSE_THREADS}>",
        *(f"linalgkit::count_hash<{slots}, {threads}>" for _, slots, threads in _TABLES),
        *(f"linalgkit::multiply_dense<{t}, {_DENSE_THREADS}>" for t in _TYPES.values()),
        *(
            f"linalgkit::multiply_hash<{t}, {slots}, {threads}>"
            for t in _TYPES.values()
            for _, slots, threads in _TABLES
        ),
    ),
)


def csr_matmul(
    a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, mask_indices, mask_indptr,
    *, shape, semiring, complement, prune, sort, max_memory,
):  # fmt: skip
    """Multiply two CSR triples on the GPU, in two phases."""
    import cupy as cp

    rows, columns = shape
    number = _TYPES.get(a_data.dtype.name)
    operands = a_data, a_indices, a_indptr, b_data, b_indices, b_indptr
    if number is None or columns >= 2**31 - 1 or b_indptr.size >= 2**31:
        return _array_api.csr_matmul(*operands, shape=shape, prune=prune)
    check_csr("a", *operands[:3], b_indptr.size - 1)
    check_csr("b", *operands[3:], columns)
    a = _operand(cp, *operands[:3])
    b = _operand(cp, *operands[3:])
    b, distinct = _distinct(cp, *b)

    products = cp.zeros(rows, dtype=cp.int64)
    if rows:
        grid = ((rows * 32 + 255) // 256,)
        KERNELS["linalgkit::row_products"](
            grid, (256,), (a[1], a[2], b[2], cp.int64(rows), products)
        )
    upper = cp.minimum(products, columns)
    counts = cp.zeros(rows + 1, dtype=cp.int64)
    bins, low = [], 0
    for most, slots, threads in _TABLES:
        bins.append((cp.flatnonzero((upper > low) & (upper <= most)), slots, threads))
        low = most
    long_rows = cp.flatnonzero(upper > low)
    for listed, slots, threads in bins:
        if listed.size:
            KERNELS[f"linalgkit::count_hash<{slots}, {threads}>"](
                (listed.size,),
                (threads,),
                (a[1], a[2], b[1], b[2], listed, counts[1:]),
                shared_mem=4 * slots,
            )
    words = (columns + 31) // 32
    blocks = _dense_blocks(cp, long_rows.size, columns * a_data.itemsize + words * 4)
    if long_rows.size:
        bitmaps = cp.zeros(blocks * words, dtype=cp.uint32)
        KERNELS[f"linalgkit::count_dense<{_DENSE_THREADS}>"](
            (blocks,),
            (_DENSE_THREADS,),
            (a[1], a[2], b[1], b[2], long_rows, cp.int64(long_rows.size), cp.int64(words),
             bitmaps, counts[1:]),
        )  # fmt: skip
    indptr = cp.cumsum(counts)
    size = int(indptr[-1])
    data, indices = cp.empty(size, dtype=a_data.dtype), cp.empty(size, dtype=cp.int32)
    for listed, slots, threads in bins:
        if listed.size:
            kernel = KERNELS[f"linalgkit::multiply_hash<{number}, {slots}, {threads}>"]
            shared = slots * (a_data.itemsize + 4)
            kernel.max_dynamic_shared_size_bytes = shared
            kernel(
                (listed.size,),
                (threads,),
                (*a, *b, distinct, listed, indptr, data, indices),
                shared_mem=shared,
            )
    if long_rows.size:
        dense = cp.zeros(blocks * columns, dtype=a_data.dtype)
        KERNELS[f"linalgkit::multiply_dense<{number}, {_DENSE_THREADS}>"](
            (blocks,),
            (_DENSE_THREADS,),
            (*a, *b, distinct, long_rows, cp.int64(long_rows.size), cp.int64(columns),
             cp.int64(words), dense, bitmaps, indptr, data, indices),
        )  # fmt: skip
    if prune:
        kept = data != 0
        before = cp.concatenate([cp.zeros(1, dtype=cp.int64), cp.cumsum(kept)])
        data, indices, indptr = data[kept], indices[kept], before[indptr]
    index = cp.int32 if max(rows, columns, data.size) < 2**31 else cp.int64
    return data, indices.astype(index, copy=False), indptr.astype(index)


def _operand(cp, data, indices, indptr):
    return (
        cp.ascontiguousarray(data),
        cp.ascontiguousarray(indices, dtype=cp.int32),
        cp.ascontiguousarray(indptr, dtype=cp.int64),
    )


def _distinct(cp, data, indices, indptr):
    """Return B and whether its rows are free of duplicates; sort it where that must be found."""
    if _ascends(cp, indices, indptr):
        return (data, indices, indptr), True
    row = cp.searchsorted(indptr, cp.arange(int(indptr[-1])), side="right")
    order = cp.argsort(row * (int(indices.max()) + 1) + indices[: row.size], kind="stable")
    data, indices = data[order], indices[order]
    return (data, indices, indptr), _ascends(cp, indices, indptr)


def _ascends(cp, indices, indptr):
    falls = indices[1:] <= indices[:-1]
    starts = indptr[(indptr > 0) & (indptr < indices.size)] - 1
    falls[starts] = False
    return not bool(falls.any())


def _dense_blocks(cp, rows, bytes_each):
    processors = cp.cuda.Device().attributes["MultiProcessorCount"]
    return max(1, min(rows, 2 * processors, _WORKSPACE // max(1, bytes_each)))
