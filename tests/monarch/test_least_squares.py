"""Least squares with Monarch matrices: of full rank, of lower rank, cut, in other libraries."""

import numpy as np
import pytest
from monarch.cases import entries, factors, random
from monarch.operators import ANY, SQUARE, close, make

from linalgkit._testing import library
from linalgkit.monarch import Monarch


def test_least_squares_of_least_norm():
    for blocks in ANY:
        for order in ("LR", "RL"):
            operator, dense = make("float64", blocks, order)
            b = np.random.default_rng(1).standard_normal((dense.shape[0], 2))
            expected = np.linalg.pinv(dense, rcond=1e-12) @ b
            close(operator.lstsq(b), expected, factor=1e9)
            close(operator.lstsq(b[:, 0]), expected[:, 0], factor=1e9)
            close(operator.lstsq(np.stack([b, 2 * b])), [expected, 2 * expected], factor=1e9)
    operator, _ = make("float64", ANY[1])  # by iteration: blocks of R have more rows than columns
    with pytest.raises(np.linalg.LinAlgError, match=r"no convergence .* in 2 steps"):
        operator.lstsq(np.ones(40), maxiter=2)


@pytest.mark.parametrize("order", ["LR", "RL"])
@pytest.mark.parametrize("name", ["left", "right"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_least_squares_of_blocks_of_lower_rank(dtype, name, order):
    rng = np.random.default_rng(0)
    for blocks in SQUARE[1:4]:
        left, right = factors(rng, dtype, blocks)
        factor = {"left": left, "right": right}[name]
        n = factor.shape[-1]
        if n > 1:  # all blocks of rank n - 1, but for rounding
            factor[...] = random(rng, dtype, len(factor), n, n - 1) @ random(
                rng, dtype, len(factor), n - 1, n
            )
        else:
            factor[0] = 0
        dense = entries(left, right) if order == "LR" else entries(left, right).T
        b = random(rng, dtype, dense.shape[0], 2)
        expected = np.linalg.lstsq(dense, b, rcond=1e-10)[0]
        close(Monarch(left, right, order=order).lstsq(b), expected, factor=1e9)


@pytest.mark.parametrize("which", ["array_api_strict", "torch", "jax"])
def test_least_squares_of_full_rank_in_other_libraries(which, require):
    require(which)
    used = library(which)
    for order in ("LR", "RL"):
        operator, dense = make("float64", ANY[0], order)
        b = np.random.default_rng(1).standard_normal(dense.shape[0])
        left, right = used.asarray(operator.left), used.asarray(operator.right)
        found = Monarch(left, right, order=order).lstsq(used.asarray(b))
        assert isinstance(found, used.array_type)
        close(used.asnumpy(found), np.linalg.pinv(dense, rcond=1e-12) @ b, factor=1e6)
    cut = Monarch(left, right, shape=(40, 15))
    with pytest.raises(TypeError, match="lstsq iterates on NumPy arrays"):
        cut.lstsq(used.asarray(b[:1] * np.ones(40)))


def test_least_squares_of_what_is_not_finite_and_of_nothing():
    for blocks in (ANY[0], ANY[1]):
        operator, dense = make("float64", blocks)
        b = np.ones(dense.shape[0])
        assert operator.lstsq(np.ones((b.size, 0))).shape == (dense.shape[1], 0)
        b[3] = np.nan
        with pytest.raises(ValueError, match=r"b must be finite; entry \(3,\) is nan"):
            operator.lstsq(b)
        operator.right[1, 0, 1] = np.inf
        with pytest.raises(ValueError, match=r"right must be finite; entry \(1, 0, 1\) is inf"):
            operator.lstsq(np.ones(b.size))


def test_least_squares_of_a_condition_that_is_too_large(monkeypatch):
    # 6: LSMR gives up with its estimate of the condition number.
    monkeypatch.setattr("scipy.sparse.linalg.lsmr", lambda a, b, **options: (b, 6, 5, 1.0, 1.0))
    operator, _ = make("float64", ANY[1])
    with pytest.raises(np.linalg.LinAlgError, match="condition number beyond"):
        operator.lstsq(np.ones(40))


def test_least_squares_under_jit(require):
    jax = require("jax")
    operator, _ = make("float64", SQUARE[1])
    factors_there = map(jax.numpy.asarray, (operator.left, operator.right))
    with pytest.raises(TypeError, match=r"Monarch.lstsq needs .* use Monarch.solve"):
        jax.jit(Monarch(*factors_there).lstsq)(jax.numpy.ones(12))
