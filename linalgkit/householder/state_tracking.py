"""Finite-state machines as linear recurrences: exact in any dtype, for words of any length.

Letters become tokens of `delta_rule`: permutations are reflections, resets are writes. With keys of
integers nothing is ever rounded. A word problem is a random word with its running products, as
models are tested on. ::

    from linalgkit.householder import state_tracking

Source: "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues" (arXiv:2411.12537).
"""

from ._layers import Layer, Tokens
from ._regular_expressions import Language, regex
from ._trackers import StateTracker, automaton, group, parity, permutation, rotation
from ._word_problems import WordProblem, word_problem

__all__ = [
    "Language",
    "Layer",
    "StateTracker",
    "Tokens",
    "WordProblem",
    "automaton",
    "group",
    "parity",
    "permutation",
    "regex",
    "rotation",
    "word_problem",
]
