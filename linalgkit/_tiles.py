"""Register tiles for compiled kernels: small products and transposes in vector registers.

A *panel row* is two vectors of the machine: `lanes` numbers side by side, or for complex numbers
one vector of real parts and one of imaginary parts. A panel is rows of it, `ROW` bytes apart. All
is by address, with strides in bytes. Written once: a cached kernel does not notice when something
it calls in another file changes.
"""

from typing import Any

from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numba.np.arrayobj import make_array, populate_array


def _is_wide() -> bool:
    """Tell whether kernels are compiled for vectors of 64 bytes: what Numba was told, or has."""
    settings: Any = config
    if settings.CPU_FEATURES is not None:
        return "+avx512f" in settings.CPU_FEATURES
    return settings.CPU_NAME is None and binding.get_host_cpu_features().get("avx512f", False)


VECTOR = 64 if _is_wide() else 32  # bytes
ROW = 2 * VECTOR
# Rows of the tallest tile: its sums fill the registers but for one row and two broadcasts.
TALL = 12 if VECTOR == 64 else 6


def _parts(context, like):
    """Return the type of a real number, its bytes, how many make a number, and of a vector."""
    is_complex = isinstance(like.dtype, types.Complex)
    real = context.get_data_type(like.dtype.underlying_float if is_complex else like.dtype)
    size = context.get_abi_sizeof(real)
    return real, size, 2 if is_complex else 1, ir.VectorType(real, VECTOR // size)


class Emitter:
    """Writes loads, stores and products at addresses."""

    def __init__(self, context, builder, like):
        self.builder = builder
        self.real, self.size, self.parts, self.vector = _parts(context, like)
        self.intp = context.get_value_type(types.intp)
        name = f"llvm.fmuladd.v{self.vector.count}f{8 * self.size}"
        self._fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(self.vector, [self.vector] * 3), name
        )

    def at(self, address, offset):
        if isinstance(offset, int):
            offset = self.intp(offset)
        return self.builder.add(address, offset)

    def load(self, address, kind=None):
        pointer = self.builder.inttoptr(address, (kind or self.vector).as_pointer())
        return self.builder.load(pointer, align=self.size)

    def store(self, value, address):
        pointer = self.builder.inttoptr(address, value.type.as_pointer())
        self.builder.store(value, pointer, align=self.size)

    def broadcast(self, address):
        return self.spread(self.load(address, self.real))

    def spread(self, number):
        undefined = ir.Constant(self.vector, ir.Undefined)
        one = self.builder.insert_element(undefined, number, ir.IntType(32)(0))
        return self.shuffle(one, undefined, [0] * self.vector.count)

    def shuffle(self, first, second, lanes):
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
        return self.builder.shuffle_vector(first, second, mask)

    def fma(self, x, y, z):
        return self.builder.call(self._fma, [x, y, z])

    def negative(self, x):
        return self.builder.fneg(x)

    def dot(self, x, y):
        """Sum the products of the numbers of two pairs of vectors, in any order."""
        products = self.fma(x[0], y[0], self.builder.fmul(x[1], y[1]))
        name = f"llvm.vector.reduce.fadd.v{self.vector.count}f{8 * self.size}"
        kind = ir.FunctionType(self.real, [self.real, self.vector])
        add = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(add, [ir.Constant(self.real, 0), products], fastmath=("reassoc",))


def _emit_tile(emit, rows, a, a_row, a_step, a_imag, b, b_step, c, c_row, depth, accumulate):
    """Write the tile of some rows: C[i] = Σ_step A[i, step] B[step], or added to C."""
    builder = emit.builder
    row_of = [builder.mul(c_row, emit.intp(i)) for i in range(rows)]
    zero = ir.Constant(emit.vector, None)
    sums = [[cgutils.alloca_once(builder, emit.vector) for _ in "01"] for _ in range(rows)]
    with builder.if_else(builder.icmp_signed("!=", accumulate, emit.intp(0))) as branches:
        for branch, is_added in zip(branches, (True, False), strict=True):
            with branch:
                for i, pair in enumerate(sums):
                    for half, place in enumerate(pair):
                        old = emit.at(emit.at(c, row_of[i]), VECTOR * half)
                        builder.store(emit.load(old) if is_added else zero, place)
    with cgutils.for_range(builder, depth) as loop:
        left = emit.at(a, builder.mul(loop.index, a_step))
        right = emit.at(b, builder.mul(loop.index, b_step))
        first, second = emit.load(right), emit.load(emit.at(right, VECTOR))
        for i, (low, high) in enumerate(sums):
            number = emit.at(left, builder.mul(a_row, emit.intp(i)))
            real = emit.broadcast(number)
            x = emit.fma(real, first, builder.load(low))
            y = emit.fma(real, second, builder.load(high))
            if emit.parts == 2:
                imaginary = emit.broadcast(emit.at(number, a_imag))
                x = emit.fma(emit.negative(imaginary), second, x)
                y = emit.fma(imaginary, first, y)
            builder.store(x, low)
            builder.store(y, high)
    for i, pair in enumerate(sums):
        for half, place in enumerate(pair):
            target = emit.at(emit.at(c, row_of[i]), VECTOR * half)
            emit.store(builder.load(place), target)


