"""Kernels of the delta rule: chunks of tokens against a state that stays in the cache.

Columns of the state never meet, so it is cut into panels as wide as two machine vectors (`_tiles`).
First come the scores of all chunks (keys among themselves and with queries), then panel by panel
all else; gradients take the same two parts, the other way round. All is by address: views of
arrays are most of what a kernel takes to compile. Bounded by multiplications; the 16 rows of a
chunk keep the triangular part small.
"""

from typing import NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from .._intrinsics import OUTER, for_size, record_of
from .._panels import bring, turn
from .._tiles import (
    ROW,
    VECTOR,
    Emitter,
    add_dots,
    aligned,
    by_rows,
    copy_rows,
    fetch_rows,
    put_number,
    scale_rows,
    weigh_rows,
    zero_rows,
)


class Sizes(NamedTuple):
    """Numbers that kernels work with; a chunk's `rows` are those of keys."""

    heads: int
    length: int
    tokens: int  # of a chunk
    chunks: int
    reflections: int
    rows: int
    reads: int  # where a chunk's queries begin among the columns of its scores: on a panel row
    columns: int
    width: int
    values: int
    panels: int
    groups: int  # parts that the columns of a head are cut into, each a unit of work
    segment: int  # chunks from one kept state to the next, where states are kept
    segments: int


class Arrays(NamedTuple):
    """Addresses of what goes in and out, of zero length where 0.

    With gates, keys and queries are as the state at a chunk's start sees them and `late` keys as
    that at its end does, of which the part `left` is what was there at the start; without, they
    are what they are. Scores are (heads, chunks, rows, columns) and `errors`, v_i - H k_i, of whole
    panels, as are `states` at the start of segments, (heads, segments, panels, width, lanes).
    """

    keys: int
    queries: int
    late: int
    left: int
    strengths: int
    scores: int
    errors: int
    states: int
    values: int
    initial: int
    output: int
    state: int


class Gradients(NamedTuple):
    """Addresses of cotangents, of whole panels, and of the gradients of `Arrays`, a group each."""

    output: int
    state: int
    keys: int
    queries: int
    late: int
    left: int
    strengths: int
    scores: int
    values: int
    initial: int


def _solving(rows):
    """Make the solve of some rows, of which those before are subtracted already."""

    @intrinsic
    def solve(typingctx, like, scores, step, strengths, values, stride, errors, errors_row, writes):
        """Turn `writes`, K H, into N: n_i = β_i (v_i - (K H)_i - Σ_j<i scores_ji n_j)."""

        def codegen(context, builder, signature, args):
            emit = _Solver(context, builder, signature.args[0])
            _, scores, step, strengths, values, stride, errors, errors_row, writes = args
            found = {}
            for i in range(rows):
                total = emit.pair(writes, emit.intp(ROW), i)
                total = emit.added(total, found, lambda j, i=i: emit.entry(scores, step, j, i))
                value = emit.pair(values, stride, i)
                error = [builder.fsub(x, y) for x, y in zip(value, total, strict=True)]
                emit.put(error, errors, errors_row, i)
                strength = emit.broadcast(emit.at(strengths, i * emit.size))
                found[i] = [builder.fmul(strength, x) for x in error]
                emit.put(found[i], writes, emit.intp(ROW), i)
            return context.get_dummy_value()

        return types.void(like, *(types.intp,) * 8), codegen

    return solve


def _solving_back(rows):
    """Make the transposed solve of some rows, of which those after are subtracted already."""

    @intrinsic
    def solve(
        typingctx, like, scores, step, strengths, errors, errors_row, solved, pulled, of_values,
        of_strengths,
    ):  # fmt: skip
        """Solve z_i = dn_i - Σ_j>i scores_ij β_j z_j, the last row first: `solved` has dn.

        `pulled` gets -β Z, and the gradients of values and strengths are β Z and Z · errors.
        """

        def codegen(context, builder, signature, args):
            emit = _Solver(context, builder, signature.args[0])
            _, scores, step, strengths, errors, errors_row, *places = args
            solved, pulled, of_values, of_strengths = places
            found = {}
            for i in range(rows - 1, -1, -1):
                one = emit.pair(solved, emit.intp(ROW), i)
                one = emit.added(one, found, lambda j, i=i: emit.entry(scores, step, i, j))
                strength = emit.broadcast(emit.at(strengths, i * emit.size))
                of_value = [builder.fmul(strength, x) for x in one]
                found[i] = [emit.negative(x) for x in of_value]
                emit.put(of_value, of_values, errors_row, i)
                emit.put(found[i], pulled, emit.intp(ROW), i)
                place = emit.at(of_strengths, i * emit.size)
                product = emit.dot(one, emit.pair(errors, errors_row, i))
                emit.store(builder.fadd(emit.load(place, emit.real), product), place)
            return context.get_dummy_value()

        return types.void(like, *(types.intp,) * 9), codegen

    return solve


