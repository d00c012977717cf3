from ._chains import galerkin, matrix_power
from ._containers import CSR
from ._galerkin import GalerkinGradients, GalerkinPlan, plan_galerkin
from ._graphs import k_hop, shortest_paths_minplus, triangle_count
from ._plans import DataGradients, Plan, plan
from ._products import csr_matmul, matmul
from ._sizes import estimate_nnz, nnz_upper_bound, row_flops

__all__ = [
    "CSR",
    "DataGradients",
    "GalerkinGradients",
    "GalerkinPlan",
    "Plan",
    "csr_matmul",
    "estimate_nnz",
    "galerkin",
    "k_hop",
    "matmul",
    "matrix_power",
    "nnz_upper_bound",
    "plan",
    "plan_galerkin",
    "row_flops",
    "shortest_paths_minplus",
    "triangle_count",
]
