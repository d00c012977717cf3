"""CPU engine of projections: a few of the largest singular values of many small slices.

Of a slice T the engine forms the Gram matrix of its smaller side by BLAS and runs Lanczos'
iteration on it, with all vectors kept orthogonal, until the residual of the largest eigenvalue is
down to rounding. One product with T then gives the other vector and the singular value to full
accuracy, though the Gram matrix squares the condition: the largest singular value is the one that
does not suffer. Further terms come from what remains of T. Bounded by passes over the Gram matrix
in the L1 cache. Where many terms of a slice are wanted, LAPACK is faster and serves.
"""

from functools import lru_cache
from math import frexp, ldexp, prod, sqrt
from typing import NamedTuple

import numpy as np
from numba import njit

from .._blas import gemm
from .._checks import kernel_array
from .._threads import chunk_bounds, run_chunks
from . import _array_api_projection as reference
from ._array_api_projection import LEFT_POWER, by_svd, pulled_back, ratio
from ._blocks import places

_CHUNK = 1_000_000  # multiply-adds: 0.1 ms
_KIND = {"f": ord("s"), "d": ord("d"), "F": ord("c"), "D": ord("z")}
_FAST = {"reassoc", "contract"}  # sums in any order; NaN and infinities are kept


class Room(NamedTuple):
    """What a thread needs for a slice; the Gram matrix of a complex one is held as a real one."""

    t: np.ndarray  # (s, p)
    gram: np.ndarray  # (d, d), d the smaller of s and p
    largest: np.ndarray  # (p,)
    u: np.ndarray  # (s,)
    v: np.ndarray  # (p,)
    symmetric: np.ndarray  # (n, n), n = d, or 2 d for complex slices
    basis: np.ndarray  # (n + 1, n)
    inner: np.ndarray  # (n + 1,)
    ritz: np.ndarray  # (n,)
    small: np.ndarray  # (5, n + 1), in double precision always


