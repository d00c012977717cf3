"""Products of Dask arrays of sparse blocks: the bits of the whole matrices' product, anywhere."""

import os
import signal
import time
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
from spgemm.cases import random

import linalgkit
from linalgkit import spgemm
from linalgkit.spgemm._semirings import SEMIRINGS

M, K, N = 40, 30, 50
ONE = ((M,), (K,)), ((K,), (N,))
CHUNKS = {
    "one block": ONE,
    "block rows": (((7, 13, 20), (K,)), ((K,), (N,))),
    "block columns": (((M,), (K,)), ((K,), (1, 48, 1))),
    "rows one by one": (((1,) * M, (K,)), ((K,), (N,))),
    "grid": (((9, 9, 9, 9, 4), (10, 10, 10)), ((10, 10, 10), (16, 34))),
    "inner blocks disagree": (((25, 15), (4, 26)), ((11, 11, 8), (23, 27))),
    "empty blocks": (((0, 40, 0), (0, 17, 13)), ((30, 0), (20, 0, 30))),
}


@pytest.fixture(scope="module")
def da(require):
    return require("dask.array")


@pytest.fixture
def synchronous(require):
    with require("dask").config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def blocks(da):
    """Function that cuts a sparse matrix into a Dask array; every block is of the matrix's kind."""
    return partial(da.from_array, asarray=False)


def operands(dtype=np.float64):
    """Two factors and a mask, with stored zeros that a lossy cut would drop."""
    a, b, mask = (
        random((M, K), 0.3, 1, dtype),
        random((K, N), 0.3, 2, dtype),
        random((M, N), 0.4, 3),
    )
    for x in (a, b, mask):
        x.data[::4] = 0
    return a, b, mask


def same(ours, theirs):
    """Assert equal kinds, layouts, patterns and bits."""
    assert type(ours) is type(theirs)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours.indptr, theirs.indptr)
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    assert ours.data.tobytes() == theirs.data.tobytes()


