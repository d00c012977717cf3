"""GPU engine of Fourier transforms and convolutions: cuFFT, and cuBLAS where that is faster.

cuFFT is near the memory's speed at every length, so that its radices serve whatever the caller's
are. Of sequences that share one short real filter a convolution is a product with its Toeplitz
matrix: one pass over memory, where transforms, padded and cut, make eight.
"""

from math import prod

import numpy as np

from . import _array_api_transforms as reference
from ._radices import good_length

# Up to so many entries of a sequence the product is faster, by the dtype's letter: half precision
# is multiplied by tensor cores, and so is double precision. Much fewer sequences than entries are
# not worth making the matrix.
_SHORT = {"e": 4096, "f": 1024, "d": 2048}
_ENTRIES_A_SEQUENCE = 16


def fft(x, *, axis, radices, scale):
    """Transform along `axis`."""
    return _transformed(x, axis, False, scale)


def ifft(x, *, axis, radices, scale):
    """Transform with the conjugate roots."""
    return _transformed(x, axis, True, scale)


def fft_vjp(cotangent, x, *, axis, radices, scale, wrt):
    """Pull back by Fᴴ, which has the conjugate roots."""
    return (_transformed(cotangent, axis, True, scale) if "x" in wrt else None,)


def ifft_vjp(cotangent, x, *, axis, radices, scale, wrt):
    """Pull back by the transform."""
    return (_transformed(cotangent, axis, False, scale) if "x" in wrt else None,)


def fftconvolve(x, h, *, axis, start, stop, is_circular):
    """Convolve real sequences by a Toeplitz matrix or by transforms, others by whole transforms."""
    if x.dtype.kind == "c" or not (x.size and h.size):
        return reference.convolution(x, h, axis, start, stop, is_circular, _along_last)
    import cupy as cp

    x, h = cp.moveaxis(x, axis, -1), cp.moveaxis(h, axis, -1) if h.ndim > 1 else h
    n, sequences = x.shape[-1], prod(x.shape[:-1])
    is_one = h.size == h.shape[-1] and h.ndim <= x.ndim
    if is_one and n <= min(_SHORT[x.dtype.char], _ENTRIES_A_SEQUENCE * sequences):
        y = cp.matmul(x, _toeplitz(h.ravel(), n, start, stop, is_circular))
    else:
        y = _by_transforms(x, h, start, stop, is_circular)
    return cp.moveaxis(y, -1, axis)


def fftconvolve_vjp(cotangent, x, h, *, axis, start, stop, is_circular, wrt):
    """Correlate with h, and with x by transforms, summed before the last of them."""
    options = {"axis": axis, "start": start, "stop": stop, "is_circular": is_circular}
    return reference.pulled_back(cotangent, x, h, wrt, fftconvolve, _along_last, **options)


def _transformed(x, axis, inverse, scale):
    """Transform by cuFFT, which does not scale if it is asked not to."""
    import cupy as cp

    x = x.astype(np.result_type(x.dtype, np.complex64), copy=False)
    if not x.size:
        return x
    y = cp.fft.ifft(x, axis=axis, norm="forward") if inverse else cp.fft.fft(x, axis=axis)
    if scale != 1:
        y *= scale
    return y


def _along_last(x, inverse, scale):
    return _transformed(x, -1, inverse, scale)


def _toeplitz(h, n, start, stop, is_circular):
    """Return the matrix of h[t - s] for row s < n and columns t from `start` to `stop`."""
    import cupy as cp

    padded = cp.zeros(n - 1 + max(stop, h.size), dtype=h.dtype)  # h[k] at n - 1 + k
    padded[n - 1 : n - 1 + h.size] = h
    if is_circular:
        padded[: n - 1] = padded[n : 2 * n - 1]
    step = h.itemsize
    shape, strides = (n, stop - start), (-step, step)
    view = cp.lib.stride_tricks.as_strided(padded[n - 1 + start :], shape, strides)
    return cp.ascontiguousarray(view)


def _by_transforms(x, h, start, stop, is_circular):
    """Convolve real sequences in at least single precision; the result has the dtype of x."""
    import cupy as cp

    wide = np.promote_types(x.dtype, np.float32)
    n = x.shape[-1]
    length = n if is_circular else good_length(n + h.shape[-1] - 1, reference.PASS)
    spectrum = cp.fft.rfft(x.astype(wide, copy=False), n=length)
    spectrum = spectrum * cp.fft.rfft(h.astype(wide, copy=False), n=length)
    return cp.fft.irfft(spectrum, n=length)[..., start:stop].astype(x.dtype, copy=False)
