"""Parts of the site that are written at build time, into ``docs/_generated``.

The capability table comes from ``linalgkit.capabilities()``, the performance tables from the
results that ``asv_bench/compare.py`` stored, the figures of growth from ``growth_<room>.py`` there,
the table of equations from ``growth_kronecker_pde.py``, the tables of exactness and of accuracy from
``exact_householder.py`` and ``exact_mfac.py``. All is reStructuredText to be included.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import linalgkit

NONE = "–"


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def reset_process(gallery_conf: dict[str, Any], file_name: str) -> None:
    """Give the next gallery script our settings as they were (called by sphinx-gallery)."""
    linalgkit.set_workers(None)
    for name in [name for name in os.environ if name.startswith("LINALGKIT_")]:
        if name not in _ENVIRONMENT:
            del os.environ[name]
    os.environ.update(_ENVIRONMENT)


_ENVIRONMENT = {name: value for name, value in os.environ.items() if name.startswith("LINALGKIT_")}


def _write(app: Any) -> None:
    source = Path(app.srcdir)
    target = source / "_generated"
    target.mkdir(exist_ok=True)
    stored = sorted((source.parent / "asv_bench" / "results").glob("*.json"))
    results = [{"file": p.stem, **json.loads(p.read_text(encoding="utf-8"))} for p in stored]
    pages = {
        "capabilities.rst": capability_table(linalgkit.capabilities()),
        "performance.rst": performance_tables(r for r in results if "tables" in r),
        "growth.rst": growth_figures([r for r in results if "panels" in r], target),
        "exactness.rst": exactness_table(r for r in results if "automata" in r),
        "equations.rst": equations_table(r for r in results if "rows" in r),
        "accuracy.rst": accuracy_table(r for r in results if "accuracy" in r),
    }
    for name, lines in pages.items():
        text = "\n".join(lines) + "\n"
        path = target / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # else nothing to reread
            path.write_text(text, encoding="utf-8")


def capability_table(rows: Iterable[Any]) -> Iterator[str]:
    """Yield a table of functions, and a note for each reason why a library is not served."""
    cells, notes = [], {}
    for row in rows:
        link = f":func:`{row.room}.{row.function} <linalgkit.{row.room}.{row.function}>`"
        lists = (row.engines, row.torch_engines, row.libraries)
        cells.append([link, row.kind, *map(", ".join, lists)])
        for library, reason in row.exceptions.items():
            notes.setdefault((link, reason), []).append(library)
    yield from _table(["function", "kind", "engines", "torch by", "arrays of"], cells)
    for (link, reason), libraries in notes.items():
        yield f"* {link} not with {', '.join(libraries)}: {_text(reason)}."


def performance_tables(results: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield a section per room: the machine, then its tables."""
    empty = True
    for result in results:
        empty = False
        heading = str(result.get("file", result.get("room", "unnamed")))
        room, _, engine = heading.partition("-")  # "spgemm", "spgemm-cupy"
        heading = f"{room} on the {engine} engine" if engine else room
        yield from (heading, "-" * len(heading), "")
        yield from (" ".join(_machine(result)), "")
        for table in result.get("tables", []):
            yield from _comparison(table)
    if empty:
        yield "No results are stored yet."


def growth_figures(results: Iterable[dict[str, Any]], target: Path) -> Iterator[str]:
    """Draw a figure per room; yield where it was measured, and the figure."""
    for result in results:
        name = f"{result['file']}.svg"
        _draw_growth(result, target / name)
        panels = "; ".join(
            f"against {panel['x_label']} ({panel['title']})" for panel in result["panels"]
        )
        yield from (" ".join(_machine(result)), "", f".. image:: _generated/{name}")
        yield from (f"   :alt: {result['unit']} {panels}", "   :width: 100%", "")
        if disturbed := [note for note in result.get("notes", []) if "disturbed" in note]:
            points = _count(len(disturbed), "point")
            yield from (f"At {points} other programs took part of the cores.", "")


