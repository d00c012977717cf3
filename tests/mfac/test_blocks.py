"""Blocks along the diagonal: every method, vector and library, against the dense matrix."""

import io

import numpy as np
import pytest
from mfac.cases import dense, in_blocks

import linalgkit
from linalgkit._testing import library as library_of
from linalgkit.mfac import BlockFisher, block_fisher, empirical_fisher

LIBRARIES = ["numpy", "array_api_strict", "torch", "jax"]
SHAPES = ((2, 5), (7,), ())
M, D, DAMPING = 6, 18, 0.1


def _used(name, require):
    return library_of(name if name == "numpy" else require(name).__name__)


def problem(dtype=np.float64):
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((M, D)).astype(dtype)
    return gradients, rng.standard_normal((D, 3))


def leaves(flat):
    """Cut what is of the parameters' size on its last axis."""
    pieces = np.split(flat, [10, 17], axis=-1)
    return [
        piece.reshape((*flat.shape[:-1], *shape))
        for piece, shape in zip(pieces, SHAPES, strict=True)
    ]


def blocks_of_leaves(matrix, size):
    """The blocks of a matrix, which end where a leaf ends."""
    result = np.zeros_like(matrix)
    for begin, end in ((0, 10), (10, 17), (17, 18)):
        for first in range(begin, end, size):
            some = slice(first, min(end, first + size))
            result[some, some] = matrix[some, some]
    return result


# Small blocks, ragged ones, large ones (more than the gradients), and one for a leaf.
@pytest.mark.parametrize("size", [1, 4, 8, 30])
@pytest.mark.parametrize("name", LIBRARIES)
def test_every_method_with_leaves(name, size, require):
    used, (gradients, x) = _used(name, require), problem()
    f = blocks_of_leaves(dense(gradients, DAMPING), size)
    inverse, (values, vectors) = np.linalg.inv(f), np.linalg.eigh(f)
    given = [used.asarray(leaf) for leaf in leaves(gradients)]
    fisher = block_fisher(given, size, damping=DAMPING)
    root = vectors * values**-0.5 @ vectors.T
    right = used.asarray(x)
    for found, truth in (
        (fisher @ right, f @ x),
        (fisher.solve(right), inverse @ x),
        (fisher.solve(right[:, 1]), inverse @ x[:, 1]),
        (fisher.inv() @ right, inverse @ x),
        (fisher.whiten(right), root @ x),
        (fisher.whiten(right[:, 0], power=0.5), root @ f @ x[:, 0]),
        (fisher.to_dense(), f),
    ):
        assert isinstance(found, used.array_type)
        np.testing.assert_allclose(used.asnumpy(found), truth, rtol=1e-10, atol=1e-12)
    some = [17, 2, -8, 2]
    for found, truth in (
        (fisher.solve([used.asarray(leaf) for leaf in leaves(x[:, 0])]), inverse @ x[:, 0]),
        (fisher @ [used.asarray(leaf) for leaf in leaves(x[:, 0])], f @ x[:, 0]),
        (fisher.diagonal(), f.diagonal()),
        (fisher.diagonal_inverse(), inverse.diagonal()),
    ):
        for got, wanted in zip(found, leaves(truth), strict=True):
            np.testing.assert_allclose(used.asnumpy(got), wanted, rtol=1e-10, atol=1e-12)
    found = [used.asnumpy(leaf).reshape(-1, 4) for leaf in fisher.inverse_columns(some)]
    np.testing.assert_allclose(np.concatenate(found), inverse[:, some], rtol=1e-10, atol=1e-12)
    for p, q in ((0, 0), (3, 2), (3, -2), (12, 13), (9, 10), (17, 17)):
        assert fisher.inverse_element(p, q) == pytest.approx(inverse[p, q], rel=1e-10, abs=1e-13)
    assert fisher.logdet() == pytest.approx(np.linalg.slogdet(f)[1], rel=1e-11)
    assert fisher.slogdet() == (1.0, fisher.logdet())
    assert fisher.trace() == pytest.approx(np.trace(f), rel=1e-12)
    assert fisher.norm() == pytest.approx(np.linalg.norm(f), rel=1e-12)


