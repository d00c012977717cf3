"""Kronecker sums: all methods against SciPy and dense solves, exponentials, gradients, errors."""

import numpy as np
import pytest
from kronecker.cases import dense_sum, random
from scipy.linalg import expm, solve_sylvester

import linalgkit
from linalgkit import kronecker

ENGINES = ["array_api", "numba"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", "fdFD")
@pytest.mark.parametrize("method", ["auto", "schur", "eig"])
def test_two_factors_are_sylvesters_equation(method, dtype, engine):
    rng = np.random.default_rng(0)
    a, b = ((random(rng, dtype, n, n) + 20 * np.eye(n)).astype(dtype) for n in (37, 45))
    c = random(rng, dtype, 37, 45)
    with linalgkit.use_engine(engine):
        x = kronecker.kronsum_solve([a, b], c.ravel(), method=method)
    expected = solve_sylvester(a, b.T, c)
    assert x.dtype == np.dtype(dtype)
    atol = 2000 * np.finfo(dtype).eps * np.abs(expected).max()
    np.testing.assert_allclose(x.reshape(37, 45), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shift", [0.0, -0.7, 0.3 + 2j])
@pytest.mark.parametrize("method", ["auto", "schur", "eig", "eigh"])
@pytest.mark.parametrize("sizes", [(5,), (3, 4), (3, 2, 4), (2, 3, 2, 3)], ids=str)
def test_any_number_of_factors(sizes, method, shift, engine):
    rng = np.random.default_rng(1)
    factors = [rng.standard_normal((n, n)) + 4 * np.eye(n) for n in sizes]
    if method == "eigh":
        factors = [a + a.T for a in factors]
    b = rng.standard_normal((2, int(np.prod(sizes))))
    with linalgkit.use_engine(engine):
        x = kronecker.kronsum_solve(factors, b, shift=shift, method=method)
        block = kronecker.KroneckerSum(factors).solve(b.T, shift=shift, method=method)
    matrix = dense_sum(factors) + shift * np.eye(b.shape[1])
    np.testing.assert_allclose(x, np.linalg.solve(matrix, b.T).T, rtol=0, atol=1e-11)
    np.testing.assert_allclose(block, x.T, rtol=0, atol=1e-12)


def test_defective_factors_go_by_schur():
    jordan = np.eye(4) + np.eye(4, k=1)
    factors = [jordan, jordan + 1, jordan]
    b = np.arange(64.0)
    x = kronecker.kronsum_solve(factors, b)
    np.testing.assert_allclose(x, np.linalg.solve(dense_sum(factors), b), rtol=0, atol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
def test_batches_of_factors(engine):
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((3, 4, 4)) + 5 * np.eye(4), rng.standard_normal((2, 2))
    c = rng.standard_normal((3, 8))
    with linalgkit.use_engine(engine):
        for method in ("schur", "eig", "eigh"):
            factors = [a + np.swapaxes(a, -1, -2), b + b.T] if method == "eigh" else [a, b]
            x = kronecker.kronsum_solve(factors, c, method=method)
            for k in range(3):
                expected = np.linalg.solve(dense_sum([factors[0][k], factors[1]]), c[k])
                np.testing.assert_allclose(x[k], expected, rtol=0, atol=1e-11)


def test_poisson_against_the_sine_transform():
    from scipy.fft import dstn, idstn

    n = 40
    d = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    b = np.random.default_rng(3).standard_normal((n, n, n))
    values = 4 * np.sin(np.pi * np.arange(1, n + 1) / (2 * n + 2)) ** 2
    total = values[:, None, None] + values[:, None] + values
    expected = idstn(dstn(b, type=1) / total, type=1)
    x = kronecker.kronsum_solve([d] * 3, b.ravel()).reshape(b.shape)
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("method", ["schur", "eig", "eigh"])
@pytest.mark.parametrize("dtype", "dD")
def test_gradients_by_differences(method, dtype):
    rng = np.random.default_rng(4)
    factors = [random(rng, dtype, n, n) + 5 * np.eye(n) for n in (3, 4)]
    b, g = random(rng, dtype, 12), random(rng, dtype, 12)
    options = {"shift": 0.5, "method": method}
    found = kronecker.kronsum_solve_vjp(g, factors, b, **options)
    steps = [random(rng, dtype, *z.shape) for z in (*factors, b)]

    def loss(t):
        a, c, d = (z + t * step for z, step in zip((*factors, b), steps, strict=True))
        return np.vdot(g, kronecker.kronsum_solve([a, c], d, **options)).real

    slope = sum(np.vdot(p, q).real for p, q in zip((*found.factors, found.b), steps, strict=True))
    assert slope == pytest.approx((loss(1e-6) - loss(-1e-6)) / 2e-6, rel=1e-6)


def test_gradient_where_eigenvalues_coincide(require):
    require("jax")
    import jax

    eye = jax.numpy.eye(3)

    def loss(a):
        return (kronecker.kronsum_solve([a, eye], jax.numpy.arange(9.0), method="eigh") ** 2).sum()

    got = jax.jit(jax.grad(loss))(eye)
    b = np.arange(9.0)
    expected = kronecker.kronsum_solve_vjp(b, [np.eye(3)] * 2, b, method="eigh").factors[0]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)  # x = b / 2: 2 x = b


def test_torch_takes_all_methods_through_the_fast_engine(require):
    require("torch")
    import torch

    rng = np.random.default_rng(5)
    arrays = [torch.tensor(rng.standard_normal((n, n)) + 4 * np.eye(n)) for n in (3, 2)]
    b = torch.tensor(rng.standard_normal(6))
    for array in (*arrays, b):
        array.requires_grad_()
    for method in ("schur", "eig"):
        assert torch.autograd.gradcheck(
            lambda a, c, d, m=method: kronecker.kronsum_solve([a, c], d, method=m), (*arrays, b)
        )
    with (
        linalgkit.use_engine("array_api"),
        pytest.raises(TypeError, match="method='eig' or 'eigh'"),
    ):
        kronecker.kronsum_solve(arrays, b, method="schur")


@pytest.mark.parametrize("method", ["schur", "eig", "eigh"])
@pytest.mark.parametrize("engine", ENGINES)
def test_singular_sums_are_told(method, engine):
    a, b = np.diag([1.0, 2.0]), np.diag([-2.0, 5.0])
    with (
        linalgkit.use_engine(engine),
        pytest.raises(np.linalg.LinAlgError, match="singular to working precision"),
    ):
        kronecker.kronsum_solve([a, b], np.ones(4), method=method)


def test_auto_asks_for_values(require):
    require("jax")
    import jax

    eye = jax.numpy.eye(2)
    with pytest.raises(TypeError, match="method='eigh'"):
        jax.jit(lambda a: kronecker.kronsum_solve([a, a], jax.numpy.ones(4)))(eye)


@pytest.mark.parametrize("t", [0.0, -0.8, 0.5j])
def test_exponential(t):
    rng = np.random.default_rng(6)
    factors = [rng.standard_normal((n, n)) for n in (3, 4, 2)]
    x = rng.standard_normal((2, 24))
    expected = x @ expm(t * dense_sum(factors)).T
    got = kronecker.kronsum_expm_multiply(factors, x, t)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "lu"}, ValueError, "method must be one of"),
        ({"shift": np.inf}, ValueError, "shift must be finite"),
        ({"shift": "1"}, TypeError, "shift must be a number"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        kronecker.kronsum_solve([np.eye(2)] * 2, np.ones(4), **options)


@pytest.mark.parametrize("engine", ["array_api", "numba"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_generalized_solve_in_batches(dtype, engine):
    rng = np.random.default_rng(0)

    def hermitian(*shape):
        a = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if dtype[0] == "c" else 0)
        return a @ a.conj().mT + np.eye(shape[-1])

    factors, masses = [hermitian(2, n, n) for n in (3, 4)], [hermitian(n, n) for n in (3, 4)]
    b = rng.standard_normal((2, 12)).astype(dtype)
    with linalgkit.use_engine(engine):
        x = kronecker.kronsum_solve_generalized(factors, masses, b, shift=-0.1)
    for item in range(2):
        one, other = (factor[item] for factor in factors)
        matrix = np.kron(one, masses[1]) + np.kron(masses[0], other) - 0.1 * np.kron(*masses)
        np.testing.assert_allclose(matrix @ x[item], b[item], rtol=0, atol=1e-10)


def test_generalized_solve_refuses():
    a, b = [np.eye(2), np.eye(3)], np.ones(6)
    solve = kronecker.kronsum_solve_generalized
    with pytest.raises(np.linalg.LinAlgError, match=r"masses\[1\] must be positive definite"):
        solve(a, [np.eye(2), np.diag([1.0, 0, 1])], b)
    with pytest.raises(np.linalg.LinAlgError, match=r"masses\[0\] must be .* finite"):
        solve(a, [np.diag([1.0, np.nan]), np.eye(3)], b)
    with pytest.raises(np.linalg.LinAlgError, match="singular"):
        solve(a, a, b, shift=-2.0)
    with pytest.raises(ValueError, match="one mass for each of 2 factors; got 1"):
        solve(a, a[:1], b)
    with pytest.raises(ValueError, match=r"masses\[0\] must have the shape of factors\[0\]"):
        solve(a, a[::-1], b)
    with pytest.raises(TypeError, match="masses must be a sequence of matrices"):
        solve(a, None, b)
    with pytest.raises(TypeError, match="shift must be a number; got 'a'"):
        solve(a, a, b, shift="a")
    with pytest.raises(TypeError, match="t must be a number; got 'a'"):
        kronecker.kronsum_expm_multiply(a, b, "a")


@pytest.mark.parametrize("engine", ["array_api", "numba"])
def test_generalized_solve_with_a_complex_shift(engine):
    rng = np.random.default_rng(0)
    factors, masses = ([a @ a.T + np.eye(n) for n in (3, 4) for a in [rng.standard_normal((n, n))]]
                       for _ in range(2))  # fmt: skip
    with linalgkit.use_engine(engine):
        x = kronecker.kronsum_solve_generalized(factors, masses, np.arange(12.0), shift=0.3j)
    matrix = np.kron(factors[0], masses[1]) + np.kron(masses[0], factors[1])
    matrix = matrix + 0.3j * np.kron(*masses)
    np.testing.assert_allclose(matrix @ x, np.arange(12.0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", [2, 3, 6])
def test_one_factor_with_imaginary_eigenvalues(size, engine):
    # The diagonal of its real Schur form is zero, and it is regular (where the order is even).
    skew = np.eye(size, k=1) - np.eye(size, k=-1)
    b = np.arange(1.0, size + 1)
    with linalgkit.use_engine(engine):
        x = kronecker.kronsum_solve([skew], b, shift=0.5 * (size % 2))
        expected = np.linalg.solve(skew + 0.5 * (size % 2) * np.eye(size), b)
        np.testing.assert_allclose(x, expected, rtol=0, atol=1e-12)
        for method in ("schur", "eig"):
            with pytest.raises(np.linalg.LinAlgError, match="singular"):
                kronecker.kronsum_solve([np.diag([1.0, 1e-17]) @ np.eye(2)], b[:2], method=method)


def test_pairs_of_eigenvalues_that_are_nearly_singular_are_told():
    # A block of large diagonal and determinant zero.
    block = np.array([[1e3, 1e3], [-1e3, -1e3]])
    with pytest.raises(np.linalg.LinAlgError, match="singular"):
        kronecker.kronsum_solve([block], np.ones(2), method="schur")


def test_symmetry_is_that_of_each_item():
    a = np.stack([np.array([[1.0, 1.0], [0.0, 2.0]]), 1e20 * np.eye(2)])
    x = kronecker.kronsum_solve([a], np.ones((2, 2)))
    np.testing.assert_allclose(x[0], np.linalg.solve(a[0], np.ones(2)), rtol=1e-12)


def test_eigenvectors_are_found_once(monkeypatch):
    from linalgkit.kronecker import _array_api_solves

    calls, eig = [], _array_api_solves._eig
    monkeypatch.setattr(_array_api_solves, "_eig", lambda a: calls.append(1) or eig(a))
    monkeypatch.setattr(np.linalg, "eig", lambda a, eig=np.linalg.eig: calls.append(1) or eig(a))
    rng = np.random.default_rng(7)
    factors = [rng.standard_normal((n, n)) + 4 * np.eye(n) for n in (2, 3, 2)]
    x = kronecker.kronsum_solve(factors, np.ones(12))
    np.testing.assert_allclose(dense_sum(factors) @ x, np.ones(12), rtol=0, atol=1e-12)
    assert len(calls) <= 6  # at most one of each kind a factor
