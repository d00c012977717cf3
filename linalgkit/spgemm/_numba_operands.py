"""What every CPU kernel of the room is given: operands checked, read-only, seen as unsigned."""

from typing import NamedTuple

import numpy as np

from .. import _threads
from .._checks import kernel_array
from . import _numba_rows as _kernels
from ._csr import check_csr, fits_int32

# Entries to look at, below which a second thread does not pay.
SMALL = 65_536
# Of both versions of control groups: the limit, what is used of it, and what that is made of.
_CGROUPS = [
    [f"/sys/fs/cgroup/memory.{part}" for part in ("max", "current", "stat")],
    [
        f"/sys/fs/cgroup/memory/memory.{part}"
        for part in ("limit_in_bytes", "usage_in_bytes", "stat")
    ],
]


def operand(name, data, indices, indptr, columns, index, line="row"):
    """Return a triple as kernels take it: read-only, indices of one width, seen as unsigned.

    As unsigned, a negative index is a large one: a single comparison finds both.
    """
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu" or data.size != indices.size:
        check_csr(name, data, indices, indptr, columns, line)
    unsigned = np.uint32 if index is np.int32 else np.uint64
    return (
        kernel_array(data),
        kernel_array(indices.astype(index, copy=False).view(unsigned)),
        kernel_array(indptr.astype(index, copy=False).view(unsigned)),
    )


class Facts(NamedTuple):
    """What one pass over an operand's index arrays finds."""

    longest: int  # row
    ascends: bool  # strictly, in every row


def facts(name, data, indices, indptr, columns, line="row"):
    """Look through an operand's index arrays; raise if they are not CSR."""
    rows = indptr.size - 1
    bounds = _threads.chunk_bounds((rows, indices.size // indptr.size), minimum=4 * SMALL)
    found = []

    def commit(chunk, of_chunk):
        found.append(of_chunk)

    _threads.run_chunks(_kernels.scan, bounds, indices, indptr, columns, commit=commit)
    sounds, longest, falls = zip(*found, strict=True)
    if indptr[0] != 0 or not all(sounds):
        signed = f"i{indptr.itemsize}"
        check_csr(name, data, indices.view(signed), indptr.view(signed), columns, line)
        raise AssertionError("unreachable: the check raises")
    return Facts(max(longest), sum(falls) == 0)


def narrowed(columns, *arrays):
    """Return checked index arrays in 32 bits where they fit: half the bytes of B's rows."""
    if arrays[0].itemsize == 4 or not fits_int32(columns, *(array.size for array in arrays)):
        return arrays
    copies = {}
    for array in arrays:  # a matrix times itself is copied once
        place = array.ctypes.data, array.size
        if place not in copies:
            copies[place] = _in_32_bits(array)
    return tuple(copies[array.ctypes.data, array.size] for array in arrays)


def _in_32_bits(array):
    copy = np.empty(array.size, dtype=np.uint32)

    def kernel(start, stop):
        np.copyto(copy[start:stop], array[start:stop], casting="unsafe")

    _threads.run_chunks(kernel, _threads.chunk_bounds((array.size, 1), minimum=4 * SMALL))
    return kernel_array(copy)


def running_products(a, b):
    """Running sums of the rows' products; the most in a row, and in one of its rows of B."""
    rows = a[2].size - 1
    bounds = _threads.chunk_bounds((rows, a[1].size // max(1, rows)), minimum=2 * SMALL)
    ends = np.empty(rows + 1, dtype=np.int64)
    ends[0] = 0

    found = []

    def commit(chunk, most):  # sums run within a chunk: carry on where the one before ended
        start, stop = bounds[chunk], bounds[chunk + 1]
        if start:
            ends[start + 1 : stop + 1] += ends[start]
        found.append(most)

    _threads.run_chunks(_kernels.sum_products, bounds, a[1], a[2], b[2], ends, commit=commit)
    return ends, *np.max(found, axis=0).tolist()


def available_memory():
    """Bytes that the machine, or the container, could give now; 4 GiB where neither tells."""
    found = [_of_the_machine(), *(_of_a_container(*paths) for paths in _CGROUPS)]
    return min((size for size in found if size is not None), default=4 << 30)


def _of_the_machine():
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _of_a_container(limit, used, made_of):
    """Bytes up to a container's limit, with the cached files that would make room; else None."""
    try:
        sizes = []
        for path in (limit, used):
            with open(path) as file:
                sizes.append(int(file.read()))  # a ValueError where there is no limit: "max"
        with open(made_of) as file:
            parts = dict(line.split() for line in file)
    except (OSError, ValueError):
        return None
    cached = parts.get("total_inactive_file", parts.get("inactive_file", 0))
    return max(0, sizes[0] - sizes[1] + int(cached))


def has_room(size):
    """Tell whether so many bytes could be had now."""
    return size <= available_memory()
