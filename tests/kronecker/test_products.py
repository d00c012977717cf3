"""Products: conventions, order of modes, sizes, dtypes, operators as factors, memory, bad input."""

from functools import cache, reduce
from itertools import permutations, product

import numpy as np
import pytest
from kronecker.cases import dense, dense_sum, random
from scipy.sparse import csc_array, csr_array
from scipy.sparse.linalg import aslinearoperator, splu

import linalgkit
from linalgkit import _testing, kronecker
from linalgkit.kronecker._modes import steps

TOLERANCE = {"f": 1e-5, "d": 1e-13, "F": 1e-5, "D": 1e-13}
SHAPES = {
    "one": [(3, 4)],
    "unequal": [(2, 3), (4, 2), (3, 3)],
    "last alone": [(1, 1), (70, 5)],
    "many of two": [(2, 2)] * 9,
    "fused": [(8, 8)] * 4,
    "no multiple of a vector": [(7, 5), (9, 11), (13, 6)],
    "large, fused": [(70, 66), (3, 4)],
    "BLAS in the middle": [(5, 5), (170, 166), (3, 4)],
    "BLAS first and last": [(166, 3), (2, 2), (2, 165)],
    "row and column": [(1, 6), (6, 1)],
}


@cache
def multiplied(name, dtype):
    """Factors, vectors, their products by numpy.kron, and what its adjoint makes of these."""
    rng = np.random.default_rng(0)
    factors = [random(rng, dtype, *shape) for shape in SHAPES[name]]
    matrix = dense(factors)
    x = random(rng, dtype, 3, matrix.shape[1])
    y = x @ matrix.T
    return factors, x, y, y @ matrix.conj()


@pytest.mark.parametrize("engine", ["array_api", "numba"])
@pytest.mark.parametrize("dtype", "fdFD")
@pytest.mark.parametrize("name", SHAPES)
def test_product_is_that_of_numpy_kron(name, dtype, engine):
    factors, x, expected, pulled = multiplied(name, dtype)
    with linalgkit.use_engine(engine):
        got = kronecker.kron_matvec(factors, x)
        block = kronecker.kron_matmat(factors, x.T)
        back = kronecker.kron_rmatvec(factors, expected)
    scale = np.abs(expected).max()
    assert got.dtype == np.dtype(dtype)
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE[dtype] * scale)
    np.testing.assert_allclose(block, expected.T, rtol=0, atol=TOLERANCE[dtype] * scale)
    scale = np.abs(pulled).max()
    np.testing.assert_allclose(back, pulled, rtol=0, atol=10 * TOLERANCE[dtype] * scale)


@cache
def added_up(sizes, dtype):
    """Factors, vectors, and their products with the dense sum."""
    rng = np.random.default_rng(1)
    factors = [random(rng, dtype, n, n) for n in sizes]
    x = random(rng, dtype, 2, int(np.prod(sizes)))
    return factors, x, x @ dense_sum(factors).T


