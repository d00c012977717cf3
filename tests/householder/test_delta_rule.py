"""The delta rule against its recurrence, in exact and long arithmetic, and the traps of chunks."""

import re
import tracemalloc
import warnings
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from householder.cases import random_arrays, recurrence

import linalgkit
from linalgkit import householder
from linalgkit.householder import delta_rule, delta_rule_step, delta_rule_vjp

ENGINES = ("array_api", "numba")


@pytest.fixture(params=ENGINES, autouse=True)
def engine(request):
    with linalgkit.use_engine(request.param):
        yield request.param


def rng():
    return np.random.default_rng(0)


def close(got, wanted, tolerance):
    scale = max(1.0, float(np.max(np.abs(wanted), initial=0)))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("decay", [None, "scalar", "vector"])
@pytest.mark.parametrize("reflections", [1, 3, 20])
@pytest.mark.parametrize("tokens", [0, 1, 2, 16, 53])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_is_the_recurrence(dtype, tokens, reflections, decay):
    arrays = random_arrays(
        rng(), dtype, batch=(2,), tokens=tokens, width=19, values=37, reflections=reflections,
        decay=decay,
    )  # fmt: skip
    q, k, v, beta, gate, state = arrays
    output, end = delta_rule(
        q, k, v, beta, log_decay=gate, initial_state=state, reflections=reflections,
        return_state=True,
    )  # fmt: skip
    wide = [None if x is None else x.astype(np.float64) for x in arrays]
    truth, last = recurrence(*wide, reflections=reflections)
    assert output.dtype == end.dtype == dtype
    limit = 4 * np.finfo(dtype).eps * max(1, tokens * reflections) ** 0.5
    close(output, truth, limit)
    close(end, last, limit)


@pytest.mark.parametrize(("width", "values"), [(1, 1), (5, 1), (33, 70), (128, 16)])
def test_widths(width, values):
    arrays = random_arrays(rng(), "float64", tokens=20, width=width, values=values)
    q, k, v, beta, _, state = arrays
    close(delta_rule(q, k, v, beta, initial_state=state), recurrence(*arrays)[0], 1e-14)


def test_fractions_say_the_same():
    q, k, v, beta, _, _ = random_arrays(rng(), "float64", tokens=9)
    exact = [np.vectorize(Fraction, otypes=[object])(x) for x in (q, k, v, beta)]
    state = np.full((3, 2), Fraction(0))
    wanted = []
    for t in range(9):
        write = exact[3][t] * (exact[2][t] - exact[1][t] @ state)
        state = state + np.outer(exact[1][t], write)
        wanted.append(exact[0][t] @ state)
    got = delta_rule(q, k, v, beta, scale=1)
    close(got, np.array(wanted, dtype=float), 1e-15)


@pytest.mark.parametrize("chunk", [1, 7, 16, 64, 200])
def test_equal_keys_and_full_reflections(chunk):
    # Where the series (I - A)(I + A²)(I + A⁴)… for the inverse explodes.
    key = np.zeros(8, np.float32)
    key[0] = 1
    k, beta = np.tile(key, (128, 1)), np.full(128, 2, np.float32)
    v = rng().integers(-3, 4, (128, 3)).astype(np.float32)
    got = delta_rule(k, k, v, beta, scale=1, chunk=chunk)
    signs = (-1.0) ** np.arange(128)[:, None]
    np.testing.assert_array_equal(got, signs * np.cumsum(2 * signs * v, axis=0))


@pytest.mark.parametrize("decay", ["scalar", "vector"])
@pytest.mark.parametrize("gate", [-30.0, -300.0, -np.inf])
def test_strong_gates_forget_without_nan(gate, decay):
    arrays = random_arrays(rng(), "float32", tokens=40, width=5, values=3, decay=decay)
    q, k, v, beta, gates, state = arrays
    gates[::3] = gate
    output, end = delta_rule(q, k, v, beta, log_decay=gates, initial_state=state, return_state=True)
    truth, last = recurrence(*(x.astype(np.float64) for x in arrays))
    close(output, truth, 1e-6)
    close(end, last, 1e-6)
    found = delta_rule_vjp(output, q, k, v, beta, gates, state)
    assert all(np.isfinite(gradient).all() for gradient in found)
    if gate == -np.inf:
        assert np.abs(found.log_decay[::3]).max() < 1e-5
        assert not found.initial_state.any()


