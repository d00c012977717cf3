"""
A noisy photograph with missing pixels
======================================

A photograph is seen through noise; most of its pixels are lost, and a scratch runs over it. A
Gaussian process fills in and smooths at once: its covariance over the pixels is the Kronecker
product of one over rows and one over columns, so it takes all pixels as they are, without a
low-rank approximation.
"""

# %%
# What is left
# ------------
# A crop of a photograph that scikit-learn ships, in grey.

import os

import matplotlib.pyplot as plt
import numpy as np
from scipy.spatial import cKDTree
from sklearn.datasets import load_sample_image

from linalgkit import kronecker

rows, columns = (60, 90) if os.environ.get("LINALGKIT_EXAMPLE_SIZE") == "small" else (100, 150)
photograph = load_sample_image("flower.jpg")[130 : 130 + rows, 240 : 240 + columns] / 255
photograph = photograph.mean(axis=2)
rng = np.random.default_rng(0)
deviation = 0.05
seen = photograph + deviation * rng.standard_normal(photograph.shape)
lost = rng.random(photograph.shape) < 0.6
i, j = np.indices(photograph.shape)
lost |= np.abs(i - 0.4 * j - 0.2 * rows) < 2
print(f"{lost.mean():.0%} of {lost.size:,} pixels are lost")

# %%
# The covariance
# --------------
# Neighbouring pixels are alike, distant ones are not: a Matérn covariance of order 3/2 along each
# axis, with the variance of the pixels. A missing pixel has infinite noise.


def filled(length, missing):
    """Return the mean of the process at all pixels, and the residuals of the solve."""
    mean, variance = seen[~missing].mean(), seen[~missing].var() - deviation**2
    points = (np.sqrt(3) * np.arange(n) / length for n in (rows, columns))
    distances = (np.abs(np.subtract.outer(t, t)) for t in points)
    factors = [np.sqrt(variance) * (1 + r) * np.exp(-r) for r in distances]
    residuals = []
    weights = kronecker.shifted_solve(
        factors,
        np.where(missing, np.nan, seen - mean).ravel(),
        noise=np.where(missing, np.inf, deviation**2),
        tol=1e-3,
        callback=lambda step, residual: residuals.append(residual),
    )
    return mean + kronecker.kron_matvec(factors, weights).reshape(rows, columns), residuals


# %%
# The length is chosen by the pixels that are left: a tenth of them is held out and predicted.

held_out = ~lost & (rng.random(lost.shape) < 0.1)
scores = {}
for length in (2, 4, 8):
    predicted, _ = filled(length, lost | held_out)
    scores[length] = np.sqrt(np.mean((predicted - seen)[held_out] ** 2))
    print(f"length {length}: held-out error {scores[length]:.4f}, of which noise {deviation}")
best = min(scores, key=scores.get)

# %%
# The picture
# -----------
# With all pixels that are left, and the best of these lengths. The photograph is known, so all
# pixels can be judged. What one would do otherwise is the mean of some nearest pixels that are
# there; their number is the best of four that were tried, for which the photograph must be known.

picture, residuals = filled(best, lost)


def error(found):
    return np.sqrt(np.mean((found - photograph) ** 2))


there = np.argwhere(~lost)
_, nearest = cKDTree(there).query(np.stack([i, j], axis=-1), k=16)
values = seen[tuple(np.moveaxis(there[nearest], -1, 0))]
means = {count: values[..., :count].mean(axis=-1) for count in (2, 4, 8, 16)}
count = min(means, key=lambda count: error(means[count]))
print(f"root mean square error: process {error(picture):.4f} in {len(residuals)} steps, "
      f"mean of {count} neighbours {error(means[count]):.4f}")  # fmt: skip

panels = {
    "photograph": photograph,
    "what is left": np.where(lost, 1.0, seen),
    f"Gaussian process, error {error(picture):.3f}": picture,
    f"mean of {count} neighbours, error {error(means[count]):.3f}": means[count],
}
figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
for axis, (title, pixels) in zip(axes.flat, panels.items(), strict=True):
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    axis.set_title(title)
    axis.axis("off")

# %%
# The steps
# ---------
# Conjugate gradients, preconditioned by the exact inverse for noise that is the same everywhere.

figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
axis.semilogy(np.arange(1, len(residuals) + 1), residuals)
axis.set(xlabel="step", ylabel="relative residual")

plt.show()
