"""Reference engine of projections: batched singular value decompositions of the slices of A.

The slice (λ, κ) is T[σ, π] = A[σ l + λ, κ p + π]; arrays of slices have shape (..., l, k, s, p).
Slices are scaled by powers of two first: nothing overflows or vanishes when it is squared.
"""

import numpy as np
from array_api_compat import array_namespace, device, is_torch_array

from .._xp import adjoint, compiled, moveaxis, padded
from ._blocks import places
from ._stacks import conj, ones_for_zeros, scaled, single

# The part of the singular values that goes to the left factor, as a power.
LEFT_POWER = {"balanced": 0.5, "left": 1.0, "right": 0.0}


def thin_svd(slices):
    """Decompose every slice; the engines differ in how."""
    return array_namespace(slices).linalg.svd(slices, full_matrices=False)


def project(a, *, blocks, gauge, method):
    """Truncate the decomposition of every slice; both methods are the same here."""
    if is_torch_array(a):  # whose own gradient of a decomposition has no limit at zeros
        from ._torch_projection import projected

        return projected(a, blocks=blocks, gauge=gauge, method=method)
    return by_svd(a, blocks, gauge, thin_svd)


@compiled("blocks")
def projection_error(a, *, blocks):
    """Compare the norm of the singular values that are dropped with that of all."""
    xp = array_namespace(a)
    slices, root = scaled(_slices(single(a), blocks), (-2, -1))
    values = xp.linalg.svdvals(slices)
    order = xp.arange(values.shape[-1], device=device(a))
    is_kept = order < _moved(places(blocks).ranks, a)[..., None]
    dropped = xp.where(is_kept, xp.zeros_like(values), values)
    parts = (xp.linalg.vector_norm(part, axis=-1) for part in (dropped, values))
    return ratio(*parts, root[..., 0, 0])


def project_vjp(cotangent, a, *, blocks, gauge):
    """Differentiate the truncated decompositions."""
    return pulled_back(cotangent, a, blocks, gauge, thin_svd)


@compiled("blocks", "gauge", "svd")
def by_svd(a, blocks, gauge, svd):
    """Return the factors from full decompositions of the slices."""
    xp, dtype = array_namespace(a), a.dtype
    u, sigma, vh, root = _decomposed(single(a), blocks, svd)
    left, right = (
        xp.where(sigma > 0, _power(sigma, root, power), xp.zeros_like(sigma))
        for power in (LEFT_POWER[gauge], 1 - LEFT_POWER[gauge])
    )
    factors = _factors(u * left[..., None, :], vh * right[..., None], blocks)
    return tuple(xp.astype(factor, dtype) for factor in factors)


@compiled("blocks", "gauge", "svd")
def pulled_back(cotangent, a, blocks, gauge, svd):
    """Return the gradient with respect to A.

    With X, Y the gradients with respect to the singular vectors u_a, v_a, and all i ≠ a (σ_i = 0
    for directions outside the decomposition), it is in every slice Σ_a (Σ_i P_ia u_i) v_aᴴ +
    u_a (Σ_i Q_ia v_i)ᴴ, where::

        P_ia = (σ_a u_iᴴX_a + σ_i v_iᴴY_a) / (σ_a² − σ_i²)
        Q_ia = (σ_i u_iᴴX_a + σ_a v_iᴴY_a) / (σ_a² − σ_i²)

    P_aa holds what goes through σ_a and the phase of u_aᴴ T v_a. That an entry of v_a is kept real
    is one more term of Y.
    """
    xp = array_namespace(a)
    rows, columns = a.shape[-2:]
    u, sigma, vh, root = _decomposed(single(a), blocks, svd)
    terms = min(places(blocks).terms, sigma.shape[-1])
    v = adjoint(vh)
    kept = sigma[..., :terms]
    of_left, of_right = _cotangents(cotangent, u, v, blocks, terms)
    powers = LEFT_POWER[gauge], 1 - LEFT_POWER[gauge]
    is_there = xp.astype(kept > 0, kept.dtype)  # terms that are zero have no derivative
    left_size, right_size = (
        (is_there * _power(kept, root, power))[..., None, :] for power in powers
    )
    x, y = of_left * left_size, of_right * right_size
    ux, vy = xp.matmul(adjoint(u), x), xp.matmul(vh, y)
    here = _diagonal(terms, ux)
    stretch = powers[0] * _real(ux) + powers[1] * _real(vy)
    if xp.isdtype(ux.dtype, "complex floating"):
        turned = xp.sum(here * (xp.imag(ux) + xp.imag(vy)), axis=-2)
        place = _first_largest(v[..., :terms])
        largest = xp.sum(place * _real(v[..., :terms]), axis=-2)
        y = y - 1j * place * (turned / largest)[..., None, :]
        vy = xp.matmul(vh, y)
        stretch = stretch + 1j * xp.imag(ux)
    inverse = _inverse(kept)[..., None, :]
    own, others = kept[..., None, :], sigma[..., :, None]
    gaps = _inverse((own - others) * (own + others))
    p = (own * ux + others * vy) * gaps + here * stretch * inverse
    q = (others * ux + own * vy) * gaps
    by_u = xp.matmul(u, p) + (x - xp.matmul(u, ux)) * inverse
    by_v = xp.matmul(v, q) + (y - xp.matmul(v, vy)) * inverse
    gradient = xp.matmul(by_u, vh[..., :terms, :]) + xp.matmul(u[..., :terms], adjoint(by_v))
    gradient = _whole(gradient / root / root)
    return xp.astype(gradient[..., :rows, :columns], a.dtype)


