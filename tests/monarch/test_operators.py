"""`Monarch` and `Product` against dense matrices: every order, cut shapes, batches, libraries."""

import io
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monarch.cases import entries, factors, random
from monarch.operators import ANY, CUBES, SQUARE, X, close, make, scattered

import linalgkit
from linalgkit._operator import Operator
from linalgkit._testing import autograd, central_gradient, library
from linalgkit.monarch import BlockDiagonal, HigherOrderMonarch, Monarch, Product

DTYPES = ("float32", "float64", "complex64", "complex128")


@pytest.mark.parametrize("order", ["LR", "RL"])
@pytest.mark.parametrize("blocks", SQUARE + ANY)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_either_order(dtype, blocks, order):
    operator, dense = make(dtype, blocks, order)
    rng = np.random.default_rng(1)
    rows, columns = dense.shape
    assert operator.shape == dense.shape
    assert operator.dtype == dtype
    x, y = random(rng, dtype, columns, 3), random(rng, dtype, rows, 3)
    close(operator.to_dense(), dense, dtype)
    close(operator @ x, dense @ x, dtype)
    close(operator @ x[:, 0], dense @ x[:, 0], dtype)
    close(operator.rmatmat(y), dense.conj().T @ y, dtype)
    close(operator.rmatvec(y[:, 0]), dense.conj().T @ y[:, 0], dtype)
    close(operator.T.to_dense(), dense.T, dtype)
    close(operator.H.to_dense(), dense.conj().T, dtype)
    close(operator.T.T.to_dense(), dense, dtype)
    close(operator.conj().to_dense(), dense.conj(), dtype)
    close(operator.norm(), np.linalg.norm(dense), dtype)
    close(operator.diagonal(), np.diagonal(dense), dtype)
    linalgkit.dottest(operator, rng=0)
    linalgkit.dottest(operator.H, rng=0)
    close(operator.aslinearoperator() @ x, dense @ x, dtype)


@pytest.mark.parametrize("order", ["LR", "RL"])
@pytest.mark.parametrize("blocks", SQUARE)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_square_blocks_are_inverted(dtype, blocks, order):
    operator, dense = make(dtype, blocks, order)
    factor = 1e3 * np.linalg.cond(dense)
    b = random(np.random.default_rng(1), dtype, dense.shape[0], 3)
    expected = np.linalg.solve(dense, b)
    close(operator.solve(b), expected, factor=factor)
    close(operator.solve(b[:, 0]), expected[:, 0], factor=factor)
    close(operator.lstsq(b), expected, factor=factor)
    close(operator.inv().to_dense(), np.linalg.inv(dense), factor=factor)
    close(operator.inv().inv().to_dense(), dense, factor=factor)
    close(operator.trace(), np.trace(dense))
    sign, logarithm = operator.slogdet()
    expected_sign, expected_logarithm = np.linalg.slogdet(dense)
    close(sign, expected_sign)
    close(logarithm, expected_logarithm, factor=factor)


def test_determinant_of_permutations_is_exact():
    # Blocks that only exchange entries: determinant ±1, by the sign of the whole permutation.
    rng = np.random.default_rng(0)
    for blocks in SQUARE:
        k, q, _, lefts, rows, _ = blocks
        left = np.stack([np.eye(rows)[rng.permutation(rows)] for _ in range(lefts)])
        right = np.stack([np.eye(q)[rng.permutation(q)] for _ in range(k)])
        for order in ("LR", "RL"):
            operator = Monarch(left, right, order=order)
            images = operator.to_dense().argmax(axis=0)
            inversions = sum((images[i + 1 :] < images[i]).sum() for i in range(images.size))
            assert operator.slogdet() == ((-1) ** inversions, 0)


