"""What all tests share: caches of kernels, float64 in JAX, optional libraries, fresh processes."""

import importlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

# Before anything imports numba or jax; child processes inherit all of it.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".numba_cache"))
os.environ.setdefault("JAX_ENABLE_X64", "1")
# JAX compiles every operation that is called by itself: kept like kernels, also the quick ones.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".jax_cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import hypothesis
import pytest

# No deadline: a first call compiles. Failing examples are printed, so nothing is kept on disk.
hypothesis.settings.register_profile("linalgkit", deadline=None, database=None)
hypothesis.settings.load_profile("linalgkit")

REQUIRE = "LINALGKIT_REQUIRE"  # modules, comma-separated, without which the tests must fail


def is_required(module):
    """Tell whether the environment demands `module` or a package that it is in."""
    wanted = [name.strip() for name in os.environ.get(REQUIRE, "").split(",") if name.strip()]
    return any(module == name or module.startswith(name + ".") for name in wanted)


@pytest.fixture(scope="session")
def require():
    """Function that imports an optional module: skips without it, fails if it is demanded."""

    def imported(module):
        if is_required(module):
            try:
                return importlib.import_module(module)
            except ImportError as error:
                pytest.fail(f"{REQUIRE} demands {module}, which does not import: {error}")
        return pytest.importorskip(module, exc_type=ImportError)

    return imported


@cache
def _no_gpu():
    """Say why GPU tests cannot run here; empty where they can."""
    try:
        import cupy

        return "" if cupy.cuda.runtime.getDeviceCount() else "no CUDA device"
    except ImportError as error:
        return f"no CuPy: {error}"
    except Exception as error:  # the driver's own errors: CUDARuntimeError and others
        return f"no CUDA driver or device: {error}"


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not is_required("cupy") and (reason := _no_gpu()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def python():
    """Function that runs code in a fresh interpreter and returns what it printed.

    The interpreter finds this linalgkit, the folders in `path` before it, and no wish for an engine
    or a number of workers but those in `env`.
    """
    import linalgkit

    package = Path(linalgkit.__file__).parents[1]

    def run(code, *arguments, path=(), env=None, timeout=60):
        environment = dict(os.environ)
        environment.pop("LINALGKIT_ENGINE", None)
        environment.pop("LINALGKIT_WORKERS", None)
        before = environment.get("PYTHONPATH")
        folders = [*map(str, path), str(package), *([before] if before else [])]
        environment["PYTHONPATH"] = os.pathsep.join(folders)
        environment |= env or {}
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run
