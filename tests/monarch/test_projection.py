"""Projections: LAPACK slice by slice, closed forms, published figures, hard spectra."""

import numpy as np
import pytest
from monarch.cases import entries, factors, random
from scipy.linalg import hadamard

import linalgkit
from linalgkit import monarch
from linalgkit.monarch import _numba_projection

# (k, q, p, l, s, r): square, l not dividing q, sparse slices, ranks above one, wide and tall ones.
BLOCKS = [
    (4, 4, 4, 4, 4, 4),
    (3, 4, 5, 2, 7, 6),
    (2, 3, 8, 3, 5, 2),
    (4, 3, 6, 6, 4, 2),
    (2, 6, 9, 3, 11, 4),
    (3, 12, 7, 4, 5, 9),
    (1, 2, 6, 2, 1, 1),
    (5, 1, 1, 1, 9, 5),
]
DTYPES = ["float32", "float64", "complex64", "complex128"]
ENGINES = ["numba", "array_api"]


@pytest.fixture(params=["one by one", "full", "array_api"])
def way(request, monkeypatch):
    """How terms are found: by Lanczos' iteration, by LAPACK in threads, by the reference engine."""
    few = request.param == "one by one"
    monkeypatch.setattr(_numba_projection, "_has_few_terms", lambda blocks: few)
    with linalgkit.use_engine("array_api" if request.param == "array_api" else "numba"):
        yield request.param


def rank_of(block, lam, blocks):
    """Count the terms of a slice by the definition."""
    _, q, _, count, _, _ = blocks
    return sum(t % count == lam for t in range(block * q, (block + 1) * q))


def slices(a, blocks):
    """Every slice with its rank, entry by entry; zeros beyond the matrix."""
    k, _, p, count, rows, _ = blocks
    whole = np.zeros((count * rows, k * p), a.dtype)
    whole[: a.shape[0], : a.shape[1]] = a
    for lam in range(count):
        for block in range(k):
            part = whole[lam::count, block * p : (block + 1) * p]
            yield lam, block, part, rank_of(block, lam, blocks)


def best_error(a, blocks):
    """The least error by Eckart and Young, in float64."""
    wide = a.astype(np.result_type(a, np.float64))
    _, _, parts, ranks = zip(*slices(wide, blocks), strict=True)
    values = np.linalg.svd(parts, compute_uv=False)
    is_lost = np.arange(values.shape[1]) >= np.array(ranks)[:, None]
    return np.linalg.norm(values[is_lost])


def tolerance(dtype, double, single):
    return double if np.dtype(dtype).name in ("float64", "complex128") else single


def relative(m, a):
    wide = np.result_type(a, np.float64)
    return np.linalg.norm(a.astype(wide) - dense(m)) / np.linalg.norm(a.astype(wide))


def dense(m):
    """The operator by the definition of its entries, in double precision."""
    wide = np.result_type(m.dtype, np.float64)
    return entries(m.left.astype(wide), m.right.astype(wide))[: m.shape[0], : m.shape[1]]


def of_slices(parts):
    """The matrix whose slices are given, (l, k, s, p)."""
    count, k, rows, p = parts.shape
    return np.ascontiguousarray(parts.transpose(2, 0, 1, 3)).reshape(rows * count, k * p)


def with_values(values, rng, dtype="float64", size=None, count=3):
    """A matrix whose slices have these singular values, and random vectors."""
    n = size or len(values)
    u = np.linalg.qr(random(rng, dtype, count, count, n, n))[0]
    v = np.linalg.qr(random(rng, dtype, count, count, n, n))[0]
    full = np.zeros(n)
    full[: len(values)] = values
    return of_slices((u * full) @ v), (count, count, n, count, n, count)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cut", [0, 2])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_error_is_the_least(blocks, cut, dtype, way):
    k, _, p, count, rows, _ = blocks
    shape = max(1, count * rows - cut), max(1, k * p - cut)
    a = random(np.random.default_rng(0), dtype, *shape)
    m = monarch.project(a, blocks=blocks)
    assert m.shape == shape
    assert m.dtype == np.dtype(dtype)
    assert m.left.shape == blocks[3:]
    assert m.right.shape == blocks[:3]
    least = best_error(a, blocks) / np.linalg.norm(a.astype(complex))
    near = tolerance(dtype, 1e-14, 1e-6)
    np.testing.assert_allclose(relative(m, a), least, rtol=near, atol=near)
    error = monarch.projection_error(a, blocks=blocks)
    assert error.dtype == a.real.dtype
    np.testing.assert_allclose(error, least, rtol=near, atol=near)


