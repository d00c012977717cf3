"""Equations with known solutions; the solver sees source, boundary data and operator only."""

import numpy as np
import pytest
import sympy as sp
from kronecker.problems import OTHERS, TABLE, problem, solved_on_a_square
from numpy.polynomial import Polynomial

from linalgkit.kronecker import (
    Dirichlet,
    Envelopes,
    Neumann,
    Nonlinearity,
    SpectralMixture,
    StudentTMixture,
    _array_api_pde,
    _array_api_pde_systems,
    solve_pde,
)

T = np.linspace(0, 1, 83)  # where solutions are compared, no nodes
ZERO = {(0, 0): Dirichlet(0.0), (0, 1): Dirichlet(0.0)}


def error(found, exact):
    """Relative to the largest value; `exact` takes as many coordinates as there are axes."""
    ndim = len(found.grid)
    points = [np.linspace(float(g[0]), float(g[-1]), T.size) for g in found.grid]
    truth = exact(*np.meshgrid(*points, indexing="ij", sparse=ndim > 2))
    return np.abs(found.predict(points) - truth).max() / np.abs(truth).max()


def dirichlet(exact, grid, faces=None):
    """Values of a function on all faces."""
    ndim = len(grid)
    u = exact(*np.meshgrid(*grid, indexing="ij"))
    return {
        (axis, side): Dirichlet(np.take(u, -side, axis=axis))
        for axis in range(ndim)
        for side in (0, 1)
        if faces is None or (axis, side) in faces
    }


@pytest.mark.parametrize("name", TABLE)
def test_table(name):
    *parts, promised = TABLE[name]
    case = problem(*parts)
    found = case.solved(solve_pde)
    assert found.success
    assert found.residual < 1e-11
    assert case.error(found) < promised


@pytest.mark.parametrize("name", OTHERS)
def test_what_no_one_tuned_for(name):
    *parts, promised = OTHERS[name]
    case = problem(*parts)
    found = case.solved(solve_pde)
    assert found.success
    assert case.error(found) < promised


@pytest.mark.parametrize("seed", range(4))
def test_random_frequencies(seed):
    rng = np.random.default_rng(seed)
    omega, phase, size = rng.uniform(20, 150, 3), rng.uniform(0, 6, 3), rng.uniform(0.2, 2, 3)
    x = np.linspace(-1, 2, 500)

    def exact(x, power=0):
        waves = size * (-(omega**2)) ** power * np.cos(np.multiply.outer(x, omega) + phase)
        return waves.sum(axis=-1)

    found = solve_pde({(2,): 1.0}, exact(x, 1), dirichlet(exact, (x,)), x)
    assert found.success
    assert error(found, exact) < 1e-9
    strong = np.sort(found.frequencies[0][:3]) * 2 * np.pi
    if np.diff(np.sort(omega)).min() > 8:
        np.testing.assert_allclose(strong, np.sort(omega), atol=0.2)


def test_helmholtz():
    k, x = 24 * np.pi, np.linspace(0, 1, 120)

    def exact(x, y):
        return np.sin(k * x) * np.sin(k * y)

    source = k**2 * exact(x[:, None], x)
    operator = {(2, 0): -1.0, (0, 2): -1.0, (0, 0): -(k**2)}
    found = solve_pde(operator, source, dirichlet(exact, (x, x)), (x, x))
    assert error(found, exact) < 1e-12
    # Again with the functions that were found: no search, the same solution.
    calls = []
    again = solve_pde(operator, source, dirichlet(exact, (x, x)), (x, x), kernel=found.kernel,
                      callback=lambda *trial: calls.append(trial))  # fmt: skip
    assert len(calls) == 1
    np.testing.assert_array_equal(again.u, found.u)


