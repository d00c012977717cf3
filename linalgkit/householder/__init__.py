"""Products of Householder reflections: the delta rule, orthogonal operators, exact state tracking.

Sources: "Parallelizing Linear Transformers with the Delta Rule over Sequence Length"
(arXiv:2406.06484) and "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues"
(arXiv:2411.12537).
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
