"""Panels for compiled kernels, by address: brought in and out, and turned.

Numbers are real, and rows are strides of bytes apart (`_tiles`). Written once, as tiles are: a
cached kernel does not notice when something it calls in another file changes.
"""

from numba import njit

from ._intrinsics import INNER, for_size
from ._tiles import ROW, VECTOR, copy_rows, one_to_panel, transpose_square


@njit(nogil=True, cache=True, error_model="numpy", **INNER)
def bring(like, source, source_row, target, target_row, rows, count):
    """Copy the `count` first numbers of rows, of which a panel row takes what it holds."""
    for_size()
    if count >= ROW // like.itemsize:
        copy_rows(like, source, source_row, target, target_row, rows)
        return
    for i in range(rows):
        for place in range(0, count * like.itemsize, like.itemsize):
            one_to_panel(
                like, source + i * source_row + place, target + i * target_row + place
            )  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy", **INNER)
def turn(like, rows, stride, count, width, turned, step):
    """Put rows as columns."""
    for_size()
    size, side = like.itemsize, VECTOR // like.itemsize
    across, down = count // side * side, width // side * side
    for i in range(0, across, side):
        for j in range(0, down, side):
            source, target = rows + i * stride + j * size, turned + j * step + i * size
            transpose_square(like, source, stride, target, step)
    for i in range(count):
        for j in range(down if i < across else 0, width):
            one_to_panel(like, rows + i * stride + j * size, turned + j * step + i * size)
