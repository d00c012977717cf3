"""The Fisher matrix of consecutive parameters alone: blocks along the diagonal."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace, device

from .. import _checks
from .._engine import Engines
from .._operator import Operator
from ._array_api import wide_dtype
from ._fisher import EmpiricalFisher, check_multiple, inverse_operator
from ._rows import (
    Layout,
    check_rows,
    damping_of,
    first_leaf,
    in_memory,
    read_gradients,
    result_dtype,
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
        The damping is 0, or too small for the size of the gradients.

    See Also
    --------
    empirical_fisher : All of the matrix.

    Notes
    -----
    ``F_b = λ I + G_bᵀ G_b / m`` for the columns G_b of a block. A block no larger than m is formed
    and factorised, in float64, which keeps the diagonal of its inverse positive at any damping:
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
    for part in parts:
        ones = array_namespace(part).ones(part.shape[1], dtype=dtype, device=device(part))
        check_rows(engine(part, ones).dots(part, ones), (part,))
    return BlockFisher(layout, parts, block_size, damping, dtype)


class BlockFisher(Operator):
    """Blocks F_b = λ I + G_bᵀ G_b / m along the diagonal; made by `block_fisher`.

    Parameters
    ----------
    layout : object
        The parameters' shapes.
    parts : tuple of array, shape (m, size)
        The gradients of each leaf.
    block_size : int
        Parameters of a block.
    damping : float
        The λ of F.
    dtype : dtype
        Of results that belong to no vector, such as the diagonal.

    Attributes
    ----------
    block_size, damping, dtype
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
    are made by the first `solve` and kept: B d numbers in float64.
    """

    __module__ = "linalgkit.mfac"
    fields: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, layout: Layout, parts: tuple[Any, ...], block_size: int, damping: float, dtype: Any
    ) -> None:
        self.layout, self.block_size, self.damping = layout, block_size, damping
        self.dtype, self.shape = dtype, (layout.size,) * 2
        self._parts, self._m = parts, parts[0].shape[0]
        # A part's small blocks together, or each large block for itself, with its place.
        self._units: list[tuple[int, int, int, Any]] = []
        for number, part in enumerate(parts):
            size = part.shape[1]
            if min(block_size, size) <= self._m:
                unit: Any = _SmallBlocks(part, min(block_size, size), damping, dtype)
                self._units.append((number, 0, size, unit))
                continue
            core = array_namespace(part)
            for begin in range(0, size, block_size):
                end = min(size, begin + block_size)
                ones = core.ones(self._m, dtype=wide_dtype(part), device=device(part))
                unit = EmpiricalFisher(part[:, begin:end], ones, damping, dtype)
                self._units.append((number, begin, end, unit))
        self._all = _RestrictedBlocks(self, np.ones(layout.size, bool))

    def __repr__(self) -> str:
        d, blocks = self.shape[0], sum(-(-size // self.block_size) for size in self.layout.sizes)
        return (
            f"<BlockFisher {d}×{d} ({self._m} gradients, {blocks} blocks of {self.block_size}), "
            f"{self.dtype}>"
        )

    def matvec(self, x: Any, /) -> Any:
        """Return F x, for x of shape (d,) or a list of leaves."""
        vectors, join = self.layout.split("x", x)
        return join(self._product(vectors))

    def matmat(self, x: Any, /) -> Any:
        """Return F X, for X of shape (d, k)."""
        return self.matvec(x)

    rmatvec, rmatmat = matvec, matmat

    def __matmul__(self, x: Any) -> Any:
        """Return F x."""
        return self.matvec(x)

    def _product(self, vectors: Sequence[Any]) -> list[Any]:
        options = {"block": self.block_size, "damping": self.damping}
        return [
            engine(part, x).block_product(part, x, dtype=result_dtype(x), **options)
            for part, x in zip(self._parts, vectors, strict=True)
        ]

    def solve(self, x: Any, /) -> Any:
        """Return F⁻¹ x, for x of shape (d,), (d, k) or a list of leaves."""
        vectors, join = self.layout.split("x", x)
        return join(self._all.solve(vectors))

    def diagonal_inverse(self) -> Any:
        """Return the diagonal of F⁻¹."""
        return self.layout.joined(
            [array_namespace(x).astype(x, self.dtype) for x in self._all.diagonal_inverse()]
        )

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
        return self._all.inverse_blocks(size)

    @property
    def inverse(self) -> Any:
        """SciPy's LinearOperator of F⁻¹, for NumPy arrays."""
        return inverse_operator(self)

    def _restricted(self, kept: np.ndarray) -> "_RestrictedBlocks":
        return _RestrictedBlocks(self, kept)


