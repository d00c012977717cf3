"""Semirings: what "add" and "multiply" mean in a product, and what an absent entry stands for."""

from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from .. import _checks


class Semiring(NamedTuple):
    """The two operations by name; `absent` is the value that adding leaves alone."""

    add: str
    multiply: str
    absent: str


SEMIRINGS = {
    "plus_times": Semiring("sum", "times", "zero"),
    "min_plus": Semiring("min", "plus", "greatest"),
    "max_plus": Semiring("max", "plus", "least"),
    "max_min": Semiring("max", "min", "least"),
    "min_max": Semiring("min", "max", "greatest"),
    "or_and": Semiring("or", "and", "zero"),
    "plus_pair": Semiring("sum", "pair", "zero"),
}


def absent(semiring: str, dtype: Any, xp: Any) -> Any:
    """Return the value of an absent entry (the neutral element of adding) as a Python scalar."""
    kind = SEMIRINGS[semiring].absent
    if kind == "zero":
        return False if xp.isdtype(dtype, "bool") else 0
    if xp.isdtype(dtype, "bool"):
        return kind == "greatest"
    if xp.isdtype(dtype, "real floating"):
        return float("inf") if kind == "greatest" else float("-inf")
    limits = xp.iinfo(dtype)
    return int(limits.max) if kind == "greatest" else int(limits.min)


def neutral(semiring: str, dtype: Any, xp: Any) -> Any:
    """Return the neutral element of multiplying: what the diagonal of an identity matrix holds."""
    multiply = SEMIRINGS[semiring].multiply
    if multiply == "pair":
        raise ValueError("plus_pair has no neutral element: every product is 1.")
    _check_known(semiring, dtype, xp)
    if multiply in ("times", "and"):
        return True if xp.isdtype(dtype, "bool") else 1
    if multiply == "plus":
        return 0
    return absent("min_max" if multiply == "min" else "max_min", dtype, xp)


class Promoted(NamedTuple):
    """Two data arrays of one dtype to compute in, the semiring for it, the dtype of the result."""

    a_data: Any
    b_data: Any
    semiring: str
    dtype: Any


# What plus-times sums as it is: all but bool and half precision.
_AS_IT_IS = frozenset(map(np.dtype, "bhilqBHILQfdFD"))


def promote(a_data: Any, b_data: Any, semiring: str, accumulate: Any) -> Promoted:
    """Bring the values of both operands to the dtype that the sums are computed in."""
    if semiring == "plus_times" and accumulate is None and _are_alike(a_data, b_data):
        return Promoted(a_data, b_data, semiring, a_data.dtype)
    _checks.choice("semiring", semiring, SEMIRINGS)
    xp = array_namespace(a_data, b_data)
    dtype = a_data.dtype
    if dtype != b_data.dtype:
        dtype = xp.result_type(dtype, b_data.dtype)
    is_bool = xp.isdtype(dtype, "bool")
    if semiring == "plus_times" and is_bool:
        semiring = "or_and"
    if semiring == "or_and" and not is_bool:
        a_data, b_data, dtype = a_data != 0, b_data != 0, xp.bool
    elif semiring == "plus_pair" and is_bool:
        dtype = xp.int64
    else:
        _check_known(semiring, dtype, xp)
    dtype = _native(dtype)
    computed = dtype
    if accumulate is not None:
        computed = _at_least(_dtype("accumulate", accumulate, xp), dtype, xp)
    if "float16" in str(computed):  # and bfloat16: stored so, summed in single precision
        computed = xp.float32
    if a_data.dtype != computed:
        a_data = xp.astype(a_data, computed)
    if b_data.dtype != computed:
        b_data = xp.astype(b_data, computed)
    return Promoted(a_data, b_data, semiring, dtype)


def _check_known(semiring: str, dtype: Any, xp: Any) -> None:
    """Raise TypeError where a semiring cannot add or multiply values of a dtype."""
    if semiring in ("plus_times", "or_and", "plus_pair"):
        return
    if semiring in ("min_plus", "max_plus") and xp.isdtype(dtype, "bool"):
        raise TypeError(f"{semiring} adds lengths, and bool is none; convert the data first.")
    if xp.isdtype(dtype, "complex floating"):
        raise TypeError(f"{semiring} needs an order, and complex numbers have none.")


def _at_least(wished: Any, dtype: Any, xp: Any) -> Any:
    """Return the dtype to add in where a wider one is wished for.

    Sums of bool are exact, and those of integers but for wrapping, which no float does.
    """
    is_integral = xp.isdtype(dtype, "integral")
    if xp.isdtype(dtype, "bool") or (is_integral and xp.isdtype(wished, "real floating")):
        return dtype
    if xp.isdtype(wished, "complex floating") and not xp.isdtype(dtype, "complex floating"):
        raise ValueError(f"accumulate must be real for real operands; got {wished}.")
    computed = xp.result_type(wished, dtype)
    if is_integral and not xp.isdtype(computed, "integral"):  # of uint64 and int64, float64
        return dtype
    return computed


def _native(dtype: Any) -> Any:
    """Return the dtype in the byte order of this machine; only NumPy has others."""
    return dtype if getattr(dtype, "isnative", True) else dtype.newbyteorder("=")


def _are_alike(a_data: Any, b_data: Any) -> bool:
    """Tell whether both are arrays of one of NumPy's dtypes that is summed as it is: most often."""
    if type(a_data) is not type(b_data) or not isinstance(a_data.dtype, np.dtype):
        return False
    return a_data.dtype == b_data.dtype and a_data.dtype in _AS_IT_IS


def _dtype(name: str, value: Any, xp: Any) -> Any:
    """Return a dtype of the library from its name or from itself."""
    if isinstance(value, type):
        value = {float: "float64", int: "int64", complex: "complex128"}.get(value, value)
    found = getattr(xp, value, None) if isinstance(value, str) else value
    try:
        if xp.isdtype(found, "numeric"):
            return xp.empty(0, dtype=found).dtype
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{name} must be a numeric dtype of the arrays' library; got {value!r}.")
