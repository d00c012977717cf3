"""Matrix products callable from compiled kernels.

``gemm`` is the BLAS entry that Numba itself uses, as an external function: it works on pieces of
arrays by address, with any leading dimension, from several threads, and kernels that call it are
cached on disk (addresses taken from SciPy by ctypes are not).
"""

import scipy.linalg.cython_blas  # noqa: F401  the BLAS that gemm calls: loaded before it is limited
from numba import types

# gemm(kind, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc), column-major as BLAS:
#   C (m, n) = alpha * op(A) (m, k) @ op(B) (k, n) + beta * C
# kind: ord of "s", "d", "c", "z"; trans_*: ord of "n", "t", "c"; matrices and scalars by address:
# x.ctypes.data + offset * x.itemsize. Row-major callers swap the operands: C^T = B^T A^T.
gemm = types.ExternalFunction(
    "numba_xxgemm",
    types.int32(
        types.char,
        types.char,
        types.char,
        types.intp,
        types.intp,
        types.intp,
        types.uintp,
        types.uintp,
        types.intp,
        types.uintp,
        types.intp,
        types.uintp,
        types.uintp,
        types.intp,
    ),
)
