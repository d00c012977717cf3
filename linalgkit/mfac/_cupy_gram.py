"""GPU engine: the Gram matrix of half-precision rows by products of 8-bit integers.

Sums of half precision on tensor cores are truncated; those of 8-bit integers are exact. Rows scaled
by powers of two are split in digits -64...63 to the base 128. Products of two different digits come
from their sum, (D_i + D_j)(D_i + D_j)ᵀ - D_i D_iᵀ - D_j D_jᵀ, so that every product is one of a
matrix with itself, of which half is enough: 10 halves for four digits.

Four digits hold a float16 whole that is within 2⁻¹⁶ of its row's largest number, and all of them
if that is 1, as after scaling by the library. For what is left of others a row's relative length is
the measure: 2⁻⁴⁴ may be lost, which as rounding of numbers independent of each other, 16,384 at
least, is below 2⁻⁵¹ in the Gram matrix. Five digits leave 2⁻⁴⁵ of bfloat16 that is distributed
normally. Rows spread further are for float64.
"""

from pathlib import Path

import numpy as np

from .._cuda import Source

_NUMBERS = {"e": "linalgkit::Half", "H": "linalgkit::BFloat"}
_DIGITS = (4, 5)  # six need more time than float64
_WIDTH, _BLOCK, _ROWS = 16384, 256, 8  # as in _gram.cu
_BYTES = 2**30  # of integers at a time
_REMAINDER = 2.0**-44  # of a row's length
_INTEGERS, _SUMS = 3, 10  # cuBLAS's names of int8 and int32


def _kernel(name, *arguments):
    return f"linalgkit::{name}<{', '.join(map(str, arguments))}>"


KERNELS = Source(
    Path(__file__).with_name("_gram.cu"),
    (
        *(
            _kernel(name, number)
            for name in ("largest", "remainders")
            for number in _NUMBERS.values()
        ),
        *(_kernel("split", number, n) for number in _NUMBERS.values() for n in _DIGITS),
        *(_kernel("collect", n) for n in _DIGITS),
    ),
)


def is_integral(g):
    """Tell whether rows are stored in half precision, and enough for products of integers."""
    return g.dtype.char in _NUMBERS and g.shape[0] >= _BLOCK and g.shape[1] >= _WIDTH


def gram(g):
    """Return K = G Gᵀ, or None where numbers are spread too far, or not finite."""
    import cupy as cp

    g = cp.ascontiguousarray(g)
    exponents = _exponents(g)
    if exponents is None:
        return None
    for digits in _DIGITS:
        shifts = 7 * digits - 1 - exponents
        scales = cp.asarray(np.ldexp(1.0, shifts))
        if _remainder(g, scales) <= _REMAINDER:
            return _product(g, scales, digits) / scales[:, None] / scales
    return None


def _exponents(g):
    """Return powers of two above the rows' largest magnitudes; None where one is not finite."""
    import cupy as cp

    (m, d), number = g.shape, _NUMBERS[g.dtype.char]
    bits = cp.zeros(m, np.uint32)
    grid = -(-d // _WIDTH), -(-m // _ROWS)
    KERNELS[_kernel("largest", number)](grid, (32 * _ROWS,), (g, bits, np.int32(m), np.int64(d)))
    bits = bits.get()
    if g.dtype.char == "e":
        values = bits.astype(np.uint16).view(np.float16)
    else:
        values = (bits << np.uint32(16)).view(np.float32)
    return np.frexp(values)[1] if np.isfinite(values).all() else None


def _remainder(g, scales):
    """Return the largest relative length of what rounding to integers leaves of a row."""
    import cupy as cp

    (m, d), pieces = g.shape, -(-g.shape[1] // _WIDTH)
    sums = cp.empty((pieces, m, 2))
    kernel = KERNELS[_kernel("remainders", _NUMBERS[g.dtype.char])]
    grid = pieces, -(-m // _ROWS)
    kernel(grid, (32 * _ROWS,), (g, scales, sums, np.int32(m), np.int64(d)))
    lengths, rests = sums.sum(axis=0).get().T
    return float(np.max(rests / np.where(lengths > 0, lengths, 1.0))) ** 0.5


def _product(g, scales, digits):
    """Return A Aᵀ in float64 for the rows of integers A."""
    import cupy as cp

    m, d = g.shape
    planes, blocks = digits * (digits + 1) // 2, -(-m // _BLOCK)
    most = max(1, _BYTES // (planes * blocks * _BLOCK * _WIDTH))
    pieces = -(-d // (_WIDTH * -(-d // (_WIDTH * most))))  # of each round, the same number
    batch = planes * pieces
    integers = cp.empty((blocks * batch, _BLOCK, _WIDTH), np.int8)
    products = cp.empty((blocks * batch, _BLOCK, _BLOCK), np.int32)
    totals = [cp.zeros((blocks - below, _BLOCK, _BLOCK)) for below in range(blocks)]
    split = KERNELS[_kernel("split", _NUMBERS[g.dtype.char], digits)]
    collect = KERNELS[_kernel("collect", digits)]
    grid = pieces * _WIDTH // (4 * 256), blocks * _BLOCK
    for first in range(0, d, pieces * _WIDTH):
        sizes = np.int32(m), np.int64(d), np.int64(first), np.int32(pieces)
        split(grid, (256,), (g, scales, integers, *sizes))
        # Blocks of rows lie one after the other, each with all its planes and pieces, so that one
        # call multiplies all pairs of blocks that are equally far apart.
        for below, total in enumerate(totals):
            count = (blocks - below) * batch
            _multiply(integers[below * batch :], integers, products, count)
            grid_of_sums = _BLOCK * _BLOCK // 256, blocks - below
            collect(grid_of_sums, (256,), (products, total, np.int32(pieces)))
    return _assembled(totals)[:m, :m]


def _multiply(left, right, result, count):
    """Fill ``result[k] = left[k] @ right[k].T`` for the first `count`, by cuBLAS."""
    from cupy.cuda import cublas, device

    one, zero = np.ones(1, np.int32), np.zeros(1, np.int32)
    cublas.gemmStridedBatchedEx(
        device.get_cublas_handle(), cublas.CUBLAS_OP_T, cublas.CUBLAS_OP_N,
        _BLOCK, _BLOCK, _WIDTH, one.ctypes.data,
        right.data.ptr, _INTEGERS, _WIDTH, _BLOCK * _WIDTH,
        left.data.ptr, _INTEGERS, _WIDTH, _BLOCK * _WIDTH, zero.ctypes.data,
        result.data.ptr, _SUMS, _BLOCK, _BLOCK * _BLOCK, count,
        cublas.CUBLAS_COMPUTE_32I, cublas.CUBLAS_GEMM_DEFAULT,
    )  # fmt: skip


def _assembled(totals):
    """Put blocks on and below the diagonal together in a symmetric matrix."""
    import cupy as cp

    blocks = len(totals)
    result = cp.empty((blocks, _BLOCK, blocks, _BLOCK))
    for below, total in enumerate(totals):
        for k, block in enumerate(total):
            result[k + below, :, k] = block
            result[k, :, k + below] = block.T
    return result.reshape(blocks * _BLOCK, -1)
