"""Kernel of mode products with large factors: BLAS on views of the grid, many at a time.

A grid is (batch, left, n, right), and each piece of it goes through one matrix product where it
lies: nothing is transposed in memory. Bounded by the rate of matrix products.
"""

from numba import njit

from .._blas import gemm


@njit(nogil=True, cache=True)
def modes(start, stop, kind, scalars, left, m, n, right, width, factor, batch_stride, x, y):
    """Apply a matrix (m, n) along a mode, to pieces of `width` fibres: y = alpha A x + beta y.

    `scalars` are alpha and beta. The pieces lie side by side where `right` is more than one, and
    one after the other where it is one.
    """
    size = scalars.itemsize
    alpha, beta = scalars.ctypes.data, scalars.ctypes.data + size
    normal, turned = ord("n"), ord("t")
    columns = -(-right // width)
    each = left * columns if right > 1 else -(-left // width)
    for item in range(start, stop):
        batch, place = item // each, item % each
        a = factor + batch * batch_stride
        if right > 1:  # row-major Y = A X is column-major Yᵀ = Xᵀ Aᵀ
            i, j = batch * left + place // columns, place % columns * width
            fibres = min(width, right - j)
            gemm(
                kind, normal, normal, fibres, m, n, alpha, x + (i * n * right + j) * size, right,
                a, n, beta, y + (i * m * right + j) * size, right,
            )  # fmt: skip
        else:  # Y = X Aᵀ is column-major Yᵀ = A Xᵀ
            i = place * width
            fibres = min(width, left - i)
            i += batch * left
            gemm(
                kind, turned, normal, m, fibres, n, alpha, a, n, x + i * n * size, n,
                beta, y + i * m * size, m,
            )  # fmt: skip
