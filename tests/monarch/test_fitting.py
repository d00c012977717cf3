"""Least squares over Monarch matrices: known answers, monotone descent, singular data."""

import numpy as np
import pytest
from monarch.cases import entries, factors, random

from linalgkit import monarch

# (k, q, p, l, s, r): square, l not dividing q, sparse slices, ranks above one.
BLOCKS = [
    (3, 3, 3, 3, 3, 3),
    (3, 4, 2, 2, 2, 6),
    (2, 3, 3, 3, 2, 2),
    (3, 2, 4, 2, 3, 3),
    (4, 3, 2, 6, 2, 2),
    (2, 6, 4, 4, 3, 3),
]
DTYPES = ["float64", "complex128"]


def data(blocks, dtype, samples, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    k, _, p, count, rows, _ = blocks
    truth = entries(*factors(rng, dtype, blocks))
    x = random(rng, dtype, samples, k * p)
    return x, x @ truth.T + noise * random(rng, dtype, samples, count * rows), truth


def dense(fit):
    return entries(fit.x.left, fit.x.right)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("blocks", BLOCKS)
def test_exact_data_gives_the_matrix_back(blocks, dtype):
    x, y, truth = data(blocks, dtype, 40)
    fit = monarch.lstsq(x, y, blocks=blocks)
    assert fit.success
    assert fit.fun < 1e-22 * np.linalg.norm(y) ** 2
    np.testing.assert_allclose(dense(fit), truth, atol=1e-11)


@pytest.mark.parametrize("samples", [5, 40])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("blocks", BLOCKS)
def test_descent(blocks, dtype, samples):
    x, y, truth = data(blocks, dtype, samples, noise=0.3)
    seen = []
    rng = np.random.default_rng(1)
    fit = monarch.lstsq(
        x, y, x0=factors(rng, dtype, blocks), maxiter=60, tol=1e-8, callback=seen.append
    )
    assert [step.nit for step in seen] == list(range(1, fit.nit + 1))
    sums = [np.linalg.norm(y - x @ dense(step).T) ** 2 for step in seen]
    np.testing.assert_allclose([step.fun for step in seen], sums, rtol=1e-9, atol=1e-20)
    assert np.all(np.diff(sums) <= 1e-12 * sums[0])
    assert fit.fun == seen[-1].fun
    best = np.linalg.norm(y - x @ np.linalg.lstsq(x, y)[0]) ** 2
    assert best * (1 - 1e-9) <= fit.fun + 1e-20
    start = monarch.lstsq(x, y, blocks=blocks, maxiter=60)
    assert start.fun < max(np.linalg.norm(y - x @ truth.T) ** 2, 1e-18)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("blocks", BLOCKS[:4])
def test_no_small_change_of_the_factors_is_better(blocks, dtype):
    x, y, _ = data(blocks, dtype, 60, noise=0.5)
    fit = monarch.lstsq(x, y, blocks=blocks, tol=1e-14, maxiter=2000)
    rng = np.random.default_rng(2)
    for _ in range(10):
        left = fit.x.left + 1e-4 * random(rng, dtype, *fit.x.left.shape)
        right = fit.x.right + 1e-4 * random(rng, dtype, *fit.x.right.shape)
        assert np.linalg.norm(y - x @ entries(left, right).T) ** 2 > fit.fun * (1 - 1e-9)


def test_weighted_projection_beats_the_plain_one():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((16, 16))
    weight = np.diag(10.0 ** np.linspace(-2, 2, 16)) @ np.linalg.qr(rng.random((16, 16)))[0]
    blocks = (4, 4, 4, 4, 4, 4)
    fit = monarch.lstsq(weight, weight @ a.T, blocks=blocks)
    plain = monarch.project(a, blocks=blocks)
    error = np.linalg.norm(weight @ (a - entries(plain.left, plain.right)).T) ** 2
    assert fit.fun < error
    assert np.linalg.norm(weight @ (a - dense(fit)).T) ** 2 == pytest.approx(fit.fun)


def test_white_data_gives_the_projection():
    # With XᴴX = I the best fit to Y = X Aᵀ is the projection of A, and the iteration stays there.
    rng = np.random.default_rng(0)
    a, x = rng.standard_normal((16, 16)), np.linalg.qr(rng.standard_normal((30, 16)))[0]
    blocks = (4, 4, 4, 4, 4, 4)
    fit = monarch.lstsq(x, x @ a.T, blocks=blocks)
    plain = monarch.project(a, blocks=blocks)
    np.testing.assert_allclose(dense(fit), entries(plain.left, plain.right), atol=1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dependent_samples(dtype):
    blocks = BLOCKS[1]
    x, _, truth = data(blocks, dtype, 40)
    x[:, 1] = 2 * x[:, 0]
    x[:, 3] = 0
    y = x @ truth.T
    start = factors(np.random.default_rng(1), dtype, blocks)
    fit = monarch.lstsq(x, y, x0=start, maxiter=500, tol=1e-12)
    assert fit.fun < 1e-12 * np.linalg.norm(y) ** 2
    assert np.abs(dense(fit)).max() < 100


def test_sizes_are_chosen_if_none_are_given():
    x, y, _ = data((4, 4, 4, 4, 4, 4), "float64", 30)
    assert monarch.lstsq(x, y).x.left.shape == (4, 4, 4)


def test_sizes_that_do_not_factor():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 7)), rng.standard_normal((50, 5))
    fit = monarch.lstsq(x, y, blocks=(2, 4, 4, 2, 3, 4))
    assert tuple(fit.x.shape) == (5, 7)
    error = np.linalg.norm(y - fit.x.matmat(x.T).T) ** 2
    assert error == pytest.approx(fit.fun)


