"""Chunks over the pool: the same results with any workers, and no error breaks the pool."""

import gc
import threading
import time
import weakref
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
from pool_calls import SOON, CustomError, run_threads, squares

from linalgkit import _threads, use_workers
from linalgkit._threads import chunk_bounds, run_chunks


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


@pytest.mark.parametrize("n", [2, 3])
def test_results_that_wait_for_their_commit_are_few(n):
    waiting, most, lock = set(), [0], threading.Lock()

    def kernel(start, stop):
        if stop:
            with lock:
                waiting.add(start)
                most[0] = max(most[0], len(waiting))

    def commit(chunk, result):
        time.sleep(0.002)  # others could compute everything meanwhile
        with lock:
            waiting.remove(chunk)

    with use_workers(n):
        run_chunks(kernel, range(60), commit=commit)
    assert not waiting
    assert 2 <= most[0] <= n + 2
