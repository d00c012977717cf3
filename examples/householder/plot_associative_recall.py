"""
A memory of handwritten digits
==============================

Linear attention adds every token's outer product of key and value to a matrix, and a key reads a
mixture of all values whose keys it resembles. The delta rule first reads what the key would give,
and writes the difference. This script stores images under random keys and looks at what
comes back.
"""

# %%
# Images and keys
# ---------------
# The values are handwritten digits of 8 × 8 pixels from scikit-learn, the keys random vectors of
# norm 1. In 32 dimensions no more than 32 of them can be independent, and nearly every two overlap.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from linalgkit.householder import delta_rule

images, labels = load_digits(return_X_y=True)
images = images / 16
rng = np.random.default_rng(0)
width, most = 32, 48
keys = rng.standard_normal((most, width))
keys /= np.linalg.norm(keys, axis=1, keepdims=True)

# %%
# Four memories
# -------------
# The additive rule is a product of matrices. The delta rule returns its state. With β = 1 a token's
# key gives its value exactly, until the next token. With β = 2 the state is reflected: it goes
# beyond the value as far as it was short of it, which is what counting needs, and no way to
# remember. A memory that sees its tokens again and again with β = 1 solves the equations that keys
# and values are, if there is a solution: this is the method of Kaczmarz.


def additive(k, v):
    return k.mT @ v


def delta(k, v, beta, times=1):
    k, v = np.concatenate([k] * times, axis=-2), np.concatenate([v] * times, axis=-2)
    return delta_rule(k, k, v, np.full(k.shape[:-1], beta), return_state=True)[1]


memories = {
    "additive": additive,
    "delta rule, β = 1": lambda k, v: delta(k, v, 1.0),
    "delta rule, β = 2": lambda k, v: delta(k, v, 2.0),
    "β = 1, twenty times": lambda k, v: delta(k, v, 1.0, times=20),
}


def error(found, values):
    """Return the root mean square over a set of images, relative to the images."""
    return np.linalg.norm(found - values, axis=(-2, -1)) / np.linalg.norm(values, axis=(-2, -1))


# %%
# What is recalled
# ----------------
# Two images of each digit are stored, in this order, and below is what the keys of the second ones
# give in the end. The last token is the nine on the right: β = 1 has it exactly, and those before
# it the worse the longer ago they were written.

order = np.stack([np.flatnonzero(labels == digit)[:2] for digit in range(10)]).ravel()
k, v = keys[: len(order)], images[order]
rows = {"stored": v} | {name: k @ memory(k, v) for name, memory in memories.items()}
figure, axes = plt.subplots(len(rows), 10, figsize=(9, 5), layout="constrained")
for line, (name, recalled) in zip(axes, rows.items(), strict=True):
    for axis, image in zip(line, recalled[1::2], strict=True):
        axis.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_color("#CCCCCC")
    title = name if name == "stored" else f"{name}\nerror {error(recalled, v):.2f}"
    line[0].set_ylabel(title, rotation=0, ha="right", va="center")
plt.show()

# %%
# How much it holds
# -----------------
# The error of all images stored so far, and of the last one, against their number; medians over
# sixty draws of keys and images, all in one call. No linear memory holds more images than keys have
# dimensions, the dotted line. With as many, the additive rule is no better than a blank
# page, whose error is 1. One pass of the delta rule forgets what is old, gradually, and has what is
# new; twenty passes have up to twenty images without error. β = 2 is no better than a blank page
# from the start: right for counting, wrong here.

draws, numbers = 60, [1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48]
k = rng.standard_normal((draws, most, width))
k /= np.linalg.norm(k, axis=-1, keepdims=True)
v = images[rng.integers(len(images), size=(draws, most))]
whole, last = {}, {}
for name, memory in memories.items():
    found = [k[:, :number] @ memory(k[:, :number], v[:, :number]) for number in numbers]
    whole[name] = [np.median(error(f, v[:, : f.shape[1]])) for f in found]
    last[name] = [np.median(error(f[:, -1:], v[:, f.shape[1] - 1 : f.shape[1]])) for f in found]

colours = dict(zip(memories, ("#E69F00", "#0072B2", "#CC79A7", "#009E73"), strict=True))
figure, panels = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
for axis, errors, title in zip(
    panels, (whole, last), ("all images", "the last image"), strict=True
):
    for name, values in errors.items():
        axis.plot(numbers, values, "o-", markersize=4, color=colours[name], label=name)
    axis.axvline(width, color="#999999", linestyle=":")
    axis.axhline(1, color="#999999", linestyle=":")
    axis.set(title=title, xlabel="images stored", ylim=(-0.05, 2.8))
    axis.spines[["top", "right"]].set_visible(False)
panels[0].set_ylabel("relative error of what is recalled")
panels[1].text(21, 1.02, "blank page", color="#777777", va="bottom", fontsize=9)
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4,
              frameon=False)  # fmt: skip

plt.show()
