"""Reference engine of Fourier transforms and convolutions: products with small DFT matrices.

With n = r m, j = j₁ m + j₂ and k = k₁ + r k₂, a transform of length n is r-point transforms over
j₁, a multiplication by ω_n^(k₁ j₂), and transforms of length m over j₂::

    X[k₁ + r k₂] = Σ_j₂ ω_m^(j₂ k₂) ω_n^(j₂ k₁) Σ_j₁ ω_r^(j₁ k₁) x[j₁ m + j₂]
"""

from array_api_compat import array_namespace

from .._xp import compiled, moveaxis, padded
from ._radices import best_radices, good_length
from ._roots import (
    chirp,
    chirp_spectrum,
    complex_dtype,
    dft_matrix,
    right_angle,
    table,
    twiddles,
)
from ._stacks import is_half, single

# A step of radix r costs r multiplications a number, and what a pass over memory takes.
PASS = 48


def fft(x, *, axis, radices, scale):
    """Transform along `axis`."""
    return transformed(x, axis, radices, False, scale)


def ifft(x, *, axis, radices, scale):
    """Transform with the conjugate roots."""
    return transformed(x, axis, radices, True, scale)


def fft_vjp(cotangent, x, *, axis, radices, scale, wrt):
    """Pull back by Fᴴ, which has the conjugate roots."""
    return (transformed(cotangent, axis, radices, True, scale) if "x" in wrt else None,)


def ifft_vjp(cotangent, x, *, axis, radices, scale, wrt):
    """Pull back by the transform."""
    return (transformed(cotangent, axis, radices, False, scale) if "x" in wrt else None,)


def transformed(x, axis, radices, inverse, scale):
    """Transform along `axis`; Bluestein's convolution where n has a large prime factor."""
    xp = array_namespace(x)
    dtype = getattr(xp, complex_dtype(x))
    x = moveaxis(x if x.dtype == dtype else xp.astype(x, dtype), axis, -1)
    radices = radices or best_radices(x.shape[-1], PASS)
    if radices is None:
        return moveaxis(bluestein(x, inverse, scale, _by_best_radices), -1, axis)
    return moveaxis(_by_radices(x, radices, inverse, scale), -1, axis)


def bluestein(x, inverse, scale, transform):
    """Write j k = (j² + k² − (k − j)²)/2: a convolution with a chirp, of a length with radices.

    It is done by ``transform(x, inverse, scale)``.
    """
    n = x.shape[-1]
    length = good_length(2 * n - 1, PASS)
    turn = table(chirp, n, inverse, like=x)
    spectrum = transform(padded(x * turn, length, -1), False, 1.0)
    spectrum = spectrum * table(chirp_spectrum, n, length, inverse, like=x)
    return transform(spectrum, True, scale / length)[..., :n] * turn


@compiled("axis", "start", "stop", "is_circular")
def fftconvolve(x, h, *, axis, start, stop, is_circular):
    """Convolve along `axis`; entries from `start` to `stop` of the full or circular convolution."""
    return convolution(x, h, axis, start, stop, is_circular, _along_last)


@compiled("axis", "start", "stop", "is_circular", "wrt")
def fftconvolve_vjp(cotangent, x, h, *, axis, start, stop, is_circular, wrt):
    """Correlate the cotangent with h, and with x."""
    options = {"axis": axis, "start": start, "stop": stop, "is_circular": is_circular}
    return pulled_back(cotangent, x, h, wrt, fftconvolve, _along_last, **options)