@pytest.mark.usefixtures("synchronous")
class TestSameBits:
    @pytest.mark.parametrize("semiring", ["plus_times", "min_plus", "plus_pair"])
    @pytest.mark.parametrize("name", CHUNKS)
    def test_chunks(self, name, semiring, blocks, da):
        a, b, _ = operands()
        of_a, of_b = CHUNKS[name]
        result = spgemm.matmul(blocks(a, of_a), blocks(b, of_b), semiring=semiring)
        assert isinstance(result, da.Array)
        assert result.chunks == (of_a[0], of_b[1])
        expected = spgemm.matmul(a, b, semiring=semiring)
        assert type(result._meta) is type(expected)
        assert result.dtype == expected.dtype
        same(result.compute(), expected)

    @pytest.mark.parametrize("semiring", SEMIRINGS)
    def test_semirings(self, semiring, blocks):
        a, b, mask = operands(np.int32)
        of_a, of_b = CHUNKS["inner blocks disagree"]
        result = spgemm.matmul(
            blocks(a, of_a), blocks(b, of_b), semiring=semiring, mask=mask, prune=True
        )
        expected = spgemm.matmul(a, b, semiring=semiring, mask=mask, prune=True)
        assert result.dtype == expected.dtype
        same(result.compute(), expected)

    @pytest.mark.parametrize("complement", [False, True])
    @pytest.mark.parametrize("values", [False, True])
    @pytest.mark.parametrize(
        "chunks", [None, ((M,), (N,)), ((3, 37), (30, 20)), ((25, 15), (23, 27))]
    )
    def test_masks(self, chunks, values, complement, blocks):
        a, b, mask = operands()
        of_a, of_b = CHUNKS["inner blocks disagree"]
        options = {"complement": complement, "mask_values": values}
        given = mask if chunks is None else blocks(mask, chunks)
        result = spgemm.matmul(blocks(a, of_a), blocks(b, of_b), mask=given, **options)
        assert result.chunks == (of_a[0], of_b[1])
        same(result.compute(), spgemm.matmul(a, b, mask=mask, **options))

    @pytest.mark.parametrize("transpose_a", [False, True])
    @pytest.mark.parametrize("transpose_b", [False, True])
    @pytest.mark.parametrize("layouts", ["csr csr", "csc csc", "csr csc", "csc csr"])
    def test_transposes_and_conjugates_of_both_layouts(
        self, layouts, transpose_a, transpose_b, blocks
    ):
        a, b, _ = operands(np.complex128)
        of_a, of_b = CHUNKS["inner blocks disagree"]
        if transpose_a:
            a, of_a = a.T, of_a[::-1]
        if transpose_b:
            b, of_b = b.T, of_b[::-1]
        a, b = (x.asformat(layout) for x, layout in zip((a, b), layouts.split(), strict=True))
        options = {"transpose_a": transpose_a, "transpose_b": transpose_b, "conj_a": transpose_a}
        options |= {"conj_b": not transpose_b}
        result = spgemm.matmul(blocks(a, of_a), blocks(b, of_b), **options)
        assert result.chunks == ((25, 15), (23, 27))
        expected = spgemm.matmul(a, b, **options)
        assert type(result._meta) is type(expected)
        same(result.compute(), expected)

    def test_matrices_stay_matrices(self, blocks):
        a, b = (sp.csr_matrix(x) for x in operands()[:2])
        of_a, of_b = CHUNKS["grid"]
        same(spgemm.matmul(blocks(a, of_a), blocks(b, of_b)).compute(), spgemm.matmul(a, b))

    def test_pydata(self, blocks, require):
        sparse = require("sparse")
        a, b = (sparse.COO.from_scipy_sparse(x) for x in operands()[:2])
        of_a, of_b = CHUNKS["grid"]
        result = spgemm.matmul(blocks(a, of_a), blocks(b, of_b)).compute()
        expected = spgemm.matmul(a, b)
        assert type(result) is type(expected)
        np.testing.assert_array_equal(result.todense(), expected.todense())

    def test_repeated_entries_stay_apart_in_blocks_of_mixed_layouts(self, blocks, da):
        # min_plus takes the least of repeated entries; summed up, they would give 8.
        left = sp.csr_array(([3.0, 4.0], [0, 0], [0, 2]), shape=(1, 1))
        pieces = [
            da.from_delayed(_delayed(piece), (1, 1), meta=left) for piece in (left, left.tocsc())
        ]
        row, column = da.concatenate(pieces, axis=1), blocks(sp.csr_array([[1.0], [9.0]]), (1, 1))
        assert spgemm.matmul(row, column, semiring="min_plus").compute().data == [4.0]

    @pytest.mark.parametrize("options", [{"accumulate": "float64"}, {"sort": False}])
    def test_options_reach_the_blocks(self, options, blocks):
        a, b, _ = operands(np.float32)
        result = spgemm.matmul(blocks(a, ((9, 31), (K,))), b, **options)
        same(result.compute(), spgemm.matmul(a, b, **options))

    def test_prune_reaches_the_blocks(self, blocks):
        row, column = sp.csr_array([[1.0, 1.0]]), sp.csr_array([[1.0], [-1.0]])
        assert spgemm.matmul(blocks(row, (1, 1)), column).compute().nnz == 1
        assert spgemm.matmul(blocks(row, (1, 1)), column, prune=True).compute().nnz == 0


def _delayed(value):
    import dask

    return dask.delayed(value, pure=False)


@pytest.mark.parametrize("which", ["a", "b", "mask"])
def test_containers_stand_once_in_the_graph(which, blocks):
    a, b, mask = operands()
    of_a, of_b = CHUNKS["grid"]
    given = {"a": blocks(a, of_a), "b": blocks(b, of_b), "mask": blocks(mask, (20, 20))}
    given[which] = {"a": a, "b": b, "mask": mask}[which]
    result = spgemm.matmul(given["a"], given["b"], mask=given["mask"])
    whole = [key for key in result.dask if str(key).startswith("csr_array")]
    assert len(whole) == 1
    assert result.numblocks[0] * result.numblocks[1] >= 2
    same(result.compute(scheduler="threads"), spgemm.matmul(a, b, mask=mask))


