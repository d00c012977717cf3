"""GPU engine: all chunks prepared at once by cuBLAS, then one walk over them.

The walk's kernels (_chunks.cu) keep the state in shared memory from the first chunk to the last,
a strip of columns of a head in each block of threads. What walks multiply by is prepared in
parallel, in the WY form N = T V - (T K) H with T = (I + A)⁻¹ B, and gradients follow in parallel
from the walks' states. Nothing waits for the device. Reflections are applied in blocks by cuBLAS.
"""

from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._cuda import Source
from .._xp import adjoint as adjoint_of
from . import _array_api, _cupy_halves
from ._array_api_delta import Chunk, Step, chunk_size, prepared
from ._devices import device, limits

DTYPES = "efdFD"  # half precision is computed in float32 where tensor cores do not serve
TORCH_DTYPES = ("bfloat16",)  # that torch has besides: CuPy's namespace does not know them

_ROWS = 64  # of a chunk, and of a triangle that the kernel inverts, at most
_BLOCKS = (256, 128, 64)  # reflections that are applied at a time
_THREADS = 256
_SLAB = 32 * (_ROWS + 4)  # numbers that kernels stage at a time
_WORKSPACE = 1 << 30  # bytes of what is prepared at a time, unless one head takes more
_NUMBERS = {"f": "float", "d": "double", "F": "linalgkit::Complex<float>",
            "D": "linalgkit::Complex<double>"}  # fmt: skip
_COLUMNS = {"f": (64, 32, 16), "d": (32, 16)}  # of a strip of the state


def _inverses(dtype):
    return f"linalgkit::inverses<{_NUMBERS[dtype]}>"


def _walk(name, dtype, columns):
    return f"linalgkit::walk_{name}<{_NUMBERS[dtype]}, {columns}>"


KERNELS = Source(
    Path(__file__).with_name("_chunks.cu"),
    (
        *map(_inverses, _NUMBERS),
        *(
            _walk(name, dtype, columns)
            for name in ("forwards", "backwards")
            for dtype, served in _COLUMNS.items()
            for columns in served
        ),
    ),
)


def delta_rule(q, k, v, beta, log_decay, initial_state, *, scale, reflections, chunk):
    """Prepare the chunks of as many heads as fit, and walk over them."""
    import cupy as cp

    if _cupy_halves.serves(q, v, log_decay, reflections=reflections, chunk=chunk):
        return _cupy_halves.delta_rule(q, k, v, beta, log_decay, initial_state, scale=scale)
    arrays = q, k, v, beta, log_decay, initial_state
    if q.dtype.name in TORCH_DTYPES:
        options = {"scale": scale, "reflections": reflections, "chunk": chunk}
        output, state = delta_rule(*_in_float32(arrays), **options)
        return output.astype(q.dtype), state
    sizes = _Sizes.of(arrays, reflections, chunk)
    if sizes is None:
        return _array_api.delta_rule(*arrays, scale=scale, reflections=reflections, chunk=chunk)
    (*items, initial), batch = _flat(arrays, reflections), q.shape[:-2]
    output = cp.empty((sizes.heads, sizes.length, sizes.values), q.dtype)
    state = cp.empty(initial.shape, initial.dtype)
    step = Step(scale, reflections)
    for heads, segments in sizes.parts(passes=1):
        held = initial[heads]
        for segment in segments:
            ready = _Ready.of(step, *sizes.chunked(items, heads, segment))
            found = cp.empty(ready.shape(sizes.tokens, sizes.values), held.dtype)
            held = _walk_forwards(sizes, scale, ready, held, output=found)
            tokens = sizes.span(segment)
            output[heads, tokens] = _rows_of(found)[:, : tokens.stop - tokens.start]
        state[heads] = held
    return output.reshape(*batch, *output.shape[1:]), state.reshape(*batch, *state.shape[1:])


