"""Reference engine: one matrix product a mode, on views of the grid.

Arrays come first, factors after them; all have one dtype. ``columns`` is the number of columns
that stand behind the grid on the last axis: the vector is (n_1, …, n_d, columns).
"""

from ._array_api_decompositions import (  # noqa: F401
    kron_cholesky,
    kron_eigh,
    kron_power,
    kron_slogdet,
    kron_svd,
    nearest_kronecker,
)
from ._array_api_faces import (  # noqa: F401
    face_splitting,
    face_splitting_matvec,
    face_splitting_rmatvec,
    khatri_rao,
)
from ._array_api_frequencies import frequencies_of_axes  # noqa: F401
from ._array_api_gp_hm import maximised_joint  # noqa: F401
from ._array_api_kernels import spectral_mixture, student_t_mixture  # noqa: F401
from ._array_api_marginal import (  # noqa: F401
    differentiation_matrix,
    evidence,
    fitted_kernel,
)
from ._array_api_pde import pde_solution  # noqa: F401
from ._array_api_products import (  # noqa: F401
    kron_dense,
    kron_diag,
    kron_matvec,
    kron_matvec_vjp,
    kron_trace,
    partial_trace,
)
from ._array_api_solves import (  # noqa: F401
    exponentials,
    kron_lstsq,
    kron_solve,
    kron_solve_vjp,
    kronsum_expm_multiply,
    kronsum_matvec,
    kronsum_matvec_vjp,
    kronsum_slogdet,
    kronsum_solve,
    kronsum_solve_generalized,
    kronsum_solve_vjp,
    shifted_solve,
    shifted_solve_vjp,
)