def test_nan_stays_in_its_batch_item():
    q, k, v, beta, _, _ = random_arrays(rng(), "float64", batch=(3,), tokens=20)
    clean = delta_rule(q, k, v, beta)
    v = v.copy()
    v[1, 4] = np.nan
    got = delta_rule(q, k, v, beta)
    np.testing.assert_array_equal(got[[0, 2]], clean[[0, 2]])
    assert np.isnan(got[1, 4:]).all()


@pytest.mark.parametrize("decay", [None, "scalar", "vector"])
def test_a_stream_in_pieces_is_the_whole(decay, tmp_path):
    q, k, v, beta, gate, state = random_arrays(rng(), "float32", batch=(2,), tokens=50, decay=decay)
    gates = gate
    whole, end = delta_rule(q, k, v, beta, log_decay=gates, initial_state=state, return_state=True)
    parts = []
    for piece in slice(0, 13), slice(13, 14), slice(14, 50):
        gate = None if gates is None else gates[:, piece]
        output, state = delta_rule(
            q[:, piece], k[:, piece], v[:, piece], beta[:, piece], log_decay=gate,
            initial_state=state, return_state=True,
        )  # fmt: skip
        np.save(tmp_path / "state.npy", state)
        state = np.load(tmp_path / "state.npy")
        parts.append(output)
    close(np.concatenate(parts, axis=1), whole, 1e-6)
    close(state, end, 1e-6)


@pytest.mark.parametrize("decay", [None, "scalar", "vector"])
def test_steps_are_the_sequence(decay):
    q, k, v, beta, gate, state = random_arrays(rng(), "float64", batch=(2,), tokens=5, decay=decay)
    whole = delta_rule(q, k, v, beta, log_decay=gate, initial_state=state)
    for t in range(5):
        now = None if gate is None else gate[:, t]
        output, state = delta_rule_step(state, q[:, t], k[:, t], v[:, t], beta[:, t], log_decay=now)
        close(output, whole[:, t], 1e-14)


def test_orthonormal_keys_are_an_exact_memory():
    keys, _ = np.linalg.qr(rng().standard_normal((16, 16)))
    values = rng().standard_normal((16, 4))
    _, state = delta_rule(keys, keys, values, np.ones(16), return_state=True)
    close(keys @ state, values, 1e-14)


def test_beta_one_reads_back_what_was_just_written():
    _, k, v, _, _, state = random_arrays(rng(), "float64", tokens=40, width=8, values=3)
    close(delta_rule(k, k, v, np.ones(40), initial_state=state, scale=1), v, 1e-14)


def test_beta_zero_reads_the_initial_state():
    q, k, v, beta, _, state = random_arrays(rng(), "float64", tokens=20)
    got = delta_rule(q, k, v, 0 * beta, initial_state=state, scale=0.5)
    close(got, 0.5 * q @ state, 1e-15)


def test_normalize_divides_by_norms_and_keeps_zeros():
    q, k, v, beta, _, _ = random_arrays(rng(), "float64", tokens=6)
    k = k * rng().uniform(0.1, 9, (6, 1))
    k[2], q[3], k[4] = 0, 0, 1e-200 * k[4]
    unit = [x / np.maximum(np.linalg.norm(x * s, axis=-1, keepdims=True) / s, 1e-300)
            for x, s in ((q, 1.0), (k, 1e150))]  # fmt: skip
    close(delta_rule(q, k, v, beta, normalize=True), recurrence(*unit, v, beta)[0], 1e-14)


