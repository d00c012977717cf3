"""Kronecker products and sums as operators."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

from array_api_compat import array_namespace, device

from .. import _checks
from .._operator import Operator
from .._xp import adjoint, moveaxis
from ._array_api_products import outer
from ._decompositions import Slogdet, kron_power, kron_slogdet
from ._modes import batch_shape, checked, columns_of, for_columns, rows_of, sizes_of, square
from ._products import kron_dense, kron_diag, kron_matmat, kron_rmatvec, kron_trace, traced_axes
from ._solves import kron_lstsq, kron_solve
from ._sums import kronsum_expm, kronsum_matvec, kronsum_slogdet, kronsum_solve


class KroneckerProduct(Operator):
    """A Kronecker product of matrices, kept as its factors.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., m_k, n_k)
        A_1, ..., A_d; batch axes lead, and broadcast. Arrays only: with linear operators among
        them call `kron_matvec`, `kron_solve` and the others.

    Attributes
    ----------
    factors : tuple of array
        The factors, of one dtype; not copied, so who changes an array in place changes this.
    shape : (int, int)
        Rows m_1 ⋯ m_d and columns n_1 ⋯ n_d.
    batch_shape : tuple of int
        Batch axes of the factors.
    dtype : dtype
        Of the factors, after promotion.

    See Also
    --------
    KroneckerSum : The separable operators of differential equations.
    kron_matvec : The product with plain factors, with the conventions.

    Notes
    -----
    Row-major, as ``numpy.kron``: vectors are grids ``x.reshape(n_1, ..., n_d)``, and A_k acts along
    axis k. Products, inverses and transposes of Kronecker products are such again.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> rng = np.random.default_rng(0)
    >>> k = kronecker.KroneckerProduct([rng.standard_normal((n, n)) for n in (3, 4, 5)])
    >>> k
    <KroneckerProduct 60×60 (3×3 ⊗ 4×4 ⊗ 5×5), float64: 50 parameters, 400 bytes, 72 times smaller than dense>
    >>> x = rng.standard_normal(60)
    >>> np.allclose(k.solve(k @ x), x)
    True
    >>> np.allclose((k @ k.T).to_dense(), k.to_dense() @ k.to_dense().T)
    True
    """  # noqa: E501

    __module__ = "linalgkit.kronecker"
    fields = ("factors",)

    def __init__(self, factors: Sequence[Any]) -> None:
        (self.factors,) = checked(factors)
        self.shape = prod(rows_of(self.factors)), prod(columns_of(self.factors))
        self.batch_shape = batch_shape(self.factors)
        self.dtype = self.factors[0].dtype
        self.structure = f" ({' ⊗ '.join(sizes_of(self.factors))})"

    def matmat(self, x: Any, /) -> Any:
        """Return A X for X of shape (..., columns, k)."""
        return kron_matmat(self.factors, x)

    def rmatmat(self, x: Any, /) -> Any:
        """Return A^H X for X of shape (..., rows, k)."""
        return kron_matmat([adjoint(factor) for factor in self.factors], x)

    def rmatvec(self, x: Any, /) -> Any:
        """Return A^H x for x of shape (..., rows)."""
        return kron_rmatvec(self.factors, x)

    def __matmul__(self, x: Any) -> Any:
        """Return A x for a vector, A X for a matrix, the product with another Kronecker product."""
        if not isinstance(x, KroneckerProduct):
            return super().__matmul__(x)
        inner, outer = columns_of(self.factors), rows_of(x.factors)
        if inner != outer:
            raise ValueError(
                f"factors must fit one by one: the left product has {inner} columns, the right one "
                f"{outer} rows. Multiply vectors by one after the other, or use to_dense()."
            )
        pairs = zip(self.factors, x.factors, strict=True)
        return KroneckerProduct([array_namespace(a, b).matmul(a, b) for a, b in pairs])

    @property
    def T(self) -> "KroneckerProduct":
        """The transpose."""
        return KroneckerProduct([moveaxis(factor, -1, -2) for factor in self.factors])

    @property
    def H(self) -> "KroneckerProduct":
        """The conjugate transpose."""
        return KroneckerProduct([adjoint(factor) for factor in self.factors])

    def conj(self) -> "KroneckerProduct":
        """Return the complex conjugate."""
        return KroneckerProduct([moveaxis(adjoint(factor), -1, -2) for factor in self.factors])

    def to_dense(self) -> Any:
        """Return the matrix as an array of shape (..., rows, columns)."""
        return kron_dense(self.factors)

    def diagonal(self) -> Any:
        """Return the diagonal, of shape (..., rows)."""
        return kron_diag(self.factors)

    def trace(self) -> Any:
        """Return the sum of the diagonal."""
        return kron_trace(self.factors)

    def partial_trace(self, axes: int | Sequence[int], /) -> "KroneckerProduct":
        """Return the trace over some axes of the grid, whose factors must be square.

        As `partial_trace`: the factors kept, times the traces of the others.
        """
        axes = traced_axes(axes, len(self.factors))
        for k in axes:
            rows, columns = self.factors[k].shape[-2:]
            if rows != columns:
                raise ValueError(
                    f"a trace over axis {k} needs a square factor there; factors[{k}] has shape "
                    f"{tuple(self.factors[k].shape)}."
                )
        if not axes:
            return self
        scale = kron_trace([self.factors[k] for k in axes])[..., None, None]
        kept = [factor for k, factor in enumerate(self.factors) if k not in axes]
        return KroneckerProduct([scale * kept[0], *kept[1:]] if kept else [scale])

    def norm(self) -> Any:
        """Return the Frobenius norm: the product of the factors'."""
        xp = array_namespace(*self.factors)
        norms = [xp.linalg.vector_norm(factor, axis=(-2, -1)) for factor in self.factors]
        result = norms[0]
        for norm in norms[1:]:
            result = result * norm
        return result

    def inv(self) -> "KroneckerProduct":
        """Return the inverse: the Kronecker product of the factors' inverses.

        Raises
        ------
        LinAlgError
            A factor is singular.
        ValueError
            A factor is not square.

        See Also
        --------
        solve : For a single use: half the rounding errors.
        """
        return KroneckerProduct(kron_power(self.factors, -1))

    def solve(self, b: Any, /, *, assume_a: str = "gen") -> Any:
        """Return x with A x = b, as `kron_solve`.

        For b of shape (rows,), or (..., rows) with the factors' number of batch axes in front, or
        (..., rows, k) with any other number of axes.
        """
        return _by_columns(partial(kron_solve, assume_a=assume_a), self.factors, b)

    def lstsq(self, b: Any, /, *, rcond: float | None = None) -> Any:
        """Return the x of least norm that minimises ‖A x - b‖, as `kron_lstsq`; b as in `solve`."""
        return _by_columns(partial(kron_lstsq, rcond=rcond), self.factors, b)

    def slogdet(self) -> Slogdet:
        """Return the determinant's sign (or phase) and the logarithm of its absolute value."""
        return kron_slogdet(self.factors)


