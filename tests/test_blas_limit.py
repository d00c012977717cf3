"""BLAS has one thread inside chunks of ``blas=True``, and afterwards the number it had."""

import os
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg  # noqa: F401  (a second BLAS in the process, where SciPy brings its own)
from threadpoolctl import ThreadpoolController, threadpool_info

from linalgkit import _blas_limit, use_workers
from linalgkit._threads import run_chunks

SOON = 20

pytestmark = pytest.mark.filterwarnings("ignore:.*fork")


def blas_threads():
    """Map every BLAS of the process to its number of threads."""
    return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info() if is_blas(pool)}


def is_blas(pool):
    return pool["user_api"] == "blas"


def all_one():
    return set(blas_threads().values()) == {1}


@pytest.fixture(autouse=True)
def several_threads():
    """Give every BLAS a number of its own, so that a wrong one is seen on any machine."""
    controllers = ThreadpoolController().select(user_api="blas").lib_controllers
    before = [controller.num_threads for controller in controllers]
    for number, controller in enumerate(controllers, 2):
        controller.set_num_threads(number)
    numbers = blas_threads()
    assert list(numbers.values()) == list(range(2, 2 + len(controllers)))
    yield numbers
    for controller, number in zip(controllers, before, strict=True):
        controller.set_num_threads(number)


def blas_call(chunks=4, inside=lambda start: None):
    """Make a call over the pool; tell whether each chunk saw one thread in every BLAS."""
    seen = []

    def kernel(start, stop):
        if stop:
            seen.append(all_one())
            inside(start)

    run_chunks(kernel, range(chunks + 1), blas=True)
    return len(seen) == chunks and all(seen)


@pytest.mark.parametrize("chunks", [1, 4])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_one_thread_inside(several_threads, n, chunks):
    with use_workers(n):
        for _ in range(2):
            assert blas_call(chunks)
            assert blas_threads() == several_threads


def test_one_thread_in_helpers(several_threads):
    together, threads = threading.Barrier(3), set()

    def inside(start):
        together.wait(SOON)
        threads.add(threading.get_ident())

    with use_workers(3):
        assert blas_call(3, inside)
    assert len(threads) == 3
    assert blas_threads() == several_threads


def test_no_limit_where_none_is_asked_for(several_threads):
    seen = []
    with use_workers(2):
        run_chunks(lambda start, stop: seen.append(blas_threads()), range(4))
    assert all(numbers == several_threads for numbers in seen)


def test_nested(several_threads):
    def inside(start):
        assert blas_call(3)
        assert all_one()  # the inner call gives nothing back

    with use_workers(2):
        assert blas_call(4, inside)
    assert blas_threads() == several_threads


def test_overlapping_calls_of_many_threads(several_threads):
    together, wrong = threading.Barrier(8), []

    def call(index):
        rng = np.random.default_rng(index)
        together.wait(SOON)
        with use_workers(1 + index % 3):
            for _ in range(15):
                pauses = rng.uniform(0, 0.001, 4)
                if not blas_call(4, lambda start: time.sleep(pauses[start])):  # noqa: B023
                    wrong.append(index)

    threads = [threading.Thread(target=call, args=(k,), daemon=True) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong
    assert blas_threads() == several_threads


def test_first_out_leaves_the_limit_to_the_last(several_threads):
    begun, end = threading.Event(), threading.Event()

    def inside(start):
        begun.set()
        assert end.wait(SOON)

    with use_workers(1):
        long = threading.Thread(target=blas_call, args=(1, inside), daemon=True)
        long.start()
        assert begun.wait(SOON)
        assert blas_call(1)
        assert all_one()  # the long call still runs
    end.set()
    long.join(SOON)
    assert blas_threads() == several_threads


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_after_an_error(several_threads, n, kind):
    def fail(start):
        if start == 1:
            raise kind

    with use_workers(n):
        with pytest.raises(kind):
            blas_call(6, fail)
        assert blas_threads() == several_threads
        assert blas_call()
    assert blas_threads() == several_threads


def test_the_users_later_number_is_kept(several_threads):
    assert blas_call()
    (controller, *_) = ThreadpoolController().select(user_api="blas").lib_controllers
    controller.set_num_threads(5)
    wanted = blas_threads()
    assert wanted != several_threads
    assert blas_call()
    assert blas_threads() == wanted


def child_is_sound(numbers):
    """Fork; tell whether the child has these numbers of threads before and after a call."""
    child = os.fork()
    if child == 0:  # never back into the test runner
        status = 1
        try:
            with use_workers(2):
                sound = blas_threads() == numbers and blas_call() and blas_threads() == numbers
            status = 0 if sound else 2
        finally:
            os._exit(status)
    until = time.monotonic() + SOON
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.001)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the forked child hangs")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork_in_the_middle_of_a_call(several_threads):
    begun, end, inside_sound = threading.Event(), threading.Event(), []

    def inside(start):
        begun.set()
        assert end.wait(SOON)

    with use_workers(2):
        assert child_is_sound(several_threads)
        call = threading.Thread(target=blas_call, args=(4, inside), daemon=True)
        call.start()
        assert begun.wait(SOON)
        assert child_is_sound(several_threads)  # another thread is inside
        assert all_one()  # and still holds the parent's
        end.set()
        call.join(SOON)
        assert blas_call(1, lambda start: inside_sound.append(child_is_sound(several_threads)))
    assert inside_sound == [True]  # the forking thread itself was inside
    assert blas_threads() == several_threads