def test_half_precision_is_computed_in_single():
    arrays = random_arrays(rng(), "float16", tokens=200, width=16, values=8)
    q, k, v, beta, _, state = arrays
    output, end = delta_rule(q, k, v, beta, initial_state=state, return_state=True)
    wide = [None if x is None else x.astype(np.float64) for x in arrays]
    truth, last = recurrence(*wide)
    assert output.dtype == np.float16
    assert end.dtype == np.float32
    np.testing.assert_allclose(output, truth, rtol=6e-4, atol=2e-5)
    close(end, last, 1e-6)
    again = delta_rule(q, k, v, beta, initial_state=end)
    assert again.dtype == np.float16


def test_integers_count_as_float64_and_lists_as_arrays():
    got = delta_rule([[1], [1]], [[1], [1]], [[3], [5]], [1, 1])
    np.testing.assert_array_equal(got, [[3.0], [5.0]])


def test_chunks_and_workers_do_not_show():
    arrays = random_arrays(rng(), "float32", batch=(3,), tokens=300, width=32, values=80)
    q, k, v, beta, _, _ = arrays
    with linalgkit.use_workers(1):
        one = delta_rule(q, k, v, beta)
    with linalgkit.use_workers(3):
        np.testing.assert_array_equal(delta_rule(q, k, v, beta), one)
    close(delta_rule(q, k, v, beta, chunk=64), one, 1e-5)


def losses(weights, of_state, arrays, **options):
    """The loss of each item on the first axis."""
    q, k, v, beta, gate, state = arrays
    output, end = delta_rule(
        q, k, v, beta, log_decay=gate, initial_state=state, return_state=True, **options
    )
    axes = tuple(range(1, output.ndim))
    return np.sum(weights * output, axis=axes) + np.sum(of_state * end, axis=axes)


def central_differences(weights, of_state, arrays, place, step, **options):
    """One array's gradient; all of its entries are moved in one call, a batch item each."""
    size = arrays[place].size
    many = [None if x is None else np.repeat(x[None], 2 * size, axis=0) for x in arrays]
    moved = many[place].reshape(2, size, size)
    for way, sign in enumerate((1, -1)):
        moved[way] += sign * step * np.eye(size)
    above, below = losses(weights, of_state, many, **options).reshape(2, size)
    return ((above - below) / (2 * step)).reshape(arrays[place].shape)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("decay", [None, "scalar", "vector"])
@pytest.mark.parametrize("reflections", [1, 3])
def test_gradients_are_central_differences(reflections, decay, normalize):
    arrays = random_arrays(
        rng(), "float64", batch=(2,), tokens=7, width=3, values=2, reflections=reflections,
        decay=decay,
    )  # fmt: skip
    options = {"reflections": reflections, "chunk": 6, "normalize": normalize}
    weights, of_state = rng().standard_normal((2, 7, 2)), rng().standard_normal((2, 3, 2))
    found = delta_rule_vjp((weights, of_state), *arrays, **options)
    for place, (array, gradient) in enumerate(zip(arrays, found, strict=True)):
        if array is None:
            assert gradient is None
            continue
        wanted = central_differences(weights, of_state, arrays, place, 1e-6, **options)
        assert gradient.shape == array.shape
        np.testing.assert_allclose(gradient, wanted, rtol=0, atol=2e-8)


