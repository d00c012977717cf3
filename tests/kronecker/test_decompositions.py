"""Spectra, determinants, powers and nearest products against those of the dense matrix."""

import numpy as np
import pytest
from kronecker.cases import dense, random

from linalgkit import kronecker


@pytest.mark.parametrize("k", [1, 5, 24])
@pytest.mark.parametrize("dtype", "dD")
def test_largest_eigenpairs(dtype, k):
    rng = np.random.default_rng(0)
    factors = [random(rng, dtype, n, n) for n in (3, 2, 4)]  # indefinite
    factors = [a + a.conj().T for a in factors]
    values, vectors = kronecker.kron_eigh(factors, k=k)
    every = np.linalg.eigvalsh(dense(factors))
    expected = every[np.argsort(-np.abs(every))][:k]
    np.testing.assert_allclose(np.abs(values), np.abs(expected), rtol=1e-12)
    np.testing.assert_allclose(dense(factors) @ vectors, vectors * values, rtol=0, atol=1e-11)
    np.testing.assert_allclose(vectors.conj().T @ vectors, np.eye(k), rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [1, 4, 12])
def test_largest_singular_values(k):
    rng = np.random.default_rng(1)
    factors = [rng.standard_normal(shape) for shape in ((3, 2), (2, 5), (3, 4))]
    u, s, vh = kronecker.kron_svd(factors, k=k)
    expected = np.linalg.svd(dense(factors), compute_uv=False)[:k]
    np.testing.assert_allclose(s, expected, rtol=1e-12)
    np.testing.assert_allclose(dense(factors) @ vh.T, u * s, rtol=0, atol=1e-12)


def test_largest_of_many_forms_none_of_the_others():
    # 10^12 eigenvalues; equal ones are taken as often as they come.
    factor = np.diag(np.arange(1.0, 101.0))
    values, _ = kronecker.kron_eigh([factor] * 2, k=4)
    np.testing.assert_allclose(values, [10000, 9900, 9900, 9801])
    from linalgkit.kronecker._array_api_decompositions import _largest

    places = _largest([np.arange(1.0, 101.0)] * 6, 8)
    products = np.prod([np.arange(1.0, 101.0)[p] for p in places], axis=0)
    np.testing.assert_allclose(products, [1e12] + [0.99e12] * 6 + [0.9801e12])


@pytest.mark.parametrize("dtype", "dD")
def test_determinant(dtype):
    rng = np.random.default_rng(2)
    factors = [random(rng, dtype, n, n) for n in (2, 3, 5)]
    sign, logarithm = kronecker.kron_slogdet(factors)
    expected = np.linalg.slogdet(dense(factors))
    np.testing.assert_allclose(sign, expected.sign, rtol=0, atol=1e-12)
    np.testing.assert_allclose(logarithm, expected.logabsdet, rtol=1e-13)


def test_determinant_beyond_the_range_of_numbers():
    sign, logarithm = kronecker.kron_slogdet([np.diag([-1e200, 1e100]), 10 * np.eye(1001)])
    assert sign == -1  # 1001 times the first, an odd number
    np.testing.assert_allclose(logarithm, (1001 * 300 + 2 * 1001) * np.log(10), rtol=1e-14)
    sign, logarithm = kronecker.kron_slogdet([np.zeros((2, 2)), np.eye(3)])
    assert (sign, logarithm) == (0, -np.inf)


def test_cholesky_with_jitter():
    ones = np.ones((4, 4))
    with pytest.raises(np.linalg.LinAlgError, match=r"factors\[1\] is not positive definite"):
        kronecker.kron_cholesky([np.eye(2), -ones], max_jitter=1e-6)
    lower = kronecker.kron_cholesky([np.eye(2), ones], max_jitter=1e-6)
    matrix = dense(lower) @ dense(lower).T
    np.testing.assert_allclose(matrix, np.kron(np.eye(2), ones), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="max_jitter must be"):
        kronecker.kron_cholesky([ones], max_jitter=-1.0)
    with pytest.raises(ValueError, match=r"factors\[0\] must be finite; its entry \(1, 0\)"):
        kronecker.kron_cholesky([np.array([[1.0, 0], [np.nan, 1]])])