@given(st.tuples(*(st.integers(1, 6) for _ in range(6))), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=40)
def test_any_blocks(sizes, turned, seed):
    k, q, p, a, rows, b = sizes
    blocks = (k * a, q * b, p, k * b, rows, q * a)
    operator, dense = make("complex128", blocks, "RL" if turned else "LR", seed=seed)
    close(operator.to_dense(), dense)
    close(operator.diagonal(), np.diagonal(dense))
    close(operator.norm(), np.linalg.norm(dense))
    close(operator.H.to_dense(), dense.conj().T)


@pytest.mark.parametrize("order", ["LR", "RL"])
def test_cut_matrices(order):
    operator, dense = make("float64", (3, 4, 5, 6, 7, 2), order, (13, 11))
    rng = np.random.default_rng(1)
    x, y = random(rng, "float64", 11, 2), random(rng, "float64", 13, 2)
    close(operator @ x, dense @ x)
    close(operator.rmatmat(y), dense.T @ y)
    close(operator.T.to_dense(), dense.T)
    assert operator.H.shape == (11, 13)
    close(operator.norm(), np.linalg.norm(dense))
    close(operator.diagonal(), np.diagonal(dense))
    square, _ = make("float64", SQUARE[1], shape=(11, 11))
    for method in (square.inv, square.slogdet, lambda: square.solve(np.ones(11))):
        with pytest.raises(ValueError, match=r"whole matrix of shape \(12, 12\).* \(11, 11\)"):
            method()
    with pytest.raises(ValueError, match=r"at most the factors' \(42, 15\).* got \(43, 2\)"):
        Monarch(*factors(rng, "float64", (3, 4, 5, 6, 7, 2)), shape=(43, 2))


def test_batches():
    pairs = [factors(np.random.default_rng(k), "float64", SQUARE[1]) for k in range(3)]
    operator = Monarch(*map(np.stack, zip(*pairs, strict=True)))
    dense = np.stack([entries(*pair) for pair in pairs])
    assert operator.batch_shape == (3,)
    x = np.random.default_rng(0).standard_normal((3, 12, 2))
    close(operator @ x, dense @ x)
    close(operator.rmatmat(x), dense.transpose(0, 2, 1) @ x)
    close(operator.matvec(x[..., 0]), (dense @ x)[..., 0])
    close(operator.to_dense(), dense)
    close(operator.T.to_dense(), dense.transpose(0, 2, 1))
    close(operator.norm(), np.linalg.norm(dense, axis=(1, 2)))
    close(operator.diagonal(), np.diagonal(dense, axis1=1, axis2=2))
    close(operator.solve(x), np.linalg.solve(dense, x), factor=1e6)
    close(operator.slogdet()[1], np.linalg.slogdet(dense)[1])
    assert repr(operator).startswith(
        "<Monarch 3×12×12 (2 of 6×6 and 3 of 4×4 in order LR), float64"
    )


@pytest.mark.parametrize("name", ["left", "right"])
@pytest.mark.parametrize("which", ["numpy", "array_api_strict", "torch", "jax"])
def test_singular_blocks_are_named(which, name, require):
    if which != "numpy":
        require(which)
    used = library(which)
    left, right = factors(np.random.default_rng(0), "float64", (4, 3, 3, 3, 4, 4))
    {"left": left, "right": right}[name][2] = 0
    operator = Monarch(used.asarray(left), used.asarray(right))
    for call in (operator.inv, lambda: operator.solve(used.asarray(np.ones(12)))):
        with pytest.raises(np.linalg.LinAlgError, match=f"block 2 of the {name} factor"):
            call()
    assert float(operator.slogdet()[0]) == 0


@pytest.mark.parametrize("order", ["LR", "RL"])
def test_saved_and_loaded(order):
    for shape in (None, (10, 9)):
        operator, _ = make("complex64", SQUARE[1], order, shape)
        file = io.BytesIO()
        operator.save(file)
        file.seek(0)
        again = linalgkit.load(file)
        assert type(again) is Monarch
        assert again.shape == operator.shape
        np.testing.assert_array_equal(again.to_dense(), operator.to_dense())


