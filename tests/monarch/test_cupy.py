"""The GPU engine: every size, axis and dtype against a float64 product on the host."""

import numpy as np
import pytest
from monarch.cases import factors, random

import linalgkit
from linalgkit import monarch
from linalgkit.monarch import _cupy

DTYPES = ("float16", "float32", "float64", "complex64", "complex128")
# (k, q, p, l, s, r): sizes of cuBLAS, and of the kernels for float16, float32 or both.
BLOCKS = {
    "general": (3, 4, 2, 2, 2, 6),
    "sparse": (4, 1, 3, 1, 1, 4),
    "l does not divide q": (2, 3, 5, 6, 2, 1),
    "square 32": (32, 32, 32, 32, 32, 32),
    "square 64": (64, 64, 64, 64, 64, 64),
    "square 96": (96, 96, 96, 96, 96, 96),
    "square 128": (128, 128, 128, 128, 128, 128),
    "unequal": (16, 96, 64, 16, 80, 96),
    "more rows": (16, 32, 64, 16, 128, 32),
    "rank 2": (16, 64, 32, 32, 48, 32),
    "wide": (8, 32, 128, 8, 112, 32),
    "tall": (8, 64, 16, 32, 64, 16),
}
AXES = [((), ()), ((5,), ()), ((3, 67), ()), ((), (5,)), ((4,), (3,)), ((2, 1), (1, 3))]


def tolerance(dtype, blocks):
    """The promised 4 eps √n, with a rounding of u for float16."""
    columns = blocks[0] * blocks[2]
    return 4 * np.finfo(dtype).eps * max(columns, 4) ** 0.5


def relative(result, truth):
    wide = np.complex128 if np.iscomplexobj(truth) else np.float64
    return np.linalg.norm(result.astype(wide) - truth) / np.linalg.norm(truth)


def wide(*arrays):
    """What the reference computes in double precision."""
    kind = np.complex128 if np.iscomplexobj(arrays[0]) else np.float64
    return [array.astype(kind) for array in arrays]


def device_operands(rng, dtype, blocks, before, behind, batch=()):
    """Operands on the host, on the device, and the axis."""
    import cupy as cp

    k, q, p, count, rows, inner = blocks
    left, right = factors(rng, dtype, blocks)
    if batch:
        left = random(rng, dtype, *batch, count, rows, inner)
        right = random(rng, dtype, *batch, k, q, p)
    x = random(rng, dtype, *batch, *before, k * p, *behind)
    left, right = left / inner**0.5, right / p**0.5
    host = tuple(each.astype(dtype) for each in (x, left, right))
    return host, tuple(map(cp.asarray, host)), -1 - len(behind)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BLOCKS)
def test_products(name, dtype):
    rng = np.random.default_rng(0)
    for before, behind in AXES:
        host, device, axis = device_operands(rng, dtype, BLOCKS[name], before, behind)
        with linalgkit.use_engine("array_api"):
            truth = monarch.monarch_matmul(*wide(*host), axis=axis)
        result = monarch.monarch_matmul(*device, axis=axis)
        assert result.dtype == dtype
        assert result.shape == truth.shape
        assert relative(result.get(), truth) < tolerance(dtype, BLOCKS[name])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BLOCKS)
def test_gradients(name, dtype):
    import cupy as cp

    rng = np.random.default_rng(1)
    for before, behind in AXES:
        host, device, axis = device_operands(rng, dtype, BLOCKS[name], before, behind)
        with linalgkit.use_engine("array_api"):
            product = monarch.monarch_matmul(*wide(*host), axis=axis)
            cotangent = random(rng, dtype, *product.shape)
            truth = monarch.monarch_matmul_vjp(*wide(cotangent, *host), axis=axis)
        result = monarch.monarch_matmul_vjp(cp.asarray(cotangent), *device, axis=axis)
        for gradient, expected in zip(result, truth, strict=True):
            assert gradient.dtype == dtype
            assert gradient.shape == expected.shape
            assert relative(gradient.get(), expected) < tolerance(dtype, BLOCKS[name])
        only = monarch.monarch_matmul_vjp(cp.asarray(cotangent), *device, axis=axis, wrt=["right"])
        assert only.x is None
        assert only.left is None
        assert relative(only.right.get(), truth.right) < tolerance(dtype, BLOCKS[name])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "float32", "complex64"])
@pytest.mark.parametrize("batch", [(2,), (2, 3)])
@pytest.mark.parametrize("name", ["general", "square 32"])
def test_batch_axes_of_the_factors(name, batch, dtype):
    rng = np.random.default_rng(2)
    for before, behind in AXES:
        host, device, axis = device_operands(rng, dtype, BLOCKS[name], before, behind, batch)
        with linalgkit.use_engine("array_api"):
            truth = monarch.monarch_matmul(*wide(*host), axis=axis)
        result = monarch.monarch_matmul(*device, axis=axis)
        assert relative(result.get(), truth) < tolerance(dtype, BLOCKS[name])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("rows", [1, 31, 32, 33, 128, 300, 1001])
