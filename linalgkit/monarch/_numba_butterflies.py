"""Kernels of Fourier transforms of many vectors, on panels of vectors side by side.

A step of radix r combines r panel rows by a transform written out in vector registers, with no
products but by the roots that need them; radices without one are products with the DFT matrix in
register tiles. Rows are written in the order of the next step (Stockham's), so nothing is permuted.
Bounded by the cache that holds the panel: each step reads it once and writes it once.
"""

from cmath import exp, pi

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .._intrinsics import INNER
from .._tiles import (
    ROW,
    VECTOR,
    Emitter,
    aligned,
    by_rows,
    from_panel,
    lanes_of,
    one_from_panel,
    one_to_panel,
    plane_of,
    to_panel,
    transpose_square,
)


class _Butterfly:
    """Writes the transform of a few numbers, each a pair of vectors (real, imaginary)."""

    def __init__(self, emit):
        self.emit, self.builder = emit, emit.builder

    def constant(self, value):
        count = self.emit.vector.count
        return ir.Constant(self.emit.vector, [ir.Constant(self.emit.real, value)] * count)

    def plus(self, x, y):
        return tuple(self.builder.fadd(a, b) for a, b in zip(x, y, strict=True))

    def minus(self, x, y):
        return tuple(self.builder.fsub(a, b) for a, b in zip(x, y, strict=True))

    def add_scaled(self, total, x, factor):
        """Return total + factor · x for a real number."""
        number = self.constant(factor)
        return tuple(self.emit.fma(number, a, b) for a, b in zip(x, total, strict=True))

    def rotated(self, x):
        """Return −i x."""
        return x[1], self.builder.fneg(x[0])

    def times(self, x, real, imaginary):
        """Return (real + i imaginary) x for two vectors."""
        (a, b), emit = x, self.emit
        return (
            emit.fma(real, a, emit.negative(self.builder.fmul(imaginary, b))),
            emit.fma(real, b, self.builder.fmul(imaginary, a)),
        )

    def transform(self, x):
        """Halve even lengths; sum the others by definition, numbers j and n − j together."""
        n = len(x)
        if n == 1:
            return x
        if n % 2:
            return self._odd(x)
        even, odd = self.transform(x[::2]), self.transform(x[1::2])
        result = [None] * n
        for k in range(n // 2):
            root = exp(-2j * pi * k / n)
            if k == 0:
                turned = odd[k]
            elif 4 * k == n:
                turned = self.rotated(odd[k])
            elif 8 * k == n or 8 * k == 3 * n:  # (±1 − i)/√2
                ahead = self.rotated(odd[k])
                both = self.plus(ahead, odd[k]) if 8 * k == n else self.minus(ahead, odd[k])
                half = 0.5**0.5
                result[k] = self.add_scaled(even[k], both, half)
                result[k + n // 2] = self.add_scaled(even[k], both, -half)
                continue
            else:
                turned = self.times(odd[k], self.constant(root.real), self.constant(root.imag))
            result[k] = self.plus(even[k], turned)
            result[k + n // 2] = self.minus(even[k], turned)
        return result

    def _odd(self, x):
        n = len(x)
        half = range(1, n // 2 + 1)
        sums = {j: self.plus(x[j], x[n - j]) for j in half}
        differences = {j: self.rotated(self.minus(x[j], x[n - j])) for j in half}
        result = [x[0]] * n
        for j in half:
            result[0] = self.plus(result[0], sums[j])
        zero = (ir.Constant(self.emit.vector, None),) * 2
        for k in half:
            even, odd = x[0], zero
            for j in half:
                root = exp(2j * pi * (j * k % n) / n)
                even = self.add_scaled(even, sums[j], root.real)
                odd = self.add_scaled(odd, differences[j], root.imag)
            result[k], result[n - k] = self.plus(even, odd), self.minus(even, odd)
        return result


def _step(radix, is_last):
    """Make the step: `radix` rows transformed, then turned by the roots at `numbers`.

    The last step multiplies by one real number instead. With `swap` = VECTOR, real and imaginary
    parts change places before and after: the inverse transform, turned by conjugate roots.
    """

    @intrinsic
    def step(typingctx, like, source, source_row, target, target_row, swap, numbers):
        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, signature.args[0])
            _, source, source_row, target, target_row, swap, numbers = args
            other = builder.sub(emit.intp(VECTOR), swap)
            butterfly = _Butterfly(emit)
            rows = []
            for j in range(radix):
                row = emit.at(source, builder.mul(source_row, emit.intp(j)))
                rows.append((emit.load(emit.at(row, swap)), emit.load(emit.at(row, other))))
            rows = butterfly.transform(rows)
            for k, value in enumerate(rows):
                if is_last:
                    scale = emit.broadcast(numbers)
                    value = tuple(builder.fmul(scale, part) for part in value)
                elif k or radix == 1:
                    place = emit.at(numbers, 2 * emit.size * k)
                    value = butterfly.times(
                        value, emit.broadcast(place), emit.broadcast(emit.at(place, emit.size))
                    )
                row = emit.at(target, builder.mul(target_row, emit.intp(k)))
                emit.store(value[0], emit.at(row, swap))
                emit.store(value[1], emit.at(row, other))
            return context.get_dummy_value()

        return types.void(like, *(types.intp,) * 6), codegen

    return step


# Radices that are written out; others are products with the DFT matrix.
WRITTEN = (16, 8, 7, 5, 4, 3, 2)
_step_1 = _step(1, False)
_step_2 = _step(2, False)
_step_3 = _step(3, False)
_step_4 = _step(4, False)
_step_5 = _step(5, False)
_step_7 = _step(7, False)
_step_8 = _step(8, False)
_step_16 = _step(16, False)
_last_1 = _step(1, True)
_last_2 = _step(2, True)
_last_3 = _step(3, True)
_last_4 = _step(4, True)
_last_5 = _step(5, True)
_last_7 = _step(7, True)
_last_8 = _step(8, True)
_last_16 = _step(16, True)


@intrinsic
def _pair_to_panel(typingctx, like, first, second, target):
    """Copy reals side by side to a panel row: the real parts, and the imaginary parts."""

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, signature.args[0])
        _, first, second, target = args
        emit.store(emit.load(first), target)
        emit.store(emit.load(second), emit.at(target, VECTOR))
        return context.get_dummy_value()

    return types.void(like, *(types.intp,) * 3), codegen


@intrinsic
def _unpack(typingctx, like, low, high, root, sum_, sum_conjugate, rest, rest_conjugate):
    """Make the transform X of n real numbers from that of x[2t] + i x[2t+1], of length h = n/2.

    With E = (Z[k] + Z̄[h−k])/2 and O = (Z[k] − Z̄[h−k])/(2i): X[k] = E + ω_n^k O is the conjugate
    of X[n−k], and X[h+k] = E − ω_n^k O that of X[h−k].
    """

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, signature.args[0])
        _, low, high, root, sum_, sum_conjugate, rest, rest_conjugate = args
        butterfly = _Butterfly(emit)
        half = butterfly.constant(0.5)
        a, b, c, d = (
            builder.fmul(half, emit.load(emit.at(row, part)))
            for row in (low, high)
            for part in (0, VECTOR)
        )
        even = builder.fadd(a, c), builder.fsub(b, d)
        odd = builder.fadd(b, d), builder.fsub(c, a)
        odd = butterfly.times(odd, emit.broadcast(root), emit.broadcast(emit.at(root, emit.size)))
        for value, row, conjugate in (
            (butterfly.plus(even, odd), sum_, sum_conjugate),
            (butterfly.minus(even, odd), rest, rest_conjugate),
        ):
            emit.store(value[0], conjugate)
            emit.store(builder.fneg(value[1]), emit.at(conjugate, VECTOR))
            emit.store(value[0], row)
            emit.store(value[1], emit.at(row, VECTOR))
        return context.get_dummy_value()

    return types.void(like, *(types.intp,) * 7), codegen


@intrinsic
def _multiply(typingctx, like, row, other):
    """Multiply a panel row by another, number by number."""

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, signature.args[0])
        _, row, other = args
        x, (a, b) = (
            tuple(emit.load(emit.at(place, part)) for part in (0, VECTOR)) for place in (row, other)
        )
        for value, part in zip(_Butterfly(emit).times(x, a, b), (0, VECTOR), strict=True):
            emit.store(value, emit.at(row, part))
        return context.get_dummy_value()

    return types.void(like, types.intp, types.intp), codegen


