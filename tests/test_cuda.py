"""Every CUDA kernel of every room's table compiles, without a GPU."""

from importlib import import_module
from pathlib import Path

import pytest

import linalgkit

ENGINES = [
    f"linalgkit.{path.parent.name}.{path.stem}"
    for path in sorted(Path(linalgkit.__file__).parent.glob("*/_cupy*.py"))
]


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("engine", ENGINES)
def test_kernels_compile(engine, arch, require):
    require("cuda.core")
    source = import_module(engine).KERNELS
    assert len(source.compile(arch)) > 1000


def test_every_source_belongs_to_a_table():
    base = Path(linalgkit.__file__).parent
    tables = {import_module(engine).KERNELS.path for engine in ENGINES}
    assert tables == set(base.glob("*/*.cu"))
