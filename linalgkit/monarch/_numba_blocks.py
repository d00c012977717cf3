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

from .._intrinsics import INNER
from .._tiles import (
    ROW,
    VECTOR,
    aligned,
    by_rows,
    copy_row,
    from_panel,
    lanes_of,
    one_from_panel,
    one_to_panel,
    plane_of,
    to_panel,
    transpose_square,
    zero_row,
)


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


@njit(nogil=True, cache=True, **INNER)
def _read(like, source, feature, vector, features, vectors, target, row):
    """Bring vectors, at most `lanes_of`, to panel rows `row` bytes apart; zeros for others."""
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
        for i in range(0, done, side):
            for lane in range(0, squares, side):
                transpose_square(
                    like, source + i * size + lane * vector, vector,
                    target + i * row + lane * size, row,
                )  # fmt: skip
        if plane != size and squares:
            for i in range(done):
                to_panel(like, target + i * row, target + i * row)
    for i in range(features):
        for lane in range(squares if i < done else 0, vectors):
            one_to_panel(
                like, source + i * feature + lane * vector, target + i * row + lane * plane
            )


@njit(nogil=True, cache=True, **INNER)
def _write(like, source, row, features, vectors, target, feature, vector):
    """Undo `_read`; the panel is spoiled."""
    size, lanes, plane = like.itemsize, lanes_of(like), plane_of(like)
    side, done, squares = VECTOR // size, 0, 0
    if vectors == lanes and vector == size:
        for i in range(features):
            from_panel(like, source + i * row, target + i * feature)
        return
    if feature == size:
        done, squares = features // side * side, vectors // side * side
    for i in range(features):
        for lane in range(squares if i < done else 0, vectors):
            one_from_panel(
                like, source + i * row + lane * plane, target + i * feature + lane * vector
            )
    if squares:
        if plane != size:
            for i in range(done):
                from_panel(like, source + i * row, source + i * row)
        for i in range(0, done, side):
            for lane in range(0, squares, side):
                transpose_square(
                    like, source + i * row + lane * size, row,
                    target + i * size + lane * vector, vector,
                )  # fmt: skip


@njit(nogil=True, cache=True, **INNER)
def _turn(like, real, source, row, rows, target):
    """Transpose panel rows `row` bytes apart to panels of ROW × lanes side by side in memory.

    A row of the result has entries of `lanes` rows of the source. `real` has the type of the parts.
    """
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


@njit(nogil=True, cache=True, **INNER)
def rights(start, stop, like, first, last, x, right, u, spare):
    """Fill rows of the panels `first` to `last` of u = R x from the blocks `start` to `stop`."""
    lanes, plane = lanes_of(like), plane_of(like)
    features, height, step = right.columns, right.blocks * right.rows * ROW, np.intp(ROW)
    for block in range(start, stop):
        for panel in range(first, last):
            place = x.address + block * features * x.feature + panel * lanes * x.vector
            width = min(lanes, x.number - panel * lanes)
            _read(like, place, x.feature, x.vector, features, width, spare, step)
            by_rows(
                like, right.address + block * right.block, right.row, right.column, plane,
                spare, ROW, u + (panel - first) * height + block * right.rows * ROW, ROW,
                right.rows, features, 0,
            )  # fmt: skip


@njit(nogil=True, cache=True, **INNER)
def lefts(start, stop, like, first, last, left, y, u, spare):
    """Fill rows of y = L u: from the blocks `start` to `stop`, of the panels `first` to `last`.

    Blocks go in groups, whose rows lie side by side in y.
    """
    lanes, plane, side = lanes_of(like), plane_of(like), 2 * VECTOR // like.itemsize
    height, result = left.blocks * left.columns * ROW, spare + left.columns * ROW
    for group in range(start, stop, side):
        blocks = min(side, stop - group)
        for panel in range(first, last):
            for k in range(blocks):
                place = u + (panel - first) * height + (group + k) * ROW
                for j in range(left.columns):  # side by side: else they share few cache sets
                    copy_row(like, place + j * left.blocks * ROW, spare + j * ROW)
                by_rows(
                    like, left.address + (group + k) * left.block, left.row, left.column, plane,
                    spare, ROW, result + k * left.rows * ROW, ROW, left.rows, left.columns, 0,
                )  # fmt: skip
            width = min(lanes, y.number - panel * lanes)
            place = y.address + group * y.feature + panel * lanes * y.vector
            for i in range(left.rows):
                _write(
                    like, result + i * ROW, left.rows * ROW, blocks, width,
                    place + i * left.blocks * y.feature, y.feature, y.vector,
                )  # fmt: skip


@njit(nogil=True, cache=True)
def tiles(start, stop, like, height, x, left, right, y, buffer):
    """Apply both factors to a range of panels, `height` at a time: u stays in the cache."""
    u, zero = aligned(buffer), np.intp(0)
    spare = u + height * right.blocks * right.rows * ROW
    for first in range(start, stop, height):
        last = min(stop, first + height)
        rights(zero, right.blocks, like, first, last, x, right, u, spare)
        lefts(zero, left.blocks, like, first, last, left, y, u, spare)


