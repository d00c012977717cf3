"""Containers in and out: every format, library, transpose and conjugate; corrupt ones refused."""

import pickle
from copy import copy as shallow
from copy import deepcopy
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from spgemm.cases import OPERATIONS, random

import linalgkit
from linalgkit import spgemm
from linalgkit.spgemm._containers import read

ENGINES = ("array_api", "numba")
FORMATS = ("csr", "csc", "coo", "bsr", "lil", "dia", "dok")
TURNS = list(product([False, True], repeat=2))


def in_format(matrix, layout, kind="array"):
    if kind == "matrix":
        matrix = sp.csr_matrix(matrix)
    if layout == "bsr":
        return matrix.tobsr((2, 2))
    return matrix.asformat(layout)


def turned(dense, transpose, conjugate):
    dense = dense.T if transpose else dense
    return dense.conj() if conjugate else dense


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("transposes", TURNS)
@pytest.mark.parametrize("conjugates", TURNS)
def test_transposes_and_conjugates_in_every_pair_of_formats(transposes, conjugates, dtype, engine):
    shapes = (8, 6), (6, 10)
    a, b = (
        random(shape[::-1] if transpose else shape, 0.4, seed, dtype)
        for seed, (shape, transpose) in enumerate(zip(shapes, transposes, strict=True))
    )
    dense = [
        turned(x.toarray(), *turn) for x, *turn in zip((a, b), transposes, conjugates, strict=True)
    ]
    options = dict(zip(("transpose_a", "transpose_b"), transposes, strict=True))
    options |= dict(zip(("conj_a", "conj_b"), conjugates, strict=True))
    for left, right in product(FORMATS, FORMATS):
        with linalgkit.use_engine(engine):
            result = spgemm.matmul(in_format(a, left), in_format(b, right), **options)
        np.testing.assert_allclose(result.toarray(), dense[0] @ dense[1], atol=1e-14)
        columns = [
            (layout == "csc") != transpose
            for layout, transpose in zip((left, right), transposes, strict=True)
        ]
        assert result.format == ("csc" if all(columns) else "csr")


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", FORMATS)
def test_array_gives_array_and_matrix_gives_matrix(layout, engine, kind):
    a = in_format(random((6, 6), 0.5, 1), layout, kind)
    functions = [
        lambda: spgemm.matmul(a, a),
        lambda: spgemm.matmul(a, sp.csr_array(a)),
        lambda: spgemm.galerkin(None, a, a),
        lambda: spgemm.matrix_power(a, 3),
        lambda: spgemm.matrix_power(a, 0),
        lambda: spgemm.k_hop(a, 2),
    ]
    with linalgkit.use_engine(engine):
        for function in functions:
            result = function()
            assert isinstance(result, sp.sparray if kind == "array" else sp.spmatrix)
            assert result.has_canonical_format


def test_operands_of_one_layout_are_not_converted(monkeypatch):
    pairs = {
        "csr, csr": ("csr", "csr", {}),
        "csc, csc": ("csc", "csc", {}),
        "both csr, transposed": ("csr", "csr", {"transpose_a": True, "transpose_b": True}),
        "csr, transposed csc": ("csr", "csc", {"transpose_b": True}),
        "transposed csr, csc": ("csr", "csc", {"transpose_a": True}),
    }
    a = random((20, 20), 0.2, 1)
    operands = {layout: a.asformat(layout) for layout in ("csr", "csc")}
    dense = a.toarray()
    for kind in (sp.csr_array, sp.csc_array):
        for method in ("tocsr", "tocsc", "tocoo", "transpose", "copy", "sort_indices"):
            monkeypatch.setattr(kind, method, lambda *_: pytest.fail("converted"))
    results = {
        name: spgemm.matmul(operands[left], operands[right], **options)
        for name, (left, right, options) in pairs.items()
    }
    monkeypatch.undo()
    for name, (_, _, options) in pairs.items():
        left = dense.T if options.get("transpose_a") else dense
        right = dense.T if options.get("transpose_b") else dense
        np.testing.assert_allclose(results[name].toarray(), left @ right, atol=1e-14)
        in_columns = name in ("csc, csc", "both csr, transposed", "transposed csr, csc")
        assert results[name].format == ("csc" if in_columns else "csr")


