"""CPU engine of the sparse product: what is known of the operands, and the kernels' launch.

A row is summed into a dense row of n values with a two-level bitmap of the columns touched, and
leaves in order by counting trailing zeros: no sort, no branch a product. Bounds: the gathers of
B's rows (prefetched), the scatter into the row (in L2), and the write of the result. Two kinds
of operands have kernels of their own: B without rows of two entries, and matrices of grids.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from .. import _threads
from .._checks import kernel_array
from . import _numba_rows as _kernels
from ._csr import check_csr

DTYPES = "bhilqBHILQfdFD"

# Products a chunk: about 0.3 ms, and a result buffer that stays in the L2 cache.
_CHUNK = 65_536
# Products, and entries to look at, below which a second thread does not pay.
_SMALL = 65_536
# Entries and columns up to which the cost is that of the calls: one kernel does it all.
_TINY = 4096
_NARROW = np.dtype(np.int32)


def csr_matmul(
    a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, mask_indices, mask_indptr,
    *, shape, semiring, complement, prune, sort, max_memory,
):  # fmt: skip
    """Multiply two CSR triples: one phase, chunks of rows committed in order."""
    if semiring != "plus_times" or mask_indptr is not None:
        from . import _array_api

        return _array_api.csr_matmul(
            a_data,
            a_indices,
            a_indptr,
            b_data,
            b_indices,
            b_indptr,
            mask_indices,
            mask_indptr,
            shape=shape,
            semiring=semiring,
            complement=complement,
            prune=prune,
            sort=sort,
            max_memory=max_memory,
        )
    rows, columns = shape
    index_arrays = a_indices, a_indptr, b_indices, b_indptr
    index = np.int32 if all(array.dtype == _NARROW for array in index_arrays) else np.int64
    a = _operand("a", a_data, a_indices, a_indptr, b_indptr.size - 1, index)
    b = _operand("b", b_data, b_indices, b_indptr, columns, index)
    if a_indices.size + b_indices.size + columns <= _TINY:
        product = _kernels.tiny_product(*a, *b, columns, prune)
        if product[2].size:
            return product
    of_a = _facts("a", *a, b_indptr.size - 1)
    of_b = _facts("b", *b, columns)
    scratch = partial(_scratch, columns, a_data.dtype)
    result = _Result(a_data.dtype, columns)

    # The work of the rows: their entries where B's rows are about equal, else their products.
    each, ends, longest, source = of_b.longest, a[2], of_a.longest, of_b.longest
    if 2 * each * (b_indptr.size - 1) > 3 * b_indices.size:
        each, (ends, longest, source) = 1, _running_products(a, b)
    total = each * int(ends[-1])
    kinds = _repeats(b) if total > _SMALL else None
    if kinds is not None:
        multiply = partial(_kernels.repeat_rows, *a, *b, kinds, of_b.ascends, prune)
    else:
        multiply = partial(_kernels.multiply_rows, *a, *b, of_b.ascends, prune)
    if source == 1:
        multiply = partial(_gather_or, multiply, partial(_kernels.gather_rows, *a, *b, prune))
    if total <= _SMALL:
        indptr, out = result.indptr(rows, total), result.entries(total)
        multiply(0, rows, *out, indptr, 0, *scratch())
        return result.finish(*out, indptr)
    bounds = _threads.chunk_bounds(ends, minimum=max(1, _CHUNK // each))
    upper = _upper_bounds(ends, each, longest, columns, bounds)
    if upper[-1] * (a_data.itemsize + 4) > _available_memory() // 4:
        # Too much to reserve: pay for a first pass that counts.
        upper = _counted(partial(_kernels.count_rows, *a[1:], *b[1:]), bounds, scratch)[bounds]
    run = _straight if _threads.is_serial(bounds) else _one_phase
    return run(result, multiply, bounds, upper, scratch)


def _operand(name, data, indices, indptr, columns, index):
    """Return a triple as kernels take it: read-only, indices of one width, seen as unsigned.

    As unsigned, a negative index is a large one: a single comparison finds both.
    """
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu" or data.size != indices.size:
        check_csr(name, data, indices, indptr, columns)
    unsigned = np.uint32 if index is np.int32 else np.uint64
    return (
        kernel_array(data),
        kernel_array(indices.astype(index, copy=False).view(unsigned)),
        kernel_array(indptr.astype(index, copy=False).view(unsigned)),
    )


class _Facts(NamedTuple):
    """What one pass over an operand's index arrays finds."""

    longest: int  # row
    ascends: bool  # strictly, in every row


