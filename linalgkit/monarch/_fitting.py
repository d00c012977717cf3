"""Monarch matrices fitted to data: the operator that maps given inputs nearest to given outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from .. import _checks
from .._engine import Engines
from .._xp import padded
from ._blocks import resolved
from ._operators import Monarch
from ._products import check_factors
from ._projection import project
from ._stacks import scaled, single, transposed

engine = Engines(__package__)

_MESSAGES = (
    "The sum of squares decreases no further than tol.",
    "The number of iterations reached maxiter.",
    "The callback stopped the iteration.",
)


@dataclass(frozen=True)
class MonarchFit:
    """What `lstsq` found.

    Parameters
    ----------
    x : Monarch
        The operator.
    fun : float
        The sum of squares ‖Y − X Mᵀ‖².
    nit : int
        Sweeps done.
    status : int
        0: converged; 1: `maxiter` sweeps did not suffice; 2: stopped by the callback.
    success : bool
        Whether it converged.
    message : str
        The status in words.
    """

    x: Monarch
    fun: float
    nit: int
    status: int
    success: bool
    message: str


@engine.eager
def lstsq(
    x: Any,
    y: Any,
    /,
    *,
    blocks: Sequence[int] | None = None,
    x0: Any = None,
    maxiter: int = 100,
    tol: float = 1e-6,
    callback: Callable[[MonarchFit], Any] | None = None,
) -> MonarchFit:
    """Fit a Monarch matrix to pairs of inputs and outputs by least squares.

    Parameters
    ----------
    x : array, shape (samples, columns)
        Inputs.
    y : array, shape (samples, rows)
        Outputs.
    blocks : (int, int, int, int, int, int), optional
        The block sizes (k, q, p, l, s, r), with k q = l r. k p may be more than the columns, and
        l s more than the rows: the operator has the shape of the data all the same. By default
        those of `x0`, or what `choose_blocks` gives for the shape.
    x0 : Monarch or (left, right), optional
        Where to start; by default at the projection of the unrestricted solution.
    maxiter : int, optional
        Sweeps over both factors at most.
    tol : float, optional
        Ends when a sweep decreases the sum of squares by less than this part of it.
    callback : callable, optional
        Called with a `MonarchFit` after each sweep; it may raise StopIteration.

    Returns
    -------
    MonarchFit
        The operator `x`, the sum of squares `fun`, and `nit`, `status`, `success`, `message`.

    Raises
    ------
    ValueError
        Shapes do not fit, there are no samples, or something is NaN or infinite.
    TypeError
        The arrays come from different libraries, are not numeric, or have no values (under
        ``jit``).

    See Also
    --------
    project : The nearest Monarch matrix to a dense one.
    monarch_matmul : Differentiable in the factors, for other losses than this.

    Notes
    -----
    Minimises ‖Y − X Mᵀ‖² in turn over L and over R. Each is an ordinary least squares for each
    block λ of L: s × r unknowns, then the r p entries of the rows t = ρ l + λ of R. Of each the
    solution nearest to where it stands is taken, so samples may be too few or dependent. The sum of
    squares never rises; where it ends depends on the start, as it does for every alternating
    method, and a factor that starts at zero in both places stays zero. A sweep takes O(l (r p)³)
    operations, whatever the number of samples. Weighted projections of a matrix A are fits too: Y =
    X Aᵀ, with XᴴX the covariance of the inputs.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import monarch
    >>> rng = np.random.default_rng(0)
    >>> x, a, b = rng.standard_normal((50, 9)), rng.random((3, 3)), rng.random((3, 3))
    >>> fit = monarch.lstsq(x, x @ np.kron(a, b).T, blocks=(3, 3, 3, 3, 3, 3))
    >>> fit.success, fit.fun < 1e-20
    (True, True)
    """
    _checks.present(x=x, y=y)
    left, right, shape = _start(x0)
    x, y, left, right = _checks.floating(x=x, y=y, x0_left=left, x0_right=right)
    _checks.concrete("lstsq", "gradients of monarch_matmul", x=x, y=y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[0] != y.shape[0] or x.shape[0] == 0:
        raise ValueError(
            f"x must have shape (samples, columns) and y (samples, rows); got {tuple(x.shape)} and "
            f"{tuple(y.shape)}."
        )
    _checks.finite(x=x, y=y)
    maxiter = _checks.size("maxiter", maxiter)
    _checks.number("tol", tol, 0)
    if callback is not None:
        _checks.function("callback", callback)
    data = (y.shape[1], x.shape[1])
    sizes = resolved(data, None, blocks, 1) if left is None or blocks is not None else None
    if left is not None:
        _checks.finite(x0_left=left, x0_right=right)
        found = check_factors(left, right)
        if left.ndim != 3 or found != (sizes or found) or (shape or data) != data:
            raise ValueError(
                f"x0 must have no batch axes, {f'block sizes {sizes}, ' if sizes else ''}"
                f"and shape {data}; got block sizes {found} and left of shape {tuple(left.shape)}."
            )
        sizes = resolved(data, None, found, 1)
    return _alternate(x, y, left, right, sizes, maxiter, tol, callback)


def _alternate(
    x: Any,
    y: Any,
    left: Any,
    right: Any,
    blocks: Any,
    maxiter: int,
    tol: float,
    callback: Callable[[MonarchFit], Any] | None,
) -> MonarchFit:
    xp, dtype = array_namespace(x), x.dtype
    shape = (y.shape[1], x.shape[1])
    k, _, p, count, rows, _ = blocks
    (x, root_x), (y, root_y) = (scaled(single(samples), (0, 1)) for samples in (x, y))
    # M maps x to y; each factor takes one root of what M is to be multiplied by.
    unit_y = float(root_y[0, 0]) ** 2
    unit = float(root_y[0, 0]) / float(root_x[0, 0])
    serving = engine(x, y)
    x, y, lost = serving.compressed_samples(padded(x, k * p, 1), padded(y, count * rows, 1))
    if left is not None:
        left, right = (single(factor) / unit for factor in (left, right))
    else:
        # x has at most as many rows as columns here
        dense = xp.matmul(xp.linalg.pinv(x), y)
        start = project(transposed(dense), blocks=blocks)
        left, right = start.left, start.right

    def fit(left: Any, right: Any, fun: float, nit: int, status: int) -> MonarchFit:
        factors = (xp.astype(factor * unit, dtype) for factor in (left, right))
        operator, total = Monarch(*factors, shape=shape), fun * unit_y * unit_y
        return MonarchFit(operator, total, nit, status, status == 0, _MESSAGES[status])

    fun = serving.sum_of_squares(x, y, left, right) + lost
    exact = (10 * float(xp.finfo(x.dtype).eps)) ** 2 * float(xp.linalg.vector_norm(y)) ** 2
    nit = 0
    while nit < maxiter and fun > exact:
        new_left, new_right, new = serving.improved_factors(x, y, left, right)
        new += lost
        if not new < fun:  # rounding
            return fit(left, right, fun, nit, 0)
        decrease = fun - new
        left, right, fun, nit = new_left, new_right, new, nit + 1
        if callback is not None:
            try:
                callback(fit(left, right, fun, nit, 1))
            except StopIteration:
                return fit(left, right, fun, nit, 2)
        if decrease <= tol * (fun + decrease):
            return fit(left, right, fun, nit, 0)
    return fit(left, right, fun, nit, 0 if fun <= exact else 1)


def _start(x0: Any) -> tuple[Any, Any, Any]:
    """Return the factors and the shape of `x0`, an operator or a pair."""
    if x0 is None:
        return None, None, None
    if isinstance(x0, Monarch):
        if x0.order != "LR":
            raise ValueError("x0 must have order 'LR'; got a transposed or inverted operator.")
        return x0.left, x0.right, tuple(x0.shape)
    if not (isinstance(x0, Sequence) and len(x0) == 2):
        raise TypeError(f"x0 must be a Monarch or (left, right); got {type(x0).__name__}.")
    _checks.present(x0_left=x0[0], x0_right=x0[1])
    return x0[0], x0[1], None
