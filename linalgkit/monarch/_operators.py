"""The operator of two Monarch factors: products, transposes, inverses, determinants, norms."""

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from .. import _checks
from .._operator import Operator
from .._xp import adjoint, padded
from ._products import check_factors, monarch_matmul, monarch_matmul_vjp
from ._stacks import (
    by_single,
    conj,
    cut,
    eyes,
    join,
    right_sides,
    scaled,
    solve_blocks,
    swap,
    transposed,
)


class Monarch(Operator):
    """A Monarch matrix: two block-diagonal factors with a permutation between them.

    Parameters
    ----------
    left : array, shape (..., l, s, r)
        Blocks of the left factor; batch axes lead.
    right : array, shape (..., k, q, p)
        Blocks of the right factor; ``k q = l r``.
    order : {"LR", "RL"}
        "RL" stands for the transpose of what the same factors are in the order "LR".
    shape : (int, int), optional
        Rows and columns, where fewer than the factors': what is beyond is cut off.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of the matrix.
    batch_shape : tuple of int
        Axes of the factors before the blocks: so many matrices.
    dtype : dtype
        Of the factors, after promotion.

    See Also
    --------
    project : The nearest Monarch matrix to a dense one.
    monarch_matmul : The product with plain factors.

    Notes
    -----
    In the order "LR", with M of l s rows and k p columns::

        M[σ l + λ, κ p + π] = Σ_ρ L[λ, σ, ρ] R[κ, ρ l + λ - κ q, π]    where κ q ≤ ρ l + λ < (κ+1) q

    The transpose of a Monarch matrix is one in another order of indices [1]_, and so is the
    inverse: `T`, `H` and `inv` change the order. Products take 2 (k q p + l s r) operations for
    each vector; `inv` and `solve` need square blocks, and factorise them by LU.

    References
    ----------
    .. [1] T. Dao et al., "Monarch: Expressive Structured Matrices for Efficient and Accurate
       Training", ICML 2022, arXiv:2204.00595.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import monarch
    >>> rng = np.random.default_rng(0)
    >>> m = monarch.Monarch(rng.standard_normal((8, 8, 8)), rng.standard_normal((8, 8, 8)))
    >>> m  # doctest: +NORMALIZE_WHITESPACE
    <Monarch 64×64 (8 of 8×8 and 8 of 8×8 in order LR), float64: 1,024 parameters, 8,192 bytes,
    4 times smaller than dense>
    >>> x = rng.standard_normal(64)
    >>> np.allclose(m.solve(m @ x), x)
    True
    >>> np.allclose(m.T.to_dense(), m.to_dense().T)
    True
    """

    __module__ = "linalgkit.monarch"
    fields = ("left", "right", "order", "shape")

    def __init__(self, left: Any, right: Any, *, order: str = "LR", shape: Any = None) -> None:
        _checks.present(left=left, right=right)
        self.left, self.right = _checks.floating(left=left, right=right)
        _checks.choice("order", order, ("LR", "RL"))
        k, _, p, blocks, rows, _ = check_factors(self.left, self.right)
        self.order = order
        whole = blocks * rows, k * p
        self._whole = whole if order == "LR" else whole[::-1]
        self.shape = self._whole if shape is None else _checked_shape(shape)
        self.batch_shape = tuple(self.left.shape[:-3])
        sizes = [f"{n} of {a}×{b}" for n, a, b in (f.shape[-3:] for f in (self.left, self.right))]
        self.structure = f" ({' and '.join(sizes)} in order {order})"
        self.dtype = self.left.dtype
        if any(size > most for size, most in zip(self.shape, self._whole, strict=True)):
            raise ValueError(
                f"shape must be at most the factors' {self._whole}, which are cut; got {shape}."
            )

    def matmat(self, x: Any, /) -> Any:
        """Return A X for X of shape (..., columns, k)."""
        return self._apply(x, self.order == "RL", 1)

    def rmatmat(self, x: Any, /) -> Any:
        """Return A^H X for X of shape (..., rows, k)."""
        return self._apply(x, self.order == "LR", 0)

    def _apply(self, x: Any, turns: bool, side: int) -> Any:
        x = _checks.operand("x", x, -2, self.shape[side])
        x, left, right = _checks.arrays(x=x, left=self.left, right=self.right)
        if self.order == "RL":  # the factors of the transpose: here, of its conjugate
            left, right = conj(left), conj(right)
        x = padded(x, self._whole[side], -2)
        if not turns:
            y = monarch_matmul(x, left, right, axis=-2)
        else:
            xp = array_namespace(x, left)
            shape = (*x.shape[:-2], right.shape[-3] * right.shape[-1], x.shape[-1])
            dtype = xp.result_type(x.dtype, left.dtype)
            like = xp.zeros(shape, dtype=dtype, device=device(x))
            y = monarch_matmul_vjp(x, like, left, right, axis=-2, wrt=("x",)).x
        return y[..., : self.shape[1 - side], :]

    def __matmul__(self, x: Any) -> Any:
        """Return A x for a vector, A X for a matrix, a `Product` for another operator."""
        if isinstance(x, Operator):
            from ._product_operators import Product

            return Product(self, x)
        return super().__matmul__(x)

    def _blocks(self) -> tuple[Any, Any]:
        return self.left, self.right

    def _with(self, left: Any, right: Any) -> "Monarch":
        """Return the operator of other factors of the same shape."""
        return Monarch(left, right, order=self.order, shape=self.shape)

    @property
    def T(self) -> "Monarch":
        """The transpose: the same factors in the other order."""
        return Monarch(self.left, self.right, order=self._other_order, shape=self.shape[::-1])

    @property
    def H(self) -> "Monarch":
        """The conjugate transpose."""
        return self.T.conj()

    def conj(self) -> "Monarch":
        """Return the complex conjugate."""
        return self._with(conj(self.left), conj(self.right))

    @property
    def _other_order(self) -> str:
        return "RL" if self.order == "LR" else "LR"

    def to_dense(self) -> Any:
        """Return the matrix as an array of shape (..., rows, columns)."""
        xp = array_namespace(self.left)
        eye = xp.eye(self.shape[1], dtype=self.dtype, device=device(self.left))
        return self.matmat(xp.broadcast_to(eye, (*self.batch_shape, *eye.shape)))

    def diagonal(self) -> Any:
        """Return the entries (i, i), of shape (..., min(rows, columns))."""
        xp = array_namespace(self.left)
        _, q, p, blocks, rows, inner = check_factors(self.left, self.right)
        i = np.arange(min(self.shape))
        total = xp.zeros((*self.batch_shape, i.size), dtype=self.dtype, device=device(self.left))
        if i.size == 0:
            return total
        (sigma, lam), (block, column) = np.divmod(i, blocks), np.divmod(i, p)
        first = block * q + (lam - block * q) % blocks  # the least t = λ (mod l) of this block
        for t in range(0, q, blocks):
            place = first + t
            inside = self._array(place < (block + 1) * q)
            place = np.where(place < (block + 1) * q, place, block * q)
            of_left = self._take(self.left, (lam * rows + sigma) * inner + place // blocks)
            of_right = self._take(self.right, place * p + column)
            # Numbers outside may be of any size, and their product infinite: ones stand for them.
            of_left, of_right = (
                xp.where(inside, part, xp.ones_like(part)) for part in (of_left, of_right)
            )
            total = total + xp.where(inside, of_left * of_right, xp.zeros_like(total))
        return total

    def trace(self) -> Any:
        """Return the sum of the diagonal."""
        _square(self, "trace")
        return array_namespace(self.left).sum(self.diagonal(), axis=-1)

    @by_single
    def norm(self) -> Any:
        """Return the Frobenius norm, from products of the blocks with themselves."""
        xp = array_namespace(self.left)
        _, q, p, blocks, rows, inner = check_factors(self.left, self.right)
        if not (q and blocks and rows and inner and p):
            real = xp.abs(self.left).dtype
            return xp.zeros(self.batch_shape, dtype=real, device=device(self.left))
        left, right = self._without_what_is_cut()
        # Rows of R get a size of about one and give theirs to their columns of L: only what is
        # small beside the largest can vanish then.
        right, root = scaled(right, (-1,))
        by_column = transposed(xp.reshape(root, (*self.batch_shape, inner, blocks)))[..., None, :]
        left, root = scaled(left * by_column * by_column, (-3, -2, -1))
        left, right = xp.matmul(adjoint(left), left), xp.matmul(right, adjoint(right))
        # Slices share t and t' = t + j l of one block: Σ (Lᴴ L)[ρ', ρ] (R Rᴴ)[θ, θ'].
        t = np.arange(blocks * inner)
        total = xp.zeros(self.batch_shape, dtype=root.dtype, device=device(self.left))
        for j in range(-(-q // blocks)):
            other = t + j * blocks
            inside = (other < t.size) & (other // q == t // q)
            t_in, other_in = t[inside], other[inside]
            a = ((t_in % blocks) * inner + other_in // blocks) * inner + t_in // blocks
            b = t_in * q + other_in % q
            terms = self._take(left, a) * self._take(right, b)
            if xp.isdtype(terms.dtype, "complex floating"):
                terms = xp.real(terms)
            total = total + (1 if j == 0 else 2) * xp.sum(terms, axis=-1)
        total = xp.where(total < 0, xp.zeros_like(total), total)  # by rounding, where terms cancel
        root = root[..., 0, 0, 0]
        return xp.sqrt(total) * root * root

    def _without_what_is_cut(self) -> tuple[Any, Any]:
        """Return the factors with zeros for rows and columns that are no part of the matrix."""
        if self.shape == self._whole:
            return self.left, self.right
        xp = array_namespace(self.left)
        height, width = self.shape if self.order == "LR" else self.shape[::-1]
        k, _, p, blocks, rows, _ = check_factors(self.left, self.right)
        row = np.arange(rows) * blocks + np.arange(blocks)[:, None]  # σ l + λ, as (λ, σ)
        column = np.arange(k * p).reshape(k, p)
        is_row, is_column = self._array(row < height), self._array(column < width)
        return (
            xp.where(is_row[:, :, None], self.left, xp.zeros_like(self.left)),
            xp.where(is_column[:, None, :], self.right, xp.zeros_like(self.right)),
        )

    @by_single
    def inv(self) -> "Monarch":
        """Return the inverse: a Monarch matrix in the other order, of the blocks' inverses.

        Raises
        ------
        LinAlgError
            A block is singular.
        ValueError
            The blocks are not square, or the matrix is cut.
        """
        _square_blocks(self, "inv")
        left, right = (
            transposed(solve_blocks(name, blocks, eyes(blocks)))
            for name, blocks in (("left", self.left), ("right", self.right))
        )
        return Monarch(left, right, order=self._other_order)

    @by_single
    def solve(self, b: Any, /) -> Any:
        """Return x with A x = b, for b of shape (..., rows) or (..., rows, k).

        Notes
        -----
        The blocks are factorised at each call, which takes O(n²) operations for blocks of √n. For
        many calls, `inv` does it once, and is less accurate where blocks are near to singular.
        Half precision is computed in single precision.

        Raises
        ------
        LinAlgError
            A block is singular.
        ValueError
            The blocks are not square, or the matrix is cut.
        """
        _square_blocks(self, "solve")
        b, is_vector = right_sides(b, self.left, self.shape[0])
        if is_vector:
            return self.solve(b[..., None])[..., 0]
        k, q, _, blocks, _, inner = check_factors(self.left, self.right)
        if self.order == "LR":
            u = solve_blocks("left", self.left, swap(cut(b, inner, blocks)))
            x = solve_blocks("right", self.right, cut(join(swap(u)), k, q))
            return join(x)
        u = solve_blocks("right", transposed(self.right), cut(b, k, q))
        x = solve_blocks("left", transposed(self.left), swap(cut(join(u), inner, blocks)))
        return join(swap(x))

    @by_single
    def slogdet(self) -> tuple[Any, Any]:
        """Return the determinant's sign (or phase) and the logarithm of its absolute value.

        Notes
        -----
        The output permutation undoes the input permutation where blocks are square, so it is the
        product of the blocks' determinants in either order.
        """
        _square_blocks(self, "slogdet")
        xp = array_namespace(self.left)
        parts = [xp.linalg.slogdet(blocks) for blocks in (self.left, self.right)]
        sign = xp.prod(parts[0][0], axis=-1) * xp.prod(parts[1][0], axis=-1)
        return sign, xp.sum(parts[0][1], axis=-1) + xp.sum(parts[1][1], axis=-1)

    @by_single
    def lstsq(self, b: Any, /, *, tol: float | None = None, maxiter: int | None = None) -> Any:
        """Return the x of least norm among those that minimise ‖A x - b‖.

        Notes
        -----
        Where blocks of the left factor have independent columns and those of the right factor
        independent rows, it is the product with the blocks' pseudo-inverses. Other matrices, and
        those that are cut, take NumPy arrays and go by SciPy's LSMR, column by column, to the
        relative tolerance `tol` (by default ten times the machine epsilon) or `maxiter` steps.

        Raises
        ------
        LinAlgError
            `maxiter` steps were not enough, or the matrix is too near to one of lower rank.
        ValueError
            The factors or `b` have NaN or infinite entries.
        """
        if self.batch_shape:
            raise ValueError(f"lstsq takes one matrix; got batch axes {self.batch_shape}.")
        b, is_vector = right_sides(b, self.left, self.shape[0])
        left, right = self.left, self.right
        _checks.concrete("Monarch.lstsq", "Monarch.solve", b=b, left=left, right=right)
        _checks.finite(left=left, right=right, b=b)
        tol = None if tol is None else _checks.number("tol", tol, 0)
        maxiter = 10 * max(self.shape) if maxiter is None else _checks.size("maxiter", maxiter)
        pinv = self._pinv() if self.shape == self._whole else None
        if pinv is not None:
            return pinv.matvec(b) if is_vector else pinv.matmat(b)
        if not isinstance(b, np.ndarray):
            raise TypeError(
                f"lstsq iterates on NumPy arrays; got {type(b).__module__} ones. "
                f"Convert b and the factors."
            )
        from scipy.sparse.linalg import lsmr

        dtype = np.result_type(self.dtype, b.dtype, np.float32)
        tol = 10 * float(np.finfo(dtype).eps) if tol is None else tol
        axis = -1 if is_vector else -2
        columns = np.moveaxis(b, axis, 0).astype(dtype)
        found = np.empty((self.shape[1], *columns.shape[1:]), dtype)
        for place in np.ndindex(columns.shape[1:]):
            x, status, steps, *_ = lsmr(
                self.aslinearoperator(), columns[:, *place], atol=tol, btol=tol, conlim=0,
                maxiter=maxiter,
            )  # fmt: skip
            if status in (6, 7):
                why = "a condition number beyond 1 / eps" if status == 6 else f"{steps} steps"
                raise np.linalg.LinAlgError(f"no convergence to {tol:.1g} in {why}.")
            found[:, *place] = x
        return np.moveaxis(found, 0, axis)

    def _pinv(self) -> "Monarch | None":
        """Return the pseudo-inverse, where it is the product of the factors' own."""
        pinvs = []
        for blocks, is_tall in ((self.left, True), (transposed(self.right), False)):
            # Both are to have independent columns now.
            if blocks.shape[-1] > blocks.shape[-2] or 0 in blocks.shape:
                return None
            xp = array_namespace(blocks)
            u, sigma, vh = xp.linalg.svd(blocks, full_matrices=False)
            limit = 10 * blocks.shape[-2] * float(xp.finfo(sigma.dtype).eps)
            if bool(xp.any(sigma[..., -1] <= limit * sigma[..., 0])):
                return None
            inverse = xp.matmul(conj(u) / sigma[..., None, :], conj(vh))  # (B⁺)ᵀ
            pinvs.append(inverse if is_tall else transposed(inverse))
        return Monarch(*pinvs, order=self._other_order)

    def _take(self, array: Any, places: np.ndarray) -> Any:
        """Entries of the last three axes, by their place."""
        xp = array_namespace(array)
        flat = xp.reshape(array, (*array.shape[:-3], -1))
        return xp.take(flat, self._array(places), axis=-1)

    def _array(self, values: np.ndarray) -> Any:
        return array_namespace(self.left).asarray(values, device=device(self.left))


def _checked_shape(shape: Any) -> tuple[int, int]:
    try:
        rows, columns = shape
    except (TypeError, ValueError):
        raise TypeError(f"shape must be (rows, columns); got {shape!r}.") from None
    return _checks.size("shape[0]", rows), _checks.size("shape[1]", columns)


def _has_square_blocks(operator: Monarch) -> bool:
    return all(f.shape[-1] == f.shape[-2] for f in (operator.left, operator.right))


def _square(operator: Monarch, what: str) -> None:
    if operator.shape[0] != operator.shape[1]:
        raise ValueError(f"{what} needs a square matrix; got shape {operator.shape}.")


def _square_blocks(operator: Monarch, what: str) -> None:
    if not _has_square_blocks(operator):
        raise ValueError(
            f"{what} needs square blocks; got left of shape {tuple(operator.left.shape)} and "
            f"right of shape {tuple(operator.right.shape)}. Use lstsq, or to_dense()."
        )
    if operator.shape != operator._whole:
        raise ValueError(
            f"{what} needs the whole matrix of shape {operator._whole}; this one is cut to "
            f"{operator.shape}, and has no structure to use. Use lstsq, or to_dense()."
        )
