"""Docstrings of everything public: complete, in numpydoc's form, each with an example."""

import importlib

import pytest

import linalgkit

ROOMS = sorted({row.room for row in linalgkit.capabilities()})
NAMES = [f"linalgkit.{name}" for name in linalgkit.__all__ if name not in ROOMS]
for room in ROOMS:
    module = importlib.import_module(f"linalgkit.{room}")
    for name in module.__all__:
        inside = getattr(getattr(module, name), "__all__", None)  # of a module of modules
        parts = [name] if inside is None else [f"{name}.{part}" for part in inside]
        NAMES += [f"linalgkit.{room}.{part}" for part in parts]

# What we do without: extended summaries, See Also everywhere, names for single returns, what a
# context manager yields (nothing).
IGNORED = {"ES01", "SA01", "SA04", "RT02", "GL01", "YD01"}


@pytest.mark.parametrize("name", NAMES)
def test_docstring(name, require):
    validate = require("numpydoc.validate").validate
    target = importlib.import_module(name.rpartition(".")[0])
    is_function = not isinstance(getattr(target, name.rpartition(".")[2]), type)
    ignored = IGNORED if is_function else IGNORED | {"EX01"}  # classes show theirs in functions
    errors = [error for error in validate(name)["errors"] if error[0] not in ignored]
    assert not errors
