"""Panels for compiled kernels: arrays taken from a buffer, filled, multiplied and turned.

Arrays have two axes, real numbers and whole panel rows (`_tiles`). Written once, as tiles are: a
cached kernel does not notice when something it calls in another file changes.
"""

import numpy as np
from numba import njit

from ._intrinsics import INNER, prefetch
from ._tiles import (
    ROW,
    VECTOR,
    aligned,
    by_rows,
    lanes_of,
    part_of,
    transpose_square,
)


@njit(nogil=True, cache=True, **INNER)
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
    after = shift + -(-rows * columns // lanes) * lanes
    return part_of(buffer, shift, rows, columns), after


@njit(nogil=True, cache=True, **INNER)
def fill(array, number):
    """Put one number everywhere."""
    for i in range(array.shape[0]):
        for j in range(array.shape[1]):
            array[i, j] = number


@njit(nogil=True, cache=True, **INNER)
def copy(source, target):
    """Copy the rows of `source`."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]


@njit(nogil=True, cache=True, **INNER)
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
def multiply(like, rows, width, panel, target, adds):
    """Fill or add to `target` the rows times a panel."""
    stride = rows.shape[1] * like.itemsize
    by_rows(
        like, address(rows), stride, like.itemsize, 0, address(panel), ROW,
        address(target), ROW, rows.shape[0], width, adds,
    )  # fmt: skip


@njit(nogil=True, cache=True)
def multiply_turned(like, rows, width, panel, target):
    """Add to `target` the transpose of the rows times a panel."""
    stride = rows.shape[1] * like.itemsize
    by_rows(
        like, address(rows), like.itemsize, stride, 0, address(panel), ROW,
        address(target), ROW, width, rows.shape[0], 1,
    )  # fmt: skip


@njit(nogil=True, cache=True)
def contract(like, panel, turned, target):
    """Add to `target` the products of a panel's rows with the columns of `turned`."""
    step = turned.shape[1] * like.itemsize
    for begin in range(0, step, ROW):
        by_rows(
            like, address(panel), ROW, like.itemsize, 0, address(turned) + begin, step,
            address(target) + begin, step, len(panel), len(turned), 1,
        )  # fmt: skip


@njit(nogil=True, cache=True, **INNER)
def fetch(rows, column):
    """Ask for the cache lines of a panel's columns in rows that come next."""
    flat, width = rows.reshape(rows.size), rows.shape[1]
    for i in range(len(rows)):
        prefetch(flat, i * width + column)
