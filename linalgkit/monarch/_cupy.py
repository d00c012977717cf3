"""GPU engine of the Monarch products: kernels for blocks of 16 to 128, cuBLAS for other sizes.

The kernels (_products.cu) serve float16 and float32 rows with both factors in blocks of suitable
multiples of 16; float32 is multiplied as three products of 11-bit halves, which keeps float32's
accuracy, but an infinity becomes NaN. cuBLAS serves everything else, and the gradients: it gets
strided views of x and of the factors, and between the two steps the vectors are the unit stride,
u[t, vector], so that the permutation is only a stride; y in rows takes one transposition, y along
another axis none. u is at most _WORKSPACE bytes where x lies in rows. Nothing waits for the device.
"""

from functools import cache, lru_cache
from itertools import product
from math import prod
from operator import mul
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._cuda import Source
from . import _array_api
from ._cupy_transforms import (  # noqa: F401
    fft,
    fft_vjp,
    fftconvolve,
    fftconvolve_vjp,
    ifft,
    ifft_vjp,
)

DTYPES = "efdFD"  # of torch tensors, too

_NUMBERS = {"e": "linalgkit::Half", "f": "float"}  # that the kernels multiply, by dtype's letter
_BITS = {2: "unsigned short", 4: "unsigned int", 8: "unsigned long long", 16: "double2"}
_STEPS = {"e": (1, 2, 3, 4), "f": (1, 2, 3, 4, 6, 8)}  # of 32 and 16 in a block's row
_TEAMS = (4, 8), (4, 16), (3, 16)  # of both_factors: eights of rows, warps
_WORKSPACE = 1 << 26  # bytes of u at a time, of x in rows


def _step(name, dtype, steps):
    return f"linalgkit::{name}<{_NUMBERS[dtype]}, {steps}>"


def _both(right_steps, left_steps, parts, warps):
    return (
        f"linalgkit::both_factors<linalgkit::Half, {right_steps}, {left_steps}, {parts}, {warps}>"
    )


KERNELS = Source(
    Path(__file__).with_name("_products.cu"),
    (
        *(
            _step(name, dtype, steps)
            for name in ("right_blocks", "left_blocks")
            for dtype, served in _STEPS.items()
            for steps in served
        ),
        *(_both(*steps, *team) for steps in ((1, 4), (2, 2), (3, 1), (4, 3)) for team in _TEAMS),
        *(f"linalgkit::transpose<{bits}>" for bits in _BITS.values()),
    ),
)


def monarch_matmul(x, left, right, *, axis):
    """Multiply by R and by L, with the rows of x as the unit stride between."""
    import cupy as cp

    if not _serves(x, left, right):
        return _array_api.monarch_matmul(x, left, right, axis=axis)
    if left.ndim == 3:
        if _is_reversed(x):
            return monarch_matmul(x.T, left, right, axis=-1 - axis - x.ndim).T
        device, rows = cp.cuda.runtime.getDevice(), x.size // x.shape[-1]
        launch = axis == -1 and _launcher(x.dtype.char, rows, left.shape, right.shape, device)
        if launch:
            y = cp.empty((*x.shape[:-1], left.shape[0] * left.shape[1]), dtype=x.dtype)
            launch(_aligned(x), _aligned(left), _aligned(right), y)
            return y
    sizes = _Sizes.of(x, left, right, axis)
    entries = sizes.height * sizes.blocks
    x, left, right = map(cp.ascontiguousarray, (x, left, right))
    shape = [*x.shape]
    shape[axis] = entries
    y = cp.empty(shape, dtype=x.dtype)
    if sizes.behind > 1:
        _multiply(_second(sizes), left, _multiply(_first(sizes), right, x), out=y)
        return y
    chunk = _rows_at_a_time(sizes.k * sizes.q * x.itemsize)
    for begin in range(0, sizes.before, chunk):
        some = sizes._replace(rows=min(chunk, sizes.before - begin))
        u = _multiply(_first(some), right, x, skipped=begin * sizes.k * sizes.p)
        columns = _multiply(_second(some), left, u)
        matrices = some.batch, entries, some.rows
        _transpose(columns, y, matrices, apart=sizes.before * entries, skipped=begin * entries)
    return y


