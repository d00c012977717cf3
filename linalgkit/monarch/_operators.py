"""The operator of two Monarch factors: products, transposes, inverses, determinants, norms."""

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_cupy_array, is_jax_array

from .. import _checks
from .._operator import Operator
from .._xp import adjoint, compiled, moveaxis
from ._products import check_factors, monarch_matmul, monarch_matmul_vjp


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
        left, right = self.left, self.right
        if self.order == "RL":  # the factors of the transpose: here, of its conjugate
            left, right = _conj(left), _conj(right)
        x = _padded(x, self._whole[side])
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

    @property
    def T(self) -> "Monarch":
        """The transpose: the same factors in the other order."""
        order = "RL" if self.order == "LR" else "LR"
        return Monarch(self.left, self.right, order=order, shape=self.shape[::-1])

    @property
    def H(self) -> "Monarch":
        """The conjugate transpose."""
        return self.T.conj()

    def conj(self) -> "Monarch":
        """Return the complex conjugate."""
        left, right = _conj(self.left), _conj(self.right)
        return Monarch(left, right, order=self.order, shape=self.shape)

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
        (sigma, lam), (block, column) = np.divmod(i, blocks), np.divmod(i, p)
        total = xp.zeros((*self.batch_shape, i.size), dtype=self.dtype, device=device(self.left))
        first = block * q + (lam - block * q) % blocks  # the least t = λ (mod l) of this block
        for t in range(0, q, blocks):
            place = first + t
            inside = place < (block + 1) * q
            place = np.where(inside, place, block * q)
            of_left = self._take(self.left, (lam * rows + sigma) * inner + place // blocks)
            of_right = self._take(self.right, place * p + column)
            total = total + of_left * of_right * self._array(inside, self.dtype)
        return total

    def trace(self) -> Any:
        """Return the sum of the diagonal."""
        _square(self, "trace")
        return array_namespace(self.left).sum(self.diagonal(), axis=-1)

    def norm(self) -> Any:
        """Return the Frobenius norm, from products of the blocks with themselves."""
        xp = array_namespace(self.left)
        if self.shape != self._whole:
            return xp.linalg.vector_norm(self.to_dense(), axis=(-2, -1))
        q, blocks, inner = self.right.shape[-2], self.left.shape[-3], self.left.shape[-1]
        if not (q and blocks and self.left.shape[-2] and self.right.shape[-1]):
            return xp.zeros(self.batch_shape, dtype=xp.abs(self.left).dtype)
        (left, of_left), (right, of_right) = _scaled(self.left), _scaled(self.right)
        left, right = xp.matmul(adjoint(left), left), xp.matmul(right, adjoint(right))
        # Slices share t and t' = t + j l of one block: Σ (Lᴴ L)[ρ', ρ] (R Rᴴ)[θ, θ'].
        t = np.arange(blocks * inner)
        total = xp.zeros(self.batch_shape, dtype=of_left.dtype, device=device(self.left))
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
        return xp.sqrt(total) * of_left * of_right

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
            _transposed(_solve_blocks(name, blocks, _eyes(blocks)))
            for name, blocks in (("left", self.left), ("right", self.right))
        )
        return Monarch(left, right, order="RL" if self.order == "LR" else "LR")

    def solve(self, b: Any, /) -> Any:
        """Return x with A x = b, for b of shape (..., rows) or (..., rows, k).

        Notes
        -----
        The blocks are factorised at each call, which takes O(n²) operations for blocks of √n. For
        many calls, `inv` does it once.

        Raises
        ------
        LinAlgError
            A block is singular.
        ValueError
            The blocks are not square, or the matrix is cut.
        """
        _square_blocks(self, "solve")
        b, is_vector = _right_sides(b, self.left, self.shape[0])
        if is_vector:
            return self.solve(b[..., None])[..., 0]
        k, q, _, blocks, _, inner = check_factors(self.left, self.right)
        if self.order == "LR":
            u = _solve_blocks("left", self.left, _swap(_cut(b, inner, blocks)))
            x = _solve_blocks("right", self.right, _cut(_join(_swap(u)), k, q))
            return _join(x)
        u = _solve_blocks("right", _transposed(self.right), _cut(b, k, q))
        x = _solve_blocks("left", _transposed(self.left), _swap(_cut(_join(u), inner, blocks)))
        return _join(_swap(x))

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

    def lstsq(self, b: Any, /, *, tol: float | None = None, maxiter: int | None = None) -> Any:
        """Return the x of least norm among those that minimise ‖A x - b‖, for NumPy arrays.

        Notes
        -----
        Square blocks are solved directly. Others go by SciPy's LSMR, column by column, to the
        relative tolerance `tol` (by default ten times the machine epsilon) or `maxiter` steps.

        Raises
        ------
        LinAlgError
            `maxiter` steps were not enough.
        """
        if self.batch_shape:
            raise ValueError(f"lstsq takes one matrix; got batch axes {self.batch_shape}.")
        b, _ = _right_sides(b, self.left, self.shape[0])
        tol = None if tol is None else _checks.number("tol", tol, 0)
        maxiter = 10 * max(self.shape) if maxiter is None else _checks.size("maxiter", maxiter)
        if self._whole == self.shape and _has_square_blocks(self):
            try:
                return self.solve(b)
            except np.linalg.LinAlgError:
                pass  # of lower rank
        if not isinstance(b, np.ndarray):
            raise TypeError(
                f"lstsq iterates on NumPy arrays; got {type(b).__module__} ones. "
                f"Convert b and the factors."
            )
        from scipy.sparse.linalg import lsmr

        dtype = np.result_type(self.dtype, b.dtype, np.float32)
        tol = 10 * float(np.finfo(dtype).eps) if tol is None else tol
        columns = []
        for column in b.reshape(b.shape[0], -1).T:
            x, status, steps, *_ = lsmr(
                self.aslinearoperator(), column.astype(dtype), atol=tol, btol=tol, conlim=0,
                maxiter=maxiter,
            )  # fmt: skip
            if status == 7:
                raise np.linalg.LinAlgError(f"no convergence to {tol:.1g} in {steps} steps.")
            columns.append(x.astype(dtype))
        return np.stack(columns, axis=-1).reshape(self.shape[1], *b.shape[1:])

    def _take(self, array: Any, places: np.ndarray) -> Any:
        """Entries of the last three axes, by their place."""
        xp = array_namespace(array)
        flat = xp.reshape(array, (*array.shape[:-3], -1))
        return xp.take(flat, self._array(places, None), axis=-1)

    def _array(self, values: np.ndarray, dtype: Any) -> Any:
        xp = array_namespace(self.left)
        array = xp.asarray(values, device=device(self.left))
        return array if dtype is None else xp.astype(array, dtype)


