"""
A million tokens without an error
=================================

A linear recurrence whose tokens are reflections can multiply permutations, and so follow any group
or automaton. In theory. In floating point a product of a million reflections drifts, unless nothing
is ever rounded. This script follows words over groups, the bits of a text modulo 7, and a regular
expression, each through :func:`delta_rule <linalgkit.householder.delta_rule>`, by the published
construction and by one of integers.
"""

# %%
# Two ways to swap
# ----------------
# The reflection I - β k kᵀ swaps two points if k is their difference, and ``β |k|² = 2``.
# Published is a key of norm 1 with β = 2. Its entries are ±√½, which no binary number is. With
# β = 1 and entries ±1, every number that the algorithm meets is a small integer.

import os
import re
from pydoc_data import topics

import matplotlib.pyplot as plt
import numpy as np

from linalgkit.householder import state_tracking

length = 50_000 if os.environ.get("LINALGKIT_EXAMPLE_SIZE") == "small" else 1_000_000
published = state_tracking.group("S5", unit=True)
integers = state_tracking.group("S5")
print(integers)
for tracker in (published, integers):
    (tokens,) = tracker.encode([7])
    print("first key:", tokens.k[0], " beta:", tokens.beta[0])

# %%
# Words over groups
# -----------------
# The word problem: multiply random elements of a group, and say the product after each. For groups
# that are not solvable, such as A₅ and S₅, no fixed number of layers with diagonal matrices can, up
# to an open conjecture. Trained models with a letter a token have failed S₅ before the thirtieth
# letter. Here is how far what is read is from the right answer. What is read are the places of the
# points, and half a place is half the distance of two states.


def errors(tracker, word, answer, dtype="float32"):
    """Return how far the numbers that are read are from the state's, token by token."""
    (layer,) = tracker.layers
    state, found = layer.encode(word[:0], dtype).initial_state, []
    for begin in range(0, len(word), 10_000):  # the state is carried on
        tokens = layer.encode(word[begin : begin + 10_000], dtype)
        output, state = layer.run(tokens._replace(initial_state=state))
        codes = layer.codes[answer[begin : begin + 10_000]]
        found.append(np.abs(output - codes).max(axis=1))
    return np.concatenate(found)


drifts = {}
for name in ("S3", "S5", "A5"):
    word, answer = state_tracking.word_problem(name, length, rng=0)
    tracker = state_tracking.group(name)
    exact = errors(tracker, word, answer).max()
    states = np.sum(tracker.run(word, dtype="float16") != answer)
    print(f"{name}, integers: error {exact} in float32; {states} wrong states in float16")
    drifts[name] = errors(state_tracking.group(name, unit=True), word, answer)

# %%
# Rotations of the plane are two reflections each; seven of them count modulo 7 in two dimensions.

word = np.random.default_rng(0).integers(7, size=length)
drifts["rotations"] = errors(state_tracking.rotation(7), word, np.cumsum(word) % 7)

# %%
# Bits of a text, modulo 7
# ------------------------
# A binary number is divisible by 7, a regular property, if the automaton of remainders ends in 0: a
# bit b takes r to 2 r + b. Both bits permute the remainders, so one layer will do. The number
# here is a text, the help pages of Python, as one integer of up to a million bits, and Python's
# long integers know the answer.

text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
data = text.encode()[: length // 8]
bits = np.unpackbits(np.frombuffer(data, np.uint8)).astype(int)
remainders = state_tracking.automaton([[2 * r % 7, (2 * r + 1) % 7] for r in range(7)])
found = remainders.run(bits)
ends = range(len(data), 0, -len(data) // 9)
right = all(found[8 * end - 1] == int.from_bytes(data[:end], "big") % 7 for end in ends)
print(remainders)
print(f"{bits.size} bits: remainder {found[-1]}, as the long integer says: {right}")

# %%
# A regular expression
# --------------------
# Most automata forget: letters lead two states to one, which no reflection does. Writes do, and a
# cascade of layers, each of which permutes or resets, follows any automaton. Where does the text
# say an article?

words = re.sub("[^a-z]+", " ", text.lower())[: length // 4]
article = state_tracking.regex(".* (a|an|the) ", " abcdefghijklmnopqrstuvwxyz")
matches = np.flatnonzero(article.matches(words))
truth = [match.end(1) for match in re.finditer(r" (a|an|the)(?= )", words)]
print(article)
print(f"{matches.size} articles in {len(words)} letters; as re finds: {matches.tolist() == truth}")

# %%
# The picture
# -----------
# Errors of the published keys grow in proportion to the length. Nearest states are still right at a
# million letters in float32, with little to spare for larger groups. What is built of integers
# stays on the line of zeros, in float16 too.

figure, axis = plt.subplots(figsize=(8, 4.6), layout="constrained")
places = np.unique(np.geomspace(1, length, 200).astype(int))
lines = {"S5": "#0072B2", "A5": "#CC79A7", "S3": "#56B4E9", "rotations": "#E69F00"}
for (name, colour), style in zip(lines.items(), ("-", "--", "-", "-"), strict=True):
    axis.plot(places, np.maximum.accumulate(drifts[name])[places - 1], style, color=colour)
for name, label, above in (
    ("S5", " keys of norm 1:\n S₅ and (dashed) A₅", 3),
    ("S3", " S₃", 1),
    ("rotations", " modulo 7, rotations", 0.7),
):
    axis.annotate(label, (length, above * drifts[name].max()), color=lines[name], va="center")
axis.plot([1, length], [0, 0], color="black", linewidth=3, solid_capstyle="butt")
axis.annotate(" integers: groups,\n text modulo 7,\n regular expression", (length, 0), va="center")
axis.axhline(0.5, color="#999999", linestyle=":")
axis.text(1.2, 0.6, "half the distance of two states", color="#777777", va="bottom")
axis.set_xscale("log")
axis.set_yscale("symlog", linthresh=1e-7)
axis.set(
    xlim=(1, length), ylim=(-5e-8, 3), xlabel="letters", ylabel="largest error so far (float32)"
)
axis.spines[["top", "right"]].set_visible(False)

plt.show()
