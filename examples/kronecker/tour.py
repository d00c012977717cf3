"""The room's rows of the tour: a product and two of Poisson's equations, with known answers."""

from functools import reduce

import numpy as np
import scipy.fft
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
    """Δu = f for u = sin(100 x) sin(100 y), beside fast finite differences on the same grid."""
    x = np.linspace(0, 2 * np.pi, nodes)
    wave = np.sin(100 * x)
    truth = np.outer(wave, wave)
    source = -2 * 100**2 * truth
    faces = [(axis, side) for axis in (0, 1) for side in (0, 1)]
    boundary = {face: kronecker.Dirichlet(0.0) for face in faces}
    symbol = -((2 * np.sin(np.pi * np.arange(1, nodes - 1) / (2 * nodes - 2)) / x[1]) ** 2)

    def differences():
        """Five points, by sine transforms: exact for the scheme."""
        inside = scipy.fft.dstn(source[1:-1, 1:-1], type=1)
        return np.pad(scipy.fft.idstn(inside / (symbol[:, None] + symbol), type=1), 1)

    return {
        "what": "high-frequency PDE",
        "input": f"Poisson, sin 100x sin 100y, {nodes}²",
        "ours": lambda: kronecker.solve_pde({(2, 0): 1.0, (0, 2): 1.0}, source, boundary, (x, x)).u,
        "peer": differences,
        "peer_name": f"differences (error {np.abs(differences() - truth).max():.0e})",
        "error": lambda found: float(np.abs(found - truth).max()),
    }
