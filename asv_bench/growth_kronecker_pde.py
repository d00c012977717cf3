"""solve_pde on the paper's eleven equations and others, beside peers; and how its cost grows.

    python asv_bench/growth_kronecker_pde.py

Writes results/kronecker-pde.json. Peers at equal grids: finite differences of second order,
Chebyshev collocation on as many nodes of its own, and least squares over random separable waves
whose wave numbers are drawn up to the highest one of the solution (which it is told). Errors are
relative 2-norms on 300 equispaced points an axis; times are the least of the rounds.
"""

import argparse
import datetime
import json
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import machine
import numpy as np
import scipy.linalg
from scipy.interpolate import BarycentricInterpolator, RegularGridInterpolator

sys.path.insert(0, str(machine.REPOSITORY / "tests"))
from kronecker.problems import OTHERS, TABLE, problem

from linalgkit.kronecker import Dirichlet, SpectralMixture, StudentTMixture, solve_pde

PACKAGES = ("numpy", "scipy")
# The published errors (of GM and StM, relative 2-norm, the best of 20 checkpoints).
PUBLISHED = {
    "P1": 4.0e-7, "P2": 3.5e-4, "P3": 1.5e-6, "P4": 9.0e-7, "P5": 4.2e-4, "P6": 6.5e-5,
    "P7": 1.0e-3, "AC1": 7.7e-7, "AC2": 4.2e-6, "AC3": 2.6e-3, "ADV": 1.4e-4,
}  # fmt: skip
HIGHEST = {"P1": 100, "P2": 100, "P3": 106, "P4": 200, "P5": 500, "P6": 100, "P7": 26}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-write", action="store_true", help="only print")
    options = parser.parse_args()
    rows = [table_row(name, *parts, options.rounds) for name, parts in (TABLE | OTHERS).items()]
    growth = [
        *(growth_point((n, n), options.rounds) for n in (100, 200, 400, 800, 1600)),
        *(growth_point((n, n, n), options.rounds) for n in (32, 64, 128, 160)),
    ]
    report = {
        "room": "kronecker",
        "date": datetime.date.today().isoformat(),
        "machine": machine.facts(PACKAGES, "array_api"),
        "rounds": options.rounds,
        "unit": "ms, MB",
        "rows": rows,
        "growth": growth,
        "panels": [panel(growth, ndim) for ndim in (2, 3)],
    }
    if not options.no_write:
        path = Path(__file__).parent / "results" / "kronecker-pde.json"
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def panel(growth: list[dict[str, Any]], ndim: int) -> dict[str, Any]:
    """What the performance page draws."""
    points = [point for point in growth if len(point["shape"]) == ndim]
    nodes = [int(np.prod(point["shape"])) for point in points]
    lines = [
        {"name": name, "which": "", "x": nodes, "ns": [point[key] for point in points]}
        for name, key in (("time, ms", "ms"), ("peak memory, MB", "peak_mb"))
    ]
    return {"title": f"Poisson's equation, {ndim}-D", "x_label": "nodes", "lines": lines}


def table_row(name: str, *parts: Any) -> dict[str, Any]:
    """Solve one equation by everything that can."""
    *definition, promised, rounds = parts
    case = problem(*definition)
    found, ms = timed(lambda: case.solved(solve_pde), rounds)
    row = {
        "case": name,
        "error": case.error(found),
        "residual": found.residual,
        "status": found.status,
        "ms": ms,
        "promised": promised,
        "published": PUBLISHED.get(name),
        "functions": list(found._fitted.sizes),
        "peers": {},
    }
    for kernel in (SpectralMixture, StudentTMixture):
        if name in ("P1", "P6", "AC1", "AC3"):
            other, took = timed(lambda kernel=kernel: case.solved(solve_pde, kernel=kernel), 1)
            row["peers"][kernel.__name__] = {"error": case.error(other), "ms": took}
    if name in HIGHEST:
        for peer in (finite_differences, chebyshev, random_waves):
            solution, took = timed(lambda peer=peer: peer(case, HIGHEST[name]), 1)
            row["peers"][peer.__name__] = {"error": error_of(solution, case), "ms": took}
    print(json.dumps(row), flush=True)
    return row


def error_of(solution: Any, case: Any) -> float:
    points = [np.linspace(g[0], g[-1], 300) for g in case.grid]
    truth = case.exact(*np.meshgrid(*points, indexing="ij"))
    return float(np.linalg.norm(solution(points) - truth) / np.linalg.norm(truth))


def finite_differences(case: Any, highest: float) -> Any:
    """Second order on the same grid; cubic interpolation between its nodes."""
    x = case.grid[0]
    step = x[1] - x[0]
    n = x.size - 2
    second = (np.eye(n, k=1) - 2 * np.eye(n) + np.eye(n, k=-1)) / step**2
    u = lifted(case, case.grid)
    if len(case.grid) == 1:
        right = case.source[1:-1].copy()
        right[[0, -1]] -= u[[0, -1]] / step**2
        bands = np.stack([np.r_[0, np.full(n - 1, 1.0)], np.full(n, -2.0), np.full(n, 1.0)])
        u[1:-1] = scipy.linalg.solve_banded((1, 1), bands / step**2, right)
    else:
        right = case.source[1:-1, 1:-1].copy()
        right[[0, -1]] -= u[[0, -1], 1:-1] / step**2
        right[:, [0, -1]] -= u[1:-1][:, [0, -1]] / step**2
        u[1:-1, 1:-1] = scipy.linalg.solve_sylvester(second, second.T, right)
    cubic = RegularGridInterpolator(case.grid, u, method="cubic")
    return lambda points: cubic(tuple(np.meshgrid(*points, indexing="ij")))


