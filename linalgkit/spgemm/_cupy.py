"""GPU engine of the sparse product: count the rows' entries, then compute and sort them.

Rows of few products are sorted by a few lanes each. Of the others each goes by the number of
columns that it may have to one of eight sizes of hash table in shared memory, or to a bitmap.
Deterministic: the same bits on every run. The host waits twice, for the rows' kinds and for the
number of entries, and once more where there are long rows. Each kernel is compiled when a product
first needs it.
"""

from functools import cache, partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from .._cuda import Launch, run
from . import _array_api
from ._csr import check_csr, check_memory
from ._cupy_kernels import (
    BITMAP_SIZES,
    BOOL,
    GRADIENTS,
    INDICES,
    LONG_ROWS,
    NUMBERS,
    PATTERNS,
    SHORT,
    SHORT_ROWS,
    SORT_SIZES,
    SORT_THREADS,
    TABLE_SIZES,
    TABLES,
    by_bitmap,
    by_sort,
    by_table,
    checking,
    counting,
    pulling,
)
from ._semirings import SEMIRINGS, absent

_BINS, _LANES = 16, 8  # as in _patterns.cu
_SCAN, _SCANNED = 256, 8  # likewise
# What kernels tell the host: sizes of the bins, places taken in them, is anything invalid, do B's
# columns not rise, entries.
_INVALID, _MIXED, _TOTAL, _ANSWERS = 2 * _BINS, 2 * _BINS + 1, 2 * _BINS + 2, 2 * _BINS + 3
_ALL, _MASKED, _COMPLEMENT, _KNOWN, _PAIRS = range(5)  # as in _rows.cuh
_SHARE = 4  # of the columns, whose sums one of two blocks must have room for
_FEW = 2048  # rows that are not worth a kernel of their own
_WORKSPACE = 1 << 30  # bytes of bitmaps at most, where one fits at all


