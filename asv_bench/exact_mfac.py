"""How accurate are products with F⁻¹, steps and diagonals? By damping and dtype; run by hand.

    python asv_bench/exact_mfac.py

Writes results/mfac-exact.json, from which the performance page makes its table. The truth has 50
decimal digits, and is that of the gradients as they are stored. Beside ours stand the published
recurrences, derived again from the equations, as the tests have them.
"""

import argparse
import datetime
import json
import sys
from collections.abc import Callable
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import contest
import machine
import numpy as np

from linalgkit import mfac
from linalgkit._operator import _on_host
from linalgkit.mfac import _array_api

sys.path.append(str(machine.REPOSITORY / "tests"))
from mfac.cases import published_dynamic, published_static

PACKAGES = ("numpy", "scipy", "numba", "jax")
DIGITS = 50
SIZES = ((64, 400), (64, 48), (128, 48))  # gradients, parameters: the last ones by QR of F's factor
DAMPINGS = (1e-2, 1e-4, 1e-6, 1e-8)  # of the squared length of the longest gradient
STORAGES = {"float64": None, "float32": None, "float16": "float16", "bfloat16": "bfloat16"}
QUESTIONS = "F⁻¹x", "a step", "diagonal of F⁻¹"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--no-write", action="store_true", help="only print")
    options = parser.parse_args()
    report = {
        "room": "mfac",
        "date": datetime.date.today().isoformat(),
        "machine": machine.facts(PACKAGES, "numba"),
        "accuracy": [row for m, d in SIZES for ratio in DAMPINGS for row in rows_of(m, d, ratio)],
    }
    if not options.no_write:
        path = Path(__file__).parent / "results" / "mfac-exact.json"
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def rows_of(m: int, d: int, ratio: float) -> list[dict[str, Any]]:
    """Return a row of errors for each question: F⁻¹x of any x, of the last gradient, diagonal."""
    rng = np.random.default_rng(m + d)
    g, x = rng.standard_normal((m, d), np.float32), rng.standard_normal(d, np.float32)
    damping = ratio * float(np.max(np.sum(g.astype(np.float64) ** 2, axis=1)))
    whole = truth(g, x, damping)
    errors: dict[str, list[float | None]] = {}
    for name, storage in STORAGES.items():
        rows = g.astype(np.float64) if name == "float64" else g
        fisher = mfac.empirical_fisher(rows, damping=damping, storage=storage)
        kept = fisher.scales[:, None] * _array_api.widened(fisher.gradients)
        exact = truth(kept, x, damping) if storage else whole
        errors[name] = judged(ours(rows, x.astype(rows.dtype), damping, name), exact)
    if jax := _jax_in_float32():
        rows, vector = jax.numpy.asarray(g), jax.numpy.asarray(x)
        errors["JAX, float32"] = judged(ours(rows, vector, damping, "float32"), whole)
    for dtype in np.float64, np.float32:
        calls = published(g.astype(dtype), x.astype(dtype), dtype(damping))
        errors[f"published, {np.dtype(dtype)}"] = judged(calls, whole)
    sizes = {"m": m, "d": d, "damping": ratio}
    found = [
        {"what": what} | sizes | {"errors": {name: values[k] for name, values in errors.items()}}
        for k, what in enumerate(QUESTIONS)
    ]
    for row in found:
        contest.progress(" ".join(f"{key} {value}" for key, value in row.items()))
    return found


def ours(rows: Any, x: Any, damping: float, storage: str) -> list[Callable[[], Any]]:
    """Return what answers the questions; gradients are stored in their dtype, or as it is said."""
    is_narrow = storage in ("float16", "bfloat16")

    def fisher() -> Any:
        return mfac.empirical_fisher(rows, damping=damping, storage=storage if is_narrow else None)

    def step() -> Any:
        options = {"damping": damping, "storage": storage, "like": rows}
        window = mfac.SlidingWindowFisher(*rows.shape, **options)
        for g in rows[:-1]:
            window.push(g)
        return window.push_solve(rows[-1])

    return [lambda: fisher().solve(x), step, lambda: fisher().diagonal_inverse()]


def published(rows: np.ndarray, x: np.ndarray, damping: Any) -> list[Callable[[], Any]]:
    """Return what answers the questions by the static and the dynamic algorithm, in one dtype."""
    y, c = published_static(rows, damping)
    return [
        lambda: x / damping - (y @ x / c) @ y,
        lambda: published_dynamic(rows, rows[-1], damping),
        lambda: 1 / damping - np.sum(y**2 / c[:, None], axis=0),
    ]


def judged(calls: list[Callable[[], Any]], exact: tuple[np.ndarray, ...]) -> list[float | None]:
    """Return relative errors, of vectors in the norm, of the diagonal the largest.

    None where the damping was refused as too small for the dtype.
    """
    found: list[float | None] = []
    for call, expected, is_vector in zip(calls, exact, (True, True, False), strict=True):
        try:
            result = _decimals(_on_host(call()))
        except np.linalg.LinAlgError:
            found.append(None)
            continue
        error = (result - expected).astype(np.float64)
        truth = expected.astype(np.float64)
        if is_vector:
            value = np.linalg.norm(error) / np.linalg.norm(truth)
        else:
            value = np.max(np.abs(error / truth))
        found.append(float(f"{value:.2g}"))
    return found


def truth(rows: np.ndarray, x: np.ndarray, damping: float) -> tuple[np.ndarray, ...]:
    """Return F⁻¹x, F⁻¹g of the last row and the diagonal of F⁻¹, by Woodbury's identity."""
    with localcontext() as context:
        context.prec = DIGITS
        g, vector, number = _decimals(rows), _decimals(x), Decimal(damping)
        m = len(g)
        unit = _decimals(np.eye(m))
        right = np.concatenate([(g @ vector)[:, None], unit[:, -1:], g], axis=1)
        solved = _eliminated(g @ g.T + m * number * unit, right)
        product = (vector - g.T @ solved[:, 0]) / number
        return product, m * (g.T @ solved[:, 1]), (1 - np.sum(g * solved[:, 2:], axis=0)) / number


def _eliminated(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve for a positive definite matrix, which needs no pivots."""
    table, m = np.concatenate([matrix, right], axis=1), len(matrix)
    for k in range(m):
        table[k] = table[k] / table[k, k]
        others = np.arange(m) != k
        table[others] -= np.outer(table[others, k], table[k])
    return table[:, m:]


def _decimals(array: np.ndarray) -> np.ndarray:
    """Return exactly the same numbers."""
    return np.vectorize(Decimal, otypes=[object])(np.asarray(array, np.float64))


def _jax_in_float32() -> Any:
    try:
        import jax
    except ImportError:
        return None
    jax.config.update("jax_enable_x64", False)
    return jax


if __name__ == "__main__":
    main()
