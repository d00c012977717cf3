"""Linear and semilinear partial differential equations on a box, with fast oscillations.

Source: "Solving High Frequency and Multi-Scale PDEs with Gaussian Processes" (arXiv:2311.04465):
a Gaussian process whose kernel is a product over the axes of mixtures of frequencies. Here it is
seen from its weights: a few dozen functions an axis instead of Gram matrices, and a linear system
instead of an optimisation.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from .. import _checks
from .._engine import Engines, _frames_to_the_caller
from ._equations import (
    Nonlinearity,
    boundary_rows,
    checked_grid,
    checked_terms,
    kernels_of_axes,
    pointwise_parts,
    with_values,
)
from ._hosts import coordinates, like, one_blas_thread, progress_bar, real_on_host, to_host

engine = Engines(__package__)

NYQUIST_PART = 0.8
_MESSAGES = (
    "The residual on held-out nodes is {residual:.1e}, within tol = {tol:.1e}.",
    "The residual on held-out nodes is {residual:.1e} and misses tol = {tol:.1e}: something is not "
    "resolved (a kink, a jump, a steep layer, a frequency near the limit of the grid), or the "
    "conditions do not determine a solution.",
    "Newton's method did not come to rest within maxiter = {maxiter} steps; the residual on "
    "held-out nodes is {residual:.1e}.",
    "The callback stopped the search; the residual on held-out nodes is {residual:.1e}.",
)


@dataclass(frozen=True, eq=False)
class PDEResult:
    """What `solve_pde` found.

    Parameters
    ----------
    u : array
        The solution on the grid.
    grid : tuple of arrays
        The coordinates of each axis.
    kernel : tuple
        For each axis the `Envelopes` or the kernel. Passed to `solve_pde` as ``kernel=`` it saves
        the search.
    frequencies : tuple of arrays
        The frequencies of each axis in cycles per unit, the most important first.
    residual : float
        Root mean square misfit of equation and boundary data on nodes that were held out of the
        fit, relative to the largest term of the equation, and to the boundary data.
    log_evidence : float
        Logarithm of the evidence of source and boundary data, with the prior's amplitude and the
        noise at their most likely values. For comparisons of kernels on the same data.
    nit : int
        Newton steps; 1 for a linear equation.
    status : int
        0: the residual is within `tol`; 1: it is not; 2: Newton's method did not come to rest;
        3: stopped by the callback.
    success : bool
        Whether the status is 0.
    message : str
        The status in words.
    """

    u: Any
    grid: tuple[Any, ...]
    kernel: tuple[Any, ...]
    frequencies: tuple[Any, ...]
    residual: float
    log_evidence: float
    nit: int
    status: int
    success: bool
    message: str
    _fitted: Any = field(repr=False, init=False)

    def __repr__(self) -> str:
        shape = "×".join(str(n) for n in self.u.shape)
        functions = "×".join(str(n) for n in self._fitted.sizes)
        return (
            f"<PDEResult on {shape} nodes by {functions} functions, residual {self.residual:.1e}, "
            f"status {self.status}>"
        )

    def predict(self, x: Any, orders: Any = None) -> Any:
        """Return u or one of its derivatives inside the box, on another grid or at points.

        A sequence `x` has one array of coordinates for each axis, and the result stands on their
        tensor product. An array `x` of shape (..., d), in two or more dimensions, has the
        coordinates of a point in each row, and the result is of shape (...). `orders` says how
        often to differentiate along each axis (by default not at all).
        """
        ndim = len(self.grid)
        orders = (0,) * ndim if orders is None else orders
        orders = orders if isinstance(orders, list | tuple) else (orders,)
        if len(orders) != ndim:
            raise ValueError(f"orders must have {ndim} entries, one an axis; got {orders}.")
        orders = tuple(_checks.size("orders", order) for order in orders)
        points, shape = self._points(x)
        if shape is None:
            return like(self._fitted.predicted(points, orders), self.u)
        return like(self._fitted.predicted_at(points, orders).reshape(shape), self.u)

    def std(self, x: Any = None) -> Any:
        """Return the standard deviation of u given the data, on a grid or at points.

        By default on the own grid, else where `x` says, as in `predict`. The equation is thought
        to hold with independent errors at the nodes, as large as the misfit on the held-out nodes;
        the boundary data are exact.
        """
        points, shape = self._points(tuple(self.grid) if x is None else x)
        with one_blas_thread():
            if shape is None:
                return like(self._fitted.deviation(points), self.u)
            return like(self._fitted.deviation_at(points).reshape(shape), self.u)

    def _points(self, x: Any) -> tuple[list[np.ndarray], tuple[int, ...] | None]:
        """Coordinates of each axis; the shape of the result where they are points, else None."""
        ndim = len(self.grid)
        if ndim == 1 or isinstance(x, list | tuple):
            return self._axes(x), None
        (points,) = real_on_host(x=x)
        if points.ndim == 0 or points.shape[-1] != ndim:
            raise ValueError(
                f"x must be a sequence of {ndim} arrays of coordinates, one an axis, or an array "
                f"of points of shape (..., {ndim}); got shape {points.shape}."
            )
        return self._axes(list(points.reshape(-1, ndim).T)), points.shape[:-1]

    def _axes(self, x: Any) -> list[np.ndarray]:
        points = coordinates(x, len(self.grid))
        for axis, (part, grid) in enumerate(zip(points, self.grid, strict=True)):
            start, end = float(grid[0]), float(grid[-1])
            slack = 1e-9 * (end - start)
            if not np.all((part >= start - slack) & (part <= end + slack)):
                raise ValueError(f"x[{axis}] must lie in the box, [{start:g}, {end:g}].")
        return points


@engine.eager
def solve_pde(
    operator: Mapping[tuple[int, ...], Any],
    source: Any,
    boundary: Mapping[tuple[int, int], Any],
    grid: Any,
    *,
    kernel: Any = "auto",
    nonlinearity: Nonlinearity | None = None,
    tol: float | None = None,
    maxiter: int = 20,
    callback: Callable[[tuple[Any, ...], float], Any] | None = None,
    progress: bool = False,
) -> PDEResult:
    """Solve L u + N(u) = f on a box, where u may oscillate fast.

    Parameters
    ----------
    operator : dict
        The linear operator L: multi-indices of derivatives, one entry an axis, to coefficients.
        ``{(2, 0): 1.0, (0, 2): 1.0}`` is the Laplacian in two dimensions. A coefficient is a
        number, or for each axis a number or an array of nodes, which are multiplied (in one
        dimension an array is enough).
    source : array, shape (n_1, …, n_d)
        The right-hand side f on the grid.
    boundary : dict
        ``(axis, side)`` to `Dirichlet` or `Neumann`, or a list of both; side 0 is where the
        coordinate is least. A face that is absent has no data: the outflow of an advection, the
        end of time.
    grid : sequence of arrays
        Coordinates of each axis, increasing (in one dimension an array is enough). Equispaced or
        not; three nodes for the shortest wavelength at least.
    kernel : {"auto"}, type, or sequence, optional
        What u is made of. ``"auto"`` finds frequencies, their number and the degree of their
        envelopes from source, boundary data and operator. `SpectralMixture` or `StudentTMixture`
        (the classes) find frequencies and one length in the same way. One kernel, or a sequence
        of one `SpectralMixture`, `StudentTMixture` or `Envelopes` for each axis, is used as it is.
    nonlinearity : Nonlinearity, optional
        A pointwise term N, solved for by Newton's method.
    tol : float, optional
        The residual on held-out nodes that counts as success. More is tried until it is met. By
        default 1e-9, or a hundred roundings of the data where those are more: 1e-5 in single
        precision.
    maxiter : int, optional
        Newton steps at most.
    callback : callable, optional
        Called with the kernels of a trial and its held-out residual after each trial; it may
        raise StopIteration, which ends the search.
    progress : bool, optional
        Show the number of trials and the least residual as they go.

    Returns
    -------
    PDEResult
        The solution `u`, `predict` for its derivatives anywhere, `std`, the `frequencies` found,
        the held-out `residual`, `status`, `success` and `message`.

    Raises
    ------
    ValueError
        Shapes do not fit, the grid does not increase, a multi-index has the wrong length, or
        something is NaN or infinite.
    TypeError
        The arrays come from different libraries, are complex, or have no values (under ``jit``).
    LinAlgError
        The conditions depend on each other, or no trial had a solution.

    Warns
    -----
    RuntimeWarning
        A frequency was found above four fifths of what the grid resolves.

    See Also
    --------
    dominant_frequencies : The frequencies alone.
    solve_gp_hm : The optimisation of the paper.

    Notes
    -----
    Per axis, u is a combination of T_j(s) cos ωx and T_j(s) sin ωx, j below a degree: a span that
    is closed under differentiation. One axis: least squares by QR over the equation at all nodes
    and the boundary rows. More axes: the boundary data are lifted exactly, and the rest is a
    Galerkin equation of a few dozen unknowns an axis, a Sylvester equation where each term of L
    differentiates along one axis only. Cost of a trial: two products of the source with N × k
    matrices, and O(k³) for k functions an axis. Every ninth node is held out to judge trials, every
    third of an axis of less than 15; the solution uses all nodes.

    Kernels: the functions of a `SpectralMixture`, and of a `StudentTMixture` whose lengths are many
    boxes, are waves weighted by the density, and reach 1e-9 and better on smooth solutions. Those
    of shorter Student-t mixtures are eigenvectors of the Gram matrix, which has half the digits:
    1e-6 to 1e-9.

    With fewer conditions than determine u (Neumann data alone, say), it is one of the solutions.
    Where the first features miss `tol`, the waves and boundary layers that solve the homogeneous
    equation are added, then waves in windows where the source is local, then all waves up to three
    quarters of what the grid resolves, 1500 functions an axis at most.

    Computed in float64 on the host, whatever the arrays are. float32 data limit the accuracy to
    about 1e-6. For smooth solutions without fast oscillations in one dimension, Chebyshev
    collocation on Chebyshev nodes is the simpler tool.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit.kronecker import Dirichlet, solve_pde
    >>> x = np.linspace(0, 2 * np.pi, 400)
    >>> found = solve_pde(
    ...     {(2,): 1.0},
    ...     -(100**2) * np.sin(100 * x),
    ...     {(0, 0): Dirichlet(0.0), (0, 1): Dirichlet(0.0)},
    ...     x,
    ... )
    >>> bool(np.abs(found.u - np.sin(100 * x)).max() < 1e-9)
    True
    >>> round(2 * np.pi * float(found.frequencies[0][0]), 6)
    100.0
    >>> slope = found.predict([1.0], orders=1)
    >>> bool(abs(slope[0] - 100 * np.cos(100.0)) < 1e-6)
    True
    """
    source, axes = checked_grid("solve_pde", source, grid)
    ndim = source.ndim
    if tol is None:
        tol = max(1e-9, 100 * float(array_namespace(source).finfo(source.dtype).eps))
    tol = _checks.number("tol", tol, 0)
    maxiter = _checks.size("maxiter", maxiter, 1)
    if callback is not None:
        _checks.function("callback", callback)
    hosts = [to_host(axis) for axis in axes]
    terms = checked_terms(operator, axes, source)
    conditions = boundary_rows(boundary, source)
    pointwise = pointwise_parts(nonlinearity, ndim)
    if pointwise is not None:
        function, derivatives, orders = pointwise
        slopes = [with_values("a derivative", derivative) for derivative in derivatives]
        pointwise = with_values("the function", function), slopes, orders
    stopped: list[bool] = []
    bar, least = progress_bar(progress, None, "trials"), inf

    def report(kernels: tuple[Any, ...], misfit: float) -> bool:
        nonlocal least
        least = min(least, misfit)
        bar.set_postfix(residual=f"{least:.1e}", refresh=False)
        bar.update()
        if callback is not None:
            try:
                callback(kernels, misfit)
            except StopIteration:
                stopped.append(True)
        return bool(stopped)

    with one_blas_thread(), bar:
        fitted = engine(source).pde_solution(
            hosts,
            terms,
            to_host(source),
            conditions,
            pointwise,
            kernel=kernels_of_axes(kernel, ndim),
            tolerance=tol,
            maxiter=maxiter,
            report=report,
        )
    _warn_of_aliases(fitted.strong, hosts)
    if stopped:
        status = 3
    elif not fitted.at_rest:
        status = 2
    else:
        status = 0 if fitted.residual <= tol else 1
    result = PDEResult(
        u=like(fitted.u, source),
        grid=axes,
        kernel=fitted.kernels,
        frequencies=tuple(like(f, source) for f in fitted.frequencies),
        residual=fitted.residual,
        log_evidence=fitted.log_evidence,
        nit=fitted.nit,
        status=status,
        success=status == 0,
        message=_MESSAGES[status].format(residual=fitted.residual, tol=tol, maxiter=maxiter),
    )
    object.__setattr__(result, "_fitted", fitted)
    return result


def _warn_of_aliases(frequencies: Any, grid: list[np.ndarray]) -> None:
    for axis, (found, nodes) in enumerate(zip(frequencies, grid, strict=True)):
        nyquist = 0.5 / float(np.max(np.diff(nodes)))
        if found.size and found.max() > NYQUIST_PART * nyquist:
            warnings.warn(
                f"axis {axis} has the frequency {found.max():.6g} cycles per unit, above "
                f"{NYQUIST_PART:g} of the {nyquist:.6g} that the grid resolves; it may be the "
                f"alias of a higher one. Use more nodes.",
                RuntimeWarning,
                _frames_to_the_caller(),
            )
