"""Reference engine: the Fisher matrix of m gradients, on arrays of any library.

    F = λ I + Gᵀ G / m,   K = G Gᵀ,   M = m λ I + K = C Cᵀ,   W = C⁻¹

Sums are in float64 (float32 with JAX that was not told to know more), over pieces of columns, so
that no wide copy of G is made.
"""

import sys
from functools import reduce
from math import prod
from operator import add

import numpy as np
from array_api_compat import array_namespace, device, is_cupy_array, is_jax_array, is_numpy_array

from .._xp import compiled, solve_unit_lower
from ._lost import attempted, check_triangle, checked, shifted

_HERE = sys.modules[__name__]
_ENTRIES = 1 << 22  # of G that are widened at a time
LOST = 1e-12  # of a diagonal entry in float64: pivots below have no digits left


def wide_dtype(array):
    """Return float64, or for JAX what it has."""
    xp = array_namespace(array)
    if is_jax_array(array):
        return xp.__array_namespace_info__().default_dtypes()["real floating"]
    return xp.float64


def widened(array):
    """Return an array in float64; uint16 are bits of bfloat16."""
    xp = array_namespace(array)
    if array.dtype == getattr(xp, "uint16", None):
        array = array.astype(xp.uint32)
        array <<= np.uint32(16)
        array = array.view(xp.float32)
    return xp.astype(array, wide_dtype(array), copy=False)


def squared_lengths(g):
    """Return the rows' squared lengths."""
    xp = array_namespace(g)
    return _summed(lambda piece: xp.sum(widened(piece) ** 2, axis=1), g)


def gram(g, *, tolerance):
    """Return K = G Gᵀ; engines may be wrong by `tolerance` times lengths of rows."""

    def term(piece):
        rows = widened(piece)
        return rows @ rows.T

    return _summed(term, g)


@compiled()
def dots(g, x):
    """Return G x."""
    return _summed(lambda piece, part: widened(piece) @ widened(part), g, x)


def combine(coefficients, g, x, *, factor, dtype):
    """Return factor x + Gᵀ a."""
    xp = array_namespace(g)

    def some(piece, *part):
        values = widened(piece).T @ coefficients
        if part:
            values = factor * widened(part[0]) + values
        return xp.astype(values, dtype)

    return _joined(some, g, *(() if x is None else (x,)))


def column_norms(g, root):
    """Return the squared lengths of the columns of W G."""
    xp = array_namespace(g)
    return _joined(lambda piece: xp.sum((root @ widened(piece)) ** 2, axis=0), g)


def column_squares(g, weights):
    """Return the sums of the columns' squares, each row with its weight."""
    return _joined(lambda piece: weights @ widened(piece) ** 2, g)


def column_grams(g, root, *, block):
    """Return Zᵀ Z (d / block, block, block) of the columns of Z = W G in blocks."""
    xp, m = array_namespace(g), g.shape[0]

    def some(piece):
        z = xp.reshape(root @ widened(piece), (m, -1, block))
        z = xp.permute_dims(z, (1, 2, 0))
        return z @ xp.permute_dims(z, (0, 2, 1))

    return _joined(some, g, block=block)


@compiled()
def columns(g, places):
    """Return columns of G by their places, NumPy's."""
    if is_numpy_array(g):
        return widened(g[:, places])
    xp = array_namespace(g)
    return widened(xp.take(g, xp.asarray(places, device=device(g)), axis=1))


@compiled()
def inverse_cholesky(matrix):
    """Return W = C⁻¹ for M = C Cᵀ."""
    return _inverse_lower(array_namespace(matrix).linalg.cholesky(matrix))


@compiled()
def triangle(rows):
    """Return R of rows = Q R."""
    return qr(rows)[1]


@compiled()
def qr(rows):
    """Return Q and R."""
    return array_namespace(rows).linalg.qr(rows)


@compiled()
def inverse_triangle(triangle):
    """Return R⁻¹."""
    return array_namespace(triangle).linalg.inv(triangle)


def solve_by_root(root, right):
    """Return M⁻¹ b = Wᵀ W b."""
    return root.T @ (root @ right)


@compiled()
def cholesky(matrix):
    """Return C for M = C Cᵀ."""
    return array_namespace(matrix).linalg.cholesky(matrix)


@compiled()
def cholesky_solve(factor, right):
    """Return M⁻¹ b for a vector, or for the columns of a matrix."""
    columns = right[:, None] if right.ndim == 1 else right
    return array_namespace(factor).reshape(_substituted(factor, columns), right.shape)


