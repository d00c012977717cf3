"""`monarch_matmul` and its gradients: any block sizes, memory order, number of vectors, worker."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monarch.cases import entries, factors, product, pulled_back, random

import linalgkit
from linalgkit import monarch
from linalgkit.monarch import _numba, _numba_vectors

DTYPES = ("float32", "float64", "complex64", "complex128")
SHAPES = {
    "classical": (16, 16, 16, 16, 16, 16),
    "tall blocks": (3, 4, 5, 6, 7, 2),
    "rank 3": (4, 24, 40, 8, 20, 12),
    "sparse": (6, 2, 9, 4, 70, 3),
    "not dividing": (2, 65, 33, 5, 70, 26),
    "one entry": (1, 1, 1, 1, 1, 1),
    "one block": (1, 40, 30, 1, 20, 40),
}
COUNTS = (0, 1, 2, 6, 7, 16, 33, 70)  # vectors: none, few, parts of panels, several


def relative_error(result, expected):
    return np.abs(result - expected).max(initial=0) / max(1.0, np.abs(expected).max(initial=0))


def bound(dtype, left, right):
    """What the docstring promises, with the dense product's own error: 4 eps √n."""
    n = max(left.shape[-3] * left.shape[-2], right.shape[-3] * right.shape[-1])
    return 4 * np.finfo(dtype).eps * n**0.5


def layouts(x):
    """The same vectors (count, n) as they may lie in memory: array, axis, way back to rows."""
    wide = np.concatenate([x, x], axis=1)
    yield "rows", x, -1, lambda y: y
    yield "columns", np.ascontiguousarray(x.T), 0, np.transpose
    yield "Fortran rows", np.asfortranarray(x), -1, lambda y: y
    yield "Fortran columns", np.asfortranarray(x.T), 0, np.transpose
    yield "part of wider rows", wide[:, : x.shape[1]], -1, lambda y: y
    yield "backwards", x[::-1, ::-1].copy()[::-1, ::-1], -1, lambda y: y
    yield "every other", np.repeat(x, 2, axis=1)[:, ::2], -1, lambda y: y


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("dtype", DTYPES)
def test_product_and_gradients_of_every_layout(dtype, shape):
    rng = np.random.default_rng(0)
    left, right = factors(rng, dtype, SHAPES[shape])
    matrix = entries(left.astype("complex128"), right.astype("complex128"))
    for count in COUNTS:
        x, g = (random(rng, dtype, count, size) for size in matrix.shape[::-1])
        expected = x @ matrix.T
        gradients = monarch.monarch_matmul_vjp(g, x, left, right)
        if left.size < 200:
            for ours, theirs in zip(gradients, pulled_back(g, x, left, right), strict=True):
                assert relative_error(ours, theirs) < 100 * np.finfo(dtype).eps
        for name, laid, axis, back in layouts(x):
            result = monarch.monarch_matmul(laid, left, right, axis=axis)
            assert result.dtype == dtype
            assert relative_error(back(result), expected) < bound(dtype, left, right), name
            other_g = g if axis == -1 else g.T
            other = monarch.monarch_matmul_vjp(other_g, laid, left, right, axis=axis)
            assert relative_error(back(other.x), gradients.x) < bound(dtype, left, right), name
            assert relative_error(other.left, gradients.left) < 1e2 * np.finfo(dtype).eps, name
            assert relative_error(other.right, gradients.right) < 1e2 * np.finfo(dtype).eps, name


