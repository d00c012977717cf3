"""What is installed here, and what serves."""

import os
import platform
import sys
from importlib import metadata
from importlib.util import find_spec

from . import __version__
from ._engine import wished_engine
from ._threads import workers

DISTRIBUTION = "linalgkit-structured"
FOREIGN = "linalgkit"  # another project's name on the package index, same import name

_PACKAGES = (
    "numpy",
    "scipy",
    "numba",
    "array-api-compat",
    "array-api-extra",
    "threadpoolctl",
    "torch",
    "jax",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "dask",
)


def show_config() -> None:
    """Print versions, engines, threads and BLAS: what a bug report needs.

    Notes
    -----
    It also says when another project's distribution of the same import name is
    installed beside this one and may have overwritten its files.

    Examples
    --------
    >>> import linalgkit
    >>> linalgkit.show_config()  # doctest: +ELLIPSIS
    linalgkit 0.1.0 (distribution linalgkit-structured), Python ...
    """
    print(
        f"linalgkit {__version__} (distribution {DISTRIBUTION}), "
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )
    for line in _foreign_distribution():
        print(f"WARNING: {line}")
    installed = {name: _version(name) for name in _PACKAGES}
    print("packages: " + ", ".join(f"{k} {v}" for k, v in installed.items() if v))
    print("missing:  " + ", ".join(k for k, v in installed.items() if not v))
    engines = ["array_api"]
    engines += ["numba"] if find_spec("numba") else []
    engines += ["cupy"] if find_spec("cupy") else []
    engines += ["dask"] if find_spec("dask") else []
    wish = wished_engine()
    print(f"engines:  {', '.join(engines)}; asked for: {wish or 'none (arrays decide)'}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"threads:  {workers()} workers, {cores} cores")
    if "numpy" in sys.modules:
        from threadpoolctl import threadpool_info

        for blas in threadpool_info():
            print(
                f"BLAS:     {blas['internal_api']} {blas['version']}, "
                f"{blas.get('architecture', 'unknown')}, {blas['num_threads']} threads"
            )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _foreign_distribution() -> list[str]:
    """Say it when the other project's distribution stands beside ours."""
    version = _version(FOREIGN)
    if version is None:
        return []
    return [
        f"the distribution {FOREIGN!r} {version} is another project with the same import name; "
        f"its files may have replaced this package's. Uninstall it, then reinstall {DISTRIBUTION}."
    ]
