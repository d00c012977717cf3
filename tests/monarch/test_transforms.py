"""Fourier transforms and convolutions against NumPy's, SciPy's and exact sums."""

import numpy as np
import pytest
import scipy.signal

import linalgkit
from linalgkit import monarch

DTYPES = ("float32", "float64", "complex64", "complex128")
# Powers of two, mixed radices, primes that are radices, primes that are not, and products.
LENGTHS = (1, 2, 3, 4, 5, 8, 12, 15, 16, 32, 45, 64, 97, 120, 128, 257, 360, 514, 1021, 1024, 4096)


def random(rng, dtype, *shape):
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def relative(found, truth):
    return np.linalg.norm(found - truth) / np.linalg.norm(truth)


@pytest.fixture(params=["array_api", "numba", "panels"])
def engine(request, monkeypatch):
    if request.param == "panels":  # of the Numba engine, for whatever can go in them
        for limit in ("_ENTRIES", "_PRODUCT"):
            monkeypatch.setattr(f"linalgkit.monarch._numba_transforms.{limit}", 0)
    with linalgkit.use_engine("array_api" if request.param == "array_api" else "numba"):
        yield


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", LENGTHS)
def test_fft(n, dtype, engine):
    x = random(np.random.default_rng(n), dtype, 21, n)  # more vectors than a panel has, not even
    eps = np.finfo(dtype).eps
    wide = x.astype(np.result_type(dtype, np.float64))
    found, truth = monarch.fft(x), np.fft.fft(wide)
    assert found.dtype == np.result_type(dtype, np.complex64)
    limit = (10 if n in (257, 514, 1021) else 4) * eps * max(1, np.log2(n))
    assert relative(found, truth) < limit
    assert relative(monarch.ifft(x), np.fft.ifft(wide)) < limit
    assert relative(monarch.ifft(found), x) < 2 * limit


@pytest.mark.parametrize("norm", [None, "backward", "ortho", "forward"])
@pytest.mark.parametrize("n", [12, 257])
def test_norms(n, norm, engine):
    x = random(np.random.default_rng(0), "complex128", 3, n)
    assert relative(monarch.fft(x, norm=norm), np.fft.fft(x, norm=norm)) < 1e-14
    assert relative(monarch.ifft(x, norm=norm), np.fft.ifft(x, norm=norm)) < 1e-14


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_axes(axis, dtype, engine):
    x = random(np.random.default_rng(0), dtype, 20, 12, 40)
    before = x.copy()
    tolerance = 20 * np.finfo(dtype).eps
    assert relative(monarch.fft(x, axis=axis), np.fft.fft(x, axis=axis)) < tolerance
    view = x[::-2, :, 3::2]
    assert relative(monarch.fft(view, axis=axis), np.fft.fft(view, axis=axis)) < tolerance
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 31, 32, 33, 70])
@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_of_vectors(count, dtype, engine):
    x = random(np.random.default_rng(0), dtype, count, 48)
    tolerance = 20 * np.finfo(dtype).eps
    assert relative(monarch.fft(x), np.fft.fft(x)) < tolerance
    columns = np.ascontiguousarray(x.T)
    assert relative(monarch.fft(columns, axis=0), np.fft.fft(columns, axis=0)) < tolerance


@pytest.mark.parametrize(
    "radices", [(24,), (4, 6), (6, 4), (2, 3, 4), (4, 3, 2), (2, 2, 2, 3), (1, 24), (8, 1, 3)]
)
def test_radices(radices, engine):
    x = random(np.random.default_rng(0), "complex128", 3, 24)
    assert relative(monarch.fft(x, radices=radices), np.fft.fft(x)) < 1e-14
    assert relative(monarch.ifft(x, radices=list(radices)), np.fft.ifft(x)) < 1e-14


def test_empty_batches(engine):
    assert monarch.fft(np.zeros((0, 12))).shape == (0, 12)
    assert monarch.fft(np.zeros((12, 0)), axis=0).shape == (12, 0)
    assert monarch.fftconvolve(np.zeros((0, 12)), np.ones(3)).shape == (0, 12)


