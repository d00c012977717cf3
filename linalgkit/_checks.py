"""Argument checks that speak with one voice, and arrays made ready for kernels.

Every message says what was got and what is expected. Checks of shape and dtype always run;
checks of values run on concrete values only.
"""

import sys
from collections.abc import Collection, Sequence
from functools import cache
from math import inf, isfinite
from operator import index
from typing import Any

import numpy as np
from array_api_compat import array_namespace

_NUMERIC = "biufc"  # NumPy's letters for bool, integers, floats, complex

# What becomes a NumPy array. (A tuple: compiled torch code knows no union of types.)
_CONVERTIBLE = (np.ndarray, np.generic, list, tuple, int, float, complex)

# Top package of an array's type -> the library's name in messages and tables.
_LIBRARIES = {"jaxlib": "jax", "cupyx": "cupy"}


def library_of(*arrays: Any) -> str:
    """Return the one library that all arrays come from; TypeError where there is none or two."""
    if all(type(array) is np.ndarray for array in arrays):
        return "numpy"
    names = {_library_of_type(kind) for kind in set(map(type, arrays))}
    if len(names) > 1:
        raise TypeError(
            f"arrays of different libraries in one call: {' and '.join(sorted(names))}. "
            f"Convert them to one library first; nothing is copied between libraries silently."
        )
    return names.pop() if names else "numpy"


def arrays(**named: Any) -> tuple[Any, ...]:
    """Return the arguments as arrays of one library; lists and scalars become NumPy arrays.

    ``None`` (an absent optional array) stays None.
    """
    values = tuple(named.values())
    if all(type(x) is np.ndarray and x.dtype.kind in _NUMERIC for x in values):
        return values
    torch = sys.modules.get("torch")
    if torch is not None and all(x is None or isinstance(x, torch.Tensor) for x in values):
        return values
    given = [item for item in named.items() if item[1] is not None]
    if len({type(value) for _, value in given}) == 1 and not isinstance(given[0][1], _CONVERTIBLE):
        _array(*given[0])
        return values  # all are arrays of one library, if the first one is
    converted = tuple(_array(name, value) for name, value in named.items())
    first = None
    for name, value in zip(named, converted, strict=True):
        if value is None:
            continue
        library = _library(value)
        if first is None:
            first = name, library
        elif library != first[1]:
            raise TypeError(
                f"{first[0]} is an array of {first[1]}, {name} of {library}; pass arrays of one "
                f"library (nothing is copied between libraries silently)."
            )
    return converted


def floating(**named: Any) -> tuple[Any, ...]:
    """Return the arguments as arrays of one library and one floating dtype, real or complex.

    Mixed dtypes give their ``result_type``; bool and integers count as float64. ``None`` (an
    absent optional array) stays None.
    """
    converted = arrays(**named)
    dtypes = [array.dtype for array in converted if array is not None]
    if all(dtype == dtypes[0] for dtype in dtypes) and _is_floating(dtypes[0]):
        return converted
    xp = array_namespace(*(array for array in converted if array is not None))
    common = xp.result_type(*(_floating_dtype(dtype, xp) for dtype in dtypes))
    return tuple(
        array if array is None or array.dtype == common else xp.astype(array, common)
        for array in converted
    )


def real(**named: Any) -> None:
    """Raise TypeError where an array is complex."""
    for name, array in named.items():
        if array is not None and array_namespace(array).isdtype(array.dtype, "complex floating"):
            raise TypeError(f"{name} must be real; got dtype {array.dtype}.")


def finite(**named: Any) -> None:
    """Raise ValueError that names the argument and the first index of NaN or an infinity."""
    for name, array in named.items():
        xp = array_namespace(array)
        good = xp.isfinite(array)
        if not bool(xp.all(good)):
            first = int(xp.argmin(xp.astype(xp.reshape(good, (-1,)), xp.int8)))
            place = tuple(int(i) for i in np.unravel_index(first, array.shape))
            raise ValueError(f"{name} must be finite; entry {place} is {array[place]}.")


