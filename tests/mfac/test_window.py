"""The sliding window: the last m gradients as they came, at any storage, and the optimiser."""

import copy
import pickle

import numpy as np
import pytest
from mfac.cases import dense, descent, published_dynamic

import linalgkit
from linalgkit._testing import library as library_of
from linalgkit.mfac import SlidingWindowFisher, empirical_fisher, mfac_minimize

LIBRARIES = ["numpy", "array_api_strict", "torch", "jax"]
ENGINES = ["numba", "array_api"]


def gradients_of(count, d, seed=0):
    return np.random.default_rng(seed).standard_normal((count, d))


def last(gradients, m):
    """What a window of m holds: zeros before there were enough."""
    kept = gradients[-m:]
    return np.concatenate([np.zeros((m - len(kept), kept.shape[1])), kept])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("m", [1, 3, 8])
def test_every_step_is_that_of_the_last_gradients(m, engine):
    gradients, x = gradients_of(20, 10), np.random.default_rng(1).standard_normal((10, 2))
    with linalgkit.use_engine(engine):
        fisher = SlidingWindowFisher(m, 10, damping=0.1, storage="float64")
        np.testing.assert_allclose(fisher.solve(x), x / 0.1)
        for count, g in enumerate(gradients, start=1):
            f = dense(last(gradients[:count], m))
            np.testing.assert_allclose(fisher.push_solve(g), np.linalg.solve(f, g), atol=1e-12)
            np.testing.assert_allclose(fisher.solve(x), np.linalg.solve(f, x), atol=1e-11)
            np.testing.assert_allclose(
                fisher.solve(x[:, 0]), np.linalg.solve(f, x[:, 0]), atol=1e-11
            )
            assert fisher.count == min(count, m)


def test_warm_up_by_count():
    gradients = gradients_of(7, 10)
    fisher = SlidingWindowFisher(4, 10, damping=0.1, storage="float64", warmup="count")
    np.testing.assert_allclose(fisher.solve(np.ones(10)), 10)
    for count, g in enumerate(gradients, start=1):
        expected = np.linalg.solve(dense(gradients[max(0, count - 4) : count]), g)
        np.testing.assert_allclose(fisher.push_solve(g), expected, atol=1e-12)


def test_the_published_recurrences_compute_the_same_in_float64():
    gradients = gradients_of(9, 12)
    fisher = SlidingWindowFisher(9, 12, damping=0.01, storage="float64")
    for g in gradients:
        step = fisher.push_solve(g)
    np.testing.assert_allclose(step, published_dynamic(gradients, gradients[-1], 0.01), rtol=1e-9)


@pytest.mark.parametrize(("damping", "mean"), [(1e-5, 0.0), (1e-5, 3.0), (1e-7, 0.0)])
def test_float32_steps_keep_their_digits_where_the_published_ones_lose_them(damping, mean):
    rng = np.random.default_rng(0)
    gradients = gradients_of(70, 1500) + mean * rng.standard_normal(1500)
    gradients = gradients.astype(np.float32)
    fisher = SlidingWindowFisher(64, 1500, damping=damping)
    for g in gradients:
        step = fisher.push_solve(g)
    kept = gradients[-64:].astype(np.float64)
    matrix = kept @ kept.T + 64 * damping * np.eye(64)
    truth = 64 * np.linalg.solve(matrix, np.eye(64)[-1]) @ kept
    assert step.dtype == np.float32
    assert np.linalg.norm(step - truth) < 1e-6 * np.linalg.norm(truth)
    published = published_dynamic(gradients[-64:], gradients[-1], damping)
    assert np.linalg.norm(published - truth) > 0.1 * np.linalg.norm(truth)


