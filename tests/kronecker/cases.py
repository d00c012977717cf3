"""One case per public function of the room; the oracle is the dense product by numpy.kron."""

from functools import reduce

import numpy as np

from linalgkit._testing import Case

SHAPES = ((2, 3), (4, 2), (3, 3))  # unequal, rectangular, not symmetric
LOOSE = {"float32": 1e-5, "float64": 1e-13}


def random(rng, dtype, *shape):
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def dense(factors):
    return reduce(np.kron, factors)


def rectangular(library, dtype, rng, side=1):
    factors = [random(rng, dtype, *shape) for shape in SHAPES]
    n = int(np.prod([shape[side] for shape in SHAPES]))
    return ([library.asarray(a) for a in factors], library.asarray(random(rng, dtype, n))), {}


def transposed(library, dtype, rng):
    return rectangular(library, dtype, rng, side=0)


def several(library, dtype, rng):
    (factors, _), _ = rectangular(library, dtype, rng)
    return (factors, library.asarray(random(rng, dtype, 18, 2))), {}


def with_cotangent(library, dtype, rng):
    (factors, x), _ = rectangular(library, dtype, rng)
    return (library.asarray(random(rng, dtype, 24)), factors, x), {}


def pulled_back(cotangent, factors, x):
    """The gradients entry by entry: the product is linear in each factor."""
    gradients = []
    for k, factor in enumerate(factors):
        gradient = np.zeros_like(factor)
        for index in np.ndindex(factor.shape):
            unit = np.zeros_like(factor)
            unit[index] = 1
            gradient[index] = np.vdot(dense([*factors[:k], unit, *factors[k + 1 :]]) @ x, cotangent)
        gradients.append(gradient)
    return tuple(gradients), dense(factors).conj().T @ cotangent


CASES = [
    Case("kronecker.kron_matvec", rectangular, lambda f, x: dense(f) @ x, LOOSE),
    Case("kronecker.kron_rmatvec", transposed, lambda f, x: dense(f).conj().T @ x, LOOSE),
    Case("kronecker.kron_matmat", several, lambda f, x: dense(f) @ x, LOOSE),
    Case("kronecker.kron_matvec_vjp", with_cotangent, pulled_back, LOOSE),
]
