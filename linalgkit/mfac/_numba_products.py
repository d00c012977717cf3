"""Kernels of G Gᵀ and of the column norms of W G: register tiles on panels that stay in the cache.

Bounded by multiplications: m² of them for a column of G, over half a square of each product. Tiles
go up to the diagonal; their sums leave the registers once, and are added up in float64.
"""

import numpy as np
from numba import njit

from .._intrinsics import widen
from .._tiles import (
    ROW,
    TALL,
    VECTOR,
    lanes_of,
    tile_1,
    tile_2,
    tile_4,
    tile_tall,
    transpose_square,
)

PANELS = 8  # in the second-level cache together
_FAST = {"reassoc", "contract", "nsz"}  # NaN and Inf stay what they are


@njit(nogil=True, cache=True)
def _multiply(like, a, a_row, rows, depth, b, c):
    """Multiply some rows, at most `TALL`, by a panel of `depth` rows: C = A B."""
    size, i = like.itemsize, 0
    if rows == TALL:
        tile_tall(like, a, a_row, size, 0, b, ROW, c, ROW, depth, 0)
        return
    while i + 4 <= rows:
        tile_4(like, a, a_row, size, 0, b, ROW, c, ROW, depth, 0)
        i, a, c = i + 4, a + 4 * a_row, c + 4 * ROW
    if i + 2 <= rows:
        tile_2(like, a, a_row, size, 0, b, ROW, c, ROW, depth, 0)
        i, a, c = i + 2, a + 2 * a_row, c + 2 * ROW
    if i < rows:
        tile_1(like, a, a_row, size, 0, b, ROW, c, ROW, depth, 0)


@njit(nogil=True, cache=True)
def _transposed(rows, first, panel):
    """Fill a panel (columns, lanes) with rows from `first` on; zeros for rows that are not."""
    m, depth = rows.shape
    lanes, size = lanes_of(rows), rows.itemsize
    side, done = VECTOR // size, 0
    if first + lanes <= m:
        source = rows.ctypes.data + first * rows.strides[0]
        target = panel.ctypes.data
        while done + side <= depth:
            for i in range(0, lanes, side):
                transpose_square(
                    rows, source + i * rows.strides[0] + done * size, rows.strides[0],
                    target + done * ROW + i * size, ROW,
                )  # fmt: skip
            done += side
    for k in range(done, depth):
        for i in range(lanes):
            panel[k, i] = rows[first + i, k] if first + i < m else 0


@njit(nogil=True, cache=True)
def add_gram(rows, panels, tile, total):
    """Add the lower triangle of rows rowsᵀ to `total`; what is above means nothing.

    `panels` (panels, columns, lanes) and `tile` (TALL, lanes) are scratch, of the rows' dtype.
    """
    m, depth = rows.shape
    lanes, across = lanes_of(rows), rows.strides[0]
    for first in range(0, m, PANELS * lanes):
        last = min(m, first + PANELS * lanes)
        for j in range(first, last, lanes):
            _transposed(rows, j, panels[(j - first) // lanes])
        for i in range(first // TALL * TALL, m, TALL):
            count = min(TALL, m - i)
            source = rows.ctypes.data + i * across
            for j in range(first, min(last, i + count), lanes):
                panel = panels[(j - first) // lanes]
                _multiply(rows, source, across, count, depth, panel.ctypes.data, tile.ctypes.data)
                if j + lanes <= m:
                    for r in range(count):
                        row, found = total[i + r, j : j + lanes], tile[r]
                        for k in range(lanes):
                            row[k] += found[k]
                else:
                    for r in range(count):
                        for k in range(m - j):
                            total[i + r, j + k] += tile[r, k]


@njit(nogil=True, cache=True, fastmath=_FAST)
def to_panels(begin, end, kind, g, panels, lengths):
    """Copy some columns to panels (panels, m, lanes), and fill their squared lengths in float64."""
    lanes, count = lanes_of(panels), end - begin
    lengths[:count] = 0
    for i in range(g.shape[0]):
        row = g[i, begin:end]
        for j in range(0, count, lanes):
            panel, found = panels[j // lanes, i], lengths[j : j + lanes]
            if j + lanes <= count:
                for k in range(lanes):
                    value = widen(kind, row[j + k])
                    panel[k] = value
                    found[k] += value * value
            else:
                panel[:] = 0
                for k in range(count - j):
                    value = widen(kind, row[j + k])
                    panel[k] = value
                    found[k] += value * value


@njit(nogil=True, cache=True, fastmath=_FAST)
def column_norms(root, panels, tile, norms):
    """Fill squared lengths of the columns of W P in float64; W is lower triangular.

    `tile` (TALL, lanes) is scratch. All but `norms` are of one dtype.
    """
    m, lanes = root.shape[0], lanes_of(root)
    across, sums = m * root.itemsize, np.empty(lanes_of(root))
    for j in range(0, norms.size, lanes):
        panel = panels[j // lanes].ctypes.data
        sums[:] = 0
        for i in range(0, m, TALL):
            count = min(TALL, m - i)
            source = root.ctypes.data + i * across
            _multiply(tile, source, across, count, i + count, panel, tile.ctypes.data)
            for r in range(count):
                found = tile[r]
                for k in range(lanes):
                    value = np.float64(found[k])
                    sums[k] += value * value
        for k in range(min(lanes, norms.size - j)):
            norms[j + k] = sums[k]
