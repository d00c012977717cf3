"""What three arrays must satisfy to be compressed sparse rows, and how large a result may be."""

from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, is_jax_array, is_torch_array

# Sizes from here on are too large for int32.
_END_OF_INT32 = 2**31
# Columns that int64 can number, at most.
MOST_COLUMNS = 2**63 - 1


class Names(NamedTuple):
    """How an engine calls its operands in messages, and the lines of each that are compressed.

    A product of columns is computed as that of the transposes: the second operand comes first.
    """

    left: str = "a"
    right: str = "b"
    lines: tuple[str, str, str] = ("row", "row", "row")  # of the left, the right, the mask


def fits_int32(*sizes: int) -> bool:
    """Tell whether int32 does for a pattern of these sizes: its rows, columns and entries."""
    return max(sizes) < _END_OF_INT32


def index_dtype(xp: Any) -> Any:
    """Return the integers that a library indexes with: int64, of JAX without x64 int32."""
    return xp.__array_namespace_info__().default_dtypes()["indexing"]


def for_patterns(*arrays: Any) -> tuple[Any, ...]:
    """Return arrays as patterns are computed from them: JAX's on the host, others as they are.

    Patterns depend on values, and every step towards one has a size of its own, for which JAX
    would compile each operation anew.
    """
    return tuple(np.asarray(x) if is_jax_array(x) else x for x in arrays)


def like(order: Any, array: Any) -> Any:
    """Return an index array in the library of another array."""
    if isinstance(order, type(array)):
        return order
    device = {"device": array.device} if is_torch_array(array) else {}  # a tracer has none
    return array_namespace(array).asarray(np.asarray(order), **device)


def conjugate(data: Any) -> Any:
    """Return the conjugate values; real ones as they are."""
    xp = array_namespace(data)
    return xp.conj(data) if xp.isdtype(data.dtype, "complex floating") else data


def rows_of_entries(indptr: Any) -> Any:
    """Return the row of every entry, in integers that the library indexes with."""
    xp = array_namespace(indptr)
    indptr = xp.astype(indptr, index_dtype(xp))
    rows = xp.arange(indptr.shape[0] - 1, dtype=indptr.dtype, device=indptr.device)
    return xp.repeat(rows, indptr[1:] - indptr[:-1])


def only(kept: Any, indptr: Any, *arrays: Any) -> tuple[Any, ...]:
    """Keep those entries of compressed rows where `kept` is True: pointers, then the arrays."""
    xp = array_namespace(indptr)
    before = xp.cumulative_sum(xp.astype(kept, index_dtype(xp)), include_initial=True)
    ends = xp.take(before, xp.astype(indptr, index_dtype(xp)))
    (places,) = xp.nonzero(kept)
    taken = (array_namespace(x).take(x, like(places, x)) for x in arrays)
    return xp.astype(ends, indptr.dtype), *taken


def check_csr(
    name: str, data: Any, indices: Any, indptr: Any, columns: int, line: str = "row"
) -> None:
    """Raise ValueError or TypeError that says where a triple is not CSR with `columns` columns.

    Of compressed columns, a `line` is a column.
    """
    xp = array_namespace(indices, indptr)
    for part, array in (("indices", indices), ("indptr", indptr)):
        if not xp.isdtype(array.dtype, "integral"):
            raise TypeError(f"{name}_{part} must be integers; got dtype {array.dtype}.")
    if data is not None and data.shape[0] != indices.shape[0]:
        raise ValueError(
            f"{name}_data and {name}_indices must be of one length; got {data.shape[0]} and "
            f"{indices.shape[0]}."
        )
    if int(indptr[0]) != 0:
        raise ValueError(f"{name}_indptr must start at 0; got {int(indptr[0])}.")
    falls = indptr[1:] < indptr[:-1]
    if bool(xp.any(falls)):
        place = int(xp.argmax(xp.astype(falls, xp.int8)))
        raise ValueError(
            f"{name}_indptr must not decrease; {line} {place} goes from {int(indptr[place])} to "
            f"{int(indptr[place + 1])}."
        )
    if int(indptr[-1]) > indices.shape[0]:
        raise ValueError(
            f"{name}_indptr ends at {int(indptr[-1])}, past the {indices.shape[0]} entries of "
            f"{name}_indices."
        )
    used = indices[: int(indptr[-1])]
    if used.shape[0] and not 0 <= int(xp.min(used)) <= int(xp.max(used)) < columns:
        outside = used < 0
        if columns <= xp.iinfo(used.dtype).max:  # else not every library compares
            outside = outside | (used >= columns)
        position = int(xp.argmax(xp.astype(outside, xp.int8)))
        raise ValueError(
            f"{name}_indices must lie in [0, {columns}); entry {position} is {int(used[position])}."
        )


def check_memory(
    entries: int, shape: tuple[int, int], itemsize: int, max_memory: int | None
) -> None:
    """Raise MemoryError where a result of so many entries takes more than the caller allows."""
    if max_memory is None:
        return
    index = 4 if fits_int32(entries, *shape) else 8
    needed = entries * (itemsize + index) + (shape[0] + 1) * index
    if needed > max_memory:
        raise MemoryError(
            f"the product has {entries:,} entries and needs {needed:,} bytes; max_memory is "
            f"{max_memory:,}. A mask computes part of it, a Dask array of blocks all in parts."
        )


def bytes_of(dtype: Any, xp: Any) -> int:
    """Return the bytes of a value of a dtype, in any library."""
    if xp.isdtype(dtype, "bool"):
        return 1
    limits = xp.iinfo if xp.isdtype(dtype, "integral") else xp.finfo
    return int(limits(dtype).bits) // (4 if xp.isdtype(dtype, "complex floating") else 8)
