"""Equations with known solutions. What a solver sees of them is made by sympy's derivatives."""

from typing import NamedTuple

import numpy as np
import sympy as sp

from linalgkit.kronecker import Dirichlet, Nonlinearity, solve_pde

X, Y = sp.symbols("x y")
TURN = 2 * sp.pi


class Problem(NamedTuple):
    """The arguments of `solve_pde`; the solution and the source as functions."""

    operator: dict
    source: np.ndarray
    boundary: dict
    grid: tuple
    nonlinearity: Nonlinearity | None
    exact: object
    forcing: object

    def solved(self, solve, **options):
        return solve(*self[:4], nonlinearity=self.nonlinearity, **options)

    def error(self, found, count=300):
        """Relative error in the 2-norm on an equispaced grid of its own."""
        points = [np.linspace(g[0], g[-1], count) for g in self.grid]
        truth = self.exact(*np.meshgrid(*points, indexing="ij"))
        return np.linalg.norm(found.predict(points) - truth) / np.linalg.norm(truth)


def wave(t):
    return sp.sin(t) + sp.sin(20 * t) / 10 + sp.cos(100 * t)


# Solution, end of the box from 0, nodes an axis, equation, and the error that is promised.
TABLE = {
    "P1": (sp.sin(100 * X), TURN, 400, "poisson", 2e-10),
    "P2": (sp.sin(X) + sp.sin(20 * X) / 10 + sp.cos(100 * X) / 20, 1, 900, "poisson", 1e-12),
    "P3": (sp.sin(6 * X) * sp.cos(100 * X), TURN, 400, "poisson", 3e-10),
    "P4": (X * sp.sin(200 * X), TURN, 900, "poisson", 5e-10),
    "P5": (sp.sin(500 * X) - 2 * (X - sp.Rational(1, 2)) ** 2, 1, 400, "poisson", 5e-11),
    "P6": (sp.sin(100 * X) * sp.sin(100 * Y), TURN, 400, "poisson", 1e-12),
    "P7": (
        sp.sin(6 * X) * sp.cos(20 * X) + sp.sin(6 * Y) * sp.cos(20 * Y),
        TURN,
        200,
        "poisson",
        5e-12,
    ),
    "AC1": (sp.sin(100 * X), TURN, 400, "allen-cahn", 1e-10),
    "AC2": (sp.sin(6 * X) * sp.cos(100 * X), TURN, 400, "allen-cahn", 1e-10),
    "AC3": (wave(X) * wave(Y), 1, 400, "allen-cahn", 1e-11),
    "ADV": (sp.sin(X - 200 * Y), 1, 200, "advection", 1e-11),
}

# What no one tuned for.
OTHERS = {
    "irrational": (
        sp.sin(40 * sp.sqrt(2) * X) * sp.exp(-X) + sp.cos(sp.pi * 31.7 * X),
        1,
        400,
        "poisson",
        1e-11,
    ),
    "two close": (sp.sin(80 * X) + sp.sin(83 * X), 1, 300, "poisson", 1e-11),
    "chirp": (sp.sin(60 * X**2 + 10 * X), 1, 400, "poisson", 1e-11),
    "packet": (sp.exp(-(((X - 0.5) / 0.05) ** 2)) * sp.cos(300 * X), 1, 400, "poisson", 1e-10),
    "narrow packet": (
        sp.exp(-(((X - 0.5) / 0.02) ** 2)) * sp.cos(300 * X),
        1,
        400,
        "poisson",
        1e-11,
    ),
    "layer": (sp.tanh(50 * (X - 0.4)), 1, 400, "poisson", 1e-9),
    "packet × wave": (
        sp.exp(-(((X - 0.5) / 0.03) ** 2)) * sp.cos(150 * X) * sp.cos(30 * Y),
        1,
        200,
        "poisson",
        1e-11,
    ),
    "chirp × wave": (sp.sin(30 * X**2 + 10 * X) * sp.cos(40 * Y), 1, 120, "poisson", 1e-10),
}


def problem(solution, end, nodes, equation):
    """Make source and boundary data from a solution."""
    ndim = 2 if solution.has(Y) else 1
    names = (X, Y)[:ndim]
    exact = sp.lambdify(names, solution)
    grid = (np.linspace(0, float(end), nodes),) * ndim
    mesh = np.meshgrid(*grid, indexing="ij")
    u = exact(*mesh)
    faces = [(axis, side) for axis in range(ndim) for side in (0, 1)]
    if equation == "advection":  # in the second variable, time
        operator, formula = {(0, 1): 1.0, (1, 0): 200.0}, sp.Integer(0)
        faces = [face for face in faces if face[1] == 0]
    else:
        operator = {tuple(2 * (k == axis) for k in range(ndim)): 1.0 for axis in range(ndim)}
        formula = sum(solution.diff(name, 2) for name in names)
    nonlinearity = None
    if equation == "allen-cahn":
        operator |= {(0,) * ndim: -1.0}
        formula = formula + solution**3 - solution
        nonlinearity = Nonlinearity(lambda u: u**3, [lambda u: 3 * u**2])
    forcing = sp.lambdify(names, formula)
    source = np.broadcast_to(forcing(*mesh), u.shape).astype(float)
    boundary = {face: Dirichlet(np.take(u, -face[1], axis=face[0])) for face in faces}
    return Problem(operator, source, boundary, grid, nonlinearity, exact, forcing)


def solved_on_a_square(**changes):
    """What `solve_pde` finds with little data, and some arguments changed."""
    x = np.linspace(0, 1, 20)
    arguments = {
        "operator": {(2, 0): 1.0, (0, 2): 1.0},
        "source": np.ones((20, 20)),
        "boundary": {(0, 0): Dirichlet(0.0)},
        "grid": (x, x),
    } | changes
    named = ("kernel", "tol", "nonlinearity", "callback")
    options = {name: arguments.pop(name) for name in list(arguments) if name in named}
    return solve_pde(*arguments.values(), **options)