@compiled()
def fisher_solve(x, gradients, *, damping):
    """Return F⁻¹ x = (x - Gᵀ M⁻¹ G x) / λ, or R⁻¹ R⁻ᵀ x for F = Rᵀ R of few parameters."""
    return solver(_HERE, gradients, damping)(x, x.dtype)


@compiled("wrt")
def fisher_solve_vjp(cotangent, x, gradients, *, damping, wrt):
    """With y = F⁻¹ x: x̄ = F⁻¹ ȳ, Ḡ = -(G x̄ yᵀ + G y x̄ᵀ) / m."""
    xp, (m, _) = array_namespace(x, gradients), gradients.shape
    solved, wide = solver(_HERE, gradients, damping), wide_dtype(x)
    of_x = solved(cotangent, wide)
    if "gradients" not in wrt:
        return xp.astype(of_x, x.dtype), None
    y = solved(x, wide)
    single = x.ndim == 1
    a, b = (v[:, None] if single else v for v in (of_x, y))
    pulled = (dots(gradients, a) @ b.T + dots(gradients, b) @ a.T) / -m
    of_gradients = xp.astype(pulled, gradients.dtype)
    return (xp.astype(of_x, x.dtype) if "x" in wrt else None), of_gradients


@compiled()
def woodbury_static(gradients, *, damping):
    """Y = L⁻¹ G / λ and c = D / λ for M = L D Lᵀ; m on the diagonal of M / λ is within c."""
    xp = array_namespace(gradients)
    root = _root(_HERE, gradients, damping)
    scale = 1 / xp.linalg.diagonal(root)  # C = L diag(scale)
    y = (scale[:, None] * root) @ widened(gradients) / damping
    return xp.astype(y, gradients.dtype), xp.astype(scale**2 / damping, gradients.dtype)


@compiled()
def saliency(weights, inverse):
    """w² / (2 diag), or ½ wᵀ B⁻¹ w of groups whose blocks of the inverse are B."""
    xp = array_namespace(weights, inverse)
    if inverse.ndim == 1:
        return weights**2 / (2 * inverse)
    w = xp.reshape(weights, (*inverse.shape[:2], 1))
    return xp.sum(w * xp.linalg.solve(inverse, w), axis=(1, 2)) / 2


@compiled("block")
def block_factors(g, kept, *, block, damping):
    """Return the Cholesky factors (blocks, B, B) of the blocks λ I + G_bᵀ G_b / m."""
    return _block_factors(g, kept, block, damping)


@compiled("block")
def block_diagonal(g, kept, *, block, damping):
    """Return the diagonal of the inverse of every block: column sums of squares of L⁻¹."""
    xp = array_namespace(g)
    roots = _inverse_lower(_block_factors(g, kept, block, damping))
    return xp.reshape(xp.sum(roots**2, axis=1), (-1,))[: g.shape[1]]


