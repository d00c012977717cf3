"""GPU engine of the sparse product: count the rows' entries, then compute and sort them.

Rows go by the number of columns that they may have to one of eight sizes of hash table in shared
memory, or to a dense row in global memory. Deterministic: the same bits on every run. The host
waits for four answers: are the indices valid, the rows' bins before and after the count, how many
entries. Each kernel is compiled when a product first needs it.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from .._cuda import Source
from . import _array_api
from ._csr import check_csr, check_memory
from ._semirings import SEMIRINGS, absent

# (slots of a table, threads of the team that has a row, teams of a block); a table has room for
# half as many columns, 32 at least. Bigger rows are left to as many threads as _BITMAP.
_TABLES = (
    (64, 32, 8), (128, 32, 8), (256, 32, 4), (512, 64, 1),
    (1024, 128, 1), (2048, 256, 1), (4096, 512, 1), (8192, 1024, 1),
)  # fmt: skip
_BITMAP = 1024
_BINS = 16  # as in _products.cu
_ALL, _MASKED, _COMPLEMENT, _KNOWN, _PAIRS = range(5)  # as in _products.cu
_NUMBERS = {
    "float32": "float",
    "float64": "double",
    "complex64": "linalgkit::Complex<float>",
    "complex128": "linalgkit::Complex<double>",
    "int32": "int",
    "int64": "long long",
}
_BOOL = "unsigned char"
_WORKSPACE = 1 << 30  # bytes of dense rows at most, where a row fits at all


def _counting():
    """Names of the kernels that see no values."""
    rows = ("count_products", "check_rows", "bin_rows", "list_rows", f"count_by_bitmap<{_BITMAP}>")
    tables = (f"count_by_table<{', '.join(map(str, table))}>" for table in _TABLES)
    return tuple(f"linalgkit::{name}" for name in (*rows, *tables))


def _multiplying(number, semiring):
    """Names of the kernels that multiply: by each table, and by bitmap."""
    operations = "linalgkit::" + semiring.title().replace("_", "")
    return (
        *(
            f"linalgkit::multiply_by_table<{number}, {operations}, {', '.join(map(str, table))}>"
            for table in _TABLES
        ),
        f"linalgkit::multiply_by_bitmap<{number}, {operations}, {_BITMAP}>",
    )


def _pulling(number):
    """Names of the kernels of the gradients."""
    return tuple(f"linalgkit::{name}<{number}>" for name in ("pull_to_a", "pull_to_b"))


# All tables for one type and semiring; of the others one table of a warp, one of a block.
KERNELS = Source(
    Path(__file__).with_name("_products.cu"),
    (
        *_counting(),
        *_multiplying("double", "plus_times"),
        *(
            _multiplying(number, semiring)[k]
            for number, semiring in (
                *((number, "plus_times") for number in _NUMBERS.values() if number != "double"),
                *(("float", name) for name in SEMIRINGS if name not in ("plus_times", "or_and")),
                *((_BOOL, name) for name in ("or_and", "max_min", "min_max")),
            )
            for k in (1, 4, -1)
        ),
        *(name for number in list(_NUMBERS.values())[:4] for name in _pulling(number)),
    ),
)


def csr_matmul(
    a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, mask_indices, mask_indptr,
    *, shape, semiring, complement, prune, sort, max_memory,
):  # fmt: skip
    """Multiply two CSR triples on the GPU, in two phases."""
    import cupy as cp

    rows, columns = shape
    number = _number(a_data.dtype, semiring)
    if number is None or not _fits(rows, columns, b_indptr.size - 1):
        return _array_api.csr_matmul(
            a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, mask_indices, mask_indptr,
            shape=shape, semiring=semiring, complement=complement, prune=prune, sort=sort,
            max_memory=max_memory,
        )  # fmt: skip
    triples = [
        ("a", a_data, a_indices, a_indptr, b_indptr.size - 1),
        ("b", b_data, b_indices, b_indptr, columns),
    ]
    mode = _ALL
    if mask_indptr is not None:
        triples.append(("mask", mask_indices, mask_indices, mask_indptr, columns))
        mode = _COMPLEMENT if complement else _MASKED
    a, b, mask = (*_checked(*triples), None)[:3]

    products = _products(a, b)
    counts = cp.zeros(rows + 1, dtype=cp.int64)
    bins = _bins(_room(products, mask, mode), columns, 0)
    _count(a, b, mask, mode, bins, columns, counts[1:])
    indptr = cp.cumsum(counts)
    bins = _bins(_room(counts[1:], mask, mode), columns, a_data.itemsize)
    size = int(indptr[-1])
    if not prune:
        check_memory(size, rows, a_data.itemsize, max_memory)
    data, indices = cp.empty(size, dtype=a_data.dtype), cp.empty(size, dtype=cp.int32)
    values = cp.ascontiguousarray(a_data), cp.ascontiguousarray(b_data)
    _multiply(*values, a, b, mask, mode, semiring, bins, columns, indptr, data, indices)
    if prune:
        kept = data != absent(semiring, data.dtype, _array_api.array_namespace(data))
        before = cp.zeros(size + 1, dtype=cp.int64)
        cp.cumsum(kept, out=before[1:])
        indptr = before[indptr]
        check_memory(int(indptr[-1]), rows, a_data.itemsize, max_memory)
        data, indices = data[kept], indices[kept]
    index = cp.int32 if data.size < 2**31 else cp.int64
    return data, indices.astype(index, copy=False), indptr.astype(index, copy=False)


def row_flops(a_indices, a_indptr, b_indptr):
    """Count the products of every row, int64."""
    if not _fits(a_indptr.size - 1, 0, b_indptr.size - 1):
        return _array_api.row_flops(a_indices, a_indptr, b_indptr)
    return _products(_Rows.of(a_indices, a_indptr), _Rows.of(a_indices[:0], b_indptr))


def count_triangles(indices, indptr):
    """Count the triangles of a symmetric pattern: products of L L that fall on a place of L."""
    import cupy as cp

    n = indptr.size - 1
    if not _fits(n, n, n):
        return _array_api.count_triangles(indices, indptr)
    lower = _Rows.of(*_array_api.lower_part(indices, indptr, csr_matmul))
    pairs = cp.zeros(n, dtype=cp.int64)
    bins = _bins(_room(_products(lower, lower), lower, _MASKED), n, 0)
    _count(lower, lower, lower, _PAIRS, bins, n, pairs)
    return pairs.sum()


def execute_plan(a_data, b_data, plan, *, semiring):
    """Compute the values of a plan's product: rows into tables of their known columns."""
    import cupy as cp

    rows, columns = plan._result.indptr.shape[0] - 1, plan._second.shape[1]
    if _number(a_data.dtype, semiring) is None or not _fits(rows, columns, plan._first.shape[1]):
        return _array_api.execute_plan(a_data, b_data, plan, semiring=semiring)
    known = _Known.of(plan)
    data = cp.empty(plan.nnz, dtype=a_data.dtype)
    values = cp.ascontiguousarray(a_data), cp.ascontiguousarray(b_data)
    a, b, c = known.a, known.b, known.c
    _multiply(*values, a, b, c, _KNOWN, semiring, known.bins(a_data.itemsize), columns, c.indptr,
              data, c.indices)  # fmt: skip
    return data


