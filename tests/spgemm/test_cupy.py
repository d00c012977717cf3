"""The GPU engine: the same bits as SciPy on the host, on every run."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from spgemm.cases import LARGE, random, same_bits

import linalgkit
from linalgkit import spgemm
from linalgkit.spgemm._semirings import SEMIRINGS

pytestmark = pytest.mark.gpu


def on_device(a):
    from cupyx.scipy.sparse import csc_matrix, csr_matrix

    kind, host = (csc_matrix, sp.csc_matrix) if a.format == "csc" else (csr_matrix, sp.csr_matrix)
    return kind(host(a))


@pytest.mark.parametrize("name", LARGE)
def test_same_bits_as_scipy_and_on_every_run(name):
    a, b = LARGE[name]()
    results = [spgemm.matmul(on_device(a), on_device(b), prune=True).get() for _ in range(2)]
    for result in results:
        same_bits(result, sp.csr_matrix(a) @ sp.csr_matrix(b))


def every_table(dtype, seed=7):
    """Rows for every size of table and for the bitmap, and empty ones; B has empty rows too."""
    densities = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.2)
    a = [random((20, 3000), density, i, dtype) for i, density in enumerate(densities)]
    return sp.csr_array(sp.vstack(a)), random((3000, 8000), 0.002, seed, dtype)


def raw(a):
    """Three arrays on the device: CuPy's own containers hold no integers."""
    import cupy as cp

    named = {name: cp.asarray(getattr(a, name)) for name in spgemm.CSR._fields}
    return SimpleNamespace(**named, shape=a.shape)


def parts(a):
    return a.data, a.indices, a.indptr


def on_both(*triples, shape, mask=None, **options):
    """Return the product of NumPy arrays by the reference and of CuPy arrays by the GPU engine."""
    import cupy as cp

    if mask is not None:
        options |= {"mask_indices": mask[0], "mask_indptr": mask[1]}
    arrays = [x for triple in triples for x in triple]
    with linalgkit.use_engine("array_api"):
        host = spgemm.csr_matmul(*arrays, shape=shape, **options)
    moved = {k: cp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    device = spgemm.csr_matmul(*map(cp.asarray, arrays), shape=shape, **moved)
    return host, spgemm.CSR(*(x.get() for x in device))


def assert_same(host, device, exact=True):
    for truth, array in zip(host, device, strict=True):
        assert array.dtype == truth.dtype
        if exact or truth.dtype.kind == "i":
            np.testing.assert_array_equal(array, truth)
        else:
            np.testing.assert_allclose(array, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_every_table_has_the_bits_of_scipy(dtype):
    a, b = every_table(dtype)
    result = spgemm.matmul(on_device(a), on_device(b), prune=True).get()
    same_bits(result, sp.csr_matrix(a) @ sp.csr_matrix(b))


SERVED = [
    (semiring, dtype)
    for semiring in SEMIRINGS
    for dtype in ("float32", "float64", "int32", "int64", "complex64", "complex128", "bool")
    if (semiring in ("plus_times", "plus_pair", "or_and") or not dtype.startswith("complex"))
    and (not semiring.endswith("_plus") or dtype != "bool")
]


@pytest.mark.parametrize("masked", ["no mask", "mask", "complement"])
@pytest.mark.parametrize(("semiring", "dtype"), SERVED)
def test_semirings_and_masks(semiring, dtype, masked):
    if dtype == "bool":
        a, b = (x.astype(bool) for x in every_table("float64"))
        a.data[::3], b.data[::2] = False, False
    else:
        a, b = every_table(dtype)
    shape = a.shape[0], b.shape[1]
    mask = None
    if masked != "no mask":
        # Few places and many, out of order and repeated.
        pattern = sp.vstack([random((90, shape[1]), d, 3) for d in (0.001, 0.6)]).tocsr()
        order = np.arange(pattern.nnz)
        for begin, end in zip(pattern.indptr[:-1], pattern.indptr[1:], strict=True):
            order[begin:end] = order[begin:end][::-1]
            order[end - 2 : end] = order[end - 1] if end - begin > 2 else order[end - 2 : end]
        mask = pattern.indices[order], pattern.indptr
    options = {"semiring": semiring, "complement": masked == "complement"}
    host, device = on_both(parts(a), parts(b), shape=shape, mask=mask, **options)
    # NumPy fuses complex products.
    assert_same(host, device, exact=not (dtype.startswith("c") and semiring == "plus_times"))


@pytest.mark.parametrize("semiring", ["plus_times", "min_plus", "max_plus", "max_min", "min_max"])
@pytest.mark.parametrize("prune", [False, True])
def test_nan_and_infinity_propagate(semiring, prune):
    rng = np.random.default_rng(0)
    a, b = every_table("float64")
    for x in (a, b):
        x.data[rng.random(x.nnz) < 0.002] = np.nan
        x.data[rng.random(x.nnz) < 0.01] = np.inf
        x.data[rng.random(x.nnz) < 0.01] = -np.inf
    options = {"shape": (a.shape[0], b.shape[1]), "semiring": semiring, "prune": prune}
    host, device = on_both(parts(a), parts(b), **options)
    assert np.isnan(host.data).any()
    assert_same(host, device)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "float16"])
