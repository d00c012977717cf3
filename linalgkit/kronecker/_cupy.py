"""GPU engine: one kernel for modes of at most 32 points, cuBLAS on views of the grid for others.

Nothing is transposed in memory, and nothing waits for the device. Complex grids and batches of
factors go to cuBLAS by the reference engine, and so do decompositions (cuSOLVER).
"""

from pathlib import Path

import numpy as np

from .._cuda import Source
from . import _array_api_products as reference
from . import _array_api_solves as reference_sums
from ._modes import columns_of, modes, rows_of, steps

_REAL = {"f": "float", "d": "double"}
_POINTS = (4, 8, 16, 32)  # of a fibre in registers
_THREADS = 256

KERNELS = Source(
    Path(__file__).with_name("_modes.cu"),
    tuple(f"linalgkit::mode<{real}, {points}>" for real in _REAL.values() for points in _POINTS),
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
    for k, _, right in steps(rows_of(factors), columns_of(factors)):
        m, n = factors[k].shape
        y = cp.empty(x.size // n * m, dtype=x.dtype)
        _mode(x, factors[k], y, right * columns)
        x = y
    return x.reshape(*lead, -1)


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
    values, vectors = zip(
        *(cp.linalg.eigh(reference_sums.hermitian_part(factor)) for factor in factors), strict=True
    )
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
    if max(m, n) <= _POINTS[-1]:
        points = next(size for size in _POINTS if n <= size)
        kernel = KERNELS[f"linalgkit::mode<{_REAL[x.dtype.char]}, {points}>"]
        fibres = x.size // n
        blocks = min(-(-fibres // _THREADS), 1 << 20)
        sizes = np.int64(fibres), np.int64(right), np.int32(m), np.int32(n), np.int32(adds)
        kernel((blocks,), (_THREADS,), (x, factor, y, *sizes))
    else:
        _by_cublas(x, factor, y, right, adds)


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