@pytest.mark.parametrize("p", [0, 3, -2, 0.5, -1.5])
def test_powers(p):
    rng = np.random.default_rng(3)
    factors = [a @ a.T + np.eye(len(a)) for a in (rng.standard_normal((n, n)) for n in (2, 3))]
    values, vectors = np.linalg.eigh(dense(factors))
    expected = (vectors * values**p) @ vectors.T
    got = kronecker.kron_dense(kronecker.kron_power(factors, p))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_powers_that_do_not_exist():
    with pytest.raises(np.linalg.LinAlgError, match="without negative eigenvalues"):
        kronecker.kron_power([np.diag([1.0, -1.0])], 0.5)
    with pytest.raises(np.linalg.LinAlgError, match=r"no power -0\.5"):
        kronecker.kron_power([np.diag([1.0, 0.0])], -0.5)
    with pytest.raises(np.linalg.LinAlgError, match="singular"):
        kronecker.kron_power([np.diag([1.0, 0.0])], -1)
    with pytest.raises(TypeError, match="real number"):
        kronecker.kron_power([np.eye(2)], 1j)


@pytest.mark.parametrize("dtype", "dD")
def test_nearest_of_a_sum_is_the_sum(dtype):
    rng = np.random.default_rng(4)
    parts = [(random(rng, dtype, 3, 2), random(rng, dtype, 2, 4)) for _ in range(3)]
    a = sum(np.kron(b, c) for b, c in parts)
    left, right, error = kronecker.nearest_kronecker(a, (2, 4), tol=1e-12)
    assert left.shape == (3, 3, 2)
    assert error < 1e-12
    got = sum(np.kron(b, c) for b, c in zip(left, right, strict=True))
    np.testing.assert_allclose(got, a, rtol=0, atol=1e-12)


def test_error_of_the_nearest_is_its_distance():
    rng = np.random.default_rng(5)
    a = rng.standard_normal((2, 6, 6))
    left, right, error = kronecker.nearest_kronecker(a, (3, 2), terms=2)
    for k in range(2):
        got = sum(np.kron(left[k, t], right[k, t]) for t in range(2))
        distance = np.linalg.norm(got - a[k]) / np.linalg.norm(a[k])
        assert error[k] == pytest.approx(distance, rel=1e-12)
    assert kronecker.nearest_kronecker(a, (6, 6), terms=5).left.shape == (2, 1, 1, 1)


def test_nearest_of_a_covariance_has_positive_factors():
    rng = np.random.default_rng(6)
    x = rng.standard_normal((12, 40))
    left, right, _ = kronecker.nearest_kronecker(x @ x.T, (4, 4))
    assert np.linalg.eigvalsh(left[0]).min() > 0
    assert np.linalg.eigvalsh(right[0]).min() > 0


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.ones(3), (1, 1)), {}, "a must be a matrix"),
        ((np.ones((4, 4)), (3, 2)), {}, "block_shape must divide"),
        ((np.ones((4, 4)), 2), {}, "block_shape must be"),
        ((np.ones((4, 4)), (2, 2)), {"terms": 0}, "terms must be at least 1"),
        ((np.ones((4, 4)), (2, 2)), {"tol": -1.0}, "tol must be"),
        ((np.full((4, 4), np.nan), (2, 2)), {"tol": 0.1}, "a must be finite"),
    ],
)
def test_bad_input_of_the_nearest(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        kronecker.nearest_kronecker(*arguments, **options)


def test_k_needs_values_and_one_matrix(require):
    with pytest.raises(ValueError, match="at most 4"):
        kronecker.kron_eigh([np.eye(2)] * 2, k=5)
    with pytest.raises(TypeError, match="one matrix a factor"):
        kronecker.kron_eigh([np.ones((2, 2, 2))], k=1)
    require("jax")
    import jax

    with pytest.raises(TypeError, match="kron_eigh without k"):
        jax.jit(lambda a: kronecker.kron_eigh([a], k=1))(jax.numpy.eye(2))
