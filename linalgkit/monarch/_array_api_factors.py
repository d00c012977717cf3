"""Reference engine of the factors that are known: made on the host in float64, then moved."""

import numpy as np
from array_api_compat import array_namespace

from ._roots import moved, roots


def dft_factors(like, *, n, k, scale, dtype):
    """R[κ, θ, π] = ω_p^(θπ) ω_n^(θκ), L[λ, σ, κ] = ω_k^(σκ), from integer angles mod n."""
    p, all_roots = n // k, roots(n)
    kappa, theta, pi = np.ogrid[:k, :p, :p]
    right = all_roots[(theta * pi * k + theta * kappa) % n]
    sigma, rho = np.ogrid[:k, :k]
    left = np.broadcast_to(scale * all_roots[sigma * rho * p % n], (p, k, k))
    order = np.arange(n).reshape(p, k).T.reshape(-1)
    return moved(left.astype(dtype), like), moved(right.astype(dtype), like), moved(order, like)


def hadamard_factors(like, *, k, p, scale, dtype):
    """H_n = H_k ⊗ H_p."""
    left = np.broadcast_to(scale * _hadamard(k), (p, k, k))
    right = np.broadcast_to(_hadamard(p), (k, p, p))
    if dtype == "bfloat16":  # which NumPy does not have
        xp = array_namespace(like)
        factors = (moved(factor.astype("float32"), like) for factor in (left, right))
        return tuple(xp.astype(factor, xp.bfloat16) for factor in factors)
    return moved(left.astype(dtype), like), moved(right.astype(dtype), like)


def kronecker_factors(a, b):
    """L[λ, σ, κ] = a[σ, κ] for each λ, R[κ, λ, π] = b[λ, π] for each κ."""
    xp = array_namespace(a, b)
    lead, k, count = a.shape[:-2], a.shape[-1], b.shape[-2]
    left, right = xp.expand_dims(a, axis=-3), xp.expand_dims(b, axis=-3)
    return (
        xp.broadcast_to(left, (*lead, count, *a.shape[-2:])),
        xp.broadcast_to(right, (*lead, k, *b.shape[-2:])),
    )


def _hadamard(n):
    """Sylvester's matrix: −1 to the number of ones that the indices share."""
    matrix = np.ones((1, 1))
    while len(matrix) < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix
