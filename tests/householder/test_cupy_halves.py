"""Tensor cores on float16 and bfloat16, against float64 on the host."""

import numpy as np
import pytest
from householder.cases import random_arrays

import linalgkit
from linalgkit import householder
from linalgkit.householder import _cupy_halves

NAMES = ("q", "k", "v", "beta", "log_decay", "initial_state")
EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
# (batch, tokens, width, values); many heads give a warp all tokens of its columns, few a quarter
SIZES = {
    "one token": ((2,), 1, 8, 8),
    "whole chunks": ((2, 3), 128, 64, 64),
    "ragged": ((3,), 200, 40, 72),
    "wide": ((2,), 131, 128, 128),
    "many heads": ((150,), 130, 128, 128),
    "many narrow heads": ((140,), 70, 64, 64),
    "more values than are staged": ((2,), 100, 64, 200),
}


@pytest.fixture
def torch(require):
    require("torch")
    import torch

    return torch


def operands(torch, name, dtype, *, decay, dtype_of_gates=None):
    """Arrays on the host in float64, of what the device has in `dtype`."""
    batch, tokens, width, values = SIZES[name]
    rng = np.random.default_rng(0)
    arrays = random_arrays(
        rng, np.float64, batch=batch, tokens=tokens, width=width, values=values,
        decay="scalar" if decay else None,
    )  # fmt: skip
    if decay and tokens > 9:
        arrays[4][..., 7], arrays[4][..., 9] = -np.inf, -300
    kinds = [dtype, dtype, dtype, *[dtype_of_gates or dtype] * 2, "float32"]
    device = [
        None if x is None else torch.as_tensor(x, device="cuda").to(getattr(torch, kind))
        for x, kind in zip(arrays, kinds, strict=True)
    ]
    return [None if x is None else x.double().cpu().numpy() for x in device], device


def keywords(arrays):
    return dict(zip(NAMES[4:], arrays[4:], strict=True))


def close(result, truth, dtype):
    """To a few eps of the dtype: operands of products are rounded to it, sums are float32."""
    error = np.abs(result.double().cpu().numpy() - truth).max()
    assert error <= 4 * EPS[dtype] * np.abs(truth).max()


