"""Kernels that read the gradients once: dots of all rows with a vector, combinations of rows.

Sums are in float64. In float32 and float64 the widening and its multiplications hide behind the
reads of G, which bound; float16 and bfloat16 are read faster than they are widened, which takes two
conversions for every four numbers, and bounds there. A range of columns is taken in equal pieces,
whose vector stays in the cache. Vectors are of that range and in float64, so that kernels are
compiled for the gradients' dtype alone.
"""

import numpy as np
from numba import njit

from .._intrinsics import widen

_PIECE = 8192  # at most: shorter ones begin new streams of memory too often
_FAST = {"reassoc", "contract", "nsz"}  # NaN and Inf stay what they are


@njit(nogil=True, cache=True)
def _step(count):
    """Cut a number of columns into equal pieces."""
    pieces = max(1, -(-count // _PIECE))
    return max(1, -(-count // pieces))


@njit(nogil=True, cache=True, fastmath=_FAST)
def dots(start, stop, kind, g, vector):
    """Return G x over a range of columns, for the entries of x there."""
    m = g.shape[0]
    sums = np.zeros(m)
    for begin in range(start, stop, _step(stop - start)):
        end = min(stop, begin + _step(stop - start))
        n = end - begin
        v = vector[begin - start : end - start]
        i = 0
        while i + 4 <= m:
            first, second = g[i, begin:end], g[i + 1, begin:end]
            third, fourth = g[i + 2, begin:end], g[i + 3, begin:end]
            a, b, c, e = 0.0, 0.0, 0.0, 0.0
            for k in range(n):
                a += widen(kind, first[k]) * v[k]
                b += widen(kind, second[k]) * v[k]
                c += widen(kind, third[k]) * v[k]
                e += widen(kind, fourth[k]) * v[k]
            sums[i] += a
            sums[i + 1] += b
            sums[i + 2] += c
            sums[i + 3] += e
            i += 4
        while i < m:
            first, a = g[i, begin:end], 0.0
            for k in range(n):
                a += widen(kind, first[k]) * v[k]
            sums[i] += a
            i += 1
    return sums


@njit(nogil=True, cache=True, fastmath=_FAST)
def add_combination(start, stop, kind, g, coefficients, result):
    """Add a range of Gᵀ a to its result."""
    m = g.shape[0]
    for begin in range(start, stop, _step(stop - start)):
        end = min(stop, begin + _step(stop - start))
        n = end - begin
        v = result[begin - start : end - start]
        i = 0
        while i + 4 <= m:
            first, second = g[i, begin:end], g[i + 1, begin:end]
            third, fourth = g[i + 2, begin:end], g[i + 3, begin:end]
            a, b, c, e = (
                coefficients[i], coefficients[i + 1], coefficients[i + 2], coefficients[i + 3],
            )  # fmt: skip
            for k in range(n):
                v[k] += (a * widen(kind, first[k]) + b * widen(kind, second[k])) + (
                    c * widen(kind, third[k]) + e * widen(kind, fourth[k])
                )
            i += 4
        while i < m:
            first, a = g[i, begin:end], coefficients[i]
            for k in range(n):
                v[k] += a * widen(kind, first[k])
            i += 1


@njit(nogil=True, cache=True, fastmath=_FAST)
def squared_lengths(start, stop, kind, g):
    """Return the rows' squared lengths over a range of columns."""
    m = g.shape[0]
    sums = np.zeros(m)
    for i in range(m):
        row, total = g[i, start:stop], 0.0
        for k in range(row.size):
            value = widen(kind, row[k])
            total += value * value
        sums[i] = total
    return sums


@njit(nogil=True, cache=True)
def widened(start, stop, kind, g, result):
    """Copy some columns of G to `result` (m, stop - start), in its dtype."""
    for i in range(g.shape[0]):
        row = g[i, start:stop]
        for k in range(stop - start):
            result[i, k] = widen(kind, row[k])
