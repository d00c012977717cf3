"""
Coarse operators of multigrid
=============================

Multigrid solves a large system A x = b with the help of smaller ones. A prolongation P takes
vectors of a coarse level to the next finer one, a restriction R goes the other way, and the
coarse matrix is the Galerkin product R A P. These triple products are a large share of the
setup of an algebraic multigrid method.

pyamg, which builds such methods for SciPy, comes with matrices from finite elements. Here it
chooses R and P, and :func:`spgemm.galerkin <linalgkit.spgemm.galerkin>` computes all coarse
matrices.
"""

# %%
# Three hierarchies
# -----------------
# Heat conduction around an airfoil; an elastic bar; diffusion in discontinuous elements. Each level
# is the Galerkin product of the one above it, and is compared with pyamg's.

import os
import statistics
import time

import matplotlib.pyplot as plt
import numpy as np
import pyamg
from pyamg.gallery.fem import refine2dtri
from scipy.sparse import csr_array, diags_array

import linalgkit
from linalgkit import spgemm

SMALL = os.environ.get("LINALGKIT_EXAMPLE_SIZE") == "small"


def coarse_operators(solver):
    """The matrices of all levels, from the finest one and pyamg's R and P."""
    operators = [csr_array(solver.levels[0].A)]
    for level in solver.levels[:-1]:
        operators.append(spgemm.galerkin(csr_array(level.R), operators[-1], csr_array(level.P)))
    return operators


def hierarchy(name):
    """Operators of a problem that pyamg ships."""
    problem = pyamg.gallery.load_example(name)
    a = csr_array(problem["A"])
    if name == "bar":  # its rigid motions are given
        solver = pyamg.smoothed_aggregation_solver(a.tobsr((3, 3)), B=problem["B"], max_coarse=10)
    else:
        solver = pyamg.ruge_stuben_solver(a, max_coarse=20)
    operators = coarse_operators(solver)
    for own, level in zip(operators, solver.levels, strict=True):
        assert abs(own - csr_array(level.A)).max() <= 1e-13 * abs(own).max()
    return operators


PROBLEMS = {
    "airfoil": "airfoil\nRuge–Stüben",
    "bar": "elastic bar\nsmoothed aggregation",
    "local_disc_galerkin_diffusion": "discontinuous elements\nRuge–Stüben",
}
hierarchies = {name: hierarchy(name) for name in PROBLEMS}

# %%
# The operator complexity is the number of entries of all levels over that of the finest: what
# a cycle through the levels costs, in products with A. The coarser a level, the larger the share
# of its places that is filled, so that sparse products there look like dense ones.

# sphinx_gallery_thumbnail_number = 2

