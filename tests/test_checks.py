"""Argument checks: what passes, what is refused, and what the message then says."""

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from linalgkit import _checks

LIBRARIES = ["numpy", "array_api_strict", "torch", "jax.numpy"]


@pytest.fixture(params=LIBRARIES)
def library(request, require):
    return request.param.partition(".")[0], require(request.param)


def test_library_of(library):
    name, xp = library
    assert _checks.library_of(xp.ones(2)) == name
    assert _checks.library_of(xp.ones(2), xp.ones((1, 3))) == name


def test_library_of_nothing():
    assert _checks.library_of() == "numpy"


def test_library_of_numpy_kinds(tmp_path):
    mapped = np.memmap(tmp_path / "x", dtype="f8", mode="w+", shape=2)
    assert _checks.library_of(mapped, np.ma.ones(2), np.float64(1.0), np.ones(2)) == "numpy"


def test_library_of_a_jax_tracer(require):
    jax = require("jax")
    seen = []
    jax.jit(lambda x: seen.append(_checks.library_of(x)) or x)(jax.numpy.ones(2))
    jax.vmap(lambda x: seen.append(_checks.library_of(x)) or x)(jax.numpy.ones(2))
    assert seen == ["jax", "jax"]


def test_library_of_a_torch_transform(require):
    torch = require("torch")
    seen = []
    torch.func.vmap(lambda x: seen.append(_checks.library_of(x)) or x)(torch.ones(2))
    assert _checks.library_of(torch.nn.Parameter(torch.ones(2))) == "torch"
    assert seen == ["torch"]


def test_library_of_anothers_arrays():
    kind = type("Array", (), {"__module__": "somewhere.deep", "__array_namespace__": None})
    assert _checks.library_of(kind()) == "somewhere"


def test_mixed_libraries(require):
    torch, strict = require("torch"), require("array_api_strict")
    with pytest.raises(TypeError, match=r"array_api_strict and numpy and torch"):
        _checks.library_of(torch.ones(1), np.ones(1), strict.ones(1))


@pytest.mark.parametrize("value", [[1.0], None, "x", 3, {}], ids=str)
def test_library_of_what_is_no_array(value):
    with pytest.raises(TypeError, match=f"expected an array; got builtins.{type(value).__name__}"):
        _checks.library_of(value)


def test_arrays_keep_arrays(library):
    _, xp = library
    x, y = xp.ones(2), xp.ones((2, 1))
    first, absent, second = _checks.arrays(x=x, bias=None, y=y)
    assert first is x
    assert second is y
    assert absent is None


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([1.0, 2.0], "f8"),
        ((1, 2), np.dtype(int)),
        ([[1j]], "c16"),
        ([True], "?"),
        (3, np.dtype(int)),
        (2.5, "f8"),
        (1j, "c16"),
        (True, "?"),
        (np.float32(2.0), "f4"),
        ([], "f8"),
    ],
    ids=repr,
)
def test_arrays_convert_python_values(value, dtype):
    (x,) = _checks.arrays(x=value)
    assert type(x) is np.ndarray
    assert x.dtype == dtype
    assert np.array_equal(x, value)


def test_arrays_convert_subclasses(tmp_path):
    mapped = np.memmap(tmp_path / "x", dtype="f8", mode="w+", shape=2)
    (x,) = _checks.arrays(x=mapped)
    assert type(x) is np.ndarray
    assert np.shares_memory(x, mapped)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("word", "x must be an array; got builtins.str"),
        ({1: 2}, "x must be an array; got builtins.dict"),
        (np.ma.ones(2), "x is a masked array"),
        (["a", "b"], "x must be numeric; got dtype <U1"),
        ([None, 1], "x must be numeric; got dtype object"),
        (np.array([None, 1]), "x must be numeric; got dtype object"),
        (np.array(["a"]), "x must be numeric; got dtype <U1"),
        (np.array(["2020-01-01"], "M8[D]"), r"x must be numeric; got dtype datetime64\[D\]"),
    ],
    ids=repr,
)
def test_arrays_refuse(value, message):
    with pytest.raises(TypeError, match=message):
        _checks.arrays(y=np.ones(2), x=value)


def test_arrays_refuse_parts_that_do_not_fit():
    with pytest.raises(ValueError, match="x must be an array; got a tuple of parts whose shapes"):
        _checks.arrays(x=(np.ones((3, 2)), np.ones(2)))


