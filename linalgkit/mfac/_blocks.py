"""The Fisher matrix of consecutive parameters alone: blocks along the diagonal."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from math import fsum, hypot
from typing import Any, ClassVar, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device, is_jax_array

from .. import _checks
from .._engine import Engines
from .._operator import _on_host
from .._xp import compiled
from ._array_api import wide_dtype
from ._fisher import form_of
from ._lost import attempted, check_blocks
from ._protocol import FisherMatrix, check_multiple, dtype_of, leaves_of, parts_of
from ._rows import (
    check_rows,
    contiguous,
    damping_of,
    first_leaf,
    in_memory,
    read_gradients,
    result_dtype,
    rows_of,
)

engine = Engines(__package__)


@engine.eager
def block_fisher(gradients: Any, block_size: int, *, damping: float = 1e-5) -> "BlockFisher":
    """Return the blocks of consecutive parameters of the damped empirical Fisher matrix.

    Parameters
    ----------
    gradients : array, shape (m, d), or list of arrays, shape (m, ...)
        One gradient a row. Blocks end where a leaf ends.
    block_size : int
        Parameters of a block; the last block of a leaf may have fewer.
    damping : float
        The λ > 0 that is added to the diagonal.

    Returns
    -------
    BlockFisher
        An operator of shape (d, d), with the methods of `EmpiricalFisher`.

    Raises
    ------
    ValueError
        The shapes do not fit each other, or a gradient is not finite.
    numpy.linalg.LinAlgError
        The damping is 0. That it is too small for the size of the gradients is seen where a block
        is first factorised: by products with F⁻¹ or its diagonal.

    See Also
    --------
    empirical_fisher : All of the matrix.

    Notes
    -----
    ``F_b = λ I + G_bᵀ G_b / m`` for the columns G_b of a block. A block no larger than m is formed
    and factorised in float64, which needs a damping of 1e-12 squared lengths of a parameter's
    gradients or more where they do not span the block, and leaves a relative 1e-16 over that:
    2 m B d operations and, for `solve`, B d numbers. Larger ones are `empirical_fisher`'s.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit.mfac import block_fisher
    >>> gradients = np.array([[3.0, 0.0, 4.0], [0.0, 2.0, 0.0]])
    >>> fisher = block_fisher(gradients, 2, damping=0.1)
    >>> fisher.diagonal_inverse()
    array([0.2173913 , 0.47619048, 0.12345679])
    """
    first = first_leaf(gradients)
    _checks.concrete("block_fisher", "fisher_solve", gradients=first)
    in_memory("gradients", first)
    layout, parts, dtype = read_gradients(gradients)
    block_size = _checks.size("block_size", block_size, 1)
    damping = damping_of(damping)
    rows = rows_of(*map(contiguous, parts))
    check_rows(rows.squared_lengths(), rows.parts)
    return BlockFisher(leaves_of(layout, rows.parts), block_size, damping, dtype)


class BlockFisher(FisherMatrix):
    """Blocks F_b = λ I + G_bᵀ G_b / m along the diagonal; made by `block_fisher`.

    Parameters
    ----------
    gradients : array, shape (m, d), or tuple of arrays, shape (m, ...)
        One gradient a row.
    block_size : int
        Parameters of a block.
    damping : float
        The λ of F.
    dtype : dtype or str
        Of results that belong to no vector, such as the diagonal.

    Attributes
    ----------
    gradients, block_size, damping, dtype
        As given.
    shape : (int, int)
        (d, d).

    See Also
    --------
    block_fisher : Checks its arguments and makes one.

    Notes
    -----
    A vector may have shape (d,), (d, k) for k of them, or be a list of leaves like the gradients;
    the result has its form and dtype, at least float32. Sums are in float64. Factors of blocks
    are made where they are first needed, other than for the diagonal, and kept: B d numbers in
    float64. Blocks larger than m are copied once where a leaf has several.
    """

    __module__ = "linalgkit.mfac"
    fields: ClassVar[tuple[str, ...]] = ("gradients", "block_size", "damping", "dtype")

    def __init__(self, gradients: Any, block_size: int, damping: float, dtype: Any) -> None:
        self.gradients, self.block_size, self.damping = gradients, block_size, damping
        self.layout, self._parts = parts_of(gradients)
        self.dtype, self.shape = dtype_of(dtype), (self.layout.size,) * 2
        blocks = sum(-(-size // block_size) for size in self.layout.sizes)
        self.structure = f", {blocks} blocks of {block_size}"
        self._form = Blocks.of(self._parts, block_size, damping)

    def inverse_blocks(self, size: int) -> Any:
        """Return the blocks of F⁻¹ along its diagonal, (d / size, size, size).

        Parameters
        ----------
        size : int
            Of a block; it must divide `block_size`, and every leaf must be a multiple.
        """
        size = _checks.size("size", size, 1)
        check_multiple("size", size, self.layout)
        if self.block_size % size:
            raise ValueError(f"size must divide block_size={self.block_size}; got {size}.")
        return super().inverse_blocks(size)


class Blocks(NamedTuple):
    """F by its blocks, with the methods of `ManyParameters`.

    Parameters
    ----------
    parts : tuple of array, shape (m, size)
        The gradients of each leaf.
    units : list
        Of `Unit`, the leaves' in order.
    """

    parts: tuple[Any, ...]
    units: list["Unit"]

    @classmethod
    def of(cls, parts: tuple[Any, ...], block: int, damping: float) -> "Blocks":
        units, first = [], 0
        for leaf, part in enumerate(parts):
            size = part.shape[1]
            if min(block, size) <= part.shape[0]:  # a leaf's small blocks together
                form: Any = SmallBlocks(part, min(block, size), damping)
                units.append(Unit(leaf, 0, size, first, form))
            else:  # each large block for itself
                for begin in range(0, size, block):
                    end = min(size, begin + block)
                    form = form_of(rows_of(contiguous(part[:, begin:end])), damping)
                    units.append(Unit(leaf, begin, end, first + begin, form))
            first += size
        return cls(parts, units)

    def restricted(self, kept: np.ndarray) -> "Blocks":
        """Return F of the parameters that are kept; results of the others mean nothing."""
        return Blocks(
            self.parts,
            [
                unit._replace(form=unit.form.restricted(kept[unit.first :][: unit.size]))
                for unit in self.units
            ],
        )

    def product(self, vectors: Sequence[Any]) -> list[Any]:
        return self._applied("product", vectors)

    def solve(self, vectors: Sequence[Any]) -> list[Any]:
        return self._applied("solve", vectors)

    def compensate(self, vectors: Sequence[Any]) -> list[Any]:
        return self._applied("compensate", vectors)

    def whiten(self, vectors: Sequence[Any], power: float) -> list[Any]:
        return self._applied("whiten", vectors, power)

    def diagonal(self) -> list[Any]:
        return self._together(unit.form.diagonal()[0] for unit in self.units)

    def diagonal_inverse(self) -> list[Any]:
        return self._together(unit.form.diagonal_inverse()[0] for unit in self.units)

    def inverse_element(self, p: int, q: int) -> float:
        for unit in self.units:
            if 0 <= p - unit.first < unit.size and 0 <= q - unit.first < unit.size:
                return unit.form.inverse_element(p - unit.first, q - unit.first)
        return 0.0

    def inverse_columns(self, places: np.ndarray) -> list[Any]:
        return self._together(_columns_of(unit, self.parts[0], places) for unit in self.units)

    def inverse_blocks(self, size: int) -> Any:
        return _concatenated([unit.form.inverse_blocks(size) for unit in self.units])

    def logdet(self) -> float:
        return fsum(unit.form.logdet() for unit in self.units)

    def trace(self) -> float:
        return fsum(unit.form.trace() for unit in self.units)

    def norm(self) -> float:
        return hypot(*(unit.form.norm() for unit in self.units))

    def _applied(self, method: str, vectors: Sequence[Any], *options: float) -> list[Any]:
        found = []
        for unit in self.units:
            x = vectors[unit.leaf][unit.begin : unit.end, ...]
            found += getattr(unit.form, method)((x,), *options)
        return self._together(found)

    def _together(self, found: Iterable[Any]) -> list[Any]:
        pieces: list[list[Any]] = [[] for _ in self.parts]
        for unit, piece in zip(self.units, found, strict=True):
            pieces[unit.leaf].append(piece)
        return [_concatenated(parts) for parts in pieces]


class Unit(NamedTuple):
    """Blocks that one form has.

    Parameters
    ----------
    leaf, begin, end : int
        Which columns of which leaf they are.
    first : int
        The first parameter, counted through all leaves.
    form : object
        `SmallBlocks`, or the form of one large block.
    """

    leaf: int
    begin: int
    end: int
    first: int
    form: Any

    @property
    def size(self) -> int:
        return self.end - self.begin


class SmallBlocks:
    """Blocks no larger than m, of one leaf; or of those of its parameters that are kept."""

    def __init__(
        self, part: Any, block: int, damping: float, kept: np.ndarray | None = None
    ) -> None:
        self._part, self._block, self._damping = part, block, damping
        xp = array_namespace(part)
        self._kept = None if kept is None else xp.asarray(kept, device=device(part))
        self._factors: Any = None

    def restricted(self, kept: np.ndarray) -> "SmallBlocks":
        if kept.all():
            return self
        return SmallBlocks(self._part, self._block, self._damping, kept)

    def product(self, vectors: Sequence[Any], dtype: Any = None) -> list[Any]:
        (x,) = vectors
        options = {"block": self._block, "damping": self._damping}
        served, dtype = engine(self._part, x), result_dtype(x) if dtype is None else dtype
        return [served.block_product(self._part, x, dtype=dtype, **options)]

    def solve(self, vectors: Sequence[Any]) -> list[Any]:
        (x,) = vectors
        return [engine(self.factors, x).block_solve(self.factors, x, dtype=result_dtype(x))]

    def compensate(self, vectors: Sequence[Any]) -> list[Any]:
        (x,) = vectors
        (image,) = self.product(vectors, wide_dtype(x))
        if self._kept is not None:
            xp = array_namespace(x)
            image = xp.where(self._kept, image, xp.zeros_like(image))
        return [engine(self.factors, x).block_solve(self.factors, image, dtype=result_dtype(x))]

    def whiten(self, vectors: Sequence[Any], power: float) -> list[Any]:
        (x,) = vectors
        served, dtype = engine(self.factors, x), result_dtype(x)
        return [served.block_whiten(self.factors, x, power, self._damping, dtype=dtype)]

    def diagonal(self) -> list[Any]:
        (found,) = rows_of(self._part).mean_squares()
        return [self._damping + found]

    def diagonal_inverse(self) -> list[Any]:
        return [self._factorised("block_diagonal")]

    def inverse_element(self, p: int, q: int) -> float:
        (block, row), (other, column) = divmod(p, self._block), divmod(q, self._block)
        if block != other:
            return 0.0
        factor, unit = self.factors[block : block + 1, ...], np.eye(self._block)[column]
        x = array_namespace(factor).asarray(unit, dtype=factor.dtype, device=device(factor))
        return float(engine(factor, x).block_solve(factor, x, dtype=factor.dtype)[row])

    def inverse_columns(self, places: np.ndarray) -> list[Any]:
        xp, place = array_namespace(self._part), device(self._part)
        numbers = xp.arange(self._part.shape[1], device=place)
        units = numbers[:, None] == xp.asarray(places, device=place)[None, :]
        return self.solve((xp.astype(units, self.factors.dtype),))

    def inverse_blocks(self, size: int) -> Any:
        blocks = engine(self.factors).block_inverses(self.factors, size=size)
        return blocks[: self._part.shape[1] // size, ...]

    def logdet(self) -> float:
        diagonal = array_namespace(self.factors).linalg.diagonal(self.factors)
        return 2 * float(np.sum(np.log(_on_host(diagonal).ravel()[: self._part.shape[1]])))

    def trace(self) -> float:
        lengths = _on_host(rows_of(self._part).squared_lengths())
        return self._damping * self._part.shape[1] + float(lengths.mean())

    def norm(self) -> float:
        filled = self.factors.shape[0] * self._block - self._part.shape[1]  # by λ, the last block
        return max(0.0, float(_sum_of_squares(self.factors)) - filled * self._damping**2) ** 0.5

    @property
    def factors(self) -> Any:
        if self._factors is None:
            self._factors = self._factorised("block_factors")
        return self._factors

    def _factorised(self, function: str) -> Any:
        options = {"block": self._block, "damping": self._damping}
        with _at_once(self._part):
            factorise = getattr(engine(self._part), function)
            return check_blocks(
                attempted(factorise, self._part, self._kept, **options), self._damping
            )


def _at_once(array: Any) -> Any:
    """Return a context in which JAX computes what it knows: it would keep what is jit's alone."""
    if not is_jax_array(array):
        return nullcontext()
    from jax import ensure_compile_time_eval

    return ensure_compile_time_eval()


def _columns_of(unit: Unit, like: Any, places: np.ndarray) -> Any:
    """Return a unit's rows of some columns of F⁻¹, zeros where they belong to others."""
    xp, place, dtype = array_namespace(like), device(like), wide_dtype(like)
    here = np.flatnonzero((places >= unit.first) & (places < unit.first + unit.size))
    if not here.size:
        return xp.zeros((unit.size, places.size), dtype=dtype, device=place)
    (found,) = unit.form.inverse_columns(places[here] - unit.first)
    return found @ xp.asarray(np.eye(places.size)[here], dtype=dtype, device=place)


@compiled()
def _sum_of_squares(factors: Any) -> Any:
    """Return |F|² of the blocks."""
    xp = array_namespace(factors)
    return xp.sum((factors @ xp.permute_dims(factors, (0, 2, 1))) ** 2)


def _concatenated(pieces: list[Any]) -> Any:
    return pieces[0] if len(pieces) == 1 else array_namespace(*pieces).concat(pieces, axis=0)
