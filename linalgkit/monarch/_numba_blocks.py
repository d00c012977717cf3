"""Kernels of the products with block-diagonal factors, on panels of vectors side by side.

A panel has one row a feature, with that entry of a few vectors side by side; the permutation
between the factors is the choice of its rows. Bounded by multiplications: a tile of TALL rows reads
two machine vectors and TALL numbers for 2 TALL of them. Vectors come in and go out by any strides,
through transposes in registers where the entries of one lie side by side. Constants that kernels
give each other are ``np.intp``: a literal is a type of its own, for which all would be compiled.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from .._intrinsics import INNER, for_size
from .._tiles import (
    ROW,
    TALL,
    VECTOR,
    aligned,
    by_rows,
    fetch_rows,
    from_panel,
    lanes_of,
    one_from_panel,
    one_to_panel,
    plane_of,
    to_panel,
    transpose_square,
    zero_row,
)

_LINE = 64  # bytes of a cache line
_PIECE = 2 * TALL  # rows of products between which cache lines are asked for, few at a time


class Vectors(NamedTuple):
    """Where vectors lie: an address, strides in bytes, and how many there are."""

    address: int
    feature: int
    vector: int
    number: int


class Factor(NamedTuple):
    """Where the blocks of a factor lie: an address, strides in bytes, and their sizes."""

    address: int
    block: int
    row: int
    column: int
    blocks: int
    rows: int
    columns: int


@njit(nogil=True, cache=True, error_model="numpy", **INNER)
def _fetch(like, place, feature, vector, features, vectors, begin, end, total):
    """Ask for a share of the cache lines of vectors, to be read or written soon."""
    for_size()
    if feature == like.itemsize:
        lines = -(-features * feature // _LINE)
        for i in range(vectors * begin // total, vectors * end // total):
            fetch_rows(like, place + i * vector, np.intp(_LINE), lines)
    else:
        begin, end = features * begin // total, features * end // total
        fetch_rows(like, place + begin * feature, feature, end - begin)


@njit(nogil=True, cache=True, error_model="numpy", **INNER)
def _read(like, source, feature, vector, features, vectors, target, row):
    """Bring vectors, at most `lanes_of`, to panel rows `row` bytes apart; zeros for others."""
    for_size()
    size, lanes, plane = like.itemsize, lanes_of(like), plane_of(like)
    side, done, squares = VECTOR // size, 0, 0
    if vectors == lanes and vector == size:
        for i in range(features):
            to_panel(like, source + i * feature, target + i * row)
        return
    if vectors < lanes:
        for i in range(features):
            zero_row(like, target + i * row)
    if feature == size:
        done, squares = features // side * side, vectors // side * side
        for lane in range(0, squares, side):  # outside: whole cache lines of a few vectors
            for i in range(0, done, side):
                transpose_square(
                    like, source + i * size + lane * vector, vector,
                    target + i * row + lane * size, row,
                )  # fmt: skip
        if plane != size and squares:
            for i in range(done):
                to_panel(like, target + i * row, target + i * row)
    for i in range(done if squares == vectors else 0, features):
        for lane in range(squares if i < done else 0, vectors):
            one_to_panel(
                like, source + i * feature + lane * vector, target + i * row + lane * plane
            )


@njit(nogil=True, cache=True, error_model="numpy", **INNER)
def _write(like, source, row, features, vectors, target, feature, vector):
    """Undo `_read`; the panel is spoiled."""
    for_size()
    size, lanes, plane = like.itemsize, lanes_of(like), plane_of(like)
    side, done, squares = VECTOR // size, 0, 0
    if vectors == lanes and vector == size:
        for i in range(features):
            from_panel(like, source + i * row, target + i * feature)
        return
    if feature == size:
        done, squares = features // side * side, vectors // side * side
    for i in range(done if squares == vectors else 0, features):
        for lane in range(squares if i < done else 0, vectors):
            one_from_panel(
                like, source + i * row + lane * plane, target + i * feature + lane * vector
            )
    if squares:
        if plane != size:
            for i in range(done):
                from_panel(like, source + i * row, source + i * row)
        for lane in range(0, squares, side):
            if done > 2 * side:  # several cache lines: from the outer cache
                for i in range(lane, lane + side):
                    fetch_rows(like, target + i * vector, np.intp(_LINE), done * size // _LINE)
            for i in range(0, done, side):
                transpose_square(
                    like, source + i * row + lane * size, row,
                    target + i * size + lane * vector, vector,
                )  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy", **INNER)
def _turn(like, real, source, row, rows, target):
    """Transpose panel rows `row` bytes apart to panels of ROW × lanes side by side in memory.

    A row of the result has entries of `lanes` rows of the source. `real` has the type of the parts.
    """
    for_size()
    lanes, plane, side = lanes_of(like), plane_of(like), VECTOR // plane_of(like)
    for i in range(0, rows, side):
        place = target + i // lanes * lanes * ROW + i % lanes * plane
        for half in range(2):  # lanes of the source, or real and imaginary parts of all
            there = place + half * (VECTOR if lanes == side else side * ROW)
            if i + side <= rows:
                here = source + i * row + half * VECTOR
                transpose_square(real, here, row, there, ROW)
            else:
                for j in range(i, rows):
                    for lane in range(side):
                        one_to_panel(
                            real,
                            source + j * row + half * VECTOR + lane * plane,
                            there + (j - i) * plane + lane * ROW,
                        )


@njit(nogil=True, cache=True, error_model="numpy", **INNER)
def rights(start, stop, like, first, last, x, right, run, u, spare):
    """Fill rows of the panels `first` to `last` of u = R x from the blocks `start` to `stop`.

    After each `run` rows of u one is left out.
    """
    for_size()
    lanes, plane = lanes_of(like), plane_of(like)
    features, step = right.columns, np.intp(ROW)
    height = right.blocks * right.rows
    height = (height + height // run) * ROW
    for block in range(start, stop):
        for panel in range(first, last):
            place = x.address + block * features * x.feature + panel * lanes * x.vector
            width = min(lanes, x.number - panel * lanes)
            _read(like, place, x.feature, x.vector, features, width, spare, step)
            place += features * x.feature  # the next block's
            begin = np.intp(0)
            while begin < right.rows:
                row = block * right.rows + begin
                rows = min(_PIECE, right.rows - begin, run - row % run)
                end = begin + rows
                _fetch(
                    like, place, x.feature, x.vector, features, width, begin, end, right.rows
                )  # fmt: skip
                by_rows(
                    like, right.address + block * right.block + begin * right.row,
                    right.row, right.column, plane, spare, step,
                    u + (panel - first) * height + (row + row // run) * ROW, ROW,
                    rows, features, 0,
                )  # fmt: skip
                begin = end


@njit(nogil=True, cache=True, error_model="numpy", **INNER)
def lefts(start, stop, like, first, last, left, y, run, u, result):
    """Fill rows of y = L u: from the blocks `start` to `stop`, of the panels `first` to `last`.

    Rows of blocks lie side by side in y: where entries of one vector do, too, blocks go in groups,
    so that cache lines are written as wholes.
    """
    for_size()
    lanes, plane, is_across = lanes_of(like), plane_of(like), y.feature == like.itemsize
    side, square = 2 * VECTOR // like.itemsize if is_across else 1, VECTOR // plane
    tall, step = (left.rows + 1) * ROW, (left.blocks + left.blocks // run) * ROW
    ahead, height = left.blocks * y.feature, left.blocks * left.columns
    height = (height + height // run) * ROW
    for group in range(start, stop, side):
        blocks = min(side, stop - group)
        for panel in range(first, last):
            width = min(lanes, y.number - panel * lanes)
            place = y.address + group * y.feature + panel * lanes * y.vector
            for k in range(blocks):
                for row in range(0, left.rows, _PIECE):
                    rows = min(_PIECE, left.rows - row)
                    if is_across:
                        begin, end = width * row // left.rows, width * (row + rows) // left.rows
                        for i in range(k * left.rows // blocks, (k + 1) * left.rows // blocks):
                            there = place + i * ahead + begin * y.vector
                            fetch_rows(like, there, y.vector, end - begin)
                    else:
                        fetch_rows(like, place + row * ahead, ahead, rows)
                    by_rows(
                        like, left.address + (group + k) * left.block + row * left.row,
                        left.row, left.column, plane,
                        u + (panel - first) * height + (group + k) * ROW, step,
                        result + k * tall + row * ROW, ROW, rows, left.columns, 0,
                    )  # fmt: skip
                    if not is_across:
                        _write(
                            like, result + row * ROW, np.intp(ROW), rows, width,
                            place + row * ahead, ahead, y.vector,
                        )  # fmt: skip
            for lane in range(0, width if is_across else 0, square):
                part = min(square, width - lane)
                for row in range(left.rows):
                    there = place + row * ahead + lane * y.vector
                    fetch_rows(like, there + 2 * ahead, y.vector, part)  # from the outer cache
                    _write(
                        like, result + row * ROW + lane * plane, tall, blocks, part,
                        there, y.feature, y.vector,
                    )  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy")
def tiles(start, stop, like, height, x, left, right, y, run, buffer):
    """Apply both factors to a range of panels, `height` at a time: u stays in the cache."""
    for_size()
    u, zero, inner = aligned(buffer), np.intp(0), right.blocks * right.rows
    spare = u + height * (inner + inner // run) * ROW
    for first in range(start, stop, height):
        last = min(stop, first + height)
        rights(zero, right.blocks, like, first, last, x, right, run, u, spare)
        lefts(zero, left.blocks, like, first, last, left, y, run, u, spare)


@njit(nogil=True, cache=True, error_model="numpy")
def right_blocks(start, stop, like, x, right, run, u, buffer):
    """Apply some blocks of the right factor to all vectors."""
    for_size()
    u, inner = aligned(u), right.blocks * right.rows
    for panel in range(-(-x.number // lanes_of(like))):  # outside: vectors come in longer pieces
        place = u + panel * (inner + inner // run) * ROW
        rights(start, stop, like, panel, panel + 1, x, right, run, place, aligned(buffer))


@njit(nogil=True, cache=True, error_model="numpy")
def left_blocks(start, stop, like, left, y, run, u, buffer):
    """Apply some blocks of the left factor to all vectors."""
    for_size()
    panels = -(-y.number // lanes_of(like))
    lefts(start, stop, like, np.intp(0), panels, left, y, run, aligned(u), aligned(buffer))


@njit(nogil=True, cache=True, error_model="numpy", **INNER)
def _store(like, block, source, factor):
    """Write one block's sums, `lanes` columns of it in each panel, to a factor."""
    for_size()
    lanes = lanes_of(like)
    for part in range(-(-factor.columns // lanes)):
        _write(
            like, source + part * factor.rows * ROW, np.intp(ROW), factor.rows,
            min(lanes, factor.columns - part * lanes),
            factor.address + block * factor.block + part * lanes * factor.column,
            factor.row, factor.column,
        )  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy")
def left_gradients(
    start,
    stop,
    like,
    real,
    g,
    left,
    of_left,
    wants_left,
    wants_v,
    before,
    ends,
    run,
    u,
    sums,
    buffer,
):
    """Some blocks of g uᵀ, and of v = Lᵀ g, which takes the place of u.

    Sums go on from the panels `before` these, and are written to a factor where the last ends; only
    between strips of the batch are they kept in `sums`.
    """
    for_size()
    lanes, plane, side = lanes_of(like), plane_of(like), 2 * VECTOR // like.itemsize
    parts = -(-left.columns // lanes)
    tall, step = (left.rows + 1) * ROW, (left.blocks + left.blocks // run) * ROW
    height, u, panels = left.blocks * left.columns, aligned(u), -(-g.number // lanes)
    height = (height + height // run) * ROW
    vectors = aligned(buffer)
    turned, zero, one = vectors + side * tall, np.intp(0), np.intp(1)
    for group in range(start, stop, side):
        blocks = min(side, stop - group)
        totals = turned + parts * lanes * ROW
        if before or not ends:
            totals = aligned(sums) + group * parts * left.rows * ROW
        for panel in range(panels):
            width = min(lanes, g.number - panel * lanes)
            place = g.address + group * g.feature + panel * lanes * g.vector
            for i in range(left.rows):
                _read(
                    like, place + i * left.blocks * g.feature, g.feature, g.vector, blocks, width,
                    vectors + i * ROW, tall,
                )  # fmt: skip
            for k in range(blocks):
                here, block = vectors + k * tall, u + panel * height + (group + k) * ROW
                for i in range(k * left.rows // blocks, (k + 1) * left.rows // blocks):
                    _fetch(
                        like, place + i * left.blocks * g.feature + lanes * g.vector,
                        g.feature, g.vector, blocks, width, zero, one, one,
                    )  # fmt: skip
                if wants_left:
                    _turn(like, real, block, step, left.columns, turned)
                    for part in range(parts):
                        by_rows(
                            like, here, ROW, plane, VECTOR, turned + part * lanes * ROW, ROW,
                            totals + (k * parts + part) * left.rows * ROW, ROW,
                            left.rows, width, before + panel,
                        )  # fmt: skip
                if wants_v:
                    by_rows(
                        like, left.address + (group + k) * left.block, left.column, left.row,
                        plane, here, ROW, block, step, left.columns, left.rows, 0,
                    )  # fmt: skip
        if wants_left and ends:
            for k in range(blocks):
                _store(like, group + k, totals + k * parts * left.rows * ROW, of_left)


@njit(nogil=True, cache=True, error_model="numpy")
def right_gradients(
    start,
    stop,
    like,
    x,
    right,
    of_x,
    of_right,
    wants_x,
    wants_right,
    before,
    ends,
    run,
    v,
    sums,
    buffer,
):
    """Some blocks of v xᵀ and of Rᵀ v; sums as in `left_gradients`."""
    for_size()
    lanes, plane, features, step = lanes_of(like), plane_of(like), right.columns, np.intp(ROW)
    parts, height = -(-features // lanes), right.blocks * right.rows
    height, v, vectors = (height + height // run) * ROW, aligned(v), aligned(buffer)
    panels, zero, one = -(-x.number // lanes), np.intp(0), np.intp(1)
    for panel in range(panels if wants_x else 0):
        width = min(lanes, x.number - panel * lanes)
        for block in range(start, stop):
            place = of_x.address + block * features * of_x.feature + panel * lanes * of_x.vector
            _fetch(like, place, of_x.feature, of_x.vector, features, width, zero, one, one)
            first = row = block * right.rows
            while row < first + right.rows:
                rows = min(first + right.rows - row, run - row % run)
                by_rows(
                    like, right.address + block * right.block + (row - first) * right.row,
                    right.column, right.row, plane,
                    v + panel * height + (row + row // run) * ROW, ROW, vectors, ROW,
                    features, rows, row - first,
                )  # fmt: skip
                row += rows
            _write(like, vectors, step, features, width, place, of_x.feature, of_x.vector)
    for block in range(start, stop if wants_right else start):
        totals = vectors + max(features, lanes) * ROW
        if before or not ends:
            totals = aligned(sums) + block * parts * right.rows * ROW
        for panel in range(panels):
            width = min(lanes, x.number - panel * lanes)
            place = x.address + block * features * x.feature + panel * lanes * x.vector
            there = place + lanes * x.vector
            _fetch(like, there, x.feature, x.vector, features, width, zero, one, one)
            for part in range(parts):
                _read(
                    like, place + part * lanes * x.feature, x.vector, x.feature, width,
                    min(lanes, features - part * lanes), vectors, step,
                )  # fmt: skip
                first = row = block * right.rows
                while row < first + right.rows:
                    rows = min(first + right.rows - row, run - row % run)
                    by_rows(
                        like, v + panel * height + (row + row // run) * ROW, ROW, plane, VECTOR,
                        vectors, ROW, totals + (part * right.rows + row - first) * ROW, ROW,
                        rows, width, before + panel,
                    )  # fmt: skip
                    row += rows
        if ends:
            _store(like, block, totals, of_right)