def _filter(is_shared):
    """Make the product of the spectra of real vectors with those of filters, or of one filter.

    Z is the transform of x[2t] + i x[2t+1], of length n/2; E = (Z[k] + Z̄[n/2−k])/2 that of the even
    entries, O that of the odd ones. With A, B and C, those of the filter's even entries, its odd
    ones, and its odd ones an entry later::

        W[k] = (A E + C O) + i (B E + A O),   W[n/2−k] = conj(A E + C O) + i conj(B E + A O)
    """

    @intrinsic
    def multiply(typingctx, like, low, high, numbers):
        def codegen(context, builder, signature, args):
            emit = Emitter(context, builder, signature.args[0])
            _, low, high, numbers = args
            butterfly = _Butterfly(emit)

            def part(place, row):
                if not is_shared:
                    return emit.load(emit.at(numbers, ROW * place + VECTOR * row))
                return emit.broadcast(emit.at(numbers, (2 * place + row) * emit.size))

            half = butterfly.constant(0.5)
            a, b, c, d = (
                builder.fmul(half, emit.load(emit.at(row, half_row)))
                for row in (low, high)
                for half_row in (0, VECTOR)
            )
            even = builder.fadd(a, c), builder.fsub(b, d)
            odd = builder.fadd(b, d), builder.fsub(c, a)
            first, second, later = ((part(place, 0), part(place, 1)) for place in range(3))
            x = butterfly.plus(butterfly.times(even, *first), butterfly.times(odd, *later))
            y = butterfly.plus(butterfly.times(even, *second), butterfly.times(odd, *first))
            for value, row in (
                ((builder.fadd(x[0], y[1]), builder.fsub(y[0], x[1])), high),
                ((builder.fsub(x[0], y[1]), builder.fadd(y[0], x[1])), low),
            ):
                emit.store(value[0], row)
                emit.store(value[1], emit.at(row, VECTOR))
            return context.get_dummy_value()

        return types.void(like, *(types.intp,) * 3), codegen

    return multiply


