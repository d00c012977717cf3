"""Evidence of data under a mixture kernel, kernels fitted by it, and differentiation matrices.

Source: arXiv:2311.04465, equations (6) to (9), with the frequencies found before the optimisation.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import _checks
from .._engine import Engines
from ._hosts import like, one_blas_thread, to_host
from ._kernels import SpectralMixture, StudentTMixture, on_host, parameters_of
from ._solves import positive

engine = Engines(__package__)

SMALL = 300  # data points up to which factorisations gain nothing from threads
_MESSAGES = (
    "The evidence increases no further than tol.",
    "The number of iterations reached maxiter.",
    "The line search found no way on.",
)


class EvidenceGradient(NamedTuple):
    """Gradient of the log marginal likelihood.

    Parameters
    ----------
    log_weights : array, shape (q,)
        By the logarithms of the weights.
    means : array, shape (q,)
        By the frequencies.
    log_scales : array, shape (q,)
        By the logarithms of the scales, or of the lengths of a `StudentTMixture`.
    log_nugget : float
        By the logarithm of the nugget.
    """

    log_weights: Any
    means: Any
    log_scales: Any
    log_nugget: float


@dataclass(frozen=True, eq=False)
class KernelFit:
    """What `fit_kernel` found.

    Parameters
    ----------
    x : SpectralMixture or StudentTMixture
        The kernel.
    nugget : float
        The noise variance, relative to the kernel's variance.
    fun : float
        The log marginal likelihood of the data.
    nit : int
        Iterations.
    status : int
        0: converged; 1: `maxiter` reached; 2: the line search failed.
    success : bool
        Whether it converged.
    message : str
        The status in words.
    """

    x: Any
    nugget: float
    fun: float
    nit: int
    status: int
    success: bool
    message: str


@engine.eager
def differentiation_matrix(kernel: Any, x: Any, order: int = 1, *, nugget: float = 1e-12) -> Any:
    """Return the matrix that maps values on a grid to derivatives of their interpolant.

    Parameters
    ----------
    kernel : SpectralMixture or StudentTMixture
        Kernel of the interpolant.
    x : array, shape (n,)
        The nodes.
    order : int, optional
        Order p of the derivative.
    nugget : float, optional
        What is added to the diagonal, relative to it.

    Returns
    -------
    array, shape (n, n)
        D = K⁽ᵖ⁾ (K + εI)⁻¹, after one step of refinement.

    Raises
    ------
    ValueError
        The kernel has no such derivative, or something is NaN or infinite.
    LinAlgError
        The Gram matrix is not positive definite with this nugget.

    See Also
    --------
    solve_pde : Solves equations without Gram matrices.

    Notes
    -----
    The conditional mean of a Gaussian process given values at the nodes, differentiated (section
    4.1 of the paper). Computed in float64 on the host in O(n³); the entries grow like the fastest
    frequency that the nodes resolve to the power p. On a tensor grid the matrices act along the
    axes: ``kron_matvec([D, I], u)`` is the derivative along the first.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit.kronecker import SpectralMixture, differentiation_matrix
    >>> x = np.linspace(0, 1, 80)
    >>> kernel = SpectralMixture([1.0, 1.0], [0.0, 8.0], [1.0, 1.0])
    >>> slopes = differentiation_matrix(kernel, x) @ np.sin(50 * x)
    >>> bool(np.abs(slopes - 50 * np.cos(50 * x)).max() < 1e-3)
    True
    """
    _checked_kernel(kernel)
    _checks.present(x=x)
    (x,) = _checks.floating(x=x)
    _checks.concrete("differentiation_matrix", "gram of the kernel", x=x)
    _checks.real(x=x)
    if x.ndim != 1 or x.shape[0] == 0:
        raise ValueError(f"x must have one axis; got shape {tuple(x.shape)}.")
    _checks.finite(x=x)
    order = _checks.size("order", order)
    nugget = positive("nugget", nugget)
    matrix = engine(x).differentiation_matrix(
        on_host(kernel), to_host(x), order=order, nugget=nugget
    )
    return like(matrix, x)


@engine.eager
def log_marginal_likelihood(
    kernel: Any, x: Any, y: Any, *, order: int = 0, nugget: float = 1e-10, grad: bool = False
) -> Any:
    """Return the logarithm of the probability density of data under a kernel.

    Parameters
    ----------
    kernel : SpectralMixture or StudentTMixture
        Kernel k of the process u.
    x : array, shape (n,)
        Where the data were taken.
    y : array, shape (n,) or (n, columns)
        Data; columns are independent.
    order : int, optional
        The data are derivatives of u of this order p: their covariance is (−1)ᵖ k⁽²ᵖ⁾.
    nugget : float, optional
        Variance of the noise, relative to the variance of the data under the kernel.
    grad : bool, optional
        Return the gradient too.

    Returns
    -------
    float, or (float, EvidenceGradient)
        The value log N(y; 0, K + εI), and its gradient by log weights, means, log scales (or log
        lengths) and log nugget.

    Raises
    ------
    ValueError
        Shapes do not fit, the kernel has no such derivative, or something is NaN or infinite.
    LinAlgError
        The covariance is not positive definite with this nugget, or is zero.

    See Also
    --------
    fit_kernel : Maximises it.

    Notes
    -----
    Computed in float64 on the host: one Cholesky factorisation of the covariance, scaled to unit
    diagonal, O(n³); the gradient takes one inverse and O(n²) for each parameter: ∂/∂θ =
    ½ αᵀ(∂K)α − ½ tr((K + εI)⁻¹ ∂K) with α = (K + εI)⁻¹ y.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit.kronecker import SpectralMixture, log_marginal_likelihood
    >>> x = np.linspace(0, 1, 50)
    >>> y = np.sin(40 * x)
    >>> right = SpectralMixture([0.5], [40 / (2 * np.pi)], [0.3])
    >>> wrong = SpectralMixture([0.5], [1.0], [0.3])
    >>> log_marginal_likelihood(right, x, y) > log_marginal_likelihood(wrong, x, y)
    True
    """
    _checked_kernel(kernel)
    x, y = _checked_data("log_marginal_likelihood", x, y)
    order = _checks.size("order", order)
    if 2 * order > kernel.largest_order:
        raise ValueError(
            f"order must be at most {kernel.largest_order // 2:.0f} for this kernel; got {order}."
        )
    nugget = positive("nugget", nugget)
    kind, parameters, nu = parameters_of(kernel)
    data = to_host(y)
    value, gradient = engine(x, y).evidence(
        kind,
        parameters,
        nu,
        to_host(x),
        data if data.ndim == 2 else data[:, None],
        order=order,
        nugget=nugget,
        with_gradient=grad,
    )
    if not grad:
        return value
    weights, means, scales, by_nugget = gradient
    parts = like(weights, y), like(means, y), like(scales, y)
    return value, EvidenceGradient(*parts, float(by_nugget))


@engine.eager
def fit_kernel(
    kernel: Any,
    x: Any,
    y: Any,
    *,
    max_terms: int = 6,
    nugget: float | None = None,
    prior: str | None = None,
    maxiter: int = 200,
    tol: float = 1e-9,
) -> KernelFit:
    """Fit a mixture kernel to data by maximising the marginal likelihood.

    Parameters
    ----------
    kernel : type or kernel
        `SpectralMixture` or `StudentTMixture` (the classes): the start is found from the data. Or
        a kernel to start from.
    x : array, shape (n,)
        Where the data were taken, increasing.
    y : array, shape (n,) or (n, columns)
        Data; columns are independent and have one kernel.
    max_terms : int, optional
        Frequencies at most, beside the component at frequency 0.
    nugget : float, optional
        Variance of the noise, relative to the kernel's; by default it is fitted, too.
    prior : {None, "jeffreys"}, optional
        Prior of the weights: none, or the paper's p(w) ∝ 1/w, which prunes components.
    maxiter : int, optional
        Iterations at most.
    tol : float, optional
        Ends when an iteration increases the likelihood by less than this part of it.

    Returns
    -------
    KernelFit
        The kernel `x`, the `nugget`, the log marginal likelihood `fun`, and `nit`, `status`,
        `success`, `message`.

    Raises
    ------
    ValueError
        Shapes do not fit, `x` does not increase, `y` is zero, or something is NaN or infinite.
    LinAlgError
        No start has a positive definite covariance with this nugget.

    See Also
    --------
    log_marginal_likelihood : What is maximised.
    dominant_frequencies : Where it starts.

    Notes
    -----
    Frequencies start from matching pursuit, because the likelihood has a maximum for every peak of
    the spectrum and descent does not find the right one; the length from five candidates. Then
    L-BFGS on log weights, means, log scales and log nugget with the analytic gradient. Each
    iteration takes O(n³); on the host, in float64.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit.kronecker import SpectralMixture, fit_kernel
    >>> x = np.linspace(0, 10, 100)
    >>> noise = 0.1 * np.random.default_rng(0).standard_normal(100)
    >>> fit = fit_kernel(SpectralMixture, x, np.sin(2 * np.pi * 1.7 * x) + noise, max_terms=1)
    >>> round(float(fit.x.means[1]), 1)
    1.7
    """
    x, y = _checked_data("fit_kernel", x, y)
    nodes, data = to_host(x), to_host(y)
    if not np.all(np.diff(nodes) > 0):
        raise ValueError("x must increase.")
    if nodes.size < 8:
        raise ValueError(f"x must have at least 8 entries; got {nodes.size}.")
    largest = float(np.abs(data).max())
    if largest < np.sqrt(np.finfo(float).tiny):  # the likelihood grows as the weights vanish
        raise ValueError(
            f"y must have an entry whose square is not zero; the largest is {largest:.3g}."
        )
    max_terms = _checks.size("max_terms", max_terms)
    maxiter = _checks.size("maxiter", maxiter, 1)
    _checks.choice("prior", prior, (None, "jeffreys"))
    nugget = None if nugget is None else positive("nugget", nugget)
    _checks.number("tol", tol, 0)
    if kernel in (SpectralMixture, StudentTMixture):
        kind, start, nu = ("gaussian" if kernel is SpectralMixture else "matern"), None, 2.5
    else:
        _checked_kernel(kernel)
        kind, start, nu = parameters_of(kernel)
    with one_blas_thread(nodes.size <= SMALL):
        parameters, nugget, value, nit, status = engine(x, y).fitted_kernel(
            kind,
            start,
            nu,
            nodes,
            data if data.ndim == 2 else data[:, None],
            terms=max_terms,
            nugget=nugget,
            jeffreys=prior == "jeffreys",
            maxiter=maxiter,
            tolerance=tol,
        )
    weights, means, third = (like(part, y) for part in parameters)
    if kind == "gaussian":
        found: Any = SpectralMixture(weights, means, third)
    else:
        found = StudentTMixture(weights, means, third, nu)
    return KernelFit(found, nugget, value, nit, status, status == 0, _MESSAGES[status])


def _checked_kernel(kernel: Any) -> None:
    if not isinstance(kernel, SpectralMixture | StudentTMixture):
        raise TypeError(
            f"kernel must be a SpectralMixture or a StudentTMixture; got {type(kernel).__name__}."
        )


def _checked_data(function: str, x: Any, y: Any) -> tuple[Any, Any]:
    _checks.present(x=x, y=y)
    x, y = _checks.floating(x=x, y=y)
    _checks.concrete(function, "gram of the kernel", x=x, y=y)
    _checks.real(x=x, y=y)
    if x.ndim != 1 or y.ndim not in (1, 2) or y.shape[0] != x.shape[0] or x.shape[0] == 0:
        raise ValueError(
            f"x must have shape (n,) and y (n,) or (n, columns); got {tuple(x.shape)} and "
            f"{tuple(y.shape)}."
        )
    _checks.finite(x=x, y=y)
    return x, y