def test_three_dimensions():
    grid = (np.linspace(0, 1, 40), np.linspace(0, 1.5, 44), np.linspace(-1, 0, 48))

    def exact(x, y, z):
        return np.sin(30 * x) * np.cos(35 * y) * np.sin(25 * z + 1) + x * y * z

    x, y, z = np.meshgrid(*grid, indexing="ij")
    source = -(30**2 + 35**2 + 25**2) * (exact(x, y, z) - x * y * z)
    operator = {(2, 0, 0): 1.0, (0, 2, 0): 1.0, (0, 0, 2): 1.0}
    found = solve_pde(operator, source, dirichlet(exact, grid), grid)
    assert found.success
    assert error(found, exact) < 5e-11


@pytest.mark.parametrize(("nodes", "promised"), [(24, 1e-9), (32, 1e-7)])
def test_few_nodes_take_as_many_functions_as_they_can(nodes, promised):
    x = np.linspace(0, 1, nodes)

    def exact(x, y, z):
        return np.sin(30 * x + 0.3) * np.sin(35 * y + 0.3) * np.sin(25 * z + 0.3)

    source = -(30**2 + 35**2 + 25**2) * exact(*np.meshgrid(x, x, x, indexing="ij"))
    operator = {(2, 0, 0): 1.0, (0, 2, 0): 1.0, (0, 0, 2): 1.0}
    found = solve_pde(operator, source, dirichlet(exact, (x, x, x)), (x, x, x))
    assert error(found, exact) < promised


def test_solution_that_the_source_does_not_show():
    """The frequency stands in the operator alone: u'' + k²u = exp(x)."""
    k, x = 80.3, np.linspace(0, 1, 250)

    def exact(x):
        return np.sin(k * x) + np.exp(x) / (1 + k**2)

    found = solve_pde({(2,): 1.0, (0,): k**2}, np.exp(x), dirichlet(exact, (x,)), x)
    assert error(found, exact) < 5e-11


def test_boundary_layer():
    """εu'' + u' = 1 has a layer of a third of the grid's step."""
    eps, x = 1e-3, np.linspace(0, 1, 300)

    def exact(x):
        return x - (1 - np.exp(-x / eps)) / (1 - np.exp(-1 / eps))

    found = solve_pde({(2,): eps, (1,): 1.0}, np.ones(300), ZERO, x)
    assert found.success
    assert error(found, exact) < 1e-10


def test_laplace_with_an_oscillating_edge():
    x = np.linspace(0, 1, 100)

    def exact(x, y):
        return np.sinh(30 * (1 - x)) / np.sinh(30) * np.sin(30 * y)

    operator = {(2, 0): 1.0, (0, 2): 1.0}
    found = solve_pde(operator, np.zeros((100, 100)), dirichlet(exact, (x, x)), (x, x))
    assert found.success
    assert error(found, exact) < 1e-10


def test_heat_with_a_neumann_end():
    t, x = np.linspace(0, 1, 60), np.linspace(0, 1, 120)

    def exact(t, x):
        return np.exp(-3 * t) * np.sin(40 * x) + np.sin(5 * t) * x

    decay, wave = np.exp(-3 * t)[:, None], np.sin(40 * x)
    source = (1600 - 3) * decay * wave + 5 * np.cos(5 * t)[:, None] * x
    boundary = dirichlet(exact, (t, x), {(0, 0), (1, 0)})
    slope = 40 * np.cos(40) * np.exp(-3 * t) + np.sin(5 * t)
    boundary[1, 1] = Neumann(slope)
    found = solve_pde({(1, 0): 1.0, (0, 2): -1.0}, source, boundary, (t, x))
    assert found.success
    assert error(found, exact) < 1e-9
    at_end = found.predict([t, [1.0]], orders=(0, 1))
    np.testing.assert_allclose(at_end[:, 0], slope, rtol=0, atol=1e-8)