_by_filter = _filter(is_shared=True)
_by_filters = _filter(is_shared=False)


@intrinsic
def _copy(typingctx, like, source, target):
    """Copy one machine vector."""

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, signature.args[0])
        emit.store(emit.load(args[1]), args[2])
        return context.get_dummy_value()

    return types.void(like, types.intp, types.intp), codegen


@njit(nogil=True, cache=True, **INNER)
def _by_roots(like, radix, source, target, after, done, swap, numbers):
    """Do a step with `after` groups of `done` rows each; row j of the table turns group j."""
    size, row, out = like.itemsize, after * done * ROW, done * ROW
    for j in range(after):
        roots = numbers + j * radix * size
        for k in range(done):
            a, b = source + (j * done + k) * ROW, target + (j * radix * done + k) * ROW
            if radix == 16:
                _step_16(like, a, row, b, out, swap, roots)
            elif radix == 8:
                _step_8(like, a, row, b, out, swap, roots)
            elif radix == 7:
                _step_7(like, a, row, b, out, swap, roots)
            elif radix == 5:
                _step_5(like, a, row, b, out, swap, roots)
            elif radix == 4:
                _step_4(like, a, row, b, out, swap, roots)
            elif radix == 3:
                _step_3(like, a, row, b, out, swap, roots)
            else:
                _step_2(like, a, row, b, out, swap, roots)


@njit(nogil=True, cache=True, **INNER)
def _at_last(like, radix, source, target, done, swap, scale):
    """Do the last step."""
    row = done * ROW
    for k in range(done):
        a, b = source + k * ROW, target + k * ROW
        if radix == 16:
            _last_16(like, a, row, b, row, swap, scale)
        elif radix == 8:
            _last_8(like, a, row, b, row, swap, scale)
        elif radix == 7:
            _last_7(like, a, row, b, row, swap, scale)
        elif radix == 5:
            _last_5(like, a, row, b, row, swap, scale)
        elif radix == 4:
            _last_4(like, a, row, b, row, swap, scale)
        elif radix == 3:
            _last_3(like, a, row, b, row, swap, scale)
        else:
            _last_2(like, a, row, b, row, swap, scale)


@njit(nogil=True, cache=True, **INNER)
def _by_matrix(like, radix, source, target, after, done, swap, matrix, numbers, is_last):
    """Do a step as products with the matrix (for the inverse its conjugate), turn or scale."""
    size, plane, row, out = like.itemsize, plane_of(like), after * done * ROW, done * ROW
    for j in range(after):
        roots = numbers + j * radix * size
        for k in range(done):
            a, b = source + (j * done + k) * ROW, target + (j * radix * done + k) * ROW
            by_rows(like, matrix, radix * size, size, plane, a, row, b, out, radix, radix, 0)
            for i in range(radix):
                if is_last:
                    _last_1(like, b + i * out, 0, b + i * out, 0, swap, numbers)
                else:
                    _step_1(like, b + i * out, 0, b + i * out, 0, swap, roots + i * size)


