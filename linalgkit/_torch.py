"""Torch tensors through the fast engines, gradients included: one adapter for all rooms.

A traced function that names its vjp is called on CPU tensors by the Numba engine, on CUDA tensors
by the CuPy engine, on the tensors' own memory. Two operators, `call` and `pull`, run any function
of any room, told by name; two autograd Functions stand around them. Second derivatives, and the
shapes and dtypes that ``torch.compile`` asks for, come from the reference engine.
"""

import ast
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from inspect import Parameter, signature
from operator import index
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad

from ._checks import as_dtype_of
from ._engine import ON_DEVICE, Engine, EngineError, Engines, Kind, methods, registry

_ARRAYS = 8  # of a function, at most; Functions in compiled code take a fixed number
_COTANGENTS = 4
_NO_FORWARD_MODE = (
    "{} has no forward mode (jvp, jacfwd, hessian) on the fast engines; inside "
    "`with linalgkit.use_engine('array_api')` it has."
)

_library = torch.library.Library("linalgkit", "DEF")
_library.define("call(str function, Tensor?[] arrays, str options) -> Tensor[]")
_library.define(
    "pull(str function, Tensor?[] cotangents, Tensor?[] arrays, str options, int[] wrt) -> Tensor[]"
)


def dispatch(room: str, function: str, *arrays: Any, **options: Any) -> Any:
    """Call an engine function on tensors: by a fast engine where one serves, by the reference."""
    kinds = tuple([(a.device.type, a.dtype) for a in _flat(arrays) if a is not None])
    if torch.compiler.is_compiling():
        is_fast, origin = _constant_plan(room, function, kinds, len(arrays))
        if not is_fast:
            reference = sys.modules[room + "._array_api"]
            return getattr(reference, function)(*arrays, **options)
    else:
        is_fast = _is_served(room, function, kinds, len(arrays))
        if _is_method(room, function):  # through the operators goes nothing but text
            is_fast = is_fast and _needs_no_operator(arrays)
        origin = _origin(room, function, len(arrays))
        if not is_fast:
            return _reference(room, function)(*arrays, **options)
        if _is_plain(arrays):
            return _run(room, function, arrays, options)
    if not origin:
        key = f"{room}.{function}"
        options = _packed(room, function, options)
        outputs = _applied(_Call, key, options, len(arrays), *_padded(arrays))
        return outputs[0] if len(outputs) == 1 else outputs
    names, wanted = origin[1:], options.pop("wrt")
    wrt = tuple([k for k, name in enumerate(names) if name in wanted and arrays[k + 1] is not None])
    cotangents = arrays[0] if isinstance(arrays[0], tuple) else (arrays[0],)
    options = _packed(room, function, options)
    found = _pulled(f"{room}.{origin[0]}", options, wrt, cotangents, arrays[1:])
    return tuple([found[wrt.index(k)] if k in wrt else None for k in range(len(arrays) - 1)])


@torch.compiler.assume_constant_result
def has_gradients(room: str, function: str) -> bool:
    """Tell whether a function is a vjp or has one; also loads the room's reference engine."""
    import_module(room + "._array_api")  # from here on it is found in sys.modules
    return _origin(room, function, 1) is not None


@cache
def _origin(room: str, function: str, count: int) -> tuple[str, ...] | None:
    """Return nothing in particular of a function with a vjp; of a vjp its function and arrays.

    `count` is how many arrays it is called with, the cotangent or the tuple of them as one.
    """
    kinds = registry | methods
    kind = kinds.get((room, function))
    if kind is not None and kind.vjp is not None:
        return ()
    pairs = [f for (r, f), k in kinds.items() if r == room and k.vjp == function]
    return (pairs[0], *_names(room, pairs[0], count - 1)) if pairs else None


@cache
def _is_method(room: str, function: str) -> bool:
    """Tell whether a function, or what it is the vjp of, stands behind a method."""
    return any(r == room and function in (f, k.vjp) for (r, f), k in methods.items())


