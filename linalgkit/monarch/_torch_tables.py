"""Tables outside of compiled torch code, which would otherwise trace how they are made.

It would take NumPy's functions for its own, some of them in single precision. So a graph is broken
where a table is fetched; ``fullgraph=True`` is refused in torch's own words.
"""

from typing import Any

import torch

from . import _roots


@torch.compiler.disable
def torch_table(name: str, arguments: tuple[Any, ...], dtype: str) -> torch.Tensor:
    """Return the table that the function `name` of `_roots` makes, on the host."""
    return torch.from_numpy(_roots.kept(getattr(_roots, name), arguments, dtype))
