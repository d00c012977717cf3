"""Calls over the pool whose results are known, and ways to make them: for the tests beside this."""

import io
import os
import pickle
import select
import signal
import threading

import numpy as np

from linalgkit import use_workers
from linalgkit._threads import run_chunks

SOON = 20  # seconds: more than anything takes, less than a test's own limit


class CustomError(Exception):
    """An error of nobody else's."""


def squares(n=40):
    """A small call whose result is known."""
    result = np.zeros(n, dtype=np.int64)

    def kernel(start, stop):
        result[start:stop] = np.arange(start, stop) ** 2

    run_chunks(kernel, range(n + 1))
    return result.tolist() == [k**2 for k in range(n)]


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
                raise AssertionError("the forked child hangs")
            answer = pickle.loads(pipe.readall())
    finally:
        _, status = os.waitpid(child, 0)
    assert status == 0, answer
    return answer
