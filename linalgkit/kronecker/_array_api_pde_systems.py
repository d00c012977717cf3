"""The equation in the bases: linear systems, and Newton around them.

The unknown is the array X of coefficients, u = (Q₁ ⊗ … ⊗ Q_d) X. One axis: least squares over all
nodes and the boundary rows. More axes: the boundary data are lifted, and the rest is a Galerkin
equation on the functions without boundary values, of a few dozen unknowns an axis: a Sylvester
equation where every term acts on one axis.
"""

from math import prod

import numpy as np
from scipy import linalg
from scipy.sparse.linalg import gmres

from ._array_api_pde_solvers import broadcast_along, flat_operator, multiplied, solver_of

DRAWS = 400  # of errors, where there are more unknowns than these


class Problem:
    """What is to be solved, on the host, on the nodes of a grid.

    `terms` are (orders, coefficients) with a number or an array of nodes for each axis;
    `conditions` for each axis a list of (side, order of the derivative, values on the face).
    `nonlinearity` is None or (function, derivatives, orders of its arguments).
    """

    def __init__(self, grid, terms, source, conditions, nonlinearity):
        self.grid, self.terms, self.source = grid, terms, source
        self.conditions, self.nonlinearity = conditions, nonlinearity

    @property
    def ndim(self):
        return len(self.grid)

    def restricted(self, nodes):
        """The same on some nodes of each axis."""
        terms = [
            (orders, [c[n] if np.ndim(c) else c for c, n in zip(factors, nodes, strict=True)])
            for orders, factors in self.terms
        ]
        conditions = [
            [
                (side, order, values[np.ix_(*(n for k, n in enumerate(nodes) if k != axis))])
                if self.ndim > 1
                else (side, order, values)
                for side, order, values in rows
            ]
            for axis, rows in enumerate(self.conditions)
        ]
        grid = [g[n] for g, n in zip(self.grid, nodes, strict=True)]
        return Problem(grid, terms, self.source[np.ix_(*nodes)], conditions, self.nonlinearity)

    def left_side(self, values, x):
        """Return L u + N(u) on the nodes, and the root mean square of its largest term."""
        total, scale = np.zeros(self.source.shape), 0.0
        for orders, factors in self.terms:
            term = values(x, orders)
            for axis, factor in enumerate(factors):
                term = term * broadcast_along(factor, axis, self.ndim)
            total = total + term
            scale = max(scale, _rms(term))
        if self.nonlinearity is not None:
            term = self.nonlinearity[0](*self.arguments(values, x))
            total = total + term
            scale = max(scale, _rms(term))
        return total, scale

    def arguments(self, values, x):
        """Return what the pointwise term takes: u, or derivatives of it, on the nodes."""
        return [values(x, orders) for orders in self.nonlinearity[2]]

    def linearised(self, values, x):
        """Return the pointwise term on the nodes, and its derivatives by each argument."""
        function, derivatives, _ = self.nonlinearity
        u = self.arguments(values, x)
        return function(*u), [
            np.broadcast_to(slope(*u), self.source.shape) for slope in derivatives
        ]

    def residual(self, bases, x):
        """Return the relative misfit of equation and boundary data on the nodes."""
        values = _Values(bases, self.grid)
        left, scale = self.left_side(values, x)
        scale = max(scale, _rms(self.source), np.finfo(float).tiny)
        misfits = [_rms(left - self.source) / scale]
        for axis, rows in enumerate(self.conditions):
            for side, order, wanted in rows:
                found, size = self.on_face(values, x, axis, side, order)
                misfits.append(_rms(found - wanted) / max(_rms(wanted), size, 1e-300))
        return max(misfits)

    def on_face(self, values, x, axis, side, order):
        """Return a normal derivative on a face, and the size of that derivative in the box."""
        orders = [order if k == axis else 0 for k in range(self.ndim)]
        factors = [values.factor(k, orders[k]) for k in range(self.ndim)]
        basis = values.bases[axis]
        factors[axis] = basis.values(np.array([basis.box[side]]), order)
        return np.squeeze(multiplied(factors, x), axis), _rms(values(x, orders))


