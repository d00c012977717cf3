"""Products differentiate in the values, with torch and JAX; plans of tensors by the kernels."""

import gc
import weakref
from itertools import product

import numpy as np
import pytest
from spgemm.cases import random

import linalgkit
from linalgkit import spgemm
from linalgkit._testing import autograd, central_gradient

A = (np.array([2.0, -1.0, 0.5]), np.array([0, 2, 1]), np.array([0, 2, 3]))
B = (np.array([1.0, 3.0, -2.0, 4.0]), np.array([0, 1, 1, 0]), np.array([0, 2, 3, 4]))


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_gradient_in_both_data_arrays(name, require):
    require(name)
    weights = np.array([1.0, -2.0, 3.0])

    def loss(asarray):
        index = [asarray(x) for x in (*A[1:], *B[1:])]

        def of_data(a_data, b_data):
            product = spgemm.csr_matmul(
                a_data, index[0], index[1], b_data, index[2], index[3], shape=(2, 2)
            )
            return (product.data * product.data * asarray(weights)).sum()

        return of_data

    if name == "torch":
        import torch

        asarray = torch.asarray
    else:
        import jax.numpy as jnp

        asarray = jnp.asarray
    expected = central_gradient(loss(np.asarray), [A[0].copy(), B[0].copy()])
    found = autograd(name, loss(asarray), [A[0], B[0]], jit=False)
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


LAYOUTS = list(product(["csr", "csc"], repeat=2))


def planned(layouts=("csr", "csr"), dtype="float64", masked=False, slots="auto"):
    a, b = (random((5, 5), 0.5, s, dtype, x) for s, x in zip((1, 2), layouts, strict=True))
    mask = random((5, 5), 0.6, 3) if masked else None
    return spgemm.plan(a, b, mask=mask, slots=slots), a.data, b.data


@pytest.fixture
def ran(require, monkeypatch):
    """What goes through the kernels, by name."""
    require("torch")
    from linalgkit import _torch

    names, run = [], _torch._run
    monkeypatch.setattr(_torch, "_run", lambda *a: names.append(a[1]) or run(*a))
    return names


@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("slots", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_plans_of_tensors_go_through_the_kernels(dtype, slots, masked, layouts, ran):
    import torch

    plan, *values = planned(layouts, dtype, masked, slots)
    tensors = [torch.tensor(x) for x in values]
    found = plan.execute(*tensors)
    assert found.numpy().tobytes() == plan.execute(*values).tobytes()
    weights = torch.arange(1.0, plan.nnz + 1, dtype=torch.float64)
    for got, wanted in zip(
        plan.execute_vjp(weights, *tensors),
        plan.execute_vjp(weights.numpy(), *values),
        strict=True,
    ):
        assert got.numpy().tobytes() == wanted.tobytes()
    assert ran == ["execute_plan", "execute_plan_vjp"]
    leaves = [x.clone().requires_grad_() for x in tensors]
    result = plan.execute(*leaves)
    assert result.detach().numpy().tobytes() == found.numpy().tobytes()
    gradients = torch.autograd.grad((result * weights).sum().real, leaves)
    assert ran == 2 * ["execute_plan", "execute_plan_vjp"]
    with linalgkit.use_engine("array_api"):
        expected = torch.autograd.grad((plan.execute(*leaves) * weights).sum().real, leaves)
    torch.testing.assert_close(gradients, expected, rtol=1e-12, atol=1e-12)
    assert len(ran) == 4
    assert torch.autograd.gradcheck(plan.execute, leaves)
    assert torch.autograd.gradgradcheck(plan.execute, leaves)
    only = plan.execute(leaves[0], tensors[1])
    (alone,) = torch.autograd.grad((only * weights).sum().real, leaves[:1])
    torch.testing.assert_close(alone, gradients[0])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "bool"])
def test_tensors_of_any_dtype(dtype, ran):
    import torch

    plan, *values = planned()
    tensors = [torch.tensor(np.round(4 * x)).to(getattr(torch, dtype)) for x in values]
    found = plan.execute(*tensors)
    assert found.dtype == tensors[0].dtype
    with linalgkit.use_engine("array_api"):
        torch.testing.assert_close(found, plan.execute(*tensors))
    if found.dtype.is_floating_point:
        weights = torch.ones_like(found)
        for got, given in zip(plan.execute_vjp(weights, *tensors), tensors, strict=True):
            assert got.dtype == given.dtype


@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("masked", [False, True])
def test_transforms_of_torch(masked, layouts, require):
    torch = require("torch")
    func = torch.func
    plan, *values = planned(layouts, masked=masked)
    tensors = [torch.tensor(x) for x in values]

    def loss(*some):
        return (plan.execute(*some) ** 2).sum()

    def pulled(cotangent, *some):
        return tuple(plan.execute_vjp(cotangent, *some))

    many = [torch.stack([x, -2 * x, 3 * x]) for x in tensors]
    weights = torch.arange(1.0, plan.nnz + 1, dtype=torch.float64)
    calls = {
        "grad": lambda: func.grad(loss, (0, 1))(*tensors),
        "vmap": lambda: func.vmap(plan.execute)(*many),
        "vmap of one": lambda: func.vmap(plan.execute, (0, None))(many[0], tensors[1]),
        "vmap along another axis": lambda: func.vmap(plan.execute, 1)(*(x.T for x in many)),
        "vmap of grad": lambda: func.vmap(func.grad(loss, (0, 1)))(*many),
        "vmap of vjp": lambda: func.vmap(pulled, (None, 0, 0))(weights, *many),
        "grad of vjp": lambda: func.grad(lambda *x: sum((y**2).sum() for y in pulled(*x)), (0, 1))(
            weights, *tensors
        ),
        "jacrev": lambda: func.jacrev(plan.execute, (0, 1))(*tensors),
        "grad of grad": lambda: func.jacrev(func.grad(loss, 1))(*tensors),
        "jvp": lambda: func.jvp(plan.execute, tuple(tensors), tuple(tensors)),
        "jacfwd": lambda: func.jacfwd(plan.execute)(*tensors),
        "hessian": lambda: func.hessian(loss, (0, 1))(*tensors),
    }
    for name, call in calls.items():
        found = call()
        with linalgkit.use_engine("array_api"):
            expected = call()
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11, msg=name)


def test_compiled_code_of_torch(require):
    torch = require("torch")
    plan, *values = planned()
    leaves = [torch.tensor(x, requires_grad=True) for x in values]

    def loss(*some):
        return (plan.execute(*some) ** 2).sum()

    expected = torch.autograd.grad(loss(*leaves), leaves)
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(*leaves), leaves), expected)


def test_backward_outlives_the_plan(require):
    torch = require("torch")
    plan, *values = planned()
    leaves = [torch.tensor(x, requires_grad=True) for x in values]
    expected = torch.autograd.grad(plan.execute(*leaves).sum(), leaves)
    result = plan.execute(*leaves)
    alive = weakref.ref(plan)
    del plan
    torch.testing.assert_close(torch.autograd.grad(result.sum(), leaves), expected)
    del result
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("semiring", ["min_plus", "max_min", "plus_pair"])
def test_other_semirings_of_tensors_differentiate_as_before(semiring, ran):
    import torch

    plan, *values = planned()
    leaves = [torch.tensor(x, requires_grad=True) for x in values]
    result = plan.execute(*leaves, semiring=semiring)
    np.testing.assert_array_equal(result.detach().numpy(), plan.execute(*values, semiring=semiring))
    assert not ran
