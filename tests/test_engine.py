"""Which engine serves a call: by arrays, by what is installed, by the user's wish."""

import asyncio
import importlib
import sys
import textwrap
import threading
import warnings
from itertools import count
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import linalgkit
from linalgkit import EngineError, _capabilities, _engine, use_engine
from linalgkit._engine import Engines, wished_engine

PACKAGE = Path(linalgkit.__file__).parent
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/_array_api.py"))

REFERENCE = """
    def twice(x):
        return "array_api", x + x

    def thrice(x):
        return "array_api", x + x + x
"""
FAST = """
    def twice(x):
        return "numba", 2 * x
"""


@pytest.fixture(autouse=True)
def no_wish():
    with use_engine(None):
        yield


@pytest.fixture
def make_room(tmp_path, monkeypatch):
    """Function that writes a room with the given engine files and returns its Engines."""
    monkeypatch.syspath_prepend(tmp_path)
    numbers = count()

    def make(array_api=REFERENCE, **files):
        name = f"{tmp_path.name}_{next(numbers)}".replace("-", "_")
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        for stem, text in {"array_api": array_api, **files}.items():
            (tmp_path / name / f"_{stem}.py").write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return Engines(name)

    yield make
    for name in [name for name in sys.modules if name.startswith(tmp_path.name.replace("-", "_"))]:
        del sys.modules[name]


@pytest.fixture
def engine(make_room):
    return make_room(numba=FAST)


def stand_in(package):
    """Return an array of a library that is not installed here, as far as its type tells."""
    kind = type("Array", (), {"__module__": f"{package}.core", "dtype": np.dtype(float)})
    return kind()


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16"])
def test_numba_serves_numpy(engine, dtype):
    x = np.ones(2, dtype)
    for _ in range(2):  # the second call takes the fast path
        assert engine(x).name == "numba"
        assert engine(x).twice(x)[0] == "numba"


@pytest.mark.parametrize("dtype", ["f2", "i8", "u1", "?", "g", ">f8"])
def test_reference_serves_other_dtypes(engine, dtype):
    x, fit = np.ones(2, dtype), np.ones(2)
    for _ in range(2):
        assert engine(x).name == "array_api"
        assert engine(fit, x).name == engine(x, fit).name == "array_api"
        assert engine(fit).name == "numba"


def test_room_states_its_dtypes(make_room):
    engine = make_room(numba=f'DTYPES = "qf"\n{textwrap.dedent(FAST)}')
    for _ in range(2):
        assert engine(np.ones(2, "f4"), np.ones(2, "i8")).name == "numba"
        assert engine(np.ones(2, "f8")).name == "array_api"


def test_absent_arrays(engine):
    x = np.ones(2)
    for _ in range(2):
        assert engine(None, x, None).name == "numba"
        assert engine(None, np.ones(2, "f2")).name == "array_api"
        assert engine(None).name == engine().name == "numba"


def test_subclass_is_numpy(engine, tmp_path):
    x = np.memmap(tmp_path / "x", dtype="f8", mode="w+", shape=3)
    assert engine(x).name == "numba"
    assert engine(np.ones(2)).name == "numba"
    assert engine(x).name == "numba"


@pytest.mark.parametrize("module", ["array_api_strict", "torch", "jax.numpy"])
def test_reference_serves_other_libraries(engine, require, module):
    xp = require(module)
    engine(np.ones(2))
    x = xp.ones(3)
    assert engine(x).name == ("torch" if module == "torch" else "array_api")
    assert engine(x).twice(x)[0] == "array_api"  # it has no gradient to go with a faster one


def test_torch_bfloat16(engine, require):
    torch = require("torch")
    x = torch.ones(2, dtype=torch.bfloat16)
    assert engine(x).twice(x)[0] == "array_api"
    assert engine(None).name == engine().name == "numba"


def test_library_of_mixed_arrays(engine, require):
    engine(np.ones(2))
    strict = require("array_api_strict")
    for mixed in [(np.ones(2), strict.ones(2)), (strict.ones(2), None, np.ones(2))]:
        with pytest.raises(TypeError, match="array_api_strict and numpy"):
            engine(*mixed)
    with pytest.raises(TypeError, match="cupy and numpy"):
        engine(np.ones(2), stand_in("cupy"))


def test_wish(engine):
    x = np.ones(2)
    assert engine(x).name == "numba"
    with use_engine("array_api"):
        assert wished_engine() == "array_api"
        assert engine(x).name == "array_api"
        assert engine(x).twice(x)[0] == "array_api"
    assert wished_engine() is None
    assert engine(x).name == "numba"
    with use_engine("numba"):
        assert engine(x).twice(x)[0] == "numba"


