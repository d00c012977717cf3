"""One case per public function of the room, and the delta rule token by token."""

import numpy as np

from linalgkit._testing import Case

DOUBLE = {"float32": 1e-5, "float64": 1e-13}


def recurrence(q, k, v, beta, decay=None, state=None, *, scale=None, reflections=1):
    """The rule by its definition, one token after the other; any dtype, also of objects."""
    *batch, rows, width = k.shape
    dtype = np.result_type(q, k, v, beta)
    scale = width**-0.5 if scale is None else scale
    state = np.zeros((*batch, width, v.shape[-1]), dtype) if state is None else np.array(state)
    outputs = np.zeros((*batch, rows // reflections, v.shape[-1]), dtype)
    for t in range(rows // reflections):
        if decay is not None:
            gate = np.exp(decay[..., t] if decay.ndim < q.ndim else decay[..., t, :])
            state = state * (gate[..., None, None] if decay.ndim < q.ndim else gate[..., None])
        for r in range(t * reflections, (t + 1) * reflections):
            predicted = (k[..., r, None, :] @ state)[..., 0, :]
            write = beta[..., r, None] * (v[..., r, :] - predicted)
            state = state + k[..., r, :, None] * write[..., None, :]
        outputs[..., t, :] = scale * (q[..., t, None, :] @ state)[..., 0, :]
    return outputs, state


def random_arrays(rng, dtype, *, batch=(), tokens=7, width=3, values=2, reflections=1, decay=None):
    """q, k, v, beta, log_decay, state: unit keys and strengths up to 2."""
    rows = tokens * reflections
    q = rng.standard_normal((*batch, tokens, width))
    k = rng.standard_normal((*batch, rows, width))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    v = rng.standard_normal((*batch, rows, values))
    beta = rng.uniform(0, 2, (*batch, rows))
    state = rng.standard_normal((*batch, width, values))
    gates = {"scalar": (*batch, tokens), "vector": (*batch, tokens, width)}
    gate = None if decay is None else -rng.exponential(0.3, gates[decay]).astype(dtype)
    q, k, v, beta, state = (x.astype(dtype) for x in (q, k, v, beta, state))
    return q, k, v, beta, gate, state


def sequences(library, dtype, rng):
    q, k, v, beta, _, _ = random_arrays(rng, dtype, batch=(2,))
    return tuple(map(library.asarray, (q, k, v, beta))), {}


def token(library, dtype, rng):
    q, k, v, beta, _, state = random_arrays(rng, dtype, batch=(2,), tokens=1)
    arrays = state, q[..., 0, :], k[..., 0, :], v[..., 0, :], beta[..., 0]
    return tuple(map(library.asarray, arrays)), {}


def one_step(state, q, k, v, beta):
    rows = (x[..., None, :] for x in (q, k, v))
    output, state = recurrence(*rows, beta[..., None], state=state)
    return output[..., 0, :], state


def with_cotangent(library, dtype, rng):
    arrays = random_arrays(rng, dtype, batch=(2,), tokens=5, decay="scalar")
    cotangent = rng.standard_normal((2, 5, 2)).astype(dtype)
    return tuple(map(library.asarray, (cotangent, *arrays))), {}


def pulled_back(cotangent, *arrays):
    """The gradients by complex steps, which lose no digits: of the recurrence itself."""
    gradients = []
    for place, array in enumerate(arrays):
        gradient = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            moved = [x.astype(complex) for x in arrays]
            moved[place][index] += 1e-30j
            gradient[index] = np.sum(cotangent * recurrence(*moved)[0]).imag / 1e-30
        gradients.append(gradient.astype(array.dtype))
    return tuple(gradients)


def reflections(library, dtype, rng):
    _, k, _, beta, _, _ = random_arrays(rng, dtype, batch=(2,), tokens=5)
    return tuple(map(library.asarray, (k, beta))), {}


def product(k, beta):
    """The product of the reflections as a matrix, by definition."""
    identity = np.broadcast_to(
        np.eye(k.shape[-1], dtype=k.dtype), (*k.shape[:-2], *k.shape[-1:] * 2)
    )
    result = identity
    for t in range(k.shape[-2]):
        row = k[..., t, None, :]
        result = (identity - beta[..., t, None, None] * np.swapaxes(row, -1, -2) * row) @ result
    return result


def triangular(k, beta):
    gram = k @ np.swapaxes(k, -1, -2)
    scaled = beta[..., None] * np.tril(gram, -1) + np.eye(k.shape[-2])
    strengths = beta[..., None] * np.eye(k.shape[-2])
    return np.linalg.solve(scaled, strengths).astype(k.dtype)


def dense_of(pair):
    """I - kᵀ w, which is what matters of the pair."""
    k, w = pair
    if hasattr(k, "mT"):
        return (k.mT @ w,)
    return (np.swapaxes(k, -1, -2) @ w,)


def less_identity(k, beta):
    return (np.eye(k.shape[-1], dtype=k.dtype) - product(k, beta),)


CASES = [
    Case("householder.delta_rule", sequences, lambda *x: recurrence(*x)[0], DOUBLE),
    Case("householder.delta_rule_step", token, one_step, DOUBLE),
    Case("householder.delta_rule_vjp", with_cotangent, pulled_back, DOUBLE),
    Case("householder.ut_transform", reflections, triangular, DOUBLE),
    Case("householder.wy", reflections, less_identity, DOUBLE, dense_of),
    Case("householder.accumulate", reflections, product, DOUBLE),
]