@cache
def _is_served(
    room: str, function: str, kinds: tuple[tuple[str, torch.dtype], ...], count: int
) -> bool:
    """Tell whether a fast engine serves so many tensors, of these devices and dtypes."""
    if count - bool(_origin(room, function, count)) > _ARRAYS:  # a cotangent stands apart
        return False
    devices = {device for device, _ in kinds}
    name = ON_DEVICE.get(*devices) if len(devices) == 1 else None
    if name is None:
        return False
    try:
        engine = _engine(room, name)
    except EngineError as error:
        warnings.warn(f"{error} The slower 'array_api' serves.", RuntimeWarning, stacklevel=2)
        return False
    names = [np.dtype(character).name for character in getattr(engine.module, "DTYPES", "fdFD")]
    names += getattr(engine.module, "TORCH_DTYPES", ())
    known = {getattr(torch, name, None) for name in names}
    return hasattr(engine.module, function) and {dtype for _, dtype in kinds} <= known


@torch.compiler.assume_constant_result
def _constant_plan(room: str, function: str, kinds: Any, count: int) -> Any:
    # Compiled transforms look past autograd Functions, and an operator alone has gradient zero.
    is_plain = not torch._C._are_functorch_transforms_active() and forward_ad._current_level < 0
    is_plain = is_plain and not _is_method(room, function)
    is_fast = is_plain and _is_served(room, function, kinds, count)
    return is_fast, _origin(room, function, count)


class _Call(torch.autograd.Function):
    """A function with its gradients."""

    @staticmethod
    def forward(key, options, count, a, b, c, d, e, f, g, h):
        arrays = [a, b, c, d, e, f, g, h][:count]
        is_compiling = torch.compiler.is_compiling()
        if not is_compiling and (_holds(options) or _is_plain(arrays)):  # saves the operator's cost
            return _call_eagerly(key, arrays, options)
        return tuple(torch.ops.linalgkit.call.default(key, arrays, options))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.key, ctx.options, ctx.count, *arrays = inputs
        ctx.save_for_backward(*arrays[: ctx.count])

    @staticmethod
    def backward(ctx, *cotangents):
        needed = ctx.needs_input_grad[3 : 3 + ctx.count]
        wrt = tuple([k for k in range(ctx.count) if needed[k]])
        found = _pulled(ctx.key, ctx.options, wrt, cotangents, ctx.saved_tensors)
        gradients = [found[wrt.index(k)] if k in wrt else None for k in range(_ARRAYS)]
        return None, None, None, *gradients

    @staticmethod
    def vmap(info, in_dims, key, options, count, *arrays):
        def one(*some):
            return _Call.apply(key, options, count, *_padded(some))

        axes = in_dims[3 : 3 + count]
        return _mapped(one, info.batch_size, arrays[:count], axes, *_folding(key, 0))


class _Pull(torch.autograd.Function):
    """The gradients, with theirs."""

    @staticmethod
    def forward(key, options, wrt, cotangents, count, s, t, u, v, a, b, c, d, e, f, g, h):
        outer, inner = [s, t, u, v][:cotangents], [a, b, c, d, e, f, g, h][:count]
        is_compiling = torch.compiler.is_compiling()
        if not is_compiling and (_holds(options) or _is_plain([*outer, *inner])):
            return _pull_eagerly(key, outer, inner, options, wrt)
        return tuple(torch.ops.linalgkit.pull.default(key, outer, inner, options, list(wrt)))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.key, ctx.options, ctx.wrt, ctx.cotangents, ctx.count, *arrays = inputs
        ctx.save_for_backward(*arrays)

    @staticmethod
    def backward(ctx, *cotangents):
        saved, needed = ctx.saved_tensors, ctx.needs_input_grad[5:]
        places = [k for k in range(len(saved)) if needed[k]]

        def reference(*some):
            arrays = list(saved)
            for k, array in zip(places, some, strict=True):
                arrays[k] = array
            outer, inner = arrays[: ctx.cotangents], arrays[_COTANGENTS:][: ctx.count]
            return _reference_pull(ctx.key, outer, inner, ctx.options, ctx.wrt)

        _, pull = torch.func.vjp(reference, *(saved[k] for k in places))
        found = dict(zip(places, pull(tuple(cotangents)), strict=True))
        return None, None, None, None, None, *(found.get(k) for k in range(len(saved)))

    @staticmethod
    def vmap(info, in_dims, key, options, wrt, cotangents, count, *arrays):
        places = [*range(cotangents), *range(_COTANGENTS, _COTANGENTS + count)]

        def one(*some):
            return _pulled_all(key, options, wrt, some[:cotangents], some[cotangents:])

        axes = [in_dims[5 + k] for k in places]
        batched, ranks = _folding(key, cotangents)
        if not {k + cotangents for k in wrt} <= set(batched):
            batched = ()  # folding would add up gradients over the mapped axis
        return _mapped(one, info.batch_size, [arrays[k] for k in places], axes, batched, ranks)


