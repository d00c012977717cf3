"""Checks of values, for functions that have them."""

from typing import Any

import numpy as np
from array_api_compat import array_namespace


def finite(**named: Any) -> None:
    """Raise ValueError that names the argument and the first index of NaN or an infinity."""
    for name, array in named.items():
        xp = array_namespace(array)
        good = xp.isfinite(array)
        if not bool(xp.all(good)):
            first = int(xp.argmin(xp.astype(xp.reshape(good, (-1,)), xp.int8)))
            index = tuple(int(i) for i in np.unravel_index(first, array.shape))
            raise ValueError(f"{name} must be finite; entry {index} is {array[index]}.")
