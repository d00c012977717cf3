"""Which features: frequencies, degrees and their number, judged on nodes held out of the fit.

Candidates go from few functions to many, in stages; a stage is entered when the one before missed
the tolerance. The exact solution is never seen: only source, boundary data and the operator.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from ._array_api_frequencies import LEAST_CYCLES, columns_of, pursued
from ._array_api_pde_basis import (
    CUT,
    PERIOD,
    FeatureBasis,
    KernelBasis,
    spectral_basis,
    student_t_basis,
)
from ._array_api_pde_systems import solution
from ._equations import Envelopes
from ._kernels import SpectralMixture, StudentTMixture

ROUGH_CUT = 1e-9  # keeps functions out that are wild at the ends, for what is barely resolved
GOOD = 2e-14  # a residual that more functions cannot improve
NEARLY = 1e-12  # one that more functions seldom improve
MOST = 12  # frequencies of an axis
WIDTHS = (6.0, 11.0, 18.0)  # of windows, in deviations of the energy of what they hold
LOCAL_DEGREE = 14  # of the smooth rest beside windows
GAP = 0.05  # between places, in boxes
LARGEST_PLACES = 0.025  # sum of the deviations of all, in boxes
EXTENSION = 1.25  # period of a comb, in boxes
MOST_FUNCTIONS = 1500  # of an axis: factorisations cost their square times the nodes
SHORT = 15  # nodes of an axis below which there are few to spare
LEAST_SMOOTH = 3  # polynomials of the smooth part there
FILLED = 0.95  # part of the nodes that there may be functions
# Lengths of envelopes in boxes, as e^(−½) of a Gaussian or ℓ of a Matérn kernel.
LENGTHS = {
    SpectralMixture: (0.1, 0.2, 0.4, 1.0, 3.0),
    StudentTMixture: (100.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03),
}
DEGREES = (5, 8, 11, 15)
THRESHOLDS = (3e-2, 1e-3, 1e-5, 0.0)


@dataclass(frozen=True)
class Candidate:
    """Complex rates of each axis, beside 0, with the number of polynomials of each."""

    rates: tuple
    degree: int
    smooth_degree: int
    cut: float = CUT
    windows: tuple = ()

    def kernels(self, nodes):
        """Return what makes the functions of each axis, which has so many nodes to fit."""
        windows = self.windows or ((),) * len(self.rates)
        return tuple(
            Envelopes((0j, *rates), self._degrees(rates, n), self.cut, some)
            for rates, some, n in zip(self.rates, windows, nodes, strict=True)
        )

    def _degrees(self, rates, nodes):
        """Numbers of polynomials: those asked for, on a short axis those that there is room for."""
        smooth, degree = self.smooth_degree, self.degree
        waves = sum(2 if rate.imag else 1 for rate in rates)
        while nodes < SHORT and smooth + degree * waves > FILLED * nodes:
            if smooth <= LEAST_SMOOTH and degree <= 1:
                break
            smooth, degree = max(smooth - 1, LEAST_SMOOTH), max(degree - 1, 1)
        return smooth, *(degree for _ in rates)


def count_of(kernel):
    """Count the functions of envelopes, before those are dropped that are nearly dependent."""
    parts = zip(kernel.rates, kernel.degrees, strict=True)
    spread = sum(degree * (2 if rate.imag else 1) for rate, degree in parts)
    return spread + sum(2 * waves + 3 for *_, waves in kernel.windows)


def basis_of(grid, kernel, box):
    """Make the functions of one axis, from envelopes or from a stationary kernel."""
    if isinstance(kernel, Envelopes):
        return FeatureBasis(
            grid, kernel.rates, kernel.degrees, box, kernel.cut, windows=kernel.windows
        )
    if isinstance(kernel, SpectralMixture):
        longest = (box[1] - box[0]) / (2 * np.pi)
        if np.max(kernel.scales) * longest * 5 < grid.size / 8:
            return spectral_basis(grid, kernel, box)
    else:
        basis = student_t_basis(grid, kernel, box)
        if basis is not None:
            return basis
    return KernelBasis(grid, kernel, box)


def held_out(n):
    """Tell which nodes of an axis are held out, none at the ends: every ninth, of few every third.

    There is always one: without, the residual would be made of nothing.
    """
    mask = np.zeros(n, bool)
    mask[2 : -2 : 9 if n >= SHORT else 3] = True
    return mask


def searched(problem, frequencies, *, tolerance, maxiter, report):
    """Return the best candidate's kernels, and its held-out residual."""
    judge = Judge(problem, maxiter)
    nodes = [g.size for g in judge.train.grid]
    best, least, seen = None, np.inf, {}
    for stage in (_waves, _with_roots, _windows, _combs):
        candidates, misfit = stage(problem, frequencies), None
        while True:
            try:
                kernels = candidates.send(misfit).kernels(nodes)
            except StopIteration:
                break
            if kernels in seen:
                misfit = seen[kernels]
                continue
            misfit = seen[kernels] = judge(kernels, [count_of(kernel) for kernel in kernels])
            if misfit < least:
                best, least = kernels, misfit
            if report(kernels, misfit):
                return best or kernels, least
            if least <= GOOD:
                return best, least
        if least <= tolerance:
            break
    return best, least


