"""
Is a covariance separable?
==========================

The pixels of a picture belong to a row and to a column. If their covariance were a Kronecker
product, one matrix for the rows and one for the columns would say all of it: 72 numbers in place of
2080 for pictures of 8 by 8 pixels. Here the covariance of real pictures, scanned digits, is taken
apart into such products, the nearest one first.
"""

# %%
# The nearest products
# --------------------
# :func:`nearest_kronecker <linalgkit.kronecker.nearest_kronecker>` finds the sum of so many
# products that is nearest in the Frobenius norm, and how much of the matrix it misses.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from linalgkit.kronecker import kron_cholesky, kron_dense, kron_matvec, nearest_kronecker

pictures = load_digits().images
side = pictures.shape[1]
deviations = pictures.reshape(len(pictures), -1) - pictures.mean(axis=0).ravel()
covariance = deviations.T @ deviations / len(pictures)

counts = range(1, 25)
errors = [float(nearest_kronecker(covariance, (side, side), terms=n).error) for n in counts]
near = nearest_kronecker(covariance, (side, side), terms=1)
of_rows, of_columns = near.left[0], near.right[0]
for n in (1, 3, 10):
    print(f"{n} products miss {100 * errors[n - 1]:.0f} % of the covariance")

# %%
# One product misses a good part: digits are no separable texture. But it is a covariance itself,
# with all eigenvalues positive or zero, so that there are random pictures that have it, one
# triangular factor an axis being all that is needed.

lower = kron_cholesky([of_rows, of_columns], max_jitter=1e-6)
rng = np.random.default_rng(0)
drawn = kron_matvec(lower, rng.standard_normal((3, side * side))).reshape(3, side, side)

# %%
# The pictures
# ------------
# Neighbours in a column have a correlation of one half, neighbours in a row one of 0.3: strokes of
# digits are rather upright.

figure, axes = plt.subplots(2, 3, figsize=(11, 7), layout="constrained")
limit = np.abs(covariance).max()
matrices = (
    ("covariance of 64 pixels", covariance),
    ("nearest Kronecker product", kron_dense([of_rows, of_columns])),
)
for ax, (title, matrix) in zip(axes[0], matrices, strict=False):
    ax.imshow(matrix, cmap="RdBu", vmin=-limit, vmax=limit)
    ax.set_title(title)
axes[0, 2].semilogy(counts, errors, "o-", color="#0072B2")
axes[0, 2].set(title="what so many products miss", xlabel="products", ylabel="part of the norm")
for ax, (title, matrix) in zip(axes[1], (("rows", of_rows), ("columns", of_columns)), strict=False):
    ax.imshow(matrix, cmap="RdBu", vmin=-np.abs(matrix).max(), vmax=np.abs(matrix).max())
    ax.set_title(f"the factor of the {title}")
shown = np.concatenate([*drawn], axis=1)
axes[1, 2].imshow(shown, cmap="gray_r")
axes[1, 2].set_title("random pictures with that product")
axes[1, 2].set_axis_off()
plt.show()
