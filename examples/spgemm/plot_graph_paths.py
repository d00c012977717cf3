"""
Paths and triangles among the characters of a novel
===================================================

Les Misérables has 77 characters, and Donald Knuth noted in how many chapters each two of them
appear together. As a sparse matrix this is a graph with 254 weighted edges.

A product of sparse matrices need not add and multiply. Where it takes the minimum for the sum and
the sum for the product, it finds lengths of shortest paths. Where it counts, it finds triangles.
:func:`spgemm.matmul <linalgkit.spgemm.matmul>` does all of these, with another ``semiring``.
"""

# %%
# Shortest paths
# --------------
# The more chapters two characters share, the closer they are: an edge has the length one over that
# number. In the min-plus product of this matrix with itself, entry (i, j) is the shortest way from
# i to j by exactly two edges. With a zero stored on the diagonal one may also stay, and the way
# has at most two edges. What is not stored is a way that does not exist, and not one of
# length zero.

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
from matplotlib.patheffects import withStroke
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.sparse import coo_array, csr_array
from scipy.spatial.distance import squareform

from linalgkit import spgemm

graph = nx.les_miserables_graph()
names = np.array(list(graph))
chapters = coo_array(nx.to_scipy_sparse_array(graph, dtype=np.float64))

everyone = np.arange(names.size)
row = np.concatenate([chapters.row, everyone])
column = np.concatenate([chapters.col, everyone])
lengths = csr_array((np.append(1 / chapters.data, 0.0 * everyone), (row, column)))

for edges in (1, 2, 4, 8):
    paths = spgemm.matrix_power(lengths, edges, semiring="min_plus")
    print(f"at most {edges:2} edges: {paths.nnz:4} of {names.size**2} pairs,", end=" ")
    print(f"mean length {paths.data[paths.data > 0].mean():.3f}")

# %%
# :func:`spgemm.shortest_paths_minplus <linalgkit.spgemm.shortest_paths_minplus>` goes on until
# nothing improves. networkx finds the same lengths by Dijkstra's algorithm.

distance = spgemm.shortest_paths_minplus(lengths)
assert np.allclose(distance, paths.toarray(), rtol=1e-13)
theirs = nx.all_pairs_dijkstra_path_length(graph, weight=lambda i, j, edge: 1 / edge["weight"])
for ours, (_, targets) in zip(distance, theirs, strict=True):
    assert np.allclose(ours, [targets[name] for name in names], rtol=1e-13)

# %%
# Steps alone, without lengths, come from :func:`spgemm.k_hop <linalgkit.spgemm.k_hop>`: a sparse
# matrix of who is reached in at most k steps, and in how many. Both are shown below, with the
# characters in an order that puts near ones beside each other.

steps = spgemm.k_hop(csr_array(chapters), 5)
assert steps.nnz == names.size * (names.size - 1)  # five steps reach everybody

order = leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=True))
in_order = np.ix_(order, order)

# Names beside the rows: who knows most of the others, where there is room.
degree = np.diff(csr_array(chapters).indptr)[order]
known = []
for place in np.argsort(-degree, kind="stable"):
    if all(abs(place - other) > 3 for other in known):
        known.append(place)

figure, axes = plt.subplots(1, 2, figsize=(11, 5.6), layout="constrained", sharey=True)
shades = plt.get_cmap("cividis_r", 6)
panels = {
    "Least number of steps": (steps.toarray(), shades, (-0.5, 5.5)),
    "Length of the shortest path": (distance, "cividis_r", (0, distance.max())),
}
for axis, (title, (values, colours, (least, most))) in zip(axes, panels.items(), strict=True):
    image = axis.imshow(values[in_order], cmap=colours, vmin=least, vmax=most)
    axis.set_title(title)
    axis.set_xticks(known, names[order[known]], rotation=90, fontsize=8)
    axis.set_yticks(known, names[order[known]], fontsize=8)
    figure.colorbar(image, ax=axis, shrink=0.7)

# sphinx_gallery_thumbnail_number = 2

# %%
# Triangles
# ---------
# Under ``"plus_pair"`` every product counts as one, whatever the values are. Masked by the graph
# itself, entry (i, j) of A A is then the number of characters who know both i and j, for those
# pairs only who know each other: the triangles on that edge. The mask is not applied to a
# finished product; places outside of it are not computed.

edge_triangles = spgemm.matmul(chapters, chapters, semiring="plus_pair", mask=chapters)
triangles = edge_triangles.sum(axis=1) / 2
assert dict(zip(names, triangles, strict=True)) == nx.triangles(graph)
print(f"{spgemm.triangle_count(chapters)} triangles;", end=" ")
print(f"{names[triangles.argmax()]} is in {triangles.max():.0f} of them")

# %%
# In the drawing the area of a dot is the number of triangles of its character, and an edge is the
# darker, the more triangles it belongs to; grey edges belong to none. Three knots stand out: the
# students around Enjolras, the friends of Fantine's youth (Zephine), and the trial (Judge).

places = nx.kamada_kawai_layout(graph)
points = np.array([places[name] for name in names])

figure, (drawing, bars) = plt.subplots(
    1, 2, figsize=(11, 6.2), layout="constrained", width_ratios=(2.2, 1)
)
drawing.plot(
    *points[[chapters.row, chapters.col]].transpose(2, 0, 1),
    color="#DDDDDD",
    linewidth=0.6,
    zorder=0,
)
edges = coo_array(edge_triangles)
for number in np.argsort(edges.data):
    ends = points[[edges.row[number], edges.col[number]]]
    share = edges.data[number] / edges.data.max()
    drawing.plot(*ends.T, color=plt.cm.Blues(0.25 + 0.75 * share), linewidth=0.5 + share, zorder=1)
drawing.scatter(*points.T, s=8 + 4 * triangles, color="#E69F00", edgecolor="white", zorder=2)
labelled = "Valjean Gavroche Enjolras Marius Javert Fantine Cosette Myriel Napoleon Judge Zephine"
for name in labelled.split():
    text = drawing.annotate(name, places[name], xytext=(0, 6), textcoords="offset points")
    text.set(fontsize=9, ha="center", zorder=3)
    text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
drawing.set_aspect("equal")
drawing.axis("off")

most = np.argsort(triangles, kind="stable")[-18:]
bars.barh(names[most], triangles[most], color="#E69F00")
bars.set(title="Triangles of a character", xlabel="triangles")
bars.spines[["top", "right"]].set_visible(False)
bars.tick_params(axis="y", length=0)

# %%
# How far the others are
# ----------------------
# Rows of the matrix of steps, counted. Who knows many is close to all: Valjean reaches everybody in
# three steps.

shown = ["Valjean", "Marius", "Gavroche", "Javert", "Fantine", "Cosette", "Myriel", "Napoleon"]
counts = {}
for name in shown:
    line = steps[[np.flatnonzero(names == name)[0]], :]
    counts[name] = np.bincount(line.data, minlength=6)[1:]

figure, axis = plt.subplots(figsize=(8, 3.4), layout="constrained")
left = np.zeros(len(shown))
for step in range(5):
    width = np.array([counts[name][step] for name in shown])
    label = f"{step + 1} step{'s' if step else ''}"
    axis.barh(shown, width, left=left, color=shades(step + 1), label=label, edgecolor="white")
    left += width
axis.set(xlabel="characters", xlim=(0, names.size - 1))
axis.invert_yaxis()
axis.spines[["top", "right"]].set_visible(False)
axis.tick_params(axis="y", length=0)
axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=5)

plt.show()
