"""Frequencies of sampled functions, found one after the other."""

from typing import Any

from .. import _checks
from .._engine import Engines
from ._equations import checked_grid
from ._hosts import like, to_host

engine = Engines(__package__)


@engine.eager
def dominant_frequencies(source: Any, grid: Any, *, max_terms: int = 8) -> tuple[Any, ...]:
    """Find the frequencies of a function on a grid, along each axis.

    Parameters
    ----------
    source : array, shape (n_1, …, n_d)
        Values of the function.
    grid : sequence of arrays
        Coordinates of each axis, increasing (in one dimension an array is enough). Equispaced or
        not.
    max_terms : int, optional
        Frequencies of an axis at most.

    Returns
    -------
    tuple of arrays
        For each axis the frequencies in cycles per unit, the one that explains most first.

    Raises
    ------
    ValueError
        Shapes do not fit, the grid does not increase, or something is NaN or infinite.
    TypeError
        The arrays come from different libraries, are complex, or have no values (under ``jit``).

    See Also
    --------
    solve_pde : Finds frequencies of source and boundary data by itself.

    Notes
    -----
    Matching pursuit on the leading singular vectors of the unfolding along each axis: remove a
    smooth trend, take the highest peak of the windowed spectrum, correct it by least squares with
    linear envelopes, remove it together with smooth envelopes, and go on with the rest until 1e-7
    of it are left. Frequencies below 1.5 cycles of the box count as trend. A pure wave is found to
    about 1e-6 of a cycle of the box. A wave above half the rate of the nodes appears at its alias,
    on a grid of uneven steps one above half the rate of the widest step is not found.

    Computed in float64 on the host. Time O(n log n) and memory O(n) for each frequency of an axis
    of n nodes; on uneven grids the spectrum is that of an even one to which the nodes are spread.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit.kronecker import dominant_frequencies
    >>> x = np.linspace(0, 1, 200)
    >>> (found,) = dominant_frequencies(np.sin(2 * np.pi * 7.3 * x) + x**2, x)
    >>> round(float(found[0]), 2)
    7.3
    """
    source, axes = checked_grid("dominant_frequencies", source, grid)
    max_terms = _checks.size("max_terms", max_terms, 1)
    found = engine(source).frequencies_of_axes(
        to_host(source), [to_host(axis) for axis in axes], most=max_terms
    )
    return tuple(like(frequencies, source) for frequencies in found)
