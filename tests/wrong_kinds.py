"""Arguments of the wrong kind, one at a time, to the public functions of a room."""

import importlib
import inspect
import re

import numpy as np
import pytest

from linalgkit._testing import library, public


def wrong_kinds(room, *, but=()):
    """Return a parameter of a test for each argument of each function, but flags and those named.

    What follows where an argument is wrong is an error that names it.
    """
    cases = importlib.import_module(f"{room}.cases").CASES
    return [
        pytest.param(case, name, wrong, id=f"{case.function}-{name}-{type(wrong).__name__}")
        for case in cases
        for name, parameter in inspect.signature(public(case.function)).parameters.items()
        if not isinstance(parameter.default, bool) and f"{case.function}.{name}" not in but
        for wrong in (None, "text", object())
        if wrong is not parameter.default
    ]


def refuse(case, name, wrong):
    """Call the function of a case with one wrong argument."""
    arguments, options = case.make(library("numpy"), "float64", np.random.default_rng(0))
    signature = inspect.signature(public(case.function))
    bound = signature.bind(*arguments, **options)
    bound.arguments[name] = wrong
    with pytest.raises((TypeError, ValueError), match=rf"\b{re.escape(name)}\b"):
        public(case.function)(*bound.args, **bound.kwargs)