def _facts(name, data, indices, indptr, columns):
    """Look through an operand's index arrays; raise if they are not CSR."""
    rows = indptr.size - 1
    bounds = _threads.chunk_bounds((rows, indices.size // indptr.size), minimum=4 * _SMALL)
    found = []

    def commit(chunk, facts):
        found.append(facts)

    _threads.run_chunks(_kernels.scan, bounds, indices, indptr, columns, commit=commit)
    sounds, longest, falls = zip(*found, strict=True)
    if indptr[0] != 0 or not all(sounds):
        signed = f"i{indptr.itemsize}"
        check_csr(name, data, indices.view(signed), indptr.view(signed), columns)
        raise AssertionError("unreachable: the check raises")
    return _Facts(max(longest), sum(falls) == 0)


def _repeats(b):
    """Number B's rows by pattern if most repeat the row before, as on grids; else None."""
    _, indices, indptr = b
    rows = indptr.size - 1
    if not 1024 <= rows < 2**32 - 1:
        return None
    kinds = np.empty(rows, dtype=np.uint32)
    sample = np.arange(16) * (rows // 16)
    equal = sum(_kernels.find_repeats(k, k + 9, indices, indptr, kinds) for k in sample.tolist())
    if equal < 64:  # of 128
        return None
    bounds = _threads.chunk_bounds(indptr, minimum=2 * _SMALL)
    _threads.run_chunks(_kernels.find_repeats, bounds, indices, indptr, kinds)
    return kinds


def _upper_bounds(ends, each, longest, columns, bounds):
    """Running sums, at chunk ends, of the rows' greatest possible numbers of entries."""
    if each * longest <= columns:
        return ends[bounds].astype(np.int64) * each
    products = np.diff(ends).astype(np.int64) * each
    return np.concatenate([[0], np.cumsum(np.minimum(products, columns))])[bounds]


def _gather_or(multiply, gather, start, stop, data, indices, indptr, place, *scratch):
    """Gather the rows; where that leaves one out of order, multiply them."""
    end = gather(start, stop, data, indices, indptr, place)
    return end if end >= 0 else multiply(start, stop, data, indices, indptr, place, *scratch)


def _straight(result, multiply, bounds, upper, scratch):
    """Put every row at its place at once: one worker."""
    indptr, out = result.indptr(bounds[-1], upper[-1]), result.entries(upper[-1])
    end = 0

    def kernel(start, stop, buffer):
        nonlocal end
        end = multiply(start, stop, *out, indptr, end, *buffer)

    _threads.run_chunks(kernel, bounds, scratch=scratch)
    return result.finish(*out, indptr)


def _one_phase(result, multiply, bounds, upper, scratch):
    """Compute a chunk into a buffer; copy it once the chunks before it have their sizes."""
    indptr, (data, indices) = result.indptr(bounds[-1], upper[-1]), result.entries(upper[-1])
    largest = np.diff(upper).max()
    free = []  # buffers to use again, still in cache
    end = 0

    def kernel(start, stop, buffer):
        out = free.pop() if free else result.entries(largest)
        return multiply(start, stop, *out, indptr, 0, *buffer), out

    def commit(chunk, computed):
        nonlocal end
        size, out = computed
        data[end : end + size] = out[0][:size]
        indices[end : end + size] = out[1][:size]
        indptr[bounds[chunk] + 1 : bounds[chunk + 1] + 1] += end
        end += size
        free.append(out)

    _threads.run_chunks(kernel, bounds, scratch=scratch, commit=commit)
    return result.finish(data, indices, indptr)


def _counted(count, bounds, scratch):
    """Running sums of the rows' numbers of entries, by a first pass without values."""
    counts = np.zeros(bounds[-1] + 1, dtype=np.int64)
    _threads.run_chunks(
        lambda start, stop, buffer: count(start, stop, counts, *buffer[1:]), bounds, scratch=scratch
    )
    return np.cumsum(counts)


class _Result(NamedTuple):
    """How the arrays of one result are made and cut."""

    dtype: np.dtype
    columns: int

    def entries(self, size):
        # One more: a gathered entry is written before it is known to be there.
        index = np.int32 if self.columns < 2**31 else np.int64
        return np.empty(size + 1, dtype=self.dtype), np.empty(size + 1, dtype=index)

    def indptr(self, rows, upper):
        indptr = np.empty(rows + 1, dtype=np.int32 if upper < 2**31 else np.int64)
        indptr[0] = 0
        return indptr

    def finish(self, data, indices, indptr):
        size = int(indptr[-1])
        data.resize(size, refcheck=False)
        indices.resize(size, refcheck=False)
        narrow = max(indptr.size - 1, self.columns, size) < 2**31
        index = np.int32 if narrow else np.int64
        return data, indices.astype(index, copy=False), indptr.astype(index, copy=False)


def _scratch(columns, dtype):
    """One thread's dense row and the two levels of its bitmap, all zero between rows."""
    words = columns // 64 + 1
    return (
        np.zeros(columns, dtype=dtype),
        np.zeros(words, dtype=np.uint64),
        np.zeros(words // 64 + 1, dtype=np.uint64),
    )


def _running_products(a, b):
    """Running sums of the rows' products; the most in a row, and in one of its rows of B."""
    rows = a[2].size - 1
    bounds = _threads.chunk_bounds((rows, a[1].size // rows), minimum=2 * _SMALL)
    ends = np.empty(rows + 1, dtype=np.int64)
    ends[0] = 0

    found = []

    def commit(chunk, most):  # sums run within a chunk: carry on where the one before ended
        start, stop = bounds[chunk], bounds[chunk + 1]
        if start:
            ends[start + 1 : stop + 1] += ends[start]
        found.append(most)

    _threads.run_chunks(_kernels.sum_products, bounds, a[1], a[2], b[2], ends, commit=commit)
    return ends, *np.max(found, axis=0).tolist()


def _available_memory():
    """Bytes that the machine could give now; 4 GiB where it does not tell."""
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 << 30
