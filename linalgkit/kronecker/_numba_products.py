"""CPU engine of products: which modes go through memory together, and which go to BLAS.

Modes of at most 160 points that are applied one after the other and lie side by side make one pass
(`_numba_panels`). A larger mode is a pass of its own: matrix products on pieces of the grid
(`_numba_gemm`).
"""

from functools import cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .._checks import readable
from .._threads import chunk_bounds, run_chunks
from .._tiles import ROW, VECTOR
from . import _array_api_products as reference
from . import _array_api_solves as reference_sums
from ._modes import batch_shape, columns_of, modes, rows_of, steps
from ._numba_gemm import modes as gemm_modes
from ._numba_panels import Grid, last_products, last_sums, products, sums

_SMALL = 160  # points of a mode that is worth a panel; BLAS is as fast from there on
_PANEL = 256  # points of a panel at most: 16 KB, and as much for the result
_RUN = 1024  # points of panels that are read together, in longer runs of memory
_LAST_PANEL = 512  # where the last mode is along the vectors, and the grid is read in place
_ROWS = 48  # fibres of the last mode at a time, where it is alone
_CHUNK = 4_000_000  # multiply-adds: 0.1 ms
_WIDTH = 512  # fibres of one matrix product

_KIND = {np.dtype(c): ord(kind) for c, kind in zip("fdFD", "sdcz", strict=True)}
_LIKE = {np.dtype(c): np.empty(0, c) for c in "fdFD"}  # arrays that tell a kernel the dtype


class Pass(NamedTuple):
    """Modes that are applied together, the last one first, to a grid (left, points, right).

    Where the last mode of all is among them (right is 1), a panel has the points of the others.
    """

    modes: tuple[int, ...]
    left: int
    right: int
    columns: int  # of the product of its factors
    rows: int
    points_in: int
    points_out: int
    panel: int  # the most points in between; 0 for a mode that goes to BLAS
    work: int  # multiply-adds a fibre
    steps: Any  # of each mode its rows and columns, for the kernel


def kron_matvec(x, *factors, columns):
    """Apply the modes, pass by pass."""
    batch, x, factors = _prepared(x, factors)
    rows, sizes = rows_of(factors), columns_of(factors)
    if 0 in rows or not x.size:
        return np.zeros((*batch, prod(rows) * columns), x.dtype)
    is_ours, spare = False, None
    for one in _passes(rows, sizes, columns):
        # Fresh memory costs as much as the multiplications of a small mode. Panels of `products`
        # are read before they are written, so a grid of our own may be its own result; other passes
        # go to and fro between two.
        size = x.size // one.columns * one.rows
        if is_ours and one.panel and one.right > 1 and one.points_in == one.points_out:
            y = x
        elif spare is not None and spare.size == size:
            y = spare
        else:
            y = np.empty(size, x.dtype)
        _apply(one, x, factors, y)
        if y is not x:
            is_ours, spare, x = True, x if is_ours else None, y
    return x.reshape(*batch, -1)


def kronsum_matvec(x, *factors, columns):
    """Add up the products along the modes, pass by pass."""
    batch, x, factors = _prepared(x, factors)
    y = np.empty(x.size, x.dtype)
    if x.size:
        for k, one in enumerate(_passes_of_sum(columns_of(factors), columns)):
            _apply(one, x, factors, y, adds=k > 0, is_sum=True)
    return y.reshape(*batch, prod(columns_of(factors)) * columns)


def kron_matvec_vjp(cotangent, x, *factors, columns, wrt):
    """Pull the cotangent back step by step, through the inputs of the steps."""
    if any(factor.ndim > 2 for factor in factors):
        return reference.kron_matvec_vjp(cotangent, x, *factors, columns=columns, wrt=wrt)
    if wrt == ("x",):
        return kron_matvec(cotangent, *map(_adjoint, factors), columns=columns), *(
            (None,) * len(factors)
        )
    plan = steps(rows_of(factors), columns_of(factors))
    inputs = [x]
    for k, left, right in plan[:-1]:
        inputs.append(_mode(inputs[-1], factors[k], left, right * columns))
    gradients, g = [None] * len(factors), cotangent
    for (k, left, right), u in zip(reversed(plan), reversed(inputs), strict=True):
        if f"factors[{k}]" in wrt:
            gradients[k] = _factor_gradient(g, u, factors[k], left, right * columns)
        if k != plan[0][0] or "x" in wrt:
            g = _mode(g, _adjoint(factors[k]), left, right * columns)
    return (g if "x" in wrt else None, *gradients)


