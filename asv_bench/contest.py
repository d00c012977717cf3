"""What a room hands to compare.py, and the interleaved timer."""

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

from threadpoolctl import threadpool_limits

import linalgkit

# A sample repeats a short call until it lasts this long, so that the clock does not decide.
SHORTEST_SAMPLE = 5e-3
# Another program had the core: a sample with less than this of its contestant's best share of
# the processors is not counted, for us and for peers alike.
LEAST_SHARE = 0.95
# Seconds; who takes longer has only the warm-up timed.
SLOW = 2.0
QUEUED = 20

Call = Callable[[], Any]


class Contest(NamedTuple):
    """One case with its operands made: calls that take nothing and return the result."""

    ours: Call
    peers: dict[str, Call]  # those that can take part here
    expected: Call
    differs: Callable[[Any, Any], str]  # (result, expected): what is wrong, "" if nothing
    operands: Any = None  # what must be read at least once, where a floor is stated
    read: int = 0  # bytes that ours reads, where the rate is told


class Table(NamedTuple):
    """Cases that are told in one table."""

    title: str
    ours: str  # what is called
    peers: tuple[str, ...]  # all of them, also those that are absent here
    cases: dict[str, Callable[[], Contest]]
    workers: tuple[int, ...] = (1, 2)
    # Gives a number of threads to peers that neither BLAS nor OpenMP settings reach.
    set_threads: Callable[[int], Any] = lambda workers: None
    wait: Call | None = None  # until the device is done
    queued: int = 1  # calls before the device is waited for
    longest: float = float("inf")  # seconds: no further round begins after them

    def in_a_queue(self) -> "Table":
        """Return the table of calls that follow one another, as in a loop that looks at none.

        A single call that is waited for also takes what Python does before the device begins.
        """
        return self._replace(title=f"{self.title}, {QUEUED} calls queued", queued=QUEUED)


class _Sample(NamedTuple):
    ms: float
    share: float  # processor time over wall time


def run_table(table: Table, cases: list[str], rounds: int, copy_gb_s: float = 0) -> dict[str, Any]:
    """Run the named cases of a table and return it as results/<room>.json holds it.

    Where a contest names its operands, its floor is the time to read them and to write the result
    once, at the rate of a copy.
    """
    rows = []
    for case in cases:
        progress(f"{table.title}: {case}")
        try:
            contest = table.cases[case]()
        except ImportError as error:  # of a package that makes the case
            progress(f"  left out: {error}")
            continue
        notes: list[str] = []
        floor: dict[str, float] = {}
        for workers in sorted(table.workers, reverse=True):
            table.set_threads(workers)
            with threadpool_limits(workers), linalgkit.use_workers(workers):
                if workers == max(table.workers):  # where most can go wrong
                    contest, notes = _verified(contest)
                    if contest.operands is not None:  # after: a call can change what follows
                        moved = bytes_of(contest.operands) + bytes_of(contest.ours())
                        floor = {"floor_ms": _digits(moved / copy_gb_s / 1e6)}
                measured, note = _race(contest, workers, rounds, table)
            if contest.read:
                note.append(f"ours reads {contest.read / median(measured['']) / 1e6:.3g} GB/s")
            row = {"case": case, "workers": workers, "note": "; ".join([*notes, *note])}
            rows.append(row | floor | _figures(measured, table.peers))
    rows.sort(key=lambda row: (cases.index(row["case"]), row["workers"]))
    return {"title": table.title, "ours": table.ours, "unit": "ms", "rows": rows}