@pytest.mark.parametrize("order", ["LR", "RL"])
@pytest.mark.parametrize("which", ["torch", "jax"])
def test_gradients_flow_to_the_factors(which, order, require):
    require(which)
    left, right = factors(np.random.default_rng(0), "float64", (3, 4, 5, 6, 7, 2))
    square = factors(np.random.default_rng(0), "float64", SQUARE[1])
    for parts, methods in (
        ((left, right), ("to_dense", "norm", "diagonal")),
        (square, ("trace", "slogdet", "inv")),
    ):

        def loss(method, left, right):
            result = getattr(Monarch(left, right, order=order), method)()
            result = result.to_dense() if method == "inv" else result
            result = result[1] if method == "slogdet" else result
            return (result**2).sum()

        losses = [partial(loss, method) for method in methods]
        arrays = [part.copy() for part in parts]
        if which == "torch":
            found = [autograd(which, loss, arrays) for loss in losses]
        else:  # all at once: operation by operation, JAX compiles each of them
            jax = require("jax")
            gradients = [jax.grad(loss, argnums=(0, 1)) for loss in losses]
            found = jax.jit(lambda *a, fs=gradients: [f(*a) for f in fs])(
                *map(jax.numpy.asarray, arrays)
            )
        for loss, gradient in zip(losses, found, strict=True):
            expected = central_gradient(loss, arrays)
            for got, wanted in zip(gradient, expected, strict=True):
                np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * abs(wanted).max())


def test_compiled_by_jax(require):
    jax = require("jax")
    left, right = map(jax.numpy.asarray, factors(np.random.default_rng(0), "float64", SQUARE[1]))
    b = jax.numpy.ones(12)
    solved = jax.jit(lambda *f: Monarch(*f).solve(b))(left, right)
    close(solved, np.linalg.solve(entries(np.asarray(left), np.asarray(right)), np.ones(12)))


def test_products():
    a, dense_a = make("float64", (3, 4, 5, 6, 7, 2))
    b, dense_b = make("complex128", (3, 4, 4, 2, 3, 6), shape=(6, 12))
    c, dense_c = make("float64", (3, 4, 5, 6, 2, 2))
    product = Product(a, c.T)
    dense = dense_a @ dense_c.T
    assert isinstance(a @ c.T, Product)
    close((a @ c.T).to_dense(), dense)
    x = np.random.default_rng(0).standard_normal((12, 2))
    close(product @ x, dense @ x)
    close(product @ x[:, 0], dense @ x[:, 0])
    close(product.T.to_dense(), dense.T)
    close(product.H.to_dense(), dense.T)
    linalgkit.dottest(product, rng=0)
    mixed = b.H @ b
    assert mixed.dtype == np.complex128
    close(mixed.to_dense(), dense_b.conj().T @ dense_b)
    longer = product @ c @ c.T
    assert len(longer.operators) == 4
    close(longer.to_dense(), dense @ dense_c @ dense_c.T)
    s, dense_s = make("float64", SQUARE[1])
    close(
        (s @ s.T).solve(np.ones(12)), np.linalg.solve(dense_s @ dense_s.T, np.ones(12)), factor=1e9
    )
    close((s @ s.T).inv().to_dense(), np.linalg.inv(dense_s @ dense_s.T), factor=1e9)
    with pytest.raises(ValueError, match=r"shape \(42, 15\) .* shape \(12, 15\)"):
        Product(a, c)
    with pytest.raises(TypeError, match="no arrays of its own to save"):
        product.save(io.BytesIO())


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_determinants_of_products(dtype):
    (s, dense_s), (t, dense_t) = (make(dtype, SQUARE[1], seed=k) for k in (0, 1))
    sign, logarithm = (s @ t.H @ s).slogdet()
    expected = np.linalg.slogdet(dense_s @ dense_t.conj().T @ dense_s)
    close(sign, expected[0], factor=1e6)
    close(logarithm, expected[1], factor=1e6)


