"""Block-diagonal matrices, in order or interleaved: what Monarch matrices are made of."""

from typing import Any

from array_api_compat import array_namespace, device

from .. import _checks
from .._operator import Operator
from ._operators import Monarch
from ._stacks import (
    by_single,
    conj,
    cut,
    eyes,
    join,
    norms,
    product,
    right_sides,
    solve_blocks,
    swap,
    transposed,
)


class BlockDiagonal(Operator):
    """A block-diagonal matrix, in the order of its blocks or interleaved.

    Parameters
    ----------
    blocks : array, shape (..., k, q, p)
        The blocks; batch axes lead.
    interleaved : bool, optional
        Block κ has the rows and columns κ, κ + k, κ + 2k, …, as in the left factor of a Monarch
        matrix. By default the rows from κ q and the columns from κ p on, as in its right factor.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of the matrix: (k q, k p).
    batch_shape : tuple of int
        Axes of `blocks` before the last three: so many matrices.

    See Also
    --------
    Monarch : An interleaved matrix times one that is not.
    factorize_mmstar : Finds three such factors of a matrix.

    Notes
    -----
    ::

        y[κ q + θ] = Σ_π B[κ, θ, π] x[κ p + π]
        y[θ k + κ] = Σ_π B[κ, θ, π] x[π k + κ]        interleaved

    2 k q p operations for each vector. Transposes, inverses and products of such matrices with the
    same k blocks are such matrices again, block by block.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import monarch
    >>> blocks = np.array([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    >>> monarch.BlockDiagonal(blocks).to_dense()
    array([[1., 2., 0., 0.],
           [3., 4., 0., 0.],
           [0., 0., 5., 6.],
           [0., 0., 7., 8.]])
    >>> monarch.BlockDiagonal(blocks, interleaved=True).to_dense()
    array([[1., 0., 2., 0.],
           [0., 5., 0., 6.],
           [3., 0., 4., 0.],
           [0., 7., 0., 8.]])
    """

    __module__ = "linalgkit.monarch"
    fields = ("blocks", "interleaved")

    def __init__(self, blocks: Any, *, interleaved: bool = False) -> None:
        _checks.present(blocks=blocks)
        (self.blocks,) = _checks.floating(blocks=blocks)
        if self.blocks.ndim < 3:
            raise ValueError(
                f"blocks must have shape (..., k, q, p); got {tuple(self.blocks.shape)}."
            )
        _checks.flags(interleaved=interleaved)
        self.interleaved = bool(interleaved)
        count, rows, columns = self.blocks.shape[-3:]
        self.shape, self.batch_shape = (count * rows, count * columns), self.blocks.shape[:-3]
        self.dtype = self.blocks.dtype
        self.structure = f" ({count} of {rows}×{columns}{', interleaved' * self.interleaved})"

    def matmat(self, x: Any, /) -> Any:
        """Return A X for X of shape (..., columns, k)."""
        x = _checks.operand("x", x, -2, self.shape[1])
        return self._by_blocks(x, self.blocks.shape[-1], lambda x: product(self.blocks, x))

    def rmatmat(self, x: Any, /) -> Any:
        """Return A^H X for X of shape (..., rows, k)."""
        return self.H.matmat(x)

    def _blocks(self) -> tuple[Any, ...]:
        return (self.blocks,)

    def _with(self, blocks: Any) -> "BlockDiagonal":
        """Return the operator of other blocks."""
        return BlockDiagonal(blocks, interleaved=self.interleaved)

    def _by_blocks(self, x: Any, size: int, step: Any) -> Any:
        """Apply a step to (..., blocks, size of a block, k)."""
        if not self.interleaved:
            return join(step(cut(x, self.blocks.shape[-3], size)))
        return join(swap(step(swap(cut(x, size, self.blocks.shape[-3])))))

    @property
    def T(self) -> "BlockDiagonal":
        """The transpose."""
        return self._with(transposed(self.blocks))

    @property
    def H(self) -> "BlockDiagonal":
        """The conjugate transpose."""
        return self.T.conj()

    def conj(self) -> "BlockDiagonal":
        """Return the complex conjugate."""
        return self._with(conj(self.blocks))

    def __matmul__(self, x: Any) -> Any:
        """Return A x for a vector, A X for a matrix, a `Product` for another operator."""
        if isinstance(x, Operator):
            from ._product_operators import Product

            return Product(self, x)
        return super().__matmul__(x)

    def to_dense(self) -> Any:
        """Return the matrix as an array of shape (..., rows, columns)."""
        xp = array_namespace(self.blocks)
        eye = xp.eye(self.shape[1], dtype=self.dtype, device=device(self.blocks))
        return self.matmat(xp.broadcast_to(eye, (*self.batch_shape, *eye.shape)))

    @by_single
    def norm(self) -> Any:
        """Return the Frobenius norm."""
        if 0 in self.blocks.shape[-3:]:
            return array_namespace(self.blocks).sum(abs(self.blocks), axis=(-3, -2, -1))
        return norms(self.blocks, (-3, -2, -1))[..., 0, 0, 0]

    @by_single
    def inv(self) -> "BlockDiagonal":
        """Return the inverse, block by block.

        Raises
        ------
        LinAlgError
            A block is singular.
        ValueError
            The blocks are not square.
        """
        self._must_be_square("inv")
        inverses = solve_blocks("block-diagonal", self.blocks, eyes(self.blocks))
        return self._with(inverses)

    @by_single
    def solve(self, b: Any, /) -> Any:
        """Return x with A x = b, for b of shape (..., rows) or (..., rows, k).

        Raises
        ------
        LinAlgError
            A block is singular.
        ValueError
            The blocks are not square.
        """
        self._must_be_square("solve")
        b, is_vector = right_sides(b, self.blocks, self.shape[0])
        if is_vector:
            return self.solve(b[..., None])[..., 0]
        size = self.blocks.shape[-1]
        return self._by_blocks(b, size, lambda b: solve_blocks("block-diagonal", self.blocks, b))

    @by_single
    def slogdet(self) -> tuple[Any, Any]:
        """Return the determinant's sign (or phase) and the logarithm of its absolute value."""
        self._must_be_square("slogdet")
        xp = array_namespace(self.blocks)
        sign, logarithm = xp.linalg.slogdet(self.blocks)
        return xp.prod(sign, axis=-1), xp.sum(logarithm, axis=-1)

    def _must_be_square(self, what: str) -> None:
        if self.blocks.shape[-2] != self.blocks.shape[-1]:
            raise ValueError(
                f"{what} needs square blocks; got blocks of shape {tuple(self.blocks.shape)}."
            )