deepest = max(map(len, hierarchies.values()))
figure, axes = plt.subplots(
    len(PROBLEMS), deepest, figsize=(2.5 * deepest, 8.4), layout="constrained"
)
for line, (name, operators) in zip(axes, hierarchies.items(), strict=True):
    complexity = sum(a.nnz for a in operators) / operators[0].nnz
    line[0].set_ylabel(f"{PROBLEMS[name]}\noperator complexity {complexity:.2f}")
    for axis in line[len(operators) :]:
        axis.axis("off")
    for level, (axis, a) in enumerate(zip(line, operators, strict=False)):
        n = a.shape[0]
        shade = np.zeros((n, n))
        shade[a.nonzero()] = 1
        pixels = -(-n // 130)  # squares of so many rows; darker where more is stored
        edges = np.append(np.arange(0, n, pixels), n)
        shade = np.add.reduceat(np.add.reduceat(shade, edges[:-1], 0), edges[:-1], 1)
        axis.imshow(
            np.sqrt(shade / pixels**2),
            cmap="Blues",
            vmin=0,
            vmax=0.8,
            extent=(0, n, n, 0),
            interpolation="nearest",
        )
        axis.set_title(f"level {level}\n{n} rows, {100 * a.nnz / n**2:.1f} % filled", fontsize=10)
        axis.set(xticks=[], yticks=[])

# %%
# Elements are triple products too
# --------------------------------
# The matrix of heat conduction on a mesh of triangles is itself of this form: the gradient G takes
# values at the corners to slopes on the triangles, a diagonal matrix W weighs each slope with the
# area of its triangle, and A = Gᵀ W G. With no R given, ``galerkin`` takes the transpose of
# the right factor. The result is the matrix that pyamg ships.


def gradient(vertices, triangles):
    """Slopes along x, then along y, on every triangle; twice the area of each triangle."""
    x, y = vertices[triangles].transpose(2, 0, 1)
    along_x = np.roll(y, -1, axis=1) - np.roll(y, -2, axis=1)
    along_y = np.roll(x, -2, axis=1) - np.roll(x, -1, axis=1)
    twice = np.sum(x * along_x, axis=1)
    slopes = np.concatenate([along_x, along_y]) / np.tile(twice, 2)[:, None]
    corners = np.tile(triangles, (2, 1))
    indptr = np.arange(0, corners.size + 1, 3)
    return csr_array(
        (slopes.ravel(), corners.ravel(), indptr), (len(corners), len(vertices))
    ), twice


def inner_vertices(triangles):
    """Vertices that lie on no edge that belongs to one triangle only."""
    edges = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    edges, counts = np.unique(edges, axis=0, return_counts=True)
    return np.setdiff1d(triangles, edges[counts == 1])


def conduction(vertices, triangles):
    """G, the diagonal W and the places of the unknowns; the boundary is held at zero."""
    slopes, twice = gradient(vertices, triangles)
    unknowns = inner_vertices(triangles)
    weights = csr_array(diags_array(np.tile(twice / 2, 2)))
    return csr_array(slopes[:, unknowns]), weights, unknowns


shipped = pyamg.gallery.load_example("airfoil")
vertices, triangles = shipped["vertices"], shipped["elements"].astype(np.int64)
slopes, weights, unknowns = conduction(vertices, triangles)
stiffness = spgemm.galerkin(None, weights, slopes)
assert abs(stiffness - csr_array(shipped["A"])).max() < 1e-13

# %%
# Every triangle is now split into four, twice. The picture shows which points of the finer mesh
# Ruge and Stüben's method keeps on the coarser levels.

for _ in range(2):
    vertices, triangles = refine2dtri(vertices, triangles)
slopes, weights, unknowns = conduction(vertices, triangles)
solver = pyamg.ruge_stuben_solver(spgemm.galerkin(None, weights, slopes), max_coarse=20)

kept = unknowns
COLOURS = ["#BBBBBB", "#56B4E9", "#E69F00", "#D55E00", "#000000"]
shown = solver.levels[: len(COLOURS)]
figure, axes = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
for axis, middle, half_width in zip(axes, (0, 0.5), (5.1, 0.9), strict=True):
    axis.triplot(*vertices.T, triangles, color="#CCCCCC", linewidth=0.5, zorder=0)
    axis.set_aspect("equal")
    axis.set(xlim=(middle - half_width, middle + half_width), ylim=(-half_width, half_width))
    axis.set(xticks=[], yticks=[])
for number, (level, colour) in enumerate(zip(shown, COLOURS, strict=False)):
    for axis, scale in zip(axes, (1, 5), strict=True):
        size = scale * 1.5 * 2**number
        axis.scatter(*vertices[kept].T, s=size, color=colour, linewidths=0, zorder=number + 1,
                     label=f"{number}: {level.A.shape[0]:,} points")  # fmt: skip
    if hasattr(level, "splitting"):
        kept = kept[np.asarray(level.splitting, dtype=bool)]
axes[0].set_title("The whole mesh")
axes[1].set_title("Around the airfoil")
handles, names = axes[0].get_legend_handles_labels()
legend = figure.legend(handles, names, title="level", loc="outside lower center", ncols=len(names))
for handle in legend.legend_handles:
    handle.set_sizes([40])

# %%
# New coefficients, old pattern
# -----------------------------
# If the conductivity depends on temperature, each step of an iteration has a new W and hence new
# values on every level, on the same patterns. :func:`spgemm.plan_galerkin
# <linalgkit.spgemm.plan_galerkin>` finds the patterns once. An execution then takes arrays of
# values and returns one. Nothing is searched, and the values are those of ``galerkin``, to the
# last bit.

for _ in range(1 if SMALL else 2):
    vertices, triangles = refine2dtri(vertices, triangles)
slopes, weights, unknowns = conduction(vertices, triangles)
a = spgemm.galerkin(None, weights, slopes)
solver = pyamg.ruge_stuben_solver(a, max_coarse=20)
operators = coarse_operators(solver)
transfers = [(csr_array(level.R), csr_array(level.P)) for level in solver.levels[:-1]]

assembly = spgemm.plan_galerkin(None, weights, slopes)
plans = [
    spgemm.plan_galerkin(r, fine, p) for (r, p), fine in zip(transfers, operators[:-1], strict=True)
]


def diagonal(weight):
    return csr_array((weight, weights.indices, weights.indptr), shape=weights.shape)


def by_plans(weight):
    """Values of all levels for new weights of the triangles."""
    values = [assembly.execute(None, weight, slopes.data)]
    for (r, p), plan in zip(transfers, plans, strict=True):
        values.append(plan.execute(r.data, values[-1], p.data))
    return values


def by_galerkin(weight):
    """The same without plans."""
    levels = [spgemm.galerkin(None, diagonal(weight), slopes)]
    for r, p in transfers:
        levels.append(spgemm.galerkin(r, levels[-1], p))
    return levels


def by_scipy(weight):
    """The same by SciPy."""
    levels = [csr_array(slopes.T) @ (diagonal(weight) @ slopes)]
    for r, p in transfers:
        levels.append((r @ levels[-1]) @ p)
    return levels


centres = vertices[triangles].mean(axis=1)
conductivity = 1 + np.exp(-np.sum(centres**2, axis=1))  # warmer near the airfoil
weight = weights.data * np.tile(conductivity, 2)
for values, level, peer in zip(
    by_plans(weight), by_galerkin(weight), by_scipy(weight), strict=True
):
    assert np.array_equal(values, level.data)
    assert abs(level - peer).max() <= 1e-13 * abs(level).max()

# %%
# Medians of seven rounds in which everybody has a turn. The times are those of the machine that
# built this page, which may have had other work. SciPy's rows stay unsorted where its product
# leaves them so.


def with_workers(workers, function):
    with linalgkit.use_workers(workers):
        return function(weight)


candidates = {
    "SciPy @": lambda: by_scipy(weight),
    "galerkin, 1 worker": lambda: with_workers(1, by_galerkin),
    "galerkin, 2 workers": lambda: with_workers(2, by_galerkin),
    "plans, 1 worker": lambda: with_workers(1, by_plans),
    "plans, 2 workers": lambda: with_workers(2, by_plans),
}
seconds = {name: [] for name in candidates}
for _ in range(7):
    for name, call in candidates.items():
        start = time.perf_counter()
        call()
        seconds[name].append(time.perf_counter() - start)
medians = [1e3 * statistics.median(times) for times in seconds.values()]

figure, axis = plt.subplots(figsize=(8, 3), layout="constrained")
colours = ["#999999", "#56B4E9", "#56B4E9", "#0072B2", "#0072B2"]
bars = axis.barh(list(seconds), medians, color=colours, height=0.65)
axis.bar_label(bars, fmt="%.1f ms", padding=4)
axis.set(
    title=f"All {len(operators)} levels for new coefficients, {a.shape[0]:,} unknowns",
    xlabel="milliseconds",
)
axis.set_xlim(0, 1.2 * max(medians))
axis.invert_yaxis()
axis.spines[["top", "right"]].set_visible(False)

plt.show()
