"""What plans keep: patterns from any library, their own, that go to other processes."""

import copy
import pickle
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from spgemm.cases import random

import linalgkit
from linalgkit import spgemm
from linalgkit._testing import library

ENGINES = ("array_api", "numba")
LAYOUTS = list(product(["csr", "csc"], repeat=2))


@pytest.fixture(params=["torch", "jax", "array_api_strict"])
def used(request, require):
    require(request.param)
    return library(request.param)


def held(used, matrix):
    """A CSR matrix as an object with arrays of a library."""
    parts = {part: used.asarray(getattr(matrix, part)) for part in ("data", "indices", "indptr")}
    return SimpleNamespace(**parts, shape=matrix.shape)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("engine", ["numba", None])
def test_patterns_of_other_libraries_serve_numpy(used, engine, masked):
    a, b = random((9, 8), 0.4, 1), random((8, 7), 0.4, 2)
    mask = random((9, 7), 0.6, 3)
    plan = spgemm.plan(
        held(used, a), held(used, b), **({"mask": held(used, mask)} if masked else {})
    )
    expected = spgemm.matmul(a, b, mask=mask if masked else None).data
    weights = np.arange(1.0, plan.nnz + 1)
    with linalgkit.use_engine("array_api"):
        gradients = plan.execute_vjp(weights, a.data, b.data)
    with linalgkit.use_engine(engine):
        assert plan.execute(a.data, b.data).tobytes() == expected.tobytes()
        for got, wanted in zip(plan.execute_vjp(weights, a.data, b.data), gradients, strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-12)
    assert (plan.slots is None) == masked
    ours = plan.execute(used.asarray(a.data), used.asarray(b.data))
    np.testing.assert_allclose(used.asnumpy(ours), expected, atol=1e-14)
    assert isinstance(plan.indices, used.array_type)


def test_triple_products_of_other_libraries_serve_numpy(used):
    a, p = random((9, 9), 0.4, 1), random((9, 4), 0.4, 2)
    plan = spgemm.plan_galerkin(None, held(used, a), held(used, p))
    expected = spgemm.galerkin(None, a, p).data
    np.testing.assert_allclose(plan.execute(None, a.data, p.data), expected, atol=1e-13)
    ours = plan.execute(None, used.asarray(a.data), used.asarray(p.data))
    np.testing.assert_allclose(used.asnumpy(ours), expected, atol=1e-13)
    assert isinstance(plan.indices, used.array_type)


def unsorted(rows, columns, seed, layout):
    """A product as SciPy leaves it, with rows out of order, one entry twice."""
    made = random((rows, 30), 0.3, seed) @ random((30, columns), 0.3, seed + 1)
    made.indices[1] = made.indices[0]
    made.has_canonical_format = False
    made = sp.csr_array(made)
    return made if layout == "csr" else unsorted(columns, rows, seed, "csr").T


