"""Compiled kernels of the sparse product: rows start..stop of one step of it.

Index arrays come as unsigned integers. Out-of-range indices were refused before a kernel here
follows them, except by `scan`, which is what finds them.
"""

import numpy as np
from numba import njit

from .._intrinsics import popcount, prefetch, ring_add, ring_multiply, trailing_zeros

# Entries of A ahead of the current one: their row of B is fetched, at twice that its pointer.
_AHEAD = np.uint64(8)
_ZERO, _ONE, _SIX, _LOW = np.uint64(0), np.uint64(1), np.uint64(6), np.uint64(63)
# Patterns of rows that are kept: at most so many sources and products a row, so many at a time.
_SOURCES, _PRODUCTS, _KEPT = np.uint64(64), np.uint64(1024), np.uint64(16)
_HALF, _ODD = np.uint64(32), np.uint64(0x9E3779B97F4A7C15)


@njit(nogil=True, cache=True)
def scan(start, stop, indices, indptr, columns):
    # Of the rows start..stop: whether they are CSR of `columns` columns, the longest, and how
    # often indices fall within a row. Two streams in unsigned loops, which the compiler
    # vectorises: falls are counted as if all were one row, less those where a row begins.
    size = np.uint64(indices.size)
    longest, falls = np.uint64(0), 0
    for k in range(np.uint64(start), np.uint64(stop)):
        begin, end = np.uint64(indptr[k]), np.uint64(indptr[k + _ONE])
        if end < begin or end > size:
            return False, 0, 0
        longest = max(longest, end - begin)
        if begin < end and begin > np.uint64(indptr[start]):
            falls -= indices[begin] <= indices[begin - _ONE]
    here = indices[indptr[start] : indptr[stop]]
    if here.size == 0:
        return True, 0, 0
    largest = here[0]
    ahead = here[1:]
    for q in range(np.uint64(ahead.size)):
        largest = max(largest, ahead[q])
        falls += ahead[q] <= here[q]
    return np.uint64(largest) < np.uint64(columns), np.int64(longest), falls


@njit(nogil=True, cache=True)
def sum_products(start, stop, a_indices, a_indptr, b_indptr, ends):
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
def gather_rows(
    ring, zero, a_data, a_indices, a_indptr, b_data, b_indices, b_indptr,
    start, stop, out_data, out_indices, out_indptr, place,
):  # fmt: skip
    # Where no row of B holds two entries, row i of the product is a gather. Branch-free: what is
    # not there is written to the array's last place, which others may share. -1 if a row does
    # not ascend after all.
    waste = np.uint64(out_data.size - 1)
    end, last = np.uint64(place), np.uint64(b_indices.size - 1)
    for i in range(np.uint64(start), np.uint64(stop)):
        begin = end
        for t in range(np.uint64(a_indptr[i]), np.uint64(a_indptr[i + _ONE])):
            k = np.uint64(a_indices[t])
            q = np.uint64(b_indptr[k])
            there = np.uint64(b_indptr[k + _ONE]) - q
            q = min(q, last)
            value = ring_add(ring, zero, ring_multiply(ring, a_data[t], b_data[q]))
            p = end if there else waste
            out_indices[p] = b_indices[q]
            out_data[p] = value
            end += there
        out_indptr[i + _ONE] = end
        falls = 0
        for p in range(begin + _ONE, end):
            falls += out_indices[p] <= out_indices[p - _ONE]
        if falls:
            return np.int64(-1)
    return np.int64(end)


@njit(nogil=True, inline="always")
def _is_shifted(indices, indptr, i, k):
    # Whether row k holds the columns of row i but for a shift; neither is empty.
    p, q, q_end = np.uint64(indptr[i]), np.uint64(indptr[k]), np.uint64(indptr[k + _ONE])
    shift, equal = indices[q] - indices[p], np.uint64(indptr[i + _ONE]) - p == q_end - q
    while equal and q < q_end:
        equal = indices[q] - indices[p] == shift
        p += _ONE
        q += _ONE
    return equal


