"""CPU engine of products with matrices of Kronecker rows: BLAS on some rows at a time.

What a row makes on the way, n_2 ⋯ n_d values, is read again at once. So many rows are taken
together that it stays in the cache, and memory does not grow with the number of rows.
"""

from math import prod

import numpy as np

from .._threads import run_chunks
from . import _array_api_faces as reference
from ._modes import batch_shape, columns_of

_VALUES = 1 << 17  # on the way, of all rows of a chunk: 1 MB


def face_splitting_matvec(x, *factors):
    """Multiply, some rows at a time."""
    batch = batch_shape(factors, x.shape[:-1])
    bounds = _bounds(batch, factors)
    if len(bounds) == 2:
        return reference.face_splitting_matvec(x, *factors)
    y = np.empty((*batch, factors[0].shape[-2]), x.dtype)

    def multiply(start, stop):
        rows = [factor[..., start:stop, :] for factor in factors]
        y[..., start:stop] = reference.face_splitting_matvec(x, *rows)

    run_chunks(multiply, bounds, blas=True)
    return y


def face_splitting_rmatvec(y, *factors):
    """Multiply some rows at a time, and add up in their order."""
    batch = batch_shape(factors, y.shape[:-1])
    bounds = _bounds(batch, factors)
    if len(bounds) == 2:
        return reference.face_splitting_rmatvec(y, *factors)
    x = np.zeros((*batch, prod(columns_of(factors))), y.dtype)

    def multiply(start, stop):
        rows = [factor[..., start:stop, :] for factor in factors]
        return reference.face_splitting_rmatvec(y[..., start:stop], *rows)

    def add(_, part):
        np.add(x, part, out=x)

    run_chunks(multiply, bounds, blas=True, commit=add)
    return x


def _bounds(batch, factors):
    """Divide the rows evenly, by their number and not by that of the threads."""
    rows, each = factors[0].shape[-2], prod(batch) * prod(columns_of(factors)[1:])
    chunks = max(1, min(rows, -(-rows * each // _VALUES)))
    return [rows * k // chunks for k in range(chunks + 1)]
