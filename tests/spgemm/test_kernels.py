"""What the compiled kernels promise: one compilation a dtype, inputs untouched."""

import numpy as np
import pytest
import scipy.sparse as sp

import linalgkit
from linalgkit import spgemm
from linalgkit.spgemm import _numba_rows


def test_one_compilation_a_dtype_and_index_width_pruned_or_not():
    a = sp.random_array((50, 50), density=0.2, rng=0, format="csr")
    spgemm.matmul(a, a)
    after = len(_numba_rows.tiny_product.signatures)
    spgemm.matmul(a, a, prune=True)
    read_only = a.copy()
    for array in (read_only.data, read_only.indices, read_only.indptr):
        array.flags.writeable = False
    strided = a.copy()
    strided.data = np.repeat(a.data, 2)[::2]
    foreign = a.copy()
    foreign.data = a.data.astype(">f8")
    for variant in (read_only, strided, foreign):
        result = spgemm.matmul(variant, a)
        assert result.data.tobytes() == spgemm.matmul(a, a).data.tobytes()
    assert len(_numba_rows.tiny_product.signatures) == after


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_that_repeat_fall_back_where_they_do_not(dtype, workers):
    # A band whose rows repeat but for damage here and there: empty rows, other columns, others'
    # lengths, more products than the kernel keeps. Several threads count the entries first.
    n = 20_000
    rng = np.random.default_rng(0)
    band = sp.lil_array(
        sp.diags_array([1.0, -2.0, 3.0, -2.0, 1.0], offsets=[-70, -1, 0, 1, 70], shape=(n, n))
    )
    band[500] = 0
    band[900, 17] = 4.0
    band[1500:1510, 3000] = 1.0
    band[2000, rng.permutation(n)[:200]] = 2.0
    band[12_000:12_003] = band[2000]
    band[15_000, [3, 14_999]] = 5.0
    band = sp.csr_array(band).astype(dtype)
    band.data = rng.standard_normal(band.nnz).astype(dtype)
    expected = band @ band
    expected.sort_indices()
    for prune in (True, False):
        with linalgkit.use_workers(workers):
            result = spgemm.matmul(band, band, prune=prune)
        np.testing.assert_array_equal(result.indices, expected.indices)
        assert result.data.tobytes() == expected.data.tobytes()


@pytest.mark.parametrize("ordered", [True, False])
def test_patterns_that_come_back_in_any_order(ordered):
    # Runs of rows of forty patterns, more than are kept at a time; columns out of order and twice.
    rng = np.random.default_rng(0)
    patterns = [rng.integers(0, 150, rng.integers(1, 9)) for _ in range(40)]
    if ordered:
        patterns = [np.unique(pattern) for pattern in patterns]
    patterns[7] = patterns[7][:0]

    def in_runs(rows):
        rows_of = [patterns[k] for k in np.repeat(rng.integers(0, 40, rows // 25), 25)]
        indices = np.concatenate([k + pattern for k, pattern in enumerate(rows_of)])
        indptr = np.cumsum([0, *map(len, rows_of)])
        values = rng.standard_normal(indices.size)
        return sp.csr_array((values, indices, indptr), shape=(rows, rows + 150))

    a, b = in_runs(10_000), in_runs(10_150)
    expected = a @ b
    expected.sort_indices()
    for workers in (1, 2, 3):
        for prune in (True, False):
            with linalgkit.use_workers(workers):
                result = spgemm.matmul(a, b, prune=prune)
            np.testing.assert_array_equal(result.indptr, expected.indptr)
            np.testing.assert_array_equal(result.indices, expected.indices)
            assert result.data.tobytes() == expected.data.tobytes()


def test_repeating_rows_with_cancellation_are_pruned_in_place():
    n = 5000
    a = sp.csr_array(sp.diags_array([1.0, 1.0], offsets=[0, 1], shape=(n, n)))
    b = sp.csr_array(sp.diags_array([1.0, -1.0, 7.0], offsets=[0, 1, 40], shape=(n, n)))
    while a.nnz < 70_000:  # enough products for the kernel of repeating rows
        a, b = sp.csr_array(sp.block_diag([a, a])), sp.csr_array(sp.block_diag([b, b]))
    result, expected = spgemm.matmul(a, b, prune=True), a @ b
    expected.sort_indices()
    assert result.nnz == expected.nnz < spgemm.matmul(a, b).nnz
    np.testing.assert_array_equal(result.indices, expected.indices)
    np.testing.assert_array_equal(result.data, expected.data)