@pytest.mark.parametrize("storage", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_storage_and_leaves_on_every_library(library, storage, require):
    used = library_of(library if library == "numpy" else require(library).__name__)
    gradients = (1e-6 * gradients_of(6, 10)).astype(np.float32)
    shapes = [(2, 3), (4,)]
    options = {"damping": 1e-12, "storage": storage, "like": used.asarray(gradients)}
    if library == "array_api_strict" and storage != "float32":
        with pytest.raises(TypeError, match=f"have no {storage}"):
            SlidingWindowFisher(4, shapes, **options)
        return
    fisher = SlidingWindowFisher(4, shapes, **options)
    for g in gradients:
        step = fisher.push_solve([used.asarray(g[:6].reshape(2, 3)), used.asarray(g[6:])])
    assert [tuple(leaf.shape) for leaf in step] == shapes
    found = np.concatenate([used.asnumpy(leaf).ravel() for leaf in step])
    assert found.dtype == np.float32
    own = used.asnumpy if storage == "float32" else None
    rounded = gradients[-4:].astype(np.float64)
    if own is None:  # of the rounded gradients, which NumPy's window tells
        ours = SlidingWindowFisher(4, 10, **(options | {"like": None}))
        for g in gradients:
            ours.push(g)
        state = ours.state()
        kept = linalgkit.mfac._array_api.widened(state["gradients"][0])
        assert state["gradients"][0].itemsize == 2
        rounded = np.roll(state["scales"][:, None] * kept, -2, axis=0)
        np.testing.assert_allclose(rounded, gradients[-4:], rtol=1e-2, atol=1e-9)
    expected = np.linalg.solve(dense(rounded, 1e-12), rounded[-1])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_bad_gradient_leaves_the_window_as_it_was():
    fisher = SlidingWindowFisher(3, [(2,), (3,)], damping=0.1)
    fisher.push([np.ones(2), np.arange(3.0)])
    before = fisher.solve(np.ones(5))
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="g is not finite at 2 of leaf 1"):
            fisher.push([np.ones(2), np.array([1.0, 1.0, bad])])
    assert fisher.count == 1
    np.testing.assert_array_equal(fisher.solve(np.ones(5)), before)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("storage", "size"), [("float32", 1e39), ("bfloat16", 1e39), ("float64", 1e200)]
)
def test_a_gradient_that_overflows_the_window_is_refused(storage, size, engine):
    g, x = gradients_of(2, 10), np.ones(10)
    with linalgkit.use_engine(engine):
        fisher = SlidingWindowFisher(3, 10, damping=0.1, storage=storage)
        fisher.push(g[0])
        before = fisher.solve(x)
        for call in fisher.push, fisher.push_solve:
            with pytest.raises(ValueError, match=f"g is too large: .* {storage} has no such"):
                call(np.full(10, size))
        assert fisher.count == 1
        np.testing.assert_array_equal(fisher.solve(x), before)
        other = SlidingWindowFisher(3, 10, damping=0.1, storage=storage)
        other.push(g[0])
        np.testing.assert_array_equal(fisher.push_solve(g[1]), other.push_solve(g[1]))


def test_a_gradient_whose_damping_is_lost_is_in_the_window():
    fisher = SlidingWindowFisher(2, 10, damping=1e-30, storage="float64")
    fisher.push(np.ones(10))
    with pytest.raises(np.linalg.LinAlgError, match="is lost beside"):
        fisher.push_solve(np.ones(10))
    assert fisher.count == 2


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("d", [9, 2])  # many parameters, and few
def test_vectors_that_are_none(name, d, require):
    used = library_of(name if name == "numpy" else require(name).__name__)
    like = used.asarray(np.ones(1))
    fisher = SlidingWindowFisher(4, d, damping=0.1, like=like)
    fisher.push(used.asarray(np.ones(d)))
    assert tuple(fisher.solve(used.asarray(np.ones((d, 0)))).shape) == (d, 0)


@pytest.mark.parametrize("d", [9, 2])
@pytest.mark.parametrize("name", ["array_api_strict", "torch", "jax.numpy", "dask.array"])
def test_vectors_of_another_library_are_refused(name, d, require):
    other = require(name)
    fisher = SlidingWindowFisher(4, d, damping=0.1)
    for call in fisher.solve, fisher.push:
        with pytest.raises(TypeError, match=r"window is an array of numpy, [gx] of"):
            call(other.ones(d))


def test_a_window_keeps_no_graph_of_torch(require):
    torch = require("torch")
    for storage in "float32", "float16", "bfloat16":
        fisher = SlidingWindowFisher(4, 9, storage=storage, like=torch.empty(0))
        step = fisher.push_solve(2 * torch.ones(9, requires_grad=True))
        assert not step.requires_grad
        assert not any(part.requires_grad for part in fisher.state()["gradients"])
        assert not fisher.state()["gram"].requires_grad


