"""Reference engine: matrices whose rows, or columns, are Kronecker products.

Arrays come first, factors after them; all have one dtype.
"""

from math import prod

from array_api_compat import array_namespace

from .._xp import adjoint, moveaxis
from ._array_api_products import outer
from ._modes import columns_of


def khatri_rao(*factors):
    """Multiply the columns in all ways of their entries."""
    return moveaxis(face_splitting(*(moveaxis(factor, -1, -2) for factor in factors)), -1, -2)


def face_splitting(*factors):
    """Multiply the rows in all ways of their entries."""
    return outer(factors, array_namespace(*factors).multiply)


def face_splitting_matvec(x, *factors):
    """Multiply by the first factor, then contract each row with its rows of the others."""
    xp = array_namespace(x)
    sizes = columns_of(factors)
    y = xp.matmul(factors[0], xp.reshape(x, (*x.shape[:-1], sizes[0], prod(sizes[1:]))))
    for k in range(len(sizes) - 1, 0, -1):
        y = xp.reshape(y, (*y.shape[:-1], prod(sizes[1:k]), sizes[k]))
        y = xp.matmul(y, factors[k][..., None])[..., 0]
    return y[..., 0]


def face_splitting_rmatvec(y, *factors):
    """Split the faces of all factors but the first, with `y`, and multiply by the first's adjoint.

    So no more than n_2 ⋯ n_d values a row are made.
    """
    xp = array_namespace(y)
    rest = outer([y[..., None], *map(conjugate, factors[1:])], xp.multiply)
    x = xp.matmul(adjoint(factors[0]), rest)
    return xp.reshape(x, (*x.shape[:-2], prod(columns_of(factors))))


def conjugate(x):
    """Return the complex conjugate; real arrays as they are."""
    xp = array_namespace(x)
    return xp.conj(x) if xp.isdtype(x.dtype, "complex floating") else x
