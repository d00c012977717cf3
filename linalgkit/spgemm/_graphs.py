"""Graph algorithms that are sparse products: triangles, neighbourhoods, shortest paths.

A graph is its adjacency matrix: entry (i, j) is stored where an edge leads from i to j.
"""

from typing import Any

import numpy as np
from array_api_compat import array_namespace

from .. import _checks
from .._engine import Engines
from ._containers import Operand, read
from ._csr import fits_int32, index_dtype, only, rows_of_entries
from ._products import multiply

engine = Engines(__package__)


@engine.eager
def triangle_count(a: Any, /) -> int:
    """Count the triangles of an undirected graph.

    Parameters
    ----------
    a : sparse array or matrix, shape (n, n)
        A symmetric adjacency matrix in any container that `matmul` takes. Values do not
        matter, loops and repeated edges do not count. Only what stands below the diagonal
        is read: of an upper triangle alone, nothing.

    Returns
    -------
    int
        The number of triples of nodes that are joined by three edges.

    Raises
    ------
    TypeError
        `a` is not a sparse container.
    ValueError
        `a` is not square, or its index arrays are invalid.

    Notes
    -----
    The sum of L L on the places of L with ``"plus_pair"``, L the part of `a` below its
    diagonal. On NumPy arrays no product is stored: each thread adds up what hits, 64 columns
    at once. Time O(n + nnz(a) + entries of the rows of L that the entries of L ask for), memory
    O(nnz(a)) and n bits a thread.

    Examples
    --------
    >>> import networkx as nx
    >>> from linalgkit import spgemm
    >>> club = nx.karate_club_graph()
    >>> spgemm.triangle_count(nx.to_scipy_sparse_array(club))
    45
    """
    graph = _square("a", a)
    return int(engine(graph.indices).count_triangles(graph.indices, graph.indptr))


@engine.eager
def k_hop(a: Any, k: int, /) -> Any:
    """Return who is reached from whom in at most k steps, and in how many.

    Parameters
    ----------
    a : sparse array or matrix, shape (n, n)
        Adjacency matrix in any container that `matmul` takes; values do not matter.
    k : int
        Steps at most, at least 1.

    Returns
    -------
    sparse array or matrix, shape (n, n)
        Of the kind of `a`, in rows: entry (i, j) is the least number of steps from i to j != i,
        int64 (float64 in CuPy's containers, which hold no integers); nodes further away are
        not stored.

    Raises
    ------
    TypeError
        `a` is not a sparse container.
    ValueError
        `a` is not square, `k` is less than 1, or index arrays are invalid.

    Notes
    -----
    Each step multiplies the nodes that were new in the last one by `a`, on the complement
    of those seen before. Ends early where nothing new is found. Time of every step O(nnz(a) + n +
    nnz(seen) + edges that leave the new nodes), memory O(nnz(result)) beside that of a product.

    Examples
    --------
    >>> import networkx as nx
    >>> from linalgkit import spgemm
    >>> path = nx.to_scipy_sparse_array(nx.path_graph(5))
    >>> spgemm.k_hop(path, 2).toarray()[0]
    array([0, 1, 2, 0, 0])
    """
    graph = _square("a", a)
    k = _checks.size("k", k, 1)
    xp = array_namespace(graph.indices)
    graph.check("a")
    graph = _indexed(graph, 2 * graph.shape[0])
    graph = graph._replace(data=xp.ones_like(graph.indices, dtype=xp.bool))
    seen = _diagonal(graph)
    frontier = seen._replace(data=xp.ones_like(seen.data, dtype=xp.bool))
    for step in range(1, k + 1):
        frontier = multiply(frontier, graph, semiring="or_and", mask=seen, complement=True)
        if frontier.data.shape[0] == 0:
            break
        new = frontier._replace(data=xp.full_like(frontier.data, step, dtype=index_dtype(xp)))
        seen = _merged(seen, new)
    return _selected(seen, seen.data > 0).container()


