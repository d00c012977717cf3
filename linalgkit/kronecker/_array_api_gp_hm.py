"""The log joint probability of GP-HM and its maximisation, by the gradients of torch or JAX."""

import math
import sys
from importlib import import_module

import numpy as np
from array_api_compat import array_namespace, device, is_jax_array, is_torch_array
from scipy.optimize import minimize

from .._xp import compiled
from ._array_api_kernels import spectral_mixture, student_t_mixture
from ._array_api_pde_solvers import broadcast_along
from ._array_api_products import kron_dense
from ._hosts import to_host

LARGEST_LOG_PRECISIONS = (0.0, 5.0, 10.0, 15.0)  # of L-BFGS, one after the other
ELIMINATED = 1000  # unknowns up to which U is solved for at every step
LEAST_LOG_WEIGHT = -30.0  # far below the jitter: the component is gone


def maximised_joint(
    grid,
    equation,
    source,
    conditions,
    pointwise,
    *,
    is_gaussian,
    terms,
    highest,
    boundary_weight,
    method,
    learning_rate,
    maxiter,
    jitter,
    callback,
):
    """Maximise over everything; the last iterate."""
    original = source
    source = _with_gradients(source)
    joint = Joint(
        grid, equation, source, conditions, pointwise, is_gaussian, boundary_weight, jitter
    )
    start = joint.start(terms, highest)
    is_stopped = []

    def report(step, u):
        if callback is not None:
            try:
                callback(step, _as(u(), original))
            except StopIteration:
                is_stopped.append(True)
        return bool(is_stopped)

    is_lost = False
    if method == "adam":
        parameters, value, nit, is_lost = _adam(joint, start, maxiter, learning_rate, report)
    else:
        parameters, value, nit = _lbfgs(joint, start, maxiter, report)
    return Found(joint, parameters, -value, nit, bool(is_stopped), is_lost, original)


