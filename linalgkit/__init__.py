"""Structured linear algebra in NumPy/SciPy style.

Every room (subpackage) turns a research paper into functions: one call, an
array of the kind that was passed in, the fastest engine that the machine has.
Rooms and names load on first use; ``linalgkit.show_config()`` tells what is
installed and which engines serve.
"""

import lazy_loader as _lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
