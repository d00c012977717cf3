"""The operators' protocol: dot test, SciPy's solvers, files, what `repr` tells."""

import io
import sys
import zipfile
from types import ModuleType

import numpy as np
import pytest
import scipy.sparse.linalg as spla

import linalgkit
from linalgkit import _checks
from linalgkit._operator import FORMAT, Operator


class DiagonalPlusLowRank(Operator):
    """A = diag(d) + U V^H for U of shape (n, r) and V of shape (n, r)."""

    fields = ("diagonal", "left", "right")

    def __init__(self, diagonal, left, right):
        self.diagonal, self.left, self.right = diagonal, left, right
        self.shape = (diagonal.shape[0], diagonal.shape[0])
        self.dtype = diagonal.dtype
        self.blocks = []  # widths of the blocks that came

    def matmat(self, x, /):
        _checks.operand("x", x, -2, self.shape[1])
        self.blocks.append(x.shape[-1])
        return self.diagonal[:, None] * x + self.left @ (self.right.conj().T @ x)

    def rmatmat(self, x, /):
        _checks.operand("x", x, -2, self.shape[0])
        self.blocks.append(x.shape[-1])
        return self.diagonal.conj()[:, None] * x + self.right @ (self.left.conj().T @ x)

    def to_dense(self):
        return np.diag(self.diagonal) + self.left @ self.right.conj().T


class Scale(Operator):
    """A = s I, with a plain number and a name among its fields."""

    fields = ("scale", "size", "name")

    def __init__(self, scale, size, name):
        self.scale, self.size, self.name = scale, size, name
        self.shape, self.dtype = (size, size), np.dtype(float)

    def matmat(self, x, /):
        return self.scale * x

    rmatmat = matmat


class Columns(Operator):
    """The columns of the identity at some places: integers kept, floats applied."""

    fields = ("places",)

    def __init__(self, places, rows):
        self.places, self.shape = places, (rows, places.shape[0])
        self.dtype = np.dtype(float)


def make(dtype=np.float64, n=20, rank=3, seed=0, symmetric=False):
    rng = np.random.default_rng(seed)

    def random(*shape):
        values = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
        return (values if np.dtype(dtype).kind == "c" else values.real).astype(dtype)

    left = random(n, rank)
    diagonal = np.abs(random(n)).astype(dtype) + dtype(1) if symmetric else random(n)
    return DiagonalPlusLowRank(diagonal, left, left if symmetric else random(n, rank))


DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


