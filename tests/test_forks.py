"""The pool after a fork, in the child and in the parent; and in the children of multiprocessing."""

import multiprocessing
import os
import threading

import pytest
from pool_calls import SOON, in_child, parallel, squares

from linalgkit import use_workers
from linalgkit._threads import run_chunks

# JAX and Python warn of any fork of a process with threads; ours are what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


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