def test_present():
    _checks.present(x=np.ones(2))
    with pytest.raises(TypeError, match="y must be an array; got None"):
        _checks.present(x=np.ones(2), y=None)


def test_floating_dtype(library):
    name, xp = library
    like = xp.ones(2)
    for value in (xp.float32, "float32"):
        assert _checks.floating_dtype(value, like) == xp.float32
    assert _checks.floating_dtype(np.complex64, like) == xp.complex64
    for value in (xp.int64, "int64", bool, "float33", "ones"):
        with pytest.raises(TypeError, match=f"dtype must be a floating dtype of {name}; got"):
            _checks.floating_dtype(value, like)
    assert _checks.floating_dtype("f4") == np.float32
    with pytest.raises(
        TypeError, match="of numpy; got 'bfloat16'; float32 holds all of its numbers"
    ):
        _checks.floating_dtype("bfloat16")


def test_arrays_of_mixed_libraries(require):
    strict = require("array_api_strict")
    expected = "left is an array of numpy, right of array_api_strict"
    with pytest.raises(TypeError, match=expected):
        _checks.arrays(left=np.ones(2), bias=None, right=strict.ones(2))
    with pytest.raises(TypeError, match=expected):  # a list is a NumPy array
        _checks.arrays(left=[1.0], right=strict.ones(2))


def test_concrete_values(library):
    _, xp = library
    _checks.concrete("room.f", "room.g", x=xp.ones(2), y=xp.ones(()))


def test_concrete_without_an_optional_array():
    _checks.concrete("room.f", "room.g", x=np.ones(2), bias=None)


def test_concrete_under_jit(require):
    jax = require("jax")

    def f(x):
        _checks.concrete("room.f", "Plan.execute", first=np.ones(2), second=x)
        return x

    for transformed in (jax.jit(f), jax.vmap(f)):
        with pytest.raises(TypeError, match=r"room\.f needs the values of second.*Plan\.execute"):
            transformed(jax.numpy.ones(2))

    def g(x):
        _checks.concrete("room.g", "Plan.execute", why="it looks", x=x)

    with pytest.raises(TypeError, match=r"values of x \(it looks\), and under jit"):
        jax.jit(g)(jax.numpy.ones(2))


def test_choice():
    _checks.choice("method", "exact", ("exact", "fast"))
    _checks.choice("method", None, ("exact", None))
    with pytest.raises(ValueError, match="method must be one of 'exact', 'fast'; got 'Exact'"):
        _checks.choice("method", "Exact", ("exact", "fast"))


def test_wanted():
    assert _checks.wanted(None, ("x", "left")) == ("x", "left")
    assert _checks.wanted("left", ("x", "left")) == ("left",)
    assert _checks.wanted({"left", "x"}, ["x", "left"]) == ("x", "left")
    with pytest.raises(ValueError, match="wrt must be one of 'x', 'left'; got 'right'"):
        _checks.wanted(["x", "right"], ("x", "left"))
    for value, kind in ((True, "bool"), (2.5, "float"), (3, "int")):
        with pytest.raises(TypeError, match=rf"wrt must be some of 'x', 'left'; got .* \({kind}\)"):
            _checks.wanted(value, ("x", "left"))


def test_finite(library):
    _, xp = library
    x = xp.asarray([[1.0, 2.0], [3.0, float("-inf")]])
    _checks.finite(x=x[0, :], y=xp.asarray([0.0 + 1j]))
    with pytest.raises(ValueError, match=r"y must be finite; entry \(1, 1\) is .*-inf"):
        _checks.finite(x=x[0, :], y=x)


def test_flags():
    _checks.flags(prune=True, sort=np.bool_(False))
    for value in ("yes", None, 1, np.ones(2), {}):
        with pytest.raises(TypeError, match="sort must be True or False; got "):
            _checks.flags(prune=True, sort=value)


def test_function():
    _checks.function("callback", print)
    with pytest.raises(TypeError, match=r"callback must be a function; got 3 \(int\)"):
        _checks.function("callback", 3)


def test_number():
    assert _checks.number("scale", np.float32(0.5)) == 0.5
    assert _checks.number("tol", 0, 0) == 0
    with pytest.raises(ValueError, match=r"tol must be at least 0; got -0\.5"):
        _checks.number("tol", -0.5, 0)
    for value in ("a", "0.5", "0.1", b"1", None, np.ones(2), True, np.False_):
        with pytest.raises(TypeError, match="scale must be a number; got "):
            _checks.number("scale", value)
    for value in (np.nan, -np.inf):
        with pytest.raises(ValueError, match="scale must be finite; got "):
            _checks.number("scale", value)


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3)], ids=repr)
def test_size(value):
    number = _checks.size("n", value)
    assert number == 3
    assert type(number) is int


