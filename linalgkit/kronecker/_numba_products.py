"""CPU engine of products: which modes go through memory together, and which go to BLAS.

Modes of at most 160 points that are applied one after the other and lie side by side make one pass
(`_numba_panels`). A larger mode is a pass of its own: matrix products on pieces of the grid
(`_numba_gemm`).
"""

from functools import lru_cache, partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .._checks import kernel_array
from .._threads import chunk_bounds, run_chunks
from .._tiles import ROW, VECTOR
from . import _array_api_products as reference
from . import _array_api_solves as reference_sums
from ._modes import batch_shape, columns_of, modes, rows_of, steps
from ._numba_gemm import Pieces
from ._numba_gemm import modes as gemm_modes
from ._numba_panels import Grid, last_products, last_sums, products, sums

_SMALL = 160  # points of a mode that is worth a panel; BLAS is as fast from there on
_PANEL = 256  # points of a panel at most: 16 KB, and as much for the result
_RUN = 1024  # points of panels that are read together, in longer runs of memory
_LAST_PANEL = 512  # where the last mode is along the vectors, and the grid is read in place
_ROWS = 48  # fibres of the last mode at a time, where it is alone
_CHUNK = 2_000_000  # multiply-adds: 0.1 ms
_WIDTH = 512  # fibres of one matrix product

_KIND = {np.dtype(c): ord(kind) for c, kind in zip("fdFD", "sdcz", strict=True)}


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
    steps: tuple[tuple[int, int], ...]  # of each mode its rows and columns


class Task(NamedTuple):
    """A pass over vectors of known number and dtype: all that a call need not work out again."""

    modes: tuple[int, ...]
    size: int  # of the result
    in_place: bool  # the result may be where the vectors are
    kernel: Any
    bounds: list[int]
    numbers: Any
    steps: Any  # of each mode its rows and columns, and the bytes before its matrices
    scratch: Any


class Plan(NamedTuple):
    """What is done with vectors and factors of known shapes."""

    tasks: list[Task]
    shape: tuple[int, ...]  # of the result


def kron_matvec(x, *factors, columns):
    """Apply the modes, pass by pass."""
    x, factors = _broadcast(x, factors)
    plan = _plan(tuple([a.shape for a in factors]), x.shape, x.dtype, columns)
    if not plan.tasks:
        return np.zeros(plan.shape, x.dtype)
    x = x.reshape(-1)
    is_ours, spare = False, None
    for task in plan.tasks:
        # Fresh memory costs as much as the multiplications of a small mode. So a grid of our own
        # is its own result where it can be; other passes go to and fro between two.
        if is_ours and task.in_place:
            y = x
        elif spare is not None and spare.size == task.size:
            y = spare
        else:
            y = np.empty(task.size, x.dtype)
        _run(task, x, factors, y)
        if y is not x:
            is_ours, spare, x = True, x if is_ours else None, y
    return x.reshape(plan.shape)


def kronsum_matvec(x, *factors, columns):
    """Add up the products along the modes, pass by pass."""
    x, factors = _broadcast(x, factors)
    plan = _plan_of_sum(tuple([a.shape for a in factors]), x.shape, x.dtype, columns)
    y = np.empty(x.size, x.dtype)
    for task in plan.tasks:
        _run(task, x.reshape(-1), factors, y)
    return y.reshape(plan.shape)


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
        return a.copy()
    sizes, traced = reference.runs_of_axes(sizes, axes)
    count = len(sizes)
    columns = [k if k in traced else count + k for k in range(count)]
    kept = [k for k in range(count) if k not in traced]
    grid = a.reshape(*a.shape[:-2], *sizes, *sizes)
    result = [..., *kept, *(count + k for k in kept)]
    size = prod(sizes[k] for k in kept)
    summed = np.einsum(grid, [..., *range(count), *columns], result)
    return summed.reshape(*a.shape[:-2], size, size)


def _broadcast(x, factors):
    """Give all the same batch axes, where a factor has any."""
    for factor in factors:
        if factor.ndim > 2:
            lead = batch_shape(factors, x.shape[:-1])
            x = np.broadcast_to(x, (*lead, x.shape[-1]))
            return x, [np.broadcast_to(a, (*lead, *a.shape[-2:])) for a in factors]
    return x, factors


def _mode(x, factor, left, right):
    """Apply one mode by itself, to the grid (..., left, n, right)."""
    m, n = factor.shape
    fibres = x.reshape(*x.shape[:-1], left, n * right)
    return kron_matvec(fibres, factor, columns=right).reshape(*x.shape[:-1], left * m * right)


