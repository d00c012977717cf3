"""Sparse matrix times sparse matrix, row by row.

The product of two sparse matrices with sorted rows, the same bits for any number of threads.
Source: "SMASH: Sparse Matrix Atomic Scratchpad Hashing" (arXiv:2105.14156), on Gustavson's
row-wise algorithm (ACM TOMS 4, 1978).
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
