"""Torch tensors through the fast engines: gradients, transforms, compilation, memory."""

import importlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import linalgkit
from linalgkit import monarch

torch = pytest.importorskip("torch")
from linalgkit import _torch  # noqa: E402

CALL, PULL = torch.ops.linalgkit.call.default, torch.ops.linalgkit.pull.default
KEY = "linalgkit.monarch.monarch_matmul"


def operands(dtype=torch.float64, batch=(5,), requires_grad=True):
    torch.manual_seed(0)
    shapes = (*batch, 6), (2, 2, 6), (3, 4, 2)
    return tuple(torch.randn(s, dtype=dtype).requires_grad_(requires_grad) for s in shapes)


def loss(x, left, right, axis=-1):
    return monarch.monarch_matmul(x, left, right, axis=axis).sin().sum()


def by_reference(function, *arguments, **options):
    with linalgkit.use_engine("array_api"):
        return function(*arguments, **options)


def assert_same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.fixture
def fast_calls(monkeypatch):
    """The functions that fast engines were asked for."""
    calls = []
    run = _torch._run

    def noted(room, function, arrays, options):
        calls.append(function)
        return run(room, function, arrays, options)

    monkeypatch.setattr(_torch, "_run", noted)
    return calls


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradcheck_and_gradgradcheck(dtype, fast_calls):
    arrays = operands(dtype)
    assert torch.autograd.gradcheck(monarch.monarch_matmul, arrays)
    assert torch.autograd.gradgradcheck(monarch.monarch_matmul, arrays)
    assert {"monarch_matmul", "monarch_matmul_vjp"} <= set(fast_calls)


@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 2)])
def test_only_needed_gradients_are_computed(which, fast_calls, monkeypatch):
    arrays = [a.detach().requires_grad_(k in which) for k, a in enumerate(operands())]
    wanted = []
    pull = _torch._pull_eagerly
    monkeypatch.setattr(_torch, "_pull_eagerly", lambda *a: wanted.append(a[4]) or pull(*a))
    gradients = torch.autograd.grad(loss(*arrays), [arrays[k] for k in which])
    assert wanted == [which]
    for k, gradient in zip(which, gradients, strict=True):
        expected = by_reference(lambda k=k: torch.autograd.grad(loss(*arrays), arrays[k])[0])
        assert_same(gradient, expected)


def test_function_transforms(fast_calls):
    arrays = tuple(a.detach() for a in operands())
    transforms = {
        "grad": torch.func.grad(loss, (0, 1, 2)),
        "vmap of grad": lambda x, *f: torch.func.vmap(
            torch.func.grad(loss, (0, 1, 2)), (0, None, None)
        )(x, *f),
        "jacrev": torch.func.jacrev(monarch.monarch_matmul, (0, 1, 2)),
        "second derivatives": torch.func.jacrev(torch.func.jacrev(loss, (0, 1)), (1, 2)),
        "grad of vmap": torch.func.grad(
            lambda x, *f: torch.func.vmap(loss, (0, None, None))(x, *f).sum(), (0, 1)
        ),
    }
    for name, transform in transforms.items():
        fast_calls.clear()
        assert_same(transform(*arrays), by_reference(transform, *arrays))
        assert "monarch_matmul" in fast_calls, name


@pytest.mark.parametrize(
    "axes", [(0, None, None), (1, None, None), (None, 0, None), (None, None, 1), (0, 1, 2)]
)
def test_vmap_over_any_argument_is_one_call(axes, fast_calls):
    x, left, right = (a.detach() for a in operands())
    arrays = [
        a if axis is None else torch.stack([a, 2 * a, -a], dim=axis)
        for a, axis in zip((x, left, right), axes, strict=True)
    ]
    mapped = torch.func.vmap(monarch.monarch_matmul, axes)
    result = mapped(*arrays)
    assert fast_calls == ["monarch_matmul"]
    for k in range(3):
        alone = [
            a if axis is None else a.select(axis, k) for a, axis in zip(arrays, axes, strict=True)
        ]
        assert_same(result[k], by_reference(monarch.monarch_matmul, *alone))


