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


# The older architecture is to know every instruction and to have room for what blocks share; of the
# optimiser one of them tells enough.
@pytest.mark.parametrize(("arch", "is_optimised"), [("sm_80", False), ("sm_90a", True)])
@pytest.mark.parametrize("name", SOURCES)
def test_kernels_compile(name, arch, is_optimised, require):
    require("cuda.core")
    assert len(SOURCES[name].compile(arch, is_optimised=is_optimised)) > 1000


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (
            "__shared__ float some[16384]; some[x[0]] = 1; x[1] = some[x[2]];",
            "uses too much shared",
        ),
        ('asm volatile("wgmma.fence.sync.aligned;");', "not supported on .target"),
        ("x[0] = y;", "is undefined"),
    ],
)
def test_compiling_without_optimisation_finds_what_an_architecture_lacks(
    body, error, require, tmp_path
):
    require("cuda.core")
    path = tmp_path / "some.cu"
    path.write_text(f"template <int N> __global__ void some(int* x) {{ {body} }}")
    with pytest.raises(Exception, match=error):
        Source(path, ("some<1>",)).compile("sm_80", is_optimised=False)


def test_every_source_belongs_to_a_table():
    assert {source.path for source in SOURCES.values()} == set(BASE.glob("*/*.cu"))
