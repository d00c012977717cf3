"""Every semiring on every dtype, with and without a mask, against its definition."""

from itertools import product

import numpy as np
import pytest
import scipy.sparse as sp
from spgemm.cases import OPERATIONS, absent_value, by_the_book, random, stored

import linalgkit
from linalgkit import spgemm

ENGINES = ("array_api", "numba")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES = (*INTEGERS, "float32", "float64", "complex64", "complex128", "bool")
SHAPE = (11, 9, 13)


def knows(semiring, dtype):
    if dtype == "bool":
        return semiring not in ("min_plus", "max_plus")
    return not dtype.startswith("complex") or semiring in ("plus_times", "plus_pair", "or_and")


RINGS = [(ring, dtype) for ring, dtype in product(OPERATIONS, DTYPES) if knows(ring, dtype)]
# Of the compiled engine each semiring with a float and a short integer, and each dtype with one
# semiring: a kernel is compiled for every pair.
COMPILED = [
    (ring, dtype)
    for ring, dtype in RINGS
    if dtype in ("float64", "int8") or ring == ("or_and" if dtype == "bool" else "plus_times")
]
PAIRS = [(*pair, "array_api") for pair in RINGS] + [(*pair, "numba") for pair in COMPILED]
REFUSED = [(ring, dtype) for ring, dtype in product(OPERATIONS, DTYPES) if not knows(ring, dtype)]


def operand(shape, seed, dtype, density=0.4):
    """Random values of the whole range, zeros among those stored."""
    if dtype == "bool":
        matrix = random(shape, density, seed, "int8")
        matrix.data = matrix.data > 0
    else:
        matrix = random(shape, density, seed, dtype)
        matrix.data[::5] = 0
    return matrix


def check(result, a, b, semiring, allowed=None):
    """Compare pattern, dtype and values with the definition, bit for bit where there is one way."""
    values, places = by_the_book(a, b, semiring, allowed)
    rows, columns = np.nonzero(places)
    np.testing.assert_array_equal(result.indices, columns)
    np.testing.assert_array_equal(result.indptr, np.searchsorted(rows, np.arange(len(places) + 1)))
    expected = values[rows, columns]
    assert result.data.dtype == expected.dtype
    if expected.dtype.kind == "c":  # NumPy fuses complex products
        np.testing.assert_allclose(result.data, expected, atol=50 * np.finfo(expected.dtype).eps)
    else:
        np.testing.assert_array_equal(result.data, expected)
        if semiring == "plus_times":
            assert result.data.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("semiring", "dtype", "engine"), PAIRS)
def test_definition(semiring, dtype, engine):
    m, k, n = SHAPE
    a, b = operand((m, k), 1, dtype), operand((k, n), 2, dtype)
    mask = random((m, n), 0.5, 3)
    places = stored(mask).toarray()
    with linalgkit.use_engine(engine):
        check(spgemm.matmul(a, b, semiring=semiring), a, b, semiring)
        masked = spgemm.matmul(a, b, semiring=semiring, mask=mask)
        check(masked, a, b, semiring, places)
        rest = spgemm.matmul(a, b, semiring=semiring, mask=mask, complement=True)
        check(rest, a, b, semiring, ~places)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("semiring", OPERATIONS)
@pytest.mark.parametrize("dtype", ["float64", "uint8"])
def test_definition_with_unsorted_and_repeated_indices(semiring, dtype, engine):
    rng = np.random.default_rng(0)

    def loose(rows, columns, each):
        indices = rng.integers(0, columns, rows * each)
        data = operand((1, rows * each), 1, dtype, density=1.0).data
        return sp.csr_array((data, indices, np.arange(0, indices.size + 1, each)), (rows, columns))

    a, b = loose(8, 6, 7), loose(6, 9, 5)
    mask = loose(8, 9, 6)
    places = np.zeros((8, 9), dtype=bool)
    places[np.repeat(np.arange(8), 6), mask.indices] = True
    with linalgkit.use_engine(engine):
        check(spgemm.matmul(a, b, semiring=semiring), a, b, semiring)
        masked = spgemm.matmul(a, b, semiring=semiring, mask=mask)
        check(masked, a, b, semiring, places)
        rest = spgemm.matmul(a, b, semiring=semiring, mask=mask, complement=True)
        check(rest, a, b, semiring, ~places)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("semiring", OPERATIONS)
