"""Reference engine of the delta rule: chunks of tokens, one triangular solve each.

Inside, a chunk has T tokens of C = n T rows (n reflections a token); keys, values and betas have C
rows, queries T: token t reads out after row n (t + 1) - 1. Decays stand at the first row of a
token, in an array (..., C, 1) or, one for each entry of the key, (..., C, d_k).
"""

from typing import Any, NamedTuple

from array_api_compat import array_namespace, device

from .._xp import adjoint, compiled, moveaxis, scan, solve_unit_lower

_CHUNK = 64
_CHUNK_OF_VECTORS = 16  # a decay for each entry takes C² d_k numbers


@compiled("scale", "reflections", "chunk")
def delta_rule(q, k, v, beta, log_decay, initial_state, *, scale, reflections, chunk):
    """Walk the chunks in order, with the state from one to the next."""
    dtype = q.dtype
    arrays, state = prepared(q, k, v, beta, log_decay, initial_state, reflections)
    step = Step(scale, reflections)
    size = chunk_size(chunk, arrays[-1], reflections)
    outputs, _, state = _walk(step.forward, state, arrays, size, reflections)
    return array_namespace(q).astype(_joined(outputs, v, q), dtype, copy=False), state


@compiled("scale", "reflections", "chunk", "wrt")
def delta_rule_vjp(
    cotangent, q, k, v, beta, log_decay, initial_state, *, scale, reflections, chunk, wrt
):
    """Walk forwards for the states at the chunks' starts, then backwards with their cotangents."""
    xp = array_namespace(q)
    of_output, of_state = cotangent
    arrays, state = prepared(q, k, v, beta, log_decay, initial_state, reflections)
    step = Step(scale, reflections)
    size = chunk_size(chunk, arrays[-1], reflections)
    _, states, end = _walk(step.forward, state, arrays, size, reflections)
    of_output = xp.astype(of_output, end.dtype, copy=False)
    # Backwards: the ragged chunk first, then the whole ones.
    pieces = [[] for _ in range(5)]
    whole, rest = _cut((*arrays, of_output), size, reflections)
    if rest is not None:
        start = states[-1]
        of_state, found = step.backward(of_state, (*rest, start, end))
        end = start
        for place, gradient in zip(pieces, found, strict=True):
            place.append(gradient)
    if whole is not None:
        starts = states[0]
        ends = xp.concat([starts[1:, ...], end[None, ...]])
        items = tuple(None if x is None else xp.flip(x, axis=0) for x in (*whole, starts, ends))
        of_state, found = scan(step.backward, of_state, items)
        for place, gradient in zip(pieces, found, strict=True):
            place.insert(0, _unchunked(xp.flip(gradient, axis=0)))
    likes = arrays[0], arrays[1], arrays[2], arrays[3], arrays[0][..., :1]
    if log_decay is not None and log_decay.ndim == q.ndim:
        likes = (*likes[:4], arrays[0])
    of_q, of_k, of_v, of_beta, of_decay = (
        (xp.concat(place, axis=-2) if place else xp.zeros_like(like))
        for place, like in zip(pieces, likes, strict=True)
    )
    if log_decay is None:
        of_decay = None
    elif log_decay.ndim < q.ndim:
        of_decay = of_decay[..., 0]
    found = {
        "q": of_q,
        "k": of_k,
        "v": of_v,
        "beta": of_beta[..., 0],
        "log_decay": of_decay,
        "initial_state": None if initial_state is None else of_state,
    }
    return tuple(gradient if name in wrt else None for name, gradient in found.items())


class Chunk(NamedTuple):
    """What a chunk is before it meets a state; leading axes as those of its rows."""

    scores: Any  # k_i · k_j, with the decay between: (..., C, C)
    reads: Any  # q_t · k_j up to its row, with the decay between: (..., T, C)
    keys: Any  # k_i as the state at the start sees it
    queries: Any
    late_keys: Any  # k_i as the state at the end sees it
    left: Any  # the part of the state that is left at the end: (..., 1 or d_k, 1), or None
    between: Any  # decays (..., C, C, 1 or d_k) from row j to row i, or None
    since: Any  # decays (..., C, 1 or d_k) from the start, or None