class Joint:
    """The objective, to be minimised: minus the log joint probability."""

    def __init__(
        self, grid, equation, source, conditions, pointwise, is_gaussian, boundary_weight, jitter
    ):
        self.xp, self.grid = array_namespace(source), grid
        self.is_gaussian, self.weight, self.jitter = is_gaussian, boundary_weight, jitter
        self.source, self.pointwise = source, pointwise
        self.distances = [_Distances(g, self.like) for g in grid]
        self.equation = [
            (orders, [self._factor(c, axis) for axis, c in enumerate(factors)])
            for orders, factors in equation
        ]
        self.conditions = [
            (axis, side, order, self.like(values))
            for axis, rows in enumerate(conditions)
            for side, order, values in rows
        ]

    def like(self, values):
        return self.xp.asarray(values, dtype=self.source.dtype, device=device(self.source))

    def _factor(self, factor, axis):
        if np.ndim(factor) == 0:
            return factor
        return self.like(broadcast_along(factor, axis, self.source.ndim))

    def start(self, terms, highest):
        """U = 0, equal weights, frequencies equally spaced, ρ = 1 or ℓ = 1, noises 1."""
        means = self.like(np.linspace(0, 1, terms) * highest)
        scale = 1 / (math.sqrt(2) * math.pi) if self.is_gaussian else 1.0
        parameters = [0 * self.source, self.like(0.0), self.like(0.0)]
        for _ in self.distances:
            parameters += [
                self.like(np.full(terms, -math.log(terms))),
                means,
                self.like(np.full(terms, math.log(scale))),
            ]
        return parameters

    def kernels(self, parameters):
        """Weights, means and scales of each axis."""
        xp = self.xp
        parts = parameters[3:]
        return [
            (xp.exp(parts[i]), parts[i + 1], xp.exp(parts[i + 2])) for i in range(0, len(parts), 3)
        ]

    def kernel_at(self, d, kernel, order=0):
        if self.is_gaussian:
            return spectral_mixture(d, *kernel, order=order)
        return student_t_mixture(d, *kernel, nu=2.5, order=order)

    def factors(self, kernels):
        """Cholesky factors of the Gram matrices."""
        for d, kernel in zip(self.distances, kernels, strict=True):
            gram = d.spread(self.kernel_at(d.values, kernel))
            yield self.xp.linalg.cholesky(gram + self.jitter * self._identity(gram))

    def _identity(self, gram):
        return self.xp.eye(gram.shape[0], dtype=gram.dtype, device=device(gram))

    def coloured(self, parameters):
        """Parameters with U = (⊗L) V from those with V, which is white under the prior."""
        u, *others = parameters
        for axis, factor in enumerate(self.factors(self.kernels(parameters))):
            u = _along(factor, u, axis)
        return [u, *others]

    def inverses(self, kernels):
        """Inverses and log determinants of the Gram matrices."""
        xp, results = self.xp, []
        for factor in self.factors(kernels):
            half = xp.linalg.solve(factor, self._identity(factor))
            inverse = xp.matmul(xp.permute_dims(half, (1, 0)), half)
            results.append((inverse, 2 * xp.sum(xp.log(xp.linalg.diagonal(factor)))))
        return results

    def differentiation(self, axis, order, kernels, inverses):
        """Return K⁽ᵖ⁾ K⁻¹ of an axis."""
        d = self.distances[axis]
        gram = d.spread(self.kernel_at(d.values, kernels[axis], order))
        return self.xp.matmul(gram, inverses[axis][0])

    def equation_residual(self, u, kernels, inverses):
        """H at all nodes, and the differentiation along an axis."""
        known = {}

        def derivative(orders):
            result = u
            for axis, order in enumerate(orders):
                if order == 0:
                    continue
                if (axis, order) not in known:
                    known[axis, order] = self.differentiation(axis, order, kernels, inverses)
                result = _along(known[axis, order], result, axis)
            return result

        total = -self.source
        for orders, factors in self.equation:
            term = derivative(orders)
            for factor in factors:
                term = term * factor
            total = total + term
        if self.pointwise is not None:
            function, arguments = self.pointwise
            total = total + function(*(derivative(orders) for orders in arguments))
        return total, derivative

    def __call__(self, parameters):
        xp = self.xp
        u, log_boundary, log_equation = parameters[:3]
        kernels = self.kernels(parameters)
        inverses = self.inverses(kernels)
        count = math.prod(u.shape)
        whitened = u
        prior = 0.0
        for axis, (inverse, logarithm) in enumerate(inverses):
            whitened = _along(inverse, whitened, axis)
            prior = prior - 0.5 * (count / u.shape[axis]) * logarithm
        prior = prior - 0.5 * xp.sum(u * whitened)
        residual, derivative = self.equation_residual(u, kernels, inverses)
        edge = 0.0
        for axis, side, order, values in self.conditions:
            field = derivative(tuple(order * (k == axis) for k in range(u.ndim)))
            misfit = _face(field, axis, side) - values
            edge = edge + 0.5 * math.prod(values.shape) * log_boundary
            edge = edge - 0.5 * xp.exp(log_boundary) * xp.sum(misfit * misfit)
        inside = 0.5 * count * log_equation
        inside = inside - 0.5 * xp.exp(log_equation) * xp.sum(residual * residual)
        return -(prior + self.weight * edge + inside)

    def best(self, others):
        """Return the V that maximises the joint for the other parameters, of a linear equation.

        Its rows are linear in V, so it is that of ½ |V|² + ½ |J V − r|², by QR of (I, J).
        """
        xp, shape = self.xp, self.source.shape
        kernels = self.kernels([None, *others])
        inverses, lowers = self.inverses(kernels), list(self.factors(kernels))
        boundary, inside = (xp.exp(0.5 * log) for log in others[:2])
        boundary = math.sqrt(self.weight) * boundary

        def along(axis, order):
            if order == 0:
                return lowers[axis]
            return xp.matmul(self.differentiation(axis, order, kernels, inverses), lowers[axis])

        equation = 0.0
        for orders, factors in self.equation:
            matrices = [along(axis, order) for axis, order in enumerate(orders)]
            for axis, factor in enumerate(factors):
                column = xp.reshape(factor, (-1, 1)) if np.ndim(factor) else factor
                matrices[axis] = column * matrices[axis]
            equation = equation + kron_dense(*matrices)
        rows = [self._identity(equation), inside * equation]
        right = [0 * self.source, inside * self.source]
        for axis, side, order, values in self.conditions:
            matrices = [along(k, order * (k == axis)) for k in range(len(shape))]
            matrices[axis] = _face(matrices[axis], 0, side)[None, :]
            rows.append(boundary * kron_dense(*matrices))
            right.append(boundary * values)
        q, triangle = xp.linalg.qr(xp.concat(rows))
        right = xp.concat([xp.reshape(part, (-1,)) for part in right])
        return xp.reshape(xp.linalg.solve(triangle, xp.matmul(right, q)), shape)