@pytest.mark.parametrize("engine", ["array_api", "numba"])
@pytest.mark.parametrize("dtype", "fD")
@pytest.mark.parametrize("sizes", [(3,), (3, 2, 4), (8, 8, 8, 8), (5, 165, 2), (17, 170), (2,) * 9])
def test_sum_is_the_dense_one(sizes, dtype, engine):
    factors, x, expected = added_up(sizes, dtype)
    with linalgkit.use_engine(engine):
        got = kronecker.kronsum_matvec(factors, x)
        block = kronecker.KroneckerSum(factors) @ x.T
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE[dtype] * scale)
    np.testing.assert_allclose(block, expected.T, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("engine", ["array_api", "numba"])
@pytest.mark.parametrize("size", [3, 166])
def test_batches_broadcast(size, engine):
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((4, 1, size, 3)), rng.standard_normal((5, 2, 4))
    x = rng.standard_normal((1, 5, 12))
    with linalgkit.use_engine(engine):
        got = kronecker.kron_matvec([a, b], x)
    assert got.shape == (4, 5, size * 2)
    for i, j in product(range(4), range(5)):
        expected = np.kron(a[i, 0], b[j]) @ x[0, j]
        np.testing.assert_allclose(got[i, j], expected, rtol=0, atol=1e-12)


def test_arrays_of_any_layout():
    rng = np.random.default_rng(14)
    a, b, x = (rng.standard_normal(shape) for shape in ((3, 4), (170, 5), 20))
    expected = np.kron(a, b) @ x
    unaligned = np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view("d")
    assert not unaligned.flags.aligned
    for factors, y in (
        ([np.asfortranarray(a), b.T.copy().T], unaligned),
        ([a.astype(">f8"), np.repeat(b, 2, axis=0)[::2]], np.repeat(x, 3)[::3]),
    ):
        found = kronecker.kron_matvec(factors, y)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_more_fibres_than_one_piece():
    rng = np.random.default_rng(10)
    a, b = rng.standard_normal((600, 600)), rng.standard_normal((170, 2))
    for factors in ([a, b], [b, a]):
        x = rng.standard_normal([f.shape[1] for f in factors])
        got = kronecker.kron_matvec(factors, x.ravel())
        expected = (factors[0] @ x @ factors[1].T).ravel()
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)
    x = rng.standard_normal((600, 2, 600))
    eye = np.eye(2)
    expected = np.einsum("ij,jkl->ikl", a, x) + np.einsum("lm,ikm->ikl", a, x) + x
    got = kronecker.kronsum_matvec([a, eye, a], x.ravel()).reshape(x.shape)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)


def test_row_major_convention():
    rng = np.random.default_rng(3)
    a, b, x = rng.standard_normal((2, 3)), rng.standard_normal((4, 5)), rng.standard_normal((3, 5))
    np.testing.assert_allclose(
        kronecker.kron_matvec([a, b], x.ravel()), (a @ x @ b.T).ravel(), rtol=0, atol=1e-13
    )


def operations(order, rows, columns):
    sizes, total = list(columns), 0
    for k in order:
        total += int(np.prod(sizes)) * rows[k]
        sizes[k] = rows[k]
    return total


@pytest.mark.parametrize("seed", range(20))
def test_order_takes_the_fewest_operations(seed):
    rng = np.random.default_rng(seed)
    d = int(rng.integers(1, 6))
    rows, columns = rng.integers(1, 9, d).tolist(), rng.integers(1, 9, d).tolist()
    order = [k for k, _, _ in steps(rows, columns)]
    best = min(operations(o, rows, columns) for o in permutations(range(d)))
    assert operations(order, rows, columns) == best


@pytest.mark.parametrize("engine", ["array_api", "numba"])
@pytest.mark.parametrize("shapes", [[(0, 3), (2, 2)], [(3, 0), (2, 2)], [(0, 0)]])
def test_empty_modes(shapes, engine):
    factors = [np.ones(shape) for shape in shapes]
    x = np.ones((2, int(np.prod([n for _, n in shapes]))))
    with linalgkit.use_engine(engine):
        got = kronecker.kron_matvec(factors, x)
    np.testing.assert_array_equal(got, x @ dense(factors).T)