LOADED_LATER = """
import sys
import numpy as np
from threadpoolctl import threadpool_info
from linalgkit._threads import run_chunks, use_workers

def numbers():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

def call():
    seen = []
    with use_workers(2):
        run_chunks(lambda start, stop: seen.append(max(numbers())), range(4), blas=True)
    return set(seen) == {1}

before = numbers()
assert call() and numbers() == before
assert "scipy.linalg" not in sys.modules
import scipy.linalg
after = numbers()
assert call() and numbers() == after
print(len(before), len(after))
"""


def test_blas_loaded_later(python):
    before, after = map(int, python(LOADED_LATER, env=many_threads()).split())
    assert 1 <= before <= after


FIRST_GEMM = """
import numpy as np
from numba import njit
from threadpoolctl import threadpool_info
from linalgkit._blas import gemm
from linalgkit._threads import run_chunks, use_workers

@njit(nogil=True)
def multiply(start, stop, numbers, a, out):
    for k in range(start, stop):
        one, zero = numbers.ctypes.data, numbers.ctypes.data + numbers.itemsize
        gemm(ord("d"), ord("n"), ord("n"), 4, 4, 4, one, a.ctypes.data, 4, a.ctypes.data, 4, zero,
             out.ctypes.data + k * 16 * out.itemsize, 4)

numbers, a, out = np.array([1.0, 0.0]), np.arange(16.0).reshape(4, 4), np.zeros((6, 4, 4))
seen = []

def kernel(start, stop):
    multiply(start, stop, numbers, a, out)
    if stop:
        seen.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")

with use_workers(2):
    run_chunks(kernel, range(7), blas=True)
assert all(np.array_equal(block, a @ a) for block in out)
print(sorted(set(seen)))
"""


def test_blas_loaded_by_the_first_compiled_product(python):
    assert python(FIRST_GEMM, env=many_threads()) == "[1]\n"


def many_threads():
    return {"OPENBLAS_NUM_THREADS": "4", "MKL_NUM_THREADS": "4", "BLIS_NUM_THREADS": "4"}


class PerThread:
    """A BLAS over OpenMP: the number is the calling thread's own."""

    filepath, internal_api, threading_layer = "libblas-openmp", "openblas", "openmp"

    def __init__(self):
        self._here = threading.local()

    def get_num_threads(self):
        return getattr(self._here, "number", 6)

    def set_num_threads(self, number):
        self._here.number = number


def test_blas_that_counts_per_thread(monkeypatch, several_threads):
    library = PerThread()
    limit = _blas_limit.blas_limit
    known = [*limit._lookup(), _blas_limit._library(library)]
    assert known[-1].per_thread
    monkeypatch.setattr(limit, "_lookup", lambda: known)
    monkeypatch.setattr(limit, "_libraries", known)
    together, inside, afterwards = threading.Barrier(2), [], []

    def kernel(start, stop):
        if stop:
            together.wait(SOON)
            inside.append((threading.get_ident(), library.get_num_threads()))

    def look(start, stop):
        if stop:
            together.wait(SOON)
            afterwards.append(library.get_num_threads())

    with use_workers(2):
        run_chunks(kernel, [0, 1, 2], blas=True)
        run_chunks(look, [0, 1, 2])
    assert len({thread for thread, _ in inside}) == 2
    assert [number for _, number in inside] == [1, 1]
    assert afterwards == [6, 6]
    assert blas_threads() == several_threads


def test_blas_of_each_kind():
    numbers = {"MKL_Get_Max_Threads": lambda: 3, "MKL_Set_Num_Threads": lambda number: None}
    mkl = SimpleNamespace(
        internal_api="mkl",
        filepath="libmkl",
        threading_layer="intel",
        dynlib=SimpleNamespace(**numbers),
    )
    assert _blas_limit._library(mkl).get() == 3
    assert not _blas_limit._library(mkl).per_thread
    blis = PerThread()
    blis.internal_api, blis.threading_layer = "blis", "pthreads"
    assert not _blas_limit._library(blis).per_thread
    sequential = PerThread()
    sequential.get_num_threads = lambda: None
    assert _blas_limit._library(sequential) is None
