"""JAX differentiates the reference engine itself: transforms, complex gradients, precision."""

import numpy as np
import pytest

import linalgkit
from linalgkit import monarch

jax = pytest.importorskip("jax")
jnp = jax.numpy


def operands(dtype=np.float64, batch=(5,)):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s) for s in ((*batch, 6), (2, 2, 6), (3, 4, 2))]
    if np.dtype(dtype).kind == "c":
        arrays = [a + 1j * rng.standard_normal(a.shape) for a in arrays]
    return tuple(jnp.asarray(a, dtype=dtype) for a in arrays)


def loss(x, left, right):
    result = monarch.monarch_matmul(x, left, right)
    return jnp.sum(jnp.sin(jnp.real(result)) + jnp.imag(result) ** 2)


def assert_same(ours, theirs):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_gradients_are_those_of_the_public_function(dtype):
    """By convention JAX's are the conjugates of torch's."""
    x, left, right = operands(dtype)
    result = monarch.monarch_matmul(x, left, right)
    cotangent = jnp.cos(jnp.real(result))
    if np.dtype(dtype).kind == "c":
        cotangent = cotangent + 2j * jnp.imag(result)
    ours = monarch.monarch_matmul_vjp(cotangent, x, left, right)
    theirs = jax.grad(loss, (0, 1, 2))(x, left, right)
    assert_same(tuple(ours), [jnp.conj(g) for g in theirs])


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_gradient_is_the_slope(dtype):
    arrays = operands(dtype)
    steps = [jnp.asarray(np.random.default_rng(1).standard_normal(a.shape)) for a in arrays]
    if np.dtype(dtype).kind == "c":
        steps = [(1 - 2j) * s for s in steps]
    gradients = jax.grad(loss, (0, 1, 2))(*arrays)
    expected = sum(jnp.real(jnp.sum(g * s)) for g, s in zip(gradients, steps, strict=True))
    above, below = (
        loss(*(a + h * s for a, s in zip(arrays, steps, strict=True))) for h in (1e-6, -1e-6)
    )
    np.testing.assert_allclose((above - below) / 2e-6, expected, rtol=1e-7)


def test_forward_mode_and_second_derivatives():
    x, left, right = operands()
    assert_same(
        jax.jacfwd(loss, (0, 1, 2))(x, left, right), jax.grad(loss, (0, 1, 2))(x, left, right)
    )
    hessian = jax.hessian(loss, (1, 2))(x, left, right)
    other = jax.jacrev(jax.jacrev(loss, (1, 2)), (1, 2))(x, left, right)
    assert_same(hessian, other)
    step = jnp.ones_like(x)
    _, tangent = jax.jvp(lambda x: monarch.monarch_matmul(x, left, right), (x,), (step,))
    assert_same(tangent, monarch.monarch_matmul(step, left, right))


def test_public_gradients_under_transforms():
    x, left, right = operands()
    g = jnp.ones((5, 4))

    def pulled(g, x, left, right):
        return tuple(monarch.monarch_matmul_vjp(g, x, left, right, wrt=("x", "left"))[:2])

    plain = pulled(g, x, left, right)
    assert_same(jax.jit(pulled)(g, x, left, right), plain)
    each = jax.vmap(pulled, (0, 0, None, None))(g, x, left, right)
    assert_same((each[0], jnp.sum(each[1], axis=0)), plain)
    jacobian = jax.jacrev(lambda g: pulled(g, x, left, right)[0])(g)
    assert_same(jnp.tensordot(jacobian, g, 2), plain[0])  # it is linear


@pytest.mark.parametrize("axes", [(0, None, None), (1, None, None), (None, 0, 1), (0, 0, 0)])
def test_vmap_over_any_argument(axes):
    x, left, right = operands()
    arrays = [
        a if axis is None else jnp.stack([a, 2 * a, -a], axis=axis)
        for a, axis in zip((x, left, right), axes, strict=True)
    ]
    mapped = jax.jit(jax.vmap(monarch.monarch_matmul, axes))(*arrays)
    for k in range(3):
        alone = [
            a if axis is None else jnp.take(a, k, axis=axis)
            for a, axis in zip(arrays, axes, strict=True)
        ]
        assert_same(mapped[k], monarch.monarch_matmul(*alone))


def test_static_options_under_jit():
    x, left, right = operands()
    jitted = jax.jit(monarch.monarch_matmul, static_argnames="axis")
    expected = monarch.monarch_matmul(x, left, right)
    assert_same(jitted(x, left, right), expected)
    assert_same(jitted(x.T, left, right, axis=0), expected.T)


def test_wishes():
    x, left, right = operands()
    expected = monarch.monarch_matmul(x, left, right)
    with linalgkit.use_engine("array_api"):
        assert_same(monarch.monarch_matmul(x, left, right), expected)
    for name in ("numba", "cupy", "dask"):
        with (
            linalgkit.use_engine(name),
            pytest.raises(linalgkit.EngineError, match=f"{name!r} cannot serve jax arrays"),
        ):
            monarch.monarch_matmul(x, left, right)


def test_without_x64_results_are_float32_and_nothing_warns(python):
    # Without JAX's cache, which may warn of a file that another process is writing.
    code = """
import warnings
warnings.simplefilter("error")
import jax, numpy as np
from linalgkit import monarch
for one in (jax.numpy.ones, lambda s: jax.numpy.ones(s, int)):
    arrays = one((3, 6)), one((2, 2, 6)), one((3, 4, 2))
    result = jax.jit(monarch.monarch_matmul)(*arrays)
    gradients = monarch.monarch_matmul_vjp(result, *arrays)
    print(result.dtype, *{str(g.dtype) for g in gradients}, float(result[0, 0]))
print(jax.config.jax_enable_x64)
"""
    env = {"JAX_ENABLE_X64": "0", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    lines = python(code, env=env).splitlines()
    assert lines == ["float32 float32 12.0"] * 2 + ["False"]
