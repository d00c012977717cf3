"""Regular expressions as automata: derivatives of the expression are the states.

Python's own parser is private to `re` and changes with it, and libraries of automata have their own
syntax. So groups, alternatives and quantifiers are parsed here, and characters are left to `re`.

The derivative of an expression by a letter matches what may follow that letter (Brzozowski 1964,
"Derivatives of regular expressions"). There are finitely many up to the order and repetition of
alternatives; equivalent ones are then merged by Moore's refinement.

Expressions are tuples: ``("any of", letters)``, ``("sequence", *parts)``, ``("either", options)``
and ``("repeat", part, least, most)``. No letter at all matches nothing; no parts, the empty text.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ._trackers import StateTracker, automaton

_NOTHING: tuple[Any, ...] = ("any of", frozenset())
_EMPTY: tuple[Any, ...] = ("sequence",)
_MOST_STATES = 2000  # beyond, a cascade is hopeless

# One character by itself, escaped, or of a class; which letters it matches is for `re` to say.
_CHARACTER = re.compile(
    r"""\[\^?\]?(?:\\.|[^\]\\])*\]
    | \\(?:x[0-9a-fA-F]{2} | u[0-9a-fA-F]{4} | U[0-9a-fA-F]{8} | N\{[^}]*\}
          | 0[0-7]{0,2} | [1-3][0-7]{2} | [^0-9bBAzZ])
    | [^\\^$()|*+?]""",
    re.VERBOSE | re.DOTALL,
)
_CLASS = re.compile(r"\[.*|\.|\\[dDsSwW]", re.DOTALL)  # may match no letter: not a literal
_QUANTIFIER = re.compile(r"([*+?]|\{(?:\d+|\d*,\d*)\})([?+]?)")
_GROUP = re.compile(r"\((?:\?:|\?P<\w+>|(?!\?))")


@dataclass(frozen=True, eq=False, repr=False)
class Language:
    """A regular language with the tracker of its smallest automaton.

    Parameters
    ----------
    pattern : str
        The regular expression.
    alphabet : str
        The characters of texts; letter s is ``alphabet[s]``.
    tracker : StateTracker
        Follows the state, from 0.
    accepting : ndarray of bool, shape (states,)
        In which states the text so far matches.
    """

    pattern: str
    alphabet: str
    tracker: StateTracker
    accepting: np.ndarray

    def word(self, text: str) -> np.ndarray:
        """Return a text's letters as numbers, shape (L,).

        Parameters
        ----------
        text : str
            Characters of the alphabet only; ValueError for others.

        Returns
        -------
        ndarray of int64, shape (L,)
            Positions in the alphabet.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a str; got {type(text).__name__}.")
        codes, order = self._codes
        found = _code_points(text)
        places = np.minimum(np.searchsorted(codes, found), len(codes) - 1)
        unknown = np.flatnonzero(codes[places] != found)
        if len(unknown):
            raise ValueError(
                f"text must be of the characters {self.alphabet!r}; got {text[unknown[0]]!r} at "
                f"index {unknown[0]}."
            )
        return order[places]

    def matches(self, text: str, *, dtype: Any = np.float32) -> np.ndarray:
        """Tell for each character whether the text up to it, itself included, matches in full.

        Parameters
        ----------
        text : str
            Characters of the alphabet.
        dtype : dtype, optional
            Floating dtype that the tracker runs in.

        Returns
        -------
        ndarray of bool, shape (L,)
            What ``re.fullmatch(pattern, text[: t + 1])`` says, in linear time.
        """
        return self.accepting[self.tracker.run(self.word(text), dtype=dtype)]

    def fullmatch(self, text: str, *, dtype: Any = np.float32) -> bool:
        """Tell whether the whole text matches.

        Parameters
        ----------
        text : str
            Characters of the alphabet.
        dtype : dtype, optional
            Floating dtype that the tracker runs in.

        Returns
        -------
        bool
            What ``re.fullmatch`` says.
        """
        found = self.matches(text, dtype=dtype)
        return bool(found[-1] if len(found) else self.accepting[0])

    @cached_property
    def _codes(self) -> tuple[np.ndarray, np.ndarray]:
        codes = _code_points(self.alphabet)
        order = np.argsort(codes)
        return codes[order], order

    def __repr__(self) -> str:
        return (
            f"Language({self.pattern!r}, alphabet={self.alphabet!r}): {len(self.accepting)} "
            f"states, {int(self.accepting.sum())} accepting, {len(self.tracker.layers)} "
            f"layer{'s' * (len(self.tracker.layers) > 1)}"
        )


