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
        noise = np.zeros(0)
        assert kronecker.shifted_solve(nothing, noise, 1.0, noise=noise).shape == (0,)


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
    with pytest.raises(TypeError, match="one shift and one matrix a factor"):
        kronecker.shifted_solve([np.stack([eye, eye])], np.ones(3), noise=np.ones(3))
    with pytest.raises(TypeError, match="one shift and one matrix a factor"):
        kronecker.shifted_solve([eye], np.ones(3), np.ones(2), noise=np.ones(3))
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


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", "dD")
def test_gradients_of_empty_batches_and_modes(dtype, engine):
    eyes = [np.eye(2, dtype=dtype)] * 2
    none, one = np.ones((0, 4), dtype), np.ones(6, dtype)
    empty = [np.ones((0, 3), dtype), np.eye(2, dtype=dtype)]
    square = [np.ones((0, 0), dtype), np.eye(2, dtype=dtype)]
    with linalgkit.use_engine(engine):
        for call in (kronecker.kron_matvec_vjp, kronecker.kron_solve_vjp,
                     kronecker.kronsum_matvec_vjp, kronecker.shifted_solve_vjp):  # fmt: skip
            gradients = call(none, eyes, none)
            assert gradients[1].shape == (0, 4)
            assert [(g.shape, g.any()) for g in gradients.factors] == [((2, 2), False)] * 2
        gradients = kronecker.kron_matvec_vjp(none.ravel(), empty, one)
        assert [g.shape for g in gradients.factors] == [(0, 3), (2, 2)]
        assert not gradients.x.any()
        gradients = kronecker.kronsum_matvec_vjp(none.ravel(), square, none.ravel())
        assert [g.shape for g in gradients.factors] == [(0, 0), (2, 2)]


@pytest.mark.parametrize("library", ["numpy", "array_api_strict", "torch", "jax"])
def test_noise_with_several_right_hand_sides(library, require):
    if library != "numpy":
        require(library)
    used = _testing.library(library)
    rng = np.random.default_rng(15)
    factors = [covariance(np.linspace(0, 1, n), 0.2) for n in (5, 6)]
    noise = rng.uniform(0.01, 1, 30)
    noise[7] = np.inf
    b = rng.standard_normal((2, 3, 30))
    b[0, 1] = 0  # done before the first step
    b[1, 0] *= 1e-8
    # An eigenvector but for what is missing, and for noise: done long before the others.
    b[1, 2] = np.where(np.isinf(noise), 0, np.kron(*(np.linalg.eigh(a)[1][:, -1] for a in factors)))
    steps = []
    x = kronecker.shifted_solve(
        [used.asarray(a) for a in factors], used.asarray(b), 0.1, noise=used.asarray(noise),
        tol=1e-12, callback=lambda step, residual: steps.append(residual),
    )  # fmt: skip
    there = np.isfinite(noise)
    matrix = np.kron(*factors)[np.ix_(there, there)] + np.diag(noise[there] + 0.1)
    expected = np.zeros_like(b)
    expected[..., there] = np.linalg.solve(matrix, b[..., there, None])[..., 0]
    scale = np.abs(expected).max(axis=-1, keepdims=True) + 1e-300
    np.testing.assert_allclose(used.asnumpy(x) / scale, expected / scale, rtol=0, atol=1e-10)
    assert steps[-1] <= 1e-12 < steps[-2]