def delta_rule_vjp(
    cotangent, q, k, v, beta, log_decay, initial_state, *, scale, reflections, chunk, wrt
):
    """Walk forwards for what is written and the states, backwards for their cotangents."""
    import cupy as cp

    arrays = q, k, v, beta, log_decay, initial_state
    if _cupy_halves.serves(q, v, log_decay, reflections=reflections, chunk=chunk):
        return _cupy_halves.delta_rule_vjp(cotangent, *arrays, scale=scale, wrt=wrt)
    if q.dtype.name in TORCH_DTYPES:
        cotangent, arrays = _in_float32(cotangent), _in_float32(arrays)
        options = {"scale": scale, "reflections": reflections, "chunk": chunk}
        return delta_rule_vjp(cotangent, *arrays, **options, wrt=wrt)
    sizes = _Sizes.of(arrays, reflections, chunk)
    if sizes is None:
        return _array_api.delta_rule_vjp(
            cotangent, *arrays, scale=scale, reflections=reflections, chunk=chunk, wrt=wrt
        )
    (*items, initial), batch = _flat(arrays, reflections), q.shape[:-2]
    of_output, of_state = (
        x.reshape(sizes.heads, *x.shape[-2:]).astype(initial.dtype, copy=False) for x in cotangent
    )
    of_initial = cp.empty(initial.shape, initial.dtype)
    likes = q, k, v, beta[..., None], q[..., :1] if sizes.gates < 2 else q
    names = "q", "k", "v", "beta", "log_decay"
    found = {
        name: cp.empty((sizes.heads, *x.shape[-2:]), initial.dtype)
        for name, x in zip(names, likes, strict=True)
    }
    step = Step(scale, reflections)
    for heads, segments in sizes.parts(passes=4):
        starts = [initial[heads]]
        for segment in segments[:-1]:
            ready = _Ready.of(step, *sizes.chunked(items, heads, segment))
            starts.append(_walk_forwards(sizes, scale, ready, starts[-1]))
        held = of_state[heads]
        for segment in reversed(segments):
            chunks = sizes.chunked((*items, of_output), heads, segment)
            held, gradients = _pull(step, sizes, chunks, starts.pop(), held)
            for name, gradient in zip(names, gradients, strict=True):
                each = 1 if name in ("q", "log_decay") else reflections
                rows = sizes.span(segment, each)
                found[name][heads, rows] = _rows_of(gradient)[:, : rows.stop - rows.start]
        of_initial[heads] = held
    found["beta"] = found["beta"][..., 0]
    if log_decay is None:
        found["log_decay"] = None
    elif log_decay.ndim < q.ndim:
        found["log_decay"] = found["log_decay"][..., 0]
    found["initial_state"] = None if initial_state is None else of_initial
    return tuple(
        x.reshape(*batch, *x.shape[1:]) if x is not None and name in wrt else None
        for name, x in found.items()
    )


def ut_transform(k, beta):
    """Invert by the kernel where it serves."""
    if k.dtype.char not in _NUMBERS or not 0 < k.shape[-2] <= _ROWS or not k.size:
        return _array_api.ut_transform(k, beta)
    import cupy as cp

    return _transforms(cp.matmul(k, adjoint_of(k)), beta)


def reflect(x, vectors, tau, kept, *, adjoint):
    """Multiply blocks from the left, the last block first; for Qᴴ the first.

    A block of Qᴴ is I - V Tᴴ Vᴴ, where Tᴴ is the UT transform of the conjugate tau.
    """
    import cupy as cp

    if not x.size or not vectors.size:
        return _array_api.reflect(x, vectors, tau, kept, adjoint=adjoint)
    dtype = x.dtype
    wide = np.promote_types(dtype, np.float32)
    rows, written = _factors(vectors, tau, wide, kept, adjoint)
    if tau.ndim > 1:
        batch = np.broadcast_shapes(x.shape[:-2], tau.shape[:-1])
        x = cp.broadcast_to(x, (*batch, *x.shape[-2:]))
    result = x.astype(wide, order="C")  # a copy, to be multiplied in place
    for block in range(len(rows)) if adjoint else reversed(range(len(rows))):
        _subtract_product(written[block], cp.matmul(rows[block], result), result)
    return result.astype(dtype, copy=False)