def test_products_of_batches():
    pairs = [factors(np.random.default_rng(k), "float64", SQUARE[1]) for k in range(3)]
    many = Monarch(*map(np.stack, zip(*pairs, strict=True)))
    one, dense_one = make("float64", SQUARE[1], seed=9)
    dense = np.stack([entries(*pair) for pair in pairs])
    x = np.random.default_rng(0).standard_normal((3, 12, 2))
    for product, truth in (
        (many @ one, dense @ dense_one),
        (one @ many, dense_one @ dense),
        (one @ many @ many, dense_one @ dense @ dense),
    ):
        assert product.batch_shape == (3,)
        close(product.to_dense(), truth)
        close(product @ x, truth @ x)
        close(product.T.to_dense(), truth.transpose(0, 2, 1))
        close(product.slogdet()[1], np.linalg.slogdet(truth)[1], factor=1e6)
        close(truth @ product.solve(x), x, factor=1e9)
        close(truth @ product.solve(x[..., 0])[..., None], x[..., :1], factor=1e9)
    assert repr(many @ one) == "<Product 3×12×12 of 2 operators>"
    two = Monarch(many.left[:2], many.right[:2])
    with pytest.raises(ValueError, match=r"same batch axes, or none; got \(2,\) and \(3,\)"):
        two @ many


def test_dtype_of_products_of_operators_without_arrays():
    class Twice(Operator):
        shape, dtype = (12, 12), np.dtype("complex128")

    s, _ = make("float64", SQUARE[1])
    assert Product(Twice(), s).dtype == np.complex128
    assert Product(Twice(), Twice()).dtype == np.complex128


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_block_diagonal(dtype, interleaved):
    rng = np.random.default_rng(0)
    blocks, x, y = (random(rng, dtype, *s) for s in ((3, 4, 2), (6, 5), (12, 5)))
    operator, dense = BlockDiagonal(blocks, interleaved=interleaved), scattered(blocks, interleaved)
    assert operator.shape == dense.shape
    assert operator.dtype == dtype
    close(operator.to_dense(), dense, dtype)
    close(operator @ x, dense @ x, dtype)
    close(operator @ x[:, 0], dense @ x[:, 0], dtype)
    close(operator.rmatmat(y), dense.conj().T @ y, dtype)
    close(operator.T.to_dense(), dense.T, dtype)
    close(operator.H.to_dense(), dense.conj().T, dtype)
    close(operator.conj().to_dense(), dense.conj(), dtype)
    close(operator.norm(), np.linalg.norm(dense), dtype)
    linalgkit.dottest(operator, rng=0)
    square = random(rng, dtype, 3, 4, 4)
    operator, dense = BlockDiagonal(square, interleaved=interleaved), scattered(square, interleaved)
    close(operator.inv().to_dense(), np.linalg.inv(dense), dtype, 1e4)
    close(operator.solve(y), np.linalg.solve(dense, y), dtype, 1e4)
    close(operator.solve(y[:, 0]), np.linalg.solve(dense, y[:, 0]), dtype, 1e4)
    sign, logarithm = operator.slogdet()
    close(sign * np.exp(logarithm), np.linalg.det(dense), dtype, 1e4)
    file = io.BytesIO()
    operator.save(file)
    file.seek(0)
    again = linalgkit.load(file)
    assert again.interleaved is interleaved
    np.testing.assert_array_equal(again.blocks, square)


