"""Gradients of projections: differences, automatic differentiation, torch, magnitudes."""

import numpy as np
import pytest
from monarch.cases import factors, random

import linalgkit
from linalgkit import monarch
from linalgkit.monarch import _array_api_projection

# (k, q, p, l, s, r): l not dividing q, sparse slices, ranks above one.
BLOCKS = [(3, 4, 5, 2, 7, 6), (4, 3, 6, 6, 4, 2), (2, 6, 9, 3, 11, 4)]
RANKS = (3, 12, 7, 4, 5, 9)
ENGINES = ["numba", "array_api"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gauge", ["balanced", "left", "right"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_gradient_by_differences(blocks, dtype, gauge, engine):
    k, _, p, count, rows, _ = blocks
    rng = np.random.default_rng(21)
    # The last row and column are padding.
    a = random(rng, dtype, count * rows - 1, k * p - 1)
    cotangents = factors(rng, dtype, blocks)

    def loss(matrix):
        m = monarch.project(matrix, blocks=blocks, gauge=gauge)
        return sum(np.vdot(c, f).real for c, f in zip(cotangents, (m.left, m.right), strict=True))

    with linalgkit.use_engine(engine):
        gradient = monarch.project_vjp(cotangents, a, blocks=blocks, gauge=gauge).a
        halves = [
            monarch.project_vjp(pair, a, blocks=blocks, gauge=gauge).a
            for pair in ((cotangents[0], None), (None, cotangents[1]))
        ]
    assert gradient.dtype == np.dtype(dtype)
    size = np.linalg.norm(gradient)
    np.testing.assert_allclose(sum(halves), gradient, atol=1e-12 * size)
    for _ in range(8):
        direction = random(rng, dtype, *a.shape)
        step = 1e-6 * direction
        slope = (loss(a + step) - loss(a - step)) / 2e-6
        got = np.vdot(gradient, direction).real
        np.testing.assert_allclose(got, slope, rtol=1e-5, atol=1e-6 * size)


@pytest.mark.parametrize("library", ["torch", "jax"])
@pytest.mark.parametrize("gauge", ["balanced", "left", "right"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_gradient_by_autograd(dtype, gauge, library, require):
    require(library)
    blocks = (3, 4, 5, 2, 7, 6)
    rng = np.random.default_rng(22)
    a = random(rng, dtype, 2, 14, 15)
    cotangents = [
        np.stack(pair)
        for pair in zip(factors(rng, dtype, blocks), factors(rng, dtype, blocks), strict=True)
    ]
    got = monarch.project_vjp(cotangents, a, blocks=blocks, gauge=gauge).a
    if library == "torch":
        import torch

        leaf = torch.tensor(a, requires_grad=True)
        with linalgkit.use_engine("array_api"):
            m = monarch.project(leaf, blocks=blocks, gauge=gauge)
        (expected,) = torch.autograd.grad(
            (m.left, m.right), leaf, [torch.tensor(c) for c in cotangents]
        )
        expected = expected.numpy()
    else:
        import jax

        def project(x):
            return _array_api_projection.project(x, blocks=blocks, gauge=gauge, method="svd")

        @jax.jit  # operation by operation, JAX compiles each of them
        def pulled(x, *cotangents):
            return jax.vjp(project, x)[1](cotangents)[0]

        expected = pulled(*(jax.numpy.asarray(x) for x in (a, *(c.conj() for c in cotangents))))
        expected = np.asarray(expected).conj()
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-9 * np.abs(expected).max())


def torch_gradient(a, cotangents, **options):
    import torch

    leaf = torch.tensor(a, requires_grad=True)
    m = monarch.project(leaf, **options)
    return torch.autograd.grad((m.left, m.right), leaf, list(map(torch.tensor, cotangents)))[0]


@pytest.mark.parametrize("engine", [None, "array_api"])
@pytest.mark.parametrize("gauge", ["balanced", "left", "right"])
def test_torch_gradient_where_singular_values_are_zero(gauge, engine, require):
    require("torch")
    rng, blocks = np.random.default_rng(29), (2, 2, 4, 2, 4, 2)
    cotangents = factors(rng, "float64", blocks)
    padded, sparse = random(rng, "float64", 7, 7), random(rng, "float64", 8, 8)
    sparse[::2, :4] = 0  # a slice
    with linalgkit.use_engine(engine):
        for a in (padded, sparse):
            gradient = torch_gradient(a, cotangents, blocks=blocks, gauge=gauge).numpy()
            expected = monarch.project_vjp(cotangents, a, blocks=blocks, gauge=gauge).a
            np.testing.assert_allclose(gradient, expected, rtol=1e-8, atol=1e-10)
    assert np.all(gradient[::2, :4] == 0)
    half = torch_gradient(padded.astype("f2"), [c.astype("f2") for c in cotangents], nblocks=2)
    assert np.isfinite(half.numpy()).all()


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_torch_gradients_by_differences(dtype, require):
    torch = require("torch")
    a = torch.tensor(random(np.random.default_rng(30), dtype, 2, 5, 7), requires_grad=True)

    def factors_of(a):
        m = monarch.project(a, blocks=(2, 3, 4, 3, 2, 2))
        return m.left, m.right

    assert torch.autograd.gradcheck(factors_of, a)
    gradient = torch.func.grad(lambda a: monarch.project(a, nblocks=2).left.abs().sum())(a.detach())
    assert torch.isfinite(gradient.abs()).all()


@pytest.mark.parametrize("requires_grad", [False, True])
def test_torch_tensors_go_through_the_kernels(requires_grad, require, monkeypatch):
    torch = require("torch")
    from linalgkit import _torch

    ran, run = [], _torch._run
    monkeypatch.setattr(_torch, "_run", lambda *a: ran.append(a[1]) or run(*a))
    a = random(np.random.default_rng(31), "float32", 64, 64)
    tensor = torch.tensor(a, requires_grad=requires_grad)
    m, expected = monarch.project(tensor, nblocks=8), monarch.project(a, nblocks=8)
    np.testing.assert_array_equal(m.left.detach().numpy(), expected.left)
    np.testing.assert_array_equal(m.right.detach().numpy(), expected.right)
    assert m.left.requires_grad is requires_grad
    if requires_grad:
        m.left.sum().backward()
    assert ran == ["project", "project_vjp"][: 1 + requires_grad]
    with linalgkit.use_engine("array_api"):
        monarch.project(tensor, nblocks=8)
    assert len(ran) == 1 + requires_grad


def test_gradient_of_a_function_of_the_product():
    """‖M‖² is ‖A‖² less the error: its gradient is 2 M, whatever the gauge."""
    a = random(np.random.default_rng(23), "complex128", 20, 21)
    for gauge in ("balanced", "left", "right"):
        m = monarch.project(a, blocks=RANKS, gauge=gauge)
        d = m.to_dense()
        none = np.zeros((21, 21), complex)
        pull = monarch.monarch_matmul_vjp(2 * d.T, np.eye(21) + none, m.left, m.right)
        gradient = monarch.project_vjp((pull.left, pull.right), a, blocks=RANKS, gauge=gauge).a
        np.testing.assert_allclose(gradient, 2 * d, atol=1e-11)


@pytest.mark.parametrize("exponent", [-150, 150])
def test_gradient_at_any_magnitude(exponent):
    a, blocks = random(np.random.default_rng(24), "float64", 12, 12), (3, 3, 4, 3, 4, 3)
    cotangents = factors(np.random.default_rng(25), "float64", blocks)
    plain = monarch.project_vjp(cotangents, a, blocks=blocks).a
    scaled = monarch.project_vjp(cotangents, a * 10.0**exponent, blocks=blocks).a
    np.testing.assert_allclose(scaled * 10.0 ** (exponent / 2), plain, rtol=1e-10, atol=1e-12)


def test_gradient_where_there_is_none_is_finite():
    cotangents = factors(np.random.default_rng(26), "complex128", (2, 4, 3, 2, 3, 4))
    for a in (np.zeros((6, 6)), np.eye(6), np.ones((6, 6))):
        gradient = monarch.project_vjp(cotangents, a, blocks=(2, 4, 3, 2, 3, 4)).a
        assert gradient.dtype == np.float64
        assert np.all(np.isfinite(gradient))
    assert not np.any(monarch.project_vjp((None, None), np.eye(6), nblocks=2).a)
