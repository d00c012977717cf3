"""GPU engine of the delta rule for float16 and bfloat16: tensor cores (_halves.cuh).

Chunks of 64 tokens are prepared in parallel, and walks over them carry the state in registers. For
gradients the walks' errors and states are kept, and one more kernel takes the chunks in parallel.
"""

from functools import cache, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._cuda import Source
from ._devices import device as _device
from ._devices import limits as _limits

_ROWS = 64  # of a chunk
_BLOCK = 16  # columns of the state in a warp
_COLUMNS = 128  # of the values that are staged at a time
_WIDTHS = (64, 128)  # of keys; others are filled up with zeros
_SPLITS = (1, 4)  # warps that share a block of columns
_STAGES = 3  # chunks that a walk holds in shared memory
_SHARED = 224 << 10  # bytes of shared memory that blocks may take on the devices served
# What is prepared at a time takes this part of the memory of the arrays beside it, or so few bytes;
# for gradients, where to cut means to prepare and to walk once more, so many. Of 270 MB of arrays
# all takes 0.33 ms, in a tenth 0.46; of 540 MB 1.33 ms, in a quarter 1.41, in a tenth 1.49.
_SHARE, _LEAST, _MOST = 0.25, 1 << 28, 1 << 31
_PLANS = 128  # that are kept, the last ones used
_NUMBERS = {"float16": "linalgkit::Half", "bfloat16": "linalgkit::Bfloat"}


def _name(kernel, dtype, *sizes):
    numbers = ", ".join(map(str, sizes))
    return f"linalgkit::{kernel}<{_NUMBERS[dtype]}, {numbers}>"


def _source(file, *kernels):
    names = (
        _name(kernel, dtype, width, *rest)
        for dtype, width in zip(_NUMBERS, _WIDTHS, strict=True)
        for kernel, *rest in kernels
    )
    return Source(Path(__file__).with_name(file), tuple(names))


CHUNKS = _source("_half_chunks.cu", ("prepare",), ("gradients",))
WALKS = _source(
    "_half_walks.cu",
    *((f"walk_{way}", split) for way in ("forwards", "backwards") for split in _SPLITS),
)


def serves(q, v, log_decay, *, reflections, chunk):
    """Tell whether the kernels take these arrays."""
    width, values = q.shape[-1], v.shape[-1]
    return bool(
        q.dtype.name in _NUMBERS
        and reflections == 1
        and (chunk is None or chunk >= _ROWS)
        and (log_decay is None or log_decay.ndim < q.ndim)
        and width <= _WIDTHS[-1]
        and width % 8 == values % 8 == 0  # rows begin at multiples of 16 bytes
        and q.size
        and v.size
        and _limits(_device()).shared_bytes >= _SHARED
    )


def delta_rule(q, k, v, beta, log_decay, initial_state, *, scale):
    """Prepare the chunks of a segment, and walk over them."""
    import cupy as cp

    call = _Call.of(q, k, v, beta, log_decay, scale)
    output, state = cp.empty(v.shape, v.dtype), call.new_state()
    rows, start = output.reshape(call.v.shape), _state(initial_state)
    for heads, segments in call.plan.parts(backwards=False):
        part, at_end = call.of_heads(heads), state[heads]
        at_start = None if start is None else start[heads]
        for segment in segments:
            ready = part.prepare(segment, backwards=False)
            part.walk_forwards(segment, ready, at_start, at_end, output=rows[heads])
            at_start = at_end
            del ready  # the next segment takes its memory
    return output, state.reshape(*q.shape[:-2], *state.shape[1:])


def delta_rule_vjp(cotangent, q, k, v, beta, log_decay, initial_state, *, scale, wrt):
    """Walk forwards for errors and states, backwards for their cotangents, then take all chunks."""
    import cupy as cp

    call, start = _Call.of(q, k, v, beta, log_decay, scale), _state(initial_state)
    of_output = _rows(cotangent[0].astype(v.dtype, copy=False))
    of_end, of_start = _state(cotangent[1]), call.new_state()
    arrays = {"q": q, "k": k, "v": v, "beta": beta, "log_decay": log_decay}
    found = {name: None if x is None else cp.empty(x.shape, x.dtype) for name, x in arrays.items()}
    results = [
        None if x is None else x.reshape(like.shape)
        for x, like in zip(found.values(), call.arrays, strict=True)
    ]
    for heads, segments in call.plan.parts(backwards=True):
        part, starts = call.of_heads(heads), [None if start is None else start[heads]]
        for segment in segments[:-1]:
            at_end, ready = part.new_state(), part.prepare(segment, backwards=False)
            part.walk_forwards(segment, ready, starts[-1], at_end)
            starts.append(at_end)
            del ready
        held, gradients = of_end[heads], [None if x is None else x[heads] for x in results]
        for segment in reversed(segments):
            part.pull(segment, of_output[heads], starts.pop(), held, of_start[heads], gradients)
            held = of_start[heads]
    found["initial_state"] = None
    if initial_state is not None:
        found["initial_state"] = of_start.reshape(initial_state.shape)
    return tuple(x if name in wrt else None for name, x in found.items())


