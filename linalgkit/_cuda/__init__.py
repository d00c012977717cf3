"""CUDA sources of the rooms: compiled by CuPy where there is a GPU, by NVRTC alone elsewhere.

Importing this needs neither CuPy nor a driver, so that a machine without GPU can compile every
kernel that a room's table names. ``*.cuh`` beside this file is device code that rooms share; beside
a ``.cu`` file, what the room's files share.
"""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

INCLUDE = Path(__file__).parent
# No contraction into fused multiply-add: sums have the bits of the other engines.
OPTIONS = ("-std=c++17", "-fmad=false")


class Source:
    """One ``.cu`` file and the table of its kernels.

    Parameters
    ----------
    path : Path
        The file.
    kernels : tuple of str
        Name expressions such as ``"linalgkit::scale<double>"``: what `compile` compiles. Of
        templates with many instances a sample in which each argument occurs.
    """

    def __init__(self, path: Path, kernels: tuple[str, ...]) -> None:
        self.path, self.kernels = path, kernels
        self._compiled: dict[str, Any] = {}

    @cached_property
    def code(self) -> str:
        """The file with what it includes: CuPy's disk cache does not look into included files."""
        return self._with_included(self.path)

    def _with_included(self, path: Path) -> str:
        def included(found: re.Match[str]) -> str:
            own = self.path.with_name(found[1])
            return self._with_included(own if own.exists() else INCLUDE / found[1])

        text = path.read_text().replace("#pragma once", "")
        return re.sub(r'#include "(.+)"', included, text)

    def __getitem__(self, kernel: str) -> Any:
        """Return a kernel by its name expression, each compiled on first use alone."""
        if kernel not in self._compiled:
            import cupy

            module = cupy.RawModule(code=self.code, options=OPTIONS, name_expressions=(kernel,))
            self._compiled[kernel] = module.get_function(kernel)
        return self._compiled[kernel]

    def with_shared(self, kernel: str, shared: int) -> Any:
        """Return a kernel with leave to take so many bytes of shared memory in a block."""
        found = self[kernel]
        if shared > found.max_dynamic_shared_size_bytes:
            found.max_dynamic_shared_size_bytes = shared
        return found

    def compile(self, arch: str, *, is_optimised: bool = True) -> bytes:
        """Compile the whole table for an architecture such as ``sm_90a``, without any GPU.

        Without optimisation, which takes most of the time, all of the code is still assembled for
        the architecture: what it does not know, or has no room for, is an error.
        """
        from cuda.core import Program, ProgramOptions
        from cuda.pathfinder import find_nvidia_header_directory

        headers = find_nvidia_header_directory("cudart")
        quick = {} if is_optimised else {"ofast_compile": "max"}
        options = ProgramOptions(std="c++17", fma=False, arch=arch, include_path=[headers], **quick)
        program = Program(self.code, "c++", options)
        return program.compile("cubin", name_expressions=self.kernels).code


class Launch(NamedTuple):
    """A kernel of a source, and what its launch takes."""

    source: Source
    kernel: str
    blocks: int
    threads: int  # of a block
    shared: int  # bytes of a block
    arguments: tuple[Any, ...]


def run(launches: list[Launch]) -> None:
    """Launch kernels one after the other; what is not compiled yet is compiled side by side."""
    missing = {(x.source, x.kernel) for x in launches if x.kernel not in x.source._compiled}
    if len(missing) > 1:
        import cupy

        device = cupy.cuda.Device()

        def compiled(wanted: tuple[Source, str]) -> None:
            source, kernel = wanted
            with device:  # each thread has one of its own
                source[kernel]

        with ThreadPoolExecutor(min(len(missing), os.cpu_count() or 1)) as pool:
            list(pool.map(compiled, missing))
    for source, kernel, blocks, threads, shared, arguments in launches:
        found = source.with_shared(kernel, shared)
        found((blocks,), (threads,), arguments, shared_mem=shared)