def regex(pattern: str, alphabet: str) -> Language:
    r"""Turn a regular expression into a tracker that tells where texts match it.

    Parameters
    ----------
    pattern : str
        In Python's syntax: literals, ``.``, classes, escapes, ``|``, groups, ``* + ? {m,n}``.
    alphabet : str
        The characters that texts have.

    Returns
    -------
    Language
        With the tracker of the smallest automaton, and its accepting states.

    Raises
    ------
    ValueError
        The pattern is malformed, or has what is no regular language or no part of one:
        backreferences, lookaround, anchors, possessive quantifiers, flags; or a character by itself
        that is not of the alphabet. Or the alphabet has no character, or one twice; or there are
        too many states.
    TypeError
        Pattern or alphabet is no text.

    See Also
    --------
    automaton : The layers, and their number.

    Notes
    -----
    Which characters an atom such as ``[^a-c]`` or ``\d`` matches is asked of Python's `re`; only
    the structure around atoms is parsed here. Lazy quantifiers match the same texts as greedy ones
    and are taken as such. Regular languages are Theorem 4 of [1]_. What must be remembered costs
    states: ``(a|b)*a(a|b){m}`` has 2 ** (m + 1), and its cascade is too large from m = 4 on.

    References
    ----------
    .. [1] R. Grazzi et al., "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues",
       ICLR 2025, arXiv:2411.12537.

    Examples
    --------
    >>> from linalgkit.householder import state_tracking
    >>> language = state_tracking.regex("(a|b)*aba", "ab")
    >>> language
    Language('(a|b)*aba', alphabet='ab'): 4 states, 1 accepting, 3 layers
    >>> language.matches("aababa").astype(int)
    array([0, 0, 0, 1, 0, 1])
    """
    if not isinstance(pattern, str) or not isinstance(alphabet, str):
        raise TypeError(
            f"pattern and alphabet must be str; got {type(pattern).__name__} and "
            f"{type(alphabet).__name__}."
        )
    if not alphabet or len(set(alphabet)) < len(alphabet):
        raise ValueError(
            f"alphabet must have at least one character and none twice; got {alphabet!r}."
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern {pattern!r} is malformed: {error}.") from None
    delta, accepting = _smallest(*_automaton_of(_Parser(pattern, alphabet).parsed(), len(alphabet)))
    return Language(pattern, alphabet, automaton(delta), accepting)


class _Parser:
    """Recursive descent over a pattern that `re` has found well formed."""

    def __init__(self, pattern: str, alphabet: str) -> None:
        self.pattern, self.alphabet, self.place = pattern, alphabet, 0

    def parsed(self) -> tuple[Any, ...]:
        expression = self._alternatives()
        assert self.place == len(self.pattern)  # what else ends alternatives, `re` had refused
        return expression

    def _alternatives(self) -> tuple[Any, ...]:
        options = [self._sequence()]
        while self._next() == "|":
            self.place += 1
            options.append(self._sequence())
        return _either(options)

    def _sequence(self) -> tuple[Any, ...]:
        parts = []
        while self._next() not in ("", "|", ")"):
            parts.append(self._repeated(self._atom()))
        return _sequence(parts)

    def _repeated(self, part: tuple[Any, ...]) -> tuple[Any, ...]:
        found = _QUANTIFIER.match(self.pattern, self.place)
        if not found:
            return part
        if found[2] == "+":
            raise self._unsupported(f"the possessive quantifier {found[0]}")
        self.place = found.end()
        least, comma, most = found[1].strip("{}").partition(",")
        if found[1] in "*+?":
            return _repeat(part, int(found[1] == "+"), 1 if found[1] == "?" else None)
        return _repeat(part, int(least or 0), int(most) if most else None if comma else int(least))

    def _atom(self) -> tuple[Any, ...]:
        if self._next() == "(":
            opening = _GROUP.match(self.pattern, self.place)
            if not opening:
                raise self._unsupported(f"the group {self.pattern[self.place : self.place + 4]}…")
            self.place = opening.end()
            inside = self._alternatives()
            self.place += 1  # its parenthesis
            return inside
        atom = _CHARACTER.match(self.pattern, self.place)
        if not atom:
            what = "the backreference or anchor" if self._next() == "\\" else "the anchor"
            raise self._unsupported(f"{what} {self.pattern[self.place : self.place + 2]}")
        matches = re.compile(atom[0]).fullmatch
        letters = frozenset(s for s, letter in enumerate(self.alphabet) if matches(letter))
        if not letters and not _CLASS.fullmatch(atom[0]):
            raise ValueError(
                f"pattern {self.pattern!r} has {atom[0]!r} at index {self.place}, which is none of "
                f"the characters {self.alphabet!r}: texts never have it."
            )
        self.place = atom.end()
        return "any of", letters

    def _next(self) -> str:
        return self.pattern[self.place : self.place + 1]

    def _unsupported(self, what: str) -> ValueError:
        return ValueError(
            f"pattern {self.pattern!r} has {what} at index {self.place}, which is not supported; "
            f"there are literals, classes, ., |, groups, * + ? {{m,n}}, and texts match in full."
        )


def _sequence(parts: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
    flat: list[Any] = []
    for part in parts:
        flat += part[1:] if part[0] == "sequence" else [part]
    if _NOTHING in flat:
        return _NOTHING
    return flat[0] if len(flat) == 1 else ("sequence", *flat)


def _either(options: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
    flat: set[Any] = set()
    for option in options:
        flat |= option[1] if option[0] == "either" else {option}
    flat.discard(_NOTHING)
    if not flat:
        return _NOTHING
    return flat.pop() if len(flat) == 1 else ("either", frozenset(flat))


def _repeat(part: tuple[Any, ...], least: int, most: int | None) -> tuple[Any, ...]:
    if most == 0 or part == _EMPTY:
        return _EMPTY
    if (least, most) == (1, 1):
        return part
    return "repeat", part, least, most


def _matches_empty(expression: tuple[Any, ...]) -> bool:
    match expression:
        case ("sequence", *parts):
            return all(map(_matches_empty, parts))
        case ("either", options):
            return any(map(_matches_empty, options))
        case ("repeat", part, least, _):
            return least == 0 or _matches_empty(part)
    return False


def _derivative(expression: tuple[Any, ...], letter: int) -> tuple[Any, ...]:
    """Return what matches the rest of a text that starts with the letter."""
    match expression:
        case ("any of", letters):
            return _EMPTY if letter in letters else _NOTHING
        case ("either", options):
            return _either(_derivative(option, letter) for option in options)
        case ("repeat", part, least, most):
            rest = _repeat(part, max(least - 1, 0), None if most is None else most - 1)
            return _sequence([_derivative(part, letter), rest])
    options, parts = [], expression[1:]
    for place, part in enumerate(parts):
        options.append(_sequence([_derivative(part, letter), *parts[place + 1 :]]))
        if not _matches_empty(part):
            break
    return _either(options)


def _automaton_of(expression: tuple[Any, ...], letters: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the transitions (states, letters) and accepting states of the derivatives."""
    states, rows = [expression], []
    numbers = {expression: 0}
    kinds = list(_kinds_of_letters(expression, letters))
    for state in states:  # grows while it is walked
        row = np.zeros(letters, np.int64)
        for kind in kinds:
            following = _derivative(state, kind[0])
            if following not in numbers:
                numbers[following] = len(states)
                states.append(following)
            row[kind] = numbers[following]
        rows.append(row)
        if len(states) > _MOST_STATES:
            raise ValueError(f"the automaton has more than {_MOST_STATES} states.")
    return np.array(rows), np.array([_matches_empty(state) for state in states])


def _kinds_of_letters(expression: tuple[Any, ...], letters: int) -> Iterable[list[int]]:
    """Group letters that no atom tells from each other."""
    atoms: set[frozenset[int]] = set()

    def gather(part: tuple[Any, ...]) -> None:
        if part[0] == "any of":
            atoms.add(part[1])
        else:
            for inner in part[1] if part[0] == "either" else part[1:]:
                if isinstance(inner, tuple):  # not the numbers of a repetition
                    gather(inner)

    gather(expression)
    kinds: dict[tuple[bool, ...], list[int]] = {}
    for letter in range(letters):
        kinds.setdefault(tuple(letter in atom for atom in atoms), []).append(letter)
    return kinds.values()


def _smallest(delta: np.ndarray, accepting: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge states that no text tells apart; the start stays 0."""
    kinds, count = accepting.astype(np.int64), 0
    while True:
        seen = np.column_stack([kinds, kinds[delta]])
        _, first, kinds = np.unique(seen, axis=0, return_index=True, return_inverse=True)
        kinds = kinds.reshape(-1)  # NumPy 2.0 has one more axis
        if len(first) == count:
            break
        count = len(first)
    order = np.argsort(first)  # by first appearance, in which the start is first
    return np.argsort(order)[kinds][delta[first[order]]], accepting[first[order]]


def _code_points(text: str) -> np.ndarray:
    return np.array([ord(character) for character in text], np.int64)
