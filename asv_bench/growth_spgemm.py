"""How the time of one product grows: with products, with compression, with columns; run by hand.

    python asv_bench/growth_spgemm.py

Writes results/spgemm-growth.json, from which the performance page draws its figure. Rows are
random and of equal length, one column out of each of so many ranges of columns.
"""

import argparse
import datetime
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as compare.py has it

import contest
import machine
import numpy as np
import scipy.sparse as sp
from compare_spgemm import _differs, _sorted

import linalgkit

PACKAGES = ("numpy", "scipy", "numba")
NAMES = ("1 worker", "2 workers", "SciPy")
FIXED = 2**21  # products, where something else grows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-write", action="store_true", help="only print")
    options = parser.parse_args()
    panels, notes = [], []
    for title, x_label, series in (
        ("8 × 8 products a row", "products", {"": by_products()}),
        (
            "64 × 4, fewer and fewer columns",
            "products for one entry",
            {"": by_compression()},
        ),
        (
            "more and more columns",
            "columns",
            {"4 × 4 products a row": by_columns(4), "16 × 16 products a row": by_columns(16)},
        ),
    ):
        lines = []
        for which, points in series.items():
            measured = [(x, _ns_a_product(a, b, options.rounds, notes)) for x, a, b in points]
            lines += [
                {
                    "name": name,
                    "which": which,
                    "x": [x for x, _ in measured],
                    "ns": [ns[name] for _, ns in measured],
                }
                for name in NAMES
            ]
        panels.append({"title": title, "x_label": x_label, "lines": lines})
    report = {
        "room": "spgemm",
        "date": datetime.date.today().isoformat(),
        "machine": machine.facts(PACKAGES, "numba"),
        "rounds": options.rounds,
        "unit": "ns a product",
        "notes": notes,
        "panels": panels,
    }
    if not options.no_write:
        path = Path(__file__).parent / "results" / "spgemm-growth.json"
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def by_products() -> Iterator[tuple[float, Any, Any]]:
    """Square larger and larger random matrices."""
    for products in np.logspace(4, 7.5, 8):
        n = round(products / 64)
        a = random_rows(n, n, 8)
        yield a.shape[0] * 64, a, a


def by_compression() -> Iterator[tuple[float, Any, Any]]:
    """Let more and more products fall on one entry."""
    rows = FIXED // 256
    a = random_rows(rows, rows, 64)
    for columns in (2**k for k in (16, 10, 8, 7, 6, 5, 4, 3, 2)):
        b = random_rows(rows, columns, 4)
        yield round(FIXED / linalgkit.spgemm.matmul(a, b).nnz, 3), a, b


def by_columns(degree: int) -> Iterator[tuple[float, Any, Any]]:
    """Spread the same products over more and more columns."""
    rows = FIXED // degree**2
    a = random_rows(rows, rows, degree)
    for columns in np.logspace(4, 7, 7):
        yield round(columns), a, random_rows(rows, round(columns), degree)


def random_rows(rows: int, columns: int, degree: int) -> Any:
    rng = np.random.default_rng(0)
    width = columns // degree
    ranges = np.arange(degree, dtype=np.int32) * width
    indices = (ranges + rng.integers(0, width, (rows, degree), dtype=np.int32)).ravel()
    indptr = np.arange(rows + 1, dtype=np.int32) * degree
    parts = rng.standard_normal(indices.size), indices, indptr
    return sp.csr_array(parts, shape=(rows, columns))


def _ns_a_product(a: Any, b: Any, rounds: int, notes: list[str]) -> dict[str, float]:
    """Time us with one and two workers, and SciPy, in one race; note what disturbed it."""

    def ours(workers: int) -> Any:
        with linalgkit.use_workers(workers):
            return linalgkit.spgemm.matmul(a, b)

    # Two workers stand as "ours": a race notes if those got no two cores.
    race = contest.Contest(
        lambda: ours(2),
        {"1 worker": lambda: ours(1), "SciPy": lambda: a @ b},
        lambda: _sorted(a @ b),
        _differs,
    )
    products = int(linalgkit.spgemm.row_flops(a, b).sum())
    name = f"{products:,} products, {b.shape[1]:,} columns"
    table = contest.Table("growth", "2 workers", ("1 worker", "SciPy"), {name: lambda: race}, (2,))
    (row,) = contest.run_table(table, [name], rounds)["rows"]
    ms = {"2 workers": row["ours_ms"]} | {who: peer["ms"] for who, peer in row["peers"].items()}
    ns = {who: float(f"{1e6 * value / products:.4g}") for who, value in ms.items()}
    contest.progress("  " + ", ".join(f"{who} {value} ns" for who, value in ns.items()))
    if row["note"]:
        notes.append(f"{name}: {row['note']}")
        contest.progress(f"  {row['note']}")
    return ns


if __name__ == "__main__":
    main()