@njit(nogil=True, cache=True, **INNER)
def _read(like, source, feature, vector, features, target):
    """Bring `lanes_of` vectors to the rows of a panel."""
    size, lanes, plane, side = (
        like.itemsize,
        lanes_of(like),
        plane_of(like),
        VECTOR // like.itemsize,
    )
    done = 0
    if vector == size:
        for i in range(features):
            to_panel(like, source + i * feature, target + i * ROW)
        return
    if feature == size:
        while done + side <= features:
            for lane in range(0, lanes, side):
                transpose_square(
                    like,
                    source + done * size + lane * vector,
                    vector,
                    target + done * ROW + lane * size,
                    ROW,
                )
            if plane != size:
                for i in range(done, done + side):
                    to_panel(like, target + i * ROW, target + i * ROW)
            done += side
    for i in range(done, features):
        for lane in range(lanes):
            one_to_panel(
                like, source + i * feature + lane * vector, target + i * ROW + lane * plane
            )


@njit(nogil=True, cache=True, **INNER)
def _write(like, source, features, target, feature, vector):
    """Undo `_read`; the panel is spoiled."""
    size, lanes, plane, side = (
        like.itemsize,
        lanes_of(like),
        plane_of(like),
        VECTOR // like.itemsize,
    )
    done = 0
    if vector == size:
        for i in range(features):
            from_panel(like, source + i * ROW, target + i * feature)
        return
    if feature == size:
        while done + side <= features:
            for i in range(done, done + side):
                from_panel(like, source + i * ROW, source + i * ROW)
            for lane in range(0, lanes, side):
                transpose_square(
                    like,
                    source + done * ROW + lane * size,
                    ROW,
                    target + done * size + lane * vector,
                    vector,
                )
            done += side
    for i in range(done, features):
        for lane in range(lanes):
            one_from_panel(
                like, source + i * ROW + lane * plane, target + i * feature + lane * vector
            )


@njit(nogil=True, cache=True, **INNER)
def _transform(like, steps, scale, swap, n, u, v):
    """Do all steps, to and fro between two panels; return that of the result, then the other."""
    done, after = np.intp(1), n  # a literal would be a type: what is called, compiled once more
    for i in range(len(steps)):
        radix, is_written, matrix, numbers = steps[i]
        after //= radix
        is_last = i == len(steps) - 1
        if is_last:
            numbers = scale
        if not is_written:
            _by_matrix(like, radix, u, v, after, done, swap, matrix, numbers, is_last)
        elif is_last:
            _at_last(like, radix, u, v, done, swap, numbers)
        else:
            _by_roots(like, radix, u, v, after, done, swap, numbers)
        done *= radix
        u, v = v, u
    return u, v


