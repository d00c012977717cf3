"""The delta rule, its gradients, reflection products: small versions of compare.py's cases."""

import compare_householder

import linalgkit
from linalgkit import householder

SIZES = [(8, 512, 128), (16, 512, 64)]


class DeltaRule:
    """Time the rule and its gradients with one and two threads."""

    params = (SIZES, [1, 2])
    param_names = ("heads, tokens, width", "workers")

    def setup(self, size, workers):
        self.arrays = compare_householder.operands(*size)
        linalgkit.set_workers(workers)
        householder.delta_rule(*self.arrays)  # compiles
        householder.delta_rule_vjp(self.arrays[2], *self.arrays)

    def time_delta_rule(self, size, workers):
        householder.delta_rule(*self.arrays)

    def time_vjp(self, size, workers):
        householder.delta_rule_vjp(self.arrays[2], *self.arrays)

    def peakmem_vjp(self, size, workers):
        householder.delta_rule_vjp(self.arrays[2], *self.arrays)


class PeerDeltaRule:
    """Time the same by torch with all cores."""

    params = (SIZES, [f"torch solve, C={chunk}" for chunk in compare_householder.CHUNKS])
    param_names = ("heads, tokens, width", "peer")

    def setup(self, size, peer):
        calls = compare_householder.forward_contest(*size).peers
        if peer not in calls:
            raise NotImplementedError(f"{peer} is not installed")
        self.call = calls[peer]
        self.call()

    def time_delta_rule(self, size, peer):
        self.call()


class Reflections:
    """Time a product of reflections with columns, and LAPACK's."""

    params = ([(64, 64), (256, 256)], ["ours", "LAPACK ormqr", "new operator"])
    param_names = ("reflections, columns", "who")

    def setup(self, size, who):
        contest = compare_householder.reflections_contest("float64", *size)
        self.call = {"ours": contest.ours, **contest.peers}[who]
        self.call()

    def time_reflections(self, size, who):
        self.call()
