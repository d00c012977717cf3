"""The Fisher matrix and its inverse: dense truth, closed forms, and the traps of float32."""

import io
import tracemalloc
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mfac.cases import (
    DAMPING,
    dense,
    in_blocks,
    published_dynamic,
    published_static,
    random_gradients,
)

import linalgkit
from linalgkit._testing import library as library_of
from linalgkit.mfac import (
    EmpiricalFisher,
    SlidingWindowFisher,
    _array_api,
    block_fisher,
    empirical_fisher,
    fisher_solve,
    fisher_solve_vjp,
    woodbury_static,
)
from linalgkit.mfac._many import ManyParameters
from linalgkit.mfac._rows import Rows

LIBRARIES = ["numpy", "array_api_strict", "torch", "jax"]


def _used(name, require):
    return library_of(name if name == "numpy" else require(name).__name__)


def relative(found, truth):
    return np.linalg.norm(found - truth) / np.linalg.norm(truth)


def in_window(gradients, j, damping):
    """F⁻¹ g_j by push-through in float64, which has nothing to cancel."""
    wide = gradients.astype(np.float64)
    m = wide.shape[0]
    coefficients = np.linalg.solve(wide @ wide.T + m * damping * np.eye(m), np.eye(m)[j])
    return m * coefficients @ wide


@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_any_m_and_d(m, d, seed):
    rng = np.random.default_rng(seed)
    gradients, x = rng.standard_normal((m, d)), rng.standard_normal(d)
    fisher, f = empirical_fisher(gradients, damping=0.3), dense(gradients, 0.3)
    inverse = np.linalg.inv(f)
    np.testing.assert_allclose(fisher @ x, f @ x, atol=1e-11)
    np.testing.assert_allclose(fisher.solve(x), inverse @ x, atol=1e-11)
    np.testing.assert_allclose(fisher.diagonal_inverse(), inverse.diagonal(), atol=1e-12)
    np.testing.assert_allclose(fisher.diagonal(), f.diagonal(), rtol=1e-12)
    assert fisher.logdet() == pytest.approx(np.linalg.slogdet(f)[1], abs=1e-10)


