"""Matching pursuit for the frequencies of sampled functions.

One column is one function on the grid. Found waves are removed with envelopes of low degree, so a
wave whose amplitude changes is found once, and one that is biased is corrected by what its linear
envelope says: with the wrong ω, cos((ω+δ)x) = cos ωx − δ x sin ωx.
"""

import numpy as np
from numpy.polynomial import chebyshev
from scipy import linalg, sparse
from scipy.fft import next_fast_len

TREND = 8  # polynomials of the smooth part
ENVELOPE = 4
LEAST_CYCLES = 1.5  # waves below are the trend's
PADDING = 8
EQUISPACED = 1e-3  # of a step: how far nodes may be from where the FFT takes them to be
SPREAD = 6  # cells on each side over which a node is spread, for 1e-6 of the largest peak


def columns_of(array, axis, *, tolerance=1e-8, most=8):
    """The leading left singular vectors, times singular values, of the unfolding along an axis.

    By products with a fixed random matrix: the rank that matters is small.
    """
    unfolded = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    if unfolded.shape[1] > 2 * most:
        probes = np.random.default_rng(0).standard_normal((unfolded.shape[1], 2 * most))
        q = linalg.qr(unfolded @ probes, mode="economic", check_finite=False)[0]
        inner, s, _ = linalg.svd(q.T @ unfolded, full_matrices=False, check_finite=False)
        u = q @ inner
    else:
        u, s, _ = linalg.svd(unfolded, full_matrices=False, check_finite=False)
    kept = np.flatnonzero(s[:most] > tolerance * s[0])
    return u[:, kept] * s[kept]


