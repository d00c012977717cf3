"""Factors in closed form: the DFT, Hadamard matrices, Kronecker products."""

import importlib

import mpmath
import numpy as np
import pytest
import scipy.linalg
from monarch.cases import entries, random

from linalgkit import monarch
from linalgkit.monarch._roots import roots


@pytest.mark.parametrize(
    ("n", "blocks"),
    [
        *((n, None) for n in (1, 2, 7, 12, 64)),
        *((24, (4, 6)), (24, (6, 4)), (15, (3, 5)), (64, (16, 4)), (7, (7, 1)), (7, (1, 7))),
    ],
)
def test_dft_is_monarch_after_a_permutation(n, blocks):
    left, right, permutation = monarch.dft_factors(n, blocks=blocks)
    matrix = entries(left, right)[:, np.argsort(permutation)]
    np.testing.assert_allclose(matrix, scipy.linalg.dft(n), rtol=0, atol=7e-15 * n)
    if blocks is not None:
        assert right.shape == (blocks[0], blocks[1], blocks[1])
        assert left.shape == (blocks[1], blocks[0], blocks[0])


@pytest.mark.parametrize("norm", [None, "backward", "ortho", "forward"])
def test_norm_of_the_dft(norm):
    left, right, permutation = monarch.dft_factors(12, norm=norm)
    x = np.random.default_rng(0).standard_normal(12)
    y = monarch.monarch_matmul(x[permutation], left, right)
    np.testing.assert_allclose(y, np.fft.fft(x, norm=norm), rtol=0, atol=1e-14)


def test_dft_itself_is_no_monarch_matrix():
    # Slices of a Monarch matrix with k = l = q have rank one; those of the DFT have not.
    f = scipy.linalg.dft(64)
    lost = 0.0
    for lam in range(8):
        for kappa in range(8):
            values = np.linalg.svd(f[lam::8, kappa * 8 : kappa * 8 + 8], compute_uv=False)
            lost += (values[1:] ** 2).sum()
    assert np.sqrt(lost) / np.linalg.norm(f) == pytest.approx(0.935, abs=1e-3)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 12, 1000, 4096, 99991])
def test_roots_are_right_to_the_last_digit(n):
    found = roots(n)
    places = np.random.default_rng(0).permutation(n)[:300].tolist()
    with mpmath.workdps(30):
        error = max(abs(mpmath.expjpi(mpmath.mpf(-2 * j) / n) - complex(found[j])) for j in places)
    assert error < 2.2e-16
    if n % 4 == 0:
        assert [found[n // 4 * k] for k in range(4)] == [1, -1j, -1, 1j]


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16, 64])
@pytest.mark.parametrize("norm", [None, "ortho"])
def test_hadamard(n, norm):
    matrix = entries(*monarch.hadamard_factors(n, norm=norm))
    expected = scipy.linalg.hadamard(n) / (np.sqrt(n) if norm else 1)
    np.testing.assert_allclose(matrix, expected, rtol=1e-15)


def test_blocks_of_the_hadamard_matrix():
    left, right = monarch.hadamard_factors(32, blocks=(16, 2), dtype=np.float32)
    assert left.shape == (2, 16, 16)
    assert right.shape == (16, 2, 2)
    assert left.dtype == right.dtype == np.float32
    np.testing.assert_array_equal(entries(left, right), scipy.linalg.hadamard(32))


@pytest.mark.parametrize("shapes", [((2, 3), (4, 5)), ((1, 3), (2, 1)), ((3, 3), (3, 3))])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_kronecker(shapes, dtype):
    rng = np.random.default_rng(0)
    a, b = (random(rng, dtype, *shape) for shape in shapes)
    np.testing.assert_array_equal(entries(*monarch.kronecker_factors(a, b)), np.kron(a, b))


def test_kronecker_of_batches():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4, 2, 3)), rng.standard_normal((4, 3, 2))
    left, right = monarch.kronecker_factors(a, b)
    x = rng.standard_normal((4, 6))
    expected = [np.kron(a[i], b[i]) @ x[i] for i in range(4)]
    np.testing.assert_allclose(monarch.monarch_matmul(x, left, right), expected, atol=1e-14)


@pytest.mark.parametrize("name", ["torch", "jax.numpy", "array_api_strict"])
def test_factors_in_the_library_and_precision_of_another_array(name, require):
    require(name.partition(".")[0])
    xp = importlib.import_module(name)
    like = xp.zeros(3, dtype=xp.float32)
    dft, hadamard = monarch.dft_factors(12, like=like), monarch.hadamard_factors(8, like=like)
    assert dft.left.dtype == dft.right.dtype == xp.complex64
    assert hadamard.left.dtype == hadamard.right.dtype == xp.float32
    assert all(type(array) is type(like) for array in (*dft, *hadamard))
    assert monarch.dft_factors(12, like=like, dtype=xp.complex128).left.dtype == xp.complex128


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("numpy", "float16"),
        *((a, b) for a in ("torch", "jax.numpy") for b in ("float16", "bfloat16")),
    ],
)
def test_hadamard_factors_of_half_precision(name, dtype, require):
    xp = np if name == "numpy" else require(name)
    half = getattr(xp, dtype)
    like = xp.zeros(3, dtype=half)
    for factors in (
        monarch.hadamard_factors(8, like=like),
        monarch.hadamard_factors(8, like=xp.zeros(1), dtype=half),
    ):
        assert factors.left.dtype == factors.right.dtype == half
        assert type(factors.left) is type(like)
        wide = [np.asarray(factor.tolist()) for factor in factors]
        np.testing.assert_array_equal(entries(*wide), scipy.linalg.hadamard(8))
    # There is no complex number of half precision.
    assert "complex64" in str(monarch.dft_factors(8, like=like).left.dtype)


def test_each_call_gives_arrays_of_its_own():
    first = monarch.dft_factors(12)
    first.left[...] = 0
    first.permutation[...] = 0
    assert monarch.dft_factors(12).left.all()
    hadamard = monarch.hadamard_factors(8)
    hadamard.left[0, 0, 0] = 5
    assert hadamard.left[1, 0, 0] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: monarch.dft_factors(0), "n must be at least 1"),
        (lambda: monarch.dft_factors(12, blocks=(5, 2)), r"k p = 12; got \(5, 2\)"),
        (lambda: monarch.dft_factors(12, blocks=(12,)), r"k p = 12"),
        (lambda: monarch.dft_factors(12, dtype=np.float64), "complex64, complex128; got float64"),
        (lambda: monarch.dft_factors(12, norm="no"), "norm must be one of"),
        (lambda: monarch.hadamard_factors(12), "power of two; got 12"),
        (lambda: monarch.hadamard_factors(8, dtype=np.int64), "got int64"),
        (lambda: monarch.kronecker_factors(np.ones(3), np.ones((2, 2))), "must be matrices"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_blocks_that_are_no_sequence():
    with pytest.raises(TypeError, match=r"blocks must be \(k, p\); got int"):
        monarch.dft_factors(12, blocks=3)
