"""Solves with products, least squares, and solves with noise or missing points."""

import numpy as np
import pytest
from kronecker.cases import dense, random
from scipy.sparse import csc_array
from scipy.sparse.linalg import aslinearoperator, splu

import linalgkit
from linalgkit import _testing, kronecker
from linalgkit.kronecker._schur import solve_by_schur

ENGINES = ["array_api", "numba"]


def matrix_of(kind, rng, dtype, n):
    a = random(rng, dtype, n, n)
    if kind == "sym":
        return (a + a.conj().T).astype(dtype)
    if kind == "pos":
        return (a @ a.conj().T + n * np.eye(n)).astype(dtype)
    a = a + 3 * np.sqrt(n) * np.eye(n)
    return (np.tril(a) if n % 2 else np.triu(a)).astype(dtype) if kind == "tri" else a.astype(dtype)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", "fdFD")
@pytest.mark.parametrize("kind", ["gen", "sym", "pos", "tri"])
def test_solve(kind, dtype, engine):
    rng = np.random.default_rng(0)
    factors = [matrix_of(kind, rng, dtype, n) for n in (4, 3, 5)]
    b = random(rng, dtype, 2, 60)
    with linalgkit.use_engine(engine):
        x = kronecker.kron_solve(factors, b, assume_a=kind)
        block = kronecker.KroneckerProduct(factors).solve(b.T, assume_a=kind)
    wide = [a.astype("D" if np.dtype(dtype).kind == "c" else "d") for a in factors]
    expected = np.linalg.solve(dense(wide), b.T).T
    condition = np.prod([np.linalg.cond(a) for a in wide])
    atol = 10 * np.finfo(dtype).eps * condition * np.abs(expected).max()
    np.testing.assert_allclose(x, expected, rtol=0, atol=atol)
    np.testing.assert_allclose(block, expected.T, rtol=0, atol=atol)


@pytest.mark.parametrize("engine", ENGINES)
def test_solve_in_batches(engine):
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 1, 3, 3)), rng.standard_normal((4, 2, 2))
    y = rng.standard_normal((4, 6))
    with linalgkit.use_engine(engine):
        x = kronecker.kron_solve([a, b], y)
    assert x.shape == (2, 4, 6)
    for i, j in np.ndindex(2, 4):
        expected = np.linalg.solve(np.kron(a[i, 0], b[j]), y[j])
        np.testing.assert_allclose(x[i, j], expected, rtol=1e-9, atol=1e-10)


class OnlyInverse:
    """An operator with matvec and inv, and no solve."""

    def __init__(self, matrix):
        self.matrix, self.shape = matrix, matrix.shape

    def matvec(self, x):
        return self.matrix @ x

    def inv(self):
        return aslinearoperator(np.linalg.inv(self.matrix))


@pytest.mark.parametrize("engine", ENGINES)
def test_operators_as_factors(engine):
    rng = np.random.default_rng(14)
    a, b, c, d, e = (matrix_of("pos", rng, "d", n) for n in (3, 4, 2, 2, 2))
    block = kronecker.KroneckerProduct([c, d])
    factors = [a, splu(csc_array(b)), block, OnlyInverse(e)]
    y = rng.standard_normal((2, 96))
    with linalgkit.use_engine(engine):
        x = kronecker.kron_solve(factors, y, assume_a="pos")
    expected = np.linalg.solve(dense([a, b, c, d, e]), y.T).T
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-12)


def test_operators_that_do_not_solve():
    y = np.ones(4)
    operator = aslinearoperator(np.eye(2))
    with pytest.raises(TypeError, match=r"factors\[1\] is a .*Operator with neither"):
        kronecker.kron_solve([np.eye(2), operator], y)
    lu = splu(csc_array(np.eye(2)))
    with pytest.raises(np.linalg.LinAlgError, match=r"factors\[1\] is singular"):
        kronecker.kron_solve([lu, np.ones((2, 2))], y)
    with pytest.raises(ValueError, match=r"factors\[1\] has shape \(2, 3\)"):
        kronecker.kron_solve([lu, np.ones((2, 3))], y)
    with pytest.raises(ValueError, match="without batch axes"):
        kronecker.kron_solve([lu, np.ones((3, 2, 2))], y)
    with pytest.raises(TypeError, match=r"factors\[0\] is a SuperLU, which solves but does not"):
        kronecker.kron_lstsq([lu, np.eye(2)], y)


@pytest.mark.parametrize("library", ["numpy", "array_api_strict", "torch", "jax"])
def test_singular_factor_is_named(library, require):
    if library != "numpy":
        require(library)
    used = _testing.library(library)
    factors = [used.asarray(np.eye(2)), used.asarray(np.ones((2, 2)))]
    with pytest.raises(np.linalg.LinAlgError, match=r"factors\[1\] is singular"):
        kronecker.kron_solve(factors, used.asarray(np.ones(4)))