@pytest.mark.parametrize("n", [16, 1021, 4096])
def test_exact_cases(n, engine):
    unit = np.zeros(n)
    unit[1] = 1
    turns = np.exp(-2j * np.pi * np.arange(n) / n)
    np.testing.assert_allclose(monarch.fft(unit), turns, rtol=0, atol=3e-15)
    whole = monarch.fft(np.arange(16.0).reshape(1, 16))
    assert whole[0, 0] == 120
    assert whole[0, 8] == -8


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_vectors_beside_large_ones_keep_their_precision(dtype, engine):
    x = random(np.random.default_rng(0), dtype, 40, 24)
    x[::2] *= 1e-12
    truth = np.fft.fft(x.astype(np.result_type(dtype, np.float64)))
    for found, expected in zip(monarch.fft(x), truth, strict=True):
        assert relative(found, expected) < 20 * np.finfo(dtype).eps


@pytest.mark.parametrize(
    ("count", "n"), [(1, 4096), (3, 3600), (1, 6561), (2, 65536), (20, 40000), (1, 131071)]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_few_and_long_vectors(count, n, dtype):
    x = random(np.random.default_rng(0), dtype, count, n)
    truth = np.fft.fft(x.astype(np.result_type(dtype, np.float64)))
    limit = 10 * np.finfo(dtype).eps * np.log2(n)
    assert relative(monarch.fft(x), truth) < limit
    assert relative(monarch.ifft(monarch.fft(x)), x) < limit


@pytest.mark.parametrize("n", [6, 257])
def test_nan_stays_in_its_vector(n, engine):
    x = np.ones((40, n))
    x[3, 2] = np.nan
    y = monarch.fft(x)
    assert np.isnan(y[3]).all()
    assert np.isfinite(np.delete(y, 3, axis=0)).all()


@pytest.mark.parametrize("order", ["vectors last", "vectors first"])
@pytest.mark.parametrize("filters", [1, 3, 21])  # one for all; few; more than a panel has
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "m"), [(1, 1), (5, 3), (3, 5), (16, 16), (17, 40), (100, 7), (64, 1), (97, 97)]
)
def test_convolutions(n, m, dtype, filters, order, engine):
    rng = np.random.default_rng(0)
    channels = 21 if filters == 1 else filters
    x, h = random(rng, dtype, 2, channels, n), random(rng, dtype, filters, m)
    if order == "vectors first":
        x = np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)
    wide = np.result_type(dtype, np.float64)
    each = np.broadcast_to(h, (channels, m)).astype(wide)
    full = np.array(
        [[np.convolve(b.astype(wide), a) for a, b in zip(each, y, strict=True)] for y in x]
    )
    start = (m - 1) // 2
    expected = {"full": full, "causal": full[..., :n], "same": full[..., start : start + n]}
    if m <= n:
        expected["valid"] = full[..., m - 1 : n]
        expected["circular"] = full[..., :n] + np.pad(
            full[..., n:], [(0, 0)] * 2 + [(0, n - m + 1)]
        )
    limit = 10 * np.finfo(dtype).eps * max(1, np.log2(n)) * np.linalg.norm(h) * np.linalg.norm(x)
    for mode, truth in expected.items():
        found = monarch.fftconvolve(x, h[0] if filters == 1 else h, mode=mode)
        assert found.dtype == dtype
        assert found.shape == truth.shape
        assert np.abs(found - truth).max() < limit


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
def test_modes_are_those_of_scipy(mode):
    rng = np.random.default_rng(0)
    x, h = rng.standard_normal(30), rng.standard_normal(8)
    truth = scipy.signal.fftconvolve(x, h, mode=mode)
    np.testing.assert_allclose(monarch.fftconvolve(x, h, mode=mode), truth, atol=1e-13)


@pytest.mark.parametrize("mode", ["causal", "circular"])
@pytest.mark.parametrize("filters", [1, 20])
def test_sequences_do_not_touch_each_other(filters, mode, engine):
    rng = np.random.default_rng(0)
    x, h = rng.standard_normal((2, 20, 48)), rng.standard_normal((filters, 48))
    x[:, ::2] *= 1e-12
    h = h[0] if filters == 1 else h
    alone = np.stack([monarch.fftconvolve(row, h, mode=mode) for row in x])
    found = monarch.fftconvolve(x, h, mode=mode)
    scale = np.linalg.norm(x, axis=-1, keepdims=True) * np.linalg.norm(h, axis=-1).max()
    assert np.abs((found - alone) / scale).max() < 1e-15
    x[1, 3, 4] = np.nan
    broken = monarch.fftconvolve(x, h, mode=mode)
    assert np.isnan(broken[1, 3]).any()
    broken[1, 3] = found[1, 3]
    np.testing.assert_allclose(broken, found, rtol=1e-13, atol=1e-25)


