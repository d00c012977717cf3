"""
Sound in a box, in three dimensions
===================================

The Helmholtz equation −Δu − k²u = f with eight wavelengths along the longest edge. Finite
differences need ten or more nodes for a wavelength and a sparse system of millions of unknowns;
here a few functions along each axis are enough, found from the source and the boundary data.
"""

# %%
# The problem
# -----------
# Two plane waves that cross, which fulfil the equation without a source, and a third one that a
# source drives. Values are given on all six faces.

import os
import time

import matplotlib.pyplot as plt
import numpy as np

from linalgkit.kronecker import Dirichlet, solve_pde

nodes = 64 if os.environ.get("LINALGKIT_EXAMPLE_SIZE") == "small" else 96
k = 50.0
edges = (1.0, 0.8, 0.6)
grid = tuple(np.linspace(0, edge, nodes) for edge in edges)
directions = (np.array([2.0, 1.0, 2.0]) / 3, np.array([-1.0, 2.0, 2.0]) / 3)


def waves(x, y, z):
    free = sum(np.cos(k * (d[0] * x + d[1] * y + d[2] * z)) for d in directions)
    return free + driven(x, y, z)


def driven(x, y, z):
    return np.sin(30 * x) * np.sin(25 * y) * np.exp(-z)


mesh = np.meshgrid(*grid, indexing="ij", sparse=True)
exact = waves(*mesh)
source = (30**2 + 25**2 - 1 - k**2) * driven(*mesh)
boundary = {
    (axis, side): Dirichlet(np.take(exact, -side, axis=axis))
    for axis in range(3)
    for side in (0, 1)
}
operator = {(2, 0, 0): -1.0, (0, 2, 0): -1.0, (0, 0, 2): -1.0, (0, 0, 0): -(k**2)}

# %%
# The solution
# ------------

begin = time.perf_counter()
found = solve_pde(operator, source, boundary, grid)
print(f"{nodes**3:,} nodes in {time.perf_counter() - begin:.1f} s: {found}")
print(f"largest error {np.abs(found.u - exact).max():.1e}")
for name, frequencies in zip("xyz", found.frequencies, strict=True):
    print(f"wave numbers along {name}:", np.round(2 * np.pi * frequencies[:3], 2))

# %%
# A slice
# -------
# :meth:`predict <linalgkit.kronecker.PDEResult.predict>` evaluates the solution, or any derivative,
# on any grid in the box.

x, y = np.linspace(0, edges[0], 300), np.linspace(0, edges[1], 240)
middle = np.array([0.3])
slice_ = found.predict((x, y, middle))[:, :, 0]
slope = found.predict((x, y, middle), orders=(0, 0, 1))[:, :, 0]
error = slice_ - waves(x[:, None], y, middle)

figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
panels = ("u at z = 0.3", slice_, "RdBu"), ("∂u/∂z", slope, "RdBu"), ("error", error, "PuOr")
for axis, (title, values, colours) in zip(axes, panels, strict=True):
    limit = np.abs(values).max()
    picture = axis.imshow(
        values.T,
        origin="lower",
        extent=(0, edges[0], 0, edges[1]),
        cmap=colours,
        vmin=-limit,
        vmax=limit,
    )
    axis.set_title(title)
    figure.colorbar(picture, ax=axis, shrink=0.8, format="%.0e" if title == "error" else None)
plt.show()
