"""Plans: the bits of matmul for any values, traced by torch and JAX, with gradients."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from spgemm.cases import LARGE, OPERATIONS, random

import linalgkit
from linalgkit import spgemm
from linalgkit._testing import autograd, central_gradient

ENGINES = ("array_api", "numba")
LAYOUTS = list(product(["csr", "csc"], repeat=2))
MASKS = {"no mask": {}, "mask": {"complement": False}, "complement": {"complement": True}}


def mask_options(kind, shape, layout="csr"):
    return MASKS[kind] | ({"mask": random(shape, 0.4, 9, layout=layout)} if MASKS[kind] else {})


def loose(rows, columns, each, seed):
    """Rows with unsorted and repeated indices."""
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, columns, rows * each)
    indptr = np.arange(0, indices.size + 1, each)
    return sp.csr_array((rng.standard_normal(indices.size), indices, indptr), (rows, columns))


def check(a, b, slots, semiring="plus_times", **options):
    """Assert that an execution and a second one with other values give the bits of matmul."""
    plan = spgemm.plan(a, b, slots=slots, **options)
    for _ in range(2):
        expected = spgemm.matmul(a, b, semiring=semiring, **options)
        data = plan.execute(a.data, b.data, semiring=semiring)
        assert data.dtype == expected.dtype
        assert data.tobytes() == expected.data.tobytes()
        ours = plan.to_sparse(data)
        assert type(ours) is type(expected)
        assert ours.shape == plan.shape == expected.shape
        np.testing.assert_array_equal(ours.indices, expected.indices)
        np.testing.assert_array_equal(ours.indptr, expected.indptr)
        a, b = a.copy(), b.copy()
        a.data, b.data = np.roll(a.data, 1), b.data[::-1].copy()
    assert plan.nnz == expected.nnz
    return plan


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("slots", [True, False, "auto"])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("layouts", LAYOUTS)
def test_same_bits_as_matmul_in_all_layouts(layouts, kind, slots, engine):
    a, b = random((30, 25), 0.2, 1, layout=layouts[0]), random((25, 35), 0.2, 2, layout=layouts[1])
    with linalgkit.use_engine(engine):
        plan = check(a, b, slots, **mask_options(kind, (30, 35), layouts[0]))
    assert plan.layout == ("csc" if layouts == ("csc", "csc") else "csr")
    assert plan.flops == np.diff(a.tocsc().indptr) @ np.diff(b.tocsr().indptr)
    assert plan.compression_ratio == plan.flops / plan.nnz
    assert f"{plan.nnz} entries from {plan.flops} products" in repr(plan)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("slots", [True, False])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("semiring", OPERATIONS)
@pytest.mark.parametrize("dtype", ["float64", "int8"])
def test_every_semiring(semiring, dtype, kind, slots, engine):
    a, b = random((20, 15), 0.3, 1, dtype), random((15, 25), 0.3, 2, dtype)
    with linalgkit.use_engine(engine):
        check(a, b, slots, semiring, **mask_options(kind, (20, 25)))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["float32", "complex64", "complex128", "uint64", "int16"])
def test_dtypes(dtype, engine):
    with linalgkit.use_engine(engine):
        for slots in (True, False):
            check(random((20, 15), 0.3, 1, dtype), random((15, 25), 0.3, 2, dtype), slots)
            check(random((20, 15), 0.3, 1, "int32"), random((15, 25), 0.3, 2, dtype), slots)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("slots", [True, False])
@pytest.mark.parametrize("kind", MASKS)
def test_unsorted_and_repeated_indices(kind, slots, engine):
    a, b = loose(12, 9, 7, 1), loose(9, 14, 6, 2)
    with linalgkit.use_engine(engine):
        for semiring in ("plus_times", "min_plus"):
            check(a, b, slots, semiring, **mask_options(kind, (12, 14)))
            check(b.T, a.T, slots, semiring, **mask_options(kind, (14, 12)))


@pytest.mark.parametrize("slots", [True, False])
@pytest.mark.parametrize("longest", [255, 256, 257, 65_535, 65_536, 65_537])
def test_rows_at_the_limits_of_the_slots(longest, slots):
    row = sp.csr_array(np.arange(1.0, longest + 1)[None])
    b = sp.csr_array(sp.vstack([row, row[:, ::-1], sp.csr_array(([3.0], ([0], [1])), row.shape)]))
    b.sort_indices()
    a = sp.csr_array(np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 4.0], [5.0, 0.0, 0.0]]))
    plan = check(a, b, slots)
    expected = a.toarray() @ b.toarray()
    np.testing.assert_array_equal(plan.to_sparse(plan.execute(a.data, b.data)).toarray(), expected)
    mask = sp.csr_array(np.ones((3, longest)))
    check(a, b, slots, mask=mask)


def test_rows_of_many_repeated_entries_are_longer_than_those_of_the_result():
    # One column, 300 times: its slots are all 0, and its length is more than a byte holds.
    b = sp.csr_array((np.arange(300.0), np.zeros(300, int), [0, 300]), (1, 1))
    for slots in (True, False):
        check(sp.csr_array([[2.0], [3.0]]), b, slots)


# Columns of a right operand whose rows have one entry each.
COLUMNS = {
    "in order": lambda k: 2 * k,
    "not in order": lambda k: 2 * k[::-1],
    "two on one": lambda k: k // 2,
    "one is absent": lambda k: 2 * k,
}


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("name", COLUMNS)
def test_right_operands_of_one_entry_a_row(name, workers):
    # Only where nothing moves, meets or is missing is an execution a gather without slots.
    a, rows = random((1500, 2000), 0.1, 1), np.arange(2000)
    data = np.random.default_rng(2).standard_normal(2000)
    b = sp.csr_array((data, (rows, COLUMNS[name](rows))), (2000, 4000))
    if name == "one is absent":
        b = sp.csr_array(sp.vstack([b[:7], sp.csr_array((1, 4000)), b[8:]]))
    with linalgkit.use_workers(workers):
        for semiring in ("plus_times", "min_plus"):
            plan = check(a, b, True, semiring)
    assert (plan.slots is None) == (name == "in order")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("slots", [True, False])
@pytest.mark.parametrize("shape", list(product([0, 1, 4], repeat=3)))
def test_empty_and_tiny_shapes(shape, slots, engine):
    m, k, n = shape
    with linalgkit.use_engine(engine):
        check(sp.csr_array(np.ones((m, k))), sp.csr_array(np.ones((k, n))), slots)
        check(sp.csr_array((m, k)), sp.csr_array((k, n)), slots)
        check(sp.csr_array(np.ones((m, k))), sp.csr_array((k, n)), slots)


@pytest.mark.parametrize("name", LARGE)
def test_large_operands_with_any_number_of_workers(name):
    a, b = LARGE[name]()
    expected = {
        ring: spgemm.matmul(a, b, semiring=ring).data for ring in ("plus_times", "min_plus")
    }
    for workers in (1, 2, 3):
        with linalgkit.use_workers(workers):
            for slots in (True, False):
                plan = spgemm.plan(a, b, slots=slots)
                for ring, data in expected.items():
                    ours = plan.execute(a.data, b.data, semiring=ring)
                    assert ours.tobytes() == data.tobytes()


def test_gradients_of_large_operands_have_the_same_bits_for_any_number_of_workers():
    a, b = LARGE["irregular"]()
    plan = spgemm.plan(a, b)
    weights = np.random.default_rng(0).standard_normal(plan.nnz)
    full = plan.to_sparse(weights)
    found = []
    for workers in (1, 2, 3):
        with linalgkit.use_workers(workers):
            found.append(plan.execute_vjp(weights, a.data, b.data))
    for gradient in found[1:]:
        assert gradient.a_data.tobytes() == found[0].a_data.tobytes()
        assert gradient.b_data.tobytes() == found[0].b_data.tobytes()
    for gradient, operand, dense in [
        (found[0].a_data, a, full @ b.T),
        (found[0].b_data, b, a.T @ full),
    ]:
        rows = np.repeat(np.arange(operand.shape[0]), np.diff(operand.indptr))
        wanted = np.asarray(dense.tocsr()[rows[:500], operand.indices[:500]]).ravel()
        np.testing.assert_allclose(gradient[:500], wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("slots", [True, False])
@pytest.mark.parametrize("layouts", LAYOUTS)
def test_out_is_written_and_returned(layouts, slots, engine):
    a, b = random((9, 9), 0.4, 1, layout=layouts[0]), random((9, 9), 0.4, 2, layout=layouts[1])
    with linalgkit.use_engine(engine):
        plan = spgemm.plan(a, b, slots=slots)
        for semiring in ("plus_times", "max_plus", "or_and"):
            expected = plan.execute(a.data, b.data, semiring=semiring)
            plain = np.full(plan.nnz, 7, expected.dtype)
            strided = np.full(2 * plan.nnz, 7, expected.dtype)[::2]
            for out in (plain, strided):
                assert plan.execute(a.data, b.data, semiring=semiring, out=out) is out
                assert out.tobytes() == expected.tobytes()
        half = a.data.astype(np.float16)
        out = np.empty(plan.nnz, np.float16)
        plan.execute(half, b.data.astype(np.float16), out=out)
        np.testing.assert_allclose(out, plan.execute(a.data, b.data), atol=1e-2)


@pytest.mark.parametrize("engine", ENGINES)
def test_wrong_values_are_refused(engine):
    a = random((6, 6), 0.5, 1)
    with linalgkit.use_engine(engine):
        plan = spgemm.plan(a, a)
        good, short, ones = a.data, a.data[1:], np.ones(plan.nnz)
        for values, name in [((short, good), "a_data"), ((good, short), "b_data")]:
            with pytest.raises(ValueError, match=rf"{name} must have shape \({a.nnz},\)"):
                plan.execute(*values)
            with pytest.raises(ValueError, match=rf"{name} must have shape \({a.nnz},\)"):
                plan.execute_vjp(ones, *values)
        with pytest.raises(ValueError, match=r"cotangent must have shape"):
            plan.execute_vjp(ones[1:], good, good)
        with pytest.raises(ValueError, match="wrt must be one of 'a_data', 'b_data'"):
            plan.execute_vjp(ones, good, good, wrt=["data"])
        with pytest.raises(TypeError, match="gradients need floating-point values; got int64"):
            plan.execute_vjp(*(x.astype(np.int64) for x in (ones, good, good)))
        with pytest.raises(ValueError, match="semiring must be one of"):
            plan.execute(good, good, semiring="times")
        with pytest.raises(ValueError, match="out must have shape"):
            plan.execute(good, good, out=ones[1:])
        with pytest.raises(
            TypeError, match="out must have the result's dtype float64; got float32"
        ):
            plan.execute(good, good, out=ones.astype(np.float32))
        with pytest.raises(TypeError, match="out needs NumPy arrays throughout; got list"):
            plan.execute(good, good, out=ones.tolist())
        memory = np.ones(a.nnz + plan.nnz)
        with pytest.raises(ValueError, match="out shares memory with an operand"):
            plan.execute(memory[: a.nnz], good, out=memory[a.nnz // 2 : a.nnz // 2 + plan.nnz])
        frozen = ones.copy()
        frozen.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            plan.execute(good, good, out=frozen)
        with pytest.raises(ValueError, match="data must have shape"):
            plan.to_sparse(ones[1:])


def test_wrong_patterns_are_refused():
    a = random((6, 6), 0.5, 1)
    with pytest.raises(ValueError, match=r"plan needs a of shape \(m, k\).*\(6, 6\) and \(5, 6\)"):
        spgemm.plan(a, a[:5])
    for layout in ("coo", "bsr", "lil", "dok", "dia"):
        with pytest.raises(ValueError, match=f"b must be CSR or CSC.*got {layout}"):
            spgemm.plan(a, a.asformat(layout))
        with pytest.raises(ValueError, match=f"p must be CSR or CSC.*got {layout}"):
            spgemm.plan_galerkin(None, a, a.asformat(layout))
    for wrong in ("yes", None, 2):
        with pytest.raises(ValueError, match="slots must be 'auto', True or False"):
            spgemm.plan(a, a, slots=wrong)
        with pytest.raises(ValueError, match="slots must be 'auto', True or False"):
            spgemm.plan_galerkin(None, a, a, slots=wrong)
    with pytest.raises(ValueError, match="complement=True needs a mask"):
        spgemm.plan(a, a, complement=True)
    with pytest.raises(ValueError, match=r"mask must have the result's shape \(6, 6\)"):
        spgemm.plan(a, a, mask=a[:5])


def test_values_of_another_library_than_the_pattern(require):
    torch, jax = require("torch"), require("jax")
    for layouts in LAYOUTS:
        a, b = (random((7, 7), 0.4, s, layout=x) for s, x in zip((1, 2), layouts, strict=True))
        plan = spgemm.plan(a, b)
        expected = plan.execute(a.data, b.data)
        for asarray in (torch.asarray, jax.numpy.asarray):
            values = asarray(a.data), asarray(b.data)
            np.testing.assert_allclose(np.asarray(plan.execute(*values)), expected, atol=1e-14)
        with pytest.raises(TypeError, match="a_data is an array of torch, b_data of jax"):
            plan.execute(torch.asarray(a.data), jax.numpy.asarray(b.data))


def test_pattern_from_torch_serves_numpy_and_torch(require):
    torch = require("torch")
    a = random((7, 7), 0.4, 1)
    parts = {part: torch.asarray(getattr(a, part)) for part in ("data", "indices", "indptr")}
    plan = spgemm.plan(*2 * [SimpleNamespace(**parts, shape=a.shape)])
    expected = spgemm.matmul(a, a).data
    np.testing.assert_allclose(plan.execute(parts["data"], parts["data"]), expected)
    assert isinstance(plan.to_sparse(plan.execute(parts["data"], parts["data"])), spgemm.CSR)
    for engine in (None, *ENGINES):
        with linalgkit.use_engine(engine):
            np.testing.assert_allclose(plan.execute(a.data, a.data), expected)


def test_pattern_from_jax_serves_jit_at_once_and_numpy(require):
    jax = require("jax")
    a = random((7, 7), 0.4, 1)
    parts = {part: jax.numpy.asarray(getattr(a, part)) for part in ("data", "indices", "indptr")}
    operand = SimpleNamespace(**parts, shape=a.shape)
    plan = spgemm.plan(operand, operand, mask=operand)
    expected = spgemm.matmul(a, a, mask=a).data
    traced = jax.jit(plan.execute)(parts["data"], parts["data"])
    np.testing.assert_allclose(traced, expected, atol=1e-14)
    np.testing.assert_allclose(plan.execute(parts["data"], parts["data"]), traced, atol=1e-14)
    np.testing.assert_array_equal(plan.execute(a.data, a.data), expected)
    assert all(isinstance(x, jax.Array) for x in plan.to_sparse(traced))
    assert all(isinstance(x, jax.Array) for x in (plan.indices, plan.indptr))


@pytest.mark.parametrize("layouts", [("csr", "csr"), ("csc", "csc"), ("csc", "csr")])
@pytest.mark.parametrize("semiring", OPERATIONS)
def test_jit_and_vmap(layouts, semiring, require):
    jax, torch = require("jax"), require("torch")
    a, b = (random((6, 6), 0.4, s, layout=x) for s, x in zip((1, 2), layouts, strict=True))
    plan = spgemm.plan(a, b, mask=random((6, 6), 0.7, 3))
    expected = plan.execute(a.data, b.data, semiring=semiring)

    def call(a_data, b_data):
        return plan.execute(a_data, b_data, semiring=semiring)

    values = jax.numpy.asarray(a.data), jax.numpy.asarray(b.data)
    np.testing.assert_allclose(jax.jit(call)(*values), expected, atol=1e-14)
    twice = [jax.numpy.stack([-x, x]) for x in values]
    np.testing.assert_allclose(jax.jit(jax.vmap(call))(*twice)[1], expected, atol=1e-14)
    values = torch.asarray(a.data), torch.asarray(b.data)
    twice = [torch.stack([-x, x]) for x in values]
    np.testing.assert_allclose(torch.func.vmap(call)(*twice)[1], expected, atol=1e-14)
    one = torch.func.vmap(call, in_dims=(0, None))(twice[0], values[1])
    np.testing.assert_allclose(one[1], expected, atol=1e-14)


@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("kind", MASKS)
def test_torch_gradients(layouts, kind, require):
    torch = require("torch")
    a, b = (random((5, 5), 0.5, s, layout=x) for s, x in zip((1, 2), layouts, strict=True))
    plan = spgemm.plan(a, b, **mask_options(kind, (5, 5)))
    leaves = [torch.tensor(x.data, requires_grad=True) for x in (a, b)]
    assert torch.autograd.gradcheck(plan.execute, leaves)
    assert torch.autograd.gradgradcheck(plan.execute, leaves)


@pytest.mark.parametrize("name", ["torch", "jax"])
@pytest.mark.parametrize("semiring", ["plus_times", "min_plus", "max_plus", "max_min", "min_max"])
def test_gradients_by_autograd_are_central_differences(name, semiring, require):
    require(name)
    a, b = random((5, 6), 0.5, 1), random((6, 5), 0.5, 2)
    plan = spgemm.plan(a, b)

    def loss(a_data, b_data):
        result = plan.execute(a_data, b_data, semiring=semiring)
        return (result * result).sum()

    expected = central_gradient(loss, [a.data.copy(), b.data.copy()])
    for got, wanted in zip(autograd(name, loss, [a.data, b.data]), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("kind", MASKS)
def test_vjp_is_central_differences(kind, layouts, engine):
    a, b = (random((6, 6), 0.4, s, layout=x) for s, x in zip((1, 2), layouts, strict=True))
    with linalgkit.use_engine(engine):
        plan = spgemm.plan(a, b, **mask_options(kind, (6, 6)))
        weights = np.random.default_rng(0).standard_normal(plan.nnz)
        expected = central_gradient(
            lambda *values: float(plan.execute(*values) @ weights), [a.data.copy(), b.data.copy()]
        )
        found = plan.execute_vjp(weights, a.data, b.data)
        assert found._fields == ("a_data", "b_data")
        for got, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-7, atol=1e-8)
        for name, other in (("a_data", "b_data"), ("b_data", "a_data")):
            alone = plan.execute_vjp(weights, a.data, b.data, wrt=[name])
            assert getattr(alone, other) is None
            assert getattr(alone, name).tobytes() == getattr(found, name).tobytes()
        assert plan.execute_vjp(weights, a.data, b.data, wrt=()) == (None, None)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtypes", list(product(["float64", "complex128"], repeat=2)))
@pytest.mark.parametrize("layouts", [("csr", "csr"), ("csc", "csc")])
def test_complex_gradients_are_those_of_torch(dtypes, layouts, engine, require):
    torch = require("torch")
    a, b = (
        random((6, 6), 0.4, 1, dtypes[0], layouts[0]),
        random((6, 6), 0.4, 2, dtypes[1], layouts[1]),
    )
    plan = spgemm.plan(a, b)
    leaves = [torch.tensor(x.data, requires_grad=True) for x in (a, b)]
    result = plan.execute(*leaves)
    weights = random((1, plan.nnz), 1.0, 3, str(result.detach().numpy().dtype)).data
    expected = torch.autograd.grad(result, leaves, torch.tensor(weights))
    with linalgkit.use_engine(engine):
        found = plan.execute_vjp(weights, a.data, b.data)
    for got, wanted, given in zip(found, expected, (a, b), strict=True):
        assert got.dtype == given.dtype
        np.testing.assert_allclose(got, wanted.numpy(), atol=1e-13)
    by_torch = plan.execute_vjp(torch.tensor(weights), *leaves)
    for got, wanted in zip(by_torch, expected, strict=True):
        np.testing.assert_allclose(got.detach().numpy(), wanted.numpy(), atol=1e-13)


@pytest.mark.parametrize("engine", ENGINES)
def test_vjp_with_repeated_indices_unused_entries_and_narrow_values(engine):
    a, b = loose(7, 6, 5, 1), loose(6, 8, 5, 2)
    with linalgkit.use_engine(engine):
        plan = spgemm.plan(a, b)
        weights = np.random.default_rng(0).standard_normal(plan.nnz)
        dense = plan.to_sparse(weights).toarray()
        found = plan.execute_vjp(weights, a.data, b.data)
        rows = np.repeat(np.arange(7), np.diff(a.indptr))
        np.testing.assert_allclose(
            found.a_data, (dense @ b.toarray().T)[rows, a.indices], atol=1e-13
        )
        rows = np.repeat(np.arange(6), np.diff(b.indptr))
        np.testing.assert_allclose(
            found.b_data, (a.toarray().T @ dense)[rows, b.indices], atol=1e-13
        )
        for dtype, tolerance in (("float32", 1e-5), ("float16", 1e-1)):
            narrow = plan.execute_vjp(*(x.astype(dtype) for x in (weights, a.data, b.data)))
            for got, wanted in zip(narrow, found, strict=True):
                assert got.dtype == dtype
                np.testing.assert_allclose(got, wanted, atol=tolerance)
        slack = random((6, 6), 0.4, 1, layout="csc")
        expected = spgemm.plan(slack, slack.tocsr())
        weights = np.ones(expected.nnz)
        wanted = expected.execute_vjp(weights, slack.data, slack.tocsr().data)
        loose_end = slack.copy()
        loose_end.data = np.append(slack.data, 5.0)
        loose_end.indices = np.append(slack.indices, 99).astype(np.int32)
        found = spgemm.plan(loose_end, slack.tocsr()).execute_vjp(
            weights, loose_end.data, slack.tocsr().data
        )
        np.testing.assert_array_equal(found.a_data, np.append(wanted.a_data, 0.0))
        np.testing.assert_array_equal(found.b_data, wanted.b_data)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layouts", list(product(["csr", "csc"], repeat=3)))
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("sizes", [(12, 5), (5, 12)])
def test_galerkin_and_its_plan_are_the_triple_product(sizes, transposed, layouts, engine):
    fine, coarse = sizes
    r, a, p = (
        random(shape, 0.3, seed, layout=layout)
        for seed, (shape, layout) in enumerate(
            zip(((coarse, fine), (fine, fine), (fine, coarse)), layouts, strict=True)
        )
    )
    with linalgkit.use_engine(engine):
        left = None if transposed else r
        expected = (p.T if transposed else r).toarray() @ a.toarray() @ p.toarray()
        once = spgemm.galerkin(left, a, p)
        np.testing.assert_allclose(once.toarray(), expected, atol=1e-13)
        plan = spgemm.plan_galerkin(left, a, p)
        data = plan.execute(None if transposed else r.data, a.data, p.data)
        assert data.tobytes() == plan.to_sparse(data).asformat(once.format).data.tobytes()
        np.testing.assert_allclose(plan.to_sparse(data).toarray(), expected, atol=1e-13)
        data = plan.execute(None if transposed else r.data, 3 * a.data, -p.data)
        factor = 3 if transposed else -3
        np.testing.assert_allclose(plan.to_sparse(data).toarray(), factor * expected, atol=1e-12)
        assert ("(R A) P" if plan.left_first else "R (A P)") in repr(plan)


@pytest.mark.parametrize("fine_first", [True, False])
def test_galerkin_takes_the_order_of_fewer_products(fine_first):
    # R shrinks 200 rows to 2, or P shrinks 200 columns to 2: the shrinking one goes first.
    small, large = random((2, 200), 0.3, 1), random((200, 200), 0.3, 2)
    if fine_first:
        plan = spgemm.plan_galerkin(small, large, large)
    else:
        plan = spgemm.plan_galerkin(large, large, sp.csr_array(small.T))
    assert plan.left_first is fine_first


def test_wrong_triple_products_are_refused():
    a, p = random((6, 6), 0.5, 1), random((6, 3), 0.5, 2)
    for call in (spgemm.galerkin, spgemm.plan_galerkin):
        with pytest.raises(
            ValueError, match=r"got \(3, 6\) \(p transposed\), \(5, 6\) and \(6, 3\)"
        ):
            call(None, a[:5], p)
        with pytest.raises(ValueError, match=r"got \(6, 6\), \(6, 6\) and \(3, 6\)"):
            call(a, a, p.T.tocsr())
    plan, other = spgemm.plan_galerkin(None, a, p), spgemm.plan_galerkin(a, a, p)
    with pytest.raises(ValueError, match=r"r_data must be None"):
        plan.execute(p.data, a.data, p.data)
    with pytest.raises(ValueError, match="r_data must be the values of R"):
        other.execute(None, a.data, p.data)
    for values in [(None, a.data[1:], p.data), (None, a.data, p.data[1:])]:
        with pytest.raises(ValueError, match="must have shape"):
            plan.execute(*values)
    for k in range(3):
        values = [a.data, a.data, p.data]
        values[k] = values[k][1:]
        with pytest.raises(ValueError, match="must have shape"):
            other.execute(*values)


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_galerkin_plan_differentiates(name, require):
    require(name)
    a, p = random((5, 5), 0.5, 1), random((5, 3), 0.5, 2)
    plan = spgemm.plan_galerkin(None, a, p)

    def loss(a_data, p_data):
        result = plan.execute(None, a_data, p_data)
        return (result * result).sum()

    expected = central_gradient(loss, [a.data.copy(), p.data.copy()])
    for got, wanted in zip(autograd(name, loss, [a.data, p.data]), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