@njit(nogil=True, cache=True)
def _copied(a, batch, row, step, column, t, largest):
    """Copy a slice, zeros beyond the matrix, scaled by 2^-e to entries up to 1; return e, even."""
    rows, columns = t.shape
    width = max(0, min(columns, a.shape[2] - column))
    largest[:] = 0
    for i in range(rows):
        source = row + i * step
        for j in range(columns):
            t[i, j] = 0
        if source < a.shape[1]:
            for j in range(width):
                value = a[batch, source, column + j]
                t[i, j] = value
                size = max(abs(value.real), abs(value.imag))
                largest[j] = size if size > largest[j] else largest[j]
    most = 0.0
    for j in range(columns):
        most = max(most, largest[j])
    if most == 0:
        return 0
    exponent = (frexp(most)[1] + 1) // 2 * 2
    # In two steps: 2^-e alone overflows for subnormal numbers.
    half = largest.dtype.type(ldexp(1.0, -exponent // 2))
    for i in range(rows):
        for j in range(columns):
            t[i, j] = (t[i, j] * half) * half
    return exponent


@njit(nogil=True, cache=True)
def _form_gram(kind, t, numbers, gram, symmetric):
    """Form TᴴT or T Tᴴ, whichever is smaller, as a real symmetric matrix."""
    rows, columns = t.shape
    one = numbers.ctypes.data
    zero, data = one + numbers.itemsize, t.ctypes.data
    if columns <= rows:  # BLAS sees Tᵀ: conj(TᴴT) column by column is TᴴT row by row
        first, second, depth = ord("n"), ord("c"), rows
    else:
        first, second, depth = ord("c"), ord("n"), columns
    d = gram.shape[0]
    gemm(
        kind, first, second, d, d, depth, one, data, columns, data, columns, zero,
        gram.ctypes.data, d,
    )  # fmt: skip
    parts = symmetric.shape[0] // d
    for i in range(d):
        for j in range(d):
            symmetric[i, j] = gram[i, j].real
        if parts == 2:  # of a complex number x + i y: [[x, -y], [y, x]]
            for j in range(d):
                symmetric[d + i, d + j] = gram[i, j].real
                symmetric[d + i, j] = gram[i, j].imag
                symmetric[i, d + j] = -gram[i, j].imag


@njit(nogil=True, cache=True, fastmath=_FAST)
def _products(matrix, count, x, y):
    """Multiply the first `count` rows of a matrix by x."""
    n, i = x.size, 0
    while i + 4 <= count:
        s0 = s1 = s2 = s3 = x.dtype.type(0)
        for j in range(n):
            s0 += matrix[i, j] * x[j]
            s1 += matrix[i + 1, j] * x[j]
            s2 += matrix[i + 2, j] * x[j]
            s3 += matrix[i + 3, j] * x[j]
        y[i], y[i + 1], y[i + 2], y[i + 3] = s0, s1, s2, s3
        i += 4
    while i < count:
        s0 = x.dtype.type(0)
        for j in range(n):
            s0 += matrix[i, j] * x[j]
        y[i] = s0
        i += 1


@njit(nogil=True, cache=True, fastmath=_FAST)
def _subtract(matrix, count, weights, x):
    """Subtract from x the first `count` rows of a matrix, weighted; return what remains squared."""
    n, i = x.size, 0
    while i + 4 <= count:
        w0, w1, w2, w3 = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        for j in range(n):
            x[j] -= (
                w0 * matrix[i, j]
                + w1 * matrix[i + 1, j]
                + w2 * matrix[i + 2, j]
                + w3 * matrix[i + 3, j]
            )
        i += 4
    while i < count:
        w0 = weights[i]
        for j in range(n):
            x[j] -= w0 * matrix[i, j]
        i += 1
    return _squares(x)


@njit(nogil=True, cache=True, fastmath=_FAST)
def _squares(x):
    total = 0.0
    for j in range(x.size):
        total += x[j].real * x[j].real + x[j].imag * x[j].imag
    return total


@njit(nogil=True, cache=True)
def _largest_root(diagonal, beside, n):
    """Return the largest eigenvalue of a tridiagonal matrix.

    Laguerre's iteration on the characteristic polynomial, by the pivots of x − T and their first
    two derivatives, from a bound on the right: it never passes the root.
    """
    x = diagonal[0] + (beside[0] if n > 1 else 0.0)
    for i in range(1, n):
        x = max(x, diagonal[i] + beside[i - 1] + (beside[i] if i < n - 1 else 0.0))
    tiny = 4e-16 * x
    for _ in range(60):  # ten suffice
        pivot, slope, bend = x - diagonal[0], 1.0, 0.0
        if pivot <= 0:
            break
        total = 1 / pivot
        squares = total * total
        for i in range(1, n):
            inverse = 1 / pivot
            square, ratio_ = beside[i - 1] * beside[i - 1] * inverse, slope * inverse
            bend = square * (bend * inverse - 2 * ratio_ * ratio_)
            slope = 1 + square * ratio_
            pivot = x - diagonal[i] - square
            if pivot <= 0:
                break
            ratio_ = slope / pivot
            total += ratio_
            squares += ratio_ * ratio_ - bend / pivot
        if pivot <= 0:  # by rounding: x is at the root
            break
        step = n / (total + sqrt(max(0.0, (n - 1) * (n * squares - total * total))))
        x -= step
        if step <= tiny:
            break
    return x


@njit(nogil=True, cache=True)
def _its_vector(diagonal, beside, n, x, above, below, vector):
    """Find the eigenvector of unit length, from the twisted factorisation of x − T."""
    least = 4e-16 * x + 1e-300
    above[0] = x - diagonal[0]
    for i in range(1, n):
        above[i] = x - diagonal[i] - beside[i - 1] * beside[i - 1] / _pivot(above[i - 1], least)
    below[n - 1] = x - diagonal[n - 1]
    for i in range(n - 2, -1, -1):
        below[i] = x - diagonal[i] - beside[i] * beside[i] / _pivot(below[i + 1], least)
    twist, best = 0, np.inf
    for i in range(n):
        size = abs(above[i] + below[i] - (x - diagonal[i]))
        if size < best:
            twist, best = i, size
    vector[twist] = total = 1.0
    for i in range(twist - 1, -1, -1):
        vector[i] = beside[i] * vector[i + 1] / _pivot(above[i], least)
        total += vector[i] * vector[i]
    for i in range(twist + 1, n):
        vector[i] = beside[i - 1] * vector[i - 1] / _pivot(below[i], least)
        total += vector[i] * vector[i]
    for i in range(n):
        vector[i] /= sqrt(total)


@njit(nogil=True, cache=True)
def _pivot(value, least):
    return value if abs(value) > least else least


@njit(nogil=True, cache=True)
def _top(symmetric, start, basis, inner, ritz, small, d, eps):
    """Leave the eigenvector of the largest eigenvalue in `ritz`: Lanczos, orthogonal to all.

    It ends when ‖G v − μ v‖ ≤ 4 eps μ; at the latest when the basis is complete. That is looked for
    less and less often, and after d vectors: a complex matrix needs no more but for rounding.
    """
    n = symmetric.shape[0]
    diagonal, beside, vector = small[0], small[1], small[2]
    for i in range(n):
        basis[0, i] = start[i]
    check, most = 2, 0.0
    for j in range(n):
        w = basis[j + 1]
        _products(symmetric, n, basis[j], w)
        before = _squares(w)
        _products(basis, j + 1, w, inner)
        diagonal[j] = inner[j]
        after = _subtract(basis, j + 1, inner, w)
        if after < 0.05 * before:  # much was cancelled, which leaves rounding errors: once more
            _products(basis, j + 1, w, inner)
            after = _subtract(basis, j + 1, inner, w)
        beside[j] = sqrt(after)
        most = max(most, diagonal[j])
        is_closed = j == n - 1 or beside[j] <= 4 * eps * most
        if is_closed or j + 1 >= check or j + 1 == d:
            mu = _largest_root(diagonal, beside, j + 1)
            _its_vector(diagonal, beside, j + 1, mu, small[3], small[4], vector)
            if is_closed or beside[j] * vector[j] <= 4 * eps * mu:
                for i in range(j + 1):
                    inner[i] = -vector[i]
                ritz[:] = 0
                _subtract(basis, j + 1, inner, ritz)
                return
            check = j + 2 + j // 4
        scale = 1 / beside[j]
        for i in range(n):
            w[i] = w[i] * scale


@njit(nogil=True, cache=True)
def _pair(t, ritz, imaginary, close, u, v):
    """Complete the eigenvector of TᴴT or T Tᴴ to a pair; return the singular value.

    Both have unit length, and the first entry of v that is the largest, or close to it, is real and
    positive.
    """
    rows, columns = t.shape
    d = min(rows, columns)
    given, other = (v, u) if columns <= rows else (u, v)
    for j in range(d):
        given[j] = ritz[j]
        if ritz.size > d:
            given[j] += imaginary * ritz[d + j]
    size = sqrt(_squares(given))
    for j in range(d):
        given[j] = given[j] / size
    other[:] = 0
    if columns <= rows:
        for i in range(rows):
            for j in range(columns):
                u[i] += t[i, j] * v[j]
    else:
        for i in range(rows):
            for j in range(columns):
                v[j] += np.conj(t[i, j]) * u[i]
    sigma = sqrt(_squares(other))
    if sigma == 0:
        return sigma
    most = 0.0
    for j in range(columns):
        most = max(most, abs(v[j]))
    place = 0
    while abs(v[place]) < (1 - close) * most:
        place += 1
    turn = np.conj(v[place]) / abs(v[place])
    for j in range(d):
        given[j] = given[j] * turn
    for j in range(other.size):
        other[j] = other[j] * turn / sigma
    return sigma


@njit(nogil=True, cache=True)
def terms(
    start, stop, a, blocks, kind, numbers, first, power, left, right, remains, norms, roots, room
):  # fmt: skip
    """Put the terms of some slices into the factors; norms of the slices and of what remains.

    Norms are in units of root². `power` tells how many halves of the singular values the left
    factor has. There may be no factors (of size 0): then only norms are given.
    """
    k, q, p, count, rows, _ = blocks
    t, u, v = room.t, room.u, room.v
    eps = float(np.finfo(room.ritz.dtype).eps)
    for place in range(start, stop):
        batch, rest = divmod(place, count * k)
        lam, kappa = divmod(rest, k)
        exponent = _copied(a, batch, lam, count, kappa * p, t, room.largest)
        norms[place] = sqrt(_squares(t.reshape(-1)))
        roots[place] = ldexp(1.0, exponent // 2)
        done, row = 0, kappa * q + (lam - kappa * q) % count
        while row < (kappa + 1) * q:
            sigma = 0.0
            if done < min(rows, p) and norms[place] > 0:
                _form_gram(kind, t, numbers, room.gram, room.symmetric)
                _top(
                    room.symmetric, first, room.basis, room.inner, room.ritz, room.small,
                    min(rows, p), eps,
                )  # fmt: skip
                sigma = _pair(t, room.ritz, numbers[2], sqrt(eps), u, v)
            if sigma == 0:
                break  # the factors are zeros
            for i in range(rows):
                weight = t.dtype.type(sigma * u[i])
                for j in range(p):
                    t[i, j] -= weight * np.conj(v[j])
            if left.size:
                of_left = of_right = sqrt(sigma) * roots[place]
                if power == 2:
                    of_left, of_right = ldexp(sigma, exponent), 1.0
                elif power == 0:
                    of_left, of_right = 1.0, ldexp(sigma, exponent)
                for i in range(rows):
                    left[batch, lam, i, row // count] = of_left * u[i]
                for j in range(p):
                    right[batch, kappa, row - kappa * q, j] = of_right * np.conj(v[j])
            row += count
            done += 1
        remains[place] = sqrt(_squares(t.reshape(-1)))


def project(a, *, blocks, gauge, method):
    """Find the terms one by one; by LAPACK where many are wanted of a slice."""
    if method == "svd" or not _has_few_terms(blocks):
        return by_svd(a, blocks, gauge, _svd)
    k, q, p, count, rows, inner = blocks
    batch = a.shape[:-2]
    left = np.zeros((prod(batch), count, rows, inner), a.dtype)
    right = np.zeros((prod(batch), k, q, p), a.dtype)
    _run(a, blocks, int(2 * LEFT_POWER[gauge]), left, right)
    return left.reshape(*batch, count, rows, inner), right.reshape(*batch, k, q, p)


def projection_error(a, *, blocks):
    """Subtract the terms from each slice, and compare what remains with what there was."""
    if not _has_few_terms(blocks):
        return reference.projection_error(a, blocks=blocks)
    nothing = np.empty((0, 0, 0, 0), a.dtype)
    shape = (*a.shape[:-2], blocks[3], blocks[0])
    found = _run(a, blocks, 0, nothing, nothing)
    return ratio(*(part.reshape(shape) for part in found)).astype(a.real.dtype)


def project_vjp(cotangent, a, *, blocks, gauge):
    """Differentiate full decompositions, made by several threads."""
    return pulled_back(cotangent, a, blocks, gauge, _svd)


def _has_few_terms(blocks):
    """Tell whether the terms one by one take less time than a full decomposition (measured)."""
    wanted, most = places(blocks).terms, min(blocks[2], blocks[4])
    return wanted == 1 or wanted <= min(most // 8, 8)


def _run(a, blocks, power, left, right):
    """Run the kernel on all slices.

    Returns the norms of what remains of them and of themselves, and the root of their unit.
    """
    k, _, p, count, rows, _ = blocks
    a = kernel_array(a.reshape(prod(a.shape[:-2]), *a.shape[-2:]))
    slices, d = len(a) * count * k, min(rows, p)
    remains, norms, roots = (np.empty(slices) for _ in range(3))
    work = places(blocks).terms * (d * d * (max(rows, p) + 100) + 15_000)
    bounds = chunk_bounds((slices, work), minimum=_CHUNK)
    numbers = kernel_array(np.array([1, 0, 1j if a.dtype.kind == "c" else 0], a.dtype))
    first = _start(2 * d if a.dtype.kind == "c" else d, a.real.dtype)
    run_chunks(
        terms, bounds, a, blocks, _KIND[a.dtype.char], numbers, first,
        power, left, right, remains, norms, roots,
        scratch=lambda: _room(rows, p, a.dtype), blas=len(bounds) > 2,
    )  # fmt: skip
    return remains, norms, roots


def _svd(slices):
    """Decompose all slices by LAPACK, each in one thread."""
    (*lead, rows, columns), dtype = slices.shape, slices.dtype
    slices = slices.reshape(prod(lead), rows, columns)
    count, d = len(slices), min(rows, columns)
    found = (
        np.empty((count, rows, d), dtype),
        np.empty((count, d), slices.real.dtype),
        np.empty((count, d, columns), dtype),
    )

    def decompose(start, stop):
        if start < stop:
            parts = np.linalg.svd(slices[start:stop], full_matrices=False)
            for array, part in zip(found, parts, strict=True):
                array[start:stop] = part

    bounds = chunk_bounds((count, 20 * d * rows * columns + 10_000), minimum=_CHUNK)
    run_chunks(decompose, bounds, blas=len(bounds) > 2)
    return tuple(array.reshape(*lead, *array.shape[1:]) for array in found)


@lru_cache(maxsize=16)
def _start(n, dtype):
    """Return a direction that no structured matrix is likely to be orthogonal to."""
    vector = np.random.default_rng(0).standard_normal(n)
    return kernel_array((vector / np.linalg.norm(vector)).astype(dtype))


def _room(rows, columns, dtype):
    d = min(rows, columns)
    n = d if dtype.kind == "f" else 2 * d
    real = np.empty(0, dtype).real.dtype
    return Room(
        np.empty((rows, columns), dtype),
        np.empty((d, d), dtype),
        np.empty(columns, real),
        np.empty(rows, dtype),
        np.empty(columns, dtype),
        np.empty((n, n), real),
        np.empty((n + 1, n), real),
        np.empty(n + 1, real),
        np.empty(n, real),
        np.empty((5, n + 1)),
    )
