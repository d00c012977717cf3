"""Importing the package costs nothing, and every name is where it says that it is."""

import ast
import configparser
import importlib
import inspect
import pickle
import re
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest

import linalgkit

PACKAGE = Path(linalgkit.__file__).parent
ROOT = Path(__file__).parents[1]
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/_array_api.py"))
HEAVY = ["numba", "scipy", "sympy", "networkx", "torch", "jax", "cupy", "dask"]
BASE_NAMES = [
    "EngineError",
    "capabilities",
    "dottest",
    "load",
    "set_workers",
    "show_config",
    "use_engine",
    "use_workers",
]


def public(room):
    module = importlib.import_module(f"linalgkit.{room}")
    return {name: getattr(module, name) for name in module.__all__}


PUBLIC = [(room, name) for room in ROOMS for name in public(room)]


def loaded_after(python, code):
    printed = python(f"{code}\nimport sys\nprint(*(m for m in {HEAVY} if m in sys.modules))")
    return printed.split()


@pytest.mark.parametrize(
    "code",
    [
        "import linalgkit",
        "\n".join(f"import linalgkit.{room}" for room in ROOMS),
        "import linalgkit.spgemm; assert linalgkit.spgemm.matmul.__doc__",
        "import linalgkit; assert dir(linalgkit); linalgkit.capabilities()",
    ],
    ids=["package", "rooms", "docstring", "tables"],
)
def test_light(python, code):
    assert loaded_after(python, code) == []


def test_light_until_called(python):
    code = (
        "import numpy as np\n"
        "from linalgkit.spgemm import csr_matmul\n"
        "one = np.ones(1), np.zeros(1, int), np.array([0, 1])\n"
        "csr_matmul(*one, *one, shape=(1, 1))"
    )
    assert "numba" in loaded_after(python, code)


def test_package_names():
    assert ROOMS
    assert set(linalgkit.__all__) == {*BASE_NAMES, *ROOMS}
    assert set(dir(linalgkit)) >= {*BASE_NAMES, *ROOMS}
    for name in linalgkit.__all__:
        assert getattr(linalgkit, name).__doc__, f"linalgkit.{name} has no docstring"


def test_unknown_name():
    with pytest.raises(AttributeError, match="no_such_room"):
        _ = linalgkit.no_such_room


@pytest.mark.parametrize("room", ROOMS)
def test_room_names(room):
    module = importlib.import_module(f"linalgkit.{room}")
    assert module.__doc__
    assert module.__all__
    assert set(dir(module)) >= set(module.__all__)
    for name in module.__all__:
        assert not name.startswith("_")
        assert getattr(module, name).__doc__, f"{room}.{name} has no docstring"


@pytest.mark.parametrize(("room", "name"), PUBLIC)
def test_public_object(room, name):
    found = public(room)[name]
    if inspect.ismodule(found):  # it names its own
        assert all(getattr(found, part).__doc__ for part in found.__all__)
        return
    if inspect.isfunction(found):
        assert found.__module__ == f"linalgkit.{room}"
        assert found.__qualname__ == name
    assert pickle.loads(pickle.dumps(found)) is found


@pytest.mark.parametrize("name", BASE_NAMES)
def test_base_object_pickles(name):
    found = getattr(linalgkit, name)
    assert pickle.loads(pickle.dumps(found)) is found


def stub_imports(path):
    """Map each name that a stub imports to the module it comes from; and the stub's __all__."""
    names, declared = {}, []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 1
            names |= {alias.asname or alias.name: node.module for alias in node.names}
        elif isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            declared = ast.literal_eval(node.value)
    return names, declared


def decorated(path):
    """Names of the functions that a topic module marks @engine.traced, .eager or .host."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            texts = [ast.unparse(decorator) for decorator in node.decorator_list]
            if any(re.match(r"engine\.(traced|eager|host)\b", text) for text in texts):
                found.add(node.name)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_stub_is_what_topics_mark_public(room):
    folder = PACKAGE / room
    names, declared = stub_imports(folder / "__init__.pyi")
    assert (
        sorted(names)
        == sorted(declared)
        == sorted(importlib.import_module(f"linalgkit.{room}").__all__)
    )
    marked = {name: path.stem for path in folder.glob("_*.py") for name in decorated(path)}
    assert marked
    assert marked.items() <= names.items()
    modules = {name for name, module in names.items() if module is None}
    for name in names.keys() - marked.keys() - modules:  # what is no marked function is a class
        assert inspect.isclass(public(room)[name]), f"{name} is public and has no @engine.<kind>"
        assert public(room)[name].__module__.startswith(f"linalgkit.{room}")


def test_package_stub():
    names, declared = stub_imports(PACKAGE / "__init__.pyi")
    assert sorted(names) == sorted(declared) == sorted(linalgkit.__all__)
    assert {name for name, module in names.items() if module is None} == set(ROOMS)


def package_files():
    return [
        path
        for path in PACKAGE.rglob("*")
        if path.is_file() and not {"__pycache__", ".numba_cache"} & set(path.parts)
    ]


def test_data_files_are_packaged():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = [word.strip() for word in setup["options.package_data"]["*"].split(",")]
    manifest = next(
        line.split()[2:]
        for line in (ROOT / "MANIFEST.in").read_text().splitlines()
        if line.startswith("recursive-include linalgkit ")
    )
    data = [path.name for path in package_files() if path.suffix != ".py"]
    assert {"py.typed", "__init__.pyi"} <= set(data)
    for name in [*data, "kernels.cu", "shared.cuh"]:
        assert any(fnmatch(name, pattern) for pattern in patterns), f"setup.cfg leaves out {name}"
        assert any(fnmatch(name, pattern) for pattern in manifest), f"MANIFEST.in: {name}"


def test_every_folder_is_a_package():
    for folder in {path.parent for path in package_files()}:
        assert (folder / "__init__.py").exists(), f"{folder} would be left out of a wheel"


@pytest.mark.parametrize("room", ROOMS)
def test_plan_of_a_room(room):
    present = {path.name for path in (PACKAGE / room).iterdir()}
    assert {"__init__.py", "__init__.pyi", "_array_api.py"} <= present


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?(\.dev\d+)?", linalgkit.__version__)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: linalgkit.__version__"
    try:
        installed = metadata.distribution("linalgkit-structured")
    except metadata.PackageNotFoundError:
        return
    assert installed.version == linalgkit.__version__