def test_operators_as_factors():
    rng = np.random.default_rng(4)
    a, b, c = (rng.standard_normal(shape) for shape in ((2, 3), (4, 4), (5, 2)))
    factors = [a, kronecker.KroneckerProduct([b[:2, :2], b[2:, 2:]]), aslinearoperator(c)]
    plain = [a, np.kron(b[:2, :2], b[2:, 2:]), c]
    x = rng.standard_normal((2, 24))
    y = kronecker.kron_matvec(factors, x)
    np.testing.assert_allclose(y, x @ dense(plain).T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(kronecker.kron_matmat(factors, x.T), y.T, rtol=0, atol=1e-12)
    z = kronecker.kron_rmatvec(factors, y)
    np.testing.assert_allclose(z, y @ dense(plain), rtol=0, atol=1e-11)


def test_operators_in_sums():
    rng = np.random.default_rng(13)
    a, b, c = (rng.standard_normal((n, n)) for n in (3, 4, 2))
    sparse = aslinearoperator(csr_array(b))
    x = rng.standard_normal((2, 24))
    got = kronecker.kronsum_matvec([a, sparse, kronecker.KroneckerProduct([c])], x)
    np.testing.assert_allclose(got, x @ dense_sum([a, b, c]).T, rtol=0, atol=1e-12)


def test_operators_of_no_points():
    factors = [aslinearoperator(np.ones((3, 0))), np.ones((2, 2))]
    np.testing.assert_array_equal(kronecker.kron_matvec(factors, np.ones((4, 0))), np.zeros((4, 6)))


@pytest.mark.parametrize("function", ["kron_matvec", "kron_rmatvec", "kronsum_matvec"])
def test_operators_that_do_not_fit(function):
    call, operator = getattr(kronecker, function), aslinearoperator(np.eye(2))
    with pytest.raises(ValueError, match=r"each is one matrix.*\(3, 2, 2\), \(2, 2\)"):
        call([np.ones((3, 2, 2)), operator], np.ones(4))
    with pytest.raises(ValueError, match="2·3 = 6 entries"):
        call([operator, np.eye(3)], np.ones(4))
    with pytest.raises(TypeError, match=r"factors\[1\] is a SuperLU, which solves"):
        call([np.eye(2), splu(csc_array(np.eye(2)))], np.ones(4))


def test_same_bits_from_any_number_of_workers():
    rng = np.random.default_rng(5)
    for sizes in ((16,) * 4, (70, 300, 20)):
        factors = [rng.standard_normal((n, n)) for n in sizes]
        x = rng.standard_normal(int(np.prod(sizes)))
        results = []
        for n in (1, 2, 5):
            with linalgkit.use_workers(n):
                results.append(
                    (kronecker.kron_matvec(factors, x), kronecker.kronsum_matvec(factors, x))
                )
        for one in results[1:]:
            assert all(np.array_equal(a, b) for a, b in zip(one, results[0], strict=True))


def test_nan_stays_in_its_item():
    rng = np.random.default_rng(6)
    factors = [rng.standard_normal((8, 8)) for _ in range(3)]
    x = rng.standard_normal((4, 512))
    x[2, 7] = np.nan
    got = kronecker.kron_matvec(factors, x)
    assert np.isnan(got[2]).all()
    assert np.isfinite(got[[0, 1, 3]]).all()


@pytest.mark.parametrize("engine", ["array_api", "numba"])
@pytest.mark.parametrize("axes", [0, 1, 2, 3, -1, (0, 1), (1, 3), (2, 0), (0, 1, 2, 3), ()])
def test_partial_trace_is_a_sum_of_blocks(axes, engine):
    rng = np.random.default_rng(12)
    sizes = (2, 3, 1, 4)
    a = random(rng, "D", 24, 24)
    traced = {axis % 4 for axis in np.atleast_1d(np.array(axes, int))}
    kept = [k for k in range(4) if k not in traced]
    m = int(np.prod([sizes[k] for k in kept]))
    expected = np.zeros((m, m), complex)
    for place in np.ndindex(*(sizes[k] if k in traced else 1 for k in range(4))):
        index = tuple(i if k in traced else slice(None) for k, i in enumerate(place))
        expected += a.reshape(sizes * 2)[index * 2].reshape(m, m)
    with linalgkit.use_engine(engine):
        got = kronecker.partial_trace(a, sizes, axes=axes)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(np.trace(got), np.trace(a), rtol=0, atol=1e-13)


MEMORY = """
import resource
import numpy as np
from linalgkit import kronecker
rng = np.random.default_rng(0)
factors = [rng.standard_normal((40, 40)) for _ in range(4)]
kronecker.kron_matvec([a[:2, :2] for a in factors], np.ones(16))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
y = kronecker.kron_matvec(factors, np.ones(40**4))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
sums = [a.sum(axis=1) for a in factors]
assert np.allclose(y, np.einsum("i,j,k,l->ijkl", *sums).ravel())
"""


def test_memory_is_that_of_a_few_grids(python):
    # 2.56 million unknowns, 20 MB a grid; the dense matrix would have 52 TB.
    assert int(python(MEMORY)) < 200_000  # kilobytes


def test_gradients_of_batches():
    rng = np.random.default_rng(7)
    a, b = rng.standard_normal((2, 3, 2)), rng.standard_normal((2, 2))
    x, g = rng.standard_normal((4, 1, 4)), rng.standard_normal((4, 2, 6))
    found = kronecker.kron_matvec_vjp(g, [a, b], x)
    assert [f.shape for f in (*found.factors, found.x)] == [a.shape, b.shape, x.shape]
    direction = [rng.standard_normal(z.shape) for z in (a, b, x)]
    h = 1e-6

    def loss(t):
        moved = [z + t * step for z, step in zip((a, b, x), direction, strict=True)]
        return np.sum(g * kronecker.kron_matvec(moved[:2], moved[2]))

    slope = sum(np.sum(p * q) for p, q in zip((*found.factors, found.x), direction, strict=True))
    assert slope == pytest.approx((loss(h) - loss(-h)) / (2 * h), rel=1e-7)


@pytest.mark.parametrize("dtype", "dD")
@pytest.mark.parametrize("wrt", [None, ["x"], ["factors"]])
def test_engines_agree_on_gradients(dtype, wrt):
    rng = np.random.default_rng(8)
    factors = [random(rng, dtype, *shape) for shape in ((8, 7), (3, 5), (9, 2))]
    x, g = random(rng, dtype, 2, 70), random(rng, dtype, 2, 216)
    found = kronecker.kron_matvec_vjp(g, factors, x, wrt=wrt)
    with linalgkit.use_engine("array_api"):
        expected = kronecker.kron_matvec_vjp(g, factors, x, wrt=wrt)
    assert (found.x is None) == (wrt == ["factors"])
    assert (found.factors is None) == (wrt == ["x"])
    for one, other in zip(
        (*(found.factors or ()), found.x), (*(expected.factors or ()), expected.x), strict=True
    ):
        if other is not None:
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda k: k.kron_matvec([], np.ones(1)), ValueError, "at least one matrix"),
        (lambda k: k.kron_matvec(3, np.ones(1)), TypeError, "sequence of matrices"),
        (lambda k: k.kron_matvec([np.ones(3)], np.ones(3)), ValueError, r"factors\[0\] must be a"),
        (lambda k: k.kron_matvec([np.eye(2)] * 2, np.ones(5)), ValueError, "2·2 = 4 entries"),
        (lambda k: k.kron_matvec([np.eye(2)], np.array(1.0)), ValueError, "2 entries"),
        (lambda k: k.kron_matmat([np.eye(2)], np.ones(2)), ValueError, "second-to-last"),
        (lambda k: k.kron_matvec([["a"]], np.ones(1)), TypeError, "numeric"),
        (lambda k: k.kron_matvec([np.eye(2), None], np.ones(4)), TypeError, "got None"),
        (
            lambda k: k.kron_matvec([np.ones((2, 2, 2)), np.ones((3, 2, 2))], np.ones(4)),
            ValueError,
            "batch axes must fit",
        ),
        (
            lambda k: k.kron_matvec([np.ones((2, 2, 2))], np.ones((3, 2))),
            ValueError,
            "batch axes must fit",
        ),
        (lambda k: k.kronsum_matvec([np.ones((2, 3))], np.ones(3)), ValueError, "square"),
        (lambda k: k.kron_diag([np.ones((2, 3))]), ValueError, "square"),
        (lambda k: k.partial_trace(np.eye(4), (2, 3), axes=0), ValueError, r"\(..., 6, 6\)"),
        (lambda k: k.partial_trace(np.ones(4), (2, 2), axes=0), ValueError, r"\(..., 4, 4\)"),
        (lambda k: k.partial_trace(np.eye(4), 4, axes=0), TypeError, "sequence of integers"),
        (lambda k: k.partial_trace(np.eye(4), (2, 2.0), axes=0), TypeError, r"sizes\[1\]"),
        (lambda k: k.partial_trace(np.eye(4), (2, 2), axes=2), ValueError, "number of axes, 2"),
        (lambda k: k.partial_trace(np.eye(4), (2, 2), axes=(1, -1)), ValueError, "differ"),
        (
            lambda k: k.kron_matvec_vjp(np.ones(3), [np.eye(2)], np.ones(2)),
            ValueError,
            "cotangent must have",
        ),
        (
            lambda k: k.kron_matvec_vjp(np.ones(2), [np.eye(2)], np.ones(2), wrt=["b"]),
            ValueError,
            "wrt must be one of",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(kronecker)


def test_mixed_libraries_are_refused(require):
    require("torch")
    import torch

    with pytest.raises(TypeError, match="torch"):
        kronecker.kron_matvec([np.eye(2)], torch.ones(2))


@pytest.mark.parametrize("count", [3, 9])
def test_torch_takes_any_number_of_factors(count, require):
    # More arrays than a function of compiled code may have go by the reference engine.
    require("torch")
    import torch

    rng = np.random.default_rng(11)
    factors = [torch.tensor(rng.standard_normal((2, 2)), requires_grad=True) for _ in range(count)]
    x = rng.standard_normal(2**count)
    y = kronecker.kron_matvec(factors, torch.tensor(x))
    found = torch.autograd.grad((y * y).sum(), factors)
    plain = [a.detach().numpy() for a in factors]
    product = kronecker.kron_matvec(plain, x)
    expected = kronecker.kron_matvec_vjp(2 * product, plain, x).factors
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9 * np.abs(other).max())