def same(ours, theirs):
    """Assert equal patterns and bits."""
    for part in ("data", "indices", "indptr"):
        left, right = getattr(ours, part), getattr(theirs, part)
        assert left.dtype == right.dtype
        assert left.tobytes() == right.tobytes()


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("semiring", OPERATIONS)
def test_what_coo_holds_at_one_place_is_added_as_the_semiring_adds(semiring, engine, kind):
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, 6, 60), rng.integers(0, 5, 60)
    coo = getattr(sp, f"coo_{kind}")((rng.standard_normal(60), (rows, columns)), shape=(6, 5))
    order = np.argsort(rows, kind="stable")
    indptr = np.searchsorted(rows[order], np.arange(7))
    csr = getattr(sp, f"csr_{kind}")((coo.data[order], columns[order], indptr), shape=(6, 5))
    other, mask = random((5, 6), 0.6, 1), random((6, 6), 0.5, 2)
    before = coo.data.copy(), coo.row.copy(), coo.col.copy()
    with linalgkit.use_engine(engine):
        for options in ({}, {"mask": mask}, {"transpose_a": True, "transpose_b": True}):
            found = [spgemm.matmul(x, other, semiring=semiring, **options) for x in (coo, csr)]
            same(*found)
            assert isinstance(found[0], sp.sparray if kind == "array" else sp.spmatrix)
        same(*(spgemm.matmul(other, x, semiring=semiring) for x in (coo, csr)))
    for array, copy in zip((coo.data, coo.row, coo.col), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_the_shorter_of_two_roads_is_taken_in_any_format():
    roads = sp.coo_array(([4.0, 3.0], ([0, 0], [1, 1])), shape=(2, 2))
    assert spgemm.shortest_paths_minplus(roads, [0]).tolist() == [[0.0, 3.0]]
    one = sp.eye_array(2, format="csr")
    assert spgemm.matmul(one, roads, semiring="plus_pair").data.tolist() == [2.0]


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5), (9, 2), (1, 1)])
@pytest.mark.parametrize("width", [1, 4, 9])
def test_diagonals_are_stored_with_their_zeros(width, shape, kind):
    offsets = [2, -1, 0, 3, -7]
    data = (np.arange(5 * width).reshape(5, width) % 3).astype(float)
    dia = getattr(sp, f"dia_{kind}")((data, offsets), shape=shape)
    expected = {
        (column - offset, column): data[k, column]
        for k, offset in enumerate(offsets)
        for column in range(min(width, shape[1]))
        if 0 <= column - offset < shape[0]
    }
    one = sp.eye_array(shape[1], format="csr")
    result = spgemm.matmul(dia, one)
    assert isinstance(result, sp.sparray if kind == "array" else sp.spmatrix)
    found = result.tocoo()
    places = list(zip(found.row.tolist(), found.col.tolist(), strict=True))
    assert dict(zip(places, found.data.tolist(), strict=True)) == expected
    assert len(places) == len(expected)
    assert result.indices.dtype == result.indptr.dtype == np.int32


def test_a_diagonal_of_zeros_means_staying():
    stay, roads = sp.diags_array(np.zeros(2)), sp.csr_array([[0.0, 5.0], [5.0, 0.0]])
    assert (spgemm.matmul(stay, roads, semiring="min_plus") != roads).nnz == 0
    empty = sp.dia_array((3, 2))
    assert spgemm.matmul(empty, roads).shape == (3, 2)
    assert spgemm.matmul(empty, roads).nnz == 0


def test_real_operands_are_not_copied_to_be_conjugated():
    operand = read("a", random((5, 5), 0.5, 1))
    assert operand.conjugated().data is operand.data
    whole = read("a", random((5, 5), 0.5, 1, "complex128"))
    np.testing.assert_array_equal(whole.conjugated().data, whole.data.conj())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", ["csr", "csc"])
