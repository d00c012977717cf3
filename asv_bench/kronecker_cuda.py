"""kronecker's contests on a CUDA device: beside CuPy's own products of the same grid.

The peers are the functions of compare_kronecker.py, which CuPy serves: ``tensordot`` mode by mode,
and ``matmul`` of views. A solve takes eigenvectors by cuSOLVER in both.
"""

from functools import partial
from typing import Any

import numpy as np
from compare_kronecker import by_tensordot, on_views
from contest import Contest, Table

from linalgkit import kronecker

DTYPES = ("float32", "float64")
PRODUCTS = ((8, 8), (16, 6), (32, 5), (128, 3), (256, 3), (512, 3))
CUBES = (64, 128, 256, 512)


def tables() -> list[Table]:
    """Return the contests."""
    import cupy

    wait = cupy.cuda.Device().synchronize
    peers = ("reduce tensordot", "matmul of views")
    products = [
        Table(
            f"Products, square factors, {dtype}, on the device",
            "kron_matvec",
            peers,
            {f"{n}^{d}": partial(product_contest, dtype, n, d) for n, d in PRODUCTS},
            workers=(1,),
            wait=wait,
        )
        for dtype in DTYPES
    ]
    solves = Table(
        "Poisson's equation on a cube, float64, on the device",
        "kronsum_solve",
        ("eigh, tensordot",),
        {f"{n}^3": partial(poisson_contest, n) for n in CUBES},
        workers=(1,),
        wait=wait,
    )
    return [each for table in products for each in (table, table.in_a_queue())] + [solves]


def product_contest(dtype: str, n: int, d: int) -> Contest:
    """Multiply one vector."""
    import cupy

    rng = cupy.random.default_rng(0)
    factors = [rng.standard_normal((n, n), dtype) for _ in range(d)]
    x = rng.standard_normal(n**d, dtype)
    calls = {
        "reduce tensordot": partial(by_tensordot, factors, x),
        "matmul of views": partial(on_views, factors, x),
    }
    expected = partial(on_views, [a.astype("float64") for a in factors], x.astype("float64"))
    differs = partial(_differs, 1e-5 if dtype == "float32" else 1e-12)
    ours = partial(kronecker.kron_matvec, factors, x)
    return Contest(ours, calls, expected, differs, (x, *factors))


def poisson_contest(n: int) -> Contest:
    """Solve Poisson's equation by second differences."""
    import cupy

    d = 2 * cupy.eye(n) - cupy.eye(n, k=1) - cupy.eye(n, k=-1)
    b = cupy.random.default_rng(0).standard_normal(n**3)

    def peer() -> Any:
        values, vectors = np.linalg.eigh(d)
        c = by_tensordot([vectors.T] * 3, b).reshape(n, n, n)
        c /= values[:, None, None] + values[:, None] + values
        return by_tensordot([vectors] * 3, c)

    ours = partial(kronecker.kronsum_solve, [d] * 3, b)
    return Contest(ours, {"eigh, tensordot": peer}, peer, partial(_differs, 1e-9), (b, d))


def _differs(tolerance: float, result: Any, expected: Any) -> str:
    error = float(abs(result.ravel() - expected.ravel()).max() / abs(expected).max())
    return "" if error < tolerance else f"relative error {error:.1e}"
