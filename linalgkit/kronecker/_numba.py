"""CPU engine: small modes fused in register tiles, large ones by BLAS on views of the grid."""

from ._numba_faces import face_splitting_matvec, face_splitting_rmatvec  # noqa: F401
from ._numba_products import (  # noqa: F401
    kron_matvec,
    kron_matvec_vjp,
    kronsum_matvec,
    kronsum_matvec_vjp,
    partial_trace,
)
from ._numba_solves import (  # noqa: F401
    kron_solve,
    kron_solve_vjp,
    kronsum_solve,
    kronsum_solve_generalized,
    kronsum_solve_vjp,
    shifted_solve,
    shifted_solve_vjp,
)
