"""Chunks of work over a pool of threads of our own; BLAS held to one thread inside.

Compiled kernels release the GIL, so Python threads run them side by side. Chunks are cut from
shapes and data alone and reductions add them in order: the number of workers never changes a
result. Pool, locks and BLAS limits survive forks, exceptions and interrupts.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from queue import SimpleQueue
from typing import Any

import numpy as np

from ._blas_limit import blas_limit
from ._checks import size

ENVIRONMENT = "LINALGKIT_WORKERS"

_wish: ContextVar[int | None] = ContextVar("linalgkit_workers", default=None)
_process_wish: int | None = None


def set_workers(n: int | None) -> None:
    """Set how many threads a call may use, for the whole process.

    Parameters
    ----------
    n : int or None
        Threads, the calling one included. ``None`` goes back to the default:
        ``LINALGKIT_WORKERS`` if set, else the cores that this process may use
        (affinity and container limits respected).

    Notes
    -----
    It bounds linalgkit's own threads, not those of BLAS in your other calls.
    Results do not depend on it: the same bits come from 1, 2 and 7 workers.

    Examples
    --------
    >>> import linalgkit
    >>> linalgkit.set_workers(2)
    >>> linalgkit.set_workers(None)
    """
    global _process_wish
    _process_wish = None if n is None else size("n", n, 1)


@contextmanager
def use_workers(n: int | None) -> Iterator[None]:
    """Set how many threads a call may use inside a ``with`` block, in this thread or task only.

    Parameters
    ----------
    n : int or None
        Threads, the calling one included; ``None`` for the process's setting.

    Examples
    --------
    >>> import linalgkit
    >>> from scipy.sparse import eye_array
    >>> with linalgkit.use_workers(1):
    ...     product = linalgkit.spgemm.matmul(eye_array(3).tocsr(), eye_array(3).tocsr())
    """
    token = _wish.set(None if n is None else size("n", n, 1))
    try:
        yield
    finally:
        _wish.reset(token)


def workers() -> int:
    """Return how many threads a call may use here."""
    return _wish.get() or _process_wish or _default_workers()


def chunk_bounds(ends: Any, *, minimum: int) -> list[int]:
    """Cut items into chunks of at least `minimum` work each, from the work alone.

    Parameters
    ----------
    ends : ndarray of int, shape (items + 1,), or (count, each)
        Running sums of the items' work from 0 on, as ``indptr`` is for rows;
        or a number of items and the work of each.
    minimum : int
        Least work of a chunk (the only chunk may have less); chunks are as
        equal as whole items allow. A heavier item stands in one chunk.

    Returns
    -------
    bounds : list of int
        Chunk k holds the items ``bounds[k]`` to ``bounds[k + 1]``; no work
        gives one chunk.
    """
    if isinstance(ends, tuple):
        count, each = ends
        chunks = max(1, count // -(-minimum // each)) if each else 1
        return [count * k // chunks for k in range(chunks + 1)]
    items, total = ends.size - 1, int(ends[-1])
    chunks = max(1, total // minimum)
    targets = np.array([total * k // chunks for k in range(1, chunks)], dtype=ends.dtype)
    cuts = np.searchsorted(ends, targets)
    bounds, done = [0], 0
    for cut, work in zip(cuts.tolist(), ends[cuts].tolist(), strict=True):
        if minimum <= work - done and work + minimum <= total:
            bounds.append(cut)
            done = work
    return [*bounds, items]


def is_serial(bounds: Sequence[int]) -> bool:
    """Tell whether `run_chunks` would run these chunks in order in this thread alone."""
    return _here.inside or workers() == 1 or len(bounds) < 3


def run_chunks(
    kernel: Callable[..., Any],
    bounds: Sequence[int],
    *args: Any,
    scratch: Callable[[], Any] | None = None,
    blas: bool = False,
    commit: Callable[[int, Any], None] | None = None,
) -> None:
    """Call ``kernel(start, stop, *args[, buffer])`` on every chunk, over the pool.

    Parameters
    ----------
    kernel : callable
        Releases the GIL for its work and accepts an empty range: a call with
        ``(0, 0)`` compiles it before other threads are woken.
    bounds : sequence of int
        From `chunk_bounds`. Chunks are taken in order, by whoever is free.
    *args : object
        Passed on.
    scratch : callable, optional
        Makes the buffer of one participating thread.
    blas : bool
        The kernel calls BLAS: hold it to one thread meanwhile.
    commit : callable, optional
        ``commit(chunk, result)`` is called once a chunk, in order of the
        chunks and one at a time. For outputs whose place follows from the
        results before. Nobody waits for it, unless two more chunks than
        there are workers are not committed: so many results exist at most.

    Notes
    -----
    The first error cancels the rest and is raised here. Calls from inside a
    chunk run in their own thread alone.
    """
    if len(bounds) == 2 and not blas:  # a small call: nothing to share, cancel or put in order
        result = kernel(bounds[0], bounds[1], *args, *(() if scratch is None else (scratch(),)))
        if commit is not None:
            commit(0, result)
        return
    job = _Job(kernel, bounds, args, scratch, commit, blas)
    helpers = 0 if is_serial(bounds) else min(workers(), len(bounds) - 1) - 1
    job.run_as_caller(helpers)
    if job.error is not None:
        error, job.error = job.error, None
        try:
            raise error
        finally:
            del error  # the error's frames hold this one: no cycle keeps the arrays alive


class _Here(threading.local):
    inside = False  # this thread is running a chunk


class _Job:
    """One call of `run_chunks`: what is left, what is ready, what went wrong."""

    def __init__(
        self,
        kernel: Callable[..., Any],
        bounds: Sequence[int],
        args: tuple[Any, ...],
        scratch: Callable[[], Any] | None,
        commit: Callable[[int, Any], None] | None,
        blas: bool,
    ) -> None:
        self.kernel, self.bounds, self.args, self.blas = kernel, bounds, args, blas
        self.scratch, self.commit = scratch, commit
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._progress = threading.Condition(self._lock)  # a chunk was committed
        self._ahead = 1  # chunks that may be taken and not committed, which bounds memory
        self._next = 0  # the chunk to be taken next
        self._ready: dict[int, Any] = {}  # results that wait for an earlier chunk's commit
        self._committed = 0
        self._committing = False
        self._helping = 0  # helpers that have begun and not ended
        self._closed = False  # the caller is done: who has not begun need not
        self._idle = threading.Lock()  # released by the last helper after closing
        self._idle.acquire()

    def run_as_caller(self, helpers: int) -> None:
        # An interrupt may come at any call. Whatever comes is kept for the end, after the helpers
        # that have begun are waited for (they write into the caller's arrays).
        try:
            if self.blas:
                blas_limit.hold(self)
            buffer = () if self.scratch is None else (self.scratch(),)
            self._ahead = helpers + 3
            if helpers > 0:
                self.kernel(0, 0, *self.args, *buffer)
                _pool.offer(self, helpers)
            self._run(lambda: buffer)
        except BaseException as error:
            self.error = self.error or error
        ended = False
        while not ended:  # what an interrupt cut short is done again
            try:
                with self._lock:
                    self._closed = True
                    waiting = self._helping > 0
                if waiting:
                    self._idle.acquire()
                if self.blas:
                    blas_limit.release(self)
                ended = True
            except BaseException as error:
                self.error = self.error or error

    def run_as_helper(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._helping += 1
        try:
            self._run(lambda: () if self.scratch is None else (self.scratch(),))
        finally:
            with self._lock:
                self._helping -= 1
                if self._closed and self._helping == 0:
                    self._idle.release()

    def _run(self, buffer: Callable[[], tuple[Any, ...]]) -> None:
        outside, _here.inside = _here.inside, True
        try:
            with blas_limit.this_thread(self.blas):
                self._take_chunks(buffer())
        except BaseException as error:  # kept for the caller, who raises it
            self.error = self.error or error
        finally:
            _here.inside = outside

    def _take_chunks(self, buffer: tuple[Any, ...]) -> None:
        kernel, bounds, last = self.kernel, self.bounds, len(self.bounds) - 1
        args = (*self.args, *buffer)
        while True:
            with self._lock:
                # Chunks are taken in order: the one that all wait for is always being computed.
                while self.commit and self._next - self._committed >= self._ahead:
                    self._progress.wait(0.01)  # not for ever: an error may end the progress
                    if self.error is not None:
                        return
                chunk = self._next
                if chunk >= last or self.error is not None:
                    return
                self._next += 1
            result = kernel(bounds[chunk], bounds[chunk + 1], *args)
            if self.commit is not None:
                self._commit_ready(self.commit, chunk, result)

    def _commit_ready(self, commit: Callable[[int, Any], None], chunk: int, result: Any) -> None:
        with self._lock:
            self._ready[chunk] = result
            if self._committing:
                return  # whoever commits now looks again before leaving
            self._committing = True
        while True:
            with self._lock:
                chunk = self._committed
                if chunk not in self._ready or self.error is not None:
                    self._committing = False
                    return
                result = self._ready.pop(chunk)
            commit(chunk, result)
            with self._lock:
                self._committed += 1
                self._progress.notify_all()


class _Pool:
    """Daemon threads that wait for jobs; made when the first job needs them."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0

    def offer(self, job: _Job, helpers: int) -> None:
        if self._threads < helpers:
            with self._lock:
                while self._threads < helpers:
                    name = f"linalgkit-{self._threads}"
                    threading.Thread(target=self._serve, name=name, daemon=True).start()
                    self._threads += 1
        for _ in range(helpers):
            self._jobs.put(job)

    def _serve(self) -> None:
        jobs = self._jobs
        while True:
            job = jobs.get()
            job.run_as_helper()
            del job  # keeps no arrays alive while idle


_here = _Here()
_pool = _Pool()


def _after_fork() -> None:
    """Start afresh in a forked child, where the parent's threads do not exist."""
    global _pool
    _pool = _Pool()
    _here.inside = False
    blas_limit.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


_counted: int | None = None


def _default_workers() -> int:
    global _counted
    if _counted is None:
        wish = os.environ.get(ENVIRONMENT)
        if wish:
            if not wish.isdigit() or int(wish) < 1:
                raise ValueError(f"{ENVIRONMENT} must be a positive integer; got {wish!r}.")
            _counted = int(wish)
        else:
            _counted = _available_cores()
    return _counted


def _available_cores() -> int:
    """Cores of this process: its affinity, less where a container's quota is smaller."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))