class Judge:
    """The residual on nodes that were held out: of a solution on the other nodes."""

    def __init__(self, problem, maxiter):
        self.maxiter = maxiter
        self.boxes = [(g[0], g[-1]) for g in problem.grid]
        masks = [held_out(g.size) for g in problem.grid]
        self.train = problem.restricted([np.flatnonzero(~mask) for mask in masks])
        self.test = problem.restricted([np.flatnonzero(mask) for mask in masks])

    def __call__(self, kernels, sizes=None):
        grid = self.train.grid
        if sizes and any(
            size > min(1.2 * g.size, MOST_FUNCTIONS) for size, g in zip(sizes, grid, strict=True)
        ):
            return np.inf
        axes = zip(grid, kernels, self.boxes, strict=True)
        bases = [basis_of(x, kernel, box) for x, kernel, box in axes]
        if any(basis.size > FILLED * basis.grid.size for basis in bases):
            return np.inf
        try:
            x = solution(self.train, bases, maxiter=self.maxiter)[0]
            with np.errstate(over="ignore", invalid="ignore"):
                misfit = self.test.residual(bases, x)
        except np.linalg.LinAlgError:
            return np.inf
        return misfit if np.isfinite(misfit) else np.inf


def _waves(problem, frequencies):
    """The frequencies found, more of them, with envelopes of higher degree."""
    chosen = []
    for threshold in THRESHOLDS:
        rates = tuple(
            tuple(1j * omega for omega, part in zip(*found, strict=True) if part >= threshold)
            for found in frequencies
        )
        if problem.ndim == 1:
            rates = (_merged(rates[0], _roots(problem, 0, ())),)
        if rates not in chosen:
            chosen.append(rates)
    yield from _raised(chosen)


def _raised(chosen):
    """Raise the degree while that helps; end where rounding is what is left."""
    least = np.inf
    for rates in chosen:
        before, last = np.inf, 1
        for degree in DEGREES:
            misfit = yield Candidate(rates, degree, degree + 6)
            fewer = degree - 1
            while misfit == np.inf and fewer > last:  # the grid has too few nodes for that many
                misfit = yield Candidate(rates, fewer, fewer + 6)
                fewer -= 1
            least = min(least, misfit)
            if misfit > before / 3:
                break
            before, last = misfit, degree
        if least <= NEARLY:
            return


def _with_roots(problem, frequencies):
    """Also what solves the equation without a source: waves and boundary layers."""
    waves = [tuple(1j * omega for omega in found) for found, _ in frequencies]
    rates = []
    for axis, found in enumerate(waves):
        others = [(0j, *w)[:5] for k, w in enumerate(waves) if k != axis]
        roots = [root for other in product(*others) for root in _roots(problem, axis, other)]
        rates.append(_merged(found[:6], roots)[:MOST])
    yield from _raised([tuple(rates)])


def _roots(problem, axis, others):
    """Rates μ of solutions exp(μ x) with constant coefficients: at the ends, and of the mean."""
    width = problem.grid[axis][-1] - problem.grid[axis][0]
    found = []
    for reduce in (np.mean, lambda c: np.ravel(c)[0], lambda c: np.ravel(c)[-1]):
        coefficients = np.zeros(1 + max(orders[axis] for orders, _ in problem.terms), complex)
        for orders, factors in problem.terms:
            rest = [order for k, order in enumerate(orders) if k != axis]
            value = np.prod([reduce(factor) for factor in factors])
            waves = [rate**order for rate, order in zip(others, rest, strict=True)]
            coefficients[orders[axis]] += value * np.prod(waves)
        for root in np.roots(coefficients[::-1]):
            if not abs(root) * width < 2 * np.pi * LEAST_CYCLES:
                real = 0.0 if abs(root.real) < 1e-9 * abs(root) else root.real
                imaginary = 0.0 if abs(root.imag) < 1e-9 * abs(root) else abs(root.imag)
                found.append(complex(real, imaginary))
    return found


def _merged(rates, more):
    kept = list(rates)
    for rate in more:
        if all(abs(rate - other) > 1e-6 * abs(rate) for other in kept):
            kept.append(rate)
    return tuple(kept)