def test_block_diagonal_batches_and_errors():
    rng = np.random.default_rng(0)
    blocks, x = rng.standard_normal((2, 3, 4, 4)), rng.standard_normal((2, 12, 5))
    operator = BlockDiagonal(blocks, interleaved=True)
    dense = np.stack([scattered(b, True) for b in blocks])
    close(operator.to_dense(), dense)
    close(operator.solve(x), np.linalg.solve(dense, x), factor=1e5)
    close(operator.solve(x[..., 0]), np.linalg.solve(dense, x[..., :1])[..., 0], factor=1e5)
    close(operator.slogdet()[1], np.linalg.slogdet(dense)[1])
    with pytest.raises(ValueError, match=r"shape \(..., k, q, p\); got \(4, 4\)"):
        BlockDiagonal(np.ones((4, 4)))
    with pytest.raises(ValueError, match=r"solve needs square blocks; got .* \(2, 2, 3\)"):
        BlockDiagonal(np.ones((2, 2, 3))).solve(np.ones(4))
    with pytest.raises(ValueError, match="x must have 12 entries"):
        operator @ np.ones(11)
    blocks[0, 1] = 0
    with pytest.raises(np.linalg.LinAlgError, match=r"block \(0, 1\) of the block-diagonal factor"):
        operator.inv()


@pytest.mark.parametrize("dtype", DTYPES)
def test_merged_products(dtype):
    m, dense = make(dtype, (3, 4, 5, 6, 7, 2))  # R of 3 blocks 4×5, L of 6 blocks 7×2
    for product, truth, kinds, parameters in (
        # L (R Rᴴ) Lᴴ: blocks of R Rᴴ are 4×4.
        (m @ m.H, dense @ dense.conj().T, ["Monarch", "BlockDiagonal"], 84 + 48 + 84),
        (m.H @ m, dense.conj().T @ dense, ["BlockDiagonal", "Monarch"], 60 + 24 + 60),
        # L (R Rᴴ) (Lᴴ L) (R Rᴴ) Lᴴ
        (
            (m @ m.H) @ (m @ m.H),
            dense @ dense.conj().T @ dense @ dense.conj().T,
            ["Monarch", "Monarch", "BlockDiagonal"],
            84 + 48 + 24 + 48 + 84,
        ),
        (Product(m.conj()), dense.conj(), ["Monarch"], 84 + 60),
        (Product(m.T), dense.T, ["Monarch"], 84 + 60),
    ):
        merged = product.merged()
        assert [type(operator).__name__ for operator in merged.operators] == kinds
        arrays = [
            array
            for operator in merged.operators
            for array in (
                (operator.blocks,)
                if isinstance(operator, BlockDiagonal)
                else (operator.left, operator.right)
            )
        ]
        assert sum(array.size for array in arrays) == parameters
        assert merged.dtype == dtype
        close(merged.to_dense(), truth, dtype)
        close(merged.H.to_dense(), truth.conj().T, dtype)
        x = random(np.random.default_rng(1), dtype, truth.shape[1], 3)
        close(merged @ x, truth @ x, dtype)
        linalgkit.dottest(merged, rng=0)


def test_what_does_not_merge():
    m, _ = make("float64", SQUARE[0])
    assert [o.order for o in (m @ m).merged().operators] == ["LR", "LR"]
    cut, dense = make("float64", (3, 4, 5, 6, 7, 2), shape=(42, 13))
    assert (cut @ cut.H).merged().operators[0] is cut
    close((cut @ cut.H).merged().to_dense(), dense @ dense.T)
    wide, dense = make("float64", (3, 2, 5, 6, 7, 1))  # Rᴴ R would have blocks 5×5 in place of 2×5
    narrow = BlockDiagonal(wide.right.swapaxes(1, 2)), BlockDiagonal(wide.right)
    assert len(Product(*narrow).merged().operators) == 2
    other, dense = make("float64", (2, 6, 6, 3, 4, 4))  # as large as `one`, of other blocks
    one, dense_one = make("float64", (3, 4, 4, 2, 6, 6))
    close((one @ other.T).merged().to_dense(), dense_one @ dense.T)
    higher = HigherOrderMonarch([np.ones((4, 2, 2))] * 3)
    eight = BlockDiagonal(np.ones((4, 2, 2)))
    product = Product(eight, eight, higher, eight).merged()
    assert [type(operator) for operator in product.operators] == [
        BlockDiagonal,
        HigherOrderMonarch,
        BlockDiagonal,
    ]


