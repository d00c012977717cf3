"""Compiled kernel of the product with very many columns: a hash table as large as the row asks.

A dense row of n values would miss the cache, and the table of page addresses, at every product.
Keys are entered once, packed with their slot into one word, and sorted by column.
"""

import numpy as np
from numba import njit

from .._intrinsics import prefetch, ring_add, ring_multiply

_AHEAD = np.uint64(8)
_ONE = np.uint64(1)
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_ODD = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: the golden ratio in 64 bits
_BYTE = np.uint64(255)
# Rows of up to so many entries are sorted by insertion; longer ones byte by byte.
_SHORT = np.uint64(24)


@njit(nogil=True, inline="always")
def _sort(words, spare, count, shift, bits):
    # Sort words[:count] by the `bits` bits from `shift` on; returns whichever array holds them.
    if count <= _SHORT:
        for j in range(_ONE, count):
            word, p = words[j], j
            while p > 0 and words[p - _ONE] > word:
                words[p] = words[p - _ONE]
                p -= _ONE
            words[p] = word
    else:
        places = np.empty(257, np.uint64)
        done = np.uint64(0)
        while done < bits:
            down = shift + done
            places[:] = 0
            for j in range(count):
                places[((words[j] >> down) & _BYTE) + _ONE] += _ONE
            for b in range(np.uint64(256)):
                places[b + _ONE] += places[b]
            for j in range(count):
                b = (words[j] >> down) & _BYTE
                spare[places[b]] = words[j]
                places[b] += _ONE
            words, spare = spare, words
            done += np.uint64(8)
    return words


@njit(nogil=True, cache=True)
def hash_rows(
    ring, zero, a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, sort, bits,
    start, stop, out_data, out_indices, out_indptr, place, keys, values, words, spare,
):  # fmt: skip
    # Rows into out[place:]; returns where they end. `bits` bits hold a column; keys are all
    # empty between rows.
    end, used = np.uint64(place), np.uint64(a_indptr[-1])
    most = np.uint64(keys.size // 2)
    for i in range(np.uint64(start), np.uint64(stop)):
        t, t_end = np.uint64(a_indptr[i]), np.uint64(a_indptr[i + _ONE])
        products = np.uint64(0)
        for s in range(t, t_end):
            k = np.uint64(a_indices[s])
            products += np.uint64(b_indptr[k + _ONE]) - np.uint64(b_indptr[k])
        width = np.uint64(4)  # bits of a slot: a table of at least twice the products
        while (_ONE << width) < np.uint64(2) * min(products, most):
            width += _ONE
        last, down = (_ONE << width) - _ONE, np.uint64(64) - width
        count = np.uint64(0)
        while t < t_end:
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
                slot = (column * _ODD) >> down
                while keys[slot] != column and keys[slot] != _EMPTY:
                    slot = (slot + _ONE) & last
                if keys[slot] == _EMPTY:
                    keys[slot] = column
                    values[slot] = ring_add(ring, zero, product)
                    words[count] = (column << width) | slot
                    count += _ONE
                else:
                    values[slot] = ring_add(ring, values[slot], product)
            t += _ONE
        found = _sort(words, spare, count, width, bits) if sort else words
        for j in range(count):
            slot = found[j] & last
            keys[slot] = _EMPTY
            out_indices[end] = found[j] >> width
            out_data[end] = values[slot]
            end += _ONE
        out_indptr[i + _ONE] = end
    return np.int64(end)
