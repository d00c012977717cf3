"""One run through all rooms: real input, a known answer, a peer's time beside ours.

Prints a table as it goes and writes ``tour.png``. A room adds itself by
``examples/<room>/tour.py``, whose ``stops()`` yields the arguments of a `Stop` as dicts.

    python examples/tour.py
"""

import gc
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from tqdm import tqdm

import linalgkit

matplotlib.use("Agg")  # writes a file, needs no screen
import matplotlib.pyplot as plt

ROUNDS = 7
FEWER = 3  # rounds, where one outlasts the warm-up
WARM = 2.0  # seconds of calls before the timed ones


class Stop(NamedTuple):
    """One row of the table."""

    what: str
    input: str
    ours: Callable[[], Any]
    peer: Callable[[], Any] | None  # None where it is not installed
    peer_name: str
    error: Callable[[Any], float]
    """Of our result against the truth, relative."""


class Row(NamedTuple):
    """What is printed of a stop."""

    what: str
    input: str
    engine: str
    ours_ms: float
    peer_name: str
    peer_ms: float | None
    error: float


def main() -> None:
    """Run every stop, print its row, write the picture."""
    stops = [(room, stop) for room in rooms() for stop in stops_of(room)]
    print(f"linalgkit {linalgkit.__version__}: a tour of {len(stops)} stops\n")
    print(HEADER)
    rows = []
    with tqdm(stops, unit="stop", leave=False, file=sys.stderr) as progress:
        for room, stop in progress:
            progress.set_description(f"{room}: {stop.what}")
            row = run(room, stop)
            rows.append(row)
            tqdm.write(line(row))
    target = Path("tour.png")
    picture(rows, target)
    print(
        f"\nratio: the peer's time over ours, medians of {ROUNDS} rounds, {FEWER} where those are "
        f"long. Picture: {target}"
    )


def rooms() -> list[str]:
    """Return the rooms that have a tour, in alphabetical order."""
    return [path.parent.name for path in sorted(Path(__file__).parent.glob("*/tour.py"))]


def stops_of(room: str) -> list[Stop]:
    """Return the stops of ``examples/<room>/tour.py``."""
    path = Path(__file__).parent / room / "tour.py"
    spec = importlib.util.spec_from_file_location(f"tour_{room}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [Stop(**stop) for stop in module.stops()]


def run(room: str, stop: Stop) -> Row:
    """Time ours and the peer's in turn, warm, and judge our result."""
    error = stop.error(stop.ours())  # this call also compiles
    begin, calls = time.perf_counter(), 0
    while time.perf_counter() - begin < WARM:  # first touches of fresh memory are nobody's speed
        calls += 1
        stop.ours()
        if stop.peer is not None:
            stop.peer()
    ours, peer = [], []
    gc.disable()
    for _ in range(ROUNDS if calls > 1 else FEWER):
        ours.append(timed(stop.ours))
        if stop.peer is not None:
            peer.append(timed(stop.peer))
    gc.enable()
    engines = {name for row in linalgkit.capabilities(room) for name in row.engines}
    served = "numba" if "numba" in engines else "array_api"
    peer_ms = statistics.median(peer) if peer else None
    return Row(
        stop.what, stop.input, served, statistics.median(ours), stop.peer_name, peer_ms, error
    )


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds of one call, its result dropped."""
    begin = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - begin)


WIDTHS = (22, 36, 8, 10, 20, 7, 8)
HEADER = "  ".join(
    name.ljust(width)
    for name, width in zip(
        ("what", "input", "engine", "ours (ms)", "peer (ms)", "ratio", "error"), WIDTHS, strict=True
    )
)


def ratio_of(row: Row) -> str:
    """Write how many times the peer's time is ours."""
    if row.peer_ms is None:
        return "–"
    ratio = row.peer_ms / row.ours_ms
    return f"{ratio:.1f}×" if ratio >= 0.1 else f"{ratio:.1g}×"


def line(row: Row) -> str:
    """Format one row as it is printed."""
    peer = f"{row.peer_name} " + ("–" if row.peer_ms is None else f"{row.peer_ms:.1f}")
    times = f"{row.ours_ms:.1f}", peer, ratio_of(row)
    cells = (row.what, row.input, row.engine, *times, f"{row.error:.0e}")
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True))


def picture(rows: list[Row], target: Path) -> None:
    """Draw both times of every stop as bars."""
    figure, axes = plt.subplots(figsize=(8, 0.8 + 0.7 * len(rows)), layout="constrained")
    places = range(len(rows))
    axes.barh([p - 0.2 for p in places], [r.ours_ms for r in rows], 0.38, label="linalgkit",
              color="#0072B2")  # fmt: skip
    axes.barh([p + 0.2 for p in places], [r.peer_ms or 0 for r in rows], 0.38, label="peer",
              color="#E69F00")  # fmt: skip
    for place, row in zip(places, rows, strict=True):
        if row.peer_ms is not None:
            right = max(row.ours_ms, row.peer_ms)
            axes.text(right, place, f"  {ratio_of(row)}", va="center")
    axes.set_yticks(list(places), [f"{r.what}\n{r.input}" for r in rows], fontsize=9)
    axes.invert_yaxis()
    axes.set_xscale("log")  # from microseconds to seconds
    axes.margins(x=0.12)
    axes.set_xlabel("milliseconds (less is better)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside upper right", ncols=2)
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    main()