def exactness_table(results: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield where it was run, a row per group and construction, a sentence on automata."""
    for result in results:
        dtypes = list(dict.fromkeys(row["dtype"] for row in result["groups"]))
        cells: dict[tuple[str, str], dict[str, str]] = {}
        for row in result["groups"]:
            error = "overflow" if row["error"] is None else f"error {row['error']:.2g}"
            cell = _lines(f"{row['wrong']:,} wrong", error) if row["error"] != 0 else "exact"
            cells.setdefault((row["group"], row["keys"]), {})[row["dtype"]] = cell
        yield from (" ".join(_machine(result)), "")
        yield from _table(
            ["group", "keys", *dtypes],
            [[*name, *(row[dtype] for dtype in dtypes)] for name, row in cells.items()],
        )
        automata = result["automata"]
        tokens = result["length"] * sum(row["layers"] for row in automata)
        seconds = sum(row["seconds"] for row in automata)
        yield (
            f"{len(automata)} random automata of "
            f"{min(row['states'] for row in automata)} to "
            f"{max(row['states'] for row in automata)} states, a word of {result['length']:,} "
            f"letters each, float32: {sum(row['wrong'] for row in automata):,} wrong states; "
            f"{len(automata) * result['length']:,} letters through {tokens:,} letters of layers "
            f"took {seconds / 60:.0f} minutes."
        )


def equations_table(results: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield where it was run, and a row per equation: errors, with times, of ours and of peers."""
    for result in results:
        rows = result["rows"]
        peers = list(dict.fromkeys(peer for row in rows for peer in row["peers"]))
        yield from (" ".join(_machine(result)), "")
        header = ["equation", "functions", "linalgkit", *(peer.replace("_", " ") for peer in peers)]
        cells = []
        for row in rows:
            named = [row["case"], "×".join(map(str, row["functions"]))]
            solvers = [row, *(row["peers"].get(peer) for peer in peers)]
            published = row["published"]
            last = NONE if published is None else f"{published:.1e}"
            cells.append([*named, *map(_error_and_time, solvers), last])
        yield from _table([*header, "published"], cells, "timings")


def _error_and_time(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return NONE
    return _lines(f"{entry['error']:.1e}", f"{_number(entry['ms'])} ms")


def accuracy_table(results: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield where it was run, a row per question, size and damping with an error per dtype."""
    for result in results:
        names = list(dict.fromkeys(name for row in result["accuracy"] for name in row["errors"]))
        yield from (" ".join(_machine(result)), "")
        yield from _table(
            ["", "m, d", "damping", *names],
            [
                [row["what"], f"{row['m']}, {row['d']}", f"{row['damping']:.0e}"]
                + [_error(row["errors"].get(name, NONE)) for name in names]
                for row in result["accuracy"]
            ],
            "timings",
        )


def _error(value: float | str | None) -> str:
    return "refused" if value is None else value if isinstance(value, str) else f"{value:.1e}"


def _draw_growth(result: dict[str, Any], path: Path) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    panels = result["panels"]
    # The salt and the missing date: the same file from every build.
    with rc_context({"svg.hashsalt": path.stem, "font.size": 10}):
        figure = Figure(figsize=(4 * len(panels), 4.2), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            kinds = list(dict.fromkeys(line["which"] for line in panel["lines"]))
            names = list(dict.fromkeys(line["name"] for line in panel["lines"]))
            styles = dict(zip(kinds, ("-", "--", ":"), strict=False))
            colours = {name: f"C{k}" for k, name in enumerate(names)}
            for line in panel["lines"]:
                style = {"color": colours[line["name"]], "linestyle": styles[line["which"]]}
                axis.loglog(line["x"], line["ns"], marker="o", markersize=4, **style)
            axis.set(title=panel["title"], xlabel=panel["x_label"])
            axis.grid(which="major", alpha=0.3)
            if len(kinds) > 1:
                keys = [Line2D([], [], color="0.3", linestyle=styles[kind]) for kind in kinds]
                axis.legend(keys, kinds, frameon=False)
        keys = [Line2D([], [], color=colours[name], marker="o", markersize=4) for name in names]
        axes[0].legend(keys, names, frameon=False)
        ticks = [digit * 10.0**power for power in range(-1, 5) for digit in (1, 2, 5)]
        axes[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes[0].minorticks_off()
        low, high = (
            pick(ns for p in panels for x in p["lines"] for ns in x["ns"]) for pick in (min, max)
        )
        axes[0].set_ylim(low / 1.3, high * 1.3)
        axes[0].set_ylabel(result["unit"])
        figure.savefig(path, metadata={"Date": None})


def _machine(result: dict[str, Any]) -> Iterator[str]:
    machine = result.get("machine", {})
    yield f"Measured {result.get('date', 'on an unknown date')} on {machine.get('cpu', 'a CPU')},"
    yield f"{machine.get('cores', 'an unknown number of')} cores."
    versions = {"Python": machine.get("python"), **machine.get("versions", {})}
    if any(versions.values()):
        yield ", ".join(f"{name} {version}" for name, version in versions.items() if version) + "."
    if machine.get("blas"):
        threads = machine.get("blas_threads")
        yield f"BLAS: {machine['blas']}" + (f", {_count(threads, 'thread')}." if threads else ".")
    if machine.get("copy_gb_s"):
        read = f"; reads at {machine['read_gb_s']:.3g} GB/s" if machine.get("read_gb_s") else ""
        yield f"Memory copies, read and written, at {machine['copy_gb_s']:.3g} GB/s{read}."
    if machine.get("gemm_gflop_s"):
        yield f"Dense float64 products at {machine['gemm_gflop_s']:.3g} GFLOP/s."
    if machine.get("thp"):
        yield f"Transparent huge pages: {machine['thp']}."
    if result.get("rounds"):
        if "rows" in result:  # of equations
            yield f"The least times of {_count(result['rounds'], 'round')}."
        else:
            yield f"Medians of {_count(result['rounds'], 'interleaved round')}."
    first = result.get("compile_s", {})
    if first.get("cold") is not None and first.get("warm") is not None:
        yield (
            f"The first call in a new process, imports included, takes {first['warm']:.2g} s with "
            f"compiled kernels on disk and {first['cold']:.2g} s without."
        )


def _comparison(table: dict[str, Any]) -> Iterator[str]:
    """Yield one table: our time above its spread, then a column per peer, time above ratio.

    Between them, where it is stated, the floor: reading the operands and writing the result once.
    """
    rows = table.get("rows", [])
    peers = list(dict.fromkeys(peer for row in rows for peer in row.get("peers", {})))
    title = _text(table.get("title", "Times"))
    yield from (title, "~" * len(title), "", f"Times in {table.get('unit', 'ms')}.", "")
    cells, notes = [], []
    has_floor = any("floor_ms" in row for row in rows)
    for row in rows:
        case, workers = _text(row.get("case", NONE)), row.get("workers")
        if row.get("note"):
            notes.append(f"* {case}, {_count(workers or 1, 'worker')}: {_text(row['note'])}")
        low, high = row.get("ours_spread") or (None, None)
        spread = "" if low is None or high is None else f"{_number(low)} – {_number(high)}"
        own = [case, str(workers or NONE), _lines(f"**{_number(row.get('ours_ms'))}**", spread)]
        if has_floor:
            own.append(_number(row.get("floor_ms")))
        cells.append(own + [_peer(row.get("peers", {}).get(peer)) for peer in peers])
    ours = [_text(table.get("ours", "linalgkit")), *(["floor"] if has_floor else [])]
    header = ["case", "workers", *ours, *map(_text, peers)]
    yield from _table(header, cells, "timings")
    yield from (*notes, "")


def _peer(entry: dict[str, Any] | None) -> str:
    if not entry or entry.get("ms") is None:
        return NONE
    ratio = entry.get("ratio")
    return _lines(_number(entry["ms"]), "" if ratio is None else f"({_number(ratio)}×)")


def _lines(first: str, second: str) -> str:
    """Put two lines into one cell of a table."""
    return f"| {first}\n       | {second}" if second else first


def _table(header: list[str], rows: list[list[str]], css_class: str = "") -> Iterator[str]:
    yield from (".. list-table::", "   :header-rows: 1")
    if css_class:
        yield f"   :class: {css_class}"
    for row in [header, *rows]:
        yield ""
        for column, cell in enumerate(row):
            yield f"   {'* -' if column == 0 else '  -'} {cell}"
    yield ""


def _number(value: float | None) -> str:
    """Write three significant digits, large numbers in full."""
    if value is None:
        return NONE
    if abs(value) < 1:
        return f"{value:.3g}"
    return f"{value:.{max(0, 3 - len(f'{abs(value):.0f}'))}f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _text(value: Any) -> str:
    """Escape what reStructuredText would read as markup."""
    return "".join("\\" + c if c in "\\*`|_" else c for c in str(value))
