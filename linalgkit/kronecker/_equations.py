"""What an equation is made of: faces, pointwise terms, functions of the axes; and their checks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import _checks
from ._hosts import to_host
from ._kernels import SpectralMixture, StudentTMixture, on_host
from ._solves import number, positive


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
        N, of arrays: one argument for each entry of `orders`. They are NumPy's under `solve_pde`,
        torch's or JAX's under `solve_gp_hm`.
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


def checked_grid(function: str, source: Any, grid: Any) -> tuple[Any, tuple[Any, ...]]:
    """Check source and grid; a single array is the grid of one axis."""
    if not isinstance(grid, list | tuple) or (len(grid) and np.ndim(grid[0]) == 0):
        grid = (grid,)
    names = {f"grid[{axis}]": part for axis, part in enumerate(grid)}
    _checks.present(source=source, **names)
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
    _checks.finite(source=source, **dict(zip(names, axes, strict=True)))
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
        factors = [1.0] * ndim
        first = _number(f"the coefficient of {orders}", coefficient)
        if first is not None:
            factors[0] = first
        else:
            parts = coefficient if isinstance(coefficient, list | tuple) else [coefficient]
            if len(parts) != ndim:
                raise ValueError(
                    f"the coefficient of {orders} must be a number, or {ndim} numbers or arrays, "
                    f"one an axis, which are multiplied; got {len(parts)}."
                )
            for axis, part in enumerate(parts):
                name = f"coefficient {axis} of {orders}"
                factors[axis] = _number_or_array(name, part, tuple(axes[axis].shape))
        terms.append((checked, factors))
    return terms


def _number_or_array(name: str, value: Any, shape: tuple[int, ...]) -> Any:
    """Return a real number, or an array of this shape on the host; both finite."""
    plain = _number(name, value)
    if plain is not None:
        return plain
    host = _real(name, value)
    if host.shape != shape:
        raise ValueError(f"{name} must be a number or have shape {shape}; got {host.shape}.")
    _checks.finite(**{name: host})
    return host


def _number(name: str, value: Any) -> float | None:
    """Return a real number as float, an array without axes too; None for anything else."""
    is_array = getattr(value, "ndim", None) == 0
    if not is_array and not isinstance(value, int | float | complex):
        return None
    plain = float(_real(name, value))
    if not np.isfinite(plain):
        raise ValueError(f"{name} must be finite; got {plain}.")
    return plain


def _real(name: str, value: Any) -> np.ndarray:
    """Return real values as an array on the host."""
    if value is None or isinstance(value, str | complex | np.complexfloating) or callable(value):
        hint = "; give values on the nodes" if callable(value) else ""
        raise TypeError(f"{name} must be a real number or an array; got {value!r}{hint}.")
    (array,) = _checks.arrays(**{name: value})
    _checks.concrete("solve_pde", "a fixed set of functions", **{name: array})
    _checks.real(**{name: array})
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
            values = _number_or_array(name, condition.values, shape)
            if np.ndim(values):  # nothing is copied between libraries
                _checks.arrays(source=source, **{name: condition.values})
            rows[axis].append((side, int(isinstance(condition, Neumann)), np.full(shape, values)))
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
    orders = nonlinearity.orders or [(0,) * ndim]
    if not all(isinstance(entry, list | tuple) for entry in orders):
        raise TypeError(
            f"orders of a nonlinearity must be tuples of {ndim} integers, one an axis; got "
            f"{nonlinearity.orders!r}."
        )
    orders = [
        tuple([_checks.size("orders of a nonlinearity", order) for order in entry])
        for entry in orders
    ]
    derivatives = list(nonlinearity.derivatives)
    if len(orders) != len(derivatives) or any(len(o) != ndim for o in orders):
        raise ValueError(
            f"a nonlinearity must have one derivative for each entry of orders, of {ndim} numbers "
            f"each; got {len(derivatives)} derivatives and orders {orders}."
        )
    return nonlinearity.function, derivatives, orders


def with_values(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of arrays whose values are checked: real, a number for each entry."""

    def checked(*arrays: np.ndarray) -> np.ndarray:
        values, shape = np.asarray(function(*arrays)), arrays[0].shape
        if values.dtype.kind not in "biuf" or values.shape not in ((), shape):
            raise TypeError(
                f"{name} of a nonlinearity must return real numbers of shape {shape}, as its "
                f"arguments have, or one number; got shape {values.shape} in {values.dtype}."
            )
        return values

    return checked


def kernels_of_axes(kernel: Any, ndim: int) -> Any:
    """Return "auto", a class, or one kernel for each axis."""
    stationary = SpectralMixture, StudentTMixture
    if isinstance(kernel, str | type) and kernel in ("auto", *stationary):
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
    return tuple(_envelopes(k) if isinstance(k, Envelopes) else on_host(k) for k in kernels)


def _envelopes(kernel: Envelopes) -> Envelopes:
    """Check what describes the functions of one axis."""
    for name in ("rates", "degrees", "windows"):
        if not isinstance(getattr(kernel, name), list | tuple):
            raise TypeError(f"{name} of Envelopes must be a tuple; got {getattr(kernel, name)!r}.")
    if len(kernel.rates) != len(kernel.degrees):
        raise ValueError(
            f"Envelopes must have a degree for each of {len(kernel.rates)} rates; got "
            f"{len(kernel.degrees)}."
        )
    for rate in kernel.rates:
        number("rates of Envelopes", rate, is_complex=True)
    if len(kernel.rates) == 0:
        raise ValueError("rates of Envelopes must have at least one entry; 0 is the smooth part.")
    for degree in kernel.degrees:
        _checks.size("degrees of Envelopes", degree, 1)
    positive("cut of Envelopes", kernel.cut)
    for window in kernel.windows:
        if not isinstance(window, list | tuple) or len(window) != 3:
            raise ValueError(
                f"windows of Envelopes must be (centre, width, waves); got {window!r}."
            )
        number("the centre of a window", window[0])
        positive("the width of a window", window[1])
        _checks.size("the waves of a window", window[2])
    return kernel