def test_wave_equation_from_initial_values():
    t, x = np.linspace(0, 1, 150), np.linspace(0, 1, 120)

    def exact(t, x):
        return np.cos(40 * (x - 2 * t))

    boundary = dirichlet(exact, (t, x), {(0, 0), (1, 0), (1, 1)})
    boundary[0, 0] = [boundary[0, 0], Neumann(80 * np.sin(40 * x))]
    found = solve_pde({(2, 0): 1.0, (0, 2): -4.0}, np.zeros((150, 120)), boundary, (t, x))
    assert found.success
    assert error(found, exact) < 1e-10


def test_biharmonic():
    x = np.linspace(0, 1, 300)

    def exact(x):
        return np.sin(50 * x) + x**3

    boundary = {
        (0, 0): [Dirichlet(0.0), Neumann(50.0)],
        (0, 1): [Dirichlet(exact(1.0)), Neumann(50 * np.cos(50) + 3)],
    }
    found = solve_pde({(4,): 1.0}, 50.0**4 * np.sin(50 * x), boundary, x)
    assert error(found, exact) < 1e-10


def test_clamped_plate():
    x = np.linspace(0, 1, 100)

    def exact(x, y):
        return np.sin(20 * x) * np.cos(25 * y)

    source = (20**2 + 25**2) ** 2 * exact(x[:, None], x)
    boundary = dirichlet(exact, (x, x))
    for side in (0, 1):
        along_x = Neumann(20 * np.cos(20 * side) * np.cos(25 * x))
        along_y = Neumann(-25 * np.sin(20 * x) * np.sin(25 * side))
        boundary[0, side] = [boundary[0, side], along_x]
        boundary[1, side] = [boundary[1, side], along_y]
    found = solve_pde({(4, 0): 1.0, (2, 2): 2.0, (0, 4): 1.0}, source, boundary, (x, x))
    assert found.success
    assert error(found, exact) < 1e-10


@pytest.mark.parametrize("separable", [True, False])
def test_variable_coefficients(separable):
    x = np.linspace(0, 1, 100)

    def exact(x, y):
        return np.sin(25 * x) * np.cos(30 * y)

    u = exact(x[:, None], x)
    if separable:  # each term acts on one axis: a Sylvester equation
        operator = {(2, 0): (1 + x**2, 1.0), (0, 2): (1.0, 2 + np.cos(x)), (0, 0): 3.0}
        source = u * (3 - 625 * (1 + x[:, None] ** 2) - 900 * (2 + np.cos(x)))
    else:
        operator = {(2, 0): (1 + x, 1 + x), (0, 2): 1.0, (1, 1): 0.1}
        mixed = -750 * np.cos(25 * x)[:, None] * np.sin(30 * x)
        source = u * (-625 * np.outer(1 + x, 1 + x) - 900) + 0.1 * mixed
    found = solve_pde(operator, source, dirichlet(exact, (x, x)), (x, x))
    assert found.success
    assert error(found, exact) < 1e-10


def test_burgers():
    nu, x = 0.1, np.linspace(0, 1, 250)

    def exact(x):
        return np.sin(40 * x) + x

    source = 1600 * nu * np.sin(40 * x) + exact(x) * (40 * np.cos(40 * x) + 1)
    convection = Nonlinearity(
        lambda u, slope: u * slope, [lambda u, slope: slope, lambda u, slope: u], [(0,), (1,)]
    )
    found = solve_pde({(2,): -nu}, source, dirichlet(exact, (x,)), x, nonlinearity=convection)
    assert found.success
    assert found.nit > 1
    assert error(found, exact) < 1e-10


def test_burgers_in_two_dimensions():
    x = np.linspace(0, 1, 80)

    def exact(x, y):
        return np.sin(20 * x) * np.cos(15 * y)

    u, slope = exact(x[:, None], x), 20 * np.outer(np.cos(20 * x), np.cos(15 * x))
    convection = Nonlinearity(
        lambda u, slope: u * slope, [lambda u, slope: slope, lambda u, slope: u], [(0, 0), (1, 0)]
    )
    found = solve_pde({(2, 0): 1.0, (0, 2): 1.0}, -625 * u + u * slope,
                      dirichlet(exact, (x, x)), (x, x), nonlinearity=convection)  # fmt: skip
    assert found.success
    assert error(found, exact) < 5e-11


