"""Half precision: in storage, in gradients as they are, and in results that it cannot hold."""

import numpy as np
import pytest
from mfac.cases import dense, random_gradients

import linalgkit
from linalgkit._testing import library as library_of
from linalgkit.mfac import (
    SlidingWindowFisher,
    empirical_fisher,
    fisher_solve,
    fisher_solve_vjp,
    saliency,
    woodbury_static,
)


def _used(name, require):
    return library_of(name if name == "numpy" else require(name).__name__)


def relative(found, truth):
    return np.linalg.norm(found - truth) / np.linalg.norm(truth)


class TestStorage:
    @pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
    @pytest.mark.parametrize(("storage", "rounding"), [("float16", 1e-3), ("bfloat16", 1e-2)])
    def test_half_precision(self, storage, rounding, size):
        rng = np.random.default_rng(0)
        gradients, x = size * rng.standard_normal((5, 40)), rng.standard_normal(40)
        fisher = empirical_fisher(gradients, damping=0.1 * size**2, storage=storage)
        kept = fisher.scales[:, None] * linalgkit.mfac._array_api.widened(fisher.gradients)
        np.testing.assert_allclose(kept, gradients, rtol=rounding, atol=1e-4 * size)
        assert fisher.gradients.itemsize == 2
        assert fisher.dtype == np.float64
        expected = np.linalg.solve(
            dense(kept, 0.1 * size**2), x
        )  # of the rounded gradients: all digits
        np.testing.assert_allclose(fisher.solve(x), expected, rtol=1e-10)
        inverse = np.linalg.inv(dense(kept, 0.1 * size**2))
        np.testing.assert_allclose(fisher.diagonal_inverse(), inverse.diagonal(), rtol=1e-6)

    @pytest.mark.parametrize("storage", ["float16", "bfloat16"])
    def test_every_number_is_read_as_it_is(self, storage):
        from linalgkit.mfac import _numba

        bits = np.arange(2**16, dtype=np.uint16)
        numbers = bits.view(np.float16) if storage == "float16" else bits
        with np.errstate(invalid="ignore"):
            values = linalgkit.mfac._array_api.widened(numbers)
        finite = np.isfinite(values)
        numbers, values = (x[finite].reshape(-1, 2**7) for x in (numbers, values))
        for row, column in enumerate(range(8, 2**7, 5)):  # rows that are left, columns that are
            some = slice(row, row + 20), slice(0, column)
            g, truth = numbers[some], values[some]
            unit = np.eye(len(g))[row % len(g)]
            found = _numba.combine(unit, g, None, factor=0.0, dtype=np.float64)
            np.testing.assert_array_equal(found, truth[row % len(g)])
        for begin in range(0, len(numbers), 3):  # others times zero count nothing
            g, truth = numbers[begin : begin + 3], values[begin : begin + 3]
            for row, unit in enumerate(np.eye(len(g))):
                found = _numba.combine(unit, g, None, factor=0.0, dtype=np.float64)
                np.testing.assert_array_equal(found, truth[row])
        for place in range(2**7):
            found = _numba.dots(numbers, np.eye(2**7)[place])
            np.testing.assert_array_equal(found, values[:, place])

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    @pytest.mark.parametrize("size", [2.0**-300, 2.0**300])
    def test_rows_and_columns_that_are_left_and_vectors_of_any_size(self, dtype, size):
        from linalgkit.mfac import _numba

        rng = np.random.default_rng(0)
        for m in (1, 2, 7, 8, 9, 17):
            g = rng.standard_normal((m, 3 * m + 2)).astype(dtype)
            x, a = size * rng.standard_normal(g.shape[1]), size * rng.standard_normal(m)
            wide = g.astype(np.float64)
            np.testing.assert_allclose(_numba.dots(g, x), wide @ x, rtol=1e-12)
            found = _numba.combine(a, g, x, factor=0.5, dtype=np.float64)
            np.testing.assert_allclose(found, 0.5 * x + a @ wide, rtol=1e-12)

    @pytest.mark.parametrize("storage", ["float16", "bfloat16"])
    @pytest.mark.parametrize("library", ["torch", "jax"])
    def test_other_libraries_round_alike(self, library, storage, require):
        used = _used(library, require)
        rng = np.random.default_rng(0)
        gradients = rng.standard_normal((5, 40)).astype(np.float32)
        x = rng.standard_normal(40).astype(np.float32)
        options = {"damping": 0.1, "storage": storage}
        ours = empirical_fisher(gradients, **options).solve(x)
        theirs = empirical_fisher(used.asarray(gradients), **options)
        assert theirs.gradients.dtype.itemsize == 2
        found = theirs.solve(used.asarray(x))
        assert isinstance(found, used.array_type)
        np.testing.assert_allclose(used.asnumpy(found), ours, rtol=1e-5)

    def test_float16_gradients_as_they_are(self):
        gradients = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float16)
        fisher = empirical_fisher(gradients, damping=0.1)
        assert fisher.dtype == np.float32
        found = fisher.solve(np.ones(10, np.float16))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.linalg.solve(dense(gradients), np.ones(10)), rtol=1e-6)

    def test_bfloat16_rounds_ties_to_even(self):
        from linalgkit.mfac._rows import to_bfloat16

        bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0xC0008000], np.uint32)
        found = to_bfloat16(bits.view(np.float32))
        np.testing.assert_array_equal(found, [0x3F80, 0x3F82, 0x3F81, 0x3F80, 0xC000])

    @pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
    @pytest.mark.parametrize(
        ("dtype", "size"), [("float16", 4e4), ("float16", 65504), ("float32", 3e38)]
    )
    def test_largest_gradients_are_scaled(self, library, dtype, size, require):
        used = _used(library, require)
        gradients = np.full((2, 16), size, dtype)
        fisher = empirical_fisher(
            used.asarray(gradients), damping=1e-3 * size**2, storage="float16"
        )
        kept = used.asnumpy(fisher.scales)[:, None] * used.asnumpy(fisher.gradients).astype(float)
        np.testing.assert_allclose(kept, gradients.astype(float), rtol=1e-3)
        assert float(fisher.trace()) == pytest.approx(
            16e-3 * size**2 + (kept[0] ** 2).sum(), rel=1e-6
        )

    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_largest_gradients_of_a_window(self, dtype):
        g = np.full(16, 4e4, dtype)
        found = SlidingWindowFisher(2, 16, storage="float16").push_solve(g)
        np.testing.assert_allclose(found, 2 / (16 * 4e4), rtol=1e-3)  # m g / |g|²

    @pytest.mark.parametrize("storage", [None, "float32", "bfloat16", "float16"])
    @pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000, 0x7F800001])
    def test_no_nan_is_rounded_to_a_number(self, storage, bits):
        gradients = np.ones((2, 40), np.float32)
        gradients.view(np.uint32)[0, 3] = bits
        with pytest.raises(ValueError, match=r"gradients\[0\] is not finite at 3"):
            empirical_fisher(gradients, storage=storage)

    @pytest.mark.parametrize("shape", [(2, 40), (90, 40)])
    @pytest.mark.parametrize("storage", [None, "float32", "bfloat16"])
    def test_squares_that_float32_does_not_hold(self, storage, shape):
        """Their sums are in float64."""
        rng = np.random.default_rng(0)
        gradients, x = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(40)
        truth = empirical_fisher(gradients, damping=0.5, storage=storage)
        for size in (2.0**66, 2.0**-90):
            some = (size * gradients).astype(np.float32)
            fisher = empirical_fisher(some, damping=0.5 * size**2, storage=storage)
            np.testing.assert_allclose(fisher.solve(x) * size**2, truth.solve(x), rtol=1e-12)
            found = fisher._form.diagonal_inverse()[0] * size**2
            np.testing.assert_allclose(found, truth.diagonal_inverse(), rtol=1e-6)

    def test_diagonal_of_tiny_gradients_is_computed_again_where_it_must_be(self):
        gradients = np.random.default_rng(0).standard_normal((50, 52)).astype(np.float32)
        size = 2.0**-90
        for damping in (1e-3, 1e-5):
            truth = np.linalg.inv(dense(gradients, damping)).diagonal()
            fisher = empirical_fisher(
                (size * gradients).astype(np.float32), damping=damping * size**2
            )
            found = fisher._form.diagonal_inverse()[0] * size**2
            np.testing.assert_allclose(found, truth, rtol=1e-6)

    def test_what_is_too_large_for_its_storage(self):
        with pytest.raises(ValueError, match="is not finite at 0 in float32"):
            empirical_fisher(np.full((1, 2), 1e40), storage="float32")

    def test_array_api_strict_has_no_half_precision(self, require):
        strict = require("array_api_strict")
        for storage in ("float16", "bfloat16"):
            with pytest.raises(TypeError, match="store them in float32"):
                empirical_fisher(strict.asarray(np.ones((2, 3))), storage=storage)