@pytest.mark.parametrize("dtype", DTYPES)
def test_products(dtype):
    operator = make(dtype)
    dense = operator.to_dense()
    rng = np.random.default_rng(1)
    x, block = rng.standard_normal(20).astype(dtype), rng.standard_normal((20, 4)).astype(dtype)
    tolerance = 1e3 * np.finfo(dtype).eps
    for got, expected in [
        (operator.matvec(x), dense @ x),
        (operator.rmatvec(x), dense.conj().T @ x),
        (operator @ x, dense @ x),
        (operator @ block, dense @ block),
    ]:
        assert got.shape == expected.shape
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(operator @ x.tolist(), dense @ x, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scipys", [False, True])
def test_dottest(dtype, scipys):
    operator = make(dtype)
    error = linalgkit.dottest(operator.aslinearoperator() if scipys else operator, rng=0)
    assert type(error) is float
    assert 0 <= error < 1000 * np.finfo(dtype).eps


def test_dottest_draws_from_the_rng():
    operator = make()
    assert linalgkit.dottest(operator, rng=3) == linalgkit.dottest(operator, rng=3)
    rng = np.random.default_rng(3)
    assert linalgkit.dottest(operator, rng=rng) == linalgkit.dottest(operator, rng=3)
    drawn = {linalgkit.dottest(operator, rng=rng) for _ in range(20)}
    assert len(drawn) > 1


def test_dottest_of_rectangles_and_integers():
    rng = np.random.default_rng(0)
    assert linalgkit.dottest(spla.aslinearoperator(rng.standard_normal((3, 7))), rng=0) < 1e-13
    assert linalgkit.dottest(spla.aslinearoperator(np.zeros((2, 3))), rng=0) == 0.0
    assert linalgkit.dottest(spla.aslinearoperator(rng.integers(-5, 5, (4, 3))), rng=0) < 1e-13


def not_conjugated(operator):
    operator.rmatmat = lambda x: (
        operator.diagonal[:, None] * x + operator.right @ (operator.left.T @ x)
    )


def not_transposed(operator):
    operator.rmatmat = operator.matmat


def scaled(operator):
    right = operator.rmatmat
    operator.rmatmat = lambda x: right(x) * (1 + 1e-9)


def absent(operator):
    operator.matmat = lambda x: 0 * x


@pytest.mark.parametrize("spoil", [not_conjugated, not_transposed, scaled, absent])
def test_dottest_finds_a_wrong_adjoint(spoil):
    operator = make(np.complex128)
    spoil(operator)
    with pytest.raises(AssertionError, match=r"<A x, y> = .* but <x, A\^H y> = .*not adjoint"):
        linalgkit.dottest(operator, rng=0)


def test_dottest_tolerance():
    operator = make()
    scaled(operator)
    assert 0 < linalgkit.dottest(operator, rtol=1e-6, rng=0) < 1e-6
    with pytest.raises(AssertionError, match="more than 1e-12"):
        linalgkit.dottest(operator, rtol=1e-12, rng=0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_dottest_refuses_what_is_not_finite(value):
    operator = make()
    operator.diagonal[3] = value
    with np.errstate(invalid="ignore"), pytest.raises(AssertionError):
        linalgkit.dottest(operator, rng=0)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_linear_operator_takes_blocks_as_blocks(dtype):
    operator = make(dtype)
    linear, dense = operator.aslinearoperator(), operator.to_dense()
    assert isinstance(linear, spla.LinearOperator)
    assert linear.shape == (20, 20)
    assert linear.dtype == dtype
    block = np.random.default_rng(2).standard_normal((20, 6)).astype(dtype)
    for got, expected in [
        (linear @ block, dense @ block),
        (linear.H @ block, dense.conj().T @ block),
        (linear.rmatmat(block), dense.conj().T @ block),
    ]:
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
    assert operator.blocks == [6, 6, 6]
    for column in (block[:, 0], block[:, :1]):  # SciPy also passes one column as a matrix
        assert (linear @ column).shape == column.shape
        assert (linear.H @ column).shape == column.shape
    assert operator.blocks == [6, 6, 6, 1, 1, 1, 1]


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_cg(dtype):
    operator = make(dtype, symmetric=True)
    right = np.random.default_rng(4).standard_normal(20).astype(dtype)
    x, info = spla.cg(operator.aslinearoperator(), right, rtol=1e-12)
    assert info == 0
    np.testing.assert_allclose(x, np.linalg.solve(operator.to_dense(), right), atol=1e-9)


def test_lsmr():
    operator = make(seed=5)
    right = np.random.default_rng(5).standard_normal(20)
    x = spla.lsmr(operator.aslinearoperator(), right, atol=1e-14, btol=1e-14, maxiter=1000)[0]
    np.testing.assert_allclose(x, np.linalg.solve(operator.to_dense(), right), atol=1e-6)


@pytest.mark.parametrize("solver", ["arpack", "lobpcg"])
def test_svds(solver):
    operator = make(n=40)
    values = spla.svds(
        operator.aslinearoperator(),
        k=3,
        solver=solver,
        return_singular_vectors=False,
        v0=np.random.default_rng(0).standard_normal(40),
    )
    expected = np.linalg.svd(operator.to_dense(), compute_uv=False)[:3]
    np.testing.assert_allclose(np.sort(values)[::-1], expected, rtol=1e-4)
    if solver == "lobpcg":
        assert max(operator.blocks) >= 3  # blocks, not a column at a time


def test_operands_of_wrong_shape():
    operator = make()
    for product, where in [
        (operator.matvec, "last axis"),
        (operator.rmatvec, "last axis"),
        (operator.__matmul__, "last axis"),
    ]:
        with pytest.raises(ValueError, match=f"x must have 20 entries on its {where}") as caught:
            product(np.ones(19))
        assert "(19,)" in str(caught.value)
    for product in (operator.matmat, operator.rmatmat, operator.__matmul__):
        with pytest.raises(ValueError, match="x must have 20 entries on its second-to-last axis"):
            product(np.ones((19, 2)))


def test_operator_without_products():
    operator = Columns(np.arange(3), 5)
    for product in (operator.matvec, operator.matmat):
        with pytest.raises(TypeError, match="Columns does not define matmat"):
            product(np.ones((3,) if product == operator.matvec else (3, 1)))
    with pytest.raises(TypeError, match="Columns does not define rmatmat"):
        operator.rmatmat(np.ones((5, 1)))


def test_repr():
    n, rank = 1000, 3
    operator = make(np.complex64, n=n, rank=rank)
    parameters = n + 2 * n * rank
    text = repr(operator)
    assert text.startswith("<DiagonalPlusLowRank 1000×1000, complex64: ")
    assert f"{parameters:,} parameters" in text
    assert f"{8 * parameters:,} bytes" in text
    assert f"{n * n / parameters:.3g} times smaller than dense" in text


def test_repr_tells_the_bytes_that_are_kept():
    operator = Columns(np.zeros(1000, dtype=np.int32), 2000)
    assert "1,000 parameters, 4,000 bytes" in repr(operator)


def test_repr_of_a_dtype_that_numpy_does_not_know():
    operator = make(np.float32)
    operator.dtype = "library.float12"
    assert "20×20, library.float12: 140 parameters, 560 bytes" in repr(operator)


def make_torch(torch, dtype):
    parts = make()
    return DiagonalPlusLowRank(
        *(torch.asarray(getattr(parts, name)).to(dtype) for name in parts.fields)
    )


def test_torch_operator(require):
    torch = require("torch")
    operator, twin = make_torch(torch, torch.float64), make()
    x = torch.ones(20, dtype=torch.float64)
    assert isinstance(operator @ x, torch.Tensor)
    np.testing.assert_allclose((operator @ x).numpy(), twin @ np.ones(20), atol=1e-13)


@pytest.fixture
def example(monkeypatch):
    """The example classes as classes of the package, which alone `load` makes."""
    module = ModuleType("linalgkit._example")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for kind in (DiagonalPlusLowRank, Scale):
        monkeypatch.setattr(kind, "__module__", module.__name__)
        setattr(module, kind.__name__, kind)
    module.helper = lambda **fields: fields
    module.Foreign = dict
    return module


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", ["str", "path", "bytes", "file"])
@pytest.mark.usefixtures("example")
def test_save_and_load(tmp_path, dtype, target):
    operator = make(dtype)
    path = tmp_path / "operator.npz"
    buffer = io.BytesIO()
    if target == "file":
        with path.open("wb") as file:
            operator.save(file)
        with path.open("rb") as file:
            loaded = linalgkit.load(file)
    else:
        operator.save({"str": str(path), "path": path, "bytes": buffer}[target])
        buffer.seek(0)
        loaded = linalgkit.load({"str": str(path), "path": path, "bytes": buffer}[target])
    assert type(loaded) is DiagonalPlusLowRank
    assert loaded.dtype == dtype
    for name in operator.fields:
        assert np.array_equal(getattr(loaded, name), getattr(operator, name))


@pytest.mark.usefixtures("example")
def test_save_and_load_plain_numbers():
    file = io.BytesIO()
    Scale(2.5, 3, "double and a half").save(file)
    file.seek(0)
    loaded = linalgkit.load(file)
    assert [loaded.scale, loaded.size, loaded.name] == [2.5, 3, "double and a half"]
    assert [type(x) for x in (loaded.scale, loaded.size, loaded.name)] == [float, int, str]


@pytest.mark.usefixtures("example")
def test_save_writes_the_arrays_alone(monkeypatch):
    """NumPy before 2.1 takes every keyword of savez for an array."""
    written = {}
    monkeypatch.setattr(np, "savez", lambda file, **arrays: written.update(arrays))
    make().save(io.BytesIO())
    assert written.keys() == content().keys()


@pytest.mark.usefixtures("example")
def test_save_refuses_what_is_no_number():
    file = io.BytesIO()
    with pytest.raises(TypeError, match=r"Scale\.name is not an array of numbers"):
        Scale(1.0, 2, None).save(file)
    assert file.getvalue() == b""


def test_load_of_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        linalgkit.load(tmp_path / "none.npz")


NAME = "linalgkit._example.DiagonalPlusLowRank"


def content(**changes):
    """Return what a sound file holds, with changes; None leaves a key out."""
    fields = {name: getattr(make(), name) for name in DiagonalPlusLowRank.fields}
    keys = {"linalgkit_class": np.array(NAME), "linalgkit_format": np.array(FORMAT)}
    return {key: x for key, x in {**keys, **fields, **changes}.items() if x is not None}


def archive(**changes):
    file = io.BytesIO()
    np.savez(file, **content(**changes))
    return file.getvalue()


@pytest.mark.usefixtures("example")
def test_load_of_a_sound_file():
    assert isinstance(linalgkit.load(io.BytesIO(archive())), DiagonalPlusLowRank)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linalgkit_class": None}, "it holds linalgkit_format, .*, but no linalgkit_class"),
        ({"linalgkit_format": None}, "no linalgkit_format"),
        ({"linalgkit_format": np.array(FORMAT + 1)}, f"format {FORMAT + 1} by a newer linalgkit"),
        ({"linalgkit_format": np.array("one")}, "linalgkit_format"),
        ({"linalgkit_format": np.array([1, 1])}, "linalgkit_format"),
        ({"left": None}, f"{NAME} needs diagonal, left, right; the file holds diagonal, right"),
        ({"more": np.ones(1)}, "needs diagonal, left, right; the file holds .*more"),
        ({"left": np.array([{}])}, "."),
    ],
    ids=["class", "format", "newer", "word", "two-numbers", "field-missing", "more", "objects"],
)
@pytest.mark.usefixtures("example")
def test_load_of_a_spoiled_file(changes, message):
    with pytest.raises(ValueError, match=message):
        linalgkit.load(io.BytesIO(archive(**changes)))


