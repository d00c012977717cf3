"""Kernels of the delta rule's gates: what a decay does to a chunk's rows and scores, and back.

By running products, never by quotients: a decay to zero leaves zeros. Gates are factors, and a
token's acts before its first row. All is by address and of whole panel rows (`_tiles`): gates that
are a number for a token are that number in a panel row.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .._intrinsics import INNER, OUTER, for_size, record_of
from .._tiles import ROW, VECTOR, Emitter, aligned, copy_rows, put_number, zero_rows


class Chunks(NamedTuple):
    """What kernels of gates have to know of a call's `Sizes`."""

    length: int
    tokens: int
    chunks: int
    reflections: int
    rows: int
    reads: int
    columns: int
    width: int
    entries: int  # that a token's gates differ in: 1 or the width


class Decays(NamedTuple):
    """Addresses of gates and of what comes of them."""

    gates: int
    since: int  # from the start of the chunk to a token
    until: int  # from a token to the end of the chunk: filled with ones
    left: int  # of a whole chunk
    keys: int
    queries: int
    early_k: int
    early_q: int
    late_k: int


COUNT = len(Chunks._fields)


@intrinsic
def times_rows(typingctx, like, x, x_row, y, y_row, target, target_row, rows):
    """Write the products of panel rows, entry by entry, in the order of rows."""

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, signature.args[0])
        _, *places, rows = args
        with cgutils.for_range(builder, rows) as loop:
            x, y, target = (
                emit.at(address, builder.mul(stride, loop.index))
                for address, stride in zip(places[::2], places[1::2], strict=True)
            )
            for half in (0, VECTOR):
                product = builder.fmul(emit.load(emit.at(x, half)), emit.load(emit.at(y, half)))
                emit.store(product, emit.at(target, half))
        return context.get_dummy_value()

    return types.void(like, *(types.intp,) * 7), codegen


@intrinsic
def add_products(typingctx, like, weight, x, y, target, rows):
    """Add to panel rows side by side a number times the products of others, entry by entry."""

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, signature.args[0])
        _, weight, *places, rows = args
        factor = emit.broadcast(weight)
        with cgutils.for_range(builder, builder.mul(rows, emit.intp(2))) as loop:
            x, y, target = (
                emit.at(place, builder.mul(loop.index, emit.intp(VECTOR))) for place in places
            )
            product = builder.fmul(factor, emit.load(x))
            emit.store(emit.fma(product, emit.load(y), emit.load(target)), target)
        return context.get_dummy_value()

    return types.void(like, *(types.intp,) * 5), codegen


@intrinsic
def dot_rows(typingctx, like, x, y, rows):
    """Sum the products of panel rows side by side."""

    def codegen(context, builder, signature, args):
        emit = Emitter(context, builder, signature.args[0])
        _, x, y, rows = args
        sums = [cgutils.alloca_once_value(builder, emit.vector(None)) for _ in "01"]
        with cgutils.for_range(builder, rows) as loop:
            for half, place in enumerate(sums):
                offset = builder.mul(loop.index, emit.intp(ROW))
                offset = builder.add(offset, emit.intp(half * VECTOR))
                one, other = emit.load(emit.at(x, offset)), emit.load(emit.at(y, offset))
                builder.store(emit.fma(one, other, builder.load(place)), place)
        ones = ir.Constant(emit.vector, [1.0] * emit.vector.count)
        return emit.dot([builder.load(place) for place in sums], [ones, ones])

    return like.dtype(like, *(types.intp,) * 3), codegen


@njit(nogil=True, cache=True, error_model="numpy", **INNER)
def _span(sizes, unit):
    """Return the first token of a chunk, counted through all heads, and how many it has."""
    chunk = unit % sizes.chunks * sizes.tokens
    after = sizes.length - chunk
    tokens = sizes.tokens if after > sizes.tokens else after
    return unit // sizes.chunks * sizes.length + chunk, tokens


