"""How large products are, before and without them; what they may take."""

import numpy as np
import pytest
import scipy.sparse as sp
from spgemm.cases import LARGE, random, stored

import linalgkit
from linalgkit import spgemm

ENGINES = ("array_api", "numba")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "layouts", [("csr", "csr"), ("csc", "csr"), ("csr", "csc"), ("coo", "lil")]
)
def test_products_of_every_row(layouts, engine):
    a, b = random((30, 20), 0.2, 1, layout=layouts[0]), random((20, 25), 0.3, 2, layout=layouts[1])
    ones = [stored(x.tocsr()).toarray().astype(int) for x in (a, b)]
    with linalgkit.use_engine(engine):
        found = spgemm.row_flops(a, b)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, (ones[0] @ ones[1]).sum(axis=1))
        bound = spgemm.nnz_upper_bound(a, b)
    assert type(bound) is int
    assert bound == np.minimum(found, 25).sum()
    assert spgemm.matmul(a, b).nnz <= bound


@pytest.mark.parametrize("name", LARGE)
def test_sizes_of_large_products(name):
    a, b = LARGE[name]()
    found = spgemm.row_flops(a, b)
    np.testing.assert_array_equal(found, stored(a).astype(np.int64) @ np.diff(b.indptr))
    nnz = spgemm.matmul(a, b).nnz
    assert nnz <= spgemm.nnz_upper_bound(a, b) <= found.sum()
    assert spgemm.plan(a, b, slots=False).flops == found.sum()


@pytest.mark.parametrize("engine", ENGINES)
def test_more_products_than_32_bits_count(engine):
    n = 50_000  # a full column times a full row
    column = sp.csr_array((np.ones(n), np.zeros(n, int), np.arange(n + 1)), shape=(n, 1))
    row = sp.csr_array((np.ones(n), np.arange(n), np.array([0, n])), shape=(1, n))
    with linalgkit.use_engine(engine):
        found = spgemm.row_flops(column, row)
        assert found.min() == found.max() == n
        assert found.sum() == n**2 > 2**31
        assert spgemm.nnz_upper_bound(column, row) == n**2
        # One row of more products than 32 bits count: each repeated index is one.
        repeated = sp.csr_array((np.ones(n), np.zeros(n, int), np.array([0, n])), shape=(1, 1))
        assert spgemm.row_flops(repeated, row).tolist() == [n**2]
        assert spgemm.nnz_upper_bound(repeated, row) == n


@pytest.mark.parametrize("engine", ENGINES)
def test_indices_of_the_result_widen_with_its_shape(engine):
    wide = sp.csr_array(
        (np.array([2.0, 3.0]), np.array([5, 2**33]), np.array([0, 1, 2])), shape=(2, 2**33 + 1)
    )
    with linalgkit.use_engine(engine):
        result = spgemm.matmul(sp.csr_array(np.array([[1.0, 1.0], [0.0, 5.0]])), wide)
    assert result.indices.dtype == np.int64
    assert result.indices.tolist() == [5, 2**33, 2**33]
    assert result.data.tolist() == [2.0, 3.0, 15.0]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("prune", [False, True])
def test_max_memory_is_a_limit_to_the_byte(prune, engine):
    a, b = random((40, 30), 0.3, 1), random((30, 50), 0.3, 2)
    result = spgemm.matmul(a, b)
    needed = result.nnz * (8 + 4) + 41 * 4
    with linalgkit.use_engine(engine):
        fits = spgemm.matmul(a, b, max_memory=needed, prune=prune)
        assert fits.data.tobytes() == result.data.tobytes()
        with pytest.raises(
            MemoryError, match=rf"{result.nnz:,} entries and needs {needed:,} bytes"
        ):
            spgemm.matmul(a, b, max_memory=needed - 1, prune=prune)
        masked = spgemm.matmul(a, b, mask=sp.csr_array((40, 50)), max_memory=41 * 4)
        assert masked.nnz == 0
        with pytest.raises(ValueError, match="max_memory must be at least 0"):
            spgemm.matmul(a, b, max_memory=-1)
        with pytest.raises(TypeError, match="max_memory must be an integer"):
            spgemm.matmul(a, b, max_memory=1e9)