def test_half_precision_adds_in_single(semiring, engine):
    a, b = (random(s, 0.4, 1, "float32") for s in ((11, 9), (9, 13)))
    halves = [x.data.astype(np.float16) for x in (a, b)]
    with linalgkit.use_engine(engine):
        result = spgemm.csr_matmul(
            halves[0], *(a.indices, a.indptr), halves[1], *(b.indices, b.indptr),
            shape=(11, 13), semiring=semiring,
        )  # fmt: skip
    a.data, b.data = halves
    check(result, a, b, semiring)


def dense_by_columns(a, b, semiring):
    """The same by outer products, for more than a handful of entries; no repeated ones."""
    add, multiply, _ = OPERATIONS[semiring]
    where = [stored(x).toarray() for x in (a, b)]
    dense = [x.toarray() for x in (a, b)]
    if semiring == "or_and":
        dense = [x != 0 for x in dense]
    values = np.full((a.shape[0], b.shape[1]), absent_value(semiring, dense[0].dtype))
    places = np.zeros(values.shape, dtype=bool)
    for t in range(a.shape[1]):
        here = np.logical_and.outer(where[0][:, t], where[1][t])
        if semiring == "plus_pair":
            products = np.ones_like(values)
        else:
            products = multiply.outer(dense[0][:, t], dense[1][t])
        values[here] = add(values[here], products[here])
        places |= here
    return values, places


@pytest.mark.parametrize("semiring", OPERATIONS)
@pytest.mark.parametrize("dtype", ["float64", "int16"])
def test_longer_rows_and_more_columns_than_a_tiny_product(semiring, dtype):
    a, b = operand((60, 200), 1, dtype, 0.2), operand((200, 4500), 2, dtype, 0.02)
    mask = random((60, 4500), 0.05, 3)
    values, places = dense_by_columns(a, b, semiring)
    allowed = stored(mask).toarray()
    for options, kept in [
        ({}, places),
        ({"mask": mask}, places & allowed),
        ({"mask": mask, "complement": True}, places & ~allowed),
    ]:
        result = spgemm.matmul(a, b, semiring=semiring, **options)
        rows, columns = np.nonzero(kept)
        np.testing.assert_array_equal(result.indices, columns)
        np.testing.assert_array_equal(np.repeat(np.arange(60), np.diff(result.indptr)), rows)
        np.testing.assert_array_equal(result.data, values[kept])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("semiring", "dtype"), REFUSED)
def test_dtypes_without_lengths_or_order_are_refused(semiring, dtype, engine):
    a = operand((4, 4), 1, dtype)
    message = "bool is none" if dtype == "bool" else "complex numbers have none"
    with linalgkit.use_engine(engine), pytest.raises(TypeError, match=f"{semiring}.*{message}"):
        spgemm.matmul(a, a, semiring=semiring)


def test_unknown_semiring_is_refused_with_the_known_ones():
    eye = sp.eye_array(2, format="csr")
    with pytest.raises(ValueError, match=r"semiring must be one of 'plus_times'.*got 'times_plus'"):
        spgemm.matmul(eye, eye, semiring="times_plus")


@pytest.mark.parametrize("engine", ENGINES)
def test_stored_zero_is_an_edge_of_length_zero(engine):
    # 0 -> 1 of length 0, 1 -> 2 of length 5; nothing stored elsewhere.
    edges = sp.csr_array((np.array([0.0, 5.0]), np.array([1, 2]), np.array([0, 1, 2, 2])), (3, 3))
    with linalgkit.use_engine(engine):
        two = spgemm.matmul(edges, edges, semiring="min_plus")
    assert two.nnz == 1
    assert two[0, 2] == 5.0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("semiring", OPERATIONS)