@given(
    st.tuples(*(st.integers(1, 7) for _ in range(6))),
    st.integers(0, 40),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_any_blocks(sizes, count, dtype, seed):
    k, q, p, a, rows, b = sizes
    blocks = (k * a, q * b, p, k * b, rows, q * a)  # k q = l r, and seldom one divides the other
    rng = np.random.default_rng(seed)
    left, right = factors(rng, dtype, blocks)
    x = random(rng, dtype, count, k * a * p)
    wide = "complex128" if dtype.startswith("c") else "float64"
    expected = product(x.astype(wide), left.astype(wide), right.astype(wide))
    result = monarch.monarch_matmul(x, left, right)
    assert relative_error(result, expected) < bound(dtype, left, right)


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_many_axes_and_any_axis(dtype):
    rng = np.random.default_rng(0)
    left, right = factors(rng, dtype)
    for shape in ((6,), (2, 3, 6), (4, 5, 2, 6), (2, 0, 6)):
        x = random(rng, dtype, *shape)
        expected = x @ entries(left, right).T
        for axis in range(len(shape)):
            result = monarch.monarch_matmul(np.moveaxis(x, -1, axis), left, right, axis=axis)
            assert result.shape == np.moveaxis(expected, -1, axis).shape
            assert relative_error(np.moveaxis(result, axis, -1), expected) < 1e-6


def test_batch_axes_of_the_factors_lead():
    rng = np.random.default_rng(0)
    pairs = [[factors(rng, "float64") for _ in range(3)] for _ in range(2)]
    left = np.array([[pair[0] for pair in row] for row in pairs])
    right = np.array([[pair[1] for pair in row] for row in pairs])
    x, g = random(rng, "float64", 2, 3, 6, 5), random(rng, "float64", 2, 3, 4, 5)
    result = monarch.monarch_matmul(x, left, right, axis=2)
    gradients = monarch.monarch_matmul_vjp(g, x, left, right, axis=2)
    for i in range(2):
        for j in range(3):
            alone = x[i, j], left[i, j], right[i, j]
            np.testing.assert_allclose(
                result[i, j], entries(*alone[1:]) @ x[i, j], rtol=0, atol=1e-13
            )
            one = monarch.monarch_matmul_vjp(g[i, j], *alone, axis=0)
            for whole, part in zip(gradients, one, strict=True):
                np.testing.assert_array_equal(whole[i, j], part)
    empty = monarch.monarch_matmul(x[:0], left[:0], right[:0], axis=-2)
    assert empty.shape == (0, 3, 4, 5)
    assert monarch.monarch_matmul_vjp(g[:0], x[:0], left[:0], right[:0], axis=2).left.shape == (
        left[:0].shape
    )


@pytest.mark.parametrize("count", [1, 6, 20, 600])
@pytest.mark.parametrize("axis", [0, -1])
def test_same_bits_for_any_number_of_workers(count, axis):
    rng = np.random.default_rng(0)
    left, right = factors(rng, "float32", (64,) * 6)
    x, g = (random(rng, "float32", *((4096, count) if axis == 0 else (count, 4096))) for _ in "xg")
    results = []
    for workers in (1, 2, 3, 5, 40):
        with linalgkit.use_workers(workers):
            product = monarch.monarch_matmul(x, left, right, axis=axis)
            gradients = monarch.monarch_matmul_vjp(g, x, left, right, axis=axis)
            results.append([array.tobytes() for array in (product, *gradients)])
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("shape", ["classical", "tall blocks", "rank 3", "not dividing"])
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_strips_of_the_batch_give_the_same_bits(dtype, shape, monkeypatch):
    rng = np.random.default_rng(0)
    left, right = factors(rng, dtype, SHAPES[shape])
    sizes = right.shape[0] * right.shape[2], left.shape[0] * left.shape[1]
    x, g = (random(rng, dtype, 70, size) for size in sizes)
    whole = monarch.monarch_matmul_vjp(g, x, left, right)
    monkeypatch.setattr(_numba, "_STRIP", 1)  # a byte: one panel a strip
    for ours, theirs in zip(monarch.monarch_matmul_vjp(g, x, left, right), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("wrt", [["x"], ["left"], ["right"], ["left", "x"], [], None])
@pytest.mark.parametrize("count", [3, 20])
@pytest.mark.parametrize("engine", ["array_api", "numba"])
def test_only_the_gradients_asked_for(engine, count, wrt):
    rng = np.random.default_rng(0)
    left, right = factors(rng, "float64")
    x, g = random(rng, "float64", count, 6), random(rng, "float64", count, 4)
    with linalgkit.use_engine(engine):
        whole = monarch.monarch_matmul_vjp(g, x, left, right)
        some = monarch.monarch_matmul_vjp(g, x, left, right, wrt=wrt)
    for name in whole._fields:
        if wrt is None or name in wrt:
            np.testing.assert_array_equal(getattr(some, name), getattr(whole, name))
        else:
            assert getattr(some, name) is None


def test_a_vector_with_nan_spoils_no_other():
    rng = np.random.default_rng(0)
    left, right = factors(rng, "float64", (16,) * 6)
    for count in (3, 40):
        x = random(rng, "float64", count, 256)
        clean = monarch.monarch_matmul(x, left, right)
        x[1, 7], x[2, 9] = np.nan, np.inf
        result = monarch.monarch_matmul(x, left, right)
        np.testing.assert_array_equal(np.delete(result, [1, 2], 0), np.delete(clean, [1, 2], 0))
        assert np.isnan(result[1]).all()
        assert not np.isfinite(result[2]).any()


@pytest.mark.parametrize("blocks", [(0, 3, 2, 3, 2, 0), (2, 0, 3, 0, 2, 4), (2, 2, 0, 2, 3, 2),
                                    (2, 3, 2, 3, 0, 2)])  # fmt: skip
@pytest.mark.parametrize("count", [2, 20])
def test_empty_blocks_give_zeros(blocks, count):
    k, q, p, lefts, rows, inner = blocks
    left, right = np.ones((lefts, rows, inner)), np.ones((k, q, p))
    result = monarch.monarch_matmul(np.ones((count, k * p)), left, right)
    np.testing.assert_array_equal(result, np.zeros((count, lefts * rows)))
    gradients = monarch.monarch_matmul_vjp(result, np.ones((count, k * p)), left, right)
    for gradient, shape in zip(gradients, ((count, k * p), left.shape, right.shape), strict=True):
        np.testing.assert_array_equal(gradient, np.zeros(shape))


def test_dtypes_promote_and_gradients_keep_theirs():
    rng = np.random.default_rng(0)
    left, right = factors(rng, "complex64")
    x = rng.integers(-5, 5, (3, 6))
    result = monarch.monarch_matmul(x, left, right)
    assert result.dtype == np.complex128
    assert monarch.monarch_matmul(x.tolist(), left.real.tolist(), right.real).dtype == np.float64
    narrow = x.astype(np.float32)
    assert monarch.monarch_matmul(narrow, left, right).dtype == np.complex64
    half = monarch.monarch_matmul(*(a.astype(np.float16) for a in (x, left.real, right.real)))
    assert half.dtype == np.float16
    g = random(rng, "complex64", 3, 4)
    gradients = monarch.monarch_matmul_vjp(g, narrow, left, right)
    wide = monarch.monarch_matmul_vjp(g, x.astype(np.complex64), left, right)
    assert gradients.x.dtype == np.float32
    assert gradients.left.dtype == gradients.right.dtype == np.complex64
    np.testing.assert_allclose(gradients.x, wide.x.real, rtol=0, atol=1e-5)


def test_inputs_that_kernels_do_not_take_as_they_are():
    rng = np.random.default_rng(0)
    left, right = factors(rng, "float64")
    x = random(rng, "float64", 20, 6)
    expected = monarch.monarch_matmul(x, left, right)
    packed = np.zeros(1, dtype=[("tag", "u1"), ("x", "f8", (20, 6))])
    packed["x"][0] = x
    for variant in (packed["x"][0], x.astype(">f8")):
        np.testing.assert_array_equal(monarch.monarch_matmul(variant, left, right), expected)
    turned = np.asfortranarray(left), right[:, :, ::-1].copy()[:, :, ::-1]
    np.testing.assert_array_equal(monarch.monarch_matmul(x, *turned), expected)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.ones(6), np.ones((2, 2, 6)), np.ones((3, 3, 2))), {}, r"3 × 3 rows .* 2 × 6 columns"),
        ((np.ones(5), np.ones((2, 2, 6)), np.ones((3, 4, 2))), {}, r"k p = 3 × 2 = 6 .* \(5,\)"),
        ((np.ones(6), np.ones((2, 6)), np.ones((3, 4, 2))), {}, r"shape \(l, s, r\)"),
        ((np.ones((6, 1)), np.ones((2, 2, 6)), np.ones((3, 4, 2))), {}, r"axis -1"),
        ((np.ones(6), np.ones((2, 2, 6)), np.ones((3, 4, 2))), {"axis": 1}, "number of axes, 1"),
        ((np.ones(6), np.ones((2, 2, 6)), np.ones((3, 4, 2))), {"axis": -2}, "at least -1"),
        ((np.ones(6), np.ones((5, 2, 2, 6)), np.ones((3, 4, 2))), {}, "same batch axes"),
        ((np.ones((4, 6)), np.ones((5, 2, 2, 6)), np.ones((5, 3, 4, 2))), {}, r"batch axes \(5,\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        monarch.monarch_matmul(*arguments, **options)


def test_what_does_not_fit_the_gradients():
    x, left, right = np.ones((3, 6)), np.ones((2, 2, 6)), np.ones((3, 4, 2))
    with pytest.raises(ValueError, match=r"product's shape \(3, 4\); got \(3, 6\)"):
        monarch.monarch_matmul_vjp(x, x, left, right)
    with pytest.raises(ValueError, match="wrt must be one of 'x', 'left', 'right'; got 'y'"):
        monarch.monarch_matmul_vjp(np.ones((3, 4)), x, left, right, wrt=["y"])
    with pytest.raises(TypeError, match="axis must be an integer"):
        monarch.monarch_matmul(x, left, right, axis=1.0)


def test_kernels_that_reorder_sums_never_see_complex_numbers():
    # Numba compiles its complex product once a process, with the freedoms of who is first.
    rng = np.random.default_rng(0)
    left, right = factors(rng, "complex128")
    x, g = random(rng, "complex128", 1, 6), random(rng, "complex128", 1, 4)
    monarch.monarch_matmul(x, left, right)
    monarch.monarch_matmul_vjp(g, x, left, right)
    monarch.monarch_matmul_vjp(g.real, x.real, left.real, right.real)
    for name in ("left_pull", "left_rows", "right_pull", "right_rows"):
        compiled = str(getattr(_numba_vectors, name).signatures)
        assert "float64" in compiled or name.endswith("rows")
        assert "complex" not in compiled


BLOCKS = np.ones((2, 2, 2))


@pytest.mark.parametrize(
    "call",
    [
        lambda: monarch.monarch_matmul(np.ones(4), None, BLOCKS),
        lambda: monarch.monarch_matmul_vjp(None, np.ones(4), BLOCKS, BLOCKS),
        lambda: monarch.project(None, nblocks=2),
        lambda: monarch.projection_error(None, nblocks=2),
        lambda: monarch.project_vjp((BLOCKS, None), None, nblocks=2),
        lambda: monarch.Monarch(BLOCKS, None),
        lambda: monarch.BlockDiagonal(None),
        lambda: monarch.factorize_mmstar(None),
        lambda: monarch.lstsq(np.ones((3, 4)), None, blocks=(2,) * 6),
        lambda: monarch.kronecker_factors(None, np.eye(2)),
        lambda: monarch.fft(None),
        lambda: monarch.ifft(None),
        lambda: monarch.fft_vjp(None, np.ones(4)),
        lambda: monarch.fftconvolve(np.ones(4), None),
        lambda: monarch.fftconvolve_vjp(np.ones(4), None, np.ones(4)),
    ],
)
def test_absent_arrays(call):
    with pytest.raises(TypeError, match="must be an array; got None"):
        call()


def test_lists_are_arrays():
    rows = [[1, 2, 0, 1], [3, 4, 1, 0], [0, 1, 2, 2], [1, 1, 0, 5]]
    a = np.array(rows, float)
    m = monarch.project(rows, nblocks=2)
    np.testing.assert_array_equal(m.to_dense(), monarch.project(a, nblocks=2).to_dense())
    assert monarch.projection_error(rows, nblocks=2) == monarch.projection_error(a, nblocks=2)
    cotangent = m.left.tolist(), None
    found = monarch.project_vjp(cotangent, rows, nblocks=2).a
    np.testing.assert_array_equal(found, monarch.project_vjp((m.left, None), a, nblocks=2).a)
    fit = monarch.lstsq(np.eye(4).tolist(), rows, blocks=(2,) * 6)
    assert fit.fun < np.linalg.norm(a) ** 2
    factors = monarch.factorize_mmstar((a + 5 * np.eye(4)).tolist(), allow_complex=True)
    assert factors.residual < 1e-8


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: monarch.fft(3.0), ValueError, "axis is that of an array; got a scalar"),
        (lambda: monarch.fft(np.ones(4), radices=4), TypeError, "radices must be a sequence"),
        (lambda: monarch.HigherOrderMonarch(BLOCKS), TypeError, "factors must be a sequence"),
        (lambda: monarch.project(np.eye(4), nblocks=2, rtol=-1), ValueError, "rtol must be"),
    ],
)
def test_arguments_of_the_wrong_kind(call, error, message):
    with pytest.raises(error, match=message):
        call()


