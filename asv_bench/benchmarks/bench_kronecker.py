"""Products and solves of the room kronecker: small versions of compare.py's cases."""

import compare_kronecker

import linalgkit
from linalgkit import kronecker


class Products:
    """Time products of square factors with one and two threads."""

    params = ([(8, 5), (16, 4), (32, 3), (128, 3)], [1, 2])
    param_names = ("order, factors", "workers")

    def setup(self, size, workers):
        self.factors, self.x = compare_kronecker.product_operands(*size)
        linalgkit.set_workers(workers)
        kronecker.kron_matvec(self.factors, self.x)  # compiles
        kronecker.kronsum_matvec(self.factors, self.x)

    def time_product(self, size, workers):
        kronecker.kron_matvec(self.factors, self.x)

    def time_sum(self, size, workers):
        kronecker.kronsum_matvec(self.factors, self.x)

    def peakmem_product(self, size, workers):
        kronecker.kron_matvec(self.factors, self.x)


class PeerProducts:
    """Time the same by the peers with all cores."""

    params = (
        [(8, 5), (16, 4), (32, 3), (128, 3)],
        ["reduce tensordot", "matmul of views", "pykronecker"],
    )
    param_names = ("order, factors", "peer")

    def setup(self, size, peer):
        calls = compare_kronecker.product_contest(*size).peers
        if peer not in calls:
            raise NotImplementedError(f"{peer} is not installed")
        self.call = calls[peer]
        self.call()

    def time_product(self, size, peer):
        self.call()


class Sylvester:
    """Time Sylvester's equation, ours and SciPy's."""

    params = ([100, 400], ["kronsum_solve", "scipy.linalg.solve_sylvester"])
    param_names = ("n", "call")

    def setup(self, n, call):
        contest = compare_kronecker.sylvester_contest(n)
        self.call = {"kronsum_solve": contest.ours, **contest.peers}[call]
        self.call()

    def time_solve(self, n, call):
        self.call()


CONTESTS = {
    "elements": (compare_kronecker.elements_contest, 100, 2),
    "noise": (compare_kronecker.noise_contest, 50, 2),
    "gradient": (compare_kronecker.gradient_contest, 50, 2),
    "faces": (compare_kronecker.faces_contest, 20_000, (16, 16)),
    "equation": (compare_kronecker.equation_contest, "P1"),
}


class Contests:
    """Time one small case of each further table, ours and the peers'."""

    params = (
        list(CONTESTS),
        [
            "ours",
            "eigh, tensordot",
            "linear_operator",
            "eigh(A, B), tensordot",
            "cholesky, solve_sylvester",
            "torch autograd through eigh",
            "matrix of all products",
            "einsum",
            "Chebyshev collocation",
            "finite differences",
        ],
    )
    param_names = ("case", "call")

    def setup(self, case, call):
        make, *arguments = CONTESTS[case]
        contest = make(*arguments)
        calls = {"ours": contest.ours, **contest.peers}
        if call not in calls:
            raise NotImplementedError(f"{call} is no peer of {case}, or not installed")
        self.call = calls[call]
        self.call()

    def time_call(self, case, call):
        self.call()