@pytest.mark.parametrize("engine", ENGINES)
def test_wrong_assumptions_are_told(engine):
    with linalgkit.use_engine(engine):
        with pytest.raises(np.linalg.LinAlgError, match=r"factors\[0\] is not positive definite"):
            kronecker.kron_solve([-np.eye(2)], np.ones(2), assume_a="pos")
        with pytest.raises(ValueError, match="neither upper nor lower"):
            kronecker.kron_solve([np.ones((2, 2))], np.ones(2), assume_a="tri")
        with pytest.raises(ValueError, match="assume_a must be one of"):
            kronecker.kron_solve([np.eye(2)], np.ones(2), assume_a="her")
        with pytest.raises(ValueError, match="square"):
            kronecker.kron_solve([np.ones((2, 3))], np.ones(3))


@pytest.mark.parametrize("rcond", [None, 1e-3])
@pytest.mark.parametrize(
    "shapes", [[(5, 3), (4, 2)], [(3, 5), (2, 2)], [(4, 4), (2, 3), (3, 2)]], ids=str
)
def test_least_squares_are_those_of_the_dense_matrix(shapes, rcond):
    rng = np.random.default_rng(2)
    factors = [rng.standard_normal(shape) for shape in shapes]
    factors[0][:, 0] = factors[0][:, 1]  # of lower rank
    factors[1][:, 1] = factors[1][:, 0] + 1e-4 * factors[1][:, 1]  # nearly
    b = rng.standard_normal(int(np.prod([m for m, _ in shapes])))
    x = kronecker.kron_lstsq(factors, b, rcond=rcond)
    expected = np.linalg.lstsq(dense(factors), b, rcond=rcond)[0]
    np.testing.assert_allclose(x, expected, rtol=1e-7, atol=1e-7 * np.abs(expected).max())


def covariance(points, length):
    return np.exp(-((points[:, None] - points) ** 2) / (2 * length**2))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("missing", [0, 3, 40])
def test_missing_points_are_left_out(missing, engine):
    rng = np.random.default_rng(3)
    factors = [covariance(np.linspace(0, 1, n), 0.3) for n in (9, 11)]
    noise = rng.uniform(0.01, 1.0, 99)
    noise[rng.permutation(99)[:missing]] = np.inf
    b = rng.standard_normal(99)
    b[np.isinf(noise)] = np.nan  # not read
    steps = []
    with linalgkit.use_engine(engine):
        x = kronecker.shifted_solve(
            factors, b, 0.1, noise=noise.reshape(9, 11), tol=1e-12,
            callback=lambda step, residual: steps.append(residual),
        )  # fmt: skip
    there = np.isfinite(noise)
    matrix = np.kron(*factors)[np.ix_(there, there)] + np.diag(noise[there] + 0.1)
    expected = np.linalg.solve(matrix, b[there])
    np.testing.assert_allclose(x[there], expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    assert not x[~there].any()
    assert steps[-1] <= 1e-12 < steps[-2]


@pytest.mark.parametrize("library", ["array_api_strict", "torch", "jax"])
def test_noise_in_other_libraries(library, require):
    require(library)
    used = _testing.library(library)
    factors = [covariance(np.arange(n) / 2.0, 0.7) for n in (4, 5)]
    noise, b = np.linspace(0.1, 1, 20), np.arange(20.0)
    noise[[3, 11]] = np.inf
    x = kronecker.shifted_solve(
        [used.asarray(a) for a in factors], used.asarray(b), 0.2, noise=used.asarray(noise)
    )
    expected = kronecker.shifted_solve(factors, b, 0.2, noise=noise)
    assert isinstance(x, used.array_type)
    np.testing.assert_allclose(used.asnumpy(x), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("engine", ENGINES)
def test_complex_covariance_with_noise(engine):
    rng = np.random.default_rng(8)
    factors = [matrix_of("pos", rng, "D", n) / n for n in (4, 5)]
    b, noise = random(rng, "D", 20), rng.uniform(0.1, 1, 20)
    with linalgkit.use_engine(engine):
        x = kronecker.shifted_solve(factors, b, noise=noise, tol=1e-13)
    expected = np.linalg.solve(dense(factors) + np.diag(noise), b)
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-11)
    with pytest.raises(TypeError, match="noise must be real"):
        kronecker.shifted_solve(factors, b, noise=noise + 0j)


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_solved_on_empty_grids(engine):
    nothing, some = [np.zeros((0, 0)), np.eye(2)], [np.triu(np.ones((2, 2)))] * 2
    with linalgkit.use_engine(engine):
        for call in (kronecker.kron_solve, kronecker.kron_lstsq, kronecker.kronsum_solve):
            assert call(nothing, np.zeros((3, 0))).shape == (3, 0)
            assert call(some, np.zeros((0, 4))).shape == (0, 4)
        assert kronecker.shifted_solve(nothing, np.zeros(0), 1.0).shape == (0,)


def test_few_missing_points_take_few_steps():
    rng = np.random.default_rng(4)
    factors = [covariance(np.linspace(0, 1, n), 0.1) for n in (30, 40)]
    noise = np.zeros(1200)
    noise[rng.permutation(1200)[:4]] = np.inf
    steps = []
    kronecker.shifted_solve(
        factors, rng.standard_normal(1200), 0.01, noise=noise,
        callback=lambda step, _: steps.append(step),
    )  # fmt: skip
    assert len(steps) <= 6


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", "fdD")
def test_constant_noise_is_exact(dtype, engine):
    rng = np.random.default_rng(5)
    factors = [matrix_of("pos", rng, dtype, n) / n for n in (4, 5, 3)]
    b = random(rng, dtype, 2, 60)
    with linalgkit.use_engine(engine):
        x = kronecker.shifted_solve(factors, b, 0.5)
    expected = np.linalg.solve(dense(factors) + 0.5 * np.eye(60), b.T).T
    atol = 1e4 * np.finfo(dtype).eps * np.abs(expected).max()
    np.testing.assert_allclose(x, expected, rtol=0, atol=atol)


def test_gradient_where_eigenvalues_coincide(require):
    # The derivative of the solution exists; that of the eigenvectors does not.
    require("jax")
    import jax

    eye, b = jax.numpy.eye(3), jax.numpy.arange(9.0)

    def loss(a):
        return kronecker.shifted_solve([a, eye], b, 1.0).sum()

    def truth(a):
        matrix = jax.numpy.kron((a + a.T) / 2, eye) + jax.numpy.eye(9)
        return jax.numpy.linalg.solve(matrix, b).sum()

    found, expected = (jax.jit(jax.grad(f))(eye) for f in (loss, truth))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"noise": np.ones(3)}, ValueError, "noise must have shape"),
        ({"noise": -np.ones(4)}, ValueError, "from 0 to infinity"),
        ({"noise": np.full(4, np.nan)}, ValueError, "from 0 to infinity"),
        ({"noise": np.ones(4), "tol": 0.0}, ValueError, "tol must be"),
        ({"noise": np.ones(4), "maxiter": 0}, ValueError, "maxiter must be"),
    ],
)
def test_bad_noise(options, error, message):
    with pytest.raises(error, match=message):
        kronecker.shifted_solve([np.eye(2)] * 2, np.ones(4), **options)


