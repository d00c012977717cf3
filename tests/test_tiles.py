"""Register tiles: products, transposes and panels, at addresses inside larger arrays."""

import numpy as np
import pytest
from numba import njit

from linalgkit import _tiles
from linalgkit._tiles import (
    ROW,
    VECTOR,
    add_dots,
    aligned,
    copy_row,
    copy_rows,
    fetch_rows,
    from_panel,
    lanes_of,
    one_from_panel,
    one_to_panel,
    plane_of,
    put_number,
    scale_rows,
    tile_1,
    tile_2,
    tile_4,
    tile_tall,
    to_panel,
    transpose_square,
    weigh_rows,
    zero_row,
    zero_rows,
)

DTYPES = ("float32", "float64", "complex64", "complex128")
TILES = {1: tile_1, 2: tile_2, 4: tile_4, _tiles.TALL: tile_tall}


def random(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    return (values if dtype.startswith("c") else values.real).astype(dtype)


def lanes(dtype):
    return ROW // np.dtype(dtype).itemsize


def to_planes(rows):
    """Panel rows of numbers, as the tiles hold them: real parts beside imaginary parts."""
    if rows.dtype.kind == "f":
        return np.ascontiguousarray(rows)
    return np.ascontiguousarray(np.concatenate([rows.real, rows.imag], axis=-1))


def from_planes(rows, dtype):
    if np.dtype(dtype).kind == "f":
        return rows
    half = rows.shape[-1] // 2
    return rows[..., :half] + 1j * rows[..., half:]


@pytest.mark.parametrize("adds", [0, 1])
@pytest.mark.parametrize("rows", list(TILES))
@pytest.mark.parametrize("dtype", DTYPES)
def test_tile_multiplies_rows_by_a_panel(dtype, rows, adds):
    tile, depth = TILES[rows], 5
    a, b = random((rows, depth), dtype), random((depth, lanes(dtype)), dtype, 1)
    c = random((rows, lanes(dtype)), dtype, 2)
    panel, result = to_planes(b), to_planes(np.repeat(c, 2, axis=0))

    @njit
    def run(like, a, b, c):
        size = like.itemsize
        tile(like, a.ctypes.data, depth * size, size, plane_of(like), b.ctypes.data, ROW,
             c.ctypes.data, 2 * ROW, depth, adds)  # fmt: skip

    run(a[:0], a, panel, result)
    kept = from_planes(result[1::2], dtype)
    np.testing.assert_array_equal(kept, c)  # rows between, which are not of the tile
    expected = a @ b + adds * c
    tolerance = 1e-5 if dtype in ("float32", "complex64") else 1e-13
    np.testing.assert_allclose(from_planes(result[::2], dtype), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_transpose_square(dtype):
    side = VECTOR // np.dtype(dtype).itemsize
    source, target = random((side, side + 3), dtype), np.zeros((side, side + 1), dtype)

    @njit
    def run(like, source, target):
        transpose_square(
            like, source.ctypes.data, source.strides[0], target.ctypes.data, target.strides[0]
        )

    run(source[:0, 0], source, target)
    np.testing.assert_array_equal(target[:, :side], source[:, :side].T)
    assert not target[:, side:].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_panel_rows_there_and_back(dtype):
    row = random(lanes(dtype), dtype)
    panels, copies, single = (to_planes(np.zeros((2, lanes(dtype)), dtype)) for _ in range(3))
    back, one_by_one = np.zeros_like(row), np.zeros_like(row)
    single[0] = 1

    @njit
    def run(like, row, panels, copies, single, back, one_by_one):
        size, plane = like.itemsize, plane_of(like)
        to_panel(like, row.ctypes.data, panels.ctypes.data)
        copy_row(like, panels.ctypes.data, copies.ctypes.data)
        from_panel(like, copies.ctypes.data, back.ctypes.data)
        zero_row(like, single.ctypes.data)
        for k in range(1, lanes_of(like)):
            here = single.ctypes.data + k * plane
            one_to_panel(like, row.ctypes.data + k * size, here)
            one_from_panel(like, here, one_by_one.ctypes.data + k * size)

    run(row[:0], row, panels, copies, single, back, one_by_one)
    np.testing.assert_array_equal(from_planes(panels[0], dtype), row)
    np.testing.assert_array_equal(back, row)
    np.testing.assert_array_equal(one_by_one[1:], row[1:])
    assert from_planes(single[0], dtype)[0] == one_by_one[0] == 0
    for rows in (panels, copies, single):
        assert not rows[1].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_by_strides(dtype):
    width = lanes(dtype)
    x, y = random((4, 2 * width), dtype), random((4, width), dtype, 1)
    factors, dots = random(4, dtype, 2), np.ones(4, dtype)
    copied, scaled, weighed, cleared = (np.ones((4, width), dtype) for _ in range(4))

    @njit
    def run(like, x, y, factors, dots, copied, scaled, weighed, cleared):
        source, stride = x.ctypes.data + ROW, x.strides[0]  # the second half of each row
        fetch_rows(like, source, stride, 3)
        copy_rows(like, source, stride, copied.ctypes.data, ROW, 3)
        scale_rows(like, factors[1], source, stride, scaled.ctypes.data, ROW, 3)
        weigh_rows(like, factors.ctypes.data, source, stride, weighed.ctypes.data, ROW, 3)
        zero_rows(like, cleared.ctypes.data, 2 * ROW, 2)
        add_dots(like, y.ctypes.data, copied.ctypes.data, dots.ctypes.data, 3)
        put_number(like, factors[2], dots.ctypes.data + 3 * like.itemsize)

    run(x[:0, 0], x, y, factors, dots, copied, scaled, weighed, cleared)
    half = x[:3, width:]
    np.testing.assert_array_equal(copied[:3], half)
    np.testing.assert_array_equal(scaled[:3], factors[1] * half)
    np.testing.assert_array_equal(weighed[:3], factors[:3, None] * half)
    np.testing.assert_array_equal(cleared, [[0] * width, [1] * width] * 2)
    for array in (copied, scaled, weighed):
        assert (array[3] == 1).all()
    np.testing.assert_allclose(dots[:3], 1 + np.sum(y[:3] * half, axis=1), rtol=1e-5)
    assert dots[3] == factors[2]


def test_facts_are_the_same_in_python_and_in_kernels():
    @njit
    def facts(like, buffer):
        return lanes_of(like), plane_of(like), aligned(buffer) - buffer.ctypes.data

    buffer = np.empty(3 * VECTOR, np.uint8)
    for dtype in DTYPES:
        like = np.empty(0, dtype)
        for offset in (0, 1, VECTOR - 1):
            part = buffer[offset:]
            expected = lanes_of(like), plane_of(like), aligned(part) - part.ctypes.data
            assert facts(like, part) == expected
            assert (part.ctypes.data + expected[2]) % VECTOR == 0
            assert 0 <= expected[2] < VECTOR
