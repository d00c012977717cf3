"""Kernels of Kronecker products and sums with small factors: neighbouring modes in one pass.

A panel has one row a point of some neighbouring modes, with that point of a few fibres side by side
in machine vectors. It stays in the cache while all these modes are applied, so the grid goes
through memory once for all of them. Bounded by multiplications in register tiles, as long as a
panel fits the cache.
"""

from typing import NamedTuple

from numba import njit

from .._tiles import (
    ROW,
    TALL,
    VECTOR,
    aligned,
    from_panel,
    lanes_of,
    one_from_panel,
    one_to_panel,
    plane_of,
    tile_1,
    tile_2,
    tile_4,
    tile_tall,
    to_panel,
    transpose_square,
    zero_row,
)


class Grid(NamedTuple):
    """A grid as (batch, left, points, right), the points being those of the modes of a pass."""

    batch: int
    left: int
    right: int
    points_in: int
    points_out: int
    panel: int  # the most points in between


@njit(nogil=True, cache=True)
def _multiply(like, a, a_row, a_step, rows, depth, b, b_step, c, c_row, adds):
    """Multiply a matrix by a panel of `depth` rows: C = A B, or with `adds` C += A B."""
    i, a_imag = 0, plane_of(like)
    while i + TALL <= rows and rows - i != 8:  # twice four keep the multipliers busier than 6 + 2
        tile_tall(like, a, a_row, a_step, a_imag, b, b_step, c, c_row, depth, adds)
        i, a, c = i + TALL, a + TALL * a_row, c + TALL * c_row
    while i + 4 <= rows:
        tile_4(like, a, a_row, a_step, a_imag, b, b_step, c, c_row, depth, adds)
        i, a, c = i + 4, a + 4 * a_row, c + 4 * c_row
    if i + 2 <= rows:
        tile_2(like, a, a_row, a_step, a_imag, b, b_step, c, c_row, depth, adds)
        i, a, c = i + 2, a + 2 * a_row, c + 2 * c_row
    if i < rows:
        tile_1(like, a, a_row, a_step, a_imag, b, b_step, c, c_row, depth, adds)


@njit(nogil=True, cache=True)
def _read(like, source, point, fibre, points, fibres, target):
    """Bring fibres, at most `lanes_of`, to panel rows; zeros for others."""
    size, lanes, plane = like.itemsize, lanes_of(like), plane_of(like)
    side, done, squares = VECTOR // size, 0, 0
    if fibres == lanes and fibre == size:
        for i in range(points):
            to_panel(like, source + i * point, target + i * ROW)
        return
    if fibres < lanes:
        for i in range(points):
            zero_row(like, target + i * ROW)
    if point == size:
        done, squares = points // side * side, fibres // side * side
        for i in range(0, done, side):
            for lane in range(0, squares, side):
                transpose_square(
                    like, source + i * size + lane * fibre, fibre,
                    target + i * ROW + lane * size, ROW,
                )  # fmt: skip
        if plane != size and squares:
            for i in range(done):
                to_panel(like, target + i * ROW, target + i * ROW)
    for i in range(points):
        for lane in range(squares if i < done else 0, fibres):
            one_to_panel(like, source + i * point + lane * fibre, target + i * ROW + lane * plane)


@njit(nogil=True, cache=True)
def _write(like, source, points, fibres, target, point, fibre):
    """Undo `_read`; the panel is spoiled."""
    size, lanes, plane = like.itemsize, lanes_of(like), plane_of(like)
    side, done, squares = VECTOR // size, 0, 0
    if fibres == lanes and fibre == size:
        for i in range(points):
            from_panel(like, source + i * ROW, target + i * point)
        return
    if point == size:
        done, squares = points // side * side, fibres // side * side
    for i in range(points):
        for lane in range(squares if i < done else 0, fibres):
            one_from_panel(like, source + i * ROW + lane * plane, target + i * point + lane * fibre)
    if squares:
        if plane != size:
            for i in range(done):
                from_panel(like, source + i * ROW, source + i * ROW)
        for i in range(0, done, side):
            for lane in range(0, squares, side):
                transpose_square(
                    like, source + i * ROW + lane * size, ROW,
                    target + i * size + lane * fibre, fibre,
                )  # fmt: skip


