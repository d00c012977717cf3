"""Kernels of the delta rule: chunks of tokens against a state that stays in the cache.

Columns of the state never meet, so it is cut into panels as wide as two machine vectors (`_tiles`),
and all but the scores of a chunk (its keys among themselves and with its queries) goes panel by
panel. Bounded by multiplications; the 16 rows of a chunk keep the triangular part small.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from .._intrinsics import INNER
from .._panels import (
    address,
    contract,
    copy,
    fetch,
    fill,
    multiply,
    multiply_turned,
    scale_by,
    start_of,
    take,
    turn,
)
from .._tiles import ROW, by_rows, lanes_of, tile_1


class Sizes(NamedTuple):
    """Numbers of rows and columns that a kernel works with; `tokens` of a chunk."""

    heads: int
    length: int
    tokens: int
    reflections: int
    width: int
    values: int
    groups: int  # parts that the columns of a head are cut into, each a unit of work
    segment: int  # chunks from one kept state to the next, where states are kept


@njit(nogil=True, cache=True)
def forward(
    start, stop, like, sizes, scale, q, k, v, beta, gates, initial, output, errors, states, state,
    buffer,
):  # fmt: skip
    """Run the heads' groups of columns from `start` to `stop` through all chunks.

    gates (heads, length, 1 or width) are factors or None, for which less is compiled; `initial`
    without heads stands for zeros. Instead of the output, `errors` v_i - H k_i and the `states` of
    segments may be wanted: of what is not, the arrays have no heads.
    """
    lanes, n, dk = lanes_of(like), sizes.reflections, sizes.width
    panels = -(-sizes.values // lanes)
    chunk, shift = take_chunk(like, sizes, gates, buffer, start_of(buffer))
    writes, shift = take(buffer, shift, sizes.tokens * n, lanes)
    reads, shift = take(buffer, shift, sizes.tokens, lanes)
    for unit in range(start, stop):
        head, group = divmod(unit, sizes.groups)
        first, last = panels * group // sizes.groups, panels * (group + 1) // sizes.groups
        held, _ = take(buffer, shift, (last - first) * dk, lanes)
        load_state(initial, head, first, last, held)
        for begin in range(0, sizes.length, sizes.tokens):
            end = min(begin + sizes.tokens, sizes.length)
            keys, queries = k[head, begin * n : end * n], q[head, begin:end]
            values, strengths = v[head, begin * n : end * n], beta[head, begin * n : end * n]
            rows, at = len(keys), -(-len(keys) // 4) * 4
            prepare(like, keys, queries, gates, head, begin, chunk)
            if len(states) and begin // sizes.tokens % sizes.segment == 0:
                place = begin // sizes.tokens // sizes.segment
                copy(held, states[head, place, first * dk : last * dk])
            for panel in range(first, last):
                h = held[(panel - first) * dk : (panel - first + 1) * dk]
                column = panel * lanes
                fetch(v[head, end * n : (end + sizes.tokens) * n], column)
                multiply(like, chunk.seen[:rows], dk, h, writes, 0)
                if len(errors):
                    fetch(errors[head, end * n : (end + sizes.tokens) * n], column)
                    part = errors[head, begin * n : end * n]
                else:
                    part = errors[:0].reshape(0, sizes.values)
                solve(like, chunk.scores, strengths, values, column, writes, part)
                if len(output):
                    fetch(output[head, end : end + sizes.tokens], column)
                    multiply(like, chunk.seen[at : at + len(queries)], dk, h, reads, 0)
                    read(like, chunk.scores, rows, len(queries), writes, reads)
                    put(reads, scale, output[head, begin:end], column)
                if gates is not None:
                    shrink(h, chunk.left)
                multiply_turned(like, chunk.late[:rows], dk, writes, h)
        store_state(held, first, last, state[head])


@njit(nogil=True, cache=True)
def backward(
    start, stop, like, sizes, scale, q, k, beta, gates, of_output, of_state, errors, states,
    of_q, of_k, of_v, of_beta, of_gates, of_initial, buffer,
):  # fmt: skip
    """Pull gradients back through all chunks, last first, with G the state's in panels.

    A segment's states are computed again from its first, which is kept, and from the errors.
    """
    lanes, n, dk = lanes_of(like), sizes.reflections, sizes.width
    panels, chunks = -(-sizes.values // lanes), -(-sizes.length // sizes.tokens)
    most = sizes.tokens * n
    chunk, shift = take_chunk(like, sizes, gates, buffer, start_of(buffer))
    columns, across = chunk.scores.shape[1], chunk.raw.shape[1]
    narrow = -(-most // lanes) * lanes
    weights, shift = take(buffer, shift, most, columns)
    pulled, shift = take(buffer, shift, columns, lanes)  # -β Z, and the output's cotangent
    solved, shift = take(buffer, shift, most, lanes)
    writes, shift = take(buffer, shift, most, lanes)
    turned_pulled, shift = take(buffer, shift, lanes, columns)
    turned_writes, shift = take(buffer, shift, lanes, narrow)
    of_seen, shift = take(buffer, shift, dk, columns)
    of_late, shift = take(buffer, shift, dk, narrow)
    of_rows, shift = take(buffer, shift, columns, across)
    of_columns, shift = take(buffer, shift, narrow, across)
    of_all, shift = take(buffer, shift, 1, dk)
    fill(turned_pulled, 0)
    fill(turned_writes, 0)
    for unit in range(start, stop):
        head, group = divmod(unit, sizes.groups)
        first, last = panels * group // sizes.groups, panels * (group + 1) // sizes.groups
        size = (last - first) * dk
        of_held, after = take(buffer, shift, size, lanes)
        held, _ = take(buffer, after, (sizes.segment + 1) * size, lanes)
        load_state(of_state, head, first, last, of_held)
        for segment in range(-(-chunks // sizes.segment) - 1, -1, -1):
            begin_chunk = segment * sizes.segment
            end_chunk = min(begin_chunk + sizes.segment, chunks)
            copy(states[head, segment, first * dk : last * dk], held)
            for number in range(begin_chunk, end_chunk):
                begin = number * sizes.tokens
                end = min(begin + sizes.tokens, sizes.length)
                keys, queries = k[head, begin * n : end * n], q[head, begin:end]
                stack(keys, queries, gates, head, begin, chunk)
                place = (number - begin_chunk) * size
                for panel in range(first, last):
                    old = place + (panel - first) * dk
                    h = held[old + size : old + size + dk]
                    copy(held[old : old + dk], h)
                    if gates is not None:
                        shrink(h, chunk.left)
                    load_writes(
                        errors[head, begin * n : end * n], beta[head, begin * n : end * n],
                        panel * lanes, writes,
                    )  # fmt: skip
                    multiply_turned(like, chunk.late[: len(keys)], dk, writes, h)
            for number in range(end_chunk - 1, begin_chunk - 1, -1):
                begin = number * sizes.tokens
                end = min(begin + sizes.tokens, sizes.length)
                keys, queries = k[head, begin * n : end * n], q[head, begin:end]
                strengths, error = (
                    beta[head, begin * n : end * n],
                    errors[head, begin * n : end * n],
                )
                tokens, rows, at = len(queries), len(keys), -(-len(keys) // 4) * 4
                prepare(like, keys, queries, gates, head, begin, chunk)
                for array in (of_seen, of_late, weights, of_all, pulled):
                    fill(array, 0)
                of_strengths = of_beta[group, head, begin * n : end * n]
                place = (number - begin_chunk) * size
                for panel in range(first, last):
                    old, column = place + (panel - first) * dk, panel * lanes
                    h, h_end = held[old : old + dk], held[old + size : old + size + dk]
                    g = of_held[(panel - first) * dk : (panel - first + 1) * dk]
                    load_writes(error, strengths, column, writes)
                    load_cotangent(of_output[head, begin:end], scale, column, pulled[at:])
                    pull_reads(like, chunk.scores, rows, tokens, pulled, solved)
                    multiply(like, chunk.late[:rows], dk, g, solved, 1)
                    solve_back(
                        like, chunk.scores, strengths, error, column, solved, pulled,
                        of_v[head, begin * n : end * n], of_strengths,
                    )  # fmt: skip
                    turn(like, pulled[: at + tokens], turned_pulled, 0)
                    turn(like, writes[:rows], turned_writes, 0)
                    contract(like, writes[:rows], turned_pulled, weights)
                    contract(like, h, turned_pulled, of_seen)
                    contract(like, g, turned_writes, of_late)
                    if gates is not None:
                        for d in range(dk):
                            of_all[0, d] += dot(g[d], h_end[d])
                        shrink(g, chunk.left)
                    multiply_turned(like, chunk.seen[: at + tokens], dk, pulled, g)
                turn(like, of_seen, of_rows, 0)
                turn(like, of_late, of_columns, 0)
                mask_weights(weights, rows, tokens)
                mix(
                    like, gates, head, begin, chunk, weights, rows, tokens, of_rows, of_columns
                )  # fmt: skip
                for i in range(tokens):
                    for d in range(dk):
                        of_q[group, head, begin + i, d] = of_rows[at + i, d]
                for i in range(rows):
                    for d in range(dk):
                        of_k[group, head, begin * n + i, d] = of_rows[i, d] + of_columns[i, d]
                if gates is not None:
                    pull_gates(
                        chunk.raw, rows, of_rows, of_columns, of_all,
                        of_gates[group, head, begin:end],
                    )  # fmt: skip
        store_state(of_held, first, last, of_initial[head])


class Chunk(NamedTuple):
    """Arrays of one chunk: keys, and from the next multiple of four on queries, are its stack.

    `scores` (keys, stack) are products with decays between; the others (stack or keys, width).
    """

    turned: np.ndarray
    scores: np.ndarray
    between: np.ndarray  # decays, where one a token
    raw: np.ndarray
    since: np.ndarray  # decays from the start
    seen: np.ndarray  # the stack as the state at the start sees it
    until: np.ndarray  # decays to the end
    late: np.ndarray  # keys as the state at the end sees them
    left: np.ndarray  # decay of the whole chunk
    carried: np.ndarray  # a row for decays that add up


@njit(nogil=True, cache=True, **INNER)
def take_chunk(like, sizes, gates, buffer, shift):
    """Take the arrays of a chunk from the buffer; without gates, rows are raw for all."""
    lanes, rows = lanes_of(like), sizes.tokens * sizes.reflections
    columns, across = stack_width(rows, sizes.tokens, lanes), -(-sizes.width // lanes) * lanes
    turned, shift = take(buffer, shift, sizes.width, columns)
    scores, shift = take(buffer, shift, rows, columns)
    between, shift = take(buffer, shift, rows, columns)
    raw, shift = take(buffer, shift, columns, across)
    since, shift = take(buffer, shift, columns, across)
    seen, shift = take(buffer, shift, columns, across)
    until, shift = take(buffer, shift, rows, across)
    late, shift = take(buffer, shift, rows, across)
    left, shift = take(buffer, shift, 1, sizes.width)
    carried, shift = take(buffer, shift, 1, sizes.width)
    for array in (turned, raw, since, seen, until, late):
        fill(array, 0)
    if gates is None:
        seen, late = raw, raw
    return Chunk(turned, scores, between, raw, since, seen, until, late, left, carried), shift


@njit(nogil=True, cache=True, **INNER)
def stack(keys, queries, gates, head, begin, chunk):
    """Fill the rows of a chunk, raw and with decays."""
    rows, dk = keys.shape
    at = -(-rows // 4) * 4
    for i in range(rows):
        for d in range(dk):
            chunk.raw[i, d] = keys[i, d]
    fill(chunk.raw[rows:at], 0)
    for i in range(len(queries)):
        for d in range(dk):
            chunk.raw[at + i, d] = queries[i, d]
    if gates is not None:
        decay_rows(gates[head, begin : begin + len(queries)], rows, chunk)


@njit(nogil=True, cache=True, **INNER)
def decay_rows(gates, rows, chunk):
    """Fill the decays of a chunk's rows, and the rows with decays."""
    tokens, dk = len(gates), chunk.left.shape[1]
    at, n = -(-rows // 4) * 4, rows // tokens
    fill(chunk.left, 1)
    for i in range(rows):
        token = i // n
        for d in range(dk):
            if i % n == 0:
                chunk.left[0, d] *= gates[token, d % gates.shape[1]]
            chunk.since[i, d] = chunk.left[0, d]
            if i % n == n - 1:
                chunk.since[at + token, d] = chunk.left[0, d]
    fill(chunk.until[rows - 1 : rows], 1)
    for i in range(rows - 2, -1, -1):
        for d in range(dk):
            chunk.until[i, d] = chunk.until[i + 1, d]
            if (i + 1) % n == 0:
                chunk.until[i, d] *= gates[(i + 1) // n, d % gates.shape[1]]
    for i in range(at + tokens):
        for d in range(dk):
            chunk.seen[i, d] = chunk.since[i, d] * chunk.raw[i, d]
    fill(chunk.seen[rows:at], 0)
    for i in range(rows):
        for d in range(dk):
            chunk.late[i, d] = chunk.until[i, d] * chunk.raw[i, d]


@njit(nogil=True, cache=True, **INNER)
def prepare(like, keys, queries, gates, head, begin, chunk):
    """Fill the rows of a chunk and its scores."""
    stack(keys, queries, gates, head, begin, chunk)
    if gates is None or gates.shape[2] == 1:
        score(like, keys, queries, chunk.turned, chunk.scores)
    if gates is not None:
        decay_scores(keys, queries, gates[head, begin : begin + len(queries)], chunk)
    mask_reads(chunk.scores, len(keys), len(queries))


@njit(nogil=True, cache=True, **INNER)
def stack_width(rows, tokens, lanes):
    """Columns of the scores: keys, then from a multiple of four on queries, in whole panels."""
    return -(-(-(-rows // 4) * 4 + tokens) // lanes) * lanes


@njit(nogil=True, cache=True, **INNER)
def load_state(initial, head, first, last, held):
    """Bring columns of the state at the start to panels."""
    fill(held, 0)
    if not len(initial):
        return
    lanes, (_, dk, values) = held.shape[1], initial.shape
    for panel in range(first, last):
        begin = panel * lanes
        for row in range(dk):
            target = held[(panel - first) * dk + row]
            for lane in range(min(lanes, values - begin)):
                target[lane] = initial[head, row, begin + lane]


@njit(nogil=True, cache=True, **INNER)
def store_state(held, first, last, state):
    """Undo `load_state`."""
    lanes, (dk, values) = held.shape[1], state.shape
    for panel in range(first, last):
        begin = panel * lanes
        for row in range(dk):
            source = held[(panel - first) * dk + row]
            for lane in range(min(lanes, values - begin)):
                state[row, begin + lane] = source[lane]


@njit(nogil=True, cache=True, **INNER)
def score(like, keys, queries, turned, scores):
    """Fill scores[j] with key j times all keys, and times all queries."""
    rows, step = -(-len(keys) // 4) * 4, turned.shape[1] * like.itemsize
    turn(like, keys, turned, 0)
    turn(like, queries, turned, rows)
    stride, depth = keys.shape[1] * like.itemsize, keys.shape[1]
    for panel in range(-(-(rows + len(queries)) // lanes_of(like))):
        by_rows(
            like, address(keys), stride, like.itemsize, 0, address(turned) + panel * ROW, step,
            address(scores) + panel * ROW, step, len(keys), depth, 0,
        )  # fmt: skip


@njit(nogil=True, cache=True, **INNER)
def mask_reads(scores, rows, tokens):
    """Clear what a query must not read: rows after its token's last."""
    first, n = -(-rows // 4) * 4, rows // tokens
    for row in range(n, rows):
        for token in range(row // n):
            scores[row, first + token] = 0


@njit(nogil=True, cache=True, **INNER)
def solve(like, scores, strengths, values, column, writes, errors):
    """Turn `writes`, K H, into N: row by row n_i = β_i (v_i - (K H)_i - Σ_j<i scores_ji n_j)."""
    rows, size, step = len(strengths), like.itemsize, scores.shape[1] * like.itemsize
    lanes = lanes_of(like)
    used = min(lanes, values.shape[1] - column)
    a, c = address(scores), address(writes)
    for block in range(0, rows, 4):
        if block:
            count = min(4, rows - block)
            by_rows(
                like, a + block * size, size, step, 0, c, ROW, c + block * ROW, ROW, count, block, 1
            )
        for i in range(block, min(block + 4, rows)):
            if i > block:
                tile_1(
                    like, a + block * step + i * size, size, step, 0, c + block * ROW, ROW,
                    c + i * ROW, ROW, i - block, 1,
                )  # fmt: skip
            strength = strengths[i]
            if used == lanes and len(errors):
                for lane in range(lanes):
                    error = values[i, column + lane] - writes[i, lane]
                    errors[i, column + lane] = error
                    writes[i, lane] = strength * error
            elif used == lanes:
                for lane in range(lanes):
                    writes[i, lane] = strength * (values[i, column + lane] - writes[i, lane])
            else:
                for lane in range(used):
                    error = values[i, column + lane] - writes[i, lane]
                    if len(errors):
                        errors[i, column + lane] = error
                    writes[i, lane] = strength * error


@njit(nogil=True, cache=True, **INNER)
def read(like, scores, rows, tokens, writes, reads):
    """Add what queries read of the chunk's own writes, four tokens at a time."""
    size, step, n = like.itemsize, scores.shape[1] * like.itemsize, rows // tokens
    a = address(scores) + -(-rows // 4) * 4 * size
    for token in range(0, tokens, 4):
        count = min(4, tokens - token)
        by_rows(
            like, a + token * size, size, step, 0, address(writes), ROW,
            address(reads) + token * ROW, ROW, count, n * (token + count), 1,
        )  # fmt: skip


@njit(nogil=True, cache=True, **INNER)
def put(reads, scale, output, column):
    """Write out a panel of what was read."""
    lanes = lanes_of(reads)
    if column + lanes <= output.shape[1]:
        for i in range(len(output)):
            for lane in range(lanes):
                output[i, column + lane] = scale * reads[i, lane]
    else:
        for i in range(len(output)):
            for lane in range(output.shape[1] - column):
                output[i, column + lane] = scale * reads[i, lane]


@njit(nogil=True, cache=True, **INNER)
def shrink(panel, left):
    """Let the state decay over the whole chunk."""
    for row in range(panel.shape[0]):
        factor = left[0, row]
        for lane in range(lanes_of(panel)):
            panel[row, lane] *= factor


@njit(nogil=True, cache=True, **INNER)
def decay_scores(keys, queries, gates, chunk):
    """Let scores decay from the row that writes to the row that reads.

    By running products, never by quotients: a decay to zero leaves zeros.
    """
    rows, width = keys.shape
    n, at = rows // len(queries), -(-rows // 4) * 4
    if gates.shape[1] == 1:
        fill(chunk.between[:rows], 0)
        for j in range(rows):
            factor = keys.dtype.type(1)
            for i in range(j, rows):
                if i > j and i % n == 0:
                    factor *= gates[i // n, 0]
                chunk.between[j, i] = factor
                if i % n == n - 1:
                    chunk.between[j, at + i // n] = factor
        scale_by(chunk.scores[:rows], chunk.between)
        return
    carried = chunk.carried[0]
    for j in range(rows):
        for d in range(width):
            carried[d] = keys[j, d]
        for i in range(j, rows):
            if i > j and i % n == 0:
                for d in range(width):
                    carried[d] *= gates[i // n, d]
            chunk.scores[j, i] = dot(carried, keys[i])
            if i % n == n - 1:
                chunk.scores[j, at + i // n] = dot(carried, queries[i // n])


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"}, **INNER)
def dot(x, y):
    """Sum the products of two real vectors."""
    total = x.dtype.type(0)
    for d in range(x.size):
        total += x[d] * y[d]
    return total


@njit(nogil=True, cache=True, **INNER)
def load_writes(errors, strengths, column, writes):
    """Fill a panel with β_i times the errors; zeros beyond the columns."""
    lanes, values = writes.shape[1], errors.shape[1]
    used = min(lanes, values - column)
    for i in range(len(strengths)):
        strength = strengths[i]
        for lane in range(used):
            writes[i, lane] = strength * errors[i, column + lane]
        for lane in range(used, lanes):
            writes[i, lane] = 0


@njit(nogil=True, cache=True, **INNER)
def load_cotangent(of_output, scale, column, pulled):
    """Fill a panel with the output's cotangent, scaled; zeros beyond the columns."""
    lanes, values = pulled.shape[1], of_output.shape[1]
    used = min(lanes, values - column)
    for i in range(len(of_output)):
        for lane in range(used):
            pulled[i, lane] = scale * of_output[i, column + lane]
        for lane in range(used, lanes):
            pulled[i, lane] = 0


@njit(nogil=True, cache=True, **INNER)
def pull_reads(like, scores, rows, tokens, pulled, solved):
    """Fill `solved` with what the reads pull back to the writes."""
    size, step, at = like.itemsize, scores.shape[1] * like.itemsize, -(-rows // 4) * 4
    by_rows(
        like, address(scores) + at * size, step, size, 0, address(pulled) + at * ROW, ROW,
        address(solved), ROW, rows, tokens, 0,
    )  # fmt: skip


@njit(nogil=True, cache=True, **INNER)
def solve_back(
    like, scores, strengths, errors, column, solved, pulled, of_values, of_strengths
):  # fmt: skip
    """Turn `solved`, dN, into Z, last row first: z_i = dn_i - Σ_j>i scores_ij β_j z_j.

    `pulled` gets -β Z, and the gradients of values and strengths are β Z and Z · errors.
    """
    rows, size, step = len(strengths), like.itemsize, scores.shape[1] * like.itemsize
    lanes = lanes_of(like)
    used = min(lanes, errors.shape[1] - column)
    a, b, c = address(scores), address(pulled), address(solved)
    for block in range((rows - 1) // 4 * 4, -1, -4):
        end = min(block + 4, rows)
        if end < rows:
            by_rows(
                like, a + block * step + end * size, step, size, 0, b + end * ROW, ROW,
                c + block * ROW, ROW, end - block, rows - end, 1,
            )  # fmt: skip
        for i in range(end - 1, block - 1, -1):
            if i < end - 1:
                tile_1(
                    like, a + i * step + (i + 1) * size, step, size, 0, b + (i + 1) * ROW, ROW,
                    c + i * ROW, ROW, end - 1 - i, 1,
                )  # fmt: skip
            strength = strengths[i]
            for lane in range(lanes):
                pulled[i, lane] = -strength * solved[i, lane]
            for lane in range(used):
                of_values[i, column + lane] = -pulled[i, lane]
            of_strengths[i] += dot(solved[i, :used], errors[i, column : column + used])


@njit(nogil=True, cache=True, **INNER)
def mask_weights(weights, rows, tokens):
    """Clear what the masks of the scores clear, and a key's score with itself."""
    for j in range(rows):
        for i in range(j + 1):
            weights[j, i] = 0
    mask_reads(weights, rows, tokens)


@njit(nogil=True, cache=True, **INNER)
def mix(like, gates, head, begin, chunk, weights, rows, tokens, of_rows, of_columns):
    """Add the gradients of the scores to those of the rows that read, and of the keys that write.

    What is there already came through the states at the start and at the end: it decays first.
    """
    stack_rows = -(-rows // 4) * 4 + tokens
    if gates is not None:
        scale_by(of_rows[:stack_rows], chunk.since)
        scale_by(of_columns[:rows], chunk.until)
        if gates.shape[2] > 1:
            factors = gates[head, begin : begin + tokens]
            mix_by_columns(factors, chunk, weights, rows, of_rows, of_columns)
            return
        scale_by(weights[:rows], chunk.between)
    size, step = like.itemsize, weights.shape[1] * like.itemsize
    stride = chunk.raw.shape[1] * size
    a, b = address(weights), address(chunk.raw)
    for column in range(0, stride, ROW):
        by_rows(
            like, a, size, step, 0, b + column, stride, address(of_rows) + column, stride,
            stack_rows, rows, 1,
        )  # fmt: skip
        by_rows(
            like, a, step, size, 0, b + column, stride, address(of_columns) + column, stride,
            rows, stack_rows, 1,
        )  # fmt: skip


@njit(nogil=True, cache=True, **INNER)
def mix_by_columns(gates, chunk, weights, rows, of_rows, of_columns):
    """Add the gradients of the scores where every column has decays of its own."""
    tokens, width = gates.shape
    at, n, carried = -(-rows // 4) * 4, rows // tokens, chunk.carried[0]
    for j in range(rows):
        for d in range(width):
            carried[d] = 1
        for i in range(j, rows):
            if i > j and i % n == 0:
                for d in range(width):
                    carried[d] *= gates[i // n, d]
            for place in (i, at + i // n):
                if place == i or i % n == n - 1:
                    weight = weights[j, place]
                    for d in range(width):
                        of_rows[place, d] += weight * carried[d] * chunk.raw[j, d]
                        of_columns[j, d] += weight * carried[d] * chunk.raw[place, d]


@njit(nogil=True, cache=True, **INNER)
def pull_gates(raw, rows, of_rows, of_columns, of_all, of_gates):
    """Sum the gradients of the decays' running sums, from the end of the chunk.

    A sum multiplies the rows that read and divides the keys that write; the last one also
    multiplies the whole state at the end.
    """
    tokens, width = of_gates.shape
    n, at = rows // tokens, -(-rows // 4) * 4
    for d in range(of_all.shape[1]):
        total = of_all[0, d]
        for i in range(rows - 1, -1, -1):
            total += raw[i, d] * (of_rows[i, d] - of_columns[i, d])
            if i % n == n - 1:
                total += raw[at + i // n, d] * of_rows[at + i // n, d]
            if i % n == 0:
                of_gates[i // n, d % width] += total
