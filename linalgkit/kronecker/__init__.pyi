from ._frequencies import dominant_frequencies
from ._kernels import SpectralMixture, StudentTMixture
from ._marginal import (
    EvidenceGradient,
    KernelFit,
    differentiation_matrix,
    fit_kernel,
    log_marginal_likelihood,
)
from ._pde import Dirichlet, Envelopes, Neumann, Nonlinearity, PDEResult, solve_pde
from ._products import KroneckerGradients, kron_matmat, kron_matvec, kron_matvec_vjp, kron_rmatvec

__all__ = [
    "Dirichlet",
    "Envelopes",
    "EvidenceGradient",
    "KernelFit",
    "KroneckerGradients",
    "Neumann",
    "Nonlinearity",
    "PDEResult",
    "SpectralMixture",
    "StudentTMixture",
    "differentiation_matrix",
    "dominant_frequencies",
    "fit_kernel",
    "kron_matmat",
    "kron_matvec",
    "kron_matvec_vjp",
    "kron_rmatvec",
    "log_marginal_likelihood",
    "solve_pde",
]