def test_nested_vmap_over_factors_and_vectors():
    x, left, right = (a.detach() for a in operands())
    lefts, vectors = torch.stack([left, 2 * left]), torch.stack([x, -x, 3 * x])
    inner = torch.func.vmap(monarch.monarch_matmul, (0, None, None))
    both = torch.func.vmap(lambda factor: inner(vectors, factor, right))(lefts)
    for i in range(2):
        for k in range(3):
            expected = by_reference(monarch.monarch_matmul, vectors[k], lefts[i], right)
            assert_same(both[i, k], expected)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled(backend, fast_calls):
    if backend == "inductor":
        pytest.importorskip("torch._inductor")
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    arrays = operands()
    for _ in "cold", "warm":
        result = compiled(*arrays)
        assert_same(result, by_reference(loss, *arrays))
        gradients = torch.autograd.grad(result, arrays)
        assert_same(gradients, by_reference(lambda: torch.autograd.grad(loss(*arrays), arrays)))
    with torch.no_grad():
        assert_same(compiled(*arrays), by_reference(loss, *arrays))
    assert_same(compiled(arrays[0].T, *arrays[1:], axis=0), by_reference(loss, *arrays))
    assert {"monarch_matmul", "monarch_matmul_vjp"} <= set(fast_calls)
    half = [a.detach().half() for a in arrays]  # which the CPU engine does not serve
    assert compiled(*half).dtype == torch.float16


def test_compiled_with_one_tensor_in_two_places(fast_calls):
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    x, factor = (
        torch.randn(s, dtype=torch.float64, requires_grad=True) for s in [(5, 4), (2,) * 3]
    )
    gradients = torch.autograd.grad(compiled(x, factor, factor), (x, factor))
    assert {"monarch_matmul", "monarch_matmul_vjp"} <= set(fast_calls)
    expected = by_reference(lambda: torch.autograd.grad(loss(x, factor, factor), (x, factor)))
    assert_same(gradients, expected)


@pytest.mark.parametrize("name", ["grad", "vmap", "vmap of grad", "jacrev", "jvp", "hessian"])
def test_compiled_transforms_go_by_the_reference(name):
    each = (0, None, None)
    transform = {
        "grad": torch.func.grad(loss, (0, 1, 2)),
        "vmap": torch.func.vmap(loss, each),
        "vmap of grad": torch.func.vmap(torch.func.grad(loss, (0, 1, 2)), each),
        "jacrev": torch.func.jacrev(monarch.monarch_matmul, 1),
        "jvp": lambda x, *f: torch.func.jvp(lambda x: loss(x, *f), (x,), (x,)),
        "hessian": torch.func.hessian(loss, 1),
    }[name]
    arrays = tuple(a.detach() for a in operands())
    expected = by_reference(transform, *arrays)
    torch._dynamo.reset()
    compiled = torch.compile(transform, fullgraph=True, backend="aot_eager")
    assert_same(compiled(*arrays), expected)


def test_compiled_before_anything_else(python):
    # The room is loaded before torch, and its first tensor is met in compiled code.
    code = """
from linalgkit import monarch
import torch
arrays = torch.ones(3, 6, requires_grad=True), torch.ones(2, 2, 6), torch.ones(3, 4, 2)
run = torch.compile(monarch.monarch_matmul, fullgraph=True, backend="aot_eager")
result = run(*arrays)
result.sum().backward()
print(result[0, 0].item(), arrays[0].grad[0, 0].item())
"""
    assert python(code, timeout=110).split() == ["12.0", "8.0"]


def test_bare_operators():
    x, left, right = (a.detach() for a in operands())
    options = "{'axis':-1}"
    g = torch.ones(5, 4, dtype=torch.float64)
    torch.library.opcheck(CALL, (KEY, [x, left, right], options))
    torch.library.opcheck(PULL, (KEY, [g], [x, left, right], options, [0, 2]))