def bytes_of(value: Any) -> int:
    """Count the bytes of an array, a sparse matrix, a tuple or list of such; 0 of what else."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if hasattr(value, "indptr"):
        value = value.data, value.indices, value.indptr
    return sum(map(bytes_of, value)) if isinstance(value, tuple | list) else 0


def progress(message: str) -> None:
    """Say on stderr what is being done."""
    print(message, file=sys.stderr, flush=True)


def _verified(contest: Contest) -> tuple[Contest, list[str]]:
    """Call everyone once (first calls compile); leave out who fails, say who is wrong."""
    expected = contest.expected()
    notes = []
    if wrong := contest.differs(contest.ours(), expected):
        notes.append(f"ours is WRONG: {wrong}")
    fit = {}
    for name, call in contest.peers.items():
        try:
            wrong = contest.differs(call(), expected)
        except Exception as error:  # whatever it is, the others go on
            notes.append(
                f"{name} fails: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
            )
            continue
        fit[name] = call
        if wrong:
            notes.append(f"{name} is WRONG: {wrong}")
    for note in notes:
        progress(f"  {note}")
    return contest._replace(peers=fit), notes


def _race(
    contest: Contest, workers: int, rounds: int, table: Table
) -> tuple[dict[str, list[float]], list[str]]:
    """Return everyone's times (ours under "") of the rounds that count, and what to note."""
    calls, wait = {"": contest.ours, **contest.peers}, table.wait
    first = {name: _sample(call, 1, table).ms for name, call in calls.items()}
    repeats = {name: max(1, round(SHORTEST_SAMPLE * 1e3 / ms)) for name, ms in first.items()}
    slow = [name for name in contest.peers if first[name] > SLOW * 1e3]
    racing = [name for name in calls if name not in slow]
    samples: dict[str, list[_Sample]] = {name: [] for name in racing}
    # Up to twice the rounds, where samples are lost to other programs.
    begin = time.perf_counter()
    for number in range(2 * rounds):
        for name in _order(racing, number):
            samples[name].append(_sample(calls[name], repeats[name], table))
        # On a device the processor only waits, and its share says nothing.
        counted = samples if wait else {name: _undisturbed(s) for name, s in samples.items()}
        if min(map(len, counted.values())) >= rounds:
            break
        if time.perf_counter() - begin > table.longest:
            break
    progress(f"  {workers} workers: {number + 1} rounds")
    notes = [f"{name} timed once" for name in slow]
    for name in racing:
        if len(counted[name]) <= min(rounds, number + 1) // 2:
            counted[name] = samples[name]
            notes.append(f"{name or 'ours'} disturbed by other programs")
    share = median(sample.share for sample in counted[""])
    if not wait and share < 0.9 * workers:
        notes.append(f"our processor time / wall time is {share:.2f}")
    times = {name: [sample.ms for sample in counted[name]] for name in racing}
    return times | {name: [first[name]] for name in slow}, notes


def _undisturbed(samples: list[_Sample]) -> list[_Sample]:
    least = LEAST_SHARE * max(sample.share for sample in samples)
    return [sample for sample in samples if sample.share >= least]


def _order(names: list[str], number: int) -> list[str]:
    """Rotate by one a round, every other round backwards: neighbours change too."""
    shift = number % len(names)
    names = names[shift:] + names[:shift]
    return names[::-1] if number % 2 else names


def _sample(call: Call, repeats: int, table: Table) -> _Sample:
    # Everyone is timed in the state that a call of its own leaves, which is a caller's in a loop.
    # Else it is luck where a large result lands: in the heap that the one before has left, on
    # fresh pages (measured: 13 or 22 ms for one product), or, in virtual machines, on pages that
    # the host took back meanwhile (150 or 840 ms for another).
    if _malloc_trim is not None:
        _malloc_trim(0)
    call()
    wait = table.wait or (lambda: None)
    wait()
    gc.collect()
    gc.disable()
    wall = cpu = 0.0
    try:
        for _ in range(repeats):
            wall, cpu = wall - time.perf_counter(), cpu - time.process_time()
            for _ in range(table.queued):
                result = call()
            wait()
            wall, cpu = wall + time.perf_counter(), cpu + time.process_time()
            del result  # at once, but giving memory back is not the product's time
    finally:
        gc.enable()
    return _Sample(wall / (repeats * table.queued) * 1e3, cpu / wall)


# glibc alone has it; elsewhere the heap stays as it is.
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def _figures(measured: dict[str, list[float]], peers: tuple[str, ...]) -> dict[str, Any]:
    ours = measured[""]
    absent = {"ms": None, "spread": None, "ratio": None}
    return {
        "ours_ms": _digits(median(ours)),
        "ours_spread": _spread(ours),
        "peers": {
            name: {
                "ms": _digits(median(times)),
                "spread": _spread(times),
                "ratio": _digits(median(times) / median(ours)),
            }
            if (times := measured.get(name))
            else absent
            for name in peers
        },
    }


def _spread(times: list[float]) -> list[float]:
    return [_digits(min(times)), _digits(max(times))]


def _digits(x: float) -> float:
    return float(f"{x:.4g}")