@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("m", [4, 20])
def test_results_in_half_precision_would_overflow(name, m, require):
    xp = _used(name, require)
    rng = np.random.default_rng(0)
    gradients, x, cotangent = (
        rng.standard_normal(shape).astype(np.float16) for shape in ((m, 16), 16, (16, 1))
    )
    given = xp.asarray(gradients), xp.asarray(x)
    wide = np.linalg.inv(dense(gradients, 1e-5))
    found = fisher_solve(given[1], given[0])
    assert "float32" in str(found.dtype)
    assert relative(xp.asnumpy(found).astype(float), wide @ x) < 1e-6
    # Gradients of what is far beyond float16 are within it.
    y, pulled = wide @ x, wide @ cotangent[:, 0]
    truth = -(np.outer(gradients @ pulled, y) + np.outer(gradients @ y, pulled)) / m
    scale = np.float16(1 / np.abs(truth).max())
    arrays = xp.asarray(scale * cotangent[:, 0]), given[1], given[0]
    of_x, of_gradients = fisher_solve_vjp(*arrays)
    assert "float32" in str(of_x.dtype)
    assert "float16" in str(of_gradients.dtype)
    pulled = wide @ (scale * cotangent[:, 0])
    truth = -(np.outer(gradients @ pulled, y) + np.outer(gradients @ y, pulled)) / m
    assert relative(xp.asnumpy(of_x).astype(float), pulled) < 1e-6
    assert relative(xp.asnumpy(of_gradients).astype(float), truth) < 2e-3


