"""The nearest sum of Kronecker products to a matrix."""

from typing import Any, NamedTuple

from .. import _checks
from .._engine import Engines
from ._modes import native

engine = Engines(__package__)


class NearestKronecker(NamedTuple):
    """A sum of Kronecker products ``Σ_t kron(left[t], right[t])`` near a matrix.

    Parameters
    ----------
    left : array, shape (..., terms, m / rows, n / columns)
        The first factors.
    right : array, shape (..., terms, rows, columns)
        The second factors, orthogonal to each other.
    error : array, shape (...)
        Frobenius norm of what is left out, relative to that of the matrix.
    """

    left: Any
    right: Any
    error: Any


@engine.traced()
def nearest_kronecker(
    a: Any,
    block_shape: tuple[int, int],
    /,
    *,
    terms: int = 1,
    tol: float | None = None,
) -> NearestKronecker:
    """Find the nearest Kronecker product to a matrix, or sum of some, in the Frobenius norm.

    Parameters
    ----------
    a : array, shape (..., m, n)
        The matrix; batch axes lead.
    block_shape : (int, int)
        Rows and columns of the second factor, which divide m and n.
    terms : int, optional
        How many products to add; no more are returned than make the matrix itself.
    tol : float, optional
        Take as few terms as leave a relative error of at most `tol` (in every matrix of a batch),
        whatever `terms` says.

    Returns
    -------
    NearestKronecker
        With fields `left`, `right` and `error`; ``a ≈ Σ_t kron(left[t], right[t])``. Both factors
        of a term have the same norm, and the largest entry of the right one is positive.

    Raises
    ------
    ValueError
        The blocks do not divide the matrix, or `terms` or `tol` is out of range.
    TypeError
        `tol` under ``jit`` or ``vmap``, where the number of terms must be known.

    See Also
    --------
    kron_matvec : Multiplies by the terms.

    Notes
    -----
    The blocks of `a`, one to a row, make a matrix in which ``kron(B, C)`` is the outer product of
    B and C; its singular value decomposition, truncated, is the best approximation [1]_. The error
    is the norm of the singular values left out. The nearest product to a positive definite matrix
    has positive definite factors. O(m n min(m n / p, p)) operations for blocks of p entries. Errors
    are about eps times the largest singular value. Gradients exist where the singular values of the
    terms that are kept differ from each other and none of the matrix is zero; else they are NaN.

    References
    ----------
    .. [1] C. F. Van Loan and N. Pitsianis, "Approximation with Kronecker products", in Linear
       Algebra for Large Scale and Real-Time Applications, 1993.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> b, c = np.array([[1.0, 2], [3, 4]]), np.array([[1.0, 0, 1]])
    >>> left, right, error = kronecker.nearest_kronecker(np.kron(b, c), (1, 3))
    >>> np.allclose(np.kron(left[0], right[0]), np.kron(b, c))
    True
    >>> bool(error < 1e-15)
    True
    """
    _checks.present(a=a)
    a = native(*_checks.floating(a=a))
    if a.ndim < 2:
        raise ValueError(f"a must be a matrix of shape (..., m, n); got shape {tuple(a.shape)}.")
    if not isinstance(block_shape, tuple | list) or len(block_shape) != 2:
        raise ValueError(f"block_shape must be (rows, columns); got {block_shape!r}.")
    rows, columns = (_checks.size("block_shape", size, 1) for size in block_shape)
    if a.shape[-2] % rows or a.shape[-1] % columns or 0 in a.shape[-2:]:
        raise ValueError(
            f"block_shape must divide the shape of a, {tuple(a.shape[-2:])}; got {(rows, columns)}."
        )
    terms = _checks.size("terms", terms, 1)
    if tol is not None:
        tol = _checks.number("tol", tol, 0)
        _checks.concrete("nearest_kronecker with tol", "terms", a=a)
        _checks.finite(a=a)
    found = engine(a).nearest_kronecker(a, block_shape=(rows, columns), terms=terms, tol=tol)
    return NearestKronecker(*found)
