"""Reference engine of reflection products: the compact WY form in blocks, T never formed.

Q = I - V T Vᴴ with T = (I + D striu(Vᴴ V))⁻¹ D, D = diag(tau): what T multiplies is solved for
instead, which takes tau = 0 as any other. The triangle is a lower one for Qᴴ, and for Q after its
reflections are put in reverse.
"""

from array_api_compat import array_namespace

from .._xp import adjoint as adjoint_of
from .._xp import compiled, solve_unit_lower

_BLOCK = 64  # reflections


@compiled("adjoint")
def reflect(x, vectors, tau, kept, *, adjoint):
    """Multiply blocks from the left, the last block first; for Qᴴ the first."""
    xp, dtype = array_namespace(x), x.dtype
    if xp.finfo(dtype).bits < 32:
        x, vectors, tau = (xp.astype(array, xp.float32) for array in (x, vectors, tau))
    if not adjoint:
        vectors, tau = xp.flip(vectors, axis=-1), xp.flip(tau, axis=-1)
    elif xp.isdtype(tau.dtype, "complex floating"):
        tau = xp.conj(tau)
    for begin in range(0, tau.shape[-1], _BLOCK):
        end = min(begin + _BLOCK, tau.shape[-1])
        v, strengths = vectors[..., begin:end], tau[..., begin:end]
        rows = adjoint_of(v)
        gram, y = xp.matmul(rows, v), xp.matmul(rows, x)
        if adjoint:
            z = solve_unit_lower(gram * strengths[..., None, :], y) * strengths[..., None]
        else:
            z = solve_unit_lower(gram * strengths[..., None], y * strengths[..., None])
        x = x - xp.matmul(v, z)
    return xp.astype(x, dtype, copy=False)