def test_wish_leaves_other_dtypes_to_the_reference(engine):
    with use_engine("numba"):
        assert engine(np.ones(2)).name == "numba"
        assert engine(np.ones(2, "f2")).twice(np.ones(2, "f2"))[0] == "array_api"


def test_unknown_engine(engine):
    expected = r"use_engine: no engine 'nonsense'.*'array_api'.*'dask'"
    with pytest.raises(EngineError, match=expected), use_engine("nonsense"):
        raise AssertionError("the block must not begin")
    assert wished_engine() is None
    assert engine(np.ones(2)).name == "numba"


def test_wish_that_cannot_serve(engine, require):
    strict = require("array_api_strict")
    for name in ("numba", "cupy", "dask"):
        with use_engine(name), pytest.raises(EngineError) as caught:
            engine(strict.ones(2))
        for word in (repr(name), "array_api_strict", "'array_api'", "use_engine(None)"):
            assert word in str(caught.value)
    for name in ("cupy", "dask"):
        with use_engine(name), pytest.raises(EngineError, match="numpy arrays; 'numba' and"):
            engine(np.ones(2))
    with use_engine("numba"), pytest.raises(EngineError, match="cannot serve cupy"):
        engine(stand_in("cupy"))
    with use_engine("array_api"), pytest.raises(EngineError, match="cannot serve dask"):
        engine(stand_in("dask"))


def test_wishes_nest(engine):
    x = np.ones(2)
    with use_engine("array_api"):
        with use_engine(None):
            assert engine(x).name == "numba"
            with use_engine("array_api"):
                assert engine(x).name == "array_api"
            assert engine(x).name == "numba"
        assert engine(x).name == "array_api"
    assert wished_engine() is None


def test_wish_ends_with_an_exception():
    with pytest.raises(KeyError), use_engine("array_api"), use_engine("numba"):
        raise KeyError
    assert wished_engine() is None


def test_wish_as_decorator(engine):
    @use_engine("array_api")
    def chosen():
        return engine(np.ones(2)).name

    assert [chosen(), chosen()] == ["array_api"] * 2
    assert wished_engine() is None


