"""Products with grids in chunks: the digits of one array, nothing whole in a task or here."""

import numpy as np
import pytest
from kronecker.cases import dense, random

import linalgkit
from linalgkit.kronecker import kron_matmat, kron_matvec, kron_rmatvec


@pytest.fixture(scope="module")
def da(require):
    return require("dask.array")


SHAPES = {
    "square": [(4, 4), (3, 3), (5, 5)],
    "growing and shrinking": [(2, 6), (4, 2), (3, 3)],
    "many of two": [(2, 2)] * 6,
    "one": [(7, 9)],
    "no rows": [(3, 4), (0, 5)],
}


@pytest.mark.parametrize("chunks", [4, 15, 1000])
@pytest.mark.parametrize("name", SHAPES)
def test_like_one_array(name, chunks, da):
    rng = np.random.default_rng(0)
    factors = [random(rng, "D", *shape) for shape in SHAPES[name]]
    matrix = dense(factors)
    x = random(rng, "D", 3, matrix.shape[1])
    got = kron_matvec(factors, da.from_array(x, (2, chunks)))
    assert isinstance(got, da.Array)
    assert got.shape == (3, len(matrix))
    assert got.dtype == np.complex128
    y = got.compute(scheduler="threads")
    np.testing.assert_allclose(y, x @ matrix.T, atol=1e-12)
    if y.size:
        back = kron_rmatvec(factors, da.from_array(y, (2, chunks)))
        np.testing.assert_allclose(back.compute(scheduler="threads"), y @ matrix.conj(), atol=1e-11)


@pytest.mark.parametrize("chunks", [(60, 2), (7, 3), (20, 1)])
def test_columns_like_one_array(chunks, da):
    rng = np.random.default_rng(2)
    factors = [random(rng, "D", *shape) for shape in [(2, 3), (4, 4), (6, 5)]]
    x = random(rng, "D", 2, 60, 3)
    got = kron_matmat(factors, da.from_array(x, (1, *chunks)))
    assert isinstance(got, da.Array)
    assert got.chunks[-1] == da.from_array(x, (1, *chunks)).chunks[-1]
    y = got.compute(scheduler="threads")
    np.testing.assert_allclose(y, dense(factors) @ x, rtol=0, atol=1e-12)


def test_whole_columns_are_not_exchanged(da):
    x = da.ones((12, 8), chunks=(12, 2))
    graph = kron_matmat([np.eye(3), np.eye(4)], x).__dask_graph__()
    assert not any("rechunk" in name for name in graph.layers)


def test_no_chunk_holds_more_than_the_largest_given_one(da):
    factors = [np.eye(n) for n in (8, 4, 8, 4)]
    lazy = da.ones(1024, chunks=100)
    got = kron_matvec(factors, lazy)
    assert max(got.chunks[0]) <= 100
    sizes = [
        np.size(value)
        for value in _every_value(got)
        if isinstance(value, np.ndarray) and value.dtype == float
    ]
    assert max(sizes) <= 100


def _every_value(array):
    """What each task of a graph returns."""
    from dask import get

    graph = dict(array.__dask_graph__())
    return get(graph, list(graph))


def test_dtypes_are_those_of_arrays_in_memory(da):
    factors = [np.eye(2, dtype="f"), np.eye(3, dtype="f")]
    assert kron_matvec(factors, da.ones(6, chunks=2, dtype="f")).dtype == np.float32
    assert kron_matvec(factors, da.ones(6, chunks=2, dtype="d")).dtype == np.float64
    assert kron_matvec(factors, da.ones(6, chunks=2, dtype=int)).compute().dtype == np.float64


def test_wish_for_dask_makes_the_graph_and_the_chunks_choose_theirs(da):
    x = da.from_array(np.arange(12.0), 4)
    factors = [np.diag([1.0, 2, 3]), np.ones((2, 4))]
    with linalgkit.use_engine("dask"):
        got = kron_matvec(factors, x).compute(scheduler="synchronous")
    np.testing.assert_array_equal(got, dense(factors) @ np.arange(12))


def test_bad_input(da):
    x = da.ones(12, chunks=4)
    with pytest.raises(TypeError, match=r"factors\[1\] is a Dask array"):
        kron_matvec([np.eye(3), da.eye(4)], x)
    with pytest.raises(ValueError, match="each factor is one matrix"):
        kron_matvec([np.ones((2, 3, 3)), np.eye(4)], x)
    for call, y in ((kron_matvec, x), (kron_matmat, x[:, None])):
        with pytest.raises(ValueError, match="3·5 = 15 entries"):
            call([np.eye(3), np.eye(5)], y)
    with pytest.raises(ValueError, match="second-to-last axis"):
        kron_matmat([np.eye(3), np.eye(4)], x)


def test_on_a_cluster(require, da):
    distributed = require("distributed")
    rng = np.random.default_rng(1)
    factors = [random(rng, "d", n, n) for n in (6, 5, 4)]
    x = random(rng, "d", 120)
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        got = client.compute(kron_matvec(factors, da.from_array(x, 20))).result(timeout=60)
    np.testing.assert_allclose(got, dense(factors) @ x, atol=1e-11)
