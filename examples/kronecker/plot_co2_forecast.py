"""
Six years of carbon dioxide, forecast
=====================================

The air at Mauna Loa: a rising trend and a season that repeats. A Gaussian process whose kernel is
a spectral mixture finds the season's frequencies in the data. And because a season is a pattern of
twelve months that changes slowly over the years, the same series is also a matrix of years ×
months, whose covariance is a Kronecker product.
"""

# %%
# The series
# ----------
# Monthly means from 1965 on, without gaps. The solver sees the years up to 1995; the trend is a
# parabola by least squares, and what is forecast is the rest.

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from linalgkit.kronecker import (
    SpectralMixture,
    StudentTMixture,
    fit_kernel,
    kron_matvec,
    shifted_solve,
)

here = Path(__file__).parent if "__file__" in globals() else Path.cwd()
table = np.genfromtxt(here.parent / "data" / "co2_monthly.csv", delimiter=",", skip_header=1)
table = table[table[:, 0] >= 1965]
years, ppm = np.unique(table[:, 0]), table[:, 2]
time = table[:, 0] + (table[:, 1] - 0.5) / 12
is_known = time < 1996
trend = np.polynomial.Polynomial.fit(time[is_known], ppm[is_known], 2)
rest = ppm - trend(time)

# %%
# Frequencies from the data
# -------------------------
# :func:`fit_kernel <linalgkit.kronecker.fit_kernel>` starts from the peaks of the spectrum and
# maximises the evidence. It finds one and two cycles a year.

iterations = 12 if os.environ.get("LINALGKIT_EXAMPLE_SIZE") == "small" else 100
fit = fit_kernel(SpectralMixture, time[is_known], rest[is_known], max_terms=3, maxiter=iterations)
print("frequencies, cycles per year:", np.round(fit.x.means, 3))
print("weights:                     ", np.round(fit.x.weights, 3))

gram = fit.x.gram(time[is_known])
gram += fit.nugget * float(fit.x(np.zeros(1))[0]) * np.eye(gram.shape[0])
weights = np.linalg.solve(gram, rest[is_known])
by_mixture = trend(time) + fit.x.gram(time, time[is_known]) @ weights

# %%
# Years × months
# --------------
# The covariance of the matrix is K\ :sub:`years` ⊗ K\ :sub:`months` and noise. The two factors have
# 31 and 12 rows; the covariance of all months, with 372 rows, is never formed.

season = SpectralMixture([1.0, 0.3, 0.1, 0.05], [1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0])
slow = StudentTMixture([0.9, 0.1], [0.0, 0.0], [100.0, 5.0])
known_years = years[years < 1996]
months = (np.arange(12) + 0.5) / 12
of_years, of_months = slow.gram(known_years), 4 * season.gram(months)
alpha = shifted_solve([of_years, of_months], rest[is_known], 0.1)
across = slow.gram(years, known_years)
by_matrix = trend(time) + kron_matvec([across, of_months], alpha)

# %%
# Judged by what came
# -------------------


def error(forecast):
    later = ~is_known
    return np.sqrt(np.mean((forecast[later] - ppm[later]) ** 2))


print(f"root mean square error of 1996 to 2001, ppm: mixture {error(by_mixture):.2f}, "
      f"years × months {error(by_matrix):.2f}, trend alone {error(trend(time)):.2f}")  # fmt: skip

figure, axes = plt.subplots(2, 1, figsize=(10, 7), layout="constrained")
for axis, first in zip(axes, (1965, 1992), strict=True):
    shown = time >= first
    axis.plot(time[shown], ppm[shown], ".", color="0.6", markersize=4, label="measured")
    axis.plot(time[shown], by_mixture[shown], color="#0072B2", label="spectral mixture")
    axis.plot(time[shown], by_matrix[shown], "--", color="#D55E00", label="years ⊗ months")
    axis.axvline(1996, color="0.3", linewidth=0.8)
    axis.set(ylabel="CO₂ (ppm)", xlim=(first, 2002))
    axis.spines[["top", "right"]].set_visible(False)
axes[0].legend(frameon=False)
axes[0].set_title("known up to the line, forecast after it")
plt.show()
