"""Machine instructions that compiled kernels need and Numba does not offer.

Written once: a cached kernel does not notice when something it calls in another file changes.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numba.np.arrayobj import make_array

# Options of kernels that Python calls: nothing is compiled by which C would.
OUTER: dict[str, Any] = {"no_cfunc_wrapper": True}
# Options of kernels that only kernels call: nor by which Python would.
INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


@intrinsic
def for_size(typingctx):
    """Compile the kernel that calls this for size: its loops are not unrolled.

    For kernels whose work is done by others, of which they only take care.
    """

    def codegen(context, builder, signature, args):
        builder.function.attributes.add("optsize")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def record_of(typingctx, kind, numbers, place):
    """Return a NamedTuple of integers, which an array of int64 holds from `place` on.

    Tuples as arguments of kernels are unpacked number by number, in much code.
    """
    fields = kind.instance_class._fields
    record = types.NamedUniTuple(types.int64, len(fields), kind.instance_class)

    def codegen(context, builder, signature, args):
        _, numbers, place = args
        array = make_array(signature.args[1])(context, builder, numbers)
        first = builder.gep(array.data, [place])
        values = [builder.load(builder.gep(first, [ir.IntType(64)(k)])) for k in range(len(fields))]
        return context.make_tuple(builder, record, values)

    return record(kind, numbers, types.intp), codegen


@intrinsic
def prefetch(typingctx, array, index):
    """Ask for the cache line of ``array[index]`` (one-dimensional), to be read soon."""

    def codegen(context, builder, signature, args):
        array_type = signature.args[0]
        struct = context.make_array(array_type)(context, builder, args[0])
        pointer = cgutils.get_item_pointer(
            context, builder, array_type, struct, [args[1]], wraparound=False
        )
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte, word, word, word]),
            "llvm.prefetch.p0i8",
        )
        # read, high locality, data cache
        builder.call(function, [builder.bitcast(pointer, byte), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, index), codegen


@intrinsic
def trailing_zeros(typingctx, word):
    """Count the zero bits below the lowest one bit of a uint64 that is not 0."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.uint64(types.uint64), codegen


@intrinsic
def popcount(typingctx, word):
    """Count the one bits of a uint64."""

    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), codegen


# A semiring is told to a kernel by type, so that each is compiled for its own: by the length of
# a tuple of zeros, which costs a call 0.05 microseconds.
RINGS = {
    name: (0,) * place
    for place, name in enumerate(
        ("plus_times", "min_plus", "max_plus", "max_min", "min_max", "or_and", "plus_pair")
    )
}


def ring_add(ring, x, y):
    """Add two values of one dtype in a semiring; NaN propagates."""
    raise NotImplementedError("for compiled kernels")


def ring_multiply(ring, x, y):
    """Multiply two values of one dtype in a semiring; integers wrap, NaN propagates."""
    raise NotImplementedError("for compiled kernels")


def _least(ring, x, y):
    return x if x <= y or x != x else y


def _greatest(ring, x, y):
    return x if x >= y or x != x else y


def _sum(ring, x, y):
    return x + y


def _either(ring, x, y):
    return x | y


@overload(ring_add)
def _ring_add(ring, x, y):
    return (_sum, _least, _greatest, _greatest, _least, _either, _sum)[len(ring)]


@overload(ring_multiply)
def _ring_multiply(ring, x, y):
    dtype = x  # products of short integers are computed in 64 bits: back to their own

    def times(ring, x, y):
        return dtype(x * y)

    def plus(ring, x, y):
        return dtype(x + y)

    def both(ring, x, y):
        return x & y

    def pair(ring, x, y):
        return dtype(1)

    return (times, plus, plus, _least, _greatest, both, pair)[len(ring)]


# How numbers are stored is told to a kernel by type, too: as they are, or as bits in uint16.
STORAGE = {"": (), "float16": (0,), "bfloat16": (0, 0)}


@intrinsic
def _half(typingctx, bits):
    """Return the float32 of a float16's bits."""

    def codegen(context, builder, signature, args):
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), codegen


@intrinsic
def _bfloat(typingctx, bits):
    """Return the float32 of a bfloat16's bits."""

    def codegen(context, builder, signature, args):
        word = builder.shl(builder.zext(args[0], ir.IntType(32)), ir.IntType(32)(16))
        return builder.bitcast(word, ir.FloatType())

    return types.float32(types.uint16), codegen


def widen(kind, value):
    """Return a stored number in float32 or float64; `kind` is one of `STORAGE`."""
    raise NotImplementedError("for compiled kernels")


@overload(widen, inline="always")
def _widen(kind, value):
    if len(kind) == 0:
        return lambda kind, value: float(value)
    if len(kind) == 1:
        return lambda kind, value: float(_half(value))
    return lambda kind, value: float(_bfloat(value))


def squared(kind, value):
    """Return the square of a widened number: in float64, but of float16 it fits float32."""
    raise NotImplementedError("for compiled kernels")


@overload(squared, inline="always")
def _squared(kind, value):
    if len(kind) == 1:
        return lambda kind, value: value * value
    return lambda kind, value: np.float64(value) * np.float64(value)
