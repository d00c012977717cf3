"""Operators at the limits: huge and tiny numbers, half precision, nothing, what is refused."""

import io

import numpy as np
import pytest
from array_api_compat import array_namespace
from monarch.cases import entries, factors
from monarch.operators import CUBES, SQUARE, close, scattered

from linalgkit._testing import library
from linalgkit.monarch import BlockDiagonal, HigherOrderMonarch, Monarch
from linalgkit.monarch._stacks import single


def test_norm_of_huge_and_tiny_entries():
    left, right = factors(np.random.default_rng(0), "float64", SQUARE[1])
    expected = np.linalg.norm(entries(left, right))
    for scale in (1e200, 1e-200):
        close(Monarch(left * scale, right / scale).norm(), expected)
    close(Monarch(left * 1e-200, right * 1e-60).norm() * 1e260, expected)
    assert Monarch(left * 0, right).norm() == 0


def test_norms_and_diagonals_of_entries_far_apart():
    # Rows of R and columns of L balance each other: all entries of the matrix are ones.
    left, right = np.ones((2, 2, 1)), np.ones((2, 1, 2))
    left[0], left[1], right[0], right[1] = 1e-200, 1e200, 1e200, 1e-200
    operator = Monarch(left, right)
    close(operator.to_dense(), [[1, 1, 0, 0], [0, 0, 1, 1]] * 2)
    close(operator.norm(), np.sqrt(8))
    close(operator.diagonal(), np.diag(operator.to_dense()))
    close(operator.trace(), 2.0)
    close(Monarch(left, right, order="RL").norm(), np.sqrt(8))
    small = Monarch(*(f.astype("f4") for f in (left**0.1, right**0.1)))
    close(small.norm(), np.sqrt(8), "float32")
    close(BlockDiagonal(np.full((2, 2, 2), 1e200)).norm() / 1e200, np.sqrt(8))
    close(BlockDiagonal(np.full((2, 2, 2), 1e-200)).norm() * 1e200, np.sqrt(8))
    assert BlockDiagonal(np.zeros((3, 2, 2))).norm() == 0


@pytest.mark.parametrize("order", ["LR", "RL"])
def test_norm_of_cut_matrices_makes_no_dense_one(order, monkeypatch):
    left, right = factors(np.random.default_rng(0), "complex128", (3, 4, 5, 6, 7, 2))
    shape = (41, 13) if order == "LR" else (13, 41)
    dense = Monarch(left, right, order=order, shape=shape).to_dense()
    left[5, 6, :], right[2, :, 4] = 1e300, np.nan  # beyond 41 rows and 13 columns
    monkeypatch.setattr(Monarch, "to_dense", None)
    for scale in (1, 1e200, 1e-200):
        with np.errstate(over="ignore"):  # beyond the rows
            operator = Monarch(left * scale, right, order=order, shape=shape)
        close(operator.norm() / scale, np.linalg.norm(dense))


@pytest.mark.parametrize(
    ("which", "dtype"),
    [("numpy", "float16"), *((a, b) for a in ("torch", "jax") for b in ("float16", "bfloat16"))],
)
def test_half_precision_is_computed_in_single(which, dtype, require):
    if which != "numpy":
        require(which)
    used = library(which)
    left, right = factors(np.random.default_rng(0), "float32", SQUARE[1])
    left, right = 4 * np.eye(6) + left.round(1), 4 * np.eye(4) + right.round(1)
    arrays = [used.asarray(array.astype("float32")) for array in (left, right, np.ones((12, 2)))]
    xp = array_namespace(*arrays)
    half = getattr(xp, dtype)
    left, right, b = (xp.astype(array, half) for array in arrays)
    wide = [used.asnumpy(xp.astype(array, xp.float32)).astype("f8") for array in (left, right)]
    dense, eps = entries(*wide), {"float16": 1e-3, "bfloat16": 8e-3}[dtype]

    def near(result, expected):
        assert result.dtype == half
        result = used.asnumpy(xp.astype(result, xp.float32))
        np.testing.assert_allclose(result, expected, rtol=0, atol=3 * eps * np.abs(expected).max())

    operators = [
        (Monarch(left, right), dense),
        (BlockDiagonal(right), scattered(wide[1], False)),
        (HigherOrderMonarch([right[:1, ...]]), wide[1][0]),
    ]
    for operator, dense in operators:
        some = b[: dense.shape[0], :]
        near(operator.solve(some), np.linalg.solve(dense, np.ones((len(dense), 2))))
        near(operator.solve(some[:, 0]), np.linalg.solve(dense, np.ones(len(dense))))
        assert operator.solve(xp.astype(some, xp.float32)).dtype == xp.float32
        inverse = operator.inv()
        assert inverse.dtype == half
        for part, full in zip(
            inverse._blocks(), operator._with(*map(single, operator._blocks())).inv()._blocks(),
            strict=True,
        ):  # fmt: skip
            near(part, used.asnumpy(full))
        near(operator.slogdet()[1], np.linalg.slogdet(dense)[1])
        near(operator.norm(), np.linalg.norm(dense))
    near(operators[0][0].lstsq(b), np.linalg.solve(operators[0][1], np.ones((12, 2))))


