"""CPU engine of the sparse product: what is known of the operands, and the kernels' launch.

A row is summed into a dense row of n values with a two-level bitmap of the columns touched, and
leaves in order by counting trailing zeros: no sort, no branch a product. Bounds: the gathers of
B's rows (prefetched), the scatter into the row (in L2), and the write of the result. Two kinds
of operands have kernels of their own: B without rows of two entries, and matrices of grids. Past
262,144 columns, chunks of short rows go to hash tables. That is all: no insertion into short
sorted rows, no merge of two rows, no panels of columns, and a choice for each chunk, not each row.
"""

import threading
from functools import lru_cache, partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .. import _threads
from .._checks import kernel_array
from .._intrinsics import RINGS
from . import _array_api, _numba_hash, _numba_masked
from . import _numba_rows as _kernels
from ._csr import check_memory, fits_int32
from ._numba_operands import (
    SMALL,
    available_memory,
    facts,
    has_room,
    narrowed,
    operand,
    running_products,
)
from ._numba_plans import execute_plan, execute_plan_in, execute_plan_vjp, plan_slots
from ._semirings import absent

__all__ = [
    "count_triangles",
    "csr_matmul",
    "execute_plan",
    "execute_plan_in",
    "execute_plan_vjp",
    "plan_slots",
]

DTYPES = "?bhilqBHILQfdFD"

# Products a chunk: about 0.3 ms, and a result buffer that stays in the L2 cache.
_CHUNK = 65_536
# Entries and columns up to which the cost is that of the calls: one kernel does it all.
_TINY = 4096
# Where a dense row leaves the caches and a hash table is faster (measured with 16, 256 and 4096
# products a row): past _WIDE columns for rows of up to _SHORT products, and past eight times as
# many for rows of up to one product in _FEW columns.
_WIDE, _SHORT, _FEW = 1 << 18, 32, 1024
_NARROW = np.dtype(np.int32)


def csr_matmul(
    a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, mask_indices, mask_indptr,
    *, shape, semiring, complement, prune, sort, max_memory, itemsize, names,
):  # fmt: skip
    """Multiply two CSR triples: one phase, chunks of rows committed in order."""
    columns = shape[1]

    def by_reference():
        return _array_api.csr_matmul(
            a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, mask_indices, mask_indptr,
            shape=shape, semiring=semiring, complement=complement, prune=prune, sort=sort,
            max_memory=max_memory, itemsize=itemsize, names=names,
        )  # fmt: skip

    has_rows = columns <= _WIDE or has_room(8 * columns)  # dense ones, of n values
    if mask_indptr is not None and not has_rows:
        return by_reference()
    index_arrays = a_indices, a_indptr, b_indices, b_indptr
    index = np.int32 if all(array.dtype == _NARROW for array in index_arrays) else np.int64
    a = operand(names.left, a_data, a_indices, a_indptr, b_indptr.size - 1, index, names.lines[0])
    b = operand(names.right, b_data, b_indices, b_indptr, columns, index, names.lines[1])
    ring = RINGS[semiring], _start(semiring, a_data.dtype)
    result = _Result(a_data.dtype, columns, itemsize, max_memory)
    if a_indices.size + b_indices.size + columns <= _TINY and mask_indptr is None:
        product = _tiny(result, semiring, ring, a, b, prune)
        if product is not None:
            return product
    of_a = facts(names.left, *a, b_indptr.size - 1, names.lines[0])
    is_square = a_indices is b_indices and a_indptr is b_indptr and columns == b_indptr.size - 1
    of_b = of_a if is_square else facts(names.right, *b, columns, names.lines[1])
    narrow = narrowed(columns, *a[1:], *b[1:])
    a, b = (a[0], *narrow[:2]), (b[0], *narrow[2:])
    mask = None
    if mask_indptr is not None:
        mask = _mask(mask_indices, mask_indptr, columns, "mask", names.lines[2])
        if not complement:
            return _masked(ring, a, b, mask, of_a.ascends and of_b.ascends, prune, result)

    work = _work(a, b, of_a.longest, of_b.longest, columns > _WIDE and mask is None)
    product = count = None
    if mask is not None:
        multiply = partial(_kernels.complement_rows, *ring, *a, *b, *mask)
        scratch, share = partial(_scratch, columns, ring[1]), None
    else:
        found = _by_rows(ring, a, b, of_b.ascends, sort, work, columns, has_rows)
        if found is None:
            return by_reference()
        multiply, scratch, share, count = found
        if work.source == 1:
            gather = partial(_kernels.gather_rows, *ring, *a, *b)
            if not prune:
                product = _gathered(result, gather, a, b, work)
            multiply, scratch = partial(_gather_or, gather, multiply, scratch), _nothing_yet
            share = count = None
    if product is None:
        if prune:
            multiply = partial(_pruned, multiply, ring[1])
            share = share and partial(_pruned_part, share, ring[1])
        counted = mask is None and not prune  # what a first pass counts is what is stored
        product = _in_chunks(result, a, b, work, multiply, scratch, share, count, counted)
    return product