@compiled("size")
def block_inverses(factors, *, size):
    """Return the blocks of a smaller size along the diagonals of the inverses."""
    xp, (blocks, block, _) = array_namespace(factors), factors.shape
    roots = xp.reshape(_inverse_lower(factors), (blocks, block, block // size, size))
    roots = xp.permute_dims(roots, (0, 2, 3, 1))  # of each smaller block the columns, as rows
    return xp.reshape(roots @ xp.permute_dims(roots, (0, 1, 3, 2)), (-1, size, size))


@compiled("dtype")
def block_solve(factors, x, *, dtype):
    """Solve L Lᵀ y = x for every block."""
    xp, (blocks, block, _) = array_namespace(x), factors.shape
    right = _in_blocks(x, blocks, block)
    y = xp.reshape(_substituted(factors, right), (blocks * block, *x.shape[1:]))
    return xp.astype(y[: x.shape[0], ...], dtype)


@compiled("dtype")
def block_whiten(factors, x, power, damping, *, dtype):
    """Return (L Lᵀ)^power x of every block, by its eigenvectors; values are λ at least."""
    xp, (blocks, block, _) = array_namespace(x), factors.shape
    values, vectors = xp.linalg.eigh(factors @ xp.permute_dims(factors, (0, 2, 1)))
    values = xp.where(values > damping, values, xp.full_like(values, damping))
    right = xp.permute_dims(vectors, (0, 2, 1)) @ _in_blocks(x, blocks, block)
    image = vectors @ (values[:, :, None] ** power * right)
    image = xp.reshape(image, (blocks * block, *x.shape[1:]))
    return xp.astype(image[: x.shape[0], ...], dtype)


@compiled("block", "dtype")
def block_product(g, x, *, block, damping, dtype):
    """Return λ x + G_bᵀ G_b x / m for every block."""
    xp, m = array_namespace(g, x), g.shape[0]

    def some(piece, part):
        blocks = -(-piece.shape[1] // block)
        rows = xp.permute_dims(_filled(widened(piece).T, blocks * block), (1, 0))
        rows = xp.permute_dims(xp.reshape(rows, (m, blocks, block)), (1, 0, 2))
        image = xp.permute_dims(rows, (0, 2, 1)) @ (rows @ _in_blocks(part, blocks, block)) / m
        image = xp.reshape(image, (blocks * block, *x.shape[1:]))[: part.shape[0], ...]
        return xp.astype(damping * widened(part) + image, dtype)

    return _joined(some, g, x, block=block)


def _block_factors(g, kept, block, damping):
    """Return the blocks' Cholesky factors; NaN for a block that has none with digits."""
    matrices = _block_matrices(g, kept, block, damping)
    xp, factors = array_namespace(g), array_namespace(g).linalg.cholesky(matrices)
    pivots, whole = xp.linalg.diagonal(factors) ** 2, xp.linalg.diagonal(matrices)
    lost = LOST * float(xp.finfo(matrices.dtype).eps) / 2.0**-52  # JAX may have float32 alone
    is_lost = xp.any(pivots <= lost * whole, axis=-1)[:, None, None]
    return xp.where(is_lost, xp.full_like(factors, xp.nan), factors)


def _block_matrices(g, kept, block, damping):
    """Return the blocks; the last one is filled up by zero columns, and so is what is not kept."""
    xp, (m, d) = array_namespace(g), g.shape
    rows = widened(g)
    if kept is not None:
        rows = xp.where(kept, rows, xp.zeros_like(rows))
    blocks = -(-d // block)
    rows = xp.reshape(_filled(rows.T, blocks * block), (blocks, block, m))
    eye = xp.eye(block, dtype=rows.dtype, device=device(g))
    return damping * eye + rows @ xp.permute_dims(rows, (0, 2, 1)) / m


def _filled(x, length):
    """Append zeros along the first axis."""
    xp, missing = array_namespace(x), length - x.shape[0]
    if not missing:
        return x
    zeros = xp.zeros((missing, *x.shape[1:]), dtype=x.dtype, device=device(x))
    return xp.concat([x, zeros], axis=0)


def _in_blocks(x, blocks, block):
    """Return vectors as (blocks, block, k), filled up by zeros."""
    return array_namespace(x).reshape(
        _filled(widened(x), blocks * block), (blocks, block, prod(x.shape[1:]))
    )


def _substituted(factors, right):
    """Solve L Lᵀ y = b forwards and backwards, for matrices b."""
    xp, half = array_namespace(factors), _solve_lower(factors, right)
    # The transpose is lower triangular with rows and columns in reverse.
    order = (*range(factors.ndim - 2), factors.ndim - 1, factors.ndim - 2)
    flipped = xp.flip(xp.permute_dims(factors, order), axis=(-2, -1))
    return xp.flip(_solve_lower(flipped, xp.flip(half, axis=-2)), axis=-2)


def _inverse_lower(factors):
    xp = array_namespace(factors)
    eye = xp.eye(factors.shape[-1], dtype=factors.dtype, device=device(factors))
    return _solve_lower(factors, xp.broadcast_to(eye, factors.shape))


def _solve_lower(factors, right):
    scale = array_namespace(factors).linalg.diagonal(factors)
    return solve_unit_lower(factors / scale[..., None, :], right) / scale[..., :, None]


def is_few(m, d, like):
    """Tell whether to factorise the matrix of d parameters, and not that of m gradients.

    It costs less where they are half as many. And where they are fewer at all, it is the only one
    that keeps digits in float32, which is all that JAX may have.
    """
    xp = array_namespace(like)
    return 2 * d <= m or (d <= m and wide_dtype(like) == xp.float32)


def damped_rows(pieces, damping):
    """Return [G / √m; √λ I] for the pieces of G / √m, or for others of the same R."""
    xp, rows = array_namespace(*pieces), pieces[-1]
    d = rows.shape[1]
    eye = damping**0.5 * xp.eye(d, dtype=rows.dtype, device=device(rows))
    return xp.concat([*pieces, eye], axis=0)


def solver(engine, gradients, damping):
    """Return what gives F⁻¹ x in a dtype, by an engine's passes over the gradients."""
    xp, (m, d) = array_namespace(gradients), gradients.shape
    if is_few(m, d, gradients):
        triangle = engine.triangle(damped_rows([widened(gradients) / m**0.5], damping))
        inverse = engine.inverse_triangle(triangle)
        if _is_concrete(gradients):
            check_triangle(triangle, inverse, damping)
        return lambda x, dtype: xp.astype(inverse @ (inverse.T @ widened(x)), dtype)
    root = _root(engine, gradients, damping)

    def solved(x, dtype):
        coefficients = engine.solve_by_root(root, engine.dots(gradients, x)) / -damping
        return engine.combine(coefficients, gradients, x, factor=1 / damping, dtype=dtype)

    return solved


def product_as(left, right, like):
    """Return a product of matrices in a dtype; half precision is rounded from float32, by pieces.

    NumPy and CuPy have no fast product in half precision, and factors may be beyond its range.
    """
    dtype = np.promote_types(like, np.float32)
    left, right = left.astype(dtype), right.astype(dtype)
    if like == dtype:
        return left @ right
    xp, d = array_namespace(left), right.shape[1]
    result, step = xp.empty((left.shape[0], d), dtype=like), max(1, _ENTRIES // left.shape[0])
    for begin in range(0, d, step):
        result[:, begin : begin + step] = left @ right[:, begin : begin + step]
    return result


def _root(engine, gradients, damping):
    """Return W = C⁻¹ for M = C Cᵀ."""
    k, shift = engine.gram(gradients, tolerance=0.0), gradients.shape[0] * damping
    if _is_concrete(gradients):
        return checked(attempted(engine.inverse_cholesky, shifted(k, shift)), k, shift)
    return engine.inverse_cholesky(shifted(k, shift))


def _is_concrete(array):
    """Tell whether values are at hand; torch and JAX may be compiling."""
    return is_numpy_array(array) or is_cupy_array(array)


def _summed(term, g, *vectors):
    """Add a term of each piece of columns of G, and of the vectors' entries there."""
    d, step = g.shape[1], _step(g, 1)
    if is_jax_array(g) and d > step:
        from jax.lax import fori_loop

        whole = d // step

        def more(k, total):
            return total + term(*_piece(k * step, step, g, vectors))

        total = fori_loop(1, whole, more, term(*_piece(0, step, g, vectors)))
        return total + term(*_piece(whole * step, d % step, g, vectors)) if d % step else total
    starts = range(0, d, step)
    return reduce(add, (term(*_piece(k, min(step, d - k), g, vectors)) for k in starts))


def _joined(some, g, *vectors, block=1):
    """Join what each piece of some blocks of columns of G gives, along the first axis."""
    xp, d, step = array_namespace(g), g.shape[1], _step(g, block)
    if is_jax_array(g) and d > step:
        from jax.lax import map as mapped

        whole = d // step
        found = mapped(lambda k: some(*_piece(k * step, step, g, vectors)), xp.arange(whole))
        results = [xp.reshape(found, (-1, *found.shape[2:]))]
        if d % step:
            results.append(some(*_piece(whole * step, d % step, g, vectors)))
    else:
        starts = range(0, d, step)
        found = (some(*_piece(k, min(step, d - k), g, vectors)) for k in starts)
        if len(starts) > 1 and (is_numpy_array(g) or is_cupy_array(g)):
            return _filled_in(found, d / step)
        results = list(found)
    return results[0] if len(results) == 1 else xp.concat(results, axis=0)


def _filled_in(pieces, count):
    """Put pieces into one array, where joining them would take the memory twice."""
    result, done = None, 0
    for piece in pieces:
        if result is None:
            rows = round(piece.shape[0] * count)
            shape, place = (rows, *piece.shape[1:]), device(piece)
            result = array_namespace(piece).empty(shape, dtype=piece.dtype, device=place)
        result[done : done + piece.shape[0]] = piece
        done += piece.shape[0]
    return result


def _step(g, block):
    """Return the columns of a piece, whole blocks."""
    return max(1, _ENTRIES // (g.shape[0] * block)) * block


def _piece(start, count, g, vectors):
    """Return columns of G and the vectors' entries there."""
    if is_jax_array(g) and count < g.shape[1]:
        from jax.lax import dynamic_slice_in_dim

        parts = [dynamic_slice_in_dim(x, start, count, axis=0) for x in vectors]
        return [dynamic_slice_in_dim(g, start, count, axis=1), *parts]
    here = slice(start, start + count)
    return [g[:, here], *(x[here, ...] for x in vectors)]
