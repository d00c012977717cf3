"""BLAS takes one thread: the matrices are small, and threads that wait for a core cost most."""

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with threadpool_limits(1, user_api="blas"):
        yield
