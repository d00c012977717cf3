"""Graphs by products: counts, distances and neighbourhoods against NetworkX and SciPy."""

from math import comb

import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse import csgraph
from spgemm.cases import LARGE, poisson, random, stored

import linalgkit
from linalgkit import spgemm

ENGINES = ("array_api", "numba")


def adjacency(graph):
    return nx.to_scipy_sparse_array(graph)


def triangles(graph):
    return sum(nx.triangles(graph).values()) // 3


@pytest.mark.parametrize("engine", ENGINES)
def test_triangles_of_known_graphs(engine):
    with linalgkit.use_engine(engine):
        assert spgemm.triangle_count(adjacency(nx.karate_club_graph())) == 45
        assert spgemm.triangle_count(adjacency(nx.les_miserables_graph())) == 467
        for n in (1, 2, 3, 4, 17, 70):
            assert spgemm.triangle_count(adjacency(nx.complete_graph(n))) == comb(n, 3)
        for graph in (nx.path_graph(9), nx.cycle_graph(8), nx.petersen_graph(), nx.star_graph(5)):
            assert spgemm.triangle_count(adjacency(graph)) == 0
        assert spgemm.triangle_count(sp.csr_array((0, 0))) == 0
        assert spgemm.triangle_count(sp.csr_array((5, 5))) == 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", ["csr", "csc", "coo", "lil"])
def test_values_loops_and_repeated_edges_do_not_count(layout, engine):
    graph = nx.gnp_random_graph(60, 0.2, seed=1)
    plain = adjacency(graph)
    odd = plain + sp.diags_array(np.ones(60))
    odd.data = np.tile([0.0, np.nan, -3.0], odd.nnz)[: odd.nnz]
    with linalgkit.use_engine(engine):
        assert spgemm.triangle_count(odd.asformat(layout)) == triangles(graph) > 100
        twice = sp.csr_array(
            (np.ones(2 * plain.nnz), np.repeat(plain.indices, 2), 2 * plain.indptr), plain.shape
        )
        for row in range(60):
            twice.indices[twice.indptr[row] : twice.indptr[row + 1]] = twice.indices[
                twice.indptr[row] : twice.indptr[row + 1]
            ][::-1]
        assert spgemm.triangle_count(twice) == triangles(graph)


def test_triangles_of_a_large_graph_with_hubs():
    graph = nx.barabasi_albert_graph(4000, 12, seed=2)
    matrix, expected = adjacency(graph), triangles(graph)
    for workers in (1, 2, 3):
        with linalgkit.use_workers(workers):
            assert spgemm.triangle_count(matrix) == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_powers_of_a_path_are_bands(engine):
    n = 12
    path = adjacency(nx.path_graph(n)).astype(bool)
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    with linalgkit.use_engine(engine):
        for k in range(n + 2):
            walks = spgemm.matrix_power(path, k, semiring="or_and").toarray()
            # As many steps as the distance, or any even number more.
            expected = (distance <= k) & ((k - distance) % 2 == 0)
            np.testing.assert_array_equal(walks, expected)
            if k:
                steps = spgemm.k_hop(path, k).toarray()
                np.testing.assert_array_equal(steps, np.where(distance <= k, distance, 0))


@pytest.mark.parametrize("engine", ENGINES)
def test_powers_of_shift_plus_one_are_binomials_and_of_a_cycle_come_round(engine):
    n = 15
    shift = sp.csr_array(sp.eye_array(n, dtype=np.int64) + sp.eye_array(n, k=1, dtype=np.int64))
    cycle = sp.csr_array(np.roll(np.eye(n, dtype=np.int64), 1, axis=1))
    with linalgkit.use_engine(engine):
        for k in (0, 1, 2, 3, 7, 10, 13):
            power = spgemm.matrix_power(shift, k)
            assert power.toarray()[0].tolist() == [comb(k, j) for j in range(n)]
            turn = spgemm.matrix_power(cycle, k).toarray()
            np.testing.assert_array_equal(turn, np.roll(np.eye(n), k, axis=1))
        np.testing.assert_array_equal(spgemm.matrix_power(cycle, 3 * n).toarray(), np.eye(n))


