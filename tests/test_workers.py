"""How many threads a call may use: what users set, what the machine gives."""

import asyncio
import io
import os
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from pool_calls import SOON, CustomError, run_threads, squares

from linalgkit import _threads, set_workers, use_workers


@pytest.fixture(autouse=True)
def default_workers():
    with use_workers(None):
        yield
    set_workers(None)


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
