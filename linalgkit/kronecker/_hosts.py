"""Values on the host: what the solvers compute with, whatever library they came from."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from .. import _checks
from .._blas_limit import blas_limit


def to_host(array: Any) -> np.ndarray:
    """Return an array of any library as float64 on the host."""
    if hasattr(array, "detach"):  # torch
        array = array.detach().cpu()
    elif hasattr(array, "get"):  # CuPy
        array = array.get()
    return np.asarray(array, dtype=np.float64)


def are_well_conditioned(bases: Sequence[np.ndarray]) -> bool:
    """Tell whether eigenvectors are so far from parallel that solving in their basis is accurate.

    (The step of refinement that follows needs half of the digits.)
    """
    limit = 1e8 if np.finfo(bases[0].dtype).eps < 1e-10 else 1e3
    return all(np.all(np.linalg.cond(vectors) < limit) for vectors in bases if vectors.size)


def coordinates(x: Any, ndim: int) -> list[np.ndarray]:
    """Return coordinates on the host, one array an axis; a single array is that of one axis."""
    if ndim == 1 and not (isinstance(x, Sequence) and len(x) == 1 and np.ndim(x[0]) == 1):
        x = (x,)
    if not isinstance(x, list | tuple) or len(x) != ndim:
        got = f"{len(x)}" if isinstance(x, list | tuple) else type(x).__name__
        raise ValueError(f"x must have {ndim} arrays of coordinates; got {got}.")
    points = list(real_on_host(**{f"x[{axis}]": part for axis, part in enumerate(x)}))
    for axis, part in enumerate(points):
        if part.ndim != 1:
            raise ValueError(f"x[{axis}] must have one axis; got shape {part.shape}.")
    return points


def real_on_host(**named: Any) -> tuple[np.ndarray, ...]:
    """Return real arrays in float64 on the host."""
    _checks.present(**named)
    arrays = _checks.arrays(**named)
    _checks.real(**dict(zip(named, arrays, strict=True)))
    return tuple(map(to_host, arrays))


def like(values: Any, original: Any) -> Any:
    """Return values of the host in the library, on the device and in the dtype of an array."""
    xp = array_namespace(original)
    is_floating = xp.isdtype(original.dtype, "real floating")
    dtype = original.dtype if is_floating else None
    return xp.asarray(values, dtype=dtype, device=device(original))


@contextmanager
def one_blas_thread(wanted: bool = True) -> Iterator[None]:
    """Hold BLAS to one thread: waking others for matrices of a few dozen rows costs more."""
    holder = object()
    if wanted:
        blas_limit.hold(holder)
    try:
        with blas_limit.this_thread(wanted):
            yield
    finally:
        if wanted:
            blas_limit.release(holder)


def progress_bar(wanted: bool, total: int | None, unit: str) -> Any:
    """Return a bar of `total` steps, or of an unknown number; it shows nothing unless wanted."""
    from tqdm import tqdm

    return tqdm(total=total, unit=f" {unit}", disable=not wanted)
