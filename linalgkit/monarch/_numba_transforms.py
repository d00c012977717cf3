"""CPU engine of the Fourier transform: panels of vectors side by side, each in the cache."""

from functools import lru_cache
from math import isqrt, prod
from typing import NamedTuple

import numpy as np

from .._checks import kernel_array
from .._threads import chunk_bounds, run_chunks
from .._tiles import ROW, VECTOR
from . import _array_api_transforms as reference
from ._numba_butterflies import WRITTEN, convolutions, panels
from ._radices import LARGEST, factors, good_length
from ._roots import dft_matrix, quarter, right_angle, table, turned_roots, twiddles

_LONGEST = 1 << 15  # longer vectors are transformed as matrices: the panels would leave the cache
_SHORT = 2048  # single vectors up to this length are not worth the call of a kernel
_CHUNK = 30_000  # panel rows read and written: 0.1 ms


class _Vectors(NamedTuple):
    """Where vectors lie: an address, strides in bytes, how many, and their entries."""

    address: int
    feature: int
    vector: int
    vectors: int
    features: int


def fft(x, *, axis, radices, scale):
    """Transform along `axis`."""
    return _transformed(x, axis, radices, False, scale)


def ifft(x, *, axis, radices, scale):
    """Transform with the conjugate roots."""
    return _transformed(x, axis, radices, True, scale)


def fft_vjp(cotangent, x, *, axis, radices, scale, wrt):
    """Pull back by Fᴴ, which has the conjugate roots."""
    return (_transformed(cotangent, axis, radices, True, scale) if "x" in wrt else None,)


def ifft_vjp(cotangent, x, *, axis, radices, scale, wrt):
    """Pull back by the transform."""
    return (_transformed(cotangent, axis, radices, False, scale) if "x" in wrt else None,)


def _transformed(x, axis, radices, inverse, scale):
    """Transform panel by panel; the reference serves what is small, and lengths of large primes."""
    moved = np.moveaxis(x, axis, -1)
    dtype = np.result_type(x.dtype, np.complex64)
    lanes, n, count = ROW // dtype.itemsize, moved.shape[-1], prod(moved.shape[:-1])
    chosen = _radices(n) if radices is None else tuple(radix for radix in radices if radix > 1)
    if radices is None and max(chosen, default=1) > LARGEST:
        y = reference.bluestein(moved.astype(dtype), inverse, scale, _along_last)
        return np.moveaxis(y, -1, axis)
    is_long = n > _LONGEST or (count < lanes and n > _SHORT)
    lengths = _two_lengths(n) if is_long and radices is None else (0, 0)
    least = min(lengths) if is_long else count
    if not chosen or max(chosen) > LARGEST or least < lanes:
        return reference.transformed(x, axis, radices, inverse, scale)
    vectors = moved.reshape(count, n)
    if not vectors.flags.aligned:
        vectors = vectors.copy()
    if is_long:
        result = np.empty((count, n), dtype)
        for vector, transformed in zip(vectors, result, strict=True):
            _in_two(vector, transformed, lengths, inverse, scale)
    else:
        is_feature_major = abs(vectors.strides[1]) > abs(vectors.strides[0])
        result = np.empty((n, count), dtype).T if is_feature_major else np.empty((count, n), dtype)
        _transform(vectors, result, inverse, scale, radices and chosen)
    return np.moveaxis(result.reshape(moved.shape), -1, axis)


def fftconvolve(x, h, *, axis, start, stop, is_circular):
    """Convolve real vectors panel by panel, one after the other; others by whole transforms."""
    y = None
    if x.dtype.kind != "c" and is_circular:
        y = _wrapped_reals(x, h, axis)
    elif x.dtype.kind != "c":
        y = _convolved_reals(x, h, axis, start, stop)
    if y is None:
        y = reference.convolution(x, h, axis, start, stop, is_circular, _along_last)
    return y


def fftconvolve_vjp(cotangent, x, h, *, axis, start, stop, is_circular, wrt):
    """Correlate with h by convolutions; with x by transforms, summed before the last of them."""
    options = {"axis": axis, "start": start, "stop": stop, "is_circular": is_circular}
    return reference.pulled_back(cotangent, x, h, wrt, fftconvolve, _along_last, **options)


def _wrapped_reals(x, h, axis):
    """Convolve circularly: the whole convolution, and its tail added to its beginning."""
    n, m = x.shape[axis], h.shape[axis if h.ndim > 1 else -1]
    whole = _convolved_reals(x, h, axis, 0, n + m - 1)
    if whole is None:
        return None
    whole = np.moveaxis(whole, axis, -1)
    y = whole[..., :n].copy(order="K")
    y[..., : m - 1] += whole[..., n:]
    return np.moveaxis(y, -1, axis)