def monarch_matmul_vjp(cotangent, x, left, right, *, axis, wrt):
    """Pull the cotangent g back through L and then R; u = R x is computed again."""
    import cupy as cp

    if not _serves(x, left, right):
        return _array_api.monarch_matmul_vjp(cotangent, x, left, right, axis=axis, wrt=wrt)
    if left.ndim == 3 and _is_reversed(x):
        axis = -1 - axis - x.ndim
        of_x, *others = monarch_matmul_vjp(cotangent.T, x.T, left, right, axis=axis, wrt=wrt)
        return None if of_x is None else of_x.T, *others
    sizes = _Sizes.of(x, left, right, axis)
    if sizes.before > 1 and sizes.behind > 1:
        g, x = (cp.moveaxis(each, axis, -1) for each in (cotangent, x))
        of_x, *others = monarch_matmul_vjp(g, x, left, right, axis=-1, wrt=wrt)
        return None if of_x is None else cp.moveaxis(of_x, -1, axis), *others

    g, x, left, right = map(cp.ascontiguousarray, (cotangent, x, left, right))
    if sizes.behind == 1:
        rows, g = g, cp.empty(g.shape, dtype=g.dtype)
        entries = sizes.height * sizes.blocks
        _transpose(rows, g, (sizes.batch, sizes.rows, entries), apart=sizes.rows * entries)
    calls = _pulls(sizes)
    of_x = of_left = of_right = None
    if "left" in wrt:
        u = _conjugate(_multiply(_first(sizes), right, x))
        of_left = _multiply(calls.to_left, g, u, out=cp.empty_like(left))
    if "x" in wrt or "right" in wrt:
        v = _multiply(calls.through_left, left.conj(), g)
        if "x" in wrt:
            of_x = _multiply(calls.to_x, right.conj(), v, out=cp.empty_like(x))
        if "right" in wrt:
            of_right = _multiply(calls.to_right, _conjugate(v), x, out=cp.empty_like(right))
            of_right = _conjugate(of_right)
    return of_x, of_left, of_right


def _serves(x, left, right):
    return x.dtype.char in _CUBLAS and x.size and left.size and right.size


def _is_reversed(x):
    return not x.flags.c_contiguous and x.ndim > 1 and x.T.flags.c_contiguous


