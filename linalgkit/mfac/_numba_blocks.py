"""Kernels of the blocks along the diagonal: formed by gemm, factorised, inverted, solved.

Bounded by multiplications in float64: 3/2 m B² to form a block, B³ / 3 for its Cholesky factor.
"""

import numpy as np
from numba import njit

from .._blas import gemm
from .._intrinsics import widen
from ._array_api import LOST

_FAST = {"reassoc", "contract", "nsz"}  # NaN and Inf stay what they are


@njit(nogil=True, cache=True)
def _form(kind, g, kept, begin, width, damping, scalars, rows, matrix):
    """Fill the lower triangle of a block λ I + G_bᵀ G_b / m (width, width)."""
    m = g.shape[0]
    for i in range(m):
        row = g[i, begin : begin + width]
        for k in range(width):
            rows[i, k] = widen(kind, row[k])
    if kept.size:
        for k in range(width):
            if not kept[begin + k]:
                rows[:m, k] = 0
    across, size, above = rows.shape[1], matrix.shape[1], width // 2
    # The upper half of the rows without what is right of the triangle, and the lower one.
    for first, last, columns in ((0, above, above), (above, width, width)):
        gemm(
            ord("d"), ord("n"), ord("t"), columns, last - first, m, scalars.ctypes.data,
            rows.ctypes.data, across, rows.ctypes.data + 8 * first, across,
            scalars.ctypes.data + 8, matrix.ctypes.data + 8 * first * size, size,
        )  # fmt: skip
    for k in range(width):
        matrix[k, k] += damping


@njit(nogil=True, cache=True, fastmath=_FAST)
def _factorise(matrix, width):
    """Replace a lower triangle by its Cholesky factor, row by row; tell whether it has digits."""
    for i in range(width):
        row = matrix[i]
        for j in range(i):
            other, value = matrix[j], row[j]
            for k in range(j):
                value -= row[k] * other[k]
            row[j] = value / other[j]
        value = whole = row[i]
        for k in range(i):
            value -= row[k] * row[k]
        if not value > LOST * whole:
            return False
        row[i] = np.sqrt(value)
    return True


@njit(nogil=True, cache=True, fastmath=_FAST)
def _column_squares(factor, width, inverse, result):
    """Fill the sums of squares of the columns of L⁻¹, whose rows go to `inverse`, below zeros."""
    result[:width] = 0
    for i in range(width):
        row, found, j = factor[i], inverse[i], 0
        found[: i + 1] = 0
        while j + 4 <= i:
            a, b, c, d = row[j], row[j + 1], row[j + 2], row[j + 3]
            first, second, third, fourth = (
                inverse[j], inverse[j + 1], inverse[j + 2], inverse[j + 3],
            )  # fmt: skip
            for k in range(j + 4):
                found[k] -= (a * first[k] + b * second[k]) + (c * third[k] + d * fourth[k])
            j += 4
        while j < i:
            value, other = row[j], inverse[j]
            for k in range(j + 1):
                found[k] -= value * other[k]
            j += 1
        scale = 1 / row[i]
        found[i] = 1.0
        for k in range(i + 1):
            found[k] *= scale
            result[k] += found[k] * found[k]


@njit(nogil=True, cache=True)
def factors(start, stop, kind, g, kept, damping, scalars, result, rows):
    """Fill Cholesky factors of some blocks; return the first without one, or -1."""
    d, size = g.shape[1], result.shape[1]
    for block in range(start, stop):
        matrix, width = result[block], min(size, d - block * size)
        _form(kind, g, kept, block * size, width, damping, scalars, rows, matrix)
        for k in range(width, size):  # what fills up the last block
            matrix[k] = 0
            matrix[k, k] = np.sqrt(damping)
        if not _factorise(matrix, width):
            return block
        for k in range(size):
            matrix[k, k + 1 :] = 0
    return -1


@njit(nogil=True, cache=True)
def diagonal(start, stop, kind, g, kept, damping, scalars, size, result, rows):
    """Fill the diagonal of the inverse of some blocks; return the first without one, or -1."""
    d, m = g.shape[1], g.shape[0]
    matrix, inverse = rows[m : m + size], rows[m + size :]  # contiguous, also for the compiler
    for block in range(start, stop):
        begin = block * size
        width = min(size, d - begin)
        _form(kind, g, kept, begin, width, damping, scalars, rows, matrix)
        if not _factorise(matrix, width):
            return block
        _column_squares(matrix, width, inverse, result[begin : begin + width])
    return -1


@njit(nogil=True, cache=True, fastmath=_FAST)
def solve(start, stop, factors, x, result, vector):
    """Solve L Lᵀ y = x for some blocks; x is (d, k)."""
    size, (d, columns) = factors.shape[1], x.shape
    for block in range(start, stop):
        factor, begin = factors[block], block * size
        width = min(size, d - begin)
        for column in range(columns):
            for i in range(width):
                row, value = factor[i], np.float64(x[begin + i, column])
                for k in range(i):
                    value -= row[k] * vector[k]
                vector[i] = value / row[i]
            for i in range(width - 1, -1, -1):
                row = factor[i]
                value = vector[i] / row[i]
                vector[i] = value
                for k in range(i):
                    vector[k] -= value * row[k]
            for i in range(width):
                result[begin + i, column] = vector[i]