def _pulled(key, options, wrt, cotangents, arrays):
    return _pulled_all(key, options, wrt, cotangents, arrays) if wrt else ()


def _pulled_all(key, options, wrt, cotangents, arrays):
    if not torch.compiler.is_compiling() and _is_plain([*cotangents, *arrays]):
        return _pull_eagerly(key, cotangents, arrays, options, wrt)
    outer = (*cotangents, *[None] * (_COTANGENTS - len(cotangents)))
    counts = len(cotangents), len(arrays)
    return _applied(_Pull, key, options, wrt, *counts, *outer, *_padded(arrays))


def _applied(function, key, *arguments):
    if torch.compiler.is_compiling():
        return function.apply(key, *_distinct(arguments))
    run = function.apply
    if not torch._C._are_functorch_transforms_active():
        # What `apply` ends in then. Before that it reads the signature of `forward`, at each call,
        # for defaults that there are none of (measured: half of all overhead).
        run = super(torch.autograd.Function, function).apply
    try:
        return run(key, *arguments)
    except NotImplementedError as error:
        raise NotImplementedError(_NO_FORWARD_MODE.format(key)) from error


def _distinct(arguments):
    """Put views where one tensor comes again: compiled code takes no tensor twice."""
    return [
        value.view_as(value)
        if isinstance(value, torch.Tensor) and any([value is other for other in arguments[:k]])  # noqa: C419
        else value
        for k, value in enumerate(arguments)
    ]


def _padded(arrays):
    return (*arrays, *[None] * (_ARRAYS - len(arrays)))


class _Held:
    """Options with an object among them, which is kept alive for the backward pass."""

    def __init__(self, options):
        self.options = options


def _packed(room, function, options):
    if torch.compiler.is_compiling():  # methods take the reference there
        return _text(options)
    return _Held(options) if _is_method(room, function) else _text(options)


def _holds(options):
    return isinstance(options, _Held)


def _text(options):
    return "{" + ",".join([f"{name!r}:{_literal(value)}" for name, value in options.items()]) + "}"


def _literal(value):
    """Write a static option as Python reads it."""
    if isinstance(value, tuple):
        return "(" + "".join([_literal(part) + "," for part in value]) + ")"
    if isinstance(value, float):
        return repr(float(value)).replace("inf", "1e999")
    if isinstance(value, int) and not isinstance(value, bool):
        return repr(index(value))  # a size in compiled code becomes a number
    return repr(value)


def _options(packed):
    return packed.options if _holds(packed) else _parsed(packed)


@cache
def _parsed(text):
    return ast.literal_eval(text)


def _mapped(function, size, arrays, axes, batched, ranks):
    """Call once with the mapped axis in front, where the function takes it; else in a loop.

    `batched` arrays have batch axes of their own. With `ranks`, which count the axes that others
    have without any, all arrays take batch axes in front.
    """
    mapped = [k for k, axis in enumerate(axes) if axis is not None]
    front = [
        array if axis is None else array.movedim(axis, 0)
        for array, axis in zip(arrays, axes, strict=True)
    ]
    others = [k for k in range(len(arrays)) if k not in batched and arrays[k] is not None]
    folds = set(mapped) <= set(batched)
    if ranks is not None:
        folds = folds and all(front[k].ndim == ranks[k] for k in others)
    if folds or ranks is not None:
        for k, array in enumerate(front):
            if array is not None and k not in mapped and (k in batched or not folds):
                front[k] = array.unsqueeze(0).expand(size, *array.shape)
        outputs = function(*front)
    elif size == 0:  # shapes from a call on nothing
        one = [a.new_zeros(a.shape[1:]) if k in mapped else a for k, a in enumerate(front)]
        outputs = tuple(y.new_empty((0, *y.shape)) for y in function(*one))
    else:
        parts = [
            function(*(array[i] if k in mapped else array for k, array in enumerate(front)))
            for i in range(size)
        ]
        outputs = tuple(map(torch.stack, zip(*parts, strict=True)))
    return outputs, (0,) * len(outputs)