@pytest.mark.parametrize("way", ["start", "no start"])
@pytest.mark.parametrize(
    ("dtype", "exponents"),
    [("float64", (532, -564, 996)), ("complex128", (532, -564)), ("float32", (84, -84))],
)
def test_any_magnitude(dtype, exponents, way):
    blocks = BLOCKS[0]
    x, y, _ = data(blocks, dtype, 40, noise=0.3)
    left, right = factors(np.random.default_rng(1), dtype, blocks)

    def fit(x, y, scale):
        start = left, (right * scale).astype(dtype)
        options = {"x0": start} if way == "start" else {"blocks": blocks}
        return monarch.lstsq(x.astype(dtype), y.astype(dtype), **options, maxiter=50)

    plain = fit(x, y, 1.0)
    assert plain.nit > 1
    for scale in (2.0**exponent for exponent in exponents):
        for fitted, unit in (
            (fit(x, y * scale, scale), scale),
            (fit(x * scale, y, 1 / scale), 1 / scale),
        ):
            assert (fitted.status, fitted.nit) == (plain.status, plain.nit)
            np.testing.assert_allclose(dense(fitted) / unit, dense(plain), rtol=1e-6)
    assert fit(x, y * 2.0**-20, 2.0**-20).fun == pytest.approx(2.0**-40 * plain.fun)


def test_half_precision_is_computed_in_single():
    x, y, truth = data(BLOCKS[0], "float64", 40)
    fit = monarch.lstsq(x.astype("f2"), y.astype("f2"), blocks=BLOCKS[0])
    assert fit.x.dtype == np.float16
    np.testing.assert_allclose(dense(fit).astype("f8"), truth, atol=0.03)


def test_single_precision():
    x, y, truth = data(BLOCKS[0], "float32", 40)
    fit = monarch.lstsq(x, y, blocks=BLOCKS[0])
    assert fit.x.left.dtype == np.float32
    np.testing.assert_allclose(dense(fit), truth, atol=1e-4)


def test_starts():
    x, y, _ = data(BLOCKS[0], "float64", 40, noise=0.1)
    first = monarch.lstsq(x, y, blocks=BLOCKS[0], maxiter=3, tol=0)
    again = monarch.lstsq(x, y, x0=first.x, maxiter=3, tol=0)
    through = monarch.lstsq(x, y, x0=(first.x.left, first.x.right), maxiter=3, tol=0)
    assert again.fun == through.fun <= first.fun
    assert monarch.lstsq(x, y, x0=first.x, maxiter=0).fun == pytest.approx(first.fun)


