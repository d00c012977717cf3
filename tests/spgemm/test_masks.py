"""Masked products: which places, which values, in any layout and shape of the mask."""

import numpy as np
import pytest
import scipy.sparse as sp
from spgemm.cases import LARGE, OPERATIONS, random, scattered, stored

import linalgkit
from linalgkit import spgemm

ENGINES = ("array_api", "numba")


def places(matrix):
    """Number the places of a matrix's entries, row after row."""
    rows = matrix.tocsr()
    numbers = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr)) * rows.shape[1]
    return numbers + rows.indices


def check(masked, whole, mask, complement=False):
    """Assert that the entries are those of the whole product that the mask lets through."""
    kept = np.isin(places(whole), places(mask), invert=complement)
    whole, masked = whole.tocsr(), masked.tocsr()
    np.testing.assert_array_equal(places(masked), places(whole)[kept])
    assert masked.data.tobytes() == whole.data[kept].tobytes()
    assert masked.data.dtype == whole.data.dtype


N = 3000
SIZES = {  # rows of A, of B, of the mask
    "far fewer places than products": (0.01, 0.01, 0.0005),
    "far more places than products": (0.0005, 0.0005, 0.05),
    "about as many": (0.003, 0.003, 0.01),
    "long rows and a sparse mask": (0.05, 0.01, 0.0002),
}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("complement", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_entries_are_those_of_the_whole_product_bit_for_bit(size, complement, workers):
    a, b, mask = (random((N, N), d, seed) for seed, d in enumerate(SIZES[size]))
    mask.data[:] = 0.0  # only where they are counts
    with linalgkit.use_workers(workers):
        masked = spgemm.matmul(a, b, mask=mask, complement=complement)
        check(masked, spgemm.matmul(a, b), mask, complement)


@pytest.mark.parametrize("complement", [False, True])
@pytest.mark.parametrize("semiring", OPERATIONS)
def test_every_semiring_where_rows_differ_in_length(semiring, complement):
    rng = np.random.default_rng(0)
    a, b = random((400, 500), 0.02, 1), random((500, 600), 0.02, 2)
    dense = random((3, 500), 0.9, 3)
    a = sp.csr_array(sp.vstack([a[:200], dense, a[200:]]))
    mask = sp.vstack([random((200, 600), 0.001, 4), random((203, 600), 0.8, 5)], format="csr")
    for matrix in (a, b):
        matrix.data = np.round(rng.standard_normal(matrix.nnz) * 8)
    whole = spgemm.matmul(a, b, semiring=semiring)
    masked = spgemm.matmul(a, b, semiring=semiring, mask=mask, complement=complement)
    check(masked, whole, mask, complement)


@pytest.mark.parametrize("name", LARGE)
def test_large_operands_masked_by_one_of_their_size(name):
    a, b = LARGE[name]()
    mask = scattered(a.shape[0], b.shape[1], 3)
    expected = spgemm.matmul(a, b)
    kept = np.isin(places(expected), places(mask))
    result = spgemm.matmul(a, b, mask=mask)
    np.testing.assert_array_equal(places(result), places(expected)[kept])
    assert result.data.tobytes() == expected.data[kept].tobytes()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("complement", [False, True])
def test_unsorted_and_repeated_mask_entries_count_once(engine, complement):
    a, b = random((30, 20), 0.2, 1), random((20, 40), 0.2, 2)
    mask = random((30, 40), 0.3, 3)
    loose = sp.csr_array(
        (np.repeat(mask.data, 3), np.repeat(mask.indices, 3), 3 * mask.indptr), mask.shape
    )
    for row in range(30):
        part = loose.indices[loose.indptr[row] : loose.indptr[row + 1]]
        part[:] = np.random.default_rng(row).permutation(part)
    with linalgkit.use_engine(engine):
        masked = spgemm.matmul(a, b, mask=loose, complement=complement)
        check(masked, spgemm.matmul(a, b), mask, complement)


def test_unsorted_and_repeated_mask_entries_in_large_products():
    a, b = LARGE["irregular"]()
    mask = random((3000, 4000), 0.002, 3)
    turned = sp.csr_array(  # each row from right to left, each entry twice
        (
            np.ones(2 * mask.nnz),
            np.repeat(mask.indices[::-1], 2),
            2 * (mask.nnz - mask.indptr[::-1]).astype(np.int32),
        ),
        mask.shape,
    )
    a = a[::-1]
    for complement in (False, True):
        masked = spgemm.matmul(a, b, mask=turned, complement=complement)
        check(masked, spgemm.matmul(a, b), mask[::-1], complement)


@pytest.mark.parametrize("engine", ENGINES)
def test_mask_counts_by_structure_unless_its_values_do(engine):
    a, b = random((12, 9), 0.5, 1), random((9, 14), 0.5, 2)
    mask = random((12, 14), 0.6, 3)
    mask.data[::2] = 0.0
    mask.data[1::4] = np.nan  # not zero
    true = mask.copy()
    true.eliminate_zeros()
    for layout in ("csr", "csc"):
        given = mask.asformat(layout)
        with linalgkit.use_engine(engine):
            whole = spgemm.matmul(a, b)
            check(spgemm.matmul(a, b, mask=given), whole, mask)
            check(spgemm.matmul(a, b, mask=given, mask_values=True), whole, true)
            rest = spgemm.matmul(a, b, mask=given, mask_values=True, complement=True)
        check(rest, whole, true, complement=True)
        assert given.nnz == mask.nnz


def test_mask_of_bool_values_in_every_layout():
    a, b = random((12, 9), 0.5, 1), random((9, 14), 0.5, 2)
    dense = np.random.default_rng(0).random((12, 14)) < 0.4
    whole = spgemm.matmul(a, b)
    for layout in ("csr", "csc", "coo", "bsr", "lil", "dok", "dia"):
        mask = sp.csr_array(dense).asformat(layout)
        check(spgemm.matmul(a, b, mask=mask, mask_values=True), whole, sp.csr_array(dense))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("density", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(7, 5, 6), (60, 5000, 4500), (1, 1, 1), (0, 3, 4), (3, 0, 4)])
