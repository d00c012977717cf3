"""Sparse products: small versions of compare.py's cases, ours beside the peers."""

from functools import partial

import scipy.sparse as sp
import spgemm_cases
from compare_spgemm import PEERS, peers

import linalgkit

CASES = {
    "Erdős–Rényi n=10k d=16": partial(spgemm_cases.erdos_renyi, n=10_000),
    "RMAT scale 11": partial(spgemm_cases.rmat, scale=11),
    "Poisson 24³": partial(spgemm_cases.poisson, m=24),
    "Ruge–Stüben R·A 24³": partial(spgemm_cases.galerkin_left, m=24),
}


def _operands(case):
    try:
        return CASES[case]()
    except ImportError as error:  # of a package that makes the case
        raise NotImplementedError(str(error)) from error


class Product:
    """Time one product by us with one and two threads."""

    params = (list(CASES), [1, 2])
    param_names = ("case", "workers")

    def setup(self, case, workers):
        self.a, self.b = _operands(case)
        linalgkit.set_workers(workers)
        linalgkit.spgemm.matmul(self.a, self.b)  # compiles

    def time_matmul(self, case, workers):
        linalgkit.spgemm.matmul(self.a, self.b)

    def peakmem_matmul(self, case, workers):
        linalgkit.spgemm.matmul(self.a, self.b)


class PeerProduct:
    """Time the same by the peers with all cores."""

    params = (list(CASES), list(PEERS))
    param_names = ("case", "peer")

    def setup(self, case, peer):
        calls = peers(*_operands(case))
        if peer not in calls:
            raise NotImplementedError(f"{peer} is not installed")
        self.call = calls[peer]
        self.call()

    def time_matmul(self, case, peer):
        self.call()


class Overhead:
    """Time what a call costs beside the arithmetic: a 3 × 3 product."""

    def setup(self):
        self.a = sp.eye_array(3, format="csr")
        linalgkit.spgemm.matmul(self.a, self.a)

    def time_matmul(self):
        linalgkit.spgemm.matmul(self.a, self.a)

    def time_scipy(self):
        self.a @ self.a


def timeraw_import():
    return "import linalgkit"


def timeraw_import_and_first_product():
    return """
    from scipy.sparse import eye_array
    import linalgkit
    linalgkit.spgemm.matmul(eye_array(3).tocsr(), eye_array(3).tocsr())
    """
