"""Kernels that read the gradients once: dots of all rows with a vector, combinations of rows.

Sums are in float64; eight numbers of a row are widened together, and reads of G bound. Numbers in
half precision have few bits: the upper word of the float64 is shifted out of their float32, or out
of bfloat16's bits, which leaves the float64 over `SCALE`² and the even numbers of eight before the
odd ones. Vectors are arranged and scaled alike. A range of columns is taken in equal pieces, whose
vector stays in the cache. Vectors are of that range and in float64, so that kernels are compiled
for the gradients' dtype alone.
"""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .._intrinsics import OUTER, squared, widen
from .._tiles import fetch_rows

LANES = 8
_ROWS = 8  # that are read together, for one read of the vector
SCALE = 2.0**448  # squared, what numbers in half precision lack: float32's exponents are lower
_AHEAD = 1024  # bytes of a row that are asked for before they are read: pages begin new streams
_FAST = {"reassoc", "contract", "nsz"}  # NaN and Inf stay what they are

_DOUBLE, _WORD = ir.DoubleType(), ir.IntType(64)
_WIDE, _LANE = ir.VectorType(_DOUBLE, LANES), ir.VectorType(ir.IntType(32), LANES)


def _load(builder, address, kind, align):
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def _at(builder, address, index, size):
    return builder.add(address, builder.mul(index, _WORD(size)))


def _fetch(builder, address):
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    place = builder.inttoptr(address, byte)
    builder.call(function, [place, word(0), word(3), word(1)])  # read, high locality, data


def _all(kind, number):
    """Return a constant vector."""
    return ir.Constant(kind, [number] * kind.count)


