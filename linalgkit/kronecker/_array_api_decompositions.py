"""Reference engine: decompositions of a Kronecker product, which are those of its factors."""

from functools import cache
from heapq import heappop, heappush
from math import prod

import numpy as np
from array_api_compat import array_namespace, device, is_jax_array, is_torch_array

from .._operator import _on_host
from .._xp import adjoint, moveaxis
from ._array_api_products import as_array, fresh
from ._array_api_solves import (
    eigenpairs,
    hermitian_part,
    in_single,
    is_concrete,
    singular_parts,
    solve_named,
)
from ._modes import rows_of


@in_single
def kron_eigh(*factors, k):
    """Decompose the factors; then, if asked, take the k largest products."""
    values, vectors = eigenpairs(factors)
    if k is None:
        return values, vectors
    chosen = _largest(values, k)
    return _taken(values, chosen)[..., 0, :], _taken(vectors, chosen)


@in_single
def kron_svd(*factors, k):
    """Decompose the factors; then, if asked, take the k largest products."""
    left, values, right = singular_parts(factors)
    if k is None:
        return left, values, right
    chosen = _largest(values, k)
    columns = _taken([adjoint(v) for v in right], chosen)
    return _taken(left, chosen), _taken(values, chosen)[..., 0, :], adjoint(columns)


@in_single
def kron_slogdet(*factors):
    """Raise each factor's determinant to the number of points on the other axes."""
    xp = array_namespace(*factors)
    n = prod(rows_of(factors))
    sign, logarithm = 1, 0
    for factor in factors:
        times = n // factor.shape[-1] if n else 0
        of_factor, size = xp.linalg.slogdet(factor)
        size = times * size if times else xp.zeros_like(size)  # nothing to the power 0 is 1
        sign, logarithm = sign * _power(of_factor, times), logarithm + size
    return as_array(sign), as_array(logarithm)


@in_single
def kron_cholesky(*factors, max_jitter):
    """Decompose each factor, with more and more on its diagonal where it must be."""
    return tuple(_cholesky(factor, k, max_jitter) for k, factor in enumerate(factors))


@in_single
def kron_power(*factors, p):
    """Raise each factor: by products where p is an integer, else by its eigenvalues."""
    return tuple(_matrix_power(factor, k, p) for k, factor in enumerate(factors))


@in_single
def nearest_kronecker(a, *, block_shape, terms, tol):
    """Truncate the singular value decomposition of the rearranged matrix."""
    xp = array_namespace(a)
    batch, (rows, columns) = tuple(a.shape[:-2]), block_shape
    m, n = a.shape[-2] // rows, a.shape[-1] // columns
    axes = len(batch)
    blocks = xp.reshape(a, (*batch, m, rows, n, columns))
    order = (*range(axes), axes, axes + 2, axes + 1, axes + 3)
    blocks = xp.reshape(xp.permute_dims(blocks, order), (*batch, m * n, rows * columns))
    ((u,), (sigma,), (vh,)) = singular_parts([blocks])
    most = sigma[..., :1]  # whose square may be out of range
    squares = (sigma / xp.where(most > 0, most, xp.ones_like(most))) ** 2
    whole = xp.sum(squares, axis=-1)
    if tol is not None:
        terms = _terms_for(xp, squares, whole, tol)
    terms = min(terms, sigma.shape[-1])
    u, root, vh = u[..., :, :terms], xp.sqrt(sigma[..., :terms]), vh[..., :terms, :]
    phase = _phase_of_largest(xp, vh)
    left = xp.reshape(moveaxis(u, -1, -2), (*batch, terms, m, n))
    left = left * (root * phase)[..., None, None]
    right = xp.reshape(vh, (*batch, terms, rows, columns))
    right = right * (root / phase)[..., None, None]
    lost = xp.sum(squares[..., terms:], axis=-1)
    error = xp.sqrt(lost / xp.where(whole > 0, whole, xp.ones_like(whole)))
    return left, right, error