@engine.host
def shortest_paths_minplus(
    a: Any, /, sources: Any = None, *, max_edges: int | None = None
) -> np.ndarray:
    """Return the lengths of shortest paths, by products of the min-plus semiring.

    Parameters
    ----------
    a : sparse array or matrix, shape (n, n)
        Lengths of edges, in any container of NumPy arrays that `matmul` takes. A stored zero
        is an edge of length zero, one of plus infinity as good as none; negative lengths are
        allowed, minus infinity and negative cycles are not.
    sources : array of int, shape (s,), optional
        Nodes to start from; all by default.
    max_edges : int, optional
        Paths of at most so many edges; any number by default.

    Returns
    -------
    ndarray of float64, shape (s, n)
        Entry (i, j) is the length of the shortest path from ``sources[i]`` to j,
        infinite where there is none.

    Raises
    ------
    TypeError
        `a` is not a sparse container of NumPy arrays, or its values are complex.
    ValueError
        `a` is not square, has NaN or minus infinity, a source is not a node, or a cycle of
        negative length is reached from a source.

    Notes
    -----
    Bellman-Ford with sparse frontiers: each round multiplies the entries that improved in
    the last round by `a`. Rounds as many as the most edges on a shortest path, and one more; each
    looks through all of `a`, so that the time is O(rounds (nnz(a) + n) + products). Memory O(s n).
    A cycle of negative length that passes a source is found once it is walked, any other that is
    reached after n rounds, in which lengths still shrink; one that no source reaches does not
    matter, and none does with `max_edges`. For one source on a large graph with positive lengths
    ``scipy.sparse.csgraph.dijkstra`` does less work.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> from linalgkit import spgemm
    >>> roads = csr_array([[0.0, 3.0, 9.0], [3.0, 0.0, 2.0], [9.0, 2.0, 0.0]])
    >>> spgemm.shortest_paths_minplus(roads, [0])
    array([[0., 3., 5.]])
    """
    graph = _square("a", a)
    if _checks.library_of(graph.data) != "numpy":
        raise TypeError(
            "shortest_paths_minplus takes NumPy data; copy the graph to the host first."
        )
    n = graph.shape[0]
    graph.check("a")
    if graph.data.dtype.kind == "c":
        raise TypeError("min_plus needs an order, and complex numbers have none.")
    graph = graph._replace(data=graph.data.astype(np.float64))
    if np.isnan(graph.data).any():
        raise ValueError(f"a must have no NaN; entry {np.isnan(graph.data).argmax()} is one.")
    if np.isneginf(graph.data).any():
        where = np.isneginf(graph.data).argmax()
        raise ValueError(f"a must have no length of minus infinity; entry {where} is one.")
    chosen = np.arange(n) if sources is None else np.asarray(sources)
    if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
        raise ValueError(f"sources must be integers on one axis; got {sources!r}.")
    chosen = chosen.astype(np.int64, copy=False)
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < n:
        raise ValueError(f"sources must lie in [0, {n}); got {chosen.min()} to {chosen.max()}.")
    rounds = n if max_edges is None else _checks.size("max_edges", max_edges)
    distance = np.full((chosen.size, n), np.inf)
    starts = np.arange(chosen.size + 1)
    distance[starts[:-1], chosen] = 0.0
    graph = _indexed(graph, chosen.size)
    frontier = graph._replace(
        data=np.zeros(chosen.size),
        indices=chosen.astype(graph.indices.dtype),
        indptr=starts.astype(graph.indptr.dtype),
        shape=distance.shape,
    )
    for _ in range(rounds):
        reached = multiply(frontier, graph, semiring="min_plus")
        rows = rows_of_entries(reached.indptr)
        better = reached.data < distance[rows, reached.indices]
        if not better.any():
            return distance
        frontier = _selected(reached, better)
        distance[rows[better], frontier.indices] = frontier.data
        if max_edges is None and (distance[starts[:-1], chosen] < 0).any():
            break  # there and back at a gain: no need of n rounds
    if max_edges is None and n:
        raise ValueError("a cycle of negative length is reached: no path is shortest.")
    return distance


def _square(name: str, value: Any) -> Operand:
    graph = read(name, value)
    if graph.shape[0] != graph.shape[1]:
        raise ValueError(f"{name} must be square; got shape {graph.shape}.")
    return graph.in_layout("csr", name)


def _indexed(graph: Operand, *sizes: int) -> Operand:
    """Give a graph indices of one width: int32 where it and what comes of it, `sizes`, fit.

    A product of two widths converts both, and a round may be far less work than that.
    """
    xp = array_namespace(graph.indices)
    fits = fits_int32(*sizes, graph.shape[0], graph.indices.shape[0])
    index = xp.int32 if fits else xp.int64
    indices, indptr = (xp.astype(x, index, copy=False) for x in (graph.indices, graph.indptr))
    return graph._replace(indices=indices, indptr=indptr)


def _selected(operand: Operand, kept: Any) -> Operand:
    """Keep some of the entries."""
    indptr, data, indices = only(kept, operand.indptr, operand.data, operand.indices)
    return operand._replace(data=data, indices=indices, indptr=indptr)


def _diagonal(like: Operand, copies: int = 1) -> Operand:
    """Zeros stored on the diagonal of as many square blocks side by side."""
    xp = array_namespace(like.indptr)
    n, place = like.shape[0], {"dtype": like.indptr.dtype, "device": like.indptr.device}
    blocks = xp.arange(copies, **place) * n
    indices = xp.reshape(xp.arange(n, **place)[:, None] + blocks[None, :], (-1,))
    indptr = xp.arange(n + 1, **place) * copies
    data = xp.zeros_like(indices, dtype=index_dtype(xp))
    return Operand(data, indices, indptr, (n, copies * n), "csr", like.wrap)


def _merged(first: Operand, second: Operand) -> Operand:
    """Put together operands that share no place: [1 1] times one on top of the other."""
    xp = array_namespace(first.indptr)
    sizes = 2 * first.shape[0], first.data.shape[0] + second.data.shape[0]
    first, second = _indexed(first, *sizes), _indexed(second, *sizes)
    ends = second.indptr + first.indptr[-1]
    stacked = first._replace(
        data=xp.concat([first.data, second.data]),
        indices=xp.concat([first.indices, second.indices]),
        indptr=xp.concat([first.indptr, ends[1:]]),
        shape=(2 * first.shape[0], first.shape[1]),
    )
    return multiply(_diagonal(first, 2), stacked, semiring="max_plus")
