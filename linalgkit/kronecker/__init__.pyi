from ._frequencies import dominant_frequencies
from ._kernels import SpectralMixture, StudentTMixture
from ._pde import Dirichlet, Envelopes, Neumann, Nonlinearity, PDEResult, solve_pde
from ._products import KroneckerGradients, kron_matmat, kron_matvec, kron_matvec_vjp, kron_rmatvec

__all__ = [
    "Dirichlet",
    "Envelopes",
    "KroneckerGradients",
    "Neumann",
    "Nonlinearity",
    "PDEResult",
    "SpectralMixture",
    "StudentTMixture",
    "dominant_frequencies",
    "kron_matmat",
    "kron_matvec",
    "kron_matvec_vjp",
    "kron_rmatvec",
    "solve_pde",
]
