"""Chunks over the pool: the same results with any workers, and nothing breaks the pool."""

import asyncio
import gc
import io
import multiprocessing
import os
import pickle
import select
import signal
import sys
import threading
import time
import weakref
from contextlib import contextmanager, suppress
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from linalgkit import _threads, set_workers, use_workers
from linalgkit._threads import chunk_bounds, run_chunks

SOON = 20  # seconds: more than anything here takes, less than the test's own limit

# JAX and Python warn of any fork of a process with threads; ours are what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture(autouse=True)
def default_workers():
    with use_workers(None):
        yield
    set_workers(None)


@st.composite
def running_sums(draw):
    """Ends of items with light, heavy and no work."""
    each = st.one_of(st.integers(0, 5), st.just(0), st.integers(0, 1000))
    work = draw(st.lists(each, max_size=60))
    return np.cumsum([0, *work]).astype(draw(st.sampled_from(["i4", "i8", "u4"])))


def assert_bounds(bounds, ends, minimum):
    items, total = len(ends) - 1, int(ends[-1])
    assert all(type(bound) is int for bound in bounds)
    assert bounds[0] == 0
    assert bounds[-1] == items
    assert len(bounds) >= 2
    if items:
        assert all(start < stop for start, stop in pairwise(bounds))
    work = [int(ends[stop]) - int(ends[start]) for start, stop in pairwise(bounds)]
    assert sum(work) == total
    if len(work) > 1:
        assert min(work) >= minimum
    heaviest = max((int(b) - int(a) for a, b in pairwise(ends)), default=0)
    assert max(work) <= 4 * minimum + heaviest


@given(running_sums(), st.integers(1, 200))
@example(np.array([0, 100, 101, 102]), 10)
@example(np.array([0, 2, 4, 6, 8, 10]), 3)
@example(np.array([0]), 10)
@example(np.array([0, 0, 0, 0]), 10)
def test_chunk_bounds(ends, minimum):
    assert_bounds(chunk_bounds(ends, minimum=minimum), ends, minimum)


@given(st.integers(0, 300), st.integers(0, 50), st.integers(1, 200))
@example(5, 2, 3)
def test_chunk_bounds_of_equal_items(count, each, minimum):
    bounds = chunk_bounds((count, each), minimum=minimum)
    assert_bounds(bounds, [each * k for k in range(count + 1)], minimum)
    sizes = np.diff(bounds)
    assert sizes.max() - sizes.min() <= 1
    if each == 0:
        assert bounds == [0, count]


def test_chunk_bounds_without_work():
    for ends in ([0], [0, 0], [0] * 50):
        assert chunk_bounds(np.array(ends), minimum=1) == [0, len(ends) - 1]
    assert chunk_bounds((0, 7), minimum=1) == [0, 0]


def test_chunk_bounds_of_a_heavy_item():
    ends = np.cumsum([0] + [10] * 20 + [10_000] + [10] * 20)
    bounds = chunk_bounds(ends, minimum=100)
    assert len(bounds) > 3  # the light items before and after it are work for others
    (heavy,) = [k for k in range(len(bounds) - 1) if bounds[k] <= 20 < bounds[k + 1]]
    assert ends[bounds[heavy + 1]] - ends[bounds[heavy]] < 10_000 + 300


def test_chunk_bounds_do_not_overflow():
    ends = np.linspace(0, 2**31 - 1, 1001).astype(np.int32)
    bounds = chunk_bounds(ends, minimum=2**20)
    assert bounds == chunk_bounds(ends.astype(np.int64), minimum=2**20)
    assert len(bounds) > 500


def test_chunk_bounds_ignore_workers():
    ends = np.cumsum([0, *np.random.default_rng(0).integers(0, 50, 300)])
    found = []
    for n in (1, 2, 7):
        with use_workers(n):
            found.append((chunk_bounds(ends, minimum=100), chunk_bounds((999, 3), minimum=50)))
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) > 10


