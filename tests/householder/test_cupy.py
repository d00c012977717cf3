"""The GPU engine against float64 on the host: every decay, length, width and dtype."""

import numpy as np
import pytest
from householder.cases import random_arrays

import linalgkit
from linalgkit import householder
from linalgkit.householder import ReflectionProduct, _cupy, _cupy_halves, state_tracking

NAMES = ("q", "k", "v", "beta", "log_decay", "initial_state")
# (batch, tokens, width, values, reflections)
SIZES = {
    "one token": ((2,), 1, 3, 2, 1),
    "ragged": ((2, 3), 131, 24, 40, 1),
    "whole chunks": ((4,), 128, 64, 64, 1),
    "wide": ((1,), 70, 200, 96, 1),
    "several reflections": ((3,), 45, 16, 33, 3),
    "one value": ((5,), 200, 5, 1, 2),
}


@pytest.fixture
def without_tensor_cores(monkeypatch):
    """Half precision in float32, as where tensor cores do not serve; test_cupy_halves has these."""
    monkeypatch.setattr(_cupy_halves, "serves", lambda *args, **options: False)


def operands(name, dtype, decay, with_state=True):
    """Arrays on the host in float64, rounded to `dtype`, and on the device."""
    import cupy as cp

    batch, tokens, width, values, reflections = SIZES[name]
    rng = np.random.default_rng(0)
    arrays = random_arrays(
        rng, np.float64, batch=batch, tokens=tokens, width=width, values=values,
        reflections=reflections, decay=decay,
    )  # fmt: skip
    if decay is not None and tokens > 30:
        gates = arrays[4] if decay == "scalar" else np.moveaxis(arrays[4], -1, 0)
        gates[..., 7], gates[..., 9] = -np.inf, -300
    arrays = [None if x is None else x.astype(dtype) for x in arrays]
    if not with_state:
        arrays[5] = None
    host = [None if x is None else x.astype(np.float64) for x in arrays]
    return host, [None if x is None else cp.asarray(x) for x in arrays], reflections


def keywords(arrays):
    return dict(zip(NAMES[4:], arrays[4:], strict=True))


def close(result, truth, dtype):
    """To 500 eps of the largest number, of float32 for half precision before it is rounded."""
    wide = np.finfo(np.result_type(dtype, np.float32)).eps
    limit = 500 * wide + (np.finfo(dtype).eps if dtype == "float16" else 0)
    np.testing.assert_allclose(
        result.get().astype(np.float64), truth, rtol=0, atol=limit * max(1, np.abs(truth).max())
    )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("decay", [None, "scalar", "vector"])
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.usefixtures("without_tensor_cores")
def test_delta_rule(name, decay, dtype):
    for with_state in (True, False):
        host, device, reflections = operands(name, dtype, decay, with_state)
        options = {"reflections": reflections, "return_state": True}
        with linalgkit.use_engine("array_api"):
            truth = householder.delta_rule(*host[:4], **keywords(host), **options)
        before = [None if x is None else x.copy() for x in device]
        output, state = householder.delta_rule(*device[:4], **keywords(device), **options)
        assert output.dtype == dtype
        close(output, truth[0], dtype)
        close(state, truth[1], dtype)
        for chunk in (1, 16):
            other = householder.delta_rule(
                *device[:4], **keywords(device), reflections=reflections, chunk=chunk
            )
            close(other, truth[0], dtype)
        for x, y in zip(before, device, strict=True):
            assert x is None or (x == y).all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("decay", [None, "scalar", "vector"])
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.usefixtures("without_tensor_cores")
def test_gradients(name, decay, dtype):
    import cupy as cp

    host, device, reflections = operands(name, dtype, decay)
    output, state = householder.delta_rule(
        *host[:4], **keywords(host), reflections=reflections, return_state=True
    )
    rng = np.random.default_rng(1)
    cotangents = [rng.standard_normal(x.shape).astype(dtype) for x in (output, state)]
    with linalgkit.use_engine("array_api"):
        truth = householder.delta_rule_vjp(
            tuple(x.astype(np.float64) for x in cotangents), *host, reflections=reflections
        )
    result = householder.delta_rule_vjp(
        tuple(map(cp.asarray, cotangents)), *device, reflections=reflections
    )
    for got, wanted, argument in zip(result, truth, device, strict=True):
        assert (got is None) == (wanted is None)
        if got is not None:
            assert got.dtype == argument.dtype
            close(got, wanted, dtype)
    only = householder.delta_rule_vjp(
        cp.asarray(cotangents[0]), *device, reflections=reflections, wrt=["beta"]
    )
    assert only.q is None
    assert only.beta.shape == device[3].shape