def test_empty_and_full_masks(shape, density, engine):
    m, k, n = shape
    a, b = random((m, k), 0.01 if k > 100 else 0.5, 1), random((k, n), 0.01 if n > 100 else 0.5, 2)
    mask = sp.csr_array(np.ones((m, n))) if density else sp.csr_array((m, n))
    with linalgkit.use_engine(engine):
        whole = spgemm.matmul(a, b)
        for complement in (False, True):
            masked = spgemm.matmul(a, b, mask=mask, complement=complement)
            check(masked, whole, mask, complement)
            assert masked.nnz == (whole.nnz if bool(density) != complement else 0)
            assert masked.shape == (m, n)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("complement", [False, True])
@pytest.mark.parametrize("mask_layout", ["csr", "csc"])
@pytest.mark.parametrize("b_layout", ["csr", "csc"])
@pytest.mark.parametrize("a_layout", ["csr", "csc"])
def test_layouts_of_operands_and_mask(a_layout, b_layout, mask_layout, complement, engine):
    a, b, mask = random((30, 20), 0.2, 1), random((20, 40), 0.2, 2), random((30, 40), 0.3, 3)
    with linalgkit.use_engine(engine):
        expected = spgemm.matmul(a, b)
        result = spgemm.matmul(
            a.asformat(a_layout),
            b.asformat(b_layout),
            mask=mask.asformat(mask_layout),
            complement=complement,
        )
    kept = np.isin(places(expected), places(mask), invert=complement)
    np.testing.assert_array_equal(places(result), places(expected)[kept])
    np.testing.assert_array_equal(result.tocsr().data, expected.data[kept])


def test_mask_goes_with_the_transposed_shape():
    a, b, mask = random((20, 30), 0.2, 1), random((40, 20), 0.2, 2), random((30, 40), 0.3, 3)
    result = spgemm.matmul(a, b, transpose_a=True, transpose_b=True, mask=mask)
    expected = (a.T.toarray() @ b.T.toarray()) * stored(mask).toarray()
    np.testing.assert_allclose(result.toarray(), expected, atol=1e-14)