@njit(nogil=True, cache=True)
def stamp_rows(start, stop, indices, indptr, stamps):
    # A row's stamp: the number of its pattern, and in the lower half its first column; 0 of an
    # empty row. Rows of one number hold the same columns but for a shift. Looked for in the row
    # before and in a table of patterns, so that one may have several numbers. Returns how many
    # rows repeat the one before. Bound: one stream.
    known = np.zeros(256, np.uint32)  # a row of that pattern, from 1 on
    equal = 0
    for k in range(np.uint64(start), np.uint64(stop)):
        begin, end = np.uint64(indptr[k]), np.uint64(indptr[k + _ONE])
        if begin == end:
            stamps[k] = 0
            continue
        number = stamps[k - _ONE] >> _HALF if k > np.uint64(start) else np.uint64(0)
        if number and _is_shifted(indices, indptr, k - _ONE, k):
            equal += 1
        else:
            mixed = np.uint64(0)
            for q in range(begin, end):
                mixed = (mixed ^ np.uint64(indices[q] - indices[begin])) * _ODD
            place = mixed >> np.uint64(56)
            number = np.uint64(known[place])
            if number == 0 or not _is_shifted(indices, indptr, number - _ONE, k):
                number = k + _ONE
                known[place] = number
        stamps[k] = number << _HALF | np.uint64(indices[begin])
    return equal


@njit(nogil=True, inline="always")
def _repeats(stamps, a_indices, t, count, bases, here):
    # Whether the sources of a row are those of the pattern kept `here`, shifted: their stamps
    # then differ by one number, less than half of which is needed.
    base, first = here * _SOURCES, stamps[np.uint64(a_indices[t])]
    shift = first - bases[base]
    equal = first >> _HALF == bases[base] >> _HALF
    for j in range(_ONE, count):
        if stamps[np.uint64(a_indices[t + j])] - bases[base + j] != shift:
            equal = False
            break
    return equal


@njit(nogil=True, inline="always")
def _place_of(stamps, a_indices, t, count):
    # Where the pattern of a row is kept, if it is.
    first = stamps[np.uint64(a_indices[t])]
    mixed = (first >> _HALF) * _ODD
    for j in range(_ONE, count):
        mixed = (mixed ^ (stamps[np.uint64(a_indices[t + j])] - first)) * _ODD
    return mixed >> np.uint64(60)


@njit(nogil=True, inline="always")
def _looked_up(stamps, a_indices, t, count, sources, bases, here):
    # Where the pattern of a row is kept, or will be, and whether it is there: first `here`, where
    # that of the row before is.
    repeats = count == sources[here] and _repeats(stamps, a_indices, t, count, bases, here)
    if not repeats:
        here = _place_of(stamps, a_indices, t, count)
        repeats = count == sources[here] and _repeats(stamps, a_indices, t, count, bases, here)
    return here, repeats


@njit(nogil=True, inline="always")
def _group(summary):
    # Words of the summary for each bit of the one word above, as a power of two.
    group, size = np.uint64(0), np.uint64(summary.size)
    while size > _ONE << (group + _SIX):
        group += _ONE
    return group


@njit(nogil=True, inline="always")
def _sum_row(
    ring, a_data, a_indices, b_data, b_indices, b_indptr, t, t_end, used,
    sums, bits, summary,
):  # fmt: skip
    # Add up one row and mark its columns in the bitmap, in the summary of its words, and in one
    # word above all, which is returned. Sums start from what an absent entry means and run in
    # stored order, which is also what settles the sign of a zero. Inlined, and with a single
    # exit: a call, or a second return, made short rows 1.4 times slower.
    group, top = _group(summary), np.uint64(0)
    while t < t_end:
        k, factor = np.uint64(a_indices[t]), a_data[t]
        q, q_end = np.uint64(b_indptr[k]), np.uint64(b_indptr[k + _ONE])
        ahead = t + _AHEAD
        if ahead + _AHEAD < used:
            prefetch(b_indptr, np.uint64(a_indices[ahead + _AHEAD]))
            row = np.uint64(b_indptr[np.uint64(a_indices[ahead])])
            prefetch(b_indices, row)
            prefetch(b_data, row)
        while q < q_end:
            column = np.uint64(b_indices[q])
            word = column >> _SIX
            words = word >> _SIX
            sums[column] = ring_add(ring, sums[column], ring_multiply(ring, factor, b_data[q]))
            bits[word] |= _ONE << (column & _LOW)
            summary[words] |= _ONE << (word & _LOW)
            top |= _ONE << (words >> group)
            q += _ONE
        t += _ONE
    return top


