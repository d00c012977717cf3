"""Sparse containers of several libraries as three arrays, and results as containers again."""

import sys
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, is_jax_array, is_numpy_array

from .. import _checks
from ._csr import (
    check_csr,
    conjugate,
    fits_int32,
    for_patterns,
    index_dtype,
    like,
    rows_of_entries,
)

LAYOUTS = ("csr", "csc")
_LINES = {"csr": "row", "csc": "column"}


class _Arrays(NamedTuple):
    data: Any
    indices: Any
    indptr: Any


class CSR(_Arrays):
    """Compressed sparse rows: a tuple of three arrays, in SciPy's order, that knows its shape.

    Parameters
    ----------
    data : array, shape (nnz,)
        The values.
    indices : array of int, shape (nnz,)
        Their columns.
    indptr : array of int, shape (rows + 1,)
        Row i has the entries ``indptr[i]`` to ``indptr[i + 1]``.
    shape : (int, int), optional
        Of the matrix, which the arrays alone do not tell. Products have it.

    Notes
    -----
    It unpacks into the three arrays, and with its shape it is an operand of all functions of the
    room. In JAX it is a pytree of the arrays. What torch.func returns has lost the shape.
    """

    shape: tuple[int, int] | None

    def __new__(
        cls, data: Any, indices: Any, indptr: Any, shape: tuple[int, int] | None = None
    ) -> "CSR":
        if sys.modules.get("jax") is not None:
            with _lock:
                _make_pytree()
        made = super().__new__(cls, data, indices, indptr)
        made.shape = shape
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (*self, self.shape)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, shape={self.shape})"

    def _replace(self, **parts: Any) -> "CSR":
        return CSR(**(self._asdict() | {"shape": self.shape} | parts))


_lock = Lock()


@cache
def _make_pytree() -> None:
    """Tell JAX what it would lose: of a named tuple it keeps the fields alone."""
    from jax.tree_util import register_pytree_node

    def made(shape: Any, arrays: Any) -> CSR:
        data, indices, indptr = arrays
        return CSR(data, indices, indptr, shape)

    register_pytree_node(CSR, lambda csr: (tuple(csr), csr.shape), made)


class Operand(NamedTuple):
    """A sparse matrix as compressed rows ("csr") or columns ("csc"), and how to make one alike.

    Index arrays are as `for_patterns` gives them.
    """

    data: Any
    indices: Any
    indptr: Any
    shape: tuple[int, int]
    layout: str
    wrap: Callable[[Any, tuple[int, int], str], Any]
    line: str = "row"  # what was compressed as it was read: rows or columns, for messages

    @property
    def parts(self) -> tuple[Any, Any, Any]:
        """The three arrays."""
        return self.data, self.indices, self.indptr

    def container(self) -> Any:
        """Return a container like the one that was read."""
        return self.wrap(self.parts, self.shape, self.layout)

    def transposed(self) -> "Operand":
        """The transpose: the same arrays, read as the other layout."""
        return self._replace(shape=self.shape[::-1], layout=_other(self.layout))

    def conjugated(self) -> "Operand":
        """With conjugate values."""
        return self._replace(data=conjugate(self.data))

    @property
    def minor(self) -> int:
        """Columns of compressed rows, rows of compressed columns."""
        return self.shape[self.layout == "csr"]

    def check(self, name: str) -> None:
        """Raise ValueError or TypeError where the arrays are not those of the layout."""
        check_csr(name, *self.parts, self.minor, self.line)

    def in_layout(self, layout: str, name: str) -> "Operand":
        """Return it in a layout: itself, or converted by one counting sort."""
        if layout == self.layout:
            return self
        self.check(name)
        data, indices, indptr = _swapped(*self.parts, self.minor)
        return self._replace(data=data, indices=indices, indptr=indptr, layout=layout)


def read(name: str, value: Any) -> Operand:
    """Read a sparse container: SciPy's, CuPy's, pydata/sparse's, or one with the three arrays."""
    kind = type(value)
    package = kind.__module__.partition(".")[0]
    if package in ("scipy", "cupyx") and hasattr(value, "tocsr"):
        if len(value.shape) != 2:
            raise ValueError(f"{name} must have two axes; got shape {value.shape}.")
        wrap = _scipy_wrap(value) if package == "scipy" else _cupyx_wrap
        layout = value.format if value.format in LAYOUTS else "csr"
        parts = _compressed(name, value)
        _check_parts(name, parts, value.shape, layout)
        return Operand(*parts, value.shape, layout, wrap, _LINES[layout])
    if package == "sparse" and hasattr(value, "coords" if kind.__name__ == "COO" else "indptr"):
        return _read_pydata(name, value)
    if all(hasattr(value, part) for part in ("data", "indices", "indptr", "shape")):
        return _read_parts(name, value)
    raise TypeError(
        f"{name} must be a sparse array of scipy.sparse, cupyx.scipy.sparse or pydata/sparse; got "
        f"{kind.__module__}.{kind.__qualname__}.{_advice(name, kind)}"
    )