def test_wish_is_the_threads_own(engine):
    names = ["array_api", "numba", "array_api", "numba"]
    both, seen = threading.Barrier(len(names)), {}

    def call(index, name):
        with use_engine(name):
            both.wait(10)
            seen[index] = engine(np.ones(2)).name
            both.wait(10)

    threads = [threading.Thread(target=call, args=pair) for pair in enumerate(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [seen.get(index) for index in range(len(names))] == names
    assert wished_engine() is None


def test_wish_is_the_tasks_own(engine):
    async def call(name):
        with use_engine(name):
            seen = []
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(engine(np.ones(2)).name)
            return set(seen)

    async def main():
        found = await asyncio.gather(call("array_api"), call("numba"), call("array_api"))
        return found, wished_engine()

    assert asyncio.run(main()) == ([{"array_api"}, {"numba"}, {"array_api"}], None)


ASK = """
    import threading
    import numpy as np
    from linalgkit import EngineError, use_engine
    from linalgkit.spgemm._products import engine

    def ask():
        try:
            print(engine(np.ones(2)).name)
        except EngineError as error:
            print(error)

    ask()
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    with use_engine(None):
        ask()
"""


@pytest.mark.parametrize(
    ("value", "here", "in_thread"),
    [("", "numba", "numba"), ("array_api", "array_api", "array_api"), ("cupy", "EE", "EE")],
)
def test_wish_of_the_environment(python, value, here, in_thread):
    printed = python(textwrap.dedent(ASK), env={"LINALGKIT_ENGINE": value}).splitlines()
    refusal = "engine 'cupy' cannot serve numpy arrays"
    assert [("EE" if line.startswith(refusal) else line) for line in printed] == [
        here,
        in_thread,
        "numba",
    ]


def test_unknown_wish_of_the_environment(python):
    first, *_ = python(textwrap.dedent(ASK), env={"LINALGKIT_ENGINE": "nonsense"}).splitlines()
    assert first.startswith("LINALGKIT_ENGINE: no engine 'nonsense'; there are 'array_api', ")


def test_function_that_an_engine_lacks(engine):
    x = np.ones(2)
    chosen = engine(x)
    assert chosen.name == "numba"
    assert chosen.twice(x)[0] == "numba"
    assert chosen.thrice(x)[0] == "array_api"
    assert chosen.thrice(x)[0] == "array_api"  # the second look-up is a plain attribute
    with use_engine("numba"):
        assert engine(x).thrice(x)[0] == "array_api"


def test_function_that_no_engine_has(engine):
    with pytest.raises(AttributeError, match=r"no engine of .* has 'four_times'"):
        _ = engine(np.ones(2)).four_times
    with pytest.raises(AttributeError):
        _ = engine(np.ones(2))._private


def test_room_without_numba_engine(make_room):
    engine, x = make_room(), np.ones(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            assert engine(x).twice(x)[0] == "array_api"
        with use_engine("numba"):
            assert engine(x).twice(x)[0] == "array_api"


@pytest.fixture
def hide(monkeypatch):
    """Function that makes modules look as if they were not installed."""

    def hidden(*names):
        for name in names:
            for loaded in [m for m in sys.modules if m.startswith(name + ".")]:
                monkeypatch.delitem(sys.modules, loaded)
            monkeypatch.setitem(sys.modules, name, None)

    return hidden


def test_numba_missing(make_room):
    engine, x = make_room(numba="import no_numba_here\n" + textwrap.dedent(FAST)), np.ones(2)
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="'no_numba_here'.*pip install numba.*'array_api'"):
            assert engine(x).twice(x)[0] == "array_api"
    with use_engine("array_api"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert engine(x).twice(x)[0] == "array_api"
    with (
        use_engine("numba"),
        pytest.raises(EngineError, match=r"not installed \(pip install numba"),
    ):
        engine(x)


def test_numba_missing_for_torch(make_room, require):
    torch = require("torch")
    engine = make_room(numba="import no_numba_here")
    with use_engine("numba"), pytest.raises(EngineError, match="not installed"):
        engine(torch.ones(2))
    with use_engine("array_api"):
        assert engine(torch.ones(2)).twice(torch.ones(2))[0] == "array_api"


def test_missing_module_is_looked_for_once(make_room):
    """A failing import costs milliseconds, at every call if nobody remembers."""
    engine = make_room(numba="import attempts\nattempts.made.append(1)\nimport no_numba_here")
    attempts = ModuleType("attempts")
    attempts.made = []
    sys.modules["attempts"] = attempts
    try:
        for _ in range(5):
            with pytest.warns(RuntimeWarning, match="no_numba_here"):
                assert engine(np.ones(2)).name == "array_api"
    finally:
        del sys.modules["attempts"]
    assert 1 <= len(attempts.made) <= 2


def test_numba_broken(make_room):
    engine, x = make_room(numba='raise ImportError("libLLVM is missing")'), np.ones(2)
    with pytest.warns(RuntimeWarning, match="libLLVM is missing"):
        assert engine(x).twice(x)[0] == "array_api"
    with use_engine("numba"), pytest.raises(EngineError, match="libLLVM is missing"):
        engine(x)


def test_numba_missing_in_a_room(python):
    code = """
        import sys
        sys.modules["numba"] = None
        import warnings
        import numpy as np
        import linalgkit
        one = np.array([3.0]), np.zeros(1, int), np.array([0, 1])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            print(*linalgkit.spgemm.csr_matmul(*one, *one, shape=(1, 1)).data)
        print({warning.category.__name__ for warning in caught})
        try:
            with linalgkit.use_engine("numba"):
                linalgkit.spgemm.csr_matmul(*one, *one, shape=(1, 1))
        except linalgkit.EngineError as error:
            print(error)
    """
    value, kinds, message = python(textwrap.dedent(code)).splitlines()
    assert value == "9.0"
    assert kinds == "{'RuntimeWarning'}"
    assert "numba" in message
    assert "pip install numba" in message


def test_cupy_missing(make_room, hide):
    hide("cupy")
    engine, x = make_room(cupy="import cupy"), stand_in("cupy")
    with pytest.warns(RuntimeWarning, match=r"'cupy'.*linalgkit-structured\[gpu\]"):
        assert engine(x).name == "array_api"
    with use_engine("cupy"), pytest.raises(EngineError, match=r"linalgkit-structured\[gpu\]"):
        engine(x)


def test_dask_missing(make_room, hide):
    hide("dask")
    engine, x = make_room(dask="import dask.array"), stand_in("dask")
    for name in (None, "dask"):
        with use_engine(name), pytest.raises(EngineError, match=r"linalgkit-structured\[dask\]"):
            engine(x)


def test_room_without_dask_engine(engine):
    for name in (None, "dask"):
        with use_engine(name), pytest.raises(EngineError, match=r"Dask arrays.*\.compute\(\)"):
            engine(stand_in("dask"))


def test_decorators_record_and_return_the_function(make_room, monkeypatch):
    monkeypatch.setattr(_engine, "registry", {})
    engine = make_room()

    def f(x):
        return x

    f.__module__ = "somewhere._private"
    assert engine.eager(f) is f
    assert f.__module__ == engine.room
    assert _engine.registry == {(engine.room, "f"): _engine.Kind("eager")}
    assert engine.host(f) is f
    assert _engine.registry[engine.room, "f"].name == "host"
    assert engine.traced(vjp="f_vjp", batched=(0, 2))(f) is f
    assert _engine.registry[engine.room, "f"] == ("traced", "f_vjp", (0, 2), None)


def topics(room):
    engines = tuple(f"_{name}" for name in _engine.ENGINES)
    stems = (path.stem for path in (PACKAGE / room).glob("_[a-z]*.py"))
    return [stem for stem in stems if not stem.startswith(engines)]


@pytest.mark.parametrize("room", ROOMS)
def test_capabilities_are_what_the_decorators_registered(room):
    declared = {}
    for topic in topics(room):
        module = importlib.import_module(f"linalgkit.{room}.{topic}")
        declared |= getattr(module, "EXCEPTIONS", {})
    registered = {
        name: kind.name
        for (package, name), kind in _engine.registry.items()
        if package == f"linalgkit.{room}"
    }
    rows = linalgkit.capabilities(room)
    assert {row.function: row.kind for row in rows} == registered
    assert len(rows) == len(registered) > 0
    assert {
        (row.function, library): reason
        for row in rows
        for library, reason in row.exceptions.items()
    } == declared
    for row in rows:
        assert row.room == room
        assert set(row.libraries) | set(row.exceptions) == (
            {"numpy"} if row.kind == "host" else set(_capabilities.LIBRARIES)
        )
        assert not set(row.libraries) & set(row.exceptions)
        if row.kind != "host":
            assert row.engines[0] == "array_api", f"{row.function} has no reference engine"


def test_capabilities_read_a_room(tmp_path):
    files = {
        "_topic": """
            EXCEPTIONS = {("solve", "torch"): "no such thing there"}

            @engine.traced(vjp="apply_vjp", batched=(0,))
            def apply(x):
                return helper(x)

            def helper(x):
                return engine(x).apply_block(x)

            @engine.eager
            def solve(x):
                return engine(x).solve(x)

            @engine.host
            def name(x):
                return str(x)

            def not_public(x):
                return engine(x).solve(x)
        """,
        "_array_api": "def apply_block(x): ...\ndef solve(x): ...",
        "_numba": "def _private(x): ...",
        "_numba_blocks": "def apply_block(x): ...",
        "_dask": "def solve(x): ...",
    }
    for stem, text in files.items():
        (tmp_path / f"{stem}.py").write_text(textwrap.dedent(text))
    apply, name, solve = _capabilities._room_rows(tmp_path)
    every = _capabilities.LIBRARIES
    assert (apply.function, apply.kind, apply.engines) == (
        "apply",
        "traced",
        ("array_api", "numba"),
    )
    assert (name.function, name.kind, name.engines) == ("name", "host", ())
    assert (solve.function, solve.kind, solve.engines) == ("solve", "eager", ("array_api", "dask"))
    assert apply.libraries == every
    assert name.libraries == ("numpy",)
    assert solve.libraries == tuple(library for library in every if library != "torch")
    assert solve.exceptions == {"torch": "no such thing there"}


def test_capabilities_of_an_unknown_room():
    with pytest.raises(ValueError, match=r"no room 'no_such_room'; there are .*'spgemm'"):
        linalgkit.capabilities("no_such_room")


def test_capabilities_of_all_rooms():
    every = linalgkit.capabilities()
    assert list(every) == [row for room in ROOMS for row in linalgkit.capabilities(room)]


def test_capabilities_print_a_table():
    rows = linalgkit.capabilities()
    header, rule, *lines = repr(rows).splitlines()
    assert header.split("  ")[0] == "function"
    assert len(rule) == max(map(len, [header, *lines]))
    assert set(rule) == {"-"}
    assert len(lines) == len(rows)
    for row, line in zip(rows, lines, strict=True):
        assert line.startswith(f"{row.room}.{row.function} ")
        for title, cell in [
            ("kind", row.kind),
            ("engines", ", ".join(row.engines)),
            ("arrays of", ", ".join(row.libraries)),
        ]:
            assert line[header.index(title) :].startswith(cell)
