"""The product of sparse matrices: right, in every format, dtype and shape, bit for bit."""

from itertools import product

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from spgemm.cases import LARGE, OPERATIONS, poisson, random, same_bits, scattered

import linalgkit
from linalgkit import spgemm


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("name", LARGE)
def test_same_bits_as_scipy_for_any_number_of_workers(name, workers):
    a, b = LARGE[name]()
    with linalgkit.use_workers(workers):
        same_bits(spgemm.matmul(a, b, prune=True), a @ b)


@pytest.mark.parametrize("semiring", [name for name in OPERATIONS if name != "plus_times"])
@pytest.mark.parametrize("name", LARGE)
def test_same_bits_of_every_semiring_for_any_number_of_workers(name, semiring):
    a, b = LARGE[name]()
    mask = scattered(a.shape[0], b.shape[1], 3)
    found = []
    for workers in (1, 2, 3):
        with linalgkit.use_workers(workers):
            results = [spgemm.matmul(a, b, semiring=semiring)]
            results.append(spgemm.matmul(a, b, semiring=semiring, mask=mask))
            results.append(spgemm.matmul(a, b, semiring=semiring, mask=mask, complement=True))
        found.append(
            [x.tobytes() for c in results for x in (c.data, c.indices, c.indptr)]
            + [results[1].nnz + results[2].nnz - results[0].nnz]
        )
    assert found[0] == found[1] == found[2]
    assert found[0][-1] == 0


@pytest.mark.parametrize("name", LARGE)
def test_structural_pattern_is_that_of_ones(name):
    a, b = LARGE[name]()
    result = spgemm.matmul(a, b)
    ones = [sp.csr_array((np.ones(x.nnz), x.indices, x.indptr), shape=x.shape) for x in (a, b)]
    pattern = ones[0] @ ones[1]
    pattern.sort_indices()
    np.testing.assert_array_equal(result.indices, pattern.indices)
    np.testing.assert_array_equal(result.indptr, pattern.indptr)


@pytest.mark.parametrize("name", LARGE)
def test_counting_first_gives_the_same(name, monkeypatch):
    from linalgkit.spgemm import _numba

    a, b = LARGE[name]()
    expected = spgemm.matmul(a, b)
    monkeypatch.setattr(_numba, "available_memory", lambda: 0)
    result = spgemm.matmul(a, b)
    np.testing.assert_array_equal(result.indices, expected.indices)
    assert result.data.tobytes() == expected.data.tobytes()
    same_bits(spgemm.matmul(a, b, prune=True), a @ b)


@pytest.mark.parametrize("engine", ["numba", "array_api"])
@pytest.mark.parametrize(
    "dtype",
    ["float32", "float64", "complex64", "complex128", "int8", "int32", "int64", "uint8", "uint64"],
)
def test_dtypes_bit_equal_to_scipy(dtype, engine):
    a, b = random((60, 50), 0.2, 1, dtype), random((50, 70), 0.2, 2, dtype)
    with linalgkit.use_engine(engine):
        result = spgemm.matmul(a, b, prune=True)
    if engine == "array_api" and dtype.startswith("complex"):  # NumPy fuses complex products
        epsilon = np.finfo(dtype).eps
        np.testing.assert_allclose(result.toarray(), (a @ b).toarray(), atol=50 * epsilon)
    else:
        same_bits(result, a @ b)


def test_bool_is_or_of_ands():
    a = sp.csr_array(np.random.default_rng(0).random((20, 300)) < 0.9)
    b = sp.csr_array(np.random.default_rng(1).random((300, 20)) < 0.9)
    result = spgemm.matmul(a, b)  # more than 256 products an entry: no counter may wrap
    assert result.dtype == np.bool_
    np.testing.assert_array_equal(result.toarray(), a.toarray() @ b.toarray())


def test_mixed_dtypes_promote_as_numpy_does():
    a, b = random((9, 8), 0.5, 1, "float32"), random((8, 7), 0.5, 2, "complex64")
    same_bits(spgemm.matmul(a, b, prune=True), a @ b)
    b = random((8, 7), 0.5, 2, "int64")
    same_bits(spgemm.matmul(a, b, prune=True), a @ b)


