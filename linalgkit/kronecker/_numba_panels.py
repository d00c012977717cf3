"""Kernels of Kronecker products and sums with small factors: neighbouring modes in one pass.

A panel has one row a point of some neighbouring modes, with that point of a few fibres side by side
in machine vectors. It stays in the cache while all these modes are applied, so the grid goes
through memory once for all of them. Bounded by multiplications in register tiles, as long as a
panel fits the cache.
"""

from typing import NamedTuple

from numba import njit

from .._intrinsics import record_of
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
    """A grid as (left, points, right), once a batch; the points are those of a pass's modes.

    Where the last mode of all is among them, right is 1 and it is not counted in the points. Where
    it is alone, a piece has so many fibres of it.
    """

    left: int
    right: int
    points_in: int
    points_out: int
    panel: int  # the most points in between
    run: int  # panels that are read together
    adds: int  # of sums: to what is at the result


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
def _apply(like, steps, a, first_step, batch, here, there, points):
    """Apply steps to a panel at `here`, by turns between both; return where the result is.

    A step takes its points from the last axis of the panel and puts them on the first, so that the
    next mode is the last axis then, side by side in memory.
    """
    for step in range(first_step, steps.shape[0]):
        rows, depth = steps[step, 0], steps[step, 1]
        rest = points // depth
        matrix = a + steps[step, 2] + batch * rows * depth * like.itemsize
        for r in range(rest):
            _multiply(
                like, matrix, depth * like.itemsize, like.itemsize, rows, depth,
                here + r * depth * ROW, ROW, there + r * ROW, rest * ROW, 0,
            )  # fmt: skip
        here, there, points = there, here, rest * rows
    return here


