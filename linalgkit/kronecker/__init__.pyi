from ._products import KroneckerGradients, kron_matmat, kron_matvec, kron_matvec_vjp, kron_rmatvec

__all__ = [
    "KroneckerGradients",
    "kron_matmat",
    "kron_matvec",
    "kron_matvec_vjp",
    "kron_rmatvec",
]
