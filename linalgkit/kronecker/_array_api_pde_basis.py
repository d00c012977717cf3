"""Few functions per axis whose span holds the solution, orthonormal on the grid.

`FeatureBasis`: T_j(s) exp(μ x) with Chebyshev T_j on the box and complex rates μ. Imaginary μ = iω
are oscillations with smooth envelopes, real ones boundary layers, μ = 0 the smooth rest. The span
is closed under differentiation. Kernels whose densities can be summed are such features, weighted
by amplitudes. `KernelBasis`, for the others: the leading eigenvectors of a Gram matrix, with half
the digits, because a Gram matrix has squares of singular values.
Both have `q` (N, k), orthonormal columns on the grid, and `values(x, order)`, the derivatives of
the same functions anywhere.
"""

from math import comb

import numpy as np
from numpy.polynomial import chebyshev
from numpy.polynomial.hermite import hermval
from scipy import linalg
from scipy.special import erf

REACH = 8.0  # standard deviations, where a normal density is 1e-14 of its peak
CUT = 1e-13  # of the largest singular value: directions below are rounding
# Of densities that fall like a power, relative to the peak: roots of what is left out.
LEAST_AMPLITUDE, LARGEST_AMPLITUDE = 1e-12, 2e-9
FUNCTIONS_A_NODE = 0.55
PERIOD = 6.0  # of the waves of a window, in its widths: exp(−9) at the ends


class FeatureBasis:
    """Chebyshev polynomials times exponentials, one family for each rate.

    `rates` are complex with imaginary parts of at least 0, `degrees` the number of polynomials of
    each, `amplitudes` the prior deviations of their weights. `windows` are triples of centre, width
    and number of waves.
    """

    def __init__(self, grid, rates, degrees, box=None, cut=CUT, amplitudes=None, windows=()):
        self.grid, self.windows = grid, windows
        self.box = box or (grid[0], grid[-1])
        self.rates, self.degrees = tuple(rates), tuple(degrees)
        features = self._features(grid, 0)
        if amplitudes is None:
            norms = linalg.norm(features, axis=0)
            norms[norms == 0] = 1
        else:
            counts = [n * (2 if rate.imag else 1) for rate, n in zip(rates, degrees, strict=True)]
            norms = 1 / np.repeat(amplitudes, counts)
        factor, triangle = linalg.qr(features / norms, mode="economic", check_finite=False)
        u, s, vh = _svd(triangle)
        kept = s > cut * s[0]
        self.singular = s[kept]
        self.q = factor @ u[:, kept]
        self.transform = vh[kept].T / s[kept] / norms[:, None]

    @property
    def size(self):
        return self.q.shape[1]

    @property
    def largest_rate(self):
        """The rate that scales derivatives: of the exponentials, or of the polynomials."""
        width = (self.box[1] - self.box[0]) / 2
        rates = zip(self.rates, self.degrees, strict=True)
        return max(abs(rate) + (degree / 2) / width for rate, degree in rates)

    def values(self, x, order=0):
        return self._features(x, order) @ self.transform

    def _features(self, x, order):
        start, end = self.box
        half = (end - start) / 2
        s = (x - (start + end) / 2) / half
        degree = max(self.degrees)
        polynomials = [chebyshev.chebvander(s, degree - 1)]
        if order:
            step = _differentiation(degree) / half
            power = np.eye(degree)
        for _ in range(order):
            power = power @ step
            polynomials.append(polynomials[0] @ power)
        columns = []
        for rate, count in zip(self.rates, self.degrees, strict=True):
            if rate == 0:
                columns.append(polynomials[order][:, :count])
                continue
            exponential = np.exp(rate * (x - (end if rate.real > 0 else start)))[:, None]
            part = sum(
                comb(order, i) * rate ** (order - i) * polynomials[i][:, :count]
                for i in range(order + 1)
            )
            part = part * exponential
            columns.append(part.real)
            if rate.imag != 0:
                columns.append(part.imag)
        columns += [_windowed(x, order, *window) for window in self.windows]
        return np.hstack(columns)


def _windowed(x, order, centre, width, waves):
    """Waves in a Gaussian window, and what is left of them at a distance: a step and a kink.

    exp(−z²) cos ωy, exp(−z²) sin ωy, erf z and y erf z, with y = x − centre and z = y / width.
    """
    y = x - centre
    z = y / width
    bells = [
        (-1 / width) ** i * hermval(z, np.eye(order + 1)[i]) * np.exp(-z * z)
        for i in range(order + 1)
    ]
    columns = []
    for m in range(waves + 1):
        rate = 2j * np.pi * m / (PERIOD * width)
        part = sum(comb(order, i) * rate ** (order - i) * bells[i] for i in range(order + 1))
        part = part * np.exp(rate * y)
        columns += [part.real, part.imag] if m else [part.real]
    steps = [erf(z), *(2 / (np.sqrt(np.pi) * width) * bell for bell in bells)]
    columns.append(steps[order])
    columns.append(y * steps[order] + (order * steps[order - 1] if order else 0))
    return np.stack(columns, axis=1)