class _Distances:
    """The distances of an axis: on an equispaced grid 2n − 1 instead of n²."""

    def __init__(self, grid, like):
        n = grid.size
        steps = np.diff(grid)
        self.shape = (n, n)
        self.index = None
        if np.ptp(steps) <= 1e-9 * steps[0]:
            self.values = like((grid[-1] - grid[0]) / (n - 1) * np.arange(1 - n, n))
            index = (np.arange(n)[:, None] - np.arange(n) + n - 1).ravel()
            xp = array_namespace(self.values)
            self.index = xp.asarray(index, device=device(self.values))
        else:
            self.values = like(grid[:, None] - grid)

    def spread(self, values):
        """Values at the distances as the matrix of all pairs."""
        if self.index is None:
            return values
        xp = array_namespace(values)
        return xp.reshape(xp.take(values, self.index, axis=0), self.shape)


class Found:
    """The last iterate."""

    def __init__(self, joint, parameters, fun, nit, is_stopped, is_lost, original):
        self.joint, self.fun, self.nit = joint, fun, nit
        self.is_stopped, self.is_lost, self.original = is_stopped, is_lost, original
        parameters = [_detached(part) for part in parameters]
        self.raw_u = parameters[0]
        found = _whole(self._described, joint.source)(parameters)
        self.kernels, self.inverses, (misfit, scale, size) = found
        self.residual = float(misfit) / (float(scale) or max(float(size), 1e-300))
        self.u = _as(self.raw_u, original)
        self.parameters = [tuple(_as(part, original) for part in k) for k in self.kernels]

    def _described(self, parameters):
        """Kernels, inverses of their Gram matrices, and norms: of the residual, source and U."""
        joint, u = self.joint, parameters[0]
        kernels = joint.kernels(parameters)
        inverses = joint.inverses(kernels)
        residual, _ = joint.equation_residual(u, kernels, inverses)
        norm = joint.xp.linalg.vector_norm
        return kernels, inverses, (norm(residual), norm(joint.source), norm(u))

    def predicted(self, points):
        """Conditional mean on another grid."""
        distances = [
            self.joint.like(x[:, None] - grid)
            for x, grid in zip(points, self.joint.grid, strict=True)
        ]
        result = _whole(self._mean, self.raw_u)(self.raw_u, distances, self.kernels, self.inverses)
        return _as(result, self.original)

    def _mean(self, u, distances, kernels, inverses):
        parts = zip(distances, kernels, inverses, strict=True)
        for axis, (d, kernel, (inverse, _)) in enumerate(parts):
            u = _along(self.joint.xp.matmul(self.joint.kernel_at(d, kernel), inverse), u, axis)
        return u


def _along(matrix, array, axis):
    """Apply a matrix along one axis."""
    xp = array_namespace(array)
    product = xp.tensordot(matrix, array, axes=((1,), (axis,)))
    order = list(range(1, array.ndim))
    order.insert(axis, 0)
    return xp.permute_dims(product, tuple(order))


def _face(array, axis, side):
    place = 0 if side == 0 else array.shape[axis] - 1
    return array[tuple(place if k == axis else slice(None) for k in range(array.ndim))]


def _with_gradients(array):
    """NumPy arrays in torch's or JAX's; others as they are."""
    if is_torch_array(array) or is_jax_array(array):
        return array
    for name in ("torch", "jax.numpy"):
        if name.partition(".")[0] in sys.modules:
            return import_module(name).asarray(np.array(array))
    for name in ("torch", "jax.numpy"):
        try:
            return import_module(name).asarray(np.array(array))
        except ImportError:
            continue
    raise ImportError("solve_gp_hm needs the gradients of torch or JAX, and neither is installed.")


def _as(values, original):
    """Detached values in the library of the caller."""
    if isinstance(original, np.ndarray):
        return to_host(values).astype(original.dtype)
    return _detached(values)


def _detached(value):
    return value.detach() if hasattr(value, "detach") else value


def _whole(function, like):
    """Let JAX compile a function of lists of arrays: operation by operation takes much longer."""
    if not is_jax_array(like):
        return function
    import jax

    return jax.jit(function)


def _differentiated(joint, like):
    """Return parameters → (value, gradients)."""
    if is_jax_array(like):
        import jax

        return jax.jit(jax.value_and_grad(joint))

    import torch

    def value_and_gradient(parameters):
        leaves = [part.detach().requires_grad_() for part in parameters]
        try:
            value = joint(leaves)
        except torch.linalg.LinAlgError:  # a Gram matrix has no Cholesky factor; JAX has NaN then
            return math.nan, [math.nan * part for part in parameters]
        return value.detach(), torch.autograd.grad(value, leaves)

    return value_and_gradient