class _Values:
    """Derivatives of u on the nodes; factors are made once."""

    def __init__(self, bases, grid):
        self.bases, self.grid, self.kept = bases, grid, {}

    def factor(self, axis, order):
        if (axis, order) not in self.kept:
            basis, grid = self.bases[axis], self.grid[axis]
            is_grid = order == 0 and grid is basis.grid
            self.kept[axis, order] = basis.q if is_grid else basis.values(grid, order)
        return self.kept[axis, order]

    def __call__(self, x, orders):
        return multiplied([self.factor(axis, order) for axis, order in enumerate(orders)], x)


def solution(problem, bases, *, maxiter, tolerance=1e-14):
    """Solve on the nodes on which the bases are made.

    Returns the coefficients X, the number of Newton steps, and whether they came to rest.
    """
    system = (_LeastSquares if problem.ndim == 1 else _Galerkin)(problem, bases)
    x = system.linear(problem.source)
    if problem.nonlinearity is None:
        return x, 1, True, system
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # far from a solution; the line search sees it
        return *_newton(system, x, maxiter, tolerance), system


def _newton(system, x, maxiter, tolerance):
    before = system.misfit(x)
    for step in range(1, maxiter + 1):
        slopes, remains = system.linearised(x)  # errors of the user's functions are the user's
        if not all(np.all(np.isfinite(slope)) for slope in slopes):
            return x, step, False
        try:
            change = system.newton(slopes, remains)
        except linalg.LinAlgError:  # slopes so large that the matrices overflow
            return x, step, False
        if not np.all(np.isfinite(change)):
            return x, step, False
        length, better = 1.0, None
        while length > 1e-3:
            candidate = x + length * change
            after = system.misfit(candidate)
            if after < before:
                better = candidate
                break
            length /= 2
        size = linalg.norm(change) / max(linalg.norm(x), 1e-300)
        if better is None:  # rounding, or no way on
            return x, step, size < 1e-6
        x = better
        if size < tolerance or (after > 0.5 * before and size < 1e-10):
            return x, step, True
        before = after
    return x, maxiter, False


class _LeastSquares:
    """One axis: rows of the equation at all nodes by QR, boundary data exact; no normal equations.

    x = lifted boundary data + Z y, as with more axes.
    """

    def __init__(self, problem, bases):
        self.problem, (self.basis,) = problem, bases
        self.values = _Values(bases, problem.grid)
        self.equation = sum(
            np.reshape(factors[0], (-1, 1)) * self.values.factor(0, orders[0])
            for orders, factors in problem.terms
        )
        self.edges = _Edges(self.basis, problem.conditions[0])
        data = [np.ravel(values) for _, _, values in problem.conditions[0]]
        self.lifted = self.edges.inverse @ np.concatenate([*data, np.zeros(0)])

    def linear(self, source):
        return self.lifted + self._least(self.equation, source - self.equation @ self.lifted)

    def linearised(self, x):
        """Return the slopes of the pointwise term, and what remains of the source."""
        value, slopes = self.problem.linearised(self.values, x)
        return slopes, self._remains(x, value)

    def newton(self, slopes, remains):
        equation = self.equation
        for slope, orders in zip(slopes, self.problem.nonlinearity[2], strict=True):
            equation = equation + slope[:, None] * self.values.factor(0, orders[0])
        return self._least(equation, remains)

    def misfit(self, x):
        value = self.problem.nonlinearity[0](*self.problem.arguments(self.values, x))
        return linalg.norm(self._remains(x, value), check_finite=False)

    def _remains(self, x, value):
        return self.problem.source - self.equation @ x - value

    def _least(self, equation, right):
        inner = equation @ self.edges.free
        q, triangle, order = linalg.qr(
            inner, mode="economic", pivoting=True, check_finite=False, overwrite_a=True
        )
        sizes = np.abs(np.diagonal(triangle))
        rank = int(np.count_nonzero(sizes > 1e-15 * sizes[0]))
        self.triangle, self.order = triangle[:rank, :rank], order[:rank]
        y = np.zeros(inner.shape[1])
        y[self.order] = linalg.solve_triangular(
            self.triangle, q[:, :rank].T @ right, check_finite=False
        )
        return self.edges.free @ y

    def spread(self):
        return _LeastSquaresSpread(self.edges.free[:, self.order], self.triangle)

    def log_determinant(self):
        """Of the map from coefficients to data, a square one as far as volumes go."""
        return float(np.sum(np.log(np.abs(np.diagonal(self.triangle)))))


