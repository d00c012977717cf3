"""The room's cases of Gaussian processes and equations; oracles are formulas."""

import numpy as np
from scipy.stats import multivariate_normal

from linalgkit._testing import Case
from linalgkit.kronecker import Dirichlet, SpectralMixture

NODES = np.linspace(0, 1, 40)


def oscillation(library, dtype, rng):
    """u'' = f for u = sin 30x, with its values at both ends."""
    source, x = (-900 * np.sin(30 * NODES)).astype(dtype), library.asarray(NODES.astype(dtype))
    ends = {(0, side): Dirichlet(float(np.sin(30 * side))) for side in (0, 1)}
    return ({(2,): 1.0}, library.asarray(source), ends, x), {"tol": 1e-3}


def wave(library, dtype, rng):
    y = np.sin(2 * np.pi * 6.5 * NODES).astype(dtype)
    return (library.asarray(y), library.asarray(NODES.astype(dtype))), {"max_terms": 1}


def interpolated(library, dtype, rng):
    kernel = SpectralMixture([1.0], [0.0], [0.5])
    return (kernel, library.asarray(np.linspace(0, 1, 6).astype(dtype))), {"nugget": 1e-3}


def derivatives(kernel, x, nugget):
    """K' (K + εI)⁻¹ entry by entry; the refinement step adds ε of it."""
    d = x.astype("float64")[:, None] - x.astype("float64")
    b = 2 * np.pi**2 * 0.25
    gram = np.exp(-b * d**2)
    inverse = np.linalg.inv(gram + nugget * np.eye(6))
    matrix = -2 * b * d * gram @ inverse
    return matrix + (-2 * b * d * gram - matrix @ gram) @ inverse


def sampled(library, dtype, rng):
    x, y = np.linspace(0, 1, 9).astype(dtype), rng.standard_normal(9).astype(dtype)
    kernel = SpectralMixture([0.5], [1.5], [0.5])
    return (kernel, library.asarray(x), library.asarray(y)), {"nugget": 0.1}


def log_density(kernel, x, y, nugget):
    d = x.astype("float64")[:, None] - x.astype("float64")
    covariance = 0.5 * np.exp(-(np.pi**2) / 2 * d**2) * np.cos(3 * np.pi * d)
    return float(multivariate_normal(cov=covariance + 0.05 * np.eye(9)).logpdf(y))


def periodic(library, dtype, rng):
    x = np.linspace(0, 1, 40)
    y = np.sin(2 * np.pi * 6.5 * x) + 0.1 * rng.standard_normal(40)
    arrays = (library.asarray(part.astype(dtype)) for part in (x, y))
    return (SpectralMixture, *arrays), {"max_terms": 1, "maxiter": 20}


def one_step(library, dtype, rng):
    """Adam's first step changes every entry by the learning rate, up the gradient."""
    x = np.linspace(0, 1, 12)
    ends = {(0, 0): Dirichlet(1.0), (0, 1): Dirichlet(-1.0)}
    source = library.asarray(np.cos(x).astype(dtype))
    arguments = ({(0,): 1.0}, source, ends, library.asarray(x.astype(dtype)))
    return arguments, {"terms": 2, "maxiter": 1, "learning_rate": 0.25}


def stepped(operator, source, ends, x, terms, maxiter, learning_rate):
    """At U = 0 the gradient is Σ H's, f inside, and 200 g more at the ends."""
    return learning_rate * np.sign(source + 200 * np.eye(12)[0] - 200 * np.eye(12)[11])


CASES_OF_PROCESSES = [
    Case(
        "kronecker.solve_gp_hm",
        one_step,
        stepped,
        {"float32": 1e-5, "float64": 1e-6},
        lambda found: found.u,
    ),
    Case(
        "kronecker.solve_pde",
        oscillation,
        lambda operator, source, ends, x, tol: np.sin(30 * x),
        {"float32": 1e-4, "float64": 1e-9},
        lambda found: found.u,
    ),
    Case(
        "kronecker.dominant_frequencies",
        wave,
        lambda y, x, max_terms: np.array([6.5]),
        {"float32": 1e-3, "float64": 1e-3},
        lambda found: found[0],
    ),
    Case(
        "kronecker.differentiation_matrix",
        interpolated,
        derivatives,
        {"float32": 1e-5, "float64": 1e-10},
    ),
    Case(
        "kronecker.log_marginal_likelihood",
        sampled,
        log_density,
        {"float32": 1e-5, "float64": 1e-12},
    ),
    Case(
        "kronecker.fit_kernel",
        periodic,
        lambda kernel, x, y, max_terms, maxiter: np.array([6.5]),
        {"float32": 0.05, "float64": 0.05},
        lambda fit: fit.x.means[1:],
    ),
]
