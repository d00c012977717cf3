"""Decompositions, determinants and powers of a Kronecker product: those of its factors.

Row-major: entry i of the product's spectrum is entry ``(i_1, ..., i_d) = numpy.unravel_index(i,
(n_1, ..., n_d))`` of the outer product of the factors' spectra.
"""

from collections.abc import Sequence
from math import isfinite, prod
from typing import Any, NamedTuple

import numpy as np

from .. import _checks
from .._engine import Engines
from ._modes import checked, entries, rows_of, square

engine = Engines(__package__)


class KroneckerEigh(NamedTuple):
    """Eigenvalues and eigenvectors of a Kronecker product of Hermitian matrices.

    Parameters
    ----------
    eigenvalues : tuple of array, the j-th of shape (..., n_j); or array, shape (k,)
        Of each factor, ascending; or the k of largest absolute value of the product, the largest
        first.
    eigenvectors : tuple of array, the j-th of shape (..., n_j, n_j); or array, shape (N, k)
        As columns, in the order of the eigenvalues.
    """

    eigenvalues: Any
    eigenvectors: Any


class KroneckerSVD(NamedTuple):
    """Singular values and vectors of a Kronecker product.

    Parameters
    ----------
    U : tuple of array, the j-th of shape (..., m_j, r_j); or array, shape (M, k)
        Left singular vectors, as columns.
    S : tuple of array, the j-th of shape (..., r_j); or array, shape (k,)
        Singular values, descending.
    Vh : tuple of array, the j-th of shape (..., r_j, n_j); or array, shape (k, N)
        Right singular vectors, as conjugate rows.
    """

    U: Any
    S: Any
    Vh: Any


class Slogdet(NamedTuple):
    """The determinant of a Kronecker product.

    Parameters
    ----------
    sign : array, shape (...)
        Its sign, or phase; 0 for a singular matrix.
    logabsdet : array, shape (...)
        The natural logarithm of its absolute value.
    """

    sign: Any
    logabsdet: Any


@engine.traced()
def kron_eigh(factors: Sequence[Any], /, *, k: int | None = None) -> KroneckerEigh:
    """Decompose a Kronecker product of Hermitian matrices.

    Parameters
    ----------
    factors : sequence of array, the j-th of shape (..., n_j, n_j)
        A_1, ..., A_d; their Hermitian parts are used. Linear operators may stand among them: their
        entries are computed.
    k : int, optional
        How many eigenpairs of the product itself to take, those of largest absolute value. By
        default the factors' eigenpairs are returned, from which all of the product follow.

    Returns
    -------
    KroneckerEigh
        With fields `eigenvalues` and `eigenvectors`. Without `k`: tuples, one array a factor. The
        product's eigenvalues are the outer product of these, its eigenvectors the Kronecker
        product. With `k`: arrays of shape (k,) and (n_1 ⋯ n_d, k).

    Raises
    ------
    ValueError
        A factor is not square, or there are fewer than `k` eigenvalues.
    TypeError
        `k` under ``jit`` or ``vmap``, which have no values to choose by; or with batch axes.

    See Also
    --------
    kron_svd : For matrices that are not Hermitian.
    shifted_solve : Uses it.

    Notes
    -----
    O(Σ n_j³) operations. The k largest are found by a heap in O(k d log k), without forming the
    other products. Relative accuracy: eps n_j of the largest eigenvalue, in each factor. Without
    `k`, a factor with NaN or an infinity has NaN; others of its batch are not touched.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> a, b = np.diag([1.0, 3.0]), np.array([[2.0, 1.0], [1.0, 2.0]])
    >>> kronecker.kron_eigh([a, b]).eigenvalues
    (array([1., 3.]), array([1., 3.]))
    >>> values, vectors = kronecker.kron_eigh([a, b], k=2)
    >>> values.round(12)
    array([9., 3.])
    >>> np.allclose(np.kron(a, b) @ vectors, vectors * values)
    True
    """
    (factors,) = checked(entries(factors))
    square(factors, "kron_eigh")
    k = _count("kron_eigh", factors, k, prod(rows_of(factors)))
    return KroneckerEigh(*engine(*factors).kron_eigh(*factors, k=k))