def _windows(problem, frequencies):
    """Waves in windows where source and boundary data are local: packets, steep layers.

    Inside the box such waves can come closer to the Nyquist rate than a comb, which is wild at the
    ends of the box.
    """
    places = [_local(grid, axis_columns(problem, axis)) for axis, grid in enumerate(problem.grid)]
    if not any(places):
        return
    rates = tuple(
        () if some else tuple(1j * omega for omega in found[0])
        for some, found in zip(places, frequencies, strict=True)
    )
    for widths in WIDTHS:
        for part in (0.6, 0.75, 0.85):
            windows = []
            for grid, some in zip(problem.grid, places, strict=True):
                highest = part * 0.5 / np.max(np.diff(grid))
                windows.append(
                    tuple(
                        (centre, widths * spread, int(highest * PERIOD * widths * spread))
                        for centre, spread in some
                    )
                )
            candidate = Candidate(rates, DEGREES[1], LOCAL_DEGREE, windows=tuple(windows))
            if (yield candidate) <= NEARLY:
                return


def _local(grid, columns):
    """Centres and deviations of where the data are rough; none if they are everywhere."""
    grid, energy = grid[1:-1], np.sum(np.diff(columns, 2, axis=0) ** 2, axis=1)
    if energy.max() == 0:
        return []
    among = np.flatnonzero(energy > 1e-2 * energy.max())
    far = np.flatnonzero(np.diff(grid[among]) > GAP * (grid[-1] - grid[0]))
    places = []
    for some in np.split(among, far + 1):
        weights = energy[some] / energy[some].sum()
        centre = float(weights @ grid[some])
        spread = float(np.sqrt(weights @ (grid[some] - centre) ** 2))
        places.append((centre, max(spread, np.max(np.diff(grid)))))
    total = sum(spread for _, spread in places)
    return places if total < LARGEST_PLACES * (grid[-1] - grid[0]) else []


def _combs(problem, frequencies):
    """All waves of a period a little longer than the box, up to parts of the Nyquist rate.

    Such a Fourier extension holds whatever the grid resolves: packets, chirps, steep layers; on
    very fine grids what `MOST_FUNCTIONS` can do.
    """
    for part in (0.3, 0.45, 0.6, 0.75):
        rates = []
        for grid in problem.grid:
            step = 2 * np.pi / (EXTENSION * (grid[-1] - grid[0]))
            highest = part * np.pi / np.max(np.diff(grid))
            waves = min(int(highest / step), (MOST_FUNCTIONS - 4) // 2)
            rates.append(tuple(1j * step * m for m in range(1, waves + 1)))
        for cut in (CUT, ROUGH_CUT):
            yield Candidate(tuple(rates), 1, 4, cut)


def axis_frequencies(problem, most=MOST):
    """Angular frequencies of each axis and their parts, from the source and the boundary data."""
    return [
        pursued(grid, axis_columns(problem, axis), most) for axis, grid in enumerate(problem.grid)
    ]


def axis_columns(problem, axis):
    """Functions of one coordinate that source and boundary data are made of."""
    parts = [columns_of(problem.source, axis)]
    scale = np.linalg.norm(parts[0])
    parts = [parts[0] / scale] if scale > 0 else []
    faces = [
        (columns_of(values, axis - (axis > other)), order)
        for other, rows in enumerate(problem.conditions)
        for _, order, values in rows
        if other != axis and problem.ndim > 1
    ]
    for order in {order for _, order in faces}:
        largest = max(np.linalg.norm(columns) for columns, m in faces if m == order)
        if largest > 0:
            parts += [columns / largest for columns, m in faces if m == order and columns.size]
    return np.hstack(parts) if parts else np.zeros((problem.grid[axis].size, 1))


def stationary_kernels(problem, frequencies, family, *, maxiter, report):
    """The paper's kernels with one length and some frequencies found, by the held-out residual.

    Weak frequencies may be those of products of u in a pointwise term, which u itself has not.
    """
    judge = Judge(problem, maxiter)
    best, least, tried = None, np.inf, []
    for threshold in THRESHOLDS[1:3]:
        chosen = [omega[part >= threshold].tolist() for omega, part in frequencies]
        if chosen in tried:
            continue
        tried.append(chosen)
        for length in LENGTHS[family]:
            kernels = tuple(
                _stationary(family, omega, length * (grid[-1] - grid[0]))
                for grid, omega in zip(problem.grid, chosen, strict=True)
            )
            misfit = judge(kernels)
            if misfit < least:
                best, least = kernels, misfit
            if report(kernels, misfit):
                return best or kernels, least
            if misfit > 10 * least:  # past the best
                break
    return best, least


def _stationary(family, omega, length):
    means = np.concatenate([[0.0], omega]) / (2 * np.pi)
    weights = np.full(means.size, 1 / means.size)
    if family is SpectralMixture:
        return SpectralMixture(weights, means, np.full(means.size, 1 / (2 * np.pi * length)))
    return StudentTMixture(weights, means, np.full(means.size, length))