IDENTITY = {
    "plus_times": (1.0, 0.0),
    "min_plus": (0.0, np.inf),
    "max_plus": (0.0, -np.inf),
    "max_min": (np.inf, -np.inf),
    "min_max": (-np.inf, np.inf),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", ["csr", "csc"])
@pytest.mark.parametrize("semiring", IDENTITY)
def test_zeroth_and_first_power(semiring, layout, engine):
    a = random((6, 6), 0.5, 1, layout=layout)
    with linalgkit.use_engine(engine):
        unit = spgemm.matrix_power(a, 0, semiring=semiring)
        assert unit.format == layout
        np.testing.assert_array_equal(unit.indices, np.arange(6))
        assert (unit.data == IDENTITY[semiring][0]).all()
        first = spgemm.matrix_power(a, 1, semiring=semiring)
        np.testing.assert_array_equal(first.data, a.data)
        np.testing.assert_array_equal(first.indices, a.indices)
        product = spgemm.matmul(unit, a, semiring=semiring)
        np.testing.assert_array_equal(product.data, a.data)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("k", [0, 1, 2, 5])
def test_masked_power(k, engine):
    a, mask = random((7, 7), 0.4, 1), random((7, 7), 0.5, 2)
    expected = np.linalg.matrix_power(a.toarray(), k) * stored(mask).toarray()
    with linalgkit.use_engine(engine):
        for layout in ("csr", "csc"):
            result = spgemm.matrix_power(a.asformat(layout), k, mask=mask)
            assert result.format == layout
            np.testing.assert_allclose(result.toarray(), expected, atol=1e-13)
            outside = (
                stored(result).toarray() if layout == "csr" else stored(result.tocsr()).toarray()
            )
            assert not (outside & ~stored(mask).toarray()).any()


def test_power_of_repeated_entries_and_of_wrong_arguments():
    a = sp.csr_array((np.array([1.0, 2.0]), np.array([0, 0]), np.array([0, 2])), shape=(1, 1))
    for k in range(5):
        assert spgemm.matrix_power(a, k).toarray() == 3.0**k
        assert spgemm.matrix_power(a, k).nnz == 1
    with pytest.raises(ValueError, match=r"a must be square; got shape \(2, 3\)"):
        spgemm.matrix_power(sp.csr_array((2, 3)), 2)
    with pytest.raises(ValueError, match="k must be at least 0; got -1"):
        spgemm.matrix_power(a, -1)
    with pytest.raises(TypeError, match=r"k must be an integer; got 1\.0"):
        spgemm.matrix_power(a, 1.0)
    with pytest.raises(ValueError, match=r"semiring must be one of.*got 'plus_pair'"):
        spgemm.matrix_power(a, 2, semiring="plus_pair")
    with pytest.raises(ValueError, match="mask must have the result's shape"):
        spgemm.matrix_power(a, 2, mask=sp.csr_array((2, 2)))


def weighted(n, seed, negative=False):
    """Integer lengths, stored zeros among them; negative ones by a potential: no bad cycle."""
    graph = random((n, n), 4 / n, seed)
    rng = np.random.default_rng(seed)
    graph.data = rng.integers(0, 5, graph.nnz).astype(float)
    if negative:
        potential = rng.integers(0, 20, n)
        rows = np.repeat(np.arange(n), np.diff(graph.indptr))
        graph.data += potential[rows] - potential[graph.indices]
        assert (graph.data < 0).any()
    assert (graph.data == 0).any()
    return graph


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("n", [12, 60])
def test_shortest_paths_are_those_of_floyd_and_warshall(n, negative, engine):
    graph = weighted(n, 3, negative)
    expected = csgraph.floyd_warshall(graph)
    with linalgkit.use_engine(engine):
        np.testing.assert_array_equal(spgemm.shortest_paths_minplus(graph), expected)
        np.testing.assert_array_equal(spgemm.shortest_paths_minplus(graph.tocsc()), expected)
        some = spgemm.shortest_paths_minplus(graph.astype(np.int32), sources=np.array([5, 0, 5]))
        np.testing.assert_array_equal(some, expected[[5, 0, 5]])
        # The power of the matrix with a path of no edge from each node to itself.
        eye = sp.csr_array((np.zeros(n), np.arange(n), np.arange(n + 1)), shape=(n, n))
        both = sp.vstack([graph, eye], format="csr")
        side_by_side = np.stack([np.arange(n), n + np.arange(n)], axis=1).ravel()
        merge = sp.csr_array(
            (np.zeros(2 * n), side_by_side, np.arange(0, 2 * n + 1, 2)), (n, 2 * n)
        )
        one = spgemm.matmul(merge, both, semiring="min_plus")
        power = spgemm.matrix_power(one, n - 1, semiring="min_plus")
    lengths = np.full((n, n), np.inf)
    lengths[np.repeat(np.arange(n), np.diff(power.indptr)), power.indices] = power.data
    np.testing.assert_array_equal(lengths, expected)


def test_a_negative_cycle_through_a_source_is_found_at_once(monkeypatch):
    from linalgkit.spgemm import _graphs

    calls, multiply = [], _graphs.multiply
    monkeypatch.setattr(_graphs, "multiply", lambda *x, **y: calls.append(1) or multiply(*x, **y))
    ring = sp.csr_array(sp.diags_array([-1.0, -1.0], offsets=[1, -1], shape=(300, 300)))
    with pytest.raises(ValueError, match="cycle of negative length"):
        spgemm.shortest_paths_minplus(ring)
    assert len(calls) == 2
    spgemm.shortest_paths_minplus(ring, max_edges=5)  # of so many edges paths are short
    assert len(calls) == 7


@pytest.mark.parametrize("engine", ENGINES)
def test_negative_cycles_are_refused(engine):
    cycle = sp.csr_array(([1.0, 1.0, -3.0], ([0, 1, 2], [1, 2, 0])), shape=(4, 4))
    with linalgkit.use_engine(engine):
        with pytest.raises(ValueError, match="cycle of negative length"):
            spgemm.shortest_paths_minplus(cycle)
        # Not reached from node 3; and a walk of few edges ends in time.
        assert spgemm.shortest_paths_minplus(cycle, [3]).tolist() == [[np.inf] * 3 + [0.0]]
        walk = spgemm.shortest_paths_minplus(cycle, [0], max_edges=3)
        assert walk.tolist() == [[-1.0, 1.0, 2.0, np.inf]]
        zero = sp.csr_array(([1.0, 2.0, -3.0], ([0, 1, 2], [1, 2, 0])), shape=(3, 3))
        assert spgemm.shortest_paths_minplus(zero, [0]).tolist() == [[0.0, 1.0, 3.0]]
        loop = sp.csr_array(([-1.0], ([0], [0])), shape=(1, 1))
        with pytest.raises(ValueError, match="cycle of negative length"):
            spgemm.shortest_paths_minplus(loop)


def test_paths_of_at_most_so_many_edges():
    graph = weighted(15, 3)
    dense = np.full((15, 15), np.inf)
    dense[np.repeat(np.arange(15), np.diff(graph.indptr)), graph.indices] = graph.data
    lengths = np.where(np.eye(15), 0.0, np.inf)
    for edges in range(6):
        found = spgemm.shortest_paths_minplus(graph, max_edges=edges)
        np.testing.assert_array_equal(found, lengths)
        lengths = np.minimum(lengths, (lengths[:, :, None] + dense).min(axis=1))


def test_arguments_of_shortest_paths():
    graph = weighted(6, 1)
    assert spgemm.shortest_paths_minplus(graph, []).shape == (0, 6)
    assert spgemm.shortest_paths_minplus(sp.csr_array((0, 0))).shape == (0, 0)
    np.testing.assert_array_equal(
        spgemm.shortest_paths_minplus(graph, np.array([5, 1], np.uint8)),
        spgemm.shortest_paths_minplus(graph)[[5, 1]],
    )
    for sources, message in [
        ([6], r"sources must lie in \[0, 6\); got 6 to 6"),
        ([0, -1], r"sources must lie in \[0, 6\); got -1 to 0"),
        ([[0]], "sources must be integers on one axis"),
        (0, "sources must be integers on one axis"),
        ([0.5], "sources must be integers on one axis"),
        ([True], "sources must be integers on one axis"),
    ]:
        with pytest.raises(ValueError, match=message):
            spgemm.shortest_paths_minplus(graph, sources)
    with pytest.raises(ValueError, match=r"a must be square; got shape \(2, 3\)"):
        spgemm.shortest_paths_minplus(sp.csr_array((2, 3)))
    with pytest.raises(TypeError, match="complex numbers have none"):
        spgemm.shortest_paths_minplus(graph.astype(complex))
    graph.data[3] = np.nan
    with pytest.raises(ValueError, match="a must have no NaN; entry 3 is one"):
        spgemm.shortest_paths_minplus(graph)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", ["csr", "csc"])
@pytest.mark.parametrize("directed", [True, False])
def test_steps_are_those_of_breadth_first_search(directed, layout, engine):
    graph = random((40, 40), 0.04, 1)
    if not directed:
        graph = sp.csr_array(graph + graph.T)
    steps = csgraph.shortest_path(stored(graph).astype(float), unweighted=True)
    graph.data[::2] = 0.0  # an edge all the same
    with linalgkit.use_engine(engine):
        for k in (1, 2, 3, 50):
            result = spgemm.k_hop(graph.asformat(layout), k)
            assert result.dtype == np.int64
            expected = np.where((steps <= k) & (steps > 0), steps, 0)
            np.testing.assert_array_equal(result.toarray(), expected)
            assert (result.data > 0).all()
    with pytest.raises(ValueError, match="k must be at least 1; got 0"):
        spgemm.k_hop(graph, 0)


def test_steps_in_a_large_grid_are_distances():
    m = 14
    grid = poisson(m)
    result = spgemm.k_hop(grid, 3)
    places = np.stack(np.unravel_index(np.arange(m**3), (m, m, m)))
    rows = np.repeat(np.arange(m**3), np.diff(result.indptr))
    distance = np.abs(places[:, rows] - places[:, result.indices]).sum(axis=0)
    np.testing.assert_array_equal(result.data, distance)
    centre = np.ravel_multi_index((m // 2,) * 3, (m, m, m))
    assert result.indptr[centre + 1] - result.indptr[centre] == 6 + 18 + 38


def test_distances_in_a_large_graph_with_any_number_of_workers():
    graph = abs(LARGE["irregular"]()[0])
    square = sp.csr_array(graph[:2500, :2500])
    sources = [0, 7, 99]
    expected = csgraph.dijkstra(square, indices=sources)
    found = []
    for workers in (1, 2, 3):
        with linalgkit.use_workers(workers):
            found.append(spgemm.shortest_paths_minplus(square, sources))
    np.testing.assert_allclose(found[0], expected, rtol=1e-12)
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()


@pytest.mark.parametrize("engine", ENGINES)
def test_negative_cycles_matter_where_a_source_reaches_them(engine):
    # 0 -> 1 -> 2, 3 -> 4 -> 3 at a loss, 5 -> 3.
    ends = [0, 1, 3, 4, 5], [1, 2, 4, 3, 3]
    graph = sp.csr_array(([1.0, 1.0, 1.0, -2.0, 1.0], ends), shape=(6, 6))
    with linalgkit.use_engine(engine):
        apart = spgemm.shortest_paths_minplus(graph, [0, 1])
        assert apart[:, :3].tolist() == [[0.0, 1.0, 2.0], [np.inf, 0.0, 1.0]]
        assert np.isinf(apart[:, 3:]).all()
        for sources in ([3], [5], [0, 5], None):  # 5 reaches the cycle and is not on it
            with pytest.raises(ValueError, match="cycle of negative length"):
                spgemm.shortest_paths_minplus(graph, sources)
        walk = spgemm.shortest_paths_minplus(graph, [5], max_edges=3)
        assert walk[0, 3:].tolist() == [0.0, 2.0, 0.0]


def test_a_negative_cycle_that_passes_no_source_is_found_by_the_number_of_rounds(monkeypatch):
    from linalgkit.spgemm import _graphs

    calls, multiply = [], _graphs.multiply
    monkeypatch.setattr(_graphs, "multiply", lambda *x, **y: calls.append(1) or multiply(*x, **y))
    n = 50  # a path into a cycle of the last two nodes
    ends = [*range(n - 1), n - 1], [*range(1, n), n - 2]
    graph = sp.csr_array(([1.0] * (n - 1) + [-2.0], ends), shape=(n, n))
    with pytest.raises(ValueError, match="cycle of negative length"):
        spgemm.shortest_paths_minplus(graph, [0])
    assert len(calls) == n


@pytest.mark.parametrize("engine", ENGINES)
def test_infinite_lengths(engine):
    ends = [0, 0, 1, 2], [1, 2, 3, 3]
    graph = sp.csr_array(([np.inf, 1.0, 1.0, 1.0], ends), shape=(4, 4))
    with linalgkit.use_engine(engine):
        found = spgemm.shortest_paths_minplus(graph, [0])
        assert found.tolist() == [[0.0, np.inf, 1.0, 2.0]]
        # Of a path -inf + inf the length is NaN, which would hide that of 2.
        graph.data[:] = [-np.inf, 1.0, np.inf, 1.0]
        with pytest.raises(ValueError, match="a must have no length of minus infinity; entry 0"):
            spgemm.shortest_paths_minplus(graph, [0])


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_rounds_convert_no_indices(index, monkeypatch):
    from linalgkit.spgemm import _graphs, _numba_operands

    graph = weighted(300, 3)
    expected = csgraph.dijkstra(graph, indices=[0, 7]), spgemm.k_hop(graph, 3).toarray()
    graph.indices, graph.indptr = graph.indices.astype(index), graph.indptr.astype(index)
    widths, multiply = set(), _graphs.multiply

    def watched(left, right, **options):
        operands = [left, right] + ([options["mask"]] if "mask" in options else [])
        widths.update(x.dtype for operand in operands for x in operand.parts[1:])
        return multiply(left, right, **options)

    monkeypatch.setattr(_graphs, "multiply", watched)
    monkeypatch.setattr(_numba_operands, "_in_32_bits", lambda _: pytest.fail("converted"))
    np.testing.assert_array_equal(spgemm.shortest_paths_minplus(graph, [0, 7]), expected[0])
    np.testing.assert_array_equal(spgemm.k_hop(graph, 3).toarray(), expected[1])
    assert widths == {np.dtype(np.int32)}