def test_nan_and_infinities_propagate(semiring, dtype, engine):
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -2.0], dtype=dtype)
    rng = np.random.default_rng(0)
    a, b = operand((12, 10), 1, dtype), operand((10, 12), 2, dtype)
    for x in (a, b):
        x.data = rng.choice(special, x.nnz)
    with linalgkit.use_engine(engine):
        result = spgemm.matmul(a, b, semiring=semiring)
        masked = spgemm.matmul(a, b, semiring=semiring, mask=result)
    values, places = by_the_book(a, b, semiring)
    np.testing.assert_array_equal(result.data, values[places])
    if semiring == "plus_times":
        zero = result.data == 0
        np.testing.assert_array_equal(
            np.signbit(result.data[zero]), np.signbit(values[places])[zero]
        )
    assert masked.nnz == result.nnz
    np.testing.assert_array_equal(masked.data, result.data)
    if semiring not in ("or_and", "plus_pair"):
        assert np.isnan(result.data).any()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("masked", [False, True])
def test_sum_of_negative_zeros_starts_from_positive_zero(engine, masked):
    a = sp.csr_array(np.array([[-1.0, -1.0], [-1.0, 0.0]]))
    b = sp.csr_array((np.array([0.0, 0.0]), np.array([0, 0]), np.array([0, 1, 2])), shape=(2, 1))
    mask = sp.csr_array(np.ones((2, 1))) if masked else None
    with linalgkit.use_engine(engine):
        result = spgemm.matmul(a, b, mask=mask)
    assert result.data.tolist() == [0.0, 0.0]
    assert not np.signbit(result.data).any()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_wrap_around_as_in_numpy(dtype, engine):
    info = np.iinfo(dtype)
    left, right = np.array([[info.max, info.max]], dtype), np.array([[info.max], [3]], dtype)
    a, b = sp.csr_array(left), sp.csr_array(right)
    with linalgkit.use_engine(engine):
        result = {ring: spgemm.matmul(a, b, semiring=ring) for ring in ("plus_times", "max_plus")}
    assert all(x.dtype == dtype for x in result.values())
    assert result["plus_times"][0, 0] == (left @ right)[0, 0]
    sums = (left[0] + right[:, 0]).astype(dtype)
    assert result["max_plus"][0, 0] == sums.max()


@pytest.mark.parametrize(("semiring", "dtype", "engine"), PAIRS)
def test_prune_drops_what_equals_an_absent_entry(semiring, dtype, engine):
    a, b = operand((15, 12), 1, dtype), operand((12, 15), 2, dtype)
    if dtype.startswith("float") and semiring in ("min_plus", "max_plus", "max_min", "min_max"):
        for x in (a, b):
            x.data[::2] = absent_value(semiring, dtype)
    with linalgkit.use_engine(engine):
        whole = spgemm.matmul(a, b, semiring=semiring)
        pruned = spgemm.matmul(a, b, semiring=semiring, prune=True)
    kept = whole.data != absent_value(semiring, whole.dtype)
    rows = np.repeat(np.arange(15), np.diff(whole.indptr))[kept]
    np.testing.assert_array_equal(pruned.indices, whole.indices[kept])
    np.testing.assert_array_equal(pruned.data, whole.data[kept])
    np.testing.assert_array_equal(np.repeat(np.arange(15), np.diff(pruned.indptr)), rows)
    if semiring in ("plus_times", "or_and") or dtype.startswith("float"):
        assert (pruned.nnz < whole.nnz) == (semiring != "plus_pair")


@pytest.mark.parametrize("engine", ENGINES)
def test_or_and_takes_numbers_by_whether_they_are_zero(engine):
    a = sp.csr_array((np.array([0.0, 0.1, np.nan]), np.array([0, 1, 2]), np.array([0, 1, 2, 3])))
    with linalgkit.use_engine(engine):
        result = spgemm.matmul(a, sp.csr_array(np.full((3, 1), 0.5)), semiring="or_and")
    assert result.dtype == np.bool_
    assert result.data.tolist() == [False, True, True]


@pytest.mark.parametrize("engine", ENGINES)
def test_plus_pair_counts_past_a_byte_from_bool_and_wraps_in_one(engine):
    ones = np.ones((1, 300))
    a, b = sp.csr_array(ones != 0), sp.csr_array(ones.T != 0)
    with linalgkit.use_engine(engine):
        count = spgemm.matmul(a, b, semiring="plus_pair")
        small = spgemm.matmul(a.astype(np.uint8), b.astype(np.uint8), semiring="plus_pair")
    assert count.dtype == np.int64
    assert count[0, 0] == 300
    assert small.dtype == np.uint8
    assert small[0, 0] == 300 - 256