def test_grid_that_is_not_equispaced():
    x = (1 - np.cos(np.linspace(0, np.pi, 300))) / 2
    found = solve_pde({(2,): 1.0}, -(90.0**2) * np.sin(90 * x),
                      dirichlet(lambda x: np.sin(90 * x), (x,)), x)  # fmt: skip
    assert error(found, lambda x: np.sin(90 * x)) < 1e-10
    np.testing.assert_allclose(found.frequencies[0][0] * 2 * np.pi, 90, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "kernel", "promised"),
    [
        ("P1", SpectralMixture, 1e-9),
        ("P1", StudentTMixture, 1e-10),
        ("AC1", StudentTMixture, 1e-10),  # whose source has also the frequency of u³
    ],
)
def test_kernels_of_the_paper(name, kernel, promised):
    case = problem(*TABLE[name][:-1])
    found = case.solved(solve_pde, kernel=kernel, tol=1e-7)
    assert isinstance(found.kernel[0], kernel)
    assert found.success
    assert case.error(found) < promised
    np.testing.assert_allclose(2 * np.pi * found.kernel[0].means, [0, 100], atol=1e-3)
    again = case.solved(solve_pde, kernel=found.kernel[0], tol=1e-7)
    np.testing.assert_array_equal(again.u, found.u)


@pytest.mark.parametrize("nu", [2.5, 4.5])
def test_long_student_t_mixtures_have_half_the_digits_more(nu):
    """Singular values of features are roots of the Gram matrix's eigenvalues."""
    case = problem(*TABLE["P1"][:-1])
    kernel = StudentTMixture([0.5, 0.5], [0.0, 50 / np.pi], [600.0, 700.0], nu)
    found = case.solved(solve_pde, kernel=kernel, tol=1e-9)
    assert found.success
    assert case.error(found) < 1e-10
    (basis,) = found._fitted.bases
    gram = (basis.q * basis.singular**2) @ basis.q.T
    np.testing.assert_allclose(gram, kernel.gram(case.grid[0]), rtol=0, atol=1e-12)


def test_derivatives_anywhere():
    case = problem(*TABLE["P7"][:-1])
    found = case.solved(solve_pde)
    points = np.array([0.3, 1.7]), np.array([4.4])
    mixed = found.predict(points, orders=(2, 0))
    x = points[0]
    truth = 12 * 20 * -np.cos(6 * x) * np.sin(20 * x) - 436 * np.sin(6 * x) * np.cos(20 * x)
    np.testing.assert_allclose(mixed[:, 0], truth, rtol=0, atol=1e-8)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_points_of_no_grid(ndim, monkeypatch):
    monkeypatch.setattr(_array_api_pde, "_POINTS", 3)
    axes = [np.linspace(0, 1, n) for n in (20, 22, 24)[:ndim]]
    orders = tuple(np.eye(ndim, dtype=int)[-1])
    faces = {(axis, side): Dirichlet(0.0) for axis in range(ndim) for side in (0, 1)}
    laplacian = {tuple(2 * row): 1.0 for row in np.eye(ndim, dtype=int)}
    found = solve_pde(laplacian, np.ones([len(x) for x in axes]), faces, axes, tol=1e-2)
    points = np.random.default_rng(0).uniform(size=(2, 4, ndim))
    result = found.predict(points if ndim > 1 else points[..., 0].ravel(), orders=orders)
    if ndim > 1:
        assert result.shape == (2, 4)
        assert found.predict(points[:0]).shape == (0, 4)
    for point, value in zip(points.reshape(-1, ndim), result.ravel(), strict=True):
        on_grid = found.predict([[x] for x in point], orders=orders)
        np.testing.assert_allclose(value, on_grid.ravel()[0], rtol=1e-12, atol=1e-13)