@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_published_arrays_of_half_precision(name, require):
    xp = _used(name, require)
    gradients = random_gradients(np.random.default_rng(0), np.float16, 4, 100)
    found = woodbury_static(xp.asarray(gradients))
    truth = woodbury_static(gradients.astype(np.float64))
    for got, wanted in zip(found, truth, strict=True):
        assert "float32" in str(got.dtype)
        np.testing.assert_allclose(xp.asnumpy(got), wanted, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_saliency_of_half_precision(name, require):
    xp = _used(name, require)
    weights = np.array([1e-4, 2e-4], np.float16)
    for inverse in (np.array([2.0, 1.0], np.float16), np.diag([2.0, 1.0])[None].astype(np.float16)):
        options = {"groups": 2} if inverse.ndim == 3 else {}
        found = saliency(xp.asarray(weights), xp.asarray(inverse), **options)
        assert "float32" in str(found.dtype)
        costs = weights.astype(float) ** 2 / np.array([4.0, 2.0])
        truth = costs.sum() if options else costs
        np.testing.assert_allclose(xp.asnumpy(found).ravel(), truth, rtol=1e-6)


def test_torch_gradients_in_half_precision(require):
    torch = require("torch")
    gradients = torch.randn(4, 30, generator=torch.manual_seed(0)).to(torch.float16)
    x = torch.ones(30, dtype=torch.float16)
    for array in (gradients, x):
        array.requires_grad_()
    found = fisher_solve(x, gradients, damping=0.1)
    assert found.dtype == torch.float32
    found.sum().backward()
    wide = [v.detach().double().numpy() for v in (x, gradients)]
    expected = fisher_solve_vjp(np.ones(30), *wide, damping=0.1)
    for array, truth in zip((x, gradients), expected, strict=True):
        assert array.grad.dtype == torch.float16
        assert relative(array.grad.double().numpy(), truth) < 2e-3
