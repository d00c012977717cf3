from ._decompositions import (
    KroneckerEigh,
    KroneckerSVD,
    Slogdet,
    kron_cholesky,
    kron_eigh,
    kron_power,
    kron_slogdet,
    kron_svd,
)
from ._frequencies import dominant_frequencies
from ._gp_hm import GPHMResult, solve_gp_hm
from ._kernels import SpectralMixture, StudentTMixture
from ._marginal import (
    EvidenceGradient,
    KernelFit,
    differentiation_matrix,
    fit_kernel,
    log_marginal_likelihood,
)
from ._nearest import NearestKronecker, nearest_kronecker
from ._operators import KroneckerProduct, KroneckerSum
from ._pde import Dirichlet, Envelopes, Neumann, Nonlinearity, PDEResult, solve_pde
from ._products import (
    KroneckerGradients,
    kron_dense,
    kron_diag,
    kron_matmat,
    kron_matvec,
    kron_matvec_vjp,
    kron_rmatvec,
    kron_trace,
)
from ._solves import (
    KroneckerSolveGradients,
    kron_lstsq,
    kron_solve,
    kron_solve_vjp,
    shifted_solve,
    shifted_solve_vjp,
)
from ._sums import (
    kronsum_expm_multiply,
    kronsum_matvec,
    kronsum_matvec_vjp,
    kronsum_solve,
    kronsum_solve_vjp,
)

__all__ = [
    "Dirichlet",
    "Envelopes",
    "EvidenceGradient",
    "GPHMResult",
    "KernelFit",
    "KroneckerEigh",
    "KroneckerGradients",
    "KroneckerProduct",
    "KroneckerSVD",
    "KroneckerSolveGradients",
    "KroneckerSum",
    "NearestKronecker",
    "Neumann",
    "Nonlinearity",
    "PDEResult",
    "Slogdet",
    "SpectralMixture",
    "StudentTMixture",
    "differentiation_matrix",
    "dominant_frequencies",
    "fit_kernel",
    "kron_cholesky",
    "kron_dense",
    "kron_diag",
    "kron_eigh",
    "kron_lstsq",
    "kron_matmat",
    "kron_matvec",
    "kron_matvec_vjp",
    "kron_power",
    "kron_rmatvec",
    "kron_slogdet",
    "kron_solve",
    "kron_solve_vjp",
    "kron_svd",
    "kron_trace",
    "kronsum_expm_multiply",
    "kronsum_matvec",
    "kronsum_matvec_vjp",
    "kronsum_solve",
    "kronsum_solve_vjp",
    "log_marginal_likelihood",
    "nearest_kronecker",
    "shifted_solve",
    "shifted_solve_vjp",
    "solve_gp_hm",
    "solve_pde",
]
