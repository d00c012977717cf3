"""What is not a sparse product: clear errors, never a crash."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import linalgkit
from linalgkit import spgemm

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
    with pytest.raises(TypeError, match=r"b must be a sparse array.*if an operand is dense"):
        spgemm.matmul(EYE, np.eye(3))
    with pytest.raises(TypeError, match=r"b must be a sparse array.*builtins.list"):
        spgemm.matmul(EYE, [[1.0]])


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


index_arrays = hnp.arrays(
    st.sampled_from([np.int32, np.int64, np.uint8]), st.integers(0, 6), elements=st.integers(0, 7)
)


@settings(max_examples=200, deadline=None)
@given(index_arrays, index_arrays, index_arrays, index_arrays, st.integers(0, 5), st.integers(0, 5))
def test_raw_triples_never_crash_and_engines_agree(ai, ap, bi, bp, m, n):
    a = (np.arange(1.0, ai.size + 1), ai, ap)
    b = (np.arange(1.0, bi.size + 1), bi, bp)
    results = []
    for engine in ("numba", "array_api"):
        with linalgkit.use_engine(engine):
            try:
                results.append(spgemm.csr_matmul(*a, *b, shape=(m, n)))
            except ValueError as error:
                results.append(str(error))
    if isinstance(results[0], str):
        assert results[0] == results[1]
    else:
        for ours, reference in zip(*results, strict=True):
            np.testing.assert_array_equal(ours, reference)


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
    assert python(code, env={"JAX_ENABLE_X64": "0"}) == "[4. 9.] float32 int32\n"
