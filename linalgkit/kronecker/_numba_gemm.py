"""Kernel of mode products with large factors: BLAS on views of the grid, many at a time.

A grid is (batch, left, n, right), and each piece of it goes through one matrix product where it
lies: nothing is transposed in memory. Bounded by the rate of matrix products.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from .._blas import gemm
from .._intrinsics import record_of


class Pieces(NamedTuple):
    """A grid as (left, points, right), once a batch, cut into pieces of `width` fibres.

    They lie side by side where `right` is more than one, and one after the other where it is one.
    """

    kind: int  # of BLAS
    left: int
    right: int
    width: int
    adds: int  # to what is at the result


@njit(nogil=True, cache=True)
def modes(start, stop, numbers, steps, matrices, x, y):
    """Apply matrices (m, n), one a batch, along a mode of x to pieces of fibres.

    The row of `steps` has m and n.
    """
    pieces = record_of(Pieces, numbers, 0)
    kind, left, right, width = pieces.kind, pieces.left, pieces.right, pieces.width
    m, n = steps[0, 0], steps[0, 1]
    size = y.itemsize
    scalars = np.array([1, pieces.adds]).astype(y.dtype)
    alpha, beta = scalars.ctypes.data, scalars.ctypes.data + size
    source, target = x.ctypes.data, y.ctypes.data
    normal, turned = ord("n"), ord("t")
    columns = -(-right // width)
    each = left * columns if right > 1 else -(-left // width)
    for item in range(start, stop):
        batch, place = item // each, item % each
        a = matrices.ctypes.data + batch * m * n * size
        if right > 1:  # row-major Y = A X is column-major Yᵀ = Xᵀ Aᵀ
            i, j = batch * left + place // columns, place % columns * width
            fibres = min(width, right - j)
            gemm(
                kind, normal, normal, fibres, m, n,
                alpha, source + (i * n * right + j) * size, right, a, n,
                beta, target + (i * m * right + j) * size, right,
            )  # fmt: skip
        else:  # Y = X Aᵀ is column-major Yᵀ = A Xᵀ
            i = place * width
            fibres = min(width, left - i)
            i += batch * left
            gemm(
                kind, turned, normal, m, fibres, n, alpha, a, n, source + i * n * size, n,
                beta, target + i * m * size, m,
            )  # fmt: skip
