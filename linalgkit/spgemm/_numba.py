"""CPU kernels of the sparse product and what launches them.

A row is summed into a dense row of n values with a two-level bitmap of the columns touched, and
leaves in order by counting trailing zeros: no sort, no branch a product. Bounds: the gathers of
B's rows (prefetched), the scatter into the row (in L2), and the write of the result.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
from numba import njit

from .. import _threads
from .._checks import kernel_array
from .._intrinsics import popcount, prefetch, trailing_zeros
from ._csr import check_csr

DTYPES = "bhilqBHILQfdFD"

# Products a chunk: about 0.3 ms, and a result buffer that stays in the L2 cache.
_CHUNK = 65_536
# Products, and entries to look at, below which a second thread does not pay.
_SMALL = 65_536
# Entries of A ahead of the current one: their row of B is fetched, at twice that its pointer.
_AHEAD = np.uint64(8)
_NARROW = {np.dtype(np.int32)}
_ONE, _SIX, _LOW = np.uint64(1), np.uint64(6), np.uint64(63)


def csr_matmul(a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, *, shape, prune):
    """Multiply two CSR triples: one phase, chunks of rows committed in order."""
    rows, columns = shape
    widths = {array.dtype for array in (a_indices, a_indptr, b_indices, b_indptr)}
    index = np.int32 if widths == _NARROW else np.int64
    a, of_a = _operand("a", a_data, a_indices, a_indptr, b_indptr.size - 1, index)
    b, of_b = _operand("b", b_data, b_indices, b_indptr, columns, index)
    multiply = partial(_multiply_rows, *a, *b, of_b.ascends, prune)
    scratch = partial(_scratch, columns, a_data.dtype)
    result = _Result(a_data.dtype, columns)

    # The work of the rows: their entries where B's rows are about equal, else their products.
    each, ends, longest, source = of_b.longest, a[2], of_a.longest, of_b.longest
    if 2 * each * (b_indptr.size - 1) > 3 * b_indices.size:
        each, (ends, longest, source) = 1, _running_products(a, b)
    if source == 1:
        multiply = partial(_gather_or, multiply, partial(_gather_rows, *a, *b, prune))
    if (total := each * int(ends[-1])) <= _SMALL:
        indptr, out = result.indptr(rows, total), result.entries(total)
        multiply(0, rows, *out, indptr, 0, *scratch())
        return result.finish(*out, indptr)
    bounds = _threads.chunk_bounds(ends, minimum=max(1, _CHUNK // each))
    upper = _upper_bounds(ends, each, longest, columns, bounds)
    if upper[-1] * (a_data.itemsize + 4) > _available_memory() // 4:
        # Too much to reserve: pay for a first pass that counts.
        upper = _counted(partial(_count_rows, *a[1:], *b[1:]), bounds, scratch)[bounds]
    run = _straight if _threads.is_serial(bounds) else _one_phase
    return run(result, multiply, bounds, upper, scratch)


class _Facts(NamedTuple):
    """What one pass over an operand's index arrays finds."""

    longest: int  # row
    ascends: bool  # strictly, in every row