def _tile(rows):
    """Make the tile of some rows."""

    @intrinsic
    def tile(typingctx, like, a, a_row, a_step, a_imag, b, b_step, c, c_row, depth, accumulate):
        def codegen(context, builder, signature, args):
            _emit_tile(Emitter(context, builder, signature.args[0]), rows, *args[1:])
            return context.get_dummy_value()

        return types.void(like, *(types.intp,) * 10), codegen

    return tile


tile_tall = _tile(TALL)
tile_4 = _tile(4)
tile_2 = _tile(2)
tile_1 = _tile(1)


def _by_rows_function(context, module, like, known):
    """Return the function of `by_rows` in a module: written once there, and never inlined.

    `known` has the arguments that are constants, None for others: strides that are known save
    registers, of which the tall tile has none to spare.
    """
    _, size, parts, _ = _parts(context, like)
    word = context.get_value_type(types.intp)
    name = f"linalgkit.by_rows.{'c' if parts == 2 else 'f'}{8 * size}.{known}"
    function = cgutils.get_or_insert_function(
        module, ir.FunctionType(ir.VoidType(), [word] * 11), name
    )
    if not function.is_declaration:
        return function
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    function.attributes.add("optsize")
    builder = ir.IRBuilder(function.append_basic_block())
    emit = Emitter(context, builder, like)
    a, a_row, a_step, a_imag, b, b_step, c, c_row, rows, depth, adds = (
        argument if number is None else word(number)
        for argument, number in zip(function.args, known, strict=True)
    )
    i, a_at, c_at = (cgutils.alloca_once_value(builder, x) for x in (word(0), a, c))
    for height in (TALL, 4, 2, 1):
        test = function.append_basic_block()
        body, after = function.append_basic_block(), function.append_basic_block()
        builder.branch(test)
        builder.position_at_end(test)
        end = builder.add(builder.load(i), word(height))
        builder.cbranch(builder.icmp_signed("<=", end, rows), body, after)
        builder.position_at_end(body)
        place_a, place_c = builder.load(a_at), builder.load(c_at)
        _emit_tile(
            emit, height, place_a, a_row, a_step, a_imag, b, b_step, place_c, c_row, depth, adds
        )
        builder.store(end, i)
        builder.store(builder.add(place_a, builder.mul(a_row, word(height))), a_at)
        builder.store(builder.add(place_c, builder.mul(c_row, word(height))), c_at)
        builder.branch(test)
        builder.position_at_end(after)
    builder.ret_void()
    return function


@intrinsic
def by_rows(typingctx, like, a, a_row, a_step, a_imag, b, b_step, c, c_row, rows, depth, adds):
    """Multiply `rows` rows by a panel of `depth` rows: C = A B, or with `adds` C += A B."""

    def codegen(context, builder, signature, args):
        known = tuple(x.constant if isinstance(x, ir.Constant) else None for x in args[1:])
        function = _by_rows_function(context, builder.module, signature.args[0], known)
        builder.call(function, args[1:])
        return context.get_dummy_value()

    return types.void(like, *(types.intp,) * 11), codegen


@intrinsic
def to_panel(typingctx, like, source, target):
    """Copy as many numbers side by side as a panel row has; complex ones part from each other."""

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, signature.args[0])
        _, source, target = args
        first, second = emit.load(source), emit.load(emit.at(source, VECTOR))
        if emit.parts == 2:
            count = 2 * emit.vector.count
            evens, odds = list(range(0, count, 2)), list(range(1, count, 2))
            first, second = (emit.shuffle(first, second, lanes) for lanes in (evens, odds))
        emit.store(first, target)
        emit.store(second, emit.at(target, VECTOR))
        return context.get_dummy_value()

    return types.void(like, types.intp, types.intp), codegen


@intrinsic
def from_panel(typingctx, like, source, target):
    """Undo `to_panel`."""

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, signature.args[0])
        _, source, target = args
        first, second = emit.load(source), emit.load(emit.at(source, VECTOR))
        if emit.parts == 2:
            count = emit.vector.count
            pairs = [lane for k in range(count) for lane in (k, count + k)]
            first, second = (
                emit.shuffle(first, second, lanes) for lanes in (pairs[:count], pairs[count:])
            )
        emit.store(first, target)
        emit.store(second, emit.at(target, VECTOR))
        return context.get_dummy_value()

    return types.void(like, types.intp, types.intp), codegen