@pytest.mark.parametrize(
    ("left", "right"), list(product(["csr", "csc", "coo", "bsr", "dok", "lil", "dia"], repeat=2))
)
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_formats(left, right, kind):
    a, b = random((40, 30), 0.2, 1), random((30, 20), 0.2, 2)
    if kind == "matrix":
        a, b = sp.csr_matrix(a), sp.csr_matrix(b)
    result = spgemm.matmul(a.asformat(left), b.asformat(right), prune=True)
    assert result.format == ("csc" if left == right == "csc" else "csr")
    assert isinstance(result, sp.sparray if kind == "array" else sp.spmatrix)
    assert result.has_canonical_format
    same_bits(result, a @ b)


def test_csc_times_csc_converts_nothing(monkeypatch):
    a, b = random((40, 30), 0.2, 1, layout="csc"), random((30, 20), 0.2, 2, layout="csc")
    expected = a @ b
    monkeypatch.setattr(type(a), "tocsr", lambda self: pytest.fail("converted"))
    result = spgemm.matmul(a, b, prune=True)
    monkeypatch.undo()
    same_bits(result, expected)


@pytest.mark.parametrize("engine", ["numba", "array_api"])
@pytest.mark.parametrize("seed", range(5))
def test_unsorted_and_duplicate_indices_are_legal(seed, engine):
    rng = np.random.default_rng(seed)
    m, k, n, nnz = 30, 25, 40, 300

    def operand(rows, columns):
        row = np.sort(rng.integers(0, rows, nnz))
        indptr = np.searchsorted(row, np.arange(rows + 1)).astype(np.int32)
        indices = rng.integers(0, columns, nnz).astype(np.int32)
        return sp.csr_array((rng.standard_normal(nnz), indices, indptr), shape=(rows, columns))

    a, b = operand(m, k), operand(k, n)
    with linalgkit.use_engine(engine):
        result = spgemm.matmul(a, b)
    np.testing.assert_allclose(result.toarray(), a.toarray() @ b.toarray(), atol=1e-12)
    assert np.all(
        np.diff(result.indices)[np.diff(np.repeat(np.arange(m), np.diff(result.indptr))) == 0] > 0
    )


@pytest.mark.parametrize("engine", ["numba", "array_api"])
@pytest.mark.parametrize("empty", [0, 1, 5, 6000])
@pytest.mark.parametrize("found", [[0, 0], [2, 1]])
def test_rows_out_of_order_after_empty_ones(found, empty, engine):
    # What stands in memory before the indices must not count as the row before.
    indices = np.array([9, *found], dtype=np.int32)[1:]
    indptr = np.concatenate([np.zeros(empty + 1), [2]]).astype(np.int32)
    a = np.ones(1), np.array([empty], dtype=np.int32), np.array([0, 1], dtype=np.int32)
    with linalgkit.use_engine(engine):
        result = spgemm.csr_matmul(*a, np.array([3.0, 4.0]), indices, indptr, shape=(1, 3))
    assert result.indices.tolist() == sorted(set(found))
    assert result.data.tolist() == ([7.0] if found == [0, 0] else [4.0, 3.0])
    assert result.indptr.tolist() == [0, len(set(found))]


def test_duplicates_in_a_large_right_operand():
    a = random((3000, 2500), 0.01, 1)
    b = random((2500, 3000), 0.01, 2)
    twice = sp.csr_array(
        (np.repeat(b.data, 2), np.repeat(b.indices, 2), 2 * b.indptr), shape=b.shape
    )
    np.testing.assert_allclose(spgemm.matmul(a, twice).data, 2 * spgemm.matmul(a, b).data)


@pytest.mark.parametrize("shape", list(product([0, 1, 5], repeat=3)))
@pytest.mark.parametrize("engine", ["numba", "array_api"])
def test_empty_and_tiny_shapes(shape, engine):
    m, k, n = shape
    a, b = sp.csr_array(np.ones((m, k))), sp.csr_array(np.ones((k, n)))
    with linalgkit.use_engine(engine):
        result = spgemm.matmul(a, b)
        empty = spgemm.matmul(sp.csr_array((m, k)), sp.csr_array((k, n)))
    np.testing.assert_array_equal(result.toarray(), np.full((m, n), float(k)))
    assert empty.nnz == 0
    assert empty.shape == (m, n)


@pytest.mark.parametrize("engine", ["numba", "array_api"])
def test_pattern_is_structural_unless_pruned(engine):
    a, b = sp.csr_array(np.array([[1.0, 1.0]])), sp.csr_array(np.array([[1.0], [-1.0]]))
    with linalgkit.use_engine(engine):
        assert spgemm.matmul(a, b).nnz == 1
        assert spgemm.matmul(a, b, prune=True).nnz == 0


