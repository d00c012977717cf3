"""The seven products on which sparse × sparse kernels are judged, as pairs of SciPy CSR arrays."""

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from scipy.spatial import Delaunay


def erdos_renyi(n: int = 100_000, degree: int = 16, seed: int = 0):
    """Random rows of equal length: no locality at all, hardly any compression."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(n), degree)
    columns = rng.integers(0, n, n * degree)
    a = _canonical(sp.csr_array((rng.standard_normal(n * degree), (rows, columns)), shape=(n, n)))
    return a, a


def rmat(scale: int = 14, edge_factor: int = 8, seed: int = 0):
    """Draw a recursive power-law graph (0.57, 0.19, 0.19, 0.05): hubs and long rows."""
    rng = np.random.default_rng(seed)
    edges = edge_factor << scale
    rows = np.zeros(edges, dtype=np.int64)
    columns = np.zeros(edges, dtype=np.int64)
    for bit in range(scale):
        draw = rng.random(edges)
        rows |= (draw >= 0.76).astype(np.int64) << bit
        columns |= (((draw >= 0.57) & (draw < 0.76)) | (draw >= 0.95)).astype(np.int64) << bit
    n = 1 << scale
    a = _canonical(sp.csr_array((rng.standard_normal(edges), (rows, columns)), shape=(n, n)))
    return a, a


def triangles(scale: int = 14):
    """Return an undirected power-law graph, all entries 1, and its part below the diagonal."""
    a, _ = rmat(scale)
    a.data[:] = 1.0
    graph = _canonical(a + a.T)
    graph.data[:] = 1.0
    return graph, _canonical(sp.tril(graph, -1))


def poisson_matrix(m: int = 64):
    """Return the seven-point Laplacian on an m × m × m grid."""
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m), dtype=np.float64)
    eye = sp.eye_array(m)
    a = (
        sp.kron(sp.kron(line, eye), eye)
        + sp.kron(sp.kron(eye, line), eye)
        + sp.kron(sp.kron(eye, eye), line)
    )
    return _canonical(a)


def poisson(m: int = 64):
    """Square the Poisson matrix: short equal rows, all in cache."""
    a = poisson_matrix(m)
    return a, a


def permuted_poisson(m: int = 64, seed: int = 0):
    """Square the Poisson matrix of unknowns in random order: the same flops without locality."""
    a = poisson_matrix(m)
    order = np.random.default_rng(seed).permutation(a.shape[0])
    a = _canonical(a[order][:, order])
    return a, a


def galerkin(m: int = 64):
    """Return R, A and P of Ruge–Stüben multigrid on the Poisson matrix (pyamg)."""
    import pyamg

    levels = pyamg.ruge_stuben_solver(sp.csr_matrix(poisson_matrix(m)), max_levels=2).levels
    return tuple(_canonical(x) for x in (levels[0].R, levels[0].A, levels[0].P))


def galerkin_left(m: int = 64):
    """R·A of Ruge–Stüben multigrid on the Poisson matrix (pyamg)."""
    r, a, _ = galerkin(m)
    return r, a


def galerkin_right(m: int = 64):
    """(R·A)·P of the same, R·A without its cancelled entries: sources of one entry."""
    r, a, p = galerkin(m)
    return _canonical(r @ a), p


def delaunay(n: int = 200_000, seed: int = 0):
    """Square the adjacency matrix of a 2-D Delaunay mesh in spatial order: irregular short rows."""
    points = np.random.default_rng(seed).random((n, 2))
    points = points[np.argsort((points[:, 0] * 64).astype(int) * 2.0 + points[:, 1])]
    corners = Delaunay(points).simplices
    rows = corners[:, [0, 1, 2, 1, 2, 0]].ravel()
    columns = corners[:, [1, 2, 0, 0, 1, 2]].ravel()
    a = sp.csr_array((np.ones(rows.size), (rows, columns)), shape=(n, n))
    a = _canonical(a)
    a.data = np.random.default_rng(seed).standard_normal(a.nnz)
    return a, a


def _canonical(a):
    """Return it with sorted rows and the 32-bit indices that most callers hold."""
    a = sp.csr_array(a)
    a.sum_duplicates()
    a.indices = a.indices.astype(np.int32)
    a.indptr = a.indptr.astype(np.int32)
    return a


CASES: dict[str, Callable] = {
    "Erdős–Rényi n=100k d=16": erdos_renyi,
    "RMAT scale 14": rmat,
    "Poisson 64³": poisson,
    "Ruge–Stüben R·A": galerkin_left,
    "Ruge–Stüben (RA)·P": galerkin_right,
    "Delaunay 200k": delaunay,
    "Poisson 64³ permuted": permuted_poisson,
}