@pytest.mark.parametrize("size", [3, 6, 9])
@pytest.mark.parametrize("name", LIBRARIES)
def test_blocks_of_the_inverse(name, size, require):
    used, (gradients, _) = _used(name, require), problem(np.float32)
    fisher = block_fisher(used.asarray(gradients), size, damping=DAMPING)
    inverse = np.linalg.inv(in_blocks(dense(gradients, DAMPING), size))
    found = fisher.inverse_blocks(3)
    assert found.dtype == used.asarray(gradients).dtype
    blocks = inverse.reshape(6, 3, 6, 3)[range(6), :, range(6)]
    np.testing.assert_allclose(used.asnumpy(found), blocks, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [4, 12])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_manners_in_every_precision(dtype, size):
    gradients, x = problem(dtype)
    fisher = block_fisher(gradients, size, damping=DAMPING)
    assert fisher.T is fisher
    assert fisher.H is fisher
    assert fisher.conj() is fisher
    linalgkit.dottest(fisher, rng=0)
    linalgkit.dottest(fisher.inv(), rng=0)
    linalgkit.dottest(fisher.inverse, rng=0)
    inverse = np.linalg.inv(in_blocks(dense(gradients, DAMPING), size))
    found = fisher.solve(x.astype(dtype))
    assert found.dtype == np.promote_types(dtype, np.float32)
    np.testing.assert_allclose(found, inverse @ x.astype(dtype), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fisher.diagonal(), dense(gradients, DAMPING).diagonal(), rtol=1e-6)
    name, width = np.dtype(dtype).name, np.dtype(dtype).itemsize
    assert repr(fisher) == (
        f"<BlockFisher 18×18 (6 gradients, stored in {name}, {-(-18 // size)} blocks of {size}, "
        f"damping 0.1), {fisher.dtype}: 108 parameters, {108 * width} bytes, 3 times smaller than "
        f"dense>"
    )


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("numpy", "float32"), ("torch", "float32"), ("torch", "bfloat16"), ("jax", "bfloat16")],
)
def test_saved(name, dtype, require):
    used, (gradients, x) = _used(name, require), problem(np.float32)
    given = [used.asarray(leaf) for leaf in leaves(gradients)]
    if dtype == "bfloat16":
        namespace = require("torch") if name == "torch" else require("jax").numpy
        given = [namespace.asarray(leaf, dtype=namespace.bfloat16) for leaf in given]
    fisher = block_fisher(given, 4, damping=DAMPING)
    file = io.BytesIO()
    fisher.save(file)
    file.seek(0)
    again = linalgkit.load(file)
    assert isinstance(again, BlockFisher)
    assert (again.layout, again.block_size, again.dtype) == (fisher.layout, 4, np.float32)
    np.testing.assert_allclose(
        again.solve(x), used.asnumpy(fisher.solve(used.asarray(x))), rtol=1e-12
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_gradients_that_are_not_finite(dtype, bad):
    gradients = np.ones((4, 16), dtype)
    gradients[1, 3] = bad
    with pytest.raises(ValueError, match=r"gradients\[1\] is not finite at 3"):
        block_fisher(gradients, 4)
    with pytest.raises(ValueError, match=r"gradients\[1\] of leaf 1 is not finite at 3"):
        block_fisher([np.ones((4, 2), dtype), gradients], 4)


@pytest.mark.parametrize(
    ("name", "engine"), [("numpy", "numba"), *((name, "array_api") for name in LIBRARIES)]
)
def test_damping_that_is_lost(name, engine, require):
    """Of rank one: rounding may leave a positive pivot, but no digits."""
    used = _used(name, require)
    rng = np.random.default_rng(0)
    gradients = rng.integers(-8, 9, (64, 1)) * np.arange(1.0, 9)
    largest = float((gradients**2).sum(axis=1).max())
    with linalgkit.use_engine(engine):
        for ratio in (1e-14, 1e-15, 1e-30):
            fisher = block_fisher(used.asarray(gradients), 8, damping=ratio * largest)
            with pytest.raises(np.linalg.LinAlgError, match="is lost beside the gradients"):
                fisher.diagonal_inverse()
            with pytest.raises(np.linalg.LinAlgError, match="is lost beside the gradients"):
                fisher.solve(used.asarray(np.ones(8)))
        options = {"damping": 1e-10 * largest}
        found = block_fisher(used.asarray(gradients), 8, **options).diagonal_inverse()
    truth = empirical_fisher(gradients, **options).diagonal_inverse()
    np.testing.assert_allclose(used.asnumpy(found), truth, rtol=1e-4)


def test_damping_that_is_lost_in_float32_alone(require):
    jax = require("jax")
    rng = np.random.default_rng(0)
    gradients = rng.integers(-8, 9, (64, 1)) * np.arange(1.0, 9)
    largest = float((gradients**2).sum(axis=1).max())
    with jax.enable_x64(False):
        g, ones = jax.numpy.asarray(gradients), jax.numpy.ones(8)
        found = block_fisher(g, 8, damping=1e-2 * largest).diagonal_inverse()
        for ratio in (1e-6, 1e-8):
            fisher = block_fisher(g, 8, damping=ratio * largest)
            with pytest.raises(np.linalg.LinAlgError, match="is lost beside the gradients"):
                fisher.diagonal_inverse()
            with pytest.raises(np.linalg.LinAlgError, match="is lost beside the gradients"):
                fisher.solve(ones)
    truth = empirical_fisher(gradients, damping=1e-2 * largest).diagonal_inverse()
    np.testing.assert_allclose(found, truth, rtol=1e-5)


def test_jax_factors_that_are_made_under_jit(require):
    jax = require("jax")
    gradients, x = problem()
    fisher = block_fisher(jax.numpy.asarray(gradients), 4, damping=DAMPING)
    inside = jax.jit(fisher.solve)(x)
    np.testing.assert_allclose(inside, fisher.solve(jax.numpy.asarray(x)), rtol=1e-12)


@pytest.mark.parametrize("engine", ["numba", "array_api"])
@pytest.mark.parametrize("size", [4, 12])
def test_no_vectors(engine, size):
    gradients, _ = problem()
    with linalgkit.use_engine(engine):
        fisher = block_fisher(gradients, size, damping=DAMPING)
        assert fisher.solve(np.ones((D, 0))).shape == (D, 0)
        assert (fisher @ np.ones((D, 0))).shape == (D, 0)


def test_gradients_that_are_not_contiguous_are_copied_once():
    gradients, x = problem()
    fisher = block_fisher(np.asfortranarray(gradients), 9, damping=DAMPING)
    forms = [unit.form for unit in fisher._form.units]
    assert all(form.rows.parts[0].flags.c_contiguous for form in forms)
    assert fisher._parts[0].flags.c_contiguous
    truth = in_blocks(dense(gradients, DAMPING), 9)
    np.testing.assert_allclose(fisher.solve(x), np.linalg.solve(truth, x), atol=1e-12)
