"""Word problems: random words over a group, with the running products that a model must find."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from .. import _checks
from . import _groups


class WordProblem(NamedTuple):
    """A word over a group, and its products.

    Parameters
    ----------
    word : ndarray of int64, shape (L,)
        Numbers of elements, as `group` has them.
    answer : ndarray of int64, shape (L,)
        The product of the letters up to each one, itself included.
    """

    word: np.ndarray
    answer: np.ndarray


def word_problem(
    name: str, length: int, *, rng: int | np.random.Generator | None = None
) -> WordProblem:
    """Draw a random word over a group, and multiply it up to each letter.

    Parameters
    ----------
    name : str
        Such as ``"S5"``, ``"A5"``, ``"C7"`` or ``"D4"``, as for `group`.
    length : int
        Letters of the word.
    rng : int or numpy.random.Generator, optional
        Source of randomness.

    Returns
    -------
    WordProblem
        ``(word, answer)``. All elements are equally likely letters.

    Raises
    ------
    ValueError
        There is no such group, or the length is negative.
    TypeError
        The length is no integer.

    See Also
    --------
    group : The tracker that finds the answer.

    Notes
    -----
    The answer comes from permutations composed one after the other, not from the delta rule. The
    word problem of groups that are not solvable, such as A₅ and S₅, is complete for NC¹: no
    recurrence with diagonal matrices does it in a fixed number of layers, unless TC⁰ = NC¹ [2]_.
    Trained models were published for S₅ in [1]_; none with every letter as one token was right
    beyond 30 letters.

    References
    ----------
    .. [1] R. Grazzi et al., "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues",
       ICLR 2025, arXiv:2411.12537.
    .. [2] W. Merrill, J. Petty, A. Sabharwal, "The Illusion of State in State-Space Models", ICML
       2024, arXiv:2404.08819.

    Examples
    --------
    >>> from linalgkit.householder import state_tracking
    >>> word, answer = state_tracking.word_problem("A5", 1000, rng=0)
    >>> bool((state_tracking.group("A5").run(word) == answer).all())
    True
    """
    elements = [tuple(images) for images in _groups.named(name).tolist()]
    numbers = {images: number for number, images in enumerate(elements)}
    length = _checks.size("length", length)
    word = np.random.default_rng(rng).integers(len(elements), size=length)
    products = accumulate((elements[letter] for letter in word.tolist()), _first_then)
    answer = np.fromiter((numbers[product] for product in products), np.int64, length)
    return WordProblem(word, answer)


def _first_then(first: Sequence[int], then: Sequence[int]) -> tuple[int, ...]:
    return tuple([then[point] for point in first])
