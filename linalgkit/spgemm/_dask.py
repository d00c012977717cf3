"""Dask engine: products of matrices in blocks, block by block, on the engine of the blocks.

C(i, j) = op(A)(i, :) op(B)(:, j): the inner blocks of a block row of op(A), and of a block column
of op(B), are put together first, once for all products that need them, and multiplied in one call.
Partial products are never added, so that sums run in the order of the whole matrices' product and
end in the same bits.
"""

from functools import partial
from math import isnan
from typing import Any

import dask
import dask.array as da
import numpy as np
from array_api_compat import to_device
from dask.array.core import concatenate_lookup
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.sizeof import sizeof
from scipy.sparse import sparray

from .. import _checks
from .._engine import use_engine, wished_engine
from ._containers import CSR, read
from ._products import matmul, read_mask
from ._semirings import SEMIRINGS


def blocked_matmul(
    a: Any,
    b: Any,
    *,
    mask: Any,
    complement: bool,
    mask_values: bool,
    transpose_a: bool,
    transpose_b: bool,
    max_memory: int | None,
    **options: Any,
) -> da.Array:
    """Return the product as a Dask array in the row chunks of op(a) and column chunks of op(b)."""
    _checks.choice("semiring", options["semiring"], SEMIRINGS)
    if max_memory is not None:
        max_memory = _checks.size("max_memory", max_memory)
    if mask is None:
        read_mask(None, (0, 0), complement, mask_values)  # raises where an option needs a mask
    left, right = _blocks("a", a), _blocks("b", b)
    allowed = None if mask is None else _blocks("mask", mask)
    _check_shapes(left, right, allowed, transpose_a, transpose_b)
    options |= {"complement": complement, "mask_values": mask_values}
    options |= {"transpose_a": transpose_a, "transpose_b": transpose_b}
    # Empty blocks have the kind, layout and dtype of all; what never works raises here.
    meta = _product(*(None if x is None else x._meta for x in (left, right, allowed)), **options)

    # A container has no chunks: it takes those of a Dask mask, else as many as max_memory asks for.
    row_axis, column_axis = int(transpose_a), int(not transpose_b)
    rows, columns = left.chunks[row_axis], right.chunks[column_axis]
    if isinstance(mask, da.Array):
        rows = rows if isinstance(a, da.Array) else mask.chunks[0]
        columns = columns if isinstance(b, da.Array) else mask.chunks[1]
    elif max_memory is not None and not isinstance(a, da.Array):
        rows = _bounded_rows(a, transpose_a, max(columns), meta.dtype.itemsize, max_memory)
    left, right = _cut(left, {row_axis: rows}), _cut(right, {column_axis: columns})
    allowed = None if allowed is None else _cut(allowed, {0: rows, 1: columns})

    left, right = _joined(left, 1 - row_axis), _joined(right, 1 - column_axis)
    product = partial(_product, max_memory=max_memory, **options)
    tasks = {
        (i, j): (
            product,
            (left.name, *_place(row_axis, i, 0)),
            (right.name, *_place(column_axis, j, 0)),
            None if allowed is None else (allowed.name, i, j),
        )
        for i in range(len(rows))
        for j in range(len(columns))
    }
    inputs = [x for x in (left, right, allowed) if x is not None]
    return _array("spgemm-matmul", tasks, inputs, (rows, columns), meta)


def _check_shapes(
    left: da.Array, right: da.Array, allowed: da.Array | None, transpose_a: bool, transpose_b: bool
) -> None:
    of_left = left.shape[::-1] if transpose_a else left.shape
    of_right = right.shape[::-1] if transpose_b else right.shape
    if of_left[1] != of_right[0]:
        raise ValueError(
            f"matmul needs a of shape (m, k) and b of shape (k, n); got {of_left} and "
            f"{of_right}{' after transposition' if transpose_a or transpose_b else ''}."
        )
    shape = of_left[0], of_right[1]
    if allowed is not None and allowed.shape != shape:
        raise ValueError(f"mask must have the result's shape {shape}; got {allowed.shape}.")


def _array(
    title: str,
    tasks: dict[tuple[int, int], tuple[Any, ...]],
    inputs: list[Any],
    chunks: tuple[tuple[int, ...], ...],
    meta: Any,
) -> da.Array:
    """Return the Dask array whose block (i, j) is computed by task (i, j).

    A plain graph: Dask fuses its own block-wise layers with those that they read, and could then
    load a block of B anew for each block of A that it meets.
    """
    name = f"{title}-{tokenize([x.name for x in inputs], chunks, tasks[0, 0])}"
    layer: dict[Any, Any] = {(name, *place): task for place, task in tasks.items()}
    graph = HighLevelGraph.from_collections(name, layer, dependencies=inputs)
    return da.Array(graph, name, chunks, meta=meta)


