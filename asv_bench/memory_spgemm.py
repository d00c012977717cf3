"""Peak memory of one product beside the size of its result; run by hand, on Linux.

    python asv_bench/memory_spgemm.py

Every figure comes from a fresh process, which compiles on some rows of the left operand and then
multiplies once. Counted is what comes to be resident beyond operands, imports and kernels.
"""

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from spgemm_cases import CASES

sys.path.append(str(Path(__file__).resolve().parents[1]))  # linalgkit, where it is not installed

import linalgkit

CHOSEN = ("Erdős–Rényi n=100k d=16", "RMAT scale 14", "Poisson 64³")
# Workers, and whether the result's memory is so limited that its entries are counted first.
WAYS = {
    "one phase, 1 worker": (1, False),
    "one phase, 2 workers": (2, False),
    "two phases, 1 worker": (1, True),
    "two phases, 2 workers": (2, True),
    "SciPy": (0, False),
}
MB = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=CHOSEN, metavar="NAME")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        folder, way, max_memory = options.child
        print(json.dumps(_measured(Path(folder), way, int(max_memory) or None)))
        return
    print(f"{'case':26}{'way':24}{'output MB':>10}{'peak above operands MB':>25}{'ratio':>8}")
    for case in options.case:
        output = 0
        with tempfile.TemporaryDirectory() as folder:
            _save(Path(folder), CASES[case]())
            for way, (_, is_limited) in WAYS.items():
                limit = output * 11 // 10 if is_limited else 0
                output, peak = _in_new_process(folder, way, limit)
                print(
                    f"{case:26}{way:24}{output / MB:10.1f}{peak / MB:25.1f}{peak / output:8.2f}",
                    flush=True,
                )


def _in_new_process(folder: str, way: str, max_memory: int) -> list[int]:
    command = [sys.executable, __file__, "--child", folder, way, str(max_memory)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.stderr)
    return json.loads(run.stdout)


def _measured(folder: Path, way: str, max_memory: int | None) -> tuple[int, int]:
    """Return the bytes of the result and those that came to be resident at most."""
    workers = WAYS[way][0]
    a, b = _load(folder)
    if workers:
        linalgkit.set_workers(workers)
    product = _product(a[:2000], b, workers, None)
    if max_memory:
        _product(a[:2000], b, workers, _bytes(product) * 11 // 10)
    del product
    # What that has left in the heap would hide as much of the large product.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _resident("VmRSS")
    product = _product(a, b, workers, max_memory)
    return _bytes(product), _resident("VmHWM") - before


def _product(a: Any, b: Any, workers: int, max_memory: int | None) -> Any:
    if not workers:
        return a @ b
    return linalgkit.spgemm.matmul(a, b, max_memory=max_memory)


def _bytes(a: Any) -> int:
    return a.data.nbytes + a.indices.nbytes + a.indptr.nbytes


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _save(folder: Path, operands: tuple[Any, Any]) -> None:
    """Write the operands' arrays: making them takes more memory than multiplying them."""
    for name, x in zip("ab", operands, strict=True):
        np.savez(folder / name, data=x.data, indices=x.indices, indptr=x.indptr, shape=x.shape)


def _load(folder: Path) -> list[Any]:
    found = (np.load(folder / f"{name}.npz") for name in "ab")
    return [
        sp.csr_array((x["data"], x["indices"], x["indptr"]), shape=tuple(x["shape"])) for x in found
    ]


if __name__ == "__main__":
    main()
