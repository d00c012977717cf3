"""CPU engine: the delta rule in register tiles."""

from math import ceil, prod

import numpy as np

from .._checks import kernel_array
from .._threads import chunk_bounds, run_chunks
from .._tiles import ROW, VECTOR
from . import _numba_delta as kernels

DTYPES = "efdFD"  # half precision is computed in float32

_CHUNK = 16  # rows of keys: more of them cost more in the triangular part
_HEADS = 4  # fewer are cut by columns, so that threads have work
_WORK = 4_000_000  # multiply-adds of a chunk of work: 0.05 ms


def delta_rule(q, k, v, beta, log_decay, initial_state, *, scale, reflections, chunk):
    """Run every head through its chunks, or every group of a head's columns."""
    dtype, wide, batch = q.dtype, _wide(q.dtype), q.shape[:-2]
    q, k, v, beta, gates, initial = _ready(q, k, v, beta, log_decay, initial_state)
    sizes = _sizes(q, v, reflections, chunk)
    output = np.empty((sizes.heads, sizes.length, sizes.values), wide)
    state = np.empty((sizes.heads, sizes.width, sizes.values), wide)
    if state.size and sizes.length:
        units = sizes.heads * sizes.groups
        work = 3 * sizes.length * reflections * sizes.width * sizes.values // sizes.groups
        bounds = chunk_bounds((units, work), minimum=_WORK)
        like = np.empty(0, wide)
        arrays = q, k, v, beta, gates, initial, output, state
        scratch = _buffer(sizes, wide)
        run_chunks(kernels.forward, bounds, like, sizes, wide.type(scale), *arrays, scratch=scratch)
    else:
        output[...] = 0
        state[...] = initial if len(initial) else 0
    return (
        output.reshape(*batch, *output.shape[1:]).astype(dtype, copy=False),
        state.reshape(*batch, *state.shape[1:]),
    )


def _wide(dtype):
    return np.dtype(np.float32) if dtype.itemsize < 4 else dtype


def _ready(q, k, v, beta, log_decay, initial_state):
    """Return arrays as kernels take them: one batch axis, contiguous, at least float32."""
    wide, heads = _wide(q.dtype), prod(q.shape[:-2])

    def ready(x, *shape):
        return kernel_array(x.astype(wide, copy=False).reshape(heads, *shape))

    *_, tokens, width = q.shape
    rows, values = k.shape[-2], v.shape[-1]
    if log_decay is None:
        gates = kernel_array(np.empty((heads, tokens, 0), wide))
    else:
        gates = ready(log_decay, tokens, width if log_decay.ndim == q.ndim else 1)
    if initial_state is None:
        initial = kernel_array(np.empty((0, width, values), wide))
    else:
        initial = ready(initial_state, width, values)
    return (
        ready(q, tokens, width),
        ready(k, rows, width),
        ready(v, rows, values),
        ready(beta, rows),
        gates,
        initial,
    )


def _sizes(q, v, reflections, chunk):
    heads, length, width = q.shape
    values, panel = v.shape[-1], ROW // v.itemsize
    tokens = max(1, (chunk or _CHUNK) // reflections)
    groups = min(-(-values // panel), -(-_HEADS // max(heads, 1))) or 1
    return kernels.Sizes(
        heads, length, min(tokens, max(length, 1)), reflections, width, values, groups
    )


def _buffer(sizes, dtype):
    """Return what makes the buffer that `forward` takes its arrays from."""
    lanes = ROW // dtype.itemsize
    rows, tokens, width = sizes.tokens * sizes.reflections, sizes.tokens, sizes.width
    stack = kernels.stack_width.py_func(rows, tokens, lanes)
    panels = ceil(ceil(sizes.values / lanes) / sizes.groups)
    numbers = (width + rows) * stack + (2 * rows + tokens + 1) * width
    numbers += (rows + tokens + panels * width) * lanes
    return lambda: np.empty(numbers + 8 * lanes + VECTOR // dtype.itemsize, dtype)