@pytest.mark.parametrize("transpose", [False, True])
def test_wide_index_inputs_and_entries_past_the_last_row(engine, layout, transpose):
    plain = random((8, 8), 0.4, 1, layout=layout)
    expected = plain.toarray().T @ plain.toarray() if transpose else (plain @ plain).toarray()
    slack = plain.copy()
    slack.data = np.append(plain.data, [np.nan, 1.0])
    slack.indices = np.append(plain.indices, [999, -5]).astype(np.int64)
    slack.indptr = plain.indptr.astype(np.int64)
    mixed = plain.copy()
    mixed.indices = plain.indices.astype(np.int64)
    with linalgkit.use_engine(engine):
        for a, b in product((plain, slack, mixed), repeat=2):
            result = spgemm.matmul(a, b, transpose_a=transpose)
            np.testing.assert_allclose(result.toarray(), expected, atol=1e-14)
            assert result.indices.dtype == result.indptr.dtype == np.int32


@pytest.fixture(params=["numpy", "torch", "jax", "array_api_strict"])
def duck(request, require):
    """Function that puts a CSR matrix into a plain object with arrays of a library."""
    from linalgkit._testing import library

    if request.param != "numpy":
        require(request.param)
    used = library(request.param)

    def make(matrix):
        parts = (getattr(matrix, part) for part in ("data", "indices", "indptr"))
        data, indices, indptr = map(used.asarray, parts)
        return SimpleNamespace(data=data, indices=indices, indptr=indptr, shape=matrix.shape)

    make.library = used
    return make


@pytest.mark.parametrize("transposes", TURNS)
def test_objects_with_three_arrays(duck, transposes):
    a, b = random((6, 6), 0.5, 1, "complex128"), random((6, 6), 0.5, 2, "complex128")
    left, right = (
        turned(x.toarray(), transpose, True)
        for x, transpose in zip((a, b), transposes, strict=True)
    )
    result = spgemm.matmul(
        duck(a), duck(b), transpose_a=transposes[0], transpose_b=transposes[1], conj_a=True,
        conj_b=True,
    )  # fmt: skip
    assert isinstance(result, spgemm.CSR)
    assert all(isinstance(x, duck.library.array_type) for x in result)
    arrays = tuple(map(duck.library.asnumpy, result))
    np.testing.assert_allclose(
        sp.csr_array(arrays, shape=(6, 6)).toarray(), left @ right, atol=1e-14
    )


def test_results_for_objects_with_three_arrays_are_operands_again(duck):
    shapes = (5, 6), (6, 9), (9, 4)
    a, b, c = (random(shape, 0.5, seed) for seed, shape in enumerate(shapes))
    first = spgemm.matmul(duck(a), duck(b))
    assert first.shape == (5, 9)
    chain = spgemm.matmul(first, duck(c))
    assert isinstance(chain, spgemm.CSR)
    assert chain.shape == (5, 4)

    def dense(csr):
        return sp.csr_array(tuple(map(duck.library.asnumpy, csr)), shape=csr.shape).toarray()

    np.testing.assert_allclose(dense(chain), (a @ b @ c).toarray(), atol=1e-14)
    turned = spgemm.matmul(first, first, transpose_a=True)
    np.testing.assert_allclose(dense(turned), ((a @ b).T @ (a @ b)).toarray(), atol=1e-14)
    assert turned.shape == (9, 9)
    plan = spgemm.plan(first, duck(c))
    planned = plan.to_sparse(plan.execute(first.data, duck(c).data))
    np.testing.assert_allclose(dense(planned), dense(chain), atol=1e-14)
    raw = spgemm.csr_matmul(*duck_parts(duck(a)), *duck_parts(duck(b)), shape=(5, 9))
    assert raw.shape == (5, 9)
    square = duck(random((6, 6), 0.5, 3))
    for result in (
        spgemm.galerkin(None, square, square),
        spgemm.matrix_power(square, 3),
        spgemm.k_hop(square, 2),
    ):
        assert result.shape == (6, 6)
        assert spgemm.matmul(result, result).shape == (6, 6)


def duck_parts(operand):
    return operand.data, operand.indices, operand.indptr