@pytest.mark.parametrize("engine", ENGINES)
def test_operands_of_two_dtypes_promote_under_any_semiring(engine):
    a, b = operand((9, 8), 1, "int8"), operand((8, 9), 2, "float32")
    with linalgkit.use_engine(engine):
        for semiring in OPERATIONS:
            check(spgemm.matmul(a, b, semiring=semiring), a, b, semiring)


@pytest.mark.parametrize("engine", ENGINES)
def test_accumulate_adds_in_a_wider_dtype_and_keeps_the_results(engine):
    # 2^24 + 1 + 1 ... in float32 stays 2^24; in float64 it does not.
    a = sp.csr_array(np.full((1, 5), 1, dtype=np.float32))
    b = sp.csr_array(np.array([[2**24], [1], [1], [1], [1]], dtype=np.float32))
    with linalgkit.use_engine(engine):
        single = spgemm.matmul(a, b)
        double = spgemm.matmul(a, b, accumulate="float64")
        narrow = spgemm.matmul(a, b, accumulate=np.float16)
    assert single.dtype == double.dtype == np.float32
    assert single[0, 0] == 2**24
    assert double[0, 0] == 2**24 + 4
    assert narrow[0, 0] == 2**24  # at least the operands' own


@pytest.mark.parametrize("engine", ENGINES)
def test_accumulate_is_idle_for_bool_and_refused_where_it_is_no_number(engine):
    a = sp.csr_array(np.ones((3, 3), dtype=bool))
    real = a.astype(np.float64)
    with linalgkit.use_engine(engine):
        for left, semiring in [(a, "plus_times"), (a, "or_and"), (real, "or_and")]:
            result = spgemm.matmul(left, left, semiring=semiring, accumulate="float64")
            assert result.dtype == np.bool_
            assert result.data.all()
        for wrong in ("float65", "bool", object()):
            with pytest.raises(ValueError, match="accumulate must be a numeric dtype"):
                spgemm.matmul(real, real, accumulate=wrong)
        with pytest.raises(ValueError, match="accumulate must be real for real operands"):
            spgemm.matmul(real, real, accumulate="complex128")


@pytest.mark.parametrize("engine", ENGINES)
def test_half_precision_never_adds_in_half(engine):
    ones = np.ones(4096, dtype=np.float16)
    row = ones, np.arange(4096), np.array([0, 4096])
    column = ones, np.zeros(4096, dtype=int), np.arange(4097)
    with linalgkit.use_engine(engine):
        for accumulate in (None, "float16", "float32"):
            result = spgemm.csr_matmul(*row, *column, shape=(1, 1), accumulate=accumulate)
            assert result.data.dtype == np.float16
            assert result.data[0] == 4096  # in half precision it stays at 2048


@pytest.mark.parametrize("engine", ENGINES)
def test_integers_are_never_added_as_floats(engine):
    large, one = sp.csr_array(np.array([[2**53 + 1]])), sp.csr_array(np.array([[1]]))
    top = sp.csr_array(np.array([[2**31 - 1, 2**31 - 1]], dtype=np.int32))
    ones = sp.csr_array(np.ones((2, 1), dtype=np.int32))
    with linalgkit.use_engine(engine):
        for accumulate in ("float64", float, np.float32, "int32", "uint64"):
            assert spgemm.matmul(large, one, accumulate=accumulate)[0, 0] == 2**53 + 1
            result = spgemm.matmul(top, ones, accumulate=accumulate)
            assert result.dtype == np.int32
            assert result.data.tolist() == [-2]
        # No sum wraps in a wider integer, which "min" can tell: what wraps would be the least.
        two = sp.csr_array(np.array([[100, 1]], dtype=np.int8))
        lengths = sp.csr_array(np.array([[100], [1]], dtype=np.int8))
        assert spgemm.matmul(two, lengths, semiring="min_plus").data.tolist() == [-56]
        wide = spgemm.matmul(two, lengths, semiring="min_plus", accumulate="int16")
        assert wide.data.tolist() == [2]