@lru_cache(1024)
def _plan(shapes, shape, dtype, columns):
    """Plan the products of vectors with factors that have their batch axes, or none."""
    rows, sizes = tuple(s[-2] for s in shapes), tuple(s[-1] for s in shapes)
    size, batches, tasks = prod(shape), prod(shapes[0][:-2]), []
    if size and 0 not in rows:
        for one in _passes(rows, sizes, columns):
            tasks.append(_task(one, size, batches, len(shapes[0]) > 2, dtype))
            size = tasks[-1].size
    return Plan(tasks, (*shape[:-1], prod(rows) * columns))


@lru_cache(1024)
def _plan_of_sum(shapes, shape, dtype, columns):
    """Plan a sum of products; all passes but the first add to the result."""
    size, batches, tasks = prod(shape), prod(shapes[0][:-2]), []
    if size:
        for one in _passes_of_sum(tuple(s[-1] for s in shapes), columns):
            more = {"is_sum": True, "adds": len(tasks) > 0}
            tasks.append(_task(one, size, batches, len(shapes[0]) > 2, dtype, **more))
    return Plan(tasks, shape)


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
    table = tuple((rows[k], sizes[k]) for k in chosen)
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


def _task(one, size, batches, is_batched, dtype, is_sum=False, adds=False):
    """Make a pass ready for `size` numbers."""
    left = one.left if is_batched else size // (one.columns * one.right)
    plan = _of_panels if one.panel else _of_blas
    kernel, pieces, work, numbers, scratch = plan(one, left, dtype, is_sum, adds)
    steps, before = [], 0
    for m, n in one.steps:
        steps.append((m, n, before))
        before += batches * m * n * dtype.itemsize
    # Panels of `products` are read before they are written.
    in_place = kernel is products and one.points_in == one.points_out
    return Task(
        one.modes, size // one.columns * one.rows, in_place, kernel,
        chunk_bounds((batches * pieces, work), minimum=_CHUNK),
        np.array(numbers, np.int64), np.array(steps, np.int64), scratch,
    )  # fmt: skip


def _of_panels(one, left, dtype, is_sum, adds):
    lanes, blocks, run = ROW // dtype.itemsize, 0, 1
    if one.right > 1:
        run = min(-(-one.right // lanes), max(1, _RUN // one.panel))
        kernel = sums if is_sum else products
        pieces, work = left * -(-one.right // (run * lanes)), one.work * lanes * run
    else:
        kernel = last_sums if is_sum else last_products
        blocks = -(-one.steps[0][0] // lanes) * one.steps[0][1]
        pieces, work = left, one.work
        if len(one.modes) == 1:
            pieces, work = -(-left // _ROWS), one.work * _ROWS
    grid = Grid(left, one.right, one.points_in, one.points_out, one.panel, run, int(adds))
    scratch = partial(np.empty, (2 * one.panel * run + blocks) * ROW + VECTOR, np.uint8)
    return kernel, pieces, work, grid, scratch


def _of_blas(one, left, dtype, is_sum, adds):
    ((m, n),) = one.steps
    width = min(_WIDTH, one.right if one.right > 1 else left)
    pieces = left * -(-one.right // width) if one.right > 1 else -(-left // width)
    return (
        gemm_modes,
        pieces,
        m * n * width,
        Pieces(_KIND[dtype], left, one.right, width, adds),
        None,
    )


def _run(task, x, factors, y):
    """Run one pass from x to y, over the pool."""
    if len(task.modes) == 1:
        matrices = kernel_array(factors[task.modes[0]].reshape(-1))
    else:  # side by side: to ask for an address takes longer than to copy a small matrix
        matrices = np.concatenate([factors[k] for k in task.modes], axis=None)
        matrices.flags.writeable = False
    run_chunks(
        task.kernel, task.bounds, task.numbers, task.steps, matrices, kernel_array(x), y,
        scratch=task.scratch, blas=task.scratch is None,
    )  # fmt: skip


def _factor_gradient(g, u, factor, left, right):
    """Sum the outer products of the fibres of two grids along one mode: Σ g uᴴ."""
    m, n = factor.shape
    fibres = prod(g.shape[:-1]) * left
    g, u = g.reshape(fibres, m, right), np.conj(u.reshape(fibres, n, right))
    if right >= max(m, n):
        return np.matmul(g, u.swapaxes(1, 2)).sum(axis=0)
    return np.tensordot(g, u, axes=((0, 2), (0, 2)))


def _adjoint(factor):
    return np.conj(factor.swapaxes(-1, -2))
