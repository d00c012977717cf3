"""What the array-API standard lacks, on every library: values, order of sums, gradients, jit."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_triangular

from linalgkit import _xp
from linalgkit._testing import library

SIZES = [0, 1, 2, 31, 32, 33, 64, 100]


@pytest.fixture(params=["numpy", "array_api_strict", "torch", "jax"])
def lib(request, require):
    require(request.param)
    return library(request.param)


def lower_and_right(n, k=3, batch=(), dtype="float64", seed=0, garbage=7.0):
    """L with garbage on and above the diagonal, entries small enough for n = 100; and B."""
    rng = np.random.default_rng(seed)

    def random(*shape):
        values = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
        return (values if dtype.startswith("complex") else values.real).astype(dtype)

    lower = random(*batch, n, n) / max(1, n) ** 0.5
    upper = np.triu(np.ones((n, n), bool))
    lower[..., upper] = garbage
    return lower, random(*batch, n, k)


def truth(lower, right):
    solved = np.empty_like(right, dtype=np.result_type(right, np.float64))
    for index in np.ndindex(lower.shape[:-2]):
        unit = np.tril(np.nan_to_num(lower[index]), -1) + np.eye(lower.shape[-1])
        if right[index].size:
            solved[index] = solve_triangular(unit.astype(solved.dtype), right[index], lower=True)
    return solved


@pytest.mark.parametrize("n", SIZES)
def test_solve_unit_lower(lib, n):
    lower, right = lower_and_right(n)
    solved = _xp.solve_unit_lower(lib.asarray(lower), lib.asarray(right))
    assert isinstance(solved, lib.array_type)
    assert solved.shape == right.shape
    np.testing.assert_allclose(lib.asnumpy(solved), truth(lower, right), rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [1, 33])
@pytest.mark.parametrize("garbage", [0.0, np.nan, np.inf])
def test_solve_unit_lower_reads_below_the_diagonal_only(lib, n, garbage):
    lower, right = lower_and_right(n, garbage=garbage)
    solved = _xp.solve_unit_lower(lib.asarray(lower), lib.asarray(right))
    np.testing.assert_allclose(lib.asnumpy(solved), truth(lower, right), rtol=0, atol=1e-10)


@pytest.mark.parametrize("n", [0, 1, 5, 33, 70])
@pytest.mark.parametrize("batch", [(3,), (2, 1), (0,)])
def test_solve_unit_lower_of_batches(lib, n, batch):
    lower, right = lower_and_right(n, k=2, batch=batch)
    solved = _xp.solve_unit_lower(lib.asarray(lower), lib.asarray(right))
    assert solved.shape == right.shape
    np.testing.assert_allclose(lib.asnumpy(solved), truth(lower, right), rtol=0, atol=1e-9)


@pytest.mark.parametrize("k", [0, 1])
def test_solve_unit_lower_of_few_columns(lib, k):
    lower, right = lower_and_right(40, k=k)
    solved = _xp.solve_unit_lower(lib.asarray(lower), lib.asarray(right))
    assert solved.shape == (40, k)
    np.testing.assert_allclose(lib.asnumpy(solved), truth(lower, right), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_solve_unit_lower_keeps_the_dtype(lib, dtype):
    lower, right = lower_and_right(40, dtype=dtype)
    solved = lib.asnumpy(_xp.solve_unit_lower(lib.asarray(lower), lib.asarray(right)))
    assert solved.dtype == dtype
    atol = 1e-3 if dtype in ("float32", "complex64") else 1e-11
    np.testing.assert_allclose(solved, truth(lower, right), rtol=0, atol=atol)


def test_solve_unit_lower_leaves_its_arguments():
    lower, right = lower_and_right(40)
    kept = lower.copy(), right.copy()
    for array in (lower, right):
        array.flags.writeable = False
    solved = _xp.solve_unit_lower(lower, right)
    assert np.array_equal(lower, kept[0])
    assert np.array_equal(right, kept[1])
    assert not np.shares_memory(solved, right)


@pytest.mark.parametrize("batch", [(), (2,)])
def test_solve_unit_lower_gradients(require, batch):
    """Both libraries' gradients are those of the formula: B' = L^-T G, L' = -tril(B' X^T, -1)."""
    torch, jax = require("torch"), require("jax")
    lower, right = lower_and_right(5, k=2, batch=batch)
    weights = np.random.default_rng(1).standard_normal(right.shape)
    unit = np.tril(lower, -1) + np.eye(5)
    of_right = np.linalg.solve(np.swapaxes(unit, -1, -2), weights)
    of_lower = -np.tril(of_right @ np.swapaxes(truth(lower, right), -1, -2), -1)

    leaves = [torch.tensor(array, requires_grad=True) for array in (lower, right)]
    (_xp.solve_unit_lower(*leaves) * torch.tensor(weights)).sum().backward()

    def loss(lower, right):
        return (_xp.solve_unit_lower(lower, right) * weights).sum()

    arrays = [jax.numpy.asarray(array) for array in (lower, right)]
    for gradients in (
        [leaf.grad.numpy() for leaf in leaves],
        jax.grad(loss, argnums=(0, 1))(*arrays),
        jax.jit(jax.grad(loss, argnums=(0, 1)))(*arrays),
    ):
        for gradient, expected in zip(gradients, (of_lower, of_right), strict=True):
            np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-12)


def test_solve_unit_lower_under_jit_and_vmap(require):
    torch, jax = require("torch"), require("jax")
    lower, right = lower_and_right(33, batch=(3,))
    expected = truth(lower, right)
    arrays = [jax.numpy.asarray(array) for array in (lower, right)]
    tensors = [torch.tensor(array) for array in (lower, right)]
    for solved in (
        jax.jit(_xp.solve_unit_lower)(*arrays),
        jax.vmap(_xp.solve_unit_lower)(*arrays),
        torch.func.vmap(_xp.solve_unit_lower)(*tensors),
    ):
        np.testing.assert_allclose(solved, expected, rtol=0, atol=1e-10)


def added_in_order(values, segments, count):
    sums = [values.dtype.type(0)] * count
    for value, segment in zip(values, segments, strict=True):
        sums[segment] = sums[segment] + value
    return np.array(sums, dtype=values.dtype)


def summed(lib, values, segments, count):
    return _xp.segment_sum(lib.asarray(values), lib.asarray(segments), count)


@pytest.mark.parametrize(
    ("segments", "count"),
    [
        ([], 0),
        ([], 3),
        ([0, 0, 0], 1),
        ([2, 0, 2, 5, 0, 2], 7),  # repeated, unsorted, with empty segments between and at the end
        ([6, 5, 4, 3, 2, 1, 0], 7),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128", "int64"])
def test_segment_sum(lib, segments, count, dtype):
    values = (np.arange(len(segments)) + 1).astype(dtype)
    segments = np.array(segments, dtype=np.int64)
    sums = summed(lib, values, segments, count)
    assert isinstance(sums, lib.array_type)
    assert sums.shape == (count,)
    assert lib.asnumpy(sums).dtype == dtype
    assert np.array_equal(lib.asnumpy(sums), added_in_order(values, segments, count))


def test_segment_sum_adds_in_order(lib):
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(500) * 10.0 ** rng.integers(-4, 5, 500)).astype(np.float32)
    segments = rng.integers(0, 7, 500)
    expected = added_in_order(values, segments, 7)
    assert not np.array_equal(expected, added_in_order(values[::-1], segments[::-1], 7))
    sums = lib.asnumpy(summed(lib, values, segments, 7))
    assert sums.tobytes() == expected.tobytes()


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6, width=32), st.integers(0, 5)), max_size=30))
def test_segment_sum_of_any_values(pairs):
    values = np.array([value for value, _ in pairs], dtype=np.float32)
    segments = np.array([segment for _, segment in pairs], dtype=np.int64)
    sums = _xp.segment_sum(values, segments, 6)
    assert np.array_equal(sums, added_in_order(values, segments, 6))


def test_segment_sum_keeps_nan_to_its_segment(lib):
    sums = lib.asnumpy(summed(lib, np.array([1.0, np.nan, 2.0]), np.array([0, 1, 0]), 3))
    assert np.array_equal(sums, [3.0, np.nan, 0.0], equal_nan=True)


def test_segment_sum_gradients(require):
    torch, jax = require("torch"), require("jax")
    values, segments = np.arange(6.0), np.array([2, 0, 2, 5, 0, 2])
    weights = np.random.default_rng(0).standard_normal(7)

    leaf = torch.tensor(values, requires_grad=True)
    sums = _xp.segment_sum(leaf, torch.tensor(segments), 7)
    (sums * torch.tensor(weights)).sum().backward()
    assert np.array_equal(leaf.grad.numpy(), weights[segments])

    def loss(values, segments):
        return (_xp.segment_sum(values, segments, 7) * weights).sum()

    arrays = jax.numpy.asarray(values), jax.numpy.asarray(segments)
    assert np.array_equal(jax.grad(loss)(*arrays), weights[segments])
    assert np.array_equal(jax.jit(jax.grad(loss))(*arrays), weights[segments])


def test_segment_sum_under_jit_and_vmap(require):
    jax = require("jax")
    values, segments = np.arange(12.0).reshape(2, 6), np.array([2, 0, 2, 5, 0, 2])
    expected = [added_in_order(row, segments, 7) for row in values]
    arrays = jax.numpy.asarray(values), jax.numpy.asarray(segments)
    jitted = jax.jit(_xp.segment_sum, static_argnums=2)
    assert np.array_equal(jitted(arrays[0][0], arrays[1], 7), expected[0])
    mapped = jax.vmap(lambda row: _xp.segment_sum(row, arrays[1], 7))
    assert np.array_equal(mapped(arrays[0]), expected)


@pytest.mark.parametrize("length", [1, 5])
def test_scan(lib, length):
    items = np.random.default_rng(0).standard_normal((length, 3))
    seen = []

    def step(state, item):
        assert item.shape == (3,)
        seen.append(1)
        state = 0.5 * state + item
        return state, state * state

    start = np.ones(3)
    state, outputs = _xp.scan(step, lib.asarray(start), lib.asarray(items))
    expected = []
    for item in items:
        start = 0.5 * start + item
        expected.append(start * start)
    assert isinstance(state, lib.array_type)
    assert isinstance(outputs, lib.array_type)
    np.testing.assert_allclose(lib.asnumpy(state), start, rtol=1e-15)
    np.testing.assert_allclose(lib.asnumpy(outputs), expected, rtol=1e-15)
    assert seen


def test_scan_on_jax_traces_its_step_once(require):
    jax = require("jax")
    items, traced = jax.numpy.arange(50.0), []

    def total(items):
        def step(state, item):
            traced.append(1)
            return state + item * item, state

        return _xp.scan(step, jax.numpy.asarray(0.0), items)[0]

    assert total(items) == np.sum(np.arange(50.0) ** 2)
    assert len(traced) < 50
    assert np.array_equal(jax.grad(total)(items), 2 * np.arange(50.0))


def test_scan_gradient_in_torch(require):
    torch = require("torch")
    items = torch.arange(1.0, 5.0, requires_grad=True)
    product, _ = _xp.scan(lambda state, item: (state * item, state), torch.tensor(1.0), items)
    product.backward()
    assert items.grad.tolist() == [24.0, 12.0, 8.0, 6.0]


def test_padded(lib):
    x = np.arange(1.0, 7).reshape(2, 3)
    there = lib.asarray(x)
    assert _xp.padded(there, 3, 1) is there
    for axis, size, expected in (
        (0, 4, np.pad(x, ((0, 2), (0, 0)))),
        (-1, 5, np.pad(x, ((0, 0), (0, 2)))),
    ):
        np.testing.assert_array_equal(lib.asnumpy(_xp.padded(there, size, axis)), expected)
    ahead = _xp.padded(there, 5, 1, ahead=True)
    np.testing.assert_array_equal(lib.asnumpy(ahead), np.pad(x, ((0, 0), (2, 0))))


def test_moveaxis(lib):
    x = np.arange(24.0).reshape(2, 3, 4)
    for source, destination in itertools.product(range(-3, 3), repeat=2):
        moved = _xp.moveaxis(lib.asarray(x), source, destination)
        assert isinstance(moved, lib.array_type)
        assert np.array_equal(lib.asnumpy(moved), np.moveaxis(x, source, destination))


def test_moveaxis_of_one_axis(lib):
    x = np.arange(3.0)
    assert np.array_equal(lib.asnumpy(_xp.moveaxis(lib.asarray(x), -1, 0)), x)


def test_moveaxis_under_torch_vmap(require):
    torch = require("torch")
    x = torch.arange(24.0).reshape(2, 3, 4)
    moved = torch.func.vmap(lambda item: _xp.moveaxis(item, 0, -1))(x)
    assert torch.equal(moved, x.permute(0, 2, 1))


def test_compiled_as_a_whole_by_jax_alone(require):
    require("jax")
    import jax

    seen = []

    @_xp.compiled("power")
    def powers(x, power, other=None):
        """Say what it does."""
        seen.append(type(x))
        return x**power if other is None else x**power + other

    assert (powers.__name__, powers.__doc__) == ("powers", "Say what it does.")
    x = np.array([1.0, 2.0, 3.0])
    for _ in range(2):
        np.testing.assert_array_equal(powers(x, 3), x**3)
    assert seen == [np.ndarray] * 2
    seen.clear()
    ours = jax.numpy.asarray(x)
    for _ in range(2):
        np.testing.assert_allclose(powers(ours, 3), x**3, rtol=1e-14)
        np.testing.assert_allclose(powers(ours, power=2, other=ours), x**2 + x, rtol=1e-14)
    assert len(seen) == 2  # traced once for each set of arguments
    assert all(issubclass(kind, jax.core.Tracer) for kind in seen)
    slope = jax.grad(lambda x: powers(x, 3).sum())(ours)
    np.testing.assert_allclose(slope, 3 * x**2, rtol=1e-14)
    mapped = jax.vmap(lambda x: powers(x, 2))(ours)
    np.testing.assert_allclose(mapped, x**2, rtol=1e-14)


def test_compiled_as_a_whole_with_arrays_in_sequences(require):
    require("jax")
    import jax

    seen = []

    class Scaled(NamedTuple):
        parts: tuple
        scale: float

        @_xp.compiled("shift")
        def total(self, others, *, shift=0.0):
            seen.append(type(self.parts[0]))
            return [self.scale * x + y + shift for x, y in zip(self.parts, others, strict=True)]

    x, y = np.array([1.0, 2.0]), np.array([[5.0]])
    for scale in 2.0, 3.0:  # numbers are arguments
        found = Scaled((jax.numpy.asarray(x), y), scale).total([y, x], shift=1.0)
        assert isinstance(found, list)
        np.testing.assert_array_equal(found[0], scale * x + y + 1)
        np.testing.assert_array_equal(found[1], scale * y + x + 1)
    assert len(seen) == 1
    seen.clear()
    found = Scaled((x, y), 2.0).total(others=(x, jax.numpy.asarray(y)))
    np.testing.assert_array_equal(found[1], 3 * y)
    assert len(seen) == 1
    assert issubclass(seen[0], jax.core.Tracer)
    seen.clear()
    Scaled((x, y), 2.0).total([x, y])
    assert seen == [np.ndarray]
