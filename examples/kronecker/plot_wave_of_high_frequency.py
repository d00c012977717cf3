"""
A wave the network cannot see
=============================

Networks that are trained to fulfil a differential equation learn slow functions first, and fast
ones hardly at all: at a hundred radians per unit they stay at zero. Gaussian processes whose
kernels carry frequencies can do better, if they know which. Here the source term tells: two
equations of the paper on GP-HM (arXiv:2311.04465) are solved in less time than a training takes to
start, and to rounding.
"""

# %%
# Poisson
# -------
# The solution is sin(100 x) sin(100 y) on a square with four nodes for a period. The solver gets
# the source, zeros on the boundary, and the grid.

import os
import time

import matplotlib.pyplot as plt
import numpy as np

from linalgkit.kronecker import (
    Dirichlet,
    Nonlinearity,
    SpectralMixture,
    solve_pde,
)

is_small = os.environ.get("LINALGKIT_EXAMPLE_SIZE") == "small"
nodes = 256 if is_small else 400


def wave(t):
    return np.sin(100 * t)


x = np.linspace(0, 2 * np.pi if not is_small else 4, nodes)
exact = np.outer(wave(x), wave(x))
faces = [(axis, side) for axis in (0, 1) for side in (0, 1)]
boundary = {(axis, side): Dirichlet(np.take(exact, -side, axis=axis)) for axis, side in faces}
laplacian = {(2, 0): 1.0, (0, 2): 1.0}

begin = time.perf_counter()
poisson = solve_pde(laplacian, -2 * 100**2 * exact, boundary, (x, x))
print(poisson.message)
print(f"{time.perf_counter() - begin:.2f} s; error {np.abs(poisson.u - exact).max():.1e}")
print("frequencies in radians:", *(2 * np.pi * f[:1] for f in poisson.frequencies))

# %%
# Allen–Cahn
# ----------
# Δu + u³ − u = f, with three frequencies in each direction and the cube that mixes them. Newton's
# method takes a few steps in the space of the functions that were found.

y = np.linspace(0, 1, nodes)


def three(t, order=0):
    if order == 2:
        return -np.sin(t) - 40 * np.sin(20 * t) - 1e4 * np.cos(100 * t)
    return np.sin(t) + 0.1 * np.sin(20 * t) + np.cos(100 * t)


truth = np.outer(three(y), three(y))
source = np.outer(three(y, 2), three(y)) + np.outer(three(y), three(y, 2)) + truth**3 - truth
boundary = {(axis, side): Dirichlet(np.take(truth, -side, axis=axis)) for axis, side in faces}
cube = Nonlinearity(lambda u: u**3, [lambda u: 3 * u**2])

begin = time.perf_counter()
found = solve_pde(laplacian | {(0, 0): -1.0}, source, boundary, (y, y), nonlinearity=cube)
print(found.message)
print(f"{time.perf_counter() - begin:.2f} s, {found.nit} steps; error "
      f"{np.abs(found.u - truth).max():.1e}")  # fmt: skip

# %%
# How the solver knows
# --------------------
# Peaks of the source's spectrum along each axis give the frequencies; what is left after their
# removal gives the weak ones. How long the envelopes must be is judged without the solution: by
# nodes that are held out of the fit, and by the evidence, the probability of the data under the
# prior. Here of the paper's kernel, with one length for its envelopes, the bells of a Gaussian
# mixture: both say where they are too stiff, and the evidence is greatest where the error is least.

window = np.hanning(nodes)[:, None]
spectrum = np.linalg.norm(np.fft.rfft(window * source, axis=0), axis=1)
cycles = np.fft.rfftfreq(nodes, y[1] - y[0])

lengths = np.geomspace(0.05, 3, 10)
means = np.array([0, *found.frequencies[0][:3]])
ones = np.ones(means.size)
tried = []
for length in lengths:
    mixture = SpectralMixture(ones, means, ones / (2 * np.pi * length))
    trial = solve_pde(
        laplacian | {(0, 0): -1.0}, source, boundary, (y, y), nonlinearity=cube, kernel=mixture
    )
    tried.append((trial.residual, np.abs(trial.u - truth).max(), trial.log_evidence / nodes**2))
residuals, errors, evidences = zip(*tried, strict=True)

# %%
# The pictures
# ------------

figure, axes = plt.subplots(2, 3, figsize=(12, 7), layout="constrained")
rows = ("sin 100x sin 100y", x, poisson.u, exact), ("Allen–Cahn", y, found.u, truth)
for row, (title, grid, u, solution), shown in zip(axes, rows, (8, 1), strict=True):
    part = slice(0, nodes // shown)
    extent = (grid[0], grid[part][-1], grid[0], grid[part][-1])
    picture = row[0].imshow(u[part, part].T, origin="lower", extent=extent, cmap="RdBu")
    row[0].set_title(f"{title}: solution" + (", a corner" if shown > 1 else ""))
    figure.colorbar(picture, ax=row[0], shrink=0.8)
    error = (u - solution).T
    extent = (grid[0], grid[-1], grid[0], grid[-1])
    limit = np.abs(error).max()
    picture = row[1].imshow(
        error, origin="lower", extent=extent, cmap="PuOr", vmin=-limit, vmax=limit
    )
    row[1].set_title("error")
    figure.colorbar(picture, ax=row[1], shrink=0.8, format="%.0e")
axes[0, 2].semilogy(cycles, spectrum / spectrum.max(), color="#0072B2")
for frequency in found.frequencies[0][:3]:
    axes[0, 2].axvline(frequency, color="#D55E00", linestyle=":")
axes[0, 2].set(title="source's spectrum, and what was found", xlabel="cycles per unit")
axes[1, 2].loglog(lengths, residuals, "o-", label="held-out residual", color="#0072B2")
axes[1, 2].loglog(lengths, errors, "s-", label="error", color="#D55E00")
axes[1, 2].set(title="choice of the envelopes' length", xlabel="length, in boxes")
twin = axes[1, 2].twinx()
twin.semilogx(lengths, evidences, "^--", color="#009E73", label="log evidence a node")
lines = [*axes[1, 2].get_lines(), *twin.get_lines()]
axes[1, 2].legend(lines, [line.get_label() for line in lines], loc="center left", fontsize="small")
plt.show()