def _folding(key, cotangents):
    """Return which of cotangents and arrays have batch axes, and the others' ranks without."""
    kind = _kind(key)
    batched = (*range(cotangents), *(k + cotangents for k in kind.batched))
    return batched, kind.ranks and (*[None] * cotangents, *kind.ranks)


def _call_eagerly(function, arrays, options):
    room, _, name = function.rpartition(".")
    outputs = _run(room, name, arrays, _options(options))
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _pull_eagerly(function, cotangents, arrays, options, wrt):
    room, _, name = function.rpartition(".")
    names = _names(room, name, len(arrays))
    keywords = _options(options) | {"wrt": tuple(names[k] for k in wrt)}
    first = cotangents[0] if len(cotangents) == 1 else tuple(cotangents)
    gradients = _run(room, _kind(function).vjp, (first, *arrays), keywords)
    return tuple([as_dtype_of(gradients[k], arrays[k]) for k in wrt])


def _call_of_operator(*arguments):
    return [output.contiguous() for output in _call_eagerly(*arguments)]


def _pull_of_operator(*arguments):
    return [gradient.contiguous() for gradient in _pull_eagerly(*arguments)]


def _call_shapes(function, arrays, options):
    room, _, name = function.rpartition(".")
    outputs = _reference(room, name)(*arrays, **_options(options))
    return _empty(outputs if isinstance(outputs, tuple) else [outputs])


def _pull_shapes(function, cotangents, arrays, options, wrt):
    return _empty(_reference_pull(function, cotangents, arrays, options, wrt))


def _empty(like):
    return [torch.empty(a.shape, dtype=a.dtype, device=a.device) for a in like]


def _without_tangents(operator):
    """Refuse tensors with tangents, which an operator would lose without a word.

    Code compiled by ``torch.compile`` for plain tensors runs on tensors with tangents as it is.
    """

    def checked(function, *arguments):
        if forward_ad._current_level >= 0:
            lists = [argument for argument in arguments if isinstance(argument, list)]
            tensors = [a for values in lists for a in values if isinstance(a, torch.Tensor)]
            if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
                raise NotImplementedError(_NO_FORWARD_MODE.format(function))
        with torch._C._AutoDispatchBelowAutograd():
            return operator(function, *arguments)

    return checked


for _device in ("CPU", "CUDA"):
    _library.impl("call", _call_of_operator, _device)
    _library.impl("pull", _pull_of_operator, _device)
_library.impl("call", _without_tangents(torch.ops.linalgkit.call.default), "Autograd")
_library.impl("pull", _without_tangents(torch.ops.linalgkit.pull.default), "Autograd")
torch.library.register_fake("linalgkit::call", _call_shapes, lib=_library)
torch.library.register_fake("linalgkit::pull", _pull_shapes, lib=_library)


def _reference_pull(function, cotangents, arrays, options, wrt):
    room, _, name = function.rpartition(".")
    names = _names(room, name, len(arrays))
    keywords = _options(options) | {"wrt": tuple(names[k] for k in wrt)}
    first = cotangents[0] if len(cotangents) == 1 else tuple(cotangents)
    gradients = _reference(room, _kind(function).vjp)(first, *arrays, **keywords)
    return tuple([as_dtype_of(gradients[k], arrays[k]) for k in wrt])


def _run(room: str, function: str, arrays: Sequence[Any], options: dict[str, Any]) -> Any:
    """Call a fast engine on the tensors' memory."""
    first = next(array for array in _flat(arrays) if array is not None)
    run = getattr(_engine(room, ON_DEVICE[first.device.type]), function)
    if first.device.type == "cpu":
        return _each(_as_tensor, run(*_each(_as_numpy, arrays), **options))
    import cupy

    device = first.device.index
    stream = torch.cuda.current_stream(device).cuda_stream
    # Work is queued where torch's is, so nobody waits. A `Device` keeps what was current before it:
    # threads cannot share one.
    with cupy.cuda.Device(device), _stream(device, stream):
        return _each(torch.from_dlpack, run(*_each(_as_cupy, arrays), **options))


