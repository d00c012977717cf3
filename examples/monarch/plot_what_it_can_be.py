"""
What a Monarch matrix can be
============================

A Monarch matrix has far fewer parameters than a dense one. So has a matrix of low rank. Which of
the two is nearer to a given operator depends on the operator, and sometimes one of them has no
error at all. Here are seven operators of 384 or 1024 rows.
"""

# %%
# The operators
# -------------
# The Fourier transform takes its input in another order: without that permutation it is no Monarch
# matrix. The blur of a picture, along its columns and along its rows, is a Kronecker product. A
# convolution around a circle is multiplied by a circulant matrix. Two matrices come from a language
# model: weights of the attention layers of all-MiniLM-L6-v2.

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.linalg import circulant, hadamard

from linalgkit import monarch


def blur(n, width):
    distance = np.arange(n)[:, None] - np.arange(n)
    weights = np.exp(-(distance**2) / (2 * width**2))
    return weights / weights.sum(axis=1, keepdims=True)


here = Path(__file__).parent if "__file__" in globals() else Path.cwd()
weights = np.load(here.parent / "data" / "minilm_attention.npz")
order = monarch.dft_factors(1024).permutation
operators = {
    "Fourier transform, input permuted": np.fft.fft(np.eye(1024))[:, order],
    "Hadamard": hadamard(1024).astype(float),
    "blur of a 32 × 32 picture": np.kron(blur(32, 1.0), blur(32, 2.0)),
    "circular convolution": circulant(np.random.default_rng(1).standard_normal(1024)),
    "random": np.random.default_rng(0).standard_normal((1024, 1024)),
    "MiniLM, layer 0, query": weights["query_0"].astype(float),
    "MiniLM, layer 5, attention output": weights["output_5"].astype(float),
}

# %%
# Errors
# ------
# Both approximations are the best of their kind: :func:`monarch.project
# <linalgkit.monarch.project>` and the truncated singular value decomposition. A Monarch matrix of
# b × b slices of rank c has 2 c b n parameters; one of low rank c has 2 c n.


def monarch_errors(a, nblocks):
    n = a.shape[0]
    for rank in (1, 2, 4, 8, 16):
        share = 2 * rank * nblocks * n / n**2
        if share < 1:
            yield share, float(monarch.projection_error(a, nblocks=nblocks, rank=rank))


def low_rank_errors(a):
    n, values = a.shape[0], np.linalg.svd(a, compute_uv=False)
    tails = np.sqrt(np.append(np.cumsum(values[::-1] ** 2)[::-1], 0) / (values**2).sum())
    for rank in range(1, n // 2):
        yield 2 * rank / n, tails[rank]


errors = {}
for name, a in operators.items():
    blocks = {1024: 32, 384: 24}[a.shape[0]]
    errors[name] = (
        np.array(list(monarch_errors(a, blocks))).T,
        np.array(list(low_rank_errors(a))).T,
    )
    (shares, ours), (others, low) = errors[name]
    nearest = np.interp(shares[0], others, low)
    print(f"{name:35} {shares[0]:5.1%} of the parameters:", end=" ")
    print(f"Monarch {ours[0]:.3f}, low rank {nearest:.3f}")

# %%
# A product of two
# ----------------
# A convolution is no Monarch matrix. It is a product of two, one of them transposed:
# :func:`factorize_mmstar <linalgkit.monarch.factorize_mmstar>` finds the three block-diagonal
# factors of such a product. Here they are complex, so each number counts twice.

factors = monarch.factorize_mmstar(operators["circular convolution"], allow_complex=True)
print(factors)
both = 2 * 3 * factors.left.size / 1024**2, factors.residual

# %%
# The picture
# -----------
# The transforms are Monarch matrices, and have no small singular values at all: a matrix of low
# rank cannot be near. The blur is exact too; a blur forgets detail, and low rank gets near to it in
# the end. The convolution takes a product of two Monarch matrices. Random numbers are near to
# nothing, for either. Of the weights of the language model, those of the query are nearer to low
# rank, as most of this model's are; the attention output of layer 5 is the exception, by little.
# The lesson is structure: whoever wants a trained matrix compressed should try both, and whoever
# has a transform, a Kronecker product or a convolution knows beforehand.

figure, axes = plt.subplots(2, 4, figsize=(13, 6.2), layout="constrained", sharex=True, sharey=True)
for axis, (name, (ours, low)) in zip(axes.flat, errors.items(), strict=False):
    axis.plot(*low, color="#E69F00", label="low rank")
    axis.plot(ours[0], np.maximum(ours[1], 0), "o-", color="#0072B2", label="Monarch")
    if name == "circular convolution":
        axis.plot(*both, "*", color="#009E73", markersize=14, label="product of two")
        handles = axis.get_legend_handles_labels()
    axis.set_title(name, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set(xlim=(0, 1), ylim=(-0.03, 1.05))
for axis in (*axes[1, :3], axes[0, 3]):
    axis.set_xlabel("parameters / dense")
    axis.tick_params(labelbottom=True)
for axis in axes[:, 0]:
    axis.set_ylabel("relative error")
axes[1, 3].set_axis_off()
axes[1, 3].legend(*handles, frameon=False, loc="center")

plt.show()