@njit(nogil=True, cache=True)
def products(start, stop, like, grid, steps, factors, x, y, buffer):
    """Apply some modes, the last one first, to panels of the grid at x; the result is at y.

    A row of `steps` has a mode's rows and columns, of `factors` its address, and the bytes between
    its rows, its entries and its batches. A step takes its points from the last axis of a panel and
    puts them on the first, so that the next mode is the last axis then, side by side in memory.
    """
    lanes, size = lanes_of(like), like.itemsize
    first = aligned(buffer)
    second = first + grid.panel * ROW
    columns = -(-grid.right // lanes)
    each = grid.left * columns if grid.right > 1 else -(-grid.left // lanes)
    for item in range(start, stop):
        batch, place = item // each, item % each
        if grid.right > 1:
            i, j = place // columns, place % columns * lanes
            fibres = min(lanes, grid.right - j)
        else:
            i, j = place * lanes, 0
            fibres = min(lanes, grid.left - i)
        i += batch * grid.left
        source = x + (i * grid.points_in * grid.right + j) * size
        target = y + (i * grid.points_out * grid.right + j) * size
        fibre = size if grid.right > 1 else grid.points_in * size
        _read(like, source, grid.right * size, fibre, grid.points_in, fibres, first)
        here, there, points = first, second, grid.points_in
        for step in range(steps.shape[0]):
            rows, depth = steps[step, 0], steps[step, 1]
            rest = points // depth
            a = factors[step, 0] + batch * factors[step, 3]
            for r in range(rest):
                _multiply(
                    like, a, factors[step, 1], factors[step, 2], rows, depth,
                    here + r * depth * ROW, ROW, there + r * ROW, rest * ROW, 0,
                )  # fmt: skip
            here, there, points = there, here, rest * rows
        fibre = size if grid.right > 1 else grid.points_out * size
        _write(like, here, grid.points_out, fibres, target, grid.right * size, fibre)


@njit(nogil=True, cache=True)
def sums(start, stop, like, grid, steps, factors, adds, x, y, buffer):
    """Add up the products along some modes, on panels of the grid at x; with `adds` add to y."""
    lanes, size, points = lanes_of(like), like.itemsize, grid.points_in
    here = aligned(buffer)
    there = here + points * ROW
    columns = -(-grid.right // lanes)
    each = grid.left * columns if grid.right > 1 else -(-grid.left // lanes)
    fibre = size if grid.right > 1 else points * size
    for item in range(start, stop):
        batch, place = item // each, item % each
        if grid.right > 1:
            i, j = place // columns, place % columns * lanes
            fibres = min(lanes, grid.right - j)
        else:
            i, j = place * lanes, 0
            fibres = min(lanes, grid.left - i)
        offset = ((i + batch * grid.left) * points * grid.right + j) * size
        _read(like, x + offset, grid.right * size, fibre, points, fibres, here)
        if adds:
            _read(like, y + offset, grid.right * size, fibre, points, fibres, there)
        inner = 1
        for step in range(steps.shape[0]):
            n = steps[step, 0]
            a = factors[step, 0] + batch * factors[step, 3]
            for outer in range(points // (n * inner)):
                for r in range(inner):
                    place = (outer * n * inner + r) * ROW
                    _multiply(
                        like, a, factors[step, 1], factors[step, 2], n, n,
                        here + place, inner * ROW, there + place, inner * ROW,
                        1 if adds or step else 0,
                    )  # fmt: skip
            inner *= n
        _write(like, there, points, fibres, y + offset, grid.right * size, fibre)