class _LeastSquaresSpread:
    """Standard deviations of u at points, for errors of the equation of deviation 1."""

    def __init__(self, free, triangle):
        self.free, self.triangle = free, triangle

    def __call__(self, rows, product):
        """One axis, so products on a grid and at points are the same."""
        free = rows[0] @ self.free
        return linalg.norm(linalg.solve_triangular(self.triangle, free.T, trans="T"), axis=0)


class _Edges:
    """The conditions on one axis: `free` spans the functions that fulfil them with zeros.

    `inverse` gives the least coefficients for given values, `onto` projects on their span.
    """

    def __init__(self, basis, conditions):
        count = len(conditions)
        if count == 0:
            self.free = np.eye(basis.size)
            self.inverse = np.zeros((basis.size, 0))
            self.onto = None
            return
        edge = np.array(
            [basis.values(np.array([basis.box[side]]), order)[0] for side, order, _ in conditions]
        )
        norms = linalg.norm(edge, axis=1)
        if not np.all(norms > 0):
            raise linalg.LinAlgError("a condition is zero for all functions of its axis.")
        u, s, vh = linalg.svd(edge / norms[:, None])
        if s.size < count or s[-1] < 1e-10:
            raise linalg.LinAlgError(f"{count} conditions on one axis depend on each other.")
        if count == basis.size:
            raise linalg.LinAlgError(
                f"{count} conditions on one axis leave none of its {count} functions free."
            )
        self.free = vh[count:].T
        inverse = vh[:count].T / s @ u.T
        self.onto = inverse @ (edge / norms[:, None])
        self.inverse = inverse / norms


