"""kronecker's contests: products, solves, equations, beside what NumPy and SciPy users write now.

"reduce tensordot" is ``tensordot`` and ``moveaxis`` mode by mode; "matmul of views" the same on
reshaped views, without transposed copies. pykronecker takes JAX where there is one, and then
computes in single precision unless JAX was told otherwise: here it is told (``JAX_ENABLE_X64``).
Equations have an exact solution, which tells how wrong a peer is whose order is too low.
"""

import os
import sys
from functools import partial, reduce
from math import prod
from typing import Any

os.environ.setdefault("JAX_ENABLE_X64", "1")  # read when pykronecker imports JAX

import numpy as np
import scipy.linalg
from contest import Call, Contest, Table

from linalgkit import kronecker

PACKAGES = (
    "numpy",
    "scipy",
    "numba",
    "pykronecker",
    "linear_operator",
    "jax",
    "torch",
    "cupy-cuda13x",
    "cupy-cuda12x",
)

FIRST_CALL = {
    "numba": """
import numpy as np
linalgkit.kronecker.kron_matvec([np.eye(4), np.eye(3)], np.ones(12))
""",
    "cupy": """
import cupy
linalgkit.kronecker.kron_matvec([cupy.eye(4), cupy.eye(3)], cupy.ones(12)).get()
""",
}

PRODUCTS = ((8, 3), (8, 6), (16, 3), (16, 5), (32, 3), (32, 4), (64, 3), (128, 3), (200, 3))
SYLVESTER = (100, 400, 800)
ELEMENTS = ((100, 2), (400, 2), (32, 3), (64, 3))
COVARIANCES = ((50, 2), (200, 2), (32, 3))
SCATTERED = ((20_000, (16, 16)), (20_000, (64, 64)), (5_000, (16, 16, 16)))
EQUATIONS = ("P1", "P4", "P7", "P6")  # of the paper: 400 and 900 nodes, 200² and 400²