def _largest(values, k):
    """Return the places of the k products of largest absolute value, the largest first.

    A heap of candidates: each place that is taken offers its neighbours, one further along one
    axis. A place is offered once, by the neighbour along its last axis that is not at the start.
    """
    sizes = [np.abs(_on_host(v)) for v in values]
    orders = [np.argsort(-size, kind="stable") for size in sizes]
    falling = [size[order].tolist() for size, order in zip(sizes, orders, strict=True)]

    def candidate(place):
        return -prod(v[i] for v, i in zip(falling, place, strict=True)), place

    waiting, chosen = [candidate((0,) * len(falling))], []
    while len(chosen) < k:
        _, place = heappop(waiting)
        chosen.append(place)
        last = max((axis for axis, i in enumerate(place) if i), default=0)
        for axis in range(last, len(place)):
            if place[axis] + 1 < len(falling[axis]):
                next_place = (*place[:axis], place[axis] + 1, *place[axis + 1 :])
                heappush(waiting, candidate(next_place))
    places = np.array(chosen).reshape(k, len(falling)).T
    return [order[axis] for order, axis in zip(orders, places, strict=True)]


def _taken(arrays, chosen):
    """Multiply the chosen columns of matrices (or entries of vectors) in all ways of their rows."""
    xp = array_namespace(*arrays)
    result = None
    for array, places in zip(arrays, chosen, strict=True):
        matrix = array if array.ndim > 1 else array[None, :]
        part = xp.take(matrix, xp.asarray(places, device=device(array)), axis=-1)
        if result is not None:
            part = result[:, None, :] * part[None, :, :]
        result = xp.reshape(part, (-1, len(places)))
    return result


def _power(x, times):
    """Raise numbers of absolute value one (or zero) to an integer power, exactly if real."""
    xp = array_namespace(x)
    result = xp.ones_like(x)
    while times:
        if times & 1:
            result = result * x
        x, times = x * x, times >> 1
    return result


def _cholesky(a, k, max_jitter):
    xp = array_namespace(a)
    eye = xp.eye(a.shape[-1], dtype=a.dtype, device=device(a))
    scale = xp.linalg.trace(a)[..., None, None] / max(a.shape[-1], 1)
    jitter, eps = 0.0, float(xp.finfo(a.dtype).eps)
    while jitter <= max_jitter:
        try:
            lower = xp.linalg.cholesky(a + (jitter * scale) * eye if jitter else a)
        except (np.linalg.LinAlgError, RuntimeError) as error:  # torch's is a RuntimeError
            if not type(error).__name__.endswith("LinAlgError"):
                raise
        else:
            if bool(xp.all(xp.isfinite(lower))):
                return lower
        tried, jitter = jitter, 10 * (jitter or eps)
    values = _on_host(xp.linalg.eigh(a)[0])
    raise np.linalg.LinAlgError(
        f"factors[{k}] is not positive definite, also with {tried:.1g} of its mean diagonal entry "
        f"added to the diagonal (max_jitter={max_jitter:.1g}): its eigenvalues are from "
        f"{values.min():.3g} to {values.max():.3g}."
    )


def _matrix_power(a, k, p):
    if p == 1 or 0 in a.shape:
        return fresh(a)
    if isinstance(p, int):  # the inverse first: that of a power has the condition number's power
        xp = array_namespace(a)
        return xp.linalg.matrix_power(a if p >= 0 else _inverse(a, k), abs(p))
    if is_jax_array(a):
        return _differentiable_in_jax()(a, k, p)
    if is_torch_array(a):
        import torch

        if not torch.compiler.is_compiling():
            return _differentiable_in_torch()(a, k, p)
    return _fractional_power(a, k, p)


def _fractional_power(a, k, p):
    xp = array_namespace(a)
    ((values,), (vectors,)) = eigenpairs([a])
    if is_concrete(a):
        _check_power(a, values, k, p)
    values = xp.where(values > 0, values, xp.zeros_like(values)) ** p
    return xp.matmul(vectors * values[..., None, :], adjoint(vectors))


