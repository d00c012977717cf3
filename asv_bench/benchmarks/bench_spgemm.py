"""Sparse products: small versions of compare.py's cases, ours beside the peers."""

from functools import partial

import compare_spgemm
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


class _Contest:
    """Time one contestant of a contest of compare_spgemm with all cores."""

    def setup(self, case, who):
        try:
            contest = self.contest(case)
        except ImportError as error:  # of a package that makes the case
            raise NotImplementedError(str(error)) from error
        calls = {"ours": contest.ours, **contest.peers}
        if who not in calls:
            raise NotImplementedError(f"{who} is not installed")
        self.call = calls[who]
        self.call()  # compiles

    def time_call(self, case, who):
        self.call()


class PlanExecute(_Contest):
    """New values on a known pattern."""

    params = (list(CASES), ["ours", *compare_spgemm.PLAN_PEERS])
    param_names = ("case", "who")

    def contest(self, case):
        return compare_spgemm.plan_contest(CASES[case])


class Triangles(_Contest):
    """A masked product, and its sum alone."""

    params = (["masked", "count"], ["ours", *compare_spgemm.MASK_PEERS])
    param_names = ("case", "who")

    def contest(self, case):
        make = partial(spgemm_cases.triangles, scale=11)
        contests = {
            "masked": compare_spgemm.masked_contest,
            "count": compare_spgemm.count_contest,
        }
        return contests[case](make)


class Semiring(_Contest):
    """Other semirings on the power-law graph."""

    params = (list(compare_spgemm.SEMIRINGS), ["ours", *compare_spgemm.SEMIRING_PEERS])
    param_names = ("semiring", "who")

    def contest(self, semiring):
        return compare_spgemm.semiring_contest(CASES["RMAT scale 11"], semiring)


class Galerkin(_Contest):
    """The triple product of multigrid."""

    params = (["Poisson 24³"], ["ours", *compare_spgemm.GALERKIN_PEERS])
    param_names = ("case", "who")

    def contest(self, case):
        return compare_spgemm.galerkin_contest(partial(spgemm_cases.galerkin, m=24))


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