def _blocks(name: str, value: Any) -> da.Array:
    """Return a Dask array of sparse blocks; a container becomes one block under one key."""
    if not isinstance(value, da.Array):
        return _one_block(name, value)
    if value.ndim != 2:
        raise ValueError(f"{name} must have two axes; got shape {value.shape}.")
    if any(isnan(size) for sizes in value.chunks for size in sizes):
        raise ValueError(
            f"{name} has blocks of unknown size: {value.chunks}. Call {name}.compute_chunk_sizes() "
            f"first, or state the chunks where it is made."
        )
    try:
        read(name, value._meta)
    except TypeError:
        kind = type(value._meta)
        raise TypeError(
            f"{name} must have sparse blocks; its meta says {kind.__module__}.{kind.__qualname__}. "
            f"If they are sparse, make {name} with meta=scipy.sparse.csr_array((0, 0)); "
            f"if dense, {name}.map_blocks(scipy.sparse.csr_array) makes them so."
        ) from None
    return value


def _one_block(name: str, value: Any) -> da.Array:
    kind = type(value)
    if kind.__module__.startswith("dask."):
        raise TypeError(
            f"{name} must be a Dask array; got {kind.__module__}.{kind.__qualname__}. A delayed "
            f"matrix becomes one with dask.array.from_delayed."
        )
    container = read(name, value).container()  # CSR or CSC: those can be sliced
    if isinstance(container, CSR):
        raise TypeError(
            f"{name} must be a container of scipy.sparse, cupyx.scipy.sparse or pydata/sparse "
            f"beside Dask arrays; got {kind.__module__}.{kind.__qualname__}."
        )
    whole = dask.delayed(container, pure=False, traverse=False)  # a random name: nothing is hashed
    return da.from_delayed(whole, container.shape, meta=container)


def _cut(blocks: da.Array, chunks: dict[int, tuple[int, ...]]) -> da.Array:
    """Change chunks, by slices in tasks."""
    if all(blocks.chunks[axis] == sizes for axis, sizes in chunks.items()):
        return blocks
    return blocks.rechunk(chunks, method="tasks")


def _bounded_rows(
    a: Any, transposed: bool, width: int, itemsize: int, max_memory: int
) -> tuple[int, ...]:
    """Return row chunks whose blocks of the product fit even if each row that can be full is."""
    operand = read("a", a)
    operand = (operand.transposed() if transposed else operand).in_layout("csr", "a")
    lengths = np.diff(np.asarray(to_device(operand.indptr, "cpu"), dtype=np.int64))
    index = 8  # bytes of a column or a row pointer, at worst
    ends = np.cumsum(index + (lengths > 0) * width * (itemsize + index))
    sizes, start, before = [], 0, 0
    while start < lengths.size:
        fitting = int(np.searchsorted(ends, before + max_memory - index, side="right"))
        stop = max(fitting, start + 1)  # one row that may not fit: its task tells
        sizes.append(stop - start)
        start, before = stop, int(ends[stop - 1])
    return tuple(sizes) or (0,)


def _joined(blocks: da.Array, axis: int) -> da.Array:
    """Put the blocks along an axis together, in one task for each place on the other axis."""
    inner, outer = blocks.numblocks[axis], blocks.numblocks[1 - axis]
    if inner == 1:
        return blocks
    tasks: dict[tuple[int, int], tuple[Any, ...]] = {
        _place(axis, 0, across): (
            _join,
            [(blocks.name, *_place(axis, along, across)) for along in range(inner)],
            axis,
        )
        for across in range(outer)
    }
    chunks = _place(axis, (blocks.shape[axis],), blocks.chunks[1 - axis])
    return _array("spgemm-join", tasks, [blocks], chunks, blocks._meta)


def _place(axis: int, along: Any, across: Any) -> tuple[Any, Any]:
    return (across, along) if axis else (along, across)


def _join(blocks: list[Any], axis: int) -> Any:
    """Put blocks of one layout together: SciPy then copies, and keeps zeros and duplicates."""
    if blocks[0].format == "dia":  # whose zeros SciPy would leave out
        blocks = [read("block", block).container() for block in blocks]
    layout = blocks[0].format
    return concatenate_lookup.dispatch(type(blocks[0]))(
        [block.asformat(layout) for block in blocks], axis=axis
    )


def _product(a: Any, b: Any, mask: Any, **options: Any) -> Any:
    """Multiply blocks on the engine that their arrays ask for, whatever engine made the graph."""
    wish = wished_engine()
    with use_engine(None if wish == "dask" else wish):
        return matmul(a, b, mask=mask, **options)


@sizeof.register(sparray)
def _sizeof_sparse_array(container: Any) -> int:
    """Count a sparse array's bytes: Dask counts those of matrices only, and spills by them."""
    return sum(sizeof(part) for part in vars(container).values())