def _checked_shape(shape: Any) -> tuple[int, int]:
    try:
        rows, columns = shape
    except (TypeError, ValueError):
        raise TypeError(f"shape must be (rows, columns); got {shape!r}.") from None
    return _checks.size("shape[0]", rows), _checks.size("shape[1]", columns)


def _right_sides(b: Any, blocks: Any, rows: int) -> tuple[Any, bool]:
    """Return `b` as an array of the blocks' library, and whether it has vectors, not columns."""
    _checks.present(b=b)
    _, b = _checks.floating(blocks=blocks, b=b)
    is_vector = b.ndim == blocks.ndim - 2
    return _checks.operand("b", b, -1 if is_vector else -2, rows), is_vector


def _conj(x: Any) -> Any:
    xp = array_namespace(x)
    return xp.conj(x) if xp.isdtype(x.dtype, "complex floating") else x


def _transposed(x: Any) -> Any:
    return moveaxis(x, -1, -2)


def _swap(x: Any) -> Any:
    return moveaxis(x, -3, -2)


def _cut(x: Any, blocks: int, size: int) -> Any:
    """Cut the second-to-last axis in blocks."""
    return array_namespace(x).reshape(x, (*x.shape[:-2], blocks, size, x.shape[-1]))


def _join(x: Any) -> Any:
    """Undo `_cut`."""
    shape = (*x.shape[:-3], x.shape[-3] * x.shape[-2], x.shape[-1])
    return array_namespace(x).reshape(x, shape)


def _padded(x: Any, rows: int) -> Any:
    """Append zeros to the second-to-last axis."""
    if x.shape[-2] == rows:
        return x
    xp = array_namespace(x)
    shape = (*x.shape[:-2], rows - x.shape[-2], x.shape[-1])
    return xp.concat([x, xp.zeros(shape, dtype=x.dtype, device=device(x))], axis=-2)


def _eyes(blocks: Any) -> Any:
    xp = array_namespace(blocks)
    eye = xp.eye(blocks.shape[-1], dtype=blocks.dtype, device=device(blocks))
    return xp.broadcast_to(eye, blocks.shape)


def _scaled(blocks: Any) -> tuple[Any, Any]:
    """Return blocks whose largest entry is one, and the scale: squares stay in range."""
    xp = array_namespace(blocks)
    scale = xp.max(xp.abs(blocks), axis=(-3, -2, -1))
    safe = xp.where(scale > 0, scale, xp.ones_like(scale))
    return blocks / safe[..., None, None, None], scale


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


def _solve_blocks(name: str, blocks: Any, right: Any) -> Any:
    """Solve with each block; LinAlgError names one that is singular, where values are at hand."""
    xp = array_namespace(blocks, right)
    common = xp.result_type(blocks.dtype, right.dtype)
    blocks, right = xp.astype(blocks, common), xp.astype(right, common)
    try:
        solution, is_finite = _solution(blocks, right)
    except (np.linalg.LinAlgError, RuntimeError) as error:  # torch's is a RuntimeError
        if not type(error).__name__.endswith("LinAlgError"):
            raise
        raise np.linalg.LinAlgError(_singular(name, blocks)) from error
    if is_jax_array(solution):
        import jax

        if isinstance(solution, jax.core.Tracer):
            return solution
    if (is_jax_array(solution) or is_cupy_array(solution)) and not bool(is_finite):
        sign, _ = xp.linalg.slogdet(blocks)
        if bool(xp.any(sign == 0)):  # else what was to be solved is not finite
            raise np.linalg.LinAlgError(_singular(name, blocks))
    return solution


@compiled()
def _solution(blocks: Any, right: Any) -> tuple[Any, Any]:
    """Return the solution, and whether all of it is finite where no error tells."""
    xp = array_namespace(blocks, right)
    solution = xp.linalg.solve(blocks, right)
    is_told = not (is_jax_array(solution) or is_cupy_array(solution))
    return solution, None if is_told else xp.all(xp.isfinite(solution))


def _singular(name: str, blocks: Any) -> str:
    xp = array_namespace(blocks)
    sign, _ = xp.linalg.slogdet(blocks)
    zeros = [tuple(map(int, k)) for k in zip(*xp.nonzero(sign == 0), strict=True)]
    where = f" {zeros[0][0] if len(zeros[0]) == 1 else zeros[0]}" if zeros else ""
    return f"block{where} of the {name} factor is singular."
