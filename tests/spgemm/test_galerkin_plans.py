"""Plans of R A P: results into memory, gradients, no conversion more than once."""

from itertools import product

import numpy as np
import pytest
import scipy.sparse as sp
from spgemm.cases import random

import linalgkit
from linalgkit import spgemm
from linalgkit._testing import autograd, central_gradient

ENGINES = ("array_api", "numba")
SIZES = {"left first": (12, 5), "right first": (5, 12)}


def factors(size, layouts, dtype=np.float64):
    """R, A and P; fewer products come first on the left or on the right."""
    fine, coarse = size
    shapes = (coarse, fine), (fine, fine), (fine, coarse)
    return [
        random(shape, 0.3, seed, dtype, layout)
        for seed, (shape, layout) in enumerate(zip(shapes, layouts, strict=True))
    ]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layouts", list(product(["csr", "csc"], repeat=3)))
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_vjp_is_central_differences(size, transposed, layouts, engine):
    r, a, p = factors(SIZES[size], layouts)
    with linalgkit.use_engine(engine):
        plan = spgemm.plan_galerkin(None if transposed else r, a, p)
        weights = np.random.default_rng(0).standard_normal(plan.nnz)
        values = [x.data.copy() for x in ((a, p) if transposed else (r, a, p))]
        none = [None] if transposed else []
        expected = none + central_gradient(
            lambda *some: float(plan.execute(*none, *some) @ weights), values
        )
        found = plan.execute_vjp(weights, *none, *values)
        assert found._fields == ("r_data", "a_data", "p_data")
        for got, wanted in zip(found, expected, strict=True):
            if wanted is None:
                assert got is None
            else:
                np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)
        for name in found._fields:
            alone = plan.execute_vjp(weights, *none, *values, wrt=[name])
            for other in found._fields:
                if other == name and getattr(found, name) is not None:
                    assert getattr(alone, name).tobytes() == getattr(found, name).tobytes()
                else:
                    assert getattr(alone, other) is None
        assert plan.execute_vjp(weights, *none, *values, wrt=()) == (None, None, None)


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_complex_gradients_are_those_of_torch(size, transposed, require):
    torch = require("torch")
    r, a, p = factors(SIZES[size], ("csc", "csr", "csc"), "complex128")
    a.data = np.ascontiguousarray(a.data.real)
    plan = spgemm.plan_galerkin(None if transposed else r, a, p)
    values = [None if transposed else r.data, a.data, p.data]
    leaves = [None if x is None else torch.tensor(x, requires_grad=True) for x in values]
    present = [x for x in leaves if x is not None]
    weights = random((1, plan.nnz), 1.0, 3, "complex128").data
    expected = torch.autograd.grad(plan.execute(*leaves), present, torch.tensor(weights))
    found = [x for x in plan.execute_vjp(weights, *values) if x is not None]
    for got, wanted, leaf in zip(found, expected, present, strict=True):
        assert got.dtype == leaf.detach().numpy().dtype
        np.testing.assert_allclose(got, wanted.numpy(), atol=1e-12)


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_vjp_of_tensors_is_their_autograd(name, require):
    require(name)
    r, a, p = factors((7, 3), ("csr",) * 3)
    plan = spgemm.plan_galerkin(r, a, p)
    weights = np.arange(1.0, plan.nnz + 1)
    asarray = linalgkit._testing.library(name).asarray
    values = [x.data for x in (r, a, p)]

    def loss(*some):
        return (plan.execute(*some) * asarray(weights)).sum()

    found = plan.execute_vjp(asarray(weights), *map(asarray, values))
    for got, wanted in zip(found, autograd(name, loss, values), strict=True):
        np.testing.assert_allclose(np.asarray(got), wanted, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", ["csr", "csc"])
@pytest.mark.parametrize("size", SIZES)
def test_out_and_the_pattern(size, layout, engine):
    r, a, p = factors(SIZES[size], (layout,) * 3)
    with linalgkit.use_engine(engine):
        plan = spgemm.plan_galerkin(r, a, p)
        expected = plan.execute(r.data, a.data, p.data)
        out = np.full(plan.nnz, 7.0)
        assert plan.execute(r.data, a.data, p.data, out=out) is out
        np.testing.assert_array_equal(out, expected)
        with pytest.raises(ValueError, match="out must have shape"):
            plan.execute(r.data, a.data, p.data, out=out[1:])
    coarse = spgemm.galerkin(r, a, p)
    np.testing.assert_array_equal(plan.indices, coarse.indices)
    np.testing.assert_array_equal(plan.indptr, coarse.indptr)
    assert plan.shape == coarse.shape
    assert plan.compression_ratio == plan.flops / coarse.nnz


def test_wrong_cotangents_are_refused():
    r, a, p = factors((6, 3), ("csr",) * 3)
    plan = spgemm.plan_galerkin(r, a, p)
    values, weights = (r.data, a.data, p.data), np.ones(plan.nnz)
    with pytest.raises(ValueError, match="cotangent must have shape"):
        plan.execute_vjp(weights[1:], *values)
    with pytest.raises(ValueError, match="wrt must be one of 'r_data', 'a_data', 'p_data'"):
        plan.execute_vjp(weights, *values, wrt=["b_data"])
    with pytest.raises(ValueError, match="r_data must be the values of R"):
        plan.execute_vjp(weights, None, *values[1:])
    with pytest.raises(TypeError, match="cotangent must be the values alone"):
        plan.execute_vjp(a, *values)
    with pytest.raises(TypeError, match="a_data must be an array; got None"):
        plan.execute_vjp(weights, r.data, None, p.data)
    ints = [x.astype(np.int64) for x in values]
    with pytest.raises(TypeError, match="gradients need floating-point values"):
        plan.execute_vjp(weights.astype(np.int64), *ints)


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("layouts", list(product(["csr", "csc"], repeat=3)))
@pytest.mark.parametrize("size", SIZES)
def test_no_factor_is_converted_twice_and_none_without_need(size, layouts, transposed, monkeypatch):
    r, a, p = factors(SIZES[size], layouts)
    given = (p, a) if transposed else (r, a, p)
    expected = (p.T if transposed else r).toarray() @ a.toarray() @ p.toarray()
    converted = []
    for kind, method in ((sp.csr_array, "tocsc"), (sp.csc_array, "tocsr")):
        run = getattr(kind, method)
        monkeypatch.setattr(
            kind, method, lambda x, *_, run=run, **__: converted.append(x.nnz) or run(x)
        )
    result = spgemm.galerkin(None if transposed else r, a, p)
    monkeypatch.undo()
    in_columns = all(x.format == "csc" for x in given)
    assert result.format == ("csc" if in_columns else "csr")
    odd = [x.nnz for x in given if (x.format == "csc") != in_columns]
    if transposed and (p.format == "csr" or in_columns):  # its transpose has the other layout
        odd.append(p.nnz)
    assert sorted(converted) == sorted(odd)
    np.testing.assert_allclose(result.toarray(), expected, atol=1e-13)
