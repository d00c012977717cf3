"""Gradients as rows: leaves without copies put together, half precision in storage, scales.

A *part* is a leaf as a matrix (m, size). Parts of NumPy and CuPy hold bfloat16 as bits in uint16.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import reduce
from math import frexp, prod
from operator import add
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import (
    array_namespace,
    device,
    is_cupy_array,
    is_dask_array,
    is_numpy_array,
    is_torch_array,
)

from .. import _checks
from .._engine import Engines
from .._operator import _on_host
from .._xp import compiled
from ._array_api import wide_dtype, widened

engine = Engines(__package__)

STORAGE = ("float32", "float16", "bfloat16")


class Layout(NamedTuple):
    """The parameters' shapes: of leaves, or of one flat vector."""

    shapes: tuple[tuple[int, ...], ...]
    is_flat: bool

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        return sum(self.sizes)

    def split(
        self, name: str, x: Any, *, floating: bool = True
    ) -> tuple[tuple[Any, ...], Callable[[Any], Any]]:
        """Return a vector's parts, and what puts parts together in the vector's own form.

        A vector has shape (d,), or (d, k) for many, or is a list of leaves like the parameters.
        """
        _checks.present(**{name: x})
        if isinstance(x, list | tuple) and not self.is_flat:
            leaves = _as_arrays(name, x, floating) if len(x) == len(self.shapes) else x
            shapes = tuple(tuple(getattr(leaf, "shape", ())) for leaf in leaves)
            if shapes != self.shapes:
                are_arrays = all(hasattr(leaf, "shape") for leaf in x)
                got = _listed(shapes) if x and are_arrays else f"{len(x)} of them"
                raise ValueError(
                    f"{name} must have leaves of shapes {_listed(self.shapes)}; got {got}."
                )
            parts = tuple(_flattened(leaf) for leaf in leaves)
            return parts, self._leaves
        (x,) = _as_arrays(name, (x,), floating)
        if x.ndim not in (1, 2) or x.shape[0] != self.size:
            raise ValueError(
                f"{name} must have shape ({self.size},) or ({self.size}, k)"
                f"{'' if self.is_flat else ', or be a list of leaves'}; got {tuple(x.shape)}."
            )
        if len(self.shapes) == 1:
            return (x,), lambda parts: parts[0]
        ends = np.cumsum((0, *self.sizes)).tolist()
        pieces = tuple(x[a:b, ...] for a, b in itertools.pairwise(ends))
        return pieces, lambda parts: array_namespace(*parts).concat(list(parts), axis=0)

    def joined(self, parts: Sequence[Any]) -> Any:
        """Put results that belong to no vector together: one array where gradients were one."""
        if self.is_flat:
            return parts[0]
        return self._leaves(parts)

    def _leaves(self, parts: Sequence[Any]) -> list[Any]:
        return [
            reshaped(part, (*shape, *part.shape[1:]))
            for part, shape in zip(parts, self.shapes, strict=True)
        ]


