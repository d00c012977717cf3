"""Which engine serves a call: from the arrays, from what is installed, from the user's wish.

A room has up to four engine modules (``_array_api``, ``_numba``, ``_cupy``, ``_dask``) whose
functions carry the same names. ``array_api`` is the reference: it runs on any array library
and stands in wherever another engine lacks a function.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ._checks import library_of

Function = TypeVar("Function", bound=Callable[..., Any])

# Which engines can serve the arrays of a library, the preferred one first.
SERVES = {
    "numpy": ("numba", "array_api"),
    "cupy": ("cupy", "array_api"),
    "torch": ("numba", "cupy", "array_api"),  # by the tensors' device, see `_torch`
    "dask": ("dask",),
}
# Fast engines by the device of torch tensors.
ON_DEVICE = {"cpu": "numba", "cuda": "cupy"}
ENGINES = ("array_api", "numba", "cupy", "dask")
ENVIRONMENT = "LINALGKIT_ENGINE"

_wish: ContextVar[str | None] = ContextVar(
    "linalgkit_engine", default=os.environ.get(ENVIRONMENT) or None
)


class EngineError(RuntimeError):
    """The engine that was asked for cannot serve this call, or is not installed."""

    __module__ = "linalgkit"  # where users find it


@contextmanager
def use_engine(name: str | None) -> Iterator[None]:
    """Ask for one engine inside a ``with`` block, in this thread or task only.

    Parameters
    ----------
    name : {"array_api", "numba", "cupy", "dask"} or None
        The engine. ``None`` goes back to the choice by array type. A function
        that the engine lacks is served by the reference engine ``array_api``.

    Raises
    ------
    EngineError
        At once if there is no engine of that name; at the call if the engine is
        not installed or cannot serve the arrays of that call.

    Notes
    -----
    The environment variable ``LINALGKIT_ENGINE`` sets the wish for a whole
    process. The wish is a context variable: other threads and asyncio tasks
    keep theirs. A backward pass of torch goes by the engine of its forward
    pass, and code compiled by ``torch.compile`` reads no wish.

    Examples
    --------
    >>> import linalgkit
    >>> from scipy.sparse import eye_array
    >>> with linalgkit.use_engine("array_api"):
    ...     product = linalgkit.spgemm.matmul(eye_array(3).tocsr(), eye_array(3).tocsr())
    >>> product.nnz
    3
    """
    token = _wish.set(_checked_wish(name, "use_engine"))
    try:
        yield
    finally:
        _wish.reset(token)


def wished_engine() -> str | None:
    """Return the name of the engine asked for here, or None."""
    return _wish.get()


class Kind(NamedTuple):
    """What the decorator above a public function states."""

    name: str
    vjp: str | None = None
    batched: tuple[int, ...] = ()
    ranks: tuple[int | None, ...] | None = None


# (room, function) -> Kind; `_torch` finds gradients by it.
registry: dict[tuple[str, str], Kind] = {}
# Likewise engine functions behind methods, whose options hold the object.
methods: dict[tuple[str, str], Kind] = {}


class Engine:
    """One engine of one room; a function that it lacks comes from the reference engine."""

    def __init__(self, name: str, module: Any, reference: Any) -> None:
        self.name, self.module = name, module
        self._modules = (module, reference)

    def __getattr__(self, function: str) -> Any:
        if function.startswith("_"):
            raise AttributeError(function)
        for module in self._modules:
            found = getattr(module, function, None)
            if found is not None:
                setattr(self, function, found)  # the next look-up is a plain attribute
                return found
        raise AttributeError(f"no engine of {self._modules[1].__package__} has {function!r}")


class TorchEngine:
    """The engines of one room for torch tensors: which one serves is known with the function."""

    name = "torch"

    def __init__(self, room: str) -> None:
        self.room = room

    def __getattr__(self, function: str) -> Any:
        if function.startswith("_"):
            raise AttributeError(function)
        from . import _torch

        if _torch.has_gradients(self.room, function):
            found = partial(_torch.dispatch, self.room, function)
        else:  # AttributeError is the answer where there is none
            found = getattr(sys.modules[self.room + "._array_api"], function)
        setattr(self, function, found)  # the next look-up is a plain attribute
        return found


class Engines:
    """The engines of one room; called with the arrays of a call, it returns the one that serves.

    Parameters
    ----------
    package : str
        The room's ``__package__``.
    """

    def __init__(self, package: str) -> None:
        self.room = package
        self._torch = TorchEngine(package)
        self._loaded: dict[str, Engine] = {}
        self._missing: dict[str, str] = {}  # engine -> why; an import that fails takes long
        # The fast path's two halves: filled when the room's Numba engine is first chosen.
        self._fast: Engine | None = None
        self._fast_dtypes: frozenset[Any] = frozenset()

    def __call__(self, *arrays: Any) -> Engine | TorchEngine:
        """Return the engine that serves these arrays (None stands for an absent optional one)."""
        torch = sys.modules.get("torch")
        if (
            torch is not None
            and arrays
            and type(arrays[0]) is not np.ndarray
            and (
                torch.compiler.is_compiling()  # where the wish is not read
                or (type(arrays[0]) is torch.Tensor and _wish.get() is None)
            )
        ):
            return self._torch
        if _wish.get() is None and self._fast is not None:
            dtypes = self._fast_dtypes
            for array in arrays:
                if type(array) is np.ndarray:
                    if array.dtype not in dtypes:
                        break
                elif array is not None:
                    break
            else:
                return self._fast
        return self._choose(arrays)

    def traced(
        self,
        *,
        vjp: str | None = None,
        batched: tuple[int, ...] = (),
        ranks: tuple[int | None, ...] | None = None,
    ) -> Callable[[Function], Function]:
        """Mark a public function as pure with static shapes; name its vjp if it has one.

        `batched` are the positions of arrays that take any batch axes in front. With `ranks`, the
        numbers of axes that the other arrays have without any, all arrays take them together.
        """
        return lambda function: self._record(function, Kind("traced", vjp, batched, ranks))

    def method(self, function: str, *, vjp: str) -> None:
        """Name the vjp of an engine function that stands behind a method of an object."""
        methods[self.room, function] = Kind("traced", vjp)

    def eager(self, function: Function) -> Function:
        """Mark a public function whose result size or stopping depends on values."""
        return self._record(function, Kind("eager"))

    def host(self, function: Function) -> Function:
        """Mark a public function of Python objects."""
        return self._record(function, Kind("host"))

    def _record(self, function: Function, kind: Kind) -> Function:
        registry[self.room, function.__name__] = kind
        function.__module__ = self.room  # what users import, see in errors and pickle
        return function

    def _choose(self, arrays: tuple[Any, ...]) -> Engine | TorchEngine:
        present = [array for array in arrays if array is not None]
        library = library_of(*present)
        able = SERVES.get(library, ("array_api",))
        if library == "torch":
            device = present[0].device.type
            able = tuple(name for name in able if name in (ON_DEVICE.get(device), "array_api"))
            library = f"torch ({device})"
        wish = _checked_wish(_wish.get(), ENVIRONMENT)
        if wish is not None:
            if wish not in able and not (wish == "array_api" and library != "dask"):
                raise EngineError(
                    f"engine {wish!r} cannot serve {library} arrays; "
                    f"{' and '.join(repr(name) for name in able)} can. Convert the arrays, or "
                    f"leave the choice to the arrays with use_engine(None)."
                )
            if library.startswith("torch") and wish != "array_api":
                self._load(wish)  # says so where it is not installed
                return self._torch
            if wish == "numba" and not self._numba_serves(present):
                return self._load("array_api")  # a dtype that kernels do not know
            return self._load(wish)
        if library.startswith("torch"):
            return self._torch
        for name in able:
            if name == "numba" and not self._numba_serves(present):
                continue
            try:
                engine = self._load(name)
            except EngineError as error:
                if name == able[-1]:
                    raise
                message = f"{error} The slower {able[-1]!r} serves."
                warnings.warn(message, RuntimeWarning, _frames_to_the_caller())
                continue
            if name == "numba":
                self._fast, self._fast_dtypes = engine, self._dtypes()
            return engine
        raise AssertionError("unreachable: the last engine is returned or raises")

    def _numba_serves(self, arrays: list[Any]) -> bool:
        dtypes = self._dtypes()
        return all(array.dtype in dtypes for array in arrays)

    def _dtypes(self) -> frozenset[Any]:
        """Dtypes of the room's Numba engine; float32/64 and complex64/128 unless it says more."""
        if "numba" in self._missing:
            return frozenset(np.dtype(character) for character in "fdFD")
        try:
            characters = getattr(import_module(self.room + "._numba"), "DTYPES", "fdFD")
        except (ImportError, RuntimeError):  # `_load` says so in its own words
            characters = "fdFD"
        return frozenset(np.dtype(character) for character in characters)

    def _load(self, name: str) -> Engine:
        if name in self._missing:
            raise EngineError(self._missing[name])
        try:
            return self._imported(name)
        except EngineError as error:
            self._missing[name] = str(error)
            raise

    def _imported(self, name: str) -> Engine:
        if name not in self._loaded:
            reference = import_module(self.room + "._array_api")
            try:
                module = import_module(f"{self.room}._{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{self.room}._{name}":
                    raise EngineError(
                        f"engine {name!r} needs the module {error.name!r}, which is not installed "
                        f"({_INSTALL[name]})."
                    ) from error
                if name == "dask":
                    raise EngineError(
                        f"{self.room} does not work on Dask arrays; call .compute() first."
                    ) from None
                module = reference  # the room has no such engine: the reference serves
            except ImportError as error:
                raise EngineError(f"engine {name!r} does not import here: {error}.") from error
            except RuntimeError as error:  # Numba finds no folder for its cache
                raise EngineError(
                    f"engine {name!r} does not start here: {error}. Name a writable folder in "
                    f"NUMBA_CACHE_DIR."
                ) from error
            self._loaded[name] = Engine(name, module, reference)
        return self._loaded[name]


_INSTALL = {
    "array_api": "pip install array-api-compat",
    "numba": "pip install numba",
    "cupy": "pip install 'linalgkit-structured[gpu]'",
    "dask": "pip install 'linalgkit-structured[dask]'",
}


def _frames_to_the_caller() -> int:
    """Return the stack level of the first frame outside this package, for warnings."""
    package = os.path.dirname(__file__)
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        level, frame = level + 1, frame.f_back
    return level


def _checked_wish(name: str | None, origin: str) -> str | None:
    if name is not None and name not in ENGINES:
        known = ", ".join(repr(engine) for engine in ENGINES)
        raise EngineError(f"{origin}: no engine {name!r}; there are {known}.")
    return name
