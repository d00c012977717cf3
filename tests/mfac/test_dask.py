"""Gradients in chunks along d: the digits of one array, nothing of size d on the client."""

import os
import signal
import time

import numpy as np
import pytest
from mfac.cases import dense

import linalgkit
from linalgkit.mfac import block_fisher, empirical_fisher, fisher_solve

M, D = 5, 60


@pytest.fixture(scope="module")
def da(require):
    return require("dask.array")


@pytest.fixture
def synchronous(require):
    with require("dask").config.set(scheduler="synchronous"):
        yield


def problem(dtype=np.float64):
    rng = np.random.default_rng(0)
    return rng.standard_normal((M, D)).astype(dtype), rng.standard_normal((D, 2))


@pytest.mark.usefixtures("synchronous")
@pytest.mark.parametrize("chunks", [(5, 60), (5, (7, 13, 40)), (2, 11)])
@pytest.mark.parametrize("storage", [None, "float32", "float16", "bfloat16"])
def test_like_one_array(chunks, storage, da):
    gradients, x = problem()
    whole = empirical_fisher(gradients, damping=0.1, storage=storage)
    fisher = empirical_fisher(da.from_array(gradients, chunks), damping=0.1, storage=storage)
    lazy = da.from_array(x, (17, 1))
    for ours, theirs in (
        (fisher.solve(lazy), whole.solve(x)),
        (fisher.solve(lazy[:, 0]), whole.solve(x[:, 0])),
        (fisher @ lazy, whole @ x),
        (fisher.whiten(lazy), whole.whiten(x)),
        (fisher.diagonal_inverse(), whole.diagonal_inverse()),
        (fisher.diagonal(), whole.diagonal()),
        (fisher.inverse_columns([3, 59]), whole.inverse_columns([3, 59])),
    ):
        assert isinstance(ours, da.Array)
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours.compute(), theirs, rtol=1e-6, atol=1e-7)
    assert fisher.inverse_element(3, 59) == pytest.approx(whole.inverse_element(3, 59))
    assert fisher.logdet() == pytest.approx(whole.logdet())


def test_by_threads(da, require):
    gradients, x = problem()
    whole = empirical_fisher(gradients, damping=0.1)
    with require("dask").config.set(scheduler="threads", num_workers=3):
        fisher = empirical_fisher(da.from_array(gradients, (M, 7)), damping=0.1)
        solved, diagonal = fisher.solve(da.from_array(x, (7, 2))), fisher.diagonal_inverse()
        np.testing.assert_allclose(solved.compute(), whole.solve(x), rtol=1e-12)
        np.testing.assert_allclose(diagonal.compute(), whole.diagonal_inverse(), rtol=1e-12)


@pytest.mark.usefixtures("synchronous")
def test_leaves(da):
    gradients, x = problem()
    parts = [gradients[:, :24].reshape(M, 4, 6), gradients[:, 24:]]
    fisher = empirical_fisher([da.from_array(p, (M, *p.shape[1:])) for p in parts], damping=0.1)
    found = fisher.solve([da.from_array(x[:24, 0].reshape(4, 6)), da.from_array(x[24:, 0])])
    assert [leaf.shape for leaf in found] == [(4, 6), (36,)]
    flat = np.concatenate([leaf.compute().ravel() for leaf in found])
    np.testing.assert_allclose(flat, np.linalg.solve(dense(gradients), x[:, 0]), atol=1e-11)


@pytest.mark.usefixtures("synchronous")
def test_each_pass_reads_a_chunk_once_and_what_is_not_asked_for_is_not_read(da):
    gradients, x = problem()
    reads = []

    def load(block_info=None):
        _, (start, stop) = block_info[None]["array-location"]
        reads.append(start)
        return gradients[:, start:stop]

    lazy = da.map_blocks(load, chunks=((M,), (20,) * 3), dtype=float, meta=np.empty((0, 0)))
    fisher = empirical_fisher(lazy, damping=0.1)
    assert sorted(reads) == [0, 20, 40]
    reads.clear()
    solution = fisher.solve(da.from_array(x[:, 0], 20))
    diagonal = fisher.diagonal_inverse()
    assert sorted(reads) == [0, 20, 40]  # for G x
    reads.clear()
    diagonal.blocks[1].compute()
    assert reads == [20]
    reads.clear()
    solution.compute()
    assert sorted(reads) == [0, 20, 40]


