"""What a CUDA device has."""

from functools import cache
from typing import NamedTuple


class Limits(NamedTuple):
    """Of a device."""

    processors: int
    shared_bytes: int  # that a block may take


def device() -> int:
    """Return the number of the current device."""
    from cupy.cuda import runtime

    return runtime.getDevice()


@cache
def limits(device: int) -> Limits:
    """Return the limits of a device."""
    import cupy as cp

    attributes = cp.cuda.Device(device).attributes
    return Limits(attributes["MultiProcessorCount"], attributes["MaxSharedMemoryPerBlockOptin"])