def test_rows_in_chunks(rows, dtype, monkeypatch):
    monkeypatch.setattr(_cupy, "_WORKSPACE", 1 << 10)
    _cupy._launcher.cache_clear()
    rng = np.random.default_rng(3)
    host, device, _ = device_operands(rng, dtype, BLOCKS["square 32"], (rows,), ())
    with linalgkit.use_engine("array_api"):
        truth = monarch.monarch_matmul(*wide(*host))
    result = monarch.monarch_matmul(*device).get()
    for row, expected in zip(result, truth, strict=True):
        assert relative(row, expected) < tolerance(dtype, BLOCKS["square 32"])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    "blocks",
    [
        BLOCKS["square 32"],
        BLOCKS["square 64"],
        BLOCKS["rank 2"],
        (32, 64, 32, 64, 16, 32),
        (16, 64, 128, 32, 96, 32),
        (16, 64, 96, 32, 64, 32),
        (8, 384, 32, 32, 32, 96),
        (16, 256, 32, 32, 48, 128),
        (8, 128, 96, 32, 128, 32),
        (4, 1024, 128, 32, 128, 128),
    ],
)
def test_many_rows(blocks, dtype):
    """Enough of them for the kernel of both factors, and some over."""
    rng = np.random.default_rng(9)
    host, device, _ = device_operands(rng, dtype, blocks, (4 * 132 * 8 + 5,), ())
    with linalgkit.use_engine("array_api"):
        truth = monarch.monarch_matmul(*wide(*host))
    result = monarch.monarch_matmul(*device).get()
    assert relative(result, truth) < tolerance(dtype, blocks)
    for some in (slice(5), slice(-5, None)):
        assert relative(result[some], truth[some]) < tolerance(dtype, blocks)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_arrays_of_any_stride_and_alignment(dtype):
    import cupy as cp

    rng = np.random.default_rng(4)
    host, (x, left, right), _ = device_operands(rng, dtype, BLOCKS["square 32"], (40,), ())
    with linalgkit.use_engine("array_api"):
        truth = monarch.monarch_matmul(*wide(*host))
    flat = cp.empty(x.size + 1, dtype=x.dtype)
    shifted = flat[1:].reshape(x.shape)
    shifted[:] = x
    padded = cp.zeros((40, 2048), dtype=x.dtype)[:, ::2]
    padded[:] = x
    before = x.copy()
    for each in (x, shifted, padded, cp.asfortranarray(x)):
        result = monarch.monarch_matmul(each, left, right)
        assert relative(result.get(), truth) < tolerance(dtype, BLOCKS["square 32"])
    result = monarch.monarch_matmul(x, cp.asfortranarray(left), right[:, :, ::-1][:, :, ::-1])
    assert relative(result.get(), truth) < tolerance(dtype, BLOCKS["square 32"])
    assert (x == before).all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_bad_numbers_stay_in_their_row(dtype):
    rng = np.random.default_rng(5)
    _, (x, left, right), _ = device_operands(rng, dtype, BLOCKS["square 32"], (70,), ())
    good = monarch.monarch_matmul(x, left, right).get()
    x[33, 5], x[40, 7] = np.nan, np.inf
    result = monarch.monarch_matmul(x, left, right).get()
    assert not np.isfinite(result[[33, 40]]).any()
    rest = np.delete(np.arange(70), [33, 40])
    np.testing.assert_array_equal(result[rest], good[rest])


@pytest.mark.gpu
def test_float32_keeps_small_and_large_numbers():
    rng = np.random.default_rng(6)
    host, device, _ = device_operands(rng, "float32", BLOCKS["square 64"], (64,), ())
    for scale in (1e-30, 1e30):
        result = monarch.monarch_matmul(device[0] * np.float32(scale), *device[1:]).get()
        with linalgkit.use_engine("array_api"):
            truth = monarch.monarch_matmul(*wide(host[0] * np.float32(scale), *host[1:]))
        assert relative(result, truth) < tolerance("float32", BLOCKS["square 64"])


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(0, 6), (3, 0, 6)])
def test_empty(shape):
    import cupy as cp

    left, right = cp.ones((2, 2, 6)), cp.ones((3, 4, 2))
    assert monarch.monarch_matmul(cp.zeros(shape), left, right).shape == (*shape[:-1], 4)


