"""What compiled kernels are made of: BLAS, intrinsics, a cache, and rules that keep it honest."""

import ast
import builtins
import shutil
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numba import njit, typeof

import linalgkit
from linalgkit._blas import gemm
from linalgkit._checks import kernel_array
from linalgkit._intrinsics import for_size, popcount, prefetch, record_of, trailing_zeros

PACKAGE = Path(linalgkit.__file__).parent
KIND = {"f4": "s", "f8": "d", "c8": "c", "c16": "z"}
TOLERANCE = {"f4": 1e-5, "f8": 1e-13, "c8": 1e-5, "c16": 1e-13}


@njit(nogil=True, cache=True)
def call_gemm(kind, trans_a, trans_b, sizes, scalars, a, a_place, b, b_place, c, c_place):
    # A place is (offset of the first entry, leading dimension), in entries.
    m, n, k = sizes
    itemsize = c.itemsize
    return gemm(
        kind,
        trans_a,
        trans_b,
        m,
        n,
        k,
        scalars.ctypes.data,
        a.ctypes.data + a_place[0] * itemsize,
        a_place[1],
        b.ctypes.data + b_place[0] * itemsize,
        b_place[1],
        scalars.ctypes.data + itemsize,
        c.ctypes.data + c_place[0] * itemsize,
        c_place[1],
    )


def random(rng, shape, dtype):
    values = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    return (values if dtype.startswith("c") else values.real).astype(dtype)


