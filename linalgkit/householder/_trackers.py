"""Trackers: groups and automata as layers of the delta rule, and words as their tokens."""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from .. import _checks
from . import _groups
from ._automata import cascade, restored
from ._layers import Layer, Tokens, following, moving

_PIECE = 2**20  # numbers that the tokens of a piece of a word take


@dataclass(frozen=True, eq=False, repr=False)
class StateTracker:
    """A finite-state machine as layers of the delta rule.

    Parameters
    ----------
    layers : tuple of Layer
        The letters of the first are the machine's. Each passes letters on to the next; what all of
        them read, together, is the state.
    """

    layers: tuple[Layer, ...]

    @property
    def letters(self) -> int:
        """Number of letters."""
        return len(self.layers[0].keys)

    def encode(self, word: Any, *, dtype: Any = np.float32) -> tuple[Tokens, ...]:
        """Return a word's tokens, layer by layer.

        Parameters
        ----------
        word : array of int, shape (..., L)
            Letters, from 0.
        dtype : dtype, optional
            Floating dtype of the tokens.

        Returns
        -------
        tuple of Tokens
            For each layer ``(q, k, v, beta, initial_state)``, to be run by `delta_rule` with the
            layer's `reflections` and ``scale=1``. The tokens of a second layer depend on what the
            first one reads, so all but the last are run for them.
        """
        letters, tokens = self._checked(word), []
        for layer in self.layers:
            tokens.append(layer.encode(letters, dtype))
            if layer.passes is not None:
                output, _ = layer.run(tokens[-1])
                first = np.full((*letters.shape[:-1], 1), layer.start)
                points = np.concatenate([first, layer.decode(output)], axis=-1)
                letters = layer.passes[points[..., :-1], letters]
        return tuple(tokens)

    def run(self, word: Any, *, dtype: Any = np.float32) -> np.ndarray:
        """Return the state after each letter of a word, by `delta_rule`.

        Parameters
        ----------
        word : array of int, shape (..., L)
            Letters, from 0.
        dtype : dtype, optional
            Floating dtype that the layers run in.

        Returns
        -------
        ndarray of int64, shape (..., L) or (..., L, points)
            Numbers of states. Of `permutation`: where every point is.

        Raises
        ------
        ValueError
            A letter is out of range.
        TypeError
            The word is not of integers.

        Notes
        -----
        Long words go in pieces, the state carried from one to the next: memory for the result and
        a few megabytes more.
        """
        word = self._checked(word)
        *batch, length = word.shape
        states = [layer.encode(word[..., :0], dtype).initial_state for layer in self.layers]
        before = [np.full((*batch, 1), layer.start) for layer in self.layers]
        found = []
        step = max(1, _PIECE // (prod(batch) * max(map(_size, self.layers)) or 1))
        for begin in range(0, max(length, 1), step):  # of an empty word, one empty piece
            letters, read = word[..., begin : begin + step], []
            for number, layer in enumerate(self.layers):
                tokens = layer.encode(letters, dtype)._replace(initial_state=states[number])
                output, states[number] = layer.run(tokens)
                read.append(layer.decode(output))
                if layer.passes is not None:
                    points = np.concatenate([before[number], read[-1]], axis=-1)
                    before[number] = points[..., -1:]
                    letters = layer.passes[points[..., :-1], letters]
            found.append(restored(read))
        return np.concatenate(found, axis=len(batch))

    def _checked(self, word: Any) -> np.ndarray:
        letters = _groups.integers("word", word)
        if letters.ndim < 1:
            raise ValueError(f"word must have shape (..., letters); got a number, {letters}.")
        _groups.in_range("word", letters, self.letters, "letters")
        return letters

    def __repr__(self) -> str:
        first, count = self.layers[0], len(self.layers)
        states = (
            f"where {len(first.query)} points are"
            if first.codes is None
            else f"{len(first.codes)} states"
        )
        shapes = ", ".join(
            f"{x.keys.shape[2]} × {x.values.shape[2]} ({x.reflections})" for x in self.layers
        )
        return (
            f"StateTracker: {self.letters} letters, {states}; {count} "
            f"layer{'s' * (count > 1)}, d_k × d_v (reflections a letter): {shapes}"
        )


def permutation(p: Any, *, unit: bool = False) -> StateTracker:
    """Follow n points through permutations.

    Parameters
    ----------
    p : array of int, shape (letters, n) or (n,)
        Letter s takes point i to ``p[s, i]``; or one letter's permutation.
    unit : bool, optional
        Swap with keys of norm 1 and β = 2, as published, which rounds; by default with keys of
        integers and β = 1, which does not.

    Returns
    -------
    StateTracker
        One layer, d_k = d_v = n. Its `run` returns where each point is, shape (..., L, n).

    Raises
    ------
    ValueError
        The shape is another, or a row is no permutation.
    TypeError
        The entries are no integers.

    See Also
    --------
    group : The same for the elements of a group, numbered.

    Notes
    -----
    A cycle (c₀ c₁ … c_m) is the swaps (c₀ c₁), (c₀ c₂), …, (c₀ c_m) in this order, so a permutation
    takes n - #cycles reflections, at most n - 1: Theorem 3 of [1]_. Every number in the delta rule
    is a small integer, whatever the chunks, so that float16 (from float32 sums) is exact, too.
    The published keys have norm 1 up to rounding, and what is read drifts in proportion to L: by
    0.13 in float32 after 10⁶ letters of S₅, where the nearest state is still the right one.

    References
    ----------
    .. [1] R. Grazzi et al., "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues",
       ICLR 2025, arXiv:2411.12537.

    Examples
    --------
    >>> from linalgkit.householder import state_tracking
    >>> swap, turn = [1, 0, 2], [1, 2, 0]
    >>> state_tracking.permutation([swap, turn]).run([0, 1, 1])
    array([[1, 0, 2],
           [2, 1, 0],
           [0, 2, 1]])
    """
    _checks.flags(unit=unit)
    images = _groups.checked_permutations("p", p)
    return StateTracker((moving(images, np.eye(images.shape[1]), None, unit=unit),))


def group(source: Any = None, /, *, generators: Any = None, unit: bool = False) -> StateTracker:
    """Multiply the elements of a finite group, letter by letter.

    Parameters
    ----------
    source : str or array of int, shape (order, order), optional
        ``"S5"``, ``"A5"``, ``"C7"`` or ``"D4"``: all, or all even permutations of so many points,
        rotations, or rotations and reflections, of a polygon with so many corners. Or a table: at
        ``[g, h]`` the product g · h.
    generators : array of int, shape (generators, n), optional
        Permutations that generate the group, instead of `source`.
    unit : bool, optional
        Use published keys of norm 1, as for `permutation`.

    Returns
    -------
    StateTracker
        One layer. Letters and states are the group's elements; the product starts with the
        identity, and letters act in their order: g · h is g first, then h. Those of a table have
        its numbers. Others are numbered in the order of their images, which are
        ``tracker.layers[0].codes``, so that 0 is the identity.

    Raises
    ------
    ValueError
        There is no such group, it has more than 50,000 elements, or the table is no group's.
    TypeError
        Entries are no integers.

    See Also
    --------
    rotation : A cyclic group in two dimensions.
    permutation : Groups too large to number their elements.

    Notes
    -----
    Theorem 3 of [1]_: a group of permutations of n points takes one layer, a state of n rows and
    n - 1 reflections a letter at most. A table's points are the elements themselves, its letters
    the columns. Its n² associations h · i are compared for each g: O(n³).

    References
    ----------
    .. [1] R. Grazzi et al., "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues",
       ICLR 2025, arXiv:2411.12537.

    Examples
    --------
    >>> from linalgkit.householder import state_tracking
    >>> clock = state_tracking.group("C12")
    >>> clock.run([7, 7, 7])
    array([7, 2, 9])
    >>> state_tracking.group("A5")
    StateTracker: 60 letters, 60 states; 1 layer, d_k × d_v (reflections a letter): 5 × 5 (4)
    """
    _checks.flags(unit=unit)
    if (source is None) == (generators is None):
        raise TypeError("give a group either by its name or table, or by generators=.")
    if source is not None and not isinstance(source, str):
        table = _groups.integers("the table", source)
        start = _groups.identity_of(table)
        return StateTracker((following(table.T, start, unit=unit),))
    if source is not None:
        elements = _groups.named(source)
    else:
        if _groups.integers("generators", generators).ndim == 1:
            raise ValueError(
                "generators must be a list of permutations, shape (generators, n); for a single "
                f"one write generators=[{list(generators)}]."
            )
        elements = _groups.generated(_groups.checked_permutations("generators", generators))
    return StateTracker((moving(elements, np.eye(elements.shape[1]), elements, unit=unit),))


def automaton(delta: Any, start: int = 0) -> StateTracker:
    """Follow the state of any deterministic finite automaton.

    Parameters
    ----------
    delta : array of int, shape (states, letters)
        From state x, letter s leads to ``delta[x, s]``.
    start : int, optional
        The state before the first letter.

    Returns
    -------
    StateTracker
        Its `run` returns the states.

    Raises
    ------
    ValueError
        The shape is another, or a state is out of range; or the cascade is too large.
    TypeError
        Entries are no integers.

    See Also
    --------
    regex : The automaton of a regular expression.

    Notes
    -----
    Letters that permute all n states, or take all to one, need one layer: n - 1 reflections or n
    writes. Otherwise a cascade of at most n - 1 layers of n, n - 1, …, 2 rows, each with letters
    that permute or reset, after the theorem of Krohn and Rhodes; its use here is Theorem 4 of [1]_,
    which allows for 2ⁿ layers. Each layer keeps a state that the automaton is not in. The letters
    of a layer are the different actions on what is then left, at most kᵏ for k states; where they
    would be many millions, a ValueError says so.

    References
    ----------
    .. [1] R. Grazzi et al., "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues",
       ICLR 2025, arXiv:2411.12537.

    Examples
    --------
    Has there been "aa"? State 2 is never left.

    >>> from linalgkit.householder import state_tracking
    >>> tracker = state_tracking.automaton([[1, 0], [2, 0], [2, 2]])
    >>> a, b = 0, 1
    >>> tracker.run([a, b, a, a, b])
    array([1, 0, 1, 2, 2])
    >>> len(tracker.layers)
    2
    """
    table = _groups.integers("delta", delta)
    if table.ndim != 2 or not table.size:
        raise ValueError(
            f"delta must have shape (states, letters), at least one of each; got {table.shape}."
        )
    _groups.in_range("delta", table, len(table), "states")
    first = _checks.size("start", start)
    if first >= len(table):
        raise ValueError(f"start must name a state from 0 to {len(table) - 1}; got {first}.")
    return StateTracker(
        tuple(
            following(level.maps, level.start, passes=level.passes)
            for level in cascade(table.T, first)
        )
    )


def parity() -> StateTracker:
    """Count ones modulo 2 by a single number, +1 or -1.

    Returns
    -------
    StateTracker
        One layer with d_k = d_v = 1, letters 0 and 1. A one has β = 2, and ``1 - β |k|² = -1``.

    Notes
    -----
    Theorem 1 of [1]_: in finite precision no linear recurrence whose eigenvalues are all in [0, 1]
    can do this, in any number of layers.

    References
    ----------
    .. [1] R. Grazzi et al., "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues",
       ICLR 2025, arXiv:2411.12537.

    Examples
    --------
    >>> from linalgkit.householder import state_tracking
    >>> state_tracking.parity().run([1, 1, 0, 1])
    array([1, 0, 0, 1])
    """
    ones = np.ones((2, 1, 1), np.int8)
    return StateTracker(
        (
            Layer(
                keys=ones,
                values=0 * ones,
                betas=np.array([[0], [2]], np.int8),
                initial_state=np.eye(1),
                query=np.ones(1),
                codes=np.array([[1], [-1]]),
            ),
        )
    )


def rotation(m: int) -> StateTracker:
    """Count modulo m by rotations of the plane, as published: in two dimensions, with rounding.

    Parameters
    ----------
    m : int
        Letter s, from 0 to m - 1, rotates by 2π s / m.

    Returns
    -------
    StateTracker
        One layer with d_k = d_v = 2 and two reflections a letter. The state is the nearest one.

    Raises
    ------
    ValueError
        `m` is less than 1.
    TypeError
        `m` is no integer.

    See Also
    --------
    group : ``group(f"C{m}")`` is exact, with m rows.

    Notes
    -----
    The cyclic groups of Theorem 3 of [1]_. Theorem 2 there: counting modulo m, not a power of two,
    needs eigenvalues that are not real, so products of two reflections at least. What is read is
    (cos α, -sin α), α the sum of angles; its error grows in proportion to the length of the word
    (m = 7: 0.02 in float32 after 10⁶ letters), so states are wrong beyond some length.

    References
    ----------
    .. [1] R. Grazzi et al., "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues",
       ICLR 2025, arXiv:2411.12537.

    Examples
    --------
    >>> from linalgkit.householder import state_tracking
    >>> state_tracking.rotation(7).run([3, 3, 3])
    array([3, 6, 2])
    """
    angles = 2 * np.pi / (m := _checks.size("m", m, 1)) * np.arange(m)
    return StateTracker(
        (
            Layer(
                # First the reflection at the axis of x, then at the line of half the angle.
                keys=np.stack(
                    [
                        np.tile([0.0, 1.0], (m, 1)),
                        np.stack([-np.sin(angles / 2), np.cos(angles / 2)], axis=1),
                    ],
                    axis=1,
                ),
                values=np.zeros((m, 2, 2)),
                betas=np.full((m, 2), 2.0),
                initial_state=np.eye(2),
                query=np.array([1.0, 0.0]),
                codes=np.stack([np.cos(angles), -np.sin(angles)], axis=1),
            ),
        )
    )


def _size(layer: Layer) -> int:
    """Return how many numbers a letter takes while the layer runs."""
    states = 0 if layer.codes is None else len(layer.codes)
    return layer.keys[0].size + layer.values[0].size + states
