"""Kernels of the delta rule: chunks of tokens against a state that stays in the cache.

Columns of the state never meet, so it is cut into panels as wide as two machine vectors (`_tiles`),
and all but the scores of a chunk (its keys among themselves and with its queries) goes panel by
panel. Bounded by multiplications; the 16 rows of a chunk keep the triangular part small.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from .._tiles import (
    ROW,
    TALL,
    VECTOR,
    aligned,
    lanes_of,
    tile_1,
    tile_2,
    tile_4,
    tile_tall,
    transpose_square,
)


class Sizes(NamedTuple):
    """Numbers of rows and columns that a kernel works with; `tokens` of a chunk."""

    heads: int
    length: int
    tokens: int
    reflections: int
    width: int
    values: int
    groups: int  # parts that the columns of a head are cut into, each a unit of work


@njit(nogil=True, cache=True)
def forward(start, stop, like, sizes, scale, q, k, v, beta, gates, initial, output, state, buffer):
    """Run the heads' groups of columns from `start` to `stop` through all chunks.

    gates (heads, length, 0, 1 or width) are logarithms; `initial` without heads stands for zeros.
    """
    lanes, n, dk = lanes_of(like), sizes.reflections, sizes.width
    panels = -(-sizes.values // lanes)
    rows = sizes.tokens * n
    shift = (aligned(buffer) - buffer.ctypes.data) // like.itemsize
    columns = stack_width(rows, sizes.tokens, lanes)
    turned, shift = take(buffer, shift, dk, columns)
    scores, shift = take(buffer, shift, rows, columns)
    seen, shift = take(buffer, shift, rows + sizes.tokens, dk)
    late, shift = take(buffer, shift, rows, dk)
    left, shift = take(buffer, shift, 1, dk)
    writes, shift = take(buffer, shift, rows, lanes)
    reads, shift = take(buffer, shift, sizes.tokens, lanes)
    for unit in range(start, stop):
        head, group = divmod(unit, sizes.groups)
        first, last = panels * group // sizes.groups, panels * (group + 1) // sizes.groups
        held, _ = take(buffer, shift, (last - first) * dk, lanes)
        load_state(initial, head, first, last, held)
        for begin in range(0, sizes.length, sizes.tokens):
            end = min(begin + sizes.tokens, sizes.length)
            keys, queries = k[head, begin * n : end * n], q[head, begin:end]
            strengths, decay = beta[head, begin * n : end * n], gates[head, begin:end]
            score(like, keys, queries, turned, scores)
            if gates.shape[2]:
                decay_scores(keys, queries, decay, scores)
                decay_rows(keys, queries, decay, seen, late, left)
                early_keys = seen[: len(keys)]
                early_queries = seen[len(keys) : len(keys) + len(queries)]
                late_keys = late[: len(keys)]
            else:
                early_keys, early_queries, late_keys = keys, queries, keys
            mask_reads(scores, len(keys), len(queries))
            for panel in range(first, last):
                h = held[(panel - first) * dk : (panel - first + 1) * dk]
                multiply(like, early_keys, h, writes, 0)
                multiply(like, early_queries, h, reads, 0)
                column = panel * lanes
                solve(like, scores, strengths, v[head, begin * n : end * n], column, writes)
                read(like, scores, len(keys), len(queries), writes, reads)
                put(reads, scale, output[head, begin:end], column)
                if gates.shape[2]:
                    shrink(h, left)
                multiply_turned(like, late_keys, writes, h)
        store_state(held, first, last, state[head])


@njit(nogil=True, cache=True)
def stack_width(rows, tokens, lanes):
    """Columns of the scores: keys, then from a multiple of four on queries, in whole panels."""
    return -(-(-(-rows // 4) * 4 + tokens) // lanes) * lanes


@njit(nogil=True, cache=True)
def take(buffer, shift, rows, columns):
    """Take an array from the buffer; the next one begins at a multiple of a panel row."""
    lanes = lanes_of(buffer)
    end = shift + rows * columns
    return buffer[shift:end].reshape(rows, columns), shift + -(-rows * columns // lanes) * lanes


@njit(nogil=True, cache=True)
def load_state(initial, head, first, last, held):
    """Bring columns of the state at the start to panels."""
    held[:] = 0
    if not len(initial):
        return
    lanes, (_, dk, values) = held.shape[1], initial.shape
    for panel in range(first, last):
        begin = panel * lanes
        for row in range(dk):
            target = held[(panel - first) * dk + row]
            for lane in range(min(lanes, values - begin)):
                target[lane] = initial[head, row, begin + lane]


@njit(nogil=True, cache=True)
def store_state(held, first, last, state):
    """Undo `load_state`."""
    lanes, (dk, values) = held.shape[1], state.shape
    for panel in range(first, last):
        begin = panel * lanes
        for row in range(dk):
            source = held[(panel - first) * dk + row]
            for lane in range(min(lanes, values - begin)):
                state[row, begin + lane] = source[lane]


@njit(nogil=True, cache=True)
def turn(like, rows, turned, column):
    """Put rows as columns from `column` on."""
    side, size = VECTOR // like.itemsize, like.itemsize
    count, width = rows.shape
    across, down = count // side * side, width // side * side
    step, stride = turned.shape[1] * size, width * size
    for i in range(0, across, side):
        for j in range(0, down, side):
            transpose_square(
                like,
                rows.ctypes.data + i * stride + j * size,
                stride,
                turned.ctypes.data + j * step + (column + i) * size,
                step,
            )
    for i in range(count):
        for j in range(down if i < across else 0, width):
            turned[j, column + i] = rows[i, j]


@njit(nogil=True, cache=True)
def score(like, keys, queries, turned, scores):
    """Fill scores[j] with key j times all keys, and times all queries."""
    rows, step = -(-len(keys) // 4) * 4, turned.shape[1] * like.itemsize
    turn(like, keys, turned, 0)
    turn(like, queries, turned, rows)
    stride, depth = keys.shape[1] * like.itemsize, keys.shape[1]
    for panel in range(-(-(rows + len(queries)) // lanes_of(like))):
        by_rows(
            like, keys.ctypes.data, stride, like.itemsize, turned.ctypes.data + panel * ROW, step,
            scores.ctypes.data + panel * ROW, step, len(keys), depth, 0,
        )  # fmt: skip


@njit(nogil=True, cache=True)
def by_rows(like, a, a_row, a_step, b, b_step, c, c_row, rows, depth, adds):
    """Multiply `rows` rows by a panel of `depth` rows: C = A B, or with `adds` C += A B."""
    i = 0
    while i + TALL <= rows:
        tile_tall(like, a, a_row, a_step, 0, b, b_step, c, c_row, depth, adds)
        i, a, c = i + TALL, a + TALL * a_row, c + TALL * c_row
    while i + 4 <= rows:
        tile_4(like, a, a_row, a_step, 0, b, b_step, c, c_row, depth, adds)
        i, a, c = i + 4, a + 4 * a_row, c + 4 * c_row
    if i + 2 <= rows:
        tile_2(like, a, a_row, a_step, 0, b, b_step, c, c_row, depth, adds)
        i, a, c = i + 2, a + 2 * a_row, c + 2 * c_row
    if i < rows:
        tile_1(like, a, a_row, a_step, 0, b, b_step, c, c_row, depth, adds)


@njit(nogil=True, cache=True)
def multiply(like, rows, panel, target, adds):
    """Fill or add to `target` the rows times a panel."""
    stride = rows.shape[1] * like.itemsize
    by_rows(
        like, rows.ctypes.data, stride, like.itemsize, panel.ctypes.data, ROW,
        target.ctypes.data, ROW, rows.shape[0], rows.shape[1], adds,
    )  # fmt: skip


@njit(nogil=True, cache=True)
def multiply_turned(like, rows, panel, target):
    """Add to `target` the transpose of the rows times a panel."""
    stride = rows.shape[1] * like.itemsize
    by_rows(
        like, rows.ctypes.data, like.itemsize, stride, panel.ctypes.data, ROW,
        target.ctypes.data, ROW, rows.shape[1], rows.shape[0], 1,
    )  # fmt: skip


@njit(nogil=True, cache=True)
def mask_reads(scores, rows, tokens):
    """Clear what a query must not read: rows after its token's last."""
    first, n = -(-rows // 4) * 4, rows // tokens
    for token in range(tokens):
        for row in range(n * (token + 1), rows):
            scores[row, first + token] = 0


@njit(nogil=True, cache=True)
def solve(like, scores, strengths, values, column, writes):
    """Turn `writes`, K H, into N: row by row n_i = β_i (v_i - (K H)_i - Σ_j<i scores_ji n_j)."""
    rows, size, step = len(strengths), like.itemsize, scores.shape[1] * like.itemsize
    lanes = lanes_of(like)
    used = min(lanes, values.shape[1] - column)
    a, c = scores.ctypes.data, writes.ctypes.data
    for block in range(0, rows, 4):
        if block:
            count = min(4, rows - block)
            by_rows(
                like, a + block * size, size, step, c, ROW, c + block * ROW, ROW, count, block, 1
            )
        for i in range(block, min(block + 4, rows)):
            if i > block:
                tile_1(
                    like, a + block * step + i * size, size, step, 0, c + block * ROW, ROW,
                    c + i * ROW, ROW, i - block, 1,
                )  # fmt: skip
            strength = strengths[i]
            if used == lanes:
                for lane in range(lanes):
                    writes[i, lane] = strength * (values[i, column + lane] - writes[i, lane])
            else:
                for lane in range(used):
                    writes[i, lane] = strength * (values[i, column + lane] - writes[i, lane])


@njit(nogil=True, cache=True)
def read(like, scores, rows, tokens, writes, reads):
    """Add what queries read of the chunk's own writes, four tokens at a time."""
    size, step, n = like.itemsize, scores.shape[1] * like.itemsize, rows // tokens
    a = scores.ctypes.data + -(-rows // 4) * 4 * size
    for token in range(0, tokens, 4):
        count = min(4, tokens - token)
        by_rows(
            like, a + token * size, size, step, writes.ctypes.data, ROW,
            reads.ctypes.data + token * ROW, ROW, count, n * (token + count), 1,
        )  # fmt: skip


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
def shrink(panel, left):
    """Let the state decay over the whole chunk."""
    for row in range(panel.shape[0]):
        factor = left[0, row]
        for lane in range(lanes_of(panel)):
            panel[row, lane] *= factor


@njit(nogil=True, cache=True)
def decay_scores(keys, queries, gates, scores):
    """Let scores decay from the row that writes to the row that reads.

    By running products, never by quotients: a decay to zero leaves zeros.
    """
    rows, width = keys.shape
    n, first = rows // len(queries), -(-rows // 4) * 4
    if gates.shape[1] == 1:
        for j in range(rows):
            factor = keys.dtype.type(1)
            for i in range(j, rows):
                if i > j and i % n == 0:
                    factor *= np.exp(gates[i // n, 0])
                scores[j, i] *= factor
                if i % n == n - 1:
                    scores[j, first + i // n] *= factor
        return
    factors = np.exp(gates)
    carried = np.empty(width, keys.dtype)
    for j in range(rows):
        carried[:] = keys[j]
        for i in range(j, rows):
            if i > j and i % n == 0:
                for d in range(width):
                    carried[d] *= factors[i // n, d]
            scores[j, i] = dot(carried, keys[i])
            if i % n == n - 1:
                scores[j, first + i // n] = dot(carried, queries[i // n])


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def dot(x, y):
    """Sum the products of two real vectors."""
    total = x.dtype.type(0)
    for d in range(x.size):
        total += x[d] * y[d]
    return total


@njit(nogil=True, cache=True)
def decay_rows(keys, queries, gates, seen, late, left):
    """Fill keys and queries as the state at the start sees them, and keys as the end does."""
    rows, width = keys.shape
    n = rows // len(queries)
    factors = np.exp(gates)
    left[:] = 1
    for i in range(rows):
        token = i // n
        for d in range(width):
            if i % n == 0:
                left[0, d] *= factors[token, d % gates.shape[1]]
            seen[i, d] = left[0, d] * keys[i, d]
            if i % n == n - 1:
                seen[rows + token, d] = left[0, d] * queries[token, d]
    since = np.ones(width, keys.dtype)
    for i in range(rows - 1, -1, -1):
        for d in range(width):
            late[i, d] = since[d] * keys[i, d]
            if i % n == 0:
                since[d] *= factors[i // n, d % gates.shape[1]]
