"""How large products are, before and without them; what they may take."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from spgemm.cases import LARGE, poisson, random, scattered, stored

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


def test_work_and_entries_of_a_squared_poisson_matrix():
    a = poisson(64)
    assert spgemm.row_flops(a, a).sum() == 12_527_104
    assert spgemm.matmul(a, a).nnz == 6_382_336


@pytest.mark.parametrize("engine", ENGINES)
def test_max_memory_counts_the_indices_and_values_of_the_result(engine):
    wide = sp.csr_array(
        (np.ones(1000), np.arange(1000) * 2**22, np.array([0, 1000])), shape=(1, 2**33)
    )
    one = sp.csr_array(np.ones((1, 1)))
    full = sp.csr_array(np.ones((4, 4), dtype=np.float32))
    half = np.ones(4, dtype=np.float16), np.array([0, 1, 0, 1]), np.array([0, 2, 4])
    calls = [  # result and what it takes
        (lambda **options: spgemm.matmul(one, wide, **options), 1000 * 16 + 2 * 8),
        (
            lambda **options: spgemm.matmul(full, full, accumulate="float64", **options),
            16 * 8 + 5 * 4,
        ),
        (lambda **options: spgemm.csr_matmul(*half, *half, shape=(2, 2), **options), 4 * 6 + 3 * 4),
    ]
    with linalgkit.use_engine(engine):
        for call, needed in calls:
            result = call(max_memory=needed)
            assert sum(x.nbytes for x in (result.data, result.indices, result.indptr)) == needed
            with pytest.raises(MemoryError, match=f"needs {needed:,} bytes"):
                call(max_memory=needed - 1)
        with pytest.raises(MemoryError, match="needs 148 bytes; max_memory is 0"):
            spgemm.matmul(full, full, max_memory=0)


PAST_32_BITS = ("irregular", "hub rows", "grid", "single-entry sources", "dense row on the right")


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("name", PAST_32_BITS)
def test_results_of_more_entries_than_32_bits_count(name, workers, monkeypatch):
    # With less than that: what is large is only said to be.
    from linalgkit.spgemm import _csr

    a, b = LARGE[name]()
    shape = a.shape[0], b.shape[1]
    mask = scattered(*shape, 40)
    arrays = a.data, a.indices, a.indptr, b.data, b.indices, b.indptr
    places = {"mask_indices": mask.indices, "mask_indptr": mask.indptr}
    ways = [{}, {"prune": True}, places, places | {"complement": True}]
    ways = [{"shape": shape} | options for options in ways]
    expected = [spgemm.csr_matmul(*arrays, **options) for options in ways]
    end = max(a.shape + b.shape) + 1
    assert expected[0].indices.size > end
    monkeypatch.setattr(_csr, "_END_OF_INT32", end)
    with linalgkit.use_workers(workers):
        for options, product in zip(ways, expected, strict=True):
            result = spgemm.csr_matmul(*arrays, **options)
            index = np.int64 if product.indices.size >= end else np.int32
            assert result.indices.dtype == result.indptr.dtype == index
            np.testing.assert_array_equal(result.indptr, product.indptr)
            np.testing.assert_array_equal(result.indices, product.indices)
            assert result.data.tobytes() == product.data.tobytes()
            needed = sum(x.nbytes for x in result)
            spgemm.csr_matmul(*arrays, **options, max_memory=needed)
            with pytest.raises(MemoryError, match=f"needs {needed:,} bytes"):
                spgemm.csr_matmul(*arrays, **options, max_memory=needed - 1)


def test_reference_results_of_more_entries_than_32_bits_count(monkeypatch):
    from linalgkit.spgemm import _csr

    a = random((50, 50), 0.2, 1)
    expected = spgemm.matmul(a, a)
    monkeypatch.setattr(_csr, "_END_OF_INT32", expected.nnz)
    arrays = a.data, a.indices, a.indptr
    with linalgkit.use_engine("array_api"):
        result = spgemm.csr_matmul(*arrays, *arrays, shape=a.shape)
    assert result.indices.dtype == result.indptr.dtype == np.int64
    np.testing.assert_array_equal(result.indices, expected.indices)


def test_estimate_takes_memory_for_rows_and_columns_not_for_entries():
    n = 600
    full = sp.csr_array(np.ones((n, n)))
    expected = spgemm.estimate_nnz(full, full, rng=0)
    tracemalloc.start()
    found = spgemm.estimate_nnz(full, full, rng=0)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == expected
    keys = 64 * 8 * n
    assert most < 4 * keys + 64 * 8 * 2**15 < 64 * 8 * full.nnz / 8


def test_estimate_of_rows_that_are_looked_at_in_parts(monkeypatch):
    from linalgkit.spgemm import _array_api

    a, b = random((40, 300), 0.3, 1), random((300, 200), 0.1, 2)
    a = sp.csr_array(sp.vstack([sp.csr_array((3, 300)), a, sp.csr_array((2, 300))]))
    whole = spgemm.estimate_nnz(a, b, rng=0)
    for part in (1, 7, 64):
        monkeypatch.setattr(_array_api, "_GATHERED", part)
        assert spgemm.estimate_nnz(a, b, rng=0) == whole


@pytest.mark.gpu
def test_estimate_of_cuda_tensors(require):
    require("cupy")
    torch = require("torch")
    from types import SimpleNamespace

    a = random((50, 50), 0.2, 1)
    parts = {part: torch.asarray(getattr(a, part)).cuda() for part in ("data", "indices", "indptr")}
    on_device = SimpleNamespace(**parts, shape=a.shape)
    expected = spgemm.estimate_nnz(a, a, rng=0)
    assert spgemm.estimate_nnz(on_device, on_device, rng=0) == expected


@pytest.mark.parametrize("version", [1, 2])
def test_memory_limits_of_containers_count(version, tmp_path, monkeypatch):
    from linalgkit.spgemm import _numba_operands

    paths = [tmp_path / name for name in ("limit", "used", "stat")]
    monkeypatch.setattr(_numba_operands, "_CGROUPS", [[tmp_path / "none"] * 3, paths])
    without = _numba_operands.available_memory()
    assert without > 2**20
    inactive = "total_inactive_file" if version == 1 else "inactive_file"
    paths[0].write_text(f"{5 << 20}\n")
    paths[1].write_text(f"{4 << 20}\n")
    paths[2].write_text(f"anon 7\n{inactive} {1 << 18}\n")
    assert _numba_operands.available_memory() == (1 << 20) + (1 << 18)
    paths[1].write_text(f"{6 << 20}\n")
    assert _numba_operands.available_memory() == 0
    paths[0].write_text("9223372036854771712\n" if version == 1 else "max\n")
    assert _numba_operands.available_memory() > 2**20
