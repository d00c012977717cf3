"""One case per public function of the room, for tests/test_engines.py; operands for all tests."""

from types import SimpleNamespace

import numpy as np
import scipy.sparse as sp

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


def containers(library, dtype, rng):
    a, b = operands(dtype, rng)
    if library.name == "numpy":
        return (a, b), {}
    if library.name == "cupy":
        from cupyx.scipy.sparse import csr_matrix

        return (csr_matrix(sp.csr_matrix(a)), csr_matrix(sp.csr_matrix(b))), {}
    # No containers there: what a user would try.
    return tuple(
        SimpleNamespace(
            data=library.asarray(m.data),
            indices=library.asarray(m.indices),
            indptr=library.asarray(m.indptr),
            shape=m.shape,
        )
        for m in (a, b)
    ), {}


def of_containers(a, b):
    return dense_product(
        a.data, a.indices, a.indptr, b.data, b.indices, b.indptr, shape=(SHAPE[0], SHAPE[2])
    )


TOLERANCE = {"float32": 1e-6, "float64": 1e-14}
CASES = [
    Case("spgemm.csr_matmul", raw, dense_product, TOLERANCE),
    Case("spgemm.matmul", containers, of_containers, TOLERANCE),
]


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
    "wide": lambda: (random((300, 400), 0.2, 1), random((400, 1_000_000), 0.0005, 2)),
}