def _convolved_reals(x, h, axis, start, stop):
    """Convolve with one filter, or with filters for the last axis; None where that is not so."""
    like = np.empty(0, np.result_type(x.dtype, np.complex64))
    lanes = ROW // like.itemsize
    x = np.moveaxis(x, axis, -1)
    h = h if h.ndim == 1 else np.moveaxis(h, axis, -1)
    length = good_length((x.shape[-1] + h.shape[-1]) // 2, reference.PASS)
    if h.size == h.shape[-1] and h.ndim <= x.ndim:  # one filter
        groups = x.reshape(1, -1, x.shape[-1])
    elif h.size == h.shape[-1] * h.shape[-2] and x.ndim >= h.ndim and h.shape[-2] == x.shape[-2]:
        groups = x.reshape(-1, *x.shape[-2:])
    else:
        return None
    if not groups.size or groups.shape[1] < lanes or length > _LONGEST or length < 2:
        return None
    spectrum = reference.spectrum_modulo(h.reshape(-1, h.shape[-1]), length, _along_last)
    is_feature_major = abs(groups.strides[2]) > abs(groups.strides[1])
    shape = (len(groups), groups.shape[1], stop - start)
    y = np.empty(shape if not is_feature_major else (shape[0], *shape[:0:-1]), x.dtype)
    y = y.swapaxes(1, 2) if is_feature_major else y
    place = _place(spectrum)._replace(vector=spectrum.strides[0] * (len(spectrum) > 1))
    steps, tables = _steps(length, _radices(length), False, like.dtype)
    turn, numbers = table(right_angle, length, like=like), np.zeros(2 + ROW, like.dtype)
    numbers[:2] = 1, 1 / length
    bounds = chunk_bounds(
        (-(-groups.shape[1] // lanes), length * (2 * len(steps) + 8)), minimum=_CHUNK
    )
    for group, result in zip(groups, y, strict=True):
        group = group if group.flags.aligned else group.copy()
        run_chunks(
            convolutions,
            bounds,
            like,
            like.real.copy(),
            steps,
            numbers.ctypes.data,
            turn.ctypes.data,
            place,
            start,
            length,
            _place(group),
            _place(result),
            scratch=_panels(2 * length),
        )
    del tables  # alive until here: their addresses are in `steps`
    return np.moveaxis(y.reshape(*x.shape[:-1], stop - start), -1, axis)


def _along_last(x, inverse, scale):
    return _transformed(x, -1, None, inverse, scale)


def _in_two(x, y, lengths, inverse, scale):
    """Transform one vector of length n = r m by m transforms of length r, and r of length m."""
    radix, rest = lengths
    between = np.empty((radix, rest), y.dtype)
    _transform(x.reshape(radix, rest).T, between.T, inverse, 1.0)
    between *= table(twiddles, radix, rest, inverse, like=y)
    _transform(between, y.reshape(rest, radix).T, inverse, scale)


def _two_lengths(n):
    """Return two lengths with product n, as near to each other as n allows."""
    return next((n // m, m) for m in range(isqrt(n), 0, -1) if n % m == 0)


def _transform(x, y, inverse, scale, radices=None):
    """Fill y (vectors, n) of any strides from x, real or complex."""
    n, reals, roots = x.shape[1], 0, np.empty(0, y.dtype)
    like, lanes = roots, ROW // y.itemsize
    if x.dtype != y.dtype and (inverse or n % 2 or n < 4 or radices is not None):
        x = x.astype(y.dtype)
    elif x.dtype != y.dtype:
        roots = table(quarter, n, like=y)
        if x.strides[0] == x.itemsize:
            reals, x = x.strides[1], x[:, ::2]
        else:
            x = (x if x.strides[1] == x.itemsize else x.copy()).view(y.dtype)
    radices = _radices(x.shape[1]) if radices is None else radices
    steps, tables = _steps(x.shape[1], radices, inverse, like.dtype)
    number = np.array([scale], like.real.dtype)
    work = n * (len(radices) + 2)
    run_chunks(
        panels,
        chunk_bounds((-(-len(x) // lanes), work), minimum=_CHUNK),
        like,
        steps,
        number.ctypes.data,
        VECTOR if inverse else 0,
        reals,
        roots.ctypes.data,
        _place(x),
        _place(y),
        scratch=_panels(2 * n),
    )
    del tables  # alive until here: their addresses are in `steps`


def _steps(n, radices, inverse, dtype):
    """Return the rows that `panels` wants, and the tables whose addresses they have."""
    return (_steps_kept if n <= _SHORT else _steps_made)(n, radices, inverse, dtype)


def _steps_made(n, radices, inverse, dtype):
    like = np.empty(0, dtype)
    steps, tables = np.empty((len(radices), 4), np.int64), []
    for step, radix in zip(steps, radices, strict=True):
        n //= radix
        is_written = radix in WRITTEN
        matrix = like if is_written else table(dft_matrix, radix, inverse, 1.0, like=like)
        numbers = table(turned_roots, radix, n, like=like) if n > 1 else like
        step[:] = radix, is_written, matrix.ctypes.data, numbers.ctypes.data
        tables += [matrix, numbers]
    return kernel_array(steps), tables


# Of short vectors: they take longer to be made than one transform.
_steps_kept = lru_cache(maxsize=64)(_steps_made)


def _panels(rows):
    """Return what makes a buffer of panel rows, with room to align it."""
    return lambda: np.empty(rows * ROW + VECTOR, np.uint8)


def _place(vectors):
    count, features = vectors.shape
    return _Vectors(vectors.ctypes.data, vectors.strides[1], vectors.strides[0], count, features)


@lru_cache(maxsize=1024)
def _radices(n):
    """Return powers of two as 16, 8 and 4 where they can be, and the odd primes."""
    primes = factors(n)
    twos = primes.count(2)
    if twos % 4 == 1 and twos > 4:
        powers = [16] * (twos // 4 - 1) + [8, 4]
    else:
        powers = [16] * (twos // 4) + [1 << twos % 4] * (twos % 4 > 0)
    return (*powers, *(p for p in reversed(primes) if p > 2))