@njit(nogil=True, cache=True)
def _add_up(like, steps, a, first_step, batch, here, there, points, adds):
    """Add the products along the modes of a panel at `here` to the panel at `there`."""
    inner = 1
    for step in range(first_step, steps.shape[0]):
        n = steps[step, 0]
        matrix = a + steps[step, 2] + batch * n * n * like.itemsize
        for outer in range(points // (n * inner)):
            for r in range(inner):
                place = (outer * n * inner + r) * ROW
                _multiply(
                    like, matrix, n * like.itemsize, like.itemsize, n, n,
                    here + place, inner * ROW, there + place, inner * ROW, adds,
                )  # fmt: skip
        inner, adds = inner * n, 1


@njit(nogil=True, cache=True)
def products(start, stop, numbers, steps, matrices, x, y, buffer):
    """Apply some modes, the last one first, to panels of the grid at x; the result is at y.

    Fibres lie side by side behind these modes. A row of `steps` has a mode's rows and columns,
    and the bytes before its matrices among all; each mode has one a batch.
    """
    grid, a, like = record_of(Grid, numbers, 0), matrices.ctypes.data, y
    lanes, size = lanes_of(like), like.itemsize
    height = grid.panel * ROW
    first = aligned(buffer)
    second = first + grid.run * height
    point = grid.right * size
    runs = -(-grid.right // (grid.run * lanes))
    for item in range(start, stop):
        i, j = item // runs, item % runs * grid.run * lanes
        fibres = min(grid.run * lanes, grid.right - j)
        source = x.ctypes.data + (i * grid.points_in * grid.right + j) * size
        target = y.ctypes.data + (i * grid.points_out * grid.right + j) * size
        _read_run(like, source, point, grid.points_in, fibres, first, height)
        here = first
        for k in range(-(-fibres // lanes)):
            here = k * height
            here = _apply(
                like, steps, a, 0, item // (grid.left * runs),
                first + here, second + here, grid.points_in,
            ) - here  # fmt: skip
        _write_run(like, here, height, grid.points_out, fibres, target, point)


@njit(nogil=True, cache=True)
def _read_run(like, source, point, points, fibres, target, height):
    """Bring fibres side by side to panels, point by point: memory is read in longer runs."""
    lanes, size = lanes_of(like), like.itemsize
    full = fibres // lanes
    for i in range(points):
        for k in range(full):
            to_panel(like, source + i * point + k * lanes * size, target + k * height + i * ROW)
    if full * lanes < fibres:
        rest = source + full * lanes * size
        _read(like, rest, point, size, points, fibres - full * lanes, target + full * height)


@njit(nogil=True, cache=True)
def _write_run(like, source, height, points, fibres, target, point):
    """Undo `_read_run`."""
    lanes, size = lanes_of(like), like.itemsize
    full = fibres // lanes
    for i in range(points):
        for k in range(full):
            from_panel(like, source + k * height + i * ROW, target + i * point + k * lanes * size)
    if full * lanes < fibres:
        rest = target + full * lanes * size
        _write(like, source + full * height, points, fibres - full * lanes, rest, point, size)


@njit(nogil=True, cache=True)
def sums(start, stop, numbers, steps, matrices, x, y, buffer):
    """Add up the products along some modes, as `products` goes; with `adds` add to y."""
    grid, a, like = record_of(Grid, numbers, 0), matrices.ctypes.data, y
    lanes, size, points = lanes_of(like), like.itemsize, grid.points_in
    height, point = points * ROW, grid.right * size
    here = aligned(buffer)
    there = here + grid.run * height
    runs = -(-grid.right // (grid.run * lanes))
    for item in range(start, stop):
        i, j = item // runs, item % runs * grid.run * lanes
        fibres = min(grid.run * lanes, grid.right - j)
        offset = (i * points * grid.right + j) * size
        _read_run(like, x.ctypes.data + offset, point, points, fibres, here, height)
        if grid.adds:
            _read_run(like, y.ctypes.data + offset, point, points, fibres, there, height)
        for k in range(-(-fibres // lanes)):
            _add_up(
                like, steps, a, 0, item // (grid.left * runs),
                here + k * height, there + k * height, points, grid.adds,
            )  # fmt: skip
        _write_run(like, there, height, points, fibres, y.ctypes.data + offset, point)


@njit(nogil=True, cache=True)
def last_products(start, stop, numbers, steps, matrices, x, y, buffer):
    """Apply the last mode of the grid, and some before it, the last one first.

    The last mode lies along the machine vectors itself: its matrix, transposed in panels, is
    multiplied from the left by rows of the grid. The result has panels of a few of its points.
    """
    grid, a, like = record_of(Grid, numbers, 0), matrices.ctypes.data, y
    lanes, size = lanes_of(like), like.itemsize
    m, n = steps[0, 0], steps[0, 1]
    blocks = -(-m // lanes)
    turned = aligned(buffer)
    first = turned + blocks * n * ROW
    second = first + grid.panel * ROW
    alone, last_batch = steps.shape[0] == 1, -1
    pieces = -(-grid.left // grid.points_in) if alone else grid.left
    for item in range(start, stop):
        batch, piece = item // pieces, item % pieces
        rows_in, rows_out = grid.points_in, grid.points_out
        place = item * rows_in
        if alone:
            place = batch * grid.left + piece * rows_in
            rows_in = rows_out = min(rows_in, grid.left - piece * rows_in)
        if batch != last_batch:
            _turn(like, a + batch * m * n * size, m, n, turned)
            last_batch = batch
        target = y.ctypes.data + (place if alone else item * rows_out) * m * size
        for k in range(blocks):
            _multiply(
                like, x.ctypes.data + place * n * size, n * size, size, rows_in, n,
                turned + k * n * ROW, ROW, first, ROW, 0,
            )  # fmt: skip
            here = _apply(like, steps, a, 1, batch, first, second, rows_in)
            fibres = min(lanes, m - k * lanes)
            _write(like, here, rows_out, fibres, target + k * lanes * size, m * size, size)


@njit(nogil=True, cache=True)
def _turn(like, a, m, n, target):
    """Bring the transpose of a matrix (m, n) to panels of `lanes_of` columns."""
    lanes, size = lanes_of(like), like.itemsize
    for k in range(0, m, lanes):
        _read(
            like, a + k * n * size, size, n * size, n, min(lanes, m - k),
            target + k // lanes * n * ROW,
        )  # fmt: skip


@njit(nogil=True, cache=True)
def last_sums(start, stop, numbers, steps, matrices, x, y, buffer):
    """Add up the products along the last mode and some before it; with `adds` add to y."""
    grid, a, like = record_of(Grid, numbers, 0), matrices.ctypes.data, y
    lanes, size, points = lanes_of(like), like.itemsize, grid.points_in
    n = steps[0, 0]
    blocks = -(-n // lanes)
    turned = aligned(buffer)
    here = turned + blocks * n * ROW
    there = here + points * ROW
    alone, last_batch = steps.shape[0] == 1, -1
    pieces = -(-grid.left // points) if alone else grid.left
    for item in range(start, stop):
        batch, piece, rows, row = item // pieces, item % pieces, points, item * points
        if alone:
            rows, row = min(points, grid.left - piece * points), batch * grid.left + piece * points
        if batch != last_batch:
            _turn(like, a + batch * n * n * size, n, n, turned)
            last_batch = batch
        for k in range(blocks):
            place, fibres = (row * n + k * lanes) * size, min(lanes, n - k * lanes)
            if grid.adds:
                _read(like, y.ctypes.data + place, n * size, size, rows, fibres, there)
            _multiply(
                like, x.ctypes.data + row * n * size, n * size, size, rows, n,
                turned + k * n * ROW, ROW, there, ROW, grid.adds,
            )  # fmt: skip
            if not alone:
                _read(like, x.ctypes.data + place, n * size, size, rows, fibres, here)
                _add_up(like, steps, a, 1, batch, here, there, rows, 1)
            _write(like, there, rows, fibres, y.ctypes.data + place, n * size, size)