@njit(nogil=True, cache=True)
def panels(start, stop, like, steps, scale, swap, reals, roots, x, y, buffer):
    """Transform panels `start` to `stop`, of `lanes_of` vectors each, the last one from the end.

    A row of `steps` has a radix, whether it is written out, and where its matrix and its roots are.
    With half as many entries in x as in y, x is real, two neighbours taken as one number: as they
    lie in memory, or if not 0 `reals` bytes apart, and `roots` has those of order n.
    """
    half, n, lanes, first = x.features, y.features, lanes_of(like), aligned(buffer)
    for panel in range(start, stop):
        vector = min(panel * lanes, x.vectors - lanes)
        u, v = first, first + n * ROW
        source = x.address + vector * x.vector
        if reals:
            for i in range(half):
                pair = source + i * x.feature
                _pair_to_panel(like, pair, pair + reals, u + i * ROW)
        else:
            _read(like, source, x.feature, x.vector, half, u)
        u, v = _transform(like, steps, scale, swap, half, u, v)
        if half < n:
            for k in range(half // 2 + 1):
                _unpack(
                    like,
                    u + k * ROW,
                    u + (half - k) % half * ROW,
                    roots + k * like.itemsize,
                    v + k * ROW,
                    v + (n - k) % n * ROW,
                    v + (half + k) * ROW,
                    v + (half - k) * ROW,
                )
            u, v = v, u
        _write(like, u, n, y.address + vector * y.vector, y.feature, y.vector)


@njit(nogil=True, cache=True, **INNER)
def _parts(real, outside, feature, vector, features, inside, is_read):
    """Bring reals of as many vectors as a machine vector has to halves of panel rows, or back."""
    size = real.itemsize
    side, done = VECTOR // size, 0
    if vector == size:
        for i in range(features):
            if is_read:
                _copy(real, outside + i * feature, inside + i * ROW)
            else:
                _copy(real, inside + i * ROW, outside + i * feature)
        return
    if feature == size:
        while done + side <= features:
            if is_read:
                transpose_square(real, outside + done * size, vector, inside + done * ROW, ROW)
            else:
                transpose_square(real, inside + done * ROW, ROW, outside + done * size, vector)
            done += side
    for i in range(done, features):
        for lane in range(side):
            there, here = outside + i * feature + lane * vector, inside + i * ROW + lane * size
            if is_read:
                one_to_panel(real, there, here)
            else:
                one_to_panel(real, here, there)


@njit(nogil=True, cache=True)
def convolutions(start, stop, like, real, steps, numbers, turn, spectrum, from_, n, x, y, buffer):
    """Convolve panels of real vectors modulo z^n − i, entries from `from_` on to y.

    `numbers` has 1, 1/n and the zeros of a machine vector; `turn` the roots exp(πi t/(2n)). The
    spectra are one vector of numbers (``spectrum.vector`` is 0), or one for each vector of x.
    """
    lanes, size, first = lanes_of(like), like.itemsize, aligned(buffer)
    forward, backward = np.intp(0), np.intp(VECTOR)
    for panel in range(start, stop):
        vector = min(panel * lanes, x.vectors - lanes)
        u, v = first, first + n * ROW
        source = x.address + vector * x.vector
        low = min(n, x.features)
        _parts(real, source, x.feature, x.vector, low, u, True)
        high = x.features - low
        _parts(real, source + n * x.feature, x.feature, x.vector, high, u + VECTOR, True)
        for i in range(low, n):
            _copy(real, numbers + 2 * size, u + i * ROW)
        for i in range(high, n):
            _copy(real, numbers + 2 * size, u + i * ROW + VECTOR)
        for i in range(low):
            _step_1(like, u + i * ROW, 0, u + i * ROW, 0, 0, turn + i * size)
        u, v = _transform(like, steps, numbers, forward, n, u, v)
        if spectrum.vector:
            _read(
                like,
                spectrum.address + vector * spectrum.vector,
                spectrum.feature,
                spectrum.vector,
                n,
                v,
            )
            for i in range(n):
                _multiply(like, u + i * ROW, v + i * ROW)
        else:
            for i in range(n):
                number = spectrum.address + i * size
                _step_1(like, u + i * ROW, 0, u + i * ROW, 0, 0, number)
        u, v = _transform(like, steps, numbers + size, backward, n, u, v)
        for i in range(n):
            _step_1(like, u + i * ROW, 0, u + i * ROW, 0, VECTOR, turn + i * size)
        target = y.address + vector * y.vector
        begin, end = min(from_, n), min(from_ + y.features, n)
        _parts(real, target, y.feature, y.vector, end - begin, u + begin * ROW, False)
        target += (end - begin) * y.feature
        begin, end = max(from_ - n, 0), max(from_ + y.features - n, 0)
        there = u + begin * ROW + VECTOR
        _parts(real, target, y.feature, y.vector, end - begin, there, False)


@njit(nogil=True, cache=True)
def circular_convolutions(start, stop, like, real, steps, numbers, filters, x, y, buffer):
    """Convolve panels of real vectors of even length around, two neighbours as one number.

    `numbers` has 1 and 2/n. `filters` has the numbers A, B and C (`_filter`) of 0 <= k <= n/4: of
    one filter (``filters.vector`` is 0), or one for each vector of x.
    """
    lanes, size, half, first = lanes_of(like), like.itemsize, x.features // 2, aligned(buffer)
    forward, backward = np.intp(0), np.intp(VECTOR)
    for panel in range(start, stop):
        vector = min(panel * lanes, x.vectors - lanes)
        u, v = first, first + half * ROW
        source, target = x.address + vector * x.vector, y.address + vector * y.vector
        if x.feature == real.itemsize:
            _read(like, source, size, x.vector, half, u)
        else:
            _parts(real, source, 2 * x.feature, x.vector, half, u, True)
            _parts(real, source + x.feature, 2 * x.feature, x.vector, half, u + VECTOR, True)
        u, v = _transform(like, steps, numbers, forward, half, u, v)
        if filters.vector:
            table = first + 2 * half * ROW
            place = filters.address + vector * filters.vector
            _read(like, place, filters.feature, filters.vector, filters.features, table)
            for k in range(half // 2 + 1):
                high = u + (half - k) % half * ROW
                _by_filters(like, u + k * ROW, high, table + 3 * k * ROW)
        else:
            for k in range(half // 2 + 1):
                high = u + (half - k) % half * ROW
                _by_filter(like, u + k * ROW, high, filters.address + 3 * k * size)
        u, v = _transform(like, steps, numbers + size, backward, half, u, v)
        if y.feature == real.itemsize:
            _write(like, u, half, target, size, y.vector)
        else:
            _parts(real, target, 2 * y.feature, y.vector, half, u, False)
            _parts(real, target + y.feature, 2 * y.feature, y.vector, half, u + VECTOR, False)