def chebyshev(case: Any, highest: float) -> Any:
    """Collocation on Chebyshev nodes, as many as the grid has; the source is given there."""
    x = case.grid[0]
    n = x.size
    s = np.cos(np.pi * np.arange(n) / (n - 1))[::-1]
    nodes = x[0] + (x[-1] - x[0]) * (s + 1) / 2
    signs = np.where(np.arange(n) % 2, -1.0, 1.0)
    signs[[0, -1]] *= 2
    difference = s[:, None] - s + np.eye(n)
    first = np.outer(signs, 1 / signs) / difference
    first -= np.diag(first.sum(axis=1))
    second = (first * 2 / (x[-1] - x[0])) @ (first * 2 / (x[-1] - x[0]))
    grids = (nodes,) * len(case.grid)
    mesh = np.meshgrid(*grids, indexing="ij")
    source, u = case.forcing(*mesh), case.exact(*mesh)
    inner, edge = slice(1, -1), [0, -1]
    if u.ndim == 1:
        right = source[inner] - second[inner][:, edge] @ u[edge]
        u = np.r_[u[0], np.linalg.solve(second[inner, inner], right), u[-1]]
        return lambda points: BarycentricInterpolator(nodes, u)(points[0])
    right = source[inner, inner] - second[inner][:, edge] @ u[edge, inner]
    right -= u[inner][:, edge] @ second[inner][:, edge].T
    block = second[inner, inner]
    u[inner, inner] = scipy.linalg.solve_sylvester(block, block.T, right)

    def evaluate(points: Any) -> Any:
        half = BarycentricInterpolator(nodes, u)(points[0])
        return BarycentricInterpolator(nodes, half.T)(points[1]).T

    return evaluate


def random_waves(case: Any, highest: float) -> Any:
    """Least squares over random separable cosines, in one dimension as many as half the nodes."""
    rng = np.random.default_rng(0)
    ndim, x = len(case.grid), case.grid[0]
    count = x.size // 2 if ndim == 1 else 1200
    waves = rng.uniform(-1.1 * highest, 1.1 * highest, (ndim, count))
    phases = rng.uniform(0, 2 * np.pi, (ndim, count))

    def features(points: Any) -> Any:
        return [np.cos(np.outer(p, w) + f) for p, w, f in zip(points, waves, phases, strict=True)]

    if ndim == 1:
        (part,) = features(case.grid)
        rows = np.vstack([-(waves[0] ** 2) * part / highest**2, part[[0, -1]]])
        right = np.concatenate([case.source / highest**2, lifted(case, case.grid)[[0, -1]]])
        weights = scipy.linalg.lstsq(rows, right, cond=1e-14)[0]
        return lambda points: features(points)[0] @ weights
    picked = rng.integers(0, x.size, (2, 4 * count))
    inside = [x[index] for index in picked]
    first, second = features(inside)
    square = (waves**2).sum(axis=0)
    rows, right = [-square * first * second / highest**2], [case.source[*picked] / highest**2]
    for axis in (0, 1):
        for side in (0, -1):
            along = x[:: max(1, x.size // 200)]
            points = [np.full(along.size, x[side]) if k == axis else along for k in (0, 1)]
            first, second = features(points)
            rows.append(first * second)
            right.append(case.exact(*points))
    weights = scipy.linalg.lstsq(np.vstack(rows), np.concatenate(right), cond=1e-14)[0]

    def evaluate(points: Any) -> Any:
        first, second = features(points)
        return (first * weights) @ second.T

    return evaluate


def lifted(case: Any, grids: Any) -> Any:
    """The boundary values on a grid; the inside is zero."""
    u = case.exact(*np.meshgrid(*grids, indexing="ij"))
    u[(slice(1, -1),) * u.ndim] = 0
    return u


def growth_point(shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Time and memory of Poisson's equation with three waves on a grid of this shape."""
    grid = [np.linspace(0, 1, n) for n in shape]
    mesh = np.meshgrid(*grid, indexing="ij", sparse=True)
    waves = (30.0, 35.0, 25.0)[: len(shape)]
    u = 1.0
    for wave, x in zip(waves, mesh, strict=True):
        u = u * np.sin(wave * x + 0.3)
    source = -sum(wave**2 for wave in waves) * u
    boundary = {
        (axis, side): Dirichlet(np.take(u, -side, axis=axis))
        for axis in range(len(shape))
        for side in (0, 1)
    }
    operator = {
        tuple(2 * (k == axis) for k in range(len(shape))): 1.0 for axis in range(len(shape))
    }
    found, ms = timed(lambda: solve_pde(operator, source, boundary, grid), rounds)
    tracemalloc.start()
    solve_pde(operator, source, boundary, grid)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    point = {
        "shape": list(shape),
        "ms": ms,
        "peak_mb": peak / 1e6,
        "source_mb": source.nbytes / 1e6,
        "error": float(np.abs(found.u - u).max()),
    }
    print(json.dumps(point), flush=True)
    return point


def timed(call: Any, rounds: int) -> tuple[Any, float]:
    result, best = None, np.inf
    for _ in range(rounds):
        begin = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - begin)
    return result, float(f"{1e3 * best:.3g}")


if __name__ == "__main__":
    main()