def _advice(name: str, kind: type) -> str:
    package = kind.__module__.partition(".")[0]
    if package == "networkx":
        return " networkx.to_scipy_sparse_array makes one of a graph."
    if package in ("numpy", "torch", "jax", "jaxlib", "cupy", "array_api_strict"):
        own = "" if name == "mask" else f"use {name}'s own `@`, or "
        dense = f"If it is dense, {own}make it sparse with scipy.sparse.csr_array."
        return f" For raw (data, indices, indptr) use csr_matmul. {dense}"
    return " For raw (data, indices, indptr) use csr_matmul."


def _other(layout: str) -> str:
    return "csr" if layout == "csc" else "csc"


def _swapped(data: Any, indices: Any, indptr: Any, minor: int) -> tuple[Any, Any, Any]:
    """Compress along the other axis; entries of one place keep their order."""
    if is_numpy_array(indices):
        from scipy.sparse import csr_array

        as_it_is = is_numpy_array(data) and data.dtype != np.float16  # which SciPy does not have
        values = data if as_it_is else np.arange(data.shape[0])
        swapped = csr_array((values, indices, indptr), shape=(indptr.shape[0] - 1, minor)).tocsc()
        values = swapped.data
        if not as_it_is:
            values = array_namespace(data).take(data, like(values, data))
        return values, swapped.indices, swapped.indptr
    xp = array_namespace(data)
    indices = xp.astype(indices[: int(indptr[-1])], index_dtype(xp))
    rows = rows_of_entries(indptr)
    order = xp.argsort(indices, stable=True)
    boundaries = xp.arange(minor + 1, dtype=indices.dtype, device=data.device)
    ends = xp.searchsorted(xp.take(indices, order), boundaries)
    return xp.take(data, order), xp.take(rows, order), ends


def _scipy_wrap(like: Any) -> Callable:
    sparse = sys.modules["scipy.sparse"]
    kind = "array" if isinstance(like, sparse.sparray) else "matrix"
    rows, columns = (
        type(like) if like.format == layout else getattr(sparse, f"{layout}_{kind}")
        for layout in LAYOUTS
    )
    return partial(_as_scipy, rows, columns)


def _as_scipy(rows: Any, columns: Any, parts: Any, shape: tuple[int, int], layout: str) -> Any:
    return (rows if layout == "csr" else columns)(tuple(parts), shape=shape)


def _cupyx_wrap(parts: Any, shape: tuple[int, int], layout: str) -> Any:
    from cupyx.scipy import sparse

    data, indices, indptr = parts
    if data.dtype.kind in "iu":  # which CuPy's containers do not hold
        data = data.astype("float64")
    # The constructor from three arrays waits for the device; that from a shape does not.
    container = getattr(sparse, f"{layout}_matrix")(shape, dtype=data.dtype)
    container.data, container.indices, container.indptr = data, indices, indptr
    return container


def _raw_wrap(parts: Any, shape: tuple[int, int], layout: str) -> CSR:
    data, indices, indptr = parts
    if layout == "csc":
        data, indices, indptr = _swapped(data, indices, indptr, shape[0])
    return CSR(data, indices, indptr, shape)


def _jax_wrap(parts: Any, shape: tuple[int, int], layout: str) -> CSR:
    from jax.numpy import asarray

    data, indices, indptr = _raw_wrap(parts, shape, layout)
    return CSR(asarray(data), asarray(indices), asarray(indptr), shape)


def _compressed(name: str, value: Any) -> tuple[Any, Any, Any]:
    """Return a container of SciPy or CuPy as compressed rows, or as the columns that it has.

    All that is stored is kept: their own conversions add what stands at one place, and leave out
    the zeros of diagonals. And they look at no index.
    """
    if value.format == "coo":
        return _from_coordinates(name, value)
    if value.format == "dia":
        return _from_diagonals(value)
    if value.format == "bsr":
        blocks = value.shape[0] // value.blocksize[0], value.shape[1] // value.blocksize[1]
        _check_parts(name, (value.indices, value.indices, value.indptr), blocks, "csr")
        check_csr(name, value.data, value.indices, value.indptr, blocks[1])
    rows = value if value.format in LAYOUTS else value.tocsr()
    return rows.data, rows.indices, rows.indptr