@pytest.mark.parametrize("decay", [None, "scalar", "vector"])
@pytest.mark.parametrize("reflections", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_of_long_sequences(dtype, reflections, decay, require):
    require("torch")
    arrays, weights, truth = long_sequences_with_gradients(reflections, decay)
    narrow = [None if x is None else x.astype(dtype) for x in arrays]
    cotangents = tuple(w.astype(dtype) for w in weights)
    found = delta_rule_vjp(cotangents, *narrow, reflections=reflections)
    for array, gradient, wanted in zip(arrays, found, truth, strict=True):
        if array is not None:
            assert gradient.dtype == dtype
            close(gradient, wanted, 3e-6 if dtype == "float32" else 1e-14)


@cache
def long_sequences_with_gradients(reflections, decay):
    """Arrays that float32 holds, in float64, cotangents, and by torch's autograd the gradients."""
    import torch

    arrays = random_arrays(
        rng(), "float64", batch=(3,), tokens=150, width=20, values=37, reflections=reflections,
        decay=decay,
    )  # fmt: skip
    arrays = [None if x is None else x.astype("float32").astype("float64") for x in arrays]
    leaves = [None if x is None else torch.tensor(x, requires_grad=True) for x in arrays]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # ten times the processor's time goes into waiting for a second one
    with linalgkit.use_engine("array_api"):
        output, end = delta_rule(
            *leaves[:4], log_decay=leaves[4], initial_state=leaves[5], reflections=reflections,
            return_state=True,
        )  # fmt: skip
    weights = [torch.from_numpy(rng().standard_normal(x.shape)) for x in (output, end)]
    given = [x for x in leaves if x is not None]
    total = (output * weights[0]).sum() + (end * weights[1]).sum()
    found = iter(torch.autograd.grad(total, given))
    truth = [None if x is None else next(found).numpy() for x in leaves]
    torch.set_num_threads(threads)
    return arrays, [w.numpy() for w in weights], truth


def test_gradients_keep_the_states_of_chunks_not_of_tokens():
    arrays = random_arrays(rng(), "float64", tokens=1024, width=64, values=64)[:4]
    delta_rule_vjp(arrays[2], *arrays)
    tracemalloc.start()
    delta_rule_vjp(arrays[2], *arrays)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1024 * 64 * 64 * 8 / 2


def test_jax_traces_as_much_for_long_sequences_as_for_short_ones(engine, require):
    if engine != "array_api":
        return
    jax, lines = require("jax"), []
    for tokens in (2 * 64 + 7, 20 * 64 + 7):
        arrays = random_arrays(rng(), "float32", tokens=tokens)[:4]
        traced = [jax.make_jaxpr(delta_rule)(*arrays)]
        traced.append(jax.make_jaxpr(delta_rule_vjp)(arrays[2], *arrays))
        lines.append([str(program).count("=") for program in traced])
    assert lines[0] == lines[1]


def test_only_what_is_wanted():
    q, k, v, beta, _, state = random_arrays(rng(), "float64")
    found = delta_rule_vjp(np.ones((7, 2)), q, k, v, beta, None, state, wrt=["v", "log_decay"])
    assert [name for name, x in found._asdict().items() if x is not None] == ["v"]
    whole = delta_rule_vjp(np.ones((7, 2)), q, k, v, beta, None, state)
    close(found.v, whole.v, 1e-15)


def test_the_cotangent_of_the_state_alone():
    q, k, v, beta, _, state = random_arrays(rng(), "float64")
    found = delta_rule_vjp((None, np.ones((3, 2))), q, k, v, beta, None, state)
    assert not found.q.any()
    product = householder.accumulate(k, beta)
    close(found.initial_state, product.T @ np.ones((3, 2)), 1e-14)


def test_check_warns_of_growth():
    k = np.full((4, 2), 3.0)
    with pytest.warns(RuntimeWarning, match="36, more than 2"):
        delta_rule(k, k, k, np.full(4, 2.0), check=True)
    with warnings.catch_warnings():  # no overflow in half precision
        warnings.simplefilter("error")
        long = np.full((1, 2), 300, np.float16)
        delta_rule(long, long, 0 * long, np.zeros(1, np.float16), check=True)
    with pytest.warns(RuntimeWarning, match="log_decay reaches 0.5"):
        delta_rule(k, k, k, np.zeros(4), log_decay=np.array([0, 0.5, -1, 0]), check=True)


def test_check_is_not_blinded_by_nan_nor_by_nothing():
    k = np.full((4, 2), 3.0)
    holed, gates = np.array([np.nan, 2, 1, 0]), np.array([0, np.nan, 0.5, -1])
    with pytest.warns(RuntimeWarning, match="36, more than 2"):
        delta_rule(k, k, k, holed, check=True)
    with pytest.warns(RuntimeWarning, match="log_decay reaches 0.5"):
        delta_rule(k, k, k, 0 * holed, log_decay=gates, check=True)
    for shape in ((0, 2), (0, 4, 2)):
        k = np.ones(shape)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            output = delta_rule(k, k, k, k[..., 0], log_decay=k, check=True)
        assert output.shape == shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"q": np.ones((6, 3))},
            "q must have shape (..., L, d_k) = (7, 3) for k of shape (7, 3); got (6, 3).",
        ),
        ({"q": np.ones((3, 7))}, "got (3, 7). Its last two axes are swapped: q.mT fits."),
        ({"v": np.ones((6, 2))}, "v must have shape (..., L, d_v) = (7, 2) for k"),
        ({"beta": np.ones(1)}, "beta must have shape (..., L) = (7,) for k"),
        (
            {"log_decay": np.ones((7, 2))},
            "log_decay must have shape (..., L) = (7,) or (..., L, d_k) = (7, 3) for k",
        ),
        ({"log_decay": np.ones((7, 1))}, "got (7, 1). Drop the last axis: log_decay[..., 0]."),
        (
            {"initial_state": np.ones((2, 3))},
            "initial_state must have shape (..., d_k, d_v) = (3, 2) for k of shape (7, 3) and v of "
            "shape (7, 2); got (2, 3). Its last two axes are swapped: initial_state.mT fits.",
        ),
        ({"reflections": 2}, "k has 7 rows, which 2 reflections a token do not divide"),
        (
            {"reflections": 7, "q": np.ones((2, 3))},
            "= (1, 3) for k of shape (7, 3) and 7 reflections a token, n; got (2, 3).",
        ),
        ({"reflections": 0}, "reflections must be at least 1"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"q": np.ones(3)}, "q must have shape (..., tokens, entries); got (3,)"),
    ],
)
def test_what_does_not_fit_is_said(change, message):
    q, k, v, beta, _, _ = random_arrays(rng(), "float64")
    arguments = {"q": q, "k": k, "v": v, "beta": beta} | change
    first = [arguments.pop(name) for name in ("q", "k", "v", "beta")]
    with pytest.raises(ValueError, match=re.escape(message)):
        delta_rule(*first, **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"state": np.ones((2, 5, 3))},
            "state must have shape (..., d_k, d_v) = (2, 3, 5) for k of shape (2, 3) and v of "
            "shape (2, 5); got (2, 5, 3). Its last two axes are swapped: state.mT fits.",
        ),
        ({"state": np.ones((3, 5))}, "and v of shape (2, 5); got (3, 5)."),
        (
            {"state": np.ones((4, 3, 5))},
            "got (4, 3, 5). Heads are a batch axis, before the tokens.",
        ),
        (
            {"q": np.ones((2, 4))},
            "q must have shape (..., d_k) = (2, 3) for k of shape (2, 3); got (2, 4).",
        ),
        ({"q": np.float64(1)}, "q must have at least one axis; got a number."),
        (
            {"v": np.ones(5)},
            "v must have shape (..., d_v) = (2, 5) for k of shape (2, 3); got (5,)",
        ),
        ({"beta": np.ones((2, 1))}, "got (2, 1). Drop the last axis: beta[..., 0]."),
        ({"beta": 1.0}, "beta must have shape (...) = (2,) for k of shape (2, 3); got ()."),
        (
            {"log_decay": np.ones((2, 2))},
            "log_decay must have shape (...) = (2,) or (..., d_k) = (2, 3) for k",
        ),
    ],
)
def test_a_step_that_does_not_fit_speaks_of_one_token(change, message):
    key, value = np.ones((2, 3)), np.ones((2, 5))
    fits = {"state": np.ones((2, 3, 5)), "q": key, "k": key, "v": value, "beta": np.ones(2)}
    arguments = fits | change
    first = [arguments.pop(name) for name in fits]
    with pytest.raises(ValueError, match=re.escape(message)):
        delta_rule_step(*first, **arguments)


