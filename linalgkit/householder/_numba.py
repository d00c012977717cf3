"""CPU engine: the delta rule in register tiles."""

from math import ceil, prod

import numpy as np

from .._checks import kernel_array
from .._threads import chunk_bounds, run_chunks
from .._tiles import ROW, VECTOR
from . import _numba_delta as kernels
from ._numba_reflections import reflect  # noqa: F401

DTYPES = "efdFD"  # half precision is computed in float32

_CHUNK = 16  # rows of keys: more of them cost more in the triangular part
_SEGMENT = 8  # chunks between the states that the backward pass keeps
_HEADS = 4  # fewer are cut by columns, so that threads have work
_WORK = 4_000_000  # multiply-adds of a chunk of work: 0.05 ms


def delta_rule(q, k, v, beta, log_decay, initial_state, *, scale, reflections, chunk):
    """Run every head through its chunks, or every group of a head's columns."""
    dtype, batch = q.dtype, q.shape[:-2]
    arrays = _ready(q, k, v, beta, log_decay, initial_state)
    sizes = _sizes(arrays[0], arrays[2], reflections, chunk)
    output = np.empty((sizes.heads, sizes.length, sizes.values), arrays[0].dtype)
    state = _forward(sizes, scale, arrays, output, *_nothing(arrays[0].dtype))
    return (
        output.reshape(*batch, *output.shape[1:]).astype(dtype, copy=False),
        state.reshape(*batch, *state.shape[1:]),
    )


def delta_rule_vjp(
    cotangent, q, k, v, beta, log_decay, initial_state, *, scale, reflections, chunk, wrt
):
    """Run forwards for errors and some states, then backwards."""
    batch, (of_output, of_state) = q.shape[:-2], cotangent
    arrays = _ready(q, k, v, beta, log_decay, initial_state)
    wide, sizes = arrays[0].dtype, _sizes(arrays[0], arrays[2], reflections, chunk)
    heads, rows = arrays[3].shape
    segments = ceil(ceil(sizes.length / sizes.tokens) / sizes.segment)
    panel = ROW // wide.itemsize
    errors = np.empty((heads, rows, sizes.values), wide)
    states = np.empty((heads, segments, ceil(sizes.values / panel) * sizes.width, panel), wide)
    _forward(sizes, scale, arrays, _nothing(wide)[0], errors, states)
    q, k, v, beta, gates, _ = arrays
    of_output = _flat(of_output, wide, (heads, sizes.length, sizes.values))
    of_state = _flat(of_state, wide, (heads, sizes.width, sizes.values))
    of_v, of_initial = np.zeros(v.shape, wide), np.zeros(of_state.shape, wide)
    inputs = q, k, beta, *(() if gates is None else (gates,))
    parts = [np.zeros((sizes.groups, *x.shape), wide) for x in inputs]
    of_q, of_k, of_beta, of_gates = (*parts, None)[:4]
    if v.size and k.size:
        run_chunks(
            kernels.backward, _bounds(sizes, 3), np.empty(0, wide), sizes, wide.type(scale),
            q, k, beta, gates, of_output, of_state, errors, states,
            of_q, of_k, of_v, of_beta, of_gates, of_initial, scratch=_buffer(sizes, wide, True),
        )  # fmt: skip
    else:
        of_initial[...] = of_state
    parts = [x[0] if len(x) == 1 else x.sum(axis=0) for x in parts]
    of_q, of_k, of_beta, of_gates = (*parts, None)[:4]
    if gates is not None and log_decay.ndim == len(batch) + 1:
        of_gates = of_gates[..., 0]
    if initial_state is None:
        of_initial = None
    names = "q", "k", "v", "beta", "log_decay", "initial_state"
    gradients = of_q, of_k, of_v, of_beta, of_gates, of_initial
    return tuple(
        gradient.reshape(*batch, *gradient.shape[1:])
        if gradient is not None and name in wrt
        else None
        for name, gradient in zip(names, gradients, strict=True)
    )


def _forward(sizes, scale, arrays, output, errors, states):
    """Fill output, or errors and states; return the state at the end."""
    dtype, initial = arrays[0].dtype, arrays[-1]
    state = np.empty((sizes.heads, sizes.width, sizes.values), dtype)
    if state.size and sizes.length:
        run_chunks(
            kernels.forward, _bounds(sizes, 1), np.empty(0, dtype), sizes, dtype.type(scale),
            *arrays, output, errors, states, state, scratch=_buffer(sizes, dtype, False),
        )  # fmt: skip
    else:
        output[...] = 0
        state[...] = initial if len(initial) else 0
    return state


def _nothing(dtype):
    """Return arrays for errors and states that are not wanted."""
    return np.empty((0, 0, 0), dtype), np.empty((0, 0, 0, 0), dtype)


def _ready(q, k, v, beta, log_decay, initial_state):
    """Return arrays as kernels take them: one batch axis, contiguous, at least float32."""
    wide, heads = np.dtype(np.float32) if q.dtype.itemsize < 4 else q.dtype, prod(q.shape[:-2])
    *_, tokens, width = q.shape
    rows, values = v.shape[-2:]
    if log_decay is None:
        gates = None
    else:
        gates = np.exp(log_decay.astype(wide, copy=False))
        gates = _flat(gates, wide, (heads, tokens, width if log_decay.ndim == q.ndim else 1))
    if initial_state is None:
        initial = kernel_array(np.empty((0, width, values), wide))
    else:
        initial = _flat(initial_state, wide, (heads, width, values))
    return (
        _flat(q, wide, (heads, tokens, width)),
        _flat(k, wide, (heads, rows, width)),
        _flat(v, wide, (heads, rows, values)),
        _flat(beta, wide, (heads, rows)),
        gates,
        initial,
    )


def _flat(x, dtype, shape):
    return kernel_array(x.astype(dtype, copy=False).reshape(shape))


def _sizes(q, v, reflections, chunk):
    heads, length, width = q.shape
    values, panel = v.shape[-1], ROW // v.itemsize
    tokens = min(max(1, (chunk or _CHUNK) // reflections), max(length, 1))
    groups = min(ceil(values / panel), ceil(_HEADS / max(heads, 1))) or 1
    return kernels.Sizes(heads, length, tokens, reflections, width, values, groups, _SEGMENT)


def _bounds(sizes, passes):
    """Cut units of work, each a group of a head's columns."""
    products = 3 * passes * sizes.length * sizes.reflections * sizes.width * sizes.values
    work = max(1, products // sizes.groups)
    return chunk_bounds((sizes.heads * sizes.groups, work), minimum=_WORK)


def _buffer(sizes, dtype, is_backward):
    """Return what makes the buffer that a kernel takes its arrays from."""
    lanes, width = ROW // dtype.itemsize, sizes.width
    rows = sizes.tokens * sizes.reflections
    columns = kernels.stack_width.py_func(rows, sizes.tokens, lanes)
    across, narrow = ceil(width / lanes) * lanes, ceil(rows / lanes) * lanes
    panels = ceil(ceil(sizes.values / lanes) / sizes.groups)
    numbers = width * columns + 2 * rows * columns + (3 * columns + 2 * rows + 3) * across
    numbers += (rows + sizes.tokens + panels * width) * lanes
    if is_backward:
        numbers += rows * columns + (2 * columns + 2 * rows + narrow) * lanes
        numbers += width * (columns + narrow) + (columns + narrow) * across
        numbers += (sizes.segment + 1) * panels * width * lanes
    # Each array begins at a multiple of a panel row, the first at an aligned address.
    return lambda: np.empty(numbers + 32 * lanes + VECTOR // dtype.itemsize, dtype)