def test_three_arrays_with_a_shape_are_still_three():
    csr = spgemm.CSR(np.ones(1), np.zeros(1, int), np.array([0, 1]), (1, 3))
    data, indices, indptr = csr
    assert csr == (data, indices, indptr)
    assert csr._fields == ("data", "indices", "indptr")
    assert repr(csr).endswith("indptr=array([0, 1]), shape=(1, 3))")
    doubled = csr._replace(data=2 * data)
    assert doubled.shape == (1, 3)
    assert doubled.data == 2
    for again in (pickle.loads(pickle.dumps(csr)), shallow(csr), deepcopy(csr)):
        assert type(again) is spgemm.CSR
        assert again.shape == (1, 3)
        np.testing.assert_array_equal(np.concatenate(again), np.concatenate(csr))
    with pytest.raises(ValueError, match=r"a has no shape; make it CSR\(data"):
        spgemm.matmul(spgemm.CSR(*csr), csr)


def test_csr_is_a_pytree_that_keeps_its_shape(require):
    jax = require("jax")
    a = random((5, 5), 0.5, 1)
    parts = {part: jax.numpy.asarray(getattr(a, part)) for part in ("data", "indices", "indptr")}
    csr = spgemm.matmul(*2 * [SimpleNamespace(**parts, shape=a.shape)])
    assert len(jax.tree_util.tree_leaves(csr)) == 3
    doubled = jax.jit(lambda x: jax.tree_util.tree_map(lambda part: 2 * part, x))(csr)
    assert isinstance(doubled, spgemm.CSR)
    assert doubled.shape == (5, 5)
    np.testing.assert_array_equal(doubled.data, 2 * csr.data)

    def loss(x):
        return (x.data**2).sum()

    gradient = jax.grad(loss, allow_int=True)(csr)
    assert gradient.shape == (5, 5)
    np.testing.assert_array_equal(gradient.data, 2 * csr.data)


def test_torch_transforms_take_apart_and_make_csr(require):
    torch = require("torch")
    a = random((5, 5), 0.5, 1)
    index = [torch.asarray(x) for x in (a.indices, a.indptr)]
    data = torch.asarray(a.data)

    def call(values):
        return spgemm.csr_matmul(values, *index, values, *index, shape=(5, 5))

    both = torch.func.vmap(lambda values: call(values).data)(torch.stack([data, -data]))
    np.testing.assert_allclose(both[1], call(data).data, atol=1e-14)
    result = torch.func.vmap(call, out_dims=spgemm.CSR(0, None, None))(torch.stack([data, -data]))
    assert isinstance(result, spgemm.CSR)
    np.testing.assert_allclose(result.data, both)


def test_objects_with_entries_past_the_last_row(duck):
    a = random((6, 6), 0.5, 1)
    loose = duck(a)
    loose.data = duck.library.asarray(np.append(a.data, 7.0))
    loose.indices = duck.library.asarray(np.append(a.indices, 99))
    for options in ({}, {"transpose_a": True}, {"transpose_a": True, "transpose_b": True}):
        result = spgemm.matmul(loose, loose, **options)
        for ours, theirs in zip(result, spgemm.matmul(duck(a), duck(a), **options), strict=True):
            np.testing.assert_array_equal(*map(duck.library.asnumpy, (ours, theirs)))


def test_objects_whose_arrays_are_no_compressed_rows(duck):
    good = duck(random((4, 4), 0.5, 1))
    for part, value in [
        ("indptr", [0, 1]),
        ("indptr", [[0, 1, 1, 1, 1]]),
        ("data", [[1.0]]),
        ("shape", (4, 4, 4)),
        ("shape", (3, 4)),
    ]:
        wrong = SimpleNamespace(**vars(good))
        setattr(wrong, part, value if part == "shape" else duck.library.asarray(np.array(value)))
        with pytest.raises(ValueError, match=r"two axes|not those of CSR"):
            spgemm.matmul(wrong, good)
    wrong = SimpleNamespace(**vars(good))
    wrong.indices = duck.library.asarray(np.full(good.indices.shape[0], 1.5))
    for options in ({}, {"transpose_a": True}, {"transpose_a": True, "transpose_b": True}):
        with pytest.raises(TypeError, match=r"_indices must be integers"):
            spgemm.matmul(wrong, wrong, **options)


