"""Stationary kernels whose spectrum is a mixture: high frequencies as parameters, not as luck.

Source: "Solving High Frequency and Multi-Scale PDEs with Gaussian Processes" (arXiv:2311.04465),
sections 2 and 3: k(d) is the Fourier transform of a spectral density S(s), with s in cycles per
unit of d.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from .. import _checks
from .._engine import Engines
from ._hosts import to_host

engine = Engines(__package__)

SMOOTHNESS = (0.5, 1.5, 2.5, 3.5, 4.5)
_HIGHEST = 8  # k⁽⁸⁾ is the covariance of two fourth derivatives


@dataclass(frozen=True, eq=False)
class SpectralMixture:
    """Kernel whose spectral density is a mixture of Gaussians.

    k(d) = Σ_q w_q exp(−2π²σ_q² d²) cos(2πμ_q d), with the density
    S(s) = Σ_q w_q N(s; μ_q, σ_q²), made symmetric in s.

    Parameters
    ----------
    weights : array, shape (q,)
        Variances w_q of the components, at least 0.
    means : array, shape (q,)
        Frequencies μ_q in cycles per unit.
    scales : array, shape (q,)
        Standard deviations σ_q of the frequencies in cycles per unit, at least 0. The envelope of
        a component falls to exp(−½) at the distance 1/(2πσ_q).

    Raises
    ------
    ValueError
        Shapes differ, a weight or a scale is negative, or something is NaN or infinite.

    See Also
    --------
    StudentTMixture : Heavier tails, for rough functions.
    """

    weights: Any
    means: Any
    scales: Any

    def __post_init__(self) -> None:
        _set_parameters(self, scales=self.scales)

    def __repr__(self) -> str:
        return _repr(self)

    @property
    def largest_order(self) -> float:
        """The highest derivative of the kernel: any."""
        return math.inf

    def __call__(self, d: Any, order: int = 0) -> Any:
        """Return the derivative of the kernel of this order at the distances `d`, any shape."""
        order = _checked_order(self, order)
        _checks.present(d=d)
        d, weights, means, scales = _checks.floating(
            d=d, weights=self.weights, means=self.means, scales=self.scales
        )
        return engine(d, weights, means, scales).spectral_mixture(
            d, weights, means, scales, order=order
        )

    def gram(self, x: Any, y: Any = None, orders: tuple[int, int] = (0, 0)) -> Any:
        """Return the covariances of ∂ᵖu(x) with ∂ᵠu(y), `orders` = (p, q); y = x by default."""
        return _gram(self, x, y, orders)

    def spectrum(self, s: Any) -> Any:
        """Return the symmetric spectral density at the frequencies `s`, cycles per unit.

        A component of scale 0 is a line: infinite at its mean, 0 elsewhere.
        """
        _checks.present(s=s)
        s, weights, means, scales = _checks.floating(
            s=s, weights=self.weights, means=self.means, scales=self.scales
        )

        def density(distance: Any, scale: Any) -> Any:
            xp = array_namespace(distance)
            is_line = scale == 0
            width = xp.where(is_line, xp.ones_like(scale), scale)
            z = distance / width
            bell = xp.exp(-z * z / 2) / (math.sqrt(2 * math.pi) * width)
            line = xp.where(distance == 0, xp.full_like(distance, math.inf), 0 * distance)
            return xp.where(is_line, line, bell)

        return _density(s, weights, means, scales, density)


@dataclass(frozen=True, eq=False)
class StudentTMixture:
    """Kernel whose spectral density is a mixture of Student-t densities.

    k(d) = Σ_q w_q M_ν(d; ℓ_q) cos(2πμ_q d) with Matérn envelopes M_ν. The density of a component
    has 2ν degrees of freedom, the centre μ_q and the scale 1/(2πℓ_q), made symmetric in s.

    Parameters
    ----------
    weights : array, shape (q,)
        Variances w_q of the components, at least 0.
    means : array, shape (q,)
        Frequencies μ_q in cycles per unit.
    lengths : array, shape (q,)
        Lengths ℓ_q of the envelopes, in units of d, greater than 0.
    nu : {2.5, 0.5, 1.5, 3.5, 4.5}, optional
        Smoothness. The kernel has 2ν − 1 derivatives at 0, so u must have order ν − ½ at most.

    Raises
    ------
    ValueError
        Shapes differ, a weight is negative, a length is not positive, `nu` is another number, or
        something is NaN or infinite.

    See Also
    --------
    SpectralMixture : Gaussian tails, for smooth functions.
    """

    weights: Any
    means: Any
    lengths: Any
    nu: float = 2.5

    def __post_init__(self) -> None:
        _checks.choice("nu", self.nu, SMOOTHNESS)
        _set_parameters(self, lengths=self.lengths)

    def __repr__(self) -> str:
        return _repr(self)

    @property
    def largest_order(self) -> float:
        """The highest derivative of the kernel that exists at 0: 2ν − 1."""
        return 2 * self.nu - 1

    def __call__(self, d: Any, order: int = 0) -> Any:
        """Return the derivative of the kernel of this order at the distances `d`, any shape."""
        order = _checked_order(self, order)
        _checks.present(d=d)
        d, weights, means, lengths = _checks.floating(
            d=d, weights=self.weights, means=self.means, lengths=self.lengths
        )
        return engine(d, weights, means, lengths).student_t_mixture(
            d, weights, means, lengths, nu=self.nu, order=order
        )

    def gram(self, x: Any, y: Any = None, orders: tuple[int, int] = (0, 0)) -> Any:
        """Return the covariances of ∂ᵖu(x) with ∂ᵠu(y), `orders` = (p, q); y = x by default."""
        return _gram(self, x, y, orders)

    def spectrum(self, s: Any) -> Any:
        """Return the symmetric spectral density at the frequencies `s`, cycles per unit."""
        _checks.present(s=s)
        s, weights, means, lengths = _checks.floating(
            s=s, weights=self.weights, means=self.means, lengths=self.lengths
        )
        freedom = 2 * self.nu
        norm = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
        norm /= math.sqrt(freedom * math.pi)

        def density(distance: Any, length: Any) -> Any:
            z = 2 * math.pi * length * distance
            return 2 * math.pi * length * norm * (1 + z * z / freedom) ** (-(freedom + 1) / 2)

        return _density(s, weights, means, lengths, density)


def _set_parameters(kernel: Any, **third: Any) -> None:
    (name, values), = third.items()  # fmt: skip
    _checks.present(weights=kernel.weights, means=kernel.means, **third)
    weights, means, values = _checks.floating(
        weights=kernel.weights, means=kernel.means, **{name: values}
    )
    _checks.concrete(type(kernel).__name__, "its functions of one array", weights=weights)
    shapes = [tuple(array.shape) for array in (weights, means, values)]
    if weights.ndim != 1 or weights.shape[0] == 0 or len(set(shapes)) > 1:
        raise ValueError(
            f"weights, means and {name} must have one shape (q,), q at least 1; got {shapes[0]}, "
            f"{shapes[1]} and {shapes[2]}."
        )
    _checks.finite(weights=weights, means=means, **{name: values})
    xp = array_namespace(weights)
    if bool(xp.any(weights < 0)):
        raise ValueError(f"weights must be at least 0; the least is {float(xp.min(weights))}.")
    least = float(xp.min(values))
    if least < 0 or (name == "lengths" and least == 0):
        bound = "greater than 0" if name == "lengths" else "at least 0"
        raise ValueError(f"{name} must be {bound}; the least is {least}.")
    for field, array in (("weights", weights), ("means", means), (name, values)):
        object.__setattr__(kernel, field, array)


def _checked_order(kernel: Any, order: Any) -> int:
    order = _checks.size("order", order)
    if order > min(kernel.largest_order, _HIGHEST):
        raise ValueError(
            f"order must be at most {min(kernel.largest_order, _HIGHEST):.0f} for this kernel; "
            f"got {order}."
        )
    return order


def _gram(kernel: Any, x: Any, y: Any, orders: tuple[int, int]) -> Any:
    if not isinstance(orders, list | tuple) or len(orders) != 2:
        raise TypeError(f"orders must be two integers (p, q); got {orders!r}.")
    p, q = (_checks.size("orders", order) for order in orders)
    _checks.present(x=x)
    x, y = _checks.floating(x=x, y=y)
    if x.ndim != 1 or (y is not None and y.ndim != 1):
        raise ValueError(f"x and y must have one axis; got shape {tuple(x.shape)}.")
    sign = -1.0 if q % 2 else 1.0
    if y is None and type(x) is np.ndarray and x.size > 2 and _is_equispaced(x):
        # Toeplitz: 2n − 1 distances instead of n².
        n = x.size
        lags = (x[-1] - x[0]) / (n - 1) * np.arange(1 - n, n)
        values = sign * kernel(lags, p + q)
        return values[np.arange(n)[:, None] - np.arange(n) + (n - 1)]
    y = x if y is None else y
    return sign * kernel(x[:, None] - y[None, :], p + q)


def _is_equispaced(x: np.ndarray) -> bool:
    steps = np.diff(x)
    return bool(np.ptp(steps) <= 1e-9 * abs(steps[0]))


def _density(s: Any, weights: Any, means: Any, scales: Any, density: Any) -> Any:
    xp = array_namespace(s)
    total = xp.zeros_like(s)
    for q in range(weights.shape[0]):
        both = density(s - means[q, ...], scales[q, ...])
        both = both + density(s + means[q, ...], scales[q, ...])
        total = total + weights[q, ...] / 2 * both
    return total


def _repr(kernel: Any) -> str:
    xp = array_namespace(kernel.means)
    low, high = float(xp.min(kernel.means)), float(xp.max(kernel.means))
    count = kernel.weights.shape[0]
    smooth = f", ν = {kernel.nu}" if hasattr(kernel, "nu") else ""
    return (
        f"<{type(kernel).__name__} of {count} component{'s' if count > 1 else ''}{smooth}, "
        f"frequencies {low:.6g} to {high:.6g}>"
    )


def parameters_of(kernel: Any) -> tuple[str, tuple[np.ndarray, ...], float]:
    """Return the kind of envelope, weights, means and scales or lengths on the host, and ν."""
    is_gaussian = isinstance(kernel, SpectralMixture)
    third = kernel.scales if is_gaussian else kernel.lengths
    arrays = tuple(to_host(part) for part in (kernel.weights, kernel.means, third))
    return "gaussian" if is_gaussian else "matern", arrays, getattr(kernel, "nu", 2.5)


def on_host(kernel: Any) -> Any:
    """Return a kernel of NumPy arrays in float64."""
    kind, (weights, means, third), nu = parameters_of(kernel)
    if kind == "gaussian":
        return SpectralMixture(weights, means, third)
    return StudentTMixture(weights, means, third, nu)
