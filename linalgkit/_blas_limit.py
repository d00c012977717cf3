"""BLAS held to one thread while our own threads call it, and given back exactly as it was.

threadpoolctl finds the libraries. Its own setters are no use from a pool: for OpenBLAS they do
nothing from any thread but the first that used them, and overlapping limits are not undone. So
the library's own symbols are called, once a process: who is inside says when to save and restore.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class _Library(NamedTuple):
    path: str
    get: Callable[[], int]
    set: Callable[[int], Any]
    per_thread: bool  # the number belongs to the calling thread, not to the process


class _BlasLimit:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: set[Any] = set()  # the calls that are inside
        self._modules = -1  # len(sys.modules) when the libraries were last looked up
        self._libraries: list[_Library] = []
        # What to give back. Entries leave one by one, after their library has its number again,
        # so that an interrupted restore is finished by the next call.
        self._saved: dict[str, tuple[_Library, int]] = {}

    def hold(self, holder: Any) -> None:
        """Hold the libraries whose number is the process's, until every holder has released."""
        with self._lock:
            self._holders.add(holder)
            for library in self._lookup():
                if not library.per_thread and library.path not in self._saved:
                    self._saved[library.path] = library, library.get()
                    library.set(1)

    def release(self, holder: Any) -> None:
        """Give back what `hold` took; after an interrupt, call it again."""
        with self._lock:
            self._holders.discard(holder)
            if not self._holders:
                self._restore()

    @contextmanager
    def this_thread(self, wanted: bool) -> Iterator[None]:
        """Hold the libraries whose number is the calling thread's (BLAS over OpenMP)."""
        mine = [library for library in self._libraries if library.per_thread] if wanted else []
        before = [library.get() for library in mine]
        for library in mine:
            library.set(1)
        try:
            yield
        finally:
            for library, number in zip(mine, before, strict=True):
                library.set(number)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._holders = set()
        self._restore()

    def _restore(self) -> None:
        for path, (library, number) in list(self._saved.items()):
            library.set(number)
            del self._saved[path]

    def _lookup(self) -> list[_Library]:
        # An import may have loaded another BLAS (SciPy brings its own): look again after any.
        if self._modules != len(sys.modules):
            from threadpoolctl import ThreadpoolController

            controllers = ThreadpoolController().select(user_api="blas").lib_controllers
            self._libraries = [library for library in map(_library, controllers) if library]
            self._modules = len(sys.modules)
        return self._libraries


def _library(controller: Any) -> _Library | None:
    """Return the setter and getter of one BLAS; None where it has no thread count."""
    api, layer = controller.internal_api, getattr(controller, "threading_layer", None)
    if api == "openblas" and layer != "openmp":
        prefix, suffix = controller._find_affixes()
        get = getattr(controller.dynlib, f"{prefix}openblas_get_num_threads{suffix}")
        set_ = getattr(controller.dynlib, f"{prefix}openblas_set_num_threads{suffix}")
        return _Library(controller.filepath, get, set_, per_thread=False)
    if api == "mkl":
        get = controller.dynlib.MKL_Get_Max_Threads
        return _Library(
            controller.filepath, get, controller.dynlib.MKL_Set_Num_Threads, per_thread=False
        )
    if controller.get_num_threads() is None:
        return None
    return _Library(
        controller.filepath,
        controller.get_num_threads,
        controller.set_num_threads,
        per_thread=layer == "openmp",
    )


blas_limit = _BlasLimit()