@pytest.mark.gpu
def test_parts_of_the_workspace(monkeypatch):
    _, device, _ = operands("ragged", "float32", "scalar")
    cotangent = householder.delta_rule(*device[:4], log_decay=device[4])
    whole = householder.delta_rule_vjp(cotangent, *device)
    monkeypatch.setattr(_cupy, "_WORKSPACE", 1)
    again = householder.delta_rule(*device[:4], log_decay=device[4])
    close(again, cotangent.get(), "float32")
    for one, other in zip(householder.delta_rule_vjp(cotangent, *device), whole, strict=True):
        close(one, other.get(), "float32")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equal_keys_of_strength_two(dtype):
    """A Neumann series overflows here; reflections undo each other in pairs."""
    import cupy as cp

    key = np.zeros((1, 129, 8), dtype)
    key[..., 0] = 1
    state = np.arange(16, dtype=dtype).reshape(1, 8, 2)
    v, beta = np.zeros((1, 129, 2), dtype), np.full((1, 129), 2, dtype)
    arrays = map(cp.asarray, (key, key, v, beta))
    _, end = householder.delta_rule(*arrays, initial_state=cp.asarray(state), return_state=True)
    state[:, 0] *= -1
    np.testing.assert_array_equal(end.get(), state)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_states_are_tracked_without_error(dtype):
    import cupy as cp

    tracker = state_tracking.permutation(np.array([[1, 2, 3, 4, 0], [1, 0, 2, 3, 4]]))
    word = np.random.default_rng(0).integers(0, 2, 20_000)
    (layer,) = tracker.layers
    *arrays, initial = layer.encode(word, dtype)
    output = householder.delta_rule(
        *map(cp.asarray, arrays), initial_state=cp.asarray(initial), scale=1,
        reflections=layer.reflections,
    )  # fmt: skip
    np.testing.assert_array_equal(layer.decode(output.get()), tracker.run(word))


@pytest.mark.gpu
def test_nan_stays_in_its_batch_item():
    _, device, _ = operands("ragged", "float32", "scalar")
    good = householder.delta_rule(*device[:4], log_decay=device[4]).get()
    device[1][0, 1, 17, 3] = np.nan
    result = householder.delta_rule(*device[:4], log_decay=device[4]).get()
    assert np.isnan(result[0, 1, 17:]).all()
    result[0, 1] = good[0, 1] = 0
    np.testing.assert_array_equal(result, good)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(0, 5, 3, 2), (2, 0, 3, 2), (2, 5, 3, 0), (2, 5, 0, 2)])
