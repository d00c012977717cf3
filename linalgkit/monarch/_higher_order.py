"""Monarch matrices of any order: one block-diagonal factor for each axis of the vector."""

from collections.abc import Sequence
from math import prod
from typing import Any

from array_api_compat import array_namespace, device

from .. import _checks
from .._operator import Operator
from .._xp import moveaxis
from ._stacks import (
    by_single,
    conj,
    eyes,
    norms,
    product,
    right_sides,
    solve_blocks,
    transposed,
)


class HigherOrderMonarch(Operator):
    """A square matrix of several block-diagonal factors, with permutations between them.

    Parameters
    ----------
    factors : sequence of array, the a-th of shape (n / b_a, b_a, b_a)
        The vector is read as an array of shape (b_1, …, b_p), with n = b_1 ⋯ b_p entries. Factor a
        multiplies along axis a; its blocks are numbered by the other axes, the last one fastest.
        The last factor is applied first.
    order : {"LR", "RL"}
        "RL" stands for the transpose of what the same factors are in the order "LR".

    Attributes
    ----------
    factors : tuple of array
        The factors.
    radices : tuple of int
        The sizes b_1, …, b_p of the blocks.

    See Also
    --------
    Monarch : Two factors, with blocks of any sizes.

    Notes
    -----
    Σ n b_a parameters, and 2 n Σ b_a operations for each vector [1]_. Two factors are a `Monarch`
    matrix; log2(n) factors of 2 × 2 blocks a butterfly. Kronecker products of p matrices are in the
    class, and so is the discrete Fourier transform of an input with its digits reversed.

    References
    ----------
    .. [1] D. Fu et al., "Monarch Mixer: A Simple Sub-Quadratic GEMM-Based Architecture", NeurIPS
       2023, arXiv:2310.12109.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import monarch
    >>> a, b, c = (np.random.default_rng(k).standard_normal((3, 3)) for k in range(3))
    >>> m = monarch.HigherOrderMonarch([np.stack([x] * 9) for x in (a, b, c)])
    >>> np.allclose(m.to_dense(), np.kron(a, np.kron(b, c)))
    True
    """

    __module__ = "linalgkit.monarch"
    fields = ("factors", "order")

    def __init__(self, factors: Sequence[Any], *, order: str = "LR") -> None:
        _checks.choice("order", order, ("LR", "RL"))
        if not isinstance(factors, Sequence):
            raise TypeError(f"factors must be a sequence of arrays; got {type(factors).__name__}.")
        if not factors:
            raise ValueError("factors must hold at least one factor.")
        names = [f"factors[{k}]" for k in range(len(factors))]
        named = dict(zip(names, factors, strict=True))
        _checks.present(**named)
        arrays = _checks.floating(**named)
        for name, factor in zip(names, arrays, strict=True):
            if factor.ndim != 3:
                raise ValueError(f"{name} must have three axes; got shape {tuple(factor.shape)}.")
        self.factors, self.order = arrays, order
        self.radices = tuple(factor.shape[-1] for factor in arrays)
        n = prod(self.radices)
        for name, factor in zip(names, arrays, strict=True):
            size = factor.shape[-1]
            if tuple(factor.shape) != (n // size if size else 0, size, size):
                raise ValueError(
                    f"{name} must have shape (n / b, b, b), with n = {n} the product of all b = "
                    f"{self.radices}; got {tuple(factor.shape)}."
                )
        self.shape, self.dtype = (n, n), arrays[0].dtype
        self.structure = f" of radices {'·'.join(map(str, self.radices))}"

    def matmat(self, x: Any, /) -> Any:
        """Return A X for X of shape (..., n, k)."""
        return self._apply(x, self.factors, turns=self.order == "RL")

    def rmatmat(self, x: Any, /) -> Any:
        """Return A^H X for X of shape (..., n, k)."""
        factors = tuple(map(conj, self.factors))
        return self._apply(x, factors, turns=self.order == "LR")

    def _apply(self, x: Any, factors: Sequence[Any], *, turns: bool) -> Any:
        x = _checks.operand("x", x, -2, self.shape[0])
        steps = [(a, factor) for a, factor in enumerate(factors)]
        for a, factor in steps if turns else reversed(steps):
            blocks = transposed(factor) if turns else factor
            x = self._along(a, x, lambda parts, blocks=blocks: product(blocks, parts))
        return x

    def _along(self, a: int, x: Any, step: Any) -> Any:
        """Apply a step to (..., blocks, b_a, k): axis a of the vectors, blocks by the others."""
        xp = array_namespace(x)
        lead, sizes, columns = tuple(x.shape[:-2]), self.radices, x.shape[-1]
        x = xp.reshape(x, (*lead, *sizes, columns))
        x = moveaxis(x, len(lead) + a, -2)
        moved = x.shape
        x = xp.reshape(x, (*lead, self.factors[a].shape[0], sizes[a], columns))
        x = moveaxis(xp.reshape(step(x), moved), -2, len(lead) + a)
        return xp.reshape(x, (*lead, self.shape[0], columns))

    def _blocks(self) -> tuple[Any, ...]:
        return self.factors

    def _with(self, *factors: Any) -> "HigherOrderMonarch":
        """Return the operator of other factors of the same shapes."""
        return HigherOrderMonarch(factors, order=self.order)

    @property
    def _other_order(self) -> str:
        return "RL" if self.order == "LR" else "LR"

    @property
    def T(self) -> "HigherOrderMonarch":
        """The transpose: the same factors in the other order."""
        return HigherOrderMonarch(self.factors, order=self._other_order)

    @property
    def H(self) -> "HigherOrderMonarch":
        """The conjugate transpose."""
        return self.T.conj()

    def conj(self) -> "HigherOrderMonarch":
        """Return the complex conjugate."""
        return self._with(*map(conj, self.factors))

    def to_dense(self) -> Any:
        """Return the matrix as an array."""
        like = self.factors[0]
        xp = array_namespace(like)
        return self.matmat(xp.eye(self.shape[0], dtype=self.dtype, device=device(like)))

    def diagonal(self) -> Any:
        """Return the entries (i, i), of shape (n,)."""
        xp, sizes = array_namespace(self.factors[0]), self.radices
        found = xp.ones(sizes, dtype=self.dtype, device=device(self.factors[0]))
        for a, factor in enumerate(self.factors):  # each entry is a product of one of each factor
            others = (*sizes[:a], *sizes[a + 1 :], sizes[a])
            found = found * moveaxis(xp.reshape(xp.linalg.diagonal(factor), others), -1, a)
        return xp.reshape(found, (self.shape[0],))

    def trace(self) -> Any:
        """Return the sum of the diagonal."""
        return array_namespace(self.factors[0]).sum(self.diagonal())

    @by_single
    def norm(self) -> Any:
        """Return the Frobenius norm, from the norms of the rows, factor by factor."""
        like = self.factors[0]
        xp = array_namespace(like)
        sizes = xp.ones((self.shape[0], 1), dtype=xp.abs(like).dtype, device=device(like))
        if self.shape[0] == 0:
            return xp.sum(sizes)
        # Entries are single products, so that squares of absolute values multiply like matrices.
        for a in reversed(range(len(self.factors))):
            blocks = xp.abs(self.factors[a])
            sizes = self._along(
                a, sizes, lambda parts, blocks=blocks: norms(blocks * transposed(parts), (-1,))
            )
        return norms(sizes, (-2, -1))[0, 0]

    @by_single
    def inv(self) -> "HigherOrderMonarch":
        """Return the inverse: the blocks' inverses, in the other order.

        Raises
        ------
        LinAlgError
            A block is singular.
        """
        inverses = [
            transposed(solve_blocks(f"{a}-th", factor, eyes(factor)))
            for a, factor in enumerate(self.factors)
        ]
        return HigherOrderMonarch(inverses, order=self._other_order)

    @by_single
    def solve(self, b: Any, /) -> Any:
        """Return x with A x = b, for b of shape (n,) or (..., n, k).

        Raises
        ------
        LinAlgError
            A block is singular.
        """
        b, is_vector = right_sides(b, self.factors[0], self.shape[0])
        if is_vector:
            return self.solve(b[:, None])[:, 0]
        steps = list(enumerate(self.factors))
        for a, factor in steps if self.order == "LR" else reversed(steps):
            blocks = factor if self.order == "LR" else transposed(factor)
            b = self._along(
                a, b, lambda parts, a=a, blocks=blocks: solve_blocks(f"{a}-th", blocks, parts)
            )
        return b

    @by_single
    def slogdet(self) -> tuple[Any, Any]:
        """Return the determinant's sign (or phase) and the logarithm of its absolute value."""
        xp = array_namespace(self.factors[0])
        parts = [xp.linalg.slogdet(factor) for factor in self.factors]
        sign, logarithm = xp.prod(parts[0][0]), xp.sum(parts[0][1])
        for signs, logarithms in parts[1:]:
            sign, logarithm = sign * xp.prod(signs), logarithm + xp.sum(logarithms)
        return sign, logarithm