def _factors(vectors, tau, wide, kept, adjoint):
    """Return Vᴴ and (V T)ᵀ of blocks of reflections, computed once for each stream."""
    import cupy as cp

    key = wide, cp.cuda.get_current_stream().ptr  # another stream would have to wait for this one
    if key not in kept:
        n, r = vectors.shape[-2:]
        width = next((size for size in _BLOCKS if size < 2 * r), _ROWS)
        blocks = -(-r // width)
        v = cp.zeros((*vectors.shape[:-2], blocks * width, n), wide)  # rows, as cuBLAS reads best
        v[..., :r, :] = cp.swapaxes(vectors, -1, -2)
        v = cp.moveaxis(v.reshape(*v.shape[:-2], blocks, width, n), -3, 0)
        strengths = cp.zeros((*tau.shape[:-1], blocks * width), wide)
        strengths[..., :r] = tau.conj()
        strengths = cp.moveaxis(strengths.reshape(*tau.shape[:-1], blocks, width), -2, 0)
        rows = v.conj() if wide.kind == "c" else v
        kept[key] = rows, _transforms(cp.matmul(rows, cp.swapaxes(v, -1, -2)), strengths)
    rows, transforms = kept[key]
    if (*key, adjoint) not in kept:
        turned = cp.swapaxes(transforms, -1, -2) if adjoint else transforms.conj()
        kept[*key, adjoint] = cp.matmul(turned, rows.conj() if wide.kind == "c" else rows)
    return rows, kept[*key, adjoint]


def _subtract_product(turned, b, result):
    """Subtract Aᵀ B, A `turned`; in place by cuBLAS where it is one matrix."""
    from cupy import cublas, matmul, swapaxes

    if result.ndim > 2:
        result -= matmul(swapaxes(turned, -1, -2), b)
    else:
        cublas.gemm("T", "N", turned, b, out=result, alpha=-1.0, beta=1.0)


def _transforms(gram, strengths):
    """Return (I + tril(B gram, -1))⁻¹ B."""
    return _inverted(strengths[..., None] * gram) * strengths[..., None, :]


def _inverted(matrices):
    """Return (I + tril(A, -1))⁻¹: of more rows than the kernel takes, from its halves.

    The lower left quarter of the inverse is -Y C X, with X and Y the inverses of both halves.
    """
    import cupy as cp

    rows = matrices.shape[-1]
    if rows <= _ROWS:
        matrices = cp.ascontiguousarray(matrices)
        shared = rows * (rows + 1) * matrices.itemsize
        kernel = KERNELS.with_shared(_inverses(matrices.dtype.char), shared)
        grid, threads = (prod(matrices.shape[:-2]),), (-(-rows // 32) * 32,)
        kernel(grid, threads, (matrices, np.int32(rows)), shared_mem=shared)
        return matrices
    half = rows // 2
    halves = cp.stack((matrices[..., :half, :half], matrices[..., half:, half:]))
    first, second = _inverted(halves)
    result = cp.zeros(matrices.shape, matrices.dtype)
    result[..., :half, :half], result[..., half:, half:] = first, second
    result[..., half:, :half] = -cp.matmul(cp.matmul(second, matrices[..., half:, :half]), first)
    return result


class _Sizes(NamedTuple):
    """Of a call, in tokens and chunks."""

    heads: int
    length: int  # tokens in all
    tokens: int  # of a chunk
    reflections: int
    width: int
    values: int
    gates: int  # decays of a token
    itemsize: int

    @classmethod
    def of(cls, arrays, reflections, chunk):
        """Return the sizes, or None where the kernels do not serve."""
        q, _, v, _, decay, _ = arrays
        (length, width), values = q.shape[-2:], v.shape[-1]
        itemsize = max(4, q.dtype.itemsize)
        gates = 0 if decay is None else 1 if decay.ndim < q.ndim else width
        rows = decay if decay is None or gates > 1 else decay[..., None]
        tokens = min(chunk_size(chunk, rows, reflections), _ROWS // reflections, length)
        sizes = cls(prod(q.shape[:-2]), length, tokens, reflections, width, values, gates, itemsize)
        if not tokens or not sizes.heads or not width or not values:
            return None
        return sizes if sizes.shared(16) <= limits(device()).shared_bytes else None

    @property
    def chunks(self):
        return -(-self.length // self.tokens)

    @property
    def rows(self):
        """Rows of keys in a chunk."""
        return self.tokens * self.reflections

    def shared(self, columns):
        """Bytes of shared memory that walks take for a strip of so many columns."""
        return self.itemsize * (_SLAB + (self.width + 2 * _ROWS) * columns)

    def columns(self, heads, dtype):
        """Return the width of strips: the widest that gives all processors something to do."""
        here, choices = limits(device()), _COLUMNS[dtype.char]
        for columns in choices[:-1]:
            strips = heads * -(-self.values // columns)
            if strips >= here.processors and self.shared(columns) <= here.shared_bytes:
                return columns
        return choices[-1]

    def parts(self, passes):
        """Cut heads and chunks so that what is prepared of a part fits the workspace.

        All heads together where one chunk of each fits: walks are in order, heads are not.
        """
        numbers = self.rows * (3 * self.width + 2 * self.values + 4 * self.rows)
        if self.gates > 1:
            numbers += self.rows * self.rows * self.width
        fits = max(1, _WORKSPACE // (passes * numbers * self.itemsize))  # chunks of one head
        heads = min(self.heads, fits)
        chunks = max(1, fits // heads)
        segments = [
            range(begin, min(begin + chunks, self.chunks))
            for begin in range(0, self.chunks, chunks)
        ]
        return [(slice(begin, begin + heads), segments) for begin in range(0, self.heads, heads)]

    def span(self, segment, each=1):
        """Return where a segment's rows are, `each` a token."""
        stop = min(segment.stop * self.tokens, self.length)
        return slice(segment.start * self.tokens * each, stop * each)

    def chunked(self, arrays, heads, segment):
        """Cut rows of a segment to chunks; rows of zeros fill up the last one.

        Queries and outputs, the first and the last of six, have a row a token.
        """
        import cupy as cp

        cut = []
        for place, array in enumerate(arrays):
            if array is None:
                cut.append(None)
                continue
            each = 1 if place in (0, 5) else self.reflections
            array = array[heads, self.span(segment, each)]
            missing = len(segment) * self.tokens * each - array.shape[1]
            if missing:
                zeros = cp.zeros((len(array), missing, array.shape[2]), array.dtype)
                array = cp.concatenate((array, zeros), axis=1)
            shape = len(array), len(segment), self.tokens * each, array.shape[2]
            cut.append(cp.ascontiguousarray(array).reshape(shape))
        return cut


def _in_float32(arrays):
    return tuple(None if x is None else x.astype(np.float32, copy=False) for x in arrays)


def _flat(arrays, reflections):
    """Return the arrays as the reference takes them, with one batch axis."""
    items, state = prepared(*arrays, reflections)
    return [None if x is None else x.reshape(-1, *x.shape[-2:]) for x in (*items, state)]


class _Ready(NamedTuple):
    """What walks multiply by, for all chunks of a segment."""

    chunk: Chunk
    inverse: Any  # (I + A)⁻¹
    w: Any  # T K as the state at the start sees it
    u: Any  # T V

    @classmethod
    def of(cls, step, q, k, v, beta, decay):
        import cupy as cp

        chunk = step.chunk(q, k, decay)
        inverse = _inverted(beta * chunk.scores)
        transform = inverse * adjoint_of(beta)
        return cls(chunk, inverse, cp.matmul(transform, chunk.keys), cp.matmul(transform, v))

    def shape(self, *rows):
        """Return (heads, chunks, *rows)."""
        return (*self.u.shape[:2], *rows)


def _rows_of(chunks):
    """Put chunks together again."""
    return chunks.reshape(len(chunks), -1, chunks.shape[-1])


def _pull(step, sizes, items, initial, of_end):
    """Return the cotangent of the state at a segment's start, and the gradients of its rows."""
    import cupy as cp

    *items, of_output = items
    ready = _Ready.of(step, *items)
    writes = cp.empty(ready.u.shape, initial.dtype)
    starts = cp.empty(ready.shape(sizes.width, sizes.values), initial.dtype)
    end = _walk_forwards(sizes, 1, ready, initial, writes=writes, states=starts)
    g = step.scale * of_output
    of_writes = cp.ascontiguousarray(cp.matmul(adjoint_of(ready.chunk.reads), g))
    of_ends = cp.empty(starts.shape, starts.dtype)
    of_initial = _walk_backwards(sizes, ready, g, of_end, of_writes, of_ends)
    solved = cp.matmul(adjoint_of(ready.inverse), of_writes)
    errors = items[2] - cp.matmul(ready.chunk.keys, starts)
    ends = cp.concatenate((starts[:, 1:], end[:, None]), axis=1)
    items = (*items, of_output, starts, ends)
    return of_initial, step.gradients(ready.chunk, items, errors, writes, solved, of_ends)


def _walk_forwards(sizes, scale, ready, initial, *, output=0, writes=0, states=0):
    """Return the state at the end; fill what is wanted of output, writes and states."""
    import cupy as cp

    chunk, end = ready.chunk, cp.empty(initial.shape, initial.dtype)
    left = 0 if chunk.left is None else chunk.left
    arrays = ready.w, ready.u, chunk.queries, chunk.reads, chunk.late_keys, left, initial
    results = output, writes, states, end
    _launch("forwards", sizes, (end.dtype.type(scale),), arrays, results)
    return end


def _walk_backwards(sizes, ready, g, of_end, of_writes, of_ends):
    """Return the cotangent of the state at the start; complete `of_writes`, fill `of_ends`."""
    import cupy as cp

    chunk, of_initial = ready.chunk, cp.empty(of_end.shape, of_end.dtype)
    left = 0 if chunk.left is None else chunk.left
    arrays = ready.w, chunk.queries, chunk.late_keys, left, g, of_end
    _launch("backwards", sizes, (), arrays, (of_writes, of_ends, of_initial))
    return of_initial


def _launch(name, sizes, numbers, arrays, results):
    import cupy as cp

    dtype, (heads, chunks) = arrays[0].dtype, arrays[0].shape[:2]
    columns = sizes.columns(heads, dtype)
    strips = -(-sizes.values // columns)
    shared = sizes.shared(columns)
    counts = strips, chunks, sizes.rows, sizes.tokens, sizes.width, sizes.values, sizes.gates
    kernel = KERNELS.with_shared(_walk(name, dtype.char, columns), shared)
    arrays = (x if isinstance(x, int) else cp.ascontiguousarray(x) for x in arrays)
    arguments = (*map(np.int32, counts), *numbers, *arrays, *results)
    kernel((heads * strips,), (_THREADS,), arguments, shared_mem=shared)
