"""Products and steps with the inverse Fisher matrix: small versions of compare.py's cases."""

import compare_mfac

import linalgkit
from linalgkit import mfac

SIZES = [(64, 50_000), (256, 20_000)]


class Fisher:
    """Time what is made of gradients, with one and two threads."""

    params = (SIZES, [None, "float16", "bfloat16"], [1, 2])
    param_names = ("m, d", "storage", "workers")

    def setup(self, size, storage, workers):
        self.gradients = compare_mfac.random_gradients(*size)
        self.x = self.gradients[0].copy()
        linalgkit.set_workers(workers)
        self.fisher = mfac.empirical_fisher(self.gradients, damping=1e-3, storage=storage)
        self.window = mfac.SlidingWindowFisher(*size, storage=storage or "float32")
        self.fisher.solve(self.x)  # compiles
        self.fisher.diagonal_inverse()
        self.window.push_solve(self.x)

    def time_static(self, size, storage, workers):
        mfac.empirical_fisher(self.gradients, damping=1e-3, storage=storage)

    def time_solve(self, size, storage, workers):
        self.fisher.solve(self.x)

    def time_diagonal(self, size, storage, workers):
        self.fisher.diagonal_inverse()

    def time_push_solve(self, size, storage, workers):
        self.window.push_solve(self.x)

    def peakmem_solve(self, size, storage, workers):
        self.fisher.solve(self.x)


class PeerFisher:
    """Time the published recursion by torch with all cores."""

    params = (SIZES,)
    param_names = ("m, d",)

    def setup(self, size):
        calls = compare_mfac.static_contest(*size).peers
        if "published in torch" not in calls:
            raise NotImplementedError("torch is not installed")
        self.call = calls["published in torch"]
        self.call()

    def time_static(self, size):
        self.call()
