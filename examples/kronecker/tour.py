"""The room's rows of the tour: a product and Poisson's equation, both with known answers."""

from functools import reduce

import numpy as np
import scipy.linalg

from linalgkit import kronecker


def stops():
    """Yield the room's stops, as arguments of the tour's `Stop`."""
    yield product()
    yield poisson()


def product(n: int = 16, d: int = 5):
    """The product of Kronecker products is the Kronecker product of products."""
    rng = np.random.default_rng(0)
    factors, parts = rng.standard_normal((d, n, n)), rng.standard_normal((d, n))
    x = reduce(np.kron, parts)

    def tensordot():
        grid = x.reshape((n,) * d)
        for k, factor in enumerate(factors):
            grid = np.moveaxis(np.tensordot(factor, grid, (1, k)), 0, k)
        return grid.ravel()

    def error(result):
        truth = reduce(np.kron, [a @ part for a, part in zip(factors, parts, strict=True)])
        return float(np.abs(result - truth).max() / np.abs(truth).max())

    return {
        "what": "Kronecker product",
        "input": f"{d} matrices of {n} × {n}, a vector of {n**d:,}",
        "ours": lambda: kronecker.kron_matvec(factors, x),
        "peer": tensordot,
        "peer_name": "np.tensordot",
        "error": error,
    }


def poisson(n: int = 255):
    """Second differences of sine waves are multiples of them: the solution is known."""
    t = np.arange(1, n + 1) / (n + 1)
    second = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    u = np.outer(np.sin(3 * np.pi * t), np.sin(50 * np.pi * t))
    value = sum(4 * np.sin(k * np.pi / (2 * n + 2)) ** 2 for k in (3, 50))
    b = value * u

    return {
        "what": "Poisson's equation",
        "input": f"grid of {n} × {n}",
        "ours": lambda: kronecker.kronsum_solve([second, second], b.ravel()),
        "peer": lambda: scipy.linalg.solve_sylvester(second, second, b).ravel(),
        "peer_name": "scipy solve_sylvester",
        "error": lambda found: float(np.abs(found - u.ravel()).max()),
    }
