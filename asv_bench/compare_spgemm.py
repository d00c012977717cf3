"""spgemm's contests: the seven products beside SciPy, MKL, GraphBLAS and pydata/sparse.

Then what is more than one plain product: plans, masks, semirings, the triple product. On a GPU:
the plain products beside CuPy, whose product is cuSPARSE's.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np
import scipy.sparse as sp
from contest import Call, Contest, Table
from spgemm_cases import CASES, erdos_renyi, galerkin, poisson, rmat, triangles

from linalgkit import spgemm

PACKAGES = (
    "numpy",
    "scipy",
    "numba",
    "mkl",
    "sparse_dot_mkl",
    "python-graphblas",
    "suitesparse-graphblas",
    "sparse",
    "pyamg",
    "cupy-cuda13x",
    "cupy-cuda12x",
)
PEERS = ("SciPy", "SciPy + sort", "MKL", "MKL sorted", "GraphBLAS", "pydata/sparse")
GPU_PEERS = ("CuPy", "CuPy + sort")
# Beside other libraries stand other calls of ours, for what the one in question saves or costs.
PLAN_PEERS = ("without out", "making the plan", "SciPy", "MKL", "GraphBLAS")
MASK_PEERS = ("SciPy", "GraphBLAS")
SEMIRING_PEERS = ("plus_times", "GraphBLAS")
GALERKIN_PEERS = ("every entry kept", "GalerkinPlan.execute", "SciPy", "MKL", "GraphBLAS")

SEMIRING_CASES = ("Erdős–Rényi n=100k d=16", "RMAT scale 14", "Poisson 64³", "Delaunay 200k")
# What adds, what multiplies, and GraphBLAS's name of the two.
SEMIRINGS: dict[str, tuple[np.ufunc, Callable, str]] = {
    "min_plus": (np.minimum, np.add, "min_plus"),
    "max_min": (np.maximum, np.minimum, "max_min"),
    "or_and": (np.logical_or, np.logical_and, "lor_land"),
    "plus_pair": (np.add, lambda x, y: np.ones_like(x), "plus_pair"),
}

LONGEST = 10  # seconds of rounds of a case
LARGE = {
    "Erdős–Rényi n=1M d=8": partial(erdos_renyi, 1_000_000, 8),
    "Erdős–Rényi n=200k d=32": partial(erdos_renyi, 200_000, 32),
    "RMAT scale 17": partial(rmat, 17),
    "Poisson 100³": partial(poisson, 100),
}

FIRST_CALL = {
    "numba": """
from scipy.sparse import eye_array
linalgkit.spgemm.matmul(eye_array(3).tocsr(), eye_array(3).tocsr())
""",
    "cupy": """
from cupyx.scipy.sparse import eye
linalgkit.spgemm.matmul(eye(3, format="csr"), eye(3, format="csr")).data.get()
""",
}


def tables(engine: str) -> list[Table]:
    """Return what is run on an engine's arrays."""
    if engine == "cupy":
        import cupy

        title = "Sorted float64 products on the device"
        cases = {name: partial(_gpu_contest, make) for name, make in (CASES | LARGE).items()}
        wait = cupy.cuda.get_current_stream().synchronize
        return [Table(title, "spgemm.matmul", GPU_PEERS, cases, workers=(1,), wait=wait)]
    table = partial(Table, set_threads=_set_threads, longest=LONGEST)
    products = [
        table(
            title=f"Sorted float64 products, {np.dtype(index)} indices",
            ours="spgemm.matmul",
            peers=PEERS,
            cases={name: partial(product_contest, make, index) for name, make in CASES.items()},
        )
        for index in (np.int32, np.int64)
    ]
    plans = {name: partial(plan_contest, make) for name, make in CASES.items()}
    masked = {
        "RMAT scale 14, L·L on L": partial(masked_contest, triangles),
        "RMAT scale 14, count": partial(count_contest, triangles),
    }
    semirings = {
        f"{case}, {name}": partial(semiring_contest, CASES[case], name)
        for name in SEMIRINGS
        for case in SEMIRING_CASES
    }
    triple = {"Poisson 64³": partial(galerkin_contest, galerkin)}
    return [
        *products,
        table("New values on a known pattern", "Plan.execute(out=)", PLAN_PEERS, plans),
        table("Triangles of an undirected graph", "linalgkit", MASK_PEERS, masked),
        table("Other semirings", "spgemm.matmul", SEMIRING_PEERS, semirings),
        table(
            "Ruge–Stüben R·A·P in one call", "spgemm.galerkin(prune=True)", GALERKIN_PEERS, triple
        ),
    ]


