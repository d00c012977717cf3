"""Fewer parameters than gradients: exact truth, at any rank and damping."""

from fractions import Fraction
from functools import cache
from importlib import import_module

import numpy as np
import pytest
from mfac.cases import dense, pulled_back

from linalgkit._testing import library as library_of
from linalgkit.mfac import (
    SlidingWindowFisher,
    _few,
    block_fisher,
    empirical_fisher,
    fisher_solve,
    fisher_solve_vjp,
    prune,
)
from linalgkit.mfac._few import FewParameters
from linalgkit.mfac._rows import to_bfloat16

M, D, DAMPING = 40, 11, 0.03


def library(name, require):
    return library_of(name if name == "numpy" else require(name).__name__)


def gradients_of(m=M, d=D, rank=None):
    rng = np.random.default_rng(m * d)
    if rank is None:
        return rng.standard_normal((m, d)) * np.exp2(np.arange(d) % 4)
    return rng.integers(-8, 9, (m, rank)).astype(float) @ rng.integers(-8, 9, (rank, d))


def exact_inverse(gradients, damping):
    """F⁻¹ by elimination of fractions."""
    wide = np.vectorize(Fraction, otypes=[object])(gradients)
    m, d = wide.shape
    eye = np.vectorize(Fraction, otypes=[object])(np.eye(d))
    table = np.concatenate([wide.T @ wide / m + Fraction(damping) * eye, eye], axis=1)
    for k in range(d):  # positive definite: no pivots
        table[k] /= table[k, k]
        for i in range(d):
            if i != k:
                table[i] -= table[i, k] * table[k]
    return table[:, d:]


@cache
def inverse_of_all():
    return exact_inverse(gradients_of(), DAMPING).astype(float)


@pytest.mark.parametrize("name", ["numpy", "array_api_strict", "torch", "jax"])
def test_every_function(name, require):
    used, g = library(name, require), gradients_of()
    fisher = empirical_fisher(used.asarray(g), damping=DAMPING)
    assert isinstance(fisher._form, FewParameters)
    x = np.random.default_rng(1).standard_normal((D, 2))
    f, inverse = dense(g, DAMPING), inverse_of_all()
    values, vectors = np.linalg.eigh(f)
    for found, truth in (
        (fisher @ used.asarray(x), f @ x),
        (fisher.solve(used.asarray(x)), inverse @ x),
        (fisher.solve(used.asarray(x[:, 1])), inverse @ x[:, 1]),
        (fisher.diagonal(), f.diagonal()),
        (fisher.diagonal_inverse(), inverse.diagonal()),
        (fisher.inverse_columns([3, -1, 3]), inverse[:, [3, -1, 3]]),
        (fisher.inverse_blocks(11), inverse[None]),
        (fisher.whiten(used.asarray(x)), vectors * values**-0.5 @ vectors.T @ x),
        (fisher.whiten(used.asarray(x), power=0.75), vectors * values**0.75 @ vectors.T @ x),
    ):
        np.testing.assert_allclose(used.asnumpy(found), truth, rtol=1e-11, atol=1e-13)
    assert fisher.inverse_element(2, -2) == pytest.approx(inverse[2, -2], rel=1e-11)
    assert fisher.inverse_element(4, 4) == pytest.approx(inverse[4, 4], rel=1e-12)
    assert fisher.logdet() == pytest.approx(np.linalg.slogdet(f)[1], rel=1e-12)


