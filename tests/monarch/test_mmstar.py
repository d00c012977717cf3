"""The MM* factorisation on matrices of the class, built by its definition, and on others."""

import dataclasses
import re

import numpy as np
import pytest
import scipy.linalg
from monarch.cases import random

from linalgkit import monarch


def product(left, middle, right):
    """(P L1 P) R (P L2 P) with explicit permutation and block-diagonal matrices."""
    m = len(left)
    permutation = np.eye(m * m)[np.arange(m * m).reshape(m, m).T.reshape(-1)]
    first, second, third = (scipy.linalg.block_diag(*blocks) for blocks in (left, middle, right))
    return permutation @ first @ permutation @ second @ permutation @ third @ permutation


def member(rng, dtype, m):
    """A matrix of the class with well-conditioned blocks."""
    return product(*(random(rng, dtype, m, m, m) + 3 * np.eye(m, dtype=dtype) for _ in range(3)))


def check(a, found, tolerance):
    rebuilt = product(found.left, found.middle, found.right)
    error = np.linalg.norm(rebuilt - a) / np.linalg.norm(a)
    assert error < tolerance
    assert found.residual < tolerance
    assert type(found.residual) is float
    # what is reported is what is there, but for rounding
    assert abs(found.residual - error) < 100 * np.finfo(found.left.dtype).eps


