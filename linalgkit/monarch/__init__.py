"""Monarch matrices: two block-diagonal factors with a permutation between them.

A dense operator with O(n^1.5) parameters and operations, applied as batched matrix products.
Source: "Monarch: Expressive Structured Matrices for Efficient and Accurate Training"
(arXiv:2204.00595).
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