def convolution(x, h, axis, start, stop, is_circular, transform, lead=None):
    """Convolve by ``transform(x, inverse, scale)`` on the last axis.

    With `lead`, results are summed to these axes before the last one.
    """
    xp = array_namespace(x, h)
    half = x.dtype if is_half(x) else None
    x, h = single(x), single(h)
    x, h = moveaxis(x, axis, -1), moveaxis(h, axis, -1) if h.ndim > 1 else h
    total = x.shape[-1] + h.shape[-1] - 1
    is_real = not xp.isdtype(x.dtype, "complex floating")
    if is_circular:
        y = _circular(x, padded(h, x.shape[-1], -1), transform, lead)
        y = xp.real(y) if is_real else y
    elif is_real:
        y = _modulo_right_angle(x, h, good_length((total + 1) // 2, PASS), transform, lead)
    else:
        length = good_length(total, PASS)
        y = _circular(padded(x, length, -1), padded(h, length, -1), transform, lead)
    y = moveaxis(y[..., start:stop], -1, axis)
    return y if half is None else xp.astype(y, half)


def pulled_back(cotangent, x, h, wrt, convolve, transform, *, axis, start, stop, is_circular):
    """Pull the cotangent g back, which is 0 but for entries from `start` to `stop`.

    Of x[s] the gradient is Σ_t g[t] h̄[t − s], of h[j] Σ_t g[t] x̄[t − j], summed over the sequences
    that share h: entries of convolutions with h̄ and x̄ reversed.
    """
    of_x = of_h = None
    n, m = x.shape[axis], h.shape[axis if h.ndim > 1 else -1]
    if "x" in wrt:
        first = 0 if is_circular else m - 1 - start
        of_x = convolve(
            cotangent,
            _reversed(h, axis if h.ndim > 1 else -1),
            axis=axis,
            start=first,
            stop=first + n,
            is_circular=is_circular,
        )
        of_x = moveaxis(of_x, axis, -1)
        of_x = _turned(of_x, m - 1) if is_circular else of_x
        of_x = moveaxis(_summed(of_x, moveaxis(x, axis, -1).shape[:-1]), -1, axis)
    if "h" in wrt:
        g, reverse = moveaxis(cotangent, axis, -1), _reversed(moveaxis(x, axis, -1), -1)
        lead = moveaxis(h, axis, -1).shape[:-1] if h.ndim > 1 else ()
        if is_circular:
            of_h = convolution(g, reverse, -1, 0, n, True, transform, lead)
            of_h = _turned(of_h, n - 1)[..., :m]
        else:
            first = n - 1 - start
            low = max(first, 0)  # entries of h beyond are in no entry of the result
            of_h = convolution(g, reverse, -1, low, first + m, False, transform, lead)
            of_h = padded(of_h, low - first + of_h.shape[-1], -1, ahead=True)
            of_h = padded(of_h, m, -1)
        of_h = moveaxis(of_h, -1, axis) if h.ndim > 1 else of_h
    return of_x, of_h


def spectrum_modulo(h, length, transform):
    """Return the spectrum of real filters for convolutions modulo z^length − i."""
    return transform(_folded(h, length) * table(right_angle, length, like=h), False, 1.0)


def _modulo_right_angle(x, h, length, transform, lead):
    """Convolve real sequences modulo z^N − i: the first N entries are real, the next imaginary."""
    xp, turn = array_namespace(x), table(right_angle, length, like=x)
    spectrum = transform(_folded(x, length) * turn, False, 1.0)
    spectrum = _summed(spectrum * spectrum_modulo(h, length, transform), lead)
    y = transform(spectrum, True, 1 / length) * xp.conj(turn)
    return xp.concat([xp.real(y), xp.imag(y)], axis=-1)


def _circular(x, h, transform, lead):
    """Convolve by the convolution theorem."""
    spectrum = transform(x, False, 1.0) * transform(h, False, 1.0)
    return transform(_summed(spectrum, lead), True, 1 / x.shape[-1])


def _summed(y, lead):
    """Sum over the axes, before the last one, that arrays of shape (*lead, n) were broadcast to."""
    if lead is None or tuple(y.shape[:-1]) == tuple(lead):
        return y
    xp, more = array_namespace(y), y.ndim - 1 - len(lead)
    y = xp.sum(y, axis=tuple(range(more))) if more else y
    axes = tuple(k for k, size in enumerate(lead) if size != y.shape[k])
    return xp.sum(y, axis=axes, keepdims=True) if axes else y


def _reversed(x, axis):
    xp = array_namespace(x)
    x = xp.flip(x, axis=axis)
    return xp.conj(x) if xp.isdtype(x.dtype, "complex floating") else x


def _turned(x, places):
    return array_namespace(x).roll(x, -places, axis=-1)


def _folded(x, length):
    """Return z[t] = x[t] + i x[t + length], padded with zeros."""
    xp = array_namespace(x)
    dtype = getattr(xp, complex_dtype(x))
    if x.shape[-1] <= length:
        return xp.astype(padded(x, length, -1), dtype)
    low = xp.astype(x[..., :length], dtype)
    return low + 1j * xp.astype(padded(x[..., length:], length, -1), dtype)


def _along_last(x, inverse, scale):
    return transformed(x, -1, None, inverse, scale)


def _by_best_radices(x, inverse, scale):
    return _by_radices(x, best_radices(x.shape[-1], PASS), inverse, scale)


def _by_radices(x, radices, inverse, scale):
    xp, n, radix = array_namespace(x), x.shape[-1], radices[0]
    if len(radices) == 1:
        return xp.matmul(x, table(dft_matrix, n, inverse, scale, like=x))
    shape = (*x.shape[:-1], radix, n // radix)
    y = xp.matmul(table(dft_matrix, radix, inverse, 1.0, like=x), xp.reshape(x, shape))
    y = y * table(twiddles, radix, n // radix, inverse, like=x)
    if len(radices) == 2:  # the transpose is an operand of the product, not a copy
        z = xp.matmul(table(dft_matrix, radices[1], inverse, scale, like=x), moveaxis(y, -1, -2))
    else:
        z = moveaxis(_by_radices(y, radices[1:], inverse, scale), -1, -2)
    return xp.reshape(z, x.shape)
