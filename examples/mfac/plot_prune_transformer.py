"""
Pruning a layer of a transformer
================================

The query projection of the first layer of a sentence encoder (all-MiniLM-L6-v2) is a matrix of
384 × 384. This script removes half to nine tenths of its weights and asks how well it still
computes what it did, on the inputs that it gets in the model.
"""

# %%
# The layer and its inputs
# ------------------------
# The inputs are the model's own: the normalised embeddings of 1280 tokens of English text. A third
# of them is kept for testing.

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from linalgkit import mfac

here = globals().get("__file__")  # the gallery runs scripts in their folder
data = (Path(here).parent if here else Path.cwd()).parent / "data"
weights = np.load(data / "minilm_attention.npz")["query_0"].astype(np.float32)
inputs = np.load(data / "minilm_inputs.npz")["inputs_0"].astype(np.float32)
order = np.random.default_rng(0).permutation(len(inputs))
train, test = inputs[order[: len(order) * 2 // 3]], inputs[order[len(order) * 2 // 3 :]]
is_small = os.environ.get("LINALGKIT_EXAMPLE_SIZE") == "small"
rows = 6 if is_small else 96  # of the matrix: each is pruned for itself
weights = weights[:rows]

# %%
# Its curvature
# -------------
# The loss is half the squared difference from what the layer computed. A row of the matrix makes
# one output, so rows are independent of each other, and the gradient of a row for a difference of
# one is the input itself: all rows have the same Fisher matrix, ``λ I + Xᵀ X / m``. There are more
# gradients than weights of a row, so :func:`empirical_fisher <linalgkit.mfac.empirical_fisher>`
# keeps a factor of the matrix itself. The damping also guards against trusting so few inputs too
# much.

fisher = mfac.empirical_fisher(train, damping=0.03)
print(fisher)


def error(found):
    """Of what the pruned rows compute on the test inputs, relative."""
    return np.linalg.norm(test @ (found - weights).T) / np.linalg.norm(test @ weights.T)


def magnitude(sparsity, groups=None):
    result = weights.copy()
    if groups:
        quads = np.abs(result).reshape(rows, -1, 4)
        lowest = np.argsort(quads, axis=-1)[..., :2]
        np.put_along_axis(result.reshape(rows, -1, 4), lowest, 0, axis=-1)
        return result
    lowest = np.argsort(np.abs(result), axis=1)[:, : round(sparsity * result.shape[1])]
    np.put_along_axis(result, lowest, 0, axis=1)
    return result


def pruned(**options):
    return np.array([mfac.prune(row, fisher, **options).weights for row in weights])


METHODS = {
    "magnitude": magnitude,
    "M-FAC, diagonal update": lambda s: pruned(sparsity=s),
    "joint update": lambda s: pruned(sparsity=s, update="joint"),
    "joint update, 4 rounds": lambda s: pruned(sparsity=s, update="joint", n_recompute=4),
}
sparsities = np.array([0.5, 0.7, 0.9] if is_small else [0.5, 0.6, 0.7, 0.8, 0.9])
curves = {name: [error(method(s)) for s in sparsities] for name, method in METHODS.items()}
for name, found in curves.items():
    print(f"{name:24}", *(f"{s:.0%}: {e:.3f}" for s, e in zip(sparsities, found, strict=True)))

# %%
# Two of every four
# -----------------
# Hardware multiplies a matrix twice as fast if two of every four neighbours are zero. The pattern
# leaves less choice, and moving the others matters more.

patterns = {
    "magnitude": error(magnitude(0.5, groups=4)),
    "M-FAC, diagonal update": error(pruned(groups="2:4")),
    "joint update": error(pruned(groups="2:4", update="joint")),
    "joint update, 4 rounds": error(pruned(groups="2:4", update="joint", n_recompute=4)),
}
for name, found in patterns.items():
    print(f"{name:24} 2:4: {found:.3f}")

# %%
# What it shows
# -------------
# The inputs of this layer are correlated, so removed weights can be made up for by others. The
# published update does so in part; the joint update in several rounds, each of which weighs what is
# left anew, has about six tenths of the error of magnitude. With a tenth of the damping it
# would fit the training inputs better and the test inputs worse.

figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 4), layout="constrained", width_ratios=(2, 1)
)
colours = dict(zip(METHODS, ("#999999", "#56B4E9", "#0072B2", "#009E73"), strict=True))
for name, found in curves.items():
    left.semilogy(100 * sparsities, found, "o-", ms=4, color=colours[name], label=name)
left.set(xlabel="weights removed (%)", ylabel="relative error of the layer's outputs")
left.legend(frameon=False)
right.bar(range(4), list(patterns.values()), color=[colours[name] for name in patterns])
right.set_xticks(
    range(4), [name.replace(", ", ",\n") for name in patterns], fontsize=8, rotation=30
)
right.set(ylabel="relative error", title="two of every four")
for axis in (left, right):
    axis.spines[["top", "right"]].set_visible(False)

plt.show()
