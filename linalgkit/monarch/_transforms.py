"""Fourier transforms and convolutions as products with small DFT matrices.

Source: FlashFFTConv (arXiv:2311.05908), which is the order-p Monarch factorisation of the DFT.
"""

from collections.abc import Collection, Sequence
from math import prod, sqrt
from typing import Any, NamedTuple

from array_api_compat import array_namespace

from .. import _checks
from .._engine import Engines
from .._xp import padded

engine = Engines(__package__)

_NORMS = (None, "backward", "ortho", "forward")
_MODES = ("causal", "full", "same", "valid", "circular")


class TransformGradients(NamedTuple):
    """Gradients of `fft` and `ifft`; None where not wanted.

    Parameters
    ----------
    x : array, shape (..., n, ...), or None
        With respect to the vectors.
    """

    x: Any


class ConvolutionGradients(NamedTuple):
    """Gradients of `fftconvolve`; None where not wanted.

    Parameters
    ----------
    x : array, shape (..., n, ...), or None
        With respect to the sequences.
    h : array, shape (m,) or (..., m, ...), or None
        With respect to the filters.
    """

    x: Any
    h: Any


@engine.traced(vjp="fft_vjp", batched=(0,))
def fft(
    x: Any,
    /,
    *,
    axis: int = -1,
    radices: Sequence[int] | None = None,
    norm: str | None = None,
) -> Any:
    """Compute the discrete Fourier transform by products with small DFT matrices.

    Parameters
    ----------
    x : array, shape (..., n, ...)
        Real or complex numbers; integers count as float64.
    axis : int, optional
        The axis that is transformed.
    radices : sequence of int, optional
        Sizes of the DFT matrices, with product n; chosen by n if not given.
    norm : {None, "backward", "ortho", "forward"}, optional
        As in ``numpy.fft.fft``: the forward transform is not scaled, or by 1/√n, or by 1/n.

    Returns
    -------
    array
        Complex, of the shape of `x`; complex64 for float32, complex64 and half precision,
        complex128 else.

    Raises
    ------
    ValueError
        There is nothing to transform, or the product of `radices` is not n.
    TypeError
        `x` is not numeric.

    See Also
    --------
    ifft : The inverse.
    dft_factors : The same matrix as Monarch factors.

    Notes
    -----
    With n = r m, the step of radix r is (Section 3.1 of [1]_)::

        X[k₁ + r k₂] = Σ_j₂ ω_m^(j₂ k₂) ω_n^(j₂ k₁) Σ_j₁ ω_r^(j₁ k₁) x[j₁ m + j₂]

    Any n is right: n times the sum of the radices in operations. Where n has a prime factor above
    256, Bluestein's algorithm takes two transforms of a length between 2 n and 3 n instead. The
    relative error, in the Euclidean norm of each vector, is below 4 eps log₂ n (10 eps log₂ n by
    Bluestein). Roots of unity come from integer angles. The CPU engine transforms vectors side by
    side, with radices 2, 3, 4, 5, 7, 8 and 16 written out in registers (n log n), unless there are
    fewer than 2^17 numbers, or n is above 2^15 or has a prime factor above 100: there
    ``scipy.fft`` takes less time, and is called. CuPy arrays are transformed by cuFFT.

    References
    ----------
    .. [1] D. Y. Fu et al., "FlashFFTConv: Efficient Convolutions for Long Sequences with Tensor
       Cores", ICLR 2024, arXiv:2311.05908.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import monarch
    >>> monarch.fft(np.array([1.0, 0.0, 0.0, 0.0])) + 0.0  # no negative zeros
    array([1.+0.j, 1.+0.j, 1.+0.j, 1.+0.j])
    """
    _checks.present(x=x)
    (x,) = _checks.floating(x=x)
    options = _options(x, axis, radices, norm, inverse=False)
    return engine(x).fft(x, **options)