@njit(nogil=True, inline="always")
def _take_row(zero, top, out_data, out_indices, end, sums, bits, summary):
    # Move a row out in order, leaving everything as it was before; returns where it ends. Loops
    # test at their end, for what is marked above is not 0: fewer branches are mispredicted where
    # entries are far apart.
    group = _group(summary)
    while top:
        words = trailing_zeros(top) << group
        top &= top - _ONE
        last = min(words + (_ONE << group), np.uint64(summary.size)) - _ONE
        while True:
            middle = summary[words]
            if middle:
                summary[words] = 0
                while True:
                    word = (words << _SIX) + trailing_zeros(middle)
                    middle &= middle - _ONE
                    low = bits[word]
                    bits[word] = 0
                    while True:
                        column = (word << _SIX) + trailing_zeros(low)
                        low &= low - _ONE
                        out_data[end] = sums[column]
                        out_indices[end] = column
                        sums[column] = zero
                        end += _ONE
                        if low == 0:
                            break
                    if middle == 0:
                        break
            if words == last:
                break
            words += _ONE
    return end


@njit(nogil=True, cache=True)
def multiply_rows(
    ring, zero, a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, ascending,
    start, stop, out_data, out_indices, out_indptr, place, sums, bits, summary,
):  # fmt: skip
    # Rows into out[place:]; returns where they end.
    end, used = np.uint64(place), np.uint64(a_indptr[-1])
    for i in range(np.uint64(start), np.uint64(stop)):
        t, t_end = np.uint64(a_indptr[i]), np.uint64(a_indptr[i + _ONE])
        if t_end - t == 1 and ascending:
            # One source: its row of B, scaled.
            k, factor = np.uint64(a_indices[t]), a_data[t]
            for q in range(np.uint64(b_indptr[k]), np.uint64(b_indptr[k + _ONE])):
                out_indices[end] = b_indices[q]
                out_data[end] = ring_add(ring, zero, ring_multiply(ring, factor, b_data[q]))
                end += _ONE
            out_indptr[i + _ONE] = end
            continue
        top = _sum_row(
            ring, a_data, a_indices, b_data, b_indices, b_indptr, t, t_end, used,
            sums, bits, summary,
        )  # fmt: skip
        end = _take_row(zero, top, out_data, out_indices, end, sums, bits, summary)
        out_indptr[i + _ONE] = end
    return np.int64(end)


@njit(nogil=True, cache=True)
def part_of_row(
    ring, zero, a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, ascending,
    i, low, high, out_data, out_indices, sums, bits, summary,
):  # fmt: skip
    # The columns low..high of row i, for threads that share a heavy row. Each sum still runs in
    # stored order, which shares by sources would not keep.
    low, high = np.uint64(low), np.uint64(high)
    group, top = _group(summary), np.uint64(0)
    for t in range(np.uint64(a_indptr[i]), np.uint64(a_indptr[i + 1])):
        k, factor = np.uint64(a_indices[t]), a_data[t]
        q, q_end = np.uint64(b_indptr[k]), np.uint64(b_indptr[k + _ONE])
        if ascending:
            above = q_end
            while q < above:
                middle = (q + above) >> _ONE
                if np.uint64(b_indices[middle]) < low:
                    q = middle + _ONE
                else:
                    above = middle
        while q < q_end:
            column = np.uint64(b_indices[q])
            if column >= high and ascending:
                break
            if low <= column < high:
                word = column >> _SIX
                sums[column] = ring_add(ring, sums[column], ring_multiply(ring, factor, b_data[q]))
                bits[word] |= _ONE << (column & _LOW)
                summary[word >> _SIX] |= _ONE << (word & _LOW)
                top |= _ONE << (word >> _SIX >> group)
            q += _ONE
    end = np.uint64(0)
    end = _take_row(zero, top, out_data, out_indices, end, sums, bits, summary)
    return np.int64(end)


@njit(nogil=True, cache=True)
def complement_rows(
    ring, zero, a_data, a_indices, a_indptr, b_data, b_indices, b_indptr,
    mask_indices, mask_indptr, start, stop, out_data, out_indices, out_indptr, place,
    sums, bits, summary,
):  # fmt: skip
    # Rows without the places of a mask, which are struck from the bitmap before the row leaves.
    # To add what is not wanted costs no more than to ask: a branch a product.
    end, used = np.uint64(place), np.uint64(a_indptr[-1])
    for i in range(np.uint64(start), np.uint64(stop)):
        top = _sum_row(
            ring, a_data, a_indices, b_data, b_indices, b_indptr, np.uint64(a_indptr[i]),
            np.uint64(a_indptr[i + _ONE]), used, sums, bits, summary,
        )  # fmt: skip
        for p in range(np.uint64(mask_indptr[i]), np.uint64(mask_indptr[i + _ONE])):
            column = np.uint64(mask_indices[p])
            word = column >> _SIX
            words = word >> _SIX
            sums[column] = zero
            bits[word] &= ~(_ONE << (column & _LOW))
            if bits[word] == 0:
                summary[words] &= ~(_ONE << (word & _LOW))
        end = _take_row(zero, top, out_data, out_indices, end, sums, bits, summary)
        out_indptr[i + _ONE] = end
    return np.int64(end)


