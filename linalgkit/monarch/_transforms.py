"""Fourier transforms and convolutions as products with small DFT matrices.

Source: FlashFFTConv (arXiv:2311.05908), which is the order-p Monarch factorisation of the DFT.
"""

from collections.abc import Sequence
from math import prod, sqrt
from typing import Any

from .. import _checks
from .._engine import Engines

engine = Engines(__package__)

_NORMS = (None, "backward", "ortho", "forward")
_MODES = ("causal", "full", "same", "valid", "circular")


@engine.traced()
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

    Any n is right: n times the sum of the radices in operations; on the CPU engine radices 2, 3,
    4, 5, 7, 8 and 16 are written out in registers (n log n), for vectors side by side. Where n has
    a prime factor above 256, Bluestein's algorithm takes two transforms of a length between 2 n and
    3 n instead. The relative error, in the Euclidean norm of each vector, is below 4 eps log₂ n (10
    eps log₂ n by Bluestein). Roots of unity come from integer angles. One short vector is faster
    with ``scipy.fft``; hundreds of vectors are not.

    References
    ----------
    .. [1] D. Y. Fu et al., "FlashFFTConv: Efficient Convolutions for Long Sequences with Tensor
       Cores", ICLR 2024, arXiv:2311.05908.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import monarch
    >>> monarch.fft(np.array([1.0, 0.0, 0.0, 0.0]))
    array([1.+0.j, 1.+0.j, 1.+0.j, 1.+0.j])
    """
    return _transformed(x, axis, radices, norm, inverse=False)


@engine.traced()
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
    >>> monarch.ifft(np.array([4.0, 0.0, 0.0, 0.0]))
    array([1.+0.j, 1.+0.j, 1.+0.j, 1.+0.j])
    """
    return _transformed(x, axis, radices, norm, inverse=True)


@engine.traced()
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
    part. The error is below 10 eps log₂ n times ‖h‖ ‖x‖, for each entry: small entries beside large
    ones have few right digits.

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
    x, h = _checks.floating(x=x, h=h)
    _checks.choice("mode", mode, _MODES)
    axis = _checks.negative_axis("axis", axis, x.ndim)
    n, m = _lengths(x, h, axis, mode)
    if mode == "causal" and m > n:
        h, m = _cut(h, axis, n), n
    start, stop = {
        "causal": (0, n),
        "circular": (0, n),
        "full": (0, n + m - 1),
        "same": ((m - 1) // 2, (m - 1) // 2 + n),
        "valid": (m - 1, n),
    }[mode]
    return engine(x, h).fftconvolve(
        x, h, axis=axis, start=start, stop=stop, is_circular=mode == "circular"
    )


def _transformed(x: Any, axis: int, radices: Any, norm: str | None, *, inverse: bool) -> Any:
    (x,) = _checks.floating(x=x)
    axis = _checks.negative_axis("axis", axis, x.ndim)
    _checks.choice("norm", norm, _NORMS)
    n = x.shape[axis]
    if n == 0:
        raise ValueError(f"x must have entries on axis {axis}; got shape {tuple(x.shape)}.")
    if radices is not None:
        radices = tuple(_checks.size("each of radices", radix, 1) for radix in radices)
        if prod(radices) != n or not radices:
            raise ValueError(
                f"the product of radices must be {n}, the entries of x on axis {axis}; got "
                f"{radices}."
            )
    is_scaled = norm == "forward" if not inverse else norm in (None, "backward")
    scale = 1 / sqrt(n) if norm == "ortho" else 1 / n if is_scaled else 1.0
    return engine(x).fft(x, axis=axis, radices=radices, inverse=inverse, scale=scale)


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