@engine.traced(vjp="ifft_vjp", batched=(0,))
def ifft(
    x: Any,
    /,
    *,
    axis: int = -1,
    radices: Sequence[int] | None = None,
    norm: str | None = None,
) -> Any:
    """Compute the inverse discrete Fourier transform by products with small DFT matrices.

    Parameters
    ----------
    x : array, shape (..., n, ...)
        As for `fft`.
    axis : int, optional
        As for `fft`.
    radices : sequence of int, optional
        As for `fft`.
    norm : {None, "backward", "ortho", "forward"}, optional
        As in ``numpy.fft.ifft``: scaled by 1/n, by 1/√n, or not.

    Returns
    -------
    array
        Complex, of the shape of `x`, as `fft` gives.

    Raises
    ------
    ValueError
        There is nothing to transform, or the product of `radices` is not n.
    TypeError
        `x` is not numeric.

    See Also
    --------
    fft : The transform, with what is to be said of cost and accuracy.

    Notes
    -----
    ::

        x[j] = 1/n Σ_k exp(2πi j k/n) X[k]

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import monarch
    >>> monarch.ifft(np.array([4.0, 0.0, 0.0, 0.0])) + 0.0
    array([1.+0.j, 1.+0.j, 1.+0.j, 1.+0.j])
    """
    _checks.present(x=x)
    (x,) = _checks.floating(x=x)
    options = _options(x, axis, radices, norm, inverse=True)
    return engine(x).ifft(x, **options)


@engine.traced()
def fft_vjp(
    cotangent: Any,
    x: Any,
    /,
    *,
    axis: int = -1,
    radices: Sequence[int] | None = None,
    norm: str | None = None,
    wrt: Collection[str] | None = None,
) -> TransformGradients:
    """Pull a gradient back through `fft`.

    Parameters
    ----------
    cotangent : array, shape (..., n, ...)
        Gradient with respect to the transform; complex as a rule.
    x : array, shape (..., n, ...)
        As for `fft`; its values do not matter.
    axis : int, optional
        As for `fft`.
    radices : sequence of int, optional
        As for `fft`.
    norm : {None, "backward", "ortho", "forward"}, optional
        As for `fft`.
    wrt : collection of str, optional
        ["x"] or []: what is not named is None and not computed.

    Returns
    -------
    TransformGradients
        In the dtype of `x` (the real part, for a real one).

    Raises
    ------
    ValueError
        As for `fft`, or the cotangent has another shape than `x`, or `wrt` names something else.

    See Also
    --------
    fft : The transform.

    Notes
    -----
    Fᴴ g, which is torch's convention for complex numbers: an inverse transform with the scale of
    the forward one.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import monarch
    >>> x = np.array([1.0, 2.0, 3.0, 4.0])
    >>> monarch.fft_vjp(2 * monarch.fft(x), x).x  # of the energy Σ |X|², which is 4 Σ x²
    array([ 8., 16., 24., 32.])
    """
    cotangent, x = _with_cotangent(cotangent, x)
    options = _options(x, axis, radices, norm, inverse=False)
    wanted = _checks.wanted(wrt, ("x",))
    (of_x,) = engine(cotangent, x).fft_vjp(cotangent, x, **options, wrt=wanted)
    return TransformGradients(_checks.as_dtype_of(of_x, x))