class _Solver(Emitter):
    """Writes solves of panel rows that stay in registers."""

    def pair(self, address, stride, i):
        """Load a panel row."""
        row = self.at(address, self.builder.mul(stride, self.intp(i)))
        return [self.load(row), self.load(self.at(row, VECTOR))]

    def put(self, pair, address, stride, i):
        """Store a panel row."""
        row = self.at(address, self.builder.mul(stride, self.intp(i)))
        for half, values in enumerate(pair):
            self.store(values, self.at(row, VECTOR * half))

    def entry(self, address, stride, i, j):
        """Load the number in column j of row i, for all lanes."""
        row = self.at(address, self.builder.mul(stride, self.intp(i)))
        return self.broadcast(self.at(row, j * self.size))

    def added(self, total, found, factor):
        """Add the rows that are found already, each times a number."""
        for j, pair in found.items():
            number = factor(j)
            total = [self.fma(number, x, y) for x, y in zip(pair, total, strict=True)]
        return total


COUNT, COUNT_OF_ARRAYS = len(Sizes._fields), len(Arrays._fields)
solve_4 = _solving(4)
solve_1 = _solving(1)
solve_back_4 = _solving_back(4)
solve_back_1 = _solving_back(1)


@njit(nogil=True, cache=True, error_model="numpy", **OUTER)
def score(start, stop, like, numbers, keys, queries, scores, buffer):
    """Fill the scores of chunks: key j times all keys, and times the queries that read it."""
    for_size()
    sizes = record_of(Sizes, numbers, 0)
    stride, step = sizes.width * like.itemsize, sizes.columns * like.itemsize
    n, turned = sizes.reflections, np.intp(aligned(buffer))
    reads = sizes.reads * like.itemsize
    for unit in range(start, stop):
        head, begin = unit // sizes.chunks, unit % sizes.chunks * sizes.tokens
        left = sizes.length - begin
        tokens = sizes.tokens if left > sizes.tokens else left
        a = keys + (head * sizes.length + begin) * n * stride
        b = queries + (head * sizes.length + begin) * stride
        turn(like, a, stride, tokens * n, sizes.width, turned, step)
        turn(like, b, stride, tokens, sizes.width, turned + reads, step)
        target = scores + unit * sizes.rows * step
        for column in range(0, step, ROW):
            by_rows(
                like, a, stride, like.itemsize, 0, turned + column, step, target + column, step,
                tokens * n, sizes.width, 0,
            )  # fmt: skip
        for row in range(n, tokens * n):
            for token in range(row // n):
                put_number(
                    like, like.dtype.type(0), target + row * step + reads + token * like.itemsize
                )


@njit(nogil=True, cache=True, error_model="numpy", **OUTER)
def forward(start, stop, like, numbers, scale, buffer):
    """Run the heads' groups of columns from `start` to `stop` through all chunks."""
    for_size()
    sizes, at = record_of(Sizes, numbers, 0), record_of(Arrays, numbers, COUNT)
    size, lanes, n, width = like.itemsize, ROW // like.itemsize, sizes.reflections, sizes.width
    panel_row = lanes * size  # no constant, for which what it is passed to would compile anew
    stride, step = width * size, sizes.columns * size
    values_row, errors_row = sizes.values * size, sizes.panels * ROW
    writes = np.intp(aligned(buffer))
    reads = writes + sizes.rows * ROW
    edge = reads + sizes.tokens * ROW  # values that do not fill a panel
    held = edge + sizes.rows * ROW
    zero_rows(like, edge, ROW, sizes.rows)
    for unit in range(start, stop):
        head, group = unit // sizes.groups, unit % sizes.groups
        first = sizes.panels * group // sizes.groups
        last = sizes.panels * (group + 1) // sizes.groups
        zero_rows(like, held, ROW, (last - first) * width)
        if at.initial:
            for panel in range(first, last):
                source = at.initial + head * width * values_row + panel * ROW
                target = held + (panel - first) * width * ROW
                count = sizes.values - panel * lanes
                bring(like, source, values_row, target, panel_row, width, count)
        for number in range(sizes.chunks):
            begin = head * sizes.length + number * sizes.tokens
            after = sizes.length - number * sizes.tokens
            tokens = sizes.tokens if after > sizes.tokens else after
            rows = tokens * n
            keys, queries = at.keys + begin * n * stride, at.queries + begin * stride
            late = at.late + begin * n * stride
            scores = at.scores + (head * sizes.chunks + number) * sizes.rows * step
            if at.states and number % sizes.segment == 0:
                kept = head * sizes.segments + number // sizes.segment
                kept = at.states + (kept * sizes.panels + first) * width * ROW
                copy_rows(like, held, ROW, kept, ROW, (last - first) * width)
            for panel in range(first, last):
                h = held + (panel - first) * width * ROW
                count = sizes.values - panel * lanes
                values, across = at.values + begin * n * values_row + panel * ROW, values_row
                fetch_rows(like, values + rows * across, across, rows)
                if count < lanes:
                    bring(like, values, across, edge, panel_row, rows, count)
                    values, across = edge, ROW
                errors, errors_across = writes, ROW
                if at.errors:
                    errors = at.errors + begin * n * errors_row + panel * ROW
                    errors_across = errors_row
                by_rows(
                    like, keys, stride, like.itemsize, 0, h, ROW, writes, ROW, rows, width, 0
                )  # fmt: skip
                block = 0
                while block < rows:
                    height = 4 if block + 4 <= rows else 1
                    c = writes + block * ROW
                    by_rows(
                        like, scores + block * size, like.itemsize, step, 0, writes, ROW, c, ROW,
                        height, block, 1,
                    )  # fmt: skip
                    a = scores + block * step + block * size
                    b = at.strengths + (begin * n + block) * size
                    v, e = values + block * across, errors + block * errors_across
                    if height == 4:
                        solve_4(like, a, step, b, v, across, e, errors_across, c)
                    else:
                        solve_1(like, a, step, b, v, across, e, errors_across, c)
                    block += height
                if at.output:
                    output = at.output + begin * values_row + panel * ROW
                    fetch_rows(like, output + tokens * values_row, values_row, tokens)
                    by_rows(
                        like, queries, stride, like.itemsize, 0, h, ROW, reads, ROW, tokens,
                        width, 0,
                    )  # fmt: skip
                    for token in range(0, tokens, 4):
                        height = 4 if token + 4 <= tokens else tokens - token
                        by_rows(
                            like, scores + (sizes.reads + token) * size, like.itemsize, step, 0,
                            writes, ROW, reads + token * ROW, ROW, height, n * (token + height), 1,
                        )  # fmt: skip
                    if count < lanes:
                        scale_rows(like, scale, reads, ROW, reads, ROW, tokens)
                        bring(like, reads, panel_row, output, values_row, tokens, count)
                    else:
                        scale_rows(like, scale, reads, ROW, output, values_row, tokens)
                if at.left:
                    place = at.left + (head * sizes.chunks + number) * stride
                    weigh_rows(like, place, h, ROW, h, ROW, width)
                by_rows(
                    like, late, like.itemsize, stride, 0, writes, ROW, h, ROW, width, rows, 1
                )  # fmt: skip
        for panel in range(first, last):
            source = held + (panel - first) * width * ROW
            target = at.state + head * width * values_row + panel * ROW
            count = sizes.values - panel * lanes
            bring(like, source, panel_row, target, values_row, width, count)


@njit(nogil=True, cache=True, error_model="numpy", **OUTER)
def backward(start, stop, like, numbers, scale, buffer):
    """Pull gradients back through all chunks, last first, with G the state's in panels.

    A segment's states are computed again from its first, which is kept, and from the errors.
    Keys and queries are of whole panel rows.
    """
    for_size()
    sizes, at = record_of(Sizes, numbers, 0), record_of(Arrays, numbers, COUNT)
    of = record_of(Gradients, numbers, COUNT + COUNT_OF_ARRAYS)
    size, lanes, n, width = like.itemsize, ROW // like.itemsize, sizes.reflections, sizes.width
    panel_row = lanes * size  # no constant, for which what it is passed to would compile anew
    stride, step = width * size, sizes.columns * size
    values_row, errors_row = sizes.values * size, sizes.panels * ROW
    stack = np.intp(aligned(buffer))  # keys, and from `reads` on queries
    pulled = stack + sizes.columns * stride  # -β Z, and the output's cotangent
    solved = pulled + sizes.columns * ROW
    writes = solved + sizes.rows * ROW
    turned_pulled = writes + sizes.reads * ROW
    turned_writes = turned_pulled + lanes * step
    of_stack = turned_writes + lanes * step
    of_late = of_stack + width * step
    held_g = of_late + width * step
    zero_rows(like, pulled, ROW, 2 * sizes.columns + sizes.rows + sizes.reads)
    for unit in range(start, stop):
        head, group = unit // sizes.groups, unit % sizes.groups
        first = sizes.panels * group // sizes.groups
        last = sizes.panels * (group + 1) // sizes.groups
        all_rows = (last - first) * width
        held = held_g + all_rows * ROW
        part = group * sizes.heads
        zero_rows(like, held_g, ROW, all_rows)
        for panel in range(first, last):
            source = of.state + head * width * values_row + panel * ROW
            target = held_g + (panel - first) * width * ROW
            count = sizes.values - panel * lanes
            bring(like, source, values_row, target, panel_row, width, count)
        for number in range(sizes.chunks - 1, -1, -1):
            if number == sizes.chunks - 1 or number % sizes.segment == sizes.segment - 1:
                segment = number // sizes.segment
                kept = (head * sizes.segments + segment) * sizes.panels + first
                kept = at.states + kept * width * ROW
                copy_rows(like, kept, ROW, held, ROW, all_rows)
                for before in range(number - segment * sizes.segment):
                    whole = segment * sizes.segment + before
                    begin = (head * sizes.length + whole * sizes.tokens) * n
                    left = at.left + (head * sizes.chunks + whole) * stride
                    for panel in range(first, last):
                        h = held + (before * all_rows + (panel - first) * width) * ROW
                        c = h + all_rows * ROW
                        if at.left:
                            weigh_rows(like, left, h, ROW, c, ROW, width)
                        else:
                            copy_rows(like, h, ROW, c, ROW, width)
                        strengths = at.strengths + begin * size
                        error = at.errors + begin * errors_row + panel * ROW
                        weigh_rows(like, strengths, error, errors_row, writes, ROW, sizes.rows)
                        by_rows(
                            like, at.late + begin * stride, like.itemsize, stride, 0, writes, ROW,
                            c, ROW, width, sizes.rows, 1,
                        )  # fmt: skip
            begin = head * sizes.length + number * sizes.tokens
            after = sizes.length - number * sizes.tokens
            tokens = sizes.tokens if after > sizes.tokens else after
            rows = tokens * n
            keys, queries = at.keys + begin * n * stride, at.queries + begin * stride
            late, strengths = at.late + begin * n * stride, at.strengths + begin * n * size
            scores = at.scores + (head * sizes.chunks + number) * sizes.rows * step
            left = at.left + (head * sizes.chunks + number) * stride
            of_left = of.left + ((part + head) * sizes.chunks + number) * stride
            of_scores = of.scores + ((part + head) * sizes.chunks + number) * sizes.rows * step
            of_strengths = of.strengths + (part * sizes.length + begin) * n * size
            for place in range(0, stride, ROW):
                c = stack + place
                copy_rows(like, keys + place, stride, c, stride, rows)
                zero_rows(like, c + rows * stride, stride, sizes.reads - rows)
                c += sizes.reads * stride
                copy_rows(like, queries + place, stride, c, stride, tokens)
            zero_rows(like, pulled + rows * ROW, ROW, sizes.reads - rows)
            for panel in range(first, last):
                adds = 0 if panel == first else 1
                old = number % sizes.segment * all_rows + (panel - first) * width
                h, g = held + old * ROW, held_g + (panel - first) * width * ROW
                error = at.errors + begin * n * errors_row + panel * ROW
                weigh_rows(like, strengths, error, errors_row, writes, ROW, rows)
                c = pulled + sizes.reads * ROW
                of_output = of.output + begin * errors_row + panel * ROW
                scale_rows(like, scale, of_output, errors_row, c, ROW, tokens)
                by_rows(
                    like, scores + sizes.reads * size, step, like.itemsize, 0, c, ROW,
                    solved, ROW, rows, tokens, 0,
                )  # fmt: skip
                by_rows(
                    like, late, stride, like.itemsize, 0, g, ROW, solved, ROW, rows, width, 1
                )  # fmt: skip
                end = rows
                while end:
                    height = 1 if end % 4 else 4
                    block = end - height
                    a, c = scores + block * step, solved + block * ROW
                    by_rows(
                        like, a + end * size, step, like.itemsize, 0, pulled + end * ROW, ROW,
                        c, ROW, height, rows - end, 1,
                    )  # fmt: skip
                    a += block * size
                    b, d = strengths + block * size, pulled + block * ROW
                    e = error + block * errors_row
                    of_v = of.values + (begin * n + block) * errors_row + panel * ROW
                    of_b = of_strengths + block * size
                    if height == 4:
                        solve_back_4(like, a, step, b, e, errors_row, c, d, of_v, of_b)
                    else:
                        solve_back_1(like, a, step, b, e, errors_row, c, d, of_v, of_b)
                    end = block
                turn(like, pulled, panel_row, sizes.columns, lanes, turned_pulled, step)
                turn(like, writes, panel_row, sizes.reads, lanes, turned_writes, step)
                for column in range(0, step, ROW):
                    by_rows(
                        like, writes, ROW, like.itemsize, 0, turned_pulled + column, step,
                        of_scores + column, step, rows, lanes, adds,
                    )  # fmt: skip
                    by_rows(
                        like, h, ROW, like.itemsize, 0, turned_pulled + column, step,
                        of_stack + column, step, width, lanes, adds,
                    )  # fmt: skip
                for column in range(0, sizes.reads * size, ROW):
                    by_rows(
                        like, g, ROW, like.itemsize, 0, turned_writes + column, step,
                        (of_late if of.late else of_stack) + column, step, width, lanes,
                        adds if of.late else 1,
                    )  # fmt: skip
                if at.left:
                    add_dots(like, g, h, of_left, width)
                    weigh_rows(like, left, g, ROW, g, ROW, width)
                by_rows(
                    like, stack, like.itemsize, stride, 0, pulled, ROW, g, ROW, width,
                    sizes.reads + tokens, 1,
                )  # fmt: skip
            place = (part * sizes.length + begin) * stride
            turn(like, of_stack, step, width, rows, of.keys + place * n, stride)
            c = of_stack + sizes.reads * size
            turn(like, c, step, width, tokens, of.queries + place, stride)
            if of.late:
                turn(like, of_late, step, width, rows, of.late + place * n, stride)
        for panel in range(first, last):
            source = held_g + (panel - first) * width * ROW
            target = of.initial + head * width * values_row + panel * ROW
            count = sizes.values - panel * lanes
            bring(like, source, panel_row, target, values_row, width, count)


@njit(nogil=True, cache=True, error_model="numpy", **OUTER)
def mix(start, stop, like, numbers, keys, queries, of_scores, of_readers, of_writers, of_queries):
    """Add the gradients of the scores to those of keys that read and write, and of queries.

    Rows are of whole panel rows; what the scores do not hold is cleared first.
    """
    for_size()
    sizes = record_of(Sizes, numbers, 0)
    size, n, stride = like.itemsize, sizes.reflections, sizes.width * like.itemsize
    step = sizes.columns * size
    for unit in range(start, stop):
        head, chunk = unit // sizes.chunks, unit % sizes.chunks * sizes.tokens
        left = sizes.length - chunk
        tokens = sizes.tokens if left > sizes.tokens else left
        begin, rows = head * sizes.length + chunk, tokens * n
        weights = of_scores + unit * sizes.rows * step
        reads = weights + sizes.reads * size
        for row in range(rows):
            for column in range(row + 1):
                put_number(like, like.dtype.type(0), weights + row * step + column * size)
            for token in range(row // n):
                put_number(like, like.dtype.type(0), reads + row * step + token * size)
        for place in range(0, stride, ROW):
            k, q = keys + begin * n * stride + place, queries + begin * stride + place
            by_rows(
                like, weights, like.itemsize, step, 0, k, stride,
                of_readers + begin * n * stride + place, stride, rows, rows, 1,
            )  # fmt: skip
            by_rows(
                like, reads, like.itemsize, step, 0, k, stride,
                of_queries + begin * stride + place, stride, tokens, rows, 1,
            )  # fmt: skip
            target = of_writers + begin * n * stride + place
            by_rows(
                like, weights, step, like.itemsize, 0, k, stride, target, stride, rows, rows, 1
            )  # fmt: skip
            by_rows(
                like, reads, step, like.itemsize, 0, q, stride, target, stride, rows, tokens, 1
            )  # fmt: skip