@pytest.mark.parametrize("semiring", ["plus_times", "min_plus"])
def test_other_dtypes_are_served_by_the_reference(dtype, semiring):
    rng = np.random.default_rng(0)
    a = random((30, 30), 0.2, 0)
    a.data = rng.integers(0, 9, a.nnz).astype(np.float64)
    triple = a.data.astype(dtype), a.indices, a.indptr
    assert_same(*on_both(triple, triple, shape=a.shape, semiring=semiring))


def test_csc_times_csc():
    a, b = random((40, 30), 0.2, 1, layout="csc"), random((30, 20), 0.2, 2, layout="csc")
    result = spgemm.matmul(on_device(a), on_device(b), prune=True)
    assert result.format == "csc"
    same_bits(result.get(), sp.csc_matrix(a) @ sp.csc_matrix(b))


@pytest.mark.parametrize("shape", [(0, 0, 0), (0, 3, 2), (3, 0, 2), (3, 2, 0), (1, 1, 1)])
def test_empty(shape):
    m, k, n = shape
    import cupy as cp

    def raw(rows, columns):
        full = sp.csr_array(np.ones((rows, columns)))
        return cp.asarray(full.data), cp.asarray(full.indices), cp.asarray(full.indptr)

    data, _, indptr = spgemm.csr_matmul(*raw(m, k), *raw(k, n), shape=(m, n))
    assert data.size == (m * n if k else 0)
    assert indptr.size == m + 1


