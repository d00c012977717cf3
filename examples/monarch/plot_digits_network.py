"""
Layers of a network: dense, Monarch, low rank
=============================================

A layer of a neural network is a matrix that is learned. If it is learned as two Monarch factors, it
has few parameters from the start. This script trains a small network on handwritten digits three
times, with a hidden layer that is dense, of low rank, or Monarch, the last two with equally many
parameters. It needs torch.
"""

# %%
# Data and layers
# ---------------
# 1797 images of 8 × 8 pixels, a third of them kept for testing. The hidden layer has 256 inputs and
# outputs. Torch tensors go through the compiled kernels of
# :func:`monarch.monarch_matmul <linalgkit.monarch.monarch_matmul>`, and so do their gradients.

import os
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from linalgkit import monarch

torch.set_num_threads(1)
epochs, seeds = (8, 2) if os.environ.get("LINALGKIT_EXAMPLE_SIZE") == "small" else (40, 5)
images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
parts = train_test_split(images, labels, test_size=1 / 3, random_state=0, stratify=labels)
train_x, test_x, train_y, test_y = map(torch.from_numpy, parts)


def normal(*shape, fan_in):
    return torch.nn.Parameter(torch.randn(*shape) / fan_in**0.5)


class Monarch(torch.nn.Module):
    def __init__(self, n=256, blocks=16):
        super().__init__()
        size = n // blocks
        self.left = normal(blocks, size, size, fan_in=size)
        self.right = normal(blocks, size, size, fan_in=size)

    def forward(self, x):
        return monarch.monarch_matmul(x, self.left, self.right)


class LowRank(torch.nn.Module):
    def __init__(self, n=256, rank=16):
        super().__init__()
        self.down, self.up = normal(n, rank, fan_in=n), normal(rank, n, fan_in=rank)

    def forward(self, x):
        return x @ self.down @ self.up


LAYERS = {
    "dense": lambda: torch.nn.Linear(256, 256, bias=False),
    "low rank": LowRank,
    "Monarch": Monarch,
}

# %%
# Training
# --------
# The same steps for everybody: Adam, batches of 100, five seeds.


def train(make, seed):
    torch.manual_seed(seed)
    layer = make()
    network = torch.nn.Sequential(
        torch.nn.Linear(64, 256), torch.nn.ReLU(), layer, torch.nn.ReLU(), torch.nn.Linear(256, 10)
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    steps, accuracies = [], []
    for _ in range(epochs):
        for batch in torch.randperm(len(train_x)).split(100):
            begin = time.perf_counter()
            loss = torch.nn.functional.cross_entropy(network(train_x[batch]), train_y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            steps.append(time.perf_counter() - begin)
        with torch.no_grad():
            accuracies.append((network(test_x).argmax(dim=1) == test_y).float().mean().item())
    size = sum(p.numel() for p in layer.parameters())
    return np.array(accuracies), 1e3 * np.median(steps), size


train(Monarch, 0)  # compiles the kernels
results = {name: [train(make, seed) for seed in range(seeds)] for name, make in LAYERS.items()}
for name, runs in results.items():
    last = np.array([accuracies[-1] for accuracies, _, _ in runs])
    print(
        f"{name:9} {runs[0][2]:6,} parameters in the layer: {last.mean():.2%} of the test images "
        f"(spread {np.ptp(last):.2%}), {np.median([ms for _, ms, _ in runs]):.2f} ms a step"
    )

# %%
# What it shows
# -------------
# With an eighth of the parameters, both are as good as the dense layer on this small task. In time
# a Monarch layer gains nothing here: at 256 rows and batches of 100 a step is mostly overhead, and
# two plain products have the least of it. The gain begins at larger layers;
# :doc:`/performance` has the table.

figure, (curves, bars) = plt.subplots(
    1, 2, figsize=(10, 3.8), layout="constrained", width_ratios=(2, 1)
)
colours = {"dense": "#999999", "low rank": "#E69F00", "Monarch": "#0072B2"}
for name, runs in results.items():
    every = np.array([accuracies for accuracies, _, _ in runs])
    steps = np.arange(1, epochs + 1)
    curves.plot(steps, 100 * every.mean(axis=0), color=colours[name], label=name)
    curves.fill_between(
        steps, 100 * every.min(axis=0), 100 * every.max(axis=0), color=colours[name], alpha=0.15
    )
curves.set(xlabel="epoch", ylabel="test images recognised (%)", ylim=(85, 100))
curves.legend(frameon=False, loc="lower right")
times = [np.median([ms for _, ms, _ in runs]) for runs in results.values()]
bars.bar(list(results), times, color=[colours[name] for name in results])
bars.set(ylabel="milliseconds a step")
for axis in (curves, bars):
    axis.spines[["top", "right"]].set_visible(False)

plt.show()
