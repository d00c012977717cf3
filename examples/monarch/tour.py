"""The room's rows of the tour: a transform with a known answer, a photograph deblurred."""

import numpy as np
import scipy.linalg
from sklearn.datasets import load_sample_image

from linalgkit import monarch


def stops():
    """Yield the room's stops, as arguments of the tour's `Stop`."""
    yield hadamard()
    yield deblurred()


def hadamard(n: int = 4096, batch: int = 64):
    """The Walsh–Hadamard transform is a Monarch matrix; the dense one in float64 judges it."""
    left, right = monarch.hadamard_factors(n, dtype=np.float32)
    dense = scipy.linalg.hadamard(n).astype(np.float32)
    x = np.random.default_rng(0).standard_normal((batch, n), dtype=np.float32)

    def error(result):
        # Every 17th output, so that all bits of the index occur.
        truth = x @ dense[:, ::17].astype(float)
        return float(np.abs(result[:, ::17] - truth).max() / np.abs(truth).max())

    return {
        "what": "Hadamard transform",
        "input": f"{batch} vectors of {n}, float32",
        "ours": lambda: monarch.monarch_matmul(x, left, right),
        "peer": lambda: x @ dense,
        "peer_name": "dense @",
        "error": error,
    }


def deblurred(size: int = 64):
    """A blur of rows and columns, undone: the photograph is known."""
    picture = load_sample_image("china.jpg")[100 : 100 + size, 200 : 200 + size].mean(axis=2) / 255
    distance = np.arange(size)[:, None] - np.arange(size)
    blur = np.exp(-(distance**2) / (2 * 0.6**2))
    blur /= blur.sum(axis=1, keepdims=True)
    operator = monarch.Monarch(*monarch.kronecker_factors(blur, blur))
    dense = np.kron(blur, blur)
    seen = operator @ picture.ravel()

    return {
        "what": "deblurred photograph",
        "input": f"china.jpg, {size} × {size} pixels",
        "ours": lambda: operator.solve(seen),
        "peer": lambda: np.linalg.solve(dense, seen),
        "peer_name": "np.linalg.solve",
        "error": lambda found: float(np.abs(found - picture.ravel()).max()),
    }