def test_containers_take_the_chunks_of_a_mask(blocks):
    a, b, mask = operands()
    result = spgemm.matmul(a, b, mask=blocks(mask, ((30, 10), (20, 30))))
    assert result.chunks == ((30, 10), (20, 30))
    same(result.compute(scheduler="threads"), spgemm.matmul(a, b, mask=mask))


def test_nothing_is_computed_before_it_is_asked_for(da):
    a, b, _ = operands()
    calls = []

    def load(block_info=None):
        (start, stop), _ = block_info[None]["array-location"]
        calls.append(start)
        return a[start:stop]

    chunks = ((10,) * 4, (K,))
    lazy = da.map_blocks(load, chunks=chunks, dtype=float, meta=sp.csr_array((0, 0)))
    result = spgemm.matmul(lazy, da.from_array(b, chunks=(K, 10), asarray=False))
    assert calls == []
    result.blocks[2, 1].compute(scheduler="synchronous")
    assert calls == [20]  # the other block rows are not needed
    result.compute(scheduler="synchronous")
    assert sorted(calls) == [0, 10, 20, 20, 30]  # once each, for all five block columns


def test_blocks_of_b_are_put_together_once(da, blocks):
    a, b, _ = operands()
    calls = []

    def load(block_info=None):
        (start, stop), _ = block_info[None]["array-location"]
        calls.append(start)
        return b[start:stop]

    chunks = ((10,) * 3, (N,))
    right = da.map_blocks(load, chunks=chunks, dtype=float, meta=sp.csr_array((0, 0)))
    result = spgemm.matmul(blocks(a, (5, K)), right)
    assert sum("spgemm-join" in str(key) for key in result.dask) == 1
    same(result.compute(scheduler="synchronous"), spgemm.matmul(a, b))
    assert sorted(calls) == [0, 10, 20]


def test_wish_for_dask_makes_the_graph_and_the_blocks_choose_theirs(blocks):
    a, b, _ = operands()
    with linalgkit.use_engine("dask"):
        result = spgemm.matmul(blocks(a, (10, K)), b).compute(scheduler="synchronous")
    same(result, spgemm.matmul(a, b))
    with (
        linalgkit.use_engine("array_api"),
        pytest.raises(linalgkit.EngineError, match="cannot serve dask"),
    ):
        spgemm.matmul(blocks(a, (10, K)), b)


def test_max_memory_bounds_every_block(blocks):
    a, b, _ = operands()
    whole = spgemm.matmul(a, b)
    limit = 12 * whole.nnz // 2  # half of what the whole result takes
    in_two = spgemm.matmul(blocks(a, (20, K)), b, max_memory=limit)
    with pytest.raises(MemoryError, match="max_memory"):
        in_two.compute(scheduler="synchronous")
    in_eight = spgemm.matmul(blocks(a, (5, K)), b, max_memory=limit)
    same(in_eight.compute(scheduler="synchronous"), whole)


