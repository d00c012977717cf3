"""Layers of trackers: what letters do to a state, as tokens of the delta rule.

A layer holds its points as rows of the state. With the one-hot vector of a point in a column of H,
the swap of a and b is I - k kᵀ with k = e_a - e_b, and point s is written by n keys k = e_i with
values v = [i = s].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import _checks
from ._automata import are_permutations
from ._delta_rule import delta_rule
from ._groups import integers

_LARGEST = 2**28  # numbers in a layer's keys: 256 MB


class Tokens(NamedTuple):
    """A word as a layer's tokens: arguments of `delta_rule`.

    Parameters
    ----------
    q : ndarray, shape (..., L, d_k)
        Queries.
    k : ndarray, shape (..., n L, d_k)
        Keys, n for each letter.
    v : ndarray, shape (..., n L, d_v)
        Values.
    beta : ndarray, shape (..., n L)
        Strengths.
    initial_state : ndarray, shape (..., d_k, d_v)
        State before the first letter.
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    beta: np.ndarray
    initial_state: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class Layer:
    """One layer of a tracker: what each letter does to the state, and how it is read.

    Parameters
    ----------
    keys : ndarray, shape (letters, n, d_k)
        The n keys of each letter.
    values : ndarray, shape (letters, n, d_v)
        Its values.
    betas : ndarray, shape (letters, n)
        Its strengths; zeros fill up where a letter needs fewer.
    initial_state : ndarray, shape (d_k, d_v)
        State before the first letter.
    query : ndarray, shape (d_k,)
        What reads the state, after every letter.
    codes : ndarray, shape (states, d_v), or None
        What is read in each state. None: what is read are integers, themselves the state.
    start : int
        The state before the first letter, where there are codes.
    passes : ndarray of int, shape (states, letters), or None
        The next layer's letter, from the state before a letter, and the letter; None for the last.
    """

    keys: np.ndarray
    values: np.ndarray
    betas: np.ndarray
    initial_state: np.ndarray
    query: np.ndarray
    codes: np.ndarray | None
    start: int = 0
    passes: np.ndarray | None = None

    @property
    def reflections(self) -> int:
        """Reflections and writes a letter, n."""
        return self.keys.shape[1]

    def encode(self, word: np.ndarray, dtype: Any = np.float32) -> Tokens:
        """Return the tokens of a word of this layer's letters, shape (..., L)."""
        dtype = _checks.floating_dtype(dtype)
        if dtype.kind != "f":
            raise TypeError(f"dtype must be a real floating dtype; got {dtype}.")
        word = integers("word", word)
        *batch, length = word.shape
        rows = (*batch, length * self.reflections)
        q, initial = self.query.astype(dtype), self.initial_state.astype(dtype)
        if np.any(q != self.query):
            raise ValueError(
                f"{dtype} does not hold the numbers of {len(q)} points exactly; use a wider dtype."
            )
        return Tokens(
            np.tile(q, (*batch, length, 1)),
            self.keys.astype(dtype)[word].reshape(*rows, len(q)),
            self.values.astype(dtype)[word].reshape(*rows, initial.shape[1]),
            self.betas.astype(dtype)[word].reshape(rows),
            np.tile(initial, (*batch, 1, 1)),
        )

    def run(self, tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
        """Return what is read after each letter, shape (..., L, d_v), and the state at the end."""
        *arrays, initial_state = tokens
        return delta_rule(
            *arrays,
            initial_state=initial_state,
            reflections=self.reflections,
            scale=1,
            return_state=True,
        )

    def decode(self, output: np.ndarray) -> np.ndarray:
        """Return the states that were read: of the nearest codes, shape (..., L)."""
        read = np.asarray(output, np.float64)
        if self.codes is None:
            return np.rint(read).astype(np.int64)
        # |o - c|² is least where |c|² / 2 - o·c is.
        return np.argmin(np.sum(self.codes**2, axis=1) / 2 - read @ self.codes.T, axis=-1)

    def __repr__(self) -> str:
        letters, n, width = self.keys.shape
        return f"Layer(letters={letters}, reflections={n}, d_k={width}, d_v={self.values.shape[2]})"


def following(
    maps: np.ndarray, start: int, *, passes: np.ndarray | None = None, unit: bool = False
) -> Layer:
    """Return the layer that follows one point, whose number is what is read."""
    numbers = np.arange(maps.shape[1])[:, None]
    return moving(maps, numbers == start, numbers, start=start, passes=passes, unit=unit)


def moving(
    maps: np.ndarray,
    initial_state: np.ndarray,
    codes: np.ndarray | None,
    *,
    start: int = 0,
    passes: np.ndarray | None = None,
    unit: bool = False,
) -> Layer:
    """Return the layer of letters that permute n points or, with d_v = 1, reset to one of them."""
    letters, n = maps.shape
    permutes = are_permutations(maps)
    swaps = [
        _swaps(images) if p else None for images, p in zip(maps.tolist(), permutes, strict=True)
    ]
    rows = max(1, *(n if pairs is None else len(pairs) for pairs in swaps))
    if letters * rows * n > _LARGEST:
        raise ValueError(
            f"the keys of {letters} letters, {rows} reflections each, of {n} points would be "
            f"{letters * rows * n} numbers, more than {_LARGEST}. A group takes fewer as "
            f"permutations of fewer points: group(generators=...)."
        )
    dtype = np.float64 if unit else np.int8
    size, beta = (np.sqrt(0.5), 2) if unit else (1, 1)
    keys = np.zeros((letters, rows, n), dtype)
    values = np.zeros((letters, rows, initial_state.shape[1]), dtype)
    betas = np.zeros((letters, rows), dtype)
    for letter, pairs in enumerate(swaps):
        if pairs is None:
            keys[letter, :n] = np.eye(n)
            values[letter, maps[letter, 0]] = 1
            betas[letter, :n] = 1
        else:
            for row, (one, other) in enumerate(pairs):
                keys[letter, row, [one, other]] = size, -size
                betas[letter, row] = beta
    return Layer(
        keys, values, betas, initial_state.astype(dtype), np.arange(n), codes, start, passes
    )


def _swaps(images: Sequence[int]) -> list[tuple[int, int]]:
    """Return swaps that make the permutation, applied in this order: n less its cycles."""
    swaps, seen = [], set()
    for first, point in enumerate(images):
        seen.add(first)
        while point not in seen:
            seen.add(point)
            swaps.append((first, point))
            point = images[point]
    return swaps
