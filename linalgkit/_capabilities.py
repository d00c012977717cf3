"""The table of what works: kinds of the public functions times the engines' functions.

Read from the source by `ast`; nothing is imported. The tests run every row.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ._engine import ENGINES

LIBRARIES = ("numpy", "array_api_strict", "torch", "jax", "cupy")
KINDS = ("traced", "eager", "host")


@dataclass(frozen=True)
class Capability:
    """One public function: what it is and where it works."""

    room: str
    function: str
    kind: str
    engines: tuple[str, ...]
    libraries: tuple[str, ...]
    exceptions: dict[str, str]  # library -> why not
    vjp: str | None  # gradients by which torch tensors go through the fast engines

    @property
    def torch_engines(self) -> tuple[str, ...]:
        """What serves torch tensors, gradients included."""
        if "torch" not in self.libraries:
            return ()
        fast = tuple(name for name in ("numba", "cupy") if name in self.engines)
        return fast if self.vjp and fast else ("array_api",)


class Capabilities(tuple[Capability, ...]):
    """The rows; printed, a table."""

    def __repr__(self) -> str:
        header = ("function", "kind", "engines", "torch by", "arrays of")
        rows = [header] + [
            (
                f"{r.room}.{r.function}",
                r.kind,
                ", ".join(r.engines),
                ", ".join(r.torch_engines),
                ", ".join(r.libraries),
            )
            for r in self
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]])
            for row in rows
        ]
        return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def capabilities(room: str | None = None) -> Capabilities:
    """Tell which function works on which engines and array libraries.

    Parameters
    ----------
    room : str, optional
        One room's name, such as ``"spgemm"``; all rooms by default.

    Returns
    -------
    Capabilities
        A tuple of rows with the fields `room`, `function`, `kind`, `engines`,
        `libraries`, `exceptions`, `vjp` and `torch_engines`; printed, it is a table.

    Raises
    ------
    ValueError
        There is no such room.

    Notes
    -----
    Kinds: a *traced* function is pure with static shapes and also works under
    ``jit``, ``grad`` and ``vmap``; an *eager* one needs concrete values; a *host*
    one takes Python objects. The table is read from the source and every row of it
    is tested.

    Examples
    --------
    >>> import linalgkit
    >>> [row.function for row in linalgkit.capabilities("spgemm") if row.kind == "host"]
    ['shortest_paths_minplus']
    """
    base = Path(__file__).parent
    rooms = sorted(path.parent.name for path in base.glob("*/_array_api.py"))
    if room is not None and room not in rooms:
        raise ValueError(f"no room {room!r}; there are {', '.join(map(repr, rooms))}.")
    chosen = rooms if room is None else [room]
    return Capabilities(row for name in chosen for row in _room_rows(base / name))


def _room_rows(folder: Path) -> Iterator[Capability]:
    engines = {
        name: {
            node.name
            for path in folder.glob(f"_{name}*.py")
            for node in _tree(path).body
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        }
        for name in ENGINES
    }
    kinds: dict[str, str] = {}
    gradients: dict[str, str | None] = {}
    calls: dict[str, set[str]] = {}
    exceptions: dict[tuple[str, str], str] = {}
    for path in folder.glob("_[a-z]*.py"):
        if path.stem.startswith(tuple(f"_{name}" for name in ENGINES)):
            continue
        for node in _tree(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                calls[node.name] = _called(node)
                kind = _kind(node)
                if kind is not None:
                    kinds[node.name] = kind
                    gradients[node.name] = _vjp(node)
            elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == (
                "EXCEPTIONS"
            ):
                exceptions |= ast.literal_eval(node.value)
    for function, kind in sorted(kinds.items()):
        reached = {name[1:] for name in _reached(function, calls) if name.startswith(".")}
        needed = reached & set().union(*engines.values())
        serving = tuple(name for name in ENGINES if needed and needed & engines[name])
        refused = {
            library: reason for (name, library), reason in exceptions.items() if name == function
        }
        libraries = LIBRARIES if kind != "host" else ("numpy",)
        yield Capability(
            folder.name,
            function,
            kind,
            serving,
            tuple(library for library in libraries if library not in refused),
            refused,
            gradients.get(function),
        )


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _kind(function: ast.FunctionDef | ast.ClassDef) -> str | None:
    """Return the kind that the decorator ``@engine.<kind>`` states."""
    for decorator in function.decorator_list:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        if (
            isinstance(target, ast.Attribute)
            and isinstance(target.value, ast.Name)
            and target.value.id == "engine"
            and target.attr in KINDS
        ):
            return target.attr
    return None


def _vjp(function: ast.FunctionDef | ast.ClassDef) -> str | None:
    """Return the gradient that the decorator names."""
    for decorator in function.decorator_list:
        for keyword in getattr(decorator, "keywords", ()):
            if keyword.arg == "vjp":
                return str(ast.literal_eval(keyword.value))
    return None


def _called(function: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """Names that a function or class uses, and ``.name`` of every ``engine(...).name``."""
    names = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Call)
            and getattr(node.value.func, "id", "") == "engine"
        ):
            names.add(f".{node.attr}")
    return names


def _reached(function: str, calls: dict[str, set[str]]) -> set[str]:
    """What a function uses, through the other functions of the room's public modules."""
    reached: set[str] = set()
    waiting = [function]
    while waiting:
        for name in calls.get(waiting.pop(), set()) - reached:
            reached.add(name)
            waiting.append(name)
    return reached