def execute_plan_vjp(cotangent, a_data, b_data, plan, *, wrt):
    """Gradients: every stored entry collects what its products pass on, in a fixed order."""
    import cupy as cp

    number = _number(cotangent.dtype, "plus_times")
    sizes = plan._result.indptr.shape[0] - 1, plan._second.shape[1], plan._first.shape[1]
    of_one_type = cotangent.dtype == a_data.dtype == b_data.dtype
    if number is None or not of_one_type or not _fits(*sizes):
        return _array_api.execute_plan_vjp(cotangent, a_data, b_data, plan, wrt=wrt)
    known = _Known.of(plan)
    a, b, c = known.a, known.b, known.c
    result = cp.ascontiguousarray(cotangent), c.indices, c.indptr
    to_a, to_b = _pulling(number)
    of_a = of_b = None
    if wrt[0]:
        of_a = cp.zeros_like(a_data, order="C")
        others = cp.ascontiguousarray(b_data), b.indices, b.indptr
        _launch(to_a, 32 * a.stored, *result, a.indices, a.indptr, a.rows, *others, a.stored, of_a)
    if wrt[1]:
        of_b = cp.zeros_like(b_data, order="C")
        others = cp.ascontiguousarray(a_data), *known.columns_of_a
        _launch(to_b, b.stored, *result, *others, b.indices, b.indptr, b.rows, b.stored, of_b)
    return of_a, of_b


