"""Inverse products with the empirical Fisher matrix of m gradients, pruning, preconditioned steps.

Source: "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information"
(arXiv:2107.03356); joint removal of weights as in "WoodFisher" (arXiv:2004.14340).
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
