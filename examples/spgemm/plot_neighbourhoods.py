"""
Walks on a neighbour graph of digits
====================================

Each of the 1797 scanned digits of scikit-learn is joined to its eight nearest other digits.
Row i of the adjacency matrix A stores those eight. Powers of A tell how far a walk gets: entry
(i, j) of A² counts the walks of two steps from i to j, and A⁴ those of four.

The powers are sparse matrices again, with ever fuller rows. Two questions are answered from
them: how fast does the neighbourhood of a digit grow, and does a walk stay among digits of the
same class?
"""

# %%
# The graph and its powers
# ------------------------
# Integer data are multiplied as integers, so the walks are counted exactly: eight choices at
# each of four steps make 4096 walks in every row of A⁴. How many entries A⁴ = A² A² will have can
# be estimated before it is computed.

import matplotlib.pyplot as plt
import numpy as np
from scipy.sparse import csr_array
from sklearn.datasets import load_digits
from sklearn.neighbors import kneighbors_graph

from linalgkit import spgemm

STEPS = (1, 2, 4)
digits = load_digits()
order = np.argsort(digits.target, kind="stable")  # class by class: zeros first, nines last
label = digits.target[order]
nearest = kneighbors_graph(digits.data[order], n_neighbors=8, mode="connectivity")

once = csr_array(nearest, dtype=np.int64)
twice = spgemm.matrix_power(once, 2)
print(f"A⁴ has about {spgemm.estimate_nnz(twice, twice, rng=0):,.0f} entries", end=", ")
print(f"and at most {spgemm.nnz_upper_bound(twice, twice):,}")
four_times = spgemm.matmul(twice, twice)
powers = (once, twice, four_times)

for steps, power in zip(STEPS, powers, strict=True):
    assert np.all(power.sum(axis=1) == 8**steps)
    reached = np.diff(power.indptr)
    print(f"{steps} steps: {power.nnz:,} entries,", end=" ")
    print(f"{np.median(reached):.0f} in a row (median), {reached.max()} at most")

# sphinx_gallery_thumbnail_number = 2

# %%
# Where the walks go
# ------------------
# The matrices are ordered by class. Each pixel is a square of 13 rows and 13 columns, coloured by
# the share of its places that are stored. Walks fill the blocks on the diagonal first. What fills
# beside them are digits that look alike.


def density(matrix, width=13):
    """Share of stored entries in squares of `width` rows and columns."""
    rows, columns = matrix.nonzero()
    edges = np.arange(0, matrix.shape[0] + width, width)
    return np.histogram2d(rows, columns, bins=[edges, edges])[0] / width**2


ends = np.searchsorted(label, np.arange(11))  # where the classes begin and end
middles = (ends[:-1] + ends[1:]) / 2
figure, axes = plt.subplots(1, 3, figsize=(10, 3.9), layout="constrained", sharey=True)
for axis, steps, power in zip(axes, STEPS, powers, strict=True):
    image = axis.imshow(
        np.sqrt(density(power)),
        cmap="cividis",
        vmin=0,
        vmax=1,
        extent=(0, label.size, label.size, 0),
        interpolation="nearest",
    )
    for end in ends[1:-1]:
        axis.axhline(end, color="white", linewidth=0.4)
        axis.axvline(end, color="white", linewidth=0.4)
    axis.set(
        title=f"{steps} step{'s' if steps > 1 else ''}: {power.nnz:,} entries",
        xlabel="to digit of class",
        xticks=middles,
        yticks=middles,
        xticklabels=range(10),
        yticklabels=range(10),
    )
    axis.tick_params(length=0)
axes[0].set_ylabel("from digit of class")
bar = figure.colorbar(image, ax=axes, ticks=np.sqrt([0, 0.05, 0.25, 0.5, 1]), shrink=0.72)
bar.ax.set_yticklabels(["0", "5 %", "25 %", "50 %", "100 %"])
bar.set_label("share of places stored")

# %%
# How far, and to whom
# --------------------
# On the left, how many digits are within reach. On the right, where a walk of four steps ends:
# row a, column b is the probability that a walk from a digit of class a ends at one of class b,
# from the counts in A⁴; white means never. Most walks stay in their class. Eights lose the most,
# chiefly to ones.

ones = np.ones(label.size, dtype=np.int64)
member = csr_array((ones, (np.arange(label.size), label)))  # digit × class
between = spgemm.galerkin(None, four_times, member).toarray()
probability = between / between.sum(axis=1, keepdims=True)

figure, (growth, classes) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
for steps, power, colour, style in zip(
    STEPS, powers, ("#0072B2", "#E69F00", "#000000"), ("-", "--", "-."), strict=True
):
    reached = np.sort(np.diff(power.indptr))
    share = np.arange(1, reached.size + 1) / reached.size
    growth.step(
        np.append(reached, 2000), np.append(share, 1), color=colour, linestyle=style, linewidth=2
    )
    growth.annotate(
        f"{steps} step{'s' if steps > 1 else ''}",
        (np.median(reached), 0.5),
        xytext=(6, -4),
        textcoords="offset points",
    )
growth.set(
    xscale="log",
    xlim=(5, 2000),
    ylim=(0, 1.02),
    xlabel="digits within reach (entries in a row)",
    ylabel="share of digits with so many or fewer",
    title="Growth of the neighbourhood",
)
growth.grid(alpha=0.3, which="both")

image = classes.imshow(100 * probability, cmap="cividis", norm="log", vmin=0.1, vmax=100)
for (row, column), value in np.ndenumerate(100 * probability):
    if value >= 0.5:
        classes.text(
            column,
            row,
            f"{value:.0f}",
            ha="center",
            va="center",
            fontsize=8,
            color="black" if value > 8 else "white",
        )
classes.set(
    title="Where a walk of four steps ends [%]",
    xlabel="class at the end",
    ylabel="class at the start",
    xticks=range(10),
    yticks=range(10),
)
figure.colorbar(image, ax=classes, format="%g", label="probability [%]")

plt.show()
