"""CPU engine: the factors as tiles in vector registers, the permutation as a stride between them.

Vectors go in panels of a few side by side (`_tiles`). Many of them are cut into pieces, each
through both factors while it stays in the cache; for few the work is cut by blocks, in two phases.
Bounded by multiplications, as long as the factors come fast enough: 60 to 75 % of the rate of a
large dense product. A product with few vectors is bounded by reading the factors.
"""

from math import prod

import numpy as np

from .._checks import kernel_array
from .._threads import chunk_bounds, run_chunks, workers
from .._tiles import ROW, VECTOR
from ._numba_blocks import (
    Factor,
    Vectors,
    left_blocks,
    left_gradients,
    right_blocks,
    right_gradients,
    tiles,
)
from ._numba_projection import project, project_vjp, projection_error  # noqa: F401
from ._numba_transforms import (  # noqa: F401
    fft,
    fft_vjp,
    fftconvolve,
    fftconvolve_vjp,
    ifft,
    ifft_vjp,
    last,
    placed,
)
from ._numba_vectors import left_pull, left_rows, right_pull, right_rows

_CHUNK = 4_000_000  # multiply-adds: 0.05 ms
_FEW = 6  # vectors that are multiplied one by one
_HEIGHT = 4  # panels of a tile at most: more leave the cache, fewer read the factors more often
_LINE = 64  # bytes of a cache line
_LARGE = 2**16  # bytes
_STRIP = 2**21  # bytes of u in a strip of the batch: what the caches have room for
_NEAR = 2**21  # bytes of factors that the outer cache gives fast enough for one panel a tile

# Arrays that tell a kernel the dtype, and that of a real part.
_LIKE = {np.dtype(c): (np.empty(0, c), np.empty(0, c).real.copy()) for c in "fdFD"}


def monarch_matmul(x, left, right, *, axis):
    """Multiply by R and by L; the result has the memory order of the vectors."""
    left, right = _readable_blocks(left), _readable_blocks(right)
    if right.ndim > 3:
        return _each(lambda *arrays: (_product(*arrays, axis),), x, left, right)[0]
    return _product(x, left, right, axis)


def monarch_matmul_vjp(cotangent, x, left, right, *, axis, wrt):
    """Pull the cotangent back through one array of the size of u = R x."""
    left, right = _readable_blocks(left), _readable_blocks(right)
    if x.dtype.kind == "c":  # the kernels know no conjugates: g uᴴ is the conjugate of ḡ uᵀ
        cotangent = np.conj(cotangent)
    if right.ndim > 3:
        gradients = _each(lambda *arrays: _pull(*arrays, axis, wrt), x, left, right, cotangent)
    else:
        gradients = _pull(x, left, right, cotangent, axis, wrt)
    if x.dtype.kind == "c":
        for gradient in gradients:
            if gradient is not None:
                np.conj(gradient, out=gradient)
    return gradients


def _readable_blocks(factor):
    """Return a factor whose blocks each lie as kernels read them; a copy where they do not.

    How far apart they lie is no matter: those of a Kronecker product are all in one place.
    """
    lies = factor.strides[-2:] == (factor.shape[-1] * factor.itemsize, factor.itemsize)
    is_fit = lies and factor.flags.aligned and factor.dtype.isnative
    return factor if is_fit else kernel_array(factor)


def _each(function, x, left, right, *others):
    """Call for each pair of factors, and stack what comes."""
    batch, arrays = right.shape[:-3], (x, left, right, *others)
    if not prod(batch):  # shapes from a call on nothing
        one = function(*(np.zeros(a.shape[len(batch) :], a.dtype) for a in arrays))
        return tuple(None if y is None else np.zeros(batch + y.shape, y.dtype) for y in one)
    results = [function(*(a[k] for a in arrays)) for k in np.ndindex(batch)]
    return tuple(
        None if column[0] is None else np.stack(column).reshape(batch + column[0].shape)
        for column in zip(*results, strict=True)
    )


def _product(x, left, right, axis):
    rows, inner = left.shape[0] * left.shape[1], right.shape[0] * right.shape[1]
    x2d = _vectors(x, axis)
    y2d, y = _result(x2d, x, axis, rows)
    if not (y.size and inner and x2d.shape[1]):
        y[...] = 0
    elif _is_few(x2d, left, right):
        _few(x2d, left, right, y2d)
    else:
        _many(x2d, left, right, y2d)
    return y


