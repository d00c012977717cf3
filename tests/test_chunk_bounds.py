"""How work is cut into chunks: from the work alone."""

from itertools import pairwise

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from linalgkit import use_workers
from linalgkit._threads import chunk_bounds


@st.composite
def running_sums(draw):
    """Ends of items with light, heavy and no work."""
    each = st.one_of(st.integers(0, 5), st.just(0), st.integers(0, 1000))
    work = draw(st.lists(each, max_size=60))
    return np.cumsum([0, *work]).astype(draw(st.sampled_from(["i4", "i8", "u4"])))


def assert_bounds(bounds, ends, minimum):
    items, total = len(ends) - 1, int(ends[-1])
    assert all(type(bound) is int for bound in bounds)
    assert bounds[0] == 0
    assert bounds[-1] == items
    assert len(bounds) >= 2
    if items:
        assert all(start < stop for start, stop in pairwise(bounds))
    work = [int(ends[stop]) - int(ends[start]) for start, stop in pairwise(bounds)]
    assert sum(work) == total
    if len(work) > 1:
        assert min(work) >= minimum
    heaviest = max((int(b) - int(a) for a, b in pairwise(ends)), default=0)
    assert max(work) <= 4 * minimum + heaviest


@given(running_sums(), st.integers(1, 200))
@example(np.array([0, 100, 101, 102]), 10)
@example(np.array([0, 2, 4, 6, 8, 10]), 3)
@example(np.array([0]), 10)
@example(np.array([0, 0, 0, 0]), 10)
def test_chunk_bounds(ends, minimum):
    assert_bounds(chunk_bounds(ends, minimum=minimum), ends, minimum)


@given(st.integers(0, 300), st.integers(0, 50), st.integers(1, 200))
@example(5, 2, 3)
def test_chunk_bounds_of_equal_items(count, each, minimum):
    bounds = chunk_bounds((count, each), minimum=minimum)
    assert_bounds(bounds, [each * k for k in range(count + 1)], minimum)
    sizes = np.diff(bounds)
    assert sizes.max() - sizes.min() <= 1
    if each == 0:
        assert bounds == [0, count]


def test_chunk_bounds_without_work():
    for ends in ([0], [0, 0], [0] * 50):
        assert chunk_bounds(np.array(ends), minimum=1) == [0, len(ends) - 1]
    assert chunk_bounds((0, 7), minimum=1) == [0, 0]


def test_chunk_bounds_of_a_heavy_item():
    ends = np.cumsum([0] + [10] * 20 + [10_000] + [10] * 20)
    bounds = chunk_bounds(ends, minimum=100)
    assert len(bounds) > 3  # the light items before and after it are work for others
    (heavy,) = [k for k in range(len(bounds) - 1) if bounds[k] <= 20 < bounds[k + 1]]
    assert ends[bounds[heavy + 1]] - ends[bounds[heavy]] < 10_000 + 300


def test_chunk_bounds_do_not_overflow():
    ends = np.linspace(0, 2**31 - 1, 1001).astype(np.int32)
    bounds = chunk_bounds(ends, minimum=2**20)
    assert bounds == chunk_bounds(ends.astype(np.int64), minimum=2**20)
    assert len(bounds) > 500


def test_chunk_bounds_ignore_workers():
    ends = np.cumsum([0, *np.random.default_rng(0).integers(0, 50, 300)])
    found = []
    for n in (1, 2, 7):
        with use_workers(n):
            found.append((chunk_bounds(ends, minimum=100), chunk_bounds((999, 3), minimum=50)))
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) > 10