@pytest.mark.parametrize("engine", ["numba", "array_api"])
@pytest.mark.parametrize("m", [1, 33, 1300])
def test_sizes_that_the_published_code_refuses(m, engine):
    rng = np.random.default_rng(m)
    gradients, x = rng.standard_normal((m, 50), np.float32), rng.standard_normal((50, 2))
    f = dense(gradients)
    with linalgkit.use_engine(engine):
        fisher = empirical_fisher(gradients, damping=0.1)
        np.testing.assert_allclose(fisher.solve(x), np.linalg.solve(f, x), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(
            fisher.diagonal_inverse(), np.linalg.inv(f).diagonal(), rtol=1e-6
        )


@pytest.mark.parametrize("engine", ["numba", "array_api"])
def test_more_gradients_than_one_thread_factorises(engine):
    rng = np.random.default_rng(5)
    gradients, x = rng.standard_normal((1300, 1400), np.float32), rng.standard_normal((1400, 2))
    f = dense(gradients)
    with linalgkit.use_engine(engine):
        fisher = empirical_fisher(gradients, damping=DAMPING)
        assert isinstance(fisher._form, ManyParameters)
        truth = np.linalg.solve(f, x)
        np.testing.assert_allclose(fisher.solve(x), truth, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(fisher.solve(x[:, 0]), truth[:, 0], rtol=1e-6, atol=1e-8)
        inverse = np.linalg.inv(f).diagonal()
        np.testing.assert_allclose(fisher.diagonal_inverse(), inverse, rtol=1e-6)


@pytest.mark.parametrize("engine", ["numba", "array_api"])
@pytest.mark.parametrize(("m", "d"), [(100, 60), (128, 100), (256, 140), (80, 80)])
def test_diagonal_where_gradients_span_everything(m, d, engine):
    """1 - |W g|² is about 1e-6 there at such a damping, and keeps its digits in float64."""
    gradients = np.random.default_rng(0).standard_normal((m, d), np.float32)
    damping = 1e-8 * float((gradients**2).sum(axis=1).max())
    wide = np.concatenate([gradients / m**0.5, damping**0.5 * np.eye(d)])
    truth = (np.linalg.inv(np.linalg.qr(wide, mode="r")) ** 2).sum(axis=1)
    with linalgkit.use_engine(engine):
        found = empirical_fisher(gradients, damping=damping).diagonal_inverse()
    np.testing.assert_allclose(found, truth, rtol=1e-6)


def test_many_columns_go_over_chunks_and_pieces():
    rng = np.random.default_rng(1)
    gradients, x = rng.standard_normal((5, 300_007)), rng.standard_normal((300_007, 3))
    fisher = empirical_fisher(gradients, damping=2.0)
    m_inverse = np.linalg.inv(10 * np.eye(5) + gradients @ gradients.T)
    expected = (x - gradients.T @ (m_inverse @ (gradients @ x))) / 2
    np.testing.assert_allclose(fisher.solve(x), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(fisher.solve(x[:, 1]), expected[:, 1], rtol=1e-10, atol=1e-12)
    columns = np.array([0, 16384, 200_001, 300_006])
    truth = (np.eye(300_007, 4)[:0], gradients[:, columns].T @ m_inverse @ gradients[:, columns])
    np.testing.assert_allclose(
        fisher.diagonal_inverse()[columns], (1 - truth[1].diagonal()) / 2, rtol=1e-12
    )
    for p, q in [(0, 3), (2, 2)]:
        element = fisher.inverse_element(columns[p], columns[q])
        assert element == pytest.approx(((p == q) - truth[1][p, q]) / 2, rel=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_same_bits_for_any_number_of_workers(dtype):
    rng = np.random.default_rng(2)
    gradients = rng.standard_normal((7, 400_000)).astype(dtype)
    x = rng.standard_normal(400_000).astype(np.float32)
    results = []
    for workers in (1, 2, 3):
        with linalgkit.use_workers(workers):
            fisher = empirical_fisher(gradients, damping=1e-2)
            results.append((fisher.solve(x).tobytes(), fisher.diagonal_inverse().tobytes()))
    assert results[0] == results[1] == results[2]


class TestClosedForms:
    def test_copies_of_one_gradient(self):
        g = np.random.default_rng(0).standard_normal(20)
        for m in (1, 4, 64):  # without 1/m the second would differ from the first
            fisher = empirical_fisher(np.tile(g, (m, 1)), damping=1e-3)
            np.testing.assert_allclose(fisher.solve(g), g / (1e-3 + g @ g), rtol=1e-9)

    def test_orthogonal_gradients(self):
        q = np.linalg.qr(np.random.default_rng(0).standard_normal((9, 3)))[0].T
        lengths = np.array([1.0, 5.0, 0.1])
        fisher = empirical_fisher(lengths[:, None] * q, damping=0.2)
        eigenvalues = 0.2 + lengths**2 / 3
        np.testing.assert_allclose(fisher.solve(q.T), q.T / eigenvalues, atol=1e-12)
        assert fisher.logdet() == pytest.approx(np.log(eigenvalues).sum() + 6 * np.log(0.2))

    def test_order_of_gradients_does_not_matter(self):
        rng = np.random.default_rng(0)
        gradients, x = rng.standard_normal((6, 11)), rng.standard_normal(11)
        found = [
            empirical_fisher(gradients[order], damping=0.01).solve(x)
            for order in (slice(None), slice(None, None, -1))
        ]
        np.testing.assert_allclose(*found, rtol=1e-11)

    def test_zero_gradients(self):
        fisher = empirical_fisher(np.zeros((3, 4)), damping=0.5)
        np.testing.assert_allclose(fisher.solve(np.ones(4)), 2)

    @pytest.mark.parametrize("power", [-0.5, 0.5, -1, 1, -2, 0.25])
    @pytest.mark.parametrize("library", LIBRARIES)
    def test_powers(self, library, power, require):
        used = _used(library, require)
        gradients = random_gradients(np.random.default_rng(0), "float64", 4, 7)
        gradients[3] = gradients[2]  # an eigenvalue of the Gram matrix is 0
        x = np.random.default_rng(1).standard_normal((7, 2))
        values, vectors = np.linalg.eigh(dense(gradients))
        found = empirical_fisher(used.asarray(gradients), damping=0.1).whiten(
            used.asarray(x), power=power
        )
        expected = vectors * values**power @ vectors.T @ x
        np.testing.assert_allclose(used.asnumpy(found), expected, atol=1e-10)


# Gradients and dampings for which the published recurrences lose all digits in float32.
TRAPS = {
    "normal": (128, 4000, 1e-5, 0.0, 1.0, 0.3),
    "common direction": (128, 4000, 1e-5, 3.0, 1.0, 10.0),
    "more gradients than parameters": (128, 60, 6e-7, 0.0, 1.0, 0.1),
    "small": (128, 4000, 1e-5, 0.0, 0.01, 1e-5),
}


@cache
def trap(name):
    m, d, damping, mean, size, published = TRAPS[name]
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((m, d)) + mean * rng.standard_normal(d)
    return (size * gradients).astype(np.float32), damping, published


@cache
def singular(name):
    """The singular values of a trap's gradients, and the parameters' directions, as rows."""
    return np.linalg.svd(trap(name)[0].astype(np.float64), full_matrices=False)[1:]


@pytest.mark.parametrize("name", TRAPS)
class TestTraps:
    def test_gradient_in_the_window(self, name):
        gradients, damping, loss = trap(name)
        truth = in_window(gradients, -1, damping)
        assert (
            relative(empirical_fisher(gradients, damping=damping).solve(gradients[-1]), truth)
            < 1e-6
        )
        assert relative(published_dynamic(gradients, gradients[-1], damping), truth) > loss

    def test_vector_that_nearly_lies_in_the_span(self, name):
        gradients, damping, _ = trap(name)
        rng, wide = np.random.default_rng(1), gradients.astype(np.float64)
        x = rng.standard_normal(gradients.shape[0]) @ wide
        x = x / np.linalg.norm(x) + 1e-5 * rng.standard_normal(x.size) / x.size**0.5
        x = x.astype(np.float32).astype(np.float64)
        sizes, span = singular(name)  # F⁻¹ on the span and beside it
        inside = span.T @ (span @ x / (damping + sizes**2 / gradients.shape[0]))
        truth = inside + (x - span.T @ (span @ x)) / damping
        fisher = empirical_fisher(gradients, damping=damping)
        assert relative(fisher.solve(x.astype(np.float32)), truth) < 1e-6

    def test_diagonal_is_accurate_and_positive(self, name):
        gradients, damping, _ = trap(name)
        sizes, values = singular(name)
        shrunk = 1 / damping - 1 / (damping + sizes**2 / gradients.shape[0])
        truth = 1 / damping - (shrunk[:, None] * values**2).sum(axis=0)
        found = empirical_fisher(gradients, damping=damping).diagonal_inverse()
        assert found.min() > 0
        np.testing.assert_allclose(found, truth, rtol=1e-6)


def test_jax_keeps_digits_in_float32_alone(require):
    jax = require("jax")
    rng = np.random.default_rng(0)
    gradients, x = rng.standard_normal((64, 48), np.float32), rng.standard_normal(48)
    damping = 1e-8 * float((gradients**2).sum(axis=1).max())
    truth = np.linalg.solve(dense(gradients.astype(np.float64), damping), x)
    inside = in_window(gradients, -1, damping)
    with jax.enable_x64(False):
        g, vector = jax.numpy.asarray(gradients), jax.numpy.asarray(x)
        window = SlidingWindowFisher(64, 48, damping=damping, like=g)
        for row in g[:-1]:
            window.push(row)
        found = [
            empirical_fisher(g, damping=damping).solve(vector),
            fisher_solve(vector, g, damping=damping),
            jax.jit(lambda *given: fisher_solve(*given, damping=damping))(vector, g),
            window.push_solve(g[-1]),
        ]
        assert {one.dtype.name for one in found} == {"float32"}
    for one, expected in zip(found, [truth] * 3 + [inside], strict=True):
        assert relative(one, expected) < 1e-6


def test_published_diagonal_turns_negative_and_ours_does_not():
    gradients = np.random.default_rng(0).standard_normal((256, 64), np.float32)
    wide = gradients.astype(np.float64)
    for damping in (1e-3, 1e-6, 1e-8):
        truth = np.linalg.inv(dense(wide, damping)).diagonal()
        found = empirical_fisher(gradients, damping=damping).diagonal_inverse()
        np.testing.assert_allclose(found, truth, rtol=1e-6)
    y, c = published_static(gradients, 1e-8)
    published = np.float32(1e8) - (y**2 / c[:, None]).sum(axis=0)
    assert np.abs(published / truth - 1).max() > 1


@pytest.mark.parametrize(("damping", "is_rough"), [(1e-2, False), (1e5, True)])
def test_short_products_in_float32_are_used_only_where_they_do_no_harm(
    damping, is_rough, monkeypatch
):
    from linalgkit.mfac import _numba

    kinds, multiply = [], _numba._gram_of_columns

    def seen(start, stop, *args):
        kinds.append(args[-1].rows.dtype)
        return multiply(start, stop, *args)

    monkeypatch.setattr(_numba, "_gram_of_columns", seen)
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((16, 100_000), np.float32)
    gradients += 3 * rng.standard_normal(100_000, np.float32)
    found = empirical_fisher(gradients, damping=damping).solve(gradients[3])
    assert set(kinds) == {np.dtype(np.float32 if is_rough else np.float64)}
    assert relative(found, in_window(gradients, 3, damping)) < 1e-6


class TestLeaves:
    shapes = ((3, 4), (5,), (2, 2, 2))

    def leaves(self, flat):
        ends = np.cumsum([0, 12, 5, 8])
        pieces = zip(self.shapes, ends[:-1], ends[1:], strict=True)
        return [flat[..., a:b].reshape(*flat.shape[:-1], *s) for s, a, b in pieces]

    @pytest.mark.parametrize("library", LIBRARIES)
    def test_like_one_array(self, library, require):
        used = _used(library, require)
        rng = np.random.default_rng(0)
        gradients, x = rng.standard_normal((4, 25)), rng.standard_normal(25)
        inverse = np.linalg.inv(dense(gradients))
        fisher = empirical_fisher([used.asarray(g) for g in self.leaves(gradients)], damping=0.1)
        found = fisher.solve([used.asarray(v) for v in self.leaves(x)])
        for got, wanted in zip(found, self.leaves(inverse @ x), strict=True):
            np.testing.assert_allclose(used.asnumpy(got), wanted, atol=1e-11)
        for got, wanted in zip(
            fisher.diagonal_inverse(), self.leaves(inverse.diagonal()), strict=True
        ):
            np.testing.assert_allclose(used.asnumpy(got), wanted, atol=1e-11)
        flat = fisher.solve(used.asarray(x))  # a vector comes back as a vector
        np.testing.assert_allclose(used.asnumpy(flat), inverse @ x, atol=1e-11)
        columns = fisher.inverse_columns([24, 0, -9])
        for got, wanted in zip(
            columns, self.leaves(np.moveaxis(inverse[:, [24, 0, 16]], 0, -1)), strict=True
        ):
            np.testing.assert_allclose(used.asnumpy(got), np.moveaxis(wanted, 0, -1), atol=1e-11)
        assert fisher.inverse_element(3, 20) == pytest.approx(inverse[3, 20])

    def test_no_copies(self):
        leaves = self.leaves(np.random.default_rng(0).standard_normal((4, 25)))
        leaves = [np.ascontiguousarray(leaf) for leaf in leaves]
        fisher = empirical_fisher(leaves)
        for own, leaf in zip(fisher._parts, leaves, strict=True):
            assert np.shares_memory(own, leaf)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("m", [4, 12])
def test_names_that_all_operators_have(library, m, require):
    used = _used(library, require)
    gradients = random_gradients(np.random.default_rng(0), "float64", m, 9)
    f, x = dense(gradients), np.random.default_rng(1).standard_normal((9, 2))
    fisher = empirical_fisher(used.asarray(gradients), damping=DAMPING)
    assert fisher.T is fisher
    assert fisher.H is fisher
    assert fisher.conj() is fisher
    assert fisher.trace() == pytest.approx(np.trace(f), rel=1e-12)
    assert fisher.norm() == pytest.approx(np.linalg.norm(f), rel=1e-12)
    assert fisher.slogdet() == (1.0, fisher.logdet())
    assert fisher.slogdet()[1] == pytest.approx(np.linalg.slogdet(f)[1], rel=1e-12)
    np.testing.assert_allclose(used.asnumpy(fisher.to_dense()), f, atol=1e-12)
    inverse = fisher.inv()
    assert inverse.inv() is fisher
    assert inverse.T is inverse
    assert inverse.shape == (9, 9)
    assert inverse.slogdet() == (1.0, -fisher.logdet())
    assert repr(inverse) == f"<inverse of {fisher!r}>"
    for found, truth in (
        (inverse @ used.asarray(x), np.linalg.solve(f, x)),
        (inverse.solve(used.asarray(x)), f @ x),
        (inverse.diagonal(), np.linalg.inv(f).diagonal()),
    ):
        assert isinstance(found, used.array_type)
        np.testing.assert_allclose(used.asnumpy(found), truth, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("storage", ["bfloat16", "float16"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_half_precision_is_saved(library, storage, dtype, require):
    used = _used(library, require)
    gradients = random_gradients(np.random.default_rng(0), dtype, 3, 10)
    leaves = [used.asarray(gradients[:, :4].reshape(3, 2, 2)), used.asarray(gradients[:, 4:])]
    fisher = empirical_fisher(leaves, damping=0.1, storage=storage)
    file = io.BytesIO()
    fisher.save(file)
    file.seek(0)
    again, x = linalgkit.load(file), np.ones(10)
    assert again.dtype == np.float32
    assert "stored in " + storage in repr(again)
    assert "stored in " + storage in repr(fisher)
    found = used.asnumpy(fisher.solve(used.asarray(x)))
    np.testing.assert_allclose(again.solve(x), found, rtol=1e-12)


def test_operator_manners():
    gradients = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32)
    fisher = empirical_fisher(gradients, damping=0.1, storage="bfloat16")
    assert linalgkit.dottest(fisher, rng=0) < 1e-5
    assert linalgkit.dottest(fisher.inverse, rng=0) < 1e-5
    x = np.random.default_rng(1).standard_normal((10, 2))
    np.testing.assert_allclose(fisher.inverse @ (fisher.aslinearoperator() @ x), x, rtol=1e-9)
    assert repr(fisher) == (
        "<EmpiricalFisher 10×10 (3 gradients, stored in bfloat16, damping 0.1), float32: "
        "30 parameters, 60 bytes, 3.33 times smaller than dense>"
    )
    file = io.BytesIO()
    fisher.save(file)
    file.seek(0)
    again = linalgkit.load(file)
    assert isinstance(again, EmpiricalFisher)
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again.solve(x), fisher.solve(x))
    leaves = empirical_fisher([gradients[:, :4].reshape(3, 2, 2), gradients[:, 4:]], damping=0.1)
    file = io.BytesIO()
    leaves.save(file)
    file.seek(0)
    again = linalgkit.load(file)
    assert again.layout == leaves.layout
    np.testing.assert_array_equal(again.solve(x), leaves.solve(x))


@pytest.mark.parametrize("library", LIBRARIES)
def test_leaves_of_scalar_parameters(library, require):
    used = _used(library, require)
    rng = np.random.default_rng(0)
    gradients, x = rng.standard_normal((4, 7)), rng.standard_normal(7)
    given = [gradients[:, :6].reshape(4, 3, 2), gradients[:, 6]]
    fisher = empirical_fisher([used.asarray(leaf) for leaf in given], damping=DAMPING)
    truth = np.linalg.solve(dense(gradients), x)
    first, second = fisher.solve([used.asarray(x[:6].reshape(3, 2)), used.asarray(x[6])])
    assert tuple(second.shape) == ()
    np.testing.assert_allclose(used.asnumpy(first).ravel(), truth[:6], rtol=1e-10)
    np.testing.assert_allclose(used.asnumpy(second), truth[6], rtol=1e-10)
    file = io.BytesIO()
    fisher.save(file)
    file.seek(0)
    assert linalgkit.load(file).layout == fisher.layout


@pytest.mark.parametrize("m", [4, 40])
def test_gradients_that_are_not_contiguous_are_copied_once(m):
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((m, 20_000), np.float32)
    truth = empirical_fisher(gradients).solve(gradients[0])
    for other in (
        np.asfortranarray(gradients),
        np.concatenate([gradients, gradients], axis=1)[:, :20_000],
        gradients.astype(">f4"),
    ):
        fisher = empirical_fisher(other)
        fisher.solve(gradients[0])
        tracemalloc.start()
        try:
            found = fisher.solve(gradients[0])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4 * found.nbytes
        np.testing.assert_array_equal(found, truth)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_diagonal_is_a_sum_of_squares(library, require, monkeypatch):
    """Column norms of a triangular product would take m times as long."""
    used = _used(library, require)
    monkeypatch.delattr(Rows, "column_norms")
    gradients = random_gradients(np.random.default_rng(0), "float32", 5, 30)
    fisher = empirical_fisher(used.asarray(gradients), damping=DAMPING)
    found = used.asnumpy(fisher.diagonal())
    np.testing.assert_allclose(found, dense(gradients).diagonal(), rtol=1e-6)


def test_published_static_arrays():
    gradients = random_gradients(np.random.default_rng(0), "float64", 5, 8)
    y, c = woodbury_static(gradients, 0.01)
    inverse = np.linalg.inv(dense(gradients, 0.01))
    np.testing.assert_allclose(np.eye(8) / 0.01 - (y.T / c) @ y, inverse, atol=1e-10)


def test_torch_uses_the_tensors_memory_and_gives_gradients(require):
    torch = require("torch")
    gradients = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    fisher = empirical_fisher(gradients, damping=0.1)
    fisher.solve(torch.ones(12, dtype=torch.float64)).sum().backward()
    (expected,) = torch.autograd.grad(
        fisher_solve(torch.ones(12, dtype=torch.float64), gradients, damping=0.1).sum(), gradients
    )
    torch.testing.assert_close(gradients.grad, expected)


BAD = {
    "nothing": (lambda: empirical_fisher(None), TypeError, "gradients must be an array; got None"),
    "no vector": (
        lambda: empirical_fisher(np.ones((1, 3))).solve(None), TypeError,
        "x must be an array; got None",
    ),
    "no gradients": (
        lambda: fisher_solve(np.ones(3), None), TypeError, "gradients must be an array; got None"
    ),
    "no cotangent": (
        lambda: fisher_solve_vjp(None, np.ones(3), np.ones((2, 3))), TypeError,
        "cotangent must be an array; got None",
    ),
    "no rows": (lambda: woodbury_static(None), TypeError, "gradients must be an array; got None"),
    "power": (
        lambda: empirical_fisher(np.ones((1, 3))).whiten(np.ones(3), power="half"),
        TypeError, "power must be a number",
    ),
    "one axis": (lambda: empirical_fisher(np.ones(3)), ValueError, r"shape \(m, d\).*got \(3,\)"),
    "vectors": (
        lambda: empirical_fisher([np.ones(3), np.ones(3)]), ValueError, "one array of shape"
    ),
    "two counts": (
        lambda: empirical_fisher([np.ones((2, 3)), np.ones((3, 3))]), ValueError, "leaf 1 has"
    ),
    "empty": (lambda: empirical_fisher(np.ones((0, 3))), ValueError, "must not be empty"),
    "complex": (lambda: empirical_fisher(np.ones((2, 3), complex)), TypeError, "must be real"),
    "NaN": (
        lambda: empirical_fisher(np.array([[1.0, 2], [0, np.nan]])), ValueError,
        r"gradients\[1\] is not finite at 1",
    ),
    "infinity": (
        lambda: empirical_fisher([np.ones((2, 2)), np.array([[1.0], [np.inf]])]), ValueError,
        r"gradients\[1\] of leaf 1 is not finite at 0",
    ),
    "no damping": (
        lambda: empirical_fisher(np.ones((2, 3)), damping=0), np.linalg.LinAlgError,
        "small positive damping",
    ),
    "lost damping": (
        lambda: empirical_fisher(np.ones((2, 3)), damping=1e-30), np.linalg.LinAlgError,
        "damping of at least",
    ),
    "negative": (lambda: empirical_fisher(np.ones((2, 3)), damping=-1.0), ValueError, "positive"),
    "no number": (lambda: empirical_fisher(np.ones((2, 3)), damping="x"), TypeError, "a number"),
    "storage": (
        lambda: empirical_fisher(np.ones((2, 3)), storage="int8"), ValueError, "storage must be"
    ),
    "vector": (
        lambda: empirical_fisher(np.ones((2, 3))).solve(np.ones(4)), ValueError,
        r"shape \(3,\) or \(3, k\); got \(4,\)",
    ),
    "leaves": (
        lambda: empirical_fisher([np.ones((2, 3)), np.ones((2, 1))]).solve([np.ones(3)]),
        ValueError, r"leaves of shapes \(3,\), \(1,\); got \(3,\)",
    ),
    "index": (
        lambda: empirical_fisher(np.ones((2, 3))).inverse_element(0, 3), IndexError, "within the 3"
    ),
    "blocks": (
        lambda: empirical_fisher(np.ones((2, 3))).inverse_blocks(2), ValueError, "must divide"
    ),
    "libraries": (
        lambda: empirical_fisher(np.ones((2, 3))).solve(_strict_ones()), TypeError, "libraries"
    ),
    "libraries, few": (
        lambda: empirical_fisher(np.eye(8)[:, :3]).solve(_strict_ones()), TypeError, "libraries"
    ),
    "libraries, product": (
        lambda: empirical_fisher(np.eye(8)[:, :3]) @ _strict_ones(), TypeError, "libraries"
    ),
    "libraries, powers": (
        lambda: empirical_fisher(np.eye(8)[:, :3]).whiten(_strict_ones()), TypeError, "libraries"
    ),
    "libraries, blocks": (
        lambda: block_fisher(np.ones((2, 3)), 2).solve(_strict_ones()), TypeError, "libraries"
    ),
    "empty leaf": (
        lambda: empirical_fisher([np.ones((2, 3)), np.ones((2, 0))]), ValueError,
        r"must not be empty; got \(2, 3\), \(2, 0\)",
    ),
    "empty leaf with axes": (
        lambda: empirical_fisher([np.ones((8, 3)), np.ones((8, 0, 4))]), ValueError,
        "must not be empty",
    ),
    "no leaf": (
        lambda: empirical_fisher([np.ones((2, 3)), None]), TypeError,
        r"gradients\[1\] must be an array; got None",
    ),
    "fewer leaves": (
        lambda: empirical_fisher([np.ones((2, 3)), np.ones((2, 1))]).solve([]), ValueError,
        r"leaves of shapes \(3,\), \(1,\); got 0",
    ),
    "numbers for leaves": (
        lambda: empirical_fisher([np.ones((2, 3)), np.ones((2, 1))]).solve([1.0] * 4), ValueError,
        r"leaves of shapes \(3,\), \(1,\); got 4",
    ),
    "None for a leaf": (
        lambda: empirical_fisher([np.ones((2, 3)), np.ones((2, 1))]).solve([np.ones(3), None]),
        TypeError, r"x\[1\] must be an array; got None",
    ),
    "range of powers": (
        lambda: empirical_fisher(np.ones((1, 3))).whiten(np.ones(3), power=-100), ValueError,
        "power=-100 of the damping, 1e-05, is beyond float64",
    ),
    "large damping": (
        lambda: empirical_fisher(np.ones((2, 3)), damping=1e308), ValueError, "less than 1e300"
    ),
    "lost damping of a product": (
        lambda: fisher_solve(np.ones(3), np.ones((2, 3)), damping=1e-30), np.linalg.LinAlgError,
        "damping of at least",
    ),
    "lost damping of a product, few": (
        lambda: fisher_solve(np.ones(3), np.ones((8, 3)), damping=1e-30), np.linalg.LinAlgError,
        "is lost beside the gradients",
    ),
    "lost damping of its gradients": (
        lambda: fisher_solve_vjp(np.ones(3), np.ones(3), np.ones((2, 3)), damping=1e-30),
        np.linalg.LinAlgError, "damping of at least",
    ),
    "lost damping of the published arrays": (
        lambda: woodbury_static(np.ones((2, 3)), 1e-30), np.linalg.LinAlgError,
        "damping of at least",
    ),
    "wrt": (
        lambda: linalgkit.mfac.fisher_solve_vjp(np.ones(3), np.ones(3), np.ones((2, 3)), wrt="y"),
        ValueError, "wrt must be one of",
    ),
}  # fmt: skip


def _strict_ones():
    import array_api_strict

    return array_api_strict.ones(3)


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()


def test_reference_engine_goes_over_pieces(monkeypatch):
    monkeypatch.setattr(_array_api, "_ENTRIES", 64)
    rng = np.random.default_rng(0)
    g, x = rng.standard_normal((4, 55)), rng.standard_normal(55)  # three pieces of 16 and a rest
    inverse = np.linalg.inv(dense(g))
    with linalgkit.use_engine("array_api"):
        fisher, blocks = empirical_fisher(g, damping=DAMPING), block_fisher(g, 3, damping=DAMPING)
        np.testing.assert_allclose(fisher.solve(x), inverse @ x, rtol=1e-11)
        np.testing.assert_allclose(fisher.diagonal_inverse(), inverse.diagonal(), rtol=1e-11)
        np.testing.assert_allclose(fisher.inverse_blocks(5)[4], inverse[20:25, 20:25], atol=1e-12)
        np.testing.assert_allclose(blocks @ x, in_blocks(dense(g), 3) @ x, atol=1e-12)


def test_jax_goes_over_pieces_in_a_loop(require, monkeypatch):
    require("jax")
    import jax

    monkeypatch.setattr(_array_api, "_ENTRIES", 64)
    rng = np.random.default_rng(0)
    g, x = rng.standard_normal((4, 55)), rng.standard_normal(55)

    def loss(x, g):
        y = fisher_solve(x, g, damping=DAMPING)
        return (y**2).sum(), y

    def written(d):
        traced = jax.make_jaxpr(loss)(jax.numpy.ones(d), jax.numpy.ones((4, d)))
        return str(traced).count("dot_general")

    assert written(55) == written(55 + 32)
    slopes, y = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, g)
    np.testing.assert_allclose(y, np.linalg.solve(dense(g), x), rtol=1e-11)
    expected = fisher_solve_vjp(2 * np.asarray(y), x, g, damping=DAMPING)
    for got, wanted in zip(slopes, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LIBRARIES)
def test_gradients_and_vectors_of_different_precision(name, require):
    xp = _used(name, require)
    rng = np.random.default_rng(2)
    gradients, x = random_gradients(rng, np.float32), rng.standard_normal(8)
    found = fisher_solve(xp.asarray(x), xp.asarray(gradients), damping=DAMPING)
    assert "float64" in str(found.dtype)
    truth = np.linalg.solve(dense(gradients), x)
    np.testing.assert_allclose(np.asarray(found), truth, rtol=1e-12)
    narrow = xp.asarray(x.astype(np.float32))
    found = fisher_solve(narrow, xp.asarray(gradients.astype(np.float64)), damping=DAMPING)
    assert "float64" in str(found.dtype)


def test_gradients_in_half_precision_are_not_copied():
    rng = np.random.default_rng(3)
    gradients = rng.standard_normal((32, 200_000), dtype=np.float32).astype(np.float16)
    x = rng.standard_normal(200_000, dtype=np.float32)
    fisher_solve(x[:100], gradients[:, :100])
    with linalgkit.use_workers(2):  # each has a few vectors of a chunk
        tracemalloc.start()
        try:
            found = fisher_solve(x, gradients)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < gradients.nbytes / 2
    wide = gradients.astype(np.float64)
    coefficients = np.linalg.solve(32e-5 * np.eye(32) + wide @ wide.T, wide @ x)
    assert relative(found, (x - wide.T @ coefficients) / 1e-5) < 1e-6
