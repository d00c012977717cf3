"""Every row of the capability table: function × engine × library × {call, gradient, jit, vmap}.

Rooms list their cases in tests/<room>/cases.py.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import linalgkit
from linalgkit import _engine, _xp
from linalgkit._capabilities import LIBRARIES
from linalgkit._testing import (
    Case,
    assert_close,
    autograd,
    central_gradient,
    flat,
    library,
    public,
    rebuilt,
)


def _cases():
    for path in sorted(Path(__file__).parent.glob("*/cases.py")):
        spec = importlib.util.spec_from_file_location(f"cases_{path.parent.name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield from module.CASES


CASES = {case.function: case for case in _cases()}
ROWS = {f"{row.room}.{row.function}": row for row in linalgkit.capabilities()}
DTYPES = ("float32", "float64")


def _library_params(names=LIBRARIES):
    return [pytest.param(name, marks=[pytest.mark.gpu] if name == "cupy" else []) for name in names]


def _get(name, require):
    if name != "numpy":
        require(name)
    return library(name)


def _arguments(case: Case, used, dtype):
    """The same arguments twice: in the library's arrays and in NumPy's."""
    ours, options = case.make(used, dtype, np.random.default_rng(0))
    truth, _ = case.make(library("numpy"), dtype, np.random.default_rng(0))
    return ours, truth, options


def test_every_public_function_has_a_case():
    assert set(CASES) == set(ROWS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", _library_params())
@pytest.mark.parametrize("function", sorted(ROWS))
def test_call(function, name, dtype, require):
    used, case, row = _get(name, require), CASES[function], ROWS[function]
    ours, truth, options = _arguments(case, used, dtype)
    if name not in row.libraries:
        with pytest.raises(TypeError):
            public(function)(*ours, **options)
        return
    result = case.seen(public(function)(*ours, **options))
    assert_close(result, case.oracle(*truth, **options), case.tolerance[dtype], used)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("function", "engine"),
    [(f, e) for f, row in sorted(ROWS.items()) for e in row.engines if e in ("array_api", "numba")],
)
def test_engine_wished_for(function, engine, dtype):
    used, case = library("numpy"), CASES[function]
    ours, truth, options = _arguments(case, used, dtype)
    with linalgkit.use_engine(engine):
        result = case.seen(public(function)(*ours, **options))
    assert_close(result, case.oracle(*truth, **options), case.tolerance[dtype], used)


# JAX's arrays cannot be changed by anybody.
@pytest.mark.parametrize("name", [n for n in LIBRARIES if n not in ("cupy", "jax")])
@pytest.mark.parametrize("function", sorted(ROWS))
def test_arguments_are_not_changed(function, name, require):
    used, case, row = _get(name, require), CASES[function], ROWS[function]
    if name not in row.libraries:
        return
    ours, _, options = _arguments(case, used, "float64")
    arrays = [array for array in flat(ours) if isinstance(array, used.array_type)]
    before = [used.asnumpy(array).copy() for array in arrays]
    public(function)(*ours, **options)
    for array, kept in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(used.asnumpy(array), kept)


@pytest.mark.parametrize("function", [f for f, row in sorted(ROWS.items()) if row.kind == "eager"])
def test_eager_function_refuses_jit(function, require):
    require("jax")
    import jax

    case, row, used = CASES[function], ROWS[function], library("jax")
    if "jax" in row.exceptions:
        return
    ours, options = case.make(used, "float64", np.random.default_rng(0))

    def call(*arrays):
        return flat(case.seen(public(function)(*rebuilt(ours, iter(arrays), used), **options)))

    with pytest.raises(TypeError, match="under jit or vmap"):
        jax.jit(call)(*(array for array in flat(ours) if isinstance(array, used.array_type)))


# Traced functions, and of the ground floor those that they are made of.


def _unit_lower(used, dtype, rng):
    return (
        used.asarray(rng.standard_normal((5, 5)).astype(dtype)),
        used.asarray(rng.standard_normal((5, 2)).astype(dtype)),
    ), {}


def _solve_dense(lower, right):
    return np.linalg.solve(np.tril(lower, -1) + np.eye(lower.shape[-1]), right)


GROUND_FLOOR = {"_xp.solve_unit_lower": Case("_xp.solve_unit_lower", _unit_lower, _solve_dense, {})}
TRACED = {f: CASES[f] for f, row in ROWS.items() if row.kind == "traced"} | GROUND_FLOOR


def _traced(function):
    if function in GROUND_FLOOR:
        return getattr(_xp, function.removeprefix("_xp."))
    return public(function)


def _sum_of_squares(result):
    return sum((array * array.conj()).real.sum() for array in flat(result))


def _has_arrays(function):
    arguments, _ = TRACED[function].make(library("numpy"), "float64", np.random.default_rng(0))
    arrays = flat(arguments)
    return any(isinstance(array, np.ndarray) for array in arrays)


def _call_on_arrays(call, function, name):
    """The function of its arrays alone, those in sequences too; and the arrays of a library."""
    used = library(name)
    arguments, options = TRACED[function].make(used, "float64", np.random.default_rng(0))

    def called(*arrays):
        return call(*_refilled(arguments, iter(arrays)), **options)

    return called, [part for part in flat(arguments) if hasattr(part, "shape")]


def _refilled(value, arrays):
    if isinstance(value, tuple | list):
        return tuple(_refilled(part, arrays) for part in value)
    return next(arrays) if hasattr(value, "shape") else value


# Some make arrays from numbers alone.
DIFFERENTIABLE = sorted(filter(_has_arrays, TRACED))
# Those whose gradients torch takes through the fast engines.
FAST = sorted(name for name, row in ROWS.items() if row.vjp)


@pytest.mark.parametrize("name", ["torch", "jax"])
@pytest.mark.parametrize("function", DIFFERENTIABLE)
def test_gradient(function, name, require):
    require(name)
    call, arrays = _call_on_arrays(_traced(function), function, "numpy")

    def loss(*parts):
        return _sum_of_squares(call(*parts))

    expected = central_gradient(loss, [np.array(array) for array in arrays])
    for got, wanted in zip(autograd(name, loss, list(arrays)), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", DIFFERENTIABLE)
def test_jit_and_vmap(function, require):
    require("jax")
    import jax

    used = library("jax")
    call, arrays = _call_on_arrays(_traced(function), function, "jax")
    plain = [used.asnumpy(array) for array in flat(call(*arrays))]
    jitted = flat(jax.jit(call)(*arrays))
    twice = [jax.numpy.stack([array, array]) for array in arrays]
    mapped = flat(jax.vmap(call)(*twice))
    for alone, traced, batch in zip(plain, jitted, mapped, strict=True):
        np.testing.assert_allclose(used.asnumpy(traced), alone, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(used.asnumpy(batch[1]), alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", DIFFERENTIABLE)
def test_torch_vmap(function, require):
    require("torch")
    import torch

    call, arrays = _call_on_arrays(_traced(function), function, "torch")
    plain = flat(call(*arrays))
    twice = [torch.stack([array, array]) for array in arrays]
    mapped = flat(torch.func.vmap(call)(*twice))
    for alone, batch in zip(plain, mapped, strict=True):
        torch.testing.assert_close(batch[1], alone)


@pytest.mark.parametrize("function", FAST)
def test_torch_through_the_fast_engine(function, require, monkeypatch):
    require("torch")
    import torch

    from linalgkit import _torch

    ran, run = [], _torch._run
    monkeypatch.setattr(_torch, "_run", lambda *a: ran.append(a[1]) or run(*a))
    row = ROWS[function]
    call, arrays = _call_on_arrays(public(function), function, "torch")
    arrays = [array.requires_grad_() for array in arrays]

    def loss(*parts):
        return _sum_of_squares(call(*parts))

    assert torch.autograd.gradgradcheck(loss, arrays)
    assert set(ran) == {row.function, row.vjp}
    with linalgkit.use_engine("array_api"):
        expected = torch.autograd.grad(loss(*arrays), arrays)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for _ in "cold", "warm":
        torch.testing.assert_close(torch.autograd.grad(compiled(*arrays), arrays), expected)


@pytest.mark.parametrize("function", FAST)
def test_jax_hessian_and_forward_mode(function, require):
    require("jax")
    import jax

    call, arrays = _call_on_arrays(public(function), function, "jax")
    places = tuple(range(len(arrays)))

    def loss(*parts):
        return _sum_of_squares(call(*parts))

    # Compiled as a whole: operation by operation, JAX compiles each of them.
    forward, backward = (jax.jit(f(loss, places)) for f in (jax.jacfwd, jax.grad))
    for one, other in zip(forward(*arrays), backward(*arrays), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)
    hessian = jax.jit(jax.hessian(loss))(*arrays)
    step = 1e-5 * jax.numpy.ones_like(arrays[0])
    above, below = (backward(arrays[0] + s * step, *arrays[1:])[0] for s in (1, -1))
    image = jax.numpy.tensordot(hessian, step, arrays[0].ndim)
    np.testing.assert_allclose(image, (above - below) / 2, rtol=1e-5, atol=1e-9)


def test_kinds_of_the_table_are_what_the_decorators_recorded():
    for name, row in ROWS.items():
        public(name)  # its module is loaded, its decorators have run
        room = f"linalgkit.{row.room}"
        kind = _engine.registry[room, row.function]
        assert (kind.name, kind.vjp) == (row.kind, row.vjp)