def _constant(function, parameters):
    """Return a value through which no gradients go."""
    if is_jax_array(parameters[0]):
        from jax.lax import stop_gradient

        return function([stop_gradient(part) for part in parameters])
    import torch

    with torch.no_grad():
        return function([part.detach() for part in parameters])


def _adam(joint, parameters, maxiter, learning_rate, report):
    """Return the last iterate, its value, the steps, and whether the next is not finite."""
    value_and_gradient = _differentiated(joint, joint.source)
    first = [0 * part for part in parameters]
    second = [0 * part for part in parameters]
    value, gradients = value_and_gradient(parameters)
    _check_start(value, joint)
    for step in range(1, maxiter + 1):
        rates = learning_rate / (1 - 0.9**step), 1 - 0.999**step
        moved = [
            _adam_step(*parts, *rates)
            for parts in zip(parameters, first, second, gradients, strict=True)
        ]
        following, first, second = map(list, zip(*moved, strict=True))
        after, gradients = value_and_gradient(following)
        if not math.isfinite(after):
            return parameters, float(value), step - 1, True
        parameters, value = following, after
        if report(step, lambda u=following[0]: u):
            break
    return parameters, float(value), step, False


def _check_start(value, joint):
    if not math.isfinite(value):
        raise np.linalg.LinAlgError(
            f"the joint probability is not finite at the start: the Gram matrices have no Cholesky "
            f"factors with jitter={joint.jitter:g}, or the pointwise term has no value at u = 0."
        )


@compiled()
def _adam_step(parameter, first, second, gradient, rate, memory):
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient * gradient
    return parameter - rate * first / ((second / memory) ** 0.5 + 1e-8), first, second


def _lbfgs(joint, start, maxiter, report):
    """L-BFGS-B over V with U = (⊗L) V, in stages that let the noises become smaller.

    Where the equation is linear and the grid not large, each step has the best V for what else it
    has: the joint is quadratic in V, and its gradients by the others are those at a fixed V.

    The term (N_b/2) log τ₁ has no bound where the boundary fits, and the boundary can be fitted
    long before the equation is. The prior on U is as stiff as the Gram matrices are
    ill-conditioned; on V it is round.
    """
    is_eliminated = joint.pointwise is None and math.prod(joint.source.shape) <= ELIMINATED
    if is_eliminated:
        start = start[1:]

    def completed(parameters):
        if is_eliminated:
            parameters = [_constant(joint.best, parameters), *parameters]
        return joint.coloured(parameters)

    value_and_gradient = _differentiated(
        lambda parameters: joint(completed(parameters)), joint.source
    )
    coloured = _whole(completed, joint.source)
    shapes = [tuple(part.shape) for part in start]
    cuts = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    flat = np.concatenate([to_host(part).ravel() for part in start])
    largest, nit, is_stopped = None, 0, False

    def split(flat):
        parts = zip(np.split(flat, cuts), shapes, strict=True)
        return [joint.like(part.reshape(shape)) for part, shape in parts]

    def objective(flat):
        nonlocal largest
        value, gradients = value_and_gradient(split(flat))
        value = float(value)
        if largest is None:
            _check_start(value, joint)
        elif not math.isfinite(value):  # too long a step: the line search comes back
            return 10 * largest + 1, np.zeros(flat.size)
        largest = max(largest or 0.0, abs(value))
        return value, np.concatenate([to_host(part).ravel() for part in gradients])

    def after_step(intermediate_result):
        nonlocal nit, is_stopped
        nit += 1
        is_stopped = report(nit, lambda: coloured(split(intermediate_result.x))[0])
        if is_stopped:
            raise StopIteration

    for stage, highest in enumerate(LARGEST_LOG_PRECISIONS):
        low = [np.full(shape, -np.inf) for shape in shapes]
        high = [np.full(shape, np.inf) for shape in shapes]
        for noise in high[-3 * joint.source.ndim - 2 :][:2]:
            noise[...] = highest
        for weights in low[-3 * joint.source.ndim :: 3]:
            weights[...] = LEAST_LOG_WEIGHT
        bounds = [np.concatenate([part.ravel() for part in side]) for side in (low, high)]
        steps = (maxiter - nit) // (len(LARGEST_LOG_PRECISIONS) - stage)
        if steps == 0 or is_stopped:
            continue
        found = minimize(
            objective,
            np.clip(flat, *bounds),
            jac=True,
            method="L-BFGS-B",
            bounds=np.stack(bounds, axis=1),
            callback=after_step,
            options={"maxiter": steps, "maxfun": 10 * steps, "maxcor": 20, "gtol": 1e-8},
        )
        flat = found.x
    return coloured(split(flat)), float(found.fun), nit
