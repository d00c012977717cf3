"""One case per public function of the room, for tests/test_engines.py."""

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