@pytest.mark.parametrize("name", ["irregular", "grid", "coarse grid", "single-entry sources"])
def test_max_memory_of_large_products(name):
    a, b = LARGE[name]()
    result = spgemm.matmul(a, b)
    needed = result.data.nbytes + result.indices.nbytes + result.indptr.nbytes
    for semiring in ("plus_times", "min_plus"):
        assert spgemm.matmul(a, b, semiring=semiring, max_memory=needed).nnz == result.nnz
        with pytest.raises(MemoryError, match=f"{result.nnz:,} entries"):
            spgemm.matmul(a, b, semiring=semiring, max_memory=needed - 1)


def test_estimate_is_within_its_standard_error():
    a, b = random((500, 400), 0.02, 1), random((400, 600), 0.02, 2)
    exact = spgemm.matmul(a, b).nnz
    estimates = np.array([spgemm.estimate_nnz(a, b, rng=seed) for seed in range(30)])
    # Rows share columns' keys, so their errors do not average out in full: at worst 13 per cent.
    spread = estimates.std() / exact
    assert 0 < spread < 0.13
    assert abs(estimates.mean() - exact) < 4 * estimates.std() / np.sqrt(30)
    assert type(spgemm.estimate_nnz(a, b)) is float


def test_estimate_of_single_rows_has_the_stated_error():
    # One row of 300 columns: 63 / (the sum of 64 exponential minima), relative error 1/sqrt(62).
    b = random((1, 1000), 0.3, 1)
    one = sp.csr_array(np.ones((1, 1)))
    errors = [spgemm.estimate_nnz(one, b, rng=seed) / b.nnz - 1 for seed in range(400)]
    assert abs(np.mean(errors)) < 4 * 0.127 / 20
    assert 0.11 < np.std(errors) < 0.145


def test_estimate_follows_the_seed_and_knows_empty_rows():
    a, b = random((50, 40), 0.1, 1), random((40, 60), 0.1, 2)
    assert spgemm.estimate_nnz(a, b, rng=7) == spgemm.estimate_nnz(a, b, rng=7)
    assert spgemm.estimate_nnz(a, b, rng=7) != spgemm.estimate_nnz(a, b, rng=8)
    generator = np.random.default_rng(7)
    assert spgemm.estimate_nnz(a, b, rng=generator) == spgemm.estimate_nnz(a, b, rng=7)
    assert spgemm.estimate_nnz(a, b, rng=generator) != spgemm.estimate_nnz(a, b, rng=7)
    for shape in ((0, 4, 5), (3, 0, 5), (3, 4, 0), (3, 4, 5)):
        m, k, n = shape
        assert spgemm.estimate_nnz(sp.csr_array((m, k)), sp.csr_array((k, n)), rng=0) == 0
        assert spgemm.nnz_upper_bound(sp.csr_array((m, k)), sp.csr_array((k, n))) == 0
        assert spgemm.row_flops(sp.csr_array((m, k)), sp.csr_array((k, n))).tolist() == [0] * m
    gap = sp.csr_array(np.array([[0.0], [1.0], [0.0]]))
    exact = [spgemm.estimate_nnz(gap, random((1, 400), 0.5, 1), rng=s) for s in range(20)]
    assert abs(np.mean(exact) - 200) < 30


@pytest.mark.parametrize("function", ["row_flops", "nnz_upper_bound", "estimate_nnz"])
def test_shapes_that_do_not_fit(function):
    with pytest.raises(ValueError, match=r"a of shape \(m, k\).*got \(3, 4\) and \(3, 4\)"):
        getattr(spgemm, function)(sp.csr_array((3, 4)), sp.csr_array((3, 4)))
