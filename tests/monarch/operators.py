"""Operators beside their dense matrices, made by the definition, and how the two are compared."""

import numpy as np
from monarch.cases import entries, factors

from linalgkit.monarch import Monarch

SQUARE = [(2, 2, 2, 2, 2, 2), (3, 4, 4, 2, 6, 6), (6, 2, 2, 3, 4, 4), (4, 6, 6, 8, 3, 3),
          (1, 5, 5, 1, 5, 5), (5, 1, 1, 1, 5, 5), (2, 6, 6, 3, 4, 4)]  # fmt: skip
ANY = [(3, 4, 5, 6, 7, 2), (4, 24, 10, 8, 5, 12), (6, 2, 9, 4, 7, 3), (2, 9, 3, 6, 5, 3)]
CUBES, X = np.random.default_rng(0).random((2, 2, 2, 2)), np.arange(4.0)


def make(dtype, blocks, order="LR", shape=None, seed=0):
    left, right = factors(np.random.default_rng(seed), dtype, blocks)
    dense = entries(left, right)
    operator = Monarch(left, right, order=order, shape=shape)
    dense = dense if order == "LR" else dense.T
    return operator, dense if shape is None else dense[: shape[0], : shape[1]]


def close(result, expected, dtype="float64", factor=1e3):
    result, expected = np.asarray(result), np.asarray(expected)
    assert result.shape == expected.shape
    scale = max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(result, expected, rtol=0, atol=factor * np.finfo(dtype).eps * scale)


def scattered(blocks, interleaved):
    """The block-diagonal matrix by its definition, block by block."""
    k, q, p = blocks.shape
    dense = np.zeros((k * q, k * p), blocks.dtype)
    for j, block in enumerate(blocks):
        if interleaved:
            dense[j::k, j::k] = block
        else:
            dense[j * q : (j + 1) * q, j * p : (j + 1) * p] = block
    return dense
