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
from ._nearest import NearestKronecker, nearest_kronecker
from ._operators import KroneckerProduct, KroneckerSum
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
)
from ._sums import (
    kronsum_expm_multiply,
    kronsum_matvec,
    kronsum_matvec_vjp,
    kronsum_solve,
    kronsum_solve_vjp,
)

__all__ = [
    "KroneckerEigh",
    "KroneckerGradients",
    "KroneckerProduct",
    "KroneckerSVD",
    "KroneckerSolveGradients",
    "KroneckerSum",
    "NearestKronecker",
    "Slogdet",
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
    "nearest_kronecker",
    "shifted_solve",
]