@engine.traced()
def kron_svd(factors: Sequence[Any], /, *, k: int | None = None) -> KroneckerSVD:
    """Decompose a Kronecker product into singular values and vectors.

    Parameters
    ----------
    factors : sequence of array, the j-th of shape (..., m_j, n_j)
        A_1, ..., A_d, as for `kron_eigh`.
    k : int, optional
        How many of the product's largest singular values to take. By default the factors'
        decompositions are returned, from which all of the product follow.

    Returns
    -------
    KroneckerSVD
        With fields `U`, `S`, `Vh` as ``numpy.linalg.svd`` returns them without full matrices.
        Without `k`: tuples, one array a factor, whose outer product (of `S`) and Kronecker products
        decompose the product. With `k`: arrays of shapes (m_1 ⋯ m_d, k), (k,), (k, n_1 ⋯ n_d).

    Raises
    ------
    ValueError
        There are fewer than `k` singular values.
    TypeError
        `k` under ``jit`` or ``vmap``, which have no values to choose by; or with batch axes.

    See Also
    --------
    kron_eigh : For Hermitian matrices.
    kron_lstsq : Least squares by it.

    Notes
    -----
    The condition number of the product is the product of the factors': three factors of 1e6 have
    1e18. Errors are about eps times the largest singular value in each factor, for eps of its
    dtype. A factor with NaN or an infinity has NaN; others of its batch are not touched.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> rng = np.random.default_rng(0)
    >>> a, b = rng.standard_normal((3, 2)), rng.standard_normal((2, 4))
    >>> u, s, vh = kronecker.kron_svd([a, b], k=1)
    >>> np.allclose(s[0], np.linalg.norm(np.kron(a, b), 2))
    True
    """
    (factors,) = checked(entries(factors))
    sizes = [min(a.shape[-2:]) for a in factors]
    k = _count("kron_svd", factors, k, prod(sizes))
    return KroneckerSVD(*engine(*factors).kron_svd(*factors, k=k))


@engine.traced()
def kron_slogdet(factors: Sequence[Any], /) -> Slogdet:
    """Return sign and logarithm of the determinant of a Kronecker product.

    Parameters
    ----------
    factors : sequence of array, the j-th of shape (..., n_j, n_j)
        A_1, ..., A_d, as for `kron_eigh`.

    Returns
    -------
    Slogdet
        With fields `sign` and `logabsdet`, as ``numpy.linalg.slogdet`` has them.

    Raises
    ------
    ValueError
        A factor is not square.

    Notes
    -----
    ``log|det| = Σ_j (N / n_j) log|det A_j|`` with N = n_1 ⋯ n_d, and the signs to the powers
    N / n_j. (The determinant itself is out of range already for N of a thousand.) The absolute
    error of the logarithm is about eps times Σ_j N times A_j's condition number, at most.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> a, b = np.diag([1.0, -2.0]), np.diag([3.0, 1.0, 1.0])
    >>> sign, logarithm = kronecker.kron_slogdet([a, b])
    >>> float(sign), float(np.exp(logarithm).round(9))
    (-1.0, 72.0)
    >>> round(float(np.linalg.det(np.kron(a, b))), 9)
    -72.0
    """
    (factors,) = checked(entries(factors))
    square(factors, "kron_slogdet")
    return Slogdet(*engine(*factors).kron_slogdet(*factors))


