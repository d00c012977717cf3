"""Spectra, determinants, powers and nearest products against those of the dense matrix."""

import numpy as np
import pytest
from kronecker.cases import dense, random
from scipy.linalg import fractional_matrix_power

from linalgkit import _testing, kronecker


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
    with pytest.raises(ValueError, match=r"factors\[0\] must be finite; entry \(1, 0\)"):
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


@pytest.mark.parametrize("p", [-1, -2, -3])
def test_negative_powers_are_those_of_the_inverse(p):
    # The condition number is that of the matrix, not of its power.
    rng = np.random.default_rng(7)
    q, _ = np.linalg.qr(rng.standard_normal((8, 8)))
    w = np.logspace(0, -6, 8)
    (found,) = kronecker.kron_power([(q * w) @ q.T], p)
    expected = (q * w**p) @ q.T
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_fractional_powers_of_what_is_not_hermitian():
    with pytest.raises(ValueError, match=r"needs Hermitian factors; factors\[1\] differs"):
        kronecker.kron_power([np.eye(2), np.array([[1.0, 1.0], [0.0, 1.0]])], 0.5)


def test_each_item_has_powers_by_itself():
    large = 1e20 * np.eye(2)
    with pytest.raises(np.linalg.LinAlgError, match="factors\\[0\\] has -4"):
        kronecker.kron_power([np.stack([large, np.diag([1.0, -4.0])])], 0.5)
    (found,) = kronecker.kron_power([np.stack([large, np.diag([1.0, 4.0])])], -0.5)
    np.testing.assert_allclose(found, [1e-10 * np.eye(2), np.diag([1.0, 0.5])])


@pytest.mark.parametrize("library", ["torch", "jax"])
@pytest.mark.parametrize("p", [0.5, -0.5, 2.5])
def test_gradient_of_powers_where_eigenvalues_coincide(p, library, require):
    require(library)
    q, _ = np.linalg.qr(np.random.default_rng(8).standard_normal((3, 3)))
    weights = np.random.default_rng(9).standard_normal((3, 3))
    used = _testing.library(library)

    def loss(a):
        return (kronecker.kron_power([a], p)[0] * used.asarray(weights)).sum()

    def truth(a):
        return float(np.sum(fractional_matrix_power((a + a.T) / 2, p) * weights))

    for values in ([2.0, 2.0, 2.0], [1.0, 3.0, 3.0], [1.0, 2.0, 2.0 + 1e-9]):
        a = (q * np.array(values)) @ q.T
        a = (a + a.T) / 2
        (found,) = _testing.autograd(library, loss, [a])
        (expected,) = _testing.central_gradient(truth, [a.copy()], 1e-5)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


def test_nothing_has_powers_and_determinants():
    empty = np.zeros((0, 0))
    for p in (0.5, -1.5, 2, -1):
        assert [a.shape for a in kronecker.kron_power([empty, np.eye(2)], p)] == [(0, 0), (2, 2)]
    assert kronecker.kron_slogdet([empty, np.zeros((2, 2))]) == (1, 0)


@pytest.mark.parametrize("scale", [1e-170, 1e170])
def test_nearest_of_numbers_whose_squares_are_out_of_range(scale):
    a = np.random.default_rng(10).standard_normal((4, 4))
    expected = kronecker.nearest_kronecker(a, (2, 2), tol=1e-12)
    found = kronecker.nearest_kronecker(scale * a, (2, 2), tol=1e-12)
    assert found.left.shape == expected.left.shape == (4, 2, 2)
    one, other = (kronecker.nearest_kronecker(x, (2, 2)).error for x in (scale * a, a))
    assert one == pytest.approx(other, rel=1e-12)
