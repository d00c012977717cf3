from ._products import MonarchGradients, monarch_matmul, monarch_matmul_vjp

__all__ = [
    "MonarchGradients",
    "monarch_matmul",
    "monarch_matmul_vjp",
]