@njit(nogil=True, cache=True)
def right_blocks(start, stop, like, x, right, u, buffer):
    """Apply some blocks of the right factor to all vectors."""
    u = aligned(u)
    for panel in range(-(-x.number // lanes_of(like))):  # outside: vectors come in longer pieces
        place = u + panel * right.blocks * right.rows * ROW
        rights(start, stop, like, panel, panel + 1, x, right, place, aligned(buffer))


@njit(nogil=True, cache=True)
def left_blocks(start, stop, like, left, y, u, buffer):
    """Apply some blocks of the left factor to all vectors."""
    panels = -(-y.number // lanes_of(like))
    lefts(start, stop, like, np.intp(0), panels, left, y, aligned(u), aligned(buffer))


@njit(nogil=True, cache=True, **INNER)
def _store(like, block, source, factor):
    """Write one block's sums, `lanes` columns of it in each panel, to a factor."""
    lanes = lanes_of(like)
    for part in range(-(-factor.columns // lanes)):
        _write(
            like, source + part * factor.rows * ROW, np.intp(ROW), factor.rows,
            min(lanes, factor.columns - part * lanes),
            factor.address + block * factor.block + part * lanes * factor.column,
            factor.row, factor.column,
        )  # fmt: skip


@njit(nogil=True, cache=True)
def left_gradients(start, stop, like, real, g, left, of_left, wants_left, wants_v, u, buffer):
    """Some blocks of g uᵀ, and of v = Lᵀ g, which takes the place of u."""
    lanes, plane, side = lanes_of(like), plane_of(like), 2 * VECTOR // like.itemsize
    parts = -(-left.columns // lanes)
    height, u = left.blocks * left.columns * ROW, aligned(u)
    vectors = aligned(buffer)
    turned = vectors + side * left.rows * ROW
    sums = turned + parts * lanes * ROW
    for group in range(start, stop, side):
        blocks = min(side, stop - group)
        for panel in range(-(-g.number // lanes)):
            width = min(lanes, g.number - panel * lanes)
            place = g.address + group * g.feature + panel * lanes * g.vector
            for i in range(left.rows):
                _read(
                    like, place + i * left.blocks * g.feature, g.feature, g.vector, blocks, width,
                    vectors + i * ROW, left.rows * ROW,
                )  # fmt: skip
            for k in range(blocks):
                here, block = vectors + k * left.rows * ROW, u + panel * height + (group + k) * ROW
                if wants_left:
                    _turn(like, real, block, left.blocks * ROW, left.columns, turned)
                    for part in range(parts):
                        by_rows(
                            like, here, ROW, plane, VECTOR, turned + part * lanes * ROW, ROW,
                            sums + (k * parts + part) * left.rows * ROW, ROW,
                            left.rows, width, panel,
                        )  # fmt: skip
                if wants_v:
                    by_rows(
                        like, left.address + (group + k) * left.block, left.column, left.row,
                        plane, here, ROW, block, left.blocks * ROW, left.columns, left.rows, 0,
                    )  # fmt: skip
        if wants_left:
            for k in range(blocks):
                _store(like, group + k, sums + k * parts * left.rows * ROW, of_left)


@njit(nogil=True, cache=True)
def right_gradients(start, stop, like, x, right, of_x, of_right, wants_x, wants_right, v, buffer):
    """Some blocks of v xᵀ and of Rᵀ v."""
    lanes, plane, features, step = lanes_of(like), plane_of(like), right.columns, np.intp(ROW)
    parts = -(-features // lanes)
    height, v = right.blocks * right.rows * ROW, aligned(v)
    vectors = aligned(buffer)
    sums = vectors + max(features, lanes) * ROW
    panels = -(-x.number // lanes)
    for panel in range(panels if wants_x else 0):
        width = min(lanes, x.number - panel * lanes)
        for block in range(start, stop):
            by_rows(
                like, right.address + block * right.block, right.column, right.row, plane,
                v + panel * height + block * right.rows * ROW, ROW, vectors, ROW,
                features, right.rows, 0,
            )  # fmt: skip
            place = of_x.address + block * features * of_x.feature + panel * lanes * of_x.vector
            _write(like, vectors, step, features, width, place, of_x.feature, of_x.vector)
    for block in range(start, stop if wants_right else start):
        for panel in range(panels):
            width = min(lanes, x.number - panel * lanes)
            place = x.address + block * features * x.feature + panel * lanes * x.vector
            for part in range(parts):
                _read(
                    like, place + part * lanes * x.feature, x.vector, x.feature, width,
                    min(lanes, features - part * lanes), vectors, step,
                )  # fmt: skip
                by_rows(
                    like, v + panel * height + block * right.rows * ROW, ROW, plane, VECTOR,
                    vectors, ROW, sums + part * right.rows * ROW, ROW, right.rows, width, panel,
                )  # fmt: skip
        _store(like, block, sums, of_right)