@pytest.mark.parametrize("storage", [None, "float16", "bfloat16", "float32"])
def test_leaves_and_storage(storage):
    g = gradients_of().astype(np.float32)
    leaves = [g[:, :6].reshape(M, 2, 3), g[:, 6:]]
    fisher = empirical_fisher(leaves, damping=DAMPING, storage=storage)
    kept = g.astype(float)
    if storage == "float16":
        scales = 2.0 ** np.ceil(np.log2(np.abs(g).max(axis=1, keepdims=True)))
        kept = (g / scales).astype(np.float16) * scales
    elif storage == "bfloat16":
        kept = (to_bfloat16(g).astype(np.uint32) << 16).view(np.float32)
    inverse = exact_inverse(kept, DAMPING).astype(float)
    x = np.random.default_rng(2).standard_normal(D).astype(np.float32)
    first, second = fisher.solve([x[:6].reshape(2, 3), x[6:]])
    assert first.dtype == np.float32
    found = np.concatenate([first.ravel(), second])
    np.testing.assert_allclose(found, inverse @ x, rtol=2e-6, atol=1e-7)
    first, second = fisher.inverse_columns([7, 0])
    assert first.shape == (2, 3, 2)
    found = np.concatenate([first.reshape(6, 2), second])
    np.testing.assert_allclose(found, inverse[:, [7, 0]], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("ratio", [1e-2, 1e-8, 1e-13, 1e-16])
@pytest.mark.parametrize("rank", [1, 3, None])
def test_any_damping(ratio, rank):
    """The Gram matrix in float64 would keep no digit of the last damping."""
    g = gradients_of(64, 8, rank)
    length = float(np.max(np.sum(g**2, axis=1)))
    inverse = exact_inverse(g, ratio * length)
    fisher = empirical_fisher(g, damping=ratio * length)
    # In the span of too few gradients F⁻¹ is small beside its norm, and a digit of x counts more.
    for x, limit in (
        (np.random.default_rng(0).standard_normal(8), 1e-14),
        (g[0], 1e-15 / ratio if rank else 1e-14),
    ):
        truth = (inverse @ np.vectorize(Fraction, otypes=[object])(x)).astype(float)
        assert np.linalg.norm(fisher.solve(x) - truth) < limit * np.linalg.norm(truth)
    truth = np.diag(inverse).astype(float)
    np.testing.assert_allclose(fisher.diagonal_inverse(), truth, rtol=1e-14)
    np.testing.assert_allclose(
        fisher.inverse_columns([2]), inverse[:, [2]].astype(float), rtol=1e-9
    )


@pytest.mark.parametrize("name", ["numpy", "array_api_strict", "torch", "jax"])
def test_pieces_of_rows_one_after_the_other(name, require, monkeypatch):
    """Of more rows than are widened at a time; the digits are those of all at once."""
    monkeypatch.setattr(_few, "_ENTRIES", 1)
    used, g = library(name, require), gradients_of(110, 5, 2)
    shapes, stack = [], _few._stacked

    def seen(above, rows, damping, divisor):
        found = stack(above, rows, damping, divisor)
        shapes.append(tuple(found.shape))
        return found

    monkeypatch.setattr(_few, "_stacked", seen)
    damping = 1e-12 * float(np.max(np.sum(g**2, axis=1)))
    fisher = empirical_fisher(used.asarray(g), damping=damping)
    assert shapes == [(20, 5), *[(25, 5)] * 4, (20, 5)]
    truth = np.diag(exact_inverse(g, damping)).astype(float)
    np.testing.assert_allclose(used.asnumpy(fisher.diagonal_inverse()), truth, rtol=1e-13)


@pytest.mark.parametrize("engine", ["numba", "array_api"])
def test_factors_solve_for_vectors_and_matrices(engine):
    g = gradients_of(7, 7)
    matrix, right = g @ g.T + np.eye(7), np.random.default_rng(0).standard_normal((7, 3))
    module = import_module(f"linalgkit.mfac._{engine}")
    for b in (right, right[:, 0]):
        found = module.cholesky_solve(np.linalg.cholesky(matrix), b)
        np.testing.assert_allclose(found, np.linalg.solve(matrix, b), rtol=1e-9)


@pytest.mark.parametrize("ratio", [1e-6, 1e-13])
def test_gradient_in_a_window_of_few(ratio):
    """At first there are fewer gradients than parameters, and F⁻¹ g has nothing to cancel."""
    g = gradients_of(12, 5)
    window = SlidingWindowFisher(12, 5, damping=ratio * 100, storage="float64")
    for t in range(7):
        found = window.push_solve(g[t])
        rows = np.concatenate([g[: t + 1], np.zeros((11 - t, 5))])
        inverse = exact_inverse(rows, ratio * 100)
        truth = (inverse @ np.vectorize(Fraction, otypes=[object])(g[t])).astype(float)
        assert np.linalg.norm(found - truth) < 1e-8 * np.linalg.norm(truth)


def test_damping_that_is_lost():
    with pytest.raises(np.linalg.LinAlgError, match="is lost beside the gradients"):
        empirical_fisher(gradients_of(64, 8, 3), damping=1e-26)
    g = gradients_of(64, 8)  # of full rank: F needs no damping
    expected = np.linalg.lstsq(g.T @ g / 64, g[0], rcond=None)[0]
    found = empirical_fisher(g, damping=1e-200).solve(g[0])
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_gradients_that_are_not_finite():
    g = gradients_of()
    g[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"gradients\[7\] is not finite at 3"):
        empirical_fisher(g)


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("groups", [None, 4, "2:4"])
@pytest.mark.parametrize("update", ["joint", "diagonal"])
def test_pruning(update, groups, rounds):
    g = gradients_of(60, 12)
    weights = np.random.default_rng(3).standard_normal(12)
    weights[5] = 0
    options = {"update": update, "n_recompute": rounds, "groups": groups, "sparsity": 0.5}
    # One block of all parameters is the same matrix, by other code.
    found = prune(weights, empirical_fisher(g, damping=DAMPING), **options)
    other = prune(weights, block_fisher(g, 12, damping=DAMPING), **options)
    np.testing.assert_array_equal(found.order, other.order)
    np.testing.assert_array_equal(found.mask, other.mask)
    np.testing.assert_allclose(found.weights, other.weights, rtol=1e-9, atol=1e-12)
    assert found.loss_increase == pytest.approx(other.loss_increase, rel=1e-9)
    if update == "joint":  # the minimum for these weights
        f, kept = dense(g, DAMPING), found.mask
        shift = np.linalg.solve(f[np.ix_(kept, kept)], f[np.ix_(kept, ~kept)] @ weights[~kept])
        np.testing.assert_allclose(found.weights[kept], weights[kept] + shift, rtol=1e-9)


@pytest.mark.parametrize("warmup", ["paper", "count"])
@pytest.mark.parametrize("storage", ["float64", "float16", "bfloat16"])
def test_window(storage, warmup):
    m, d, rng = 6, 3, np.random.default_rng(4)
    window = SlidingWindowFisher(m, [(2,), (1,)], damping=1e-3, storage=storage, warmup=warmup)
    rows = np.round(8 * rng.standard_normal((9, d))) / 8  # exact in half precision
    for t, g in enumerate(rows):
        some = rows[max(0, t + 1 - m) : t + 1]
        inverse = np.linalg.inv(
            1e-3 * np.eye(d) + some.T @ some / (m if warmup == "paper" else len(some))
        )
        found = np.concatenate(window.push_solve([g[:2], g[2:]]))
        np.testing.assert_allclose(found, inverse @ g, rtol=1e-8, atol=1e-10)
        x = rng.standard_normal((d, 2))
        np.testing.assert_allclose(window.solve(x), inverse @ x, rtol=1e-8, atol=1e-9)
    other = SlidingWindowFisher(m, [(2,), (1,)], damping=1e-3, storage=storage, warmup=warmup)
    other.restore(window.state())
    np.testing.assert_array_equal(other.solve(x), window.solve(x))


def test_torch_gradients_of_the_operator(require):
    torch = require("torch")
    gradients = torch.from_numpy(gradients_of(9, 4)).requires_grad_()
    x = torch.ones(4, dtype=torch.float64)
    empirical_fisher(gradients, damping=DAMPING).solve(x).sum().backward()
    expected = pulled_back(np.ones(4), np.ones(4), gradients_of(9, 4), DAMPING)[1]
    np.testing.assert_allclose(gradients.grad.numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["numpy", "array_api_strict", "torch", "jax"])
def test_differentiable(name, require):
    used, rng = library(name, require), np.random.default_rng(5)
    g, x, cotangent = rng.standard_normal((9, 4)), *rng.standard_normal((2, 4, 2))
    arrays = [used.asarray(v) for v in (cotangent, x, g)]
    found = fisher_solve(*arrays[1:], damping=DAMPING)
    np.testing.assert_allclose(
        used.asnumpy(found), np.linalg.solve(dense(g, DAMPING), x), rtol=1e-11
    )
    for ours, truth in zip(
        fisher_solve_vjp(*arrays, damping=DAMPING),
        pulled_back(cotangent, x, g, DAMPING),
        strict=True,
    ):
        np.testing.assert_allclose(used.asnumpy(ours), truth, rtol=1e-10, atol=1e-12)