class _Work(NamedTuple):
    """What the rows of a product cost, and the chunks that are cut by it."""

    ends: np.ndarray  # running sums of the rows' work
    each: int  # products at most of one unit of it; 1: the work is the products
    longest: int  # work of a row
    source: int  # the longest row of B that is asked for
    bounds: list[int]

    @property
    def total(self):
        return self.each * int(self.ends[-1])

    def products(self):
        return np.diff(self.ends[self.bounds]).astype(np.int64) * self.each


def _work(a, b, longest_of_a, longest_of_b, exactly):
    """Take A's entries for the work where B's rows are about equal, else the products."""
    each, ends, longest, source = longest_of_b, a[2], longest_of_a, longest_of_b
    if exactly or 2 * each * (b[2].size - 1) > 3 * b[1].size:
        each, (ends, longest, source) = 1, running_products(a, b)
    bounds = [0, ends.size - 1]
    if each * int(ends[-1]) > SMALL:
        bounds = _threads.chunk_bounds(ends, minimum=max(1, _CHUNK // each))
    return _Work(ends, each, longest, source, bounds)


def _by_rows(ring, a, b, ascends, sort, work, columns, has_rows):
    """Choose the kernel of whole rows; what a thread needs for it; how to share a heavy row.

    Last, how to count the entries of rows where that costs little: of grids; else None. No
    choice is left, and None returned, where neither a dense row nor a table can be.
    """
    scratch = partial(_scratch, columns, ring[1])
    share = partial(_kernels.part_of_row, *ring, *a, *b, ascends)
    repeats = columns <= _WIDE and work.source > 1 and work.total > SMALL
    stamps = _stamps(b) if repeats else None
    if stamps is not None:
        multiply = partial(_kernels.repeat_rows, *ring, *a, *b, stamps)
        return multiply, scratch, share, partial(_kernels.count_repeats, *a[1:], *b[1:], stamps)
    multiply = partial(_kernels.multiply_rows, *ring, *a, *b, ascends)
    if columns > _WIDE:
        hashed = _hash_where_rows_are_short(
            ring, a, b, sort, columns, work, multiply, scratch, has_rows
        )
        if hashed is not None:
            return *hashed, None, None
        if not has_rows:
            return None
    return multiply, scratch, share, None


def _pruned(multiply, zero, start, stop, data, indices, indptr, place, *rest):
    """Multiply rows, then drop their zeros."""
    multiply(start, stop, data, indices, indptr, place, *rest)
    return _kernels.drop_zeros(start, stop, zero, data, indices, indptr, place)


def _pruned_part(share, zero, i, low, high, data, indices, *rest):
    """Compute part of a row, then drop its zeros."""
    ends = np.array([0, share(i, low, high, data, indices, *rest)], dtype=np.int32)
    return _kernels.drop_zeros(0, 1, zero, data, indices, ends, 0)


def _tiny(result, semiring, ring, a, b, prune):
    """Multiply small operands in one call; None where that cannot be."""
    rows, key = a[2].size - 1, (semiring, result.dtype.char)
    # Out of reach while in use: a signal handler may multiply, too.
    workspace = _tiny_workspaces.__dict__.pop(key, None) or _tiny_workspace(ring[1])
    data, indices, *_ = workspace
    indptr = np.empty(rows + 1, dtype=np.int32)
    end = _kernels.tiny_product(*ring, *a, *b, result.columns, indptr, *workspace)
    if end >= 0 and prune:
        end = _kernels.drop_zeros(0, rows, ring[1], data, indices, indptr, 0)
    product = (data[:end].copy(), indices[:end].copy(), indptr) if end >= 0 else None
    _tiny_workspaces.__dict__[key] = workspace
    if product is not None:
        result.check(end, rows)
    return product


_tiny_workspaces = threading.local()


def _tiny_workspace(zero):
    out = np.empty(2 * _TINY, dtype=zero.dtype), np.empty(2 * _TINY, dtype=np.int32)
    row, bits, summary = _scratch(_TINY, zero)
    return *out, row, np.concatenate([bits, summary])


def _in_chunks(result, a, b, work, multiply, scratch, share, count, counted):
    """Run the kernel over all rows, in memory that is reserved by what rows may hold at most.

    Threads that share rows quick to `count` know their places, and wait for nobody.
    """
    rows, bounds = a[2].size - 1, work.bounds
    if work.total <= SMALL and result.max_memory is None:
        indptr, out = result.indptr(rows, work.total), result.entries(work.total)
        multiply(0, rows, *out, indptr, 0, *scratch())
        return result.finish(*out, indptr)
    upper, parts = _upper_bounds(work, result.columns), [1] * (len(bounds) - 1)
    if share is not None and not _threads.is_serial([0, 0, rows]):
        parts = _parts(bounds, work.products(), np.diff(a[2][bounds]).astype(np.int64))
    is_serial = _threads.is_serial(bounds) and max(parts) == 1
    is_grid = counted and count is not None
    is_known = is_grid and not is_serial and max(parts) == 1
    # Patterns of grids are found anew in every chunk, and nothing waits for a small one.
    step = max(1, min(4, len(bounds) // 32)) if is_grid else 1
    fewer = [*bounds[:-1:step], bounds[-1]]
    is_too_much = result.bytes(upper[-1], rows) > _to_reserve(result.max_memory)
    if is_too_much and result.columns > _WIDE:
        is_too_much = has_room(result.columns // 8)  # for the bitmap to count by
    if is_known or is_too_much:
        # Too much to reserve: pay for a first pass that counts.
        count = count or partial(_kernels.count_rows, *a[1:], *b[1:])
        ends = _counted(count, fewer, partial(_bitmap, result.columns))
        upper = ends[bounds]
        if counted:
            result.check(int(upper[-1]), rows)
        if is_known:
            return _in_place(result, multiply, fewer, ends, scratch)
    if is_serial:
        return _straight(result, multiply, fewer, upper, scratch)
    return _one_phase(result, multiply, bounds, upper, scratch, share, parts)


def row_flops(a_indices, a_indptr, b_indptr):
    """Count the products of every row, int64."""
    inner = b_indptr.size - 1
    width = np.int32 if a_indices.dtype == a_indptr.dtype == b_indptr.dtype == _NARROW else np.int64
    a = operand("a", a_indices, a_indices, a_indptr, inner, width)
    b = operand("b", b_indptr, b_indptr, b_indptr, inner, width)
    return np.diff(running_products(a, b)[0])


def count_triangles(indices, indptr):
    """Count the triangles of a symmetric pattern; nothing is stored."""
    n = indptr.size - 1
    graph = _mask(indices, indptr, n, "a")
    # Rows differ much in their work, which only that work itself would tell: many chunks.
    bounds = _threads.chunk_bounds(graph[1], minimum=SMALL // 8)
    below = np.empty_like(graph[0]), np.empty(graph[0].size, np.uint64), np.empty_like(graph[1])
    _threads.run_chunks(_numba_masked.words_below, bounds, *graph, *below)
    total = 0

    def commit(chunk, count):
        nonlocal total
        total += count

    _threads.run_chunks(
        _numba_masked.triangles, bounds, *graph, *below, commit=commit,
        scratch=partial(np.zeros, -(-n // 64), dtype=np.uint64),
    )  # fmt: skip
    return total


def _masked(ring, a, b, mask, ascending, prune, result):
    """Multiply on the places of a mask only."""
    rows, mask_indptr = a[2].size - 1, mask[1]
    lengths = np.zeros(0, dtype=np.int64)
    if ascending:
        lengths = np.bincount(b[1][: int(b[2][-1])].astype(np.int64), minlength=result.columns)
    ends, by_dots = np.zeros(rows + 1, dtype=np.int64), np.empty(rows, dtype=np.uint8)
    saved = []
    bounds = _threads.chunk_bounds((rows, 1 + a[1].size // max(1, rows)), minimum=2 * SMALL)

    def commit(chunk, save):
        start, stop = bounds[chunk], bounds[chunk + 1]
        if start:
            ends[start + 1 : stop + 1] += ends[start]
        saved.append(save)

    _threads.run_chunks(
        _numba_masked.masked_work, bounds, *a[1:], b[2], *mask, lengths, ends, by_dots,
        commit=commit,
    )  # fmt: skip
    # Inner products need B by columns, worth it where they save several passes over B.
    if sum(saved) > 8 * (b[1].size + b[2].size + result.columns):
        by_columns = _by_columns(b, result.columns)
    else:
        by_columns = tuple(kernel_array(part[:0]) for part in b)
        by_dots[:] = 0
    longest, waste = int(np.diff(mask_indptr).max(initial=0)), int(_numba_masked.WASTE)
    mark = np.min_scalar_type(longest + waste)

    def scratch():
        return (
            np.zeros(result.columns, dtype=mark),
            np.full(longest + waste, ring[1], dtype=result.dtype),
            np.zeros(longest + waste, dtype=np.uint8),
        )

    multiply = partial(_numba_masked.masked_rows, *ring, *a, *b, *by_columns, by_dots, *mask)
    if prune:
        multiply = partial(_pruned, multiply, ring[1])
    bounds = _threads.chunk_bounds(ends, minimum=_CHUNK)
    upper = mask_indptr[bounds].astype(np.int64)
    run = _straight if _threads.is_serial(bounds) else _one_phase
    return run(result, multiply, bounds, upper, scratch)


def _mask(indices, indptr, columns, name, line="row"):
    """Return a pattern as kernels take it: checked, sorted, free of duplicates."""
    index = np.int32 if indices.dtype == indptr.dtype == _NARROW else np.int64
    _, *pattern = operand(name, indices, indices, indptr, columns, index, line)
    if facts(name, None, *pattern, columns, line).ascends:
        return narrowed(columns, *pattern)
    from scipy.sparse import csr_array

    used = int(indptr[-1])
    stored = np.ones(used, dtype=bool), indices[:used].copy(), indptr.copy()
    canonical = csr_array(stored, shape=(indptr.size - 1, columns))
    canonical.sum_duplicates()
    _, *pattern = operand(name, canonical.indices, canonical.indices, canonical.indptr, 0, index)
    return narrowed(columns, *pattern)


def _by_columns(b, columns):
    """Return B in columns, for kernels."""
    from scipy.sparse import csr_array

    signed = f"i{b[1].itemsize}"
    parts = b[0], b[1].view(signed), b[2].view(signed)
    turned = csr_array(parts, shape=(b[2].size - 1, columns)).tocsc()
    return operand("b", turned.data, turned.indices, turned.indptr, 0, np.dtype(signed).type)


def _hash_where_rows_are_short(
    ring, a, b, sort, columns, work, multiply, scratch, has_rows
):  # fmt: skip
    """Serve those chunks by hash tables whose rows are short for so many columns; None: none.

    Without room for dense rows, all chunks, or none.
    """
    lengths, bounds = np.diff(work.ends), work.bounds
    most = np.maximum.reduceat(lengths, bounds[:-1]) if lengths.size else np.zeros(1, np.int64)
    bits = int(columns - 1).bit_length()
    short = (most <= _SHORT) | ((columns > 8 * _WIDE) & (most * _FEW <= columns))
    short |= not has_rows
    # A word holds a column and a slot of the table, which are twice the products, and 16 at least.
    short &= most < (1 << (63 - bits) if bits <= 60 else 0)
    if not (short.any() if has_rows else short.all()):
        return None
    size = 1 << max(5, int(2 * most[short].max() - 1).bit_length())
    by_hash = partial(_numba_hash.hash_rows, *ring, *a, *b, sort, np.uint64(bits))
    is_short = dict(zip(bounds, short.tolist(), strict=False))

    def either(start, stop, *rest):
        *out, tables, dense = rest
        if is_short[start]:
            return by_hash(start, stop, *out, *tables)
        if not dense:  # pages of a dense row are touched by those only who need one
            dense.extend(scratch())
        return multiply(start, stop, *out, *dense)

    def both():
        keys = np.full(size, 2**64 - 1, dtype=np.uint64)
        values = np.empty(size, dtype=ring[1].dtype)
        words, spare = (np.empty(size // 2 + 1, dtype=np.uint64) for _ in range(2))
        return (keys, values, words, spare), []

    return either, both


def _to_reserve(max_memory):
    """Bytes that may be reserved for a result whose size is only bounded."""
    quarter = available_memory() // 4
    return quarter if max_memory is None else min(quarter, max_memory // 2)


@lru_cache(maxsize=256)
def _start(semiring, dtype):
    return dtype.type(absent(semiring, dtype, np))


def _stamps(b):
    """Stamp B's rows by pattern if most repeat the row before, as on grids; else None."""
    _, indices, indptr = b
    rows = indptr.size - 1
    if not 1024 <= rows < 2**32 - 1:
        return None
    stamps = np.empty(rows, dtype=np.uint64)
    sample = np.arange(16) * (rows // 16)
    equal = sum(_kernels.stamp_rows(k, k + 9, indices, indptr, stamps) for k in sample.tolist())
    if equal < 64:  # of 128
        return None
    bounds = _threads.chunk_bounds(indptr, minimum=2 * SMALL)
    _threads.run_chunks(_kernels.stamp_rows, bounds, indices, indptr, stamps)
    return stamps


def _upper_bounds(work, columns):
    """Running sums, at chunk ends, of the rows' greatest possible numbers of entries."""
    ends, each, bounds = work.ends, work.each, work.bounds
    if each * work.longest <= columns:
        return ends[bounds].astype(np.int64) * each
    products = np.diff(ends).astype(np.int64) * each
    return np.concatenate([[0], np.cumsum(np.minimum(products, columns))])[bounds]


def _gather_or(gather, multiply, scratch, start, stop, data, indices, indptr, place, kept):
    """Gather the rows; where that leaves one out of order, multiply them."""
    end = gather(start, stop, data, indices, indptr, place)
    if end >= 0:
        return end
    if not kept:  # few ever need it, and n may be huge
        kept.extend(scratch())
    return multiply(start, stop, data, indices, indptr, place, *kept)


def _nothing_yet():
    return ([],)


def _gathered(result, gather, a, b, work):
    """Gather every chunk where it belongs, each product an entry; None where that cannot be.

    It can where the number of products is known, several threads share them and rows ascend.
    """
    is_known = work.ends is not a[2] or int(b[2][-1]) == b[2].size - 1
    fits = result.bytes(work.total, a[2].size - 1) <= _to_reserve(result.max_memory)
    if not (is_known and fits) or _threads.is_serial(work.bounds):
        return None
    return _in_place(result, gather, work.bounds, work.ends)


def _in_place(result, multiply, bounds, ends, scratch=tuple):
    """Put every chunk where it belongs at once; None where a kernel says -1."""
    total, found = int(ends[-1]), []
    indptr, out = result.indptr(bounds[-1], total), result.entries(total)

    def kernel(start, stop, buffer):
        return multiply(start, stop, *out, indptr, int(ends[start]), *buffer)

    def commit(chunk, end):
        found.append(end)

    _threads.run_chunks(kernel, bounds, scratch=scratch, commit=commit)
    return result.finish(*out, indptr) if min(found) >= 0 else None


def _straight(result, multiply, bounds, upper, scratch):
    """Put every row at its place at once: one worker."""
    indptr, out = result.indptr(bounds[-1], upper[-1]), result.entries(upper[-1])
    end = 0

    def kernel(start, stop, buffer):
        nonlocal end
        end = multiply(start, stop, *out, indptr, end, *buffer)

    _threads.run_chunks(kernel, bounds, scratch=scratch)
    return result.finish(*out, indptr)


def _one_phase(result, multiply, bounds, upper, scratch, share=None, parts=None):
    """Compute a chunk into a buffer; copy it once the chunks before it have their sizes.

    With `share`, a chunk of one heavy row is computed in so many `parts` by ranges of columns.
    """
    indptr, (data, indices) = result.indptr(bounds[-1], upper[-1]), result.entries(upper[-1])
    pieces = _pieces(bounds, np.diff(upper), result.columns, parts)
    largest = max(most for *_, most in pieces)
    free = []  # buffers to use again, still in cache
    end = 0

    def kernel(first, last, buffer):
        start, stop, low, high, _ = pieces[first] if first < last else (0, 0, 0, 0, 0)
        try:
            out = free.pop()
        except IndexError:
            out = result.entries(largest)
        if high:
            return share(start, low, high, *out, *buffer), out
        return multiply(start, stop, *out, indptr, 0, *buffer), out

    def commit(piece, computed):
        nonlocal end
        start, stop, _, high, _ = pieces[piece]
        size, out = computed
        data[end : end + size] = out[0][:size]
        indices[end : end + size] = out[1][:size]
        if high:
            indptr[stop] = end + size
        else:
            indptr[start + 1 : stop + 1] += end
        end += size
        free.append(out)

    _threads.run_chunks(kernel, range(len(pieces) + 1), scratch=scratch, commit=commit)
    return result.finish(data, indices, indptr)


def _pieces(bounds, most, columns, parts):
    """Chunks as (start, stop, first column, past the last, entries at most); 0, 0: all columns."""
    pieces = []
    for k, entries in enumerate(most.tolist()):
        count = 1 if parts is None else parts[k]
        cuts = [columns * part // count for part in range(count + 1)] if count > 1 else [0, 0]
        pieces += [
            (bounds[k], bounds[k + 1], low, high, min(entries, high - low) if high else entries)
            for low, high in pairwise(cuts)
        ]
    return pieces


def _parts(bounds, products, sources):
    """Into how many parts each chunk is cut: chunks of one row that is far heavier than one.

    Every part bisects every source: there are only so many that a source keeps 64 products.
    """
    parts = np.minimum(products // _CHUNK, products // np.maximum(64 * sources, 1))
    return np.where(np.diff(bounds) == 1, np.clip(parts, 1, 64), 1).tolist()


def _counted(count, bounds, scratch):
    """Running sums of the rows' numbers of entries, by a first pass without values."""
    counts = np.zeros(bounds[-1] + 1, dtype=np.int64)
    _threads.run_chunks(
        lambda start, stop, buffer: count(start, stop, counts, *buffer), bounds, scratch=scratch
    )
    return np.cumsum(counts)


class _Result(NamedTuple):
    """How the arrays of one result are made and cut."""

    dtype: np.dtype  # of the sums
    columns: int
    itemsize: int  # of the values in the end
    max_memory: int | None

    def check(self, entries, rows):
        check_memory(entries, (rows, self.columns), self.itemsize, self.max_memory)

    def bytes(self, entries, rows):
        index = 4 if fits_int32(self.columns) else 8
        return int(entries) * (self.dtype.itemsize + index) + 4 * rows

    def entries(self, size):
        # One more: a gathered entry is written before it is known to be there.
        index = np.int32 if fits_int32(self.columns) else np.int64
        return np.empty(size + 1, dtype=self.dtype), np.empty(size + 1, dtype=index)

    def indptr(self, rows, upper):
        indptr = np.empty(rows + 1, dtype=np.int32 if fits_int32(upper) else np.int64)
        indptr[0] = 0
        return indptr

    def finish(self, data, indices, indptr):
        size = int(indptr[-1])
        self.check(size, indptr.size - 1)
        data.resize(size, refcheck=False)
        indices.resize(size, refcheck=False)
        index = np.int32 if fits_int32(indptr.size - 1, self.columns, size) else np.int64
        return data, indices.astype(index, copy=False), indptr.astype(index, copy=False)


def _scratch(columns, zero):
    """One thread's dense row and the two levels of its bitmap, as they are between rows."""
    row = np.zeros(columns, zero.dtype) if zero == 0 else np.full(columns, zero)
    return (row, *_bitmap(columns))


def _bitmap(columns):
    words = -(-columns // 64)
    return np.zeros(words, dtype=np.uint64), np.zeros(-(-words // 64), dtype=np.uint64)