def _from_coordinates(name: str, value: Any) -> tuple[Any, Any, Any]:
    """Sort coordinates by row; entries of one place keep their order."""
    for axis, places in enumerate((value.row, value.col)):
        if places.size and not 0 <= places.min() <= places.max() < value.shape[axis]:
            raise ValueError(
                f"{name}.coords[{axis}] must lie in [0, {value.shape[axis]}); got {places.min()} "
                f"to {places.max()}."
            )
    xp = array_namespace(value.row)
    each = xp.arange(value.row.size + 1)  # pointers of rows of one entry each
    data, order, indptr = _swapped(value.data, value.row, each, value.shape[0])
    return data, xp.take(value.col, order), indptr


def _from_diagonals(value: Any) -> tuple[Any, Any, Any]:
    """Take diagonals row by row: each of their places is an entry, whatever it holds."""
    xp = array_namespace(value.data)
    order = xp.argsort(value.offsets)
    columns = xp.arange(value.shape[0])[:, None] + value.offsets[order][None, :]
    stored = (columns >= 0) & (columns < min(value.shape[1], value.data.shape[1]))
    indptr = xp.cumulative_sum(xp.count_nonzero(stored, axis=1), include_initial=True)
    data = value.data[xp.broadcast_to(order, columns.shape)[stored], columns[stored]]
    index = xp.int32 if fits_int32(*value.shape, data.size) else xp.int64
    return data, xp.astype(columns[stored], index), xp.astype(indptr, index)


def _check_parts(name: str, parts: Any, shape: tuple[int, int], layout: str) -> None:
    """Raise unless three arrays have the shapes of a compressed matrix, and hold numbers."""
    shapes: list[Any] = [getattr(part, "shape", ()) for part in parts]
    major = shape[LAYOUTS.index(layout)]
    if [len(x) for x in shapes] != [1, 1, 1] or shapes[2][0] != major + 1:
        raise ValueError(
            f"{name} has data, indices and indptr, but not those of {layout.upper()} of shape "
            f"{tuple(shape)}: their shapes are {', '.join(map(str, shapes))}."
        )
    if getattr(parts[0].dtype, "kind", "f") in "OSUMm":  # bfloat16 is of kind V
        raise TypeError(f"{name} must hold numbers; got dtype {parts[0].dtype}.")


def _read_parts(name: str, value: Any) -> Operand:
    """Read any object that holds compressed sparse rows as three arrays."""
    data, indices, indptr = _checks.arrays(
        **{f"{name}.{part}": getattr(value, part) for part in CSR._fields}
    )
    _checks.concrete(
        "spgemm.matmul",
        "Plan.execute on a plan made outside of the transformation",
        **{f"{name}.indices": indices, f"{name}.indptr": indptr},
    )
    if value.shape is None:
        raise ValueError(f"{name} has no shape; make it CSR(data, indices, indptr, shape).")
    if len(value.shape) != 2:
        raise ValueError(f"{name} must have two axes; got shape {tuple(value.shape)}.")
    shape = (
        _checks.size(f"{name}.shape[0]", value.shape[0]),
        _checks.size(f"{name}.shape[1]", value.shape[1]),
    )
    _check_parts(name, (data, indices, indptr), shape, "csr")
    wrap = _jax_wrap if is_jax_array(data) else _raw_wrap
    indices, indptr = for_patterns(indices, indptr)
    return Operand(data, indices, indptr, shape, "csr", wrap)


def _read_pydata(name: str, value: Any) -> Operand:
    sparse = sys.modules["sparse"]
    if value.ndim != 2:
        raise ValueError(f"{name} must have two axes; got shape {value.shape}.")
    if value.fill_value != 0:
        raise ValueError(f"{name} must have fill_value 0; got {value.fill_value}.")
    is_coo = isinstance(value, sparse.COO)
    rows = sparse.GCXS(value, compressed_axes=(0,)) if is_coo else value
    layout = LAYOUTS[rows.compressed_axes[0]]
    parts = rows.data, rows.indices, rows.indptr
    _check_parts(name, parts, rows.shape, layout)
    wrap = partial(_as_pydata, is_coo)
    return Operand(*parts, rows.shape, layout, wrap, _LINES[layout])


def _as_pydata(is_coo: bool, parts: Any, shape: tuple[int, int], layout: str) -> Any:
    sparse = import_module("sparse")
    result = sparse.GCXS(tuple(parts), shape=shape, compressed_axes=(LAYOUTS.index(layout),))
    return result.tocoo() if is_coo else result
