"""Every CUDA kernel of every room's table compiles, without a GPU."""

from importlib import import_module
from pathlib import Path

import pytest

import linalgkit
from linalgkit._cuda import Source

BASE = Path(linalgkit.__file__).parent
SOURCES = {
    f"{path.parent.name}/{value.path.name}": value
    for path in sorted(BASE.glob("*/_cupy*.py"))
    for value in vars(import_module(f"linalgkit.{path.parent.name}.{path.stem}")).values()
    if isinstance(value, Source)
}


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("name", SOURCES)
def test_kernels_compile(name, arch, require):
    require("cuda.core")
    assert len(SOURCES[name].compile(arch)) > 1000


def test_every_source_belongs_to_a_table():
    assert {source.path for source in SOURCES.values()} == set(BASE.glob("*/*.cu"))
