"""Reference engine: decompositions of a Kronecker product, which are those of its factors."""

from heapq import heappop, heappush
from math import prod

import numpy as np
from array_api_compat import array_namespace, device

from .._operator import _on_host
from .._xp import adjoint, moveaxis
from ._array_api_products import as_array
from ._array_api_solves import hermitian_part, is_concrete, solve_named
from ._modes import rows_of


def kron_eigh(*factors, k):
    """Decompose the factors; then, if asked, take the k largest products."""
    xp = array_namespace(*factors)
    found = (xp.linalg.eigh(hermitian_part(factor)) for factor in factors)
    values, vectors = zip(*found, strict=True)
    if k is None:
        return values, vectors
    chosen = _largest(values, k)
    return _taken(values, chosen)[..., 0, :], _taken(vectors, chosen)


def kron_svd(*factors, k):
    """Decompose the factors; then, if asked, take the k largest products."""
    xp = array_namespace(*factors)
    found = (xp.linalg.svd(factor, full_matrices=False) for factor in factors)
    left, values, right = zip(*found, strict=True)
    if k is None:
        return left, values, right
    chosen = _largest(values, k)
    columns = _taken([adjoint(v) for v in right], chosen)
    return _taken(left, chosen), _taken(values, chosen)[..., 0, :], adjoint(columns)


def kron_slogdet(*factors):
    """Raise each factor's determinant to the number of points on the other axes."""
    xp = array_namespace(*factors)
    n = prod(rows_of(factors))
    sign, logarithm = 1, 0
    for factor in factors:
        times = n // factor.shape[-1] if n else 0
        of_factor, size = xp.linalg.slogdet(factor)
        sign, logarithm = sign * _power(of_factor, times), logarithm + times * size
    return as_array(sign), as_array(logarithm)


def kron_cholesky(*factors, max_jitter):
    """Decompose each factor, with more and more on its diagonal where it must be."""
    return tuple(_cholesky(factor, k, max_jitter) for k, factor in enumerate(factors))


def kron_power(*factors, p):
    """Raise each factor: by products where p is an integer, else by its eigenvalues."""
    return tuple(_matrix_power(factor, k, p) for k, factor in enumerate(factors))


def nearest_kronecker(a, *, block_shape, terms, tol):
    """Truncate the singular value decomposition of the rearranged matrix."""
    xp = array_namespace(a)
    batch, (rows, columns) = tuple(a.shape[:-2]), block_shape
    m, n = a.shape[-2] // rows, a.shape[-1] // columns
    axes = len(batch)
    blocks = xp.reshape(a, (*batch, m, rows, n, columns))
    order = (*range(axes), axes, axes + 2, axes + 1, axes + 3)
    blocks = xp.reshape(xp.permute_dims(blocks, order), (*batch, m * n, rows * columns))
    u, sigma, vh = xp.linalg.svd(blocks, full_matrices=False)
    squares = sigma * sigma
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
    xp = array_namespace(a)
    if isinstance(p, int):
        power = xp.linalg.matrix_power(a, abs(p))
        return power if p >= 0 else _inverse(power, k)
    values, vectors = xp.linalg.eigh(hermitian_part(a))
    least = xp.min(values)
    allowed = a.shape[-1] * float(xp.finfo(values.dtype).eps) * xp.max(xp.abs(values))
    if is_concrete(values) and bool(least < -allowed):
        raise np.linalg.LinAlgError(
            f"the power {p} needs factors without negative eigenvalues; factors[{k}] has "
            f"{float(least):.3g}."
        )
    if p < 0 and is_concrete(values) and bool(least <= allowed):
        raise np.linalg.LinAlgError(
            f"factors[{k}] is singular to working precision, and has no power {p}: its least "
            f"eigenvalue is {float(least):.3g}."
        )
    values = xp.where(values > 0, values, xp.zeros_like(values)) ** p
    return xp.matmul(vectors * values[..., None, :], adjoint(vectors))


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