@pytest.mark.gpu
def test_two_streams_at_once():
    import cupy as cp

    rng = np.random.default_rng(7)
    _, device, _ = device_operands(rng, "float16", BLOCKS["square 64"], (4096,), ())
    expected = monarch.monarch_matmul(*device).get().tobytes()
    cp.cuda.Device().synchronize()
    streams, results = [cp.cuda.Stream(non_blocking=True) for _ in range(2)], []
    for _ in range(3):
        for stream in streams:
            with stream:
                results.append(monarch.monarch_matmul(*device))
    cp.cuda.Device().synchronize()
    assert {result.get().tobytes() for result in results} == {expected}


@pytest.mark.gpu
def test_memory_beside_the_result_is_bounded():
    import cupy as cp

    rng = np.random.default_rng(8)
    _, device, _ = device_operands(rng, "float16", BLOCKS["square 64"], (8192,), ())
    pool = cp.cuda.MemoryPool()
    with cp.cuda.using_allocator(pool.malloc):
        result = monarch.monarch_matmul(*device)
    assert pool.total_bytes() <= result.nbytes + 1.1 * _cupy._WORKSPACE


@pytest.mark.parametrize("blocks", list(BLOCKS.values()))
def test_matrices_as_cublas_is_told_of_them(blocks):
    k, _, p, *_ = blocks
    numbers = np.arange(5 * k * p).reshape(5, k, p)
    whole = _cupy._View.of(5, k, p)
    pairs = [
        (whole, numbers),
        (whole.turned(0, 1), numbers.swapaxes(0, 1)),
        (whole.moved(0, 2), numbers.transpose(1, 2, 0)),
        (_cupy._View.of(1, 5 * k, p), numbers.reshape(1, 5 * k, p)),
    ]
    pairs += [(view.turned(), truth.swapaxes(-2, -1)) for view, truth in pairs]
    for view, truth in pairs:
        assert view.shape == truth.shape
        by_rows, apart = view.stored()
        assert apart >= view.shape[-1 if by_rows else -2]
        strides = (*view.steps(), *((apart, 1) if by_rows else (1, apart)))
        strides = [step * numbers.itemsize for step in strides]
        read = np.lib.stride_tricks.as_strided(numbers, view.shape, strides)
        np.testing.assert_array_equal(read, truth)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 7, 360, 1009, 4096])
def test_transforms(n, dtype):
    import cupy as cp

    x = random(np.random.default_rng(4), dtype, 3, n, 2).astype(dtype)
    eps = np.finfo("float64" if dtype in ("float64", "complex128") else "float32").eps
    for ours, numpys in ((monarch.fft, np.fft.fft), (monarch.ifft, np.fft.ifft)):
        for axis, norm in ((1, None), (-2, "ortho"), (0, "forward")):
            result = ours(cp.asarray(x), axis=axis, norm=norm)
            assert result.dtype == np.result_type(dtype, "complex64")
            truth = numpys(wide(x)[0], axis=axis, norm=norm)
            assert relative(result.get(), truth) < 10 * eps * np.log2(2 + n)
    assert monarch.fft(cp.ones((0, n), dtype)).shape == (0, n)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 3), (64, 64), (100, 7), (601, 601), (2000, 30)])
@pytest.mark.parametrize("mode", ["causal", "full", "same", "valid", "circular"])
def test_convolutions(mode, n, m, dtype):
    import cupy as cp

    rng = np.random.default_rng(5)
    eps = np.finfo(dtype).eps
    for lead, filters in (((300,), (m,)), ((2, 3), (3, m)), ((4,), (2, 1, m)), ((2,), (m,))):
        x, h = (random(rng, dtype, *shape).astype(dtype) for shape in ((*lead, n), filters))
        with linalgkit.use_engine("array_api"):
            truth = monarch.fftconvolve(*wide(x, h), mode=mode)
        result = monarch.fftconvolve(cp.asarray(x), cp.asarray(h), mode=mode)
        assert result.dtype == dtype
        assert result.shape == truth.shape
        norms = [np.linalg.norm(each, axis=-1).max() for each in wide(x, h)]
        limit = 10 * eps * np.log2(2 + n) * norms[0] * norms[1]
        np.testing.assert_allclose(result.get(), truth, rtol=0, atol=limit)
        if h.ndim == 1:
            columns = monarch.fftconvolve(cp.asarray(x.T), cp.asarray(h), mode=mode, axis=0)
            np.testing.assert_allclose(columns.T.get(), truth, rtol=0, atol=limit)
    assert monarch.fftconvolve(cp.ones((0, n), dtype), cp.ones(m, dtype), mode=mode).shape[0] == 0


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["causal", "full", "same", "valid", "circular"])
def test_gradients_of_convolutions(mode, dtype):
    import cupy as cp

    rng = np.random.default_rng(6)
    for lead, filters in (((300, 40), (9,)), ((2, 3, 40), (3, 9)), ((4, 700), (33,))):
        x, h = (random(rng, dtype, *shape).astype(dtype) for shape in (lead, filters))
        with linalgkit.use_engine("array_api"):
            product = monarch.fftconvolve(x, h, mode=mode)
            cotangent = random(rng, dtype, *product.shape).astype(dtype)
            truth = monarch.fftconvolve_vjp(*wide(cotangent, x, h), mode=mode)
        result = monarch.fftconvolve_vjp(*map(cp.asarray, (cotangent, x, h)), mode=mode)
        for gradient, expected in zip(result, truth, strict=True):
            assert gradient.dtype == dtype
            assert relative(gradient.get(), expected) < 50 * np.finfo(dtype).eps


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_given_by_their_transpose_go_through_the_kernels(dtype, monkeypatch):
    rng = np.random.default_rng(10)
    launched, launcher = [], _cupy._launcher
    monkeypatch.setattr(_cupy, "_launcher", lambda *a: launched.append(a) or launcher(*a))
    host, (x, left, right), _ = device_operands(rng, dtype, BLOCKS["square 32"], (300,), ())
    with linalgkit.use_engine("array_api"):
        truth = monarch.monarch_matmul(*wide(*host))
    operator = monarch.Monarch(left, right)
    for product in (
        lambda: monarch.monarch_matmul(x.T, left, right, axis=0).T,
        lambda: operator.matmat(x.T).T,
        lambda: monarch.monarch_matmul(x.reshape(3, 100, -1).T, left, right, axis=0).T,
    ):
        launched.clear()
        result = product()
        assert len(launched) == 1
        assert launcher(*launched[0]) is not None
        found = result.get().reshape(truth.shape)
        assert relative(found, truth) < tolerance(dtype, BLOCKS["square 32"])