@njit(nogil=True, cache=True)
def repeat_rows(
    ring, zero, a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, stamps,
    start, stop, out_data, out_indices, out_indptr, place, sums, bits, summary,
):  # fmt: skip
    # The same for matrices of grids: a row whose sources are those of an earlier row, shifted,
    # has its pattern, shifted, and its products fall on the same places of it. What is left is
    # one multiplication and one addition a product, all in L1. The second row of its kind tells
    # the pattern, by the usual way.
    end, used = np.uint64(place), np.uint64(a_indptr[-1])
    bases = np.empty(_KEPT * _SOURCES, np.uint64)  # stamps of the sources
    sources = np.zeros(_KEPT, np.uint64)
    entries = np.zeros(_KEPT, np.uint64)  # of the pattern; 0: not known yet
    pattern = np.empty(_KEPT * _PRODUCTS, b_indices.dtype)  # its columns, less the first source's
    slots = np.empty(_KEPT * _PRODUCTS, np.uint16)  # the place of each product in the pattern
    here = np.uint64(0)
    for i in range(np.uint64(start), np.uint64(stop)):
        begin = end
        t, t_end = np.uint64(a_indptr[i]), np.uint64(a_indptr[i + _ONE])
        count = t_end - t
        may, repeats = _ZERO < count <= _SOURCES, False
        if may:
            here, repeats = _looked_up(stamps, a_indices, t, count, sources, bases, here)
        at, first = here * _PRODUCTS, b_indices.dtype.type(0)
        if may:
            first = b_indices.dtype.type(stamps[np.uint64(a_indices[t])])
        if repeats and entries[here]:
            for p in range(entries[here]):
                out_indices[end + p] = first + pattern[at + p]
                out_data[end + p] = zero
            s = at
            while t < t_end:
                k, factor = np.uint64(a_indices[t]), a_data[t]
                for q in range(np.uint64(b_indptr[k]), np.uint64(b_indptr[k + _ONE])):
                    p = end + np.uint64(slots[s])
                    out_data[p] = ring_add(
                        ring, out_data[p], ring_multiply(ring, factor, b_data[q])
                    )
                    s += _ONE
                t += _ONE
            end += entries[here]
        else:
            top = _sum_row(
                ring, a_data, a_indices, b_data, b_indices, b_indptr, t, t_end, used,
                sums, bits, summary,
            )  # fmt: skip
            end = _take_row(zero, top, out_data, out_indices, end, sums, bits, summary)
            if repeats:
                entries[here] = end - begin
                for p in range(entries[here]):
                    pattern[at + p] = b_indices.dtype.type(out_indices[begin + p]) - first
                s = at
                for j in range(count):
                    k = np.uint64(a_indices[t + j])
                    p = begin
                    for q in range(np.uint64(b_indptr[k]), np.uint64(b_indptr[k + _ONE])):
                        column = out_indices.dtype.type(b_indices[q])
                        if out_indices[p] > column:  # B's row does not ascend
                            p = begin
                        while out_indices[p] < column:
                            p += _ONE
                        slots[s] = p - begin
                        s += _ONE
            elif may:
                products = np.uint64(0)
                for j in range(count):
                    k = np.uint64(a_indices[t + j])
                    bases[here * _SOURCES + j] = stamps[k]
                    products += np.uint64(b_indptr[k + _ONE]) - np.uint64(b_indptr[k])
                sources[here] = count if products <= _PRODUCTS else _ZERO
                entries[here] = 0
        out_indptr[i + _ONE] = end
    return np.int64(end)


