"""Every CUDA kernel of every room's table compiles, without a GPU."""

from importlib import import_module
from pathlib import Path

import pytest

import linalgkit

ROOMS = [path.parent.name for path in sorted(Path(linalgkit.__file__).parent.glob("*/_cupy.py"))]


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("room", ROOMS)
def test_kernels_compile(room, arch, require):
    require("cuda.core")
    source = import_module(f"linalgkit.{room}._cupy").KERNELS
    assert len(source.compile(arch)) > 1000


def test_every_source_belongs_to_a_table():
    base = Path(linalgkit.__file__).parent
    tables = {import_module(f"linalgkit.{room}._cupy").KERNELS.path for room in ROOMS}
    assert tables == set(base.glob("*/*.cu"))