class _Galerkin:
    """More axes: X = lifted boundary data + (Z₁ ⊗ … ⊗ Z_d) Y."""

    def __init__(self, problem, bases):
        self.problem, self.bases = problem, bases
        self.values = _Values(bases, problem.grid)
        self.terms = [
            [
                self._projected(axis, order, factor)
                for axis, (order, factor) in enumerate(zip(orders, factors, strict=True))
            ]
            for orders, factors in problem.terms
        ]
        edges = [
            _Edges(basis, conditions)
            for basis, conditions in zip(bases, problem.conditions, strict=True)
        ]
        self.free = [edge.free for edge in edges]
        self.lifted = self._lifted(edges)
        self.inner = [
            [None if a is None else z.T @ a @ z for a, z in zip(term, self.free, strict=True)]
            for term in self.terms
        ]
        self.solver = solver_of(self.inner, self.shape)

    @property
    def shape(self):
        return tuple(z.shape[1] for z in self.free)

    def linear(self, source):
        project = [basis.q.T for basis in self.bases]
        return self._completed(self.lifted, multiplied(project, source))

    def _completed(self, x, projected):
        """Solve for the part without boundary values, with refinement while it helps."""
        inward = [z.T for z in self.free]
        remains = multiplied(inward, projected - self._applied(x))
        y = self.solver(remains)
        best = linalg.norm(remains)
        for _ in range(3):
            left = remains - sum(multiplied(term, y) for term in self.inner)
            size = linalg.norm(left)
            if not size < 0.5 * best:
                break
            best = size
            y = y + self.solver(left)
        return x + multiplied(self.free, y)

    def _applied(self, x):
        return sum(multiplied(term, x) for term in self.terms)

    def linearised(self, x):
        """Return the slopes of the pointwise term, and what remains of the source inside."""
        value, slopes = self.problem.linearised(self.values, x)
        return slopes, self._remains(x, value)

    def newton(self, slopes, remains):
        arguments = self.problem.nonlinearity[2]
        project = [basis.q.T for basis in self.bases]
        inward = [z.T for z in self.free]
        mean_terms = [
            self._inner_of(orders, float(np.mean(slope)))
            for slope, orders in zip(slopes, arguments, strict=True)
        ]
        self.solver = solver_of(self.inner + mean_terms, self.shape)

        def applied(y):
            change = multiplied(self.free, y)
            on_grid = sum(
                slope * self.values(change, orders)
                for slope, orders in zip(slopes, arguments, strict=True)
            )
            inside = multiplied(inward, multiplied(project, on_grid))
            return sum(multiplied(term, y) for term in self.inner) + inside

        operator = flat_operator(applied, self.shape)
        inverse = flat_operator(self.solver, self.shape)
        y, _ = gmres(operator, remains.ravel(), rtol=1e-8, restart=40, maxiter=5, M=inverse)
        return multiplied(self.free, y.reshape(self.shape))

    def misfit(self, x):
        value = self.problem.nonlinearity[0](*self.problem.arguments(self.values, x))
        return linalg.norm(self._remains(x, value), check_finite=False)

    def _remains(self, x, value):
        project = [basis.q.T for basis in self.bases]
        remains = multiplied(project, self.problem.source - value) - self._applied(x)
        return multiplied([z.T for z in self.free], remains)

    def spread(self):
        return _GalerkinSpread(self.free, self.solver)

    def log_determinant(self):
        """Of the map from coefficients to the projected equation."""
        return self.solver.log_determinant

    def _inner_of(self, orders, factor):
        term = [
            None if order == 0 else z.T @ self._projected(axis, order, 1.0) @ z
            for axis, (order, z) in enumerate(zip(orders, self.free, strict=True))
        ]
        first = np.eye(self.shape[0]) if term[0] is None else term[0]
        return [factor * first, *term[1:]]

    def _projected(self, axis, order, factor):
        """Qᵀ diag(c) Q⁽ᵖ⁾, or None for the identity."""
        if order == 0 and np.ndim(factor) == 0 and factor == 1:
            return None
        q = self.bases[axis].q
        return q.T @ (np.reshape(factor, (-1, 1)) * self.values.factor(axis, order))

    def _lifted(self, edges):
        """Coefficients with the boundary data, by a Boolean sum over the axes."""
        total = np.zeros(tuple(basis.size for basis in self.bases))
        for axis, conditions in enumerate(self.problem.conditions):
            if not conditions:
                continue
            others = [basis.q.T for k, basis in enumerate(self.bases) if k != axis]
            data = np.array([multiplied(others, values) for _, _, values in conditions])
            lift = np.moveaxis(np.tensordot(edges[axis].inverse, data, 1), 0, axis)
            for before in range(axis):
                if edges[before].onto is not None:
                    factors = [
                        edges[k].onto if k == before else None for k in range(len(self.bases))
                    ]
                    lift = lift - multiplied(factors, lift)
            total = total + lift
        return total


class _GalerkinSpread:
    """The same on more axes. In nonlinear equations the slopes count by their means."""

    def __init__(self, free, solver):
        self.free, self.solver = free, solver

    def __call__(self, rows, product):
        """Exact for few unknowns, else from draws.

        `product` is `multiplied` for points on a grid, `multiplied_at` for others.
        """
        shape = tuple(z.shape[1] for z in self.free)
        size = prod(shape)
        errors = np.eye(size)
        if size > DRAWS:
            errors = np.random.default_rng(0).standard_normal((DRAWS, size)) / np.sqrt(DRAWS)
        free = [row @ z for row, z in zip(rows, self.free, strict=True)]
        total = 0.0
        for error in errors:
            total = total + product(free, self.solver(error.reshape(shape))) ** 2
        return np.sqrt(total)


def _rms(values):
    return float(linalg.norm(np.ravel(values), check_finite=False) / np.sqrt(max(values.size, 1)))
