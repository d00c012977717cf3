"""kronecker's contests: products, and sums solved, beside what NumPy and SciPy users write now.

"reduce tensordot" is ``tensordot`` and ``moveaxis`` mode by mode; "matmul of views" the same on
reshaped views, without transposed copies. pykronecker takes JAX where there is one, and then
computes in single precision unless JAX was told otherwise: here it is told (``JAX_ENABLE_X64``).
"""

import os
from functools import partial, reduce
from math import prod
from typing import Any

os.environ.setdefault("JAX_ENABLE_X64", "1")  # read when pykronecker imports JAX

import numpy as np
import scipy.linalg
from contest import Call, Contest, Table

from linalgkit import kronecker

PACKAGES = ("numpy", "scipy", "numba", "pykronecker", "jax")

FIRST_CALL = {
    "numba": """
import numpy as np
linalgkit.kronecker.kron_matvec([np.eye(4), np.eye(3)], np.ones(12))
"""
}

PRODUCTS = ((8, 3), (8, 6), (16, 3), (16, 5), (32, 3), (32, 4), (64, 3), (128, 3), (200, 3))
SYLVESTER = (100, 400, 800)


def tables(engine: str) -> list[Table]:
    """Return what is run on an engine's arrays."""
    if engine == "cupy":
        raise SystemExit("kronecker has no contest on CuPy arrays yet.")
    products = {f"{n}^{d}": partial(product_contest, n, d) for n, d in PRODUCTS}
    sylvester = {f"n = {n}": partial(sylvester_contest, n) for n in SYLVESTER}
    triangular = {f"n = {n}": partial(triangular_contest, n) for n in SYLVESTER}
    peers = ("reduce tensordot", "matmul of views", "pykronecker")
    return [
        Table("Products, square factors, float64", "kron_matvec", peers, products),
        Table(
            "Sylvester's equation, not symmetric, float64",
            "kronsum_solve",
            ("scipy.linalg.solve_sylvester",),
            sylvester,
        ),
        Table(
            "The triangular equation alone, float64",
            "blocked",
            ("LAPACK trsyl",),
            triangular,
        ),
        Table(
            "Poisson's equation on a cube, float64",
            "kronsum_solve",
            ("eigh, tensordot",),
            {f"{n}^3": partial(poisson_contest, n) for n in (32, 64, 128)},
        ),
    ]


def product_operands(n: int, d: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return d factors of order n, and a vector."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((n, n)) for _ in range(d)], rng.standard_normal(n**d)


def product_contest(n: int, d: int) -> Contest:
    """Multiply one vector."""
    factors, x = product_operands(n, d)
    calls: dict[str, Call] = {
        "reduce tensordot": partial(by_tensordot, factors, x),
        "matmul of views": partial(on_views, factors, x),
    }
    try:
        from pykronecker import KroneckerProduct
    except ImportError:
        pass
    else:
        peer = KroneckerProduct(factors)
        calls["pykronecker"] = lambda: np.asarray(peer @ x)
    ours = partial(kronecker.kron_matvec, factors, x)
    return Contest(ours, calls, calls["reduce tensordot"], _differs)


def sylvester_operands(n: int) -> list[np.ndarray]:
    """Return A, B, C of a well-conditioned equation A X + X B = C."""
    rng = np.random.default_rng(0)
    shift = 2 * np.sqrt(n) * np.eye(n)
    a, b, c = rng.standard_normal((3, n, n))
    return [a + shift, b + shift, c]


def sylvester_contest(n: int) -> Contest:
    """Solve A X + X B = C."""
    a, b, c = sylvester_operands(n)
    ours = partial(kronecker.kronsum_solve, [a, b.T], c.ravel())
    peer = partial(scipy.linalg.solve_sylvester, a, b, c)
    return Contest(ours, {"scipy.linalg.solve_sylvester": peer}, peer, _differs)


def triangular_contest(n: int) -> Contest:
    """Solve the equation in Schur form: what is left of it after both decompositions."""
    from linalgkit.kronecker._schur import _solve_triangular

    a, b, c = sylvester_operands(n)
    a, b = scipy.linalg.schur(a)[0], scipy.linalg.schur(b)[0]
    (trsyl,) = scipy.linalg.get_lapack_funcs(("trsyl",), (a, b, c))

    def ours() -> np.ndarray:
        y = c.copy()
        _solve_triangular([a, b], y)
        return y

    def peer() -> np.ndarray:
        return trsyl(a, b, c, tranb="T")[0]

    return Contest(ours, {"LAPACK trsyl": peer}, peer, _differs)


def poisson_contest(n: int) -> Contest:
    """Solve Poisson's equation by second differences."""
    d = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    b = np.random.default_rng(0).standard_normal(n**3)

    def peer() -> np.ndarray:
        values, vectors = np.linalg.eigh(d)
        c = by_tensordot([vectors.T] * 3, b).reshape(n, n, n)
        c /= values[:, None, None] + values[:, None] + values
        return by_tensordot([vectors] * 3, c)

    ours = partial(kronecker.kronsum_solve, [d] * 3, b)
    return Contest(ours, {"eigh, tensordot": peer}, peer, _differs)


def by_tensordot(factors: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """Multiply mode by mode, each axis brought back to its place."""

    def step(grid: np.ndarray, mode: tuple[int, np.ndarray]) -> np.ndarray:
        k, factor = mode
        return np.moveaxis(np.tensordot(factor, grid, (1, k)), 0, k)

    grid = x.reshape([len(factor) for factor in factors])
    return reduce(step, enumerate(factors), grid).ravel()


def on_views(factors: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """Multiply mode by mode on (left, n, right), without transposed copies."""
    sizes = [len(factor) for factor in factors]
    for k, a in enumerate(factors):
        left, right = prod(sizes[:k]), prod(sizes[k + 1 :])
        if right == 1:
            x = x.reshape(left, -1) @ a.T
        elif left == 1:
            x = a @ x.reshape(-1, right)
        else:
            x = np.matmul(a, x.reshape(left, -1, right))
    return x.ravel()


def _differs(result: Any, expected: Any) -> str:
    result, expected = np.ravel(result), np.ravel(expected)
    error = float(np.abs(result - expected).max() / np.abs(expected).max())
    return "" if error < 1e-9 else f"relative error {error:.1e}"
