"""
Which weights of a network can go
=================================

A small network reads handwritten digits. Most of its weights can be removed, if one knows which,
and if the others move to make up for them. This script compares what is known about a weight: its
size, its own curvature, and the inverse of the whole curvature matrix.
"""

# %%
# A network and its gradients
# ---------------------------
# 64 pixels, 40 hidden units, 10 classes: 3010 weights. The curvature of the loss is estimated from
# gradients of single images. Labels are drawn from what the network itself believes: a well trained
# network has next to no gradient for the true ones.

import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from linalgkit import mfac

is_small = os.environ.get("LINALGKIT_EXAMPLE_SIZE") == "small"
images, labels = load_digits(return_X_y=True)
parts = train_test_split(images / 16, labels, test_size=1 / 3, random_state=0, stratify=labels)
train_x, test_x, train_y, test_y = parts
net = MLPClassifier((40,), alpha=0.05, max_iter=600, random_state=0).fit(train_x, train_y)
leaves = [net.coefs_[0], net.intercepts_[0], net.coefs_[1], net.intercepts_[1]]


def forward(weights, x):
    hidden = np.maximum(x @ weights[0] + weights[1], 0)
    scores = hidden @ weights[2] + weights[3]
    beliefs = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, beliefs / beliefs.sum(axis=1, keepdims=True)


def accuracy(weights):
    return 100 * np.mean(forward(weights, test_x)[1].argmax(axis=1) == test_y)


def gradients(weights, x, rng):
    """One gradient an image for each leaf, in closed form."""
    hidden, beliefs = forward(weights, x)
    drawn = (beliefs.cumsum(axis=1) > rng.random((len(x), 1))).argmax(axis=1)
    top = beliefs - np.eye(10)[drawn]
    below = (top @ weights[2].T) * (hidden > 0)
    return [x[:, :, None] * below[:, None, :], below, hidden[:, :, None] * top[:, None, :], top]


count = 400 if is_small else 1000
rng = np.random.default_rng(0)
rows = gradients(leaves, train_x[rng.permutation(len(train_x))[:count]], rng)
fisher = mfac.empirical_fisher(rows, damping=1e-4)
print(fisher)
print(f"the network reads {accuracy(leaves):.1f} % of the test images")

# %%
# Six ways to choose
# ------------------
# *Magnitude* removes the smallest weights. The *diagonal* weighs each by its own curvature. Both
# leave the others where they are. :func:`prune <linalgkit.mfac.prune>` weighs with the diagonal of
# the inverse, and moves the others: as published, or to the joint minimum, in one round or in
# several. Biases stay: they are masked.

is_matrix = [np.full(leaf.shape, leaf.ndim == 2) for leaf in leaves]
flat = np.concatenate([leaf.ravel() for leaf in leaves])
may_go = np.concatenate([part.ravel() for part in is_matrix])
curvature = np.concatenate([part.ravel() for part in fisher.diagonal()])


def cut(scores, sparsity):
    """Remove the lowest scores and move nothing."""
    scores = np.where(may_go, scores, np.inf)
    result = flat.copy()
    result[np.argsort(scores)[: round(sparsity * may_go.sum())]] = 0
    ends = np.cumsum([0, *(leaf.size for leaf in leaves)])
    pieces = zip(leaves, ends[:-1], ends[1:], strict=True)
    return [result[a:b].reshape(leaf.shape) for leaf, a, b in pieces]


def pruned(sparsity, **options):
    return mfac.prune(leaves, fisher, sparsity=sparsity, mask=is_matrix, **options).weights


rounds = 4 if is_small else 16
METHODS = {
    "magnitude": lambda s: cut(np.abs(flat), s),
    "diagonal of F": lambda s: cut(flat**2 * curvature, s),
    "M-FAC, diagonal update": lambda s: pruned(s),
    f"M-FAC, diagonal update, {rounds} rounds": lambda s: pruned(s, n_recompute=rounds),
    "joint update": lambda s: pruned(s, update="joint"),
    f"joint update, {rounds} rounds": lambda s: pruned(s, update="joint", n_recompute=rounds),
}
sparsities = np.array([0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95])
curves = {name: [accuracy(method(s)) for s in sparsities] for name, method in METHODS.items()}
for name, found in curves.items():
    print(f"{name:36}", *(f"{s:.0%}: {a:4.1f}" for s, a in zip(sparsities, found, strict=True)))

# %%
# What it shows
# -------------
# To know which weights matter is not enough: moving the others is what keeps the network alive.
# The published update treats the removed weights one by one and overshoots when many go at once;
# rounds help it. The joint update minimises the quadratic model of the loss, and rounds only choose
# better weights. Nothing was trained again.

figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
STYLES = [
    ("#999999", ":"), ("#E69F00", ":"), ("#56B4E9", "--"), ("#56B4E9", "-"), ("#0072B2", "--"),
    ("#0072B2", "-"),
]  # fmt: skip
for (name, found), (colour, line) in zip(curves.items(), STYLES, strict=True):
    axis.plot(100 * sparsities, found, line, color=colour, marker="o", ms=3.5, label=name)
axis.axhline(accuracy(leaves), color="black", lw=0.8)
axis.annotate("all weights", (31, accuracy(leaves) + 1), fontsize=9)
axis.set(xlabel="weights removed (%)", ylabel="test images recognised (%)", ylim=(0, 105))
axis.legend(frameon=False, loc="lower left")
axis.spines[["top", "right"]].set_visible(False)

plt.show()
