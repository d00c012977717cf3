"""Products of Monarch factors with vectors, and their gradients.

Index convention, for general blocks (k, q, p, l, s, r) with k q = l r: the right factor R has shape
(k, q, p), the left factor L (l, s, r). The matrix M has l s rows and k p columns, and y = M x is::

    u[κ q + θ] = Σ_π R[κ, θ, π] x[κ p + π]        y[σ l + λ] = Σ_ρ L[λ, σ, ρ] u[ρ l + λ]
"""

from collections.abc import Collection
from typing import Any, NamedTuple

from .. import _checks
from .._engine import Engines

engine = Engines(__package__)

_NAMES = ("x", "left", "right")


class MonarchGradients(NamedTuple):
    """Gradients of `monarch_matmul`; None where not wanted.

    Parameters
    ----------
    x : array, shape (..., k p), or None
        With respect to the vectors.
    left : array, shape (l, s, r), or None
        With respect to the left factor.
    right : array, shape (k, q, p), or None
        With respect to the right factor.
    """

    x: Any
    left: Any
    right: Any


@engine.traced(vjp="monarch_matmul_vjp", batched=(0,), ranks=(None, 3, 3))
def monarch_matmul(x: Any, left: Any, right: Any, /, *, axis: int = -1) -> Any:
    """Multiply vectors by a Monarch matrix, given by its two block-diagonal factors.

    Parameters
    ----------
    x : array, shape (..., k p)
        Vectors along `axis`. Any strides: neither vectors along the last axis nor along the
        first are transposed in memory.
    left : array, shape (..., l, s, r)
        Blocks of the left factor; batch axes lead.
    right : array, shape (..., k, q, p)
        Blocks of the right factor; ``k q = l r``.
    axis : int, optional
        The axis of `x` that has the k p entries of a vector.

    Returns
    -------
    array
        As `x`, with l s entries on `axis`. Integers count as float64; mixed dtypes give their
        ``result_type``.

    Raises
    ------
    ValueError
        The shapes do not fit each other.
    TypeError
        The arrays come from different libraries or are not numeric.

    See Also
    --------
    monarch_matmul_vjp : Its gradients.

    Notes
    -----
    Of general block sizes, as in Definitions 4 and 5 of [1]_::

        y[σ l + λ] = Σ_ρ L[λ, σ, ρ] u[ρ l + λ],    u[κ q + θ] = Σ_π R[κ, θ, π] x[κ p + π]

    2 (k q p + l s r) operations for each vector. The relative difference to a dense product of the
    same dtype is at most 4 eps √n. In half precision u is rounded too: in float16 an entry of it
    beyond 65,504 is infinite, however small y is. On GPUs infinities in float32 can become NaN.
    Axes that both factors have before these three are batch axes, and the first axes of `x` too.

    References
    ----------
    .. [1] T. Dao et al., "Monarch: Expressive Structured Matrices for Efficient and Accurate
       Training", ICML 2022, arXiv:2204.00595.

    Examples
    --------
    The Kronecker product of A and B has the blocks of A and B:

    >>> import numpy as np
    >>> from linalgkit import monarch
    >>> a, b, x = np.array([[1.0, 2], [3, 4]]), np.array([[0.0, 1], [1, 0]]), np.arange(4.0)
    >>> monarch.monarch_matmul(x, np.stack([a, a]), np.stack([b, b]))
    array([ 7.,  4., 15.,  8.])
    >>> np.kron(a, b) @ x
    array([ 7.,  4., 15.,  8.])
    """
    _checks.present(x=x, left=left, right=right)
    x, left, right = _checks.floating(x=x, left=left, right=right)
    axis = _fit(x, left, right, axis)
    return engine(x, left, right).monarch_matmul(x, left, right, axis=axis)