def test_forward_mode_is_refused():
    x, left, right = (a.detach() for a in operands())
    for transform in (torch.func.jacfwd, torch.func.hessian):
        with pytest.raises(
            NotImplementedError, match=r"monarch_matmul .*use_engine\('array_api'\)"
        ):
            transform(loss)(x, left, right)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(lambda x: monarch.monarch_matmul(x, left, right), (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        with pytest.raises(NotImplementedError, match="jvp"):
            monarch.monarch_matmul(dual, left, right)
        result = by_reference(monarch.monarch_matmul, dual, left, right)
        tangent = torch.autograd.forward_ad.unpack_dual(result).tangent
        assert_same(tangent, monarch.monarch_matmul(x, left, right))


def bare_call(*arrays):
    call = torch.ops.linalgkit.call.default
    return call("linalgkit.monarch.monarch_matmul", list(arrays), "{'axis':-1}")[0]


def bare_pull(x, left, right):
    pull = torch.ops.linalgkit.pull.default
    cotangent = torch.ones(*x.shape[:-1], left.shape[0] * left.shape[1], dtype=x.dtype)
    arguments = [cotangent], [x, left, right], "{'axis':-1}", [1]
    return pull("linalgkit.monarch.monarch_matmul", *arguments)[0]


@pytest.mark.parametrize("name", ["compiled", "call", "pull"])
def test_no_tangent_is_lost_below_the_functions(name):
    compiled = torch.compile(monarch.monarch_matmul, backend="aot_eager", fullgraph=True)
    function = {"compiled": compiled, "call": bare_call, "pull": bare_pull}[name]
    x, left, right = (a.detach() for a in operands())
    expected = function(x, left, right)  # compiled for plain tensors: dual ones run the same code
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        with pytest.raises(NotImplementedError, match=r"forward mode .*use_engine"):
            function(dual, left, right)
        assert torch.equal(function(x, left, right), expected)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_tensors_of_every_kind_of_memory(requires_grad, fast_calls):
    x, left, right = operands(torch.complex128)
    cases = {
        "transposed": (x.T.contiguous().T, left, right),
        "expanded": (x[:1].expand(4, 6), left, right),
        "conjugated": (x.conj(), left.conj(), right),
        "negative imaginary parts": (x.conj().imag, left.real, right.real),
        "every other": (x[::2], left, right.flip(-1)),
        "empty": (x[:0], left, right),
        "parameter": (torch.nn.Parameter(x.detach()), left, right),
    }
    for name, arrays in cases.items():
        if not requires_grad:
            arrays = tuple(a.detach() for a in arrays)
        fast_calls.clear()
        result = monarch.monarch_matmul(*arrays)
        assert fast_calls == ["monarch_matmul"], name
        assert result.requires_grad == requires_grad
        assert_same(result.detach(), by_reference(monarch.monarch_matmul, *arrays).detach())


def test_memory_is_shared_and_inputs_are_not_written_to(fast_calls, monkeypatch):
    x, left, right = (a.detach() for a in operands(batch=(100,)))
    seen = []
    convert = _torch._as_numpy
    monkeypatch.setattr(_torch, "_as_numpy", lambda t: seen.append(convert(t)) or seen[-1])
    kept = [a.clone() for a in (x, left, right)]
    monarch.monarch_matmul(x, left, right)
    for tensor, array, before in zip((x, left, right), seen, kept, strict=True):
        assert array.ctypes.data == tensor.data_ptr()
        assert torch.equal(tensor, before)


def test_changing_an_input_before_backward_is_torchs_error():
    x, left, right = operands()
    result = loss(x, left, right)
    with torch.no_grad():
        right.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtypes_that_the_engine_lacks_go_to_the_reference(dtype, fast_calls):
    arrays = [a.detach().to(dtype).requires_grad_() for a in operands()]
    result = monarch.monarch_matmul(*arrays)
    result.sum().backward()
    assert result.dtype == arrays[0].grad.dtype == dtype
    assert fast_calls == []


def test_mixed_dtypes_keep_their_gradients_dtypes():
    x, left, right = operands()
    narrow = x.detach().float().requires_grad_()
    loss(narrow, left.to(torch.complex128), right).abs().backward()
    assert narrow.grad.dtype == torch.float32
    assert left.grad.dtype == torch.float64


def test_wishes(fast_calls):
    arrays = operands(requires_grad=False)
    with linalgkit.use_engine("numba"):
        monarch.monarch_matmul(*arrays)
    assert fast_calls == ["monarch_matmul"]
    with linalgkit.use_engine("array_api"):
        monarch.monarch_matmul(*arrays)
    assert fast_calls == ["monarch_matmul"]
    with (
        linalgkit.use_engine("cupy"),
        pytest.raises(linalgkit.EngineError, match=r"'cupy' cannot serve torch \(cpu\) arrays"),
    ):
        monarch.monarch_matmul(*arrays)


def test_gradients_by_the_public_function_are_fast_and_differentiable(fast_calls):
    arrays = operands()
    g = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    gradients = monarch.monarch_matmul_vjp(g, *arrays, wrt=["x", "right"])
    assert gradients.left is None
    assert fast_calls == ["monarch_matmul_vjp"]
    assert_same(gradients.x, by_reference(monarch.monarch_matmul_vjp, g, *arrays).x)

    def pulled(*parts):
        return monarch.monarch_matmul_vjp(*parts)[:2]

    assert torch.autograd.gradcheck(pulled, (g, *arrays))


def test_backward_in_another_thread_uses_what_forward_used(fast_calls):
    arrays = operands()
    result = loss(*arrays)
    failures = []

    def run():
        with linalgkit.use_engine("array_api"):
            try:
                result.backward()
            except Exception as error:
                failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failures
    assert fast_calls == ["monarch_matmul", "monarch_matmul_vjp"]


def test_modes_without_gradients(fast_calls):
    arrays = operands()
    for mode in (torch.no_grad, torch.inference_mode):
        fast_calls.clear()
        with mode():
            result = monarch.monarch_matmul(*arrays)
        assert fast_calls == ["monarch_matmul"]
        assert not result.requires_grad
        assert result.is_inference() == (mode is torch.inference_mode)


def test_dispatch_modes_see_the_operator():
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    arrays = operands()
    with Watch():
        result = loss(*arrays)
        result.backward()
    assert CALL in seen
    assert PULL in seen


def test_fake_tensors():
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        result = monarch.monarch_matmul(*operands())
    assert result.shape == (5, 4)
    meta = [a.detach().to("meta") for a in operands()]
    assert monarch.monarch_matmul(*meta).shape == (5, 4)


def test_compiled_for_any_number_of_vectors(fast_calls):
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (5, 7, 3):
        arrays = operands(batch=(count,))
        fast_calls.clear()
        gradients = torch.autograd.grad(compiled(*arrays), arrays)
        assert {"monarch_matmul", "monarch_matmul_vjp"} <= set(fast_calls)
        assert_same(gradients, by_reference(lambda a=arrays: torch.autograd.grad(loss(*a), a)))


def test_memory_order_of_the_vectors_is_kept():
    x, left, right = operands()
    result = monarch.monarch_matmul(x.T.contiguous().T, left, right)  # nothing is transposed
    assert result.T.is_contiguous()
    assert monarch.monarch_matmul(x, left, right).is_contiguous()


def test_many_threads_at_once():
    arrays = operands(batch=(50,))
    expected = by_reference(lambda: torch.autograd.grad(loss(*arrays), arrays))
    with ThreadPoolExecutor(8) as pool:
        futures = [
            pool.submit(lambda: torch.autograd.grad(loss(*arrays), arrays)) for _ in range(40)
        ]
        for future in futures:
            assert_same(future.result(), expected)


def test_torch_half_imported_in_another_thread(python):
    # NumPy calls ask nothing of a module that is still on its way.
    code = """
import sys, types
import numpy as np
from linalgkit import monarch
sys.modules["torch"] = types.ModuleType("torch")
one = np.ones((1, 1, 1))
print(*monarch.monarch_matmul(np.ones(1), one, one))
"""
    assert python(code).split() == ["1.0"]


def test_two_libraries_are_refused():
    x, left, right = operands()
    with pytest.raises(TypeError, match="x is an array of torch, left of numpy"):
        monarch.monarch_matmul(x, left.detach().numpy(), right)


@pytest.mark.gpu
def test_cuda_tensors_by_dlpack_on_torchs_stream(require, fast_calls):
    require("cupy")
    arrays = [a.detach().cuda().requires_grad_() for a in operands()]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        gradients = torch.autograd.grad(loss(*arrays), arrays)
    stream.synchronize()
    assert {"monarch_matmul", "monarch_matmul_vjp"} <= set(fast_calls)
    expected = by_reference(lambda: torch.autograd.grad(loss(*arrays), arrays))
    torch.testing.assert_close(gradients, expected, rtol=1e-10, atol=1e-10)
    assert all(g.is_cuda for g in gradients)


# Functions of more arrays and results than monarch's: optional ones, tuples of cotangents.


def test_optional_arrays_and_several_results(toy_room):
    a, b = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in "ab")
    for optional in (None, torch.randn(3, dtype=torch.float64, requires_grad=True)):
        some = [a, b] if optional is None else [a, b, optional]

        def call(a, b, c=None):
            return toy_room.toy(a, b, c=c, power=2)

        expected = (a * b + (0 if optional is None else optional), a**2)
        assert_same(call(*some), expected)
        assert torch.autograd.gradcheck(call, some)
        assert torch.autograd.gradgradcheck(call, some)
        gradients = torch.autograd.grad(call(*some)[1].sum(), some, allow_unused=True)
        assert_same(gradients[0], 2 * a)
        vmapped = torch.func.vmap(call, (0, *[None] * (len(some) - 1)))
        mapped = vmapped(torch.stack([a, 3 * a]), *some[1:])
        assert_same(mapped[0][1], 3 * a * b + (0 if optional is None else optional))
        torch._dynamo.reset()
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        assert_same(compiled(*some), expected)


def test_public_gradients_of_several_results(toy_room):
    a, b, c, g = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in "abcg")

    def pulled(g, a, b, c):
        return toy_room.toy_vjp((g, None), a, b, c, power=3)

    assert_same(pulled(g, a, b, c), (g * b, g * a, g))
    assert torch.autograd.gradcheck(pulled, (g, a, b, c))
    gradients = toy_room.toy_vjp((None, g), a, b, None, power=3, wrt=("a",))
    assert gradients[1:] == (None, None)
    assert_same(gradients[0], 3 * g * a**2)