@pytest.mark.parametrize("turns", [False, True])
def test_block_diagonal_pairs_become_monarch_matrices(turns):
    left, right = factors(np.random.default_rng(0), "float64", (3, 4, 5, 6, 7, 2))
    pair = BlockDiagonal(left, interleaved=True), BlockDiagonal(right)
    pair = (pair[1].T, pair[0].T) if turns else pair
    (operator,) = Product(*pair).merged().operators
    assert isinstance(operator, Monarch)
    dense = entries(left, right)
    close(operator.to_dense(), dense.T if turns else dense)
    close(Product(*pair).to_dense(), dense.T if turns else dense)


def test_gradients_of_merged_products(require):
    torch = require("torch")
    left, right = (torch.tensor(a, requires_grad=True) for a in factors(
        np.random.default_rng(0), "float64", (3, 4, 5, 6, 7, 2)
    ))  # fmt: skip
    x = torch.ones(42, 2, dtype=torch.float64)

    def gram(left, right):
        m = Monarch(left, right)
        return (m @ m.T).merged() @ x

    assert torch.autograd.gradcheck(gram, (left, right))


def test_what_does_not_fit():
    left, right = factors(np.random.default_rng(0), "float64", (3, 4, 5, 6, 7, 2))
    with pytest.raises(ValueError, match="order must be one of 'LR', 'RL'; got 'lr'"):
        Monarch(left, right, order="lr")
    with pytest.raises(ValueError, match="k q = l r"):
        Monarch(left, right[:2])
    operator = Monarch(left, right)
    for call in (operator.inv, operator.slogdet, lambda: operator.solve(np.ones(42))):
        with pytest.raises(ValueError, match="square blocks"):
            call()
    with pytest.raises(ValueError, match=r"square matrix; got shape \(42, 15\)"):
        operator.trace()
    with pytest.raises(ValueError, match="x must have 15 entries"):
        operator @ np.ones(14)
    with pytest.raises(ValueError, match="b must have 42 entries"):
        operator.lstsq(np.ones(41))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Monarch(*CUBES, shape=5), TypeError, r"shape must be \(rows, columns\); got 5"),
        (lambda: Monarch(*CUBES, shape=(3.5, 4)), TypeError, r"shape\[0\] must be an integer"),
        (lambda: Monarch(*CUBES, shape=(-1, 4)), ValueError, r"shape\[0\] must be at least 0"),
        (lambda: Monarch(*CUBES).solve(None), TypeError, "b must be an array; got None"),
        (lambda: Monarch(*CUBES).lstsq(X, tol="all"), TypeError, "tol must be a number"),
        (lambda: Monarch(*CUBES).lstsq(X, tol=-1), ValueError, "tol must be at least 0"),
        (lambda: Monarch(*CUBES).lstsq(X, maxiter=1.5), TypeError, "maxiter must be an integer"),
        (lambda: Product(Monarch(*CUBES), np.eye(4)), TypeError, "operators; got ndarray"),
        (lambda: Product(None), TypeError, "operators; got NoneType"),
        (lambda: BlockDiagonal(CUBES[0], interleaved="no"), TypeError, "must be True or False"),
        (lambda: HigherOrderMonarch([None]), TypeError, r"factors\[0\] must be an array"),
        (lambda: HigherOrderMonarch([2.0]), ValueError, r"three axes; got shape \(\)"),
    ],
)
def test_arguments_of_a_wrong_kind(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_lists_are_arrays():
    for operator in (
        Monarch(*CUBES),
        BlockDiagonal(CUBES[0]),
        HigherOrderMonarch(tuple(CUBES)),
        Product(Monarch(*CUBES), Monarch(*CUBES)),
    ):
        close(operator.solve(X.tolist()), operator.solve(X))
        for multiply in (operator.matmat, operator.rmatmat):
            close(multiply(X[:, None].tolist()), multiply(X[:, None]))