def peers(a: Any, b: Any) -> dict[str, Call]:
    """Return the peers that are installed and take these index types, ready to multiply."""
    found = {"SciPy": lambda: a @ b, "SciPy + sort": lambda: _sorted(a @ b)}
    # MKL's library has 32-bit indices here; the binding would cast those of a and b in place.
    if a.indices.dtype == np.int32 and (multiply := _mkl()):
        found["MKL"] = partial(multiply, a, b)
        found["MKL sorted"] = partial(multiply, a, b, reorder_output=True)
    if graphblas := _graphblas():
        left, right = (graphblas.io.from_scipy_sparse(x) for x in (a, b))
        # Materialised: else the result's rows would be sorted at its first use.
        found["GraphBLAS"] = lambda: left.mxm(right, "plus_times").new().wait()
    try:
        import sparse
    except ImportError:
        return found
    x, y = (sparse.GCXS.from_scipy_sparse(operand) for operand in (a, b))
    return found | {"pydata/sparse": lambda: x @ y}


def product_contest(make: Callable, index: type = np.int32) -> Contest:
    """Multiply once."""
    a, b = (_with_indices(x, index) for x in make())
    return Contest(partial(spgemm.matmul, a, b), peers(a, b), lambda: _sorted(a @ b), _differs)


def plan_contest(make: Callable) -> Contest:
    """Multiply new values: by a plan into memory that is there, or from the start."""
    a, b = make()
    plan = spgemm.plan(a, b)
    ours = partial(plan.execute, a.data, b.data, out=np.empty(plan.nnz))
    calls = {
        "without out": partial(plan.execute, a.data, b.data),
        "making the plan": partial(spgemm.plan, a, b),
    }
    calls |= {name: call for name, call in peers(a, b).items() if name in PLAN_PEERS}

    def differs(result: Any, expected: Any) -> str:
        if isinstance(result, spgemm.Plan):
            result = result.execute(a.data, b.data)
        return _differs(_filled(plan, result), expected)

    return Contest(ours, calls, lambda: _sorted(a @ b), differs)


def masked_contest(make: Callable) -> Contest:
    """Count for every edge the triangles that it closes: L·L on the places of L."""
    _, lower = make()
    ours = partial(spgemm.matmul, lower, lower, mask=lower, semiring="plus_pair")
    calls = {"SciPy": lambda: (lower @ lower).multiply(lower)}
    if graphblas := _graphblas():
        left = graphblas.io.from_scipy_sparse(lower)
        calls["GraphBLAS"] = lambda: left.mxm(left, "plus_pair").new(mask=left.S).wait()
    return Contest(ours, calls, calls["SciPy"], _differs)


def count_contest(make: Callable) -> Contest:
    """Count all triangles, everyone from the symmetric matrix."""
    graph, _ = make()

    def scipy() -> float:
        lower = sp.tril(graph, -1, format="csr")
        return (lower @ lower).multiply(lower).sum()

    calls = {"SciPy": scipy}
    if graphblas := _graphblas():
        whole = graphblas.io.from_scipy_sparse(graph)

        def count() -> int:
            lower = whole.select("tril", -1).new()
            closed = lower.mxm(lower, "plus_pair").new(mask=lower.S)
            return closed.reduce_scalar("plus").new().value

        calls["GraphBLAS"] = count

    def differs(count: float, expected: float) -> str:
        return "" if count == expected else f"{count} triangles for {expected}"

    return Contest(partial(spgemm.triangle_count, graph), calls, scipy, differs)


def semiring_contest(make: Callable, semiring: str) -> Contest:
    """Multiply once over a semiring; truth values for or_and."""
    a, b = make()
    x, y = (m.astype(bool) if semiring == "or_and" else m for m in (a, b))
    add, multiply, name = SEMIRINGS[semiring]
    # In a tuple, by which its check knows it: another product than the others'.
    calls: dict[str, Call] = {"plus_times": lambda: (spgemm.matmul(a, b),)}
    if graphblas := _graphblas():
        left, right = (graphblas.io.from_scipy_sparse(m) for m in (x, y))
        calls["GraphBLAS"] = lambda: left.mxm(right, name).new().wait()

    def differs(result: Any, expected: Any) -> str:
        if isinstance(result, tuple):
            return _differs(result[0], _sorted(a @ b))
        return _differs(result, expected)

    ours = partial(spgemm.matmul, x, y, semiring=semiring)
    return Contest(ours, calls, lambda: _by_expansion(x, y, add, multiply), differs)


