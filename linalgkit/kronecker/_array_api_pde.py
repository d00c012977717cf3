"""The solver of equations: find the functions, solve on all nodes, and what can be said of it."""

from math import prod

import numpy as np
from scipy import linalg

from ._array_api_pde_search import (
    Judge,
    axis_frequencies,
    basis_of,
    searched,
    stationary_kernels,
)
from ._array_api_pde_solvers import multiplied, multiplied_at
from ._array_api_pde_systems import Problem, solution
from ._equations import Envelopes

SHOWN = 1e-6  # frequencies that explain less than this part of the data are not reported
STRONG = 1e-3  # nor are those warned of
_POINTS = 4096  # that are predicted at a time


def pde_solution(
    grid, terms, source, conditions, nonlinearity, *, kernel, tolerance, maxiter, report
):
    """Return the solution with all that is known of it; arrays are NumPy's, on the host."""
    problem = Problem(grid, terms, source, conditions, nonlinearity)
    found = axis_frequencies(problem)
    if isinstance(kernel, tuple):
        kernels, residual = kernel, Judge(problem, maxiter)(kernel)
        report(kernels, residual)
    elif kernel == "auto":
        kernels, residual = searched(
            problem, found, tolerance=tolerance, maxiter=maxiter, report=report
        )
    else:
        kernels, residual = stationary_kernels(
            problem, found, kernel, maxiter=maxiter, report=report
        )
    if kernels is None:
        raise np.linalg.LinAlgError(
            "no trial had a solution: the grid may have too few nodes, the conditions depend on "
            "each other, or Newton's method diverges."
        )
    return Fitted(problem, kernels, residual, found, maxiter)


class Fitted:
    """The solution on all nodes. It keeps neither the problem nor the user's functions."""

    def __init__(self, problem, kernels, residual, found, maxiter):
        self.kernels, self.residual = kernels, float(residual)
        self.bases = [
            basis_of(g, kernel, (g[0], g[-1]))
            for g, kernel in zip(problem.grid, kernels, strict=True)
        ]
        x, self.nit, self.at_rest, system = solution(problem, self.bases, maxiter=maxiter)
        self.x = x
        self.u = multiplied([basis.q for basis in self.bases], x)
        if not np.all(np.isfinite(self.u)):
            raise np.linalg.LinAlgError(
                "the equation is singular with these conditions: the solution is not finite."
            )
        left, scale = problem.left_side(system.values, x)
        if not np.all(np.isfinite(left)):
            raise np.linalg.LinAlgError(
                "the equation is not finite at the last iterate: Newton's method diverges, or the "
                "nonlinear term has no value there."
            )
        misfit = linalg.norm(left - problem.source)
        # Standard deviation of the equation's errors, as the held-out nodes show it; where so many
        # functions leave nothing to hold out, as all nodes do.
        root = np.sqrt(problem.source.size)
        scale = max(scale, linalg.norm(problem.source) / root)
        is_judged = np.isfinite(self.residual)
        self.noise = scale * max(self.residual, 1e-16) if is_judged else misfit / root
        self.spread = system.spread()
        self.frequencies = [_reported(k, f, SHOWN) for k, f in zip(kernels, found, strict=True)]
        self.log_evidence = self._log_evidence(
            misfit, problem.source.size, system.log_determinant()
        )
        self.strong = [omega[part >= STRONG] / (2 * np.pi) for omega, part in found]

    @property
    def sizes(self):
        return self.x.shape

    def predicted(self, points, orders):
        return multiplied(self._rows(points, orders), self.x)

    def predicted_at(self, points, orders):
        """Points one by one: `points` has a column of coordinates for each axis."""
        found = [multiplied_at(self._rows(some, orders), self.x) for some in _portions(points)]
        return np.concatenate(found) if found else np.zeros(0)

    def deviation(self, points):
        """Spread of the coefficients by the equation's errors, seen at the points."""
        return self.noise * self.spread(self._rows(points), multiplied)

    def deviation_at(self, points):
        found = [
            self.noise * self.spread(self._rows(some), multiplied_at) for some in _portions(points)
        ]
        return np.concatenate(found) if found else np.zeros(0)

    def _rows(self, points, orders=None):
        orders = orders or (0,) * len(points)
        return [
            basis.values(p, order)
            for basis, p, order in zip(self.bases, points, orders, strict=True)
        ]

    def _log_evidence(self, misfit, nodes, log_determinant):
        """Laplace's approximation: exact for linear equations where the noise is small."""
        weights = self.x
        logs = 0.0
        for axis, basis in enumerate(self.bases):
            scaled = 1 / basis.singular
            weights = multiplied([scaled[:, None] * np.eye(basis.size) if k == axis else None
                                  for k in range(len(self.bases))], weights)  # fmt: skip
            logs += prod(self.x.shape) / basis.size * float(np.sum(np.log(basis.singular)))
        count = self.x.size
        amplitude = max(linalg.norm(weights) ** 2 / count, 1e-300)
        # At least a number to divide by: of u = 0 nothing is left over.
        noise = max(misfit**2 / nodes, self.noise**2 * 1e-4, np.finfo(float).tiny)
        return float(
            -0.5 * count * (np.log(2 * np.pi * amplitude) + 1)
            - logs
            - log_determinant
            - 0.5 * max(nodes - count, 0) * np.log(2 * np.pi * noise)
            - 0.5 * misfit**2 / noise
        )


def _portions(points):
    """A column of coordinates for each axis, some points at a time."""
    for begin in range(0, len(points[0]), _POINTS):
        yield [column[begin : begin + _POINTS] for column in points]


def _reported(kernel, found, least):
    """Frequencies of an axis in cycles per unit, the most important first."""
    omega, part = found
    if not isinstance(kernel, Envelopes):
        return np.asarray(kernel.means, dtype=float)
    order = np.argsort(-part[part >= least], kind="stable")
    return omega[part >= least][order] / (2 * np.pi)
