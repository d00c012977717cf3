"""GPU engine: kernels read G at the speed of memory (_rows.cu), its Gram matrix is left to cuBLAS.

float16 and bits of bfloat16 (uint16) are widened in registers. The Gram matrix is multiplied and
summed in float64, whatever the caller allows: sums of half precision on tensor cores are truncated,
by a relative 5e-9 a column (measured), which no damping of use allows. TF32 is never used.
"""

from functools import cache
from pathlib import Path

import numpy as np

from .._cuda import Source
from .._engine import Engines
from . import _array_api
from ._array_api import product_as, solver, widened

engine = Engines(__package__)

_NUMBERS = {"e": "linalgkit::Half", "H": "linalgkit::BFloat", "f": "float", "d": "double"}
_VECTORS = {"f": "float", "d": "double"}
_PIECE, _ROWS, _THREADS = 4096, 128, 256  # as in _rows.cu
# Numbers of G that are widened at a time, but not fewer columns than cuBLAS is fast with, and rows
# in a block of the Gram matrix: 110 ms for m = 1024, d = 4 M, where all of it takes 160.
_WIDENED, _COLUMNS, _BLOCK = 2**26, 16384, 256


def _kernel(name, number, vector, is_aligned):
    aligned = "true" if is_aligned else "false"
    return f"linalgkit::{name}<{_NUMBERS[number]}, {_VECTORS[vector]}, {aligned}>"


KERNELS = Source(
    Path(__file__).with_name("_rows.cu"),
    tuple(
        _kernel(name, number, vector, is_aligned)
        for name in ("dots", "combine")
        for number in _NUMBERS
        for vector in _VECTORS
        for is_aligned in (True, False)
    ),
)


def dots(g, x):
    """Read G once for a vector; by pieces and cuBLAS for several."""
    import cupy as cp

    if x.ndim == 2:
        return _array_api.dots(g, x)
    (m, d), g, x = g.shape, cp.ascontiguousarray(g), _vector(x)
    pieces = -(-d // _PIECE)
    sums = cp.empty((pieces, m))
    kernel = KERNELS[_kernel("dots", g.dtype.char, x.dtype.char, _is_aligned(g))]
    grid = pieces, -(-m // _ROWS)
    kernel(grid, (_THREADS,), (g, x, sums, np.int32(m), np.int64(d)))
    return sums.sum(axis=0)


def combine(coefficients, g, x, *, factor, dtype):
    """Read G once for a vector; by pieces and cuBLAS for several."""
    import cupy as cp

    if coefficients.ndim == 2:
        return _array_api.combine(coefficients, g, x, factor=factor, dtype=dtype)
    (m, d), g = g.shape, cp.ascontiguousarray(g)
    result = cp.empty(d, dtype)
    pointer = np.uintp(0)
    if x is not None:
        x = cp.ascontiguousarray(x, dtype=dtype)
        pointer = x
    kernel = KERNELS[_kernel("combine", g.dtype.char, result.dtype.char, _is_aligned(g))]
    blocks = -(-d // (_THREADS * (16 // g.itemsize)))
    arguments = cp.ascontiguousarray(coefficients), pointer, np.float64(factor), result
    kernel((blocks,), (_THREADS,), (g, *arguments, np.int32(m), np.int64(d)))
    return result


def _vector(x):
    """Return a vector as kernels take it."""
    import cupy as cp

    return cp.ascontiguousarray(x, dtype=x.dtype if x.dtype.char in _VECTORS else np.float32)


def _is_aligned(g):
    """Tell whether every row may be loaded by 16 bytes."""
    return g.data.ptr % 16 == 0 and g.shape[1] * g.itemsize % 16 == 0


def gram(g, *, tolerance):
    """Sum products of pieces of columns, of the lower half by blocks of rows."""
    import cupy as cp

    m, d = g.shape
    total = cp.zeros((m, m))
    # What is widened takes a sixteenth of the gradients' memory, or little.
    columns = max(_COLUMNS, min(_WIDENED // m, d * g.itemsize // 128))
    for begin in range(0, d, columns):
        rows = widened(g[:, begin : begin + columns])
        for top in range(0, m, _BLOCK):
            below = slice(top, top + _BLOCK)
            total[below, : below.stop] += rows[below] @ rows[: below.stop].T
        del rows  # the next columns take its memory
    return cp.tril(total) + cp.tril(total, -1).T


def cholesky_solve(factor, right):
    """Solve by cuBLAS."""
    from cupyx.scipy.linalg import solve_triangular

    half = solve_triangular(factor, right, lower=True)
    return solve_triangular(factor, half, lower=True, trans=1)


def unit_solver(gram, row, shift):
    """Return what solves M c = e for M = K + shift I and the unit vector e of a row to be replaced.

    It is called with K when what fills the row is on its way. What the other rows give is
    factorised meanwhile on a stream of its own: at m = 1,024 that takes half as long as a read of
    d = 4 M. By blocks, with M₁ of the others, c = (e - M₁⁻¹ b) / (κ + shift - bᵀ M₁⁻¹ b) for the
    row (b, κ).
    """
    import cupy as cp

    here, beside = cp.cuda.get_current_stream(), _beside(gram.device.id)
    others = gram.copy()
    others[row], others[:, row] = 0, 0
    others.ravel()[:: len(gram) + 1] += shift
    known = here.record()

    def solve(gram):
        beside.wait_event(known)
        with beside:
            factor = cp.linalg.cholesky(others)
        here.wait_event(beside.record())
        b = gram[row].copy()
        b[row] = 0
        c = cholesky_solve(factor, b)
        rest = gram[row, row] + shift - b @ c
        c[row] = -1
        return c / -rest

    return solve


@cache
def _beside(device):
    """Return a stream whose kernels go first: they are many and short."""
    import cupy as cp

    with cp.cuda.Device(device):
        return cp.cuda.Stream(non_blocking=True, priority=-1)


def inverse_cholesky(matrix):
    """Factorise by cuSOLVER, invert by cuBLAS."""
    import cupy as cp
    from cupyx.scipy.linalg import solve_triangular

    return solve_triangular(cp.linalg.cholesky(matrix), cp.eye(matrix.shape[0]), lower=True)


def fisher_solve(x, gradients, *, damping):
    """Solve by Woodbury's identity, or by R for few parameters."""
    return solver(engine(gradients), gradients, damping)(x, x.dtype)


def fisher_solve_vjp(cotangent, x, gradients, *, damping, wrt):
    """Solve for the cotangent, and for x if the gradients' gradient is wanted.

    That one is written once, by a product with two columns a vector.
    """
    import cupy as cp

    solved = solver(engine(gradients), gradients, damping)
    of_x = solved(cotangent, np.float64)
    if "gradients" not in wrt:
        return of_x.astype(x.dtype), None
    y, m = solved(x, np.float64), gradients.shape[0]
    a, b = (v[:, None] if v.ndim == 1 else v for v in (of_x, y))
    left = cp.concatenate([dots(gradients, a), dots(gradients, b)], axis=1) / -m
    of_gradients = product_as(left, cp.concatenate([b, a], axis=1).T, gradients.dtype)
    return (of_x.astype(x.dtype) if "x" in wrt else None), of_gradients
