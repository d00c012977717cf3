"""One case per public function of the room, and the Monarch matrix entry by entry."""

import numpy as np

from linalgkit._testing import Case

BLOCKS = (3, 4, 2, 2, 2, 6)  # (k, q, p, l, s, r)


def entries(left, right):
    """The dense matrix by its definition, entry by entry; no batch axes."""
    (k, q, p), (count, rows, inner) = right.shape, left.shape
    matrix = np.zeros((count * rows, k * p), dtype=np.result_type(left, right))
    for t in range(k * q):
        (block, row), (rho, lam) = divmod(t, q), divmod(t, count)
        for sigma in range(rows):
            columns = slice(block * p, (block + 1) * p)
            matrix[sigma * count + lam, columns] += left[lam, sigma, rho] * right[block, row]
    return matrix


def random(rng, dtype, *shape):
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def factors(rng, dtype, blocks=BLOCKS):
    k, q, p, count, rows, inner = blocks
    return random(rng, dtype, count, rows, inner), random(rng, dtype, k, q, p)


def product(x, left, right, axis=-1):
    """The product by the dense matrix."""
    return np.moveaxis(np.moveaxis(x, axis, -1) @ entries(left, right).T, -1, axis)


def pulled_back(cotangent, x, left, right):
    """The gradients entry by entry: each is linear in one argument."""
    matrix = entries(left, right)
    of_x = cotangent @ matrix.conj()
    gradients = []
    for place, factor in enumerate((left, right)):
        gradient = np.zeros_like(factor)
        for index in np.ndindex(factor.shape):
            unit = np.zeros_like(factor)
            unit[index] = 1
            changed = [unit, right] if place == 0 else [left, unit]
            gradient[index] = np.vdot(product(x, *changed), cotangent)
        gradients.append(gradient)
    return (of_x, *gradients)


def vectors(library, dtype, rng):
    left, right = factors(rng, dtype)
    return tuple(map(library.asarray, (random(rng, dtype, 5, 6), left, right))), {}


def with_cotangent(library, dtype, rng):
    arrays, options = vectors(library, dtype, rng)
    return (library.asarray(random(rng, dtype, 5, 4)), *arrays), options


TOLERANCE = {"float32": 1e-6, "float64": 1e-14}
CASES = [
    Case("monarch.monarch_matmul", vectors, product, TOLERANCE),
    Case("monarch.monarch_matmul_vjp", with_cotangent, pulled_back, TOLERANCE),
]
