"""CPU engine: the delta rule in register tiles."""

from math import ceil, prod
from typing import Any, NamedTuple

import numpy as np

from .._checks import kernel_array
from .._threads import chunk_bounds, run_chunks
from .._tiles import ROW, VECTOR
from . import _numba_decays as decays
from . import _numba_delta as kernels
from ._numba_reflections import reflect  # noqa: F401

DTYPES = "efdFD"  # half precision is computed in float32

_CHUNK = 16  # rows of keys: more of them cost more in the triangular part
_SEGMENT = 8  # chunks between the states that the backward pass keeps
_HEADS = 4  # fewer are cut by columns, so that threads have work
_WORK = 4_000_000  # multiply-adds of a chunk of work: 0.05 ms
_LIKE = {np.dtype(c): np.empty(0, c) for c in "fd"}  # arrays that tell a kernel the dtype


class _Rows(NamedTuple):
    """What goes into a call as kernels take it: one batch axis, contiguous, at least float32."""

    q: Any
    k: Any
    v: Any
    beta: Any
    gates: Any  # factors (heads, length, 1 or width), or None
    initial: Any


class _Decays(NamedTuple):
    """The decays of tokens, and keys and queries with them."""

    numbers: Any  # what kernels have to know: `Chunks` and `Decays`
    gates: Any
    since: Any
    until: Any
    left: Any
    early_k: Any
    early_q: Any
    late_k: Any


def delta_rule(q, k, v, beta, log_decay, initial_state, *, scale, reflections, chunk):
    """Run every head through its chunks, or every group of a head's columns."""
    dtype, batch = q.dtype, q.shape[:-2]
    rows = _ready(q, k, v, beta, log_decay, initial_state)
    if rows.gates is not None:
        rows = _whole(rows)
    sizes = _sizes(rows, reflections, chunk)
    output = np.empty((sizes.heads, sizes.length, sizes.values), rows.q.dtype)
    state = np.empty((sizes.heads, sizes.width, sizes.values), rows.q.dtype)
    if state.size and sizes.length:
        scores, decayed = _prepared(sizes, rows)
        _forward(sizes, scale, rows, scores, decayed, state, output=output)
    else:
        output[...] = 0
        state[...] = 0 if rows.initial is None else rows.initial
    return (
        output.reshape(*batch, *output.shape[1:]).astype(dtype, copy=False),
        state[:, : q.shape[-1]].reshape(*batch, q.shape[-1], sizes.values),
    )


def delta_rule_vjp(
    cotangent, q, k, v, beta, log_decay, initial_state, *, scale, reflections, chunk, wrt
):
    """Run forwards for errors and some states, then backwards."""
    batch, (of_output, of_state) = q.shape[:-2], cotangent
    rows = _ready(q, k, v, beta, log_decay, initial_state)
    wide, lanes = rows.q.dtype, ROW // rows.q.itemsize
    width, values = rows.q.shape[-1], rows.v.shape[-1]
    rows = _whole(rows)
    sizes = _sizes(rows, reflections, chunk)
    of_output = _flat(of_output, wide, (sizes.heads, sizes.length, values))
    of_state = _flat(of_state, wide, (sizes.heads, width, values))
    if rows.k.size and values:
        found = _pulled(sizes, scale, rows, of_output, _padded(of_state, lanes, axis=1))
    else:
        gates = None if rows.gates is None else np.zeros(rows.gates.shape, wide)
        found = [np.zeros(x.shape, wide) for x in rows[:4]] + [gates, of_state]
    of_q, of_k, of_v, of_beta, of_gates, of_initial = found
    if of_gates is not None:
        is_scalar = log_decay.ndim == len(batch) + 1
        of_gates = of_gates[..., 0] if is_scalar else of_gates[..., :width]
    of_initial = None if initial_state is None else of_initial[:, :width]
    names = "q", "k", "v", "beta", "log_decay", "initial_state"
    gradients = of_q[..., :width], of_k[..., :width], of_v, of_beta, of_gates, of_initial
    return tuple(
        gradient.reshape(*batch, *gradient.shape[1:])
        if gradient is not None and name in wrt
        else None
        for name, gradient in zip(names, gradients, strict=True)
    )


