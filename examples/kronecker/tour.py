"""The room's rows of the tour: a product and two of Poisson's equations, with known answers."""

from functools import reduce

import numpy as np
import scipy.linalg

from linalgkit import kronecker


def stops():
    """Yield the room's stops, as arguments of the tour's `Stop`."""
    yield product()
    yield poisson()
    yield high_frequency()


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


def high_frequency(nodes: int = 400):
    """Δu = f for u = sin(100 x) sin(100 y), beside Chebyshev collocation on as many nodes."""
    x = np.linspace(0, 2 * np.pi, nodes)
    wave = np.sin(100 * x)
    truth = np.outer(wave, wave)
    source = -2 * 100**2 * truth
    faces = [(axis, side) for axis in (0, 1) for side in (0, 1)]
    boundary = {face: kronecker.Dirichlet(0.0) for face in faces}

    s = -np.cos(np.pi * np.arange(nodes) / (nodes - 1))
    weights = np.where(np.arange(nodes) % 2, -1.0, 1.0)
    weights[[0, -1]] *= 2
    first = np.outer(weights, 1 / weights) / (s[:, None] - s + np.eye(nodes)) / np.pi
    first -= np.diag(first.sum(axis=1))
    second = (first @ first)[1:-1, 1:-1]
    chebyshev = np.sin(100 * np.pi * (s[1:-1] + 1))
    known = -2 * 100**2 * np.outer(chebyshev, chebyshev)

    def collocation():
        """By eigenvectors, which both axes share."""
        values, vectors = np.linalg.eig(second)
        inner = np.linalg.solve(vectors, np.linalg.solve(vectors, known).T).T
        return (vectors @ (inner / (values[:, None] + values)) @ vectors.T).real

    return {
        "what": "high-frequency PDE",
        "input": f"Poisson, sin 100x sin 100y, {nodes}²",
        "ours": lambda: kronecker.solve_pde({(2, 0): 1.0, (0, 2): 1.0}, source, boundary, (x, x)).u,
        "peer": collocation,
        "peer_name": "Chebyshev",
        "error": lambda found: float(np.abs(found - truth).max()),
    }