def served(function):
    """Tell that a call is served, for whoever changes what is."""
    calls = []
    return calls, lambda *args, **options: calls.append(0) or function(*args, **options)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_rule_and_gradients(torch, monkeypatch, name, decay, dtype):
    host, device = operands(torch, name, dtype, decay=decay)
    calls, counted = served(_cupy_halves.delta_rule)
    monkeypatch.setattr(_cupy_halves, "delta_rule", counted)
    before = [None if x is None else x.clone() for x in device]
    options = {"return_state": True}
    found = householder.delta_rule(*device[:4], **keywords(device), **options)
    assert calls
    with linalgkit.use_engine("array_api"):
        truth = householder.delta_rule(*host[:4], **keywords(host), **options)
    assert found[0].dtype == device[0].dtype
    assert found[1].dtype == torch.float32
    for x, y in zip(found, truth, strict=True):
        close(x, y, dtype)

    rng = np.random.default_rng(1)
    wide = [rng.standard_normal(x.shape) for x in truth]
    cotangents = [
        torch.as_tensor(x, device="cuda").to(y.dtype) for x, y in zip(wide, found, strict=True)
    ]
    wide = tuple(x.double().cpu().numpy() for x in cotangents)
    calls, counted = served(_cupy_halves.delta_rule_vjp)
    monkeypatch.setattr(_cupy_halves, "delta_rule_vjp", counted)
    gradients = householder.delta_rule_vjp(tuple(cotangents), *device)
    assert calls
    with linalgkit.use_engine("array_api"):
        truth = householder.delta_rule_vjp(wide, *host)
    for x, y, like in zip(gradients, truth, device, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            assert x.dtype == like.dtype
            close(x, y, dtype)
    for x, y in zip(before, device, strict=True):
        assert x is None or torch.equal(x, y)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", EPS)
def test_strengths_and_gates_in_float32(torch, dtype):
    host, device = operands(torch, "wide", dtype, decay=True, dtype_of_gates="float32")
    leaves = [x.requires_grad_() for x in device]
    output = householder.delta_rule(*leaves[:4], **keywords(leaves))
    with linalgkit.use_engine("array_api"):
        close(output.detach(), householder.delta_rule(*host[:4], **keywords(host)), dtype)
        truth = householder.delta_rule_vjp(np.ones(output.shape), *host)
    for x, y in zip(torch.autograd.grad(output.sum(), leaves), truth, strict=True):
        close(x, y, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", EPS)
def test_parts_of_the_workspace(torch, monkeypatch, dtype):
    _, device = operands(torch, "ragged", dtype, decay=True)

    def run():
        output, state = householder.delta_rule(*device[:4], **keywords(device), return_state=True)
        return output, state, *householder.delta_rule_vjp((output, state), *device)

    whole, again = run(), run()
    assert all(torch.equal(x, y) for x, y in zip(whole, again, strict=True))
    monkeypatch.setattr(_cupy_halves, "_SHARE", 0)
    for bytes_ in (1, 150_000):  # a chunk of a head at a time, then two heads
        monkeypatch.setattr(_cupy_halves, "_LEAST", bytes_)
        monkeypatch.setattr(_cupy_halves, "_MOST", bytes_)
        _cupy_halves._Plan.of.cache_clear()
        for x, y in zip(run(), whole, strict=True):
            close(x, y.double().cpu().numpy(), dtype)
    _cupy_halves._Plan.of.cache_clear()


@pytest.mark.gpu
def test_little_memory_beside_arguments_and_result():
    import cupy as cp

    pool = cp.cuda.MemoryPool()
    with cp.cuda.using_allocator(pool.malloc):
        rows = cp.full((128, 8192, 128), 1 / 128, cp.float16)
        beta = cp.ones((128, 8192), cp.float16)
        state = 4 * 128 * 128 * 128
        arrays = 2 * rows.nbytes + beta.nbytes  # queries, keys and values are one array here
        pool.set_limit(size=arrays + rows.nbytes + state + (1 << 20))  # a quarter of four
        assert cp.isfinite(householder.delta_rule(rows, rows, rows, beta)[:, -1]).all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("heads", [1, 150])
def test_equal_keys_of_strength_two(torch, dtype, heads):
    """A Neumann series overflows here; reflections undo each other in pairs."""
    key = torch.zeros(heads, 129, 8, device="cuda", dtype=getattr(torch, dtype))
    key[..., 0] = 1
    state = torch.arange(64.0, device="cuda").reshape(1, 8, 8).expand(heads, 8, 8)
    beta = torch.full_like(key[..., 0], 2)
    _, end = householder.delta_rule(
        key, key, torch.zeros_like(key), beta, initial_state=state, return_state=True
    )
    expected = state.clone()
    expected[:, 0] *= -1
    assert torch.equal(end, expected)


@pytest.mark.gpu
def test_bfloat16_that_tensor_cores_do_not_serve(torch):
    q, k, v, beta, decay, _ = random_arrays(
        np.random.default_rng(0), np.float64, batch=(2,), tokens=70, width=13, values=5,
        reflections=2, decay="vector",
    )  # fmt: skip
    device = [torch.as_tensor(x, device="cuda").bfloat16() for x in (q, k, v, beta, decay)]
    host = [x.double().cpu().numpy() for x in device]
    leaves = [x.requires_grad_() for x in device]
    output = householder.delta_rule(*leaves[:4], log_decay=leaves[4], reflections=2)
    assert output.dtype == torch.bfloat16
    with linalgkit.use_engine("array_api"):
        truth = householder.delta_rule(*host[:4], log_decay=host[4], reflections=2)
        gradients = householder.delta_rule_vjp(np.ones(truth.shape), *host, reflections=2)
    close(output.detach(), truth, "bfloat16")
    for x, y in zip(torch.autograd.grad(output.sum(), leaves), gradients, strict=False):
        close(x, y, "bfloat16")