@pytest.mark.parametrize(
    ("cotangent", "message"),
    [
        (np.ones((2, 7)), "cotangent must have shape (..., L, d_v) = (7, 2) for k"),
        (
            (None, np.ones((2, 3))),
            "cotangent_of_state must have shape (..., d_k, d_v) = (3, 2) for k",
        ),
    ],
)
def test_cotangents_that_do_not_fit(cotangent, message):
    q, k, v, beta, _, _ = random_arrays(rng(), "float64")
    with pytest.raises(ValueError, match=re.escape(message)):
        delta_rule_vjp(cotangent, q, k, v, beta)


def test_check_needs_values(require):
    jax = require("jax")

    def run(k):
        return delta_rule(k, k, k, jax.numpy.ones(2), check=True)

    for transformed, shape in ((jax.jit(run), (2, 3)), (jax.vmap(run), (4, 2, 3))):
        with pytest.raises(TypeError, match=r"values of k \(it compares them .*use check=False"):
            transformed(jax.numpy.ones(shape))


@pytest.mark.parametrize("name", ["q", "k", "v", "beta"])
def test_arrays_that_are_missing(name):
    named = dict(zip(("q", "k", "v", "beta"), random_arrays(rng(), "float64"), strict=False))
    with pytest.raises(TypeError, match=f"{name} must be an array; got None"):
        delta_rule(*(named | {name: None}).values())


