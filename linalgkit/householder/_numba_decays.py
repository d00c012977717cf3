"""Kernels of the delta rule's gates: what a decay does to a chunk's rows and scores, and back.

By running products, never by quotients: a decay to zero leaves zeros. Gates (heads, length, 1 or
width) are factors; a token's acts before its first row.
"""

from numba import njit

from .._intrinsics import INNER, OUTER


@njit(nogil=True, cache=True, error_model="numpy", **OUTER)
def decay(start, stop, sizes, gates, keys, queries, since, until, left, early_k, early_q, late_k):
    """Fill the decays of tokens from their chunk's start and to its end, and rows with decays."""
    n, width, entries = sizes.reflections, keys.shape[2], gates.shape[2]
    for unit in range(start, stop):
        head, number = unit // sizes.chunks, unit % sizes.chunks
        begin, end = number * sizes.tokens, min((number + 1) * sizes.tokens, sizes.length)
        for d in range(entries):
            since[head, begin, d] = gates[head, begin, d]
            until[head, end - 1, d] = 1
        for t in range(begin + 1, end):
            for d in range(entries):
                since[head, t, d] = since[head, t - 1, d] * gates[head, t, d]
        for t in range(end - 2, begin - 1, -1):
            for d in range(entries):
                until[head, t, d] = until[head, t + 1, d] * gates[head, t + 1, d]
        for d in range(width):
            left[head, number, d] = since[head, end - 1, d % entries]
        for t in range(begin, end):
            for d in range(width):
                early_q[head, t, d] = since[head, t, d % entries] * queries[head, t, d]
            for i in range(t * n, (t + 1) * n):
                for d in range(width):
                    early_k[head, i, d] = since[head, t, d % entries] * keys[head, i, d]
                    late_k[head, i, d] = until[head, t, d % entries] * keys[head, i, d]


@njit(nogil=True, cache=True, error_model="numpy", **OUTER)
def decay_scores(start, stop, sizes, gates, scores):
    """Let scores decay from the row that writes to the row that reads; so do their gradients."""
    n = sizes.reflections
    for unit in range(start, stop):
        head, number = unit // sizes.chunks, unit % sizes.chunks
        begin = number * sizes.tokens
        tokens = min(sizes.tokens, sizes.length - begin)
        for j in range(tokens * n):
            factor = scores.dtype.type(1)
            for t in range(j // n, tokens):
                if t > j // n:
                    factor *= gates[head, begin + t, 0]
                for i in range(t * n, (t + 1) * n):
                    scores[head, number, j, i] *= factor
                scores[head, number, j, sizes.reads + t] *= factor


@njit(nogil=True, cache=True, error_model="numpy", **OUTER)
def score_by_columns(start, stop, sizes, gates, keys, queries, scores, carried):
    """Fill the scores of chunks where every column has decays of its own."""
    n, width = sizes.reflections, keys.shape[2]
    for unit in range(start, stop):
        head, number = unit // sizes.chunks, unit % sizes.chunks
        begin = number * sizes.tokens
        tokens = min(sizes.tokens, sizes.length - begin)
        for j in range(tokens * n):
            for t in range(j // n):
                scores[head, number, j, sizes.reads + t] = 0
            for d in range(width):
                carried[d] = keys[head, begin * n + j, d]
            for t in range(j // n, tokens):
                if t > j // n:
                    for d in range(width):
                        carried[d] *= gates[head, begin + t, d]
                for i in range(t * n, (t + 1) * n):
                    scores[head, number, j, i] = dot(carried, keys[head, begin * n + i])
                total = dot(carried, queries[head, begin + t])
                scores[head, number, j, sizes.reads + t] = total


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"}, **INNER)
def dot(x, y):
    """Sum the products of two real vectors."""
    total = x.dtype.type(0)
    for d in range(y.size):
        total += x[d] * y[d]
    return total


@njit(nogil=True, cache=True, error_model="numpy", **OUTER)
def mix_by_columns(
    start, stop, sizes, gates, keys, queries, of_scores, of_readers, of_writers, of_queries, carried
):
    """Add the gradients of the scores where every column has decays of its own."""
    n, width = sizes.reflections, keys.shape[2]
    for unit in range(start, stop):
        head, number = unit // sizes.chunks, unit % sizes.chunks
        begin = number * sizes.tokens
        tokens = min(sizes.tokens, sizes.length - begin)
        for j in range(tokens * n):
            row = begin * n + j
            for d in range(width):
                carried[d] = 1
            for t in range(j // n, tokens):
                if t > j // n:
                    for d in range(width):
                        carried[d] *= gates[head, begin + t, d]
                for i in range(max(j + 1, t * n), (t + 1) * n):
                    other, weight = begin * n + i, of_scores[head, number, j, i]
                    for d in range(width):
                        factor = weight * carried[d]
                        of_readers[head, other, d] += factor * keys[head, row, d]
                        of_writers[head, row, d] += factor * keys[head, other, d]
                token, weight = begin + t, of_scores[head, number, j, sizes.reads + t]
                for d in range(width):
                    factor = weight * carried[d]
                    of_queries[head, token, d] += factor * keys[head, row, d]
                    of_writers[head, row, d] += factor * queries[head, token, d]


@njit(nogil=True, cache=True, error_model="numpy", **OUTER)
def pull_gates(
    start, stop, sizes, keys, queries, of_readers, of_writers, of_queries, of_left, of_gates
):
    """Sum the gradients of the decays' running sums, from the end of the chunk.

    A sum multiplies the rows that read and divides the keys that write; the last one also
    multiplies the whole state at the end.
    """
    n, width, entries = sizes.reflections, keys.shape[2], of_gates.shape[2]
    for unit in range(start, stop):
        head, number = unit // sizes.chunks, unit % sizes.chunks
        begin, end = number * sizes.tokens, min((number + 1) * sizes.tokens, sizes.length)
        for d in range(width):
            total = of_left[head, number, d]
            for t in range(end - 1, begin - 1, -1):
                total += queries[head, t, d] * of_queries[head, t, d]
                for i in range(t * n, (t + 1) * n):
                    total += keys[head, i, d] * (of_readers[head, i, d] - of_writers[head, i, d])
                of_gates[head, t, d % entries] += total