def test_jax_is_asked_for_products_and_for_no_pattern(require, monkeypatch):
    jax = require("jax")
    a = random((31, 31), 0.2, 1)
    parts = {part: jax.numpy.asarray(getattr(a, part)) for part in ("data", "indices", "indptr")}
    operand = SimpleNamespace(**parts, shape=a.shape)
    for name in ("argsort", "repeat", "cumulative_sum", "searchsorted", "arange", "concat"):
        monkeypatch.setattr(jax.numpy, name, None)  # each would be compiled for every size
    for options in ({}, {"transpose_a": True}, {"mask": operand}, {"prune": True}):
        result = spgemm.matmul(operand, operand, **options)
        expected = spgemm.matmul(a, a, **options | ({"mask": a} if "mask" in options else {}))
        assert all(isinstance(array, jax.Array) for array in result)
        np.testing.assert_array_equal(result.indices, expected.indices)
        np.testing.assert_allclose(result.data, expected.data, atol=1e-14)
    assert spgemm.triangle_count(operand) == spgemm.triangle_count(a)
    np.testing.assert_array_equal(spgemm.k_hop(operand, 2).data, spgemm.k_hop(a, 2).data)
    np.testing.assert_array_equal(spgemm.row_flops(operand, operand), spgemm.row_flops(a, a))


def test_jit_over_an_object_with_three_arrays_is_refused(require):
    jax = require("jax")

    def call(data, indices, indptr):
        a = SimpleNamespace(data=data, indices=indices, indptr=indptr, shape=(2, 2))
        return spgemm.matmul(a, a).data

    with pytest.raises(TypeError, match=r"needs the values of a.indices"):
        jax.jit(call)(*map(jax.numpy.asarray, ([1.0, 2.0], [0, 1], [0, 1, 2])))


@pytest.mark.parametrize("engine", ENGINES)
def test_pydata_arrays(engine, require):
    sparse = require("sparse")
    a, b = random((6, 7), 0.4, 1), random((7, 5), 0.4, 2)
    dense = a.toarray() @ b.toarray()

    def gcxs(matrix, axis):
        return sparse.GCXS.from_numpy(matrix.toarray(), compressed_axes=(axis,))

    with linalgkit.use_engine(engine):
        for left, right in product((0, 1), repeat=2):
            result = spgemm.matmul(gcxs(a, left), gcxs(b, right))
            assert isinstance(result, sparse.GCXS)
            assert result.compressed_axes == ((1,) if left == right == 1 else (0,))
            np.testing.assert_allclose(result.todense(), dense, atol=1e-14)
        result = spgemm.matmul(sparse.COO.from_numpy(a.toarray()), gcxs(b, 1))
        assert isinstance(result, sparse.COO)
        np.testing.assert_allclose(result.todense(), dense, atol=1e-14)
        result = spgemm.matmul(sparse.COO.from_numpy(a.T.toarray()), gcxs(b, 0), transpose_a=True)
        np.testing.assert_allclose(result.todense(), dense, atol=1e-14)
        filled = sparse.COO.from_numpy(a.toarray(), fill_value=1.0)
        with pytest.raises(ValueError, match=r"a must have fill_value 0; got 1\.0"):
            spgemm.matmul(filled, gcxs(b, 0))
        with pytest.raises(ValueError, match="a must have two axes"):
            spgemm.matmul(sparse.COO.from_numpy(np.ones(3)), gcxs(b, 0))


def test_containers_of_two_libraries_are_refused(require):
    torch = require("torch")
    a = random((4, 4), 0.5, 1)
    parts = {part: torch.asarray(getattr(a, part)) for part in ("data", "indices", "indptr")}
    ours = SimpleNamespace(**parts, shape=a.shape)
    for call in (
        lambda: spgemm.matmul(a, ours),
        lambda: spgemm.plan(ours, a),
        lambda: spgemm.galerkin(None, a, ours),
        lambda: spgemm.row_flops(a, ours),
    ):
        with pytest.raises(TypeError, match="different libraries in one call: numpy and torch"):
            call()
    mixed = SimpleNamespace(**(parts | {"data": a.data}), shape=a.shape)
    with pytest.raises(TypeError, match=r"a.data is an array of numpy, a.indices of torch"):
        spgemm.matmul(mixed, mixed)