def test_reduce_of_tensordot_agrees():
    rng = np.random.default_rng(9)
    factors = [rng.standard_normal((6, 6)) for _ in range(4)]
    x = rng.standard_normal(6**4)

    def mode(grid, place):
        return np.moveaxis(np.tensordot(factors[place], grid, (1, place)), 0, place)

    expected = reduce(mode, range(4), x.reshape((6,) * 4)).ravel()
    np.testing.assert_allclose(kronecker.kron_matvec(factors, x), expected, rtol=0, atol=1e-11)


class Bare:
    """An operator with its shape and what multiplies blocks of columns, and nothing else."""

    def __init__(self, matrix):
        self.shape, self.dtype = matrix.shape, matrix.dtype
        self.matmat = lambda x: matrix @ x
        self.rmatmat = lambda x: matrix.conj().T @ x


def test_operators_need_no_more_than_products():
    rng = np.random.default_rng(15)
    faces = kronecker.FaceSplitting([random(rng, "D", 5, m) for m in (2, 3)])
    a, b = random(rng, "D", 4, 3), random(rng, "D", 2, 2)
    factors, plain = [faces, Bare(a), b], dense([faces.to_dense(), a, b])
    x, y = random(rng, "D", 36), random(rng, "D", 40)
    np.testing.assert_allclose(kronecker.kron_matvec(factors, x), plain @ x, rtol=0, atol=1e-12)
    found = kronecker.kron_rmatvec(factors, y)
    np.testing.assert_allclose(found, plain.conj().T @ y, rtol=0, atol=1e-12)
    square = [Bare(b), random(rng, "D", 3, 3)]
    found = kronecker.kronsum_matvec(square, x[:6])
    np.testing.assert_allclose(found, dense_sum([b, square[1]]) @ x[:6], rtol=0, atol=1e-12)
    values = kronecker.kron_svd([Bare(a), b]).S[0]
    np.testing.assert_allclose(values, np.linalg.svd(a, compute_uv=False), rtol=1e-12)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("engine", ["array_api", "numba"])
def test_results_are_not_the_arguments(engine, library, require):
    if library != "numpy":
        require(library)
    used = _testing.library(library)
    a = used.asarray(np.eye(3))
    with linalgkit.use_engine(engine):
        for result in (
            kronecker.kron_dense([a]),
            kronecker.kron_diag([a]),
            kronecker.partial_trace(a, (3,), axes=()),
            kronecker.face_splitting([a]),
            kronecker.khatri_rao([a]),
            kronecker.KroneckerSum([a]).diagonal(),
            kronecker.kron_power([a, a], 1)[0],
        ):
            result[...] = 7.0
    np.testing.assert_array_equal(used.asnumpy(a), np.eye(3))
