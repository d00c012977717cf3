"""One case per public function of the room, for tests/test_engines.py; operands for all tests."""

from types import SimpleNamespace

import networkx as nx
import numpy as np
import scipy.sparse as sp
from scipy.sparse import csgraph

from linalgkit._testing import Case

SHAPE = (9, 7, 11)


def operands(dtype, rng):
    m, k, n = SHAPE
    a = sp.random_array((m, k), density=0.3, rng=rng, dtype=np.float64, format="csr")
    b = sp.random_array((k, n), density=0.4, rng=rng, dtype=np.float64, format="csr")
    return a.astype(dtype), b.astype(dtype)


def dense_product(*triples, shape):
    """Multiply densely; keep the pattern of the 0-1 product, which has no cancellation."""
    a_data, a_indices, a_indptr, b_data, b_indices, b_indptr = triples
    inner = b_indptr.size - 1
    a = sp.csr_array((a_data, a_indices, a_indptr), shape=(shape[0], inner)).toarray()
    b = sp.csr_array((b_data, b_indices, b_indptr), shape=(inner, shape[1])).toarray()
    rows, columns = np.nonzero((a != 0).astype(int) @ (b != 0).astype(int))
    indptr = np.searchsorted(rows, np.arange(shape[0] + 1))
    return (a @ b)[rows, columns], columns, indptr


def raw(library, dtype, rng):
    arrays = [x for m in operands(dtype, rng) for x in (m.data, m.indices, m.indptr)]
    return tuple(map(library.asarray, arrays)), {"shape": (SHAPE[0], SHAPE[2])}


def container(library, matrix):
    """Put a SciPy matrix into what a user of the library would hold."""
    if library.name == "numpy":
        return matrix
    if library.name == "cupy":
        from cupyx.scipy.sparse import csr_matrix

        return csr_matrix(sp.csr_matrix(matrix))
    parts = {part: library.asarray(getattr(matrix, part)) for part in ("data", "indices", "indptr")}
    return SimpleNamespace(**parts, shape=matrix.shape)


def containers(library, dtype, rng):
    return tuple(container(library, x) for x in operands(dtype, rng)), {}


def of_containers(a, b):
    return dense_product(
        a.data, a.indices, a.indptr, b.data, b.indices, b.indptr, shape=(SHAPE[0], SHAPE[2])
    )


def stored(matrix):
    """Where entries are stored, as a dense array of bool."""
    return sp.csr_array((np.ones(matrix.nnz), matrix.indices, matrix.indptr), matrix.shape) != 0


def compressed(values, places):
    """The dense values at the places that are True, as (data, indices, indptr)."""
    rows, columns = np.nonzero(places)
    return values[rows, columns], columns, np.searchsorted(rows, np.arange(places.shape[0] + 1))


def three(library, dtype, rng):
    shapes = (5, 9), (9, 7), (7, 4)
    factors = (sp.random_array(s, density=0.4, rng=rng, format="csr") for s in shapes)
    return tuple(container(library, x.astype(dtype)) for x in factors), {}


def triple_product(r, a, p):
    ones = [stored(x).toarray().astype(int) for x in (r, a, p)]
    values = np.linalg.multi_dot([x.toarray() for x in (r, a, p)])
    return compressed(values, np.linalg.multi_dot(ones) > 0)


def graph(dtype, rng, symmetric=False):
    a = sp.random_array((12, 12), density=0.2, rng=rng, format="csr").astype(dtype)
    return sp.csr_array(a + a.T) if symmetric else a


def row_products(a, b):
    return stored(a).toarray().astype(int) @ np.diff(b.indptr)


def hops(a, k):
    steps = csgraph.shortest_path(stored(a).astype(float), unweighted=True)
    return compressed(steps, (steps > 0) & (steps <= k))


def number_of_triangles(a):
    return sum(nx.triangles(nx.from_scipy_sparse_array(a)).values()) // 3