@engine.traced()
def ifft_vjp(
    cotangent: Any,
    x: Any,
    /,
    *,
    axis: int = -1,
    radices: Sequence[int] | None = None,
    norm: str | None = None,
    wrt: Collection[str] | None = None,
) -> TransformGradients:
    """Pull a gradient back through `ifft`.

    Parameters
    ----------
    cotangent : array, shape (..., n, ...)
        Gradient with respect to the inverse transform; complex as a rule.
    x : array, shape (..., n, ...)
        As for `ifft`; its values do not matter.
    axis : int, optional
        As for `ifft`.
    radices : sequence of int, optional
        As for `ifft`.
    norm : {None, "backward", "ortho", "forward"}, optional
        As for `ifft`.
    wrt : collection of str, optional
        ["x"] or []: what is not named is None and not computed.

    Returns
    -------
    TransformGradients
        In the dtype of `x` (the real part, for a real one).

    Raises
    ------
    ValueError
        As for `ifft`, or the cotangent has another shape than `x`, or `wrt` names something else.

    See Also
    --------
    fft_vjp : The same of the transform.

    Notes
    -----
    The transform of the cotangent, with the scale of the inverse one.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import monarch
    >>> spectrum = np.array([1.0 + 1.0j, 0.0, 0.0, 0.0])
    >>> gradient = np.array([1.0, 0.0, 0.0, 0.0])  # of the first entry of the result
    >>> monarch.ifft_vjp(gradient, spectrum).x + 0.0
    array([0.25+0.j, 0.25+0.j, 0.25+0.j, 0.25+0.j])
    """
    cotangent, x = _with_cotangent(cotangent, x)
    options = _options(x, axis, radices, norm, inverse=True)
    wanted = _checks.wanted(wrt, ("x",))
    (of_x,) = engine(cotangent, x).ifft_vjp(cotangent, x, **options, wrt=wanted)
    return TransformGradients(_checks.as_dtype_of(of_x, x))


@engine.traced(vjp="fftconvolve_vjp", batched=(0,))
def fftconvolve(x: Any, h: Any, /, *, mode: str = "causal", axis: int = -1) -> Any:
    """Convolve sequences with filters, through Fourier transforms by products.

    Parameters
    ----------
    x : array, shape (..., n, ...)
        Sequences along `axis`.
    h : array, shape (m,) or (..., m, ...)
        One filter; or filters along `axis` of their array, whose other axes broadcast against
        those of `x`.
    mode : {"causal", "full", "same", "valid", "circular"}, optional
        "causal": the first n entries of the full convolution, so that y[t] depends on x[s] for
        s <= t only. "full", "same" and "valid" as in ``scipy.signal.fftconvolve``: all n + m − 1
        entries; the n in the middle; the n − m + 1 without padding. "circular": indices mod n.
    axis : int, optional
        The axis of the sequences.

    Returns
    -------
    array
        Real for real arguments; the axes other than `axis` are broadcast.

    Raises
    ------
    ValueError
        Shapes do not fit, something is empty, the filter is longer than the sequence in mode
        "valid" or "circular", or there is no such mode.
    TypeError
        The arrays come from different libraries or are not numeric.

    See Also
    --------
    fft : The transform.

    Notes
    -----
    ::

        causal: y[t] = Σ_{s<=t} h[s] x[t−s]        circular: y[t] = Σ_s h[s] x[(t−s) mod n]

    The convolution theorem on sequences padded with zeros (Section 3 of [1]_). Real sequences are
    not padded to twice their length: multiplied by exp(πi t/(2N)), a complex circular convolution
    of length N ≥ (n + m − 1)/2 is one modulo z^N − i, with the entries from N on in the imaginary
    part. Circular ones of even length n take complex transforms of n/2 neighbours. The error is
    below 10 eps log₂ n times ‖h‖ ‖x‖, for each entry: small entries beside large ones have few
    right digits. The CPU engine multiplies by the matrix of the convolution where that has at most
    2^12 entries, and calls ``scipy.fft`` where it does so in `fft`. On GPUs real sequences of up to
    1024 entries (2048 in float64, 4096 in float16) that share a filter are multiplied by its
    matrix, others by cuFFT.

    References
    ----------
    .. [1] D. Y. Fu et al., "FlashFFTConv: Efficient Convolutions for Long Sequences with Tensor
       Cores", ICLR 2024, arXiv:2311.05908.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import monarch
    >>> x, h = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 0.0, -1.0])
    >>> monarch.fftconvolve(x, h).round(12)
    array([1., 2., 2., 2.])
    >>> monarch.fftconvolve(x, h, mode="circular").round(12)
    array([-2., -2.,  2.,  2.])
    """
    _checks.present(x=x, h=h)
    x, h = _checks.floating(x=x, h=h)
    x, h, options = _convolution(x, h, mode, axis)
    return engine(x, h).fftconvolve(x, h, **options)


