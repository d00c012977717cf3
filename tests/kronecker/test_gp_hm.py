"""The paper's optimisation: the objective against a dense formula, and where it goes."""

import numpy as np
import pytest

from linalgkit.kronecker import (
    Dirichlet,
    Nonlinearity,
    SpectralMixture,
    StudentTMixture,
    solve_gp_hm,
)
from linalgkit.kronecker._array_api_gp_hm import Joint, _adam, _whole

X = np.linspace(0, 1, 9)
Y = np.array([0.0, 0.1, 0.35, 0.5, 0.6, 0.8, 0.95, 1.1])  # not equispaced


@pytest.fixture
def torch(require):
    """More threads wait for each other longer than these matrices take, where cores are shared."""
    torch = require("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(threads)


def density(found, source, edges, weight, taus, jitter):
    """The log joint of Δu + u³ − f in dense Kronecker products, by NumPy alone."""
    first, second = (
        kernel.gram(nodes) + jitter * np.eye(nodes.size)
        for kernel, nodes in zip(found.kernel, (X, Y), strict=True)
    )
    covariance = np.kron(first, second)
    u = found.u.ravel()
    prior = -0.5 * np.linalg.slogdet(covariance)[1] - 0.5 * u @ np.linalg.solve(covariance, u)
    along_x, along_y = (
        kernel.gram(nodes, orders=(2, 0)) @ np.linalg.inv(gram)
        for kernel, nodes, gram in zip(found.kernel, (X, Y), (first, second), strict=True)
    )
    residual = along_x @ found.u + found.u @ along_y.T + found.u**3 - source
    misfit = np.concatenate([edge - values for edge, values in edges])
    boundary = 0.5 * misfit.size * np.log(taus[0]) - 0.5 * taus[0] * misfit @ misfit
    inside = 0.5 * source.size * np.log(taus[1]) - 0.5 * taus[1] * np.sum(residual**2)
    return prior + weight * boundary + inside, np.linalg.norm(residual) / np.linalg.norm(source)


@pytest.mark.parametrize("family", [SpectralMixture, StudentTMixture])
def test_objective(family, torch):
    rng = np.random.default_rng(0)
    source, values = rng.standard_normal((9, 8)), rng.standard_normal(8)
    found = solve_gp_hm(
        {(2, 0): 1.0, (0, 2): 1.0},
        source,
        {(0, 1): Dirichlet(values), (1, 0): Dirichlet(0.5)},
        (X, Y),
        kernel=family,
        terms=2,
        highest=2.0,
        nonlinearity=Nonlinearity(lambda u: u**3, [lambda u: 3 * u**2]),
        boundary_weight=3.0,
        learning_rate=1e-3,
        maxiter=1,
        jitter=1e-3,
    )
    # One step of Adam: each noise has moved by the learning rate, down or up.
    edges = [(found.u[-1], values), (found.u[:, 0], np.full(9, 0.5))]
    signs = [(a, b) for a in (-1, 1) for b in (-1, 1)]
    wanted = [
        density(found, source, edges, 3.0, np.exp(1e-3 * np.array(sign)), 1e-3) for sign in signs
    ]
    assert min(abs(found.fun - value) for value, _ in wanted) < 1e-6 * abs(found.fun)
    np.testing.assert_allclose(found.residual, wanted[0][1], rtol=1e-6)


@pytest.mark.parametrize("method", ["adam", "lbfgs"])
def test_libraries_agree(method, torch, require):
    jnp = require("jax.numpy")

    results = []
    for asarray in (torch.asarray, jnp.asarray):
        found = solve_gp_hm(
            {(2,): 1.0}, asarray(np.sin(3 * X)), {(0, 0): Dirichlet(0.0)}, asarray(X),
            terms=3, highest=2.0, maxiter=4, method=method,
        )  # fmt: skip
        results.append(np.asarray(found.u))
        assert type(found.predict(X[:2])) is type(found.u)
    np.testing.assert_allclose(results[0], results[1], rtol=0, atol=1e-8)


@pytest.mark.parametrize("library", ["torch", "jax.numpy"])
def test_best_u_for_the_rest(library, torch, require):
    """Of a linear equation: the maximum of the quadratic function, in dense matrices."""
    xp = require(library)
    rng = np.random.default_rng(0)
    source, values, slopes = (rng.standard_normal(shape) for shape in ((9, 8), 8, 9))
    terms = [((2, 0), [1.0, 1.0]), ((0, 1), [np.linspace(1, 2, 9), 1.0])]
    conditions = [[(1, 0, values)], [(0, 1, slopes)]]
    joint = Joint((X, Y), terms, xp.asarray(source), conditions, None, False, 3.0, 1e-2)
    rest = [joint.like(part) for part in (0.4, -0.3, *[[-0.5, -1.0], [0.3, 1.0], [-0.5, 0.2]] * 2)]
    best = _whole(lambda rest: joint.coloured([joint.best(rest), *rest])[0], joint.source)
    found = np.asarray(best(rest))

    kernel = StudentTMixture(np.exp([-0.5, -1.0]), [0.3, 1.0], np.exp([-0.5, 0.2]))
    grams = [kernel.gram(nodes) + 1e-2 * np.eye(nodes.size) for nodes in (X, Y)]
    second, first = (
        kernel.gram(nodes, orders=(order, 0)) @ np.linalg.inv(gram)
        for nodes, order, gram in zip((X, Y), (2, 1), grams, strict=True)
    )
    equation = np.kron(second, np.eye(8)) + np.kron(np.diag(np.linspace(1, 2, 9)), first)
    face, other = np.kron(np.eye(9)[-1:], np.eye(8)), np.kron(np.eye(9), first[:1])
    matrix, right = np.linalg.inv(np.kron(*grams)), np.zeros(72)
    for rows, data, precision in ((equation, source.ravel(), np.exp(-0.3)),
                                  (face, values, 3 * np.exp(0.4)),
                                  (other, slopes, 3 * np.exp(0.4))):  # fmt: skip
        matrix, right = matrix + precision * rows.T @ rows, right + precision * rows.T @ data
    np.testing.assert_allclose(found.ravel(), np.linalg.solve(matrix, right), rtol=0, atol=1e-9)


def test_progress(torch, capsys):
    steps = []
    solve_gp_hm(
        {(2,): 1.0}, np.sin(3 * X), {(0, 0): Dirichlet(0.0)}, X, terms=2, highest=2.0, maxiter=2,
        progress=True, callback=lambda step, u: steps.append(step),
    )  # fmt: skip
    assert steps == [1, 2]
    assert "2/2" in capsys.readouterr().err


def test_methods_approach_the_solution(torch):
    x = np.linspace(0, 1, 24)
    nothing = Nonlinearity(lambda u: 0 * u, [lambda u: 0 * u])  # u is a variable as any other
    errors, joint = {}, {}
    for name, method, pointwise in (
        ("adam", "adam", None), ("u too", "lbfgs", nothing), ("best u", "lbfgs", None)
    ):  # fmt: skip
        steps = []
        found = solve_gp_hm(
            {(2,): 1.0}, -100 * np.sin(10 * x),
            {(0, 0): Dirichlet(0.0), (0, 1): Dirichlet(float(np.sin(10)))}, x,
            terms=2, highest=1.6, maxiter=60, method=method, learning_rate=0.05,
            nonlinearity=pointwise,
            callback=lambda step, u, steps=steps: steps.append(np.abs(u - np.sin(10 * x)).max()),
        )  # fmt: skip
        assert len(steps) == found.nit == 60
        assert steps[-1] < 0.8 * steps[0]
        np.testing.assert_array_equal(steps[-1], np.abs(found.u - np.sin(10 * x)).max())
        errors[name], joint[name] = steps[-1], found.fun
    assert joint["best u"] > joint["u too"] > joint["adam"]
    assert errors["u too"] < 0.1
    assert errors["u too"] < errors["adam"] / 5
    assert errors["best u"] < 1e-3


@pytest.mark.parametrize("method", ["adam", "lbfgs"])
def test_callback_stops(method, torch):

    def stop(step, u):
        if step == 2:
            raise StopIteration

    found = solve_gp_hm({(2,): 1.0}, np.sin(3 * X), {(0, 0): Dirichlet(0.0)}, X, terms=2,
                        highest=2.0, maxiter=40, method=method, callback=stop)  # fmt: skip
    assert (found.nit, found.status) == (2, 2)


def test_errors():
    with pytest.raises(ValueError, match="kernel must be"):
        solve_gp_hm({(2,): 1.0}, np.ones(9), {}, np.linspace(0, 1, 9), kernel="rbf")
    with pytest.raises(ValueError, match="jitter must be greater"):
        solve_gp_hm({(2,): 1.0}, np.ones(9), {}, np.linspace(0, 1, 9), jitter=0.0)
    with pytest.raises(TypeError, match="highest must be a number"):
        solve_gp_hm({(2,): 1.0}, np.ones(9), {}, np.linspace(0, 1, 9), highest="20")
    with pytest.raises(ValueError, match="method must be one of 'adam', 'lbfgs'"):
        solve_gp_hm({(2,): 1.0}, np.ones(9), {}, np.linspace(0, 1, 9), method="newton")


@pytest.mark.parametrize("method", ["adam", "lbfgs"])
def test_a_start_without_cholesky_factors(method, torch):
    x = np.linspace(0, 1, 24, dtype=np.float32)
    with pytest.raises(np.linalg.LinAlgError, match=r"at the start.* jitter=1e-12"):
        solve_gp_hm({(2,): 1.0}, np.sin(3 * x), {(0, 0): Dirichlet(0.0)}, x, terms=2, highest=1.0,
                    jitter=1e-12, method=method)  # fmt: skip


def test_adam_that_leaves_what_is_finite(torch):
    found = solve_gp_hm({(2,): 1.0}, np.sin(3 * X), {(0, 0): Dirichlet(0.0)}, X,
                        terms=2, highest=2.0, learning_rate=1e4, maxiter=5)  # fmt: skip
    assert (found.status, found.success, found.nit) == (3, False, 0)
    assert "smaller learning_rate" in found.message
    assert np.isfinite(found.fun)
    assert np.isfinite(found.u).all()


@pytest.mark.parametrize("library", ["torch", "jax.numpy"])
def test_adam_returns_the_last_finite_iterate(library, torch, require):
    xp = require(library)

    class Falling:
        """Its logarithm is NaN one step past zero, as JAX's Cholesky factors are."""

        source, jitter = xp.asarray([1.0]), 1e-6

        def __call__(self, parameters):
            return xp.sum(xp.log(parameters[0]))

    steps = []
    (last,), value, nit, is_lost = _adam(
        Falling(), [xp.asarray([1.0])], 10, 0.4, lambda step, u: steps.append(float(u()[0]))
    )
    np.testing.assert_allclose(steps, [0.6, float(last[0])], rtol=1e-6)
    assert (nit, is_lost) == (2, True)
    np.testing.assert_allclose(value, np.log(steps[-1]), rtol=1e-6)
