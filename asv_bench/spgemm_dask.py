"""A product that is larger than the memory of the processes that compute it; run by hand.

    python asv_bench/spgemm_dask.py
    python asv_bench/spgemm_dask.py --rows 2_000_000 --blocks 128

A is random with `degree` entries a row and never stands whole in any process but for the right
factor's copy; of A·A, each block is reduced to its number of entries and a checksum where it is
made. The second run loses one of the two worker processes on the way and must give the same (the
peak of the process that takes its place starts anew).
"""

import argparse
import logging
import os
import resource
import signal
import time
import zlib

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster, wait
from scipy.sparse import csr_array

from linalgkit import spgemm

GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--degree", type=int, default=16)
    parser.add_argument("--blocks", type=int, default=64)
    parser.add_argument("--memory", type=float, default=1.0, help="GiB of each worker process")
    arguments = parser.parse_args()
    # One thread a process: the two processes share the cores.
    os.environ.setdefault("LINALGKIT_WORKERS", "1")
    print(
        f"A·A, {arguments.rows:,} rows with {arguments.degree} entries, {arguments.blocks} blocks"
    )
    print(f"{'':22}{'seconds':>8}{'entries':>14}{'GiB':>7}  peak GiB of each worker")
    expected = None
    for name in ("two workers", "one of them is killed"):
        with (
            LocalCluster(
                n_workers=2,
                threads_per_worker=1,
                processes=True,
                memory_limit=int(arguments.memory * GIB),
                dashboard_address=None,
                silence_logs=logging.ERROR,  # that a worker is lost is meant
            ) as cluster,
            Client(cluster) as client,
        ):
            sums = checksums(arguments.rows, arguments.degree, arguments.blocks)
            begin = time.perf_counter()
            result = computed(client, sums, kill=name != "two workers")
            seconds = time.perf_counter() - begin
            peaks = ", ".join(f"{peak / GIB:.2f}" for peak in client.run(peak_bytes).values())
        entries = int(result[:, 0].sum())
        size = entries * 12 / GIB
        print(f"{name:22}{seconds:8.1f}{entries:14,}{size:7.2f}  {peaks}", flush=True)
        if expected is not None and not np.array_equal(result, expected):
            raise SystemExit("the results differ")
        expected = result


def checksums(rows: int, degree: int, blocks: int) -> da.Array:
    """Return entries and checksum of every block row of A·A, still to be computed."""
    sizes = tuple(np.diff(np.linspace(0, rows, blocks + 1).astype(int)).tolist())
    a = da.map_blocks(
        random_rows,
        degree,
        chunks=(sizes, (rows,)),
        meta=csr_array((0, 0)),
        dtype=np.float64,
    )
    # Both factors in block rows: the right one is put together once on each worker.
    product = spgemm.matmul(a, a)
    return product.map_blocks(checksum, chunks=((1,) * blocks, (2,)), meta=np.empty((0, 0), int))


def random_rows(degree: int, block_info: dict) -> csr_array:
    (start, stop), (_, columns) = block_info[None]["array-location"]
    rng = np.random.default_rng(start)
    count = (stop - start) * degree
    indices = rng.integers(0, columns, count, dtype=np.int32)
    indptr = np.arange(0, count + 1, degree, dtype=np.int32)
    block = csr_array((rng.random(count), indices, indptr), shape=(stop - start, columns))
    block.sort_indices()
    return block


def checksum(block: csr_array) -> np.ndarray:
    crc = 0
    for part in (block.indptr, block.indices, block.data):
        crc = zlib.crc32(np.ascontiguousarray(part), crc)
    return np.array([[block.nnz, crc]])


def computed(client: Client, sums: da.Array, kill: bool) -> np.ndarray:
    """Compute the blocks' sums; kill one worker process when a quarter is done."""
    sums = client.persist(sums)
    parts = client.futures_of(sums)
    if kill:
        process = min(client.run(os.getpid).values())
        while sum(part.done() for part in parts) < len(parts) // 4:
            time.sleep(0.02)
        os.kill(process, signal.SIGKILL)
    wait(parts)
    return client.compute(sums, sync=True)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
