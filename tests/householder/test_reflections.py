"""`ReflectionProduct` against dense products of the reflections and LAPACK."""

import io
from functools import cache

import numpy as np
import pytest
from scipy.linalg import lapack, qr

import linalgkit
from linalgkit._testing import autograd, central_gradient, library
from linalgkit.householder import ReflectionProduct

DTYPES = ("float32", "float64", "complex64", "complex128")


def make(dtype, n=90, r=80, batch=(), seed=0):
    """Vectors that do not commute, of any leading entries, one strength 0; and the product."""
    vectors, tau, dense = factors_and_dense(dtype, n, r, batch, seed)
    return ReflectionProduct(vectors, tau), dense.copy()


@cache
def factors_and_dense(dtype, n, r, batch, seed):
    rng = np.random.default_rng(seed)
    vectors, tau = rng.standard_normal((*batch, n, r)), rng.uniform(0, 2, (*batch, r))
    if np.dtype(dtype).kind == "c":
        vectors = vectors + 1j * rng.standard_normal(vectors.shape)
        tau = tau + 1j * rng.standard_normal(tau.shape)
    tau[..., r // 2] = 0
    vectors, tau = (vectors / (2 * n) ** 0.5).astype(dtype), tau.astype(dtype)
    dense = np.eye(n)
    for i in range(r):
        v = vectors[..., :, i, None].astype(np.result_type(dtype, np.float64))
        dense = dense @ (np.eye(n) - tau[..., i, None, None] * v * np.swapaxes(v.conj(), -1, -2))
    return vectors, tau, dense


def close(result, expected, dtype="float64", factor=1e4):
    result, expected = np.asarray(result), np.asarray(expected)
    assert result.shape == expected.shape
    scale = max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(result, expected, rtol=0, atol=factor * np.finfo(dtype).eps * scale)


@pytest.mark.parametrize("engine", ["numba", "array_api"])
@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_products(dtype, batch, engine):
    q, dense = make(dtype, batch=batch)
    adjoint = np.swapaxes(dense.conj(), -1, -2)
    x = make(dtype, r=5, seed=1)[0].vectors
    with linalgkit.use_engine(engine):
        for block in (x, np.ascontiguousarray(x), np.repeat(x, 2, axis=-1)[:, ::2]):
            before = block.copy()
            close(q @ block, dense @ block, dtype)
            close(q.rmatmat(block), adjoint @ block, dtype)
            close(block.T @ q, block.T @ dense, dtype)
            np.testing.assert_array_equal(block, before)
        assert (q @ x).dtype == dtype
        close(q @ x[:, 0], (dense @ x)[..., 0], dtype)
        close(x[:, 0] @ q, x[:, 0] @ dense, dtype)
        close(q.H.to_dense(), adjoint, dtype)
        close(q.T @ x, np.swapaxes(dense, -1, -2) @ x, dtype)
        close(q.H.H @ x, dense @ x, dtype)
        close(q.conj() @ x, dense.conj() @ x, dtype)
        close((q @ q.T).to_dense(), dense @ np.swapaxes(dense, -1, -2), dtype)
        if not batch:
            linalgkit.dottest(q, rng=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_determinant_and_inverse(dtype):
    q, dense = make(dtype, 12, 9)
    close(q.det(), np.linalg.det(dense), dtype)
    for got, wanted in zip(q.slogdet(), np.linalg.slogdet(dense), strict=True):
        close(got, wanted, dtype)
    factor = 1e3 * np.linalg.cond(dense)
    close(q.inv().to_dense(), np.linalg.inv(dense), dtype, factor)
    close(q.solve(q @ np.ones(12, dtype)), np.ones(12), dtype, factor)
    projector = ReflectionProduct(np.eye(4, 2), np.array([0.5, 1.0]))
    assert projector.det() == 0
    assert projector.slogdet() == (0, -np.inf)
    with pytest.raises(np.linalg.LinAlgError, match="reflection 1 is singular"):
        projector.inv()


@pytest.mark.parametrize("shape", [(200, 150), (70, 70), (30, 40)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_factor_of_a_qr_decomposition(dtype, shape):
    rng = np.random.default_rng(0)
    a, x = (rng.standard_normal((*shape, 2)) @ [1, 1j] for _ in range(2))
    if np.dtype(dtype).kind == "f":
        a, x = a.real, x.real
    a, x = a.astype(dtype), np.asfortranarray(x.astype(dtype))
    (raw, tau), _ = qr(a, mode="raw")
    q = ReflectionProduct.from_qr(raw, tau)
    is_complex = np.dtype(dtype).kind == "c"
    (multiply,) = lapack.get_lapack_funcs(("unmqr" if is_complex else "ormqr",), (a,))
    used = np.asfortranarray(raw[:, : len(tau)])
    for letter, product in (("N", q.matmat), ("C" if is_complex else "T", q.rmatmat)):
        close(product(x), multiply("L", letter, used, tau, x, 64 * shape[1])[0], dtype, 300)
    again, strengths = np.linalg.qr(a, mode="raw")
    close(ReflectionProduct.from_qr(again.mT, strengths) @ x, q @ x, dtype, 300)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_matrices_and_back(dtype):
    q = ReflectionProduct.random(40, rng=0, dtype=dtype)
    dense = q.to_dense()
    close(dense @ dense.conj().T, np.eye(40), dtype, 30)
    signs = np.diag(np.where(np.arange(40) % 3, 1, -1)).astype(dtype)
    for matrix in (dense, -dense, np.eye(40, dtype=dtype)[::-1], signs):
        close(ReflectionProduct.from_dense(matrix).to_dense(), matrix, dtype, 100)
    with pytest.raises(ValueError, match=r"q is not unitary: .* differs"):
        ReflectionProduct.from_dense(dense * dense.dtype.type(1.01))
    with pytest.raises(ValueError, match=r"q\[1\] is not unitary"):
        ReflectionProduct.from_dense(np.stack([dense, dense + 1]))
    with pytest.raises(ValueError, match="must be square"):
        ReflectionProduct.from_dense(dense[:3])


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_random_matrices_have_haars_distribution(dtype):
    n, count, rng = 4, 4000, np.random.default_rng(0)
    drawn = [ReflectionProduct.random(n, rng=rng, dtype=np.dtype(dtype)) for _ in range(count)]
    vectors, tau = (np.stack([getattr(q, name) for q in drawn]) for name in ("vectors", "tau"))
    batch = ReflectionProduct(vectors, tau)
    matrices = batch.to_dense()
    error = 5 / count**0.5
    np.testing.assert_allclose(np.mean(np.abs(matrices) ** 2, axis=0), 1 / n, atol=error / 2)
    np.testing.assert_allclose(np.mean(matrices, axis=0), 0, atol=error)
    # E|tr Q|² = 1 and E tr Q² = 1 for orthogonal, 0 for unitary ones (Diaconis, Shahshahani).
    traces = np.trace(matrices, axis1=1, axis2=2)
    squares = np.trace(matrices @ matrices, axis1=1, axis2=2)
    assert abs(np.mean(np.abs(traces) ** 2) - 1) < 3 * error
    assert abs(np.mean(squares) - (dtype is np.float64)) < 3 * error
    assert abs(np.mean(batch.det())) < error


def test_large_and_empty():
    q = ReflectionProduct.random(100_000, 10, rng=0)
    x = np.random.default_rng(1).standard_normal((100_000, 3))
    close(np.linalg.norm(q @ x, axis=0), np.linalg.norm(x, axis=0))
    close(q.solve(q @ x), x)
    for n, r, m in ((5, 0, 2), (5, 3, 0), (0, 0, 2)):
        operator, dense = ReflectionProduct(np.ones((n, r)), np.ones(r) / 3), np.zeros((n, m))
        assert (operator @ dense).shape == dense.shape
    close(ReflectionProduct(np.ones((5, 0)), np.ones(0)).to_dense(), np.eye(5))


def test_saved_copied_and_promoted():
    vectors, tau = np.ones((3, 1)), np.ones(1)
    q = ReflectionProduct(vectors, tau)
    before = q @ np.eye(3)
    vectors[:], tau[:] = 7, 7  # what the operator keeps is its own
    np.testing.assert_array_equal(q @ np.eye(3), before)
    close(q @ (1j * np.eye(3)), 1j * before)
    assert (q @ np.eye(3, dtype=int)).dtype == np.float64
    half = ReflectionProduct(np.ones((3, 1), np.float16), np.ones(1, np.float16))
    assert (half @ np.ones((3, 2), np.float16)).dtype == np.float16
    for operator in (make("complex64")[0], make("complex64")[0].H):
        file = io.BytesIO()
        operator.save(file)
        file.seek(0)
        again = linalgkit.load(file)
        assert type(again) is ReflectionProduct
        np.testing.assert_allclose(again.to_dense(), operator.to_dense(), atol=1e-4)
    assert repr(q).startswith("<ReflectionProduct 3×3 (1 reflection), float64: 4 parameters")


@pytest.mark.parametrize("which", ["array_api_strict", "torch", "jax"])
def test_other_libraries(which, require):
    require(which)
    used, (q, dense) = library(which), make("float64", 9, 5)
    other = ReflectionProduct(used.asarray(q.vectors), used.asarray(q.tau))
    x = np.random.default_rng(1).standard_normal((9, 2))
    close(used.asnumpy(other @ used.asarray(x)), dense @ x)
    rows = used.asarray(x.T)
    if which == "array_api_strict":  # raises, where others leave it to the operator
        close(used.asnumpy(other.__rmatmul__(rows)), x.T @ dense)
    else:
        close(used.asnumpy(rows @ other), x.T @ dense)
    close(used.asnumpy(other.H.to_dense()), dense.T)
    close(float(other.det()), np.linalg.det(dense))
    with pytest.raises(TypeError, match="arrays of one library"):
        other @ x


@pytest.mark.parametrize("which", ["torch", "jax"])
def test_gradients(which, require):
    require(which)
    q, _ = make("float64", 6, 4)
    x = np.random.default_rng(1).standard_normal((6, 2))
    arrays = [np.array(a) for a in (x, q.vectors, q.tau)]

    def loss(x, vectors, tau):
        operator = ReflectionProduct(vectors, tau)
        return ((operator @ x) ** 3).sum() + (operator.rmatmat(x) ** 2).sum() + operator.det()

    expected = central_gradient(loss, arrays)
    for got, wanted in zip(autograd(which, loss, arrays), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"vectors must have shape .*\(3, 2\) and \(3,\)"):
        ReflectionProduct(np.ones((3, 2)), np.ones(3))
    for tau in (np.ones(3), np.ones((1, 2)), np.float64(1)):
        with pytest.raises(ValueError, match=r"r at most n and k; got \(3, 2\) and"):
            ReflectionProduct.from_qr(np.ones((3, 2)), tau)
    with pytest.raises(ValueError, match="at most n = 3; got 4"):
        ReflectionProduct.random(3, 4)
    q = ReflectionProduct(np.ones((2, 3, 2)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="x must have 3 entries"):
        q @ np.ones((4, 1))
    with pytest.raises(ValueError, match="batch axes of x must fit"):
        q @ np.ones((5, 3, 1))
    with pytest.raises(ValueError, match="cannot be multiplied"):
        q @ ReflectionProduct(np.ones((4, 1)), np.ones(1))
    projector = ReflectionProduct(np.ones((2, 3, 1)), np.ones((2, 1)))
    for wrong, message in (
        (np.ones(4), r"b must have 3 entries on its last axis; got shape \(4,\)"),
        (np.ones((4, 1)), r"b must have 3 entries on its second-to-last axis; got shape \(4, 1\)"),
        (1.0, r"b must have 3 entries .*; got shape \(\)"),
        (np.ones((5, 3, 1)), "batch axes of b must fit"),
    ):
        with pytest.raises(ValueError, match=message):
            projector.solve(wrong)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 4), (5, 5), (4, 7)])
def test_transposes_of_qr_decompositions_are_told(dtype, shape):
    a = make(dtype, *shape)[0].vectors
    raw, tau = np.linalg.qr(np.stack([a, 2 * a + 1]), mode="raw")
    with pytest.raises(ValueError, match=r"reflection \(0, 0\) is not unitary: .*pass raw\.mT"):
        ReflectionProduct.from_qr(raw, tau)
    ReflectionProduct.from_qr(raw.mT, tau)
    raw[1, 0, -1] = np.nan
    ReflectionProduct.from_qr(raw.mT, tau)  # NaN stays what it is


def test_transposes_of_other_libraries(require):
    jax, torch = require("jax"), require("torch")
    raw, tau = np.linalg.qr(make("float64", 5, 3)[0].vectors, mode="raw")
    with pytest.raises(ValueError, match=r"pass raw\.mT"):
        ReflectionProduct.from_qr(jax.numpy.asarray(raw), jax.numpy.asarray(tau))
    # Transformed, they are not looked at.
    jax.jit(vectors_of_qr)(jax.numpy.asarray(raw), jax.numpy.asarray(tau))
    torch.func.vmap(vectors_of_qr)(torch.asarray(raw)[None], torch.asarray(tau)[None])


def vectors_of_qr(raw, tau):
    return ReflectionProduct.from_qr(raw, tau).vectors


def test_lists_are_arrays():
    q, dense = make("float64", 3, 2)
    close([1, 2, 3] @ q, [1, 2, 3] @ dense)
    close(q.matvec([1, 2, 3]), dense @ [1, 2, 3])
    close(q.solve([1, 2, 3]), np.linalg.solve(dense, [1.0, 2, 3]))
    operators = ReflectionProduct.from_dense, lambda x: ReflectionProduct(x, 1.0)
    factors = lambda x: ReflectionProduct.from_qr(x, x), lambda x: ReflectionProduct(dense, x)
    products = q.matvec, q.matmat, q.solve, q.__matmul__, q.__rmatmul__
    for call in (*operators, *factors, *products):
        with pytest.raises(TypeError, match="must be an array; got None"):
            call(None)


def test_dtypes_of_random_ones(require):
    torch = require("torch")
    with pytest.raises(TypeError, match="dtype of numpy; got 'bfloat16'; float32 holds all"):
        ReflectionProduct.random(3, dtype="bfloat16")
    for wrong in ("int64", int, "word", "sum"):
        with pytest.raises(TypeError, match="dtype must be a floating dtype of numpy; got"):
            ReflectionProduct.random(3, dtype=wrong)
    with pytest.raises(TypeError, match="floating dtype of torch"):
        ReflectionProduct.random(3, dtype=torch.int32, like=torch.ones(1))
    for dtype in ("bfloat16", torch.bfloat16):
        found = ReflectionProduct.random(3, dtype=dtype, like=torch.ones(1))
        assert found.dtype == torch.bfloat16
    assert ReflectionProduct.random(3, dtype=np.complex64, like=torch.ones(1)).dtype == torch.cfloat
    for like in (np.ones(1, int), [1]):
        assert ReflectionProduct.random(3, like=like).dtype == np.float64
    with pytest.raises(TypeError, match="like must be an array; got"):
        ReflectionProduct.random(3, like="torch")