@njit(nogil=True, cache=True)
def drop_zeros(start, stop, zero, data, indices, indptr, place):
    # Drop what equals an absent entry from the rows start..stop, which begin at `place`; returns
    # where they end. A pass of its own, in the caches: in the kernels of rows, the place of an
    # entry would wait for the values of all before it, or each kernel be compiled twice.
    begin = kept = np.uint64(place)
    for i in range(np.uint64(start), np.uint64(stop)):
        end = np.uint64(indptr[i + _ONE])
        for p in range(begin, end):
            value = data[p]
            indices[kept] = indices[p]
            data[kept] = value
            kept += np.uint64(value != zero)
        begin = end
        indptr[i + _ONE] = kept
    return np.int64(kept)


@njit(nogil=True, cache=True)
def count_rows(a_indices, a_indptr, b_indices, b_indptr, start, stop, counts, bits, summary):
    # Entries of the rows start..stop of the product, by the bitmap alone.
    for i in range(np.uint64(start), np.uint64(stop)):
        group, top = _group(summary), np.uint64(0)
        t, t_end = np.uint64(a_indptr[i]), np.uint64(a_indptr[i + _ONE])
        while t < t_end:
            k = np.uint64(a_indices[t])
            q, q_end = np.uint64(b_indptr[k]), np.uint64(b_indptr[k + _ONE])
            while q < q_end:
                column = np.uint64(b_indices[q])
                word = column >> _SIX
                bits[word] |= _ONE << (column & _LOW)
                summary[word >> _SIX] |= _ONE << (word & _LOW)
                top |= _ONE << (word >> _SIX >> group)
                q += _ONE
            t += _ONE
        count = np.uint64(0)
        while top:
            words = trailing_zeros(top) << group
            last = min(words + (_ONE << group), np.uint64(summary.size))
            top &= top - _ONE
            while words < last:
                middle = summary[words]
                summary[words] = 0
                while middle:
                    word = (words << _SIX) + trailing_zeros(middle)
                    middle &= middle - _ONE
                    count += popcount(bits[word])
                    bits[word] = 0
                words += _ONE
        counts[i + _ONE] = count


@njit(nogil=True, cache=True)
def count_repeats(
    a_indices, a_indptr, b_indices, b_indptr, stamps, start, stop, counts, bits, summary
):  # fmt: skip
    # The same for matrices of grids: a row whose sources are those of an earlier row, shifted,
    # has as many entries.
    bases = np.empty(_KEPT * _SOURCES, np.uint64)
    sources = np.zeros(_KEPT, np.uint64)
    entries = np.empty(_KEPT, np.int64)
    here = np.uint64(0)
    for i in range(np.uint64(start), np.uint64(stop)):
        t, count = np.uint64(a_indptr[i]), np.uint64(a_indptr[i + _ONE] - a_indptr[i])
        may, repeats = _ZERO < count <= _SOURCES, False
        if may:
            here, repeats = _looked_up(stamps, a_indices, t, count, sources, bases, here)
        if repeats:
            counts[i + _ONE] = entries[here]
        else:
            count_rows(a_indices, a_indptr, b_indices, b_indptr, i, i + _ONE, counts, bits, summary)
            if may:
                for j in range(count):
                    bases[here * _SOURCES + j] = stamps[np.uint64(a_indices[t + j])]
                sources[here], entries[here] = count, counts[i + _ONE]


@njit(nogil=True, cache=True)
def tiny_product(
    ring, zero, a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, columns,
    out_indptr, out_data, out_indices, sums, marks,
):  # fmt: skip
    # All of a small product in one call, which is what it costs; returns its entries, or -1
    # where operands are not CSR or there may be more entries than `out` holds.
    rows, inner = a_indptr.size - 1, b_indptr.size - 1
    a_sound, _, _ = scan(0, rows, a_indices, a_indptr, inner)
    b_sound, _, falls = scan(0, inner, b_indices, b_indptr, columns)
    if not (a_sound and b_sound and a_indptr[0] == 0 and b_indptr[0] == 0):
        return np.int64(-1)
    most = np.uint64(0)
    for t in range(np.uint64(a_indptr[rows])):
        k = np.uint64(a_indices[t])
        most += np.uint64(b_indptr[k + _ONE]) - np.uint64(b_indptr[k])
    if most > np.uint64(out_data.size):
        return np.int64(-1)
    out_indptr[0] = 0
    return multiply_rows(
        ring, zero, a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, falls == 0,
        0, rows, out_data, out_indices, out_indptr, 0, sums, marks[:-1], marks[-1:],
    )  # fmt: skip