TOLERANCE = {"float32": 1e-6, "float64": 1e-14}
EXACT = {"float32": 0, "float64": 0}
CASES = [
    Case("spgemm.csr_matmul", raw, dense_product, TOLERANCE),
    Case("spgemm.matmul", containers, of_containers, TOLERANCE),
    Case(
        "spgemm.plan",
        containers,
        lambda a, b: (*of_containers(a, b)[1:], int(row_products(a, b).sum())),
        EXACT,
        lambda plan: (plan.indices, plan.indptr, plan.flops),
    ),
    Case("spgemm.galerkin", three, triple_product, TOLERANCE),
    Case(
        "spgemm.plan_galerkin",
        three,
        lambda r, a, p: triple_product(r, a, p)[1:],
        EXACT,
        lambda plan: (plan.outer.indices, plan.outer.indptr),
    ),
    Case(
        "spgemm.matrix_power",
        lambda library, dtype, rng: ((container(library, graph(dtype, rng)), 3), {}),
        lambda a, k: compressed(
            np.linalg.matrix_power(a.toarray(), k),
            np.linalg.matrix_power(stored(a).toarray().astype(int), k) > 0,
        ),
        TOLERANCE,
    ),
    Case("spgemm.row_flops", containers, row_products, EXACT),
    Case(
        "spgemm.nnz_upper_bound",
        containers,
        lambda a, b: int(np.minimum(row_products(a, b), b.shape[1]).sum()),
        EXACT,
    ),
    Case(  # nine rows, each with a standard error of 13 per cent
        "spgemm.estimate_nnz",
        lambda library, dtype, rng: (containers(library, dtype, rng)[0], {"rng": 0}),
        lambda a, b, rng: float(of_containers(a, b)[1].size),
        {"float32": 0.15, "float64": 0.15},
    ),
    Case(
        "spgemm.triangle_count",
        lambda library, dtype, rng: ((container(library, graph(dtype, rng, symmetric=True)),), {}),
        number_of_triangles,
        EXACT,
    ),
    Case(
        "spgemm.k_hop",
        lambda library, dtype, rng: ((container(library, graph(dtype, rng)), 2), {}),
        hops,
        EXACT,
    ),
    Case(
        "spgemm.shortest_paths_minplus",
        lambda library, dtype, rng: ((container(library, graph(dtype, rng)),), {}),
        csgraph.shortest_path,
        TOLERANCE,
    ),
]


# Of each semiring: what adds and what multiplies, and the neutral element of adding.
OPERATIONS = {
    "plus_times": (np.add, np.multiply, "zero"),
    "min_plus": (np.minimum, np.add, "greatest"),
    "max_plus": (np.maximum, np.add, "least"),
    "max_min": (np.maximum, np.minimum, "least"),
    "min_max": (np.minimum, np.maximum, "greatest"),
    "or_and": (np.logical_or, np.logical_and, "zero"),
    "plus_pair": (np.add, lambda x, y: type(x)(1), "zero"),
}


def absent_value(semiring, dtype):
    kind, dtype = OPERATIONS[semiring][2], np.dtype(dtype)
    if kind == "zero":
        return dtype.type(0)
    if dtype.kind == "b":
        return np.bool_(kind == "greatest")
    if dtype.kind == "f":
        return dtype.type(np.inf if kind == "greatest" else -np.inf)
    return dtype.type(getattr(np.iinfo(dtype), "max" if kind == "greatest" else "min"))


def by_the_book(a, b, semiring="plus_times", allowed=None):
    """Add up product after product in a dictionary: dense values, where they are, in one dtype.

    The definition itself: entries in stored order, repeated ones one after the other, and none
    skipped. `allowed` says where the result may have entries.
    """
    add, multiply, _ = OPERATIONS[semiring]
    dtype = np.result_type(a.data, b.data)
    if semiring == "or_and":
        dtype = np.dtype(bool)
    elif semiring == "plus_pair" and dtype == np.bool_:
        dtype = np.dtype(np.int64)
    computed = np.float32 if dtype == np.float16 else dtype
    left, right = a.data.astype(computed), b.data.astype(computed)
    values = np.full((a.shape[0], b.shape[1]), absent_value(semiring, computed))
    places = np.zeros(values.shape, dtype=bool)
    with np.errstate(all="ignore"):
        for i in range(a.shape[0]):
            for p in range(a.indptr[i], a.indptr[i + 1]):
                for q in range(b.indptr[a.indices[p]], b.indptr[a.indices[p] + 1]):
                    j = b.indices[q]
                    if allowed is None or allowed[i, j]:
                        values[i, j] = add(values[i, j], multiply(left[p], right[q]))
                        places[i, j] = True
        return values.astype(dtype), places