def _rows_at_a_time(width):
    """How many rows of x to take, of which u has so many bytes each; grids have their limits."""
    return max(128, min(_WORKSPACE // width, 1 << 19) // 128 * 128)


def _conjugate(x):
    """Conjugate in place."""
    import cupy as cp

    return cp.conj(x, out=x) if x.dtype.kind == "c" else x


class _Sizes(NamedTuple):
    """Of x, (batch axes of the factors, axes before, k p, axes behind), and of the factors.

    `rows` are the vectors of one matrix that are multiplied at a time, where no axis is behind; u
    and y then lie as (batch, entries, rows), else as (batch, before, entries, behind).
    """

    letter: str
    batch: int
    before: int
    behind: int
    rows: int
    k: int
    q: int
    p: int
    blocks: int  # l
    height: int  # s
    inner: int  # r

    @classmethod
    def of(cls, x, left, right, axis):
        lead, axis, shape = left.ndim - 3, axis % x.ndim, x.shape
        before, behind = prod(shape[lead:axis]), prod(shape[axis + 1 :])
        batch = prod(shape[:lead])
        return cls(x.dtype.char, batch, before, behind, before, *right.shape[-3:], *left.shape[-3:])

    @property
    def lead(self):
        """Leading axes of u, and its unit stride."""
        if self.behind > 1:
            return (self.batch, self.before), self.behind
        return (self.batch,), self.rows

    def x(self):
        """View x as (..., k, p, vectors)."""
        if self.behind > 1:
            return _View.of(self.batch, self.before, self.k, self.p, self.behind)
        whole = _View.of(self.batch, self.before, self.k, self.p).moved(1, 3)
        return whole._replace(shape=(*whole.shape[:-1], self.rows))

    def u(self):
        """View u as the blocks of R give it, (..., k, q, vectors)."""
        lead, vectors = self.lead
        return _View.of(*lead, self.k, self.q, vectors)

    def u_read(self):
        """View u as the blocks of L take it, (..., l, r, vectors)."""
        lead, vectors = self.lead
        return _View.of(*lead, self.inner, self.blocks, vectors).turned(-3, -2)

    def y(self):
        """View y as the blocks of L give it, (..., l, s, vectors)."""
        lead, vectors = self.lead
        return _View.of(*lead, self.height, self.blocks, vectors).turned(-3, -2)

    def left(self):
        return _View.of(
            self.batch, *[1] * (len(self.lead[0]) - 1), self.blocks, self.height, self.inner
        )

    def right(self):
        return _View.of(self.batch, *[1] * (len(self.lead[0]) - 1), self.k, self.q, self.p)


class _View(NamedTuple):
    """How numbers lie in memory; strides are counted in numbers."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, *shape):
        """Describe contiguous numbers."""
        return cls(shape, tuple(prod(shape[axis + 1 :]) for axis in range(len(shape))))

    def turned(self, one=-2, other=-1):
        """Exchange two axes."""
        order = [*range(len(self.shape))]
        order[one], order[other] = order[other], order[one]
        return self._take(order)

    def moved(self, axis, place):
        order = [*range(len(self.shape))]
        order.insert(place, order.pop(axis))
        return self._take(order)

    def _take(self, order):
        return _View(*(tuple(each[axis] for axis in order) for each in self))

    def stored(self):
        """Tell whether matrices lie by rows, and how far apart rows (or else columns) begin."""
        (rows, columns), (row, column) = self.shape[-2:], self.strides[-2:]
        if rows == 1 or (row == 1 and (columns == 1 or column >= rows)):
            return 0, max(rows, column if columns > 1 else 1)
        return 1, max(columns, row)

    def steps(self):
        """From matrix to matrix along the leading axes; one matrix stands for any number."""
        pairs = zip(self.shape[:-2], self.strides, strict=False)
        return tuple(0 if size == 1 else stride for size, stride in pairs)


@lru_cache(maxsize=256)
def _first(sizes):
    """Describe u = R x."""
    return _Call.of(sizes.letter, sizes.right(), sizes.x(), sizes.u())


@lru_cache(maxsize=256)
def _second(sizes):
    """Describe y = L u."""
    return _Call.of(sizes.letter, sizes.left(), sizes.u_read(), sizes.y())


class _Pulls(NamedTuple):
    to_left: "_Call"
    through_left: "_Call"
    to_x: "_Call"
    to_right: "_Call"


@lru_cache(maxsize=256)
def _pulls(sizes):
    """Describe g uᵀ, v = Lᵀ g, Rᵀ v, v xᵀ."""
    if sizes.behind > 1:  # then no axis is before
        sizes = sizes._replace(before=1, behind=1, rows=sizes.behind)
        x = _View.of(sizes.batch, sizes.k, sizes.p, sizes.rows)
    else:
        x = sizes.x()
    letter, g, left, right = sizes.letter, sizes.y(), sizes.left(), sizes.right()
    return _Pulls(
        _Call.of(letter, g, sizes.u_read().turned(), left),
        _Call.of(letter, left.turned(), g, sizes.u_read()),
        _Call.of(letter, right.turned(), sizes.u(), x),
        _Call.of(letter, sizes.u(), x.turned(), right),
    )


# Letter of a dtype -> types of cuBLAS for numbers and for sums, letter of its scalars
_CUBLAS = {
    "e": ("CUDA_R_16F", "CUBLAS_COMPUTE_32F", "f"),
    "f": ("CUDA_R_32F", "CUBLAS_COMPUTE_32F", "f"),
    "d": ("CUDA_R_64F", "CUBLAS_COMPUTE_64F", "d"),
    "F": ("CUDA_C_32F", "CUBLAS_COMPUTE_32F", "F"),
    "D": ("CUDA_C_64F", "CUBLAS_COMPUTE_64F", "D"),
}
_ONE_AND_ZERO = {letter: np.arange(1, -1, -1).astype(letter) for letter in "fdFD"}


class _Call(NamedTuple):
    """Calls of cuBLAS that multiply stacks of matrices; it writes by columns."""

    swapped: bool  # b's transpose times a's, for a result by rows
    sizes: tuple[int, ...]  # is the first turned, is the second; rows, columns, terms
    first: tuple[int, int, int]  # type, from column to column, from matrix to matrix
    second: tuple[int, int, int]
    result: tuple[int, int, int]
    batch: int
    sums: int
    one: int  # addresses
    zero: int
    offsets: tuple[tuple[int, int, int], ...]  # of each call, in bytes
    entries: int  # of the result

    @classmethod
    def of(cls, letter, a, b, out):
        """Describe out = a @ b; the longest leading axis is the batch of a call."""
        from cupy.cuda import cublas, runtime

        lead, itemsize = out.shape[:-2], np.dtype(letter).itemsize
        longest = lead.index(max(lead))
        swapped = bool(out.stored()[0])
        every = (b.turned(), a.turned(), out.turned()) if swapped else (a, b, out)
        first, second, result = every
        others = (range(1 if axis == longest else size) for axis, size in enumerate(lead))
        number, sums, scalar = _CUBLAS[letter]
        one = _ONE_AND_ZERO[scalar].ctypes.data
        return cls(
            swapped,
            (first.stored()[0], second.stored()[0], *result.shape[-2:], first.shape[-1]),
            *((getattr(runtime, number), e.stored()[1], e.steps()[longest]) for e in every),
            lead[longest],
            getattr(cublas, sums),
            one,
            one + np.dtype(scalar).itemsize,
            tuple(
                tuple(itemsize * sum(map(mul, index, each.steps())) for each in every)
                for index in product(*others)
            ),
            prod(out.shape),
        )


def _multiply(call, a, b, *, out=None, skipped=0):
    """Return a @ b as `call` says, in `out` or new memory; of b so many numbers are skipped."""
    import cupy as cp
    from cupy.cuda import cublas, device

    if out is None:
        out = cp.empty(call.entries, dtype=a.dtype)
    first, second, result = a.data.ptr, b.data.ptr + skipped * b.itemsize, out.data.ptr
    if call.swapped:
        first, second = second, first
    handle = device.get_cublas_handle()
    for to_first, to_second, to_result in call.offsets:
        cublas.gemmStridedBatchedEx(
            handle, *call.sizes,
            call.one, first + to_first, *call.first, second + to_second, *call.second,
            call.zero, result + to_result, *call.result,
            call.batch, call.sums, cublas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip
    return out


def _transpose(matrices, out, shape, *, apart, skipped=0):
    """Write the transposes of contiguous matrices, `apart` numbers from each other in `out`."""
    count, height, width = shape
    blocks = count * ((height + 31) // 32) * ((width + 31) // 32)
    kernel = KERNELS[f"linalgkit::transpose<{_BITS[out.itemsize]}>"]
    sizes = map(np.int64, (height, width, apart, skipped))
    kernel((blocks,), (256,), (matrices, out, *sizes))


def _aligned(x):
    """Return x where it lies as kernels read it, else a copy."""
    return x if x.flags.c_contiguous and x.data.ptr % 16 == 0 else x.copy(order="C")


@lru_cache(maxsize=256)
def _launcher(dtype, rows, left_shape, right_shape, device):
    """Return what launches the kernels on so many rows; None where a size does not suit them."""
    limits = _limits(device)
    if dtype not in _NUMBERS or limits.capability < 80:
        return None
    step = 64 // np.dtype(dtype).itemsize
    (count, height, inner), (_, q, p) = left_shape, right_shape
    if p % step or inner % step or q % 16 or height % 16 or count % (step // 2) or height > 128:
        return None
    if not {p // step, inner // step} <= set(_STEPS[dtype]):
        return None
    arguments = dtype, rows, left_shape, right_shape, limits
    return _one_kernel(*arguments) or _two_kernels(*arguments)


def _one_kernel(dtype, rows, left_shape, right_shape, limits):
    """Launcher of the kernel that keeps u in shared memory, if it fits and there are many rows."""
    (count, height, inner), (k, q, p) = left_shape, right_shape
    if dtype != "e" or q % 32 or count % 32:
        return None
    for parts, warps in _TEAMS:
        shared = _shared_bytes(max(inner, height), count * (80 if parts == 4 else 48), 2)
        if shared <= limits.shared_bytes * warps // 16 - 1024:
            break
    else:
        return None
    blocks = (rows + 8 * parts - 1) // (8 * parts)
    if blocks < limits.processors // 2:
        return None
    kernel = KERNELS.with_shared(_both(p // 32, inner // 32, parts, warps), shared)
    sizes = tuple(map(np.int32, (rows, k, q, count, height)))

    def launch(x, left, right, y):
        kernel((blocks,), (32 * warps,), (x, right, left, y, *sizes), shared_mem=shared)

    return launch


def _two_kernels(dtype, rows, left_shape, right_shape, limits):
    """Launcher of a kernel for each step, with chunks of u in global memory between."""
    import cupy as cp

    (count, height, inner), (k, q, p) = left_shape, right_shape
    itemsize = np.dtype(dtype).itemsize
    step = 64 // itemsize  # also the rows of a tile
    shared = _shared_bytes(max(inner, height), 64 * (step // 2), itemsize)
    if shared > limits.shared_bytes:
        return None
    first = KERNELS[_step("right_blocks", dtype, p // step)]
    second = KERNELS.with_shared(_step("left_blocks", dtype, inner // step), shared)
    threads = 512 if dtype == "e" and inner > 64 else 256  # LEFT_WARPS
    chunk = _rows_at_a_time(k * q * itemsize)
    launches = []
    for begin in range(0, rows, chunk):
        some = min(chunk, rows - begin)
        tiles = (some + step - 1) // step
        of_first, of_second = (
            tuple(map(np.int32, sizes)) for sizes in ((some, k, q), (some, count, height))
        )
        launches.append(
            (begin, (k, (tiles + 3) // 4), of_first, (2 * count // step, tiles), of_second)
        )
    room = (min(chunk, rows) + step - 1) // step * step * k * q

    def launch(x, left, right, y):
        u = cp.empty(room, dtype=x.dtype)
        for begin, first_grid, of_first, second_grid, of_second in launches:
            some_x = x.ravel()[begin * k * p :] if begin else x
            some_y = y.ravel()[begin * count * height :] if begin else y
            first(first_grid, (128,), (some_x, right, u, *of_first))
            second(second_grid, (threads,), (u, left, some_y, *of_second), shared_mem=shared)

    return launch


def _shared_bytes(height, width, itemsize):
    """What `begin_of` of _products.cu needs for so many rho or sigma."""
    return height * (width + 8 * itemsize) + height * itemsize // 16 * 32


class _Limits(NamedTuple):
    capability: int
    processors: int
    shared_bytes: int  # that a block may take


@cache
def _limits(device):
    import cupy as cp

    device = cp.cuda.Device(device)
    attributes = device.attributes
    return _Limits(
        int(device.compute_capability),
        attributes["MultiProcessorCount"],
        attributes["MaxSharedMemoryPerBlockOptin"],
    )