@pytest.mark.usefixtures("synchronous")
def test_wish_for_dask_makes_the_graph_and_the_chunks_choose_theirs(da):
    gradients, x = problem()
    lazy, right = da.from_array(gradients, (M, 20)), da.from_array(x[:, 0], 20)
    with linalgkit.use_engine("dask"):
        found = empirical_fisher(lazy, damping=0.1).solve(right).compute()
    np.testing.assert_allclose(found, np.linalg.solve(dense(gradients), x[:, 0]), atol=1e-11)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_schedulers_and_protocol(scheduler, da, require):
    gradients, x = problem()
    whole = empirical_fisher(gradients, damping=0.1)
    with require("dask").config.set(scheduler=scheduler):
        fisher = empirical_fisher(da.from_array(gradients, (M, 13)), damping=0.1)
        found = fisher.inv() @ da.from_array(x, 13)
        np.testing.assert_allclose(found.compute(), whole.solve(x), rtol=1e-10)
        np.testing.assert_allclose(fisher.diagonal().compute(), whole.diagonal(), rtol=1e-12)
        assert fisher.trace() == pytest.approx(whole.trace())
        assert fisher.norm() == pytest.approx(whole.norm())
    assert "stored in float64, damping 0.1), float64: 300 parameters, 2,400 bytes" in repr(fisher)


def test_refusals(da):
    lazy = da.ones((M, D))
    for call in (
        lambda: empirical_fisher(lazy).save("never_written.npz"),
        lambda: empirical_fisher(lazy).inverse_blocks(2),
        lambda: empirical_fisher(lazy).to_dense(),
        lambda: block_fisher(lazy, 4),
        lambda: fisher_solve(da.ones(D), lazy),
        lambda: linalgkit.mfac.woodbury_static(lazy),
        lambda: linalgkit.mfac.SlidingWindowFisher(2, 3, like=lazy),
        lambda: linalgkit.mfac.prune(da.ones(2), empirical_fisher(np.eye(2)), sparsity=0.5),
    ):
        with pytest.raises(TypeError, match="needs arrays in memory"):
            call()
    with pytest.raises(TypeError, match="different libraries"):
        empirical_fisher(lazy).solve(np.ones(D))
    with pytest.raises(ValueError, match=r"gradients\[2\] is not finite at 7"):
        empirical_fisher(da.where((da.arange(D) == 7) & (np.arange(M) == 2)[:, None], np.nan, 1.0))


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


@pytest.mark.timeout(90)
def test_a_worker_process_is_killed_and_the_answer_is_the_same(client, da):
    assert len({*client.run(os.getpid).values(), os.getpid()}) == 3
    d, width = 60_000, 1500

    def load(block_info=None):
        _, (start, stop) = block_info[None]["array-location"]
        time.sleep(0.03)
        rng = np.random.default_rng(start)
        return rng.standard_normal((8, stop - start)).astype(np.float16)

    chunks = ((8,), (width,) * (d // width))
    lazy = da.map_blocks(load, chunks=chunks, dtype=np.float16, meta=np.empty((0, 0), np.float16))
    parts = [np.random.default_rng(k).standard_normal((8, width)) for k in range(0, d, width)]
    gradients = np.concatenate(parts, axis=1).astype(np.float16)
    x = np.random.default_rng(1).standard_normal(d).astype(np.float32)
    whole = empirical_fisher(gradients, damping=0.5)
    fisher = empirical_fisher(lazy, damping=0.5)
    np.testing.assert_allclose(fisher._form.gram, whole._form.gram, rtol=1e-14, atol=1e-11)

    address, process = next(iter(client.run(os.getpid).items()))
    answer = client.persist(fisher.solve(da.from_array(x, width)))
    pieces = client.futures_of(answer)

    def held():
        return sum(address in workers for workers in client.who_has(pieces).values())

    while held() < 3:
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)  # its finished pieces are lost, too
    assert sum(piece.done() for piece in pieces) < len(pieces)
    np.testing.assert_allclose(client.compute(answer, sync=True), whole.solve(x), rtol=1e-6)
    assert process not in client.run(os.getpid).values()
