"""Panels: arrays from one buffer, products of any number of rows, transposes of any shape."""

import numpy as np
import pytest
from numba import njit

from linalgkit._panels import contract, multiply, multiply_turned, start_of, take, turn
from linalgkit._tiles import ROW, TALL, VECTOR, by_rows

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


def test_arrays_of_a_buffer_do_not_meet(dtype):
    lanes = ROW // np.dtype(dtype).itemsize
    buffer = np.zeros(9 * lanes + VECTOR, dtype)[1:]
    shift = begin = start_of(buffer)
    assert (buffer.ctypes.data + begin * buffer.itemsize) % VECTOR == 0
    for number, shape in enumerate([(3, 5), (1, lanes), (2, 2 * lanes)], start=1):
        array, after = take(buffer, shift, *shape)
        assert array.shape == shape
        assert (after - begin) % lanes == 0
        assert after - shift >= array.size
        assert not array.any()
        array[...], shift = number, after


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


def test_products_of_parts(dtype):
    rows, panel, target = (whole(*shape, dtype) for shape in ((9, 11), (11, 1), (9, 1)))
    like, total = rows[:0, 0], target + rows[:, :11] @ panel
    multiply(like, rows, 11, panel, target, 1)
    close(target, total)
    back, cotangent = whole(11, 1, dtype, 1), whole(9, 1, dtype, 2)
    total = back + rows[:, :11].T @ cotangent
    multiply_turned(like, rows, 11, cotangent, back)
    close(back, total)
    lanes = panel.shape[1]
    turned, products = whole(lanes, 40, dtype), whole(11, 40, dtype, 1)
    total = products + panel @ turned
    contract(like, panel, turned, products)
    close(products, total)


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (3, 16), (16, 3), (17, 21), (32, 32)])
def test_rows_as_columns(shape, dtype):
    rows = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    turned = np.zeros((shape[1] + 1, shape[0] + 5), dtype)
    turn(rows[:0, 0], rows, turned, 3)
    np.testing.assert_array_equal(turned[:-1, 3:-2], rows.T)
    turned[:-1, 3:-2] = 0
    assert not turned.any()
