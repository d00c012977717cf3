"""Gradients that are larger than the memory of the processes that read them; run by hand.

    python asv_bench/mfac_dask.py
    python asv_bench/mfac_dask.py --parameters 10_000_000 --chunks 40

The gradients (m, d) in float16 are written to files first, one a chunk of parameters, in a folder
that is removed at the end. Then, with two worker processes, comes the Fisher matrix and F⁻¹x: three
reads of all files. Of the answer each chunk is reduced to a checksum where it is made, so nothing
of size d is on the client. The second run loses one of the two processes on the way and must give
the same (the peak of the process that takes its place starts anew).
"""

import argparse
import logging
import os
import resource
import signal
import tempfile
import threading
import time
import zlib
from itertools import pairwise
from pathlib import Path

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

from linalgkit.mfac import empirical_fisher

GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parameters", type=int, default=100_000_000)
    parser.add_argument("--gradients", type=int, default=64)
    parser.add_argument("--chunks", type=int, default=200)
    parser.add_argument("--memory", type=float, default=2.0, help="GiB of each worker process")
    parser.add_argument("--kill-after", type=float, default=20.0, help="seconds")
    parser.add_argument("--folder", type=Path, help="for the files; the system's by default")
    arguments = parser.parse_args()
    m, d = arguments.gradients, arguments.parameters
    # One thread a process: the two processes share the cores.
    os.environ.setdefault("LINALGKIT_WORKERS", "1")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        ends = np.linspace(0, d, arguments.chunks + 1).astype(int).tolist()
        begin = time.perf_counter()
        for start, stop in pairwise(ends):
            np.save(Path(folder) / f"{start}.npy", random_gradients(m, start, stop))
        print(
            f"{m} gradients of {d:,} parameters in float16, {2 * m * d / GIB:.1f} GiB in "
            f"{arguments.chunks} files, written in {time.perf_counter() - begin:.0f} s"
        )
        print(f"{'':22}{'Fisher':>8}{'F⁻¹x':>8}  s; peak GiB of each worker, of the client")
        expected = None
        for name, delay in (
            ("two workers", None),
            ("one of them is killed", arguments.kill_after),
        ):
            result = run(name, folder, ends, m, arguments.memory, delay)
            if expected is not None and not np.array_equal(result, expected):
                raise SystemExit("the results differ")
            expected = result


def run(
    name: str, folder: str, ends: list[int], m: int, memory: float, delay: float | None
) -> np.ndarray:
    """Return the checksums, and print times and peaks."""
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            memory_limit=int(memory * GIB),
            dashboard_address=None,
            silence_logs=logging.ERROR,  # that a worker is lost is meant
        ) as cluster,
        Client(cluster) as client,
    ):
        widths = tuple(np.diff(ends).tolist())
        gradients = da.map_blocks(
            load, folder, chunks=((m,), widths), dtype=np.float16, meta=np.empty((0, 0), np.float16)
        )
        x = da.map_blocks(
            random_vector, chunks=(widths,), dtype=np.float32, meta=np.empty(0, np.float32)
        )
        begin = time.perf_counter()
        if delay is not None:
            process = min(client.run(os.getpid).values())
            threading.Timer(delay, os.kill, (process, signal.SIGKILL)).start()
        fisher = empirical_fisher(gradients, damping=1e-2)
        middle = time.perf_counter()
        answer = fisher.solve(x)
        sums = answer.map_blocks(checksum, chunks=((1,) * len(widths),), dtype=np.int64)
        result = client.compute(sums, sync=True)
        end = time.perf_counter()
        peaks = ", ".join(f"{peak / GIB:.2f}" for peak in client.run(peak_bytes).values())
    print(
        f"{name:22}{middle - begin:8.1f}{end - middle:8.1f}  {peaks}; {peak_bytes() / GIB:.2f}",
        flush=True,
    )
    return result


def random_gradients(m: int, start: int, stop: int) -> np.ndarray:
    rng = np.random.default_rng(start)
    return rng.standard_normal((m, stop - start), np.float32).astype(np.float16)


def load(folder: str, block_info: dict) -> np.ndarray:
    _, (start, _) = block_info[None]["array-location"]
    return np.load(Path(folder) / f"{start}.npy")


def random_vector(block_info: dict) -> np.ndarray:
    ((start, stop),) = block_info[None]["array-location"]
    return np.random.default_rng(start + 1).standard_normal(stop - start, np.float32)


def checksum(block: np.ndarray) -> np.ndarray:
    return np.array([zlib.crc32(np.ascontiguousarray(block))])


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
