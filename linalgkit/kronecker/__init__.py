"""Kronecker products and sums: linear algebra on grids by the factors, never the product.

Everything is row-major, as ``numpy.kron`` and ``numpy.ravel`` are: a vector x of n_1 ⋯ n_d entries
is the array ``x.reshape(n_1, ..., n_d)``, and factor k acts along axis k.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