def reciprocals(n):
    """A float32 sum whose bits depend on the order of summation, over the pool with n workers."""
    values = (1 / np.arange(1, 5001)).astype(np.float32)
    total, order = np.float32(0), []

    def kernel(start, stop, values):
        time.sleep(0.0002 * (start % 3))  # chunks end out of order
        return values[start:stop].sum(dtype=np.float32)

    def commit(chunk, part):
        nonlocal total
        order.append(chunk)
        total += part

    bounds = chunk_bounds((values.size, 1), minimum=100)
    with use_workers(n):
        run_chunks(kernel, bounds, values, commit=commit)
    assert order == list(range(50))
    return total.tobytes()


@pytest.mark.parametrize("n", [2, 7])
def test_results_do_not_depend_on_workers(n):
    assert reciprocals(n) == reciprocals(1)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_every_chunk_runs_once(n):
    bounds, lock, ran = [0, 3, 4, 9, 10, 12], threading.Lock(), []

    def kernel(start, stop, first, second):
        assert (first, second) == ("a", "b")
        if stop > start:
            with lock:
                ran.append((start, stop))

    with use_workers(n):
        run_chunks(kernel, bounds, "a", "b")
    assert sorted(ran) == list(pairwise(bounds))
    if n == 1:
        assert ran == sorted(ran)


def test_one_empty_chunk():
    ran = []
    with use_workers(4):
        run_chunks(lambda start, stop: ran.append((start, stop)), [0, 0])
    assert ran == [(0, 0)]


def test_commits_come_in_order_one_at_a_time():
    committing, order, overlaps = threading.Lock(), [], []
    pauses = np.random.default_rng(1).permutation(40)

    def kernel(start, stop):
        if stop > start:
            time.sleep(0.0001 * pauses[start])
        return start, stop

    def commit(chunk, result):
        if not committing.acquire(blocking=False):
            overlaps.append(chunk)
            return
        order.append((chunk, result))
        time.sleep(0.0002)
        committing.release()

    with use_workers(5):
        run_chunks(kernel, range(41), commit=commit)
    assert not overlaps
    assert order == [(k, (k, k + 1)) for k in range(40)]


def test_nobody_waits_to_commit():
    others_done = threading.Event()
    order = []

    def kernel(start, stop):
        if start == 3:
            others_done.set()
        elif start == 0 and stop:
            assert others_done.wait(SOON)  # a helper goes through all of the others meanwhile
        return start

    with use_workers(2):
        run_chunks(kernel, range(5), commit=lambda chunk, result: order.append((chunk, result)))
    assert order == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_compiles_in_the_calling_thread_before_others_are_woken():
    calls, together = [], threading.Barrier(3)

    def kernel(start, stop):
        calls.append((start, stop, threading.get_ident()))
        if stop:
            together.wait(SOON)

    with use_workers(3):
        run_chunks(kernel, [0, 1, 2, 3])
    assert calls[0] == (0, 0, threading.get_ident())
    assert sorted(call[:2] for call in calls[1:]) == [(0, 1), (1, 2), (2, 3)]
    assert len({call[2] for call in calls[1:]}) == 3  # the caller and two helpers


def test_no_more_threads_than_workers():
    with use_workers(5):  # the pool has more threads than the next call may use
        run_chunks(lambda start, stop: time.sleep(0.001), range(9))
    used = set()

    def kernel(start, stop):
        used.add(threading.get_ident())
        time.sleep(0.001)

    with use_workers(2):
        run_chunks(kernel, range(31))
    assert len(used) <= 2
    assert threading.get_ident() in used


def test_pool_threads_do_not_keep_the_process():
    with use_workers(3):
        run_chunks(lambda start, stop: None, range(9))
    pool = [thread for thread in threading.enumerate() if thread.name.startswith("linalgkit-")]
    assert len(pool) >= 2
    assert all(thread.daemon for thread in pool)