def product(a, b, c, dtype, *, trans_a="n", trans_b="n", alpha=1, beta=0):
    """C = alpha op(A) op(B) + beta C on column-major arrays, blocks of larger ones at will."""
    m, n = c.shape
    k = a.shape[1] if trans_a == "n" else a.shape[0]
    places = []
    for array in (a, b, c):
        base = array if array.base is None else array.base
        offset = (array.ctypes.data - base.ctypes.data) // array.itemsize
        places += [base, (offset, array.strides[1] // array.itemsize)]
    scalars = np.array([alpha, beta], dtype)
    status = call_gemm(ord(KIND[dtype]), ord(trans_a), ord(trans_b), (m, n, k), scalars, *places)
    assert status == 0


def applied(letter, matrix):
    return {"n": matrix, "t": matrix.T, "c": matrix.conj().T}[letter]


@pytest.mark.parametrize("dtype", list(KIND))
@pytest.mark.parametrize("trans_b", "ntc")
@pytest.mark.parametrize("trans_a", "ntc")
def test_gemm(dtype, trans_a, trans_b):
    rng = np.random.default_rng(0)
    m, n, k = 5, 3, 4
    a = np.asfortranarray(random(rng, (m, k) if trans_a == "n" else (k, m), dtype))
    b = np.asfortranarray(random(rng, (k, n) if trans_b == "n" else (n, k), dtype))
    c = np.asfortranarray(random(rng, (m, n), dtype))
    alpha, beta = (2, -1) if dtype.startswith("f") else (2 - 1j, 0.5j)
    expected = alpha * (applied(trans_a, a) @ applied(trans_b, b)) + beta * c
    product(a, b, c, dtype, trans_a=trans_a, trans_b=trans_b, alpha=alpha, beta=beta)
    np.testing.assert_allclose(c, expected, rtol=0, atol=10 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", list(KIND))
def test_gemm_on_blocks(dtype):
    rng = np.random.default_rng(1)
    a, b, c = (np.asfortranarray(random(rng, (9, 8), dtype)) for _ in range(3))
    before = c.copy()
    part_a, part_b, part_c = a[2:7, 1:4], b[3:6, 2:8], c[1:6, 0:6]
    expected = part_a @ part_b
    product(part_a, part_b, part_c, dtype)
    np.testing.assert_allclose(part_c, expected, rtol=0, atol=10 * TOLERANCE[dtype])
    untouched = np.ones(c.shape, bool)
    untouched[1:6, 0:6] = False
    assert np.array_equal(c[untouched], before[untouched])


def test_gemm_of_row_major_arrays():
    rng = np.random.default_rng(2)
    a, b, c = random(rng, (5, 4), "f8"), random(rng, (4, 3), "f8"), np.zeros((5, 3))
    product(b.T, a.T, c.T, "f8")
    np.testing.assert_allclose(c, a @ b, rtol=0, atol=1e-13)


def test_gemm_overwrites_nan_where_beta_is_zero():
    c = np.full((2, 2), np.nan, order="F")
    product(np.eye(2, order="F"), np.eye(2, order="F"), c, "f8")
    assert np.array_equal(c, np.eye(2))


def test_gemm_from_several_threads():
    rng = np.random.default_rng(3)
    a = [np.asfortranarray(random(rng, (40, 40), "f8")) for _ in range(8)]
    together, wrong = threading.Barrier(8), []

    def call(index):
        together.wait(20)
        for other in a:
            c = np.zeros((40, 40), order="F")
            product(a[index], other, c, "f8")
            if not np.allclose(c, a[index] @ other, rtol=0, atol=1e-11):
                wrong.append(index)

    threads = [threading.Thread(target=call, args=(k,), daemon=True) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


@njit(nogil=True, cache=True)
def trailing_zeros_of(word):
    return trailing_zeros(word)


@njit(nogil=True, cache=True)
def popcount_of(word):
    return popcount(word)


@njit(nogil=True)
def prefetched_sum(values, places):
    total = 0.0
    for k in range(places.size):
        prefetch(values, places[min(k + 4, places.size - 1)])
        total += values[places[k]]
    return total


WORDS = [1, 2, 3, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1, 0xAAAAAAAAAAAAAAAA, 0x8000000000000001]
WORDS += [1 << k for k in range(64)]


@pytest.mark.parametrize("word", WORDS)
def test_trailing_zeros(word):
    assert trailing_zeros_of(np.uint64(word)) == (word & -word).bit_length() - 1


@pytest.mark.parametrize("word", [0, *WORDS])
def test_popcount(word):
    assert popcount_of(np.uint64(word)) == word.bit_count()


def test_prefetch_is_an_instruction():
    values = np.arange(10.0)
    places = np.array([3, 9, 0, 5], dtype=np.uint64)
    assert prefetched_sum(values, places) == 17.0
    assert prefetched_sum(kernel_array(values), kernel_array(places)) == 17.0
    for text in prefetched_sum.inspect_asm().values():
        assert "prefetch" in text or "prfm" in text  # x86, ARM


class Corner(NamedTuple):
    row: int
    column: int


@njit(nogil=True)
def difference(numbers):
    for_size()
    corner, other = record_of(Corner, numbers, 0), record_of(Corner, numbers, 2)
    return other.row - corner.column


def test_records_of_integers_in_an_array():
    assert difference(np.array([2, 3, 50, 7])) == 47


def test_kernels_for_size_say_so_to_the_compiler():
    for text in difference.inspect_llvm().values():
        assert "optsize" in text


def test_kernels_have_one_signature_a_dtype():
    assert typeof(kernel_array(np.ones(3))) == typeof(kernel_array(np.ones(6)[::2]))
    call = njit(lambda x: x[0])
    for x in (np.ones(3), np.ones(6)[::2], np.ones(3, ">f8"), np.broadcast_to(1.0, (3,))):
        call(kernel_array(x))
    assert len(call.signatures) == 1
    call(kernel_array(np.ones(3, "f4")))
    assert len(call.signatures) == 2


def test_kernel_that_writes_to_its_input_does_not_compile():
    @njit
    def write(x):
        x[0] = 1.0

    with pytest.raises(Exception, match=r"(?i)cannot (modify|assign).*readonly"):
        write(kernel_array(np.ones(3)))


CACHED = """
import numpy as np
from numba import njit
from linalgkit._blas import gemm
from linalgkit._intrinsics import popcount, prefetch, trailing_zeros

@njit(nogil=True, cache=True)
def kernel(start, stop, numbers, a, out):
    one, zero = numbers.ctypes.data, numbers.ctypes.data + numbers.itemsize
    n = a.shape[0]
    prefetch(numbers, np.uint64(1))
    for k in range(start, stop):
        gemm(ord("d"), ord("n"), ord("n"), n, n, n, one, a.ctypes.data, n, a.ctypes.data, n, zero,
             out.ctypes.data + k * n * n * out.itemsize, n)
    return trailing_zeros(np.uint64(8)) + popcount(np.uint64(7))
"""

RUN_CACHED = """
import numpy as np
from kernels_of_a_test import kernel
a, out = np.arange(9.0).reshape(3, 3), np.zeros((2, 3, 3))
assert kernel(0, 2, np.array([1.0, 0.0]), a, out) == 6
assert all(np.array_equal(block, a @ a) for block in out)
print(sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values()))
"""


def test_kernels_that_call_gemm_are_cached(python, tmp_path):
    (tmp_path / "kernels_of_a_test.py").write_text(CACHED)
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert python(RUN_CACHED, path=[tmp_path], env=cache) == "0 1\n"
    assert python(RUN_CACHED, path=[tmp_path], env=cache) == "1 0\n"


CALL = """
import warnings
import numpy as np
import linalgkit
assert linalgkit.__file__.startswith({folder!r})
one = np.array([3.0]), np.zeros(1, int), np.array([0, 1])
warnings.simplefilter("ignore")
try:
    print(*linalgkit.spgemm.csr_matmul(*one, *one, shape=(1, 1)).data)
except linalgkit.EngineError as error:
    print(error)
"""


@pytest.mark.parametrize("blocked", ["chosen", "all"])
def test_call_without_a_writable_cache(python, tmp_path, blocked):
    shutil.copytree(PACKAGE, tmp_path / "linalgkit", ignore=shutil.ignore_patterns("__pycache__"))
    nowhere = tmp_path / "file"  # no folder can be made under a file, whoever asks
    nowhere.touch()
    environment = {"NUMBA_CACHE_DIR": str(nowhere / "numba"), "PYTHONDONTWRITEBYTECODE": "1"}
    if blocked == "all":  # nor beside the source, nor in the user's folders
        for folder in (path for path in (tmp_path / "linalgkit").rglob("*") if path.is_dir()):
            (folder / "__pycache__").touch()
        (tmp_path / "linalgkit" / "__pycache__").touch()
        environment |= {
            "HOME": str(nowhere),
            "XDG_CACHE_HOME": str(nowhere),
            "LOCALAPPDATA": str(nowhere),
        }
    printed = python(CALL.format(folder=str(tmp_path)), path=[tmp_path], env=environment)
    # The result, or a refusal that tells what to do.
    assert printed == "9.0\n" or "NUMBA_CACHE_DIR" in printed


KERNEL_FILES = [PACKAGE / "_panels.py", *sorted(PACKAGE.rglob("_numba*.py"))]
GROUND_FLOOR = ("_intrinsics", "_blas", "_tiles", "_panels")


def imported_from(tree):
    """Map the names that a module imports to where from."""
    names = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {
                alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            names |= {alias.asname or alias.name: origin for alias in node.names}
    return names


def njit_options(function):
    """Return the options of a function's ``njit`` decorator; None if it has none."""
    for decorator in function.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        target = call.func if call else decorator
        name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
        if name in ("njit", "jit", "vectorize", "guvectorize", "stencil", "cfunc"):
            options = {word.arg: word.value for word in call.keywords} if call else {}
            return {"kind": name} | {key: ast.unparse(value) for key, value in options.items()}
    return None


def violations(source):
    """Say where a file of kernels breaks the design's rules."""
    tree, found = ast.parse(source), []
    names = imported_from(tree)
    own = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    constants = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    numpys = {name for name, origin in names.items() if origin in ("numpy", "math")}
    floor = {name for name, origin in names.items() if origin.lstrip(".") in GROUND_FLOOR}
    found += [f"imports {name}" for name in names if name in ("prange", "objmode")]
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef) or (options := njit_options(function)) is None:
            continue
        where = function.name
        # What is inlined is compiled and cached as part of its callers.
        stored = options.get("cache") == "True" or options.get("inline") == "'always'"
        if options["kind"] != "njit" or options.get("nogil") != "True" or not stored:
            found.append(f"{where}: not njit(nogil=True, cache=True)")
        if options.get("parallel", "False") != "False" or options.get("fastmath") == "True":
            found.append(f"{where}: parallel or fastmath=True")
        local = {
            node.id
            for node in ast.walk(function)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        local |= {argument.arg for argument in function.args.args}
        local |= {node.name for node in ast.walk(function) if isinstance(node, ast.FunctionDef)}
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            if call in function.decorator_list:
                continue
            root = call.func
            while isinstance(root, ast.Attribute | ast.Call | ast.Subscript):
                root = root.func if isinstance(root, ast.Call) else root.value
            name = getattr(root, "id", ast.unparse(call.func))
            known = name in local or name in own or name in numpys or name in floor
            if not known and not (name in vars(builtins) or name in constants):
                found.append(f"{where}: calls {ast.unparse(call.func)} of {names.get(name)}")
    return found


@pytest.mark.parametrize("path", KERNEL_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_kernels_keep_the_rules(path):
    assert violations(path.read_text(encoding="utf-8")) == []


GOOD = """
import numpy as np
from numba import njit
from .._blas import gemm
from .._intrinsics import popcount

def f(x):
    return 2 * x

class Pair(NamedTuple):
    first: int
    second: int

@njit(nogil=True, cache=True, fastmath={"contract"})
def kernel(start, stop, x):
    pair = Pair(start, stop)
    for k in range(start, stop):
        x[k] = np.sqrt(_helper(x[k])) + popcount(np.uint64(k)) + x.dtype.type(1)
    return gemm(x.ctypes.data)

@njit(nogil=True, cache=True)
def _helper(x):
    return max(x, 1)
"""


def test_rules_are_kept_by_a_good_file():
    assert violations(GOOD) == []
    inlined = GOOD.replace("cache=True)\ndef", 'inline="always")\ndef')
    assert inlined != GOOD
    assert violations(inlined) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("from .._intrinsics import", "from ._numba_other import", "calls popcount"),
        ("from .._intrinsics import", "from ..other._numba import", "calls popcount"),
        ("def _helper(x)", "def _renamed(x)", "calls _helper"),
        ("np.sqrt(", "scipy.special.erf(", "calls scipy.special.erf"),
        ("nogil=True, cache=True)\ndef", "nogil=True)\ndef", "_helper: not njit"),
        ("nogil=True, cache=True)\ndef", "cache=True)\ndef", "_helper: not njit"),
        ("@njit(nogil=True, cache=True)\n", "@njit\n", "_helper: not njit"),
        ("@njit(nogil=True, cache=True)", "@numba.vectorize(cache=True)", "_helper: not njit"),
        ('{"contract"}', "True", "kernel: parallel or fastmath=True"),
        ('fastmath={"contract"}', "parallel=True", "kernel: parallel or fastmath=True"),
        ("import njit", "import njit, prange", "imports prange"),
    ],
)
def test_rules_see_a_breach(old, new, complaint):
    assert old in GOOD
    assert any(
        found.startswith(complaint) or complaint in found
        for found in violations(GOOD.replace(old, new))
    )


def private_imports(path, source):
    """Say where a module of one room imports a private module of another."""
    parts = path.relative_to(PACKAGE).parts
    room = parts[0] if len(parts) > 1 else None
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ["linalgkit", *parts[:-1]][: len(parts) - node.level + 1] if node.level else []
            base += node.module.split(".") if node.module else []
            targets = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] != "linalgkit" or len(target) < 3:
                continue
            other, *rest = target[1:]
            if other not in (room, *GROUND) and any(name.startswith("_") for name in rest):
                found.append(".".join(target))
    return found


GROUND = {path.stem for path in PACKAGE.glob("_*.py")} | {"_cuda"}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_import_of_another_rooms_private_module(path):
    assert private_imports(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("from ..other._numba import kernel", 1),
        ("from ..other import _numba", 1),
        ("import linalgkit.other._topic", 1),
        ("from linalgkit.other import _topic as t", 1),
        ("def f():\n    from ..other._topic import g", 1),
        ("from ..other import function", 0),
        ("from linalgkit.other import function", 0),
        ("from .._checks import kernel_array", 0),
        ("from .. import _threads", 0),
        ("from .._cuda import Source", 0),
        ("from ._csr import check_csr", 0),
        ("from . import _csr", 0),
        ("import numpy._core", 0),
    ],
)
def test_private_imports_are_seen(source, count):
    assert len(private_imports(PACKAGE / "room" / "_topic.py", source)) == count
