"""The operators: the protocol, composition, files."""

import io

import numpy as np
import pytest
from kronecker.cases import dense, dense_sum, random
from scipy.linalg import expm
from scipy.sparse import eye_array
from scipy.sparse.linalg import aslinearoperator, cg, splu

import linalgkit
from linalgkit import kronecker


def made(rng, dtype, *shapes):
    return kronecker.KroneckerProduct([random(rng, dtype, *shape) for shape in shapes])


@pytest.mark.parametrize("dtype", "fD")
def test_protocol(dtype):
    rng = np.random.default_rng(0)
    operator = made(rng, dtype, (2, 3), (4, 2), (3, 3))
    matrix = dense(operator.factors)
    assert operator.shape == matrix.shape
    for got, expected in (
        (operator, matrix), (operator.T, matrix.T), (operator.H, matrix.conj().T),
        (operator.conj(), matrix.conj()),
    ):  # fmt: skip
        np.testing.assert_allclose(got.to_dense(), expected, rtol=1e-5, atol=1e-6)
        linalgkit.dottest(got)
    np.testing.assert_allclose(operator.norm(), np.linalg.norm(matrix), rtol=1e-5)
    x = random(rng, dtype, 18)
    np.testing.assert_allclose(operator @ x, matrix @ x, rtol=0, atol=1e-3)
    np.testing.assert_allclose(operator.rmatvec(operator @ x), matrix.conj().T @ (matrix @ x),
                               rtol=1e-3, atol=1e-2)  # fmt: skip
    b = random(rng, dtype, 24, 2)
    expected = np.linalg.lstsq(matrix, b, rcond=1e-3)[0]
    np.testing.assert_allclose(
        operator.lstsq(b, rcond=1e-3), expected, rtol=0, atol=1e-3 * abs(expected).max()
    )


def test_square_products():
    rng = np.random.default_rng(1)
    operator = made(rng, "d", (3, 3), (4, 4))
    matrix = operator.to_dense()
    np.testing.assert_allclose(operator.diagonal(), np.diag(matrix))
    np.testing.assert_allclose(operator.trace(), np.trace(matrix))
    np.testing.assert_allclose(operator.slogdet(), np.linalg.slogdet(matrix), rtol=1e-12)
    np.testing.assert_allclose(operator.inv().to_dense(), np.linalg.inv(matrix), atol=1e-9)
    b = rng.standard_normal((12, 3))
    np.testing.assert_allclose(operator.solve(b), np.linalg.solve(matrix, b), atol=1e-9)


def test_products_of_products():
    rng = np.random.default_rng(2)
    first, second = made(rng, "d", (2, 3), (4, 2)), made(rng, "d", (3, 5), (2, 2))
    both = first @ second
    assert isinstance(both, kronecker.KroneckerProduct)
    np.testing.assert_allclose(both.to_dense(), first.to_dense() @ second.to_dense())
    with pytest.raises(ValueError, match="fit one by one"):
        first @ made(rng, "d", (2, 2), (3, 3))


def test_sums():
    rng = np.random.default_rng(3)
    operator = kronecker.KroneckerSum([random(rng, "D", n, n) for n in (2, 3, 2)])
    matrix = dense_sum(operator.factors)
    for got, expected in (
        (operator, matrix), (operator.T, matrix.T), (operator.H, matrix.conj().T),
        (operator.conj(), matrix.conj()),
    ):  # fmt: skip
        np.testing.assert_allclose(got.to_dense(), expected, atol=1e-14)
        linalgkit.dottest(got)
    np.testing.assert_allclose(operator.diagonal(), np.diag(matrix))
    np.testing.assert_allclose(operator.trace(), np.trace(matrix))
    np.testing.assert_allclose(operator.expm(0.5).to_dense(), expm(0.5 * matrix), atol=1e-12)
    x = random(rng, "D", 12)
    np.testing.assert_allclose(operator.solve(operator @ x + x, shift=1.0), x, atol=1e-11)


