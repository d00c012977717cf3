"""CPU engine of reflection products: the compact WY form in blocks, by BLAS from compiled kernels.

A block of reflections is I - V T Vᴴ: Y = Vᴴ X, Z = T Y, X ← X - V Z are three calls of gemm, which
bounds it. T costs as much as 64 columns of X, so operators keep it. X is taken in row- or
column-major order as it comes. A single X is left to the threads of BLAS (cut into strips of
columns, one thread each, it took up to twice as long); of a batch each thread takes items.
"""

from math import prod
from typing import NamedTuple

import numpy as np
from numba import njit

from .._blas import gemm
from .._checks import kernel_array
from .._intrinsics import INNER, OUTER
from .._threads import chunk_bounds, run_chunks

_BLOCK = 64  # reflections
_WORK = 4_000_000  # multiply-adds of a chunk of work: 0.1 ms
_NORMAL, _TRANSPOSED, _CONJUGATE = ord("n"), ord("t"), ord("c")  # as BLAS is told
_KINDS = {"f": ord("s"), "d": ord("d"), "F": ord("c"), "D": ord("z")}


class Factors(NamedTuple):
    """What an operator keeps for its next product."""

    vectors: np.ndarray  # (items, r, n): the reflections' vectors are rows
    triangles: np.ndarray  # (items, blocks, 64, 64): Tᵀ of each block
    firsts: np.ndarray  # (items, blocks): rows of V above are zeros in the block


def reflect(x, vectors, tau, kept, *, adjoint):
    """Multiply blocks from the left to a copy of X, in X's own order."""
    wide = np.dtype(np.float32) if x.dtype.itemsize < 4 else x.dtype
    if vectors.strides[-1] < 0:  # a flip: an adjoint, whose adjoint is the product in order
        vectors, tau, adjoint = vectors[..., ::-1], np.conj(tau[..., ::-1]), not adjoint
    if wide not in kept:
        kept[wide] = _factors(vectors.astype(wide, copy=False), tau.astype(wide, copy=False))
    factors = kept[wide]
    batch = np.broadcast_shapes(x.shape[:-2], tau.shape[:-1])
    places = _places(x.shape[:-2], batch), _places(tau.shape[:-1], batch)
    is_turned = not x.flags.c_contiguous and x.mT.flags.c_contiguous
    y = kernel_array((x.mT if is_turned else x).astype(wide, copy=False))
    n, m = x.shape[-2:]
    result = np.empty((prod(batch), *y.shape[-2:]), wide)
    bounds = chunk_bounds((prod(batch), 2 * n * tau.shape[-1] * m), minimum=_WORK)
    run_chunks(
        _reflect, bounds, _KINDS[wide.char], _scalars(wide), adjoint, is_turned,
        *map(kernel_array, places), y.reshape(prod(x.shape[:-2]), *y.shape[-2:]), *factors, result,
        scratch=lambda: np.empty((2, _BLOCK * m), wide), blas=len(bounds) > 2,
    )  # fmt: skip
    result = result.reshape(*batch, *y.shape[-2:]).astype(x.dtype, copy=False)
    return result.mT if is_turned else result


