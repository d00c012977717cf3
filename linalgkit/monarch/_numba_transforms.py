"""CPU engine of the Fourier transform: panels of vectors side by side, each in the cache."""

from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import scipy.fft

from .._checks import kernel_array
from .._threads import chunk_bounds, is_serial, run_chunks
from .._tiles import ROW, VECTOR
from . import _array_api_transforms as reference
from ._numba_butterflies import WRITTEN, circular_convolutions, convolutions, panels
from ._radices import LARGEST, factors, good_length
from ._roots import dft_matrix, quarter, right_angle, roots, table, turned_roots

_LONGEST = 1 << 15  # the panels of longer vectors would leave the cache
_PRIME = 100  # with larger prime factors SciPy is faster (measured)
_SHORT = 2048  # steps of lengths up to this one are kept
_CHUNK = 30_000  # panel rows read and written: 0.1 ms
_PRODUCT = 1 << 12  # a matrix of so many entries is faster than transforms (measured)
_MULTIPLY_ADDS = 4_000_000  # 0.1 ms
_SCIPY_CHUNK = 1_000_000  # entries times steps of SciPy's transforms: 0.5 ms
_GROUP = 16  # SciPy takes so many vectors side by side, or a number that divides it
_ENTRIES = 1 << 17  # fewer are transformed before what panels need is made (measured)


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
    """Transform panel by panel; SciPy serves few vectors, long ones, and those of large primes."""
    dtype = np.result_type(x.dtype, np.complex64)
    lanes, n = ROW // dtype.itemsize, x.shape[axis]
    count = x.size // n
    if radices is None and not (count >= lanes and x.size >= _ENTRIES and _is_good(n)):
        return _by_scipy(x, axis, inverse, scale, dtype)
    chosen = _radices(n) if radices is None else tuple(radix for radix in radices if radix > 1)
    if not chosen or max(chosen) > LARGEST or n > _LONGEST or count < lanes:
        return reference.transformed(x, axis, radices, inverse, scale)
    moved = last(x, axis)
    vectors = moved.reshape(count, n)
    if not vectors.flags.aligned:
        vectors = vectors.copy()
    is_feature_major = abs(vectors.strides[1]) > abs(vectors.strides[0])
    result = np.empty((n, count), dtype).T if is_feature_major else np.empty((count, n), dtype)
    _transform(vectors, result, inverse, scale, radices and chosen)
    return placed(result.reshape(moved.shape), axis)


@lru_cache(maxsize=1024)
def _is_good(n):
    """Tell whether panels of vectors of n entries stay in the cache, with steps that pay."""
    return 1 < n <= _LONGEST and max(factors(n)) <= _PRIME


def _by_scipy(x, axis, inverse, scale, dtype):
    """Transform by SciPy, vectors by several threads."""
    n = x.shape[axis]
    by_n, unscaled = ("backward", "forward") if inverse else ("forward", "backward")
    norm = unscaled if scale == 1 else by_n if scale == 1 / n else "ortho"
    function = partial(scipy.fft.ifft if inverse else scipy.fft.fft, norm=norm)
    return _chunked(function, x, axis, n, dtype)


