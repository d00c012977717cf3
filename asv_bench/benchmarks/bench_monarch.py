"""Monarch products, projections and transforms: small versions of compare.py's cases."""

import compare_monarch

import linalgkit
from linalgkit import monarch

SIZES = [(1024, 1), (1024, 64), (4096, 64)]


class Product:
    """Time one product of rows by us with one and two threads."""

    params = (SIZES, [1, 2])
    param_names = ("n, batch", "workers")

    def setup(self, size, workers):
        self.arrays = compare_monarch.operands(*size)
        linalgkit.set_workers(workers)
        monarch.monarch_matmul(*self.arrays)  # compiles
        monarch.monarch_matmul_vjp(self.arrays[0], *self.arrays)

    def time_matmul(self, size, workers):
        monarch.monarch_matmul(*self.arrays)

    def time_vjp(self, size, workers):
        monarch.monarch_matmul_vjp(self.arrays[0], *self.arrays)

    def peakmem_matmul(self, size, workers):
        monarch.monarch_matmul(*self.arrays)


class PeerProduct:
    """Time the same by the peers with all cores."""

    params = (SIZES, ["dense", "torch bmm"])
    param_names = ("n, batch", "peer")

    def setup(self, size, peer):
        calls = compare_monarch.product_contest(-1, *size).peers
        if peer not in calls:
            raise NotImplementedError(f"{peer} is not installed")
        self.call = calls[peer]
        self.call()

    def time_matmul(self, size, peer):
        self.call()


class Projection:
    """Time the nearest Monarch matrix of 1024 rows, and LAPACK's values of all slices."""

    params = (["Gaussian", "decaying"], ["linalgkit", "LAPACK of all slices"])
    param_names = ("entries", "who")

    def setup(self, kind, who):
        contest = compare_monarch.projection_contest(1024, kind)
        self.call = contest.ours if who == "linalgkit" else contest.peers[who]
        self.call()

    def time_project(self, kind, who):
        self.call()


class Transform:
    """Time Fourier transforms of rows, and SciPy's."""

    params = ([256, 1024], ["linalgkit", "SciPy"])
    param_names = ("n", "who")

    def setup(self, n, who):
        contest = compare_monarch.fft_contest(n, 64)
        self.call = contest.ours if who == "linalgkit" else contest.peers[who]
        self.call()

    def time_fft(self, n, who):
        self.call()