@engine.eager
def kron_cholesky(factors: Sequence[Any], /, *, max_jitter: float = 0.0) -> tuple[Any, ...]:
    """Decompose a Kronecker product of positive definite matrices by Cholesky.

    Parameters
    ----------
    factors : sequence of array, the j-th of shape (..., n_j, n_j)
        A_1, ..., A_d, Hermitian; only their lower triangles are read. Operators as for `kron_eigh`.
    max_jitter : float, optional
        The most that may be added to a factor's diagonal, relative to its mean diagonal entry, so
        that the decomposition exists: nothing is tried first, then eps, and ten times more each
        time.

    Returns
    -------
    tuple of array, the j-th of shape (..., n_j, n_j)
        Lower triangular L_j; ``(⊗L) (⊗L)ᴴ = ⊗A``, up to the jitter.

    Raises
    ------
    LinAlgError
        A factor is not positive definite, also with the most jitter allowed; the message says
        which, and its eigenvalues' range.
    ValueError
        A factor is not square, or `max_jitter` is negative or not finite.

    See Also
    --------
    kron_solve : Solves with the product.

    Notes
    -----
    Relative to the norms, ``(⊗L) (⊗L)ᴴ`` differs from the product by Σ n_j eps and the jitter, for
    eps of the dtype. JAX reads both triangles, of which it takes the Hermitian part.

    Examples
    --------
    A sample of the Gaussian process on a grid whose covariance is the product:

    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> x, y = np.linspace(0, 1, 5), np.linspace(0, 2, 4)
    >>> factors = [np.exp(-abs(t[:, None] - t)) for t in (x, y)]
    >>> lower = kronecker.kron_cholesky(factors)
    >>> sample = kronecker.kron_matvec(lower, np.random.default_rng(0).standard_normal(20))
    >>> sample.reshape(5, 4).shape
    (5, 4)
    """
    (factors,) = checked(entries(factors))
    square(factors, "kron_cholesky")
    _concrete("kron_cholesky", "the Cholesky decomposition of each factor", factors)
    max_jitter = _checks.number("max_jitter", max_jitter, 0)
    _finite(factors)
    return tuple(engine(*factors).kron_cholesky(*factors, max_jitter=max_jitter))


@engine.traced()
def kron_power(factors: Sequence[Any], p: float, /) -> tuple[Any, ...]:
    """Raise a Kronecker product of square matrices to a power.

    Parameters
    ----------
    factors : sequence of array, the j-th of shape (..., n_j, n_j)
        A_1, ..., A_d. Hermitian without negative eigenvalues if `p` is not an integer; of what
        differs from Hermitian by rounding, the Hermitian part is used. Operators as for
        `kron_eigh`.
    p : int or float
        The power; negative ones are powers of the inverse.

    Returns
    -------
    tuple of array, the j-th of shape (..., n_j, n_j)
        A_jᵖ, whose Kronecker product is the power of the product.

    Raises
    ------
    LinAlgError
        A factor is singular and `p` negative; or has negative eigenvalues and `p` is no integer.
        (Where values are at hand; under ``jit`` negative eigenvalues count as zero.)
    ValueError
        A factor is not square; or `p` is no integer and a factor not Hermitian, where values are at
        hand.

    Notes
    -----
    O(n_j³) operations each. The inverse is taken first where `p` is negative, so the relative error
    is about eps times the power times the condition number; the error of a fractional power is
    about eps times the largest eigenvalue of the result. First derivatives of fractional powers
    exist where eigenvalues coincide too; second ones where they do not.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> a = np.array([[2.0, 1.0], [1.0, 2.0]])
    >>> root, = kronecker.kron_power([a], 0.5)
    >>> np.allclose(root @ root, a)
    True
    """
    (factors,) = checked(entries(factors))
    square(factors, "kron_power")
    if isinstance(p, bool) or not isinstance(p, int | float | np.integer | np.floating):
        raise TypeError(f"p must be a real number; got {p!r} ({type(p).__name__}).")
    if not isfinite(p):
        raise ValueError(f"p must be finite; got {p!r}.")
    p = int(p) if p == int(p) else float(p)
    return tuple(engine(*factors).kron_power(*factors, p=p))


def _count(function: str, factors: Sequence[Any], k: Any, most: int) -> int | None:
    """Check how many values of the product are wanted."""
    if k is None:
        return None
    k = _checks.size("k", k, 1)
    if k > most:
        raise ValueError(f"k must be at most {most}, all there are; got {k}.")
    _concrete(f"{function} with k", f"{function} without k", factors)
    if any(len(a.shape) > 2 for a in factors):
        raise TypeError(
            f"{function} with k takes one matrix a factor; got shapes "
            f"{[tuple(a.shape) for a in factors]}. Leave k out, or go through the batch."
        )
    _finite(factors)
    return k


def _concrete(function: str, alternative: str, factors: Sequence[Any]) -> None:
    named = {f"factors[{k}]": factor for k, factor in enumerate(factors)}
    _checks.concrete(function, alternative, **named)


def _finite(factors: Sequence[Any]) -> None:
    """Raise ValueError where a factor has NaN or infinite entries."""
    _checks.finite(**{f"factors[{k}]": factor for k, factor in enumerate(factors)})
