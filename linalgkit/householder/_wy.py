"""Products of the reflections of many tokens: the compact WY form and the UT transform."""

from typing import Any, NamedTuple

from array_api_compat import array_namespace, device

from .. import _checks
from .._engine import Engines
from ._delta_rule import delta_rule

engine = Engines(__package__)


class WY(NamedTuple):
    """A product of reflections as I - kᵀ w.

    Parameters
    ----------
    k : array, shape (..., C, d)
        The keys.
    w : array, shape (..., C, d)
        The rows of T k, T the UT transform.
    """

    k: Any
    w: Any


@engine.traced()
def ut_transform(k: Any, beta: Any, /) -> Any:
    """Return the triangular matrix that turns products of reflections into matrix products.

    Parameters
    ----------
    k : array, shape (..., C, d)
        Keys, a row a reflection I - β k kᵀ; token t acts after token t - 1.
    beta : array, shape (..., C)
        Strengths; 0 stands for no reflection.

    Returns
    -------
    array, shape (..., C, C)
        Lower triangular T = (I + tril(B k kᵀ, -1))⁻¹ B, with B = diag(β).

    Raises
    ------
    ValueError
        The shapes do not fit each other.
    TypeError
        The arrays come from different libraries, are complex, or not numeric.

    See Also
    --------
    wy : The product in factors.
    accumulate : The product as a matrix.

    Notes
    -----
    By substitution, C² d + C³/3 operations [1]_. For unit keys and β at most 2 no entry of T is
    beyond 4, whereas a Neumann series for the inverse overflows on equal keys.

    References
    ----------
    .. [1] T. Joffrain et al., "Accumulating Householder transformations, revisited", ACM
       Transactions on Mathematical Software 32 (2006).

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit.householder import ut_transform
    >>> ut_transform(np.array([[1.0, 0], [1, 0]]), np.array([2.0, 2]))
    array([[ 2.,  0.],
           [-4.,  2.]])
    """
    k, beta = _reflections(k, beta)
    return engine(k, beta).ut_transform(k, beta)


@engine.traced()
def wy(k: Any, beta: Any, /) -> WY:
    """Return the product of the reflections of a chunk as I - kᵀ w.

    Parameters
    ----------
    k : array, shape (..., C, d)
        Keys, a row a reflection I - β k kᵀ; token t acts after token t - 1.
    beta : array, shape (..., C)
        Strengths.

    Returns
    -------
    WY
        The keys, and w = T k of the same shape.

    Raises
    ------
    ValueError
        The shapes do not fit each other.
    TypeError
        The arrays come from different libraries, are complex, or not numeric.

    See Also
    --------
    ut_transform : The matrix T.
    accumulate : The product as a matrix.

    Notes
    -----
    The compact WY form [1]_: (I - β_C k_C k_Cᵀ) … (I - β_1 k_1 k_1ᵀ) = I - kᵀ w. 3 C² d
    operations.

    References
    ----------
    .. [1] R. Schreiber, C. Van Loan, "A storage-efficient WY representation for products of
       Householder transformations", SIAM Journal on Scientific and Statistical Computing 10 (1989).

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit.householder import wy
    >>> k, w = wy(np.array([[1.0, 0], [0, 1]]), np.array([2.0, 1]))
    >>> np.eye(2) - k.T @ w
    array([[-1.,  0.],
           [ 0.,  0.]])
    """
    k, beta = _reflections(k, beta)
    transform = engine(k, beta).ut_transform(k, beta)
    return WY(k, array_namespace(k).matmul(transform, k))


@engine.traced()
def accumulate(k: Any, beta: Any, /, *, chunk: int | None = None) -> Any:
    """Multiply the reflections of all tokens to one matrix.

    Parameters
    ----------
    k : array, shape (..., L, d)
        Keys, a row a reflection I - β k kᵀ; token t acts after token t - 1.
    beta : array, shape (..., L)
        Strengths.
    chunk : int, optional
        As for `delta_rule`.

    Returns
    -------
    array, shape (..., d, d)
        (I - β_L k_L k_Lᵀ) … (I - β_1 k_1 k_1ᵀ); the identity for no tokens.

    Raises
    ------
    ValueError
        The shapes do not fit each other.
    TypeError
        The arrays come from different libraries, are complex, or not numeric.

    See Also
    --------
    wy : The product of a chunk in factors.

    Notes
    -----
    The state to which `delta_rule` brings the identity when it writes zeros.

    Examples
    --------
    Two reflections make a rotation:

    >>> import numpy as np
    >>> from linalgkit.householder import accumulate
    >>> accumulate(np.array([[1.0, 0], [1, -1]]), np.array([2.0, 1]))
    array([[ 0.,  1.],
           [-1.,  0.]])
    """
    k, beta = _reflections(k, beta)
    xp, width = array_namespace(k), k.shape[-1]
    dtype = xp.float32 if xp.finfo(k.dtype).bits < 32 else k.dtype
    identity = xp.eye(width, dtype=dtype, device=device(k))
    identity = xp.broadcast_to(identity, (*k.shape[:-2], width, width))
    _, state = delta_rule(
        k, k, xp.zeros_like(k), beta, initial_state=identity, chunk=chunk, return_state=True
    )
    return xp.astype(state, k.dtype, copy=False)


def _reflections(k: Any, beta: Any) -> tuple[Any, Any]:
    _checks.present(k=k, beta=beta)
    k, beta = _checks.floating(k=k, beta=beta)
    if k.ndim < 2 or tuple(beta.shape) != tuple(k.shape[:-1]):
        raise ValueError(
            f"k must have shape (..., C, d) and beta (..., C); got {tuple(k.shape)} and "
            f"{tuple(beta.shape)}."
        )
    _checks.real(k=k, beta=beta)
    return k, beta
