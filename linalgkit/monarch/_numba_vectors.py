"""Kernels of the product with few vectors: one pass over the factors, bounded by reading them."""

from numba import njit


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def right_rows(start, stop, x, right, blocks, u):
    """Fill u = R x from the blocks `start` to `stop`, stored as the left factor's blocks want it.

    x (vectors, k, p), u (vectors, l, r); row t = ρ l + λ of R x stands at (λ, ρ).
    """
    _, q, p = right.shape
    for block in range(start, stop):
        other, place = divmod(block * q, blocks)
        for row in range(q):
            for vector in range(x.shape[0]):
                total = x.dtype.type(0)
                for i in range(p):
                    total += right[block, row, i] * x[vector, block, i]
                u[vector, place, other] = total
            place += 1
            if place == blocks:
                other, place = other + 1, 0


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def left_rows(start, stop, left, u, y):
    """Fill y = L u from the blocks `start` to `stop`; u (vectors, l, r), y (vectors, s, l)."""
    _, rows, inner = left.shape
    for block in range(start, stop):
        for row in range(rows):
            for vector in range(u.shape[0]):
                total = u.dtype.type(0)
                for j in range(inner):
                    total += left[block, row, j] * u[vector, block, j]
                y[vector, row, block] = total


@njit(nogil=True, cache=True, fastmath={"contract"})
def left_pull(start, stop, g, left, u, of_left, v, wants_left, wants_v):
    """Some blocks of g uᵀ, and of v = Lᵀ g, zeros at first; g (vectors, s, l), v like u."""
    _, rows, inner = left.shape
    for block in range(start, stop):
        for row in range(rows):
            if wants_left:
                for j in range(inner):
                    of_left[block, row, j] = g[0, row, block] * u[0, block, j]
                for vector in range(1, g.shape[0]):
                    for j in range(inner):
                        of_left[block, row, j] += g[vector, row, block] * u[vector, block, j]
            if wants_v:
                for vector in range(g.shape[0]):
                    for j in range(inner):
                        v[vector, block, j] += left[block, row, j] * g[vector, row, block]


@njit(nogil=True, cache=True, fastmath={"contract"})
def right_pull(start, stop, x, right, blocks, v, of_x, of_right, wants_x, wants_right):
    """Some blocks of v xᵀ, and of Rᵀ v (zeros at first)."""
    _, q, p = right.shape
    for block in range(start, stop):
        other, place = divmod(block * q, blocks)
        for row in range(q):
            if wants_right:
                for i in range(p):
                    of_right[block, row, i] = v[0, place, other] * x[0, block, i]
                for vector in range(1, x.shape[0]):
                    for i in range(p):
                        of_right[block, row, i] += v[vector, place, other] * x[vector, block, i]
            if wants_x:
                for vector in range(x.shape[0]):
                    for i in range(p):
                        of_x[vector, block, i] += right[block, row, i] * v[vector, place, other]
            place += 1
            if place == blocks:
                other, place = other + 1, 0