@pytest.mark.parametrize("d", [9, 2])
def test_copies_go_on_by_themselves(d):
    gradients = gradients_of(6, d)
    fisher = SlidingWindowFisher(4, d, damping=0.1, storage="float64")
    for g in gradients[:3]:
        fisher.push_solve(g)
    copies = copy.deepcopy(fisher), pickle.loads(pickle.dumps(fisher))
    expected = [fisher.push_solve(g) for g in gradients[3:]]
    for other in copies:
        found = [other.push_solve(g) for g in gradients[3:]]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_state_in_memory_belongs_together(name, require):
    """Its arrays are the window's own, and all of them follow it; JAX's do not, and none does."""
    used = library_of(name if name == "numpy" else require(name).__name__)
    gradients = [used.asarray(g) for g in gradients_of(6, 9)]
    options = {"damping": 0.1, "storage": "float64", "like": gradients[0]}
    fisher, earlier, other = (SlidingWindowFisher(4, 9, **options) for _ in range(3))
    for g in gradients[:3]:
        fisher.push(g)
        earlier.push(g)
    state = fisher.state()
    for g in gradients[3:5]:
        fisher.push(g)
    other.restore(state)
    expected = (earlier if name == "jax" else fisher).push_solve(gradients[5])
    found = other.push_solve(gradients[5])
    np.testing.assert_array_equal(used.asnumpy(found), used.asnumpy(expected))


@pytest.mark.parametrize("storage", ["float32", "float16", "bfloat16"])
def test_state_goes_on_elsewhere(storage):
    gradients = gradients_of(7, 5)
    one, other = (SlidingWindowFisher(3, 5, damping=0.1, storage=storage) for _ in range(2))
    for g in gradients[:5]:
        one.push(g)
    other.restore(one.state())
    for g in gradients[5:]:
        np.testing.assert_array_equal(one.push_solve(g), other.push_solve(g))
    with pytest.raises(ValueError, match="the state has gradients of shape"):
        SlidingWindowFisher(4, 5, storage=storage).restore(one.state())