@pytest.mark.parametrize(
    "value", [3.0, np.float64(3), "3", None, True, np.True_, [3], np.array([1, 2]), np.array(3.0)]
)
def test_size_that_is_no_integer(value):
    with pytest.raises(TypeError, match="n must be an integer; got ") as caught:
        _checks.size("n", value)
    assert repr(value) in str(caught.value)


def test_size_that_is_too_small():
    assert _checks.size("n", 0) == 0
    assert _checks.size("n", -2, minimum=-2) == -2
    for value, minimum in [(-1, 0), (0, 1), (np.int64(4), 5)]:
        with pytest.raises(ValueError, match=f"n must be at least {minimum}; got {value}"):
            _checks.size("n", value, minimum)


def test_operand(library):
    _, xp = library
    x = xp.ones((2, 3, 4))
    _checks.operand("x", x, -1, 4)
    _checks.operand("x", x, -2, 3)
    with pytest.raises(
        ValueError, match=r"x must have 3 entries on its last axis; got shape \(2, 3, 4\)"
    ):
        _checks.operand("x", x, -1, 3)
    with pytest.raises(
        ValueError, match=r"y must have 4 entries on its second-to-last axis; .*4\)"
    ):
        _checks.operand("y", x, -2, 4)
    with pytest.raises(ValueError, match=r"got shape \(4,\)"):
        _checks.operand("x", xp.ones(4), -2, 4)
    with pytest.raises(ValueError, match=r"got shape \(\)"):
        _checks.operand("x", xp.ones(()), -1, 1)


def assert_fit(view, array):
    assert view.flags.c_contiguous
    assert view.flags.aligned
    assert view.dtype.isnative
    assert not view.flags.writeable
    assert view.shape == array.shape
    assert view.dtype.kind == array.dtype.kind
    assert view.dtype.itemsize == array.dtype.itemsize
    assert np.array_equal(view, array)


@given(
    hnp.arrays(
        st.sampled_from(["f4", "f8", "c16", "i4", "u8", "?"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        elements={"allow_nan": False},
    )
)
def test_kernel_array_of_a_fit_array_is_a_view(array):
    view = _checks.kernel_array(array)
    assert_fit(view, array)
    assert view is not array
    assert view.ctypes.data == array.ctypes.data
    assert array.flags.writeable


def misaligned():
    buffer = bytearray(8 * 6 + 1)
    array = np.frombuffer(buffer, dtype="u1")[1:].view("f8")
    array[:] = range(6)
    assert not array.flags.aligned
    return array


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0)[::2],
        np.arange(12.0)[::-1],
        np.arange(12.0).reshape(3, 4).T,
        np.arange(12.0).reshape(3, 4)[:, 1:],
        np.arange(6.0).astype(">f8"),
        np.arange(6).astype(">i4").astype(">c8"),
        np.broadcast_to(np.float32(2), (3, 2)),
        misaligned(),
        np.zeros(3, "u1,f8")["f1"],
    ],
    ids=[
        "step",
        "back",
        "transposed",
        "block",
        "foreign",
        "foreign-complex",
        "broadcast",
        "misaligned",
        "field",
    ],
)
def test_kernel_array_of_an_unfit_array_is_a_copy(array):
    flags = str(array.flags)
    before = array.copy()
    view = _checks.kernel_array(array)
    assert_fit(view, array)
    assert not np.shares_memory(view, array)
    assert str(array.flags) == flags
    assert np.array_equal(array, before)


def test_kernel_array_of_a_read_only_array():
    array = np.arange(3.0)
    array.flags.writeable = False
    view = _checks.kernel_array(array)
    assert_fit(view, array)
    assert view.ctypes.data == array.ctypes.data


def test_kernel_array_has_one_compiled_type(tmp_path):
    mapped = np.memmap(tmp_path / "x", dtype="f8", mode="w+", shape=(3, 4))
    every = [np.ones((3, 4)), np.ones((4, 3)).T, np.ones((3, 8))[:, ::2], np.ones((3, 4), ">f8")]
    types = {numba.typeof(_checks.kernel_array(array)) for array in [*every, mapped]}
    assert types == {numba.types.Array(numba.float64, 2, "C", readonly=True)}