class Rows(NamedTuple):
    """Gradients as the rows of one matrix G, row i of which is ``scales[i]`` times what is stored.

    Parameters
    ----------
    parts : tuple of array, shape (m, size)
        Leaves.
    scales : array, shape (m,)
        Of the rows.
    """

    parts: tuple[Any, ...]
    scales: Any

    @property
    def m(self) -> int:
        return self.parts[0].shape[0]

    @property
    def ends(self) -> list[int]:
        """Where leaves begin and the last one ends, among all parameters."""
        return np.cumsum([0, *(part.shape[1] for part in self.parts)]).tolist()

    @property
    def is_read_once(self) -> bool:
        """Tell whether the engine has no faster way for a Gram matrix that may be rough."""
        return is_dask_array(self.parts[0]) or is_cupy_array(self.parts[0])

    @compiled()
    def squared_lengths(self) -> Any:
        """Return the rows' squared lengths, in float64."""
        total = reduce(add, (engine(part).squared_lengths(part) for part in self.parts))
        return self.scales**2 * total

    @compiled()
    def gram(self, *, tolerance: float) -> Any:
        """Return K = G Gᵀ (m, m) in float64, within `tolerance` times lengths of rows."""
        terms = (engine(part).gram(part, tolerance=tolerance) for part in self.parts)
        total = reduce(add, terms)
        return self.scales[:, None] * total * self.scales[None, :]

    @compiled()
    def dots(self, x: Sequence[Any]) -> Any:
        """Return G x (m,) or (m, k), in float64."""
        terms = (engine(part, y).dots(part, y) for part, y in zip(self.parts, x, strict=True))
        return self._scaled(reduce(add, terms))

    @compiled("dtype")
    def combine(
        self, coefficients: Any, x: Sequence[Any] | None, *, factor: float, dtype: Any
    ) -> tuple[Any, ...]:
        """Return ``factor * x + Gᵀ coefficients``, summed in float64, in parts of `dtype`."""
        coefficients = self._scaled(coefficients)
        vectors = (None,) * len(self.parts) if x is None else x
        return tuple(
            engine(part, y).combine(coefficients, part, y, factor=factor, dtype=dtype)
            for part, y in zip(self.parts, vectors, strict=True)
        )

    @compiled()
    def column_norms(self, root: Any) -> tuple[Any, ...]:
        """Return the squared lengths of the columns of W G, for W lower triangular; float64."""
        scaled = root * self.scales[None, :]
        return tuple(engine(part).column_norms(part, scaled) for part in self.parts)

    @compiled("block")
    def column_grams(self, root: Any, block: int) -> Any:
        """Return the Gram matrices (d / block, block, block) of the columns of W G in blocks."""
        scaled = root * self.scales[None, :]
        found = [engine(part).column_grams(part, scaled, block=block) for part in self.parts]
        return found[0] if len(found) == 1 else array_namespace(*found).concat(found, axis=0)

    @compiled()
    def mean_squares(self) -> tuple[Any, ...]:
        """Return the mean of the squares of each column of G, in float64."""
        weights = self.scales**2 / self.m
        return tuple(engine(part).column_squares(part, weights) for part in self.parts)

    def columns(self, places: np.ndarray) -> Any:
        """Return some columns of G (m, k), in float64; `places` are within range."""
        ends, pieces, order = self.ends, [], []
        for part, begin, end in zip(self.parts, ends[:-1], ends[1:], strict=True):
            here = np.flatnonzero((places >= begin) & (places < end))
            if here.size:
                pieces.append(engine(part).columns(part, places[here] - begin))
                order.append(here)
        xp = array_namespace(*pieces)
        together = xp.concat(pieces, axis=1) if len(pieces) > 1 else pieces[0]
        if len(pieces) > 1:
            index = np.argsort(np.concatenate(order))
            together = xp.take(together, xp.asarray(index, device=device(together)), axis=1)
        return self._scaled(together)

    def _scaled(self, values: Any) -> Any:
        return values * (self.scales if values.ndim == 1 else self.scales[:, None])


def rows_of(*parts: Any) -> Rows:
    """Return parts as rows without scales."""
    return Rows(*stored(parts, None))


def first_leaf(gradients: Any) -> Any:
    """Return the array, or the first one of a list; None where numbers are in lists."""
    first = gradients[0] if isinstance(gradients, list | tuple) and gradients else gradients
    return first if hasattr(first, "shape") else None


def read_gradients(gradients: Any) -> tuple[Layout, tuple[Any, ...], Any]:
    """Return the parameters' layout, the gradients' parts and the dtype of results."""
    _checks.present(gradients=gradients)
    is_flat = not (
        isinstance(gradients, list | tuple)
        and any(hasattr(leaf, "shape") and leaf.ndim > 0 for leaf in gradients)
    )
    leaves = _as_arrays("gradients", (gradients,) if is_flat else gradients, True)
    shapes = tuple(tuple(leaf.shape) for leaf in leaves)
    if is_flat and len(shapes[0]) != 2:
        raise ValueError(f"gradients must have shape (m, d), or be leaves; got {shapes[0]}.")
    for k, shape in enumerate(shapes):
        if len(shape) < 1 or shape[:1] != shapes[0][:1] or max(map(len, shapes)) < 2:
            raise ValueError(
                f"a leaf of gradients must have shape (m, ...), one gradient a row, with one m for "
                f"all; leaf {k} has {shape}, leaf 0 has {shapes[0]}. Gradients that are vectors "
                f"belong in one array of shape (m, d)."
            )
    if any(0 in shape for shape in shapes):
        raise ValueError(f"gradients must not be empty; got {_listed(shapes)}.")
    m = shapes[0][0]
    parts = tuple(leaf if leaf.ndim == 2 else reshaped(leaf, (m, -1)) for leaf in leaves)
    return Layout(tuple(shape[1:] for shape in shapes), is_flat), parts, result_dtype(parts[0])


