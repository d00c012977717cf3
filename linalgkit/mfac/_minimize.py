"""Descent with steps preconditioned by the Fisher matrix of the last m gradients."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

from array_api_compat import array_namespace

from .. import _checks
from .._engine import Engines
from ._rows import first_leaf
from ._window import SlidingWindowFisher, place_of_bad

engine = Engines(__package__)

_MESSAGES = (
    "The number of iterations reached maxiter.",
    "The callback stopped the iteration.",
)


@dataclass(frozen=True)
class MFACResult:
    """What `mfac_minimize` found; its names are those of `scipy.optimize.OptimizeResult`.

    Parameters
    ----------
    x : array or list of arrays
        The last parameters.
    fun : float
        The function before the last step.
    jac : array or list of arrays
        The gradient before the last step.
    nit : int
        Steps.
    status : int
        0: `maxiter` steps were taken; 1: stopped by the callback.
    success : bool
        Whether it was not stopped.
    message : str
        The status in words.
    """

    x: Any
    fun: float
    jac: Any
    nit: int
    status: int
    success: bool
    message: str


@engine.eager
def mfac_minimize(
    fun_and_grad: Callable[[Any], tuple[Any, Any]],
    x0: Any,
    *,
    lr: float = 1e-3,
    n_gradients: int = 1024,
    damping: float = 1e-5,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    maxiter: int = 1000,
    callback: Callable[[MFACResult], Any] | None = None,
    progress: bool = False,
    storage: str | None = None,
) -> MFACResult:
    """Minimise a function by the published M-FAC optimiser.

    Parameters
    ----------
    fun_and_grad : callable
        Returns the function and its gradient at x; it may draw a new batch at each call.
    x0 : array, shape (d,), or list of arrays
        Where to begin. If it is a tensor of torch that requires a gradient, so is every x that
        `fun_and_grad` gets, each with a graph of its own.
    lr : float
        Length of a step.
    n_gradients : int
        Gradients of the window, m.
    damping : float
        The λ > 0 that is added to the diagonal of the Fisher matrix.
    momentum : float
        The μ of the running mean of the steps, at least 0 and less than 1.
    weight_decay : float
        This times x is added to the gradient.
    maxiter : int
        Steps.
    callback : callable, optional
        Called with an `MFACResult` after each step; it may raise StopIteration.
    progress : bool
        Show a progress bar.
    storage : {"float32", "float64", "float16", "bfloat16"}, optional
        What the window is kept in; float64 for x0 in float64, else float32.

    Returns
    -------
    MFACResult
        `x`, `fun`, `jac`, `nit`, `status`, `success` and `message`.

    Raises
    ------
    ValueError
        An option is out of its range, or `x0`, a value of the function or a gradient is not finite.

    See Also
    --------
    SlidingWindowFisher : The window and its inverse.
    linalgkit.mfac.optim.MFAC : The same steps for the parameters of a torch model.

    Notes
    -----
    With ``g = ∇f + weight_decay x`` the window gets g, and ``u = F⁻¹ g`` with g within it;
    ``v = μ v + (1 - μ) u`` with momentum, else ``v = u``; ``x -= lr v``. As the window is divided
    by m from the beginning, the first steps are those of a larger damping.

    For nearly orthogonal gradients u is about ``m g / (m λ + |g|²)``: steps get larger as gradients
    get smaller, until the damping takes over.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit.mfac import mfac_minimize
    >>> scales = np.array([1.0, 100.0])
    >>> def bowl(x):
    ...     return scales @ x**2 / 2, scales * x
    >>> found = mfac_minimize(bowl, np.ones(2), lr=1.0, n_gradients=4, damping=10.0, maxiter=100)
    >>> bool(found.fun < 1e-2 * bowl(np.ones(2))[0])
    True
    """
    _checks.function("fun_and_grad", fun_and_grad)
    if callback is not None:
        _checks.function("callback", callback)
    _checks.present(x0=x0)
    first = first_leaf(x0)
    is_list = first is not x0 and first is not None
    _checks.concrete("mfac_minimize", "fisher_solve", x0=first)
    names = [f"x0[{k}]" for k in range(len(x0))] if is_list else ["x0"]
    given = dict(zip(names, x0 if is_list else (x0,), strict=True))
    _checks.present(**given)
    leaves = _checks.floating(**given)
    _checks.real(**dict(zip(names, leaves, strict=True)))
    if not is_list and leaves[0].ndim != 1:
        raise ValueError(f"x0 must have shape (d,), or be leaves; got {tuple(leaves[0].shape)}.")
    for name, leaf in zip(names, leaves, strict=True):
        if 0 in leaf.shape:
            raise ValueError(f"{name} must not be empty; got shape {tuple(leaf.shape)}.")
    _checks.flags(progress=progress)
    n_gradients = _checks.size("n_gradients", n_gradients, 1)
    check_steps(lr, momentum, weight_decay)
    xp = array_namespace(leaves[0])
    if storage is None:
        storage = "float64" if leaves[0].dtype == xp.float64 else "float32"
    shapes = [tuple(leaf.shape) for leaf in leaves]
    window = SlidingWindowFisher(
        n_gradients,
        shapes if is_list else shapes[0][0],
        damping=damping,
        storage=storage,
        like=leaves[0],
    )
    for name, leaf in zip(names, leaves, strict=True):
        if not bool(xp.all(xp.isfinite(leaf))):
            raise ValueError(f"{name} is not finite at {place_of_bad(leaf)}.")
    x, velocity, result = [_fresh(leaf, leaf) for leaf in leaves], None, None
    for step in _counted(_checks.size("maxiter", maxiter, 1), progress):
        fun, parts = _value_and_parts(fun_and_grad(list(x) if is_list else x[0]), x, names)
        if not isfinite(fun):
            raise ValueError(
                f"fun_and_grad must return a finite function; got {fun} in step {step + 1}. A "
                f"smaller lr or a larger damping makes steps shorter."
            )
        gradient = list(parts) if is_list else parts[0]
        if weight_decay:
            parts = [g + weight_decay * w for g, w in zip(parts, x, strict=True)]
        solved = window.push_solve(parts if is_list else parts[0])
        update = solved if is_list else [solved]
        if momentum:
            old = velocity or [xp.zeros_like(u) for u in update]
            update = [momentum * v + (1 - momentum) * u for v, u in zip(old, update, strict=True)]
            velocity = update
        x = [_fresh(xp.astype(w - lr * u, w.dtype), w) for w, u in zip(x, update, strict=True)]
        result = _result(list(x) if is_list else x[0], fun, gradient, step + 1, 0)
        if callback is not None:
            try:
                callback(result)
            except StopIteration:
                return _result(result.x, fun, gradient, step + 1, 1)
    assert result is not None
    return result


def check_steps(lr: Any, momentum: Any, weight_decay: Any) -> None:
    """Raise ValueError or TypeError where options of steps are out of their ranges."""
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        _checks.number(name, value, 0)
    if not 0 <= _checks.number("momentum", momentum) < 1:
        raise ValueError(f"momentum must be at least 0 and less than 1; got {momentum!r}.")


def _value_and_parts(found: Any, x: list[Any], names: list[str]) -> tuple[float, list[Any]]:
    """Return what a function gave: its value, and its gradient's leaves with the shapes of x."""
    if not (isinstance(found, list | tuple) and len(found) == 2):
        raise TypeError(
            f"fun_and_grad must return the function and its gradient; got {type(found).__name__}"
            f"{f' of {len(found)}' if isinstance(found, list | tuple) else ''}."
        )
    fun, gradient = found
    try:
        value = float(fun)
    except (TypeError, ValueError):
        raise TypeError(
            f"fun_and_grad must return the function first, a number; got {type(fun).__name__}."
        ) from None
    is_list = names[0] != "x0"
    if is_list and not (isinstance(gradient, list | tuple) and len(gradient) == len(x)):
        raise TypeError(
            f"fun_and_grad must return the gradient as a list of {len(x)} arrays, like x; got "
            f"{type(gradient).__name__}"
            f"{f' of {len(gradient)}' if isinstance(gradient, list | tuple) else ''}."
        )
    parts = []
    for name, part, leaf in zip(names, gradient if is_list else (gradient,), x, strict=True):
        label = name.replace("x0", "gradient")
        _checks.present(**{label: part})
        _, part = _checks.arrays(**{name: leaf, label: part})
        if part.shape != leaf.shape:
            raise ValueError(
                f"fun_and_grad must return a gradient of the shape of x; got {tuple(part.shape)} "
                f"for {name}, which has {tuple(leaf.shape)}."
            )
        parts.append(part)
    return value, parts


def _fresh(x: Any, like: Any) -> Any:
    """Return a tensor of torch without the graph that made it, a leaf of a new one if `like` is."""
    return x.detach().requires_grad_(like.requires_grad) if hasattr(x, "detach") else x


def _result(x: Any, fun: float, jac: Any, nit: int, status: int) -> MFACResult:
    return MFACResult(x, fun, jac, nit, status, status == 0, _MESSAGES[status])


def _counted(count: int, progress: bool) -> Any:
    if not progress:
        return range(count)
    from tqdm import tqdm

    return tqdm(range(count))