def test_real_arguments_among_complex_ones(toy_room):
    a = torch.randn(3, dtype=torch.complex128, requires_grad=True)
    b = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def call(a, b):
        return toy_room.toy(a, b, power=1)[0]

    assert torch.autograd.gradcheck(call, (a, b))
    assert torch.autograd.gradgradcheck(call, (a, b))
    vjp = toy_room.toy_vjp((a, None), a, b, None, power=1)
    assert [g.dtype for g in vjp[:2]] == [torch.complex128, torch.float64]


@pytest.mark.parametrize("power", [2, 2.5, True, float("inf"), -float("inf")])
def test_static_options(toy_room, power):
    a = torch.full((3,), 0.5, dtype=torch.float64, requires_grad=True)
    options = {"power": power, "name": 'it\'s "x"\n', "sizes": ((), (1, ("a", None)))}
    torch._dynamo.reset()
    compiled = torch.compile(toy_room.toy, fullgraph=True, backend="aot_eager")
    for call in (toy_room.toy, compiled):
        assert_same(call(a, a, **options)[1], a**power)
        assert toy_room.seen() == options


def test_static_option_from_a_dynamic_shape(toy_room):
    torch._dynamo.reset()

    def call(a):
        return toy_room.toy(a, a, power=a.shape[0])[1]

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (3, 4):
        a = torch.randn(count, dtype=torch.float64, requires_grad=True)
        assert_same(compiled(a), a**count)


