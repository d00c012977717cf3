"""Reference engine: products, by one matrix product a mode on views of the grid.

Arrays come first, factors after them; all have one dtype. ``columns`` is the number of columns
that stand behind the grid on the last axis: the vector is (n_1, …, n_d, columns).
"""

from itertools import groupby
from math import prod

import numpy as np
from array_api_compat import array_namespace

from .._xp import adjoint, moveaxis
from ._modes import columns_of, rows_of, steps


def kron_matvec(x, *factors, columns):
    """Apply the modes one after the other."""
    for k, left, right in steps(rows_of(factors), columns_of(factors)):
        x = mode_product(x, factors[k], left, right * columns)
    return x


def kron_matvec_vjp(cotangent, x, *factors, columns, wrt):
    """Pull the cotangent back step by step, through the inputs of the steps."""
    plan = steps(rows_of(factors), columns_of(factors))
    inputs = [x]
    for k, left, right in plan[:-1]:
        inputs.append(mode_product(inputs[-1], factors[k], left, right * columns))
    gradients = [None] * len(factors)
    g = cotangent
    for (k, left, right), u in zip(reversed(plan), reversed(inputs), strict=True):
        if f"factors[{k}]" in wrt:
            gradients[k] = factor_gradient(g, u, factors[k], left, right * columns)
        if k != plan[0][0] or "x" in wrt:
            g = mode_product(g, adjoint(factors[k]), left, right * columns)
    return (summed_to(g, tuple(x.shape)) if "x" in wrt else None, *gradients)


def mode_product(x, a, left, right):
    """Apply a matrix along the middle axis of (..., left, n, right): one product, no copy."""
    xp = array_namespace(x)
    lead, n = x.shape[:-1], a.shape[-1]
    if right == 1:
        y = xp.matmul(xp.reshape(x, (*lead, left, n)), moveaxis(a, -1, -2))
        batch = y.shape[:-2]
    elif left == 1:
        y = xp.matmul(a, xp.reshape(x, (*lead, n, right)))
        batch = y.shape[:-2]
    else:
        y = xp.matmul(a[..., None, :, :], xp.reshape(x, (*lead, left, n, right)))
        batch = y.shape[:-3]
    return xp.reshape(y, (*batch, left * a.shape[-2] * right))


def factor_gradient(g, u, a, left, right):
    """Sum the outer products of the fibres of two grids along one mode: Σ g uᴴ."""
    xp = array_namespace(g)
    m, n = a.shape[-2:]
    g, u = (
        xp.reshape(
            moveaxis(xp.reshape(z, (*z.shape[:-1], left, size, right)), -2, -3),
            (*z.shape[:-1], size, left * right),
        )
        for z, size in ((g, m), (u, n))
    )
    return summed_to(xp.matmul(g, adjoint(u)), tuple(a.shape))


def summed_to(gradient, shape):
    """Sum over the axes that broadcasting made."""
    xp = array_namespace(gradient)
    extra = gradient.ndim - len(shape)
    if extra:
        gradient = xp.sum(gradient, axis=tuple(range(extra)))
    axes = tuple([k for k, n in enumerate(shape) if n == 1 and gradient.shape[k] != 1])
    return xp.sum(gradient, axis=axes, keepdims=True) if axes else gradient


def kron_dense(*factors):
    """Multiply out, from the left."""
    xp = array_namespace(*factors)
    result = fresh(factors[0]) if len(factors) == 1 else factors[0]
    for factor in factors[1:]:
        both = result[..., :, None, :, None] * factor[..., None, :, None, :]
        rows, inner, columns, last = both.shape[-4:]
        result = xp.reshape(both, (*both.shape[:-4], rows * inner, columns * last))
    return result


def kron_diag(*factors):
    """Multiply the diagonals in all ways."""
    xp = array_namespace(*factors)
    return outer([xp.linalg.diagonal(factor) for factor in factors], xp.multiply)


def kron_trace(*factors):
    """Multiply the traces."""
    xp = array_namespace(*factors)
    result = xp.linalg.trace(factors[0])
    for factor in factors[1:]:
        result = result * xp.linalg.trace(factor)
    return as_array(result)


def partial_trace(a, *, sizes, axes):
    """Take the diagonals along the traced axes, which are views, and add them up at once."""
    if not axes:
        return fresh(a)
    xp = array_namespace(a)
    sizes, traced = runs_of_axes(sizes, axes)
    lead, left = len(a.shape) - 2, len(sizes)
    grid = xp.reshape(a, (*a.shape[:-2], *sizes, *sizes))
    for k in reversed(traced):
        pair = lead + k, lead + left + k
        others = [axis for axis in range(grid.ndim) if axis not in pair]
        grid = xp.linalg.diagonal(xp.permute_dims(grid, (*others, *pair)))
        left -= 1
    grid = xp.sum(grid, axis=tuple(range(-len(traced), 0)))
    kept = prod(n for k, n in enumerate(sizes) if k not in traced)
    return xp.reshape(grid, (*a.shape[:-2], kept, kept))


def runs_of_axes(sizes, axes):
    """Return the sizes with neighbours that are all traced, or all kept, as one axis; the traced.

    (Which saves most of the axes that a library would have to go through.)
    """
    runs = [(is_traced, prod(sizes[k] for k in places))
            for is_traced, places in groupby(range(len(sizes)), axes.__contains__)]  # fmt: skip
    return [n for _, n in runs], [k for k, (is_traced, _) in enumerate(runs) if is_traced]


def fresh(x):
    """Return a copy: a result that is the caller's own array would be changed with it."""
    return array_namespace(x).astype(x, x.dtype, copy=True)


def as_array(x):
    """Return NumPy's numbers, which its arrays without axes become, as arrays again."""
    return np.asarray(x) if isinstance(x, np.generic) else x


def outer(vectors, combine):
    """Combine one entry of each vector in all ways, raveled: their sums or products."""
    xp = array_namespace(*vectors)
    result = fresh(vectors[0]) if len(vectors) == 1 else vectors[0]
    for vector in vectors[1:]:
        both = combine(result[..., :, None], vector[..., None, :])
        result = xp.reshape(both, (*both.shape[:-2], both.shape[-2] * both.shape[-1]))
    return result