@pytest.mark.parametrize("engine", ENGINES)
def test_mask_and_prune(engine):
    a, b = sp.csr_array(np.array([[1.0, 1.0]])), sp.csr_array(np.array([[1.0, 2.0], [-1.0, 2.0]]))
    mask = sp.csr_array(np.ones((1, 2)))
    with linalgkit.use_engine(engine):
        assert spgemm.matmul(a, b, mask=mask).toarray().tolist() == [[0.0, 4.0]]
        assert spgemm.matmul(a, b, mask=mask).nnz == 2
        assert spgemm.matmul(a, b, mask=mask, prune=True).nnz == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_raw_masks(engine):
    a, b, mask = random((9, 7), 0.5, 1), random((7, 8), 0.5, 2), random((9, 8), 0.5, 3)
    arrays = [x for m in (a, b) for x in (m.data, m.indices, m.indptr)]
    for index in (np.int32, np.int64, np.uint16):
        with linalgkit.use_engine(engine):
            result = spgemm.csr_matmul(
                *arrays,
                shape=(9, 8),
                mask_indices=mask.indices.astype(index),
                mask_indptr=mask.indptr.astype(index),
            )
            expected = spgemm.matmul(a, b, mask=mask)
        for ours, theirs in zip(
            result, (expected.data, expected.indices, expected.indptr), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_wrong_masks_are_refused():
    a, b = random((4, 5), 0.5, 1), random((5, 6), 0.5, 2)
    with pytest.raises(
        ValueError, match=r"mask must have the result's shape \(4, 6\); got \(6, 4\)"
    ):
        spgemm.matmul(a, b, mask=random((6, 4), 0.5, 3))
    for option in ("complement", "mask_values"):
        with pytest.raises(ValueError, match=f"{option}=True needs a mask"):
            spgemm.matmul(a, b, **{option: True})
    with pytest.raises(TypeError, match=r"mask must be a sparse array.*numpy.ndarray"):
        spgemm.matmul(a, b, mask=np.ones((4, 6)))
    arrays = [x for m in (a, b) for x in (m.data, m.indices, m.indptr)]
    with pytest.raises(ValueError, match="both mask_indices and mask_indptr"):
        spgemm.csr_matmul(*arrays, shape=(4, 6), mask_indices=a.indices)
    with pytest.raises(ValueError, match=r"mask_indptr must have shape\[0\] \+ 1 = 5 entries"):
        spgemm.csr_matmul(
            *arrays, shape=(4, 6), mask_indices=a.indices, mask_indptr=np.array([0, 1])
        )
    with pytest.raises(ValueError, match="complement=True needs a mask"):
        spgemm.csr_matmul(*arrays, shape=(4, 6), complement=True)


def test_mask_of_another_library_is_refused(require):
    torch = require("torch")
    from types import SimpleNamespace

    a = random((4, 4), 0.5, 1)
    parts = {part: torch.asarray(getattr(a, part)) for part in ("data", "indices", "indptr")}
    ours = SimpleNamespace(**parts, shape=a.shape)
    for operand, mask in [(a, ours), (ours, a)]:
        with pytest.raises(TypeError, match="different libraries in one call: numpy and torch"):
            spgemm.matmul(operand, operand, mask=mask)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("complement", [False, True])
@pytest.mark.parametrize("n", [4, 5000])
def test_corrupt_masks_raise(engine, complement, n):
    eye = sp.eye_array(n, format="csr")
    for part, place, value, message in [
        ("indices", 1, n, rf"mask_indices must lie in \[0, {n}\); entry 1 is {n}"),
        ("indices", n - 1, -1, rf"mask_indices must lie in \[0, {n}\); entry {n - 1} is -1"),
        ("indptr", 1, 3, "mask_indptr must not decrease; row 1 goes from 3 to 2"),
        ("indptr", 0, 1, "mask_indptr must start at 0; got 1"),
        ("indptr", n, n + 5, f"mask_indptr ends at {n + 5}, past the {n} entries"),
    ]:
        mask = eye.copy()
        getattr(mask, part)[place] = value
        with linalgkit.use_engine(engine):
            with pytest.raises(ValueError, match=message):
                spgemm.matmul(eye, eye, mask=mask, complement=complement)
            with pytest.raises(ValueError, match=message):
                spgemm.matmul(eye, eye, mask=mask, complement=complement, mask_values=True)
            with pytest.raises(ValueError, match=message):
                spgemm.matmul(eye.tocsc(), eye.tocsc(), mask=mask, complement=complement)


def test_inner_products_are_chosen_by_the_columns_that_the_mask_stores():
    # One row of A asks for 400 rows of B with 50 entries each. The mask stores one column: a
    # short one is an inner product of a few steps, a hub costs more than marks do. The columns'
    # mean length is the same for both.
    from linalgkit.spgemm import _numba_masked

    a_indices, a_indptr = np.arange(400, dtype=np.uint32), np.array([0, 400], dtype=np.uint32)
    b_indptr = np.arange(0, 20_001, 50, dtype=np.uint32)
    mask_indptr = np.array([0, 1], dtype=np.uint32)
    lengths = np.array([3, 10_000], dtype=np.int64)
    chosen = []
    for column in (0, 1):
        ends, by_dots = np.zeros(2, dtype=np.int64), np.empty(1, dtype=np.uint8)
        mask_indices = np.array([column], dtype=np.uint32)
        saved = _numba_masked.masked_work(
            0, 1, a_indices, a_indptr, b_indptr, mask_indices, mask_indptr, lengths, ends, by_dots
        )
        assert ends[1] == 20_001
        assert (saved > 0) == by_dots[0]
        chosen.append(int(by_dots[0]))
    assert chosen == [1, 0]


@pytest.mark.parametrize("complement", [False, True])
@pytest.mark.parametrize("n", [2**45, 2**57 + 1, 2**63 - 1])
def test_more_columns_than_memory_has_room_for(n, complement):
    # Columns as hashes of 64 bits are: the same few, once by their value and once by their rank.
    rng = np.random.default_rng(0)
    names = np.sort(rng.integers(0, n, 300, dtype=np.int64))
    a, b, mask = random((60, 200), 0.1, 1), random((200, 300), 0.1, 2), random((60, 300), 0.2, 3)
    arrays = a.data, a.indices, a.indptr, b.data
    ranked = spgemm.csr_matmul(
        *arrays, b.indices, b.indptr, shape=(60, 300),
        mask_indices=mask.indices, mask_indptr=mask.indptr, complement=complement,
    )  # fmt: skip
    named = spgemm.csr_matmul(
        *arrays, names[b.indices], b.indptr, shape=(60, n),
        mask_indices=names[mask.indices], mask_indptr=mask.indptr, complement=complement,
    )  # fmt: skip
    np.testing.assert_array_equal(named.indptr, ranked.indptr)
    np.testing.assert_array_equal(named.indices, names[ranked.indices])
    assert named.data.tobytes() == ranked.data.tobytes()