def test_what_cannot_be_solved_is_told():
    eye = np.eye(3)
    with pytest.raises(np.linalg.LinAlgError, match="singular to working precision"):
        kronecker.shifted_solve([eye, eye], np.ones(9), -1.0)
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        kronecker.shifted_solve([-eye, eye], np.ones(9), noise=np.full(9, 0.1))
    rng = np.random.default_rng(6)
    noise = rng.uniform(1e-9, 1e3, 100)
    smooth = covariance(np.arange(10.0), 3)
    with pytest.raises(np.linalg.LinAlgError, match=r"no convergence to .* in 2 steps"):
        kronecker.shifted_solve([smooth] * 2, rng.standard_normal(100), noise=noise, maxiter=2)
    with pytest.raises(ValueError, match="b must be finite"):
        kronecker.shifted_solve([eye], np.array([1, np.nan, 1]), noise=np.ones(3))
    with pytest.raises(TypeError, match="one right-hand side"):
        kronecker.shifted_solve([eye], np.ones((2, 3)), noise=np.ones(3))
    with pytest.raises(TypeError, match="shift must be a number"):
        kronecker.shifted_solve([eye], np.ones(3), "much")


@pytest.mark.parametrize(
    "sizes", [(70,), (40, 75), (75, 40), (30, 150), (9, 8, 10), (3, 40, 2, 5)], ids=str
)
@pytest.mark.parametrize("dtype", "dD")
def test_schur_by_halves(sizes, dtype):
    # Larger than what is left to LAPACK; real factors have pairs of complex eigenvalues.
    rng = np.random.default_rng(7)
    factors = [random(rng, dtype, n, n) + 4 * np.sqrt(n) * np.eye(n) for n in sizes]
    x = random(rng, dtype, int(np.prod(sizes)))
    b = kronecker.kronsum_matvec(factors, x) + 0.5 * x
    got = solve_by_schur(b, factors, 0.5, 1)
    assert got.dtype == np.dtype(dtype)
    np.testing.assert_allclose(got, x, rtol=0, atol=1e-11)


def test_schur_forms_have_the_same_bits_from_any_number_of_workers():
    rng = np.random.default_rng(8)
    factors, b = [random(rng, "d", n, n) for n in (30, 20)], random(rng, "d", 600)
    found = []
    for n in (1, 2):
        with linalgkit.use_workers(n):
            found.append(kronecker.kronsum_solve(factors, b, method="schur"))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("dtype", "fdFD")
def test_schur_forms_that_do_not_exist(dtype):
    factors = [np.full((3, 3), np.nan, dtype), np.eye(2, dtype=dtype)]
    with pytest.raises(np.linalg.LinAlgError, match="no Schur form"):
        kronecker.kronsum_solve(factors, np.ones(6, dtype), method="schur")
    empty = [np.eye(2, dtype=dtype), np.empty((0, 0), dtype)]
    assert kronecker.kronsum_solve(empty, np.ones(0, dtype), method="schur").shape == (0,)