@engine.traced()
def fftconvolve_vjp(
    cotangent: Any,
    x: Any,
    h: Any,
    /,
    *,
    mode: str = "causal",
    axis: int = -1,
    wrt: Collection[str] | None = None,
) -> ConvolutionGradients:
    """Pull a gradient back through `fftconvolve`.

    Parameters
    ----------
    cotangent : array
        Gradient with respect to the convolution, of its shape.
    x : array, shape (..., n, ...)
        As for `fftconvolve`.
    h : array, shape (m,) or (..., m, ...)
        As for `fftconvolve`.
    mode : {"causal", "full", "same", "valid", "circular"}, optional
        As for `fftconvolve`.
    axis : int, optional
        As for `fftconvolve`.
    wrt : collection of str, optional
        Some of "x", "h": the others are None and not computed.

    Returns
    -------
    ConvolutionGradients
        Each in the shape and the dtype of its argument (the real part, for a real one).

    Raises
    ------
    ValueError
        As for `fftconvolve`, or the cotangent has another shape than the convolution, or `wrt`
        names something else.

    See Also
    --------
    fftconvolve : The convolution.

    Notes
    -----
    Correlations, with g = 0 outside of what the mode returns::

        of x[s]: Σ_t g[t] h̄[t − s]        of h[j]: Σ_t g[t] x̄[t − j]

    (indices mod n in circular convolutions), summed over the axes along which the argument is
    broadcast. For a filter that many sequences share, the sum is over spectra, before one inverse
    transform. This is torch's convention for complex numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import monarch
    >>> x, h = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 0.0, -1.0])
    >>> gradients = monarch.fftconvolve_vjp(np.array([0.0, 0.0, 0.0, 1.0]), x, h)
    >>> gradients.x.round(12) + 0.0  # y[3] = h[0] x[3] + h[1] x[2] + h[2] x[1]
    array([ 0., -1.,  0.,  1.])
    >>> gradients.h.round(12)
    array([4., 3., 2.])
    """
    _checks.present(cotangent=cotangent, x=x, h=h)
    originals = x, h
    cotangent, x, h = _checks.floating(cotangent=cotangent, x=x, h=h)
    shapes = x.shape, h.shape
    x, h, options = _convolution(x, h, mode, axis)
    axis, length = options["axis"], options["stop"] - options["start"]
    expected = _broadcast(x, h, axis, length)
    if tuple(cotangent.shape) != expected:
        raise ValueError(
            f"cotangent must have the convolution's shape {expected}; got {tuple(cotangent.shape)}."
        )
    wanted = _checks.wanted(wrt, ("x", "h"))
    of_x, of_h = engine(cotangent, x, h).fftconvolve_vjp(cotangent, x, h, **options, wrt=wanted)
    if of_x is not None:
        of_x = array_namespace(of_x).reshape(of_x, shapes[0])
    if of_h is not None and of_h.shape != shapes[1]:  # cut to the length of the sequences
        place = axis if len(shapes[1]) > 1 else -1
        of_h = padded(of_h, shapes[1][place], place)
    return ConvolutionGradients(
        *(
            _checks.as_dtype_of(g, original)
            for g, original in zip((of_x, of_h), originals, strict=True)
        )
    )


def _options(x: Any, axis: int, radices: Any, norm: str | None, *, inverse: bool) -> dict[str, Any]:
    """Return what the engines take besides vectors; ValueError where it does not fit."""
    axis = _checks.negative_axis("axis", axis, x.ndim)
    _checks.choice("norm", norm, _NORMS)
    n = x.shape[axis]
    if n == 0:
        raise ValueError(f"x must have entries on axis {axis}; got shape {tuple(x.shape)}.")
    if radices is not None:
        if not isinstance(radices, Sequence):
            raise TypeError(f"radices must be a sequence of sizes; got {radices!r}.")
        radices = tuple(_checks.size("each of radices", radix, 1) for radix in radices)
        if prod(radices) != n or not radices:
            raise ValueError(
                f"the product of radices must be {n}, the entries of x on axis {axis}; got "
                f"{radices}."
            )
    is_scaled = norm == "forward" if not inverse else norm in (None, "backward")
    scale = 1 / sqrt(n) if norm == "ortho" else 1 / n if is_scaled else 1.0
    return {"axis": axis, "radices": radices, "scale": scale}