class Step(NamedTuple):
    """The chunk form and its backward pass; section "Chunk form" of the delta rule's papers."""

    scale: float
    reflections: int

    def forward(self, state, items):
        """Return the state at the end, with outputs and the state at the start.

        What the chunk writes is solved for: N = (I + tril(B K Kᵀ, -1))⁻¹ B (V - K H).
        """
        q, k, v, beta, decay = items
        xp, chunk = array_namespace(q), self.chunk(q, k, decay)
        errors = v - xp.matmul(chunk.keys, state)
        writes = solve_unit_lower(beta * chunk.scores, beta * errors)
        output = xp.matmul(chunk.queries, state) + xp.matmul(chunk.reads, writes)
        kept = state if chunk.left is None else chunk.left * state
        end = kept + xp.matmul(adjoint(chunk.late_keys), writes)
        return end, (self.scale * output, state)

    def chunk(self, q, k, decay):
        """Return what does not depend on the state."""
        xp, n = array_namespace(q), self.reflections
        between = since = left = None
        keys, queries, late_keys = k, q, k
        if decay is None:
            scores, reads = xp.matmul(k, adjoint(k)), xp.matmul(q, adjoint(k))
        else:
            between, since = _decays(decay)
            of_reads = between[..., n - 1 :: n, :, :]
            scores, reads = _scores(k, between, k), _scores(q, of_reads, k)
            keys, queries = since * k, since[..., n - 1 :: n, :] * q
            late_keys = between[..., -1, :, :] * k
            left = since[..., -1, :, None]
        reads = _up_to_the_row(reads, n)
        return Chunk(scores, reads, keys, queries, late_keys, left, between, since)

    def backward(self, of_end, items):
        """Return the cotangent of the state at the start, with the gradients of the rows."""
        q, k, v, beta, decay, of_output, state, _ = items
        xp, chunk = array_namespace(q), self.chunk(q, k, decay)
        g = self.scale * of_output
        errors = v - xp.matmul(chunk.keys, state)
        writes = solve_unit_lower(beta * chunk.scores, beta * errors)
        of_writes = xp.matmul(adjoint(chunk.reads), g) + xp.matmul(chunk.late_keys, of_end)
        solved = _solve_transposed(beta * chunk.scores, of_writes)
        of_start = of_end if chunk.left is None else chunk.left * of_end
        of_start = of_start + xp.matmul(adjoint(chunk.queries), g)
        of_start = of_start - xp.matmul(adjoint(chunk.keys), beta * solved)
        return of_start, self.gradients(chunk, items, errors, writes, solved, of_end)

    def gradients(self, chunk, items, errors, writes, solved, of_end):
        """Return the gradients of the rows, with those of the states at hand.

        A decay's gradient follows from the others: scores hold q_i, k_i and k_j only as
        exp(c_i) q_i, exp(c_i) k_i and exp(-c_j) k_j, c the running sum of decays.
        """
        q, k, _, beta, decay, of_output, state, end = items
        xp, n = array_namespace(q), self.reflections
        g = self.scale * of_output
        of_reads = _up_to_the_row(xp.matmul(g, adjoint(writes)), n)
        lower = xp.tril(chunk.scores, k=-1)
        of_beta = xp.sum(solved * (errors - xp.matmul(lower, writes)), axis=-1, keepdims=True)
        of_errors = beta * solved
        of_scores = -xp.tril(xp.matmul(of_errors, adjoint(writes)), k=-1)
        between = chunk.between
        reading = None if between is None else between[..., n - 1 :: n, :, :]
        since_q = since_k = late = 1.0
        if between is not None:
            since_q, since_k = chunk.since[..., n - 1 :: n, :], chunk.since
            late = between[..., -1, :, :]
        of_q = since_q * xp.matmul(g, adjoint(state)) + _mixed(of_reads, reading, k)
        of_later = _mixed(of_scores, between, k) - since_k * xp.matmul(of_errors, adjoint(state))
        of_earlier = (
            _mixed_back(of_reads, reading, q)
            + _mixed_back(of_scores, between, k)
            + late * xp.matmul(writes, adjoint(of_end))
        )
        of_decay = xp.zeros_like(q[..., :1])
        if decay is not None:
            of_sums = k * (of_later - of_earlier)
            of_sums = _add_to_reading_rows(of_sums, q * of_q, n)
            of_all = xp.sum(of_end * end, axis=-1)[..., None, :]
            if decay.shape[-1] == 1:
                of_sums = xp.sum(of_sums, axis=-1, keepdims=True)
                of_all = xp.sum(of_all, axis=-1, keepdims=True)
            later = xp.flip(xp.cumulative_sum(xp.flip(of_sums, axis=-2), axis=-2), axis=-2)
            of_decay = (later + of_all)[..., ::n, :]
        return of_q, of_later + of_earlier, of_errors, of_beta, of_decay