def test_what_is_no_matrix_is_refused():
    eye = sp.eye_array(3, format="csr")
    with pytest.raises(ValueError, match=r"a must have two axes; got shape \(3,\)"):
        spgemm.matmul(sp.coo_array(np.ones(3)), eye)
    for wrong in (None, 1.0, "eye", np.eye(3), [[1.0]]):
        for call in (
            lambda x: spgemm.matmul(x, eye),
            lambda x: spgemm.plan(eye, x),
            lambda x: spgemm.galerkin(eye, x, eye),
            lambda x: spgemm.matrix_power(x, 2),
            lambda x: spgemm.row_flops(eye, x),
            lambda x: spgemm.triangle_count(x),
            lambda x: spgemm.k_hop(x, 1),
            lambda x: spgemm.shortest_paths_minplus(x),
        ):
            with pytest.raises(TypeError, match="must be a sparse array of"):
                call(wrong)


def _set(part, value):
    def damage(matrix):
        getattr(matrix, part)[-1 if part == "indptr" else 0] = value

    return damage


def _cut(part):
    return lambda matrix: setattr(matrix, part, getattr(matrix, part)[:-1])


DAMAGES = {
    "index too large": _set("indices", 10**8),
    "index negative": _set("indices", -1),
    "pointer past the entries": _set("indptr", 10**8),
    "pointer that falls": _set("indptr", 0),
    "pointer negative": _set("indptr", -(10**8)),
    "pointers too few": _cut("indptr"),
    "indices fewer than values": _cut("indices"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", [6, 5000])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("layout", ["csr", "csc", "bsr"])
def test_index_arrays_damaged_by_hand_raise_on_every_path(layout, damage, size, engine):
    good = sp.csr_array(sp.diags_array([1.0, 2.0], offsets=[0, 1], shape=(size, size)))
    broken = in_format(good, layout)
    broken = broken.copy()
    DAMAGES[damage](broken)
    calls = [
        lambda turn_a, turn_b: spgemm.matmul(broken, good, transpose_a=turn_a, transpose_b=turn_b),
        lambda turn_a, turn_b: spgemm.matmul(good, broken, transpose_a=turn_a, transpose_b=turn_b),
        lambda turn_a, _: spgemm.matmul(broken, broken, transpose_a=turn_a),
        lambda turn_a, _: spgemm.matmul(broken, good.tocsc(), transpose_a=turn_a),
        lambda turn_a, _: spgemm.matmul(good, good, mask=broken, complement=turn_a),
        lambda turn_a, _: spgemm.matmul(good, good, mask=broken, mask_values=True),
    ]
    others = [
        lambda: spgemm.galerkin(None, broken, good),
        lambda: spgemm.galerkin(None, good, broken),
        lambda: spgemm.galerkin(broken, good, good),
        lambda: spgemm.matrix_power(broken, 3),
        lambda: spgemm.matrix_power(broken, 1),
        lambda: spgemm.row_flops(broken, good),
        lambda: spgemm.row_flops(good, broken),
        lambda: spgemm.nnz_upper_bound(good, broken),
        lambda: spgemm.estimate_nnz(broken, good),
        lambda: spgemm.triangle_count(broken),
        lambda: spgemm.k_hop(broken, 2),
        lambda: spgemm.shortest_paths_minplus(broken, [0]),
        lambda: spgemm.plan(broken, good),
        lambda: spgemm.plan(good, broken),
        lambda: spgemm.plan(good, good, mask=broken),
        lambda: spgemm.plan_galerkin(None, broken, good),
        lambda: spgemm.plan_galerkin(None, good, broken),
    ]
    with linalgkit.use_engine(engine):
        for call, turn in product(calls, TURNS):
            with pytest.raises(ValueError):  # noqa: PT011
                call(*turn)
        for call in others:
            with pytest.raises(ValueError):  # noqa: PT011
                call()


@pytest.mark.parametrize("value", [10**8, -1])
@pytest.mark.parametrize("axis", [0, 1])
def test_coordinates_damaged_by_hand_raise(axis, value):
    broken = sp.eye_array(4, format="coo")
    broken.coords[axis][2] = value
    with pytest.raises(ValueError, match=rf"a.coords\[{axis}\] must lie in \[0, 4\)"):
        spgemm.matmul(broken, sp.eye_array(4))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", [3, 5000])
def test_errors_name_the_operand_that_is_broken_whatever_is_swapped(size, engine):
    good = sp.csr_array(sp.eye_array(size))
    wrong, falling = good.copy(), good.copy()
    wrong.indices[1] = size + 4
    falling.indptr[1] = 3
    turns = {"transpose_a": True, "transpose_b": True}
    ways = [  # formats of a and b, options, what the lines of both are
        ("csr", "csr", {}, "row", "row"),
        ("csc", "csc", {}, "column", "column"),
        ("csr", "csr", turns, "row", "row"),
        ("csc", "csc", turns, "column", "column"),
        ("csr", "csc", {"transpose_a": True}, "row", "column"),
        ("csr", "csc", {"transpose_b": True}, "row", "column"),
        ("csr", "csc", {}, "row", "column"),
    ]

    def in_layout(matrix, layout):
        kind = getattr(sp, f"{layout}_array")
        result = kind(matrix.shape)
        result.data, result.indices, result.indptr = matrix.data, matrix.indices, matrix.indptr
        return result

    with linalgkit.use_engine(engine):
        for left, right, options, line_a, line_b in ways:
            for bad, message in [
                (wrong, rf"{{}}_indices must lie in \[0, {size}\); entry 1 is {size + 4}"),
                (falling, "{}_indptr must not decrease; {} 1 goes from 3 to 2"),
            ]:
                with pytest.raises(ValueError, match=message.format("a", line_a)):
                    spgemm.matmul(in_layout(bad, left), in_layout(good, right), **options)
                with pytest.raises(ValueError, match=message.format("b", line_b)):
                    spgemm.matmul(in_layout(good, left), in_layout(bad, right), **options)
        for layout, line in [("csr", "row"), ("csc", "column")]:
            for operands in ("csr", "csc"):
                eye = in_layout(good, operands)
                message = f"mask_indptr must not decrease; {line} 1 goes from 3 to 2"
                with pytest.raises(ValueError, match=message):
                    spgemm.matmul(eye, eye, mask=in_layout(falling, layout))


def test_objects_of_short_indices_in_mixed_layouts(duck):
    a = random((3, 300), 0.2, 1)
    a.indices %= 200
    a.sum_duplicates()
    expected = (a.T @ random((3, 4), 0.9, 2)).toarray()
    short = duck(a)
    short.indices = duck.library.asarray(a.indices.astype(np.uint8))
    short.indptr = duck.library.asarray(a.indptr.astype(np.uint8))
    result = spgemm.matmul(short, duck(random((3, 4), 0.9, 2)), transpose_a=True)
    arrays = tuple(map(duck.library.asnumpy, result))
    found = sp.csr_array(arrays, shape=(300, 4)).toarray()
    np.testing.assert_allclose(found, expected, atol=1e-14)


@pytest.mark.parametrize("value", ["no", 1, None, 0.0])
def test_flags_are_true_or_false(value):
    eye = sp.eye_array(3, format="csr")
    arrays = eye.data, eye.indices, eye.indptr
    names = ["complement", "sort", "prune"]
    for name in names:
        with pytest.raises(TypeError, match=f"{name} must be True or False; got"):
            spgemm.csr_matmul(*arrays, *arrays, shape=(3, 3), **{name: value})
    names += ["mask_values", "transpose_a", "transpose_b", "conj_a", "conj_b"]
    for name in names:
        with pytest.raises(TypeError, match=f"{name} must be True or False; got"):
            spgemm.matmul(eye, eye, **{name: value})
