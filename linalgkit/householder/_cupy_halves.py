"""GPU engine of the delta rule for float16 and bfloat16: tensor cores (_halves.cu).

Chunks of 64 tokens are prepared in parallel, and walks over them carry the state in registers. For
gradients the walks' errors and states are kept, and one more kernel takes the chunks in parallel.
"""

from functools import cache
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
_WORKSPACE = 1 << 31  # bytes of what is prepared at a time, unless one chunk of a head takes more
_NUMBERS = {"float16": "linalgkit::Half", "bfloat16": "linalgkit::Bfloat"}


def _name(kernel, dtype, *sizes):
    numbers = ", ".join(map(str, sizes))
    return f"linalgkit::{kernel}<{_NUMBERS[dtype]}, {numbers}>"


KERNELS = Source(
    Path(__file__).with_name("_halves.cu"),
    tuple(
        _name(kernel, dtype, width, *rest)
        for dtype in _NUMBERS
        for width in _WIDTHS
        for kernel, *rest in (
            ("prepare",),
            ("gradients",),
            *((f"walk_{way}", split) for way in ("forwards", "backwards") for split in _SPLITS),
        )
    ),
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
    for heads, segments in call.parts(backwards=False):
        part, at_end = call.of_heads(heads), state[heads]
        at_start = None if start is None else start[heads]
        for segment in segments:
            part.walk_forwards(segment, part.prepare(segment), at_start, at_end, output=rows[heads])
            at_start = at_end
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
    for heads, segments in call.parts(backwards=True):
        part, starts = call.of_heads(heads), [None if start is None else start[heads]]
        for segment in segments[:-1]:
            at_end = part.new_state()
            part.walk_forwards(segment, part.prepare(segment), starts[-1], at_end)
            starts.append(at_end)
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
    """Addresses of what walks multiply by (see _halves.cu), and the memory that they are in.

    One piece of memory for all: each piece costs about as much time as the launch of a kernel.
    """

    w: int
    u: int
    p: int
    x: int | None
    factors: int
    memory: Any


class _Call(NamedTuple):
    """Arrays of a call, with one batch axis."""

    q: Any
    k: Any
    v: Any
    beta: Any
    gates: Any
    scale: float

    @classmethod
    def of(cls, q, k, v, beta, log_decay, scale):
        import cupy as cp

        numbers = (
            None if x is None else cp.ascontiguousarray(x.reshape(-1, x.shape[-1]))
            for x in (beta, log_decay)
        )
        return cls(*map(_rows, (q, k, v)), *numbers, scale)

    @property
    def arrays(self):
        return self[:-1]

    @property
    def heads(self):
        return self.q.shape[0]

    @property
    def wide(self):
        """Bits that tell which of betas and gates are float32."""
        half = self.q.dtype
        is_wide = self.beta.dtype != half, self.gates is not None and self.gates.dtype != half
        return np.int32(is_wide[0] + 2 * is_wide[1])

    @property
    def keys(self):
        """Entries of a key with the zeros that fill it up."""
        return next(width for width in _WIDTHS if self.q.shape[-1] <= width)

    @property
    def tiles(self):
        return -(-self.v.shape[-1] // _BLOCK)

    def of_heads(self, heads):
        """Return the part of some heads."""
        if heads == slice(0, self.heads):
            return self
        return _Call(*(None if x is None else x[heads] for x in self.arrays), self.scale)

    def new_state(self):
        import cupy as cp

        return cp.empty((self.heads, self.q.shape[-1], self.v.shape[-1]), np.float32)

    def parts(self, *, backwards):
        """Cut heads, and chunks to segments, so that what is prepared fits the workspace."""
        chunks = -(-self.q.shape[1] // _ROWS)
        each = self.keys + self.tiles * _BLOCK + _ROWS
        if backwards:
            each += _ROWS + 2 * self.v.shape[-1] + 2 * self.keys * self.tiles * _BLOCK // _ROWS
        fits = max(1, _WORKSPACE // (2 * _ROWS * each))
        heads = min(self.heads, fits)
        size = max(1, fits // heads)
        segments = [range(k, min(k + size, chunks)) for k in range(0, chunks, size)]
        return [
            (slice(k, min(k + heads, self.heads)), segments) for k in range(0, self.heads, heads)
        ]

    def prepare(self, segment, *, backwards=False):
        """Fill what walks multiply by; X where gradients ask for it."""
        import cupy as cp

        blocks, row = len(segment) * self.heads, 2 * _ROWS
        sizes = row * self.keys, row * self.tiles * _BLOCK, row * _ROWS, row * _ROWS * backwards
        begins = [0, *accumulate(blocks * size for size in sizes)]
        memory = cp.empty(begins[-1] + blocks * 4 * 3 * _ROWS, np.uint8)
        ready = _Prepared(*(memory.data.ptr + begin for begin in begins), memory)
        if not backwards:
            ready = ready._replace(x=None)
        triangle = 4 * _ROWS * _ROWS  # takes the place of queries
        tiles = 2 * _ROWS * (self.keys + _COLUMNS + _ROWS) + max(triangle, 2 * _ROWS * self.keys)
        shared = tiles + 4 * _ROWS * (_ROWS + 4) + 4 * 2 * _ROWS + 8 * _ROWS
        self._launch(
            "prepare", (), blocks, 128, shared, segment, (self.wide, *self.arrays, *ready[:-1])
        )
        return ready

    def walk_forwards(self, segment, ready, start, end, *, output=None, errors=None, states=None):
        """Fill the state at the end, and what is wanted of output, errors and states."""
        arrays = ready.w, ready.u, ready.p, self.q, self.k, ready.factors, start
        arrays = (*arrays, output, errors, states, end)
        self._walk("walk_forwards", 8, 0, segment, arrays)

    def pull(self, segment, of_output, start, of_end, of_start, gradients):
        """Fill the cotangent of the state at the start, and the gradients of a segment's rows."""
        import cupy as cp

        ready, dtype = self.prepare(segment, backwards=True), self.q.dtype
        shape = self.heads, len(segment), self.tiles * _BLOCK, self.keys
        states, ends = cp.empty(shape, dtype), cp.empty(shape, dtype)
        errors, of_writes = cp.empty_like(self.v), cp.empty_like(self.v)
        end = self.new_state()
        self.walk_forwards(segment, ready, start, end, errors=errors, states=states)
        arrays = ready.w, ready.p, self.q, self.k, ready.factors, of_output
        arrays = (*arrays, of_end, of_writes, ends, of_start)
        self._walk("walk_backwards", 4, 2 * _ROWS, segment, arrays)
        items = self.wide, self.q, self.k, ready.x, self.beta, self.gates
        items = (*items, of_output, errors, of_writes, states, ends, *gradients)
        key_tile, square = 2 * _ROWS * self.keys, 2 * _ROWS * _ROWS
        shared = 2 * key_tile + 3 * square + 2 * (2 * key_tile + 3 * square)
        shared += 4 * (4 * _ROWS + 8) + 8 * _ROWS
        self._launch("gradients", (), shape[0] * shape[1], 256, shared, segment, items)

    def _walk(self, name, exchanged, more, segment, arrays):
        """Launch a walk: `exchanged` factors of a team, and `more` bytes a column, are its own.

        Where warps share columns, as many read out beside them, and as many bring the next chunk.
        """
        teams, split = self._teams()
        strips = -(-self.tiles // teams)
        stage = 2 * _ROWS * (3 * self.keys + _ROWS) + 4 * 3 * _ROWS
        stage += more * (64 if split > 1 else _COLUMNS)
        shared = _STAGES * stage + teams * (self.keys // 16 + exchanged) * 32 * 16 * (split > 1)
        threads = 32 * teams * split * (3 if split > 1 else 1)
        self._launch(name, (split,), self.heads * strips, threads, shared, segment, arrays)

    def _teams(self):
        """Return the teams of a block and the warps of a team.

        Wide blocks read what heads share once; with few heads, warps share a block of columns.
        """
        enough = 0.9 * _limits(_device()).processors
        for teams in (8, 4):
            if teams <= self.tiles and self.heads * -(-self.tiles // teams) >= enough:
                return teams, 1
        return 1, 4

    def _launch(self, name, variant, blocks, threads, shared, segment, arrays):
        variant = self.q.dtype.name, self.keys, *variant
        kernel = _kernel(_device(), name, variant, shared)
        sizes = len(segment), segment.start, *self.q.shape[1:], self.v.shape[-1]
        arrays = (0 if x is None else x for x in arrays)
        arguments = (*map(np.int32, sizes), np.float32(self.scale), *arrays)
        kernel((blocks,), (threads,), arguments, shared_mem=shared)


@cache
def _kernel(device, name, variant, shared):
    """Return a kernel with leave to take so much shared memory, which each device gives apart."""
    kernel = KERNELS[_name(name, *variant)]
    if shared > kernel.max_dynamic_shared_size_bytes:
        kernel.max_dynamic_shared_size_bytes = shared
    return kernel