def pursued(grid, columns, most, *, tolerance=1e-7):
    """Return angular frequencies and the part of the columns' norm that each explains."""
    width = grid[-1] - grid[0]
    centre = (grid[0] + grid[-1]) / 2
    s = (grid - centre) / (width / 2)
    trend = chebyshev.chebvander(s, min(TREND, grid.size // 4) - 1)
    basis = linalg.qr(trend, mode="economic")[0]
    remains = columns - basis @ (basis.T @ columns)
    total = linalg.norm(columns)
    spectrum = _spectrum(grid)
    found, parts = [], []
    while len(found) < most and linalg.norm(remains) > tolerance * total:
        omega = _peak(*spectrum(remains), 2 * np.pi * LEAST_CYCLES / width)
        if omega is None:
            break
        omega = _polished(grid, centre, remains, omega, np.pi / width)
        block = _waves(s, grid - centre, omega, ENVELOPE)
        for _ in range(2):  # Gram–Schmidt, twice
            block = block - basis @ (basis.T @ block)
        q, triangle, _ = linalg.qr(block, mode="economic", pivoting=True)
        sizes = np.abs(np.diagonal(triangle))
        q = q[:, sizes > 1e-8 * np.sqrt(grid.size)]
        after = remains - q @ (q.T @ remains)
        before, left = linalg.norm(remains), linalg.norm(after)
        if q.shape[1] == 0 or left > 0.999 * before:
            break
        found.append(omega)
        parts.append(np.sqrt(max(before**2 - left**2, 0)) / total)
        basis, remains = np.hstack([basis, q]), after
    return np.array(found), np.array(parts)


def _waves(s, x, omega, degree):
    polynomials = chebyshev.chebvander(s, degree - 1)
    cosine, sine = np.cos(omega * x)[:, None], np.sin(omega * x)[:, None]
    return np.hstack([polynomials * cosine, polynomials * sine])


def _polished(grid, centre, columns, omega, furthest):
    """Move a frequency to where no linear envelope is needed; stay within a cycle of the box."""
    x = grid - centre
    window = np.cos(np.pi * x / (grid[-1] - grid[0])) ** 2
    start = omega
    for _ in range(4):
        cosine, sine = np.cos(omega * x), np.sin(omega * x)
        rows = np.stack([cosine, sine, x * cosine, x * sine], axis=1) * window[:, None]
        c, d, cx, dx = linalg.lstsq(rows, columns * window[:, None])[0]
        power = np.sum(c * c + d * d)
        step = np.sum(cx * d - dx * c) / power if power > 0 else 0.0
        if not abs(omega + step - start) < furthest:
            return start
        omega = omega + step
        if abs(step) < 1e-9 * omega:
            break
    return omega


def _spectrum(grid):
    """Return a function: windowed power of columns, summed, at angular frequencies."""
    n, width = grid.size, grid[-1] - grid[0]
    window = (np.cos(np.pi * (grid - (grid[0] + grid[-1]) / 2) / width) ** 2)[:, None]
    even = np.linspace(grid[0], grid[-1], n)
    if np.max(np.abs(grid - even)) <= EQUISPACED * width / (n - 1):
        size = PADDING * n
        omegas = 2 * np.pi * np.fft.rfftfreq(size, width / (n - 1))

        def spectrum(columns):
            return omegas, np.sum(np.abs(np.fft.rfft(window * columns, size, axis=0)) ** 2, axis=1)

        return spectrum
    # Any other grid: up to the rate that its widest step resolves.
    weights = window * np.gradient(grid)[:, None]
    step = 2 * np.pi / width / PADDING
    omegas = np.arange(0, np.pi / np.diff(grid).max(), step)
    transform = _uneven_transform(step * (grid - grid[0]), omegas.size)

    def spectrum(columns):
        return omegas, np.sum(np.abs(transform(weights * columns)) ** 2, axis=1)

    return spectrum


def _uneven_transform(angles, count):
    """Return a function: Σ_j exp(−i k angle_j) columns_j for k below `count`.

    Nodes are spread by Gaussians over an even grid of twice the rate, whose FFT is divided by that
    of the Gaussian (Greengard and Lee, SIAM Review 46, 2004): O(n) numbers instead of n × count.
    """
    size = next_fast_len(4 * count, real=True)
    cell, excess = 2 * np.pi / size, size / (2 * count)
    variance = np.pi * SPREAD / (excess * (excess - 0.5)) / (2 * count) ** 2
    places = np.floor(angles / cell).astype(int)[:, None] + np.arange(1 - SPREAD, SPREAD + 1)
    bells = np.exp(-((angles[:, None] - cell * places) ** 2) / (4 * variance))
    starts = np.arange(0, bells.size + 1, 2 * SPREAD)
    spread = sparse.csr_array(
        (bells.ravel(), places.ravel() % size, starts), shape=(angles.size, size)
    ).T
    k = np.arange(count)
    factors = np.sqrt(np.pi / variance) * np.exp(k * k * variance) / size

    def transform(columns):
        return factors[:, None] * np.fft.rfft(spread @ columns, axis=0)[:count]

    return transform


def _peak(omegas, power, least):
    """The frequency of the highest peak above `least`, by a parabola through the logarithms."""
    first = int(np.searchsorted(omegas, least))
    if first >= power.size - 1:
        return None
    place = first + int(np.argmax(power[first:]))
    if place == first and power[place - 1] > power[place]:
        # The flank of the trend: the next real maximum, if there is one.
        inner = power[first + 1 : -1]
        is_peak = (inner > power[first:-2]) & (inner >= power[first + 2 :])
        if not is_peak.any():
            return None
        place = first + 1 + int(np.argmax(np.where(is_peak, inner, 0)))
    if not 0 < place < power.size - 1 or power[place] <= 0:
        return omegas[place] if power[place] > 0 else None
    below, middle, above = np.log(np.maximum(power[place - 1 : place + 2], 1e-300))
    bend = below - 2 * middle + above
    shift = 0.5 * (below - above) / bend if bend < 0 else 0.0
    return omegas[place] + shift * (omegas[1] - omegas[0])


def frequencies_of_axes(source, grid, *, most):
    """Return frequencies in cycles per unit for each axis, the most important first."""
    results = []
    for axis, nodes in enumerate(grid):
        omega, part = pursued(nodes, columns_of(source, axis), most)
        results.append(omega[np.argsort(-part, kind="stable")] / (2 * np.pi))
    return results