def _widened(builder, kind, size, address):
    """Load eight numbers as float64; in half precision over `SCALE`², even ones first."""
    _fetch(builder, builder.add(address, _WORD(_AHEAD)))
    if not kind:
        given = ir.VectorType(_DOUBLE if size == 8 else ir.FloatType(), LANES)
        found = _load(builder, address, given, size)
        return found if size == 8 else builder.fpext(found, _WIDE)
    if kind == 1:
        halves = _load(builder, address, ir.VectorType(ir.HalfType(), LANES), 2)
        narrow = builder.fpext(halves, ir.VectorType(ir.FloatType(), LANES))
        upper = builder.ashr(builder.bitcast(narrow, _LANE), _all(_LANE, 3))
    else:
        bits = _load(builder, address, ir.VectorType(ir.IntType(16), LANES), 2)
        upper = builder.shl(builder.sext(bits, _LANE), _all(_LANE, 13))
    upper = builder.and_(upper, _all(_LANE, 0x8FFFFFFF))
    pairs = ir.VectorType(_WORD, LANES // 2)
    upper = builder.bitcast(upper, pairs)
    even = builder.shl(upper, _all(pairs, 32))
    odd = builder.and_(upper, _all(pairs, 0xFFFFFFFF00000000))
    together = builder.shuffle_vector(even, odd, ir.Constant(_LANE, list(range(LANES))))
    return builder.bitcast(together, _WIDE)


def _fma(builder, x, y, z):
    name = f"llvm.fmuladd.v{x.type.count}f64"
    kind = ir.FunctionType(x.type, [x.type] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, [x, y, z])


def _part(builder, x, first, count):
    lanes = ir.VectorType(ir.IntType(32), count)
    return builder.shuffle_vector(x, x, ir.Constant(lanes, list(range(first, first + count))))


def _rows(builder, first, across, left):
    """Return for each of `_ROWS` rows whether it is left, its number and address, or the last's."""
    for i in range(_ROWS):
        is_left = builder.icmp_signed("<", _WORD(i), left)
        number = builder.select(is_left, _WORD(i), builder.sub(left, _WORD(1)))
        yield is_left, number, builder.add(first, builder.mul(across, number))


@intrinsic
def _dots_of_rows(typingctx, kind, g, first, across, left, vector, groups, sums):
    """Add the dots of the first rows that are left, by address, with groups of a vector to sums."""

    def codegen(context, builder, signature, args):
        _, _, first, across, left, vector, groups, sums = args
        width, size, half = (
            len(signature.args[0]),
            signature.args[1].dtype.bitwidth // 8,
            LANES // 2,
        )
        narrow = ir.VectorType(_DOUBLE, half)  # a sum of both halves: registers are few
        rows = list(_rows(builder, first, across, left))
        found = [cgutils.alloca_once(builder, narrow) for _ in rows]
        for place in found:
            builder.store(ir.Constant(narrow, None), place)
        with cgutils.for_range(builder, groups) as loop:
            v = _load(builder, _at(builder, vector, loop.index, 8 * LANES), _WIDE, 8)
            for (_, _, start), place in zip(rows, found, strict=True):
                numbers = _widened(
                    builder, width, size, _at(builder, start, loop.index, size * LANES)
                )
                total = builder.load(place)
                for begin in (0, half):
                    pair = (_part(builder, x, begin, half) for x in (numbers, v))
                    total = _fma(builder, *pair, total)
                builder.store(total, place)
        kind = ir.FunctionType(_DOUBLE, [_DOUBLE, narrow])
        name = f"llvm.vector.reduce.fadd.v{half}f64"
        add = cgutils.get_or_insert_function(builder.module, kind, name)
        for (is_left, number, _), place in zip(rows, found, strict=True):
            with builder.if_then(is_left):
                target = builder.inttoptr(_at(builder, sums, number, 8), _DOUBLE.as_pointer())
                pair = builder.load(target), builder.load(place)
                builder.store(builder.call(add, pair, fastmath=("reassoc",)), target)
        return context.get_dummy_value()

    return types.void(kind, g, *(types.intp,) * 6), codegen


@intrinsic
def _combine_rows(typingctx, kind, g, first, across, left, factors, groups, vector):
    """Add the first rows that are left, by address, times factors to groups of a vector."""

    def codegen(context, builder, signature, args):
        _, _, first, across, left, factors, groups, vector = args
        width, size = len(signature.args[0]), signature.args[1].dtype.bitwidth // 8
        undefined, zeros = ir.Constant(_WIDE, ir.Undefined), _all(_LANE, 0)
        rows = []
        for is_left, number, start in _rows(builder, first, across, left):
            factor = _load(builder, _at(builder, factors, number, 8), _DOUBLE, 8)
            factor = builder.select(is_left, factor, _DOUBLE(0))
            one = builder.insert_element(undefined, factor, ir.IntType(32)(0))
            rows.append((builder.shuffle_vector(one, one, zeros), start))
        with cgutils.for_range(builder, groups) as loop:
            place = _at(builder, vector, loop.index, 8 * LANES)
            total = _load(builder, place, _WIDE, 8)
            for factor, start in rows:
                numbers = _widened(
                    builder, width, size, _at(builder, start, loop.index, size * LANES)
                )
                total = _fma(builder, factor, numbers, total)
            builder.store(total, builder.inttoptr(place, _WIDE.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(kind, g, *(types.intp,) * 6), codegen


@njit(nogil=True, cache=True, fastmath=_FAST, **OUTER)
def add_dots(start, stop, kind, g, vector, step, scale, sums):
    """Add G x / scale over a range of columns to sums, for scale x there as `arrange` has it."""
    m, count, across = g.shape[0], stop - start, g.strides[0]
    whole = count // LANES * LANES
    for begin in range(0, whole, step):
        groups = min(whole - begin, step) // LANES
        first = g.ctypes.data + (start + begin) * g.itemsize
        place = vector.ctypes.data + 8 * begin
        for i in range(0, m, _ROWS):
            _dots_of_rows(
                kind, g, first + i * across, across, m - i, place, groups, sums.ctypes.data + 8 * i
            )
    for i in range(m):
        for k in range(whole, count):
            sums[i] += widen(kind, g[i, start + k]) / scale * (vector[k] / scale)


@njit(nogil=True, cache=True, fastmath=_FAST, **OUTER)
def add_combination(start, stop, kind, g, factors, result, step, scale):
    """Add a range of Gᵀ a / scale to its result as `arrange` has it, for factors scale a."""
    m, count, across = g.shape[0], stop - start, g.strides[0]
    whole = count // LANES * LANES
    for begin in range(0, whole, step):
        groups = min(whole - begin, step) // LANES
        first = g.ctypes.data + (start + begin) * g.itemsize
        place = result.ctypes.data + 8 * begin
        for i in range(0, m, _ROWS):
            at = factors.ctypes.data + 8 * i
            _combine_rows(kind, g, first + i * across, across, m - i, at, groups, place)
    for i in range(m):
        for k in range(whole, count):
            result[k] += factors[i] / scale * (widen(kind, g[i, start + k]) / scale)


@njit(nogil=True, cache=True, **OUTER)
def arrange(vector):
    """Put the even ones of eight numbers first."""
    for k in range(0, vector.size - LANES + 1, LANES):
        v = vector[k : k + LANES]
        v[1], v[2], v[3], v[4], v[5], v[6] = v[2], v[4], v[6], v[1], v[3], v[5]


@njit(nogil=True, cache=True, **OUTER)
def put_back(vector):
    """Undo `arrange`."""
    for k in range(0, vector.size - LANES + 1, LANES):
        v = vector[k : k + LANES]
        v[1], v[2], v[3], v[4], v[5], v[6] = v[4], v[1], v[5], v[2], v[6], v[3]


@njit(nogil=True, cache=True, fastmath=_FAST, **OUTER)
def add_squared_lengths(start, stop, kind, g, sums):
    """Add the rows' squared lengths over a range of columns to sums."""
    for i in range(g.shape[0]):
        row, total = g[i, start:stop], 0.0
        for k in range(row.size):
            total += squared(kind, widen(kind, row[k]))
        sums[i] += total


@njit(nogil=True, cache=True, **OUTER)
def widened(start, stop, kind, g, result):
    """Copy some columns of G to `result` (m, stop - start), in its dtype."""
    lines = -(-(stop - start) * g.itemsize // 64)
    for i in range(g.shape[0]):
        ahead = g.ctypes.data + (i + 2) * g.strides[0] + start * g.itemsize
        fetch_rows(result, ahead, 64, lines)  # they are too short for the processor to foresee
        row = g[i, start:stop]
        for k in range(stop - start):
            result[i, k] = widen(kind, row[k])