class KroneckerSum(Operator):
    """A Kronecker sum of square matrices, kept as its factors.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., n_k, n_k)
        A_1, ..., A_d; batch axes lead, and broadcast. Arrays only: with linear operators among
        them call `kronsum_matvec` and the others.

    Attributes
    ----------
    factors : tuple of array
        The factors, of one dtype; not copied, so who changes an array in place changes this.
    shape : (int, int)
        N = n_1 ⋯ n_d rows and columns.
    batch_shape : tuple of int
        Batch axes of the factors.
    dtype : dtype
        Of the factors, after promotion.

    See Also
    --------
    KroneckerProduct : Products.
    kronsum_solve : The solve with plain factors, with the conventions.

    Notes
    -----
    Row-major: the sum of ``kron(I, ..., A_k, ..., I)`` over k.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> d = 2 * np.eye(4) - np.eye(4, k=1) - np.eye(4, k=-1)
    >>> laplacian = kronecker.KroneckerSum([d, d])
    >>> b = np.ones(16)
    >>> np.allclose(laplacian @ laplacian.solve(b), b)
    True
    >>> np.allclose(laplacian.expm(-1.0).to_dense(), laplacian.expm(-0.5).to_dense() @
    ...             laplacian.expm(-0.5).to_dense())
    True
    """

    __module__ = "linalgkit.kronecker"
    fields = ("factors",)

    def __init__(self, factors: Sequence[Any]) -> None:
        (self.factors,) = checked(factors)
        square(self.factors, "KroneckerSum")
        self.shape = (prod(rows_of(self.factors)),) * 2
        self.batch_shape = batch_shape(self.factors)
        self.dtype = self.factors[0].dtype
        self.structure = f" ({' ⊕ '.join(sizes_of(self.factors))})"

    def matmat(self, x: Any, /) -> Any:
        """Return A X for X of shape (..., n, k)."""
        _checks.operand("x", x, -2, self.shape[0])
        return moveaxis(kronsum_matvec(for_columns(self.factors), moveaxis(x, -1, -2)), -1, -2)

    def rmatmat(self, x: Any, /) -> Any:
        """Return A^H X for X of shape (..., n, k)."""
        return self.H.matmat(x)

    @property
    def T(self) -> "KroneckerSum":
        """The transpose."""
        return KroneckerSum([moveaxis(factor, -1, -2) for factor in self.factors])

    @property
    def H(self) -> "KroneckerSum":
        """The conjugate transpose."""
        return KroneckerSum([adjoint(factor) for factor in self.factors])

    def conj(self) -> "KroneckerSum":
        """Return the complex conjugate."""
        return KroneckerSum([moveaxis(adjoint(factor), -1, -2) for factor in self.factors])

    def to_dense(self) -> Any:
        """Return the matrix as an array of shape (..., n, n)."""
        xp, sizes = array_namespace(*self.factors), columns_of(self.factors)
        eyes = [xp.eye(n, dtype=self.dtype, device=device(self.factors[0])) for n in sizes]
        return sum(
            kron_dense([*eyes[:k], factor, *eyes[k + 1 :]]) for k, factor in enumerate(self.factors)
        )

    def diagonal(self) -> Any:
        """Return the diagonal, of shape (..., n)."""
        xp = array_namespace(*self.factors)
        return outer([xp.linalg.diagonal(factor) for factor in self.factors], xp.add)

    def trace(self) -> Any:
        """Return the sum of the diagonal: each factor's, times the points on the other axes."""
        xp = array_namespace(*self.factors)
        n, total = self.shape[0], 0
        for factor in self.factors:
            total = total + n // max(factor.shape[-1], 1) * xp.linalg.trace(factor)
        return total

    def norm(self) -> Any:
        """Return the Frobenius norm, by the factors' traces and norms.

        (Without traces the terms are orthogonal to each other; what is taken off adds up to a
        multiple of the identity. So nothing cancels that is not the matrix itself.)
        """
        xp, n = array_namespace(*self.factors), self.shape[0]
        middle, total = 0, 0
        for factor in self.factors:
            size = max(factor.shape[-1], 1)
            mean = xp.linalg.trace(factor) / size
            eye = xp.eye(factor.shape[-1], dtype=self.dtype, device=device(factor))
            rest = factor - mean[..., None, None] * eye
            norm = xp.linalg.vector_norm(rest, axis=(-2, -1))
            middle, total = middle + mean, total + n // size * norm**2
        return xp.sqrt(total + n * xp.abs(middle) ** 2)

    def slogdet(self, *, shift: complex = 0.0) -> Slogdet:
        """Return sign (or phase) and logarithm of the determinant of A + shift I, by eigenvalues.

        O(Σ n_k³ + N) operations. Eigenvalues of factors that are far from normal are as inaccurate
        as they are sensitive, and so is the logarithm.
        """
        return kronsum_slogdet(self.factors, shift)

    def partial_trace(self, axes: int | Sequence[int], /) -> "KroneckerSum":
        """Return the trace over some axes of the grid: a Kronecker sum on the others.

        As `partial_trace`. On the axes kept it is their sum, times the points on the axes traced,
        plus a multiple of the identity.
        """
        axes = traced_axes(axes, len(self.factors))
        if not axes:
            return self
        over = KroneckerSum([self.factors[k] for k in axes])
        points, shift = over.shape[0], over.trace()[..., None, None]
        kept = [points * factor for k, factor in enumerate(self.factors) if k not in axes]
        if not kept:
            return KroneckerSum([shift])
        xp, n = array_namespace(shift), kept[0].shape[-1]
        eye = xp.eye(n, dtype=self.dtype, device=device(shift))
        return KroneckerSum([kept[0] + shift * eye, *kept[1:]])

    def solve(self, b: Any, /, *, shift: complex = 0.0, method: str = "auto") -> Any:
        """Return x with (A + shift I) x = b, as `kronsum_solve`, with its methods.

        For b of shape (n,), or (..., n) with the factors' number of batch axes in front, or
        (..., n, k) with any other number of axes.
        """
        return _by_columns(partial(kronsum_solve, shift=shift, method=method), self.factors, b)

    def expm(self, t: complex = 1.0, /) -> KroneckerProduct:
        """Return the exponential of t A: the Kronecker product of the factors'."""
        return KroneckerProduct(kronsum_expm(self.factors, t))


def _by_columns(solve: Any, factors: Sequence[Any], b: Any) -> Any:
    """Solve for a vector, or for the columns of matrices."""
    _checks.present(b=b)
    (b,) = _checks.floating(b=b)
    if b.ndim in (1, 1 + len(batch_shape(factors))):
        return solve(factors, b)
    return moveaxis(solve(for_columns(factors), moveaxis(b, -1, -2)), -1, -2)