def repeated(dtype, rng):
    """Factors of a Kronecker product, whose blocks are all in one place, and the product."""
    a, b = random(rng, dtype, 24, 40), random(rng, dtype, 33, 20)
    return monarch.kronecker_factors(a, b), np.kron(a, b)


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_factors_whose_blocks_are_anywhere(dtype, count):
    rng = np.random.default_rng(0)
    (left, right), dense = repeated(dtype, rng)
    x = random(rng, dtype, count, dense.shape[1])
    g = random(rng, dtype, count, dense.shape[0])
    other = factors(rng, dtype, (40, 33, 20, 33, 24, 40))
    wide = [np.repeat(factor, 2, axis=0)[::2][::-1] for factor in other]  # apart, and backwards
    for pair, matrix in (((left, right), dense), (wide, entries(*wide))):
        limit = bound(dtype, *pair)
        assert relative_error(monarch.monarch_matmul(x, *pair), x @ matrix.T) < 10 * limit
        found = monarch.monarch_matmul_vjp(g, x, *pair)
        copies = [factor.copy() for factor in pair]
        expected = monarch.monarch_matmul_vjp(g, x, *copies)
        for gradient, truth in zip(found, expected, strict=True):
            assert relative_error(gradient, truth) < 10 * limit


@pytest.mark.parametrize("count", [1, 20])
def test_repeated_blocks_are_not_copied(count):
    rng = np.random.default_rng(0)
    left, right = monarch.kronecker_factors(*rng.standard_normal((2, 128, 128)))
    x = rng.standard_normal((count, 128 * 128))
    monarch.monarch_matmul(x, left, right)  # compiled
    tracemalloc.start()
    monarch.monarch_matmul(x, left, right)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < left.nbytes / 2