@pytest.mark.parametrize("engine", ["numba", "array_api"])
def test_nan_and_inf_propagate_and_zeros_are_positive(engine):
    a = sp.csr_array((np.array([0.0, -1.0]), np.array([0, 1]), np.array([0, 1, 2])), shape=(2, 2))
    b = sp.csr_array((np.array([np.inf, 0.0]), np.array([0, 0]), np.array([0, 1, 2])), shape=(2, 1))
    with linalgkit.use_engine(engine):
        result = spgemm.matmul(a, b).toarray()
    assert np.isnan(result[0, 0])  # 0 · inf: a stored zero takes part
    assert not np.signbit(result[1, 0])  # 0 + (-1 · 0)


def test_poisson_squared_in_closed_form():
    m = 8
    square = spgemm.matmul(poisson(m), poisson(m)).tocsr()
    centre = (m // 2 * m + m // 2) * m + m // 2
    row = dict(
        zip(
            *(
                x[square.indptr[centre] : square.indptr[centre + 1]] - shift
                for x, shift in ((square.indices, centre), (square.data, 0))
            ),
            strict=True,
        )
    )
    steps = (1, m, m * m)
    expected = {0: 42.0}
    expected |= {sign * s: -12.0 for s in steps for sign in (1, -1)}
    expected |= {sign * 2 * s: 1.0 for s in steps for sign in (1, -1)}
    expected |= {
        x * s + y * t: 2.0
        for s, t in [(1, m), (1, m * m), (m, m * m)]
        for x in (1, -1)
        for y in (1, -1)
    }
    assert row == expected


def test_kronecker_identity_and_permutations_are_exact():
    a, c = (random((6, 6), 0.5, s, "int64") for s in (1, 2))
    b, d = (random((5, 5), 0.5, s, "int64") for s in (3, 4))
    left = spgemm.matmul(sp.csr_array(sp.kron(a, b)), sp.csr_array(sp.kron(c, d)))
    right = sp.kron(spgemm.matmul(a, c), spgemm.matmul(b, d))
    np.testing.assert_array_equal(left.toarray(), right.toarray())
    rng = np.random.default_rng(0)
    p, q = rng.permutation(50), rng.permutation(50)
    eye = sp.eye_array(50, format="csr")
    np.testing.assert_array_equal(spgemm.matmul(eye[p], eye[q]).indices, eye[q][p].indices)


def test_binomials_from_powers_of_a_shift():
    from math import comb

    shift = sp.csr_array(sp.eye_array(12, k=1, dtype=np.int64) + sp.eye_array(12, dtype=np.int64))
    power = sp.eye_array(12, dtype=np.int64, format="csr")
    for _ in range(7):
        power = spgemm.matmul(power, shift)
    assert [power.toarray()[0, j] for j in range(9)] == [comb(7, j) for j in range(9)]


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_index_width_of_the_result_is_what_it_needs(index):
    a = random((30, 30), 0.2, 1)
    a.indices, a.indptr = a.indices.astype(index), a.indptr.astype(index)
    result = spgemm.matmul(a, a)
    assert result.indices.dtype == result.indptr.dtype == np.int32
    rows = np.ones(2), np.array([0, 1]), np.array([0, 2])
    for columns, expected in [(2**31 - 1, np.int32), (2**31, np.int64), (2**41, np.int64)]:
        places = np.array([0, columns - 1]).astype(np.uint32 if columns <= 2**31 else np.int64)
        wide = spgemm.csr_matmul(
            *rows, np.ones(2), places, np.array([0, 1, 2], dtype=index), shape=(1, columns)
        )
        assert wide.indices.dtype == wide.indptr.dtype == expected
        assert wide.indices.tolist() == [0, columns - 1]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 12),
    st.integers(0, 12),
    st.integers(0, 12),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["numba", "array_api"]),
)
def test_any_small_integers_exactly(m, k, n, seed, engine):
    rng = np.random.default_rng(seed)
    a = rng.integers(-3, 4, (m, k)) * (rng.random((m, k)) < 0.4)
    b = rng.integers(-3, 4, (k, n)) * (rng.random((k, n)) < 0.4)
    with linalgkit.use_engine(engine):
        result = spgemm.matmul(sp.csr_array(a), sp.csr_array(b))
    np.testing.assert_array_equal(result.toarray(), a @ b)