@pytest.mark.parametrize("transposed", [False, True])
# A full row takes 50 * (8 + 8) + 8 = 808 bytes at most, the row pointers 8 more.
@pytest.mark.parametrize(("limit", "height"), [(50_000, 40), (4_048, 5), (4_047, 4), (1, 1)])
def test_max_memory_cuts_the_rows_of_a_container(limit, height, transposed, blocks):
    a, b = sp.csr_array(np.ones((M, K))), sp.csr_array(np.ones((K, N)))
    left = a.T if transposed else a
    result = spgemm.matmul(left, blocks(b, (K, N)), transpose_a=transposed, max_memory=limit)
    assert result.chunks[0] == (height,) * (M // height)
    if limit > 1:
        same(result.compute(scheduler="synchronous"), spgemm.matmul(a, b))
    else:
        with pytest.raises(MemoryError, match="max_memory"):
            result.compute(scheduler="synchronous")


def test_empty_rows_cost_no_memory(blocks):
    a = sp.csr_array(([1.0], [0], [0] * 500 + [1] * 501), shape=(1000, K))
    result = spgemm.matmul(a, blocks(random((K, N), 0.3, 2), (K, N)), max_memory=9_000)
    assert result.chunks[0] == (1000,)


@pytest.mark.parametrize("shape", [(0, K, N), (M, 0, N), (M, K, 0), (0, 0, 0)])
def test_empty_shapes(shape, blocks):
    a, b = sp.csr_array(shape[:2]), sp.csr_array(shape[1:])
    result = spgemm.matmul(blocks(a, (10, 10)), blocks(b, (7, 7)), max_memory=10_000)
    same(result.compute(scheduler="synchronous"), spgemm.matmul(a, b))
    same(
        spgemm.matmul(a, blocks(b, (7, 7)), max_memory=10_000).compute(scheduler="synchronous"),
        spgemm.matmul(a, b),
    )


class TestRefusals:
    def test_shapes(self, blocks):
        a, b, _ = operands()
        with pytest.raises(ValueError, match=r"got \(40, 30\) and \(50, 30\) after transposition"):
            spgemm.matmul(blocks(a, (9, 9)), b, transpose_b=True)
        with pytest.raises(ValueError, match=r"got \(30, 50\) and \(40, 30\)\.$"):
            spgemm.matmul(b, blocks(a, (9, 9)))
        with pytest.raises(ValueError, match=r"result's shape \(40, 50\); got \(40, 30\)"):
            spgemm.matmul(a, b, mask=blocks(a, (9, 9)))

    def test_unknown_chunks(self, blocks):
        a, b, _ = operands()
        lazy = blocks(a, (9, K)).map_blocks(lambda x: x, chunks=((np.nan,) * 5, (K,)), meta=a[:0])
        with pytest.raises(ValueError, match=r"a has blocks of unknown size.*compute_chunk_sizes"):
            spgemm.matmul(lazy, b)
        lazy.compute_chunk_sizes()  # what the message advises
        same(spgemm.matmul(lazy, b).compute(), spgemm.matmul(a, b))

    def test_dense_blocks(self, blocks, da):
        a, b, _ = operands()
        a.eliminate_zeros()  # as they are lost in a dense array
        dense = da.from_array(a.toarray(), chunks=(9, 9))
        with pytest.raises(TypeError, match=r"a must have sparse blocks.*numpy\.ndarray"):
            spgemm.matmul(dense, b)
        same(spgemm.matmul(dense.map_blocks(sp.csr_array), b).compute(), spgemm.matmul(a, b))
        with pytest.raises(TypeError, match=r"b must be a sparse array"):
            spgemm.matmul(blocks(a, (9, 9)), b.toarray())

    def test_other_collections(self, da):
        a, b, _ = operands()
        with pytest.raises(TypeError, match=r"a must be a Dask array.*from_delayed"):
            spgemm.matmul(_delayed(a), b)
        with pytest.raises(ValueError, match="a must have two axes"):
            spgemm.matmul(da.ones(3), b)

    def test_three_arrays_that_are_no_container(self, blocks):
        from types import SimpleNamespace

        a, b, _ = operands()
        raw = SimpleNamespace(data=b.data, indices=b.indices, indptr=b.indptr, shape=b.shape)
        with pytest.raises(TypeError, match=r"b must be a container of scipy\.sparse"):
            spgemm.matmul(blocks(a, (9, 9)), raw)

    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"semiring": "plus_minus"}, ValueError, "semiring must be one of"),
            ({"complement": True}, ValueError, "complement=True needs a mask"),
            ({"mask_values": True}, ValueError, "mask_values=True needs a mask"),
            ({"max_memory": -1}, ValueError, "max_memory must be at least 0"),
            ({"max_memory": 1.5}, TypeError, "max_memory must be an integer"),
            ({"semiring": "max_min"}, TypeError, "max_min needs an order"),
        ],
    )
    def test_options_at_once_not_in_the_tasks(self, options, error, words, blocks):
        a, b, _ = operands(np.complex128)
        with pytest.raises(error, match=words):
            spgemm.matmul(blocks(a, (9, 9)), b, **options)


