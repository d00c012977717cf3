"""The room's rows of the tour: sparse products with known answers."""

import networkx as nx
import numpy as np
import scipy.sparse as sp
from sklearn.datasets import load_digits
from sklearn.neighbors import kneighbors_graph

from linalgkit import spgemm


def stops():
    """Yield the room's stops, as arguments of the tour's `Stop`."""
    yield karate_triangles()
    yield digits_neighbours()
    yield poisson_square()
    yield coarse_laplacian()


def karate_triangles():
    """Triangles of Zachary's karate club are the trace of A³ over six: 45."""
    a = sp.csr_array(nx.to_scipy_sparse_array(nx.karate_club_graph(), weight=None, dtype=int))

    def triangles(matmul):
        return int(matmul(matmul(a, a), a).trace()) // 6

    return {
        "what": "triangles of a graph",
        "input": "karate club, 34 members",
        "ours": lambda: triangles(spgemm.matmul),
        "peer": lambda: triangles(lambda x, y: x @ y),
        "peer_name": "SciPy @",
        "error": lambda found: abs(found - 45) / 45,
    }


def digits_neighbours():
    """Walks of length four in the graph of 10 nearest neighbours: every row sums to 10⁴."""
    images = load_digits().data
    graph = sp.csr_array(kneighbors_graph(images, 10))

    def walks(matmul):
        two = matmul(graph, graph)
        return matmul(two, two)

    def error(result):
        return float(np.abs(result.sum(axis=1) - 1e4).max() / 1e4)

    return {
        "what": "neighbours in 4 steps",
        "input": f"digits, {images.shape[0]} images, 10 neighbours",
        "ours": lambda: walks(spgemm.matmul),
        "peer": lambda: walks(lambda x, y: x @ y),
        "peer_name": "SciPy @",
        "error": error,
    }


def laplacian(m):
    """The seven-point Laplacian on m × m × m points."""
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m), dtype=np.float64)
    eye = sp.eye_array(m)
    return sp.csr_array(
        sp.kron(sp.kron(line, eye), eye)
        + sp.kron(sp.kron(eye, line), eye)
        + sp.kron(sp.kron(eye, eye), line)
    )


def poisson_square(m: int = 64):
    """The square of the Poisson matrix: inside, 42 on the diagonal and rows that sum to zero."""
    a = laplacian(m)

    def error(square):
        inside = np.zeros((m, m, m), dtype=bool)
        inside[2:-2, 2:-2, 2:-2] = True
        inside = inside.ravel()
        entries = np.diff(square.indptr)[inside]
        assert (entries == 25).all()
        diagonal = np.abs(square.diagonal()[inside] - 42).max()
        return float(max(diagonal, np.abs(square.sum(axis=1)[inside]).max()) / 42)

    return {
        "what": "square of a Laplacian",
        "input": f"Poisson, {m}³ grid",
        "ours": lambda: spgemm.matmul(a, a),
        "peer": lambda: a @ a,
        "peer_name": "SciPy @",
        "error": error,
    }


def coarse_laplacian(m: int = 64):
    """Points joined by 2 × 2 × 2 give four times the Laplacian of the coarser grid."""
    a = laplacian(m)
    pairs = sp.csr_array((np.ones(m), np.arange(m) // 2, np.arange(m + 1)))
    join = sp.csr_array(sp.kron(sp.kron(pairs, pairs), pairs))
    restriction = sp.csr_array(join.T)
    plan = spgemm.plan_galerkin(restriction, a, join)

    def error(values):
        return float(np.abs(plan.to_sparse(values) - 4 * laplacian(m // 2)).max() / 24)

    return {
        "what": "coarse grid by a plan",
        "input": f"Poisson, {m}³ to {m // 2}³ points",
        "ours": lambda: plan.execute(restriction.data, a.data, join.data),
        "peer": lambda: restriction @ a @ join,
        "peer_name": "SciPy @",
        "error": error,
    }