class _Rows(NamedTuple):
    """A pattern as kernels take it: int32 columns, int64 row pointers."""

    indices: object
    indptr: object

    @classmethod
    def of(cls, indices, indptr):
        import cupy as cp

        return cls(
            cp.ascontiguousarray(cp.asarray(indices), dtype=cp.int32),
            cp.ascontiguousarray(cp.asarray(indptr), dtype=cp.int64),
        )

    @property
    def rows(self):
        return self.indptr.size - 1

    @property
    def stored(self):
        return int(self.indptr[-1])


def _checked(*triples):
    """Return the patterns of what callers gave: (name, data, indices, indptr, columns) each."""
    import cupy as cp

    invalid = cp.zeros(1, dtype=cp.int32)
    patterns = []
    for name, data, indices, indptr, columns in triples:
        pattern = _Rows.of(indices, indptr)
        narrow = indices.dtype == cp.int32 and indptr.dtype in (cp.int32, cp.int64)
        if narrow and data.size == indices.size and pattern.rows:
            sizes = indices.size, pattern.rows, columns
            _launch("linalgkit::check_rows", 32 * pattern.rows, *pattern, *sizes, invalid)
        else:
            check_csr(name, data, indices, indptr, columns)
        patterns.append(pattern)
    if invalid.item():
        for triple in triples:
            check_csr(*triple)
    return patterns


_plans: WeakKeyDictionary = WeakKeyDictionary()  # plan -> device -> _Known


class _Known:
    """A plan's patterns on the device."""

    @classmethod
    def of(cls, plan):
        import cupy as cp

        devices = _plans.setdefault(plan, {})
        device = cp.cuda.Device().id
        if device not in devices:
            devices[device] = cls(plan)
        return devices[device]

    def __init__(self, plan):
        first, second = plan._first, plan._second
        self.a = _Rows.of(first.indices, first.indptr)
        self.b = _Rows.of(second.indices, second.indptr)
        self.c = _Rows.of(*plan._result.parts[1:])
        self._bins = {}
        self._columns_of_a = None
        self._wait()

    def bins(self, itemsize):
        if itemsize not in self._bins:
            self._bins[itemsize] = _bins(self.c.indptr[1:] - self.c.indptr[:-1], 2**31, itemsize)
            self._wait()
        return self._bins[itemsize]

    @property
    def columns_of_a(self):
        """Where A's columns begin in the list of its entries by columns, and their rows."""
        import cupy as cp

        if self._columns_of_a is None:
            used = self.a.indices[: self.a.stored]
            entries = cp.argsort(used, kind="stable").astype(cp.int64, copy=False)
            begins = cp.searchsorted(used[entries], cp.arange(self.b.rows + 1, dtype=used.dtype))
            rows = cp.searchsorted(self.a.indptr, entries, side="right") - 1
            self._columns_of_a = begins.astype(cp.int64, copy=False), entries, rows
            self._wait()
        return self._columns_of_a

    @staticmethod
    def _wait():
        """Let other streams use what this one has written."""
        import cupy as cp

        cp.cuda.get_current_stream().synchronize()


def _number(dtype, semiring):
    """Return the C++ type to compute in, None where the reference serves."""
    if dtype.kind == "b":
        return _BOOL if semiring in ("or_and", "max_min", "min_max") else None
    if semiring == "or_and" or (dtype.kind == "c" and SEMIRINGS[semiring].add != "sum"):
        return None
    return _NUMBERS.get(dtype.name)


def _fits(*sizes):
    """Tell whether columns fit int32, with the largest one left free."""
    return max(sizes) < 2**31 - 1