@pytest.mark.parametrize("n", [1000, 1001, 1021])  # by panels or not, of good lengths and not
def test_any_number_of_workers_gives_the_same_bits(n):
    x = random(np.random.default_rng(0), "float32", 133, n)
    short = x.reshape(-1, 19).repeat(4, axis=0)
    calls = (
        lambda: monarch.fft(x),
        lambda: monarch.ifft(np.asfortranarray(x)),
        lambda: monarch.fftconvolve(x, x[0], mode="circular"),
        lambda: monarch.fftconvolve(x, x[0]),
        lambda: monarch.fftconvolve(x[::-1], x),
        lambda: monarch.fftconvolve(x.reshape(-1, 7), x[0, :7]),
        lambda: monarch.fftconvolve_vjp(short, short, short[0]).h,
    )
    for call in calls:
        with linalgkit.use_workers(1):
            expected = call()
        for workers in (2, 3):
            with linalgkit.use_workers(workers):
                np.testing.assert_array_equal(call(), expected)


def test_axis_and_broadcasting_of_filters(engine):
    rng = np.random.default_rng(0)
    x, h = rng.standard_normal((3, 20, 4)), rng.standard_normal((6, 4))
    expected = np.empty_like(x)
    for i, j in np.ndindex(3, 4):
        expected[i, :, j] = np.convolve(x[i, :, j], h[:, j])[:20]
    np.testing.assert_allclose(monarch.fftconvolve(x, h, axis=1), expected, atol=1e-13)
    one = monarch.fftconvolve(x, h[:, 0], axis=1)
    np.testing.assert_allclose(one[..., 0], expected[..., 0], atol=1e-13)
    wide = monarch.fftconvolve(x[0], h[None, :, :, None].repeat(5, axis=3)[..., 0][..., :1], axis=0)
    np.testing.assert_allclose(wide[0, :, 0], expected[0, :, 0], atol=1e-13)


def test_convolution_is_causal(engine):
    rng = np.random.default_rng(0)
    x, h = rng.standard_normal(50), rng.standard_normal(50)
    changed = x.copy()
    changed[30:] += 1
    before, after = monarch.fftconvolve(x, h), monarch.fftconvolve(changed, h)
    np.testing.assert_allclose(before[:30], after[:30], atol=1e-13)
    assert np.abs(before[30:] - after[30:]).min() > 1e-6


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_gradient_of_complex_transforms(name, require):
    require(name)
    rng = np.random.default_rng(0)
    x, g = random(rng, "complex128", 2, 12), random(rng, "complex128", 2, 12)
    # Of Re <g, F x> with respect to x: Fᴴ g in torch's convention, its conjugate in JAX's.
    truth = np.fft.ifft(g, norm="forward")
    if name == "torch":
        import torch

        leaf = torch.tensor(x, requires_grad=True)
        (torch.conj(torch.tensor(g)) * monarch.fft(leaf)).sum().real.backward()
        found = leaf.grad.numpy()
    else:
        import jax

        found = jax.grad(lambda x: (g.conj() * monarch.fft(x)).sum().real)(jax.numpy.asarray(x))
        found = np.asarray(found).conj()
    np.testing.assert_allclose(found, truth, atol=1e-13)


@pytest.mark.parametrize("norm", [None, "ortho", "forward"])
@pytest.mark.parametrize("name", ["fft", "ifft"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), [((21, 48), -1), ((12, 40), 0), ((3, 257), 1)])
def test_gradients_of_transforms_are_those_of_torch(shape, axis, dtype, name, norm, require):
    torch = require("torch")
    rng = np.random.default_rng(0)
    x, g = random(rng, dtype, *shape), random(rng, np.result_type(dtype, np.complex64), *shape)
    leaf = torch.tensor(x.astype(np.result_type(dtype, np.float64)), requires_grad=True)
    truth = getattr(torch.fft, name)(leaf, dim=axis, norm=norm)
    (truth,) = torch.autograd.grad(truth, leaf, torch.tensor(g).to(truth.dtype))
    options = {"axis": axis, "norm": norm}
    limit = 20 * np.finfo(dtype).eps * np.log2(shape[axis])
    for engine in ("array_api", "numba"):
        with linalgkit.use_engine(engine):
            found = getattr(monarch, f"{name}_vjp")(g, x, **options).x
        assert found.dtype == dtype
        assert relative(found, truth.numpy()) < limit
    leaf = torch.tensor(x, requires_grad=True)
    y = getattr(monarch, name)(leaf, **options)
    (found,) = torch.autograd.grad(y, leaf, torch.tensor(g))
    assert found.dtype == leaf.dtype
    assert relative(found.numpy(), truth.numpy()) < limit
    assert getattr(monarch, f"{name}_vjp")(g, x, **options, wrt=()).x is None