def ratio(part, whole, root):
    """Divide norms over all slices; those of the slices are given divided by root²."""
    xp = array_namespace(part)
    root = xp.where(whole > 0, root, xp.zeros_like(root))
    root = root / ones_for_zeros(xp.max(root, axis=(-2, -1), keepdims=True))
    part, whole = (
        xp.linalg.vector_norm(norms * root * root, axis=(-2, -1)) for norms in (part, whole)
    )
    return part / ones_for_zeros(whole)


def _slices(a, blocks):
    xp = array_namespace(a)
    k, _, p, count, rows, _ = blocks
    a = padded(padded(a, k * p, -1), count * rows, -2)
    a = xp.reshape(a, (*a.shape[:-2], rows, count, k, p))
    return moveaxis(a, -4, -2)


def _whole(slices):
    """Undo `_slices`, but for the padding."""
    count, k, rows, p = slices.shape[-4:]
    shape = (*slices.shape[:-4], rows * count, k * p)
    return array_namespace(slices).reshape(moveaxis(slices, -2, -4), shape)


def _decomposed(a, blocks, svd):
    """Decompose all slices, the first of the largest entries of each v real and positive."""
    xp = array_namespace(a)
    slices, root = scaled(_slices(a, blocks), (-2, -1))
    u, sigma, vh = svd(slices)
    v = adjoint(vh)
    entries = xp.sum(_first_largest(v) * v, axis=-2)
    turn = entries / xp.astype(ones_for_zeros(xp.abs(entries)), entries.dtype)
    return u * conj(turn)[..., None, :], sigma, vh * turn[..., None], root


def _power(sigma, root, power):
    """Return (σ root²)^power for a power 0, 1/2 or 1; root² may be infinite where that is not."""
    found = sigma**power
    for _ in range(round(2 * power)):
        found = found * root[..., 0]
    return found


def _first_largest(v):
    """Mark by one, in each column, the first entry that is the largest but for rounding."""
    xp = array_namespace(v)
    sizes = xp.abs(v)
    close = 1 - float(xp.finfo(sizes.dtype).eps) ** 0.5
    is_large = sizes >= close * xp.max(sizes, axis=-2, keepdims=True)
    place = xp.argmax(xp.astype(is_large, xp.int8), axis=-2, keepdims=True)
    numbers = xp.arange(v.shape[-2], device=device(v))[:, None]
    return xp.astype(numbers == place, sizes.dtype)


def _factors(columns, rows, blocks):
    """Put the terms' columns (..., l, k, s, m) and rows (..., l, k, m, p) in their places."""
    xp = array_namespace(columns)
    k, q, p, count, height, inner = blocks
    where, lead = places(blocks), columns.shape[:-4]
    columns = _with_terms(columns, where.terms, -1)
    rows = _with_terms(rows, where.terms, -2)
    columns = xp.reshape(moveaxis(columns, -2, -4), (*lead, height, k * count * where.terms))
    left = _taken(columns, where.left.reshape(-1), -1)
    left = moveaxis(xp.reshape(left, (*lead, height, count, inner)), -3, -2)
    rows = xp.reshape(rows, (*lead, k * count * where.terms, p))
    right = _taken(rows, where.right.reshape(-1), -2)
    return left, xp.reshape(right, (*lead, k, q, p))


def _cotangents(cotangent, u, v, blocks, terms):
    """Undo `_factors` for gradients: of columns (..., l, k, s, terms) and conjugated rows."""
    xp = array_namespace(u)
    k, q, p, count, height, inner = blocks
    where, lead = places(blocks), u.shape[:-4]
    of_left, of_right = cotangent
    x, y = (xp.zeros_like(vectors[..., :terms]) for vectors in (u, v))
    if of_left is not None:
        columns = xp.reshape(moveaxis(of_left, -2, -3), (*lead, height, count * inner))
        x = _where_there(columns, where.of_left[..., :terms], -1)
        x = moveaxis(xp.reshape(x, (*lead, height, count, k, terms)), -4, -2)
    if of_right is not None:
        rows = xp.reshape(of_right, (*lead, k * q, p))
        y = _where_there(rows, where.of_right[..., :terms], -2)
        y = adjoint(xp.reshape(y, (*lead, count, k, terms, p)))
    return x, y


def _where_there(array, places_of, axis):
    """Take entries; zeros where the place is -1."""
    xp = array_namespace(array)
    flat = places_of.reshape(-1)
    mask = xp.astype(_moved(flat >= 0, array), array.dtype)
    taken = _taken(array, np.maximum(flat, 0), axis)
    return taken * (mask if axis == -1 else mask[:, None])


def _taken(array, places_of, axis):
    axis %= array.ndim
    return array_namespace(array).take(array, _moved(places_of, array), axis=axis)


def _moved(array, like):
    """Return a table in the library and on the device of `like`; a copy, as torch warns else."""
    return array_namespace(like).asarray(np.array(array), device=device(like))


def _with_terms(array, terms, axis):
    """Bring an axis to `terms`: cut it, or append zeros."""
    if array.shape[axis] < terms:
        return padded(array, terms, axis)
    return array[..., :terms] if axis == -1 else array[..., :terms, :]


def _diagonal(terms, like):
    """Return ones where row and column number are equal, in the real dtype of `like`."""
    xp = array_namespace(like)
    return xp.eye(like.shape[-2], terms, dtype=_real(like).dtype, device=device(like))


def _real(x):
    xp = array_namespace(x)
    return xp.real(x) if xp.isdtype(x.dtype, "complex floating") else x


def _inverse(x):
    """Return 1 / x, and zero for zero."""
    xp = array_namespace(x)
    return xp.where(x != 0, 1 / ones_for_zeros(x), xp.zeros_like(x))