def test_bytes_of_sparse_arrays_are_counted(require, da):
    sizeof = require("dask.sizeof").sizeof
    a = random((1000, 1000), 0.1, 1)
    spgemm.matmul(da.from_array(a, chunks=(500, 1000), asarray=False), a)  # loads the engine
    assert a.nnz * 12 <= sizeof(a) <= a.nnz * 12 + 100_000


@pytest.fixture(scope="module")
def client(require):
    """Client of two worker processes; a killed one is started again."""
    distributed = require("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.timeout(60)
def test_two_worker_processes(client, blocks, da):
    assert len({*client.run(os.getpid).values(), os.getpid()}) == 3
    a, b, mask = operands()
    of_a, of_b = CHUNKS["inner blocks disagree"]
    for given in (mask, blocks(mask, (20, 20))):
        options = {"semiring": "max_plus", "complement": True}
        result = spgemm.matmul(blocks(a, of_a), blocks(b, of_b), mask=given, **options)
        same(result.compute(), spgemm.matmul(a, b, mask=mask, **options))
    same(spgemm.matmul(blocks(a, of_a), b).compute(), spgemm.matmul(a, b))
    whole = client.scatter(b, broadcast=True)  # the way for a large B, which the tutorial shows
    lazy = da.from_delayed(whole, b.shape, meta=b)
    same(spgemm.matmul(blocks(a, of_a), lazy).compute(), spgemm.matmul(a, b))


@pytest.mark.timeout(60)
def test_a_worker_process_is_killed_and_the_work_is_done(client, blocks, da):
    a, b = random((600, 500), 0.02, 1), random((500, 700), 0.02, 2)

    def load(block_info=None):
        (start, stop), (first, last) = block_info[None]["array-location"]
        time.sleep(0.05)
        return a[start:stop, first:last]

    chunks = ((20,) * 30, (250, 250))
    left = da.map_blocks(load, chunks=chunks, dtype=float, meta=sp.csr_array((0, 0)))
    address, process = next(iter(client.run(os.getpid).items()))
    product = client.persist(spgemm.matmul(left, blocks(b, (100, 350))))
    parts = client.futures_of(product)

    def held():
        return sum(address in workers for workers in client.who_has(parts).values())

    while held() < 3:
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)  # its finished blocks are lost, too
    assert sum(part.done() for part in parts) < len(parts)
    same(client.compute(product, sync=True), spgemm.matmul(a, b))
    assert process not in client.run(os.getpid).values()


@pytest.mark.usefixtures("synchronous")
@pytest.mark.parametrize("axis", [0, 1])
def test_inner_blocks_of_diagonals_keep_their_zeros(axis, da):
    stays = {("stays", k * (1 - axis), k * axis): sp.diags_array(np.zeros(3)) for k in range(2)}
    chunks = ((3,), (3, 3)) if axis else ((3, 3), (3,))
    both = da.Array(stays, "stays", chunks, meta=sp.csr_array((0, 0)))
    other = random((6, 4), 0.8, 1) if axis else random((3, 4), 0.8, 1)
    result = spgemm.matmul(both, other, semiring="min_plus").compute()
    joined = sp.vstack([sp.csr_array((np.zeros(3), np.arange(3), np.arange(4)))] * 2)
    joined = sp.csr_array(joined.T if axis else joined)
    same(result, spgemm.matmul(joined, other, semiring="min_plus"))