def convolved(torch, x, h, mode, axis):
    """The convolution by torch's transforms, for arrays of as many axes."""
    n, m = x.shape[axis], h.shape[axis]
    length = n if mode == "circular" else n + m - 1
    pad = [0, 0] * (-axis - 1)
    spectra = [
        torch.fft.fft(torch.nn.functional.pad(a, (*pad, 0, length - a.shape[axis])), dim=axis)
        for a in (x, h)
    ]
    y = torch.fft.ifft(spectra[0] * spectra[1], dim=axis)
    y = y if x.is_complex() else y.real
    start, size = {
        "causal": (0, n),
        "full": (0, n + m - 1),
        "same": ((m - 1) // 2, n),
        "valid": (m - 1, n - m + 1),
        "circular": (0, n),
    }[mode]
    return y.narrow(axis, start, size)


@pytest.mark.parametrize("mode", ["causal", "full", "same", "valid", "circular"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "filters", "axis"),
    [
        ((2, 20, 30), (20, 9), -1),  # filters for channels, shared by the batch
        ((40, 33), (12,), -1),  # one filter
        ((4, 1, 16), (3, 16), -1),  # sequences that filters share
        ((10,), (5, 7), -1),
        ((3, 17, 2), (5, 1), -2),
        ((5,), (16,), -1),  # filters longer than sequences
        ((2, 5), (2, 6), -1),
    ],
)
def test_gradients_of_convolutions_are_those_of_torch(shape, filters, axis, dtype, mode, require):
    torch = require("torch")
    n, m = shape[axis], filters[axis if len(filters) > 1 else -1]
    if m > n and mode in ("valid", "circular"):
        mode = "same"
    rng = np.random.default_rng(0)
    x, h = random(rng, dtype, *shape), random(rng, dtype, *filters)
    wide = np.result_type(dtype, np.float64)
    leaves = [torch.tensor(a.astype(wide), requires_grad=True) for a in (x, h)]
    most = max(x.ndim, h.ndim)
    whole = [a.reshape((1,) * (most - a.ndim) + a.shape) for a in leaves]
    truth = convolved(torch, *whole, mode, axis)
    g = random(rng, dtype, *truth.shape)
    truth = torch.autograd.grad(truth, leaves, torch.tensor(g.astype(wide)))
    options = {"axis": axis, "mode": mode}
    limit = 40 * np.finfo(dtype).eps * np.log2(n + m)
    before = x.copy(), h.copy(), g.copy()
    results = []
    for engine in ("array_api", "numba"):
        with linalgkit.use_engine(engine):
            results.append(monarch.fftconvolve_vjp(g, x, h, **options))
    for array, kept in zip((x, h, g), before, strict=True):
        np.testing.assert_array_equal(array, kept)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, h)]
    y = monarch.fftconvolve(*leaves, **options)
    results.append([a.numpy() for a in torch.autograd.grad(y, leaves, torch.tensor(g))])
    for result in results:
        for found, expected, argument in zip(result, truth, (x, h), strict=True):
            assert found.dtype == argument.dtype
            assert found.shape == argument.shape
            assert relative(found, expected.numpy()) < limit
    only = monarch.fftconvolve_vjp(g, x, h, **options, wrt=["h"])
    assert only.x is None
    np.testing.assert_array_equal(only.h, results[1].h)


def test_gradcheck_of_complex_functions(require):
    torch = require("torch")
    rng = np.random.default_rng(0)
    x, h = (torch.tensor(random(rng, "complex128", *s), requires_grad=True) for s in ((3, 6), (4,)))
    check, again = torch.autograd.gradcheck, torch.autograd.gradgradcheck
    for call, arrays in (
        (monarch.fft, (x,)),
        (lambda x: monarch.ifft(x, axis=0, norm="ortho"), (x,)),
        (monarch.fftconvolve, (x, h)),
        (lambda x, h: monarch.fftconvolve(x, h, mode="circular"), (x, h)),
    ):
        assert check(call, arrays)
        assert again(call, arrays)


