"""`HigherOrderMonarch`: Kronecker products, the Fourier transform, two factors, algebra."""

import io
from functools import reduce

import numpy as np
import pytest
from monarch.cases import random

import linalgkit
from linalgkit._testing import library
from linalgkit.monarch import HigherOrderMonarch, Monarch

RADICES = [(6,), (3, 4), (2, 3, 4), (2, 2, 2, 2), (5, 1, 3)]


def make(dtype, radices, order="LR"):
    """The operator, and the dense matrix as a product of one sparse matrix a factor."""
    rng, n = np.random.default_rng(0), int(np.prod(radices))
    blocks = [random(rng, dtype, n // b, b, b) for b in radices]
    dense = np.eye(n)
    for a, factor in enumerate(blocks):
        whole = np.zeros((n, n), dtype)
        places = np.arange(n).reshape(radices)
        # Fibres along axis a, numbered by the other axes.
        fibres = np.moveaxis(places, a, -1).reshape(-1, radices[a])
        for block, fibre in zip(factor, fibres, strict=True):
            whole[np.ix_(fibre, fibre)] = block
        dense = dense @ whole
    return HigherOrderMonarch(blocks, order=order), dense if order == "LR" else dense.T


@pytest.mark.parametrize("order", ["LR", "RL"])
@pytest.mark.parametrize("radices", RADICES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_against_one_matrix_a_factor(dtype, radices, order):
    operator, dense = make(dtype, radices, order)
    n = dense.shape[0]
    x = random(np.random.default_rng(1), dtype, n, 3)
    tolerance = 1e3 * np.finfo(dtype).eps * max(1, abs(dense).max())
    solving = tolerance * np.linalg.cond(dense) * 10
    pairs = [
        (operator.to_dense(), dense, tolerance),
        (operator @ x, dense @ x, tolerance),
        (operator @ x[:, 0], dense @ x[:, 0], tolerance),
        (operator.rmatmat(x), dense.conj().T @ x, tolerance),
        (operator.T.to_dense(), dense.T, tolerance),
        (operator.H.to_dense(), dense.conj().T, tolerance),
        (operator.solve(x), np.linalg.solve(dense, x), solving),
        (operator.solve(x[:, 0]), np.linalg.solve(dense, x[:, 0]), solving),
        (operator.inv().to_dense(), np.linalg.inv(dense), solving),
        (operator.diagonal(), np.diagonal(dense), tolerance),
        (operator.trace(), np.trace(dense), 10 * tolerance),
        (operator.norm(), np.linalg.norm(dense), tolerance),
        (operator.slogdet()[0], np.linalg.slogdet(dense)[0], tolerance),
        (operator.slogdet()[1], np.linalg.slogdet(dense)[1], solving),
    ]
    for result, expected, limit in pairs:
        np.testing.assert_allclose(result, expected, rtol=0, atol=limit)
    linalgkit.dottest(operator, rng=0)
    batch = operator.matmat(np.stack([x, 2 * x]))
    np.testing.assert_allclose(batch[1], 2 * (dense @ x), rtol=0, atol=10 * tolerance)


def test_norm_of_entries_far_apart():
    operator, dense = make("complex128", (2, 3, 4))
    scales = 10.0 ** np.array([200, -200, 0, 100])
    first, second, third = operator.factors
    # Rows of the last factor are scaled, and columns of the one before it, the other way round.
    third = third * scales[:, None]
    places = np.arange(24).reshape(2, 3, 4)[:, 0, :].reshape(-1) % 4  # the last digit, by block
    second = second / scales[places][:, None, None]
    operator = HigherOrderMonarch([first, second, third])
    np.testing.assert_allclose(operator.to_dense(), dense, rtol=1e-10)
    np.testing.assert_allclose(operator.norm(), np.linalg.norm(dense))
    tiny = HigherOrderMonarch([factor * 1e-100 for factor in (first * 1e-20, second, third)])
    assert 0 < tiny.norm() < 1e-300


@pytest.mark.parametrize("which", ["array_api_strict", "torch", "jax"])
def test_other_libraries(which, require):
    require(which)
    used = library(which)
    operator, dense = make("float64", (2, 3, 4))
    there = HigherOrderMonarch(list(map(used.asarray, operator.factors)))
    for result, expected in (
        (there.diagonal(), np.diagonal(dense)),
        (there.trace(), np.trace(dense)),
        (there.norm(), np.linalg.norm(dense)),
    ):
        assert isinstance(result, used.array_type)
        np.testing.assert_allclose(used.asnumpy(result), expected, rtol=1e-12, atol=1e-12)


def test_two_factors_are_a_monarch_matrix():
    operator, dense = make("float64", (3, 4))
    np.testing.assert_allclose(Monarch(*operator.factors).to_dense(), dense, rtol=0, atol=1e-14)


def test_kronecker_products():
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((b, b)) for b in (2, 3, 4)]
    factors = [np.stack([part] * (24 // part.shape[0])) for part in parts]
    dense = HigherOrderMonarch(factors).to_dense()
    np.testing.assert_allclose(dense, reduce(np.kron, parts), rtol=0, atol=1e-13)


def test_fourier_transform_of_reversed_digits():
    # Radix 2: n = 2^m, x with its bits reversed. Step a of the input's digits doubles the length.
    m = 4
    n = 2**m
    factors = []
    for a in range(m):
        # Axes before a are time digits not yet used; those behind are frequencies found so far.
        blocks = np.zeros((n // 2, 2, 2), complex)
        for number in range(n // 2):
            low = number % 2 ** (m - 1 - a)  # the frequency modulo 2^(m-1-a)
            twiddle = np.exp(-2j * np.pi * low / 2 ** (m - a))
            blocks[number] = [[1, twiddle], [1, -twiddle]]
        factors.append(blocks)
    reverse = [int(f"{k:0{m}b}"[::-1], 2) for k in range(n)]
    x = random(np.random.default_rng(0), "complex128", n)
    result = HigherOrderMonarch(factors) @ x[reverse]
    np.testing.assert_allclose(result, np.fft.fft(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("order", ["LR", "RL"])
def test_saved_and_loaded(order):
    operator, _ = make("complex64", (2, 3, 4), order)
    file = io.BytesIO()
    operator.save(file)
    file.seek(0)
    again = linalgkit.load(file)
    assert type(again) is HigherOrderMonarch
    assert again.radices == (2, 3, 4)
    np.testing.assert_array_equal(again.to_dense(), operator.to_dense())
    expected = "<HigherOrderMonarch 24×24 of radices 2·3·4, complex64: 216 parameters, 1,728 bytes"
    assert repr(again).startswith(expected)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"factors\[1\] .* n = 6 .* got \(4, 2, 2\)"):
        HigherOrderMonarch([np.ones((2, 3, 3)), np.ones((4, 2, 2))])
    with pytest.raises(ValueError, match="at least one factor"):
        HigherOrderMonarch([])
    singular, _ = make("float64", (3, 4))
    singular.factors[1][2] = 0
    with pytest.raises(np.linalg.LinAlgError, match="block 2 of the 1-th factor"):
        singular.solve(np.ones(12))