def _pulled(sizes, scale, rows, of_output, of_state):
    """Return the gradients of rows, decays and state, keys and queries in whole panel rows."""
    wide, lanes = rows.q.dtype, ROW // rows.q.itemsize
    scores, decayed = _prepared(sizes, rows)
    errors = np.empty((*rows.beta.shape, sizes.panels * lanes), wide)
    states = np.empty((sizes.heads, sizes.segments, sizes.panels, sizes.width, lanes), wide)
    of_initial = np.empty(of_state.shape, wide)
    at = _forward(sizes, scale, rows, scores, decayed, of_initial, errors=errors, states=states)
    of_output, of_v = _padded(of_output, lanes), np.empty(errors.shape, wide)
    kinds = rows.k, rows.q, rows.beta, scores
    if decayed is not None:
        kinds += decayed.late_k, decayed.left
    # The gradients of decays and strengths add up in the kernel.
    parts = [np.zeros((sizes.groups, *x.shape), wide) for x in kinds]
    of_k, of_q, of_beta, of_scores, of_late, of_left = (*map(_address, parts), 0, 0)[:6]
    of = kernels.Gradients(
        _address(of_output), _address(of_state), of_k, of_q, of_late, of_left, of_beta, of_scores,
        _address(of_v), _address(of_initial),
    )  # fmt: skip
    run_chunks(
        kernels.backward, _bounds(sizes, 3), _LIKE[wide], np.array([*sizes, *at, *of]),
        wide.type(scale), scratch=_buffer(wide, _numbers_to_pull(sizes, lanes)),
    )  # fmt: skip
    parts = [x[0] if len(x) == 1 else x.sum(axis=0) for x in parts]
    of_v = of_v[..., : sizes.values]
    if decayed is None:
        of_k, of_q, of_beta, of_scores = parts
        _mix(sizes, rows, of_scores, of_k, of_k, of_q)
        return of_q, of_k, of_v, of_beta, None, of_initial
    of_k, of_q, of_beta, of_scores, of_late, of_left = parts
    n, entries = sizes.reflections, rows.gates.shape[-1]
    starts = np.arange(0, len(rows.k[0]), sizes.rows)
    of_left = decayed.left * of_left
    of_left += np.add.reduceat(decayed.late_k * of_late, starts, axis=1)
    since, until = decayed.since[..., :entries], decayed.until[..., :entries]
    of_k *= np.repeat(since, n, axis=1)
    of_late *= np.repeat(until, n, axis=1)
    of_q *= since
    like, numbers = _LIKE[wide], decayed.numbers
    gates, k, q = map(_address, (decayed.gates, rows.k, rows.q))
    pulled = tuple(map(_address, (of_k, of_late, of_q)))
    ones = _filled(wide, 3 * sizes.width)
    if entries == 1:
        _decay_scores(sizes, decayed, of_scores)
        _mix(sizes, rows, of_scores, of_k, of_late, of_q)
    else:
        work = 4 * sizes.columns * sizes.rows * sizes.width
        run_chunks(
            decays.mix_by_columns, _chunk_bounds(sizes, work), like, numbers, gates, k, q,
            _address(of_scores), *pulled, scratch=ones,
        )  # fmt: skip
    of_gates = np.empty(rows.gates.shape, wide)
    run_chunks(
        decays.pull_gates, _chunk_bounds(sizes, sizes.rows * sizes.width), like, numbers, k, q,
        *pulled, _address(of_left), _address(of_gates), scratch=ones,
    )  # fmt: skip
    return of_q, of_k + of_late, of_v, of_beta, of_gates, of_initial