class _RestrictedBlocks:
    """The blocks of the parameters that are kept; results of the others mean nothing."""

    def __init__(self, fisher: BlockFisher, kept: np.ndarray) -> None:
        self._fisher = fisher
        ends = np.cumsum((0, *fisher.layout.sizes))
        self._units = [
            (number, begin, end, unit._restricted(kept[ends[number] :][begin:end]))
            for number, begin, end, unit in fisher._units
        ]

    def diagonal_inverse(self) -> list[Any]:
        return self._together(
            (number, unit.diagonal_inverse()[0]) for number, *_, unit in self._units
        )

    def solve(self, vectors: Sequence[Any]) -> list[Any]:
        return self._together(
            (number, unit.solve((vectors[number][begin:end, ...],))[0])
            for number, begin, end, unit in self._units
        )

    def compensate(self, vectors: Sequence[Any]) -> list[Any]:
        return self._together(
            (number, unit.compensate((vectors[number][begin:end, ...],))[0])
            for number, begin, end, unit in self._units
        )

    def inverse_blocks(self, size: int) -> Any:
        return _concatenated([unit.inverse_blocks(size) for *_, unit in self._units])

    def _together(self, found: Any) -> list[Any]:
        pieces: list[list[Any]] = [[] for _ in self._fisher._parts]
        for number, piece in found:
            pieces[number].append(piece)
        return [_concatenated(parts) for parts in pieces]


class _SmallBlocks:
    """Blocks no larger than m, of one leaf; or of those of its parameters that are kept."""

    def __init__(
        self, part: Any, block: int, damping: float, dtype: Any, kept: np.ndarray | None = None
    ) -> None:
        self._part, self._dtype = part, dtype
        self._options = {"block": block, "damping": damping}
        xp = array_namespace(part)
        self._kept = None if kept is None else xp.asarray(kept, device=device(part))
        self._factors: Any = None

    def _restricted(self, kept: np.ndarray) -> "_SmallBlocks":
        if kept.all():
            return self
        return _SmallBlocks(self._part, dtype=self._dtype, kept=kept, **self._options)  # type: ignore[arg-type]

    def diagonal_inverse(self) -> list[Any]:
        return [engine(self._part).block_diagonal(self._part, self._kept, **self._options)]

    def solve(self, vectors: Sequence[Any]) -> list[Any]:
        (x,) = vectors
        return [engine(self.factors, x).block_solve(self.factors, x, dtype=result_dtype(x))]

    def compensate(self, vectors: Sequence[Any]) -> list[Any]:
        (x,) = vectors
        xp = array_namespace(x)
        image = engine(self._part, x).block_product(
            self._part, x, dtype=wide_dtype(x), **self._options
        )
        if self._kept is not None:
            image = xp.where(self._kept, image, xp.zeros_like(image))
        return [engine(self.factors, x).block_solve(self.factors, image, dtype=result_dtype(x))]

    def inverse_blocks(self, size: int) -> Any:
        blocks = engine(self.factors).block_inverses(self.factors, size=size)
        xp = array_namespace(blocks)
        return xp.astype(blocks[: self._part.shape[1] // size, ...], self._dtype)

    @property
    def factors(self) -> Any:
        if self._factors is None:
            self._factors = engine(self._part).block_factors(
                self._part, self._kept, **self._options
            )
        return self._factors


def _concatenated(pieces: list[Any]) -> Any:
    return pieces[0] if len(pieces) == 1 else array_namespace(*pieces).concat(pieces, axis=0)
