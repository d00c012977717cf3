"""The paper's optimisation: solution, kernel and noises together, by gradients.

Source: "Solving High Frequency and Multi-Scale PDEs with Gaussian Processes" (arXiv:2311.04465),
section 4: the log joint probability, maximised over everything at once. Here for comparison;
`solve_pde` solves the same equations in a fraction of a second and to more digits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import _checks
from .._engine import Engines
from ._equations import Nonlinearity, boundary_rows, checked_grid, checked_terms, pointwise_parts
from ._hosts import coordinates, progress_bar, to_host
from ._kernels import SpectralMixture, StudentTMixture
from ._solves import positive

engine = Engines(__package__)

EXCEPTIONS = {
    ("solve_gp_hm", "array_api_strict"): "it has no gradients; pass NumPy, torch or JAX arrays",
    ("solve_gp_hm", "cupy"): "it has no gradients; pass NumPy, torch or JAX arrays",
}
_MESSAGES = (
    "The relative residual of the equation is {residual:.1e}, within tol = {tol:.1e}.",
    "The relative residual of the equation is {residual:.1e} after {nit} iterations and misses "
    "tol = {tol:.1e}.",
    "The callback stopped the iteration.",
    "The step after the last one has no finite joint probability: the Gram matrices lose their "
    "Cholesky factors, or the variables overflow. Use a larger jitter or a smaller learning_rate; "
    "the relative residual is {residual:.1e} after {nit} iterations.",
)


@dataclass(frozen=True, eq=False)
class GPHMResult:
    """What `solve_gp_hm` found: the last iterate.

    Parameters
    ----------
    u : array
        The solution on the grid.
    kernel : tuple
        The kernel of each axis.
    fun : float
        The log joint probability.
    residual : float
        Root mean square residual of the equation, relative to that of the source or of the
        largest term.
    nit : int
        Iterations.
    status : int
        0: the residual is within `tol`; 1: it is not; 2: stopped by the callback; 3: the step after
        the last one of Adam is not finite.
    success : bool
        Whether the status is 0.
    message : str
        The status in words.
    """

    u: Any
    kernel: tuple[Any, ...]
    fun: float
    residual: float
    nit: int
    status: int
    success: bool
    message: str
    _predict: Any = field(repr=False, init=False)

    def predict(self, x: Any) -> Any:
        """Return the conditional mean of u on another grid, one array of coordinates an axis."""
        return self._predict(coordinates(x, len(self.kernel)))


@engine.eager
def solve_gp_hm(
    operator: Mapping[tuple[int, ...], Any],
    source: Any,
    boundary: Mapping[tuple[int, int], Any],
    grid: Any,
    *,
    kernel: type = SpectralMixture,
    terms: int = 30,
    highest: float = 20.0,
    nonlinearity: Nonlinearity | None = None,
    boundary_weight: float = 200.0,
    method: str = "adam",
    learning_rate: float = 0.01,
    maxiter: int = 1000,
    jitter: float = 1e-6,
    tol: float = 1e-3,
    callback: Callable[[int, Any], Any] | None = None,
    progress: bool = False,
) -> GPHMResult:
    """Solve an equation by the optimisation of the paper (GP-HM).

    Parameters
    ----------
    operator : dict
        The linear operator, as in `solve_pde`.
    source : array, shape (n_1, …, n_d)
        The right-hand side on the grid. An array of torch or JAX, whose gradients are used; NumPy
        arrays go through whichever of the two is installed.
    boundary : dict
        Data on faces, as in `solve_pde`.
    grid : sequence of arrays
        Coordinates of each axis, as in `solve_pde`.
    kernel : type, optional
        `SpectralMixture` (GP-HM-GM) or `StudentTMixture` (GP-HM-StM, ν = 5/2).
    terms : int, optional
        Components of the mixture of each axis.
    highest : float, optional
        The start: frequencies equally spaced from 0 to this, cycles per unit.
    nonlinearity : Nonlinearity, optional
        A pointwise term, whose function must accept arrays of the library; its derivatives are
        not used.
    boundary_weight : float, optional
        The weight λ_b of the boundary's likelihood.
    method : {"adam", "lbfgs"}, optional
        Adam, as in the paper, or L-BFGS with bounds on the noises, which goes further in fewer
        steps, above all with a linear equation on at most 1000 nodes.
    learning_rate : float, optional
        Of Adam.
    maxiter : int, optional
        Steps at most. The paper takes 1e5 to 1e6 of Adam.
    jitter : float, optional
        What is added to the diagonals of the Gram matrices.
    tol : float, optional
        The relative residual that counts as success.
    callback : callable, optional
        Called with the iteration and u after each iteration; it may raise StopIteration.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    GPHMResult
        The last iterate `u`, the kernels, the log joint probability `fun`, the relative
        `residual`, and `nit`, `status`, `success`, `message`.

    Raises
    ------
    ValueError
        As in `solve_pde`, or an option is out of range.
    TypeError
        The arrays have no gradients (array-api-strict, CuPy), or no values (under ``jit``).
    LinAlgError
        The joint probability is not finite at the start.
    ImportError
        The arrays are NumPy's, and neither torch nor JAX is installed.

    See Also
    --------
    solve_pde : The solver to use.

    Notes
    -----
    Maximised over U, log weights, frequencies, log scales, log τ₁ and log τ₂ (for each axis k
    M_k nodes, M in all, N_b boundary values, H the residual of the equation at the nodes):

    −½ Σ_k (M/M_k) log det K_k − ½ vec(U)ᵀ (⊗K_k)⁻¹ vec(U)
    + λ_b ((N_b/2) log τ₁ − (τ₁/2) Σ (u_b − g)²) + (M/2) log τ₂ − (τ₂/2) Σ H²

    with derivatives of U by K⁽ᵖ⁾ K⁻¹ along the axes. The derivatives of kernels are closed forms:
    automatic differentiation through the distance is wrong at 0. An iteration takes
    O(Σ M_k³ + M Σ M_k).

    The joint probability has no upper bound: where the boundary values fit exactly, it grows with
    log τ₁ for ever, and Adam's result is where it stands after `maxiter` steps. A method that
    maximises well fits the boundary first and then follows τ₁, with the equation left behind.
    ``method="lbfgs"`` therefore goes in four stages, with log τ₁ and log τ₂ at most 0, 5, 10 and
    15, a quarter of the steps each: the equation is fitted up to noises that become smaller, down
    to a standard deviation of 6e-4. Weights stay above exp(−30). Its variable is V in
    U = (⊗L_k) V, with the Cholesky factors L_k of the Gram matrices, in which the prior is round;
    objective and start are Adam's. Where the equation is linear, and M at most 1000, V is no
    variable: the joint is quadratic in it, and each step takes the best one, in O(M³).

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit.kronecker import Dirichlet, solve_gp_hm
    >>> x = np.linspace(0, 1, 30)
    >>> found = solve_gp_hm(
    ...     {(2,): 1.0},
    ...     -100 * np.sin(10 * x),
    ...     {(0, 0): Dirichlet(0.0), (0, 1): Dirichlet(float(np.sin(10)))},
    ...     x,
    ...     terms=4,
    ...     highest=3.0,
    ...     maxiter=5,
    ... )
    >>> found.nit, found.status
    (5, 1)
    """
    source, axes = checked_grid("solve_gp_hm", source, grid)
    library = _checks.library_of(source)
    if ("solve_gp_hm", library) in EXCEPTIONS:
        raise TypeError(
            f"solve_gp_hm cannot serve {library} arrays: {EXCEPTIONS['solve_gp_hm', library]}."
        )
    if kernel not in (SpectralMixture, StudentTMixture):
        raise ValueError(f"kernel must be SpectralMixture or StudentTMixture; got {kernel!r}.")
    _checks.choice("method", method, ("adam", "lbfgs"))
    terms = _checks.size("terms", terms, 1)
    maxiter = _checks.size("maxiter", maxiter, 1)
    for name, value in (
        ("highest", highest),
        ("boundary_weight", boundary_weight),
        ("learning_rate", learning_rate),
        ("jitter", jitter),
    ):
        positive(name, value)
    _checks.number("tol", tol, 0)
    if callback is not None:
        _checks.function("callback", callback)
    pointwise = pointwise_parts(nonlinearity, source.ndim)
    bar = progress_bar(progress, maxiter, "steps")

    def report(step: int, u: Any) -> None:
        bar.update()
        if callback is not None:
            callback(step, u)

    with bar:
        found = engine(source).maximised_joint(
            [to_host(axis) for axis in axes],
            checked_terms(operator, axes, source),
            source,
            boundary_rows(boundary, source),
            None if pointwise is None else (pointwise[0], pointwise[2]),
            is_gaussian=kernel is SpectralMixture,
            terms=terms,
            highest=highest,
            boundary_weight=boundary_weight,
            method=method,
            learning_rate=learning_rate,
            maxiter=maxiter,
            jitter=jitter,
            callback=report if progress or callback is not None else None,
        )
    if found.is_stopped or found.is_lost:
        status = 2 if found.is_stopped else 3
    else:
        status = 0 if found.residual <= tol else 1
    message = _MESSAGES[status].format(residual=found.residual, tol=tol, nit=found.nit)
    result = GPHMResult(
        u=found.u,
        kernel=tuple(kernel(*parts) for parts in found.parameters),
        fun=found.fun,
        residual=found.residual,
        nit=found.nit,
        status=status,
        success=status == 0,
        message=message,
    )
    object.__setattr__(result, "_predict", found.predicted)
    return result
