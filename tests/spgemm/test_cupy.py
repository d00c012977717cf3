"""The GPU engine: the same bits as SciPy on the host, on every run."""

import numpy as np
import pytest
import scipy.sparse as sp
from spgemm.cases import LARGE, random, same_bits

from linalgkit import spgemm

pytestmark = pytest.mark.gpu


def on_device(a):
    from cupyx.scipy.sparse import csc_matrix, csr_matrix

    kind, host = (csc_matrix, sp.csc_matrix) if a.format == "csc" else (csr_matrix, sp.csr_matrix)
    return kind(host(a))


@pytest.mark.parametrize("name", LARGE)
def test_same_bits_as_scipy_and_on_every_run(name):
    a, b = LARGE[name]()
    results = [spgemm.matmul(on_device(a), on_device(b), prune=True).get() for _ in range(2)]
    for result in results:
        same_bits(result, sp.csr_matrix(a) @ sp.csr_matrix(b))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_dtypes(dtype):
    # Rows of every table size and of the dense path.
    a = sp.vstack([random((40, 9000), d, i, dtype) for i, d in enumerate((0.0005, 0.01, 0.2))])
    b = random((9000, 8000), 0.002, 7, dtype)
    a = sp.csr_array(a)
    result = spgemm.matmul(on_device(a), on_device(b), prune=True).get()
    same_bits(result, sp.csr_matrix(a) @ sp.csr_matrix(b))


@pytest.mark.parametrize("dtype", ["int32", "float16"])
def test_other_dtypes_are_served_by_the_reference(dtype):
    import cupy as cp

    data, index = cp.asarray([1, 2], dtype=dtype), cp.asarray([0, 1])
    result = spgemm.csr_matmul(
        data, index, cp.asarray([0, 1, 2]), data, index, cp.asarray([0, 1, 2]), shape=(2, 2)
    )
    assert result.data.dtype == dtype
    assert result.data.tolist() == [1, 4]


def test_csc_times_csc():
    a, b = random((40, 30), 0.2, 1, layout="csc"), random((30, 20), 0.2, 2, layout="csc")
    result = spgemm.matmul(on_device(a), on_device(b), prune=True)
    assert result.format == "csc"
    same_bits(result.get(), sp.csc_matrix(a) @ sp.csc_matrix(b))


@pytest.mark.parametrize("shape", [(0, 0, 0), (0, 3, 2), (3, 0, 2), (3, 2, 0), (1, 1, 1)])
def test_empty(shape):
    m, k, n = shape
    import cupy as cp

    def raw(rows, columns):
        full = sp.csr_array(np.ones((rows, columns)))
        return cp.asarray(full.data), cp.asarray(full.indices), cp.asarray(full.indptr)

    data, _, indptr = spgemm.csr_matmul(*raw(m, k), *raw(k, n), shape=(m, n))
    assert data.size == (m * n if k else 0)
    assert indptr.size == m + 1


@pytest.mark.parametrize("duplicates", [False, True])
def test_unsorted_and_duplicate_indices(duplicates):
    import cupy as cp

    rng = np.random.default_rng(0)
    n, each = 500, 12
    choose = rng.integers if duplicates else None
    rows = [choose(0, n, each) if duplicates else rng.permutation(n)[:each] for _ in range(n)]
    indices, indptr = np.concatenate(rows), np.arange(0, n * each + 1, each)
    data = rng.standard_normal(n * each)
    device = tuple(map(cp.asarray, (data, indices, indptr)))
    first = spgemm.csr_matmul(*device, *device, shape=(n, n))
    again = spgemm.csr_matmul(*device, *device, shape=(n, n))
    host = spgemm.csr_matmul(data, indices, indptr, data, indices, indptr, shape=(n, n))
    for one, two, truth in zip(first, again, host, strict=True):
        assert one.get().tobytes() == two.get().tobytes()
        np.testing.assert_allclose(one.get(), truth, rtol=1e-12, atol=1e-12)
    if not duplicates:
        assert first.data.get().tobytes() == host.data.tobytes()


def test_invalid_indices_raise_instead_of_crashing():
    import cupy as cp

    good = cp.ones(2), cp.asarray([0, 1]), cp.asarray([0, 1, 2])
    bad = cp.ones(2), cp.asarray([0, 7]), cp.asarray([0, 1, 2])
    with pytest.raises(ValueError, match=r"b_indices must lie in \[0, 2\); entry 1 is 7"):
        spgemm.csr_matmul(*good, *bad, shape=(2, 2))


def test_host_and_device_are_not_mixed():
    a = random((5, 5), 0.5, 0)
    with pytest.raises(TypeError, match="cupy and numpy"):
        spgemm.matmul(on_device(a), a)