def _factors(vectors, tau):
    """Return T of every block, and where the block begins."""
    (n, r), items, dtype = vectors.shape[-2:], prod(tau.shape[:-1]), tau.dtype
    blocks = -(-r // _BLOCK)
    vectors = kernel_array(kernel_array(vectors.mT).reshape(items, r, n))
    firsts = np.empty((items, blocks), np.int64)
    triangles = np.empty((items, blocks, _BLOCK, _BLOCK), dtype)
    bounds = chunk_bounds((items * blocks, max(1, n * min(r, _BLOCK) ** 2)), minimum=_WORK)
    run_chunks(
        _triangles, bounds, _KINDS[dtype.char], _scalars(dtype), vectors,
        kernel_array(tau.reshape(items, r)), triangles, firsts,
        scratch=lambda: np.empty((_BLOCK, _BLOCK), dtype), blas=len(bounds) > 2,
    )  # fmt: skip
    return Factors(vectors, kernel_array(triangles), kernel_array(firsts))


def _places(shape, batch):
    """Return which item of an array serves each item of the broadcast batch."""
    return np.broadcast_to(np.arange(prod(shape)).reshape(shape), batch).ravel()


def _scalars(dtype):
    return kernel_array(np.array([1, 0, -1], dtype))


@njit(nogil=True, cache=True, **INNER)
def _address(array):
    """Return where an array begins, signed: unsigned and signed numbers add up to floats."""
    return np.intp(array.ctypes.data)


@njit(nogil=True, cache=True, error_model="numpy", **OUTER)
def _triangles(start, stop, kind, scalars, vectors, tau, triangles, firsts, gram):
    """Compute T = (I + D striu(G))⁻¹ D, G = Vᴴ V, D = diag(tau), for blocks of all items.

    Column j of T ends in tau_j, above which stands -tau_j T[:j, :j] G[:j, j]; the rows here are
    these columns.
    """
    blocks, size = triangles.shape[1], triangles.itemsize
    r, n = vectors.shape[1:]
    one, zero = _address(scalars), _address(scalars) + size
    for unit in range(start, stop):
        item, block = unit // blocks, unit % blocks
        begin = block * _BLOCK
        width = min(r - begin, _BLOCK)
        first = n
        for k in range(begin, begin + width):
            i = 0
            while i < first and vectors[item, k, i] == 0:
                i += 1
            first = i
        firsts[item, block] = first
        t = triangles[item, block]
        if first == n:
            for j in range(_BLOCK):
                for k in range(_BLOCK):
                    t[j, k] = 0
            continue
        v = _address(vectors) + ((item * r + begin) * n + first) * size
        gemm(
            kind, _CONJUGATE, _NORMAL, width, width, n - first, one, v, n, v, n, zero,
            _address(gram), _BLOCK,
        )  # fmt: skip
        for j in range(width):  # gram[j, k] = v_kᴴ v_j
            strength = tau[item, begin + j]
            for k in range(_BLOCK):
                t[j, k] = 0
            for k in range(j):
                factor = strength * gram[j, k]
                for i in range(k + 1):
                    t[j, i] -= factor * t[k, i]
            t[j, j] = strength


@njit(nogil=True, cache=True, error_model="numpy", **OUTER)
def _reflect(
    start, stop, kind, scalars, adjoint, is_turned, x_places, v_places, x, vectors, triangles,
    firsts, result, buffer,
):  # fmt: skip
    """Multiply all blocks to copies of the items of X.

    As BLAS sees them, V is (n, r), X is (n, m) if `is_turned`, else there is Xᵀ (m, n).
    """
    size, blocks = result.itemsize, firsts.shape[1]
    r, n = vectors.shape[1:]
    m = x.shape[1 if is_turned else 2]
    one = _address(scalars)
    zero, minus = one + size, one + 2 * size
    y, z = _address(buffer), _address(buffer) + buffer.shape[1] * size
    of_x = _NORMAL if is_turned else _TRANSPOSED
    of_t = _CONJUGATE if adjoint else _NORMAL
    for item in range(start, stop):
        operator = v_places[item]
        source, target = x[x_places[item]], result[item]
        for i in range(source.shape[0]):  # an assignment would compile to messages of shapes
            for j in range(source.shape[1]):
                target[i, j] = source[i, j]
        for k in range(blocks):
            block = k if adjoint else blocks - 1 - k
            begin, first = block * _BLOCK, firsts[operator, block]
            width, rows = min(r - begin, _BLOCK), n - first
            if rows == 0 or m == 0:
                continue
            t = _address(triangles) + (operator * blocks + block) * _BLOCK * _BLOCK * size
            v = _address(vectors) + ((operator * r + begin) * n + first) * size
            at, across = _address(result) + item * n * m * size, n if is_turned else m
            at += first * size if is_turned else first * m * size
            gemm(kind, _CONJUGATE, of_x, width, m, rows, one, v, n, at, across, zero, y, _BLOCK)
            gemm(
                kind, of_t, _NORMAL, width, m, width, one, t, _BLOCK, y, _BLOCK, zero, z,
                _BLOCK,
            )  # fmt: skip
            if is_turned:
                gemm(
                    kind, _NORMAL, _NORMAL, rows, m, width, minus, v, n, z, _BLOCK, one, at,
                    across,
                )  # fmt: skip
            else:
                gemm(
                    kind, _TRANSPOSED, _TRANSPOSED, m, rows, width, minus, z, _BLOCK, v, n,
                    one, at, across,
                )  # fmt: skip
