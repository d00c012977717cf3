"""
The square of the Poisson matrix
================================

The seven-point Poisson matrix A on a grid of m × m × m points has 6 on the diagonal and −1 for
each of the six neighbours. Its square approximates the biharmonic operator, and it is
known in closed form: away from the boundary, a row of A² has 25 entries, which are 42 on the
diagonal, −12 at distance one along an axis, 1 at distance two, and 2 at the twelve diagonals of
the planes.

That makes it a check on a sparse product, and its short, regular rows make it a test of speed:
there is little to compute, so everything else counts.
"""

# %%
# The product, checked
# --------------------

import os
import statistics
import time

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from scipy.sparse import diags_array, eye_array, kron

import linalgkit
from linalgkit import spgemm

SMALL = os.environ.get("LINALGKIT_EXAMPLE_SIZE") == "small"


def poisson(m):
    """Seven-point Laplacian on an m × m × m grid, in CSR."""
    line = diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m))
    eye = eye_array(m)
    sheet = kron(line, eye) + kron(eye, line)
    matrix = (kron(sheet, eye) + kron(eye_array(m * m), line)).tocsr()
    matrix.sum_duplicates()
    return matrix


m = 24 if SMALL else 64
a = poisson(m)
square = spgemm.matmul(a, a)

middle = m // 2
row = square[[(middle * m + middle) * m + middle], :].toarray().reshape(m, m, m)
stencil = row[(slice(middle - 2, middle + 3),) * 3]
values, counts = np.unique(row[row != 0], return_counts=True)
print(f"{square.shape[0]:,} rows, {a.nnz:,} entries in A, {square.nnz:,} in A²")
for value, count in zip(values, counts, strict=True):
    print(f"{value:4.0f} occurs {count:2} times in an interior row")
assert dict(zip(values, counts, strict=True)) == {-12: 6, 1: 6, 2: 12, 42: 1}

other = a @ a
other.sort_indices()
assert np.array_equal(square.indices, other.indices)
assert np.array_equal(square.data, other.data)  # the same bits as SciPy's

# sphinx_gallery_thumbnail_number = 2

# %%
# What a row looks like
# ---------------------
# The 25 entries, put back where they belong in the grid: five slices through the interior point.

COLOURS = {
    -12: "#0072B2",
    -1: "#56B4E9",
    1: "#F0E442",
    2: "#E69F00",
    6: "#666666",
    42: "#000000",
}
LEVELS = sorted(COLOURS)
palette = ListedColormap([COLOURS[level] for level in LEVELS])
# One level lies in each of these intervals.
norm = BoundaryNorm([-20, -6, 0, 1.5, 4, 20, 50], palette.N)


def signed(value):
    return f"{value:.0f}".replace("-", "−")


figure, axes = plt.subplots(1, 5, figsize=(10, 2.5), layout="constrained")
for axis, plane, offset in zip(axes, stencil, range(-2, 3), strict=True):
    axis.imshow(np.where(plane == 0, np.nan, plane), cmap=palette, norm=norm)
    for (i, j), value in np.ndenumerate(plane):
        if value:
            colour = "white" if value in (-12, 42) else "black"
            axis.text(j, i, signed(value), ha="center", va="center", color=colour)
    axis.set(title=f"z = {signed(offset)}", xticks=[], yticks=[])
    axis.set_xticks(np.arange(-0.5, 5), minor=True)
    axis.set_yticks(np.arange(-0.5, 5), minor=True)
    axis.grid(which="minor", color="#BBBBBB", linewidth=0.6)
    axis.tick_params(which="both", length=0)

# %%
# The matrix of a grid of 5 × 5 × 5 points, and its square: blocks are planes of the grid, blocks
# within blocks are lines. At the boundary the square has a little less than 42 on the diagonal.

small = poisson(5)
matrices = {"A": small, "A²": spgemm.matmul(small, small)}
figure, axes = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
for axis, (name, matrix) in zip(axes, matrices.items(), strict=True):
    dense = matrix.toarray()
    image = np.where(dense == 0, np.nan, dense)
    axis.imshow(image, cmap=palette, norm=norm, interpolation="nearest")
    axis.set(title=f"{name}: {matrix.nnz:,} entries", xlabel="column", ylabel="row")
handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[level]) for level in LEVELS]
names = [signed(level) for level in LEVELS]
figure.legend(handles, names, title="value", loc="outside right center")

# %%
# How long it takes
# -----------------
# Medians of seven rounds in which everybody has a turn. SciPy's ``@`` leaves the rows of this
# product unsorted; whoever needs them sorted pays for the sort as well. The times are
# those of the machine that built this page, which may have had other work; figures measured with
# more care stand on the page "Performance".


def sorted_scipy():
    product = a @ a
    product.sort_indices()
    return product


def ours(workers):
    with linalgkit.use_workers(workers):
        return spgemm.matmul(a, a)


candidates = {
    "SciPy @, then sorted": sorted_scipy,
    "SciPy @, rows unsorted": lambda: a @ a,
    "spgemm.matmul, 1 worker": lambda: ours(1),
    "spgemm.matmul, 2 workers": lambda: ours(2),
}
seconds = {name: [] for name in candidates}
for _ in range(7):
    for name, product in candidates.items():
        start = time.perf_counter()
        product()
        seconds[name].append(time.perf_counter() - start)
medians = [1e3 * statistics.median(times) for times in seconds.values()]

figure, axis = plt.subplots(figsize=(8, 2.6), layout="constrained")
colours = ["#999999", "#999999", "#0072B2", "#0072B2"]
bars = axis.barh(list(seconds), medians, color=colours, height=0.65)
axis.bar_label(bars, fmt="%.1f ms", padding=4)
axis.set(title=f"A² on {m} × {m} × {m} points", xlabel="milliseconds")
axis.set_xlim(0, 1.2 * max(medians))
axis.invert_yaxis()
axis.spines[["top", "right"]].set_visible(False)

plt.show()
