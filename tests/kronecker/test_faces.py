"""Kronecker products of rows and columns: shapes, dtypes, batches, memory, the operator."""

import io
from functools import reduce

import numpy as np
import pytest
from kronecker.cases import random, split_faces
from scipy.linalg import khatri_rao

import linalgkit
from linalgkit import kronecker

TOLERANCE = {"f": 1e-5, "d": 1e-13, "F": 1e-5, "D": 1e-13}
# Rows and columns; the last two go in several chunks.
SHAPES = {
    "one": (4, [3]),
    "unequal": (7, [2, 5, 3]),
    "no rows": (0, [2, 3]),
    "no columns": (3, [2, 0, 4]),
    "many rows": (3000, [3, 60]),
    "wide rows": (5, [2, 300, 200]),
}


@pytest.mark.parametrize("engine", ["array_api", "numba"])
@pytest.mark.parametrize("dtype", "fdFD")
@pytest.mark.parametrize("name", SHAPES)
def test_like_the_dense_matrix(name, dtype, engine):
    rng = np.random.default_rng(0)
    rows, sizes = SHAPES[name]
    factors = [random(rng, dtype, rows, m) for m in sizes]
    matrix = split_faces(factors)
    x, y = random(rng, dtype, 2, matrix.shape[1]), random(rng, dtype, 2, rows)
    with linalgkit.use_engine(engine):
        operator = kronecker.FaceSplitting(factors)
        found = {
            "matvec": (kronecker.face_splitting_matvec(factors, x), x @ matrix.T),
            "matmat": (operator @ x.T, matrix @ x.T),
            "rmatvec": (kronecker.face_splitting_rmatvec(factors, y), y @ matrix.conj()),
            "rmatmat": (operator.rmatmat(y.T), matrix.conj().T @ y.T),
            "dense": (kronecker.face_splitting(factors), matrix),
        }
    for got, expected in found.values():
        assert (got.dtype, got.shape) == (np.dtype(dtype), expected.shape)
        scale = np.abs(expected).max(initial=0)
        np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


def test_khatri_rao_is_scipys():
    rng = np.random.default_rng(1)
    factors = [random(rng, "D", m, 4) for m in (2, 3, 5)]
    expected = reduce(khatri_rao, factors)
    np.testing.assert_allclose(kronecker.khatri_rao(factors), expected, rtol=0, atol=1e-14)
    x = random(rng, "D", 4)
    rows = [a.T.conj() for a in factors]
    np.testing.assert_allclose(kronecker.face_splitting_rmatvec(rows, x), expected @ x, atol=1e-13)


@pytest.mark.parametrize("engine", ["array_api", "numba"])
@pytest.mark.parametrize("rows", [4, 2000])
def test_batches_broadcast(rows, engine):
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((3, 1, rows, 2)), rng.standard_normal((2, rows, 30))
    x, y = rng.standard_normal((1, 2, 60)), rng.standard_normal((3, 2, rows))
    with linalgkit.use_engine(engine):
        forth = kronecker.face_splitting_matvec([a, b], x)
        back = kronecker.face_splitting_rmatvec([a, b], y)
        blocks = kronecker.FaceSplitting([a, b]) @ x[..., None]
    a = np.broadcast_to(a, (3, 2, rows, 2))
    grids = np.broadcast_to(x, (3, 2, 60)).reshape(3, 2, 2, 30)
    expected = np.einsum("psij,sik,psjk->psi", a, b, grids)
    np.testing.assert_allclose(forth, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(blocks[..., 0], expected, rtol=0, atol=1e-12)
    expected = np.einsum("psij,sik,psi->psjk", a, b, y).reshape(3, 2, 60)
    np.testing.assert_allclose(back, expected, rtol=0, atol=1e-11)


def test_same_bits_from_any_number_of_workers():
    rng = np.random.default_rng(3)
    factors = [rng.standard_normal((5000, m)) for m in (20, 90)]
    x, y = rng.standard_normal(1800), rng.standard_normal(5000)
    results = []
    for n in (1, 2, 5):
        with linalgkit.use_workers(n):
            forth = kronecker.face_splitting_matvec(factors, x)
            results.append((forth, kronecker.face_splitting_rmatvec(factors, y)))
    for one in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(one, results[0], strict=True))


MEMORY = """
import resource
import numpy as np
from linalgkit import kronecker
rng = np.random.default_rng(0)
factors = [rng.standard_normal((100_000, 30)) for _ in range(2)]
kronecker.face_splitting_matvec([a[:2] for a in factors], np.ones(900))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
y = kronecker.face_splitting_matvec(factors, np.ones(900))
x = kronecker.face_splitting_rmatvec(factors, np.ones(100_000))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
assert np.allclose(y, factors[0].sum(1) * factors[1].sum(1))
assert np.allclose(x.reshape(30, 30), factors[0].T @ factors[1])
"""


def test_memory_does_not_grow_with_the_rows(python):
    # The matrix would have 720 MB, and all rows of one factor have 24.
    assert int(python(MEMORY)) < 20_000  # kilobytes


@pytest.mark.parametrize("dtype", "fD")
def test_operator(dtype):
    rng = np.random.default_rng(4)
    operator = kronecker.FaceSplitting([random(rng, dtype, 6, m) for m in (3, 2)])
    linalgkit.dottest(operator)
    np.testing.assert_allclose(operator.to_dense(), split_faces(operator.factors), rtol=1e-5)
    file = io.BytesIO()
    operator.save(file)
    file.seek(0)
    loaded = linalgkit.load(file)
    assert type(loaded) is kronecker.FaceSplitting
    assert np.array_equal(loaded.to_dense(), operator.to_dense())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: k.face_splitting([np.ones((2, 3)), np.ones((3, 3))]), "of rows; got 2, 3"),
        (lambda k: k.khatri_rao([np.ones((3, 2)), np.ones((3, 3))]), "of columns; got 2, 3"),
        (lambda k: k.FaceSplitting([np.ones((2, 3)), np.ones((3, 3))]), "of rows; got 2, 3"),
        (lambda k: k.FaceSplitting([np.eye(2)]) @ np.ones((3, 1)), "second-to-last axis"),
        (lambda k: k.face_splitting_matvec([np.eye(2)] * 2, np.ones(5)), "2·2 = 4 entries"),
        (lambda k: k.face_splitting_rmatvec([np.eye(2)] * 2, np.ones(4)), "y must have 2 entries"),
        (
            lambda k: k.face_splitting_matvec([np.ones((2, 2, 2))], np.ones((3, 2))),
            "batch axes must fit",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(kronecker)


def test_conjugate():
    operator = kronecker.FaceSplitting(
        [random(np.random.default_rng(5), "D", 4, m) for m in (2, 3)]
    )
    np.testing.assert_array_equal(operator.conj().to_dense(), operator.to_dense().conj())