def _svd(matrix):
    try:
        return linalg.svd(matrix, full_matrices=False, check_finite=False)
    except linalg.LinAlgError:  # the quick driver gives up where half the values are rounding
        return linalg.svd(matrix, full_matrices=False, check_finite=False, lapack_driver="gesvd")


class KernelBasis:
    """Eigenvectors of the Gram matrix K = V Λ Vᵀ of a stationary kernel, Λ above rounding.

    The function of a column v is k(·, grid) v / λ, which has the values v on the grid.
    """

    def __init__(self, grid, kernel, box=None):
        self.grid, self.kernel = grid, kernel
        self.box = box or (grid[0], grid[-1])
        values, vectors = linalg.eigh(kernel.gram(grid), check_finite=False)
        kept = values > 1e-14 * values[-1]
        self.singular = np.sqrt(values[kept])[::-1]
        self.q = np.ascontiguousarray(vectors[:, kept][:, ::-1])
        self.transform = self.q / values[kept][::-1]

    @property
    def size(self):
        return self.q.shape[1]

    @property
    def largest_rate(self):
        curvature = -float(self.kernel(np.zeros(1), 2)[0]) / float(self.kernel(np.zeros(1))[0])
        return np.sqrt(curvature)

    def values(self, x, order=0):
        return self.kernel.gram(x, self.grid, (order, 0)) @ self.transform


def spectral_basis(grid, kernel, box):
    """Make a spectral mixture's functions from its density, by the trapezoidal rule.

    The sum over frequencies repeats the kernel with a period of 2.5 boxes; for envelopes that are
    shorter the rule is exact to rounding. Singular values of the features are square roots of
    those of the Gram matrix: half the digits more.
    """
    step = 1 / (2.5 * (box[1] - box[0]))
    rates, amplitudes = [], []
    for weight, mean, scale in zip(kernel.weights, kernel.means, kernel.scales, strict=True):
        reach = int(np.ceil(REACH * scale / step))
        s = mean + step * np.arange(-reach, reach + 1)
        density = np.exp(-(((s - mean) / max(scale, 1e-300)) ** 2) / 2)
        amplitude = np.sqrt(weight * density / density.sum())
        rates += [2j * np.pi * abs(frequency) for frequency in s]
        amplitudes += list(amplitude)
    return FeatureBasis(grid, rates, [1] * len(rates), box, CUT, amplitudes)


def student_t_basis(grid, kernel, box):
    """The same of a Student-t mixture, for lengths of several boxes; None for shorter ones.

    Its density falls like a power, so it is cut where that leaves enough nodes a function. Gauss
    rules on panels: near a mean as wide as the density, elsewhere two periods of the box.
    """
    freedom, width = 2 * kernel.nu, box[1] - box[0]
    scales = 1 / (2 * np.pi * kernel.lengths)
    functions = np.sum(np.where(kernel.means == 0, 2, 4) * scales) * width  # for each z of reach
    reach = FUNCTIONS_A_NODE * grid.size / functions
    reach = min(reach, np.sqrt(freedom) * LEAST_AMPLITUDE ** (-2 / (freedom + 1)))
    cut = (1 + reach**2 / freedom) ** (-(freedom + 1) / 4)
    if cut > LARGEST_AMPLITUDE:
        return None
    nodes, rule = np.polynomial.legendre.leggauss(12)
    rates, amplitudes = [], []
    for weight, mean, scale in zip(kernel.weights, kernel.means, scales, strict=True):
        edges = [0.0]
        while edges[-1] < reach * scale:
            panel = min(max(scale, edges[-1]), 2 / width)
            edges.append(min(edges[-1] + panel, reach * scale))
        edges = np.array(edges)
        halves = np.diff(edges)[:, None] / 2
        s = (edges[:-1, None] + halves * (nodes + 1)).ravel()
        density = (1 + (s / scale) ** 2 / freedom) ** (-(freedom + 1) / 2)
        density *= (halves * rule).ravel()
        amplitude = np.sqrt(weight * density / density.sum())
        for frequency in (mean + s, mean - s)[: 1 if mean == 0 else 2]:
            rates += list(2j * np.pi * np.abs(frequency))
            amplitudes += list(amplitude if mean == 0 else amplitude / np.sqrt(2))
    return FeatureBasis(grid, rates, [1] * len(rates), box, cut, amplitudes)


def _differentiation(degree):
    """Matrix D with T' = T D for the Chebyshev polynomials T_0 … T_{degree−1}."""
    matrix = np.zeros((degree, degree))
    matrix[:-1] = chebyshev.chebder(np.eye(degree))[: degree - 1]
    return matrix
