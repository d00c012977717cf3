"""The GPU engine: every storage, alignment and size against float64 on the host."""

import numpy as np
import pytest
from mfac.cases import dense

import linalgkit
from linalgkit.mfac import (
    SlidingWindowFisher,
    block_fisher,
    empirical_fisher,
    fisher_solve,
    fisher_solve_vjp,
    prune,
    saliency,
    woodbury_static,
)
from linalgkit.mfac._many import ManyParameters

pytestmark = pytest.mark.gpu


def operands(m, d, dtype=np.float32):
    rng = np.random.default_rng(0)
    return rng.standard_normal((m, d)).astype(dtype), rng.standard_normal((d, 2)).astype(dtype)


@pytest.mark.parametrize("storage", [None, "float16", "bfloat16"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
# Aligned rows and others; less than a piece, and several; more rows than a block takes.
@pytest.mark.parametrize(("m", "d"), [(3, 16), (5, 17), (70, 4096), (33, 9001), (1100, 1200)])
def test_products_and_diagonal(m, d, dtype, storage):
    import cupy as cp

    gradients, x = operands(m, d, dtype)
    host = empirical_fisher(gradients, damping=0.5, storage=storage)
    assert isinstance(host._form, ManyParameters)
    fisher = empirical_fisher(cp.asarray(gradients), damping=0.5, storage=storage)
    right = cp.asarray(x)
    for ours, theirs in (
        (fisher.solve(right[:, 0]), host.solve(x[:, 0])),
        (fisher.solve(right), host.solve(x)),
        (fisher @ right[:, 1], host @ x[:, 1]),
        (fisher.diagonal_inverse(), host.diagonal_inverse()),
        (fisher.inverse_columns([0, d - 1]), host.inverse_columns([0, d - 1])),
        (fisher.whiten(right), host.whiten(x)),
    ):
        assert isinstance(ours, cp.ndarray)
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(cp.asnumpy(ours), theirs, rtol=2e-6, atol=1e-6)
    assert fisher.inverse_element(0, 1) == pytest.approx(host.inverse_element(0, 1), rel=1e-9)


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
@pytest.mark.parametrize("m", [5, 130])
def test_gram_of_half_precision(m, storage):
    import cupy as cp

    from linalgkit.mfac import _cupy
    from linalgkit.mfac._rows import to_bfloat16

    gradients, _ = operands(m, 300_000 if m == 5 else 40_000)
    stored = to_bfloat16(gradients) if storage == "bfloat16" else gradients.astype(np.float16)
    wide = linalgkit.mfac._array_api.widened(stored)
    truth, lengths = wide @ wide.T, np.linalg.norm(wide, axis=1)
    found = cp.asnumpy(_cupy.gram(cp.asarray(stored), tolerance=1.0))
    assert (np.abs(found - truth) / np.outer(lengths, lengths)).max() < 1e-14


@pytest.mark.parametrize("storage", ["float64", "float32", "float16", "bfloat16"])
def test_window(storage):
    import cupy as cp

    gradients, x = operands(7, 50)
    options = {"damping": 1e-3, "storage": storage}
    host = SlidingWindowFisher(4, 50, **options)
    fisher = SlidingWindowFisher(4, 50, like=cp.empty(0), **options)
    for g in gradients:
        ours, theirs = fisher.push_solve(cp.asarray(g)), host.push_solve(g)
        np.testing.assert_allclose(cp.asnumpy(ours), theirs, rtol=1e-5, atol=1e-8)
    ours, theirs = fisher.solve(cp.asarray(x)), host.solve(x)
    np.testing.assert_allclose(cp.asnumpy(ours), theirs, rtol=1e-5, atol=1e-4)


def test_window_that_warms_up_by_count():
    import cupy as cp

    gradients, _ = operands(3, 50)
    windows = [
        SlidingWindowFisher(4, 50, damping=1e-3, warmup="count", like=like)
        for like in (np.empty(0), cp.empty(0))
    ]
    for g in gradients:
        theirs, ours = (w.push_solve(x) for w, x in zip(windows, (g, cp.asarray(g)), strict=True))
        np.testing.assert_allclose(cp.asnumpy(ours), theirs, rtol=1e-5, atol=1e-8)


def test_a_step_whose_damping_is_lost():
    import cupy as cp

    fisher = SlidingWindowFisher(3, 40, damping=1e-30, storage="float64", like=cp.empty(0))
    fisher.push_solve(cp.ones(40))
    with pytest.raises(np.linalg.LinAlgError, match="is lost beside"):
        fisher.push_solve(cp.ones(40))
    with pytest.raises(np.linalg.LinAlgError, match="is lost beside"):
        fisher.solve(cp.ones(40))


def test_blocks_and_pruning():
    import cupy as cp

    gradients, x = operands(6, 24, np.float64)
    weights, device = x[:, 0], cp.asarray(gradients)
    for ours, theirs in (
        (block_fisher(device, 4, damping=0.1), block_fisher(gradients, 4, damping=0.1)),
        (empirical_fisher(device, damping=0.1), empirical_fisher(gradients, damping=0.1)),
    ):
        for options in ({"sparsity": 0.5, "n_recompute": 2}, {"groups": "2:4", "update": "joint"}):
            found = prune(cp.asarray(weights), ours, **options)
            expected = prune(weights, theirs, **options)
            np.testing.assert_allclose(cp.asnumpy(found.weights), expected.weights, atol=1e-10)
            np.testing.assert_array_equal(cp.asnumpy(found.mask), expected.mask)


def test_optimiser_on_the_device(require):
    torch = require("torch")
    from linalgkit.mfac.optim import MFAC

    results = []
    for device in ("cpu", "cuda"):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 10, dtype=torch.float64, device=device))
        optimizer = MFAC([p], lr=0.1, n_gradients=3, damping=0.1, momentum=0.5)
        for _ in range(6):
            optimizer.zero_grad()
            (p**4).sum().backward()
            optimizer.step()
        results.append(p.detach().cpu().numpy())
    np.testing.assert_allclose(*results, rtol=1e-10)


