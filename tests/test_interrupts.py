"""An interrupt at any moment of a call: the call ends, and the next one is as good as new."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from pool_calls import SOON, squares
from threadpoolctl import ThreadpoolController

import linalgkit
from linalgkit import _threads, use_workers
from linalgkit._threads import run_chunks

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


@pytest.fixture
def interruptible():
    """The handler of Python's start: KeyboardInterrupt in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread only")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("n", [1, 2, 7])
def test_interrupt_in_a_chunk(n):
    caller, ran = threading.get_ident(), []

    def kernel(start, stop):
        ran.append(start)
        time.sleep(0.0005)
        if stop and threading.get_ident() == caller:
            signal.raise_signal(signal.SIGINT)

    with use_workers(n):
        for _ in range(3):
            ran.clear()
            with pytest.raises(KeyboardInterrupt):
                run_chunks(kernel, range(301))
            assert len(ran) < 300
            assert squares()
        assert not _threads._here.inside


@pytest.mark.usefixtures("interruptible")
def test_interrupt_while_waiting_for_a_helper():
    caller, together, ended = threading.get_ident(), threading.Barrier(2), []

    def kernel(start, stop):
        if not stop:
            return
        together.wait(SOON)
        if threading.get_ident() != caller:
            time.sleep(0.02)  # the caller waits by now
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.02)
            ended.append(start)

    with use_workers(2):
        with pytest.raises(KeyboardInterrupt):
            run_chunks(kernel, [0, 1, 2])
        assert ended, "the call returned while a helper still wrote"
        assert squares()


@pytest.mark.usefixtures("interruptible")
def test_interrupt_in_a_commit():
    caller = threading.get_ident()

    def commit(chunk, result):
        if chunk == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    with use_workers(2):
        with pytest.raises(KeyboardInterrupt):
            run_chunks(lambda start, stop: time.sleep(0.001), range(200), commit=commit)
        assert threading.get_ident() == caller
        assert squares()


INTERRUPT = """
import os, signal, threading, time
import numpy as np
from numba import njit
from linalgkit._threads import run_chunks, use_workers

@njit(nogil=True)
def kernel(start, stop, out):
    for k in range(start, stop):
        total = 0.0
        for i in range(2_000_000):
            total += np.sqrt(i + k)
        out[k] = total

out = np.zeros(400)

def interrupt():
    while np.count_nonzero(out) < 3:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
with use_workers(2):
    kernel(0, 0, out)
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        run_chunks(kernel, range(401), out)
    except KeyboardInterrupt:
        done = np.count_nonzero(out)
        time.sleep(0.05)
        print("interrupted", done < 400, np.count_nonzero(out) == done)
    again = np.zeros(4)
    run_chunks(kernel, range(5), again)
    print("usable", np.count_nonzero(again) == 4)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends the process there")
def test_interrupt_while_compiled_kernels_run(python):
    assert python(INTERRUPT).splitlines() == ["interrupted True True", "usable True"]