def test_results_of_calls_at_once_from_eight_threads():
    from concurrent.futures import ThreadPoolExecutor

    a, b = LARGE["irregular"]()
    expected = spgemm.matmul(a, b)
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(lambda _: spgemm.matmul(a, b), range(16)):
            assert result.data.tobytes() == expected.data.tobytes()
            assert result.indices.tobytes() == expected.indices.tobytes()


@pytest.mark.parametrize("engine", [None, "numba"])
def test_dtypes_that_kernels_do_not_know_are_served_by_the_reference(engine):
    data, index, indptr = np.array([1.5, 2.0], dtype=np.float16), np.array([0, 1]), np.arange(3)
    with linalgkit.use_engine(engine):
        result = spgemm.csr_matmul(data, index, indptr, data, index, indptr, shape=(2, 2))
    assert result.data.dtype == np.float16
    assert result.data.tolist() == [2.25, 4.0]


@pytest.mark.parametrize("engine", ["numba", "array_api"])
@pytest.mark.parametrize("semiring", ["plus_times", "min_plus"])
@pytest.mark.parametrize("n", [2**45, 2**56, 2**57 + 1, 2**60, 2**61, 2**63 - 1])
def test_columns_that_are_64_bit_hashes(n, semiring, engine):
    # The same few, once by their value and once by their rank; short rows, and some of up to 200.
    rng = np.random.default_rng(0)
    names = np.sort(rng.integers(0, n, 400, dtype=np.int64))
    names[-1] = n - 1
    b = random((200, 400), 0.05, 2)
    for a in (random((60, 200), 0.005, 1), random((60, 200), 0.03, 1), random((9, 200), 0.2, 1)):
        arrays = a.data, a.indices, a.indptr, b.data
        ways = {"semiring": semiring}
        ranked = spgemm.csr_matmul(*arrays, b.indices, b.indptr, shape=(a.shape[0], 400), **ways)
        with linalgkit.use_engine(engine):
            for prune in (False, True):
                named = spgemm.csr_matmul(
                    *arrays, names[b.indices], b.indptr, shape=(a.shape[0], n), prune=prune, **ways
                )
                np.testing.assert_array_equal(named.indptr, ranked.indptr)
                np.testing.assert_array_equal(named.indices, names[ranked.indices])
                assert named.data.tobytes() == ranked.data.tobytes()


def test_long_rows_of_more_columns_than_memory_has_room_for():
    n, each = 2**45, 50_000
    rng = np.random.default_rng(0)
    names = np.unique(rng.integers(0, n, each, dtype=np.int64))
    row = rng.standard_normal(names.size), names, np.array([0, names.size])
    one = np.full(1, 2.0), np.zeros(1, dtype=int), np.arange(2)
    twice = np.array([2.0, 3.0]), np.zeros(2, dtype=int), np.array([0, 2])
    for left, factor in ((one, 2.0), (twice, 5.0)):
        for options in ({}, {"max_memory": names.size * 16 + 16}):
            result = spgemm.csr_matmul(*left, *row, shape=(1, n), **options)
            np.testing.assert_array_equal(result.indices, names)
            np.testing.assert_allclose(result.data, factor * row[0], rtol=1e-15)


def test_more_columns_than_64_bits_count_are_refused():
    one = np.ones(1), np.zeros(1, dtype=int), np.arange(2)
    for engine in ("numba", "array_api"):
        with linalgkit.use_engine(engine):
            assert spgemm.csr_matmul(*one, *one, shape=(1, 2**63 - 1)).data.tolist() == [1.0]
            with pytest.raises(ValueError, match=r"indices count up to 2\*\*63 - 1"):
                spgemm.csr_matmul(*one, *one, shape=(1, 2**63))


def test_products_of_integers_are_associative():
    a, b, c = (random((30, 30), 0.2, seed, "int64") for seed in range(3))
    left = spgemm.matmul(spgemm.matmul(a, b), c)
    right = spgemm.matmul(a, spgemm.matmul(b, c))
    np.testing.assert_array_equal(left.indptr, right.indptr)
    np.testing.assert_array_equal(left.indices, right.indices)
    np.testing.assert_array_equal(left.data, right.data)  # also where they wrap