def _launch(kernel, threads, *arguments):
    """Run so many threads, in blocks of 256; sizes are int64 to kernels."""
    if threads:
        sized = (np.int64(x) if isinstance(x, int) else x for x in arguments)
        KERNELS[kernel](((threads + 255) // 256,), (256,), tuple(sized))


def _products(a, b):
    import cupy as cp

    products = cp.zeros(a.rows, dtype=cp.int64)
    arrays = a.indices, a.indptr, b.indptr, a.rows, products
    _launch("linalgkit::count_products", 32 * a.rows, *arrays)
    return products


def _room(entries, mask, mode):
    """Columns that each row's table must hold: with the mask's, where there is anything to do."""
    import cupy as cp

    if mode == _ALL:
        return entries
    room = mask.indptr[1:] - mask.indptr[:-1]
    if mode == _COMPLEMENT:
        room = entries + room
    return cp.where(entries > 0, room, 0)


class _Bins(NamedTuple):
    listed: object
    sizes: tuple  # rows of no entry, of each table, of none

    def tables(self):
        begin = self.sizes[0]
        for table, size in zip(_TABLES, self.sizes[1:-1], strict=False):
            if size:
                yield table, self.listed[begin : begin + size]
            begin += size

    @property
    def longest(self):
        return self.listed[self.listed.size - self.sizes[-1] :]


def _bins(room, most, itemsize):
    """Sort rows by the table with room for so many columns, `most` at most, and their values."""
    import cupy as cp

    limit = _device(cp.cuda.Device().id).shared_bytes - 1024
    tables = sum(_table_bytes(table, itemsize) <= limit for table in _TABLES)
    sizes, taken = cp.zeros((2, _BINS), dtype=cp.int64)
    bins = cp.empty(room.size, dtype=cp.uint8)
    listed = cp.empty(room.size, dtype=cp.int64)
    rows = room.size
    _launch("linalgkit::bin_rows", rows, room, rows, most, np.int32(tables), bins, sizes)
    _launch("linalgkit::list_rows", rows, bins, rows, sizes, taken, listed)
    return _Bins(listed, tuple(sizes.tolist()[: tables + 2]))


def _table_bytes(table, itemsize):
    slots, team, teams = table
    return teams * (slots * (itemsize + 8 if itemsize else 4) + 16 * team)


def _by_table(kernel, table, itemsize, listed, *arguments):
    _, team, teams = table
    kernel.max_dynamic_shared_size_bytes = shared = _table_bytes(table, itemsize)
    blocks = (listed.size + teams - 1) // teams
    kernel((blocks,), (team * teams,), arguments, shared_mem=shared)


def _pattern(mask):
    return (0, 0) if mask is None else (mask.indices, mask.indptr)


def _count(a, b, mask, mode, bins, columns, counts):
    import cupy as cp

    arrays = (a.indices, a.indptr, b.indices, b.indptr, *_pattern(mask), np.int32(mode))
    for table, listed in bins.tables():
        kernel = KERNELS[f"linalgkit::count_by_table<{', '.join(map(str, table))}>"]
        _by_table(kernel, table, 0, listed, *arrays, listed, np.int64(listed.size), counts)
    listed = bins.longest
    if listed.size:
        words = (columns + 31) // 32
        blocks = _blocks(listed.size, 8 * words)
        bitmaps, masks = cp.zeros((2, blocks * words), dtype=cp.uint32)
        KERNELS[f"linalgkit::count_by_bitmap<{_BITMAP}>"](
            (blocks,),
            (_BITMAP,),
            (
                *arrays,
                listed,
                np.int64(listed.size),
                cp.zeros(1, dtype=cp.int64),
                np.int64(words),
                bitmaps,
                masks,
                counts,
            ),
        )


def _multiply(
    a_data, b_data, a, b, mask, mode, semiring, bins, columns, indptr, data, indices
):  # fmt: skip
    import cupy as cp

    itemsize = data.itemsize
    *by_table, by_bitmap = _multiplying(_number(data.dtype, semiring), semiring)
    arrays = a_data, a.indices, a.indptr, b_data, b.indices, b.indptr
    arrays = (*arrays, *_pattern(mask), np.int32(mode))
    for table, listed in bins.tables():
        kernel = KERNELS[by_table[_TABLES.index(table)]]
        out = listed, np.int64(listed.size), indptr, data, indices
        _by_table(kernel, table, itemsize, listed, *arrays, *out)
    listed = bins.longest
    if listed.size:
        words = (columns + 31) // 32
        blocks = _blocks(listed.size, columns * itemsize + 8 * words)
        bitmaps, masks = cp.zeros((2, blocks * words), dtype=cp.uint32)
        neutral = absent(semiring, data.dtype, _array_api.array_namespace(data))
        dense = cp.full(blocks * columns, neutral, dtype=data.dtype)
        KERNELS[by_bitmap](
            (blocks,),
            (_BITMAP,),
            (*arrays, listed, np.int64(listed.size), cp.zeros(1, dtype=cp.int64),
             np.int64(columns), np.int64(words), dense, bitmaps, masks, indptr, data, indices),
        )  # fmt: skip


def _blocks(rows, bytes_each):
    import cupy as cp

    blocks = 2 * _device(cp.cuda.Device().id).processors
    return max(1, min(rows, blocks, _WORKSPACE // max(1, bytes_each)))


class _Device(NamedTuple):
    processors: int
    shared_bytes: int  # that a block may take


@cache
def _device(number):
    import cupy as cp

    attributes = cp.cuda.Device(number).attributes
    shared = attributes["MaxSharedMemoryPerBlockOptin"]
    return _Device(attributes["MultiProcessorCount"], shared)
