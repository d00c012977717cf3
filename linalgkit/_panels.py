"""Panels for compiled kernels: arrays taken from a buffer, filled, multiplied and turned.

Arrays have two axes, real numbers and whole panel rows (`_tiles`). Written once, as tiles are: a
cached kernel does not notice when something it calls in another file changes.
"""

import numpy as np
from numba import njit

from ._intrinsics import prefetch
from ._tiles import (
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


@njit(nogil=True, cache=True)
def address(array):
    """Return where an array begins, signed: unsigned and signed numbers add up to floats."""
    return np.intp(array.ctypes.data)


@njit(nogil=True, cache=True)
def start_of(buffer):
    """Return where in a buffer the first array is taken: at an aligned address."""
    return (np.intp(aligned(buffer)) - address(buffer)) // buffer.itemsize


@njit(nogil=True, cache=True)
def take(buffer, shift, rows, columns):
    """Take an array from the buffer; the next one begins at a multiple of a panel row."""
    lanes = lanes_of(buffer)
    end = shift + rows * columns
    return buffer[shift:end].reshape(rows, columns), shift + -(-rows * columns // lanes) * lanes


@njit(nogil=True, cache=True)
def fill(array, number):
    """Put one number everywhere."""
    for i in range(array.shape[0]):
        for j in range(array.shape[1]):
            array[i, j] = number


@njit(nogil=True, cache=True)
def copy(source, target):
    """Copy the rows of `source`."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]


@njit(nogil=True, cache=True)
def scale_by(array, factors):
    """Multiply number by number."""
    for i in range(array.shape[0]):
        for j in range(array.shape[1]):
            array[i, j] *= factors[i, j]


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
                address(rows) + i * stride + j * size,
                stride,
                address(turned) + j * step + (column + i) * size,
                step,
            )
    for i in range(count):
        for j in range(down if i < across else 0, width):
            turned[j, column + i] = rows[i, j]


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
def multiply(like, rows, width, panel, target, adds):
    """Fill or add to `target` the rows times a panel."""
    stride = rows.shape[1] * like.itemsize
    by_rows(
        like, address(rows), stride, like.itemsize, address(panel), ROW,
        address(target), ROW, rows.shape[0], width, adds,
    )  # fmt: skip


@njit(nogil=True, cache=True)
def multiply_turned(like, rows, width, panel, target):
    """Add to `target` the transpose of the rows times a panel."""
    stride = rows.shape[1] * like.itemsize
    by_rows(
        like, address(rows), like.itemsize, stride, address(panel), ROW,
        address(target), ROW, width, rows.shape[0], 1,
    )  # fmt: skip


@njit(nogil=True, cache=True)
def contract(like, panel, turned, target):
    """Add to `target` the products of a panel's rows with the columns of `turned`."""
    step = turned.shape[1] * like.itemsize
    for begin in range(0, step, ROW):
        by_rows(
            like, address(panel), ROW, like.itemsize, address(turned) + begin, step,
            address(target) + begin, step, len(panel), len(turned), 1,
        )  # fmt: skip


@njit(nogil=True, cache=True)
def fetch(rows, column):
    """Ask for the cache lines of a panel's columns in rows that come next."""
    flat, width = rows.reshape(rows.size), rows.shape[1]
    for i in range(len(rows)):
        prefetch(flat, i * width + column)