def test_batches():
    rng = np.random.default_rng(4)
    operator = made(rng, "d", (5, 2, 2), (3, 3))
    assert (operator.batch_shape, operator.shape) == ((5,), (6, 6))
    b = rng.standard_normal((5, 6, 2))
    expected = np.linalg.solve(operator.to_dense(), b)
    np.testing.assert_allclose(operator.solve(b), expected, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(operator.solve(b[..., 0]), expected[..., 0], rtol=1e-8, atol=1e-8)
    operator = kronecker.KroneckerSum([rng.standard_normal((5, 2, 2)), np.eye(3)])
    np.testing.assert_allclose(operator @ b, operator.to_dense() @ b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("axes", [0, -1, (1,), (0, 2), (2, 0, 1), ()])
def test_partial_traces(axes):
    rng = np.random.default_rng(7)
    sizes = (2, 3, 4)
    batched = [random(rng, "D", 5, n, n) if n == 3 else random(rng, "D", n, n) for n in sizes]
    for operator in (kronecker.KroneckerProduct(batched), kronecker.KroneckerSum(batched)):
        got = operator.partial_trace(axes)
        assert type(got) is type(operator)
        expected = kronecker.partial_trace(operator.to_dense(), sizes, axes=axes)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(got.to_dense(), expected, rtol=0, atol=1e-13 * scale)


def test_partial_trace_keeps_what_is_not_square():
    rng = np.random.default_rng(8)
    operator = made(rng, "d", (3, 3), (2, 4))
    a, b = operator.factors
    np.testing.assert_allclose(operator.partial_trace(0).to_dense(), np.trace(a) * b)
    with pytest.raises(ValueError, match=r"axis 1 needs a square factor.*factors\[1\].*\(2, 4\)"):
        operator.partial_trace(1)


@pytest.mark.parametrize("kind", ["KroneckerProduct", "KroneckerSum"])
def test_files(kind):
    rng = np.random.default_rng(5)
    operator = getattr(kronecker, kind)([rng.standard_normal((n, n)) for n in (2, 3)])
    file = io.BytesIO()
    operator.save(file)
    file.seek(0)
    loaded = linalgkit.load(file)
    assert type(loaded) is type(operator)
    assert np.array_equal(loaded.to_dense(), operator.to_dense())
    assert "2×2" in repr(loaded)


def test_in_scipys_solvers():
    d = 2 * np.eye(6) - np.eye(6, k=1) - np.eye(6, k=-1)
    operator = kronecker.KroneckerSum([d, d, d])
    b = np.random.default_rng(6).standard_normal(216)
    x, status = cg(operator.aslinearoperator(), b, rtol=1e-12)
    assert status == 0
    np.testing.assert_allclose(x, operator.solve(b), rtol=0, atol=1e-9)


def _positive(rng, n):
    a = rng.standard_normal((n, n))
    return a @ a.T + n * np.eye(n)


@pytest.mark.parametrize("kind", ["scipy", "linalgkit"])
@pytest.mark.parametrize(
    "call",
    [
        lambda a, b: kronecker.kron_eigh(a).eigenvalues,
        lambda a, b: kronecker.kron_svd(a).S,
        lambda a, b: kronecker.kron_slogdet(a),
        lambda a, b: kronecker.kron_cholesky(a),
        lambda a, b: kronecker.kron_power(a, 0.5),
        lambda a, b: [kronecker.kron_diag(a), kronecker.kron_trace(a)],
        lambda a, b: [kronecker.kron_lstsq(a, b)],
        lambda a, b: [kronecker.shifted_solve(a, b, 0.5)],
        lambda a, b: [kronecker.kronsum_solve(a, b)],
        lambda a, b: [kronecker.kronsum_solve_generalized(a, a, b)],
        lambda a, b: [kronecker.kronsum_expm_multiply(a, b, -0.1)],
    ],
)
def test_entries_of_operators_among_the_factors(call, kind):
    rng = np.random.default_rng(5)
    arrays = [_positive(rng, n) for n in (3, 4)]
    if kind == "scipy":
        mixed = [arrays[0], aslinearoperator(arrays[1])]
    else:
        mixed = [kronecker.KroneckerProduct(arrays[:1]), arrays[1]]
    b = rng.standard_normal(12)
    for got, expected in zip(call(mixed, b), call(arrays, b), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_factors_that_only_solve_have_no_entries():
    factor = splu(eye_array(3, format="csc"))
    with pytest.raises(TypeError, match=r"factors\[1\] is a SuperLU, which solves but does not"):
        kronecker.kron_eigh([np.eye(2), factor])
    with pytest.raises(TypeError, match=r"masses\[0\] is a SuperLU"):
        kronecker.kronsum_solve_generalized([np.eye(3)], [factor], np.ones(3))


def test_blocks_of_columns_and_stacks_of_vectors():
    # As many axes as the batch and one: vectors; else columns.
    rng = np.random.default_rng(9)
    factors = [rng.standard_normal((2, 5, 2, 2)) + 3 * np.eye(2), np.eye(3)]
    columns = rng.random((6, 2))
    for kind in (kronecker.KroneckerProduct, kronecker.KroneckerSum):
        operator = kind(factors)
        expected = np.linalg.solve(operator.to_dense(), columns)
        np.testing.assert_allclose(operator.solve(columns), expected, rtol=0, atol=1e-10)
        np.testing.assert_allclose(operator @ operator.solve(columns), columns + 0 * expected,
                                   rtol=0, atol=1e-10)  # fmt: skip
        found = operator.solve(columns[:, 0])
        np.testing.assert_allclose(found, expected[..., 0], rtol=0, atol=1e-10)
        stack = rng.random((2, 5, 6))
        found = np.linalg.solve(operator.to_dense(), stack[..., None])[..., 0]
        np.testing.assert_allclose(operator.solve(stack), found, rtol=0, atol=1e-10)
    operator = kronecker.KroneckerProduct(factors)
    np.testing.assert_allclose(operator.lstsq(columns), operator.solve(columns), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", "dD")
def test_norm_and_determinant_of_sums(dtype):
    rng = np.random.default_rng(10)
    factors = [random(rng, dtype, 2, 3, 3), random(rng, dtype, 2, 2), random(rng, dtype, 4, 4)]
    operator = kronecker.KroneckerSum(factors)
    matrix = operator.to_dense()
    np.testing.assert_allclose(operator.norm(), np.linalg.norm(matrix, axis=(-2, -1)))
    for shift in (0.0, -1.5, 0.5j):
        sign, logarithm = operator.slogdet(shift=shift)
        expected = np.linalg.slogdet(matrix + shift * np.eye(24))
        np.testing.assert_allclose(sign, expected.sign, rtol=0, atol=1e-11)
        np.testing.assert_allclose(logarithm, expected.logabsdet, rtol=1e-12)
    eye = np.eye(3, dtype=dtype)
    assert kronecker.KroneckerSum([eye, -eye]).norm() == 0
    sign, logarithm = kronecker.KroneckerSum([eye, -eye]).slogdet()
    assert (sign, logarithm) == (0, -np.inf)