def result_dtype(array: Any) -> Any:
    """Return the dtype of results: that of an array, but at least float32."""
    xp = np if is_dask_array(array) else array_namespace(array)
    narrow = [getattr(xp, name) for name in ("float16", "bfloat16") if hasattr(xp, name)]
    return xp.float32 if array.dtype in narrow else array.dtype


def contiguous(part: Any) -> Any:
    """Return a part as kernels read it: a copy, made once, where each pass would make one."""
    if is_numpy_array(part):
        return _checks.readable(part)
    if is_cupy_array(part):
        return array_namespace(part).ascontiguousarray(part)
    return part.contiguous() if is_torch_array(part) else part


def storage_name(part: Any) -> str:
    """Return what gradients are stored in; bits in uint16 are bfloat16."""
    name = str(part.dtype).rpartition(".")[2]  # torch.float32
    return "bfloat16" if name == "uint16" else name


def stored(parts: tuple[Any, ...], storage: str | None) -> tuple[tuple[Any, ...], Any]:
    """Return parts in the dtype of storage, and the rows' scales."""
    xp, m = array_namespace(parts[0]), parts[0].shape[0]
    core = _core(parts[0])
    ones = array_namespace(core).ones(m, dtype=wide_dtype(core), device=device(core))
    if storage is None:
        return parts, ones
    if storage == "float16":
        names = np if core is not parts[0] else xp
        if not hasattr(names, "float16"):
            raise TypeError(f"arrays of {xp.__name__} have no float16; store them in float32.")
        scales = row_scales([row_maxima(part) for part in parts])
        if core is not parts[0]:
            scales = scales.compute()
        divisors = array_namespace(scales).astype(scales, parts[0].dtype)[:, None]
        return tuple(_divided(part, divisors, names.float16) for part in parts), scales
    if storage == "bfloat16" and core is not parts[0]:
        return tuple(part.map_blocks(to_bfloat16, dtype=np.uint16) for part in parts), ones
    if storage == "bfloat16":
        return tuple(to_bfloat16(part) for part in parts), ones
    return tuple(xp.astype(part, xp.float32) for part in parts), ones


def _divided(part: Any, divisors: Any, dtype: Any) -> Any:
    """Return a part over its rows' divisors; without a wide copy where that goes."""
    xp = array_namespace(part)
    if is_numpy_array(part) or is_cupy_array(part):
        with np.errstate(invalid="ignore"):  # NaN is told of afterwards
            return xp.divide(part, divisors, out=xp.empty(part.shape, dtype=dtype))
    return xp.astype(part / divisors, dtype)


@compiled()
def row_maxima(part: Any) -> Any:
    """Return the largest absolute value of every row, without a copy."""
    xp = array_namespace(part)
    above, below = xp.max(part, axis=-1), -xp.min(part, axis=-1)
    return xp.where(above > below, above, below)


@compiled()
def row_scales(maxima: Sequence[Any]) -> Any:
    """Return the powers of two next below the rows' largest values; 1 for zeros.

    Numbers are less than 4 then; a scale and its inverse are within the range of the gradients.
    """
    xp = array_namespace(*maxima)
    largest = maxima[0]
    for other in maxima[1:]:
        largest = xp.where(other > largest, other, largest)
    limits = xp.finfo(largest.dtype)
    least, most = frexp(float(limits.smallest_normal))[1] - 1, frexp(float(limits.max))[1] - 2
    largest = xp.astype(largest, wide_dtype(largest))
    largest = xp.where(largest > 0, largest, xp.ones_like(largest))
    return 2.0 ** xp.clip(xp.floor(xp.log2(largest)), least, most)