@pytest.mark.parametrize(
    "name",
    [
        "linalgkit._example.NoSuchClass",
        "linalgkit._no_such_module.Operator",
        "linalgkit._example.helper",  # a function
        "linalgkit._example.Foreign",  # a class, but no operator
        "linalgkit.load",
        "linalgkit.",
        "linalgkit",
        ".",
        "",
        "os.system",
        "builtins.eval",
        "linalgkit._operator.np.save",
        "linalgkit_evil.Operator",
        "test_operator.DiagonalPlusLowRank",
    ],
)
@pytest.mark.usefixtures("example")
def test_load_makes_no_other_class(name):
    with pytest.raises(ValueError, match="no operator class"):
        linalgkit.load(io.BytesIO(archive(linalgkit_class=np.array(name))))


def plain_npy():
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


def pickled():
    file = io.BytesIO()
    np.save(file, np.array([{}]), allow_pickle=True)
    return file.getvalue()


def zip_of_text():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive_:
        archive_.writestr("notes.txt", "not an array")
    return file.getvalue()


def text_for(key):
    file = io.BytesIO(archive(**{key: None}))
    with zipfile.ZipFile(file, "a") as archive_:
        archive_.writestr(key, "not an array")
    return file.getvalue()


def flipped():
    data = bytearray(archive())
    data[len(data) // 3] ^= 0xFF  # inside an array: the archive's checksum tells
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x01 random bytes, not any format \xff" * 5,
        plain_npy(),
        pickled(),
        zip_of_text(),
        archive()[:400],
        archive()[:-30],
        flipped(),
        text_for("left"),
        text_for("linalgkit_class"),
    ],
    ids=["empty", "random", "npy", "pickle", "zip", "cut", "cut-late", "flipped", "text", "name"],
)
@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.usefixtures("example")
def test_load_of_anything_else(data, as_file, tmp_path):
    path = tmp_path / "file.npz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="linalgkit"):
        linalgkit.load(path if as_file else io.BytesIO(data))


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("flip", [0x01, 0xFF])
@pytest.mark.usefixtures("example")
def test_load_of_a_file_with_one_wrong_byte(writer, flip):
    file = io.BytesIO()
    writer(file, **content())
    sound = file.getvalue()
    refused = 0
    for place in range(0, len(sound), 1 if writer is np.savez_compressed else 3):
        data = bytearray(sound)
        data[place] ^= flip
        try:
            linalgkit.load(io.BytesIO(bytes(data)))  # a byte that nobody reads
        except ValueError:
            refused += 1
    assert refused > 100


def test_no_array_is_made_of_an_operator_silently():
    operator = DiagonalPlusLowRank(np.ones(3), np.ones((3, 1)), np.ones((3, 1)))
    with pytest.raises(TypeError, match=r"write operator\.to_dense\(\)"):
        np.asarray(operator)
