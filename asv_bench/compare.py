"""A room of linalgkit beside its peers: interleaved rounds, medians, one JSON file a room.

``python asv_bench/compare.py spgemm`` runs the contests of compare_spgemm.py. Every case goes
through rounds in which each contestant runs once, in changing order, all in this process, with
the same number of threads. It prints the machine, the first-call times and the ratios
peer / ours (above 1: ours is faster), and writes results/<room>.json.
"""

import argparse
import datetime
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # linalgkit, where it is not installed

# OpenMP's threads spin for a while after each call, on the cores of whoever runs next (measured:
# a two-thread product 34–64 ms instead of 22 after one of GraphBLAS, and every processor time
# counted double). Put to sleep they cost their owners a few per cent at most. Read when the
# libraries are loaded, so before anything else.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def main() -> None:
    """Run one room's comparison."""
    rooms = sorted(path.stem.removeprefix("compare_") for path in HERE.glob("compare_*.py"))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("room", choices=rooms)
    parser.add_argument("--engine", choices=("numba", "cupy"), default="numba")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--table", default="", help="only titles with this; nothing is written")
    parser.add_argument("--case", nargs="+", metavar="NAME", help="only these; nothing is written")
    parser.add_argument("--no-write", action="store_true", help="only print")
    options = parser.parse_args()
    if options.engine == "cupy":
        _need_cupy()

    import contest
    import machine

    room = importlib.import_module(f"compare_{options.room}")
    tables = [table for table in room.tables(options.engine) if options.table in table.title]
    if not tables:
        parser.error(f"no table's title has {options.table!r}")
    known = dict.fromkeys(case for table in tables for case in table.cases)
    wanted = options.case or list(known)
    if unknown := set(wanted) - set(known):
        parser.error(f"no case {', '.join(unknown)}; there are: {', '.join(known)}")
    contest.progress("machine and first calls")
    report: dict[str, Any] = {
        "room": options.room,
        "date": datetime.date.today().isoformat(),
        "machine": machine.facts(room.PACKAGES, options.engine),
        "compile_s": machine.compile_seconds(room.FIRST_CALL[options.engine]),
        "rounds": options.rounds,
        "tables": [],
    }
    _print_machine(report)
    suffix = "" if options.engine == "numba" else f"-{options.engine}"
    path = HERE / "results" / f"{options.room}{suffix}.json"
    for table in tables:
        if cases := [case for case in wanted if case in table.cases]:
            report["tables"].append(
                contest.run_table(table, cases, options.rounds, report["machine"]["copy_gb_s"])
            )
            _print_table(report["tables"][-1], table.peers)
        if not (options.case or options.table or options.no_write):  # a long run may be cut short
            path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
            contest.progress(f"written: {path.relative_to(HERE.parent)}")


def _need_cupy() -> None:
    try:
        import cupy

        usable = cupy.cuda.is_available()
    except ImportError:
        usable = False
    if not usable:
        raise SystemExit(
            "--engine cupy needs CuPy and a CUDA device: pip install 'linalgkit-structured[gpu]'"
        )


def _print_machine(report: dict[str, Any]) -> None:
    facts = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    print(f"machine:    {facts['cpu']}, {facts['cores']} cores")
    print(f"software:   Python {facts['python']}, {versions}")
    print(f"BLAS:       {facts['blas']}, {facts['blas_threads']} threads")
    print(f"huge pages: {facts['thp']}")
    print(
        f"roofs:      copy {facts['copy_gb_s']} GB/s (read + written), read "
        f"{facts['read_gb_s']} GB/s, "
        f"float64 GEMM {facts['gemm_gflop_s']} GFLOP/s"
    )
    compiling = report["compile_s"]
    print(
        f"first call: {compiling['cold']} s with nothing compiled, {compiling['warm']} s after, "
        f"imports included"
    )


def _print_table(table: dict[str, Any], peers: tuple[str, ...]) -> None:
    print(f"\n{table['title']}\npeer / {table['ours']} (peer in {table['unit']}; – is absent)")
    has_floor = any("floor_ms" in row for row in table["rows"])
    lines = [["case", "workers", "ours (min–max)", *(["floor"] if has_floor else []), *peers]]
    for row in table["rows"]:
        low, high = row["ours_spread"]
        cells = [row["case"], str(row["workers"]), f"{row['ours_ms']:.3g} ({low:.3g}–{high:.3g})"]
        if has_floor:
            cells.append(f"{row['floor_ms']:.3g}")
        for peer in row["peers"].values():
            absent = peer["ms"] is None
            cells.append("–" if absent else f"{peer['ratio']:.2f} ({peer['ms']:.3g})")
        lines.append(cells)
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    for line in lines:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )
    for row in table["rows"]:
        if row["note"]:
            print(f"{row['case']}, {row['workers']} workers: {row['note']}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