def as_dtype_of(gradient: Any, original: Any) -> Any:
    """Return a gradient in the dtype of its argument, the real part for a real one.

    Arguments that were no floating arrays leave it as it is, and so does None.
    """
    dtype = getattr(original, "dtype", None)
    if gradient is None or dtype is None or gradient.dtype == dtype:
        return gradient
    xp = array_namespace(gradient)
    if not xp.isdtype(dtype, ("real floating", "complex floating")):
        return gradient
    if xp.isdtype(gradient.dtype, "complex floating") and xp.isdtype(dtype, "real floating"):
        gradient = xp.real(gradient)
    return xp.astype(gradient, dtype)


def negative_axis(name: str, axis: Any, ndim: int) -> int:
    """Return an axis counted from the end; ValueError unless the array has it."""
    if ndim == 0:
        raise ValueError(f"{name} is that of an array; got a scalar.")
    number = size(name, axis, -ndim)
    if number >= ndim:
        raise ValueError(f"{name} must be less than the number of axes, {ndim}; got {number}.")
    return number if number < 0 else number - ndim


def concrete(
    function: str,
    alternative: str,
    *,
    why: str = "the size of its result depends on them",
    **named: Any,
) -> None:
    """Raise TypeError where an eager function is called under jit; name the traced alternative.

    `named` are the arguments whose values are needed, for the reason `why`: they may not be tracers
    of ``vmap`` either.
    """
    for name, value in named.items():
        if value is not None and type(value) is not np.ndarray and _library(value) == "jax":
            import jax

            # Under jit whatever is computed is a tracer, even from concrete arrays.
            if isinstance(value, jax.core.Tracer) or isinstance(
                jax.numpy.zeros(()), jax.core.Tracer
            ):
                raise TypeError(
                    f"{function} needs the values of {name} ({why}), and under jit or vmap there "
                    f"are none; there, use {alternative}."
                )


def choice(name: str, value: Any, options: Collection[Any]) -> None:
    """Raise ValueError unless `value` is one of `options`."""
    if not any(value == option for option in options):  # a list, say, has no hash
        known = ", ".join(repr(option) for option in options)
        raise ValueError(f"{name} must be one of {known}; got {value!r}.")


def wanted(wrt: Collection[str] | None, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the gradients that are asked for, in their order; all for None."""
    if wrt is None:
        return tuple(names)
    if not hasattr(wrt, "__iter__"):
        known = ", ".join(map(repr, names))
        raise TypeError(f"wrt must be some of {known}; got {wrt!r} ({type(wrt).__name__}).")
    asked = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    for name in asked:
        choice("wrt", name, names)
    return tuple([name for name in names if name in asked])


def flags(**named: Any) -> None:
    """Raise TypeError unless arguments are True or False: any text, say, would count as true."""
    for name, value in named.items():
        if not isinstance(value, bool | np.bool_):
            raise TypeError(
                f"{name} must be True or False; got {value!r} ({type(value).__name__})."
            )


def number(name: str, value: Any, minimum: float = -inf) -> float:
    """Return a finite real argument as float; TypeError or ValueError if none or too small."""
    try:
        found = None if isinstance(value, bool | np.bool_ | str | bytes) else float(value)
    except (TypeError, ValueError):
        found = None
    if found is None:
        raise TypeError(f"{name} must be a number; got {value!r}.")
    if not isfinite(found):
        raise ValueError(f"{name} must be finite; got {found}.")
    if found < minimum:
        raise ValueError(f"{name} must be at least {minimum}; got {value!r}.")
    return found


def function(name: str, value: Any) -> None:
    """Raise TypeError unless an argument can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function; got {value!r} ({type(value).__name__}).")


def size(name: str, value: Any, minimum: int = 0) -> int:
    """Return an integer argument as int; TypeError or ValueError if it is none or too small."""
    try:
        number = index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be an integer; got {value!r} ({type(value).__name__}).")
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}; got {number}.")
    return number