def tables(engine: str) -> list[Table]:
    """Return what is run on an engine's arrays."""
    if engine == "cupy":
        import kronecker_cuda

        return kronecker_cuda.tables()
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
        Table(
            "Poisson's equation by finite elements, float64",
            "kronsum_solve_generalized",
            ("eigh(A, B), tensordot", "cholesky, solve_sylvester"),
            {f"elements, {n}^{d}": partial(elements_contest, n, d) for n, d in ELEMENTS},
        ),
        Table(
            "A Gaussian process on a grid, solved with noise, float64",
            "shifted_solve",
            ("linear_operator", "eigh, tensordot"),
            {f"{n}^{d}": partial(noise_contest, n, d) for n, d in COVARIANCES},
            set_threads=_set_threads,
        ),
        Table(
            "Gradients of a noisy covariance's solve, float64",
            "shifted_solve_vjp",
            ("torch autograd through eigh",),
            {f"covariances, {n}^{d}": partial(gradient_contest, n, d) for n, d in COVARIANCES},
            set_threads=_set_threads,
        ),
        Table(
            "Bases at scattered points, float64",
            "FaceSplitting",
            ("matrix of all products", "einsum"),
            {
                f"{n} points, {'·'.join(map(str, sizes))}": partial(faces_contest, n, sizes)
                for n, sizes in SCATTERED
            },
        ),
        Table(
            "Equations with a fast wave, from the source to values at 300 points an axis",
            "solve_pde",
            ("Chebyshev collocation", "finite differences"),
            {name: partial(equation_contest, name) for name in EQUATIONS},
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
    from linalgkit.kronecker._hosts import one_blas_thread
    from linalgkit.kronecker._schur import _solve_triangular

    a, b, c = sylvester_operands(n)
    a, b = scipy.linalg.schur(a)[0], scipy.linalg.schur(b)[0]
    (trsyl,) = scipy.linalg.get_lapack_funcs(("trsyl",), (a, b, c))

    def ours() -> np.ndarray:
        y = c.copy()
        with one_blas_thread():  # as the whole solve does
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


def elements_contest(n: int, d: int) -> Contest:
    """Solve with stiffness and mass matrices of linear elements."""
    eye, beside = np.eye(n), np.eye(n, k=1) + np.eye(n, k=-1)
    stiffness, mass = (2 * eye - beside) * (n + 1), (4 * eye + beside) / (6 * (n + 1))
    b = np.random.default_rng(0).standard_normal(n**d)

    def by_eigh() -> np.ndarray:
        values, vectors = scipy.linalg.eigh(stiffness, mass)
        c = by_tensordot([vectors.T] * d, b)
        c /= reduce(np.add.outer, [values] * d).ravel()
        return by_tensordot([vectors] * d, c)

    def by_sylvester() -> np.ndarray:
        solve = partial(scipy.linalg.solve_triangular, lower=True)
        lower = np.linalg.cholesky(mass)
        a = solve(lower, solve(lower, stiffness).T)
        c = solve(lower, solve(lower, b.reshape(n, n)).T).T
        y = scipy.linalg.solve_sylvester(a, a.T, c)
        return solve(lower, solve(lower, y, trans=1).T, trans=1).T

    ours = partial(kronecker.kronsum_solve_generalized, [stiffness] * d, [mass] * d, b)
    peers: dict[str, Call] = {"eigh(A, B), tensordot": by_eigh}
    if d == 2:
        peers["cholesky, solve_sylvester"] = by_sylvester
    return Contest(ours, peers, by_eigh, _differs)


def covariances(n: int, d: int) -> list[np.ndarray]:
    """Return covariances of processes of different lengths along the axes."""
    t = np.linspace(0, 1, n)
    return [np.exp(-abs(t[:, None] - t) / (0.3 + 0.1 * k)) for k in range(d)]


def noise_contest(n: int, d: int) -> Contest:
    """Solve with the covariance and the same noise at all points."""
    factors, b = covariances(n, d), np.random.default_rng(0).standard_normal(n**d)

    def by_eigh() -> np.ndarray:
        values, vectors = zip(*map(np.linalg.eigh, factors), strict=True)
        c = by_tensordot([v.T for v in vectors], b)
        c /= reduce(np.multiply.outer, values).ravel() + 0.1
        return by_tensordot(list(vectors), c)

    peers: dict[str, Call] = {"eigh, tensordot": by_eigh}
    try:
        import torch
        from linear_operator import operators
    except ImportError:
        pass
    else:
        leaves, data = [torch.from_numpy(a) for a in factors], torch.from_numpy(b)[:, None]
        variance = torch.tensor([0.1], dtype=torch.float64)

        def by_linear_operator() -> np.ndarray:
            # Made anew: it keeps its decompositions, and covariances change from call to call.
            covariance = operators.KroneckerProductLinearOperator(
                *map(operators.DenseLinearOperator, leaves)
            )
            noise = operators.ConstantDiagLinearOperator(variance, n**d)
            whole = operators.KroneckerProductAddedDiagLinearOperator(covariance, noise)
            return whole.solve(data).numpy()

        peers["linear_operator"] = by_linear_operator
    ours = partial(kronecker.shifted_solve, factors, b, 0.1)
    return Contest(ours, peers, by_eigh, _differs)


def gradient_contest(n: int, d: int) -> Contest:
    """Pull a gradient back through the solve, to the covariances and to the data."""
    factors = covariances(n, d)
    b, g = np.random.default_rng(0).standard_normal((2, n**d))

    def ours() -> np.ndarray:
        found = kronecker.shifted_solve_vjp(g, factors, b, 0.1, wrt=("factors", "b"))
        return np.concatenate([part.ravel() for part in (*found.factors, found.b)])

    def in_closed_form() -> np.ndarray:
        """The gradients in closed form, mode by mode."""
        values, vectors = zip(*map(np.linalg.eigh, factors), strict=True)
        spectrum = reduce(np.multiply.outer, values).ravel() + 0.1

        def solved(c: np.ndarray) -> np.ndarray:
            return by_tensordot(vectors, by_tensordot([v.T for v in vectors], c) / spectrum)

        x, of_b = solved(b), solved(g)
        parts = []
        for k in range(d):
            others = [a if j != k else np.eye(n) for j, a in enumerate(factors)]
            image = by_tensordot(others, x).reshape((n,) * d)
            axes = [axis for axis in range(d) if axis != k]
            part = -np.tensordot(of_b.reshape((n,) * d), image, (axes, axes))
            parts.append((part + part.T).ravel() / 2)
        return np.concatenate([*parts, of_b])

    peers: dict[str, Call] = {}
    try:
        import torch
    except ImportError:
        pass
    else:
        leaves = [torch.from_numpy(a).requires_grad_() for a in (*factors, b)]
        cotangent = torch.from_numpy(g)

        def rotated(grid: Any, matrices: Any) -> Any:
            for matrix in matrices:  # each brings the next axis to the front
                grid = torch.tensordot(grid, matrix, ([0], [1]))
            return grid

        def by_autograd() -> np.ndarray:
            *covariances, data = leaves
            values, vectors = zip(*map(torch.linalg.eigh, covariances), strict=True)
            spectrum = values[0]
            for one in values[1:]:
                spectrum = spectrum[..., None] * one
            c = rotated(data.reshape((n,) * d), [v.T for v in vectors]) / (spectrum + 0.1)
            x = rotated(c, vectors).reshape(-1)
            *parts, of_b = torch.autograd.grad(x, leaves, cotangent)
            symmetric = [((part + part.T) / 2).reshape(-1) for part in parts]
            return torch.cat([*symmetric, of_b]).numpy()

        peers["torch autograd through eigh"] = by_autograd
    return Contest(ours, peers, in_closed_form, partial(_differs, tolerance=1e-7))


def faces_contest(n: int, sizes: tuple[int, ...]) -> Contest:
    """Multiply by a matrix of Kronecker rows and by its transpose, as a solver's step does."""
    rng = np.random.default_rng(0)
    factors = [rng.standard_normal((n, m)) for m in sizes]
    x = rng.standard_normal(prod(sizes))
    letters = "abc"[: len(sizes)]
    rows = ",".join(f"i{letter}" for letter in letters)

    def ours() -> np.ndarray:
        y = kronecker.face_splitting_matvec(factors, x)
        return kronecker.face_splitting_rmatvec(factors, y)

    def formed() -> np.ndarray:
        matrix = reduce(lambda a, b: (a[:, :, None] * b[:, None, :]).reshape(n, -1), factors)
        return matrix.T @ (matrix @ x)

    def by_einsum() -> np.ndarray:
        y = np.einsum(f"{rows},{letters}->i", *factors, x.reshape(sizes), optimize=True)
        return np.einsum(f"{rows},i->{letters}", *factors, y, optimize=True)

    peers = {"matrix of all products": formed, "einsum": by_einsum}
    return Contest(ours, peers, formed, _differs)


def equation_contest(name: str) -> Contest:
    """Solve one of the paper's equations, whose solution is known."""
    import growth_kronecker_pde as equations

    definition, highest = equations.TABLE[name][:4], equations.HIGHEST[name]
    case = equations.problem(*definition)
    points = [np.linspace(g[0], g[-1], 300) for g in case.grid]

    def exact() -> np.ndarray:
        return case.exact(*np.meshgrid(*points, indexing="ij"))

    peers = {
        "Chebyshev collocation": lambda: equations.chebyshev(case, highest)(points),
        "finite differences": lambda: equations.finite_differences(case, highest)(points),
    }
    return Contest(
        lambda: case.solved(kronecker.solve_pde).predict(points),
        peers,
        exact,
        partial(_differs, tolerance=1e-7),
    )


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


def _differs(result: Any, expected: Any, tolerance: float = 1e-9) -> str:
    result, expected = np.ravel(result), np.ravel(expected)
    error = float(np.abs(result - expected).max() / np.abs(expected).max())
    return "" if error < tolerance else f"relative error {error:.1e}"


def _set_threads(workers: int) -> None:
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(workers)