@pytest.mark.parametrize("storage", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize(("begin", "end"), [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")])
def test_the_state_of_the_optimiser_moves_to_another_device(begin, end, storage, require):
    torch = require("torch")
    from linalgkit.mfac.optim import MFAC

    start = torch.linspace(-1, 1, 40, dtype=torch.float64)
    start[::5] = 0
    options = {"lr": 0.1, "n_gradients": 3, "damping": 0.1, "momentum": 0.5, "storage": storage}

    def after(p, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            ((p - 0.5) ** 4).sum().backward()
            optimizer.step()
        return p.detach().cpu().numpy()

    p = torch.nn.Parameter(start.to(begin, copy=True))
    optimizer = MFAC([p], **options, sparse=True)
    after(p, optimizer, 4)
    q = torch.nn.Parameter(p.detach().to(end, copy=True))
    other = MFAC([q], **options)
    other.load_state_dict(optimizer.state_dict())
    found, expected = after(q, other, 4), after(p, optimizer, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert (found[::5] == 0).all()


def test_optimiser_on_another_device_than_the_current_one(require):
    torch = require("torch")
    from linalgkit.mfac.optim import MFAC

    if torch.cuda.device_count() < 2:
        pytest.skip("one device")
    results = []
    for device in ("cuda:0", "cuda:1"):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 5000, dtype=torch.float64, device=device))
        optimizer = MFAC([p], lr=0.1, n_gradients=4, damping=0.1)
        for _ in range(6):
            optimizer.zero_grad()
            (p**4).sum().backward()
            optimizer.step()
        other = MFAC([p], lr=0.1, n_gradients=4, damping=0.1)
        other.load_state_dict(optimizer.state_dict())
        for part in (*other.window.state()["gradients"], other.window.state()["gram"]):
            assert part.device.id == p.device.index
        results.append(p.detach().cpu().numpy())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("storage", ["float64", "float32", "bfloat16"])
def test_a_gradient_that_overflows_the_window_is_refused(storage):
    import cupy as cp

    fisher = SlidingWindowFisher(3, 50, damping=0.1, storage=storage, like=cp.empty(0))
    fisher.push(cp.ones(50))
    before = fisher.solve(cp.ones(50))
    with pytest.raises(ValueError, match="g is too large"):
        fisher.push_solve(cp.full(50, 1e200))
    cp.testing.assert_array_equal(fisher.solve(cp.ones(50)), before)
    assert fisher.solve(cp.ones((50, 0))).shape == (50, 0)


def test_dense_truth():
    import cupy as cp

    gradients, x = operands(9, 40, np.float64)
    found = empirical_fisher(cp.asarray(gradients), damping=1e-6).solve(cp.asarray(x))
    expected = np.linalg.solve(dense(gradients, 1e-6), x)
    np.testing.assert_allclose(cp.asnumpy(found), expected, rtol=1e-7, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("m", "d"), [(5, 70), (40, 12)])
def test_gradients_of_solve(m, d, dtype):
    import cupy as cp

    gradients, x = operands(m, d, dtype)
    x, cotangent = (v.astype(np.promote_types(dtype, np.float32)) for v in (x, x[::-1]))
    for arrays in ((cotangent, x, gradients), (cotangent[:, 1], x[:, 0], gradients)):
        found = fisher_solve_vjp(*map(cp.asarray, arrays), damping=0.5)
        expected = fisher_solve_vjp(*arrays, damping=0.5)
        limit = {"e": 2e-3, "f": 2e-5, "d": 1e-11}[np.dtype(dtype).char]
        for got, wanted in zip(found, expected, strict=True):
            assert got.dtype == wanted.dtype
            error = np.abs(cp.asnumpy(got).astype(float) - wanted).max()
            assert error < limit * np.abs(wanted).max()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_little_memory_beside_arguments_and_result(dtype):
    import cupy as cp

    pool = cp.cuda.MemoryPool()
    with cp.cuda.using_allocator(pool.malloc):
        rng = cp.random.RandomState(0)
        gradients = rng.standard_normal((256, 1_000_000), dtype=np.float32).astype(dtype)
        pool.free_all_blocks()  # else x takes a piece of what was converted, and keeps all of it
        x = rng.standard_normal(1_000_000, dtype=np.float32)
        small = gradients[:, :8192].copy(), x[:8192].copy()
        fisher_solve_vjp(small[1], *small[::-1])  # what libraries take for themselves
        del small
        pool.free_all_blocks()
        pool.set_limit(size=int(1.1 * gradients.nbytes + 2 * x.nbytes))
        assert cp.isfinite(fisher_solve(x, gradients)).all()
        fisher = empirical_fisher(gradients)
        assert cp.isfinite(fisher.solve(x)).all()
        del fisher
        pool.free_all_blocks()
        pool.set_limit(size=int(1.1 * (2 * gradients.nbytes + 3 * x.nbytes)))
        assert cp.isfinite(fisher_solve_vjp(x, x, gradients).x).all()


def test_results_in_half_precision_would_overflow():
    import cupy as cp

    gradients, x = operands(4, 100, np.float16)
    found = fisher_solve(cp.asarray(x[:, 0]), cp.asarray(gradients))
    truth = np.linalg.inv(dense(gradients, 1e-5))
    assert found.dtype == np.float32
    np.testing.assert_allclose(cp.asnumpy(found), truth @ x[:, 0], rtol=1e-5, atol=1e-2)
    cotangent = np.float16(2**-14) * x[:, 1]
    arrays = cotangent, x[:, 0], gradients
    for got, wanted in zip(
        fisher_solve_vjp(*map(cp.asarray, arrays)), fisher_solve_vjp(*arrays), strict=True
    ):
        assert got.dtype == wanted.dtype
        assert cp.isfinite(got).all()
        np.testing.assert_allclose(cp.asnumpy(got), wanted, rtol=2e-3, atol=2e-3)
    for got, wanted in zip(
        woodbury_static(cp.asarray(gradients)), woodbury_static(gradients), strict=True
    ):
        np.testing.assert_allclose(cp.asnumpy(got), wanted, rtol=1e-5, atol=1e-2)
    small = np.array([1e-4, 2e-4], np.float16), np.array([2.0, 1.0], np.float16)
    np.testing.assert_allclose(
        cp.asnumpy(saliency(*map(cp.asarray, small))), saliency(*small), rtol=1e-6
    )


def test_gradients_that_storage_must_not_hide():
    import cupy as cp

    large = empirical_fisher(cp.full((2, 16), 4e4, cp.float16), damping=1.0, storage="float16")
    assert large.trace() == pytest.approx(16 + 16 * 4e4**2, rel=2e-3)
    gradients = cp.ones((2, 40), cp.float32)
    gradients.view(cp.uint32)[0, 3] = 0x7FFFFFFF  # CUDA's own NaN
    with pytest.raises(ValueError, match=r"gradients\[0\] is not finite at 3"):
        empirical_fisher(gradients, storage="bfloat16")
    with pytest.raises(ValueError, match=r"gradients\[0\] is not finite at 3"):
        block_fisher(gradients.astype(cp.float16), 4)


def test_damping_that_is_lost():
    import cupy as cp

    for shape in ((2, 40), (9, 3)):
        ones = cp.ones(shape)
        with pytest.raises(np.linalg.LinAlgError, match="is lost beside"):
            fisher_solve(cp.ones(shape[1]), ones, damping=1e-30)
    fisher = block_fisher(cp.ones((9, 8)), 4, damping=1e-30)
    with pytest.raises(np.linalg.LinAlgError, match="is lost beside"):
        fisher.diagonal_inverse()


@pytest.mark.parametrize("size", [4, 12])
def test_every_method_of_blocks(size):
    import cupy as cp

    gradients, x = operands(6, 26, np.float64)
    host = block_fisher(gradients, size, damping=0.1)
    fisher, right = block_fisher(cp.asarray(gradients), size, damping=0.1), cp.asarray(x)
    for ours, theirs in (
        (fisher @ right, host @ x),
        (fisher.solve(right), host.solve(x)),
        (fisher.whiten(right), host.whiten(x)),
        (fisher.diagonal(), host.diagonal()),
        (fisher.diagonal_inverse(), host.diagonal_inverse()),
        (fisher.inverse_columns([25, 3]), host.inverse_columns([25, 3])),
        (fisher.to_dense(), host.to_dense()),
    ):
        np.testing.assert_allclose(cp.asnumpy(ours), theirs, rtol=1e-9, atol=1e-11)
    for name in ("logdet", "trace", "norm"):
        assert getattr(fisher, name)() == pytest.approx(getattr(host, name)(), rel=1e-10)
    assert fisher.inverse_element(5, 6) == pytest.approx(host.inverse_element(5, 6), rel=1e-9)


def test_gradients_that_are_not_contiguous_are_copied_once():
    import cupy as cp

    gradients, _ = operands(5, 1000)
    fisher = empirical_fisher(cp.asfortranarray(cp.asarray(gradients)), damping=0.1)
    assert fisher._parts[0].flags.c_contiguous
    np.testing.assert_allclose(
        cp.asnumpy(fisher.diagonal()), dense(gradients, 0.1).diagonal(), rtol=1e-6
    )
