"""CUDA sources of the rooms: compiled by CuPy where there is a GPU, by NVRTC alone elsewhere.

Importing this needs neither CuPy nor a driver, so that a machine without GPU can compile every
kernel that a room's table names. ``*.cuh`` beside this file is device code that rooms share.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

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
        Name expressions of every instance that is used, such as
        ``"linalgkit::scale<double>"``.
    """

    def __init__(self, path: Path, kernels: tuple[str, ...]) -> None:
        self.path, self.kernels = path, kernels

    @cached_property
    def _module(self) -> Any:
        import cupy

        return cupy.RawModule(
            code=self.path.read_text(),
            options=(*OPTIONS, f"-I{INCLUDE}"),
            name_expressions=self.kernels,
        )

    def __getitem__(self, kernel: str) -> Any:
        """Return a kernel of the table, compiled for the current device on first use."""
        return self._module.get_function(kernel)

    def compile(self, arch: str) -> bytes:
        """Compile the whole table for an architecture such as ``sm_90a``, without any GPU."""
        from cuda.core import Program, ProgramOptions
        from cuda.pathfinder import find_nvidia_header_directory

        options = ProgramOptions(
            std="c++17",
            fma=False,
            arch=arch,
            include_path=[str(INCLUDE), find_nvidia_header_directory("cudart")],
        )
        program = Program(self.path.read_text(), "c++", options)
        return program.compile("cubin", name_expressions=self.kernels).code
