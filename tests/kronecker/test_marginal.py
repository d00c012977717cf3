"""Evidence against SciPy's density and differences, fitted kernels, differentiation matrices."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from linalgkit.kronecker import (
    SpectralMixture,
    StudentTMixture,
    differentiation_matrix,
    dominant_frequencies,
    fit_kernel,
    log_marginal_likelihood,
)

X = np.sort(np.random.default_rng(1).random(20))
Y = np.random.default_rng(0).standard_normal((20, 2))
PARTS = [0.7, 0.3], [0.5, 3.0], [0.6, 0.8]
KERNELS = {"gaussian": SpectralMixture, "matern": StudentTMixture}


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("family", KERNELS)
def test_value_and_gradient(family, order):
    make = KERNELS[family]
    kernel = make(*PARTS)
    value, gradient = log_marginal_likelihood(kernel, X, Y, order=order, nugget=1e-2, grad=True)
    covariance = kernel.gram(X, orders=(order, order))
    covariance += 1e-2 * covariance[0, 0] * np.eye(20)
    np.testing.assert_allclose(value, multivariate_normal(cov=covariance).logpdf(Y.T).sum())

    def moved(place, q, step):
        parts, nugget = [np.array(p) for p in PARTS], 1e-2
        if place == 3:
            nugget *= np.exp(step)
        elif place == 1:
            parts[1][q] += step
        else:
            parts[place][q] *= np.exp(step)
        return log_marginal_likelihood(make(*parts), X, Y, order=order, nugget=nugget)

    for place, q in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]:
        slope = (moved(place, q, 1e-5) - moved(place, q, -1e-5)) / 2e-5
        got = gradient[place] if place == 3 else gradient[place][q]
        np.testing.assert_allclose(got, slope, rtol=1e-5, atol=1e-4)


def test_fit_finds_the_frequencies():
    x = np.linspace(0, 10, 80)
    noise = 0.1 * np.random.default_rng(0).standard_normal(80)
    y = np.sin(2 * np.pi * 1.7 * x) + 0.5 * np.cos(2 * np.pi * 3.3 * x) + noise
    for family in KERNELS.values():
        fit = fit_kernel(family, x, y, max_terms=2, maxiter=60)
        np.testing.assert_allclose(np.sort(fit.x.means[1:]), [1.7, 3.3], atol=0.02)
        variance = fit.nugget * float(fit.x(np.zeros(1))[0])
        assert 0.007 < variance < 0.02
        start = log_marginal_likelihood(fit.x, x, y, nugget=10 * fit.nugget)
        np.testing.assert_allclose(fit.fun, log_marginal_likelihood(fit.x, x, y, nugget=fit.nugget))
        assert start < fit.fun


def test_jeffreys_prior_prunes():
    x = np.linspace(0, 10, 80)
    y = np.sin(2 * np.pi * 1.7 * x)
    start = SpectralMixture([0.5, 0.5], [1.7, 2.9], [0.05, 0.05])
    fit = fit_kernel(start, x, y, prior="jeffreys", nugget=1e-4)
    plain = fit_kernel(start, x, y, nugget=1e-4)
    assert fit.x.weights[1] < 1e-6 * fit.x.weights[0]
    assert fit.x.weights[1] <= plain.x.weights[1]


@pytest.mark.parametrize("order", [1, 2])
def test_differentiation_matrix(order):
    x = np.linspace(0, 1, 60)
    kernel = SpectralMixture([1.0, 1.0], [0.0, 40 / (2 * np.pi)], [0.3, 0.3])
    matrix = differentiation_matrix(kernel, x, order)
    truth = {1: 40 * np.cos(40 * x), 2: -1600 * np.sin(40 * x)}[order]
    assert np.abs(matrix @ np.sin(40 * x) - truth).max() < 1e-4 * np.abs(truth).max()


def test_dominant_frequencies():
    x, y = np.linspace(0, 2, 150), np.linspace(0, 1, 170)
    strong, weak = np.cos(2 * np.pi * 11.3 * x), 0.01 * np.sin(2 * np.pi * 20.7 * x)
    field = np.outer(strong + weak + x**2, np.sin(2 * np.pi * 31.4 * y))
    along_x, along_y = dominant_frequencies(field, (x, y), max_terms=2)
    np.testing.assert_allclose(along_x, [11.3, 20.7], atol=1e-2)
    np.testing.assert_allclose(along_y[0], 31.4, atol=1e-4)
    random = np.sort(np.random.default_rng(0).random(200))  # not equispaced
    (found,) = dominant_frequencies(np.sin(2 * np.pi * 9.0 * random), random, max_terms=1)
    np.testing.assert_allclose(found, [9.0], atol=2e-2)
    (nothing,) = dominant_frequencies(np.zeros(50), np.linspace(0, 1, 50))
    assert nothing.shape == (0,)


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (lambda k: log_marginal_likelihood(k, X, Y[:3]), ValueError, "x must have shape"),
        (lambda k: log_marginal_likelihood(k, X, X * np.nan), ValueError, "y must be finite"),
        (lambda k: log_marginal_likelihood(k, X, X, nugget=0.0), ValueError, "nugget"),
        (lambda k: log_marginal_likelihood("k", X, X), TypeError, "kernel must be"),
        (lambda k: log_marginal_likelihood(k, X, X, order=3), ValueError, "order must be at most"),
        (lambda k: fit_kernel(k, X[::-1], Y), ValueError, "x must increase"),
        (lambda k: fit_kernel(k, X, 0 * Y), ValueError, "y must have an entry"),
        (
            lambda k: fit_kernel(SpectralMixture, X, 1e-170 * Y),
            ValueError,
            r"the largest is \d\.?\d*e-170",
        ),
        (
            lambda k: log_marginal_likelihood(SpectralMixture([0.0], [1.0], [1.0]), X, Y),
            np.linalg.LinAlgError,
            "the covariance of the data is zero",
        ),
        (
            lambda k: log_marginal_likelihood(SpectralMixture([1.0], [0.0], [0.0]), X, Y, order=1),
            np.linalg.LinAlgError,
            "the covariance of the data is zero",
        ),
        (lambda k: differentiation_matrix(k, X, 5), ValueError, "order must be at most 4"),
        (
            lambda k: differentiation_matrix(k, np.zeros(3), 1, nugget=1e-300),
            np.linalg.LinAlgError,
            "not positive definite with nugget=1e-300",
        ),
    ],
)
def test_errors(call, exception, message):
    with pytest.raises(exception, match=message):
        call(StudentTMixture(*PARTS))