def _chunked(function, x, axis, n, dtype):
    """Call a function that turns vectors into vectors of n entries, whole groups a thread.

    SciPy's own threads would cut by their number, and so decide which vectors go side by side.
    """
    count, length = x.size // x.shape[axis], max(x.shape[axis], n)
    work = _GROUP * length * length.bit_length()
    bounds = chunk_bounds((-(-count // _GROUP), work), minimum=_SCIPY_CHUNK)
    if is_serial(bounds):
        return function(x, axis=axis)
    moved = last(x, axis)
    vectors, result = moved.reshape(count, moved.shape[-1]), np.empty((count, n), dtype)

    def run(start, stop):
        if start < stop:
            result[start:stop] = function(vectors[start:stop], axis=-1)

    run_chunks(run, [min(count, _GROUP * bound) for bound in bounds])
    return placed(result.reshape(*moved.shape[:-1], n), axis)


def fftconvolve(x, h, *, axis, start, stop, is_circular):
    """Convolve real vectors panel by panel, one after the other; others by whole transforms.

    Short ones are multiplied by the matrix of the convolution.
    """
    m = h.shape[axis if h.ndim > 1 else -1]
    is_short = _is_short(x, h, axis, start, stop)
    if x.dtype.kind == "c" and not is_short:
        return reference.convolution(x, h, axis, start, stop, is_circular, _along_last)
    moved, h = last(x, axis), h if h.ndim == 1 else last(h, axis)
    if is_short:
        return placed(_multiplied(moved, h.reshape(-1), start, stop, is_circular), axis)
    n, groups = moved.shape[-1], _groups(moved, h)
    if groups is not None:
        length = n // 2 if is_circular else good_length((n + m) // 2, reference.PASS)
        has_halves = not is_circular or (n % 2 == 0 and _is_good(length))
    if groups is None or not has_halves or not 1 < length <= _LONGEST:
        return placed(_spectral(moved, h, start, stop, is_circular), axis)
    is_feature_major = abs(groups.strides[2]) > abs(groups.strides[1])
    shape = (len(groups), groups.shape[1], stop - start)
    y = np.empty(shape if not is_feature_major else (shape[0], *shape[:0:-1]), x.dtype)
    y = y.swapaxes(1, 2) if is_feature_major else y
    convolve = _wrapped_panels if is_circular else _convolved_panels
    convolve(groups, h.reshape(-1, m), length, start, y)
    return placed(y.reshape(*moved.shape[:-1], stop - start), axis)


def fftconvolve_vjp(cotangent, x, h, *, axis, start, stop, is_circular, wrt):
    """Correlate with h by convolutions; with x by transforms, summed before the last of them.

    Short sequences are correlated by one product of both matrices.
    """
    options = {"axis": axis, "start": start, "stop": stop, "is_circular": is_circular}
    is_product = "h" in wrt and _is_short(x, h, axis, start, stop)
    left = [name for name in wrt if not (is_product and name == "h")]
    of_x, of_h = reference.pulled_back(cotangent, x, h, left, fftconvolve, _along_last, **options)
    if is_product:
        arrays = last(x, axis), last(cotangent, axis)
        of_h = _correlated(*arrays, h.size, start, stop, is_circular).reshape(h.shape)
    return of_x, of_h


def _is_short(x, h, axis, start, stop):
    """Tell whether the matrix of the convolution with one filter takes less than transforms."""
    is_one = h.size == h.shape[axis if h.ndim > 1 else -1]
    return is_one and x.shape[axis] * (stop - start) <= _PRODUCT


def _groups(x, h):
    """Return x (groups, vectors, n) where vectors share one filter, or each has its own.

    None where neither is so, or there are too few vectors.
    """
    lanes = ROW // np.result_type(x.dtype, np.complex64).itemsize
    groups = None
    if x.size < _ENTRIES:
        return None
    if h.size == h.shape[-1] and h.ndim <= x.ndim:
        groups = x.reshape(1, -1, x.shape[-1])
    elif h.size == h.shape[-1] * h.shape[-2] and x.ndim >= h.ndim and h.shape[-2] == x.shape[-2]:
        groups = x.reshape(-1, *x.shape[-2:])
    if groups is None or groups.shape[1] < lanes:
        return None
    return groups if groups.flags.aligned else groups.copy()


def _multiplied(x, h, start, stop, is_circular):
    """Multiply by the matrix of the convolution: n (stop − start) multiply-adds a vector."""
    n, m = x.shape[-1], h.size
    padded = np.zeros(n if is_circular else n + max(m, stop), h.dtype)
    begin = 0 if is_circular else n
    padded[begin : begin + m] = h
    matrix = padded[_places(n, start, stop, is_circular)]
    vectors = _rows(x)
    y = np.empty((len(vectors), stop - start), x.dtype)

    def multiply(start, stop):
        np.matmul(vectors[start:stop], matrix, out=y[start:stop])

    bounds = chunk_bounds((len(vectors), matrix.size), minimum=_MULTIPLY_ADDS)
    # From that size on OpenBLAS has threads of its own, which wait for each other.
    run_chunks(multiply, bounds, blas=len(vectors) * matrix.size >= 1 << 18)
    return y.reshape(*x.shape[:-1], stop - start)


def _correlated(x, g, m, start, stop, is_circular):
    """Return Σ_t g[t] x̄[t − j], summed over vectors: sums over diagonals of xᴴ g."""
    n, x, g = x.shape[-1], _rows(x), _rows(g)
    total = np.zeros((n, stop - start), x.dtype)

    def product(first, last):
        return np.matmul(x[first:last].conj().T, g[first:last])

    def add(_, part):
        np.add(total, part, out=total)

    bounds = chunk_bounds((len(x), total.size), minimum=_MULTIPLY_ADDS)
    run_chunks(product, bounds, blas=len(x) * total.size >= 1 << 18, commit=add)
    begin = 0 if is_circular else n
    places = _places(n, start, stop, is_circular).reshape(-1)
    sums = np.bincount(places, total.real.reshape(-1), begin + m)
    if total.dtype.kind == "c":
        sums = sums + 1j * np.bincount(places, total.imag.reshape(-1), begin + m)
    return sums[begin : begin + m].astype(total.dtype)


def _rows(x):
    """Return vectors as rows of a matrix that BLAS takes: a view where it can be."""
    vectors = x.reshape(x.size // x.shape[-1], x.shape[-1])
    is_fit = x.itemsize in vectors.strides and vectors.flags.aligned
    return vectors if is_fit else vectors.copy()


@lru_cache(maxsize=16)
def _places(n, start, stop, is_circular):
    """Return which entry of the padded filter is in which entry of the convolution's matrix."""
    places = np.arange(start, stop) - np.arange(n)[:, None]
    return places % n if is_circular else places + n


def _spectral(x, h, start, stop, is_circular):
    """Convolve by SciPy's transforms of real vectors, those of a chunk one after the other."""
    n = x.shape[-1]
    length = n if is_circular else scipy.fft.next_fast_len(n + h.shape[-1] - 1, real=True)
    spectra = scipy.fft.rfft(h, length)

    def convolved(part, axis=-1):
        y = scipy.fft.irfft(scipy.fft.rfft(part, length) * spectra, length)
        return y if stop - start == length else y[..., start:stop]

    if h.size > h.shape[-1] or h.ndim > 2:
        return convolved(x)
    return _chunked(convolved, x, -1, stop - start, x.dtype)


def _convolved_panels(groups, h, length, start, y):
    """Fill y with entries from `start` on, by convolutions modulo z^length − i."""
    like = np.empty(0, np.result_type(groups.dtype, np.complex64))
    spectrum = reference.spectrum_modulo(h, length, _along_last)
    turn = table(right_angle, length, like=like)
    arguments = turn.ctypes.data, _place(spectrum, is_shared=len(h) == 1), start, length
    _run(convolutions, groups, y, like, length, arguments, 2 * length)


def _wrapped_panels(groups, h, length, start, y):
    """Fill y with circular convolutions, by transforms of half the length."""
    like = np.empty(0, np.result_type(groups.dtype, np.complex64))
    last = length // 2 + 1
    padded = np.zeros((len(h), length, 2), h.dtype)
    padded.reshape(len(h), -1)[:, : h.shape[1]] = h
    parts = _along_last(padded.swapaxes(1, 2).astype(like.dtype), False, 1.0)[..., :last]
    filters = np.empty((len(h), last, 3), like.dtype)
    filters[..., :2] = parts.swapaxes(1, 2)
    filters[..., 2] = parts[:, 1] * table(roots, length, like=like)[:last]
    arguments = (_place(filters.reshape(len(h), -1), is_shared=len(h) == 1),)
    _run(circular_convolutions, groups, y, like, length, arguments, 4 * length + 3)


def _run(kernel, groups, y, like, length, arguments, rows):
    """Run a kernel of convolutions by transforms of this length on each group."""
    lanes = ROW // like.itemsize
    steps, tables = _steps(length, _radices(length), False, like.dtype)
    numbers = np.zeros(2 + ROW, like.dtype)
    numbers[:2] = 1, 1 / length
    bounds = chunk_bounds(
        (-(-groups.shape[1] // lanes), length * (2 * len(steps) + 8)), minimum=_CHUNK
    )
    for group, result in zip(groups, y, strict=True):
        run_chunks(
            kernel, bounds, like, like.real.copy(), steps, numbers.ctypes.data, *arguments,
            _place(group), _place(result), scratch=_panels(rows),
        )  # fmt: skip
    del tables  # alive until here: their addresses are in `steps`


def last(x, axis):
    """Return a view with this axis as the last one."""
    return x if axis == -1 else np.moveaxis(x, axis, -1)


def placed(y, axis):
    """Undo `last`."""
    return y if axis == -1 else np.moveaxis(y, -1, axis)


def _along_last(x, inverse, scale):
    return _transformed(x, -1, None, inverse, scale)


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


def _place(vectors, *, is_shared=False):
    (count, features), (vector, feature) = vectors.shape, vectors.strides
    return _Vectors(vectors.ctypes.data, feature, 0 if is_shared else vector, count, features)


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