def test_scratch_is_one_buffer_a_thread():
    together, lock = threading.Barrier(3), threading.Lock()
    made, seen = [], []

    def scratch():
        buffer = [threading.get_ident()]
        with lock:
            made.append(buffer)
        return buffer

    def kernel(start, stop, argument, buffer):
        assert argument == "argument"
        assert buffer == [threading.get_ident()]
        if stop:
            with lock:
                seen.append(buffer)
        if 0 < stop < 4:
            together.wait(SOON)

    with use_workers(3):
        run_chunks(kernel, range(31), "argument", scratch=scratch)
    assert len(seen) == 30
    assert len(made) == 3
    assert {id(buffer) for buffer in seen} == {id(buffer) for buffer in made}


def test_scratch_of_one_worker():
    made = []
    with use_workers(1):
        run_chunks(lambda start, stop, buffer: None, range(9), scratch=lambda: made.append(1))
    assert made == [1]


def squares(n=40):
    """A small call whose result is known."""
    result = np.zeros(n, dtype=np.int64)

    def kernel(start, stop):
        result[start:stop] = np.arange(start, stop) ** 2

    run_chunks(kernel, range(n + 1))
    return result.tolist() == [k**2 for k in range(n)]


def run_threads(function, number=8):
    """Call `function(index)` in threads at once; return the results, raise what any raised."""
    together, results, errors = threading.Barrier(number), {}, []

    def call(index):
        try:
            together.wait(SOON)
            results[index] = function(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(k,), daemon=True) for k in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    if errors:
        raise errors[0]
    assert len(results) == number, "a call did not return"
    return [results[k] for k in range(number)]


def test_calls_from_many_threads():
    def calls(index):
        with use_workers(1 + index % 4):
            return all(squares(5 + index) for _ in range(20))

    assert run_threads(calls) == [True] * 8


def test_nested_calls_run_in_their_own_thread():
    together, inner = threading.Barrier(2), []

    def outer_kernel(start, stop):
        if stop == 0:
            return
        together.wait(SOON)
        assert _threads.is_serial(range(9))
        used = []
        run_chunks(lambda start, stop: used.append((threading.get_ident(), start)), range(5))
        inner.append(used == [(threading.get_ident(), k) for k in range(4)])

    with use_workers(2):
        assert not _threads.is_serial(range(9))
        run_chunks(outer_kernel, [0, 1, 2])
        assert inner == [True, True]
        assert not _threads.is_serial(range(9))


def test_is_serial():
    with use_workers(2):
        assert _threads.is_serial([0, 5])
        assert not _threads.is_serial([0, 5, 9])
    with use_workers(1):
        assert _threads.is_serial([0, 5, 9])


class CustomError(Exception):
    pass


@pytest.mark.parametrize("n", [1, 2, 7])
def test_error_in_a_chunk(n):
    ran, committed = [], []

    def kernel(start, stop):
        if stop:
            ran.append(start)
            time.sleep(0.001)
        if start == 3:
            raise CustomError("chunk 3")
        return start

    with use_workers(n):
        with pytest.raises(CustomError, match="chunk 3"):
            run_chunks(kernel, range(201), commit=lambda chunk, result: committed.append(chunk))
        assert len(ran) <= 100  # cancelled long before the end
        if n == 1:
            assert ran == [0, 1, 2, 3]
        assert committed == list(range(len(committed)))
        assert len(committed) <= 3
        assert squares()


def test_error_in_a_helper():
    caller, together = threading.get_ident(), threading.Barrier(2)

    def kernel(start, stop):
        if stop:
            together.wait(SOON)
            if threading.get_ident() != caller:
                raise SystemExit(7)  # must not end the pool's thread

    with use_workers(2):
        before = {thread for thread in threading.enumerate() if "linalgkit" in thread.name}
        with pytest.raises(SystemExit, match="7"):
            run_chunks(kernel, [0, 1, 2])
        assert before <= set(threading.enumerate())
        assert squares()