def to_bfloat16(x: Any) -> Any:
    """Round to bfloat16: natively, or for NumPy and CuPy as bits in uint16, ties to even."""
    xp = array_namespace(x)
    if hasattr(xp, "bfloat16"):
        return xp.astype(x, xp.bfloat16)
    if not hasattr(x, "view") or not hasattr(xp, "uint16"):
        raise TypeError(f"arrays of {xp.__name__} have no bfloat16; store them in float32.")
    bits = xp.astype(x, xp.float32, copy=False).view(xp.uint32)
    rounded = bits >> np.uint32(16)  # one copy alone
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    rounded = rounded.astype(xp.uint16)
    rounded[xp.isnan(x)] = 0x7FC0  # some would be rounded to zero
    return rounded


def damping_of(value: Any) -> float:
    """Return a damping as float; it must be positive."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
        raise TypeError(f"damping must be a number; got {value!r} ({type(value).__name__}).")
    number = float(value)
    if number == 0:
        raise np.linalg.LinAlgError(
            "damping is 0: the Fisher matrix of m gradients has rank m at most and no inverse. "
            "Take a small positive damping, such as 1e-5 times the squared length of a gradient."
        )
    if not 0 < number < 1e300:  # times the number of gradients it is finite
        raise ValueError(f"damping must be positive and less than 1e300; got {value!r}.")
    return number


def check_rows(sums: Any, parts: Sequence[Any]) -> None:
    """Raise ValueError where a gradient is not finite, which a sum of each (m,) tells."""
    finite = np.isfinite(_on_host(sums))
    if finite.all():
        return
    row = int(np.argmin(finite))
    for k, part in enumerate(parts):
        values = widened(part[row, ...])
        xp = array_namespace(values)
        good = xp.isfinite(values)
        if not bool(xp.all(good)):
            place = int(xp.argmin(xp.astype(good, xp.int8)))
            leaf = f" of leaf {k}" if len(parts) > 1 else ""
            raise ValueError(
                f"gradients[{row}]{leaf} is not finite at {place} in {storage_name(part)}."
            )
    raise ValueError(f"gradients[{row}] is too large: a sum over it overflows.")


def in_memory(name: str, array: Any) -> None:
    """Raise TypeError for a Dask array."""
    if is_dask_array(array):
        raise TypeError(
            f"{name} is a Dask array; this needs arrays in memory. Dask arrays are for "
            f"empirical_fisher, its products and its diagonal."
        )


def _core(part: Any) -> Any:
    """Return an array of the library that small matrices are of: NumPy beside Dask arrays."""
    return np.empty(0) if is_dask_array(part) else part


def _as_arrays(name: str, values: Sequence[Any], floating: bool) -> tuple[Any, ...]:
    names = [f"{name}[{k}]" for k in range(len(values))] if len(values) > 1 else [name]
    named = dict(zip(names, values, strict=True))
    _checks.present(**named)
    if not floating:
        return _checks.arrays(**named)
    found = _checks.floating(**named)
    _checks.real(**dict(zip(names, found, strict=True)))
    return found


def _flattened(leaf: Any) -> Any:
    return leaf if leaf.ndim == 1 else reshaped(leaf, (-1,))


@compiled()
def flat(parts: Sequence[Any]) -> Any:
    """Return a vector's parts in one array, in float64."""
    wide = [widened(part) for part in parts]
    return wide[0] if len(wide) == 1 else array_namespace(*wide).concat(wide, axis=0)


@compiled("ends", "dtype")
def cut(x: Any, ends: tuple[int, ...], dtype: Any = None) -> list[Any]:
    """Return the parts of a vector between ends."""
    parts = [x[a:b, ...] for a, b in itertools.pairwise(ends)]
    return parts if dtype is None else [array_namespace(x).astype(part, dtype) for part in parts]


def reshaped(array: Any, shape: tuple[int, ...]) -> Any:
    return array_namespace(array).reshape(array, shape)


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))
