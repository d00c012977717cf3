"""The published static algorithm's arrays, for comparison with its recursion."""

from typing import Any, NamedTuple

from array_api_compat import array_namespace

from .. import _checks
from .._engine import Engines
from ._rows import damping_of, in_memory, result_dtype

engine = Engines(__package__)


class WoodburyStatic(NamedTuple):
    """What the published static algorithm keeps: F⁻¹ = I / λ - Σ y_i y_iᵀ / c_i.

    Parameters
    ----------
    y : array, shape (m, d)
        The vectors.
    c : array, shape (m,)
        Their divisors.
    """

    y: Any
    c: Any


@engine.traced()
def woodbury_static(gradients: Any, /, damping: float = 1e-5) -> WoodburyStatic:
    """Return the arrays of the published static algorithm.

    Parameters
    ----------
    gradients : array, shape (m, d)
        One gradient a row.
    damping : float
        The λ > 0 that is added to the diagonal.

    Returns
    -------
    WoodburyStatic
        `y`, shape (m, d), with ``y_i = F_(i-1)⁻¹ g_i``, and `c`, shape (m,), with
        ``c_i = m + g_i · y_i``, where F_i is the matrix of the first i gradients, divided by m;
        in the dtype of the gradients, at least float32.

    Raises
    ------
    ValueError
        The gradients are no matrix.
    numpy.linalg.LinAlgError
        The damping is 0, or lost beside the gradients.

    See Also
    --------
    empirical_fisher : Needs neither, and half the memory.

    Notes
    -----
    The recursion (algorithm 1 of [1]_) is the factorisation M = L D Lᵀ of
    ``M = m λ I + G Gᵀ``: ``Y = L⁻¹ G / λ`` and ``c = D / λ``; so it is computed here, in
    float64, and then rounded.

    References
    ----------
    .. [1] E. Frantar, E. Kurtic, D. Alistarh, "M-FAC: Efficient Matrix-Free Approximations of
       Second-Order Information", arXiv:2107.03356.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit.mfac import woodbury_static
    >>> y, c = woodbury_static(np.array([[3.0, 0.0], [3.0, 4.0]]), 0.5)
    >>> y
    array([[6. , 0. ],
           [0.6, 8. ]])
    >>> c
    array([20. , 35.8])
    """
    _checks.present(gradients=gradients)
    in_memory("gradients", gradients)
    (gradients,) = _checks.floating(gradients=gradients)
    _checks.real(gradients=gradients)
    if gradients.ndim != 2 or 0 in gradients.shape:
        raise ValueError(
            f"gradients must have shape (m, d), both at least 1; got {tuple(gradients.shape)}."
        )
    xp = array_namespace(gradients)
    gradients = xp.astype(gradients, result_dtype(gradients), copy=False)
    found = engine(gradients).woodbury_static(gradients, damping=damping_of(damping))
    return WoodburyStatic(*found)