def test_first_error_wins():
    caller, together = threading.get_ident(), threading.Barrier(2)

    def kernel(start, stop):
        if not stop:
            return
        together.wait(SOON)
        if threading.get_ident() == caller:
            time.sleep(0.1)  # the helper's error is kept by then
            raise CustomError("second")
        raise CustomError("first")

    with use_workers(2), pytest.raises(CustomError, match="first"):
        run_chunks(kernel, [0, 1, 2])


@pytest.mark.parametrize("n", [1, 4])
def test_error_in_a_commit(n):
    committed = []

    def commit(chunk, result):
        committed.append(chunk)
        if chunk == 2:
            raise CustomError("commit 2")

    with use_workers(n):
        with pytest.raises(CustomError, match="commit 2"):
            run_chunks(lambda start, stop: time.sleep(0.0005), range(60), commit=commit)
        assert committed == [0, 1, 2]
        assert squares()


def test_error_in_a_scratch():
    caller = threading.get_ident()

    def in_caller():
        raise CustomError("of the caller")

    def in_helper():
        if threading.get_ident() != caller:
            raise CustomError("of a helper")

    together = threading.Event()

    def kernel(start, stop, buffer):
        together.wait(0.001)  # time for the helper to come

    with use_workers(2):
        with pytest.raises(CustomError, match="of the caller"):
            run_chunks(kernel, range(9), scratch=in_caller)
        with pytest.raises(CustomError, match="of a helper"):
            run_chunks(kernel, range(2001), scratch=in_helper)
        assert squares()


def test_error_in_the_first_empty_call():
    def kernel(start, stop):
        raise CustomError(f"{start} {stop}")

    with use_workers(2):
        with pytest.raises(CustomError, match="0 0"):
            run_chunks(kernel, range(9))
        assert squares()


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("fails", [False, True])
def test_no_array_outlives_its_call(n, fails):
    class Array(np.ndarray):
        pass

    def call():
        array = np.zeros(4).view(Array)

        def kernel(start, stop, array):
            if fails and stop:
                raise CustomError

        with use_workers(n), suppress(CustomError):
            run_chunks(kernel, range(9), array)
        return weakref.ref(array)

    gc.disable()
    try:
        array = call()
        until = time.monotonic() + SOON  # a helper may still be dropping the job
        while array() is not None and time.monotonic() < until and not fails:
            time.sleep(0.001)
        time.sleep(0.05 if fails else 0)
        assert array() is None
    finally:
        gc.enable()


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