def _rows(array):
    """Return rows (heads, tokens, entries) that kernels can copy by 16 bytes."""
    import cupy as cp

    array = cp.ascontiguousarray(array.reshape(-1, *array.shape[-2:]))
    return array if array.data.ptr % 16 == 0 else array.copy()


def _state(state):
    """Return a state (heads, d_k, d_v) in float32."""
    import cupy as cp

    if state is None:
        return None
    return cp.ascontiguousarray(state.reshape(-1, *state.shape[-2:]), np.float32)


class _Prepared(NamedTuple):
    """Addresses of what is computed of a segment (see _halves.cuh), and the memory they are in.

    One piece of memory for all: each piece costs about as much time as the launch of a kernel.
    """

    memory: Any
    factors: int
    w: int
    u: int
    p: int
    x: int | None = None
    states: int | None = None
    ends: int | None = None


class _Call(NamedTuple):
    """Arrays of a call, with one batch axis."""

    plan: "_Plan"
    scale: Any
    wide: Any  # bits that tell which of betas and gates are float32
    q: Any
    k: Any
    v: Any
    beta: Any
    gates: Any

    @classmethod
    def of(cls, q, k, v, beta, log_decay, scale):
        import cupy as cp

        q, k, v = map(_rows, (q, k, v))
        beta, gates = (
            None if x is None else cp.ascontiguousarray(x.reshape(-1, x.shape[-1]))
            for x in (beta, log_decay)
        )
        plan = _Plan.of(_device(), q.dtype.name, *q.shape, v.shape[-1])
        is_wide = beta.itemsize > q.itemsize, gates is not None and gates.itemsize > q.itemsize
        wide = np.int32(is_wide[0] + 2 * is_wide[1])
        return cls(plan, np.float32(scale), wide, q, k, v, beta, gates)

    @property
    def arrays(self):
        return self[3:]

    def of_heads(self, heads):
        """Return the part of some heads."""
        if heads == slice(0, self.plan.heads):
            return self
        plan = self.plan.of_heads(heads.stop - heads.start)
        arrays = (None if x is None else x[heads] for x in self.arrays)
        return _Call(plan, self.scale, self.wide, *arrays)

    def new_state(self):
        import cupy as cp

        return cp.empty((self.plan.heads, self.q.shape[-1], self.v.shape[-1]), np.float32)

    def prepare(self, segment, *, backwards):
        """Fill what walks multiply by; with room for more where gradients ask for it."""
        import cupy as cp

        size, offsets = self.plan.memory(segment, backwards)
        memory = cp.empty(size, np.uint8)
        ready = _Prepared(memory, *[memory.data.ptr + offset for offset in offsets])
        results = ready.w, ready.u, ready.p, ready.x, ready.factors
        self._launch("prepare", segment, (self.wide, *self.arrays, *results))
        return ready

    def walk_forwards(self, segment, ready, start, end, *, output=None, errors=None):
        """Fill the state at the end, and what is wanted of output, errors and states."""
        arrays = ready.w, ready.u, ready.p, self.q, self.k, ready.factors, start
        arrays = (*arrays, output, errors, ready.states, end)
        self._launch("walk_forwards", segment, arrays)

    def pull(self, segment, of_output, start, of_end, of_start, gradients):
        """Fill the cotangent of the state at the start, and the gradients of a segment's rows."""
        import cupy as cp

        ready = self.prepare(segment, backwards=True)
        errors, of_writes = cp.empty((2, *self.v.shape), self.v.dtype)
        self.walk_forwards(segment, ready, start, None, errors=errors)
        arrays = ready.w, ready.p, self.q, self.k, ready.factors, of_output
        arrays = (*arrays, of_end, of_writes, ready.ends, of_start)
        self._launch("walk_backwards", segment, arrays)
        items = self.wide, self.q, self.k, ready.x, self.beta, self.gates, of_output
        items = (*items, errors, of_writes, ready.states, ready.ends)
        self._launch("gradients", segment, (*items, *gradients))

    def _launch(self, name, segment, arrays):
        kernel, blocks, threads, shared, numbers = self.plan.launch(name, segment)
        arrays = [0 if x is None else x for x in arrays]
        kernel(blocks, threads, (*numbers, self.scale, *arrays), shared_mem=shared)


