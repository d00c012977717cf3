"""Reference engine: two batched matrix products, and the permutation as a change of axes.

Inside, arrays are (batch axes of the factors, blocks, entries of a block, all other axes as one).
"""

from math import prod

from array_api_compat import array_namespace

from .._xp import adjoint, compiled, moveaxis
from ._array_api_factors import (  # noqa: F401
    dft_factors,
    hadamard_factors,
    kronecker_factors,
)
from ._array_api_fitting import (  # noqa: F401
    compressed_samples,
    improved_factors,
    sum_of_squares,
)
from ._array_api_mmstar import factorize_mmstar  # noqa: F401
from ._array_api_projection import project, project_vjp, projection_error  # noqa: F401
from ._array_api_transforms import (  # noqa: F401
    fft,
    fft_vjp,
    fftconvolve,
    fftconvolve_vjp,
    ifft,
    ifft_vjp,
)
from ._stacks import swap


@compiled("axis")
def monarch_matmul(x, left, right, *, axis):
    """Multiply by R, read its (k, q) rows as (r, l), multiply by L."""
    xp = array_namespace(x)
    u = xp.matmul(right, _split(x, right.shape[-3], right.shape[-1], right, axis))
    y = xp.matmul(left, swap(_read(u, left.shape[-1], left.shape[-3])))
    return _join(swap(y), x, right, axis)


@compiled("axis", "wrt")
def monarch_matmul_vjp(cotangent, x, left, right, *, axis, wrt):
    """Pull the cotangent g back through L and then R; u = R x is computed again."""
    xp = array_namespace(x)
    (k, q, p), (count, rows, inner) = right.shape[-3:], left.shape[-3:]
    g = swap(_split(cotangent, rows, count, right, axis))
    blocks = _split(x, k, p, right, axis)
    of_x = of_left = of_right = None
    if "left" in wrt:
        u = swap(_read(xp.matmul(right, blocks), inner, count))
        of_left = xp.matmul(g, adjoint(u))
    if "x" in wrt or "right" in wrt:
        v = _read(swap(xp.matmul(adjoint(left), g)), k, q)
        if "right" in wrt:
            of_right = xp.matmul(v, adjoint(blocks))
        if "x" in wrt:
            of_x = _join(xp.matmul(adjoint(right), v), x, right, axis)
    return of_x, of_left, of_right


def _split(x, blocks, size, factor, axis):
    """Bring `axis` before all but the batch axes of the factors, cut in blocks."""
    lead = factor.ndim - 3
    x = moveaxis(x, axis, lead)
    shape = tuple(x.shape)
    return array_namespace(x).reshape(x, (*shape[:lead], blocks, size, prod(shape[lead + 1 :])))


def _join(blocks, like, factor, axis):
    """Undo `_split`: the other axes are those of `like`."""
    lead, axis = factor.ndim - 3, axis % like.ndim
    batch, others = like.shape[:lead], like.shape[lead:axis] + like.shape[axis + 1 :]
    whole = (*batch, blocks.shape[-3] * blocks.shape[-2], *others)
    return moveaxis(array_namespace(blocks).reshape(blocks, whole), lead, axis)


def _read(x, blocks, size):
    """Read the same entries in blocks of another size."""
    return array_namespace(x).reshape(x, (*x.shape[:-3], blocks, size, x.shape[-1]))