def _check_power(a, values, k, p):
    """Raise where a matrix has no such power; each of a batch by itself."""
    xp, eps = array_namespace(a), float(array_namespace(a).finfo(a.dtype).eps)
    distance = xp.max(xp.abs(a - adjoint(a)), axis=(-2, -1))
    # Rounding, and the steps of finite differences, are far below.
    if bool(xp.any(distance > eps**0.25 * xp.max(xp.abs(a), axis=(-2, -1)))):
        raise ValueError(
            f"the power {p} needs Hermitian factors; factors[{k}] differs from its conjugate "
            "transpose."
        )
    least = xp.min(values, axis=-1)
    allowed = a.shape[-1] * eps * xp.max(xp.abs(values), axis=-1)
    if bool(xp.any(least < -allowed)):
        raise np.linalg.LinAlgError(
            f"the power {p} needs factors without negative eigenvalues; factors[{k}] has "
            f"{float(xp.min(least)):.3g}."
        )
    if p < 0 and bool(xp.any(least <= allowed)):
        raise np.linalg.LinAlgError(
            f"factors[{k}] is singular to working precision, and has no power {p}: its least "
            f"eigenvalue is {float(xp.min(xp.abs(least))):.3g}."
        )


def _slope(a, p, step):
    """Return the derivative of the fractional power, along a step.

    In the eigenvectors' basis the step is multiplied by the divided differences of the power, that
    of two equal eigenvalues being the derivative (Daleckii and Krein). It is its own adjoint.
    """
    xp = array_namespace(a)
    ((values,), (vectors,)) = eigenpairs([a])
    values = xp.where(values > 0, values, xp.zeros_like(values))
    one, other = values[..., :, None], values[..., None, :]
    more, less = xp.maximum(one, other), xp.minimum(one, other)
    is_apart = more > less
    safe = xp.where(is_apart, more, xp.ones_like(more))
    gap = xp.where(is_apart, (more - less) / safe, 0.5 * xp.ones_like(more))
    # (more^p - less^p) / (more - less), without cancellation
    quotient = -(safe ** (p - 1)) * xp.expm1(p * xp.log1p(-gap)) / gap
    middle = xp.where(is_apart, quotient, p * more ** (p - 1))
    inner = xp.matmul(xp.matmul(adjoint(vectors), hermitian_part(step)), vectors)
    return xp.matmul(xp.matmul(vectors, middle * inner), adjoint(vectors))


@cache
def _differentiable_in_jax():
    import jax

    power = jax.custom_jvp(_fractional_power, nondiff_argnums=(1, 2))
    power.defjvp(lambda k, p, at, along: (power(at[0], k, p), _slope(at[0], p, along[0])))
    return power


@cache
def _differentiable_in_torch():
    import torch

    class Power(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(a, k, p):
            return _fractional_power(a, k, p)

        @staticmethod
        def setup_context(ctx, inputs, output):
            a, _, ctx.p = inputs
            ctx.save_for_backward(a)
            ctx.save_for_forward(a)

        @staticmethod
        def backward(ctx, cotangent):
            return _slope(ctx.saved_tensors[0], ctx.p, cotangent), None, None

        @staticmethod
        def jvp(ctx, step, *_):
            return _slope(ctx.saved_tensors[0], ctx.p, step)

    return Power.apply


def _inverse(a, k):
    xp = array_namespace(a)
    eye = xp.eye(a.shape[-1], dtype=a.dtype, device=device(a))
    return solve_named(a, xp.broadcast_to(eye, a.shape), f"factors[{k}]")


def _terms_for(xp, squares, whole, tol):
    """Count the terms that leave at most `tol` of the norm."""
    lost = np.cumsum(_on_host(squares)[..., ::-1], axis=-1)  # of the last 1, 2, ... terms
    enough = lost <= tol**2 * _on_host(whole)[..., None]
    return max(1, squares.shape[-1] - int(np.min(np.sum(enough, axis=-1), initial=10**9)))


def _phase_of_largest(xp, vh):
    """Return sign or phase of the entry of largest absolute value in each row."""
    sizes = xp.abs(vh)
    largest = xp.argmax(sizes, axis=-1, keepdims=True)
    places = xp.arange(vh.shape[-1], device=device(vh))
    entry = xp.sum(xp.where(places == largest, vh, xp.zeros_like(vh)), axis=-1)
    size = xp.abs(entry)
    return xp.where(size > 0, entry, xp.ones_like(entry)) / xp.where(
        size > 0, size, xp.ones_like(size)
    )