def test_norm_of_half_precision_whose_sum_of_squares_overflows():
    f = np.random.default_rng(0).random((2, 64, 64, 64)).astype("f2")
    expected = Monarch(*f.astype("f8")).norm()
    assert abs(Monarch(*f).norm() - expected) < 1e-3 * expected


def test_norm_where_terms_cancel():
    rng = np.random.default_rng(0)
    for _ in range(200):
        u, v = rng.standard_normal((2, 3, 2)), rng.standard_normal((2, 1, 3))
        left, right = u[..., [0, 0, 1, 1]], np.concatenate([v, v, -v, -v], axis=1)
        assert Monarch(left, right).norm() < 1e-6  # of terms of order one


@pytest.mark.parametrize("which", ["numpy", "torch", "jax"])
def test_solve_propagates_what_is_not_finite(which, require):
    if which != "numpy":
        require(which)
    used = library(which)
    operator = Monarch(*map(used.asarray, factors(np.random.default_rng(0), "float64", SQUARE[1])))
    b = np.ones((12, 2))
    b[0, 0] = np.nan
    x = used.asnumpy(operator.solve(used.asarray(b)))
    assert np.isnan(x[:, 0]).any()
    assert np.isfinite(x[:, 1]).all()


def test_arrays_of_two_libraries(require):
    torch = require("torch")
    cubes = [torch.tensor(cube) for cube in CUBES]
    m, higher = Monarch(*cubes[:2]), HigherOrderMonarch(cubes)
    for operator in (m, m.T, higher, higher.T, BlockDiagonal(cubes[0])):
        n = operator.shape[0]
        for multiply in (operator.matmat, operator.rmatmat):
            with pytest.raises(TypeError, match=r"torch.*numpy|numpy.*torch"):
                multiply(np.ones((n, 1)))


@pytest.mark.parametrize(
    "operator",
    [
        Monarch(np.ones((0, 2, 3)), np.ones((2, 0, 3))),
        Monarch(np.ones((2, 0, 3)), np.ones((2, 3, 1))),
        Monarch(np.ones((2, 1, 0)), np.ones((0, 3, 1))),
        Monarch(np.ones((2, 2, 0)), np.ones((2, 0, 2))),
        BlockDiagonal(np.ones((0, 2, 2))),
        BlockDiagonal(np.ones((2, 0, 0))),
        HigherOrderMonarch([np.ones((0, 0, 0))]),
        HigherOrderMonarch([np.ones((0, 0, 0)), np.ones((0, 2, 2))]),
    ],
)
def test_nothing(operator):
    dense = operator.to_dense()
    assert dense.shape == operator.shape
    assert not dense.any()
    rows, columns = operator.shape
    close(operator @ np.ones(columns), np.zeros(rows))
    close(operator.rmatvec(np.ones(rows)), np.zeros(columns))
    assert operator.norm() == 0
    if hasattr(operator, "diagonal"):
        close(operator.diagonal(), np.zeros(min(rows, columns)))
    if hasattr(operator, "lstsq"):
        close(operator.lstsq(np.ones(rows)), np.zeros(columns))


@pytest.mark.parametrize("which", ["torch", "jax"])
def test_saving_what_numpy_does_not_have_is_refused(which, require):
    xp = require("jax").numpy if which == "jax" else require(which)
    operator = Monarch(*(xp.ones((2, 2, 2), dtype=xp.bfloat16) for _ in range(2)))
    with pytest.raises(TypeError, match="NumPy has no bfloat16; convert to float32"):
        operator.save(io.BytesIO())
