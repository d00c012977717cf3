"""Compiled kernels of the masked product: only the places that a mask stores.

Two ways to a row. Products of the row fall on marks: the place in the mask's row, or one of 16
where what does not count is thrown away (one alone would make each product wait for the one
before); no branch a product. Or, where the mask holds few places and
the products are many, each place is an inner product of a row of A and a column of B.
"""

import numpy as np
from numba import njit

from .._intrinsics import for_size, popcount, prefetch, ring_add, ring_multiply

_AHEAD = np.uint64(8)
_ONE, _SIX, _LOW = np.uint64(1), np.uint64(6), np.uint64(63)
WASTE = np.uint64(16)
# Products that take as long as a step of an inner product, whose branches are mispredicted.
_STEP = np.uint64(4)


@njit(nogil=True, cache=True)
def masked_work(
    start, stop, a_indices, a_indptr, b_indptr, mask_indices, mask_indptr, lengths, ends, by_dots
):
    # Running sums of the rows' products, and which rows inner products serve better; returns how
    # much work those save. `lengths` are those of B's columns, empty where no row may choose: the
    # mean would not do, for a mask stores hubs more often than others.
    total, saved = np.uint64(0), np.uint64(0)
    for i in range(np.uint64(start), np.uint64(stop)):
        t, t_end = np.uint64(a_indptr[i]), np.uint64(a_indptr[i + _ONE])
        low, high = np.uint64(mask_indptr[i]), np.uint64(mask_indptr[i + _ONE])
        products, steps = np.uint64(0), (high - low) * (t_end - t)
        if low < high:
            while t < t_end:
                k = np.uint64(a_indices[t])
                products += np.uint64(b_indptr[k + _ONE]) - np.uint64(b_indptr[k])
                t += _ONE
        by_dots[i] = 0
        if lengths.size and steps * _STEP < products:
            for p in range(low, high):
                steps += np.uint64(lengths[np.uint64(mask_indices[p])])
            if steps * _STEP < products:
                by_dots[i] = 1
                saved += products - steps * _STEP
        total += products + (high - low)
        ends[i + _ONE] = total
    return np.int64(saved)


@njit(nogil=True, cache=True)
def masked_rows(
    ring, zero, a_data, a_indices, a_indptr, b_data, b_indices, b_indptr,
    t_data, t_indices, t_indptr, by_dots, mask_indices, mask_indptr,
    start, stop, out_data, out_indices, out_indptr, place, marks, values, hits,
):  # fmt: skip
    # Rows into out[place:]; returns where they end. `t_*` is B by columns, empty where no row is
    # served by inner products.
    end, used = np.uint64(place), np.uint64(a_indptr[-1])
    for i in range(np.uint64(start), np.uint64(stop)):
        t, t_end = np.uint64(a_indptr[i]), np.uint64(a_indptr[i + _ONE])
        low, high = np.uint64(mask_indptr[i]), np.uint64(mask_indptr[i + _ONE])
        if by_dots[i]:
            for p in range(low, high):
                column = np.uint64(mask_indices[p])
                q, q_end = np.uint64(t_indptr[column]), np.uint64(t_indptr[column + _ONE])
                s, value, hit = t, zero, False
                while s < t_end and q < q_end:
                    left, right = a_indices[s], t_indices[q]
                    if left == right:
                        product = ring_multiply(ring, a_data[s], t_data[q])
                        value = ring_add(ring, value, product)
                        hit = True
                    s += np.uint64(left <= right)
                    q += np.uint64(right <= left)
                if hit:
                    out_indices[end] = column
                    out_data[end] = value
                    end += _ONE
        elif low < high:
            for p in range(low, high):
                mark = p - low + WASTE
                marks[np.uint64(mask_indices[p])] = mark
                values[mark] = zero
                hits[mark] = 0
            while t < t_end:
                k, factor = np.uint64(a_indices[t]), a_data[t]
                ahead = t + _AHEAD
                if ahead + _AHEAD < used:
                    prefetch(b_indptr, np.uint64(a_indices[ahead + _AHEAD]))
                    row = np.uint64(b_indptr[np.uint64(a_indices[ahead])])
                    prefetch(b_indices, row)
                    prefetch(b_data, row)
                for q in range(np.uint64(b_indptr[k]), np.uint64(b_indptr[k + _ONE])):
                    mark = np.uint64(marks[np.uint64(b_indices[q])])
                    mark = mark if mark else q % WASTE
                    product = ring_multiply(ring, factor, b_data[q])
                    values[mark] = ring_add(ring, values[mark], product)
                    hits[mark] = 1
                t += _ONE
            for p in range(low, high):
                mark = p - low + WASTE
                marks[np.uint64(mask_indices[p])] = 0
                out_indices[end] = mask_indices[p]
                out_data[end] = values[mark]
                end += np.uint64(hits[mark])
        out_indptr[i + _ONE] = end
    return np.int64(end)


@njit(nogil=True, cache=True)
def words_below(start, stop, indices, indptr, places, words, ends):
    # Rows start..stop below the diagonal as a bitmap without its empty words: from p = indptr[i]
    # to ends[i], words[p] is word places[p] of row i. At most as many words as entries, and far
    # fewer where columns stand close. Rows are sorted.
    for i in range(np.uint64(start), np.uint64(stop)):
        begin = np.uint64(indptr[i])
        end = begin
        for t in range(begin, np.uint64(indptr[i + _ONE])):
            column = np.uint64(indices[t])
            if column >= i:
                break
            if end == begin or np.uint64(places[end - _ONE]) != column >> _SIX:
                places[end] = column >> _SIX
                words[end] = 0
                end += _ONE
            words[end - _ONE] |= _ONE << (column & _LOW)
        ends[i] = end


@njit(nogil=True, cache=True)
def triangles(start, stop, indices, indptr, places, words, ends, marks):
    # Triples i > k > j that are joined by three edges, by i: what the words of the rows i and k
    # share, for each k of row i. The marks are row i's bitmap with its empty words. For size: the
    # dozen words of a row are too few for vectors.
    for_size()
    count, used = np.uint64(0), np.uint64(indptr[-1])
    for i in range(np.uint64(start), np.uint64(stop)):
        begin, end = np.uint64(indptr[i]), np.uint64(ends[i])
        for p in range(begin, end):
            marks[np.uint64(places[p])] = words[p]
        t, t_end = begin, np.uint64(indptr[i + _ONE])
        while t < t_end and np.uint64(indices[t]) < i:
            ahead = t + _AHEAD
            if ahead < used:
                row = np.uint64(indptr[np.uint64(indices[ahead])])
                prefetch(places, row)
                prefetch(words, row)
            k = np.uint64(indices[t])
            for p in range(np.uint64(indptr[k]), np.uint64(ends[k])):
                count += popcount(marks[np.uint64(places[p])] & words[p])
            t += _ONE
        for p in range(begin, end):
            marks[np.uint64(places[p])] = 0
    return np.int64(count)