def _prepared(sizes, rows):
    """Return the scores of all chunks, and the decays if there are gates."""
    wide, gates = rows.q.dtype, rows.gates
    scores = np.empty((sizes.heads, sizes.chunks, sizes.rows, sizes.columns), wide)
    work = sizes.columns * sizes.rows * sizes.width
    if gates is None or gates.shape[-1] == 1:
        run_chunks(
            kernels.score, _chunk_bounds(sizes, work), _LIKE[wide], np.array(sizes),
            _address(rows.k), _address(rows.q), _address(scores),
            scratch=_buffer(wide, sizes.width * sizes.columns),
        )  # fmt: skip
    if gates is None:
        return scores, None
    like, entries = _LIKE[wide], gates.shape[-1]
    if entries == 1:
        gates = np.repeat(gates, ROW // wide.itemsize, axis=-1)
    since, until = np.empty(gates.shape, wide), np.ones(gates.shape, wide)
    left = np.empty((sizes.heads, sizes.chunks, sizes.width), wide)
    early_k, early_q, late_k = (np.empty(x.shape, wide) for x in (rows.k, rows.q, rows.k))
    chunks = [getattr(sizes, name) for name in decays.Chunks._fields[:-1]]
    arrays = gates, since, until, left, rows.k, rows.q, early_k, early_q, late_k
    numbers = np.array([*chunks, entries, *map(_address, arrays)])
    decayed = _Decays(numbers, gates, since, until, left, early_k, early_q, late_k)
    bounds = _chunk_bounds(sizes, sizes.rows * sizes.width)
    run_chunks(decays.decay, bounds, like, numbers)
    if entries == 1:
        _decay_scores(sizes, decayed, scores)
    else:
        run_chunks(
            decays.score_by_columns, _chunk_bounds(sizes, 4 * work), like, numbers,
            *map(_address, (gates, rows.k, rows.q, scores)), scratch=_buffer(wide, sizes.width),
        )  # fmt: skip
    return scores, decayed


def _decay_scores(sizes, decayed, scores):
    run_chunks(
        decays.decay_scores, _chunk_bounds(sizes, sizes.columns * sizes.rows), _LIKE[scores.dtype],
        decayed.numbers, _address(decayed.gates), _address(scores),
        scratch=_buffer(scores.dtype, sizes.columns),
    )  # fmt: skip


def _forward(sizes, scale, rows, scores, decayed, state, *, output=None, errors=None, states=None):
    """Fill the state at the end and the output, or errors and states; return what went in."""
    wide = rows.q.dtype
    arrays = (rows.k, rows.q, rows.k, None)
    if decayed is not None:
        arrays = decayed.early_k, decayed.early_q, decayed.late_k, decayed.left
    arrays += rows.beta, scores, errors, states, rows.v, rows.initial, output, state
    at = kernels.Arrays(*(0 if x is None else _address(x) for x in arrays))
    numbers = 2 * sizes.rows + sizes.tokens + _group(sizes) * sizes.width
    run_chunks(
        kernels.forward, _bounds(sizes, 1), _LIKE[wide], np.array([*sizes, *at]), wide.type(scale),
        scratch=_buffer(wide, numbers * ROW // wide.itemsize),
    )  # fmt: skip
    return at


def _mix(sizes, rows, of_scores, of_readers, of_writers, of_queries):
    arrays = rows.k, rows.q, of_scores, of_readers, of_writers, of_queries
    bounds = _chunk_bounds(sizes, 2 * sizes.columns * sizes.rows * sizes.width)
    like, numbers = _LIKE[rows.k.dtype], np.array(sizes)
    run_chunks(kernels.mix, bounds, like, numbers, *map(_address, arrays))


def _address(array):
    """Return where an array begins, in a third of the time of ``array.ctypes.data``."""
    return array.__array_interface__["data"][0]


def _ready(q, k, v, beta, log_decay, initial_state):
    wide, heads = np.dtype(np.float32) if q.dtype.itemsize < 4 else q.dtype, prod(q.shape[:-2])
    *_, tokens, width = q.shape
    rows, values = v.shape[-2:]
    gates = initial = None
    if log_decay is not None:
        gates = np.exp(log_decay.astype(wide, copy=False))
        gates = _flat(gates, wide, (heads, tokens, width if log_decay.ndim == q.ndim else 1))
    if initial_state is not None:
        initial = _flat(initial_state, wide, (heads, width, values))
    return _Rows(
        _flat(q, wide, (heads, tokens, width)),
        _flat(k, wide, (heads, rows, width)),
        _flat(v, wide, (heads, rows, values)),
        _flat(beta, wide, (heads, rows)),
        gates,
        initial,
    )


def _flat(x, dtype, shape):
    return kernel_array(x.astype(dtype, copy=False).reshape(shape))


def _whole(rows):
    """Return keys and queries, and what has their width, in whole panel rows."""
    lanes = ROW // rows.q.itemsize
    rows = rows._replace(q=_padded(rows.q, lanes), k=_padded(rows.k, lanes))
    if rows.initial is not None:
        rows = rows._replace(initial=_padded(rows.initial, lanes, axis=1))
    if rows.gates is not None and rows.gates.shape[-1] > 1:
        rows = rows._replace(gates=_padded(rows.gates, lanes))
    return rows


def _padded(x, lanes, axis=-1):
    """Return rows with zeros up to whole panel rows."""
    more = -x.shape[axis] % lanes
    if not more:
        return x
    places = [(0, 0)] * x.ndim
    places[axis] = 0, more
    return kernel_array(np.pad(x, places))


def _sizes(rows, reflections, chunk):
    heads, length, width = rows.q.shape
    values, lanes = rows.v.shape[-1], ROW // rows.v.itemsize
    tokens = min(max(1, (chunk or _CHUNK) // reflections), max(length, 1))
    panels, chunks = ceil(values / lanes), ceil(length / tokens)
    reads = ceil(tokens * reflections / lanes) * lanes
    columns = reads + ceil(tokens / lanes) * lanes
    groups = min(panels, ceil(_HEADS / max(heads, 1))) or 1
    return kernels.Sizes(
        heads, length, tokens, chunks, reflections, tokens * reflections, reads, columns, width,
        values, panels, groups, _SEGMENT, ceil(chunks / _SEGMENT),
    )  # fmt: skip


def _group(sizes):
    """Return the most panels of a group."""
    return ceil(sizes.panels / sizes.groups)


def _numbers_to_pull(sizes, lanes):
    """Count the numbers that the backward kernel keeps in its buffer."""
    numbers = sizes.columns * (3 * sizes.width + 4 * lanes)
    numbers += (sizes.rows + sizes.reads) * lanes
    return numbers + (sizes.segment + 1) * _group(sizes) * sizes.width * lanes


def _bounds(sizes, passes):
    """Cut units of work, each a group of a head's columns."""
    products = 3 * passes * sizes.length * sizes.reflections * sizes.width * sizes.values
    work = max(1, products // sizes.groups)
    return chunk_bounds((sizes.heads * sizes.groups, work), minimum=_WORK)


def _chunk_bounds(sizes, work):
    """Cut the chunks of all heads, each of some work."""
    return chunk_bounds((sizes.heads * sizes.chunks, max(1, work)), minimum=_WORK)


def _buffer(dtype, numbers):
    """Return what makes the buffer that a kernel takes its arrays from, the first one aligned."""
    return lambda: np.empty(numbers + VECTOR // dtype.itemsize, dtype)


def _filled(dtype, numbers):
    """Return what makes such a buffer, of ones."""
    return lambda: np.ones(numbers + VECTOR // dtype.itemsize, dtype)