@cache
def _stream(device: int, address: int) -> Any:
    """Return one of torch's streams as CuPy has it."""
    import cupy

    class Stream:
        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, address

    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(Stream())
    return cupy.cuda.ExternalStream(address, device)


def _as_cupy(tensor: torch.Tensor) -> Any:
    """Return a tensor's memory as an array: what ``from_dlpack`` does, in a tenth of its time."""
    import cupy

    tensor = _bare(tensor)
    if not tensor.numel():
        return cupy.from_dlpack(tensor)
    shape, size = tuple(tensor.shape), tensor.element_size()
    strides = tuple([stride * size for stride in tensor.stride()])
    last = sum([(n - 1) * stride for n, stride in zip(shape, strides, strict=True)])
    memory = cupy.cuda.UnownedMemory(tensor.data_ptr(), last + size, tensor, tensor.device.index)
    pointer = cupy.cuda.MemoryPointer(memory, 0)
    return cupy.ndarray(shape, _cupy_dtype(tensor.dtype), pointer, strides)


@cache
def _cupy_dtype(dtype: torch.dtype) -> Any:
    import cupy

    return cupy.from_dlpack(torch.empty(1, dtype=dtype, device="cuda")).dtype


def _as_numpy(tensor: torch.Tensor) -> Any:
    return tensor.numpy(force=True)


def _as_tensor(array: Any) -> torch.Tensor:
    array = np.asarray(array)  # a result without axes may be a number
    if not array.flags.writeable or min(array.strides, default=0) < 0:
        array = array.copy()
    return torch.from_numpy(array)


def _bare(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().resolve_conj().resolve_neg()


def _each(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply to every array in tuples; None stays."""
    if isinstance(value, tuple | list):
        return tuple([_each(function, part) for part in value])
    return None if value is None else function(value)


def _flat(arrays: Sequence[Any]) -> Sequence[Any]:
    """Return the arrays with a tuple of cotangents, which can only be the first, taken apart."""
    return (*arrays[0], *arrays[1:]) if isinstance(arrays[0], tuple) else arrays


def _is_plain(arrays: Sequence[Any]) -> bool:
    """Tell whether nobody watches: no autograd, transform, mode or subclass."""
    needs_gradient = torch.is_grad_enabled()
    for array in _flat(arrays):
        if array is not None:
            if type(array) is not torch.Tensor and type(array) is not torch.nn.Parameter:
                return False
            if needs_gradient and array.requires_grad:
                return False
    return (
        not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and forward_ad._current_level < 0  # a tangent would be lost
    )


def keeps_tensors() -> bool:
    """Tell whether tensors made now may be kept: they belong to no transform, mode or trace."""
    return not (
        torch.compiler.is_compiling()
        or torch.is_inference_mode_enabled()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
    )


def _needs_no_operator(arrays: Sequence[Any]) -> bool:
    """Tell whether Functions end in plain tensors: no mode, no tangents, no subclass."""
    kinds = {type(array) for array in _flat(arrays) if array is not None}
    return (
        kinds <= {torch.Tensor, torch.nn.Parameter}
        and torch._C._len_torch_dispatch_stack() == 0
        and forward_ad._current_level < 0
    )


@cache
def _engine(room: str, name: str) -> Engine:
    return Engines(room)._load(name)


@cache
def _reference(room: str, function: str) -> Callable[..., Any]:
    return getattr(import_module(room + "._array_api"), function)


@cache
def _names(room: str, function: str, count: int) -> tuple[str, ...]:
    """Names of a function's arrays, what engines take by position; of ``*a``, "a[0]"…."""
    parameters = signature(_reference(room, function)).parameters.values()
    names = [p.name for p in parameters if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    more = [p.name for p in parameters if p.kind is Parameter.VAR_POSITIONAL]
    return (*names, *(f"{name}[{k}]" for name in more for k in range(count - len(names))))


def _kind(key: str) -> Kind:
    room, _, function = key.rpartition(".")
    found = registry.get((room, function))
    return methods[room, function] if found is None else found
