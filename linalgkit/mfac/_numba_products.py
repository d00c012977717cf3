"""Kernels of G Gᵀ and of the column norms of W G: register tiles on panels that stay in the cache.

Bounded by multiplications: m² of them for a column of G, over half a square of each product. Tiles
go up to the diagonal; their sums leave the registers once, and are added up in float64.
"""

import numpy as np
from numba import njit

from .._intrinsics import INNER, OUTER, squared, widen
from .._tiles import ROW, TALL, VECTOR, by_rows, fetch_rows, lanes_of, transpose_square

PANELS = 8  # in the second-level cache together
_FAST = {"reassoc", "contract", "nsz"}  # NaN and Inf stay what they are


@njit(nogil=True, cache=True, **INNER)
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


@njit(nogil=True, cache=True, **OUTER)
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
                by_rows(
                    rows, source, across, rows.itemsize, 0, panel.ctypes.data, ROW,
                    tile.ctypes.data, ROW, count, depth, 0,
                )  # fmt: skip
                if j + lanes <= m:
                    for r in range(count):
                        row, found = total[i + r, j : j + lanes], tile[r]
                        for k in range(lanes):
                            row[k] += found[k]
                else:
                    for r in range(count):
                        for k in range(m - j):
                            total[i + r, j + k] += tile[r, k]


@njit(nogil=True, cache=True, fastmath=_FAST, **INNER)
def _to_panels(begin, end, kind, g, panels, lengths):
    """Copy some columns to panels (panels, m, lanes), and fill their squared lengths in float64."""
    lanes, count = lanes_of(panels), end - begin
    lengths[:count] = 0
    lines = -(-count * g.itemsize // 64)
    for i in range(g.shape[0]):
        ahead = g.ctypes.data + (i + 8) * g.strides[0] + begin * g.itemsize
        fetch_rows(panels, ahead, 64, lines)  # they are too short for the processor to foresee
        row = g[i, begin:end]
        for j in range(0, count, lanes):
            panel, found = panels[j // lanes, i], lengths[j : j + lanes]
            if j + lanes <= count:
                for k in range(lanes):
                    value = widen(kind, row[j + k])
                    panel[k] = value
                    found[k] += squared(kind, value)
            else:
                panel[:] = 0
                for k in range(count - j):
                    value = widen(kind, row[j + k])
                    panel[k] = value
                    found[k] += squared(kind, value)


@njit(nogil=True, cache=True, fastmath=_FAST, **INNER)
def _norms_of_panels(root, panels, tile, sums):
    m, lanes = root.shape[0], lanes_of(root)
    across = m * root.itemsize
    sums[:] = 0
    for i in range(0, m, TALL):
        count = min(TALL, m - i)
        source = root.ctypes.data + i * across
        for j in range(0, sums.size, lanes):
            by_rows(
                tile, source, across, tile.itemsize, 0, panels[j // lanes].ctypes.data, ROW,
                tile.ctypes.data, ROW, count, i + count, 0,
            )  # fmt: skip
            some = sums[j : j + lanes]
            for r in range(count):
                found = tile[r]
                for k in range(lanes):
                    value = np.float64(found[k])
                    some[k] += value * value


@njit(nogil=True, cache=True, **OUTER)
def column_norms(start, stop, kind, g, root, panels, tile, norms, lengths):
    """Fill squared lengths of some columns of W G and of G in float64; W is lower triangular.

    `panels` (panels, m, lanes) and `tile` (TALL, lanes) are scratch, of the dtype of W.
    """
    step = PANELS * lanes_of(root)
    sums = np.empty(step)
    for begin in range(start, stop, step):
        end = min(stop, begin + step)
        _to_panels(begin, end, kind, g, panels, lengths[begin - start : end - start])
        whole = -(-(end - begin) // lanes_of(root)) * lanes_of(root)
        _norms_of_panels(root, panels, tile, sums[:whole])
        norms[begin - start : end - start] = sums[: end - begin]