@pytest.mark.gpu
def test_operators():
    import cupy as cp

    rng = np.random.default_rng(11)
    left, right = (4 * np.eye(4) + f for f in rng.standard_normal((2, 4, 4, 4)))
    here, there = monarch.Monarch(left, right), monarch.Monarch(*map(cp.asarray, (left, right)))
    b = rng.standard_normal((5, 16, 3))
    np.testing.assert_allclose(there.solve(cp.asarray(b)).get(), here.solve(b), atol=1e-12)
    np.testing.assert_allclose(there.lstsq(cp.asarray(b[0])).get(), here.lstsq(b[0]), atol=1e-12)
    for method in ("norm", "trace", "diagonal"):
        found, expected = getattr(there, method)(), getattr(here, method)()
        np.testing.assert_allclose(found.get(), expected, atol=1e-12)
    np.testing.assert_allclose(there.inv().to_dense().get(), here.inv().to_dense(), atol=1e-12)
    higher = monarch.HigherOrderMonarch([cp.asarray(left), cp.asarray(right)])
    x = higher.solve(cp.asarray(b))
    np.testing.assert_allclose(higher.matmat(x).get(), b, atol=1e-12)
    assert monarch.Monarch(cp.ones((2, 2, 0)), cp.ones((2, 0, 2))).norm() == 0


@pytest.mark.gpu
def test_half_tensors_of_torch_go_through_the_kernels(require, monkeypatch):
    torch = require("torch")
    from linalgkit import _torch

    ran, run = [], _torch._run
    monkeypatch.setattr(_torch, "_run", lambda *a: ran.append(a[1]) or run(*a))
    torch.manual_seed(0)
    launched, launcher = [], _cupy._launcher
    monkeypatch.setattr(
        _cupy, "_launcher", lambda *a: launched.append(launcher(*a)) or launched[-1]
    )
    shapes = (64, 1024), (32, 32, 32), (32, 32, 32)
    wide = [(torch.randn(s, dtype=torch.float64) / 4).half().double() for s in shapes]
    half = [a.half().cuda().requires_grad_() for a in wide]
    y = monarch.monarch_matmul(*half)
    assert y.dtype == torch.float16
    assert launched[-1] is not None  # a kernel of tensor cores, not cuBLAS
    gradients = torch.autograd.grad(y.float().square().sum(), half)
    assert {"monarch_matmul", "monarch_matmul_vjp"} <= set(ran)
    wide = [a.requires_grad_() for a in wide]
    truth = monarch.monarch_matmul(*wide)
    expected = torch.autograd.grad(truth.square().sum(), wide)
    for ours, theirs in zip((y.detach(), *gradients), (truth.detach(), *expected), strict=True):
        assert ours.dtype == torch.float16
        error = (ours.cpu().double() - theirs).norm() / theirs.norm()
        assert error < 3e-3
    transforms = monarch.fft(half[0]), monarch.fftconvolve(half[0], half[1][0, 0])
    assert [t.dtype for t in transforms] == [torch.complex64, torch.float16]
    assert {"fft", "fftconvolve"} <= set(ran)