def csr_matmul(
    a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, mask_indices, mask_indptr,
    *, shape, semiring, complement, prune, sort, max_memory, itemsize, names,
):  # fmt: skip
    """Multiply two CSR triples on the GPU, in two phases."""
    import cupy as cp

    rows, columns = shape
    number = _number(a_data.dtype, semiring)
    if number is None or not _fits(rows, columns, b_indptr.size - 1):
        return _array_api.csr_matmul(
            a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, mask_indices, mask_indptr,
            shape=shape, semiring=semiring, complement=complement, prune=prune, sort=sort,
            max_memory=max_memory, itemsize=itemsize, names=names,
        )  # fmt: skip
    mode = _ALL
    if mask_indptr is not None:
        mode = _COMPLEMENT if complement else _MASKED
    a = _Rows.of(a_indices, a_indptr)
    is_square = b_indices is a_indices and b_indptr is a_indptr
    b = a if is_square else _Rows.of(b_indices, b_indptr)
    mask = None if mask_indptr is None else _Rows.of(mask_indices, mask_indptr)

    def check():
        """Raise in words."""
        check_csr(names.left, a_data, a_indices, a_indptr, b.rows, names.lines[0])
        check_csr(names.right, b_data, b_indices, b_indptr, columns, names.lines[1])
        if mask is not None:
            check_csr("mask", mask_indices, mask_indices, mask_indptr, columns, names.lines[2])

    if not (a.fits(a_data) and b.fits(b_data) and (mask is None or mask.fits(mask_indices))):
        check()
    answers, states, counts = _zeroed(rows)
    is_mixed = _at(answers, _MIXED)
    if b is not a or columns < b.rows:
        _check(b, columns, answers, is_mixed)
    if mask is not None:
        _check(mask, columns, answers)
    products = _products(a, b, answers)
    kinds = _kinds(products, rows, mask, mode, columns, _tables(columns, 0), mode == _ALL, answers)
    if kinds is None:
        check()
    _count(a, b, mask, mode, kinds, columns, counts)
    kinds = _kinds_again(kinds, counts, products, mask, mode, columns, a_data.itemsize)
    indptr, narrow = counts, cp.empty(rows + 1, dtype=cp.int32)  # sums take the place of counts
    threads = _SCAN * (rows // (_SCAN * _SCANNED) + 1)
    sums = indptr, narrow, _at(answers, _TOTAL)
    _launch(PATTERNS["linalgkit::sum_counts"], threads, rows, states, *sums)
    size = answers.tolist()[_TOTAL]
    if not prune:
        check_memory(size, shape, itemsize, max_memory)
    data, indices = cp.empty(size, dtype=a_data.dtype), cp.empty(size, dtype=cp.int32)
    values = cp.ascontiguousarray(a_data), cp.ascontiguousarray(b_data)
    patterns = a, b, mask, mode, is_mixed
    _multiply(*values, *patterns, semiring, kinds, columns, indptr, data, indices)
    if prune:
        kept = data != absent(semiring, data.dtype, _array_api.array_namespace(data))
        before = cp.zeros(size + 1, dtype=cp.int64)
        cp.cumsum(kept, out=before[1:])
        indptr = before[indptr]
        check_memory(int(indptr[-1]), shape, itemsize, max_memory)
        data, indices = data[kept], indices[kept]
        narrow = indptr.astype(cp.int32)
    if data.size < 2**31:
        return data, indices, narrow
    return data, indices.astype(cp.int64), indptr


def row_flops(a_indices, a_indptr, b_indptr):
    """Count the products of every row, int64."""
    if not _fits(a_indptr.size - 1, 0, b_indptr.size - 1):
        return _array_api.row_flops(a_indices, a_indptr, b_indptr)
    a, b = _Rows.of(a_indices, a_indptr), _Rows.widened(a_indices[:0], b_indptr)
    return _products(a, b, _zeroed(0)[0])


def count_triangles(indices, indptr):
    """Count the triangles of a symmetric pattern: products of L L that fall on a place of L."""
    import cupy as cp

    n = indptr.size - 1
    if not _fits(n, n, n):
        return _array_api.count_triangles(indices, indptr)
    lower = _Rows.of(*_array_api.lower_part(indices, indptr, csr_matmul))
    pairs, answers = cp.zeros(n, dtype=cp.int64), _zeroed(0)[0]
    products = _products(lower, lower, answers)
    kinds = _kinds(products, n, lower, _MASKED, n, _tables(n, 0), False, answers)
    _count(lower, lower, lower, _PAIRS, kinds, n, pairs)
    return pairs.sum()


def execute_plan(a_data, b_data, *, plan):
    """Compute the values of a plan's product: its columns are known."""
    return execute_plan_in(a_data, b_data, plan=plan, semiring="plus_times")


def execute_plan_in(a_data, b_data, *, plan, semiring):
    """Compute them in any semiring."""
    import cupy as cp

    rows, columns = plan._result.indptr.shape[0] - 1, plan._second.shape[1]
    if _number(a_data.dtype, semiring) is None or not _fits(rows, columns, plan._first.shape[1]):
        return _array_api.execute_plan_in(a_data, b_data, plan=plan, semiring=semiring)
    known = _Known.of(plan)
    data = cp.empty(plan.nnz, dtype=a_data.dtype)
    values = cp.ascontiguousarray(a_data), cp.ascontiguousarray(b_data)
    a, b, c = known.a, known.b, known.c
    kinds = known.kinds(a_data.itemsize)
    patterns = a, b, c, _KNOWN, known.is_mixed
    _multiply(*values, *patterns, semiring, kinds, columns, c.indptr, data, None)
    return data


def execute_plan_vjp(cotangent, a_data, b_data, *, plan, wrt):
    """Gradients: every stored entry collects what its products pass on, in a fixed order."""
    import cupy as cp

    number = _number(cotangent.dtype, "plus_times")
    sizes = plan._result.indptr.shape[0] - 1, plan._second.shape[1], plan._first.shape[1]
    of_one_type = cotangent.dtype == a_data.dtype == b_data.dtype
    if number is None or not of_one_type or not _fits(*sizes):
        return _array_api.execute_plan_vjp(cotangent, a_data, b_data, plan=plan, wrt=wrt)
    known = _Known.of(plan)
    a, b, c = known.a, known.b, known.c
    result = cp.ascontiguousarray(cotangent), c.indices, c.indptr
    to_a, to_b = (GRADIENTS[name] for name in pulling(number))
    of_a = of_b = None
    if "a_data" in wrt:
        of_a = cp.zeros_like(a_data, order="C")
        others = cp.ascontiguousarray(b_data), b.indices, b.indptr
        _launch(to_a, 32 * a.stored, *result, a.indices, a.indptr, a.rows, *others, a.stored, of_a)
    if "b_data" in wrt:
        of_b = cp.zeros_like(b_data, order="C")
        others = cp.ascontiguousarray(a_data), *known.columns_of_a
        _launch(to_b, b.stored, *result, *others, b.indices, b.indptr, b.rows, b.stored, of_b)
    return of_a, of_b


class _Rows(NamedTuple):
    """A pattern as kernels take it: int32 columns, int64 row pointers.

    Row pointers that were given in int32 are widened by the first kernel that looks at them.
    """

    indices: object
    indptr: object
    given: object
    narrow: bool  # it came so, or nearly: no check on the host is needed before kernels look

    @classmethod
    def of(cls, indices, indptr):
        import cupy as cp

        is_index = indptr.dtype in INDICES
        given = cp.ascontiguousarray(indptr, dtype=None if is_index else cp.int64)
        wide = given if given.dtype == cp.int64 else cp.empty(given.size, dtype=cp.int64)
        narrow = is_index and indices.dtype == cp.int32
        return cls(cp.ascontiguousarray(indices, dtype=cp.int32), wide, given, narrow)

    @classmethod
    def widened(cls, indices, indptr):
        """For kernels that do not look at a pattern first; arrays may be NumPy's."""
        import cupy as cp

        return cls.of(cp.asarray(indices), cp.asarray(indptr, dtype=cp.int64))

    def fits(self, data):
        """Tell whether the kernels' own look will do."""
        return self.narrow and data.size == self.indices.size and self.rows > 0

    @property
    def rows(self):
        return self.indptr.size - 1

    @property
    def stored(self):
        return int(self.indptr[-1])


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
        self.a = _Rows.widened(first.indices, first.indptr)
        self.b = _Rows.widened(second.indices, second.indptr)
        self.c = _Rows.widened(*plan._result.parts[1:])
        self._columns, self._is_masked = second.shape[1], plan._is_masked
        self._kinds = {}
        self._columns_of_a = None
        answers = _zeroed(0)[0]
        self.is_mixed = answers[_MIXED:]
        _check(self.b, self._columns, answers, self.is_mixed)
        self._wait()

    def kinds(self, itemsize):
        """Rows by how they are multiplied. A mask leaves out products, which a sort would keep."""
        if itemsize not in self._kinds:
            entries, answers = self.c.indptr[1:] - self.c.indptr[:-1], _zeroed(0)[0]
            rows, columns = entries.size, self._columns
            tables = _tables(columns, itemsize)
            if self._is_masked:
                kinds = _kinds(entries, rows, None, _ALL, columns, tables, False, answers)
            else:
                products = _products(self.a, self.b, answers)
                kinds = _kinds(products, rows, None, _ALL, columns, tables, True, answers)
                kinds = _kinds_again(kinds, entries, products, None, _ALL, columns, itemsize)
            self._kinds[itemsize] = kinds
            self._wait()
        return self._kinds[itemsize]

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
        return BOOL if semiring in ("or_and", "max_min", "min_max") else None
    if semiring == "or_and" or (dtype.kind == "c" and SEMIRINGS[semiring].add != "sum"):
        return None
    return NUMBERS.get(dtype)


def _fits(*sizes):
    """Tell whether columns fit int32, with the largest one left free."""
    return max(sizes) < 2**31 - 1


def _launch(kernel, threads, *arguments):
    """Run so many threads, in blocks of 256; sizes are int64 to kernels."""
    if threads:
        kernel(((threads + 255) // 256,), (256,), arguments)


def _zeroed(rows):
    """Answers, where behind them states of a scan over rows stand, and a count for each row."""
    import cupy as cp

    begin = _ANSWERS + 2 + rows // (_SCAN * _SCANNED)
    zeroed = cp.zeros(begin + rows + 1, dtype=cp.int64)
    return zeroed[:_ANSWERS], _at(zeroed, _ANSWERS), zeroed[begin:]


def _at(array, place):
    """Return an address, which takes a tenth of a slice's time."""
    return array.data.ptr + array.itemsize * place


def _products(a, b, answers):
    """Products of every row, as far as A is valid. B's row pointers are wide, unless B is A."""
    import cupy as cp

    products = cp.empty(a.rows, dtype=cp.int64)
    others = a.given if b is a else b.indptr
    kernel = PATTERNS[counting(INDICES[a.given.dtype], INDICES[others.dtype])]
    found = _at(answers, _INVALID), _at(answers, _MIXED) if b is a else 0
    arguments = *_looked_at(a), others, b.rows, products, *found
    _launch(kernel, _LANES * a.rows, *arguments)
    return products


def _check(pattern, columns, answers, is_mixed=0):
    kernel = PATTERNS[checking(INDICES[pattern.given.dtype])]
    arguments = *_looked_at(pattern), columns, _at(answers, _INVALID), is_mixed
    _launch(kernel, _LANES * pattern.rows, *arguments)


def _looked_at(pattern):
    """Return a pattern as the kernels take it that look at it first."""
    wide = 0 if pattern.given is pattern.indptr else pattern.indptr
    return pattern.indices, pattern.given, pattern.indices.size, pattern.rows, wide


class _Kind(NamedTuple):
    way: str  # "sort", "table" or "bitmap"
    size: tuple  # of SORT_SIZES or TABLE_SIZES
    listed: int  # where the rows stand
    rows: int  # how many they are
    memory: object  # that they stand in


def _tables(columns, itemsize):
    """Tables in use: bitmaps are faster where they have not many more words than rows entries."""
    import cupy as cp

    limit = _device(cp.cuda.Device().id).shared_bytes - 1024
    most = max(SHORT, columns // 128)
    return sum(
        _table_bytes(table, itemsize) <= limit and table[0] // 2 <= most for table in TABLE_SIZES
    )


def _kinds(needed, rows, mask, mode, columns, tables, sorts, answers, products=None):
    """List the rows by how they are dealt with; None if there is anything invalid.

    Tables have room for the columns `needed`, and for the mask's. With `sorts`, these are numbers
    of products, and short rows are sorted. Rows that were, by their `products`, are left out.
    """
    import cupy as cp

    listed = cp.empty(5 * rows, dtype=cp.uint8)  # as int32, and behind them their bins
    address, bins = _at(listed, 0), _at(listed, 4 * rows)
    most = max(columns, SHORT + 1) if sorts else columns
    masked = 0 if mask is None else mask.indptr, np.int32(mode)
    seen = 0 if products is None else products, SHORT, most
    into_bins = PATTERNS["linalgkit::bin_rows"]
    _launch(into_bins, rows, needed, rows, *masked, *seen, np.int32(tables), bins, answers)
    taken = _at(answers, _BINS)
    _launch(PATTERNS["linalgkit::list_rows"], rows, bins, rows, answers, taken, address)
    sizes = answers.tolist()
    if sizes[_INVALID]:
        return None
    kinds, begin, end = [], sizes[0], sizes[0]
    for number, size in enumerate(sizes[1 : tables + 2]):
        end += size
        is_sort = sorts and number < len(SORT_SIZES)
        if begin == end or (is_sort and number + 1 < len(SORT_SIZES) and end - begin < _FEW):
            continue  # few rows are left to the next size
        if is_sort:
            way, size = "sort", SORT_SIZES[number]
        elif number < tables:
            way, size = "table", TABLE_SIZES[number]
        else:
            way, size = "bitmap", ()
        kinds.append(_Kind(way, size, address + 4 * begin, end - begin, listed))
        begin = end
    return kinds


def _kinds_again(kinds, counts, products, mask, mode, columns, itemsize):
    """List the rows anew, now that their entries are counted; what is sorted remains so."""
    sorts = [kind for kind in kinds if kind.way == "sort"]
    if len(sorts) == len(kinds):
        return kinds
    seen = products if mode == _ALL else None
    tables, answers = _tables(columns, itemsize), _zeroed(0)[0]
    return sorts + _kinds(counts, products.size, mask, mode, columns, tables, False, answers, seen)


def _table_bytes(table, itemsize):
    slots, team, teams = table
    if not itemsize:
        return teams * (4 * slots + 12 * team)
    return teams * (slots * (itemsize + 6) + _queue_bytes(team, 1, itemsize) + 12 * team)


def _queue_bytes(team, each, itemsize):
    return team * each * (itemsize + 6) + team // 8 + 2 * each * (team // 32) ** 2 + 16


def _sort_bytes(size, itemsize, key):
    """Bytes of a row."""
    spread = size + size // 32
    return -(-(size * itemsize + key * spread + 2 * (spread + 2)) // 16) * 16


def _pattern(mask):
    return (0, 0) if mask is None else (mask.indices, mask.indptr)


def _count(a, b, mask, mode, kinds, columns, counts):
    patterns = a.indices, a.indptr, b.indices, b.indptr
    masked = (*patterns, *_pattern(mask), np.int32(mode))
    launches = []
    for way, size, *rows, _ in kinds:
        if way == "sort":
            shape = -(-rows[1] * size[1] // SORT_THREADS), SORT_THREADS, 0
            arguments = *patterns, *rows, counts
            launches.append(Launch(SHORT_ROWS, by_sort(size), *shape, arguments))
        elif way == "table":
            _, team, teams = size
            shape = -(-rows[1] // teams), team * teams, _table_bytes(size, 0)
            launches.append(Launch(TABLES, by_table(size), *shape, (*masked, *rows, counts)))
        else:
            launches.append(_bitmaps(by_bitmap, masked, rows, mode, columns, 0, counts))
    run(launches)


def _multiply(
    a_data, b_data, a, b, mask, mode, is_mixed, semiring, kinds, columns, indptr, data, indices
):  # fmt: skip
    itemsize, number = data.itemsize, _number(data.dtype, semiring)
    arrays = a_data, a.indices, a.indptr, b_data, b.indices, b.indptr
    masked = (*arrays, *_pattern(mask), np.int32(mode))
    results = indptr, data, 0 if indices is None else indices
    launches = []
    for way, size, *rows, _ in kinds:
        if way == "sort":
            # A key has the column, and behind it the product's place in the row.
            key = 4 if columns * size[0] < 2**32 else 8
            teams = SORT_THREADS // size[2]
            shared = teams * _sort_bytes(size[0], itemsize, key)
            shape = -(-rows[1] // teams), SORT_THREADS, shared
            name = by_sort(size, number, semiring, key)
            launches.append(Launch(SHORT_ROWS, name, *shape, (*arrays, *rows, *results)))
        elif way == "table":
            _, team, teams = size
            shape = -(-rows[1] // teams), team * teams, _table_bytes(size, itemsize)
            name = by_table(size, number, semiring)
            launches.append(Launch(TABLES, name, *shape, (*masked, *rows, *results)))
        else:
            name = partial(by_bitmap, number=number, semiring=semiring)
            found = is_mixed, *results
            launches.append(_bitmaps(name, masked, rows, mode, columns, itemsize, *found))
    run(launches)


def _bitmaps(name, arrays, rows, mode, columns, itemsize, *results):
    """Launch a kernel of bitmaps.

    Of two blocks on a processor one adds while the other waits for memory: where each has room for
    the bitmap and for the sums of a _SHARE of the columns. Else there is one, with as many sums as
    there is room for, and bitmaps elsewhere if they would leave less than half of it.
    """
    import cupy as cp

    device = _device(cp.cuda.Device().id)
    limit = device.shared_bytes - 1024
    words = (columns + 31) // 32
    bitmap = 4 * (2 if itemsize else 1) * words
    for (threads, each), together in zip(BITMAP_SIZES, (2, 1), strict=True):
        fixed = 12 * threads + (_queue_bytes(threads, each, itemsize) if itemsize else 0)
        left = limit // together - fixed - 1024 * (together - 1)
        is_shared = bitmap <= (left if together > 1 else left // 2)
        left -= bitmap if is_shared else 0
        room = min(columns, left // itemsize) if itemsize else 0
        if is_shared and _SHARE * room >= (columns if itemsize else 0):
            break
    shared = fixed + (bitmap if is_shared else 0) + room * itemsize
    is_masked = mode in (_MASKED, _COMPLEMENT, _PAIRS)
    workspace = (0 if is_shared else bitmap) + (4 * words if is_masked else 0)
    blocks = device.processors * together
    blocks = max(1, min(rows[1], blocks, _WORKSPACE // max(1, workspace)))
    bitmaps = 0 if is_shared else cp.zeros(blocks * bitmap // 4, dtype=cp.uint32)
    masks = cp.zeros(blocks * words, dtype=cp.uint32) if is_masked else 0
    turn = cp.zeros(1, dtype=cp.int64)
    sizes = (np.int32(room),) if itemsize else ()
    arguments = (*arrays, *rows, turn, words, bitmaps, masks, *sizes, *results)
    return Launch(LONG_ROWS, name((threads, each)), blocks, threads, shared, arguments)


class _Device(NamedTuple):
    processors: int
    shared_bytes: int  # that a block may take


@cache
def _device(number):
    import cupy as cp

    attributes = cp.cuda.Device(number).attributes
    shared = attributes["MaxSharedMemoryPerBlockOptin"]
    return _Device(attributes["MultiProcessorCount"], shared)