def kronsum_matvec_vjp(cotangent, x, *factors, columns, wrt):
    """Pull the cotangent back: each mode by itself."""
    if any(factor.ndim > 2 for factor in factors):
        return reference_sums.kronsum_matvec_vjp(cotangent, x, *factors, columns=columns, wrt=wrt)
    of_x = None
    if "x" in wrt:
        of_x = kronsum_matvec(cotangent, *map(_adjoint, factors), columns=columns)
    gradients = [
        _factor_gradient(cotangent, x, factors[k], left, right * columns)
        if f"factors[{k}]" in wrt
        else None
        for k, left, right in modes(columns_of(factors))
    ]
    return of_x, *gradients


def partial_trace(a, *, sizes, axes):
    """Let einsum add up: one pass over what is read."""
    if not axes:
        return a
    sizes, traced = reference.runs_of_axes(sizes, axes)
    count = len(sizes)
    columns = [k if k in traced else count + k for k in range(count)]
    kept = [k for k in range(count) if k not in traced]
    grid = a.reshape(*a.shape[:-2], *sizes, *sizes)
    result = [..., *kept, *(count + k for k in kept)]
    size = prod(sizes[k] for k in kept)
    summed = np.einsum(grid, [..., *range(count), *columns], result)
    return summed.reshape(*a.shape[:-2], size, size)


def _prepared(x, factors):
    """Return the batch axes, the vectors flat, and factors for kernels: all batched, or none."""
    lead = x.shape[:-1]
    if any(factor.ndim > 2 for factor in factors):
        lead = batch_shape(factors, lead)
        x = np.broadcast_to(x, (*lead, x.shape[-1]))
        factors = [np.broadcast_to(a, (*lead, *a.shape[-2:])) for a in factors]
    return lead, readable(x).reshape(-1), [readable(factor) for factor in factors]


def _mode(x, factor, left, right):
    """Apply one mode by itself, to the grid (..., left, n, right)."""
    fibres = x.reshape(*x.shape[:-1], left, factor.shape[1] * right)
    return kron_matvec(fibres, factor, columns=right).reshape(*x.shape[:-1], -1)


@cache
def _passes(rows, sizes, columns):
    """Put steps together whose modes lie side by side, while a panel holds their points."""
    found, run = [], []
    for step in steps(rows, sizes):
        longer = [*run, step]
        is_next = run and step[0] == run[-1][0] - 1
        if is_next and _pass(longer, rows, sizes, columns).panel:
            run = longer
            continue
        found += [_pass(run, rows, sizes, columns)] if run else []
        run = [step]
    return (*found, _pass(run, rows, sizes, columns))


@cache
def _passes_of_sum(sizes, columns):
    """Put modes side by side together, while a panel holds their points."""
    found, run = [], []
    for step in reversed(modes(sizes)):
        longer = [*run, step]
        if run and _pass(longer, sizes, sizes, columns).panel:
            run = longer
            continue
        found += [_pass(run, sizes, sizes, columns)] if run else []
        run = [step]
    return (*found, _pass(run, sizes, sizes, columns))


def _pass(run, rows, sizes, columns):
    """Describe the pass of some steps."""
    chosen = tuple(k for k, _, _ in run)
    left, right = run[-1][1], run[0][2] * columns
    whole_in, whole_out, most, work = _chain(chosen, rows, sizes)
    points_in, points_out = whole_in, whole_out
    panel, limit = most, _PANEL
    if right == 1:  # the last mode lies along the vectors: a panel has the points of the others
        limit = _LAST_PANEL
        inner_in, inner_out, panel, _ = _chain(chosen[1:], rows, sizes)
        if len(chosen) == 1:
            inner_in = inner_out = panel = _ROWS
    if panel > limit or any(max(rows[k], sizes[k]) > _SMALL for k in chosen):
        panel = 0
    elif right == 1:
        points_in, points_out = inner_in, inner_out
    table = np.array([(rows[k], sizes[k]) for k in chosen], np.int64)
    return Pass(chosen, left, right, whole_in, whole_out, points_in, points_out, panel, work, table)


