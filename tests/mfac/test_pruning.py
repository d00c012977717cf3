"""Pruning: against the quadratic model's own minimum, least squares, and enumeration."""

from itertools import combinations

import numpy as np
import pytest
from mfac.cases import dense, in_blocks

from linalgkit._testing import library as library_of
from linalgkit.mfac import block_fisher, empirical_fisher, prune, saliency

LIBRARIES = ["numpy", "array_api_strict", "torch", "jax"]


def problem(m=6, d=24, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(d), rng.standard_normal((m, d))


def minimum(f, weights, removed, slope=0.0):
    """The weights that minimise slope·δ + ½ δᵀ F δ where `removed` are 0, and that minimum."""
    kept = ~removed
    fixed = np.where(removed, -weights, 0.0)
    right = -(np.broadcast_to(slope, weights.shape) + f @ fixed)[kept]
    change = fixed.copy()
    change[kept] = np.linalg.solve(f[np.ix_(kept, kept)], right)
    return weights + change, slope * change.sum() if np.isscalar(slope) else (
        slope @ change
    ) + change @ f @ change / 2


class TestSaliency:
    def test_single_weights(self):
        weights, gradients = problem()
        f = dense(gradients)
        inverse = empirical_fisher(gradients, damping=0.1).diagonal_inverse()
        expected = []
        for p in range(24):
            change = -np.linalg.inv(f)[:, p] * weights[p] / np.linalg.inv(f)[p, p]
            expected.append(change @ f @ change / 2)
        np.testing.assert_allclose(saliency(weights, inverse), expected, rtol=1e-9)

    @pytest.mark.parametrize("size", [2, 4])
    def test_groups(self, size):
        weights, gradients = problem()
        f = dense(gradients)
        blocks = empirical_fisher(gradients, damping=0.1).inverse_blocks(size)
        found = saliency(weights, blocks, groups=size)
        for k in range(24 // size):
            removed = np.zeros(24, bool)
            removed[size * k : size * (k + 1)] = True
            assert found[k] == pytest.approx(minimum(f, weights, removed, np.zeros(24))[1])

    def test_groups_with_a_diagonal(self):
        found = saliency(np.array([1.0, 2.0, 3.0, 4.0]), np.full(4, 0.5), groups=2)
        np.testing.assert_allclose(found, [5.0, 25.0])

    @pytest.mark.parametrize("shape", [(3,), (2, 2, 2), (4, 1)])
    def test_shapes(self, shape):
        with pytest.raises(ValueError, match="weights must have shape"):
            saliency(np.ones(4), np.ones(shape))


@pytest.mark.parametrize("rounds", [1, 3, 24])
@pytest.mark.parametrize("kind", ["full", "blocks of 8", "blocks of 4"])
def test_joint_update_is_the_minimum_in_however_many_rounds(kind, rounds):
    weights, gradients = problem()
    if kind == "full":
        fisher, f = empirical_fisher(gradients, damping=0.01), dense(gradients, 0.01)
    else:
        size = int(kind[-1])
        fisher = block_fisher(gradients, size, damping=0.01)
        f = in_blocks(dense(gradients, 0.01), size)
    found = prune(weights, fisher, sparsity=0.5, update="joint", n_recompute=rounds)
    assert found.mask.sum() == 12
    np.testing.assert_array_equal(np.sort(found.order), np.flatnonzero(~found.mask))
    expected, loss = minimum(f, weights, ~found.mask, np.zeros(24))
    np.testing.assert_allclose(found.weights, expected, atol=1e-10)
    assert (found.weights[~found.mask] == 0).all()
    assert found.loss_increase == pytest.approx(loss, rel=1e-9)


def test_one_weight_of_a_regression_is_the_refit_of_least_squares():
    rng = np.random.default_rng(0)
    inputs, answers = rng.standard_normal((40, 6)), rng.standard_normal(40)
    weights = np.linalg.lstsq(inputs, answers)[0]
    damping = 1e-9
    fisher = empirical_fisher(inputs, damping=damping)  # the Hessian of the mean square, halved
    found = prune(weights, fisher, sparsity=1 / 6, update="joint")
    kept = found.mask
    refit = np.linalg.lstsq(inputs[:, kept], answers)[0]
    np.testing.assert_allclose(found.weights[kept], refit, rtol=1e-6)
    costs = []
    for p in range(6):
        others = np.arange(6) != p
        rest = answers - inputs[:, others] @ np.linalg.lstsq(inputs[:, others], answers)[0]
        costs.append(rest @ rest)
    assert found.order[0] == np.argmin(costs)
    best = answers - inputs @ weights
    assert found.loss_increase == pytest.approx((min(costs) - best @ best) / 80, rel=1e-6)


def test_diagonal_update_is_the_published_one_and_costs_more():
    weights, gradients = problem(40, 300)
    damping = 1e-5
    fisher = empirical_fisher(gradients, damping=damping)
    f = dense(gradients, damping)
    inverse = np.linalg.inv(f)
    found = prune(weights, fisher, sparsity=0.1)
    score = weights**2 / inverse.diagonal()
    removed = np.zeros(300, bool)
    removed[np.argsort(score)[:30]] = True
    expected = weights - inverse @ np.where(removed, weights / inverse.diagonal(), 0)
    expected[removed] = 0
    np.testing.assert_allclose(found.weights, expected, rtol=1e-6, atol=1e-9)
    change = expected - weights
    assert found.loss_increase == pytest.approx(change @ f @ change / 2, rel=1e-6)
    joint = prune(weights, fisher, sparsity=0.1, update="joint")
    np.testing.assert_array_equal(joint.mask, found.mask)
    assert found.loss_increase > 10 * joint.loss_increase


@pytest.mark.parametrize("update", ["diagonal", "joint"])
def test_removed_weights_neither_move_nor_come_back(update):
    weights, gradients = problem()
    fisher = empirical_fisher(gradients, damping=0.01)
    first = prune(weights, fisher, sparsity=0.25, update=update)
    second = prune(first.weights, fisher, sparsity=0.5, update=update)
    assert second.mask.sum() == 12
    assert not (second.mask & ~first.mask).any()
    assert (second.weights[~second.mask] == 0).all()
    assert len(second.order) == 6  # those of the first are not counted again
    at_once = prune(weights, fisher, sparsity=0.5, update=update, n_recompute=2)
    assert not (at_once.weights[~at_once.mask]).any()
    # The second round must weigh with what is left of F: removed weights are not free to move.
    left = first.mask
    inverse = np.linalg.inv(dense(gradients, 0.01)[np.ix_(left, left)])
    score = np.full(24, np.inf)
    score[left] = first.weights[left] ** 2 / inverse.diagonal()
    np.testing.assert_array_equal(second.order, np.argsort(score)[:6])


def test_rounds_keep_equal_parts_of_what_is_left():
    weights, gradients = problem(8, 512)
    counts = []
    fisher = empirical_fisher(gradients, damping=0.1)
    restricted = fisher._restricted
    fisher._restricted = lambda kept: counts.append(int(kept.sum())) or restricted(kept)
    prune(weights, fisher, sparsity=7 / 8, n_recompute=3)
    assert counts == [512, 256, 128, 64]


def test_mask_counts_what_may_go_only():
    weights, gradients = problem()
    mask = np.arange(24) < 8
    found = prune(
        weights, empirical_fisher(gradients, damping=0.1), sparsity=0.5, mask=mask, update="joint"
    )
    assert (~found.mask).sum() == 4
    assert found.mask[8:].all()
    assert not np.allclose(found.weights[8:], weights[8:])  # they move all the same


class TestGroups:
    def test_blocks_of_four(self):
        weights, gradients = problem()
        fisher, f = empirical_fisher(gradients, damping=0.01), dense(gradients, 0.01)
        found = prune(weights, fisher, sparsity=1 / 3, groups=4, update="joint")
        gone = ~found.mask.reshape(6, 4)
        assert gone.all(axis=1).sum() == 2
        assert gone.any(axis=1).sum() == 2
        costs = []
        for k in range(6):
            removed = np.zeros((6, 4), bool)
            removed[k] = True
            costs.append(minimum(f, weights, removed.ravel(), np.zeros(24))[1])
        np.testing.assert_array_equal(
            np.flatnonzero(gone.all(axis=1)), np.sort(np.argsort(costs)[:2])
        )
        expected, _ = minimum(f, weights, ~found.mask, np.zeros(24))
        np.testing.assert_allclose(found.weights, expected, atol=1e-10)

    @pytest.mark.parametrize("update", ["diagonal", "joint"])
    @pytest.mark.parametrize("rounds", [1, 3])
    @pytest.mark.parametrize("kind", ["full", "blocks"])
    def test_two_of_four(self, kind, rounds, update):
        weights, gradients = problem()
        f = dense(gradients, 0.01)
        fisher = empirical_fisher(gradients, damping=0.01)
        if kind == "blocks":
            fisher, f = block_fisher(gradients, 4, damping=0.01), in_blocks(f, 4)
        found = prune(weights, fisher, groups="2:4", update=update, n_recompute=rounds)
        assert (found.mask.reshape(6, 4).sum(axis=1) == 2).all()
        assert (found.weights != 0).sum() == 12
        if kind == "blocks":  # each group's best pair, by enumeration
            for k in range(6):
                costs = {}
                for pair in combinations(range(4), 2):
                    removed = np.zeros(24, bool)
                    removed[[4 * k + p for p in pair]] = True
                    costs[pair] = minimum(f, weights, removed, np.zeros(24))[1]
                gone = tuple(np.flatnonzero(~found.mask[4 * k : 4 * k + 4]))
                assert gone == min(costs, key=costs.get)
            expected, _ = minimum(f, weights, ~found.mask, np.zeros(24))
            np.testing.assert_allclose(found.weights, expected, atol=1e-10)

    def test_zeros_that_are_there_already_count(self):
        weights, gradients = problem()
        weights[::4], weights[1::4] = 0, 0
        found = prune(weights, empirical_fisher(gradients, damping=0.1), groups="2:4")
        assert len(found.order) == 0
        np.testing.assert_array_equal(found.weights, weights)

    @pytest.mark.parametrize("library", LIBRARIES)
    @pytest.mark.parametrize("update", ["diagonal", "joint"])
    @pytest.mark.parametrize(("groups", "sparsity"), [("2:4", None), (4, 0.4)])
    @pytest.mark.parametrize("kind", ["gradients", "parameters", "blocks", "large block"])
    def test_groups_that_hold_zeros(self, kind, groups, sparsity, update, library, require):
        """By enumeration, with F of the weights that are left."""
        used = library_of(library if library == "numpy" else require(library).__name__)
        weights, gradients = problem(60 if kind == "parameters" else 6)
        weights[[1, 5, 6, 12, 20, 21, 23]] = 0
        f, some = dense(gradients, 0.01), used.asarray(gradients)
        if kind == "blocks":
            fisher, f = block_fisher(some, 4, damping=0.01), in_blocks(f, 4)
        elif kind == "large block":
            fisher = block_fisher(some, 24, damping=0.01)
        else:
            fisher = empirical_fisher(some, damping=0.01)
        found = prune(
            used.asarray(weights), fisher, groups=groups, sparsity=sparsity, update=update
        )
        kept, inverse = weights != 0, np.eye(24)
        inverse[np.ix_(kept, kept)] = np.linalg.inv(f[np.ix_(kept, kept)])
        count = 4 if groups == 4 else 2
        best = []
        for first in range(0, 24, 4):
            if (~kept[first : first + 4]).sum() >= count:
                continue  # it is as it shall be
            subsets = [[first + p for p in q] for q in combinations(range(4), count)]
            costs = [
                weights[q] @ np.linalg.solve(inverse[np.ix_(q, q)], weights[q]) / 2 for q in subsets
            ]
            best.append((min(costs), subsets[np.argmin(costs)]))
        best.sort()
        gone = best[: 2 if groups == 4 else len(best)]
        removed, x = ~kept, np.zeros(24)
        for _, q in gone:
            removed[q] = True
            x[q] = np.linalg.solve(inverse[np.ix_(q, q)], weights[q])
        np.testing.assert_array_equal(used.asnumpy(found.mask), ~removed)
        order = [p for _, q in gone for p in q if kept[p]]
        np.testing.assert_array_equal(used.asnumpy(found.order), order)
        expected = np.where(removed, 0, weights - inverse @ x)
        if update == "joint":
            expected, _ = minimum(f, weights, removed, np.zeros(24))
        np.testing.assert_allclose(used.asnumpy(found.weights), expected, atol=1e-9)
        change = expected - weights
        assert found.loss_increase == pytest.approx(change @ f @ change / 2, rel=1e-8)


@pytest.mark.parametrize("rounds", [1, 2])
def test_gradient_that_is_not_zero(rounds):
    weights, gradients = problem()
    slope = np.random.default_rng(5).standard_normal(24)
    f = dense(gradients)
    found = prune(
        weights, empirical_fisher(gradients, damping=0.1),
        sparsity=0.25, gradient=slope, update="joint", n_recompute=rounds,
    )  # fmt: skip
    expected, loss = minimum(f, weights, ~found.mask, slope)
    np.testing.assert_allclose(found.weights, expected, atol=1e-10)
    assert found.loss_increase == pytest.approx(loss)


@pytest.mark.parametrize("library", LIBRARIES)
def test_leaves_on_every_library(library, require):
    used = library_of(library if library == "numpy" else require(library).__name__)
    weights, gradients = problem()
    whole = prune(weights, empirical_fisher(gradients, damping=0.1), sparsity=0.5, n_recompute=2)
    leaves = [used.asarray(gradients[:, :8].reshape(6, 4, 2)), used.asarray(gradients[:, 8:])]
    given = [used.asarray(weights[:8].reshape(4, 2)), used.asarray(weights[8:])]
    fisher = empirical_fisher(leaves, damping=0.1)
    found = prune(given, fisher, sparsity=0.5, n_recompute=2)
    assert [tuple(leaf.shape) for leaf in found.weights] == [(4, 2), (16,)]
    assert all(isinstance(leaf, used.array_type) for leaf in (*found.weights, *found.mask))
    flat = np.concatenate([used.asnumpy(leaf).ravel() for leaf in found.weights])
    np.testing.assert_allclose(flat, whole.weights, atol=1e-12)
    np.testing.assert_array_equal(used.asnumpy(found.order), whole.order)
    twice = prune(given, fisher, groups="1:2", mask=found.mask, update="joint")
    assert twice.loss_increase >= 0


@pytest.mark.parametrize("size", [4, 5, 24, 40])
@pytest.mark.parametrize("m", [3, 6])
def test_block_fisher(size, m):
    _, gradients = problem(m)
    x = np.random.default_rng(1).standard_normal((24, 2))
    fisher, f = block_fisher(gradients, size, damping=0.1), in_blocks(dense(gradients), size)
    np.testing.assert_allclose(fisher @ x, f @ x, atol=1e-12)
    np.testing.assert_allclose(fisher.solve(x), np.linalg.solve(f, x), atol=1e-12)
    np.testing.assert_allclose(fisher.inverse @ x[:, 0], np.linalg.solve(f, x[:, 0]), atol=1e-12)
    np.testing.assert_allclose(fisher.diagonal_inverse(), np.linalg.inv(f).diagonal(), rtol=1e-11)
    if size in (4, 24):
        blocks = np.linalg.inv(f).reshape(6, 4, 6, 4)[range(6), :, range(6)]
        np.testing.assert_allclose(fisher.inverse_blocks(4), blocks, atol=1e-12)


def test_float32_diagonal_of_blocks_at_small_dampings():
    gradients = np.random.default_rng(0).standard_normal((256, 128), np.float32)
    for damping in (1e-3, 1e-6, 1e-8):
        f = in_blocks(dense(gradients, damping), 64)
        found = block_fisher(gradients, 64, damping=damping).diagonal_inverse()
        np.testing.assert_allclose(found, np.linalg.inv(f).diagonal(), rtol=1e-6)


BAD = {
    "sparsity": ({}, ValueError, "sparsity is needed"),
    "word": ({"sparsity": "half"}, TypeError, "sparsity must be a number"),
    "all": ({"sparsity": 1.0}, ValueError, "less than 1"),
    "update": ({"sparsity": 0.5, "update": "none"}, ValueError, "update must be one of"),
    "groups": ({"sparsity": 0.5, "groups": 7}, ValueError, "must divide"),
    "large": ({"sparsity": 0.5, "groups": 12}, ValueError, "at most 8"),
    "pattern": ({"groups": "4:2"}, ValueError, "a pattern such as"),
    "mask": ({"sparsity": 0.5, "mask": np.ones(24)}, TypeError, "mask must be boolean"),
    "rounds": ({"sparsity": 0.5, "n_recompute": 0}, ValueError, "at least 1"),
    "gradient": ({"sparsity": 0.5, "gradient": np.ones(3)}, ValueError, "gradient must have"),
    "slope": (
        {"sparsity": 0.5, "gradient": np.array([0, np.nan, *[0] * 22])},
        ValueError,
        "gradient is not finite at 1",
    ),
    "masks": (
        {"sparsity": 0.5, "mask": np.ones((24, 2), bool)},
        ValueError,
        r"mask must be one vector; got shape \(24, 2\)",
    ),
    "gradients": (
        {"sparsity": 0.5, "gradient": np.ones((24, 2))},
        ValueError,
        r"gradient must be one vector; got shape \(24, 2\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    options, error, words = BAD[name]
    weights, gradients = problem()
    with pytest.raises(error, match=words):
        prune(weights, empirical_fisher(gradients), **options)


def test_other_bad_input(require):
    weights, gradients = problem()
    with pytest.raises(TypeError, match="BlockFisher; got ndarray"):
        prune(weights, gradients, sparsity=0.5)
    other = require("torch").from_numpy(weights)
    for fisher in (empirical_fisher(gradients), block_fisher(gradients, 4)):
        with pytest.raises(TypeError, match="weights is an array of torch, fisher of numpy"):
            prune(other, fisher, sparsity=0.5)
    with pytest.raises(ValueError, match="weights are not finite at 1"):
        prune(np.array([1, np.nan]), empirical_fisher(np.eye(2)), sparsity=0.5)
    with pytest.raises(ValueError, match="block_size, 6"):
        prune(weights, block_fisher(gradients, 6), groups="2:4")
    with pytest.raises(ValueError, match="divide block_size=6"):
        block_fisher(gradients, 6).inverse_blocks(4)
    with pytest.raises(ValueError, match=r"gradients\[0\] is not finite at 1"):
        block_fisher(np.array([[0, np.nan]]), 1)
    with pytest.raises(ValueError, match="block_size must be at least 1"):
        block_fisher(gradients, 0)
