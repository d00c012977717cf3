"""Panels: columns brought in and out, products of any number of rows, transposes of any shape."""

import numpy as np
import pytest
from numba import njit

from linalgkit._panels import bring, turn
from linalgkit._tiles import ROW, TALL, by_rows

LIMITS = {"float32": 1e-5, "float64": 1e-13}


@pytest.fixture(params=list(LIMITS))
def dtype(request):
    return request.param


def whole(rows, columns, dtype, seed=0):
    """Random rows, of which some whole panels of columns are stored."""
    lanes = ROW // np.dtype(dtype).itemsize
    shape = rows, -(-columns // lanes) * lanes
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=LIMITS[str(got.dtype)])


@njit
def brought(like, source, source_row, target, target_row, rows, count):
    bring(like, source, source_row, target, target_row, rows, count)


@njit
def turned_rows(like, rows, stride, count, width, turned, step):
    turn(like, rows, stride, count, width, turned, step)


@njit
def by_addresses(like, a, a_row, a_step, b, b_step, c, c_row, rows, depth, adds):
    by_rows(like, a, a_row, a_step, 0, b, b_step, c, c_row, rows, depth, adds)


@pytest.mark.parametrize("rows", range(2 * TALL + 4))
def test_rows_by_a_panel(rows, dtype):
    a, b, c = (whole(*shape, dtype, rows) for shape in ((rows, 7), (7, 1), (rows + 1, 1)))
    size, total = a.itemsize, c + np.pad(a[:, :7] @ b, ((0, 1), (0, 0)))
    arguments = a.ctypes.data, a.shape[1] * size, size, b.ctypes.data, ROW, c.ctypes.data, ROW
    by_addresses(a[:0, 0], *arguments, rows, 7, 1)
    close(c, total)  # the row after them as well
    by_addresses(a[:0, 0], *arguments, rows, 7, 0)
    close(c[:rows], a[:, :7] @ b)


@pytest.mark.parametrize("count", [1, 3, -1, 0, 5])  # beside a panel row's numbers, from -1 on
def test_columns_brought_to_panels_and_back(count, dtype):
    lanes = ROW // np.dtype(dtype).itemsize
    count = count if count > 0 else lanes - count
    used = min(count, lanes)
    rows, panel = whole(6, 3 * lanes, dtype), np.zeros((6, lanes), dtype)
    like, stride, source = rows[:0, 0], rows.strides[0], rows.ctypes.data + rows.itemsize
    brought(like, source, stride, panel.ctypes.data, ROW, 5, count)
    np.testing.assert_array_equal(panel[:5, :used], rows[:5, 1 : 1 + used])
    assert not panel[:, used:].any()
    assert not panel[5].any()
    back = np.zeros_like(rows)
    brought(like, panel.ctypes.data, ROW, back.ctypes.data + rows.itemsize, stride, 5, count)
    np.testing.assert_array_equal(back[:5, 1 : 1 + used], rows[:5, 1 : 1 + used])
    assert np.count_nonzero(back) == 5 * used


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (3, 16), (16, 3), (17, 21), (32, 32)])
def test_rows_as_columns(shape, dtype):
    rows = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    turned = np.zeros((shape[1] + 1, shape[0] + 5), dtype)
    target = turned.ctypes.data + 3 * turned.itemsize
    turned_rows(rows[:0, 0], rows.ctypes.data, rows.strides[0], *shape, target, turned.strides[0])
    np.testing.assert_array_equal(turned[:-1, 3:-2], rows.T)
    turned[:-1, 3:-2] = 0
    assert not turned.any()