def galerkin_contest(make: Callable) -> Contest:
    """Multiply three matrices."""
    r, a, p = make()
    plan = spgemm.plan_galerkin(r, a, p)
    calls: dict[str, Call] = {
        "every entry kept": partial(spgemm.galerkin, r, a, p),
        "GalerkinPlan.execute": partial(plan.execute, r.data, a.data, p.data),
        "SciPy": lambda: r @ a @ p,
    }
    if multiply := _mkl():
        calls["MKL"] = lambda: multiply(multiply(r, a), p)
    if graphblas := _graphblas():
        x, y, z = (graphblas.io.from_scipy_sparse(m) for m in (r, a, p))
        calls["GraphBLAS"] = lambda: x.mxm(y, "plus_times").new().mxm(z, "plus_times").new().wait()

    def differs(result: Any, expected: Any) -> str:
        return _differs(_filled(plan, result), expected)

    ours = partial(spgemm.galerkin, r, a, p, prune=True)  # as SciPy, which drops what cancels
    return Contest(ours, calls, lambda: _sorted(r @ a @ p), differs)


def _gpu_contest(make: Callable) -> Contest:
    from cupyx.scipy.sparse import csr_matrix

    a, b = make()
    x = csr_matrix(sp.csr_matrix(a))
    y = x if b is a else csr_matrix(sp.csr_matrix(b))
    calls = {"CuPy": lambda: x @ y, "CuPy + sort": lambda: _sorted(x @ y)}
    ours = partial(spgemm.matmul, x, y)
    operands = (x,) if b is a else (x, y)
    return Contest(ours, calls, lambda: _sorted(a @ b), _differs, operands)


def _sorted(c: Any) -> Any:
    c.sort_indices()
    return c


def _filled(plan: Any, result: Any) -> Any:
    """Put values that a plan computed at their places."""
    return plan.to_sparse(result) if isinstance(result, np.ndarray) else result


def _by_expansion(a: Any, b: Any, add: np.ufunc, multiply: Callable) -> Any:
    """Multiply the plain way: all products, sorted by their places, added by `add`."""
    lengths = np.diff(b.indptr)[a.indices]
    of_a = np.repeat(np.arange(a.nnz), lengths)
    first = b.indptr[a.indices] - (np.cumsum(lengths) - lengths)
    of_b = np.arange(of_a.size) + np.repeat(first, lengths)
    row = np.repeat(np.arange(a.shape[0]), np.diff(a.indptr))
    place = row[of_a] * b.shape[1] + b.indices[of_b]
    order = np.argsort(place, kind="stable")
    place = place[order]
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    values = add.reduceat(multiply(a.data[of_a], b.data[of_b])[order], starts)
    parts = values, np.divmod(place[starts], b.shape[1])
    return sp.csr_array(parts, shape=(a.shape[0], b.shape[1]))


def _with_indices(a: Any, index: type) -> Any:
    parts = a.data, a.indices.astype(index), a.indptr.astype(index)
    return sp.csr_array(parts, shape=a.shape)


def _differs(result: Any, expected: Any) -> str:
    """Compare values: sums that cancel are dropped by some, kept as 0 or as 1e-17 by others."""
    if "graphblas" in type(result).__module__:
        result = _graphblas().io.to_scipy_sparse(result)
    elif hasattr(result, "to_scipy_sparse"):
        result = result.to_scipy_sparse()
    elif hasattr(result, "get"):
        result = result.get()
    if result.shape != expected.shape:
        return f"shape {result.shape} for {expected.shape}"
    if expected.dtype == bool:  # which NumPy does not subtract
        result, expected = result.astype(np.int8), expected.astype(np.int8)
    error = abs(_sorted(sp.csr_array(result)) - expected).max()
    scale = abs(expected).max()
    return "" if error <= 1e-13 * scale else f"off by {error / scale:.1g} of the largest entry"


def _mkl() -> Callable | None:
    """Return sparse_dot_mkl's product; in a virtual environment it must be told where MKL is."""
    try:
        for file in metadata.files("mkl") or ():
            if file.name.startswith(("libmkl_rt.", "mkl_rt.")) and file.suffix != ".lib":
                os.environ.setdefault("MKL_RT", str(file.locate().resolve()))
        from sparse_dot_mkl import dot_product_mkl
    except (ImportError, metadata.PackageNotFoundError):
        return None
    return dot_product_mkl


def _graphblas() -> Any:
    try:
        import graphblas
    except ImportError:
        return None
    return graphblas


def _set_threads(workers: int) -> None:
    """Tell GraphBLAS, which asked OpenMP once, when it was loaded."""
    if "graphblas" in sys.modules:
        sys.modules["graphblas"].ss.config["nthreads"] = workers
