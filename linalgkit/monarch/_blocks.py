"""Block sizes (k, q, p, l, s, r) of a Monarch matrix, and what of it each slice of a matrix gets.

The slice (λ, κ) of M is the s × p matrix M[σ l + λ, κ p + π] over (σ, π). It has one term for each
row t of the right factor with ⌊t / q⌋ = κ and t ≡ λ mod l: ⌊q / l⌋ or ⌈q / l⌉ of them, its rank.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import isqrt, log2, sqrt
from typing import Any, NamedTuple

import numpy as np

from .. import _checks
from .._engine import Engines

engine = Engines(__package__)

Blocks = tuple[int, int, int, int, int, int]

_CANDIDATES = 32  # splits of a dimension that are tried with those of the other


@engine.host
def choose_blocks(shape: Sequence[int], *, params: int | None = None, rank: int = 1) -> Blocks:
    """Choose the block sizes of a Monarch matrix for a shape.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the matrix.
    params : int, optional
        Parameters that both factors have together at most. Their number is near to it where the
        sizes allow.
    rank : int, optional
        The rank of each slice: q = rank · l, r = rank · k. Slices have as many rows and columns at
        least, as far as the matrix has.

    Returns
    -------
    (int, int, int, int, int, int)
        The sizes (k, q, p, l, s, r): k blocks q × p in the right factor, l blocks s × r in the
        left one, with k p at least the columns and l s at least the rows.

    Raises
    ------
    ValueError
        A size is less than 1, or even one block in each factor has more than `params` parameters.
    TypeError
        `shape` is no sequence, or a size no integer.

    See Also
    --------
    project : The nearest Monarch matrix of these sizes.

    Notes
    -----
    Without `params`, k is near √columns and l near √rows, where the 2 rank · n^1.5 parameters are
    as few as those of slices that are square. That is weighed against padding, which costs most,
    and against sizes that are no multiples of 8.

    Examples
    --------
    >>> from linalgkit import monarch
    >>> monarch.choose_blocks((4096, 4096))
    (64, 64, 64, 64, 64, 64)
    >>> monarch.choose_blocks((384, 384), params=384 * 384 // 8)
    (24, 24, 16, 24, 16, 24)
    """
    rows, columns = _checked_shape(shape)
    rank = _checks.size("rank", rank, 1)
    scale = 1.0
    if params is not None:
        params = _checks.size("params", params, 1)
        scale = params / (rank * sqrt(rows * columns) * (sqrt(rows) + sqrt(columns)))
        if params < rank * (rows + columns):
            raise ValueError(
                f"params must be at least rank · (rows + columns) = {rank * (rows + columns)} for "
                f"a shape {(rows, columns)} and rank {rank}; got {params}."
            )
    best = None
    across = _splits(columns, scale * sqrt(columns))
    for one, count, rows_of in _splits(rows, scale * sqrt(rows)):
        for other, k, p in across:
            if p < min(rank, columns) or rows_of < min(rank, rows):
                continue  # slices that cannot have the rank
            found = rank * k * count * (p + rows_of)
            key = (one + other, -found)
            if (params is None or found <= params) and (best is None or key < best[0]):
                best = key, (k, rank * count, p, count, rows_of, rank * k)
    assert best is not None  # one block of everything is among the splits
    return best[1]


def resolved(
    shape: Sequence[int], nblocks: int | None, blocks: Sequence[int] | None, rank: int
) -> Blocks:
    """Return the block sizes that `nblocks`, `blocks` and `rank` mean for a matrix of a shape."""
    rows, columns = _checked_shape(shape)
    rank = _checks.size("rank", rank, 1)
    if blocks is not None:
        if nblocks is not None or rank != 1:
            raise ValueError(
                f"blocks=(k, q, p, l, s, r) says all; leave out nblocks and rank. Got nblocks = "
                f"{nblocks} and rank = {rank}."
            )
        return _checked_blocks(blocks, rows, columns)
    if nblocks is None:
        sizes = choose_blocks((rows, columns), rank=rank)
    else:
        count = _checks.size("nblocks", nblocks, 1)
        inner = rank * count
        sizes = count, inner, -(-columns // count), count, -(-rows // count), inner
    p, height = sizes[2], sizes[4]
    if rank > min(p, height):
        raise ValueError(
            f"rank must be at most the smaller side of the slices, s × p = {height} × {p}; "
            f"got {rank}."
        )
    return sizes


class Places(NamedTuple):
    """Where the terms of the slices stand in the factors.

    `left` (l, r) and `right` (k, q) number the terms (λ, κ, a) flat; `of_left` and `of_right`
    (l, k, terms) number the columns (λ, ρ) and rows (κ, θ), -1 where a slice has fewer terms.
    """

    ranks: np.ndarray  # (l, k)
    terms: int
    left: np.ndarray
    right: np.ndarray
    of_left: np.ndarray
    of_right: np.ndarray


@lru_cache(maxsize=32)
def places(blocks: Blocks) -> Places:
    """Return where the terms of the slices stand, for block sizes that fit."""
    k, q, _, count, _, inner = blocks
    t = np.arange(k * q)
    kappa, lam = t // q, t % count
    first = -(-(kappa * q - lam) // count)  # the least ρ of the slice
    term = t // count - first
    ranks = np.zeros((count, k), dtype=np.int64)
    np.add.at(ranks, (lam, kappa), 1)
    terms = int(ranks.max())
    flat = (lam * k + kappa) * terms + term
    of_left = np.full(count * k * terms, -1)
    of_right = of_left.copy()
    of_left[flat] = lam * inner + t // count
    of_right[flat] = t
    found = Places(
        ranks,
        terms,
        np.ascontiguousarray(flat.reshape(inner, count).T),
        flat.reshape(k, q),
        of_left.reshape(count, k, terms),
        of_right.reshape(count, k, terms),
    )
    for array in (ranks, *found[2:]):
        array.flags.writeable = False  # shared by all calls
    return found


def _splits(n: int, target: float) -> list[tuple[float, int, int]]:
    """List the best (penalty, blocks, size of one) with blocks · size at least n."""
    target = min(max(target, 1.0), float(n))
    counts = {1, n, *_divisors(n)}
    counts.update(range(max(1, int(target / 2)), min(n, int(2 * target) + 1) + 1))
    sizes = {-(-n // count) for count in counts}
    splits = sorted((_penalty(n, size, target), -(-n // size), size) for size in sizes)
    whole = (_penalty(n, n, target), 1, n)
    return [*splits[:_CANDIDATES], whole]


def _penalty(n: int, size: int, target: float) -> float:
    count = -(-n // size)
    padding = count * size - n
    penalty = abs(log2(count / target)) + 0.25 * (count % 8 > 0) + 0.25 * (size % 8 > 0)
    return penalty + (0.5 + 4 * padding / n if padding else 0)


def _divisors(n: int) -> Iterator[int]:
    for divisor in range(1, isqrt(n) + 1):
        if n % divisor == 0:
            yield divisor
            yield n // divisor


def _checked_shape(shape: Any) -> tuple[int, int]:
    if not isinstance(shape, Sequence):
        raise TypeError(f"shape must be (rows, columns); got {type(shape).__name__}.")
    if len(shape) != 2:
        raise ValueError(f"shape must be (rows, columns); got {shape!r}.")
    rows, columns = (
        _checks.size(name, size, 1) for name, size in zip(("rows", "columns"), shape, strict=True)
    )
    return rows, columns


def _checked_blocks(blocks: Sequence[int], rows: int, columns: int) -> Blocks:
    if not isinstance(blocks, Sequence) or len(blocks) != 6:
        raise ValueError(f"blocks must be (k, q, p, l, s, r); got {blocks!r}.")
    k, q, p, count, height, inner = (_checks.size("each of blocks", size, 1) for size in blocks)
    if k * q != count * inner or k * p < columns or count * height < rows:
        raise ValueError(
            f"blocks (k, q, p, l, s, r) must have k q = l r, k p at least the {columns} columns "
            f"and l s at least the {rows} rows; got {tuple(blocks)}."
        )
    return k, q, p, count, height, inner
