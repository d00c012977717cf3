"""An interrupt at any moment of a call: the call ends, and the next one is as good as new."""

import os
import sys
import threading
import time
from pathlib import Path

import pytest
from threadpoolctl import ThreadpoolController

import linalgkit
from linalgkit import use_workers
from linalgkit._threads import run_chunks

SOON = 20
FOLDERS = (str(Path(linalgkit.__file__).parent), str(Path(os.__file__).parent / "contextlib"))


def blas_threads():
    controllers = ThreadpoolController().select(user_api="blas").lib_controllers
    return [controller.num_threads for controller in controllers]


class Interrupter:
    """Raises KeyboardInterrupt in this thread at one of the moments when Python handles signals.

    Those are the entry of a Python function and the return of a C function; counted in the
    package's files (and in contextlib, which its context managers go through) while active.
    """

    def __init__(self, moment):
        self.moment, self.raised_at = moment, None

    def __enter__(self):
        sys.setprofile(self._see)

    def __exit__(self, *exception):
        sys.setprofile(None)

    def _see(self, frame, event, argument):
        if event not in ("call", "c_return") or not frame.f_code.co_filename.startswith(FOLDERS):
            return
        self.moment -= 1
        if self.moment < 0 and self.raised_at is None:
            self.raised_at = f"{event} at {frame.f_code.co_filename}:{frame.f_lineno}"
            raise KeyboardInterrupt


def parallel():
    """Tell whether a call gets a helper here, with one thread for BLAS in both."""
    together, seen = threading.Barrier(2), []

    def kernel(start, stop):
        if stop:
            together.wait(SOON)
            seen.append((threading.get_ident(), set(blas_threads())))

    run_chunks(kernel, [0, 1, 2], blas=True)
    return len({thread for thread, _ in seen}) == 2 and all(n == {1} for _, n in seen)


def interrupted_call(moment):
    """Interrupt a call at a moment; return where and the error, (None, None) if it ended before."""
    caller, returned = threading.get_ident(), threading.Event()
    running, after = [], []

    def kernel(start, stop, buffer):
        running.append(start)
        time.sleep(0.0001 if threading.get_ident() == caller else 0.001)  # the caller waits at last
        if returned.is_set():
            after.append(start)
        running.remove(start)

    interrupter, kept = Interrupter(moment), None
    try:
        with interrupter:
            run_chunks(kernel, range(5), scratch=list, blas=True, commit=lambda chunk, result: None)
    except KeyboardInterrupt as error:
        kept = error
        returned.set()
        assert not running, f"a helper still wrote after an interrupt: {interrupter.raised_at}"
        time.sleep(0.002)
        assert not after, f"a helper began after an interrupt: {interrupter.raised_at}"
    return interrupter.raised_at, kept


@pytest.mark.parametrize("n", [1, 2])
def test_interrupt_at_any_moment(n):
    before, where, outcome = blas_threads(), [None], []

    def all_moments():
        try:
            with use_workers(2):
                assert parallel()
            for moment in range(1000):
                with use_workers(n):
                    # The error lives on, with its frames, as at the interpreter's prompt.
                    where[0], _kept = interrupted_call(moment)
                if where[0] is None:
                    return outcome.append(moment)
                with use_workers(2):
                    assert parallel(), f"the pool is unusable after an interrupt: {where[0]}"
                assert blas_threads() == before, f"BLAS is held after an interrupt: {where[0]}"
            raise AssertionError("the call does not end")
        except BaseException as error:
            outcome.append(error)

    # In a thread of its own, so that a hanging call fails this test and no other.
    thread = threading.Thread(target=all_moments, daemon=True)
    thread.start()
    thread.join(60)
    assert outcome, f"a call hangs; the interrupt before: {where[0]}"
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    assert outcome[0] > 20  # so many moments there were