def test_progress(capsys):
    x = np.linspace(0, 1, 50)
    solve_pde({(2,): 1.0}, np.ones(50), ZERO, x, progress=True)
    shown = capsys.readouterr().err
    assert "trials" in shown
    assert "residual" in shown
    solve_pde({(2,): 1.0}, np.ones(50), ZERO, x)
    assert not capsys.readouterr().err


def test_deviation_covers_the_error():
    """Noise on the source: the error is as large as the deviation says."""
    x = np.linspace(0, 1, 300)
    noise = np.random.default_rng(0).standard_normal(300)
    source = -(60.0**2) * np.sin(60 * x) + 2 * noise
    found = solve_pde({(2,): 1.0}, source, dirichlet(lambda x: np.sin(60 * x), (x,)), x,
                      kernel=[Envelopes((0j, 60j), (4, 2))])  # fmt: skip
    misfit = np.abs(found.u - np.sin(60 * x))
    deviation = found.std()
    assert deviation.shape == (300,)
    assert deviation[0] < 1e-12  # boundary data are exact
    assert 0.1 < np.sqrt(np.mean(misfit**2) / np.mean(deviation**2)) < 3
    case = problem(*TABLE["P7"][:-1])
    assert case.solved(solve_pde).std([np.zeros(1), np.ones(3)]).shape == (1, 3)


@pytest.mark.parametrize(("draws", "ndim"), [(400, 2), (50, 2), (400, 3)])
def test_deviation_at_points_of_no_grid(draws, ndim, monkeypatch):
    """At nodes as on the grid, whatever the portions: exact, and from draws."""
    monkeypatch.setattr(_array_api_pde, "_POINTS", 5)
    monkeypatch.setattr(_array_api_pde_systems, "DRAWS", draws)
    axes = [np.linspace(0, 1, n) for n in (16, 18, 20)[:ndim]]
    faces = {(axis, 0): Dirichlet(0.0) for axis in range(ndim)}
    operator = {tuple(row): 1.0 for row in np.eye(ndim, dtype=int)}
    found = solve_pde(operator, np.ones([len(x) for x in axes]), faces, axes,
                      kernel=[Envelopes((0j,), (4 + axis,)) for axis in range(ndim)])  # fmt: skip
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)[3:5]
    np.testing.assert_allclose(found.std(nodes), found.std()[3:5], rtol=1e-11, atol=1e-30)
    assert found.std(nodes[:0]).shape == (0, *found.u.shape[1:])
    with pytest.raises(ValueError, match=rf"shape \(\.\.\., {ndim}\); got shape \(7,\)"):
        found.std(np.ones(7))


def test_deviation_is_that_of_independent_errors():
    """Galerkin's equation in polynomials, as one dense matrix."""
    x, y = np.linspace(0, 1, 15), np.linspace(0, 2, 18)
    operator = {(2, 0): 1.0, (0, 2): 0.5, (0, 0): -1.0}
    faces = {(axis, side): Dirichlet(0.0) for axis in (0, 1) for side in (0, 1)}
    source = np.outer(np.exp(3 * x), np.cos(2 * y))
    points = np.random.default_rng(0).uniform(0, 1, (3, 2)) * [1, 2]
    found = solve_pde(operator, source, faces, (x, y),
                      kernel=[Envelopes((0j,), (6,)), Envelopes((0j,), (5,))])  # fmt: skip
    parts = []
    for grid, at, count in ((x, points[:, 0], 4), (y, points[:, 1], 3)):
        edges = Polynomial([0, grid[-1], -1])  # zero at both ends
        functions = [edges * Polynomial.basis(k) for k in range(count)]
        values = np.stack([f(grid) for f in functions], axis=1)
        q, r = np.linalg.qr(values)  # orthonormal on the grid
        curved = np.stack([f.deriv(2)(grid) for f in functions], axis=1)
        rows = np.stack([f(at) for f in functions], axis=1)
        parts.append((q.T @ curved @ np.linalg.inv(r), rows @ np.linalg.inv(r)))
    (along_x, rows_x), (along_y, rows_y) = parts
    whole = np.kron(along_x, np.eye(3)) + 0.5 * np.kron(np.eye(4), along_y) - np.eye(12)
    rows = np.einsum("pi,pj->pij", rows_x, rows_y).reshape(3, 12)
    covariance = np.linalg.inv(whole) @ np.linalg.inv(whole).T
    terms = [factor * found.predict((x, y), orders=o) for o, factor in operator.items()]
    noise = found.residual * max(np.sqrt(np.mean(term**2)) for term in [*terms, source])
    wanted = noise * np.sqrt(np.einsum("pi,ij,pj->p", rows, covariance, rows))
    np.testing.assert_allclose(found.std(points), wanted, rtol=1e-8)


