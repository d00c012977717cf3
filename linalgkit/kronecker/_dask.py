"""Dask engine: a grid in chunks along its leading modes, each multiplied by its own engine.

The vector is seen as (left, right): `left` the points of a few leading modes, in chunks, and
`right` those of all others. Modes of `right` lie whole in each chunk. For those of `left` the
chunks are exchanged, so that each holds them whole and a part of `right`, and exchanged back.
Nothing of the size of the grid is in one task, and nothing comes to the client.
"""

from itertools import count
from math import prod
from typing import Any

import dask.array as da

from .._engine import Engines, use_engine, wished_engine
from ._modes import columns_of, rows_of

engine = Engines(__package__)


def kron_matvec(x: da.Array, *factors: Any, columns: int) -> da.Array:
    """Apply the modes, those of whole chunks by themselves."""
    sizes, rows = (*columns_of(factors), columns), (*rows_of(factors), columns)
    if 0 in x.shape or 0 in rows:
        return da.zeros_like(x, shape=(*x.shape[:-1], prod(rows)))
    points = max(x.chunks[-1])
    split = _leading(sizes[:-1], x.numblocks[-1])
    left, right = prod(sizes[:split]), prod(sizes[split:])
    grid = x.rechunk({x.ndim - 1: max(1, points // right) * right})
    grid = grid.reshape((*x.shape[:-1], left, right))

    def trailing(grid: da.Array) -> da.Array:
        return _multiplied(grid, -1, prod(rows[split:]), factors[split:], columns)

    def leading(grid: da.Array) -> da.Array:
        if split == 0:
            return grid
        # (Both axes in one exchange: by one after the other a chunk would hold all.)
        width = max(1, points // left)
        lines = _exchanged(grid, -1, width)
        lines = _multiplied(lines, -2, prod(rows[:split]), factors[:split], 1)
        height = max(1, points // lines.shape[-1])
        return _exchanged(lines, height, -1)

    # What is exchanged has the points of `right` before or after its modes: the fewer.
    first, second = (leading, trailing) if prod(rows[split:]) > right else (trailing, leading)
    grid = second(first(grid))
    return grid.reshape((*x.shape[:-1], grid.shape[-2] * grid.shape[-1]))


def _leading(sizes: tuple[int, ...], chunks: int) -> int:
    """Count the leading modes that give each chunk a point of theirs at least; never all modes."""
    if chunks == 1:
        return 0
    return next((k for k in range(1, len(sizes)) if prod(sizes[:k]) >= chunks), len(sizes) - 1)


def _exchanged(x: da.Array, height: int, width: int) -> da.Array:
    """Cut the last two axes anew; no chunk in between is larger than those before and after."""
    return x.rechunk({x.ndim - 2: height, x.ndim - 1: width}, block_size_limit=1)


def _multiplied(x: da.Array, axis: int, size: int, factors: Any, columns: int) -> da.Array:
    """Apply factors to an axis that is whole in each chunk."""
    axis %= x.ndim
    labels = count(x.ndim)
    operands = []
    for factor in factors:
        matrix = da.from_array(factor, chunks=-1, asarray=False)
        operands += [matrix, (next(labels), next(labels))]
    places = tuple(range(x.ndim))
    return da.blockwise(
        _on_its_engine, places, x, places, *operands, along_last=axis == x.ndim - 1,
        columns=columns, adjust_chunks={axis: size}, dtype=x.dtype, concatenate=True, meta=x._meta,
    )  # fmt: skip


def _on_its_engine(x: Any, *factors: Any, along_last: bool, columns: int) -> Any:
    """Multiply a chunk on the engine that it asks for, whatever engine made the graph."""
    wish = wished_engine()
    with use_engine(None if wish == "dask" else wish):
        if along_last:
            return engine(x, *factors).kron_matvec(x, *factors, columns=columns)
        *lead, points, width = x.shape
        flat = x.reshape((*lead, points * width))
        y = engine(x, *factors).kron_matvec(flat, *factors, columns=width)
        return y.reshape((*lead, prod(rows_of(factors)), width))
