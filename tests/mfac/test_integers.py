"""Products of rows as 8-bit integers, as the GPU engine makes them: exact, or refused."""

import numpy as np
import pytest

from linalgkit.mfac import _cupy_gram
from linalgkit.mfac._array_api import widened
from linalgkit.mfac._rows import to_bfloat16


def integers_of(rows, digits):
    """Return rows as integers, what divides them, and the relative length of what is left."""
    exponents = np.frexp(np.abs(rows).max(axis=1))[1]
    scaled = np.ldexp(rows, (7 * digits - 1 - exponents)[:, None])
    whole = np.rint(scaled)
    rest = np.linalg.norm(scaled - whole, axis=1) / np.maximum(np.linalg.norm(scaled, axis=1), 1)
    return whole.astype(np.int64), np.ldexp(1.0, 7 * digits - 1 - exponents), rest.max()


def digits_of(whole, digits):
    """Split integers to the base 128, the lowest digit first."""
    found = []
    for _ in range(digits - 1):
        found.append(((whole + 64) & 127) - 64)
        whole = (whole - found[-1]) >> 7
    return [*found, whole]


def product_of(parts):
    """Return A Aᵀ from products of digits, and of sums of two, with themselves."""
    squares = [part @ part.T for part in parts]
    total = sum(square.astype(object) << 14 * i for i, square in enumerate(squares))
    for i, first in enumerate(parts):
        for j in range(i + 1, len(parts)):
            both = first + parts[j]
            assert both.min() >= -128
            assert both.max() <= 127
            cross = both @ both.T - squares[i] - squares[j]
            total = total + (cross.astype(object) << 7 * (i + j))
    return total


def adversarial(dtype, scaled):
    """Rows with the largest and smallest numbers, of one sign, and of one number."""
    rng = np.random.default_rng(0)
    tiny, large = (2.0**-24, 1.0) if scaled else (2.0**-20, 2.0**6)
    rows = rng.standard_normal((9, 300))
    rows /= np.abs(rows).max(axis=1, keepdims=True)
    rows[0] = large
    rows[1] = -large
    rows[2, ::2], rows[2, 1::2] = large, tiny
    rows[3] = tiny
    rows[4] = 0
    rows[5, 1:] = rng.integers(-1023, 1024, 299) * tiny  # subnormal in float16
    rows[6] = np.nextafter(np.float16(large), np.float16(0))
    return widened(to_bfloat16(rows)) if dtype == "bfloat16" else widened(rows.astype(np.float16))


@pytest.mark.parametrize("digits", _cupy_gram._DIGITS)
@pytest.mark.parametrize("scaled", [True, False])
def test_float16_is_exact(digits, scaled):
    rows = adversarial("float16", scaled)
    whole, divisors, rest = integers_of(rows, digits)
    assert rest == 0
    parts = digits_of(whole, digits)
    assert all(part.min() >= -64 and part.max() <= 63 for part in parts[:-1])
    assert np.abs(parts[-1]).max() <= 64
    exact = whole.astype(object) @ whole.T.astype(object)
    np.testing.assert_array_equal(product_of(parts), exact)
    # Units are powers of two, so the integers are the rows themselves.
    np.testing.assert_array_equal(whole / divisors[:, None], rows)


def test_largest_numbers_of_float16():
    rows = np.full((2, 50), 65504.0)
    rows[1, ::2] = -65504.0
    rows[0, 7] = 2.0**-8  # the last place of four digits is 2⁻¹¹
    whole, _, rest = integers_of(rows, 4)
    assert rest == 0
    exact = whole.astype(object) @ whole.T.astype(object)
    np.testing.assert_array_equal(product_of(digits_of(whole, 4)), exact)


def test_rows_spread_too_far_are_refused():
    rows = np.full((1, 20_000), 2.0**-24)
    rows[0, 0] = 65504.0  # 40 bits: five digits hold 35
    assert all(integers_of(rows, digits)[2] > _cupy_gram._REMAINDER for digits in (4, 5))
    spread = np.exp2(np.arange(0.0, -60, -1))[None, :]
    assert integers_of(widened(to_bfloat16(1.99 * spread)), 5)[2] < 2.0**-34


def test_normal_bfloat16_needs_five_digits():
    rows = np.random.default_rng(1).standard_normal((4, 200_000))
    rows = widened(to_bfloat16(rows))
    assert integers_of(rows, 4)[2] > _cupy_gram._REMAINDER
    whole, divisors, rest = integers_of(rows, 5)
    assert rest < _cupy_gram._REMAINDER
    found = product_of(digits_of(whole, 5)).astype(float) / divisors[:, None] / divisors
    lengths = np.linalg.norm(rows, axis=1)
    assert (np.abs(found - rows @ rows.T) / np.outer(lengths, lengths)).max() < 1e-15


def test_sums_fit_in_32_bits():
    assert _cupy_gram._WIDTH * 128**2 < 2**31
