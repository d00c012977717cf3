"""Evidence of data under a mixture kernel, its gradient, and kernels fitted by it; on the host."""

import itertools
import math

import numpy as np
from scipy import linalg, optimize

from ._array_api_frequencies import pursued
from ._array_api_kernels import gaussian, matern, mixture_gradients

LENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)  # in boxes, for the start
NUGGETS = (1e-8, 1e-4, 1e-2, 1e-1)


def differentiation_matrix(kernel, x, *, order, nugget):
    """K⁽ᵖ⁾ (K + εI)⁻¹ by Cholesky, and one refinement."""
    gram = kernel.gram(x)
    derived = kernel.gram(x, orders=(order, 0))
    shifted = gram + nugget * float(kernel(np.zeros(1))[0]) * np.eye(x.size)
    factor = _cholesky(shifted, nugget)
    matrix = linalg.cho_solve(factor, derived.T).T
    return matrix + linalg.cho_solve(factor, (derived - matrix @ gram).T).T


def _cholesky(matrix, nugget):
    try:
        return linalg.cho_factor(matrix, lower=True)
    except linalg.LinAlgError:
        values = linalg.eigvalsh(matrix)
        raise linalg.LinAlgError(
            f"the Gram matrix of {matrix.shape[0]} nodes is not positive definite with "
            f"nugget={nugget:g}: its eigenvalues go from {values[0]:.2e} to {values[-1]:.2e}. "
            f"Use a larger nugget."
        ) from None


def evidence(kind, parameters, nu, x, y, *, order, nugget, with_gradient):
    """Log marginal likelihood of the columns of y, and its gradient by the log of everything.

    `parameters` are weights, means and scales or lengths. The last entry of the gradient belongs
    to log nugget.
    """
    weights, means, scales = parameters
    envelopes = gaussian if kind == "gaussian" else matern(nu)
    lag = 2 * order
    sign = -1.0 if order % 2 else 1.0
    d = x[:, None] - x
    gram = sign * sum(
        part for part, _, _ in mixture_gradients(d, weights, means, scales, envelopes, lag)
    )
    peak = gram[0, 0]
    if not peak > 0:
        raise linalg.LinAlgError(
            "the covariance of the data is zero under this kernel: its weights vanish, or its "
            "derivatives do."
        )
    scale = 1 / math.sqrt(peak)  # to unit diagonal: entries may be of order ω⁴
    shifted = gram / peak + nugget * np.eye(x.size)
    factor = _cholesky(shifted, nugget)
    scaled = y * scale
    alpha = linalg.cho_solve(factor, scaled)
    count = y.shape[1]
    value = (
        -0.5 * np.sum(scaled * alpha)
        - count * np.sum(np.log(np.diagonal(factor[0])))
        - 0.5 * y.size * math.log(2 * math.pi * peak)
    )
    if not with_gradient:
        return float(value), None
    slope = alpha @ alpha.T - count * linalg.cho_solve(factor, np.eye(x.size))
    trace = np.trace(slope)
    direction = 1.0 if kind == "gaussian" else -1.0  # the rate of a length is its inverse
    gradients = [
        tuple(
            sign * factor_ * (0.5 * np.sum(slope * part) + 0.5 * nugget * trace * part[0, 0]) / peak
            for part, factor_ in zip(parts, (1.0, 1.0, direction), strict=True)
        )
        for parts in mixture_gradients(d, weights, means, scales, envelopes, lag)
    ]
    return float(value), (*np.array(gradients).T, 0.5 * nugget * trace)


def fitted_kernel(kind, start, nu, x, y, *, terms, nugget, jeffreys, maxiter, tolerance):
    """Maximise the evidence by L-BFGS; the start comes from the data unless it is given.

    Returns the parameters, the nugget, the evidence, the iterations and SciPy's verdict.
    """
    fits_nugget = nugget is None
    nuggets = NUGGETS if fits_nugget else (nugget,)
    starts = _starts(kind, x, y, terms) if start is None else [start]
    start, nugget = _best(kind, starts, nu, x, y, nuggets)
    weights, means, scales = (np.array(part, dtype=float) for part in start)
    alive = weights > 0
    weights, means, scales = weights[alive], means[alive], scales[alive]
    width = x[-1] - x[0]
    q = weights.size
    bound = 30.0

    def unpacked(theta):
        return np.exp(theta[:q]), theta[q : 2 * q] / width, np.exp(theta[2 * q : 3 * q])

    def objective(theta):
        own = math.exp(theta[-1]) if fits_nugget else nugget
        try:
            value, gradient = evidence(
                kind, unpacked(theta), nu, x, y, order=0, nugget=own, with_gradient=True
            )
        except linalg.LinAlgError:  # too far: a line search comes back
            return 1e300, np.zeros_like(theta)
        by_log_weight, by_mean, by_log_scale, by_log_nugget = gradient
        if jeffreys:  # p(w) ∝ 1/w, in w and not in log w, drives weights to zero
            value, by_log_weight = value - np.sum(theta[:q]), by_log_weight - 1
        parts = [by_log_weight, by_mean / width, by_log_scale]
        parts += [[by_log_nugget]] if fits_nugget else []
        return -value, -np.concatenate(parts)

    theta = np.concatenate([np.log(weights), means * width, np.log(np.maximum(scales, 1e-300))])
    box = [(value - bound, value + bound) for value in theta]
    if fits_nugget:
        theta = np.append(theta, math.log(nugget))
        box.append((math.log(1e-14), math.log(10.0)))
    found = optimize.minimize(
        objective,
        theta,
        jac=True,
        method="L-BFGS-B",
        bounds=box,
        options={"maxiter": maxiter, "ftol": tolerance},
    )
    own = math.exp(found.x[-1]) if fits_nugget else nugget
    parameters = unpacked(found.x)
    value, _ = evidence(kind, parameters, nu, x, y, order=0, nugget=own, with_gradient=False)
    return parameters, own, value, int(found.nit), int(found.status)


def _starts(kind, x, y, terms):
    """Frequencies by matching pursuit, amplitudes by their powers, and several lengths."""
    omega, part = pursued(x, y - y.mean(axis=0), terms)
    means = np.concatenate([[0.0], omega / (2 * math.pi)])
    power = float(np.mean(y**2))
    rest = math.sqrt(max(1 - float(np.sum(part**2)), 0.01))
    weights = power * np.concatenate([[rest], part]) ** 2 + 1e-12 * power
    for part_of_box in LENGTHS:
        length = part_of_box * (x[-1] - x[0])
        scale = length if kind != "gaussian" else 1 / (2 * math.pi * length)
        yield weights, means, np.full(means.size, scale)


def _best(kind, starts, nu, x, y, nuggets):
    """The start and the nugget of the highest evidence."""
    best, most = None, -np.inf
    for start, nugget in itertools.product(starts, nuggets):
        try:
            value, _ = evidence(kind, start, nu, x, y, order=0, nugget=nugget, with_gradient=False)
        except linalg.LinAlgError:
            continue
        if value > most:
            best, most = (start, nugget), value
    if best is None:
        raise linalg.LinAlgError(
            f"no length gives a positive definite covariance with nugget={max(nuggets):g}; use a "
            f"larger one."
        )
    return best
