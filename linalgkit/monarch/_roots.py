"""Tables of roots of unity, to full precision, made once and kept.

Angles are integers: ω_n^j for j mod n, reduced to an eighth of the circle before any sine is taken.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from array_api_compat import (
    array_namespace,
    device,
    is_cupy_array,
    is_jax_array,
    is_numpy_array,
    is_torch_array,
)

# How many tables stay in memory, small and large ones; still larger ones are made anew each time.
_SMALL, _LARGE = 1 << 16, 1 << 21
_KEPT_SMALL, _KEPT_LARGE = 64, 4


def roots(n: int) -> np.ndarray:
    """Return ω_n^j = exp(−2πi j/n) for 0 <= j < n, each within an eps of the truth."""
    octant, rest = np.divmod(8 * np.arange(n, dtype=np.int64), n)
    angle = (np.pi / 4) * (np.where(octant % 2, n - rest, rest) / n)
    swapped = (octant + 1) // 2 % 2 == 1  # octants in which the sine is the longer side
    long, short = np.cos(angle), np.sin(angle)
    real = np.where(swapped, short, long) * np.where((octant + 2) % 8 < 4, 1, -1)
    imaginary = np.where(swapped, long, short) * np.where(octant < 4, -1, 1)
    return real + 1j * imaginary + 0.0  # no negative zeros


def dft_matrix(n: int, inverse: bool, scale: float) -> np.ndarray:
    """Return the DFT matrix of size n, or its conjugate, times `scale`."""
    j = np.arange(n)
    return scale * _conjugated(roots(n)[np.outer(j, j) % n], inverse)


def twiddles(rows: int, columns: int, inverse: bool) -> np.ndarray:
    """Return ω_n^(i j) for 0 <= i < rows, 0 <= j < columns, n = rows · columns."""
    exponents = np.outer(np.arange(rows), np.arange(columns))  # all less than n
    return _conjugated(roots(rows * columns)[exponents], inverse)


def turned_roots(radix: int, after: int) -> np.ndarray:
    """Return ω_n^(j k) for 0 <= j < `after`, 0 <= k < radix, n = radix · after."""
    return twiddles(radix, after, False).T.copy()


def quarter(n: int) -> np.ndarray:
    """Return ω_n^k for 0 <= k <= n/4."""
    return roots(n)[: n // 4 + 1]


def chirp(n: int, inverse: bool) -> np.ndarray:
    """Return exp(−πi j²/n) for 0 <= j < n."""
    squares = np.arange(n, dtype=np.int64) ** 2 % (2 * n)
    return _conjugated(roots(2 * n)[squares], inverse)


def chirp_spectrum(n: int, length: int, inverse: bool) -> np.ndarray:
    """Return the transform of the conjugate chirp, even in j, on a circle of `length` places."""
    kernel = np.zeros(length, dtype=complex)
    kernel[:n] = chirp(n, not inverse)
    kernel[length - n + 1 :] = kernel[1:n][::-1]
    return np.fft.fft(kernel)


def right_angle(n: int) -> np.ndarray:
    """Return exp(πi j/(2n)) for 0 <= j < n: a quarter of the circle."""
    return np.conj(roots(4 * n)[:n])


def table(make: Callable[..., np.ndarray], *arguments: Any, like: Any) -> Any:
    """Return ``make(*arguments)`` as an array of the precision, library and device of `like`."""
    dtype = complex_dtype(like)
    if is_numpy_array(like):
        return kept(make, arguments, dtype)
    if is_cupy_array(like):
        return _kept_on_device(make, arguments, dtype, like.device.id)
    if is_torch_array(like):
        from ._torch_tables import torch_table

        return torch_table(make.__name__, arguments, dtype).to(like.device)
    return moved(kept(make, arguments, dtype), like)


def complex_dtype(x: Any) -> str:
    """Name the complex dtype in which to compute with `x`: single precision for halves too."""
    if is_numpy_array(x):
        return "complex64" if x.dtype.char in "efF" else "complex128"
    singles = ("float16", "bfloat16", "float32", "complex64")
    return "complex64" if has_dtype(x, *singles) else "complex128"


def has_dtype(x: Any, *names: str) -> bool:
    """Tell whether the dtype of `x` is one of those; a library need not have them all."""
    xp = array_namespace(x)
    return any(hasattr(xp, name) and getattr(xp, name) == x.dtype for name in names)


def moved(array: np.ndarray, like: Any) -> Any:
    """Return a NumPy array in the library and on the device of `like`."""
    if like is None or is_numpy_array(like):
        return array
    xp = array_namespace(like)
    if is_jax_array(like):  # under jit the array becomes a constant
        return xp.asarray(array)
    return xp.asarray(array, device=device(like))


def _conjugated(values: np.ndarray, inverse: bool) -> np.ndarray:
    return np.conj(values) if inverse else values


def _made(make: Callable[..., np.ndarray], arguments: tuple[Any, ...], dtype: str) -> np.ndarray:
    return make(*arguments).astype(dtype)


_small = lru_cache(maxsize=_KEPT_SMALL)(_made)
_large = lru_cache(maxsize=_KEPT_LARGE)(_made)


def kept(make: Callable[..., np.ndarray], arguments: tuple[Any, ...], dtype: str) -> np.ndarray:
    """Return a table as a NumPy array, from memory where it is there."""
    size = 1
    for argument in arguments:
        size *= argument if type(argument) is int else 1
    if make is dft_matrix:
        size *= size
    keep = _small if size <= _SMALL else _large if size <= _LARGE else _made
    return keep(make, arguments, dtype)


@lru_cache(maxsize=_KEPT_SMALL)
def _kept_on_device(
    make: Callable[..., np.ndarray], arguments: tuple[Any, ...], dtype: str, device: int
) -> Any:
    import cupy as cp

    with cp.cuda.Device(device):
        return cp.asarray(kept(make, arguments, dtype))
