"""CPU engine: G is read by kernels at the speed of memory, and multiplied by register tiles.

NumPy's float16 and bits of bfloat16 (uint16) are widened within kernels. Gram matrix and diagonal
go over pieces of columns, one thread each; products in float32 are of short pieces, whose sums are
in float64, and only where their rounding does no harm. Few vectors and small matrices are left to
BLAS and LAPACK.
"""

from itertools import pairwise

import numpy as np
from scipy.linalg import lapack

from .._checks import kernel_array
from .._engine import Engines
from .._intrinsics import STORAGE
from .._threads import chunk_bounds, run_chunks
from .._tiles import ROW, TALL
from . import _numba_blocks, _numba_products, _numba_rows
from ._array_api import product_as, solver

engine = Engines(__package__)

DTYPES = "fdeH"  # uint16 are bits of bfloat16

_COLUMNS = 16384  # of a chunk of many, at least
_SHARED, _PRODUCTS = 480, 1 << 24  # columns of a chunk, and products within it, at least
_WORK = 1 << 21  # entries of G that a chunk reads, at least
_STREAM = 4096  # columns that are read in one go, at least: each row begins another stream
_PIECE = 8192  # columns that a vector stays in the cache for, at most
_FEW = 8  # rows that chunks for vectors are cut for, at least
_ALONE = 1024  # rows of matrices that are factorised by one thread
_DEPTH = 128  # columns whose products are summed in one go, in float32 where that will do
_SHORT = 512  # columns of other pieces: the sums of products in float64 are read as seldom
_CHECKED = 4096  # column norms whose accuracy is looked at together
_AGAIN = 128  # of them are computed again where one needs to be


def squared_lengths(g):
    """Read G once."""
    m, d = g.shape
    g, kind = _bits(g)
    bounds = chunk_bounds((d, m), minimum=_WORK)
    return _summed(_lengths_of_range, bounds, (m,), kind, g)


def _lengths_of_range(start, stop, kind, g):
    sums = np.zeros(g.shape[0])
    _numba_rows.add_squared_lengths(start, stop, kind, g, sums)
    return sums