@pytest.mark.parametrize("gauge", ["balanced", "left", "right"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("blocks", BLOCKS[:6])
def test_factors_are_those_of_lapack(blocks, dtype, gauge, way):
    k, q, p, count, rows, _ = blocks
    a = random(np.random.default_rng(1), dtype, count * rows, k * p)
    m = monarch.project(a, blocks=blocks, gauge=gauge)
    for lam, block, part, rank in slices(a, blocks):
        u, sigma, vh = np.linalg.svd(part)
        places = [t for t in range(block * q, (block + 1) * q) if t % count == lam]
        assert len(places) == rank
        for term, t in enumerate(places):
            column, row = m.left[lam, :, t // count], m.right[block, t - block * q]
            place = np.argmax(np.abs(row))
            assert row[place].real > 0
            assert abs(row[place].imag) < 1e-13 * row[place].real
            sizes = {
                "balanced": (sigma[term] ** 0.5, sigma[term] ** 0.5),
                "left": (sigma[term], 1),
                "right": (1, sigma[term]),
            }[gauge]
            norms = np.linalg.norm(column), np.linalg.norm(row)
            np.testing.assert_allclose(norms, sizes, rtol=1e-12)
            expected = sigma[term] * np.outer(u[:, term], vh[term])
            np.testing.assert_allclose(np.outer(column, row), expected, atol=1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("blocks", BLOCKS)
def test_projection_of_a_monarch_matrix_is_itself(blocks, dtype, way):
    a = entries(*factors(np.random.default_rng(2), dtype, blocks))
    near = tolerance(dtype, 1e-14, 1e-6)
    assert relative(monarch.project(a, blocks=blocks), a) < near
    assert monarch.projection_error(a, blocks=blocks) < near


@pytest.mark.parametrize("level", [1e-3, 1e-6, 1e-9])
def test_error_of_nearly_exact_matrices(level, way):
    rng = np.random.default_rng(3)
    blocks = (4, 4, 16, 4, 16, 4)
    values = 0.7 ** np.arange(16)
    values[1:] *= level
    a, blocks = with_values(values, rng)
    expected = np.sqrt(np.sum(values[1:] ** 2) / np.sum(values**2))
    error = monarch.projection_error(a, blocks=blocks)
    np.testing.assert_allclose(error, expected, rtol=1e-14 / level)


def test_no_small_change_of_the_factors_is_better(way):
    rng = np.random.default_rng(4)
    blocks = BLOCKS[5]
    a = random(rng, "float64", 20, 21)
    m = monarch.project(a, blocks=blocks)
    least = np.linalg.norm(a - dense(m))
    for scale in (1e-1, 1e-3, 1e-5):
        for _ in range(5):
            left, right = factors(rng, "float64", blocks)
            moved = entries(m.left + scale * left, m.right + scale * right)
            assert np.linalg.norm(a - moved) > least


def test_what_remains_is_orthogonal_to_the_projection(way):
    a = random(np.random.default_rng(5), "complex128", 20, 21)
    m = dense(monarch.project(a, blocks=BLOCKS[5]))
    assert abs(np.vdot(m, a - m)) < 1e-12 * np.linalg.norm(a) ** 2


def test_gaussian_matrix_of_the_paper(way):
    a = np.random.default_rng(6).standard_normal((384, 384))
    assert abs(monarch.projection_error(a, nblocks=4) - 0.980) < 1e-3
    assert abs(relative(monarch.project(a, nblocks=4), a) - 0.980) < 1e-3


def dft(n):
    return np.exp(-2j * np.pi * (np.outer(np.arange(n), np.arange(n)) % n) / n)


@pytest.mark.parametrize("name", ["hadamard", "kronecker", "dft"])
def test_members_of_the_class(name, way):
    rng = np.random.default_rng(7)
    a = {
        "hadamard": lambda: hadamard(64),
        "kronecker": lambda: np.kron(random(rng, "float64", 8, 8), random(rng, "float64", 8, 8)),
        "dft": lambda: dft(64)[:, np.arange(64).reshape(8, 8).T.reshape(-1)],
    }[name]()
    m = monarch.project(a, nblocks=8)
    assert np.abs(dense(m) - a).max() < 1e-13 * np.abs(a).max()
    assert monarch.projection_error(a, nblocks=8) < 1e-14


def test_dft_without_the_permutation_is_not_a_member(way):
    assert abs(monarch.projection_error(dft(64), nblocks=8) - 0.935) < 1e-3


HARD = {
    "equal": np.ones(12),
    "two equal": np.array([2.0, 2, *0.5 ** np.arange(10)]),
    "nearly equal": np.array([2.0, 2 - 1e-9, *0.5 ** np.arange(10)]),
    "all near": 1 + 1e-6 * np.arange(12)[::-1],
    "dense at the top": 1 - 0.01 * np.arange(12) ** 2 / 144,
    "steep": 10.0 ** -np.arange(12),
    "one": np.eye(12)[0],
    "three": np.array([3.0, 2, 1] + [0.0] * 9),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("rank", [1, 2])
def test_hard_spectra(name, rank, dtype, way):
    a, (k, _, p, count, rows, _) = with_values(HARD[name], np.random.default_rng(8), dtype)
    blocks = (k, rank * count, p, count, rows, rank * k)
    least = best_error(a, blocks) / np.linalg.norm(a.astype(complex))
    near = tolerance(dtype, 1e-12, 1e-6)
    noise = tolerance(dtype, 1e-15, 2e-7)
    assert relative(monarch.project(a, blocks=blocks), a) < least * (1 + near) + noise
    error = monarch.projection_error(a, blocks=blocks)
    np.testing.assert_allclose(error, least, rtol=near, atol=noise)


@pytest.mark.parametrize("structure", ["diagonal", "blocks", "permutation", "ones", "triangle"])
def test_structured_slices(structure, way):
    n = 12
    one = {
        # The largest column of TᴴT leads to the smaller of two invariant subspaces.
        "blocks": np.block(
            [[np.ones((4, 4)), np.zeros((4, 8))], [np.zeros((8, 4)), np.diag([3.9, *[0.1] * 7])]]
        ),
        "diagonal": np.diag(np.arange(1.0, n + 1)),
        "permutation": np.eye(n)[::-1],
        "ones": np.ones((n, n)),
        "triangle": np.tril(np.ones((n, n))),
    }[structure]
    a, blocks = of_slices(np.broadcast_to(one, (2, 2, n, n))), (2, 2, n, 2, n, 2)
    m = monarch.project(a, blocks=blocks)
    np.testing.assert_allclose(np.linalg.norm(a - dense(m)), best_error(a, blocks), atol=1e-13)


@pytest.mark.parametrize("exponent", [-315, -150, 150, 300])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_any_magnitude(dtype, exponent, way):
    rng = np.random.default_rng(9)
    a = random(rng, dtype, 12, 12)
    blocks = (3, 3, 4, 3, 4, 3)
    scaled = (a * 1e-160 * 10.0 ** (exponent + 160)) if exponent < -300 else a * 10.0**exponent
    m = monarch.project(scaled, blocks=blocks)
    plain = monarch.project(a, blocks=blocks)
    root = 10.0 ** (exponent / 2)
    near = 1e-12 if exponent >= -300 else 1e-6  # subnormal numbers have fewer digits
    np.testing.assert_allclose(m.left / root, plain.left, rtol=near, atol=near)
    np.testing.assert_allclose(m.right / root, plain.right, rtol=near, atol=near)
    np.testing.assert_allclose(
        monarch.projection_error(scaled, blocks=blocks),
        monarch.projection_error(a, blocks=blocks),
        rtol=near,
    )


def test_slices_of_different_magnitude(way):
    rng = np.random.default_rng(10)
    scale = 10.0 ** np.array([[-150, 0, 150], [0, 150, -150], [100, -100, 0]])
    parts = random(rng, "float64", 3, 3, 4, 4)
    blocks = (3, 3, 4, 3, 4, 3)
    plain = monarch.project(of_slices(parts), blocks=blocks)
    m = monarch.project(of_slices(parts * scale[..., None, None]), blocks=blocks)
    left = m.left / np.sqrt(scale)[:, None, :]
    right = m.right / np.sqrt(scale).T[:, :, None]
    np.testing.assert_allclose(left, plain.left, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(right, plain.right, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("gauge", ["balanced", "left", "right"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_largest_numbers(dtype, gauge, way):
    a = np.zeros((4, 4), dtype)
    largest = np.finfo(dtype).max
    a[0, 0], a[1, 3] = largest, largest / 2
    if a.dtype.kind == "c":  # balanced factors have it even where the absolute value is infinite
        a[0, 0], a[1, 3] = largest * (0.6 + 0.6j), largest * (0.9 + 0.9j)
        a[1, 3] /= 1 if gauge == "balanced" else 2
    m = monarch.project(a, nblocks=2, gauge=gauge)
    for k, i in ((0, 0), (1, 3)):
        product = m.left[k % 2, k // 2, i // 2] * m.right[i // 2, k % 2, i % 2]
        np.testing.assert_allclose(product / largest, a[k, i] / largest, rtol=1e-5)
    assert monarch.projection_error(a, nblocks=2) < 1e-6


@pytest.mark.parametrize("exponent", [-44, -30, 30])
def test_any_magnitude_in_single_precision(exponent, way):
    a = random(np.random.default_rng(11), "float64", 12, 12)
    scaled = (a * 10.0**exponent).astype("float32")
    blocks = (3, 3, 4, 3, 4, 3)
    m = monarch.project(scaled, blocks=blocks)
    wide = scaled.astype("float64")
    least = best_error(wide, blocks)
    assert np.linalg.norm(wide - dense(m)) < least * (1 + 1e-6)


@pytest.mark.parametrize("gauge", ["balanced", "left", "right"])
def test_slices_of_zeros_give_zeros(gauge, way):
    parts = random(np.random.default_rng(12), "float64", 3, 2, 4, 5)
    parts[1, 0] = 0
    blocks = (2, 3, 5, 3, 4, 2)
    m = monarch.project(of_slices(parts), blocks=blocks, gauge=gauge)
    assert np.all(m.left[1, :, 0] == 0)
    assert np.all(m.right[0, 1] == 0)
    assert np.all(np.isfinite(m.left))
    nothing = monarch.project(np.zeros((12, 10)), blocks=blocks, gauge=gauge)
    assert not np.any(nothing.left)
    assert not np.any(nothing.right)
    assert monarch.projection_error(np.zeros((12, 10)), blocks=blocks) == 0


def test_batch_axes_lead(way):
    a = random(np.random.default_rng(13), "complex128", 2, 3, 8, 9)
    m = monarch.project(a, nblocks=2, rank=2)
    assert m.batch_shape == (2, 3)
    error = monarch.projection_error(a, nblocks=2, rank=2)
    for place in np.ndindex(2, 3):
        one = monarch.project(a[place], nblocks=2, rank=2)
        np.testing.assert_allclose(m.left[place], one.left, rtol=1e-14)
        np.testing.assert_allclose(m.right[place], one.right, rtol=1e-14)
        np.testing.assert_allclose(error[place], relative(one, a[place]), rtol=1e-12)
    empty = monarch.project(np.zeros((0, 8, 9)), nblocks=2)
    assert empty.left.shape == (0, 2, 4, 2)
    assert monarch.projection_error(np.zeros((0, 8, 9)), nblocks=2).shape == (0,)


def test_any_memory_order(way):
    a = random(np.random.default_rng(14), "float64", 24, 18)
    expected = monarch.project(a, nblocks=3)
    for other in (np.asfortranarray(a), np.repeat(a, 2, axis=1)[:, ::2]):
        m = monarch.project(other, nblocks=3)
        np.testing.assert_array_equal(m.left, expected.left)
        np.testing.assert_array_equal(m.right, expected.right)
    m = monarch.project(a.astype(">f8"), nblocks=3)
    np.testing.assert_allclose(m.left, expected.left, atol=1e-13)


def test_method_svd_is_the_same():
    a = random(np.random.default_rng(15), "float64", 64, 64)
    one, other = (monarch.project(a, nblocks=8, method=method) for method in ("auto", "svd"))
    np.testing.assert_allclose(one.left, other.left, atol=1e-12)
    np.testing.assert_allclose(one.right, other.right, atol=1e-12)


@pytest.mark.parametrize("few", [True, False])
def test_bits_do_not_depend_on_the_workers(few, monkeypatch):
    monkeypatch.setattr(_numba_projection, "_has_few_terms", lambda blocks: few)
    monkeypatch.setattr(_numba_projection, "_CHUNK", 10_000)
    a = random(np.random.default_rng(16), "float64", 256, 256)
    found = []
    for workers in (1, 2, 5):
        with linalgkit.use_workers(workers):
            found.append(monarch.project(a, nblocks=16))
    for m in found[1:]:
        np.testing.assert_array_equal(m.left, found[0].left)
        np.testing.assert_array_equal(m.right, found[0].right)


def test_equal_entries_of_either_sign_give_one_sign():
    # All entries of v are equal in size: rounding must not choose which one is made positive.
    for engine in ENGINES:
        with linalgkit.use_engine(engine):
            m = monarch.project(hadamard(64) / 3, nblocks=8)
        assert np.all(m.right[:, :, 0] > 0)


def test_half_precision_goes_by_single():
    a = random(np.random.default_rng(17), "float64", 12, 12).astype("float16")
    m = monarch.project(a, nblocks=3)
    assert m.dtype == np.float16
    assert abs(relative(m, a) - best_error(a, (3, 3, 4, 3, 4, 3)) / np.linalg.norm(a)) < 1e-3
    assert monarch.projection_error(a, nblocks=3) > 0


def weighted_error(a, m, weight):
    difference = a - dense(m)
    return np.trace(difference @ weight @ difference.conj().T).real


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("blocks", [BLOCKS[0], BLOCKS[4], (3, 6, 4, 3, 4, 6)])
def test_weight_that_does_not_couple_the_slices(blocks, dtype):
    """Of a weight of blocks p × p the minimum is known: the slices times its square root."""
    k, _, p, count, rows, _ = blocks
    rng = np.random.default_rng(18)
    a = random(rng, dtype, count * rows, k * p)
    weight, least = np.zeros((k * p, k * p), dtype), 0.0
    roots = []
    for block in range(k):
        x = random(rng, dtype, p, p)
        here = slice(block * p, (block + 1) * p)
        weight[here, here] = x @ x.conj().T
        roots.append(np.linalg.cholesky(weight[here, here]))
    for _, block, part, rank in slices(a, blocks):
        values = np.linalg.svd(part @ roots[block], compute_uv=False)
        least += np.sum(values[rank:] ** 2)
    m = monarch.project(a, blocks=blocks, weight=weight, rtol=1e-13)
    np.testing.assert_allclose(weighted_error(a, m, weight), least, rtol=1e-7)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_weight(dtype, engine):
    rng = np.random.default_rng(19)
    a, x = random(rng, dtype, 2, 11, 10), random(rng, dtype, 10, 7)
    weight = x @ x.conj().T  # singular
    with linalgkit.use_engine(engine):
        plain = monarch.project(a, nblocks=3)
        m = monarch.project(a, nblocks=3, weight=weight)
        coarse = monarch.project(a, nblocks=3, weight=weight, rtol=0.1)
        same = monarch.project(a, nblocks=3, weight=np.eye(10), gauge="left")
    assert m.shape == (11, 10)
    for i in range(2):
        parts = [monarch.Monarch(f.left[i], f.right[i], shape=f.shape) for f in (plain, coarse, m)]
        errors = [weighted_error(a[i], part, weight) for part in parts]
        assert errors[2] < errors[1] < errors[0]
        norm = np.linalg.norm(m.left[i], axis=1).T.reshape(-1)
        np.testing.assert_allclose(norm, np.linalg.norm(m.right[i], axis=-1).reshape(-1))
        unit = np.linalg.norm(same.right[i], axis=-1)
        np.testing.assert_allclose(unit, 1)
    difference = same.to_dense() - plain.to_dense()
    assert np.abs(difference).max() < 1e-12


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("exponent", [-564, 532])
def test_weight_at_any_magnitude(exponent, engine):
    rng = np.random.default_rng(27)
    a, weight = random(rng, "float64", 9, 9), np.diag(10.0 ** np.linspace(-3, 3, 9))
    with linalgkit.use_engine(engine):
        plain = monarch.project(a, nblocks=3, weight=weight).to_dense()
        assert np.abs(plain - monarch.project(a, nblocks=3).to_dense()).max() > 0.1
        for scaled in (
            monarch.project(a * 2.0**exponent, nblocks=3, weight=weight).to_dense()
            * 2.0**-exponent,
            monarch.project(a, nblocks=3, weight=weight * 2.0**exponent).to_dense(),
        ):
            np.testing.assert_allclose(scaled, plain, rtol=1e-6, atol=1e-9)


def test_weight_of_another_dtype():
    rng = np.random.default_rng(28)
    a, x = random(rng, "float32", 6, 6), random(rng, "complex128", 6, 6)
    weight = x @ x.conj().T
    for kind in (np.float32, np.float16):
        m = monarch.project(a.astype(kind), nblocks=2, weight=weight.real)
        assert m.dtype == kind
    # Of a real matrix the real part of the covariance is what matters.
    m = monarch.project(a, nblocks=2, weight=weight)
    assert m.dtype == np.float32
    same = monarch.project(a, nblocks=2, weight=weight.real)
    np.testing.assert_allclose(m.to_dense(), same.to_dense(), atol=1e-6)
    assert monarch.project(a + 0j, nblocks=2, weight=weight.real).dtype == np.complex64
    empty = monarch.project(np.zeros((0, 8, 9)), nblocks=2, weight=np.zeros((0, 9, 9)))
    assert empty.left.shape == (0, 2, 4, 2)


def test_error_of_a_weighted_projection_never_rises():
    rng = np.random.default_rng(20)
    a, x = random(rng, "float64", 12, 12), random(rng, "float64", 12, 12)
    weight = x @ x.T
    errors = [weighted_error(a, monarch.project(a, nblocks=3), weight)]
    for rtol in (0.5, 0.1, 1e-2, 1e-3, 1e-5, 1e-8):
        m = monarch.project(a, nblocks=3, weight=weight, rtol=rtol)
        errors.append(weighted_error(a, m, weight))
    assert np.all(np.diff(errors) <= 1e-12 * errors[0])
    assert errors[-1] < 0.9 * errors[0]


def test_arguments_that_do_not_fit():
    a = np.ones((6, 8))
    with pytest.raises(ValueError, match=r"a must have shape"):
        monarch.project(np.ones(6))
    with pytest.raises(ValueError, match="rows must be at least 1"):
        monarch.project(np.ones((0, 6)))
    broken = a.copy()
    broken[2, 3] = np.nan
    with pytest.raises(ValueError, match=r"a must be finite; entry \(2, 3\)"):
        monarch.project(broken)
    broken[2, 3] = -np.inf
    for function in (monarch.project, monarch.projection_error):
        with pytest.raises(ValueError, match="must be finite"):
            function(broken, nblocks=2)
    with pytest.raises(ValueError, match="gauge must be one of"):
        monarch.project(a, gauge="even")
    with pytest.raises(ValueError, match="method must be one of"):
        monarch.project(a, method="power")
    with pytest.raises(ValueError, match="blocks"):
        monarch.project(a, blocks=(2, 2, 4, 3, 2, 2))
    with pytest.raises(ValueError, match="leave out nblocks"):
        monarch.project(a, blocks=(2, 2, 4, 2, 3, 2), nblocks=2)
    for weight in (np.ones((6, 6)), np.ones(8)):
        with pytest.raises(ValueError, match="weight must have shape"):
            monarch.project(a, weight=weight)
    with pytest.raises(ValueError, match="weight must be Hermitian"):
        monarch.project(a, weight=np.triu(np.ones((8, 8))))
    with pytest.raises(ValueError, match="weight must be positive semidefinite"):
        monarch.project(a, weight=-np.eye(8))
    with pytest.raises(ValueError, match="weight must be finite"):
        monarch.project(a, weight=np.eye(8) * np.nan)
    with pytest.raises(ValueError, match="rtol must be"):
        monarch.project(a, weight=np.eye(8), rtol=-1.0)
    with pytest.raises(TypeError, match="rtol must be a number; got None"):
        monarch.project(a, rtol=None)
    for function in (monarch.project, monarch.projection_error):
        with pytest.raises(ValueError, match=r"rank must be at most .* 3 × 4; got 1000"):
            function(a, nblocks=2, rank=1000)
    with pytest.raises(ValueError, match=r"cotangent must be \(left, right\)"):
        monarch.project_vjp(a, a)
    with pytest.raises(ValueError, match="cotangent of the right factor"):
        monarch.project_vjp((None, np.ones((2, 2, 2))), a, nblocks=2)


def test_integers_count_as_float64():
    a = np.arange(48).reshape(6, 8)
    assert monarch.project(a, nblocks=2).dtype == np.float64


def test_kernels_are_compiled_once_a_dtype():
    for a in (np.ones((6, 6)), np.ones((12, 6))[::2], np.ones((6, 6, 6))):
        monarch.project(a, nblocks=2)
        before = len(_numba_projection.terms.signatures)
        monarch.projection_error(np.array(a), nblocks=3)
        assert len(_numba_projection.terms.signatures) == before
