"""Linear and semilinear partial differential equations on a box, with fast oscillations.

Source: "Solving High Frequency and Multi-Scale PDEs with Gaussian Processes" (arXiv:2311.04465):
a Gaussian process whose kernel is a product over the axes of mixtures of frequencies. Here it is
seen from its weights: a few dozen functions an axis instead of Gram matrices, and a linear system
instead of an optimisation.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

import numpy as np

from .. import _checks
from .._engine import Engines, _frames_to_the_caller
from ._hosts import finite, like, one_blas_thread, progress_bar, to_host
from ._kernels import SpectralMixture, StudentTMixture, on_host
from ._solves import number

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
class Dirichlet:
    """Values of u on one face of the box.

    Parameters
    ----------
    values : array or float
        On the nodes of the face: the shape of the grid without the face's axis. A number is the
        same everywhere.
    """

    values: Any


@dataclass(frozen=True, eq=False)
class Neumann:
    """Values of the derivative of u along the face's axis, on one face of the box.

    It is the derivative towards larger coordinates on both faces of an axis: at side 0 it is minus
    the outward normal derivative.

    Parameters
    ----------
    values : array or float
        On the nodes of the face: the shape of the grid without the face's axis. A number is the
        same everywhere.
    """

    values: Any


@dataclass(frozen=True, eq=False)
class Nonlinearity:
    """A pointwise term N(u, u_x, …) of an equation, with its derivatives.

    Parameters
    ----------
    function : callable
        N, of NumPy arrays: one argument for each entry of `orders`.
    derivatives : sequence of callables
        The derivatives of N by each argument; they take the same arguments.
    orders : sequence of tuples of int, optional
        Which derivative of u each argument is; by default u alone.
    """

    function: Callable[..., Any]
    derivatives: Sequence[Callable[..., Any]]
    orders: Sequence[tuple[int, ...]] | None = None


class Envelopes(NamedTuple):
    """The functions of one axis that `solve_pde` finds: polynomials times exponentials.

    Features T_j(s) Re exp(μ x) and T_j(s) Im exp(μ x), with Chebyshev polynomials T_j on the box.

    Parameters
    ----------
    rates : tuple of complex
        The rates μ: imaginary for waves (angular frequencies), real for boundary layers, 0 for the
        smooth rest.
    degrees : tuple of int
        How many polynomials go with each rate.
    cut : float
        Combinations of features with smaller relative singular values are dropped.
    windows : tuple of (float, float, int)
        For packets and steep layers: centre c, width w and number M of waves. The features are
        exp(−z²) cos ωy and exp(−z²) sin ωy with y = x − c, z = y/w and ω = 2πm/(6w), m = 0 … M,
        and erf z and y erf z.
    """

    rates: tuple[complex, ...]
    degrees: tuple[int, ...]
    cut: float = 1e-13
    windows: tuple[tuple[float, float, int], ...] = ()


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
        orders = (orders,) if isinstance(orders, int) else tuple(orders)
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
        points = to_host(x)
        if points.ndim == 0 or points.shape[-1] != ndim:
            raise ValueError(
                f"x must be a sequence of {ndim} arrays of coordinates, one an axis, or an array "
                f"of points of shape (..., {ndim}); got shape {points.shape}."
            )
        return self._axes(list(points.reshape(-1, ndim).T)), points.shape[:-1]

    def _axes(self, x: Any) -> list[np.ndarray]:
        ndim = len(self.grid)
        if ndim == 1 and not (isinstance(x, Sequence) and len(x) == 1 and np.ndim(x[0]) == 1):
            x = (x,)
        if len(x) != ndim:
            raise ValueError(f"x must have {ndim} arrays of coordinates; got {len(x)}.")
        points = [to_host(part) for part in x]
        for axis, (part, grid) in enumerate(zip(points, self.grid, strict=True)):
            start, end = float(grid[0]), float(grid[-1])
            slack = 1e-9 * (end - start)
            if part.ndim != 1:
                raise ValueError(f"x[{axis}] must have one axis; got shape {part.shape}.")
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
    tol: float = 1e-9,
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
        The residual on held-out nodes that counts as success. More is tried until it is met.
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
    matrices, and O(k³) for k functions an axis. Every ninth node is held out to judge trials; the
    solution uses all nodes.

    Kernels: the functions of a `SpectralMixture`, and of a `StudentTMixture` whose lengths are many
    boxes, are waves weighted by the density, and reach 1e-9 and better on smooth solutions. Those
    of shorter Student-t mixtures are eigenvectors of the Gram matrix, which has half the digits:
    1e-6 to 1e-9.

    With fewer conditions than determine u (Neumann data alone, say), it is one of the solutions.
    Where the first features miss `tol`, the waves and boundary layers that solve the homogeneous
    equation are added, then waves in windows where the source is local, then all waves up to three
    quarters of what the grid resolves.

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
    if not number("tol", tol) >= 0:
        raise ValueError(f"tol must be at least 0; got {tol}.")
    maxiter = _checks.size("maxiter", maxiter, 1)
    hosts = [to_host(axis) for axis in axes]
    terms = checked_terms(operator, axes, source)
    conditions = boundary_rows(boundary, source)
    pointwise = pointwise_parts(nonlinearity, ndim)
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
            kernel=_kernels(kernel, ndim),
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


def checked_grid(function: str, source: Any, grid: Any) -> tuple[Any, tuple[Any, ...]]:
    """Check source and grid; a single array is the grid of one axis."""
    if not isinstance(grid, list | tuple) or (len(grid) and np.ndim(grid[0]) == 0):
        grid = (grid,)
    names = {f"grid[{axis}]": part for axis, part in enumerate(grid)}
    source, *axes = _checks.floating(source=source, **names)
    _checks.concrete(function, "a fixed set of functions", source=source)
    _checks.real(source=source)
    if source.ndim != len(axes) or source.ndim == 0:
        raise ValueError(
            f"source must have one axis for each of the {len(axes)} arrays of the grid; got shape "
            f"{tuple(source.shape)}."
        )
    for axis, part in enumerate(axes):
        if part.ndim != 1 or part.shape[0] != source.shape[axis] or part.shape[0] < 8:
            raise ValueError(
                f"grid[{axis}] must have one axis of {source.shape[axis]} nodes, at least 8; got "
                f"shape {tuple(part.shape)}."
            )
    finite(source=source, **dict(zip(names, axes, strict=True)))
    for axis, part in enumerate(axes):
        steps = np.diff(to_host(part))
        if not np.all(steps > 0):
            place = int(np.argmin(steps > 0))
            raise ValueError(
                f"grid[{axis}] must increase; entries {place} and {place + 1} are "
                f"{float(part[place])} and {float(part[place + 1])}."
            )
    return source, tuple(axes)


def checked_terms(operator: Any, axes: tuple[Any, ...], source: Any) -> list[Any]:
    if not isinstance(operator, Mapping) or not operator:
        raise TypeError(
            f"operator must be a dict of multi-indices to coefficients, not empty; got "
            f"{operator!r}."
        )
    ndim = len(axes)
    terms = []
    for orders, coefficient in operator.items():
        if not isinstance(orders, tuple) or len(orders) != ndim:
            raise ValueError(
                f"keys of operator must be tuples of {ndim} orders, one an axis; got {orders!r}."
            )
        checked = tuple(_checks.size("orders of operator", order) for order in orders)
        if max(checked) > 8:
            raise ValueError(f"orders of operator must be at most 8; got {orders!r}.")
        if isinstance(coefficient, int | float | np.number):
            factors = [float(coefficient)] + [1.0] * (ndim - 1)
        else:
            parts = coefficient if isinstance(coefficient, list | tuple) else [coefficient]
            if len(parts) != ndim:
                raise ValueError(
                    f"the coefficient of {orders} must be a number, or {ndim} numbers or arrays, "
                    f"one an axis, which are multiplied; got {len(parts)}."
                )
            factors = [
                _factor(part, axes[axis], f"coefficient {axis} of {orders}")
                for axis, part in enumerate(parts)
            ]
        for factor in factors:
            if not np.all(np.isfinite(factor)):
                raise ValueError(f"the coefficient of {orders} must be finite.")
        terms.append((checked, factors))
    return terms


def _factor(part: Any, axis: Any, name: str) -> Any:
    if isinstance(part, int | float | np.number):
        return float(part)
    if part is None or isinstance(part, str | complex):
        raise TypeError(f"{name} must be a real number or an array; got {part!r}.")
    (array,) = _checks.floating(**{name.replace(" ", "_"): part})
    if tuple(array.shape) != tuple(axis.shape):
        raise ValueError(
            f"{name} must be a number or have shape {tuple(axis.shape)}; got {tuple(array.shape)}."
        )
    return to_host(array)


def boundary_rows(boundary: Any, source: Any) -> list[list[Any]]:
    if not isinstance(boundary, Mapping):
        raise TypeError(f"boundary must be a dict of faces; got {type(boundary).__name__}.")
    rows: list[list[Any]] = [[] for _ in range(source.ndim)]
    for face, given in boundary.items():
        if not (isinstance(face, tuple) and len(face) == 2):
            raise ValueError(f"keys of boundary must be (axis, side); got {face!r}.")
        axis, side = (_checks.size("axis and side of boundary", part) for part in face)
        if axis >= source.ndim or side > 1:
            raise ValueError(
                f"keys of boundary must be (axis, side) with axis below {source.ndim} and side 0 "
                f"or 1; got {face!r}."
            )
        for condition in given if isinstance(given, list | tuple) else (given,):
            if not isinstance(condition, Dirichlet | Neumann):
                raise TypeError(
                    f"boundary[{face}] must be Dirichlet or Neumann, or a list of them; got "
                    f"{type(condition).__name__}."
                )
            shape = tuple(n for k, n in enumerate(source.shape) if k != axis)
            name = f"boundary values of face {face}"
            values = condition.values
            if values is None or isinstance(values, str | complex):
                raise TypeError(f"{name} must be real numbers; got {values!r}.")
            if isinstance(values, int | float | np.number):
                host = np.full(shape, float(values))
            else:
                _, array = _checks.floating(source=source, boundary=values)
                _checks.concrete("solve_pde", "a fixed set of functions", boundary=array)
                host = to_host(array)
            if host.shape != shape:
                raise ValueError(
                    f"{name} must be a number or have shape {shape}; got {host.shape}."
                )
            if not np.all(np.isfinite(host)):
                raise ValueError(f"{name} must be finite.")
            rows[axis].append((side, int(isinstance(condition, Neumann)), host))
    return rows


def pointwise_parts(nonlinearity: Nonlinearity | None, ndim: int) -> Any:
    if nonlinearity is None:
        return None
    if not isinstance(nonlinearity, Nonlinearity):
        raise TypeError(f"nonlinearity must be a Nonlinearity; got {type(nonlinearity).__name__}.")
    if callable(nonlinearity.derivatives) or not all(
        map(callable, (nonlinearity.function, *nonlinearity.derivatives))
    ):
        raise TypeError(
            "a nonlinearity must have a function, and a sequence of functions for derivatives; got "
            f"{nonlinearity}."
        )
    orders = [tuple(o) for o in nonlinearity.orders or [(0,) * ndim]]
    derivatives = list(nonlinearity.derivatives)
    if len(orders) != len(derivatives) or any(len(o) != ndim for o in orders):
        raise ValueError(
            f"a nonlinearity must have one derivative for each entry of orders, of {ndim} numbers "
            f"each; got {len(derivatives)} derivatives and orders {orders}."
        )
    return nonlinearity.function, derivatives, orders


def _kernels(kernel: Any, ndim: int) -> Any:
    """Return "auto", a class, or one kernel for each axis."""
    stationary = SpectralMixture, StudentTMixture
    if kernel in ("auto", *stationary):
        return kernel
    kernels = (kernel,) * ndim if isinstance(kernel, (*stationary, Envelopes)) else kernel
    if not isinstance(kernels, list | tuple) or not all(
        isinstance(k, (*stationary, Envelopes)) for k in kernels
    ):
        raise TypeError(
            f"kernel must be 'auto', SpectralMixture, StudentTMixture, a kernel, or a sequence of "
            f"kernels; got {kernel!r}."
        )
    if len(kernels) != ndim:
        raise ValueError(f"kernel must have one entry for each of {ndim} axes; got {len(kernels)}.")
    return tuple(k if isinstance(k, Envelopes) else on_host(k) for k in kernels)


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