@pytest.mark.parametrize(
    ("scale", "kind"),
    [(np.nan, ValueError), ("a", TypeError), ("0.5", TypeError), (True, TypeError)],
)
def test_scales_that_are_no_numbers(scale, kind):
    q, k, v, beta, _, _ = random_arrays(rng(), "float64")
    with pytest.raises(kind, match="scale must be"):
        delta_rule(q, k, v, beta, scale=scale)
    with pytest.raises(kind, match="scale must be"):
        delta_rule_step(None, q[0], k[0], v[0], beta[0], scale=scale)
    with pytest.raises(kind, match="scale must be"):
        delta_rule_vjp(v, q, k, v, beta, scale=scale)


# Every array of every function, with what is no array of real numbers.
NO_ARRAYS = [
    ("x", "must be an array; got builtins.str"),
    ({}, "must be an array; got builtins.dict"),
    (len, "must be an array; got builtins.builtin_function_or_method"),
    (np.array(["a"]), "must be numeric; got dtype <U1"),
    (np.array([None]), "must be numeric; got dtype object"),
    (np.array(["2020-01-01"], "M8[D]"), "must be numeric; got dtype datetime64"),
]


def test_what_is_no_array_is_told_by_name():
    q, k, v, beta, gate, state = random_arrays(rng(), "float64", decay="scalar")
    named = {"q": q, "k": k, "v": v, "beta": beta, "log_decay": gate, "initial_state": state}
    token = {"state": state} | {name: x[0] for name, x in list(named.items())[:5]}
    reflections = {"k": k, "beta": beta}

    def sequence(q, k, v, beta, **options):
        return delta_rule(q, k, v, beta, **options)

    def step(state, q, k, v, beta, log_decay):
        return delta_rule_step(state, q, k, v, beta, log_decay=log_decay)

    calls = [(sequence, named), (lambda **x: delta_rule_vjp(v, *x.values()), named), (step, token)]
    calls += [(lambda cotangent: delta_rule_vjp(cotangent, q, k, v, beta), {"cotangent": v})]
    for function in (householder.wy, householder.ut_transform, householder.accumulate):
        calls.append((lambda function=function, **x: function(*x.values()), reflections))
    for call, arguments in calls:
        for name in arguments:
            for wrong, message in NO_ARRAYS:
                with pytest.raises(TypeError, match=f"{name} {message}"):
                    call(**(arguments | {name: wrong}))


