"""GPU engine: kernels for modes of at most 16 points, cuBLAS on views of the grid for others.

Two neighbouring small modes are applied on one way through memory. (At 32 points cuBLAS took 0.6
times the time of a kernel with fibres in registers.) Nothing is transposed in memory, and no
product waits for the device. Complex grids and batches of factors go to cuBLAS by the reference
engine, and so do decompositions (cuSOLVER).
"""

from math import prod
from pathlib import Path

import numpy as np

from .._cuda import Source
from . import _array_api_products as reference
from . import _array_api_solves as reference_sums
from ._modes import columns_of, modes, rows_of, steps

_REAL = {"f": "float", "d": "double"}
_POINTS = (4, 8, 16)  # of a fibre in registers
_THREADS = 256
_TILE = 4096  # entries that a block has of a pair of modes

KERNELS = Source(
    Path(__file__).with_name("_modes.cu"),
    tuple(
        f"linalgkit::{name}<{real}, {points}>"
        for name in ("mode", "pair")
        for real in _REAL.values()
        for points in _POINTS
    ),
)

# Alpha and beta of cuBLAS, on the host: 1 and 0, and 1 and 1.
_SCALARS = {
    (letter, adds): np.array([1, adds], letter) for letter in _REAL for adds in (False, True)
}


def kron_matvec(x, *factors, columns):
    """Apply the modes one after the other."""
    import cupy as cp

    if not _serves(x, factors):
        return reference.kron_matvec(x, *factors, columns=columns)
    lead, x = x.shape[:-1], cp.ascontiguousarray(x)
    factors = [cp.ascontiguousarray(factor) for factor in factors]
    for group, right in _passes(factors):
        m, n = (prod(sizes) for sizes in zip(*(factor.shape for factor in group), strict=True))
        y = cp.empty(x.size // n * m, dtype=x.dtype)
        (_mode if len(group) == 1 else _pair)(x, *group, y, right * columns)
        x = y
    return x.reshape(*lead, -1)


def _passes(factors):
    """Yield the factors of one way through memory, one or two neighbours, and what is behind."""
    plan = steps(rows_of(factors), columns_of(factors))
    while plan:
        k, _, right = plan.pop(0)
        if plan and abs(plan[0][0] - k) == 1 and _is_small(factors[k], factors[plan[0][0]]):
            other, _, behind = plan.pop(0)
            yield (factors[min(k, other)], factors[max(k, other)]), min(right, behind)
        else:
            yield (factors[k],), right


def kronsum_matvec(x, *factors, columns):
    """Add up the products along the modes, in one array."""
    import cupy as cp

    if not _serves(x, factors):
        return reference_sums.kronsum_matvec(x, *factors, columns=columns)
    x = cp.ascontiguousarray(x)
    y = cp.empty_like(x)
    for k, _, right in modes(columns_of(factors)):
        _mode(x, cp.ascontiguousarray(factors[k]), y, right * columns, adds=k > 0)
    return y


def kron_matvec_vjp(cotangent, x, *factors, columns, wrt):
    """Pull the cotangent back, as the reference engine does; for x alone by the kernels."""
    if wrt == ("x",) and _serves(cotangent, factors) and _serves(x, factors):
        adjoints = [factor.T.conj() for factor in factors]
        return kron_matvec(cotangent, *adjoints, columns=columns), *([None] * len(factors))
    return reference.kron_matvec_vjp(cotangent, x, *factors, columns=columns, wrt=wrt)


def kronsum_solve(b, *factors, shift, method, columns):
    """Solve by eigenvectors on the device, two products of it by the kernels."""
    import cupy as cp

    if method != "eigh" or not _serves(b, factors) or isinstance(shift, complex):
        return reference_sums.kronsum_solve(
            b, *factors, shift=shift, method=method, columns=columns
        )
    forms = {id(factor): factor for factor in factors}  # the same array is decomposed once
    for key, factor in forms.items():
        forms[key] = cp.linalg.eigh(reference_sums.hermitian_part(factor))
    values, vectors = zip(*(forms[id(factor)] for factor in factors), strict=True)
    c = kron_matvec(b, *(q.T for q in vectors), columns=columns)
    total = reference.outer(values, cp.add) + shift
    c = reference_sums.divided(c, total, "the Kronecker sum", columns)
    return kron_matvec(c, *vectors, columns=columns)


def _serves(x, factors):
    """Tell whether kernels and cuBLAS take these directly: real, one matrix a factor, not empty."""
    return (
        x.dtype.char in _REAL
        and x.size > 0
        and all(factor.ndim == 2 and factor.size > 0 for factor in factors)
    )


def _mode(x, factor, y, right, adds=False):
    """Apply a matrix along a mode with `right` numbers behind it: y = A x, or added to y."""
    m, n = factor.shape
    if _is_small(factor):
        fibres = x.size // n
        blocks = min(-(-fibres // _THREADS), 1 << 20)
        sizes = np.int64(fibres), np.int64(right), np.int32(m), np.int32(n), np.int32(adds)
        _kernel("mode", x, factor)[0]((blocks,), (_THREADS,), (x, factor, y, *sizes))
    else:
        _by_cublas(x, factor, y, right, adds)


def _pair(x, first, second, y, right):
    """Apply two matrices along neighbouring modes with `right` numbers behind them."""
    sizes = (*first.shape, *second.shape)
    columns = x.size // (first.shape[1] * second.shape[1])
    kernel, points = _kernel("pair", x, first, second)
    blocks = min(-(-columns // (_TILE // points**2)), 1 << 20)
    numbers = np.int64(columns), np.int64(right), *map(np.int32, sizes)
    kernel((blocks,), (_THREADS,), (x, first, second, y, *numbers))


def _is_small(*factors):
    return max(size for factor in factors for size in factor.shape) <= _POINTS[-1]


def _kernel(name, x, *factors):
    """Return the kernel for matrices of that size, and its number of points."""
    most = max(size for factor in factors for size in factor.shape)
    points = next(size for size in _POINTS if most <= size)
    return KERNELS[f"linalgkit::{name}<{_REAL[x.dtype.char]}, {points}>"], points


def _by_cublas(x, factor, y, right, adds):
    """Multiply where the grid lies: a batch of matrices, or one where the mode is first or last."""
    from cupy.cuda import cublas, device

    (m, n), letter = factor.shape, x.dtype.char
    left = x.size // (n * right)
    one = _SCALARS[letter, bool(adds)].ctypes.data
    zero, handle = one + x.itemsize, device.get_cublas_handle()
    normal, turned = cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T
    batched = cublas.sgemmStridedBatched if letter == "f" else cublas.dgemmStridedBatched
    whole = cublas.sgemm if letter == "f" else cublas.dgemm
    places = x.data.ptr, factor.data.ptr, y.data.ptr
    if right == 1:  # row-major Y = X Aᵀ is column-major Yᵀ = A Xᵀ
        whole(
            handle, turned, normal, m, left, n, one, places[1], n, places[0], n, zero, places[2], m
        )
    else:  # Y = A X is column-major Yᵀ = Xᵀ Aᵀ
        batched(
            handle, normal, normal, right, m, n, one, places[0], right, n * right,
            places[1], n, 0, zero, places[2], right, m * right, left,
        )  # fmt: skip