DAMAGED = {
    "nothing": (lambda s: {}, ValueError, "no 'count', 'gradients', 'gram', 'next', 'scales'"),
    "no dict": (lambda s: [s], TypeError, "state must be a dict; got list"),
    "one array": (
        lambda s: s | {"gradients": s["gradients"][0]}, TypeError, "a list of arrays; got ndarray"
    ),
    "leaves": (
        lambda s: s | {"gradients": s["gradients"] * 2}, ValueError, "of 2 leaves; this window"
    ),
    "dtype": (
        lambda s: s | {"gradients": [s["gradients"][0].astype("d")]}, ValueError,
        r"gradients of shape \(3, 8\) in float64; this window has \(3, 8\) in float32",
    ),
    "gram": (lambda s: s | {"gram": np.eye(2)}, ValueError, r"gram of shape \(2, 2\) in float64"),
    "no array": (lambda s: s | {"scales": 1.0}, TypeError, "scales must be an array; got float"),
    "library": (lambda s: s | {"scales": _strict_ones(3)}, TypeError, "state of array_api_strict"),
    "NaN": (
        lambda s: s | {"gradients": [np.where(np.eye(3, 8), np.float32("nan"), s["gradients"][0])]},
        ValueError, r"gradients\[0\] is not finite at 0",
    ),
    "NaN in gram": (
        lambda s: s | {"gram": np.full((3, 3), np.nan)}, ValueError, "gram is not finite"
    ),
    "count": (lambda s: s | {"count": 4}, ValueError, "window of 3 gradients; got 4 and 2"),
    "next": (lambda s: s | {"next": 1}, ValueError, "window of 3 gradients; got 2 and 1"),
    "no number": (lambda s: s | {"count": "2"}, TypeError, "state's count must be an integer"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_state_is_refused(name):
    damage, error, words = DAMAGED[name]
    fisher = SlidingWindowFisher(3, 8, damping=0.1)
    for g in gradients_of(2, 8):
        fisher.push(g)
    before = fisher.solve(np.ones(8))
    with pytest.raises(error, match=words):
        fisher.restore(damage(fisher.state()))
    assert fisher.count == 2
    np.testing.assert_array_equal(fisher.solve(np.ones(8)), before)


def test_one_pushed_window_is_the_static_matrix():
    gradients = gradients_of(6, 30).astype(np.float32)
    fisher = SlidingWindowFisher(6, 30, damping=0.01)
    for g in gradients:
        fisher.push(g)
    x = np.random.default_rng(2).standard_normal(30)
    np.testing.assert_allclose(
        fisher.solve(x), empirical_fisher(gradients, damping=0.01).solve(x), rtol=1e-12
    )
    assert repr(fisher) == (
        "<SlidingWindowFisher 30×30 (6 of 6 gradients, stored in float32, damping 0.01)>"
    )


BAD = {
    "m": (lambda: SlidingWindowFisher(0, 3), ValueError, "m must be at least 1"),
    "d": (lambda: SlidingWindowFisher(2, [(0,)]), ValueError, "not empty"),
    "sizes": (lambda: SlidingWindowFisher(2, [3, 4]), TypeError, "shapes of leaves as tuples"),
    "storage": (lambda: SlidingWindowFisher(2, 3, storage="int8"), ValueError, "storage must"),
    "warmup": (lambda: SlidingWindowFisher(2, 3, warmup="none"), ValueError, "warmup must"),
    "damping": (
        lambda: SlidingWindowFisher(2, 3, damping=0), np.linalg.LinAlgError, "damping is 0"
    ),
    "two": (
        lambda: SlidingWindowFisher(2, 3).push(np.ones((3, 2))), ValueError, "must be one gradient"
    ),
    "nothing": (
        lambda: SlidingWindowFisher(2, 3).push(None), TypeError, "g must be an array; got None"
    ),
    "a leaf that is none": (
        lambda: SlidingWindowFisher(2, [(2,), (3,)]).push([np.ones(2), None]), TypeError,
        r"g\[1\] must be an array; got None",
    ),
    "no leaves to push": (
        lambda: SlidingWindowFisher(2, [(2,), (3,)]).push([]), ValueError, "2 leaves; got 0"
    ),
    "a leaf too few to solve for": (
        lambda: SlidingWindowFisher(2, [(2,), (3,)]).solve([np.ones(2)]), ValueError,
        "x must have 2 leaves; got 1",
    ),
    "like": (lambda: SlidingWindowFisher(2, 3, like=3), TypeError, "like must be an array; got 3"),
    "another library": (
        lambda: SlidingWindowFisher(2, 3).push(_strict_ones(3)), TypeError,
        "window is an array of numpy, g of array_api_strict",
    ),
    "momentum": (
        lambda: mfac_minimize(lambda x: (0, x), np.ones(2), momentum=1), ValueError, "momentum"
    ),
    "lr": (lambda: mfac_minimize(lambda x: (0, x), np.ones(2), lr=-1), ValueError, "lr must be"),
    "function alone": (
        lambda: mfac_minimize(lambda x: x @ x, np.ones(2)), TypeError, "and its gradient; got float"
    ),
    "three": (
        lambda: mfac_minimize(lambda x: (0, x, x), np.ones(2)), TypeError, "got tuple of 3"
    ),
    "gradient first": (
        lambda: mfac_minimize(lambda x: (x, 0), np.ones(2)), TypeError, "a number; got ndarray"
    ),
    "gradient of another shape": (
        lambda: mfac_minimize(lambda x: (0, x[:1]), np.ones(2), weight_decay=0.1), ValueError,
        r"gradient of the shape of x; got \(1,\) for x0, which has \(2,\)",
    ),
    "gradient of another library": (
        lambda: mfac_minimize(lambda x: (0, _strict_ones(2)), np.ones(2)), TypeError,
        "x0 is an array of numpy, gradient of array_api_strict",
    ),
    "no gradient": (
        lambda: mfac_minimize(lambda x: (0, None), np.ones(2)), TypeError,
        "gradient must be an array; got None",
    ),
    "no leaves": (
        lambda: mfac_minimize(lambda x: (0, np.ones(5)), [np.ones(2), np.ones(3)]), TypeError,
        "gradient as a list of 2 arrays, like x; got ndarray",
    ),
    "a leaf too few": (
        lambda: mfac_minimize(lambda x: (0, x[:1]), [np.ones(2), np.ones(3)]), TypeError,
        "gradient as a list of 2 arrays, like x; got list of 1",
    ),
    "a leaf of another shape": (
        lambda: mfac_minimize(lambda x: (0, x[::-1]), [np.ones(2), np.ones(3)]), ValueError,
        r"got \(3,\) for x0\[0\], which has \(2,\)",
    ),
    "x0": (lambda: mfac_minimize(lambda x: (0, x), np.ones((2, 2))), ValueError, "x0 must have"),
    "empty": (
        lambda: mfac_minimize(lambda x: (0, x), [np.ones(2), np.ones((0, 3))]), ValueError,
        r"x0\[1\] must not be empty; got shape \(0, 3\)",
    ),
    "x0 that is not finite": (
        lambda: mfac_minimize(lambda x: (0, x), [np.ones(2), np.array([1, 2, np.nan])]), ValueError,
        r"x0\[1\] is not finite at 2",
    ),
    "a function that is not finite": (
        lambda: mfac_minimize(lambda x: (np.nan if x[0] < 1 else 0, x), np.ones(2)), ValueError,
        "must return a finite function; got nan in step 2",
    ),
    "progress": (
        lambda: mfac_minimize(lambda x: (0, x), np.ones(2), progress="no"), TypeError,
        "progress must be True or False; got 'no'",
    ),
}  # fmt: skip


def _strict_ones(count):
    import array_api_strict

    return array_api_strict.ones(count)


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()


class TestMinimize:
    def test_start_from_a_list_of_numbers(self):
        options = {"lr": 0.5, "n_gradients": 2, "damping": 1.0, "maxiter": 3}
        found = [mfac_minimize(lambda x: (x @ x, 2 * x), x0, **options).x
                 for x0 in ([1.0, -2.0], np.array([1.0, -2.0]))]  # fmt: skip
        np.testing.assert_array_equal(*found)

    def test_trajectory(self):
        target = np.random.default_rng(0).standard_normal((20, 6))
        answers = target @ np.arange(6.0)

        def loss(x):
            rows = slice(loss.calls % 4 * 5, loss.calls % 4 * 5 + 5)
            loss.calls += 1
            misfit = target[rows] @ x - answers[rows]
            return misfit @ misfit / 2, target[rows].T @ misfit

        options = {"lr": 0.1, "n_gradients": 3, "damping": 0.1, "momentum": 0.9}
        options |= {"weight_decay": 0.01, "maxiter": 25}
        loss.calls, seen = 0, []
        found = mfac_minimize(loss, np.ones(6), **options, callback=lambda r: seen.append(r.x))
        loss.calls = 0
        x, fun, trace = descent(loss, np.ones(6), **options)
        np.testing.assert_allclose(seen, trace, rtol=1e-9)
        np.testing.assert_allclose(found.x, x, rtol=1e-9)
        assert (found.nit, found.status, found.success) == (25, 0, True)
        assert found.fun == pytest.approx(fun)

    def test_leaves_and_a_callback_that_stops(self):
        def bowl(x):
            return sum((leaf**2).sum() for leaf in x), [2 * leaf for leaf in x]

        def stop(result):
            if result.nit == 3:
                raise StopIteration

        start = [np.ones((2, 2), np.float32), np.ones(3, np.float32)]
        found = mfac_minimize(bowl, start, lr=0.01, n_gradients=2, damping=0.1, callback=stop)
        assert (found.nit, found.status, found.success) == (3, 1, False)
        assert [leaf.shape for leaf in found.x] == [(2, 2), (3,)]
        assert all(leaf.dtype == np.float32 for leaf in found.x)
        assert (start[0] == 1).all()

    def test_tensors_that_require_a_gradient(self, require):
        torch = require("torch")
        leaves = []

        def bowl(x):
            leaves.append(x)
            (x**2).sum().backward()
            return (x**2).sum().detach(), x.grad

        options = {"lr": 0.1, "n_gradients": 2, "damping": 0.1, "maxiter": 4}
        options |= {"momentum": 0.5, "weight_decay": 0.1}
        start = torch.ones(3, dtype=torch.float64, requires_grad=True)
        found = mfac_minimize(bowl, start, **options)
        assert all(x.is_leaf and x.requires_grad for x in leaves)
        assert start.grad is None
        expected = mfac_minimize(lambda x: (0, 2 * x), np.ones(3), **options).x
        np.testing.assert_allclose(found.x.detach().numpy(), expected, rtol=1e-12)

    def test_a_gradient_that_is_not_finite(self):
        with pytest.raises(ValueError, match="g is not finite at 0"):
            mfac_minimize(lambda x: (0.0, x * np.inf), np.ones(2), maxiter=3)
