"""What is not a sparse product: clear errors, never a crash."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from spgemm.cases import OPERATIONS, by_the_book

import linalgkit
from linalgkit import spgemm

ENGINES = ("array_api", "numba")
EYE = sp.eye_array(3, format="csr")
GOOD = (np.ones(2), np.array([0, 1]), np.array([0, 1, 2]))


@pytest.mark.parametrize("engine", ["numba", "array_api"])
@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        (1, [0, 2], r"a_indices must lie in \[0, 2\); entry 1 is 2"),
        (1, [0, -1], r"a_indices must lie in \[0, 2\); entry 1 is -1"),
        (2, [0, 2, 1], "a_indptr must not decrease; row 1 goes from 2 to 1"),
        (2, [1, 1, 2], "a_indptr must start at 0; got 1"),
        (2, [0, 1, 3], "a_indptr ends at 3, past the 2 entries"),
        (0, [1.0], "a_data and a_indices must be of one length; got 1 and 2"),
        (4, [0, 5], r"b_indices must lie in \[0, 2\); entry 1 is 5"),
        (5, [0, 3, 2], "b_indptr must not decrease; row 1 goes from 3 to 2"),
    ],
)
def test_invalid_triples(engine, part, value, message):
    operands = [*GOOD, *GOOD]
    operands[part] = np.array(value)
    with linalgkit.use_engine(engine), pytest.raises(ValueError, match=message):
        spgemm.csr_matmul(*operands, shape=(2, 2))


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_invalid_entries_of_large_operands_are_found_in_every_chunk(index):
    rng = np.random.default_rng(0)
    n, each = 40_000, 8
    indices = rng.integers(0, n, n * each).astype(index)
    indptr = np.arange(0, n * each + 1, each).astype(index)
    data = np.ones(n * each)
    for operand, entry, bad in [("a", 0, n), ("a", -1, -1), ("b", 123_456, n + 7), ("b", -1, n)]:
        broken = indices.copy()
        broken[entry] = bad
        a, b = (broken, indices) if operand == "a" else (indices, broken)
        with pytest.raises(ValueError, match=f"{operand}_indices must lie in"):
            spgemm.csr_matmul(data, a, indptr, data, b, indptr, shape=(n, n))


def test_integers_are_needed_for_indices():
    for engine in ("numba", "array_api"):
        with linalgkit.use_engine(engine), pytest.raises(TypeError, match="a_indices must be int"):
            spgemm.csr_matmul(GOOD[0], np.array([0.0, 1.0]), GOOD[2], *GOOD, shape=(2, 2))


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"a of shape \(m, k\).*got \(3, 3\) and \(4, 4\)"):
        spgemm.matmul(EYE, sp.eye_array(4, format="csr"))
    with pytest.raises(ValueError, match=r"a_indptr must have shape\[0\] \+ 1 = 6 entries; got 3"):
        spgemm.csr_matmul(*GOOD, *GOOD, shape=(5, 2))
    with pytest.raises(ValueError, match=r"a_data must have one axis; got shape \(2, 1\)"):
        spgemm.csr_matmul(GOOD[0][:, None], *GOOD[1:], *GOOD, shape=(2, 2))
    with pytest.raises(ValueError, match="b_indptr must have at least one entry"):
        spgemm.csr_matmul(*GOOD, *GOOD[:2], np.array([], dtype=int), shape=(2, 2))
    with pytest.raises(ValueError, match=r"shape must be \(m, n\)"):
        spgemm.csr_matmul(*GOOD, *GOOD, shape=(2, 2, 2))


def test_operands_that_are_no_sparse_containers():
    with pytest.raises(TypeError, match=r"a must be a sparse array.*numpy.ndarray"):
        spgemm.matmul(np.eye(3), EYE)
    with pytest.raises(TypeError, match=r"b must be a sparse array.*If it is dense"):
        spgemm.matmul(EYE, np.eye(3))
    with pytest.raises(TypeError, match=r"b must be a sparse array.*builtins.list"):
        spgemm.matmul(EYE, [[1.0]])


def test_dense_masks_and_operands_are_told_how_to_become_sparse():
    for call in (
        lambda: spgemm.matmul(EYE, EYE, mask=np.eye(3, dtype=bool)),
        lambda: spgemm.k_hop(np.eye(3), 2),
        lambda: spgemm.galerkin(EYE, np.eye(3), EYE),
    ):
        with pytest.raises(TypeError, match=r"make it sparse with scipy\.sparse\.csr_array"):
            call()


@pytest.mark.parametrize("function", [spgemm.matmul, spgemm.plan, spgemm.row_flops])
def test_values_that_are_no_numbers(function):
    objects = sp.csr_array(EYE.shape)
    objects.data, objects.indices = EYE.data.astype(object), EYE.indices
    objects.indptr = EYE.indptr
    with pytest.raises(TypeError, match="b must hold numbers; got dtype object"):
        function(EYE, objects)


def test_plans_take_values_not_containers():
    plan, triple = spgemm.plan(EYE, EYE), spgemm.plan_galerkin(EYE, EYE, EYE)
    message = r"a_data must be the values alone.*csr_array. Pass its \.data"
    with pytest.raises(TypeError, match=message):
        plan.execute(EYE, EYE)
    with pytest.raises(TypeError, match=message):
        plan.execute_vjp(np.ones(3), EYE, EYE.data)
    with pytest.raises(TypeError, match=message):
        triple.execute(EYE.data, EYE, EYE.data)


@pytest.mark.parametrize("left_first", [True, False])
def test_galerkin_plans_name_the_array_that_does_not_fit(left_first):
    narrow, eye = sp.csr_array(np.eye(3, 1)), sp.eye_array(3, format="csr")
    r, p = (narrow.T.tocsr(), eye) if left_first else (eye, narrow)
    plan = spgemm.plan_galerkin(r, eye, p)
    assert plan.left_first == left_first
    values = {"r": r.data, "a": eye.data, "p": p.data}
    for name in values:
        wrong = values | {name: np.ones(7)}
        with pytest.raises(ValueError, match=rf"{name}_data must have shape \(\d,\); got \(7,\)"):
            plan.execute(*wrong.values())


def test_out_that_cannot_be_written():
    plan, out = spgemm.plan(EYE, EYE), np.zeros(3)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        plan.execute(EYE.data, EYE.data, out=out)


def test_mixed_libraries_are_refused_by_name(require):
    require("torch")
    import torch

    with pytest.raises(TypeError, match="a_data is an array of numpy, b_data of torch"):
        spgemm.csr_matmul(*GOOD, *map(torch.asarray, GOOD), shape=(2, 2))


def test_corrupt_scipy_container_raises_instead_of_crashing():
    broken = sp.csr_array((np.ones(2), np.array([0, 1]), np.array([0, 1, 2])), shape=(2, 2))
    broken.indices[1] = 1_000_000
    with pytest.raises(ValueError, match="b_indices must lie in"):
        spgemm.matmul(sp.eye_array(2, format="csr"), broken)


def kinds_of(low, high):
    """Short arrays of integers of several widths; `high` bounds the narrow ones too."""
    return st.one_of(
        hnp.arrays(dtype, st.integers(0, 6), elements=st.integers(max(low, least), high))
        for dtype, least in [(np.int32, low), (np.int64, low), (np.uint8, 0), (np.uint64, 0)]
    )


# Mostly what could be right, and now and then anything at all.
plausible = kinds_of(0, 7)
anything = st.one_of(
    plausible,
    kinds_of(-3, 100),
    hnp.arrays(np.int64, st.integers(0, 6), elements=st.integers(-(2**63), 2**63 - 1)),
    hnp.arrays(np.uint64, st.integers(0, 6), elements=st.integers(0, 2**64 - 1)),
    hnp.arrays(np.int32, st.integers(0, 6), elements=st.integers(-(2**31), 2**31 - 1)),
    hnp.arrays(np.float64, st.integers(0, 6)),
)


@st.composite
def rows(draw, count, columns, arrays):
    """Index arrays of `count` rows: valid ones, or whatever `arrays` gives."""
    if draw(st.integers(0, 3)) == 0:
        return draw(arrays), draw(arrays)
    lengths = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    indptr = np.concatenate([[0], np.cumsum(lengths, dtype=int)]).astype(
        draw(st.sampled_from([np.int32, np.int64, np.uint16]))
    )
    size = int(indptr[-1]) + draw(st.integers(0, 2))
    indices = draw(
        hnp.arrays(
            draw(st.sampled_from([np.int32, np.int64, np.uint8])),
            size,
            elements=st.integers(0, max(columns - 1, 0)),
        )
    )
    return indices, indptr


@st.composite
def products(draw):
    m, k, n = (draw(st.integers(0, 5)) for _ in range(3))
    shape = m, draw(st.sampled_from([n, n, n, 10**7, 2**45]))
    a, b = draw(rows(m, k, anything)), draw(rows(k, n, anything))
    mask = draw(st.one_of(st.none(), rows(m, n, anything)))
    return shape, a, b, mask


def is_csr(indices, indptr, count, columns):
    """Tell by the definition whether index arrays are those of `count` rows."""
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        return False
    pointers, places = indptr.tolist(), indices.tolist()
    return (
        len(pointers) == count + 1
        and pointers[0] == 0
        and pointers == sorted(pointers)
        and pointers[-1] <= len(places)
        and all(0 <= x < columns for x in places[: pointers[-1]])
    )


def triple(indices, indptr, shape):
    data = np.arange(1.0, indices.size + 1)
    return SimpleNamespace(data=data, indices=indices, indptr=indptr.astype(np.int64), shape=shape)


@settings(max_examples=300)
@given(products(), st.sampled_from(sorted(OPERATIONS)), st.booleans(), st.sampled_from(ENGINES))
def test_raw_triples_give_the_right_answer_or_a_clear_error(case, semiring, complement, engine):
    (m, n), a, b, mask = case
    k = b[1].size - 1
    options = {"semiring": semiring}
    if mask is not None:
        options |= {"mask_indices": mask[0], "mask_indptr": mask[1], "complement": complement}
    valid = k >= 0 and is_csr(*a, m, k) and is_csr(*b, k, n)
    valid = valid and (mask is None or is_csr(*mask, m, n))
    data = [np.arange(1.0, x[0].size + 1) for x in (a, b)]
    with linalgkit.use_engine(engine):
        if not valid:
            with pytest.raises((ValueError, TypeError)):
                spgemm.csr_matmul(data[0], *a, data[1], *b, shape=(m, n), **options)
            return
        result = spgemm.csr_matmul(data[0], *a, data[1], *b, shape=(m, n), **options)
    width = 256  # no index here is larger
    allowed = None
    if mask is not None:
        allowed = np.zeros((m, width), dtype=bool)
        pointers = mask[1].astype(np.int64)
        allowed[np.repeat(np.arange(m), np.diff(pointers)), mask[0][: pointers[-1]]] = True
        allowed = allowed != complement
    values, places = by_the_book(triple(*a, (m, k)), triple(*b, (k, width)), semiring, allowed)
    found, columns = np.nonzero(places)
    np.testing.assert_array_equal(result.indices, columns)
    np.testing.assert_array_equal(result.indptr, np.searchsorted(found, np.arange(m + 1)))
    np.testing.assert_array_equal(result.data, values[places])


@settings(max_examples=200)
@given(products(), st.sampled_from(sorted(OPERATIONS)), st.booleans(), st.sampled_from(ENGINES))
def test_containers_with_any_arrays_are_planned_right_or_refused(case, semiring, slots, engine):
    (m, n), a, b, mask = case
    k = b[1].size - 1
    n = min(n, 300)

    def container(arrays, shape):
        data = np.arange(1.0, arrays[0].size + 1)
        return SimpleNamespace(data=data, indices=arrays[0], indptr=arrays[1], shape=shape)

    left, right = container(a, (m, max(k, 0))), container(b, (max(k, 0), n))
    options = {} if mask is None else {"mask": container(mask, (m, n))}
    valid = k >= 0 and is_csr(*a, m, k) and is_csr(*b, k, n)
    valid = valid and (mask is None or is_csr(*mask, m, n))
    with linalgkit.use_engine(engine):
        if not valid:
            for call in (spgemm.matmul, spgemm.plan):
                with pytest.raises((ValueError, TypeError)):
                    call(left, right, **options)
            return
        expected = spgemm.matmul(left, right, semiring=semiring, **options)
        plan = spgemm.plan(left, right, slots=slots, **options)
        data = plan.execute(left.data, right.data, semiring=semiring)
    assert data.tobytes() == expected.data.tobytes()
    np.testing.assert_array_equal(plan.indices, expected.indices)
    np.testing.assert_array_equal(plan.indptr, expected.indptr)


def test_jit_over_the_values_alone_is_refused_in_our_words(require):
    jax = require("jax")
    index, indptr = jax.numpy.asarray([0, 1]), jax.numpy.asarray([0, 1, 2])

    def call(data):
        return spgemm.csr_matmul(data, index, indptr, data, index, indptr, shape=(2, 2)).data

    with pytest.raises(TypeError, match=r"csr_matmul needs the values of a_indices"):
        jax.jit(call)(jax.numpy.ones(2))


def test_jax_in_single_precision_does_not_warn(python, require):
    require("jax")
    code = """
import warnings
warnings.simplefilter("error")
import jax.numpy as jnp
from linalgkit import spgemm
index, indptr = jnp.asarray([0, 1]), jnp.asarray([0, 1, 2])
data = jnp.asarray([2.0, 3.0])
result = spgemm.csr_matmul(data, index, indptr, data, index, indptr, shape=(2, 2))
print(result.data, result.data.dtype, result.indices.dtype)
"""
    # Without JAX's cache, which may warn of a file that another process is writing.
    env = {"JAX_ENABLE_X64": "0", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    assert python(code, env=env) == "[4. 9.] float32 int32\n"