def merged(factors: tuple[Any, ...]) -> list[Any]:
    """Multiply neighbours that are block-diagonal in the same way; pair what is left.

    An interleaved matrix times one that is not is a Monarch matrix, whose kernels keep what is
    between the two in the cache.
    """
    parts: list[Any] = []
    for part in (part for factor in factors for part in _taken_apart(factor)):
        if parts and _saves(parts[-1], part):
            blocks = product(parts[-1].blocks, part.blocks)
            part = BlockDiagonal(blocks, interleaved=part.interleaved)
            parts.pop()
        parts.append(part)
    result: list[Any] = []
    while parts:
        count = next((k for k in range(1, len(parts)) if not _fit(*parts[k - 1 : k + 1])), None)
        run, parts = (parts, []) if count is None else (parts[:count], parts[count:])
        if len(run) % 2 and not getattr(run[0], "interleaved", True):
            result.append(run.pop(0))
        result += [_paired(*run[k : k + 2]) for k in range(0, len(run), 2)]
    return result


def _taken_apart(factor: Any) -> tuple[Any, ...]:
    """Return the two block-diagonal factors of a Monarch matrix that is not cut."""
    if not isinstance(factor, Monarch) or factor.shape != factor._whole:
        return (factor,)
    left, right = BlockDiagonal(factor.left, interleaved=True), BlockDiagonal(factor.right)
    return (left, right) if factor.order == "LR" else (right.T, left.T)


def _saves(a: Any, b: Any) -> bool:
    """Tell whether the product of two factors is block-diagonal, and cheaper to multiply by."""
    if not (isinstance(a, BlockDiagonal) and isinstance(b, BlockDiagonal)):
        return False
    (rows, inner), columns = a.blocks.shape[-2:], b.blocks.shape[-1]
    return (
        a.interleaved == b.interleaved
        and a.blocks.shape[:-2] == b.blocks.shape[:-2]
        and rows * columns <= inner * (rows + columns)
    )


def _fit(a: Any, b: Any) -> bool:
    """Tell whether the product of two factors is a Monarch matrix."""
    return (
        isinstance(a, BlockDiagonal)
        and isinstance(b, BlockDiagonal)
        and a.interleaved != b.interleaved
        and a.batch_shape == b.batch_shape
    )


def _paired(first: Any, second: Any = None) -> Any:
    if second is None:
        return first
    if first.interleaved:
        return Monarch(first.blocks, second.blocks)
    return Monarch(second.T.blocks, first.T.blocks, order="RL")