def in_child(function):
    """Return what `function` returns in a forked child; fail if it does not within the time."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # never back into the test runner
        status = 1
        try:
            os.write(writer, pickle.dumps(function()))
            status = 0
        except BaseException as error:
            os.write(writer, pickle.dumps(repr(error)))
        finally:
            os._exit(status)
    os.close(writer)
    try:
        with io.FileIO(reader) as pipe:
            if not select.select([pipe], [], [], SOON)[0]:
                os.kill(child, signal.SIGKILL)
                pytest.fail("the forked child hangs")
            answer = pickle.loads(pipe.readall())
    finally:
        _, status = os.waitpid(child, 0)
    assert status == 0, answer
    return answer


def parallel():
    """Tell whether a call gets help from another thread here, and is right."""
    together, threads = threading.Barrier(2), set()

    def kernel(start, stop):
        if stop:
            together.wait(SOON)
            threads.add(threading.get_ident())

    with use_workers(2):
        run_chunks(kernel, [0, 1, 2])
        return len(threads) == 2 and squares()


@forks
def test_after_a_fork():
    assert parallel()
    assert in_child(parallel)
    assert parallel()
    assert in_child(lambda: in_child(parallel))


@forks
def test_fork_while_other_threads_call():
    stop, failed = threading.Event(), []

    def call():
        with use_workers(3):
            while not stop.is_set():
                if not squares(9):
                    failed.append(1)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert in_child(parallel)
    finally:
        stop.set()
        for thread in threads:
            thread.join(SOON)
    assert not failed
    assert parallel()


@forks
def test_fork_from_inside_a_chunk():
    answers = []

    def kernel(start, stop):
        if start == 1:
            answers.append(in_child(parallel))

    with use_workers(2):
        run_chunks(kernel, range(4))
    assert answers == [True]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_children(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    assert parallel()
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply_async(parallel).get(SOON)
    assert parallel()


def test_set_workers():
    set_workers(3)
    assert _threads.workers() == 3
    assert run_threads(lambda index: _threads.workers(), 2) == [3, 3]  # the whole process
    with use_workers(5):
        assert _threads.workers() == 5
        with use_workers(None):
            assert _threads.workers() == 3
        assert _threads.workers() == 5
    assert _threads.workers() == 3
    set_workers(np.int64(2))
    assert _threads.workers() == 2
    set_workers(None)
    assert _threads.workers() == _threads._default_workers()


@pytest.mark.parametrize("function", [set_workers, lambda n: use_workers(n).__enter__()])
@pytest.mark.parametrize("n", [0, -1, 1.0, "2", True, [1]], ids=repr)
def test_workers_that_are_no_number_of_threads(function, n):
    before = _threads.workers()
    kind, message = (
        (ValueError, f"n must be at least 1; got {n}")
        if type(n) is int
        else (TypeError, "n must be an integer; got ")
    )
    with pytest.raises(kind, match=message):
        function(n)
    assert _threads.workers() == before


def test_use_workers_ends_with_an_exception():
    before = _threads.workers()
    with pytest.raises(CustomError), use_workers(before + 1):
        raise CustomError
    assert _threads.workers() == before


def test_use_workers_is_the_threads_own():
    together = threading.Barrier(8)

    def call(index):
        with use_workers(index + 1):
            together.wait(SOON)
            return _threads.workers()

    before = _threads.workers()
    assert run_threads(call) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert _threads.workers() == before


def test_use_workers_is_the_tasks_own():
    async def call(n):
        with use_workers(n):
            await asyncio.sleep(0)
            return _threads.workers(), squares()

    async def main():
        return await asyncio.gather(*(call(n) for n in (1, 2, 7)))

    assert asyncio.run(main()) == [(1, True), (2, True), (7, True)]


def test_workers_of_the_environment(python):
    code = "from linalgkit import _threads; print(_threads.workers())"
    assert python(code, env={"LINALGKIT_WORKERS": "3"}) == "3\n"
    assert python(code, env={"LINALGKIT_WORKERS": ""}) == f"{_threads._available_cores()}\n"


@pytest.mark.parametrize("value", ["0", "-2", "two", "1.5"])
def test_bad_workers_of_the_environment(monkeypatch, value):
    monkeypatch.setenv("LINALGKIT_WORKERS", value)
    monkeypatch.setattr(_threads, "_counted", None)
    with pytest.raises(ValueError, match="LINALGKIT_WORKERS must be a positive integer; got "):
        squares()
    monkeypatch.setenv("LINALGKIT_WORKERS", "4")
    assert _threads.workers() == 4


@contextmanager
def affinity(cores):
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_cores_of_this_process():
    one = {min(os.sched_getaffinity(0))}
    with affinity(one):
        assert _threads._available_cores() == 1


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000\n", 6),
        ("250000 100000\n", 2),
        ("10000 100000\n", 1),
        ("9900000 100000\n", 6),
        ("nonsense", 6),
        (None, 6),
    ],
)
def test_cores_of_a_container(monkeypatch, quota, expected):
    def read(path):
        if quota is None:
            raise FileNotFoundError(path)
        assert path == "/sys/fs/cgroup/cpu.max"
        return io.StringIO(quota)

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    monkeypatch.setattr(_threads, "open", read, raising=False)
    assert _threads._available_cores() == expected