def test_vmap_over_nothing_and_over_what_has_no_batch_axes(toy_room, fast_calls):
    a, b = torch.randn(4, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    mapped = torch.func.vmap(lambda a, b: toy_room.toy(a, b, power=2), (0, None))
    assert_same(mapped(a, b), (a * b, a**2))
    assert len(fast_calls) == 4  # nothing is said of its batch axes
    assert [y.shape for y in mapped(a[:0], b)] == [(0, 3), (0, 3)]


@pytest.mark.parametrize("requires_grad", [False, True])
def test_results_of_any_memory(toy_room, requires_grad):
    a = torch.arange(3.0, dtype=torch.float64, requires_grad=requires_grad)
    total, spread, turned = toy_room.views(a)
    assert total.shape == ()
    assert total.item() == 3
    assert_same(turned, torch.tensor([2.0, 1, 0], dtype=torch.float64))
    assert_same(spread, torch.full((2, 3), 3.0, dtype=torch.float64))
    with torch.no_grad():
        spread.mul_(2)[0].add_(1)  # owns its memory
    assert_same(spread[:, 0].detach(), torch.tensor([7.0, 6], dtype=torch.float64))
    if requires_grad:
        (total + spread.sum() + turned[0]).backward()
        assert_same(a.grad, torch.tensor([7.0, 7, 8], dtype=torch.float64))


@pytest.fixture
def toy_room(tmp_path, monkeypatch):
    """A room of its own: a b + c and a to a power; a sum and views of it."""
    files = {
        "__init__.py": """
from linalgkit._engine import Engines
engine = Engines(__name__)
@engine.traced(vjp="toy_vjp")
def toy(a, b, /, *, c=None, power, **options):
    return engine(a, b, c).toy(a, b, c, power=power, **options)
@engine.traced()
def toy_vjp(cotangents, a, b, c, /, *, power, wrt=("a", "b", "c")):
    return engine(a, b, c).toy_vjp(cotangents, a, b, c, power=power, wrt=wrt)
@engine.traced(vjp="views_vjp")
def views(a):
    return engine(a).views(a)
def seen():
    from . import _numba
    return _numba.seen
""",
        "_array_api.py": """
from array_api_compat import array_namespace
seen = {}
def toy(a, b, c, *, power, **options):
    seen.update(options, power=power)
    return a * b + (0 if c is None else c), a**power
def toy_vjp(cotangents, a, b, c, *, power, wrt, **options):
    conj = array_namespace(a).conj
    of_a, of_b, (first, second) = 0 * a, None, cotangents
    if first is not None:
        of_a = of_a + first * conj(b)
        of_b = first * conj(a)
    if second is not None:
        of_a = of_a + second * conj(power * a ** (power - 1))
    return of_a if "a" in wrt else None, of_b, None if c is None else first
def views(a):
    xp = array_namespace(a)
    return xp.sum(a), xp.broadcast_to(xp.sum(a), (2, *a.shape)), xp.flip(a)
def views_vjp(cotangents, a, *, wrt):
    xp = array_namespace(a)
    total, spread, turned = cotangents
    return xp.zeros_like(a) + total + xp.sum(spread) + xp.flip(turned),
""",
    }
    files["_numba.py"] = files["_array_api.py"]
    folder = tmp_path / "toy_room_for_torch"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    for cached in (
        _torch._is_served,
        _torch._origin,
        _torch._engine,
        _torch._reference,
        _torch._names,
    ):
        cached.cache_clear()
    yield importlib.import_module(folder.name)
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]