@engine.traced()
def monarch_matmul_vjp(
    cotangent: Any,
    x: Any,
    left: Any,
    right: Any,
    /,
    *,
    axis: int = -1,
    wrt: Collection[str] | None = None,
) -> MonarchGradients:
    """Pull a gradient back through `monarch_matmul`.

    Parameters
    ----------
    cotangent : array, shape (..., l s)
        Gradient with respect to the product.
    x : array, shape (..., k p)
        As for `monarch_matmul`.
    left : array, shape (l, s, r)
        As for `monarch_matmul`.
    right : array, shape (k, q, p)
        As for `monarch_matmul`.
    axis : int, optional
        As for `monarch_matmul`.
    wrt : collection of str, optional
        Some of "x", "left", "right": the others are None and not computed.

    Returns
    -------
    MonarchGradients
        Each in the dtype of its argument (the real part, for a real one).

    Raises
    ------
    ValueError
        The shapes do not fit each other, or `wrt` names something else.

    See Also
    --------
    monarch_matmul : The product.

    Notes
    -----
    With u = R x and v = Lᴴ g: the gradients are v xᴴ (block by block) for R, g uᴴ for L, Rᴴ v for
    x, which is torch's convention for complex numbers. u is computed again rather than kept.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import monarch
    >>> left, right, x = np.ones((2, 2, 2)), np.ones((2, 2, 2)), np.arange(4.0)
    >>> monarch.monarch_matmul_vjp(np.ones(4), x, left, right, wrt=["x"]).x
    array([4., 4., 4., 4.])
    """
    originals = x, left, right
    _checks.present(cotangent=cotangent, x=x, left=left, right=right)
    cotangent, x, left, right = _checks.floating(cotangent=cotangent, x=x, left=left, right=right)
    axis = _fit(x, left, right, axis)
    expected = [*x.shape]
    expected[axis] = left.shape[-3] * left.shape[-2]
    if tuple(cotangent.shape) != tuple(expected):
        raise ValueError(
            f"cotangent must have the product's shape {tuple(expected)}; "
            f"got {tuple(cotangent.shape)}."
        )
    wanted = _checks.wanted(wrt, _NAMES)
    gradients = engine(cotangent, x, left, right).monarch_matmul_vjp(
        cotangent, x, left, right, axis=axis, wrt=wanted
    )
    return MonarchGradients(
        *(
            _checks.as_dtype_of(g, original)
            for g, original in zip(gradients, originals, strict=True)
        )
    )


def check_factors(left: Any, right: Any) -> tuple[int, int, int, int, int, int]:
    """Return the block sizes (k, q, p, l, s, r); ValueError unless the factors fit."""
    if left.ndim < 3 or right.ndim < 3:
        raise ValueError(
            f"left must have shape (l, s, r) and right (k, q, p); "
            f"got {tuple(left.shape)} and {tuple(right.shape)}."
        )
    (count, rows, inner), (k, q, p) = left.shape[-3:], right.shape[-3:]
    if k * q != count * inner:
        raise ValueError(
            f"the right factor's {k} × {q} rows must be the left factor's {count} × {inner} "
            f"columns (k q = l r); got left of shape {tuple(left.shape)} and right of shape "
            f"{tuple(right.shape)}."
        )
    if left.shape[:-3] != right.shape[:-3]:
        raise ValueError(
            f"left and right must have the same batch axes; got left of shape "
            f"{tuple(left.shape)} and right of shape {tuple(right.shape)}."
        )
    return k, q, p, count, rows, inner


def _fit(x: Any, left: Any, right: Any, axis: int) -> int:
    """Return `axis` counted from the end; ValueError unless the shapes fit."""
    k, _, p, *_ = check_factors(left, right)
    axis = _checks.negative_axis("axis", axis, x.ndim)
    batch = left.shape[:-3]
    if x.shape[axis] != k * p:
        raise ValueError(
            f"x must have k p = {k} × {p} = {k * p} entries on axis {axis} for right of shape "
            f"{tuple(right.shape)}; got shape {tuple(x.shape)}."
        )
    if batch and (x.ndim + axis < len(batch) or x.shape[: len(batch)] != batch):
        raise ValueError(
            f"x must begin with the factors' batch axes {tuple(batch)}, before axis {axis}; "
            f"got shape {tuple(x.shape)}."
        )
    return axis