@pytest.mark.parametrize("wrong", ["x", 1.5, np.float64(2), True, None, [2]])
def test_sizes_that_are_no_integers(wrong):
    q, k, v, beta, _, _ = random_arrays(rng(), "float64")
    with pytest.raises(TypeError, match="reflections must be an integer; got"):
        delta_rule(q, k, v, beta, reflections=wrong)
    if wrong is not None:
        with pytest.raises(TypeError, match="chunk must be an integer; got"):
            delta_rule_vjp(v, q, k, v, beta, chunk=wrong)
        with pytest.raises(TypeError, match="chunk must be an integer; got"):
            householder.accumulate(k, beta, chunk=wrong)


def test_nan_strengths_give_nan_in_their_batch_item():
    arrays = random_arrays(rng(), "float32", batch=(3,), tokens=20)
    q, k, v, beta, _, _ = arrays
    clean, gradients = delta_rule(q, k, v, beta), delta_rule_vjp(v, q, k, v, beta)
    beta = beta.copy()
    beta[1, 4] = np.nan
    got, found = delta_rule(q, k, v, beta), delta_rule_vjp(v, q, k, v, beta)
    assert np.isnan(got[1, 4:]).all()
    np.testing.assert_array_equal(got[[0, 2]], clean[[0, 2]])
    for got, wanted in zip(found[:4], gradients[:4], strict=True):
        np.testing.assert_array_equal(got[[0, 2]], wanted[[0, 2]])
    assert np.isnan(found.k[1]).any()


@pytest.mark.parametrize("wrong", ["yes", None, 1, np.ones((2, 2))])
def test_options_that_are_neither_true_nor_false(wrong):
    q, k, v, beta, _, _ = random_arrays(rng(), "float64")
    for name in ("normalize", "return_state", "check"):
        with pytest.raises(TypeError, match=f"{name} must be True or False; got"):
            delta_rule(q, k, v, beta, **{name: wrong})
    with pytest.raises(TypeError, match="normalize must be True or False; got"):
        delta_rule_vjp(v, q, k, v, beta, normalize=wrong)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("place", range(6))
def test_complex_arrays_are_refused(place, dtype):
    arrays = list(random_arrays(rng(), dtype, decay="scalar"))
    arrays[place] = arrays[place] * 1j
    *four, gate, state = arrays
    with pytest.raises(TypeError, match="must be real; got dtype complex"):
        delta_rule(*four, log_decay=gate, initial_state=state)


def test_complex_cotangents_are_refused():
    q, k, v, beta, _, _ = random_arrays(rng(), "float64")
    with pytest.raises(TypeError, match="cotangent must be real"):
        delta_rule_vjp(1j * v, q, k, v, beta)


def test_many_equal_calls_compile_once(engine):
    if engine != "numba":
        return
    from linalgkit.householder import _numba_delta

    q, k, v, beta, gate, state = random_arrays(rng(), "float64", decay="scalar")
    delta_rule(q, k, v, beta)
    delta_rule(q, k, v, beta, log_decay=gate, initial_state=state)
    delta_rule(q[::-1], np.asfortranarray(k), v, beta)
    kinds = [s for s in _numba_delta.forward.signatures if "float64" in str(s[2])]
    assert len(kinds) == 1  # with decays, and without


def test_a_strength_with_an_axis_too_many_is_told_which():
    k = np.ones((3, 2))
    with pytest.raises(ValueError, match=r"Drop the last axis: beta\[\.\.\., 0\]"):
        householder.delta_rule(k, k, k, np.ones((3, 1)))


def test_a_list_of_cotangents_is_no_array():
    k = np.ones((3, 2))
    for wrong, got in (([k, np.ones((2, 2))], "a list of 2"), ((k, None, None), "a tuple of 3")):
        with pytest.raises(TypeError, match=rf"a tuple \(output, state\); got {got}"):
            householder.delta_rule_vjp(wrong, k, k, k, np.ones(3))


@pytest.mark.parametrize("function", [householder.wy, householder.ut_transform])
def test_strengths_that_are_missing(function):
    with pytest.raises(TypeError, match="beta must be an array; got None"):
        function(np.ones((3, 2)), None)