@pytest.mark.parametrize("duplicates", [False, True])
@pytest.mark.parametrize(("n", "each"), [(500, 12), (3000, 60), (9000, 150)])
def test_unsorted_and_duplicate_indices(n, each, duplicates):
    rng = np.random.default_rng(0)
    rows = 40
    choose = [
        rng.integers(0, n // 2, each) if duplicates else rng.permutation(n)[:each] for _ in range(n)
    ]
    b = rng.standard_normal(n * each), np.concatenate(choose), np.arange(0, n * each + 1, each)
    a = b[0][: rows * each], b[1][: rows * each], b[2][: rows + 1]
    host, device = on_both(a, b, shape=(rows, n))
    assert_same(host, device)


@pytest.mark.parametrize("rise", [False, True])
@pytest.mark.parametrize("columns", [40_000, 131_072, 3_000_000])
def test_long_rows(columns, rise):
    # More entries than sums fit in shared memory, columns that come back again and again, bitmaps
    # there and in global memory; rows of B with columns in any order, twice too, or that rise.
    rng = np.random.default_rng(0)
    each, sources = 3000, 40
    hubs = rng.integers(0, 50, (sources, each // 3))
    others = rng.integers(0, columns, (sources, each - each // 3))
    indices = np.concatenate([hubs, others], axis=1).astype(np.int32)
    indptr = np.arange(0, indices.size + 1, each, dtype=np.int32)
    b = rng.standard_normal(indices.size), indices.ravel(), indptr
    if rise:
        b = sp.csr_array(b, shape=(sources, columns))
        b.sum_duplicates()
        b = parts(b)
    a = sp.csr_array(rng.standard_normal((4, sources)) * (rng.random((4, sources)) < 0.9))
    host, device = on_both(parts(a), b, shape=(4, columns))
    assert_same(host, device)
    assert np.diff(host.indptr).max() > 30_000


@pytest.mark.parametrize("products", [1, 33, 64, 65, 300, 1024, 1025])
def test_very_many_columns(products):
    # Columns and places of products together need more than 32 bits.
    columns, rng = 2**31 - 2, np.random.default_rng(0)
    places = rng.choice([0, 1, 2**25, columns // 2, columns - 2, columns - 1], products)
    a = rng.standard_normal(products), np.arange(products), np.asarray([0, products])
    b = rng.standard_normal(products), places, np.arange(products + 1)
    host, device = on_both(a, b, shape=(1, columns))
    assert_same(host, device)


def test_more_sources_than_products():
    rng = np.random.default_rng(0)
    n = 5000
    empty = rng.random(n) < 0.95
    b = sp.csr_array(sp.diags_array(np.where(empty, 0.0, rng.standard_normal(n))))
    b.eliminate_zeros()
    a = sp.csr_array(rng.standard_normal((6, n)))
    host, device = on_both(parts(a), parts(b), shape=(6, n))
    assert_same(host, device)
    assert 32 < np.diff(host.indptr).max() < n // 10


@pytest.mark.parametrize("others", ["int32", "int64"])
@pytest.mark.parametrize("own", ["int32", "int64"])
def test_many_rows_and_both_kinds_of_row_pointers(own, others):
    # Their sums are of a hundred blocks, the last of which is not full.
    a, b = random((200_001, 3000), 0.001, 1), random((3000, 4000), 0.001, 2)
    triples = [(x.data, x.indices, x.indptr.astype(kind)) for x, kind in ((a, own), (b, others))]
    host, device = on_both(*triples, shape=(200_001, 4000))
    assert_same(host, device)


def test_memory():
    # Beside operands and result at most a tenth of both: cuSPARSE takes several times the result.
    import cupy as cp

    a = on_device(
        sp.diags_array(
            np.ones((7, 1)), offsets=[-400, -20, -1, 0, 1, 20, 400], shape=(200_000,) * 2
        )
    )
    pool = cp.get_default_memory_pool()
    size = [x.nbytes for each in (a, spgemm.matmul(a, a)) for x in parts(each)]
    pool.free_all_blocks()
    before = pool.total_bytes()
    result = spgemm.matmul(a, a)
    assert result.nnz > 4_000_000
    assert pool.total_bytes() - before < 1.1 * sum(size) - sum(size[:3])


def test_max_memory():
    import cupy as cp

    a, b = (on_device(x) for x in LARGE["irregular"]())
    needed = (result := spgemm.matmul(a, b)).nnz * 12 + 4 * (a.shape[0] + 1)
    for prune in (False, True):
        with pytest.raises(MemoryError, match=f"needs {needed:,} bytes"):
            spgemm.matmul(a, b, max_memory=needed - 1, prune=prune)
        assert spgemm.matmul(a, b, max_memory=needed, prune=prune).nnz == result.nnz
    zero = cp.zeros(1), cp.zeros(1, dtype=cp.int32), cp.asarray([0, 1])
    assert spgemm.csr_matmul(*zero, *zero, shape=(1, 1), prune=True, max_memory=8).data.size == 0


def test_two_streams_at_once():
    import cupy as cp

    a, b = (on_device(x) for x in LARGE["irregular"]())
    planned = spgemm.plan(a, b)
    expected = spgemm.matmul(a, b).data.get().tobytes()
    cp.cuda.Device().synchronize()
    streams, results = [cp.cuda.Stream(non_blocking=True) for _ in range(2)], []
    for _ in range(3):
        for stream in streams:
            with stream:
                results.append(spgemm.matmul(a, b).data)
                results.append(planned.execute(a.data, b.data))
    cp.cuda.Device().synchronize()
    assert {result.get().tobytes() for result in results} == {expected}


@pytest.mark.parametrize("masked", ["no mask", "mask", "complement"])
@pytest.mark.parametrize("layout", ["csr", "csc"])
@pytest.mark.parametrize(
    ("semiring", "dtype"),
    [("plus_times", t) for t in ("float32", "float64", "complex128", "int64")]
    + [("min_plus", "float64"), ("max_min", "int32"), ("plus_pair", "float32")],
)
def test_plans_execute_to_the_bits_of_the_product(semiring, dtype, layout, masked):
    a, b = every_table(dtype)
    if np.dtype(dtype).kind == "i":
        layout, a, b = "csr", raw(a), raw(b)
    else:
        a, b = (on_device(x.asformat(layout)) for x in (a, b))
    options = {}
    if masked != "no mask":
        pattern = sp.vstack([random((90, b.shape[1]), d, 3) for d in (0.001, 0.6)])
        options = {"mask": on_device(pattern.asformat(layout))}
        options["complement"] = masked == "complement"
    planned = spgemm.plan(a, b, **options)
    product = spgemm.matmul(a, b, semiring=semiring, **options)
    for _ in range(2):
        data = planned.execute(a.data, b.data, semiring=semiring)
        assert data.get().tobytes() == product.data.get().tobytes()
    assert planned.indices.get().tobytes() == product.indices.get().tobytes()
    assert planned.slots is None


def test_plan_made_on_the_host():
    import cupy as cp

    a, b = LARGE["irregular"]()
    planned = spgemm.plan(a, b)
    data = planned.execute(cp.asarray(a.data), cp.asarray(b.data))
    with linalgkit.use_engine("array_api"):
        assert data.get().tobytes() == spgemm.matmul(a, b).data.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shuffled", [False, True])
def test_gradients_of_plans(dtype, masked, shuffled):
    import cupy as cp

    a, b = every_table(dtype)
    if shuffled:  # rows out of order, with repeated columns
        for x in (a, b):
            x.indices = np.random.default_rng(1).integers(0, x.shape[1] // 3, x.nnz).astype("i4")
            x.has_sorted_indices = x.has_canonical_format = False
    x, y = raw(a), raw(b)
    options = {"mask": on_device(random((a.shape[0], b.shape[1]), 0.1, 3))} if masked else {}
    planned = spgemm.plan(x, y, **options)
    cotangent = random((1, planned.nnz), 1.0, 5, dtype).data
    device = planned.execute_vjp(cp.asarray(cotangent), x.data, y.data)
    again = planned.execute_vjp(cp.asarray(cotangent), x.data, y.data)
    with linalgkit.use_engine("array_api"):
        expected = planned.execute_vjp(cp.asarray(cotangent), x.data, y.data)
    tolerance = 1e-4 if dtype in ("float32", "complex64") else 1e-12
    for one, two, truth in zip(device, again, expected, strict=True):
        assert one.dtype == dtype
        assert one.get().tobytes() == two.get().tobytes()
        np.testing.assert_allclose(one.get(), truth.get(), rtol=tolerance, atol=tolerance)
    only = planned.execute_vjp(cp.asarray(cotangent), x.data, y.data, wrt=["b_data"])
    assert only.a_data is None
    assert only.b_data.get().tobytes() == device.b_data.get().tobytes()


@pytest.mark.parametrize(("n", "degree"), [(60, 8), (2000, 30), (12_000, 2), (9000, 1200)])
def test_triangles_and_row_flops(n, degree):
    import cupy as cp

    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, n, (2, n * degree // 2))
    rows[: n // 2] = n - 1  # a node with very many neighbours
    graph = sp.csr_array((np.ones(rows.size), (rows, columns)), shape=(n, n))
    graph = sp.csr_array(((graph + graph.T) != 0).astype(np.float64))
    lower = sp.csr_array(sp.tril(graph, -1))
    expected = int(((lower @ lower) * lower).sum())
    assert spgemm.triangle_count(on_device(graph)) == expected
    flops = spgemm.row_flops(on_device(graph), on_device(graph))
    assert flops.dtype == cp.int64
    degrees = np.diff(graph.indptr)
    np.testing.assert_array_equal(flops.get(), graph.astype(bool).astype(np.int64) @ degrees)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "float16", "float32", "complex128"])
def test_segments_are_reduced_in_order(dtype):
    import cupy as cp

    from linalgkit._xp import segment_extreme, segment_sum

    rng = np.random.default_rng(0)
    values = (rng.standard_normal(500) * 10.0 ** rng.integers(0, 4, 500)).astype(dtype)
    segments = rng.integers(0, 7, 500) * 2
    both = (values, segments), (cp.asarray(values), cp.asarray(segments))
    host, device = (segment_sum(*arrays, 15) for arrays in both)
    assert device.get().tobytes() == host.tobytes()
    if dtype == "complex128":
        return
    if np.dtype(dtype).kind == "f":
        values[7] = both[1][0][7] = np.nan
    for how in ("min", "max"):
        with np.errstate(invalid="ignore"):  # NaN
            host, device = (segment_extreme(*arrays, 15, how=how, start=1) for arrays in both)
        np.testing.assert_array_equal(device.get(), host)


def test_invalid_indices_raise_instead_of_crashing():
    import cupy as cp

    good = cp.ones(2), cp.asarray([0, 1]), cp.asarray([0, 1, 2])
    bad = cp.ones(2), cp.asarray([0, 7]), cp.asarray([0, 1, 2])
    with pytest.raises(ValueError, match=r"b_indices must lie in \[0, 2\); entry 1 is 7"):
        spgemm.csr_matmul(*good, *bad, shape=(2, 2))
    with pytest.raises(ValueError, match=r"a_indices must lie in \[0, 2\); entry 1 is 7"):
        spgemm.csr_matmul(*bad, *good, shape=(2, 2))
    with pytest.raises(ValueError, match=r"b_indices must lie in \[0, 1\); entry 1 is 1"):
        spgemm.csr_matmul(*good, *good, shape=(2, 1))
    with pytest.raises(ValueError, match=r"a_indptr must not decrease; row 1 goes from 2 to 1"):
        spgemm.csr_matmul(*good[:2], cp.asarray([0, 2, 1]), *good, shape=(2, 2))


def test_host_and_device_are_not_mixed():
    a = random((5, 5), 0.5, 0)
    with pytest.raises(TypeError, match="cupy and numpy"):
        spgemm.matmul(on_device(a), a)


def test_dask_array_whose_blocks_are_on_the_device(require):
    dask, da = require("dask"), require("dask.array")
    a, b = random((40, 30), 0.3, 1), random((30, 50), 0.3, 2)

    def block(rows, columns):
        piece = on_device(a[rows, columns])
        whole = dask.delayed(piece, pure=False, traverse=False)
        return da.from_delayed(whole, piece.shape, meta=piece)

    rows, halves = [slice(0, 7), slice(7, 20), slice(20, 40)], [slice(0, 11), slice(11, 30)]
    blocks = da.block([[block(r, c) for c in halves] for r in rows])
    result = spgemm.matmul(blocks, on_device(b), prune=True)
    assert result.chunks == ((7, 13, 20), (50,))
    assert isinstance(result._meta, type(on_device(b)))
    with dask.config.set(scheduler="synchronous"):
        for number, r in enumerate(rows):
            found = result.blocks[number, 0].compute()
            assert isinstance(found, type(on_device(b)))
            same_bits(found.get(), sp.csr_matrix(a[r]) @ sp.csr_matrix(b))
        same_bits(result.compute().tocsr().get(), sp.csr_matrix(a) @ sp.csr_matrix(b))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_what_a_mask_leaves_out_takes_no_part_in_gradients(dtype):
    import cupy as cp

    one, long = (sp.csr_array(np.array([x], dtype)) for x in ([1.0], [2.0, np.inf]))
    mask = sp.csr_array(np.array([[1.0, 0.0]]))
    for a, b, allowed in ((one, long, mask), (long.T.tocsr(), one, mask.T.tocsr())):
        planned = spgemm.plan(raw(a), raw(b), mask=raw(allowed))
        values = cp.ones(1, dtype), cp.asarray(a.data), cp.asarray(b.data)
        found = {x.size: x.get().tolist() for x in planned.execute_vjp(*values)}
        assert found == {1: [2.0], 2: [1.0, 0.0]}


def test_a_plan_on_the_device_takes_values_there():
    a = random((9, 9), 0.4, 1)
    planned = spgemm.plan(raw(a), raw(a))
    for call in (planned.execute, lambda *x: planned.execute_vjp(np.ones(planned.nnz), *x)):
        with pytest.raises(TypeError, match="a plan whose pattern is on a GPU takes values there"):
            call(a.data, a.data)


def test_containers_on_the_device_that_are_sorted_in_place_leave_plans_alone():
    a = random((30, 30), 0.3, 1)
    shuffled = raw(a)
    for begin, end in zip(a.indptr[:-1], a.indptr[1:], strict=True):
        shuffled.indices[begin:end] = shuffled.indices[begin:end][::-1]
    planned = spgemm.plan(shuffled, shuffled)
    expected = planned.execute(shuffled.data, shuffled.data).get()
    fresh = spgemm.plan(shuffled, shuffled)
    shuffled.indices[:] = 0
    assert fresh.execute(shuffled.data, shuffled.data).get().tobytes() == expected.tobytes()


@pytest.mark.parametrize("layouts", [("csr", "csr"), ("csc", "csr")])
@pytest.mark.parametrize("where", ["host", "device"])
def test_plans_of_tensors_go_through_the_kernels(where, layouts, require, monkeypatch):
    torch, cp = require("torch"), require("cupy")
    from linalgkit import _torch

    ran, run = [], _torch._run
    monkeypatch.setattr(_torch, "_run", lambda *a: ran.append(a[1]) or run(*a))
    a, b = (random((40, 40), 0.2, s, layout=x) for s, x in zip((1, 2), layouts, strict=True))
    if where == "device":  # as rows: tensors are always read so
        a, b = a.tocsr(), b.tocsr()
        operands = [
            SimpleNamespace(
                **{k: torch.asarray(getattr(x, k), device="cuda") for k in spgemm.CSR._fields},
                shape=x.shape,
            )
            for x in (a, b)
        ]
        planned = spgemm.plan(*operands)
    else:
        planned = spgemm.plan(a, b)
    leaves = [torch.tensor(x.data, device="cuda", requires_grad=True) for x in (a, b)]
    result = planned.execute(*leaves)
    assert result.device.type == "cuda"
    host = spgemm.plan(a, b)
    assert result.detach().cpu().numpy().tobytes() == host.execute(a.data, b.data).tobytes()
    weights = torch.arange(1.0, planned.nnz + 1, dtype=torch.float64, device="cuda")
    gradients = torch.autograd.grad((result * weights).sum(), leaves)
    assert ran == ["execute_plan", "execute_plan_vjp"]
    expected = host.execute_vjp(weights.cpu().numpy(), a.data, b.data)
    for got, wanted in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(got.cpu().numpy(), wanted, atol=1e-12)
    for got, wanted in zip(planned.execute_vjp(weights, *leaves), gradients, strict=True):
        torch.testing.assert_close(got, wanted)
    assert torch.autograd.gradgradcheck(planned.execute, leaves)
    with pytest.raises(TypeError, match="a_data is an array of torch, b_data of cupy"):
        planned.execute(leaves[0], cp.asarray(b.data))


def test_tensors_find_what_plans_keep_on_their_device(require, monkeypatch):
    torch = require("torch")
    a, b = random((40, 40), 0.2, 1, layout="csc"), random((40, 40), 0.2, 2)
    planned = spgemm.plan(a, b)
    leaves = [torch.tensor(x.data, device="cuda", requires_grad=True) for x in (a, b)]

    def call(semiring):
        return torch.autograd.grad(planned.execute(*leaves, semiring=semiring).sum(), leaves)

    expected = [call(name) for name in ("plus_times", "min_plus")]
    copies, asarray = [], torch.asarray
    monkeypatch.setattr(torch, "asarray", lambda *x, **y: copies.append(x) or asarray(*x, **y))
    torch.testing.assert_close([call(name) for name in ("plus_times", "min_plus")], expected)
    assert not copies