def prepared(q, k, v, beta, log_decay, initial_state, reflections):
    """Return the rows in the dtype of the state, at least float32, and the state at the start."""
    xp = array_namespace(q)
    dtype = q.dtype if xp.finfo(q.dtype).bits >= 32 else xp.float32
    q, k, v, beta = (xp.astype(x, dtype, copy=False) for x in (q, k, v, beta[..., None]))
    decay = log_decay
    if decay is not None:
        decay = xp.astype(decay if decay.ndim == q.ndim else decay[..., None], dtype, copy=False)
    if initial_state is None:
        shape = (*k.shape[:-2], k.shape[-1], v.shape[-1])
        state = xp.zeros(shape, dtype=dtype, device=device(q))
    else:
        state = xp.astype(initial_state, dtype, copy=False)
    if decay is not None and reflections > 1:
        zeros = xp.zeros_like(decay[..., None, :])
        zeros = xp.broadcast_to(zeros, (*zeros.shape[:-2], reflections - 1, zeros.shape[-1]))
        decay = xp.concat([decay[..., None, :], zeros], axis=-2)
        decay = xp.reshape(decay, (*decay.shape[:-3], k.shape[-2], decay.shape[-1]))
    return (q, k, v, beta, decay), state


def chunk_size(chunk, decay, reflections):
    """Return the number of tokens in a chunk."""
    if chunk is None:
        chunk = _CHUNK if decay is None or decay.shape[-1] == 1 else _CHUNK_OF_VECTORS
    return max(1, chunk // reflections)


def _walk(step, state, arrays, size, reflections):
    """Return outputs (whole chunks' and the last one's), states at their starts, and the end."""
    whole, rest = _cut(arrays, size, reflections)
    outputs, states = [], []
    if whole is not None:
        state, (output, starts) = scan(step, state, whole)
        outputs.append(_unchunked(output))
        states.append(starts)
    if rest is not None:
        state, (output, start) = step(state, rest)
        outputs.append(output)
        states.append(start)
    return outputs, states, state


def _cut(arrays, size, reflections):
    """Cut rows to whole chunks, on a new leading axis, and a shorter last one; None for none."""
    xp = array_namespace(arrays[0])
    tokens = arrays[0].shape[-2]
    whole, used, rest = [], tokens // size * size, []
    for k, array in enumerate(arrays):
        if array is None:
            whole.append(None)
            rest.append(None)
            continue
        each = 1 if k in (0, 5) else reflections  # queries and outputs have a row a token
        rows = array[..., : used * each, :]
        shape = (*rows.shape[:-2], tokens // size, size * each, rows.shape[-1])
        whole.append(moveaxis(xp.reshape(rows, shape), -3, 0))
        rest.append(array[..., used * each :, :])
    return (tuple(whole) if used else None), (tuple(rest) if used < tokens else None)


def _unchunked(array):
    """Put whole chunks together again."""
    array = moveaxis(array, 0, -3)
    shape = (*array.shape[:-3], array.shape[-3] * array.shape[-2], array.shape[-1])
    return array_namespace(array).reshape(array, shape)


def _joined(outputs, v, q):
    xp = array_namespace(q)
    if not outputs:
        return v[..., : q.shape[-2], :]
    return outputs[0] if len(outputs) == 1 else xp.concat(outputs, axis=-2)


def _decays(decay):
    """Return exp of the sums of decays from row j to row i >= j, and from the start to row i.

    Sums, not differences of sums: a decay of -inf leaves zeros, never NaN.
    """
    xp = array_namespace(decay)
    count = decay.shape[-2]
    row = xp.arange(count, device=device(decay))
    later = (row[:, None] > row[None, :])[..., None]
    zero = xp.zeros_like(decay[..., :1, :])[..., None, :]
    between = xp.cumulative_sum(xp.where(later, decay[..., :, None, :], zero), axis=-3)
    return xp.exp(between), xp.exp(xp.cumulative_sum(decay, axis=-2))


def _scores(rows, between, keys):
    """Σ_d rows_id between_ijd keys_jd."""
    xp = array_namespace(rows)
    if between.shape[-1] == 1:
        return xp.matmul(rows, adjoint(keys)) * between[..., 0]
    return xp.sum(rows[..., :, None, :] * between * keys[..., None, :, :], axis=-1)


def _mixed(weights, between, keys):
    """Σ_j weights_ij between_ijd keys_jd."""
    xp = array_namespace(weights)
    if between is None or between.shape[-1] == 1:
        return xp.matmul(weights if between is None else weights * between[..., 0], keys)
    return xp.sum(weights[..., None] * between * keys[..., None, :, :], axis=-2)


def _mixed_back(weights, between, rows):
    """Σ_i weights_ij between_ijd rows_id."""
    xp = array_namespace(weights)
    if between is None or between.shape[-1] == 1:
        weights = weights if between is None else weights * between[..., 0]
        return xp.matmul(adjoint(weights), rows)
    return xp.sum(weights[..., None] * between * rows[..., :, None, :], axis=-3)


def _up_to_the_row(reads, reflections):
    """Keep what token t may read: rows before n (t + 1)."""
    xp = array_namespace(reads)
    token = xp.arange(reads.shape[-2], device=device(reads))[:, None]
    row = xp.arange(reads.shape[-1], device=device(reads))[None, :]
    return xp.where(row < reflections * (token + 1), reads, xp.zeros_like(reads))


def _add_to_reading_rows(rows, tokens, reflections):
    """Add a row a token to its last row of `reflections`."""
    xp = array_namespace(rows)
    if reflections == 1:
        return rows + tokens
    zeros = xp.zeros_like(tokens[..., None, :])
    zeros = xp.broadcast_to(zeros, (*zeros.shape[:-2], reflections - 1, zeros.shape[-1]))
    spread = xp.concat([zeros, tokens[..., None, :]], axis=-2)
    return rows + xp.reshape(spread, rows.shape)


def _solve_transposed(lower, right):
    """Solve Lᵀ X = B for unit lower triangular L: with rows and columns in reverse it is lower."""
    xp = array_namespace(lower)
    reverse = xp.flip(adjoint(lower), axis=(-2, -1))
    return xp.flip(solve_unit_lower(reverse, xp.flip(right, axis=-2)), axis=-2)


@compiled()
def ut_transform(k, beta):
    """Solve (I + tril(B K Kᵀ, -1)) T = B."""
    xp = array_namespace(k)
    beta = beta[..., None]
    diagonal = beta * xp.eye(k.shape[-2], dtype=k.dtype, device=device(k))
    return solve_unit_lower(beta * xp.matmul(k, adjoint(k)), diagonal)