def gram(g, *, tolerance):
    """Sum products of pieces of columns by BLAS, in float32 if that is accurate enough."""
    m, d = g.shape
    g, kind = _bits(g)
    # Rounding within pieces is independent of that in others.
    is_rough = 2.0**-24 / max(1.0, d / _DEPTH) ** 0.5 <= tolerance and g.dtype != np.float64
    dtype = np.dtype(np.float32 if is_rough else np.float64)
    depth = min(d, _DEPTH if is_rough else _SHORT)
    # Few columns are shared out if they take long enough; many are in chunks with a sum each.
    columns = max(min(d // 8, _COLUMNS), _SHARED, _PRODUCTS // m**2)
    bounds = chunk_bounds((d, 1), minimum=columns)
    total = _summed(
        _gram_of_columns, bounds, (m, m), kind, g,
        scratch=lambda: _Scratch(m, depth, depth, dtype),
    )  # fmt: skip
    np.copyto(total, total.T, where=~np.tri(m, dtype=bool))
    return total


def _summed(kernel, bounds, shape, *args, **options):
    """Add what a kernel returns of each chunk, in their order."""
    total = np.zeros(shape)

    def add(_, part):
        np.add(total, part, out=total)

    run_chunks(kernel, bounds, *args, commit=add, **options)
    return total


class _Scratch:
    """What a thread needs for products by tiles: a piece of G, its panels and one tile."""

    def __init__(self, m, columns, depth, dtype):
        lanes = ROW // dtype.itemsize
        self.rows = _aligned((m * columns,), dtype)
        self.panels = _aligned((_numba_products.PANELS, depth, lanes), dtype)
        self.tile = _aligned((TALL, lanes), dtype)


def _aligned(shape, dtype):
    """Make an array that begins where a line of the cache does."""
    size = int(np.prod(shape)) * dtype.itemsize
    buffer = np.empty(size + ROW, np.uint8)
    start = -buffer.ctypes.data % ROW
    return buffer[start : start + size].view(dtype).reshape(shape)


def _gram_of_columns(start, stop, kind, g, scratch):
    m, depth = g.shape[0], scratch.panels.shape[1]
    total = np.zeros((m, m))
    for begin in range(start, stop, depth):
        end = min(stop, begin + depth)
        # A copy even of the same dtype: contiguous, which the kernel is compiled for.
        rows = scratch.rows[: m * (end - begin)].reshape(m, end - begin)
        _numba_rows.widened(begin, end, kind, g, rows)
        _numba_products.add_gram(rows, scratch.panels, scratch.tile, total)
    return total


def _piece(begin, end, kind, g, buffer, dtype):
    """Return columns of G in a dtype: a view where they are of it."""
    if g.dtype == dtype:
        return g[:, begin:end]
    rows = buffer[: g.shape[0] * (end - begin)].reshape(g.shape[0], end - begin)
    _numba_rows.widened(begin, end, kind, g, rows)
    return rows


def dots(g, x):
    """Read G once for a vector; by pieces and BLAS for several."""
    m, d = g.shape
    g, kind = _bits(g)
    if x.ndim == 1:
        bounds = _ranges(m, d)
        return _summed(_dots_of_range, bounds, (m,), kind, g, x, scratch=lambda: _vector(bounds))
    bounds = chunk_bounds((d, m), minimum=_WORK)
    return _summed(
        _dots_of_columns, bounds, (m, x.shape[1]), kind, g, x,
        scratch=lambda: np.empty(m * min(d, _SHORT)), blas=True,
    )  # fmt: skip


def _dots_of_range(start, stop, kind, g, x, vector):
    wide, scale = vector[: stop - start], _scale(kind)
    np.multiply(x[start:stop], scale, out=wide, dtype=np.float64)
    if kind:
        _numba_rows.arrange(wide)
    sums = np.zeros(g.shape[0])
    _numba_rows.add_dots(start, stop, kind, g, wide, _step(stop - start), scale, sums)
    return scale * sums


def _dots_of_columns(start, stop, kind, g, x, buffer):
    total = np.zeros((g.shape[0], x.shape[1]))
    for begin in range(start, stop, _SHORT):
        end = min(stop, begin + _SHORT)
        total += _piece(begin, end, kind, g, buffer, buffer.dtype) @ x[begin:end]
    return total


def combine(coefficients, g, x, *, factor, dtype):
    """Read G once for a vector; by pieces and BLAS for several."""
    m, d = g.shape
    g, kind = _bits(g)
    coefficients = kernel_array(coefficients)
    result = np.empty((d, *coefficients.shape[1:]), dtype)
    if result.ndim == 1:
        bounds = _ranges(m, d)
        run_chunks(
            _combine_range, bounds, kind, g, coefficients, x, factor, result,
            scratch=lambda: _vector(bounds),
        )  # fmt: skip
    else:
        bounds = chunk_bounds((d, m), minimum=_WORK)
        run_chunks(
            _combine_columns, bounds, kind, g, coefficients, x, factor, result,
            scratch=lambda: np.empty(m * min(d, _SHORT)), blas=True,
        )  # fmt: skip
    return result


def _combine_range(start, stop, kind, g, coefficients, x, factor, result, vector):
    wide, scale = vector[: stop - start], _scale(kind)
    if x is None:
        wide[:] = 0
    else:
        np.multiply(x[start:stop], factor / scale, out=wide, dtype=np.float64)
    if kind:
        _numba_rows.arrange(wide)
    factors, step = scale * coefficients, _step(stop - start)
    _numba_rows.add_combination(start, stop, kind, g, factors, wide, step, scale)
    if kind:
        _numba_rows.put_back(wide)
    np.multiply(wide, scale, out=result[start:stop])


def _scale(kind):
    return _numba_rows.SCALE if kind else 1.0


def _step(count):
    """Cut a number of columns into equal pieces of whole groups that kernels take together."""
    pieces = max(1, -(-count // _PIECE))
    return max(1, -(-count // (pieces * _numba_rows.LANES))) * _numba_rows.LANES


def _combine_columns(start, stop, kind, g, coefficients, x, factor, result, buffer):
    for begin in range(start, stop, _SHORT):
        end = min(stop, begin + _SHORT)
        found = _piece(begin, end, kind, g, buffer, buffer.dtype).T @ coefficients
        if x is not None:
            found += factor * x[begin:end].astype(np.float64, copy=False)
        result[begin:end] = found


def _ranges(m, d):
    """Cut the columns for a vector of them, which is to stay in a cache even of few rows."""
    return chunk_bounds((d, max(m, _FEW)), minimum=max(_WORK, _STREAM * m))


def _vector(bounds):
    return np.empty(max(stop - start for start, stop in pairwise(bounds)))


def column_norms(g, root):
    """Multiply pieces of columns by W, in float32 where that is accurate enough."""
    m, d = g.shape
    g, kind = _bits(g)
    result = np.empty(d)
    narrow = kernel_array(root.astype(np.float32))
    # |δ(W g)| is about 2⁻²⁴ |W| |g|, and 1 - |W g|² is what matters.
    unit = 2.0**-23 * float(np.linalg.norm(root)) if g.dtype != np.float64 else np.inf
    wide = kernel_array(root)
    bounds = chunk_bounds((d, m), minimum=max(_WORK, _SHORT * m))
    run_chunks(
        _norms_of_columns, bounds, kind, g, wide, narrow, unit, result,
        scratch=lambda: [_Scratch(0, 0, m, w.dtype) for w in (wide, narrow)],
    )  # fmt: skip
    return result


def _norms_of_columns(start, stop, kind, g, wide, narrow, unit, result, scratch):
    of_wide, of_narrow = scratch
    lengths = np.empty(_CHECKED)
    for begin in range(start, stop, _CHECKED):
        end = min(stop, begin + _CHECKED)
        pieces = [(begin, end)]
        if np.isfinite(unit):
            found = _norms(begin, end, kind, g, narrow, of_narrow, result, lengths)
            with np.errstate(invalid="ignore"):
                changed = np.sqrt(found * lengths[: end - begin]) * unit
                right = changed <= _DIAGONAL * (1 - found)
            again = np.unique(np.flatnonzero(~right) // _AGAIN) * _AGAIN + begin
            pieces = [(k, min(end, k + _AGAIN)) for k in again.tolist()]
        for first, last in pieces:
            _norms(first, last, kind, g, wide, of_wide, result, lengths)


def _norms(begin, end, kind, g, root, scratch, result, lengths):
    norms = result[begin:end]
    _numba_products.column_norms(
        begin, end, kind, g, root, scratch.panels, scratch.tile, norms, lengths
    )
    return norms


_DIAGONAL = 2e-7  # what rounding may change in 1 - |W g|², relatively


def inverse_cholesky(matrix):
    """Factorise and invert by LAPACK."""
    inverse, status = _undivided(lapack.dtrtri, cholesky(matrix).T)
    if status:
        raise np.linalg.LinAlgError("the Cholesky factor is singular")
    return inverse.T


def triangle(rows):
    """Factorise by LAPACK, without Q."""
    return _undivided(np.linalg.qr, rows, mode="r")


def qr(rows):
    """Factorise by LAPACK."""
    return _undivided(np.linalg.qr, rows)


def inverse_triangle(triangle):
    """Invert by LAPACK."""
    return _undivided(np.linalg.inv, triangle)


def solve_by_root(root, right):
    """Multiply by W and its transpose."""
    return _undivided(lambda w: w.T @ (w @ right), root)


def cholesky(matrix):
    """Factorise by LAPACK, whose columns are our rows: by transposes, which copy nothing."""
    factor, status = _undivided(lapack.dpotrf, matrix.T)
    if status:
        raise np.linalg.LinAlgError("the matrix is not positive definite")
    return factor.T


def cholesky_solve(factor, right):
    """Solve by LAPACK."""
    return _undivided(lapack.dpotrs, factor.T, right)[0]


def _undivided(function, matrix, *args, **options):
    """Call BLAS or LAPACK in this thread alone where matrices are small.

    Its threads gain little there, wait long for each other beside other programs, and go on to wait
    in a loop while ours begin to read.
    """
    if min(matrix.shape) > _ALONE:
        return function(matrix, *args, **options)
    found = []

    def call(start, stop):
        return function(matrix, *args, **options)

    run_chunks(call, [0, 1], blas=True, commit=lambda _, result: found.append(result))
    return found[0]


def fisher_solve(x, gradients, *, damping):
    """Solve by Woodbury's identity, or by R for few parameters."""
    return solver(engine(gradients), gradients, damping)(x, x.dtype)


def fisher_solve_vjp(cotangent, x, gradients, *, damping, wrt):
    """Solve for the cotangent, and for x if the gradients' gradient is wanted."""
    solved = solver(engine(gradients), gradients, damping)
    of_x = solved(cotangent, np.float64)
    if "gradients" not in wrt:
        return of_x.astype(x.dtype), None
    y = solved(x, np.float64)
    a, b = (v[:, None] if v.ndim == 1 else v for v in (of_x, y))
    m = gradients.shape[0]
    # One matrix product: the sums of both terms, of at most m and d numbers.
    left = np.concatenate([dots(gradients, a), dots(gradients, b)], axis=1)
    right = np.concatenate([b, a], axis=1)
    of_gradients = product_as(left / -m, right.T, gradients.dtype)
    return (of_x.astype(x.dtype) if "x" in wrt else None), of_gradients


def block_factors(g, kept, *, block, damping):
    """Form and factorise blocks, each in the cache."""
    m, d = g.shape
    result = np.empty((-(-d // block), block, block))
    _run_blocks(
        _numba_blocks.factors, g, kept, block, damping, (result,), lambda: np.empty((m, block))
    )
    return result


def block_diagonal(g, kept, *, block, damping):
    """Form, factorise and invert blocks, each in the cache."""
    m, d = g.shape
    result = np.empty(d)
    _run_blocks(
        _numba_blocks.diagonal, g, kept, block, damping, (block, result),
        lambda: np.zeros((m + 2 * block, block)),
    )  # fmt: skip
    return result


def _run_blocks(kernel, g, kept, block, damping, results, scratch):
    m, d = g.shape
    g, kind = _bits(g)
    kept = kernel_array(np.empty(0, bool) if kept is None else kept)
    scalars = kernel_array(np.array([1 / m, 0.0]))

    def check(_, failed):
        if failed >= 0:
            raise np.linalg.LinAlgError(f"block {failed} is not positive definite")

    bounds = chunk_bounds((-(-d // block), m * block * block), minimum=16 * _WORK)
    run_chunks(
        kernel, bounds, kind, g, kept, damping, scalars, *results,
        scratch=scratch, blas=True, commit=check,
    )  # fmt: skip


def block_solve(factors, x, *, dtype):
    """Substitute forwards and backwards within each block."""
    blocks, block, _ = factors.shape
    columns = _readable(x[:, None] if x.ndim == 1 else x)
    result = np.empty(columns.shape, dtype)
    bounds = chunk_bounds((blocks, block * block * columns.shape[1]), minimum=_WORK)
    run_chunks(
        _numba_blocks.solve, bounds, kernel_array(factors), columns, result,
        scratch=lambda: np.empty(block),
    )  # fmt: skip
    return result.reshape(x.shape)


def _bits(g):
    """Return gradients as kernels take them, and how they are stored."""
    name = {"float16": "float16", "uint16": "bfloat16"}.get(g.dtype.name, "")
    return kernel_array(g.view(np.uint16) if name else g), STORAGE[name]


def _readable(x):
    """Return vectors for kernels, which know no float16."""
    return kernel_array(x.astype(np.float32) if x.dtype == np.float16 else x)