def test_statuses():
    x, y, _ = data(BLOCKS[0], "float64", 40, noise=0.3)
    start = factors(np.random.default_rng(1), "float64", BLOCKS[0])
    short = monarch.lstsq(x, y, x0=start, maxiter=1, tol=0)
    assert (short.status, short.success, short.nit) == (1, False, 1)
    assert "maxiter" in short.message
    done = monarch.lstsq(x, y, x0=start, maxiter=1000, tol=1e-4)
    assert (done.status, done.success) == (0, True)

    def stop(fit):
        if fit.nit == 2:
            raise StopIteration

    stopped = monarch.lstsq(x, y, x0=start, callback=stop)
    assert (stopped.status, stopped.nit, stopped.success) == (2, 2, False)


@pytest.mark.parametrize("name", ["torch", "jax", "array_api_strict"])
def test_libraries(name, require):
    require(name)
    from linalgkit._testing import library

    used = library(name)
    x, y, _ = data(BLOCKS[1], "float64", 20, noise=0.2)
    expected = monarch.lstsq(x, y, blocks=BLOCKS[1], maxiter=5)
    fit = monarch.lstsq(used.asarray(x), used.asarray(y), blocks=BLOCKS[1], maxiter=5)
    assert isinstance(fit.x.left, used.array_type)
    assert fit.fun == pytest.approx(expected.fun)


X, Y = np.ones((4, 6)), np.ones((4, 4))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: monarch.lstsq(
                X, Y, blocks=BLOCKS[1], x0=factors(np.random.default_rng(0), "f8", BLOCKS[0])
            ),
            ValueError,
            "x0 must have no batch axes, block sizes",
        ),
        (
            lambda: monarch.lstsq(X, Y, x0=(np.ones((2, 2, 2, 6)), np.ones((2, 3, 4, 2)))),
            ValueError,
            "batch",
        ),
        (lambda: monarch.lstsq(X, Y[:3], blocks=BLOCKS[1]), ValueError, r"\(4, 6\) and \(3, 4\)"),
        (lambda: monarch.lstsq(X, Y, blocks=(1, 2, 3)), ValueError, "blocks must be"),
        (lambda: monarch.lstsq(X, Y, blocks=(3, 4, 2, 2, 2, 5)), ValueError, "k q = l r"),
        (lambda: monarch.lstsq(X, Y, blocks=(2, 4, 2, 2, 2, 4)), ValueError, "the 6 columns"),
        (lambda: monarch.lstsq(X[:0], Y[:0], blocks=BLOCKS[1]), ValueError, "samples"),
        (lambda: monarch.lstsq(X * np.nan, Y, blocks=BLOCKS[1]), ValueError, "x must be finite"),
        (lambda: monarch.lstsq(X, Y / 0, blocks=BLOCKS[1]), ValueError, "y must be finite"),
        (lambda: monarch.lstsq(X, Y, blocks=BLOCKS[1], tol=-1), ValueError, "tol must be"),
        (lambda: monarch.lstsq(X, Y, tol=None), TypeError, "tol must be a number; got None"),
        (lambda: monarch.lstsq(X, Y, maxiter=2.5), TypeError, "maxiter must be an integer"),
        (lambda: monarch.lstsq(X, Y, callback=3), TypeError, "callback must be a function; got 3"),
        (lambda: monarch.lstsq(X, Y, x0=3.0), TypeError, "x0 must be a Monarch or"),
        (lambda: monarch.lstsq(X, Y, x0=(None, X)), TypeError, "x0_left must be an array"),
        (
            lambda: monarch.lstsq(
                X, Y, x0=factors(np.random.default_rng(0), "f8", BLOCKS[-1])[::-1]
            ),
            ValueError,
            "k q = l r",
        ),
    ],
)
def test_bad_arguments(call, error, message):
    with np.errstate(divide="ignore"), pytest.raises(error, match=message):
        call()
