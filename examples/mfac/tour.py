"""The room's rows of the tour: a preconditioned step with known digits, a pruned regression."""

import numpy as np
from sklearn.datasets import load_digits

from linalgkit import mfac


def stops():
    """Yield the room's stops, as arguments of the tour's `Stop`."""
    yield step()
    yield regression()


def step(m: int = 128, d: int = 20_000, damping: float = 1e-5):
    """F⁻¹ of a gradient in the window; push-through in float64 judges it.

    The peer is in float64: in float32 it takes less time, and is wrong by more than the result.
    """
    g = np.random.default_rng(0).standard_normal((m, d), dtype=np.float32)
    wide = g.astype(float)
    system = wide @ wide.T + m * damping * np.eye(m)
    truth = m * np.linalg.solve(system, np.eye(m)[-1]) @ wide

    def plain():
        wide = g.astype(float)
        k = wide @ wide.T + m * damping * np.eye(m)
        return (wide[-1] - np.linalg.solve(k, wide @ wide[-1]) @ wide) / damping

    return {
        "what": "preconditioned step",
        "input": f"{m} gradients of {d:,}, float32",
        "ours": lambda: mfac.empirical_fisher(g, damping=damping).solve(g[-1]),
        "peer": plain,
        "peer_name": "Woodbury, float64",
        "error": lambda found: float(np.linalg.norm(found - truth) / np.linalg.norm(truth)),
    }


def regression(damping: float = 1e-3):
    """Half the weights of a regression removed at once: least squares on the others is known."""
    x = load_digits().data / 16
    x = x[:, x.std(axis=0) > 0.05]
    w = np.random.default_rng(0).standard_normal(x.shape[1])
    fisher = mfac.empirical_fisher(x, damping=damping)
    dense = damping * np.eye(x.shape[1]) + x.T @ x / len(x)

    def refitted():
        costs = w**2 / np.linalg.inv(dense).diagonal()
        gone = np.zeros(w.size, bool)
        gone[np.argsort(costs)[: round(w.size / 2)]] = True
        result = np.zeros_like(w)
        kept = ~gone
        move = np.linalg.solve(dense[np.ix_(kept, kept)], dense[np.ix_(kept, gone)] @ w[gone])
        result[kept] = w[kept] + move
        return result

    truth = refitted()
    return {
        "what": "pruned regression",
        "input": f"digits, {x.shape[0]} gradients of {x.shape[1]}",
        "ours": lambda: mfac.prune(w, fisher, sparsity=0.5, update="joint").weights,
        "peer": refitted,
        "peer_name": "dense matrix",
        "error": lambda found: float(np.abs(found - truth).max() / np.abs(truth).max()),
    }
