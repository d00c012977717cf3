"""The MM* factorisation: a product of two Monarch matrices, one of them transposed.

Source: Section 3.2 of arXiv:2204.00595 (Assumption 3 and Theorem 2).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from .. import _checks
from .._engine import Engines
from ._stacks import is_half, single

engine = Engines(__package__)


@dataclass(frozen=True, repr=False)
class MMStarFactors:
    """Factors of A = (P L1 P) R (P L2 P), all of m blocks of size m × m, and how well they fit.

    It can be unpacked: ``left, middle, right, residual = factors``.

    Parameters
    ----------
    left : array, shape (m, m, m)
        Blocks of L1.
    middle : array, shape (m, m, m)
        Blocks of R.
    right : array, shape (m, m, m)
        Blocks of L2.
    residual : float
        ‖A − (P L1 P) R (P L2 P)‖ / ‖A‖ in the Frobenius norm.
    """

    left: Any
    middle: Any
    right: Any
    residual: float

    def __iter__(self) -> Iterator[Any]:
        return iter((self.left, self.middle, self.right, self.residual))

    def __repr__(self) -> str:
        m = self.left.shape[0]
        return (
            f"<MMStarFactors {m * m}×{m * m} (3 of {m} blocks {m}×{m}), {self.left.dtype}: "
            f"residual {self.residual:.2g}>"
        )


@engine.eager
def factorize_mmstar(
    a: Any,
    /,
    *,
    allow_complex: bool = False,
    sweeps: int = 4,
    rng: int | np.random.Generator | None = 0,
) -> MMStarFactors:
    """Factorise a matrix of the class MM*: a Monarch matrix times a transposed one.

    Parameters
    ----------
    a : array, shape (n, n)
        The matrix; n = m² is a square.
    allow_complex : bool, optional
        Give complex factors to a real matrix that has no real ones.
    sweeps : int, optional
        Sweeps of alternating least squares at most, which make the factors more accurate; they end
        when one brings nothing.
    rng : None, int or numpy.random.Generator, optional
        For the random combination of matrices whose eigenvectors are computed.

    Returns
    -------
    MMStarFactors
        `left` L1, `middle` R, `right` L2, each (m, m, m), and the relative `residual`. A matrix
        outside the class gets factors too, and a large residual.

    Raises
    ------
    LinAlgError
        Every row or column of blocks of P A P has a singular block, or the eigenvalues of a real
        matrix are complex and `allow_complex` is False.
    ValueError
        `a` is not square, n is not a square, or `a` has NaN or infinite entries.
    TypeError
        `a` is not numeric, or its values are not there (under ``jit``).

    See Also
    --------
    BlockDiagonal : Each factor as an operator; `left` and `right` are interleaved.

    Notes
    -----
    With Z[i, j] the blocks of P A P (a row i of blocks has the rows a m + i of A), [1]_::

        A[a m + i, b m + j] = Σ_t L1[i, a, t] R[t, i, j] L2[j, t, b]
        Z[i, j] = L1[i] D[i, j] L2[j]   with D[i, j] = diag(R[:, i, j])

    Of one row r and one column c of blocks that can be inverted, all Z[i, c]⁻¹ Z[i, j] Z[r, j]⁻¹
    Z[r, c] share the eigenvectors L2[c]⁻¹. Columns of L1 and rows of L2 have unit length. Every
    circulant is in the class (over the complex numbers), as are the Monarch matrices and their
    adjoints. O(n^2.5) operations; half precision is computed in single precision. The residual of a
    matrix in the class is about eps times the squared condition of its blocks.

    References
    ----------
    .. [1] T. Dao et al., "Monarch: Expressive Structured Matrices for Efficient and Accurate
       Training", ICML 2022, arXiv:2204.00595.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.linalg import circulant
    >>> from linalgkit import monarch
    >>> a = circulant(np.arange(9.0) ** 2)
    >>> left, middle, right, residual = monarch.factorize_mmstar(a, allow_complex=True)
    >>> left.shape, residual < 1e-12
    ((3, 3, 3), True)
    >>> x = np.arange(9.0)
    >>> product = monarch.Monarch(left, middle) @ monarch.BlockDiagonal(right, interleaved=True)
    >>> np.allclose(product @ x, a @ x)
    True
    """
    _checks.present(a=a)
    (a,) = _checks.floating(a=a)
    _checks.concrete("factorize_mmstar", "the factors", a=a)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or isqrt(a.shape[0]) ** 2 != a.shape[0]:
        raise ValueError(f"a must be n × n with n = m² a square; got shape {tuple(a.shape)}.")
    if a.shape[0] == 0:
        raise ValueError("a must have entries; got shape (0, 0).")
    _checks.finite(a=a)
    sweeps = _checks.size("sweeps", sweeps)
    _checks.flags(allow_complex=allow_complex)
    left, middle, right, residual = engine(a).factorize_mmstar(
        single(a), allow_complex=bool(allow_complex), sweeps=sweeps, rng=np.random.default_rng(rng)
    )
    xp = array_namespace(a)
    if is_half(a) and not xp.isdtype(left.dtype, "complex floating"):
        left, middle, right = (xp.astype(factor, a.dtype) for factor in (left, middle, right))
    return MMStarFactors(left, middle, right, residual)