@njit(nogil=True, cache=True, error_model="numpy", **OUTER)
def decay(start, stop, like, numbers):
    """Fill the decays of tokens from their chunk's start and to its end, and rows with decays."""
    for_size()
    sizes, at = record_of(Chunks, numbers, 0), record_of(Decays, numbers, COUNT)
    n, stride = sizes.reflections, sizes.width * like.itemsize
    across = stride if sizes.entries > 1 else ROW
    for unit in range(start, stop):
        begin, tokens = _span(sizes, unit)
        last = (tokens - 1) * across
        gates, since = at.gates + begin * across, at.since + begin * across
        until = at.until + begin * across
        copy_rows(like, gates, ROW, since, ROW, across // ROW)
        for place in range(0, across, ROW):
            g, s, u = gates + place, since + place, until + place + last
            times_rows(like, s, across, g + across, across, s + across, across, tokens - 1)
            times_rows(like, u, -across, g + last, -across, u - across, -across, tokens - 1)
        for place in range(0, stride, ROW):
            s, u = since + place % across, until + place % across
            copy_rows(like, s + last, 0, at.left + unit * stride + place, 0, 1)
            q = begin * stride + place
            times_rows(like, s, across, at.queries + q, stride, at.early_q + q, stride, tokens)
            step = n * stride
            for i in range(begin * n, begin * n + n):
                k = i * stride + place
                times_rows(like, s, across, at.keys + k, step, at.early_k + k, step, tokens)
                times_rows(like, u, across, at.keys + k, step, at.late_k + k, step, tokens)


@njit(nogil=True, cache=True, error_model="numpy", **OUTER)
def decay_scores(start, stop, like, numbers, gates, scores, buffer):
    """Let scores decay, by a number for a token, from the row that writes to the row that reads.

    So do their gradients.
    """
    for_size()
    sizes = record_of(Chunks, numbers, 0)
    n, size, one = sizes.reflections, like.itemsize, like.dtype.type(1)
    step, factors = sizes.columns * size, np.intp(aligned(buffer))
    for unit in range(start, stop):
        begin, tokens = _span(sizes, unit)
        zero_rows(like, factors, ROW, step // ROW)
        for token in range(tokens - 1, -1, -1):
            put_number(like, one, factors + (sizes.reads + token) * size)
            for row in range(token * n, (token + 1) * n):
                put_number(like, one, factors + row * size)
            for row in range(token * n, (token + 1) * n):
                c = scores + (unit * sizes.rows + row) * step
                times_rows(like, factors, ROW, c, ROW, c, ROW, step // ROW)
            g = gates + (begin + token) * ROW
            times_rows(like, g, 0, factors, ROW, factors, ROW, step // ROW)


@njit(nogil=True, cache=True, error_model="numpy", **OUTER)
def score_by_columns(start, stop, like, numbers, gates, keys, queries, scores, buffer):
    """Fill the scores of chunks where every column has decays of its own."""
    for_size()
    sizes = record_of(Chunks, numbers, 0)
    n, size, zero = sizes.reflections, like.itemsize, like.dtype.type(0)
    stride, step, carried = sizes.width * size, sizes.columns * size, np.intp(aligned(buffer))
    for unit in range(start, stop):
        begin, tokens = _span(sizes, unit)
        for row in range(tokens * n):
            target = scores + (unit * sizes.rows + row) * step
            reads = target + sizes.reads * size
            copy_rows(like, keys + (begin * n + row) * stride, ROW, carried, ROW, stride // ROW)
            for token in range(row // n):
                put_number(like, zero, reads + token * size)
            for token in range(row // n, tokens):
                if token > row // n:
                    g = gates + (begin + token) * stride
                    times_rows(like, g, ROW, carried, ROW, carried, ROW, stride // ROW)
                for i in range(token * n, (token + 1) * n):
                    key = keys + (begin * n + i) * stride
                    put_number(like, dot_rows(like, carried, key, stride // ROW), target + i * size)
                query = queries + (begin + token) * stride
                score = dot_rows(like, carried, query, stride // ROW)
                put_number(like, score, reads + token * size)


@njit(nogil=True, cache=True, error_model="numpy", **OUTER)
def mix_by_columns(
    start, stop, like, numbers, gates, keys, queries, of_scores, of_readers, of_writers, of_queries,
    buffer,
):  # fmt: skip
    """Add the gradients of the scores where every column has decays of its own.

    The buffer has ones.
    """
    for_size()
    sizes = record_of(Chunks, numbers, 0)
    n, size = sizes.reflections, like.itemsize
    stride, step, ones = sizes.width * size, sizes.columns * size, np.intp(aligned(buffer))
    carried = ones + stride
    for unit in range(start, stop):
        begin, tokens = _span(sizes, unit)
        for row in range(tokens * n):
            weights = of_scores + (unit * sizes.rows + row) * step
            own = (begin * n + row) * stride
            copy_rows(like, ones, ROW, carried, ROW, stride // ROW)
            for token in range(row // n, tokens):
                if token > row // n:
                    g = gates + (begin + token) * stride
                    times_rows(like, g, ROW, carried, ROW, carried, ROW, stride // ROW)
                for i in range(token * n, (token + 1) * n):
                    if i > row:
                        w, k = weights + i * size, (begin * n + i) * stride
                        add_products(like, w, carried, keys + own, of_readers + k, stride // ROW)
                        add_products(like, w, carried, keys + k, of_writers + own, stride // ROW)
                w, q = weights + (sizes.reads + token) * size, (begin + token) * stride
                add_products(like, w, carried, keys + own, of_queries + q, stride // ROW)
                add_products(like, w, carried, queries + q, of_writers + own, stride // ROW)


@njit(nogil=True, cache=True, error_model="numpy", **OUTER)
def pull_gates(
    start, stop, like, numbers, keys, queries, of_readers, of_writers, of_queries, of_left,
    of_gates, buffer,
):  # fmt: skip
    """Sum the gradients of the decays' running sums, from the end of the chunk.

    A sum multiplies the rows that read and divides the keys that write; the last one also
    multiplies the whole state at the end. The buffer has ones.
    """
    for_size()
    sizes = record_of(Chunks, numbers, 0)
    n, size, stride = sizes.reflections, like.itemsize, sizes.width * like.itemsize
    ones = np.intp(aligned(buffer))
    totals, minus = ones + stride, ones + 2 * stride
    put_number(like, like.dtype.type(-1), minus)
    for unit in range(start, stop):
        begin, tokens = _span(sizes, unit)
        copy_rows(like, of_left + unit * stride, ROW, totals, ROW, stride // ROW)
        for token in range(begin + tokens - 1, begin - 1, -1):
            q = token * stride
            add_products(like, ones, queries + q, of_queries + q, totals, stride // ROW)
            for i in range(token * n, (token + 1) * n):
                k = i * stride
                add_products(like, ones, keys + k, of_readers + k, totals, stride // ROW)
                add_products(like, minus, keys + k, of_writers + k, totals, stride // ROW)
            if sizes.entries > 1:
                copy_rows(like, totals, ROW, of_gates + q, ROW, stride // ROW)
            else:
                total = dot_rows(like, ones, totals, stride // ROW)
                put_number(like, total, of_gates + token * size)