class _Plan:
    """What calls of the same sizes share: how they are cut, where things are, how to launch.

    Calls take less time than Python takes to work these out, so plans are kept.
    """

    def __init__(self, device, dtype, heads, length, width, values):
        self._sizes = device, dtype, heads, length, width, values
        self.heads = heads
        self._keys = next(known for known in _WIDTHS if width <= known)  # zeros fill a key up
        self._tiles = -(-values // _BLOCK)
        # Wide blocks read what heads share once; with few heads, warps share a block of columns.
        enough = 0.9 * _limits(device).processors
        self._teams, self._split = next(
            (
                (teams, 1)
                for teams in (8, 4)
                if teams <= self._tiles and heads * -(-self._tiles // teams) >= enough
            ),
            (1, _SPLITS[-1]),
        )
        self.memory, self.launch = cache(self._memory), cache(self._launch)
        self.parts = cache(self._parts)

    @staticmethod
    @lru_cache(_PLANS)
    def of(*sizes):
        return _Plan(*sizes)

    def of_heads(self, heads):
        """Return the plan of fewer heads."""
        device, dtype, _, *rest = self._sizes
        return _Plan.of(device, dtype, heads, *rest)

    def _parts(self, backwards):
        """Cut heads, and chunks to segments of about one size, so that what is prepared fits."""
        _, _, _, length, width, values = self._sizes
        chunks = -(-length // _ROWS)
        one, _ = self.of_heads(1).memory(range(1), backwards)
        arrays = self.heads * length * 2 * (2 * width + 2 * values)
        fits = max(1, (_MOST if backwards else max(_LEAST, int(_SHARE * arrays))) // one)
        heads = min(self.heads, fits)
        most = max(1, fits // heads)
        size = -(-chunks // -(-chunks // most))
        segments = [range(k, min(k + size, chunks)) for k in range(0, chunks, size)]
        return [
            (slice(k, min(k + heads, self.heads)), segments) for k in range(0, self.heads, heads)
        ]

    def _memory(self, segment, backwards):
        """Return the bytes of what is computed of a segment, and where its arrays begin."""
        columns, row = self._tiles * _BLOCK, 2 * _ROWS
        sizes = [4 * 3 * _ROWS, row * self._keys, row * columns, row * _ROWS]
        if backwards:
            sizes += [row * _ROWS, *[2 * columns * self._keys] * 2]
        *begins, end = accumulate((x * self.heads * len(segment) for x in sizes), initial=0)
        return end, begins

    def _launch(self, name, segment):
        """Return a kernel, its blocks, threads and shared memory, and its first arguments."""
        _, dtype, heads, length, width, values = self._sizes
        variant, blocks = (), heads * len(segment)
        key_tile, square = 2 * _ROWS * self._keys, 2 * _ROWS * _ROWS
        if name == "prepare":
            threads = 128
            triangle = 4 * _ROWS * _ROWS  # takes the place of queries
            shared = key_tile + max(key_tile, triangle) + 2 * _ROWS * _COLUMNS + square
            shared += 4 * _ROWS * (_ROWS + 4) + 4 * 2 * _ROWS + 8 * _ROWS
        elif name == "gradients":
            threads = 256
            shared = 2 * key_tile + 3 * square + 2 * (2 * key_tile + 3 * square)
            shared += 4 * (4 * _ROWS + 8) + 8 * _ROWS
        else:
            teams, split = self._teams, self._split
            variant, blocks = (split,), heads * -(-self._tiles // teams)
            threads, shared = 32 * teams, 3 * key_tile + square + 4 * 3 * _ROWS
            factors = self._keys // 16 + 8  # that a team of warps exchanges
            if name == "walk_backwards":
                shared += 2 * _ROWS * (64 if split > 1 else _COLUMNS)
                factors -= 4
            shared *= _STAGES
            if split > 1:  # as many warps read out beside them, and as many bring the next chunk
                threads *= 3 * split
                shared += teams * factors * 32 * 16
        source = WALKS if name.startswith("walk") else CHUNKS
        kernel = source.with_shared(_name(name, dtype, self._keys, *variant), shared)
        numbers = len(segment), segment.start, length, width, values
        return kernel, (blocks,), (threads,), shared, tuple(map(np.int32, numbers))