@intrinsic
def copy_row(typingctx, like, source, target):
    """Copy a panel row."""

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, signature.args[0])
        _, source, target = args
        first, second = emit.load(source), emit.load(emit.at(source, VECTOR))
        emit.store(first, target)
        emit.store(second, emit.at(target, VECTOR))
        return context.get_dummy_value()

    return types.void(like, types.intp, types.intp), codegen


@intrinsic
def zero_row(typingctx, like, target):
    """Fill a panel row with zeros."""

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, signature.args[0])
        zero = ir.Constant(emit.vector, None)
        emit.store(zero, args[1])
        emit.store(zero, emit.at(args[1], VECTOR))
        return context.get_dummy_value()

    return types.void(like, types.intp), codegen


def _row_by_row(context, builder, like, rows, write):
    """Call ``write(emit, i, offset)`` in a loop over rows, for each vector of a panel row."""
    emit = Emitter(context, builder, like)
    with cgutils.for_range(builder, rows) as loop:
        for offset in (0, VECTOR):
            write(emit, loop.index, offset)


def _at_row(emit, address, stride, i, offset):
    return emit.at(emit.at(address, emit.builder.mul(stride, i)), offset)


@intrinsic
def zero_rows(typingctx, like, target, target_row, rows):
    """Fill panel rows with zeros."""

    def codegen(context, builder, signature, args):
        _, target, target_row, rows = args

        def write(emit, i, offset):
            zero = ir.Constant(emit.vector, None)
            emit.store(zero, _at_row(emit, target, target_row, i, offset))

        _row_by_row(context, builder, signature.args[0], rows, write)
        return context.get_dummy_value()

    return types.void(like, *(types.intp,) * 3), codegen


@intrinsic
def copy_rows(typingctx, like, source, source_row, target, target_row, rows):
    """Copy panel rows."""

    def codegen(context, builder, signature, args):
        _, source, source_row, target, target_row, rows = args

        def write(emit, i, offset):
            values = emit.load(_at_row(emit, source, source_row, i, offset))
            emit.store(values, _at_row(emit, target, target_row, i, offset))

        _row_by_row(context, builder, signature.args[0], rows, write)
        return context.get_dummy_value()

    return types.void(like, *(types.intp,) * 5), codegen


@intrinsic
def scale_rows(typingctx, like, factor, source, source_row, target, target_row, rows):
    """Write a real number times each of the panel rows."""

    def codegen(context, builder, signature, args):
        _, factor, source, source_row, target, target_row, rows = args

        def write(emit, i, offset):
            values = emit.load(_at_row(emit, source, source_row, i, offset))
            product = builder.fmul(emit.spread(factor), values)
            emit.store(product, _at_row(emit, target, target_row, i, offset))

        _row_by_row(context, builder, signature.args[0], rows, write)
        return context.get_dummy_value()

    return types.void(like, like.dtype, *(types.intp,) * 5), codegen


@intrinsic
def weigh_rows(typingctx, like, factors, source, source_row, target, target_row, rows):
    """Write each of the panel rows times a real number of its own; `factors` are side by side."""

    def codegen(context, builder, signature, args):
        _, factors, source, source_row, target, target_row, rows = args

        def write(emit, i, offset):
            factor = emit.broadcast(emit.at(factors, builder.mul(i, emit.intp(emit.size))))
            values = emit.load(_at_row(emit, source, source_row, i, offset))
            product = builder.fmul(factor, values)
            emit.store(product, _at_row(emit, target, target_row, i, offset))

        _row_by_row(context, builder, signature.args[0], rows, write)
        return context.get_dummy_value()

    return types.void(like, *(types.intp,) * 6), codegen


@intrinsic
def add_dots(typingctx, like, x, y, totals, rows):
    """Add to totals, side by side, the sums of products of two panels' rows of real numbers."""

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, signature.args[0])
        _, x, y, totals, rows = args
        with cgutils.for_range(builder, rows) as loop:
            place = emit.at(totals, builder.mul(loop.index, emit.intp(emit.size)))
            pairs = (
                [emit.load(_at_row(emit, z, emit.intp(ROW), loop.index, k)) for k in (0, VECTOR)]
                for z in (x, y)
            )
            emit.store(builder.fadd(emit.load(place, emit.real), emit.dot(*pairs)), place)
        return context.get_dummy_value()

    return types.void(like, *(types.intp,) * 4), codegen