def present(**named: Any) -> None:
    """Raise TypeError where an array is None."""
    for name, array in named.items():
        if array is None:
            raise TypeError(f"{name} must be an array; got None.")


def floating_dtype(value: Any, like: Any = None) -> Any:
    """Return a floating dtype of the library of `like`, by default NumPy's; TypeError if none.

    `value` is the library's own, NumPy's of the same name, or the name.
    """
    try:
        name = np.dtype(value).name
    except TypeError:  # torch.float32 and its like, or a name that NumPy does not know
        name = str(value).rpartition(".")[2]
    library = "numpy" if like is None else library_of(like)
    found = getattr(np if like is None else array_namespace(like), name, None)
    if found is None or name.rstrip("0123456789") not in ("float", "bfloat", "complex"):
        wider = "; float32 holds all of its numbers" if name == "bfloat16" else ""
        raise TypeError(f"dtype must be a floating dtype of {library}; got {value!r}{wider}.")
    return np.dtype(found) if like is None else found


def operand(name: str, x: Any, axis: int, expected: int) -> Any:
    """Return `x` as an array; ValueError unless it has `expected` entries on `axis` (-1 or -2)."""
    (x,) = arrays(**{name: x})
    present(**{name: x})
    if x.ndim < -axis or x.shape[axis] != expected:
        where = "last axis" if axis == -1 else "second-to-last axis"
        raise ValueError(
            f"{name} must have {expected} entries on its {where}; got shape {tuple(x.shape)}."
        )
    return x


def kernel_array(array: np.ndarray) -> np.ndarray:
    """Return an aligned, native, C-contiguous, read-only array for a compiled kernel.

    A view where the array is fit already, a copy else. Always read-only, so that a kernel sees
    one type a dtype (one compilation), and one that writes to its input does not compile.
    """
    view = readable(array).view()
    view.flags.writeable = False
    return view


def readable(array: np.ndarray) -> np.ndarray:
    """Return an aligned, native, C-contiguous array: itself, or a copy.

    For kernels that get the address alone, and so see no type.
    """
    flags = array.flags
    if flags.c_contiguous and flags.aligned and array.dtype.isnative:
        return array
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


def _library(array: Any) -> str:
    kind: Any = type(array)
    return _library_of_type(kind)


@cache
def _library_of_type(kind: type) -> str:
    for base in kind.__mro__:
        package = base.__module__.partition(".")[0]
        if package == "numpy":
            return "numpy"
        if package in ("torch", "jax", "jaxlib", "cupy", "dask", "array_api_strict"):
            return _LIBRARIES.get(package, package)
    if hasattr(kind, "__array_namespace__"):
        return kind.__module__.partition(".")[0]
    raise TypeError(f"expected an array; got {kind.__module__}.{kind.__qualname__}.")


def _is_floating(dtype: Any) -> bool:
    """Tell it of NumPy's and torch's dtypes; False of others means nothing."""
    if isinstance(dtype, np.dtype):
        return dtype.kind in "fc"
    return getattr(dtype, "is_floating_point", False) or getattr(dtype, "is_complex", False)


def _floating_dtype(dtype: Any, xp: Any) -> Any:
    if xp.isdtype(dtype, ("real floating", "complex floating")):
        return dtype
    if "jax" in xp.__name__:  # float32, unless JAX was told to know more
        return xp.__array_namespace_info__().default_dtypes()["real floating"]
    return xp.float64


def _array(name: str, value: Any) -> Any:
    if value is None:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be lost; fill it first.")
    if isinstance(value, _CONVERTIBLE):
        try:
            array = np.asarray(value)
        except ValueError:
            raise ValueError(
                f"{name} must be an array; got a {type(value).__name__} of parts whose shapes "
                f"differ."
            ) from None
        if array.dtype.kind not in _NUMERIC:
            raise TypeError(f"{name} must be numeric; got dtype {array.dtype}.")
        return array
    try:
        _library(value)
    except TypeError:
        kind = type(value)
        raise TypeError(
            f"{name} must be an array; got {kind.__module__}.{kind.__qualname__}."
        ) from None
    return value
