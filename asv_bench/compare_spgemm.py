"""spgemm's contests: the seven products beside SciPy, MKL, GraphBLAS and pydata/sparse.

On a GPU: beside CuPy, whose product is cuSPARSE's.
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
from spgemm_cases import CASES

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
        cases = {name: partial(_gpu_contest, make) for name, make in CASES.items()}
        wait = cupy.cuda.get_current_stream().synchronize
        return [Table(title, "spgemm.matmul", GPU_PEERS, cases, workers=(1,), wait=wait)]
    return [
        Table(
            title=f"Sorted float64 products, {np.dtype(index)} indices",
            ours="spgemm.matmul",
            peers=PEERS,
            cases={name: partial(_contest, make, index) for name, make in CASES.items()},
            set_threads=_set_threads,
        )
        for index in (np.int32, np.int64)
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


def _contest(make: Callable, index: type) -> Contest:
    a, b = (_with_indices(x, index) for x in make())
    return Contest(partial(spgemm.matmul, a, b), peers(a, b), lambda: _sorted(a @ b), _differs)


def _gpu_contest(make: Callable) -> Contest:
    from cupyx.scipy.sparse import csr_matrix

    a, b = make()
    x, y = csr_matrix(sp.csr_matrix(a)), csr_matrix(sp.csr_matrix(b))
    calls = {"CuPy": lambda: x @ y, "CuPy + sort": lambda: _sorted(x @ y)}
    return Contest(partial(spgemm.matmul, x, y), calls, lambda: _sorted(a @ b), _differs)


def _sorted(c: Any) -> Any:
    c.sort_indices()
    return c


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