@pytest.mark.parametrize("engine", ENGINES)
def test_accumulate_of_complex_numbers_may_be_complex(engine):
    a = sp.csr_array(np.full((1, 3), 1 + 1j, dtype=np.complex64))
    with linalgkit.use_engine(engine):
        for accumulate in ("complex128", "float64", complex):
            result = spgemm.matmul(a, a, transpose_b=True, accumulate=accumulate)
            assert result.dtype == np.complex64
            assert result.data.tolist() == [6j]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("wrong", [[], {}, np.zeros(2), "no dtype"])
def test_accumulate_that_is_no_dtype_is_refused_in_our_words(wrong, engine):
    a = sp.csr_array(np.ones((2, 2)))
    with (
        linalgkit.use_engine(engine),
        pytest.raises(ValueError, match="accumulate must be a numeric dtype"),
    ):
        spgemm.matmul(a, a, accumulate=wrong)


@pytest.mark.parametrize("engine", ENGINES)
def test_prune_drops_what_only_the_narrower_result_rounds_to_absent(engine):
    small = np.array([1e-4, 1.0], dtype=np.float16)
    a = small, np.array([0, 0]), np.array([0, 1, 2])
    b = small[:1], np.array([0]), np.array([0, 1])
    with linalgkit.use_engine(engine):
        kept = spgemm.csr_matmul(*a, *b, shape=(2, 1))
        assert kept.data.tolist() == [0.0, small[0]]
        pruned = spgemm.csr_matmul(*a, *b, shape=(2, 1), prune=True)
        assert pruned.data.dtype == np.float16
        assert pruned.data.tolist() == [small[0]]
        assert pruned.indices.tolist() == [0]
        assert pruned.indptr.tolist() == [0, 0, 1]
        single = tuple(x.astype(np.float32) if x.dtype.kind == "f" else x for x in a)
        single[0][0] = 1e-30
        options = {"shape": (2, 1), "accumulate": "float64", "prune": True}
        tiny = spgemm.csr_matmul(*single, single[0], *a[1:], **options)
        assert tiny.data.tolist() == [single[0][0]]
        assert tiny.indptr.tolist() == [0, 0, 1]
        # Lengths past the largest half are infinite, and infinite ones absent.
        far = np.array([6e4], dtype=np.float16), np.array([0]), np.array([0, 1])
        ways = {"shape": (1, 1), "semiring": "min_plus"}
        assert spgemm.csr_matmul(*far, *far, **ways).data.tolist() == [np.inf]
        assert spgemm.csr_matmul(*far, *far, prune=True, **ways).data.size == 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("k", [0, 1, 2])
def test_powers_of_what_a_semiring_does_not_know_are_refused_in_the_same_words(k, engine):
    whole = sp.csr_array(np.eye(2) * 1j)
    truth = sp.csr_array(np.eye(2, dtype=bool))
    with linalgkit.use_engine(engine):
        for semiring in ("min_plus", "max_plus", "max_min", "min_max"):
            with pytest.raises(TypeError, match=f"{semiring} needs an order, and complex"):
                spgemm.matrix_power(whole, k, semiring=semiring)
        for semiring in ("min_plus", "max_plus"):
            with pytest.raises(TypeError, match=f"{semiring} adds lengths, and bool is none"):
                spgemm.matrix_power(truth, k, semiring=semiring)


@pytest.mark.parametrize("dtype", ["f8", "f4", "c16", "i4", "u2"])
def test_foreign_byte_order_goes_to_the_kernels(dtype, monkeypatch):
    from linalgkit.spgemm import _array_api

    a = operand((30, 30), 1, np.dtype(dtype).name)
    foreign = a.copy()
    foreign.data = a.data.astype(a.data.dtype.newbyteorder())
    expected = spgemm.matmul(a, a)
    monkeypatch.setattr(_array_api, "csr_matmul", lambda *_, **__: pytest.fail("not a kernel"))
    for left, right in [(foreign, foreign), (foreign, a), (a, foreign)]:
        result = spgemm.matmul(left, right)
        assert result.dtype == a.dtype
        assert result.dtype.isnative
        assert result.data.tobytes() == expected.data.tobytes()