def _is_few(vectors, left, right):
    """Tell whether vectors go one by one, which complex ones never do.

    Those kernels may reorder sums. With complex numbers Numba would then compile its complex
    product in the same way, once a process, for the kernels of all rooms. They read factors from
    end to end; where blocks are repeated there is less to be read.
    """
    if len(vectors) > _FEW or vectors.dtype.kind != "f":
        return False
    return left.flags.c_contiguous and right.flags.c_contiguous


def _few(x, left, right, y):
    """Multiply vector by vector: dot products of rows."""
    count, left, right = len(x), kernel_array(left), kernel_array(right)
    x = np.ascontiguousarray(x).reshape(count, right.shape[0], right.shape[2])
    u = np.empty((count, left.shape[0], left.shape[2]), x.dtype)
    bounds = chunk_bounds((right.shape[0], count * right[0].size), minimum=_CHUNK // 4)
    run_chunks(right_rows, bounds, kernel_array(x), right, left.shape[0], u)
    z = y.reshape(count, left.shape[1], left.shape[0])
    bounds = chunk_bounds((left.shape[0], count * left[0].size), minimum=_CHUNK // 4)
    run_chunks(left_rows, bounds, left, u, z)


def _many(x, left, right, y):
    """Multiply panel by panel: tiles of both factors, or, where there are few, block by block."""
    (like, _), lanes, source, target = _LIKE[x.dtype], ROW // x.itemsize, _place(x), _place(y)
    first, second, (run, inner) = _factor(left), _factor(right), _rows(left)
    panels = -(-len(x) // lanes)
    spare = max(right.shape[2], _group(x) * (left.shape[1] + 1))
    work = lanes * (left.size + right.size)
    if panels >= workers() or panels * work < 16 * _CHUNK:
        tallest = min(_HEIGHT, -(-panels // 8))
        bounds = _bounds(panels, work, tallest)
        # Rows come in long pieces; columns in short ones, which neighbouring panels continue.
        is_near = left.nbytes + right.nbytes <= _NEAR and source.feature == x.itemsize
        height = 1 if is_near else tallest
        scratch = _bytes(height * inner + spare)
        run_chunks(tiles, bounds, like, height, source, first, second, target, run, scratch=scratch)
        return
    u, scratch = _bytes(panels * inner)(), _bytes(spare)
    bounds = _bounds(right.shape[0], panels * lanes * right[0].size)
    run_chunks(right_blocks, bounds, like, source, second, run, u, scratch=scratch)
    bounds = _bounds(left.shape[0], panels * lanes * left[0].size, _group(x))
    run_chunks(left_blocks, bounds, like, first, target, run, u, scratch=scratch)


def _pull(x, left, right, cotangent, axis, wrt):
    """Gradients of one pair of factors."""
    x2d, g2d = _vectors(x, axis), _vectors(cotangent, axis)
    of_x2d, of_x = _result(x2d, x, axis, x2d.shape[1])
    gradients = of_x2d, np.empty(left.shape, left.dtype), np.empty(right.shape, right.dtype)
    wants = tuple(name in wrt for name in ("x", "left", "right"))
    if not (x2d.size and g2d.size and right.shape[1]):
        for gradient in gradients:
            gradient[...] = 0
    elif any(wants):
        pull = _pull_few if _is_few(x2d, left, right) else _pull_many
        pull(x2d, left, right, g2d, *gradients, *wants)
    gradients = of_x, *gradients[1:]
    return tuple(g if wanted else None for g, wanted in zip(gradients, wants, strict=True))


def _pull_few(x, left, right, g, of_x, of_left, of_right, wants_x, wants_left, wants_right):
    """Vector by vector, one pass over each factor and its gradient."""
    (k, q, p), (blocks, rows, inner), count = right.shape, left.shape, len(x)
    left, right = kernel_array(left), kernel_array(right)
    x3d = kernel_array(np.ascontiguousarray(x).reshape(count, k, p))
    g3d = kernel_array(np.ascontiguousarray(g).reshape(count, rows, blocks))
    u, v = (np.zeros((count, blocks, inner), x.dtype) for _ in range(2))
    of_x3d = np.zeros((count, k, p), x.dtype)
    by_right = chunk_bounds((k, count * q * p), minimum=_CHUNK // 4)
    if wants_left:
        run_chunks(right_rows, by_right, x3d, right, blocks, u)
    by_left = chunk_bounds((blocks, count * rows * inner), minimum=_CHUNK // 4)
    wants_v = wants_x or wants_right
    run_chunks(left_pull, by_left, g3d, left, u, of_left, v, wants_left, wants_v)
    if wants_v:
        arrays = x3d, right, blocks, v, of_x3d, of_right
        run_chunks(right_pull, by_right, *arrays, wants_x, wants_right)
        of_x[...] = of_x3d.reshape(of_x.shape)


def _pull_many(x, left, right, g, of_x, of_left, of_right, wants_x, wants_left, wants_right):
    """Panel by panel, strip by strip of the batch; each sum over the vectors in their order.

    A strip goes through three phases over blocks, while its vectors stay in the outer cache.
    """
    (k, q, p), (blocks, rows, inner), (like, real) = right.shape, left.shape, _LIKE[x.dtype]
    first, second, of_first, of_second = map(_factor, (left, right, of_left, of_right))
    lanes, side, (run, length) = ROW // x.itemsize, _group(x), _rows(left)
    turned, parts = -(-inner // lanes), -(-p // lanes)
    wants_v = wants_x or wants_right
    strip = lanes * min(-(-len(x) // lanes), -(-_STRIP // (length * ROW)))
    u = _bytes(strip // lanes * length)()  # R x, then the cotangent of it
    is_one = strip >= len(x)
    left_sums, right_sums = (
        _bytes(0 if is_one else count)() for count in (blocks * turned * rows, k * parts * q)
    )
    for start in range(0, len(x), strip):
        stop = min(len(x), start + strip)
        source, ends = _place(x[start:stop]), stop == len(x)
        if wants_left:
            bounds = _bounds(k, strip * q * p)
            run_chunks(right_blocks, bounds, like, source, second, run, u, scratch=_bytes(p))
        run_chunks(
            left_gradients,
            _bounds(blocks, 2 * strip * rows * inner, side),
            like, real, _place(g[start:stop]), first, of_first, wants_left, wants_v,
            start, ends, run, u, left_sums,
            scratch=_bytes(side * (rows + 1) + turned * lanes + is_one * side * turned * rows),
        )  # fmt: skip
        if wants_v:
            run_chunks(
                right_gradients,
                _bounds(k, 2 * strip * q * p),
                like, source, second, _place(of_x[start:stop]), of_second, wants_x, wants_right,
                start, ends, run, u, right_sums,
                scratch=_bytes(max(p, lanes) + is_one * parts * q),
            )  # fmt: skip


def _vectors(x, axis):
    """Return (vectors, entries): a view of any strides, unless the other axes do not make one."""
    moved = last(x, axis)
    vectors = moved.reshape(prod(moved.shape[:-1]), moved.shape[-1])
    return vectors if vectors.flags.aligned else vectors.copy()


def _result(vectors, x, axis, entries):
    """Make the result twice: as (vectors, entries), and in the shape that it has for `x`."""
    others = last(x, axis).shape[:-1]
    count, strides = len(vectors), vectors.strides
    if abs(strides[1]) <= abs(strides[0]) or count == 1:
        result = _empty(count, entries, x.dtype)
        shaped = result.reshape(*others, entries)
        return result, placed(shaped, axis)
    result = _empty(entries, count, x.dtype)
    return result.T, np.moveaxis(result.reshape(entries, *others), 0, axis)


def _empty(rows, columns, dtype):
    """Make an array; a large one begins at a cache line, which kernels then write as wholes."""
    size = rows * columns * dtype.itemsize
    if size < _LARGE:
        return np.empty((rows, columns), dtype)
    memory = np.empty(size + _LINE, np.uint8)
    start = -memory.ctypes.data % _LINE
    return memory[start : start + size].view(dtype).reshape(rows, columns)


def _place(vectors):
    return Vectors(vectors.ctypes.data, vectors.strides[1], vectors.strides[0], len(vectors))


def _factor(factor):
    return Factor(factor.ctypes.data, *factor.strides, *factor.shape)


def _rows(left):
    """Return after how many rows of u = R x one is left out, and how many that makes.

    A block of L reads every l-th row. Were they a power of two apart, they would share few cache
    sets.
    """
    blocks, inner = left.shape[0], left.shape[0] * left.shape[2]
    run = inner if blocks % 8 else blocks
    return run, inner + inner // run


def _group(x):
    """Blocks that are taken together so that their rows fill two machine vectors: a cache line."""
    return 2 * VECTOR // x.itemsize


def _bounds(count, work, group=1):
    """Cut blocks or panels to chunks of whole groups."""
    bounds = chunk_bounds((-(-count // group), group * work), minimum=_CHUNK)
    return [min(count, group * bound) for bound in bounds]


def _bytes(rows):
    """Return what makes a buffer of panel rows, with room to align it."""
    return lambda: np.empty(rows * ROW + VECTOR, np.uint8)