IN_PLACE = {
    "sort_indices": lambda x: x.sort_indices(),
    "sum_duplicates": lambda x: x.sum_duplicates(),
    "eliminate_zeros": lambda x: x.eliminate_zeros(),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("slots", [True, False])
@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("change", IN_PLACE)
def test_operands_that_change_in_place_leave_plans_alone(change, layouts, slots, engine):
    a = unsorted(20, 25, 1, layouts[0])
    b = unsorted(25, 15, 3, layouts[1])
    a.data[::3], b.data[::4] = 0.0, 0.0
    a_data, b_data = a.data.copy(), b.data.copy()
    expected = spgemm.matmul(a, b).data
    with linalgkit.use_engine(engine):
        plan = spgemm.plan(a, b, slots=slots)
        weights = np.arange(1.0, plan.nnz + 1)
        gradients = copy.deepcopy(plan).execute_vjp(weights, a_data, b_data)
        for x in (a, b):
            IN_PLACE[change](x)
        np.testing.assert_array_equal(plan.execute(a_data, b_data), expected)
        for got, wanted in zip(plan.execute_vjp(weights, a_data, b_data), gradients, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_factors_that_change_in_place_leave_plans_alone():
    r, a, p = (unsorted(*shape, 5, "csr") for shape in ((6, 20), (20, 20), (20, 7)))
    values = r.data.copy(), a.data.copy(), p.data.copy()
    expected = spgemm.galerkin(r, a, p).data
    plan = spgemm.plan_galerkin(r, a, p)
    for x in (r, a, p):
        x.sum_duplicates()
    np.testing.assert_allclose(plan.execute(*values), expected, rtol=1e-12)


KINDS = {
    "csr_array": sp.csr_array,
    "csc_array": sp.csc_array,
    "csr_matrix": sp.csr_matrix,
    "csc_matrix": sp.csc_matrix,
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kinds", list(product(KINDS, repeat=2)))
def test_plans_are_pickled(kinds, masked):
    a, b = (KINDS[kind](random((8, 8), 0.4, seed)) for seed, kind in enumerate(kinds))
    plan = spgemm.plan(a, b, mask=random((8, 8), 0.7, 3) if masked else None)
    expected = plan.to_sparse(plan.execute(a.data, b.data))
    weights = np.arange(1.0, plan.nnz + 1)
    gradients = plan.execute_vjp(weights, a.data, b.data)
    for there in (pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan)):
        found = there.to_sparse(there.execute(a.data, b.data))
        assert type(found) is type(expected)
        assert found.data.tobytes() == expected.data.tobytes()
        np.testing.assert_array_equal(found.indices, expected.indices)
        for got, wanted in zip(there.execute_vjp(weights, a.data, b.data), gradients, strict=True):
            assert got.tobytes() == wanted.tobytes()
        assert repr(there) == repr(plan)


def test_pickled_plans_hold_neither_values_nor_what_is_made_again():
    a = random((60, 60), 0.5, 1)
    plan = spgemm.plan(a, a, slots=False)
    before = len(pickle.dumps(plan))
    plan.execute_vjp(np.ones(plan.nnz), a.data, a.data)
    with linalgkit.use_engine("array_api"):
        plan.execute(a.data, a.data)  # numbers all products
    assert len(pickle.dumps(plan)) < before + 100
    indices = 4 * (a.nnz + plan.nnz)  # of the operand once, though it stands on both sides
    assert before < 1.5 * indices


def test_plans_from_other_libraries_are_pickled(used):
    a, p = random((9, 9), 0.4, 1), random((9, 4), 0.4, 2)
    plan = spgemm.plan_galerkin(None, held(used, a), held(used, p))
    values = None, used.asarray(a.data), used.asarray(p.data)
    expected = plan.execute(*values)
    there = pickle.loads(pickle.dumps(plan))
    np.testing.assert_array_equal(used.asnumpy(there.execute(*values)), used.asnumpy(expected))
    assert there.to_sparse(expected).shape == (4, 4)


def test_plans_of_pydata_arrays_are_pickled(require):
    sparse = require("sparse")
    a = sparse.GCXS.from_numpy(random((6, 6), 0.5, 1).toarray(), compressed_axes=(0,))
    plan = pickle.loads(pickle.dumps(spgemm.plan(a, a)))
    result = plan.to_sparse(plan.execute(a.data, a.data))
    assert isinstance(result, sparse.GCXS)
    np.testing.assert_allclose(result.todense(), a.todense() @ a.todense(), atol=1e-14)


def test_plans_are_sent_to_other_processes(python):
    code = """
import multiprocessing, numpy, scipy.sparse
from linalgkit import spgemm
if __name__ == "__main__":
    a = scipy.sparse.random_array((30, 30), density=0.2, rng=0, format="csc")
    plan = spgemm.plan(a, a)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(plan.execute, (a.data, a.data))
    print(numpy.array_equal(found, plan.execute(a.data, a.data)))
"""
    assert python(code).split() == ["True"]


def test_broken_operands_are_named_in_any_layout():
    for layout, kind in product(("csr", "csc"), ("array", "matrix")):
        good = getattr(sp, f"{layout}_{kind}")(np.eye(3))
        bad = good.copy()
        bad.indices[1] = 7
        for operands, name in (((bad, good), "a"), ((good, bad), "b")):
            with pytest.raises(ValueError, match=rf"^{name}_indices must lie in \[0, 3\); entry 1"):
                spgemm.plan(*operands)
        for call in (spgemm.galerkin, spgemm.plan_galerkin):
            for k, name in enumerate("rap"):
                factors = [good, good, good]
                factors[k] = bad
                with pytest.raises(ValueError, match=rf"^{name}_indices must lie in \[0, 3\)"):
                    call(*factors)
            with pytest.raises(ValueError, match=r"^p_indices must lie in"):
                call(None, good, bad)


def test_out_between_the_values_of_an_operand():
    a = random((6, 6), 0.5, 1)
    plan = spgemm.plan(a, a)
    memory = np.zeros(2 * max(a.nnz, plan.nnz))
    values, out = memory[::2][: a.nnz], memory[1::2][: plan.nnz]
    values[:] = a.data
    assert plan.execute(values, a.data, out=out) is out
    np.testing.assert_array_equal(out, spgemm.matmul(a, a).data)
    with pytest.raises(ValueError, match="out shares memory with an operand"):
        plan.execute(values, a.data, out=memory[::2][: plan.nnz])


@pytest.mark.parametrize("layouts", [("csr", "csc"), ("csc", "csc"), ("csc", "csr")])
def test_orders_are_found_once(layouts, monkeypatch):
    a, b = (random((8, 8), 0.4, s, layout=x) for s, x in zip((1, 2), layouts, strict=True))
    plan = spgemm.plan(a, b)
    weights = np.ones(plan.nnz)
    expected = plan.execute_vjp(weights, a.data, b.data)
    monkeypatch.setattr(np, "argsort", lambda *_, **__: pytest.fail("sorted again"))
    for got, wanted in zip(plan.execute_vjp(weights, a.data, b.data), expected, strict=True):
        assert got.tobytes() == wanted.tobytes()
