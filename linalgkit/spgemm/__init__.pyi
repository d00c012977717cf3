from ._products import CSR, csr_matmul, matmul

__all__ = ["CSR", "csr_matmul", "matmul"]