@intrinsic
def fetch_rows(typingctx, like, address, stride, rows):
    """Ask for the cache lines where rows begin, to be read soon."""

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, signature.args[0])
        _, address, stride, rows = args
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte, word, word, word]),
            "llvm.prefetch.p0i8",
        )
        with cgutils.for_range(builder, rows) as loop:
            place = builder.inttoptr(_at_row(emit, address, stride, loop.index, 0), byte)
            builder.call(function, [place, word(0), word(3), word(1)])  # read, high locality, data
        return context.get_dummy_value()

    return types.void(like, *(types.intp,) * 3), codegen


@intrinsic
def put_number(typingctx, like, number, address):
    """Write a real number to an address."""

    def codegen(context, builder, signature, args):
        Emitter(context, builder, signature.args[0]).store(args[1], args[2])
        return context.get_dummy_value()

    return types.void(like, like.dtype, types.intp), codegen


@intrinsic
def one_to_panel(typingctx, like, source, target):
    """Copy one number to a lane of a panel row."""

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, signature.args[0])
        _, source, target = args
        for part in range(emit.parts):
            number = emit.load(emit.at(source, emit.size * part), emit.real)
            emit.store(number, emit.at(target, VECTOR * part))
        return context.get_dummy_value()

    return types.void(like, types.intp, types.intp), codegen


@intrinsic
def one_from_panel(typingctx, like, source, target):
    """Undo `one_to_panel`."""

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, signature.args[0])
        _, source, target = args
        for part in range(emit.parts):
            number = emit.load(emit.at(source, VECTOR * part), emit.real)
            emit.store(number, emit.at(target, emit.size * part))
        return context.get_dummy_value()

    return types.void(like, types.intp, types.intp), codegen


@intrinsic
def transpose_square(typingctx, like, source, source_row, target, target_row):
    """Transpose the square of as many rows as one vector has numbers (complex ones as pairs)."""

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, signature.args[0])
        _, source, source_row, target, target_row = args
        count = emit.vector.count
        side = count // emit.parts
        rows = [
            emit.load(emit.at(source, builder.mul(source_row, emit.intp(i)))) for i in range(side)
        ]
        distance = side // 2
        while distance:  # swap the two blocks off the diagonal, then within each block
            lanes = distance * emit.parts
            keep = [lane if not lane & lanes else count + lane - lanes for lane in range(count)]
            take = [lane + lanes if not lane & lanes else count + lane for lane in range(count)]
            for i in range(side):
                if not i & distance:
                    upper, lower = rows[i], rows[i + distance]
                    rows[i] = emit.shuffle(upper, lower, keep)
                    rows[i + distance] = emit.shuffle(upper, lower, take)
            distance //= 2
        for i, row in enumerate(rows):
            emit.store(row, emit.at(target, builder.mul(target_row, emit.intp(i))))
        return context.get_dummy_value()

    return types.void(like, *(types.intp,) * 4), codegen


@intrinsic
def part_of(typingctx, buffer, shift, rows, columns):
    """View a part of a buffer as rows; the view does not keep the buffer alive.

    Slicing and reshaping compile to ten times as much: they count references and can fail.
    """
    view = types.Array(buffer.dtype, 2, "C")

    def codegen(context, builder, signature, args):
        buffer, shift, rows, columns = args
        whole = make_array(signature.args[0])(context, builder, buffer)
        result = make_array(view)(context, builder)
        size = context.get_constant(types.intp, context.get_abi_sizeof(whole.data.type.pointee))
        populate_array(
            result,
            data=builder.gep(whole.data, [shift]),
            shape=cgutils.pack_array(builder, [rows, columns]),
            strides=cgutils.pack_array(builder, [builder.mul(columns, size), size]),
            itemsize=size,
            meminfo=None,
        )
        return result._getvalue()

    return view(buffer, types.intp, types.intp, types.intp), codegen


def lanes_of(like):
    """Count the numbers of a panel row, for arrays of this dtype."""
    return ROW // like.itemsize


@overload(lanes_of)
def _lanes_of(like):
    lanes = ROW // (like.dtype.bitwidth // 8)
    return lambda like: lanes


def plane_of(like):
    """Return the bytes between neighbouring lanes of a panel row: of a real number."""
    return like.real.itemsize


@overload(plane_of)
def _plane_of(like):
    parts = 2 if isinstance(like.dtype, types.Complex) else 1
    plane = like.dtype.bitwidth // 8 // parts
    return lambda like: plane


def aligned(buffer):
    """Return the first address in a buffer of bytes that a machine vector may be at."""
    return -(-buffer.ctypes.data // VECTOR) * VECTOR


@overload(aligned)
def _aligned(buffer):
    return lambda buffer: -(-buffer.ctypes.data // VECTOR) * VECTOR