def test_windows():
    """A solution made of the functions that the docstring names, and its derivatives."""
    t = sp.Symbol("t")
    z, y = (t - 0.4) / 0.1, t - 0.4
    terms = sp.exp(-(z**2)) * (sp.cos(10 * sp.pi * y) - sp.sin(10 * sp.pi * y / 3) + 1)
    formula = terms + sp.erf(z) - 2 * y * sp.erf(z) + t
    exact = [sp.lambdify(t, formula.diff(t, order), ["scipy", "numpy"]) for order in range(5)]
    x = np.linspace(0, 1, 120)
    kernel = [Envelopes((0j,), (2,), windows=((0.4, 0.1, 3),))]
    found = solve_pde({(2,): 1.0}, exact[2](x), dirichlet(exact[0], (x,)), x, kernel=kernel)
    assert found.success
    assert found._fitted.sizes == (11,)
    for order, truth in enumerate(exact):
        scale = np.abs(truth(T)).max()
        np.testing.assert_allclose(found.predict(T, order), truth(T), rtol=0, atol=1e-11 * scale)


def test_places_of_local_data():
    """Two packets have two windows; a layer too steep for the grid is said to be."""
    x = np.linspace(0, 1, 400)

    def packets(x):
        return sum(np.exp(-(((x - c) / 0.01) ** 2)) * np.cos(300 * x) for c in (0.3, 0.7))

    found = solve_pde({(0,): 1.0}, packets(x), {}, x, tol=1e-4)
    assert found.success
    np.testing.assert_allclose([c for c, *_ in found.kernel[0].windows], [0.3, 0.7], atol=2e-3)
    assert error(found, packets) < 1e-4
    steep = np.tanh(200 * (x - 0.4))
    found = solve_pde({(2,): 1.0}, -2 * 200**2 * steep * (1 - steep**2),
                      {(0, 0): Dirichlet(-1.0), (0, 1): Dirichlet(1.0)}, x)  # fmt: skip
    assert not found.success
    assert found.residual > 1e-2


def test_evidence_prefers_the_right_frequency():
    x = np.linspace(0, 1, 200)
    source = -(60.0**2) * np.sin(60 * x)
    boundary = dirichlet(lambda x: np.sin(60 * x), (x,))
    right, wrong = (
        solve_pde({(2,): 1.0}, source, boundary, x, kernel=[Envelopes((0j, 1j * w), (5, 4))])
        for w in (60, 75)
    )
    assert right.log_evidence > wrong.log_evidence
    assert right.residual < wrong.residual


def test_what_cannot_be_resolved_is_said():
    x = np.linspace(0, 1, 200)
    kink = solve_pde({(2,): 1.0}, np.sign(x - 0.3), ZERO, x)
    assert (kink.success, kink.status) == (False, 1)
    assert "misses tol" in kink.message
    coarse = np.linspace(0, 2 * np.pi, 200)
    exact = np.sin(6 * coarse) * np.cos(100 * coarse)  # up to 106, and the grid resolves 99.5
    source = -(100**2 + 36) * exact - 1200 * np.cos(6 * coarse) * np.sin(100 * coarse)
    with pytest.warns(RuntimeWarning, match="alias"):
        solve_pde({(2,): 1.0}, source, ZERO, coarse)


