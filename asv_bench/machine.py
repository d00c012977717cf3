"""What a figure depends on beside the code: the machine, its roofs, the versions, the compiler."""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

import linalgkit
from linalgkit._threads import workers as cores_available

REPOSITORY = Path(__file__).resolve().parents[1]


def facts(packages: Iterable[str], engine: str) -> dict[str, Any]:
    """Return the machine's description; the roofs are those of the engine's device."""
    cores = cores_available()
    libraries = [info for info in threadpool_info() if info["user_api"] == "blas"]
    # SciPy's wheel brings its own: NumPy's, if there is such a one, is told.
    libraries.sort(key=lambda info: "numpy" not in info["filepath"])
    blas = libraries[0] if libraries else {}
    device = _gpu() if engine == "cupy" else ""
    copy, read, gemm = _gpu_roofs() if engine == "cupy" else _cpu_roofs(cores)
    return {
        "cpu": _cpu() + (f"; {device}" if device else ""),
        "cores": cores,
        "python": platform.python_version(),
        "blas": " ".join(
            str(blas[key]) for key in ("internal_api", "version", "architecture") if key in blas
        ),
        "blas_threads": blas.get("num_threads", 1),
        "copy_gb_s": round(copy, 1),
        "read_gb_s": round(read, 1),
        "gemm_gflop_s": round(gemm, 1),
        "thp": _transparent_huge_pages(),
        "versions": _versions(packages),
    }


def compile_seconds(first_call: str) -> dict[str, float]:
    """Time a fresh process from before ``import linalgkit`` to its first result."""
    with tempfile.TemporaryDirectory() as cache:
        cold = _first_result(first_call, cache)
        warm = statistics.median(_first_result(first_call, cache) for _ in range(3))
    return {"cold": round(cold, 2), "warm": round(warm, 2)}


def _first_result(first_call: str, cache: str) -> float:
    code = (
        "import time\nbegin = time.perf_counter()\nimport linalgkit\n"
        f"{first_call}\nprint(time.perf_counter() - begin)"
    )
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {
        "PYTHONPATH": path,
        "NUMBA_CACHE_DIR": cache,
        "CUPY_CACHE_DIR": cache,
    }
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return float(run.stdout)


def _cpu_roofs(cores: int) -> tuple[float, float, float]:
    """Copy (bytes read and written) and read in GB/s, float64 GEMM in GFLOP/s, on all cores."""
    source, target = np.ones(2**26), np.ones(2**26)  # 1 GiB in all: larger than caches
    with ThreadPoolExecutor(cores) as pool:
        parts = np.array_split(target, cores), np.array_split(source, cores)
        copy = _best(lambda: list(pool.map(np.copyto, *parts)))
        read = _best(lambda: list(pool.map(np.sum, parts[1])))
    factor = np.ones((2048, 2048))
    gemm = _best(lambda: factor @ factor)
    return 2 * source.nbytes / copy / 1e9, source.nbytes / read / 1e9, 2 * 2048**3 / gemm / 1e9


def _gpu_roofs() -> tuple[float, float, float]:
    """Measure the same on the current device."""
    import cupy

    wait = cupy.cuda.get_current_stream().synchronize
    source, target = cupy.ones(2**27), cupy.ones(2**27)
    copy = _best(lambda: (cupy.copyto(target, source), wait()))
    read = _best(lambda: (source.sum(), wait()))
    factor = cupy.ones((8192, 8192))
    gemm = _best(lambda: (factor @ factor, wait()))
    return 2 * source.nbytes / copy / 1e9, source.nbytes / read / 1e9, 2 * 8192**3 / gemm / 1e9


def _best(call: Callable[[], Any]) -> float:
    """Return the least seconds of five: a roof is what the machine can do at best."""
    times = []
    for _ in range(6):  # the first one only warms up
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def _gpu() -> str:
    import cupy

    device = cupy.cuda.Device()
    return cupy.cuda.runtime.getDeviceProperties(device.id)["name"].decode()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _transparent_huge_pages() -> str:
    try:
        modes = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "none"
    return modes.partition("[")[2].partition("]")[0]


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {"linalgkit": linalgkit.__version__}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
