"""Dask engine: G in chunks along d, each of which its own engine reads where it lies.

The Gram matrix and dots are added along a tree of neighbours, the same for any number of workers.
What is of size d stays in chunks and waits to be computed; what is of size m is computed at once
and comes to the client. So each pass over G is a graph of its own: in one graph each chunk would be
kept, or written to disk, from the first pass to the second.
"""

from typing import Any

import dask
import dask.array as da
import numpy as np

from .._engine import Engines, use_engine, wished_engine
from ._array_api import widened

engine = Engines(__package__)


def gram(g: da.Array, *, tolerance: float) -> np.ndarray:
    """Compute K: m² numbers come to the client."""
    return _summed("gram", [(block,) for block in _chunks(g)], tolerance=tolerance).compute()


def squared_lengths(g: da.Array) -> np.ndarray:
    """Compute the rows' squared lengths."""
    return _summed("squared_lengths", [(block,) for block in _chunks(g)]).compute()


def dots(g: da.Array, x: da.Array) -> np.ndarray:
    """Compute G x: m numbers a vector come to the client."""
    g = _whole_rows(g)
    pieces = _like(x, g).to_delayed(optimize_graph=False).ravel()
    return _summed("dots", list(zip(_chunks(g), pieces, strict=True))).compute()


def combine(
    coefficients: Any, g: da.Array, x: da.Array | None, *, factor: float, dtype: Any
) -> da.Array:
    """Return factor x + Gᵀ a, in the chunks of G."""
    g = _whole_rows(g)
    across = "k" if coefficients.ndim == 2 else ""
    operands = [g, "ij", da.from_array(coefficients, chunks=-1), "i" + across]
    operands += [] if x is None else [_like(x, g), "j" + across]
    return da.blockwise(
        _combined, "j" + across, *operands,
        factor=factor, dtype=dtype, to=dtype, concatenate=True, meta=np.empty(0, dtype),
    )  # fmt: skip


def column_norms(g: da.Array, root: Any) -> da.Array:
    """Return the squared lengths of the columns of W G, in the chunks of G."""
    return _by_columns("column_norms", g, root, "kl")


def column_squares(g: da.Array, weights: Any) -> da.Array:
    """Return the sums of the columns' squares, in the chunks of G."""
    return _by_columns("column_squares", g, weights, "k")


def _by_columns(function: str, g: da.Array, operand: Any, axes: str) -> da.Array:
    return da.blockwise(
        _of_columns, "j", _whole_rows(g), "ij", da.from_array(operand, chunks=-1), axes,
        function=function, dtype=np.float64, concatenate=True, meta=np.empty(0),
    )  # fmt: skip


def columns(g: da.Array, places: np.ndarray) -> np.ndarray:
    """Compute columns of G by their places."""
    return widened(g[:, places].compute())


def _whole_rows(g: da.Array) -> da.Array:
    return g.rechunk({0: -1}) if g.numblocks[0] > 1 else g


def _like(x: da.Array, g: da.Array) -> da.Array:
    return x.rechunk({0: g.chunks[1], **({1: -1} if x.ndim == 2 else {})})


def _chunks(g: da.Array) -> list[Any]:
    return _whole_rows(g).to_delayed(optimize_graph=False).ravel().tolist()


def _summed(function: str, arguments: list[tuple[Any, ...]], **options: Any) -> Any:
    """Add what an engine returns of each chunk, neighbours first."""
    call = dask.delayed(_on_its_engine, name=f"mfac-{function}", pure=True)
    terms = [call(function, *arrays, **options) for arrays in arguments]
    add = dask.delayed(np.add, name="mfac-add", pure=True)
    while len(terms) > 1:
        pairs = [add(*terms[k : k + 2]) for k in range(0, len(terms) - 1, 2)]
        terms = pairs + terms[2 * len(pairs) :]
    return terms[0]


def _on_its_engine(function: str, *arrays: Any, **options: Any) -> Any:
    """Call a function of the engine that a chunk asks for, whatever engine made the graph."""
    wish = wished_engine()
    with use_engine(None if wish == "dask" else wish):
        return getattr(engine(*arrays), function)(*arrays, **options)


def _combined(g: Any, coefficients: Any, x: Any = None, *, factor: float, to: Any) -> Any:
    wish = wished_engine()
    with use_engine(None if wish == "dask" else wish):
        return engine(g, x).combine(coefficients, g, x, factor=factor, dtype=to)


def _of_columns(g: Any, operand: Any, *, function: str) -> Any:
    return _on_its_engine(function, g, operand)