def _chain(chosen, rows, sizes):
    """Count points before, after and at most, and multiply-adds, of modes one after the other."""
    points = points_in = most = prod(sizes[k] for k in chosen)
    work = 0
    for k in chosen:
        work += points * rows[k]
        points = points // sizes[k] * rows[k]
        most = max(most, points)
    return points_in, points, most, work


def _apply(one, x, factors, y, adds=False, is_sum=False):
    """Run one pass from x to y, over the pool."""
    chosen = [factors[k] for k in one.modes]
    batches, left = 1, one.left
    if chosen[0].ndim > 2:
        batches = prod(chosen[0].shape[:-2])
    else:
        left = x.size // (one.columns * one.right)
    if one.panel:
        _apply_panels(one, x, chosen, y, batches, left, adds, is_sum)
    else:
        _apply_blas(one, x, chosen[0], y, batches, left, adds)


def _apply_panels(one, x, chosen, y, batches, left, adds, is_sum):
    lanes, blocks, run = ROW // x.itemsize, 0, 1
    if one.right > 1:
        run = min(-(-one.right // lanes), max(1, _RUN // one.panel))
    grid = Grid(left, one.right, one.points_in, one.points_out, one.panel, run)
    table = []
    for a in chosen:
        table += (_at(a), *a.strides[-2:], _batch_stride(a))
    table = np.array(table, np.int64).reshape(-1, 4)
    if one.right > 1:
        kernel = sums if is_sum else products
        pieces, work = left * -(-one.right // (run * lanes)), one.work * lanes * run
    else:
        kernel = last_sums if is_sum else last_products
        blocks = -(-chosen[0].shape[-2] // lanes) * chosen[0].shape[-1]
        pieces, work = left, one.work
        if len(chosen) == 1:
            pieces, work = -(-left // _ROWS), one.work * _ROWS
    bounds = chunk_bounds((batches * pieces, work), minimum=_CHUNK)
    size = (2 * one.panel * run + blocks) * ROW + VECTOR
    options = (int(adds),) if is_sum else ()
    run_chunks(
        kernel, bounds, _LIKE[x.dtype], grid, one.steps, table, *options,
        _at(x), _at(y), scratch=lambda: np.empty(size, np.uint8),
    )  # fmt: skip


def _apply_blas(one, x, factor, y, batches, left, adds):
    m, n = factor.shape[-2:]
    scalars = np.array([1, adds], x.dtype)
    width = min(_WIDTH, one.right if one.right > 1 else left)
    pieces = left * -(-one.right // width) if one.right > 1 else -(-left // width)
    bounds = chunk_bounds((batches * pieces, m * n * width), minimum=_CHUNK)
    run_chunks(
        gemm_modes, bounds, _KIND[x.dtype], scalars, left, m, n, one.right, width,
        _at(factor), _batch_stride(factor), _at(x), _at(y), blas=True,
    )  # fmt: skip


def _at(array):
    """Return where an array begins, in a third of the time of ``array.ctypes.data``."""
    return array.__array_interface__["data"][0]


def _batch_stride(factor):
    return prod(factor.shape[-2:]) * factor.itemsize if factor.ndim > 2 else 0


def _factor_gradient(g, u, factor, left, right):
    """Sum the outer products of the fibres of two grids along one mode: Σ g uᴴ."""
    m, n = factor.shape
    g, u = g.reshape(-1, m, right), np.conj(u.reshape(-1, n, right))
    if right >= max(m, n):
        return np.matmul(g, u.swapaxes(1, 2)).sum(axis=0)
    return np.tensordot(g, u, axes=((0, 2), (0, 2)))


def _adjoint(factor):
    return np.conj(factor.swapaxes(-1, -2))