def test_torch_maps_sequences_at_once(require, monkeypatch):
    torch = require("torch")
    from linalgkit import _torch

    ran, run = [], _torch._run
    monkeypatch.setattr(_torch, "_run", lambda *a: ran.append(a[1]) or run(*a))
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.func.vmap(lambda x: monarch.fftconvolve(x, h))(x)  # each with all filters
    assert ran == ["fftconvolve"]
    torch.testing.assert_close(found, monarch.fftconvolve(x[:, None], h), rtol=0, atol=1e-13)


def test_cotangents_that_do_not_fit(require):
    strict = require("array_api_strict")
    x, h = np.ones((3, 12)), np.ones((3, 4))
    with pytest.raises(ValueError, match=r"shape of x, \(3, 12\); got \(3, 11\)"):
        monarch.fft_vjp(np.ones((3, 11)), x)
    with pytest.raises(ValueError, match=r"shape \(3, 15\); got \(3, 12\)"):
        monarch.fftconvolve_vjp(x, x, h, mode="full")
    with pytest.raises(ValueError, match="wrt"):
        monarch.fftconvolve_vjp(x, x, h, wrt=["y"])
    with pytest.raises(TypeError, match="cotangent is an array of numpy, x of array_api_strict"):
        monarch.ifft_vjp(x, strict.asarray(x))
    found = monarch.fft_vjp([1.0, 0.0], [1, 2]).x  # integers count as float64
    np.testing.assert_array_equal(found, [1.0, 1.0])
    assert found.dtype == np.float64


@pytest.mark.parametrize("n", [24, 257])
def test_jax_jit_twice(n, require):
    require("jax")
    import jax

    x = jax.numpy.asarray(np.random.default_rng(0).standard_normal((2, n)))
    for _ in range(2):  # a table kept from the first trace would leak its tracers
        jitted = jax.jit(lambda x: monarch.fftconvolve(monarch.fft(x).real, x[0]))
        np.testing.assert_allclose(
            np.asarray(jitted(x)),
            monarch.fftconvolve(np.fft.fft(np.asarray(x)).real, np.asarray(x[0])),
            atol=1e-10,
        )


def test_torch_half_precision(require):
    torch = require("torch")
    x = torch.randn(3, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    half = x.to(torch.bfloat16)
    assert monarch.fft(half).dtype == torch.complex64
    found = monarch.fftconvolve(half, half[0])
    assert found.dtype == torch.bfloat16
    truth = monarch.fftconvolve(half.double(), half[0].double())
    torch.testing.assert_close(found, truth.to(torch.bfloat16), rtol=1e-2, atol=1e-2)


def test_integers_and_lists():
    np.testing.assert_allclose(monarch.fft([1, 2, 3]), np.fft.fft([1, 2, 3]), atol=1e-15)
    np.testing.assert_allclose(monarch.fftconvolve([1, 2, 3], [1, 1]), [1, 3, 5], atol=1e-14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: monarch.fft(np.zeros((3, 0))), "x must have entries on axis -1"),
        (lambda: monarch.fft(np.ones(6), radices=(2, 2)), r"must be 6.*got \(2, 2\)"),
        (lambda: monarch.fft(np.ones(1), radices=()), "product of radices must be 1"),
        (lambda: monarch.fft(np.ones(6), radices=(-2, -3)), "must be at least 1"),
        (lambda: monarch.fft(np.ones(6), axis=1), "axis must be less than"),
        (lambda: monarch.fft(np.ones(6), norm="unit"), "norm must be one of"),
        (lambda: monarch.fftconvolve(np.ones(6), np.ones(2), mode="no"), "mode must be one of"),
        (lambda: monarch.fftconvolve(np.ones(6), np.ones(0)), "must have entries"),
        (lambda: monarch.fftconvolve(np.ones(3), np.ones(4), mode="circular"), "lengths 4 and 3"),
        (lambda: monarch.fftconvolve(np.ones(3), np.ones(4), mode="valid"), "lengths 4 and 3"),
        (lambda: monarch.fftconvolve(np.ones((2, 3)), np.ones((4, 3))), "must broadcast"),
        (lambda: monarch.fftconvolve(np.ones(3), np.float64(1)), "one filter of shape"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_torch_compile_keeps_double_precision(require):
    # Tables made by compiled code would have single precision.
    torch = require("torch")
    x = torch.randn(3, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = monarch.fftconvolve(x, x[0])
    compiled = torch.compile(lambda x: monarch.fftconvolve(x, x[0]), backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected, rtol=0, atol=1e-13)
