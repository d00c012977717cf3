"""Any automaton as a cascade of automata whose letters permute all states or lead to one.

After the proof of Krohn and Rhodes's theorem by excluded states: instead of the state x of n, a
level keeps some state p that x is not. Letter s takes x to s(x), which is not p', where

    p' = s(p)                                if s permutes the states,
    p' = the smallest state outside s(Q)     if it does not.

So p itself is moved by a permutation or reset. What is left to know is which one of the others x
is: with these renumbered from 0 to n - 2 in order, the pair (p, s) takes one to another. That is an
automaton of n - 1 states, its letters the pairs, and so on until all letters permute or reset.

Letters act on states as rows of maps: ``maps[s, x]`` is s(x).
"""

from typing import NamedTuple

import numpy as np

_LARGEST = 2**22  # numbers in the maps of a level: they are sorted, which takes seconds


class Level(NamedTuple):
    """A level of the cascade: permutations and resets only."""

    maps: np.ndarray  # (letters, points)
    start: int
    passes: np.ndarray | None  # (points, letters) -> letter of the next level; None for the last


def cascade(maps: np.ndarray, start: int) -> list[Level]:
    """Decompose an automaton of n states to at most max(n - 1, 1) levels; `restored` joins them."""
    levels = []
    while not np.all(are_permutations(maps) | are_resets(maps)):
        moves = _moves_of_excluded(maps)
        excluded = _first_excluded(moves, start)
        met = _reachable(moves, excluded)
        induced = _induced(maps, moves, met)
        maps, numbers = np.unique(
            induced.reshape(-1, induced.shape[-1]), axis=0, return_inverse=True
        )
        passes = np.zeros(moves.shape[::-1], np.int64)  # what is never met leads anywhere
        passes[met] = numbers.reshape(induced.shape[:2]).T
        levels.append(Level(moves, excluded, passes))
        start -= start > excluded
    return [*levels, Level(maps, start, None)]


def restored(points: list[np.ndarray]) -> np.ndarray:
    """Return the automaton's states from the levels' points: undo the renumbering, bottom up."""
    *excluded, state = points
    for point in reversed(excluded):
        state = state + (state >= point)
    return state


def are_permutations(maps: np.ndarray) -> np.ndarray:
    """Tell which maps permute the points, shape (letters,)."""
    return np.all(np.sort(maps, axis=1) == np.arange(maps.shape[1]), axis=1)


def are_resets(maps: np.ndarray) -> np.ndarray:
    """Tell which maps take all points to one, shape (letters,)."""
    return np.all(maps == maps[:, :1], axis=1)


def _moves_of_excluded(maps: np.ndarray) -> np.ndarray:
    """Return p' of each letter and p, shape (letters, n)."""
    is_hit = np.zeros(maps.shape, np.bool_)
    np.put_along_axis(is_hit, maps, True, axis=1)
    smallest_outside = np.argmin(is_hit, axis=1)
    return np.where(are_permutations(maps)[:, None], maps, smallest_outside[:, None])


def _first_excluded(moves: np.ndarray, start: int) -> int:
    """Return a state other than the start, one that letters lead to if possible: fewer are met."""
    targets = np.unique(moves[are_resets(moves)])
    others = targets[targets != start]
    return int(others[0]) if len(others) else int(start == 0)


def _reachable(moves: np.ndarray, point: int) -> np.ndarray:
    met, count = np.array([point]), 0
    while len(met) > count:
        count = len(met)
        met = np.unique(np.append(met, moves[:, met]))
    return met


def _induced(maps: np.ndarray, moves: np.ndarray, met: np.ndarray) -> np.ndarray:
    """Return what letter s does to the states other than p, renumbered: (letters, met, n - 1)."""
    letters, n = maps.shape
    if letters * len(met) * (n - 1) > _LARGEST:
        raise ValueError(
            f"the cascade of this automaton is too large: a level of {n} states and {letters} "
            f"letters has {letters * len(met)} pairs of excluded state and letter. Permutations "
            f"and resets alone need no cascade, however many states."
        )
    others = np.arange(n - 1)
    others = others + (others >= met[:, None])
    images, gone = maps[:, others], moves[:, met, None]
    return images - (images > gone)
