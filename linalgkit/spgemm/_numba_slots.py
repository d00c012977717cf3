"""Compiled kernels of products of known patterns: where each product goes, values, gradients.

Slots are places within the row of the result: 1, 2 or 4 bytes a product. With them a product is
one multiplication and one addition into a row that is in L1. Bound: these, five instructions a
product and a dozen an entry of A; on all cores the streams of A, the slots and the result.
"""

import numpy as np
from numba import njit

from .._intrinsics import prefetch, ring_add, ring_multiply

_AHEAD = np.uint64(8)
_ONE, _TWO = np.uint64(1), np.uint64(2)


@njit(nogil=True, cache=True)
def find_slots(
    start, stop, a_indices, a_indptr, b_indices, b_indptr, c_indices, c_indptr, begins, slots,
    places,
):  # fmt: skip
    # Place of every product of the rows start..stop in its row of the result.
    for i in range(np.uint64(start), np.uint64(stop)):
        low, high = np.uint64(c_indptr[i]), np.uint64(c_indptr[i + _ONE])
        for p in range(low, high):
            places[np.uint64(c_indices[p])] = p - low
        s = np.uint64(begins[i])
        for t in range(np.uint64(a_indptr[i]), np.uint64(a_indptr[i + _ONE])):
            k = np.uint64(a_indices[t])
            for q in range(np.uint64(b_indptr[k]), np.uint64(b_indptr[k + _ONE])):
                slots[s] = places[np.uint64(b_indices[q])]
                s += _ONE


@njit(nogil=True, cache=True)
def add_slots(
    start, stop, ring, zero, a_data, a_indptr, b_data, firsts, lengths, c_indptr, begins, slots,
    is_far, out,
):  # fmt: skip
    # Values of the rows start..stop by slots; of every entry of A it is known where its row of B
    # begins and how long that is. Two products a turn: rows of B are short, and the loop's own
    # cost shows. Prefetches only where B is too large for the near caches.
    used = np.uint64(a_indptr[-1]) if is_far else np.uint64(0)
    s = np.uint64(begins[start])
    for i in range(np.uint64(start), np.uint64(stop)):
        low, high = np.uint64(c_indptr[i]), np.uint64(c_indptr[i + _ONE])
        for p in range(low, high):
            out[p] = zero
        for t in range(np.uint64(a_indptr[i]), np.uint64(a_indptr[i + _ONE])):
            factor, q = a_data[t], np.uint64(firsts[t])
            s_end = s + np.uint64(lengths[t])
            if t + _AHEAD < used:
                prefetch(b_data, np.uint64(firsts[t + _AHEAD]))
            while s + _ONE < s_end:
                one = ring_multiply(ring, factor, b_data[q])
                two = ring_multiply(ring, factor, b_data[q + _ONE])
                p = low + np.uint64(slots[s])
                out[p] = ring_add(ring, out[p], one)
                p = low + np.uint64(slots[s + _ONE])
                out[p] = ring_add(ring, out[p], two)
                q += _TWO
                s += _TWO
            if s < s_end:
                p = low + np.uint64(slots[s])
                out[p] = ring_add(ring, out[p], ring_multiply(ring, factor, b_data[q]))
                s += _ONE


@njit(nogil=True, cache=True)
def gather(start, stop, ring, zero, a_data, b_data, firsts, out):
    # Values of the entries start..stop, each one product, in the order of A's entries.
    for t in range(np.uint64(start), np.uint64(stop)):
        product = ring_multiply(ring, a_data[t], b_data[np.uint64(firsts[t])])
        out[t] = ring_add(ring, zero, product)


@njit(nogil=True, cache=True)
def add_rows(
    start, stop, ring, zero, a_data, a_indices, a_indptr, b_data, b_indices, b_indptr,
    c_indices, c_indptr, out, sums,
):  # fmt: skip
    # The same without slots: a dense row, made ready and read where the pattern says. What a mask
    # leaves out falls on places that no one reads.
    used = np.uint64(a_indptr[-1])
    for i in range(np.uint64(start), np.uint64(stop)):
        low, high = np.uint64(c_indptr[i]), np.uint64(c_indptr[i + _ONE])
        for p in range(low, high):
            sums[np.uint64(c_indices[p])] = zero
        for t in range(np.uint64(a_indptr[i]), np.uint64(a_indptr[i + _ONE])):
            k, factor = np.uint64(a_indices[t]), a_data[t]
            ahead = t + _AHEAD
            if ahead + _AHEAD < used:
                prefetch(b_indptr, np.uint64(a_indices[ahead + _AHEAD]))
                row = np.uint64(b_indptr[np.uint64(a_indices[ahead])])
                prefetch(b_indices, row)
                prefetch(b_data, row)
            for q in range(np.uint64(b_indptr[k]), np.uint64(b_indptr[k + _ONE])):
                column = np.uint64(b_indices[q])
                product = ring_multiply(ring, factor, b_data[q])
                sums[column] = ring_add(ring, sums[column], product)
        for p in range(low, high):
            out[p] = sums[np.uint64(c_indices[p])]


@njit(nogil=True, cache=True)
def left_gradient(
    start, stop, cotangent, a_indices, a_indptr, b_conj, b_indices, b_indptr, c_indices, c_indptr,
    out, row, stored,
):  # fmt: skip
    # dA[t] = sum over q of dC[row of t, column of q] conj(B[q]): the row of dC made dense. What
    # a mask left out is not stored there, and takes no part whatever B holds.
    zero = row.dtype.type(0)
    for i in range(np.uint64(start), np.uint64(stop)):
        low, high = np.uint64(c_indptr[i]), np.uint64(c_indptr[i + _ONE])
        for p in range(low, high):
            row[np.uint64(c_indices[p])] = cotangent[p]
            stored[np.uint64(c_indices[p])] = 1
        for t in range(np.uint64(a_indptr[i]), np.uint64(a_indptr[i + _ONE])):
            k, total = np.uint64(a_indices[t]), zero
            for q in range(np.uint64(b_indptr[k]), np.uint64(b_indptr[k + _ONE])):
                column = np.uint64(b_indices[q])
                product = row[column] * b_conj[q]
                total += product if stored[column] else zero
            out[t] = total
        for p in range(low, high):
            stored[np.uint64(c_indices[p])] = 0


@njit(nogil=True, cache=True)
def right_gradient(
    start, stop, cotangent, a_conj, entry, entry_row, entry_ptr, b_indices, b_indptr,
    c_indices, c_indptr, out,
):  # fmt: skip
    # dB[q] = sum over the entries t of A's column k of conj(A[t]) dC[row of t, column of q]: the
    # rows k = start..stop of B, so that no two threads add to one place. Places in dC's rows are
    # found by bisection.
    zero = out.dtype.type(0)
    for k in range(np.uint64(start), np.uint64(stop)):
        first, last = np.uint64(b_indptr[k]), np.uint64(b_indptr[k + _ONE])
        for q in range(first, last):
            out[q] = zero
        for e in range(np.uint64(entry_ptr[k]), np.uint64(entry_ptr[k + _ONE])):
            factor, i = a_conj[np.uint64(entry[e])], np.uint64(entry_row[e])
            low, end = np.uint64(c_indptr[i]), np.uint64(c_indptr[i + _ONE])
            for q in range(first, last):
                column = b_indices[q]
                p, high = low, end
                while p < high:
                    middle = (p + high) >> _ONE
                    if c_indices[middle] < column:
                        p = middle + _ONE
                    else:
                        high = middle
                if p < end and c_indices[p] == column:
                    out[q] += factor * cotangent[p]