def test_noise_has_no_gradients(require):
    # The derivative of the iteration is not that of the solution.
    require("torch")
    import torch

    k = torch.tensor(covariance(np.arange(3.0), 1.0))
    b, noise = torch.ones(9, dtype=torch.float64), torch.linspace(0.1, 1, 9, dtype=torch.float64)

    def solve(b):
        return kronecker.shifted_solve([k, k], b, 0.0, noise=noise)

    leaf = b.clone().requires_grad_()
    for call in (
        lambda: solve(leaf),
        lambda: torch.func.grad(lambda b: solve(b).sum())(b),
        lambda: torch.func.jvp(solve, (b,), (b,)),
    ):
        with pytest.raises(TypeError, match="with noise has no gradients"):
            call()
    with torch.no_grad():
        found = solve(leaf)
    torch.testing.assert_close(found, solve(b), rtol=0, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", "dD")
def test_several_shifts_and_their_gradients(dtype, engine):
    rng = np.random.default_rng(16)
    factors = [matrix_of("pos", rng, dtype, n) / n for n in (2, 3)]
    b, shifts = random(rng, dtype, 6), np.array([[0.1, 2.0], [30.0, 0.5]])
    g = random(rng, dtype, 2, 2, 6)
    with linalgkit.use_engine(engine):
        x = kronecker.shifted_solve(factors, b, shifts)
        found = kronecker.shifted_solve_vjp(g, factors, b, shifts)
        single = kronecker.shifted_solve_vjp(g[1, 0], factors, b, 30, wrt=["shift"])
    assert found.shift.dtype == np.dtype("d")
    assert (single.factors, single.b) == (None, None)
    of_b = 0
    for i, j in np.ndindex(2, 2):
        inverse = np.linalg.inv(dense(factors) + shifts[i, j] * np.eye(6))
        np.testing.assert_allclose(x[i, j], inverse @ b, rtol=0, atol=1e-11)
        pulled = inverse.conj().T @ g[i, j]
        of_b = of_b + pulled
        expected = -np.vdot(pulled, inverse @ b).real
        np.testing.assert_allclose(found.shift[i, j], expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(single.shift, found.shift[1, 0], rtol=1e-10)
    np.testing.assert_allclose(found.b, of_b, rtol=0, atol=1e-10)
    with pytest.raises(TypeError, match="shift must be real"):
        kronecker.shifted_solve(factors, b, shifts + 0j)
    with pytest.raises(ValueError, match="batch axes must fit"):
        kronecker.shifted_solve(factors, np.ones((3, 6)), np.ones(2))


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_noise_variance_is_learnt_by_its_gradient(library, require):
    # Of the evidence of a process on a grid: -y x / 2 + log det / 2, whose derivative is known.
    require(library)
    used = _testing.library(library)
    t = np.linspace(0, 1, 4)
    k, y = covariance(t, 0.3), np.random.default_rng(17).standard_normal(16)
    a = [used.asarray(k), used.asarray(k)]

    def loss(shift):
        return (used.asarray(y) * kronecker.shifted_solve(a, used.asarray(y), shift)).sum()

    (found,) = _testing.autograd(library, loss, [np.array(0.2)])
    x = np.linalg.solve(np.kron(k, k) + 0.2 * np.eye(16), y)
    np.testing.assert_allclose(found, -x @ x, rtol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
def test_each_item_is_singular_by_itself(engine):
    # Eigenvalues of one item say nothing about another's, nor does NaN in it.
    far = np.stack([np.eye(2), 1e20 * np.eye(2)])
    spoilt = np.stack([np.eye(2), np.full((2, 2), np.nan)])
    ones = np.ones((2, 2))
    with linalgkit.use_engine(engine):
        expected = np.stack([ones[0], 1e-20 * ones[0]])
        np.testing.assert_allclose(kronecker.shifted_solve([far], ones), expected)
        np.testing.assert_allclose(kronecker.kronsum_solve([far], ones, method="eigh"), expected)
        for call in (
            lambda: kronecker.shifted_solve([spoilt], ones, -1.0),
            lambda: kronecker.kronsum_solve([spoilt], ones, method="eigh", shift=-1.0),
            lambda: kronecker.kronsum_solve([spoilt], ones, method="eig", shift=-1.0),
        ):
            with pytest.raises(np.linalg.LinAlgError, match="singular to working precision"):
                call()


@pytest.mark.parametrize("library", ["numpy", "array_api_strict", "torch", "jax"])
def test_nan_in_a_factor_stays_in_its_item(library, require):
    if library != "numpy":
        require(library)
    used = _testing.library(library)
    rng = np.random.default_rng(18)
    a = np.stack([matrix_of("pos", rng, "d", 3)] * 3)
    plain, b = used.asarray(a.copy()), used.asarray(rng.standard_normal(6))
    a[1, 2, 2], other = np.nan, used.asarray(np.diag([1.0, 2.0]))
    spoilt = used.asarray(a)
    for call in (
        lambda a: kronecker.shifted_solve([a, other], b, 0.5),
        lambda a: kronecker.kron_solve([a, other], b),
        lambda a: kronecker.kron_lstsq([a, other], b),
        lambda a: kronecker.kronsum_solve([a, other], b, method="eigh"),
        lambda a: kronecker.kronsum_solve([a, other], b, method="eig"),
        lambda a: kronecker.kron_eigh([a, other]).eigenvalues[0],
        lambda a: kronecker.kron_svd([a, other]).S[0],
        lambda a: kronecker.kron_slogdet([a, other]).logabsdet,
        lambda a: kronecker.kron_power([a, other], 0.5)[0],
        lambda a: kronecker.kron_power([a, other], -1)[0],
        lambda a: kronecker.nearest_kronecker(a, (1, 1)).right,
    ):
        found, expected = used.asnumpy(call(spoilt)), used.asnumpy(call(plain))
        assert np.isnan(found[1]).any()
        np.testing.assert_allclose(found[[0, 2]], expected[[0, 2]], rtol=0, atol=1e-12)


def test_real_factorisations_solve_complex_columns():
    rng = np.random.default_rng(19)
    a, c = matrix_of("gen", rng, "d", 4), matrix_of("gen", rng, "D", 3)
    b = random(rng, "D", 12)
    x = kronecker.kron_solve([splu(csc_array(a)), c], b)
    np.testing.assert_allclose(np.kron(a, c) @ x, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [">f8", "e"])
def test_other_byte_orders_and_half_precision(kind):
    # LAPACK reads the machine's bytes, and no half precision: that is computed in single.
    rng = np.random.default_rng(20)
    wide = [matrix_of("pos", rng, "d", n) / n for n in (3, 2)]
    factors, b = [a.astype(kind) for a in wide], rng.standard_normal(6).astype(kind)
    plain, c = [a.astype("d") for a in factors], b.astype("d")
    skew = [a + np.triu(a) for a in factors], [a + np.triu(a) for a in plain]
    dtype = np.dtype(kind).newbyteorder("=")
    atol = 1e-12 if kind == ">f8" else 5e-2
    for call in (
        lambda a, s, b: kronecker.kron_solve(a, b),
        lambda a, s, b: kronecker.kron_lstsq(a, b),
        lambda a, s, b: kronecker.shifted_solve(a, b, 0.5),
        lambda a, s, b: kronecker.kronsum_solve(a, b),
        lambda a, s, b: kronecker.kronsum_solve(s, b),
        lambda a, s, b: kronecker.kronsum_solve(s[:1] * 3, np.resize(b, 27)),
        lambda a, s, b: kronecker.kronsum_solve_generalized(a, a, b),
        lambda a, s, b: kronecker.kronsum_expm_multiply(a, b, -0.5),
        lambda a, s, b: kronecker.kron_eigh(a).eigenvalues[0],
        lambda a, s, b: kronecker.kron_svd(a).S[0],
        lambda a, s, b: kronecker.kron_slogdet(a).logabsdet,
        lambda a, s, b: kronecker.kron_cholesky(a)[0],
        lambda a, s, b: kronecker.kron_power(a, 0.5)[0],
        lambda a, s, b: kronecker.nearest_kronecker(a[0], (1, 1)).error,
        lambda a, s, b: kronecker.kron_solve_vjp(b, a, b).factors[0],
    ):
        found, expected = call(factors, skew[0], b), call(plain, skew[1], c)
        assert found.dtype in (dtype, np.dtype(kind))
        np.testing.assert_allclose(found.astype("d"), expected, rtol=0, atol=atol)


def test_long_doubles_are_refused_by_name():
    factors = [np.triu(np.ones((2, 2), "g"))] * 2
    with pytest.raises(TypeError, match=r"LAPACK, which has no (longdouble|float128)"):
        kronecker.kronsum_solve(factors, np.ones(4, "g"), method="schur")


@pytest.mark.parametrize("library", ["torch", "jax"])
@pytest.mark.parametrize("shape", [(3, 3), (5, 3), (3, 5)], ids=str)
def test_gradient_of_least_squares_with_equal_singular_values(shape, library, require):
    # The derivative of the solution exists; that of the singular vectors does not.
    require(library)
    a, other = np.eye(*shape), np.array([[2.0, 1], [0, 2]])
    b = np.random.default_rng(21).standard_normal(2 * shape[0])

    def loss(a, other, b):
        return (kronecker.kron_lstsq([a, other], b) ** 2).sum()

    def truth(a, other, b):
        x = np.linalg.pinv(np.kron(a, other)) @ b
        return float(x @ x)

    found = _testing.autograd(library, loss, [a, other, b])
    expected = _testing.central_gradient(truth, [a.copy(), other.copy(), b.copy()])
    for one, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, wanted, rtol=0, atol=1e-7)