def test_empty(shape):
    import cupy as cp

    batch, tokens, width, values = shape
    k, v, beta = (cp.ones((batch, tokens, n)) for n in (width, values, 1))
    state = cp.ones((batch, width, values))
    output, end = householder.delta_rule(
        k, k, v, beta[..., 0], initial_state=state, return_state=True
    )
    assert output.shape == v.shape
    assert end.shape == state.shape


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 16, 63, 64, 100])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_transforms(dtype, count):
    import cupy as cp

    _, k, _, beta, _, _ = random_arrays(
        np.random.default_rng(2), dtype, batch=(3,), tokens=count, width=20
    )
    result = householder.ut_transform(cp.asarray(k), cp.asarray(beta))
    wide = k.astype(np.float64), beta.astype(np.float64)
    close(result, householder.ut_transform(*wide), dtype)
    product = householder.accumulate(cp.asarray(k), cp.asarray(beta))
    close(product, householder.accumulate(*wide), dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("count", [0, 1, 64, 130, 300])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
def test_reflections(dtype, count, batch):
    import cupy as cp

    rng, n = np.random.default_rng(3), 350
    wide = np.result_type(dtype, np.float64)
    vectors, tau = rng.standard_normal((*batch, n, count)), rng.uniform(0, 2, (*batch, count))
    x = rng.standard_normal((n, 5))
    if wide.kind == "c":
        vectors = vectors + 1j * rng.standard_normal(vectors.shape)
        tau = tau + 1j * rng.standard_normal(tau.shape)
    tau[..., count // 2 :][..., :1] = 0
    vectors, tau, x = ((y / 40).astype(dtype) for y in (vectors, 40 * tau, x))
    host = ReflectionProduct(vectors.astype(wide), tau.astype(wide))
    device, before = ReflectionProduct(cp.asarray(vectors), cp.asarray(tau)), cp.asarray(x)
    operand = before.copy()
    for name in ("matmat", "rmatmat"):
        result = getattr(device, name)(operand)
        assert result.dtype == dtype
        close_complex(result, getattr(host, name)(x.astype(wide)), dtype)
    close_complex(device.det(), host.det(), dtype)
    assert (operand == before).all()


def close_complex(result, truth, dtype):
    result, limit = result.get(), 500 * np.finfo(dtype).eps
    if np.dtype(dtype) == np.float16:
        limit = 8 * np.finfo(dtype).eps
    assert np.abs(result - truth).max(initial=0) <= limit * max(1, np.abs(truth).max(initial=0))


@pytest.mark.gpu
def test_reflections_as_lapack_has_them():
    import cupy as cp
    from scipy.linalg import qr

    a = np.random.default_rng(4).standard_normal((300, 200)).astype(np.float32)
    (raw, tau), r = qr(a, mode="raw")
    q = ReflectionProduct.from_qr(cp.asarray(raw), cp.asarray(tau))
    product = (q @ cp.asarray(np.vstack([r, np.zeros((300 - len(r), 200), np.float32)]))).get()
    np.testing.assert_allclose(product, a, atol=1e-4)


@pytest.mark.gpu
def test_torch_on_the_device(require):
    require("torch")
    import torch

    host, device, _ = operands("ragged", "float32", "scalar")
    tensors = [torch.from_dlpack(x).requires_grad_() for x in device]
    output = householder.delta_rule(*tensors[:4], log_decay=tensors[4], initial_state=tensors[5])
    with linalgkit.use_engine("array_api"):
        truth = householder.delta_rule(*host[:4], **keywords(host))
        wanted = householder.delta_rule_vjp(2 * truth, *host)
    close(cp_of(output), truth, "float32")
    (output**2).sum().backward()
    for tensor, gradient in zip(tensors, wanted, strict=True):
        finite = np.isfinite(gradient)
        np.testing.assert_allclose(
            cp_of(tensor.grad).get()[finite], gradient[finite], rtol=0,
            atol=1e-4 * np.abs(gradient[finite]).max(),
        )  # fmt: skip


def cp_of(tensor):
    import cupy as cp

    return cp.from_dlpack(tensor.detach())


@pytest.mark.gpu
def test_two_streams_at_once():
    import cupy as cp

    _, device, _ = operands("whole chunks", "float32", "scalar")
    expected = householder.delta_rule(*device[:4], log_decay=device[4]).get().tobytes()
    cp.cuda.Device().synchronize()
    streams, results = [cp.cuda.Stream(non_blocking=True) for _ in range(2)], []
    for _ in range(3):
        for stream in streams:
            with stream:
                results.append(householder.delta_rule(*device[:4], log_decay=device[4]))
    cp.cuda.Device().synchronize()
    assert {result.get().tobytes() for result in results} == {expected}
