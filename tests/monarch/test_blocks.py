"""Block sizes: what fits, what is chosen, where terms stand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linalgkit import monarch
from linalgkit.monarch._blocks import places, resolved


def parameters(blocks):
    k, q, p, count, rows, inner = blocks
    return k * q * p + count * rows * inner


def check(blocks, rows, columns):
    """Both factors fit each other and the matrix, and no block is padding alone."""
    k, q, p, count, height, inner = blocks
    assert k * q == count * inner
    assert columns <= k * p < columns + p
    assert rows <= count * height < rows + height


@pytest.mark.parametrize("n", [64, 256, 1024, 4096])
def test_powers_of_four_are_square(n):
    m = round(n**0.5)
    assert monarch.choose_blocks((n, n)) == (m,) * 6


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4096, 1024), (32, 64, 32, 64, 64, 32)),
        ((1024, 4096), (64, 32, 64, 32, 32, 64)),
        ((1, 1), (1,) * 6),
    ],
)
def test_rectangles(shape, expected):
    assert monarch.choose_blocks(shape) == expected


def test_multiples_of_eight_come_first():
    # 384 = 16 · 24: the divisors nearest to the root, 19.6, that are both multiples of 8.
    k, _, p, count, rows, _ = monarch.choose_blocks((384, 384))
    assert {k, p} == {count, rows} == {16, 24}


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 4))
def test_chosen_sizes_fit(rows, columns, rank):
    blocks = monarch.choose_blocks((rows, columns), rank=rank)
    check(blocks, rows, columns)
    k, q, _, count, _, inner = blocks
    assert (q, inner) == (rank * count, rank * k)
    assert np.all(places(blocks).ranks == rank)
    # Not far from the fewest parameters there could be, those of slices that are square.
    least = rank * np.sqrt(rows * columns) * (np.sqrt(rows) + np.sqrt(columns))
    assert parameters(blocks) <= 3 * least + 8 * rank


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 3), st.floats(0, 1))
def test_params_bound_the_parameters(rows, columns, rank, share):
    least = rank * (rows + columns)
    params = int(least + share * (rows * columns * rank))
    blocks = monarch.choose_blocks((rows, columns), params=params, rank=rank)
    check(blocks, rows, columns)
    assert parameters(blocks) <= params


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 12))
def test_slices_can_have_the_rank(rows, columns, rank):
    _, _, p, _, height, _ = monarch.choose_blocks((rows, columns), rank=rank)
    assert min(p, height) >= min(rank, rows, columns)
    if rank <= min(rows, columns):
        assert monarch.project(np.ones((rows, columns)), rank=rank).shape == (rows, columns)


def test_rank_that_the_square_root_does_not_allow():
    blocks = monarch.choose_blocks((9, 9), rank=4)
    assert min(blocks[2], blocks[4]) >= 4
    a = np.random.default_rng(0).standard_normal((9, 9))
    assert monarch.project(a, rank=4).shape == (9, 9)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.5])
def test_params_are_nearly_used(share):
    params = int(share * 768 * 768)
    found = parameters(monarch.choose_blocks((768, 768), params=params))
    assert 0.6 * params < found <= params


def test_nblocks_and_rank():
    assert resolved((384, 384), 4, None, 1) == (4, 4, 96, 4, 96, 4)
    assert resolved((384, 384), 4, None, 24) == (4, 96, 96, 4, 96, 96)
    assert resolved((10, 7), 3, None, 2) == (3, 6, 3, 3, 4, 6)  # padded to 12 × 9
    assert resolved((10, 7), None, (3, 4, 3, 2, 5, 6), 1) == (3, 4, 3, 2, 5, 6)
    assert resolved((16, 16), None, None, 1) == (4,) * 6


@pytest.mark.parametrize(
    "blocks", [(3, 4, 2, 2, 2, 6), (2, 3, 3, 3, 2, 2), (4, 3, 2, 6, 2, 2), (3, 12, 2, 4, 2, 9)]
)
def test_places_of_terms(blocks):
    k, q, _, count, _, inner = blocks
    found = places(blocks)
    members = [
        [[t for t in range(kappa * q, (kappa + 1) * q) if t % count == lam] for kappa in range(k)]
        for lam in range(count)
    ]
    np.testing.assert_array_equal(found.ranks, [[len(m) for m in row] for row in members])
    assert set(found.ranks.flat) <= {q // count, -(-q // count)}
    assert found.terms == found.ranks.max()
    for lam, row in enumerate(members):
        for kappa, places_of in enumerate(row):
            for term in range(found.terms):
                number = (lam * k + kappa) * found.terms + term
                if term >= len(places_of):
                    assert found.of_left[lam, kappa, term] == -1
                    assert found.of_right[lam, kappa, term] == -1
                    continue
                t = places_of[term]
                assert found.of_left[lam, kappa, term] == lam * inner + t // count
                assert found.of_right[lam, kappa, term] == t
                assert found.left[lam, t // count] == number
                assert found.right[kappa, t - kappa * q] == number


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: monarch.choose_blocks((0, 4)), ValueError, "rows must be at least 1; got 0"),
        (lambda: monarch.choose_blocks((4.0, 4)), TypeError, "rows must be an integer"),
        (lambda: monarch.choose_blocks(16), TypeError, r"shape must be \(rows, columns\)"),
        (lambda: monarch.choose_blocks((4, 4, 4)), ValueError, r"shape must be \(rows, columns\)"),
        (lambda: monarch.choose_blocks((4, 4), rank=0), ValueError, "rank must be at least 1"),
        (lambda: resolved((12, 9), 3, None, 4), ValueError, r"at most .*slices.* 4 × 3; got 4"),
        (lambda: resolved((9, 9), None, None, 10**6), ValueError, r"at most .*slices"),
        (lambda: monarch.choose_blocks((4, 4), params=7), ValueError, r"rows \+ columns\) = 8"),
        (lambda: resolved((4, 4), 0, None, 1), ValueError, "nblocks must be at least 1"),
        (lambda: resolved((4, 4), None, (2, 2, 2, 2, 2), 1), ValueError, "blocks must be"),
        (lambda: resolved((4, 4), None, (2, 3, 2, 2, 2, 2), 1), ValueError, "k q = l r"),
        (lambda: resolved((4, 5), None, (2, 2, 2, 2, 2, 2), 1), ValueError, "the 5 columns"),
        (lambda: resolved((4, 4), 2, (2, 2, 2, 2, 2, 2), 1), ValueError, "leave out nblocks"),
        (lambda: resolved((4, 4), None, (2, 2, 2, 2, 2, 2), 2), ValueError, "leave out nblocks"),
    ],
)
def test_what_does_not_fit(call, error, message):
    with pytest.raises(error, match=message):
        call()
