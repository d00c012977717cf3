"""Matrices whose rows, or columns, are Kronecker products: those of bases at scattered points.

Row-major: row i of the face-splitting product of A_1, ..., A_d is ``kron(A_1[i], ..., A_d[i])``, so
its column j is entry ``numpy.unravel_index(j, (m_1, ..., m_d))`` of the grid. The Khatri–Rao
product, which is that of columns, is its transpose, of the transposes.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from .. import _checks
from .._engine import Engines
from .._operator import Operator
from .._xp import adjoint, moveaxis
from ._modes import batch_shape, checked, columns_of, for_columns, grid, sizes_of

engine = Engines(__package__)


@engine.traced()
def face_splitting(factors: Sequence[Any], /) -> Any:
    """Form the matrix of which each row is the Kronecker product of the factors' rows.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., n, m_k)
        A_1, ..., A_d, with the same number of rows; batch axes lead.

    Returns
    -------
    array, shape (..., n, m_1 ⋯ m_d)
        Row i is ``numpy.kron`` of the rows i, one after the other; batch axes broadcast.

    Raises
    ------
    ValueError
        The factors have different numbers of rows, or there are none.

    See Also
    --------
    face_splitting_matvec : Multiplies without forming it.
    khatri_rao : The same of columns.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> kronecker.face_splitting([np.array([[1.0, 2], [3, 4]]), np.array([[1.0, 10], [0, 1]])])
    array([[ 1., 10.,  2., 20.],
           [ 0.,  3.,  0.,  4.]])
    """
    (factors,) = checked(factors)
    _same(factors, -2)
    return engine(*factors).face_splitting(*factors)


@engine.traced()
def khatri_rao(factors: Sequence[Any], /) -> Any:
    """Form the matrix of which each column is the Kronecker product of the factors' columns.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., m_k, n)
        A_1, ..., A_d, with the same number of columns; batch axes lead.

    Returns
    -------
    array, shape (..., m_1 ⋯ m_d, n)
        As ``scipy.linalg.khatri_rao`` of one after the other; batch axes broadcast.

    Raises
    ------
    ValueError
        The factors have different numbers of columns, or there are none.

    See Also
    --------
    face_splitting : The same of rows. Its products serve here with the factors' transposes.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> kronecker.khatri_rao([np.array([[1.0, 2], [3, 4]]), np.array([[1.0, 10], [0, 1]])])
    array([[ 1., 20.],
           [ 0.,  2.],
           [ 3., 40.],
           [ 0.,  4.]])
    """
    (factors,) = checked(factors)
    _same(factors, -1)
    return engine(*factors).khatri_rao(*factors)


@engine.traced()
def face_splitting_matvec(factors: Sequence[Any], x: Any, /) -> Any:
    """Multiply vectors by the face-splitting product of matrices, which is never formed.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., n, m_k)
        A_1, ..., A_d, with the same number of rows: bases along the axes, at n points.
    x : array, shape (..., m_1 ⋯ m_d)
        Vectors along the last axis, row-major: the coefficients ``x.reshape(..., m_1, ..., m_d)``.

    Returns
    -------
    array, shape (..., n)
        Entry i sums ``A_1[i, j_1] ⋯ A_d[i, j_d] x[j_1, ..., j_d]``: the function's value at point
        i. Batch axes of the factors and of `x` broadcast.

    Raises
    ------
    ValueError
        The shapes do not fit each other.

    See Also
    --------
    face_splitting_rmatvec : By the conjugate transpose.
    FaceSplitting : Both, as an operator.
    kron_matvec : At all points of a grid.

    Notes
    -----
    A matrix product with the first factor, and the rows' products with the others: 2 n m_1 ⋯ m_d
    (1 + 1/m_1 + ...) operations. On the way there are n m_2 ⋯ m_d values, with NumPy arrays no more
    than about 1 MB of them at a time; so the largest factor had best come first. The relative error
    is at most m_1 + ... + m_d times eps, of the sum of absolute values.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> rng = np.random.default_rng(0)
    >>> a, b, x = rng.random((5, 2)), rng.random((5, 3)), rng.random((2, 3))
    >>> y = kronecker.face_splitting_matvec([a, b], x.ravel())
    >>> np.allclose(y, np.einsum("ij,ik,jk->i", a, b, x))
    True
    """
    factors, x = checked(factors, x=x)
    _same(factors, -2)
    grid("x", x, columns_of(factors))
    batch_shape(factors, tuple(x.shape[:-1]))
    return engine(x, *factors).face_splitting_matvec(x, *factors)


@engine.traced()
def face_splitting_rmatvec(factors: Sequence[Any], y: Any, /) -> Any:
    """Multiply vectors by the conjugate transpose of a face-splitting product, never formed.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., n, m_k)
        A_1, ..., A_d, as for `face_splitting_matvec`.
    y : array, shape (..., n)
        Vectors along the last axis.

    Returns
    -------
    array, shape (..., m_1 ⋯ m_d)
        Entry (j_1, ..., j_d), row-major, sums ``conj(A_1[i, j_1] ⋯ A_d[i, j_d]) y[i]`` over i.
        Batch axes broadcast.

    Raises
    ------
    ValueError
        The shapes do not fit each other.

    See Also
    --------
    face_splitting_matvec : The product itself, with cost and memory, which are the same.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> a, b = np.array([[1.0, 2], [3, 4]]), np.array([[1.0, 10], [0, 1]])
    >>> kronecker.face_splitting_rmatvec([a, b], np.array([1.0, 2.0]))
    array([ 1., 16.,  2., 28.])
    """
    factors, y = checked(factors, y=y)
    _same(factors, -2)
    _checks.operand("y", y, -1, factors[0].shape[-2])
    batch_shape(factors, tuple(y.shape[:-1]))
    return engine(y, *factors).face_splitting_rmatvec(y, *factors)


class FaceSplitting(Operator):
    """The face-splitting product of matrices, kept as its factors.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., n, m_k)
        A_1, ..., A_d, with the same number of rows; batch axes lead, and broadcast.

    Attributes
    ----------
    factors : tuple of array
        The factors, of one dtype; not copied, so who changes an array in place changes this.
    shape : (int, int)
        Rows n and columns m_1 ⋯ m_d.
    batch_shape : tuple of int
        Batch axes of the factors.
    dtype : dtype
        Of the factors, after promotion.

    See Also
    --------
    face_splitting_matvec : The product with plain factors, with the conventions.
    KroneckerProduct : The bases at all points of a grid.

    Notes
    -----
    Row i is ``numpy.kron(A_1[i], ..., A_d[i])``: with a basis along each axis, evaluated at the
    coordinates of n scattered points, this takes coefficients on the grid to values at the points.

    Examples
    --------
    A polynomial in two variables, through its values at scattered points:

    >>> import numpy as np
    >>> from scipy.sparse.linalg import lsqr
    >>> from linalgkit import kronecker
    >>> x, y = np.random.default_rng(0).uniform(-1, 1, (2, 500))
    >>> bases = [np.polynomial.chebyshev.chebvander(t, 4) for t in (x, y)]
    >>> operator = kronecker.FaceSplitting(bases)
    >>> operator
    <FaceSplitting 500×25 (500×5 • 500×5), float64: 5,000 parameters, 40,000 bytes, 2.5 times smaller than dense>
    >>> found = lsqr(operator.aslinearoperator(), x * y**3, atol=1e-12, btol=1e-12)[0]
    >>> found.reshape(5, 5).round(6)[1] + 0.0  # x times y³ = (3 T_1(y) + T_3(y)) / 4
    array([0.  , 0.75, 0.  , 0.25, 0.  ])
    """  # noqa: E501

    __module__ = "linalgkit.kronecker"
    fields = ("factors",)

    def __init__(self, factors: Sequence[Any]) -> None:
        (self.factors,) = checked(factors)
        _same(self.factors, -2)
        self.shape = self.factors[0].shape[-2], prod(columns_of(self.factors))
        self.batch_shape = batch_shape(self.factors)
        self.dtype = self.factors[0].dtype
        self.structure = f" ({' • '.join(sizes_of(self.factors))})"

    def matmat(self, x: Any, /) -> Any:
        """Return A X for X of shape (..., columns, k)."""
        _checks.operand("x", x, -2, self.shape[1])
        return moveaxis(
            face_splitting_matvec(for_columns(self.factors), moveaxis(x, -1, -2)), -1, -2
        )

    def rmatmat(self, y: Any, /) -> Any:
        """Return A^H Y for Y of shape (..., rows, k)."""
        _checks.operand("y", y, -2, self.shape[0])
        return moveaxis(
            face_splitting_rmatvec(for_columns(self.factors), moveaxis(y, -1, -2)), -1, -2
        )

    def conj(self) -> "FaceSplitting":
        """Return the complex conjugate; the transpose, a Khatri–Rao product, is none of these."""
        return FaceSplitting([moveaxis(adjoint(factor), -1, -2) for factor in self.factors])

    def to_dense(self) -> Any:
        """Return the matrix as an array of shape (..., rows, columns)."""
        return face_splitting(self.factors)


def _same(factors: Sequence[Any], axis: int) -> None:
    """Raise ValueError unless all factors are of one size along an axis."""
    sizes = [factor.shape[axis] for factor in factors]
    if len(set(sizes)) > 1:
        raise ValueError(
            f"factors must have the same number of {'rows' if axis == -2 else 'columns'}; got "
            f"{', '.join(map(str, sizes))}."
        )
