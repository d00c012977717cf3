"""More than 2**31 numbers on a GPU: places are counted in 64 bits, and the last ones are right."""

import numpy as np
import pytest
import scipy.sparse as sp

from linalgkit import householder, mfac, monarch, spgemm

pytestmark = pytest.mark.gpu
GIB = 2**30


@pytest.fixture
def cp():
    """Give CuPy, with nothing kept before and after."""
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
    yield cupy
    cupy.get_default_memory_pool().free_all_blocks()


def needs(cp, size):
    free, _ = cp.cuda.runtime.memGetInfo()
    if free < size * GIB:
        pytest.skip(f"needs {size} GiB of GPU memory; {free / GIB:.0f} are free")


def test_delta_rule(cp):
    needs(cp, 50)
    rng = np.random.default_rng(0)
    heads, tokens, width = 8200, 2048, 128
    few = [rng.standard_normal((4, tokens, width)) for _ in range(3)]
    few[1] /= np.linalg.norm(few[1], axis=-1, keepdims=True)
    arrays = [cp.asarray(x, dtype="float16") for x in (*few, rng.random((4, tokens)))]
    expected = householder.delta_rule(*arrays)
    which = cp.arange(heads) % 4
    result = householder.delta_rule(*(x[which] for x in arrays))
    assert result.size > 2**31
    np.testing.assert_array_equal(result[-4:].get(), result[:4].get())
    error = abs(result[-4:].astype("f8") - expected.astype("f8")).max() / abs(expected).max()
    assert error <= 4 * 2.0**-10


def test_gram_matrix_and_inverse(cp):
    needs(cp, 16)
    rng = np.random.default_rng(0)
    m, d, some = 64, 2**31 // 64 + 1000, 500
    g = cp.zeros((m, d), dtype="float16")
    g[:, -some:] = cp.asarray(rng.standard_normal((m, some)))
    x = cp.ones(d, dtype="float32")
    result = mfac.empirical_fisher(g, damping=0.5).solve(x)
    small = g[:, -some:].get().astype(np.float64)
    expected = np.linalg.solve(0.5 * np.eye(some) + small.T @ small / m, np.ones(some))
    np.testing.assert_allclose(result[-some:].get(), expected, rtol=1e-5, atol=1e-6)
    assert bool((result[:-some] == 2.0).all())


def test_monarch_matmul(cp):
    needs(cp, 16)
    rng = np.random.default_rng(0)
    left, right = (cp.asarray(rng.standard_normal((64, 64, 64)), dtype="float16") for _ in "lr")
    few = cp.asarray(rng.standard_normal((8, 4096)) / 64, dtype="float16")
    rows = 2**31 // 4096 + 8
    result = monarch.monarch_matmul(few[cp.arange(rows) % 8], left, right)
    assert result.size > 2**31
    expected = monarch.monarch_matmul(*(x.astype("f8") for x in (few, left, right)))
    error = abs(result[-8:].astype("f8") - expected).max() / abs(expected).max()
    assert error <= 4 * 2.0**-10


def test_sparse_product(cp):
    from cupyx.scipy.sparse import csr_matrix

    needs(cp, 48)
    rows, columns = 70_000, 31_000
    a = csr_matrix(sp.csr_matrix(np.arange(1.0, rows + 1, dtype=np.float32)[:, None]))
    b = csr_matrix(sp.csr_matrix(np.arange(1.0, columns + 1, dtype=np.float32)[None, :]))
    c = spgemm.csr_matmul(a.data, a.indices, a.indptr, b.data, b.indices, b.indptr,
                          shape=(rows, columns))  # fmt: skip
    assert int(c.indptr[-1]) == c.data.size == rows * columns > 2**31
    assert c.indptr.dtype == c.indices.dtype == np.int64
    np.testing.assert_array_equal(c.indices[-columns:].get(), np.arange(columns))
    np.testing.assert_array_equal(c.data[-columns:].get(), np.float32(rows) * b.data.get())