def _operand(name, data, indices, indptr, columns, index):
    """Return a triple as kernels take it, and its facts; raise if it is not CSR.

    Read-only, indices of one width, seen as unsigned: a negative index is a large one.
    """
    sound = indices.dtype.kind in "iu" and indptr.dtype.kind in "iu" and data.size == indices.size
    if sound:
        unsigned = np.uint32 if index is np.int32 else np.uint64
        seen = kernel_array(indices.astype(index, copy=False).view(unsigned))
        pointers = kernel_array(indptr.astype(index, copy=False).view(unsigned))
        bounds = _threads.chunk_bounds(
            (indptr.size - 1, indices.size // indptr.size), minimum=4 * _SMALL
        )
        found = []
        _threads.run_chunks(
            _scan, bounds, seen, pointers, commit=lambda chunk, facts: found.append(facts)
        )
        parts = np.array(found)
        largest, longest, falls = parts[:, 0].max(), parts[:, 1].max(), parts[:, 2].sum()
        if pointers[0] == 0 and -1 < largest < columns:
            return (kernel_array(data), seen, pointers), _Facts(int(longest), bool(falls == 0))
    check_csr(name, data, indices, indptr, columns)
    raise AssertionError("unreachable: the check raises")


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


@njit(nogil=True, cache=True)
def _scan(start, stop, indices, indptr):
    # Of the rows start..stop: the largest index (-1: none; 2**62: not CSR), the longest row, and
    # how often indices fall within a row. Two streams, unsigned, which the compiler vectorises:
    # falls are counted as if all were one row, less those where a row begins.
    size = np.uint64(indices.size)
    longest, falls = np.uint64(0), 0
    for k in range(np.uint64(start), np.uint64(stop)):
        begin, end = np.uint64(indptr[k]), np.uint64(indptr[k + _ONE])
        if end < begin or end > size:
            return 2**62, 0, 0
        longest = max(longest, end - begin)
        if begin < end and k > start:
            falls -= indices[begin] <= indices[begin - _ONE]
    here = indices[indptr[start] : indptr[stop]]
    if here.size == 0:
        return -1, 0, 0
    largest = here[0]
    ahead = here[1:]
    for q in range(np.uint64(ahead.size)):
        largest = max(largest, ahead[q])
        falls += ahead[q] <= here[q]
    return min(np.int64(largest >> 1), 2**61) * 2 + np.int64(largest & 1), np.int64(longest), falls


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

    _threads.run_chunks(_sum_products, bounds, a[1], a[2], b[2], ends, commit=commit)
    return ends, *np.max(found, axis=0).tolist()


@njit(nogil=True, cache=True)
def _sum_products(start, stop, a_indices, a_indptr, b_indptr, ends):
    # Bound by the gather of B's row lengths.
    total, largest, longest = np.uint64(0), np.uint64(0), np.uint64(0)
    for i in range(np.uint64(start), np.uint64(stop)):
        products = np.uint64(0)
        for t in range(np.uint64(a_indptr[i]), np.uint64(a_indptr[i + _ONE])):
            k = np.uint64(a_indices[t])
            length = np.uint64(b_indptr[k + _ONE]) - np.uint64(b_indptr[k])
            products += length
            longest = max(longest, length)
        total += products
        largest = max(largest, products)
        ends[i + _ONE] = total
    return np.int64(largest), np.int64(longest)


@njit(nogil=True, cache=True)
def _gather_rows(
    a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, prune,
    start, stop, out_data, out_indices, out_indptr, place,
):  # fmt: skip
    # Where no row of B holds two entries, row i of the product is a gather. Branch-free, each
    # entry written before it is known to be there; -1 if a row does not ascend after all.
    zero = b_data.dtype.type(0)
    end, last = np.uint64(place), np.uint64(b_indices.size - 1)
    for i in range(np.uint64(start), np.uint64(stop)):
        begin = end
        for t in range(np.uint64(a_indptr[i]), np.uint64(a_indptr[i + _ONE])):
            k = np.uint64(a_indices[t])
            q = np.uint64(b_indptr[k])
            there = np.uint64(b_indptr[k + _ONE]) - q
            q = min(q, last)
            value = zero + a_data[t] * b_data[q]
            out_indices[end] = b_indices[q]
            out_data[end] = value
            end += there & np.uint64(value != zero) if prune else there
        out_indptr[i + _ONE] = end
        falls = 0
        for p in range(begin + _ONE, end):
            falls += out_indices[p] <= out_indices[p - _ONE]
        if falls:
            return np.int64(-1)
    return np.int64(end)


@njit(nogil=True, cache=True)
def _multiply_rows(
    a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, ascending, prune,
    start, stop, out_data, out_indices, out_indptr, place, sums, bits, summary,
):  # fmt: skip
    # Rows start..stop of the product into out[place:]; returns where they end. Sums start from 0
    # and run in stored order, which is also what settles the sign of a zero.
    zero = sums.dtype.type(0)
    keep = not prune
    end = np.uint64(place)
    used = np.uint64(a_indptr[-1])
    top = np.uint64(summary.size - 1)
    for i in range(np.uint64(start), np.uint64(stop)):
        begin = end
        t, t_end = np.uint64(a_indptr[i]), np.uint64(a_indptr[i + _ONE])
        if t_end - t == 1 and ascending:
            # One source: its row of B, scaled.
            k, factor = np.uint64(a_indices[t]), a_data[t]
            q, q_end = np.uint64(b_indptr[k]), np.uint64(b_indptr[k + _ONE])
            while q < q_end:
                value = zero + factor * b_data[q]
                out_indices[end] = b_indices[q]
                out_data[end] = value
                end += _ONE if keep else np.uint64(value != zero)
                q += _ONE
            out_indptr[i + _ONE] = end
            continue

        first, last = (top, np.uint64(0)) if ascending else (np.uint64(0), top)
        while t < t_end:
            k, factor = np.uint64(a_indices[t]), a_data[t]
            q, q_end = np.uint64(b_indptr[k]), np.uint64(b_indptr[k + _ONE])
            ahead = t + _AHEAD
            if ahead + _AHEAD < used:
                prefetch(b_indptr, np.uint64(a_indices[ahead + _AHEAD]))
                row = np.uint64(b_indptr[np.uint64(a_indices[ahead])])
                prefetch(b_indices, row)
                prefetch(b_data, row)
            if q < q_end and ascending:
                first = min(first, np.uint64(b_indices[q]) >> np.uint64(12))
                last = max(last, np.uint64(b_indices[q_end - _ONE]) >> np.uint64(12))
            while q < q_end:
                column = np.uint64(b_indices[q])
                word = column >> _SIX
                sums[column] += factor * b_data[q]
                bits[word] |= _ONE << (column & _LOW)
                summary[word >> _SIX] |= _ONE << (word & _LOW)
                q += _ONE
            t += _ONE
        while first <= last:
            words = summary[first]
            summary[first] = 0
            while words:
                word = (first << _SIX) + trailing_zeros(words)
                words &= words - _ONE
                left = bits[word]
                bits[word] = 0
                while left:
                    column = (word << _SIX) + trailing_zeros(left)
                    left &= left - _ONE
                    value = sums[column]
                    sums[column] = zero
                    out_indices[end] = column
                    out_data[end] = value
                    end += _ONE if keep else np.uint64(value != zero)
            first += _ONE
        out_indptr[i + _ONE] = end
    return np.int64(end)


@njit(nogil=True, cache=True)
def _count_rows(a_indices, a_indptr, b_indices, b_indptr, start, stop, counts, bits, summary):
    # Entries of the rows start..stop of the product, by the bitmap alone.
    for i in range(np.uint64(start), np.uint64(stop)):
        t, t_end = np.uint64(a_indptr[i]), np.uint64(a_indptr[i + _ONE])
        while t < t_end:
            k = np.uint64(a_indices[t])
            q, q_end = np.uint64(b_indptr[k]), np.uint64(b_indptr[k + _ONE])
            while q < q_end:
                column = np.uint64(b_indices[q])
                word = column >> _SIX
                bits[word] |= _ONE << (column & _LOW)
                summary[word >> _SIX] |= _ONE << (word & _LOW)
                q += _ONE
            t += _ONE
        count = np.uint64(0)
        for s in range(summary.size):
            words = summary[s]
            summary[s] = 0
            while words:
                word = (np.uint64(s) << _SIX) + trailing_zeros(words)
                words &= words - _ONE
                count += popcount(bits[word])
                bits[word] = 0
        counts[i + _ONE] = count


def _available_memory():
    """Bytes that the machine could give now; half of nothing known is 4 GiB."""
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 << 30
