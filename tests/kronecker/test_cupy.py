"""The GPU engine: every path of it against products on the host."""

import numpy as np
import pytest
from kronecker.cases import dense, dense_sum, random

from linalgkit import kronecker

SHAPES = {
    "registers": [(3, 4), (8, 7), (17, 32)],
    "all of one size": [(16, 16)] * 4,
    "pairs": [(3, 4), (16, 13), (5, 2), (1, 3), (8, 8), (7, 1)],
    "pairs that grow": [(15, 2), (9, 11), (16, 1)],
    "a pair behind": [(70, 3), (4, 6), (2, 5)],
    "cuBLAS": [(40, 50), (33, 2), (1, 70)],
    "both": [(8, 8), (70, 66), (5, 5)],
    "batched by cuBLAS": [(3, 3), (64, 80), (64, 70)],
}
TOLERANCE = {"f": 1e-5, "d": 1e-13, "F": 1e-5, "D": 1e-13}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", "fdFD")
@pytest.mark.parametrize("name", SHAPES)
def test_products(name, dtype):
    import cupy as cp

    rng = np.random.default_rng(0)
    factors = [random(rng, dtype, *shape) for shape in SHAPES[name]]
    x = random(rng, dtype, 2, int(np.prod([n for _, n in SHAPES[name]])))
    expected = kronecker.kron_matvec(factors, x)
    got = kronecker.kron_matvec(list(map(cp.asarray, factors)), cp.asarray(x))
    atol = TOLERANCE[dtype] * np.abs(expected).max()
    np.testing.assert_allclose(got.get(), expected, rtol=0, atol=atol)
    block = kronecker.kron_matmat(list(map(cp.asarray, factors)), cp.asarray(x.T))
    np.testing.assert_allclose(block.get(), expected.T, rtol=0, atol=atol)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", "fd")
@pytest.mark.parametrize("sizes", [(3, 4, 5), (16, 16, 16), (40, 3, 50)])
def test_sums_and_solves(sizes, dtype):
    import cupy as cp

    rng = np.random.default_rng(1)
    factors = [random(rng, dtype, n, n) for n in sizes]
    factors = [a @ a.T / len(a) + np.eye(len(a), dtype=dtype) for a in factors]
    x = random(rng, dtype, int(np.prod(sizes)))
    expected = kronecker.kronsum_matvec(factors, x)
    on_device = list(map(cp.asarray, factors))
    got = kronecker.kronsum_matvec(on_device, cp.asarray(x))
    tolerance = 100 * TOLERANCE[dtype] * np.abs(expected).max()
    np.testing.assert_allclose(got.get(), expected, rtol=0, atol=tolerance)
    for method in ("auto", "eigh", "eig", "schur"):
        back = kronecker.kronsum_solve(on_device, got, method=method)
        np.testing.assert_allclose(back.get(), x, rtol=0, atol=tolerance)
    solved = kronecker.kron_solve(on_device, cp.asarray(x))
    np.testing.assert_allclose(
        kronecker.kron_matvec(factors, solved.get()), x, rtol=0, atol=100 * tolerance
    )


@pytest.mark.gpu
def test_nan_stays_in_its_fibre():
    import cupy as cp

    x = cp.ones((4, 3 * 5))
    x[2, 4] = cp.nan
    got = kronecker.kron_matvec([cp.ones((2, 3)), cp.ones((2, 5))], x)
    assert bool(cp.isnan(got[2]).all())
    assert not bool(cp.isnan(got[cp.asarray([0, 1, 3])]).any())


@pytest.mark.gpu
def test_small_dense_truth():
    import cupy as cp

    rng = np.random.default_rng(2)
    factors = [rng.standard_normal((n, n)) for n in (2, 3, 2)]
    x = rng.standard_normal(12)
    on_device = list(map(cp.asarray, factors))
    got = kronecker.kron_matvec(on_device, cp.asarray(x)).get()
    np.testing.assert_allclose(got, dense(factors) @ x, rtol=0, atol=1e-13)
    got = kronecker.kronsum_matvec(on_device, cp.asarray(x)).get()
    np.testing.assert_allclose(got, dense_sum(factors) @ x, rtol=0, atol=1e-13)