def same_bits(ours, theirs):
    """Compare with SciPy's after sorting; SciPy drops exact zeros, so do we here."""
    theirs = theirs.tocsr() if ours.format == "csr" else theirs.tocsc()
    theirs.sort_indices()
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(ours.indptr, theirs.indptr)
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    assert ours.data.dtype == theirs.data.dtype
    assert ours.data.tobytes() == theirs.data.tobytes()


def random(shape, density, seed, dtype=np.float64, layout="csr"):
    rng = np.random.default_rng(seed)
    a = sp.random_array(shape, density=density, rng=rng, format="csr")
    if np.dtype(dtype).kind == "c":
        values = rng.standard_normal(a.nnz) + 1j * rng.standard_normal(a.nnz)
    elif np.dtype(dtype).kind == "f":
        values = rng.standard_normal(a.nnz)
    else:
        info = np.iinfo(dtype)
        values = rng.integers(info.min, info.max, a.nnz, endpoint=True, dtype=dtype)
    a.data = values.astype(dtype)
    return a.asformat(layout)


def scattered(rows, columns, each):
    """Rows of `each` entries anywhere, sorted; seldom two at one place."""
    rng = np.random.default_rng(5)
    indices = np.sort(rng.integers(0, columns, (rows, each), dtype=np.int32), axis=1).ravel()
    indptr = np.arange(0, indices.size + 1, each, dtype=np.int32)
    return sp.csr_array((rng.standard_normal(indices.size), indices, indptr), (rows, columns))


def poisson(m):
    line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m), dtype=np.float64)
    eye = sp.eye_array(m)
    return sp.csr_array(
        sp.kron(sp.kron(line, eye), eye)
        + sp.kron(sp.kron(eye, line), eye)
        + sp.kron(sp.kron(eye, eye), line)
    )


LARGE = {
    "irregular": lambda: (random((3000, 2500), 0.01, 1), random((2500, 4000), 0.01, 2)),
    "hub rows": lambda: (
        sp.csr_array(sp.vstack([random((1, 3000), 1.0, 1), random((2999, 3000), 0.002, 2)])),
        sp.csr_array(sp.vstack([random((1, 3000), 1.0, 3), random((2999, 3000), 0.004, 4)])),
    ),
    "grid": lambda: (poisson(24), poisson(24)),
    "coarse grid": lambda: (poisson(24)[::2], poisson(24)),
    "single-entry sources": lambda: (
        random((4000, 6000), 0.01, 1),
        sp.csr_array((np.ones(6000), np.arange(6000) // 3, np.arange(6001)), shape=(6000, 2000)),
    ),
    "shuffled selection": lambda: (
        random((4000, 6000), 0.01, 1),
        sp.csr_array(
            (np.ones(6000), np.random.default_rng(0).permutation(6000), np.arange(6001)),
            shape=(6000, 6000),
        ),
    ),
    "wide": lambda: (random((200, 400), 0.1, 1), random((400, 1_000_000), 0.0005, 2)),
    "very wide": lambda: (random((300, 300), 0.1, 1), scattered(300, 10_000_000, 100)),
    "one dense row": lambda: (random((1, 200_000), 1.0, 1), scattered(200_000, 3000, 2)),
    "dense row on the right": lambda: (
        random((2000, 1500), 0.01, 1),
        sp.csr_array(sp.vstack([random((1, 20_000), 1.0, 2), random((1499, 20_000), 0.001, 3)])),
    ),
}