@pytest.mark.parametrize("m", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_members(m, dtype):
    a = member(np.random.default_rng(m), dtype, m)
    found = monarch.factorize_mmstar(a)
    assert found.left.shape == found.middle.shape == found.right.shape == (m, m, m)
    assert found.left.dtype == dtype
    check(a, found, 1e-11)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_single_precision(dtype):
    a = member(np.random.default_rng(0), dtype, 4).astype(dtype)
    found = monarch.factorize_mmstar(a)
    assert found.left.dtype == dtype
    check(a, found, 1e-4)


def test_gaussian_factors():
    rng = np.random.default_rng(0)
    a = product(*(rng.standard_normal((6, 6, 6)) for _ in range(3)))
    check(a, monarch.factorize_mmstar(a), 1e-9)


@pytest.mark.parametrize("m", [2, 3, 4, 6])
def test_circulants(m):
    a = scipy.linalg.circulant(np.random.default_rng(m).standard_normal(m * m))
    check(a, monarch.factorize_mmstar(a, allow_complex=True), 1e-12)


@pytest.mark.parametrize(
    "a",
    [
        scipy.linalg.hadamard(16).astype(float),
        np.kron(np.random.default_rng(0).random((4, 4)), np.random.default_rng(1).random((4, 4))),
    ],
    ids=["Hadamard", "Kronecker"],
)
def test_equal_eigenvalues(a):
    # All blocks are multiples of each other: any basis is an eigenbasis, and one must be chosen.
    check(a, monarch.factorize_mmstar(a), 1e-13)


def test_products_of_monarch_matrices():
    # M Nᴴ for Monarch M and N: in the class by its name.
    rng = np.random.default_rng(0)
    m = 4
    parts = [rng.standard_normal((m, m, m)) + 3 * np.eye(m) for _ in range(4)]
    identity = np.eye(m * m)
    matrices = [monarch.monarch_matmul(identity, *parts[k : k + 2]).T for k in (0, 2)]
    a = matrices[0] @ matrices[1].T
    check(a, monarch.factorize_mmstar(a, allow_complex=True), 1e-10)


def test_factors_apply_by_monarch_products():
    rng = np.random.default_rng(0)
    a, x = member(rng, "float64", 4), rng.standard_normal(16)
    left, middle, right, _ = monarch.factorize_mmstar(a)
    identity = np.broadcast_to(np.eye(4), (4, 4, 4))
    y = monarch.monarch_matmul(monarch.monarch_matmul(x, right, identity), left, middle)
    np.testing.assert_allclose(y, a @ x, rtol=0, atol=1e-10 * np.abs(a @ x).max())


def test_sweeps_refine():
    a = product(*(np.random.default_rng(3).standard_normal((8, 8, 8)) for _ in range(3)))
    rough = monarch.factorize_mmstar(a, sweeps=0)
    assert monarch.factorize_mmstar(a, sweeps=5).residual < rough.residual / 2


def test_scale_does_not_matter():
    a = member(np.random.default_rng(0), "float64", 3)
    for scale in (1e-150, 1e150):
        check(scale * a, monarch.factorize_mmstar(scale * a), 1e-11)


@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32"])
def test_residual_at_any_magnitude(dtype):
    # Outside of the class, so that a residual of nothing is wrong.
    a = random(np.random.default_rng(0), dtype, 16, 16)
    expected = monarch.factorize_mmstar(a, allow_complex=True).residual
    assert expected > 0.1
    for scale in (2.0**100, 2.0**-90) if dtype == "float32" else (2.0**600, 2.0**-600, 2.0**1020):
        found = monarch.factorize_mmstar(a * np.dtype(dtype).type(scale), allow_complex=True)
        assert found.residual == pytest.approx(expected, rel=1e-3)


def test_half_precision_is_computed_in_single():
    a = member(np.random.default_rng(0), "float64", 3) / 30
    found = monarch.factorize_mmstar(a.astype("f2"), allow_complex=True)
    assert found.residual < 0.05
    real = monarch.factorize_mmstar(np.kron(np.eye(2) + 1, np.eye(2) + 2).astype("f2"))
    assert real.left.dtype == real.middle.dtype == real.right.dtype == np.float16
    assert real.residual < 1e-5


def test_result_is_readable_and_unpacks():
    a = member(np.random.default_rng(1), "float64", 3)
    found = monarch.factorize_mmstar(a)
    pattern = r"<MMStarFactors 9×9 \(3 of 3 blocks 3×3\), float64: residual \S+>"
    assert re.fullmatch(pattern, repr(found))
    left, middle, right, residual = found
    assert left is found.left
    assert middle is found.middle
    assert right is found.right
    assert residual == found.residual
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.residual = 0.0


def test_matrix_outside_the_class_has_a_residual():
    a = np.random.default_rng(0).standard_normal((16, 16))
    found = monarch.factorize_mmstar(a, allow_complex=True)
    assert 0.1 < found.residual < 1
    rebuilt = product(found.left, found.middle, found.right)
    assert found.residual == pytest.approx(np.linalg.norm(rebuilt - a) / np.linalg.norm(a))


def test_real_matrix_without_real_factors():
    a = scipy.linalg.circulant(np.arange(9.0) ** 2)
    with pytest.raises(np.linalg.LinAlgError, match="allow_complex=True"):
        monarch.factorize_mmstar(a)


@pytest.mark.parametrize("a", [np.eye(16), scipy.linalg.dft(16), np.zeros((4, 4))])
def test_singular_blocks(a):
    with pytest.raises(np.linalg.LinAlgError, match=r"block \(\d, \d\)"):
        monarch.factorize_mmstar(a)


def test_one_singular_block_is_allowed():
    # Blocks outside one row and one column need no inverse: here Z[1, 2] = 0.
    rng = np.random.default_rng(0)
    left, middle, right = (rng.standard_normal((3, 3, 3)) + 3 * np.eye(3) for _ in range(3))
    middle[:, 1, 2] = 0
    a = product(left, middle, right)
    check(a, monarch.factorize_mmstar(a), 1e-12)


@pytest.mark.parametrize(
    ("a", "message"),
    [
        (np.ones((3, 4)), r"n × n with n = m²"),
        (np.ones((3, 3)), r"n × n with n = m²"),
        (np.ones(4), r"n × n"),
        (np.ones((0, 0)), "must have entries"),
        (np.array([[1, 2, 3, 4]] * 3 + [[1, 2, np.nan, 4]]), r"a must be finite; entry \(3, 2\)"),
    ],
)
def test_bad_arguments(a, message):
    with pytest.raises(ValueError, match=message):
        monarch.factorize_mmstar(a)


def test_a_flag_is_a_flag():
    with pytest.raises(TypeError, match="allow_complex must be True or False; got 'no'"):
        monarch.factorize_mmstar(np.eye(4), allow_complex="no")