def test_newton_that_finds_nothing_is_said():
    """u'' + exp(u) λ = 0 with zero ends has no solution for λ > 3.52."""
    x = np.linspace(0, 1, 60)
    bratu = Nonlinearity(lambda u: 6 * np.exp(u), [lambda u: 6 * np.exp(u)])
    found = solve_pde({(2,): 1.0}, np.zeros(60), ZERO, x, nonlinearity=bratu)
    assert not found.success
    assert found.status in (1, 2)


def test_newton_that_overflows_is_said():
    x = np.linspace(0, 1, 40)
    steep = Nonlinearity(lambda u: np.exp(50 * u), [lambda u: 50 * np.exp(50 * u)])
    faces = {(axis, side): Dirichlet(0.0) for axis in (0, 1) for side in (0, 1)}
    source = -1e5 * np.outer(np.sin(9 * x), np.sin(9 * x))
    with pytest.raises(np.linalg.LinAlgError, match="Newton's method diverges"):
        solve_pde({(2, 0): 1.0, (0, 2): 1.0}, source, faces, (x, x), nonlinearity=steep)


def test_neumann_data_alone():
    x = np.linspace(0, 1, 80)
    u = np.outer(np.cos(10 * np.pi * x), np.cos(8 * np.pi * x))
    faces = {(axis, side): Neumann(0.0) for axis in (0, 1) for side in (0, 1)}
    found = solve_pde({(2, 0): 1.0, (0, 2): 1.0}, -164 * np.pi**2 * u, faces, (x, x))
    assert found.success
    assert np.ptp(found.u - u) < 1e-10  # up to a constant


def test_callback_stops_the_search():
    def stop(kernels, residual):
        raise StopIteration

    x = np.linspace(0, 1, 200)
    found = solve_pde({(2,): 1.0}, np.sin(50 * x**2), ZERO, x, callback=stop)
    assert found.status == 3
    assert "callback" in found.message


def test_as_many_functions_as_nodes():
    """Nothing can be held out: no success, and numbers all the same."""
    found = solved_on_a_square(kernel=StudentTMixture([1.0], [0.0], [0.01]))
    assert (found.status, found.residual) == (1, np.inf)
    assert np.isfinite(found.log_evidence)
    assert np.all(np.isfinite(found.std()))


def test_float32_in_float32_out():
    x = np.linspace(0, 1, 200, dtype=np.float32)
    found = solve_pde({(2,): 1.0}, (-2500 * np.sin(50 * x)).astype(np.float32),
                      dirichlet(lambda x: np.sin(50 * x), (x,)), x, tol=1e-4)  # fmt: skip
    assert found.u.dtype == found.predict(x).dtype == np.float32
    assert np.abs(found.u - np.sin(50 * x)).max() < 1e-4


def test_heat_in_two_dimensions_and_time():
    """Derivatives of first order, known on one side, have hardly independent eigenvectors."""
    grid = np.linspace(0, 1, 40), np.linspace(0, 1, 45), np.linspace(0, 1, 50)

    def exact(t, x, y):
        return np.exp(-t) * np.sin(20 * x) * np.cos(25 * y)

    source = (20**2 + 25**2 - 1) * exact(*np.meshgrid(*grid, indexing="ij"))
    boundary = dirichlet(exact, grid)
    del boundary[0, 1]
    operator = {(1, 0, 0): 1, (0, 2, 0): np.int64(-1), (0, 0, 2): np.float32(-1)}
    found = solve_pde(operator, source, boundary, grid)
    assert found.success
    assert error(found, exact) < 1e-9
    assert found.std([np.array([1.0])] * 3).shape == (1, 1, 1)