def _with_cotangent(cotangent: Any, x: Any) -> tuple[Any, Any]:
    """Return both as floating arrays of one library, of dtypes of their own."""
    _checks.present(cotangent=cotangent, x=x)
    cotangent, x = _checks.arrays(cotangent=cotangent, x=x)
    (cotangent,), (x,) = _checks.floating(cotangent=cotangent), _checks.floating(x=x)
    if cotangent.shape != x.shape:
        raise ValueError(
            f"cotangent must have the shape of x, {tuple(x.shape)}; got {tuple(cotangent.shape)}."
        )
    return cotangent, x


def _convolution(x: Any, h: Any, mode: str, axis: int) -> tuple[Any, Any, dict[str, Any]]:
    """Return x with all axes that h has, what of h matters, and what the engines take besides."""
    _checks.choice("mode", mode, _MODES)
    axis = _checks.negative_axis("axis", axis, x.ndim)
    n, m = _lengths(x, h, axis, mode)
    if h.ndim > x.ndim:
        shape = (1,) * (h.ndim - x.ndim) + tuple(x.shape)
        x = array_namespace(x).reshape(x, shape)
    if mode == "causal" and m > n:
        h, m = _cut(h, axis, n), n
    start, stop = {
        "causal": (0, n),
        "circular": (0, n),
        "full": (0, n + m - 1),
        "same": ((m - 1) // 2, (m - 1) // 2 + n),
        "valid": (m - 1, n),
    }[mode]
    options = {"axis": axis, "start": start, "stop": stop, "is_circular": mode == "circular"}
    return x, h, options


def _broadcast(x: Any, h: Any, axis: int, length: int) -> tuple[int, ...]:
    """Return the shape of a convolution of so many entries."""
    shape = list(x.shape)
    if h.ndim > 1:
        sizes = zip(reversed(x.shape), (*reversed(h.shape), *(1,) * x.ndim), strict=False)
        shape = [b if a == 1 else a for a, b in sizes][::-1]
    shape[axis] = length
    return tuple(shape)


def _lengths(x: Any, h: Any, axis: int, mode: str) -> tuple[int, int]:
    """Return the lengths of sequences and filters; ValueError unless they fit."""
    if h.ndim == 0 or (h.ndim > 1 and h.ndim < -axis):
        raise ValueError(
            f"h must be one filter of shape (m,) or have axis {axis}; got shape {tuple(h.shape)}."
        )
    n, m = x.shape[axis], h.shape[axis if h.ndim > 1 else -1]
    if n == 0 or m == 0:
        raise ValueError(
            f"x and h must have entries; got shapes {tuple(x.shape)} and {tuple(h.shape)}."
        )
    if h.ndim > 1:
        sizes = [list(array.shape) for array in (x, h)]
        for shape in sizes:
            shape[axis] = 1
        for a, b in zip(reversed(sizes[0]), reversed(sizes[1]), strict=False):
            if a != b and 1 not in (a, b):
                raise ValueError(
                    f"h must broadcast against x on all axes but {axis}; got shapes "
                    f"{tuple(h.shape)} and {tuple(x.shape)}."
                )
    if mode in ("valid", "circular") and m > n:
        raise ValueError(
            f"in mode {mode!r} h must be at most as long as x; got lengths {m} and {n}."
        )
    return n, m


def _cut(h: Any, axis: int, n: int) -> Any:
    """Return the first n entries of filters."""
    if h.ndim == 1:
        return h[:n]
    return h[(slice(None),) * (h.ndim + axis) + (slice(n),)]
