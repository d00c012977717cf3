"""The reference engine differentiates in the values, with torch and JAX."""

import numpy as np
import pytest

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
