"""The room's rows of the tour: a long word over S₅, the QR decomposition of a photograph."""

import numpy as np
import scipy.linalg
from sklearn.datasets import load_sample_image
from threadpoolctl import threadpool_limits

from linalgkit.householder import ReflectionProduct, delta_rule, state_tracking


def stops():
    """Yield the room's stops, as arguments of the tour's `Stop`."""
    yield word_problem()
    yield photograph()


def word_problem(length: int = 1_000_000):
    """Products of random permutations; composing them one by one is the truth."""
    word, answer = state_tracking.word_problem("S5", length, rng=0)
    tracker = state_tracking.group("S5")
    (layer,), (tokens,) = tracker.layers, tracker.encode(word)
    n, (q, k, v, beta, state) = layer.reflections, tokens

    def peer():
        with threadpool_limits(1):  # BLAS is faster so, on products this small
            return in_chunks(q, k, v, beta, state, n)

    return {
        "what": "word problem of S₅",
        "input": f"{length:,} letters, {n} swaps each",
        "ours": lambda: delta_rule(q, k, v, beta, initial_state=state, reflections=n, scale=1),
        "peer": peer,
        "peer_name": "NumPy, chunks",
        # How many states are wrong.
        "error": lambda output: float(np.mean(layer.decode(output) != answer)),
    }


def in_chunks(q, k, v, beta, state, n, size=16):
    """Run the same rule in chunks, as published for graphics cards, by NumPy and LAPACK."""
    output, b = np.empty_like(q), beta[:, None]
    solve = scipy.linalg.get_lapack_funcs("trtrs", (k,))
    for begin in range(0, len(q), size):
        tokens, rows = slice(begin, begin + size), slice(begin * n, (begin + size) * n)
        lower = b[rows] * (k[rows] @ k[rows].T)
        writes = solve(lower, b[rows] * (v[rows] - k[rows] @ state), lower=1, unitdiag=1)[0]
        reads = q[tokens] @ k[rows].T
        reads *= np.arange(reads.shape[1]) < n * np.arange(1, len(reads) + 1)[:, None]
        output[tokens] = q[tokens] @ state + reads @ writes
        state = state + k[rows].T @ writes
    return output


def photograph():
    """Q R of a photograph is the photograph."""
    picture = np.asfortranarray(load_sample_image("china.jpg").mean(axis=2).T)
    (raw, tau), r = scipy.linalg.qr(picture, mode="raw")
    r = np.asfortranarray(np.vstack([r, np.zeros((len(raw) - len(r), len(tau)))]))
    q = ReflectionProduct.from_qr(raw, tau)
    ormqr = scipy.linalg.lapack.dormqr
    lwork = int(ormqr("L", "N", raw, tau, r, -1)[1][0])

    return {
        "what": "Q of QR, times R",
        "input": f"china.jpg, {picture.shape[0]} × {picture.shape[1]} pixels",
        "ours": lambda: q @ r,
        "peer": lambda: ormqr("L", "N", raw, tau, r, lwork)[0],
        "peer_name": "LAPACK ormqr",
        "error": lambda found: float(np.abs(found - picture).max() / picture.max()),
    }
