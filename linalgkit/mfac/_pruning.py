"""Which weights can go, and how the others must move: optimal brain surgery with F⁻¹.

Removing weights Q costs ½ w_Qᵀ ([F⁻¹]_QQ)⁻¹ w_Q where the others move by δ_S = F_SS⁻¹ F_SQ w_Q,
which the push-through identity makes G_Sᵀ M_S⁻¹ G_Q w_Q: no large system, and no subtraction.
Sources: "M-FAC" (arXiv:2107.03356), "WoodFisher" (arXiv:2004.14340).
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from .. import _checks
from .._engine import Engines
from .._operator import _on_host
from .._xp import compiled
from ._array_api import widened
from ._blocks import BlockFisher
from ._fisher import EmpiricalFisher
from ._protocol import check_multiple
from ._rows import cut, first_leaf, flat, in_memory, result_dtype

engine = Engines(__package__)

_LARGEST_GROUP = 8


@dataclass(frozen=True)
class PruneResult:
    """What `prune` found.

    Parameters
    ----------
    weights : array or list of arrays
        The weights after pruning, of the form of those before and in their dtype, at least float32;
        leaves of different dtypes in the widest.
    mask : array or list of arrays, bool
        True where a weight was kept.
    loss_increase : float
        Of the quadratic model: ``∇ᵀ δ + ½ δᵀ F δ`` for the change δ of all weights.
    order : array of int
        The removed weights, counted through all leaves, in the order in which they went; those
        that were 0 before are not among them.
    """

    weights: Any
    mask: Any
    loss_increase: float
    order: Any

    def __repr__(self) -> str:
        return (
            f"<PruneResult: {len(self.order):,} weights removed, loss increase "
            f"{self.loss_increase:.4g}>"
        )


@engine.traced()
def saliency(weights: Any, inverse: Any, /, *, groups: int | None = None) -> Any:
    """Return what the removal of each weight, or of each group, costs.

    Parameters
    ----------
    weights : array, shape (d,)
        The weights.
    inverse : array, shape (d,) or (d / groups, groups, groups)
        The diagonal of F⁻¹, or its blocks along the diagonal, as `diagonal_inverse` and
        `inverse_blocks` of the Fisher matrices give them.
    groups : int, optional
        Consecutive weights that are removed together.

    Returns
    -------
    array, shape (d,) or (d / groups,)
        The increase of the loss if that weight or group alone is removed and all others move; at
        least in float32.

    Raises
    ------
    ValueError
        The shapes do not fit each other.

    Notes
    -----
    ``w² / (2 [F⁻¹]_pp)`` (equation 6 of [1]_), and ``½ w_Qᵀ ([F⁻¹]_QQ)⁻¹ w_Q`` for a group. Groups
    with a diagonal alone: the sum of their weights' saliencies, as if F⁻¹ were diagonal.

    References
    ----------
    .. [1] S. P. Singh, D. Alistarh, "WoodFisher: Efficient Second-Order Approximation for Neural
       Network Compression", arXiv:2004.14340.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit.mfac import saliency
    >>> saliency(np.array([1.0, 2.0]), np.array([0.5, 4.0]))
    array([1. , 0.5])
    """
    _checks.present(weights=weights, inverse=inverse)
    weights, inverse = _checks.floating(weights=weights, inverse=inverse)
    _checks.real(weights=weights, inverse=inverse)
    xp, dtype = array_namespace(weights, inverse), result_dtype(weights)
    weights = xp.astype(weights, dtype, copy=False)
    inverse = xp.astype(inverse, dtype, copy=False)
    d = weights.shape[0] if weights.ndim == 1 else -1
    size = 1 if groups is None else _checks.size("groups", groups, 1)
    if tuple(inverse.shape) not in ((d,), (d // size, size, size)) or d % size:
        raise ValueError(
            f"weights must have shape (d,) and inverse (d,)"
            f"{'' if groups is None else f' or (d / {size}, {size}, {size})'}; got "
            f"{tuple(weights.shape)} and {tuple(inverse.shape)}."
        )
    found = engine(weights, inverse).saliency(weights, inverse)
    if groups is not None and inverse.ndim == 1:
        found = xp.sum(xp.reshape(found, (-1, size)), axis=1)
    return found


@engine.eager
def prune(
    weights: Any,
    fisher: EmpiricalFisher | BlockFisher,
    *,
    sparsity: float | None = None,
    update: str = "diagonal",
    n_recompute: int = 1,
    groups: int | str | None = None,
    mask: Any = None,
    gradient: Any = None,
) -> PruneResult:
    """Remove the weights that cost least, and move the others to make up for them.

    Parameters
    ----------
    weights : array, shape (d,), or list of arrays
        The weights; those that are 0 already count as removed and stay 0, other than those that
        `mask` keeps.
    fisher : EmpiricalFisher or BlockFisher
        The curvature of the loss at these weights.
    sparsity : float, optional
        The part of the weights, or of the groups, to be 0 afterwards: at least 0, less than 1.
        Not needed for a pattern, where it is the part of the groups that get it, 1 by default.
    update : {"diagonal", "joint"}
        How the others move: as the published pruner does, by one product with F⁻¹ that looks away
        from how removed weights depend on each other; or to the minimum of the quadratic model.
    n_recompute : int
        Rounds. Each removes the same part of what is left, and weighs the rest anew.
    groups : int or str, optional
        Consecutive weights, at most 8, that are removed together; or a pattern such as "2:4",
        which keeps 2 of every 4.
    mask : array, shape (d,), or list of arrays, bool, optional
        False for weights that are not to be removed; they may move, and do not count.
    gradient : array, shape (d,), or list of arrays, optional
        The gradient of the loss, if it is not 0: the weights first take Newton's step.

    Returns
    -------
    PruneResult
        `weights`, `mask`, `loss_increase` and `order`.

    Raises
    ------
    ValueError
        The shapes do not fit each other, or an option is not known.

    See Also
    --------
    saliency : What each weight costs alone.

    Notes
    -----
    After each round F is that of the weights that are left: removed ones neither come back nor
    move. With ``update="joint"`` the result for a set of weights is the exact minimum of
    ``½ δᵀ F δ`` with δ_Q = -w_Q, in however many rounds the set was found. The cost of a round is
    that of the diagonal of F⁻¹, m² d operations, and of the Gram matrix of the weights that are
    left or of those removed, whichever are fewer.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit.mfac import empirical_fisher, prune
    >>> gradients = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    >>> fisher = empirical_fisher(gradients, damping=1e-3)
    >>> found = prune(np.array([1.0, 0.9, 1.0]), fisher, sparsity=1 / 3)
    >>> found.order
    array([1])
    >>> found.weights.round(2)
    array([1.9, 0. , 1. ])
    """
    _checks.concrete("prune", "saliency", weights=first_leaf(weights))
    in_memory("weights", first_leaf(weights))
    if not isinstance(fisher, EmpiricalFisher | BlockFisher):
        raise TypeError(
            f"fisher must be EmpiricalFisher or BlockFisher; got {type(fisher).__name__}."
        )
    in_memory("the fisher's gradients", fisher._parts[0])
    _checks.arrays(weights=first_leaf(weights), fisher=fisher._parts[0])
    _checks.choice("update", update, ("diagonal", "joint"))
    rounds = _checks.size("n_recompute", n_recompute, 1)
    group = _Group.of(groups)
    if group.size > 1:
        check_multiple("groups", group.size, fisher.layout)
        if isinstance(fisher, BlockFisher) and fisher.block_size % group.size:
            raise ValueError(
                f"groups of {group.size} must divide the fisher's block_size, {fisher.block_size}."
            )
    if sparsity is None and not group.is_pattern:
        raise ValueError("sparsity is needed: the part of the weights that is to be removed.")
    part = 1.0 if sparsity is None else _checks.number("sparsity", sparsity)
    if not 0 <= part <= 1 or (part == 1 and not group.is_pattern):
        raise ValueError(f"sparsity must be at least 0 and less than 1; got {sparsity!r}.")
    return _Pruning(weights, fisher, group, mask, gradient).run(part, rounds, update)


class _Group:
    """Weights that are removed together: which subsets of every `size` consecutive ones."""

    def __init__(self, size: int, removed: int) -> None:
        self.size, self.removed = size, removed
        self.is_pattern = removed < size
        self.subsets = np.array(list(combinations(range(size), removed)))

    @classmethod
    def of(cls, groups: Any) -> "_Group":
        if groups is None:
            return cls(1, 1)
        if isinstance(groups, str):
            kept, _, size = groups.partition(":")
            if not (kept.isdigit() and size.isdigit() and 0 < int(kept) < int(size)):
                raise ValueError(
                    f'groups must be a size or a pattern such as "2:4"; got {groups!r}.'
                )
            group = int(size), int(size) - int(kept)
        else:
            group = (_checks.size("groups", groups, 1),) * 2
        if group[0] > _LARGEST_GROUP:
            raise ValueError(f"groups have at most {_LARGEST_GROUP} weights; got {groups!r}.")
        return cls(*group)


class _Pruning:
    """The weights on their way; what is kept and what may go are arrays of NumPy."""

    def __init__(self, weights: Any, fisher: Any, group: _Group, mask: Any, gradient: Any) -> None:
        layout = fisher.layout
        self.fisher, self.group, self.layout = fisher, group, layout
        parts, self._join = _one_vector("weights", *layout.split("weights", weights))
        self.dtype = result_dtype(parts[0])
        self.before = flat(parts)
        self.xp, self.device = array_namespace(self.before), device(self.before)
        host = np.asarray(_on_host(self.before))
        if not np.isfinite(host).all():
            raise ValueError(f"weights are not finite at {int(np.argmin(np.isfinite(host)))}.")
        self.may_go = np.ones(layout.size, bool)
        if mask is not None:
            masks, _ = _one_vector("mask", *layout.split("mask", mask, floating=False))
            self.may_go = np.concatenate([np.asarray(_on_host(part)) for part in masks])
            if self.may_go.dtype != bool:
                raise TypeError(f"mask must be boolean; got dtype {self.may_go.dtype}.")
        self.kept = ~((host == 0) & self.may_go)
        self.now, self.gradient = self.before, None
        if gradient is not None:
            leaves, _ = _one_vector("gradient", *layout.split("gradient", gradient))
            _checks.arrays(weights=parts[0], gradient=leaves[0])
            self.gradient = flat(leaves)
            finite = np.isfinite(_on_host(self.gradient))
            if not finite.all():
                raise ValueError(f"gradient is not finite at {int(np.argmin(finite))}.")
            step = fisher._restricted(self.kept).solve(
                self._parts(_where(self.kept, self.gradient))
            )
            self.now = _where(self.kept, self.now - flat(step))

    def run(self, part: float, rounds: int, update: str) -> PruneResult:
        group, order = self.group, []
        units = self.may_go.reshape(-1, group.size).all(axis=1)  # those that may go
        gone = self._gone() & units
        whole, start = int(units.sum()), 1 - int(gone.sum()) / max(1, int(units.sum()))
        restricted = self.fisher._restricted(self.kept)
        for k in range(1, rounds + 1):
            # Each round keeps the same part of what the one before has kept.
            target = 1 - part
            if k < rounds and target < start:
                target = start * (max(target, 1 / max(whole, 1)) / start) ** (k / rounds)
            count = round(whole * (1 - target)) - int(gone.sum())
            if count <= 0:
                continue
            costs, subsets, inverse = self._costs(restricted)
            costs[gone | ~units] = np.inf
            chosen = np.argsort(costs, kind="stable")[:count]
            members = (chosen[:, None] * group.size + subsets[chosen]).ravel()
            order.append(members[self.kept[members]])
            removed = np.zeros(self.kept.size, bool)
            removed[members] = True
            kept = self.kept & ~removed
            if update == "diagonal":
                shift = -self._shift(restricted, removed, inverse)
                restricted = self.fisher._restricted(kept)
            else:
                restricted = self.fisher._restricted(kept)
                shift = flat(restricted.compensate(self._parts(_where(removed, self.now))))
            self.now, self.kept = _where(kept, self.now + widened(shift)), kept
            gone = self._gone() & units
        return self._result(np.concatenate(order) if order else np.zeros(0, np.int64))

    def _gone(self) -> np.ndarray:
        return (~self.kept).reshape(-1, self.group.size).sum(axis=1) >= self.group.removed

    def _costs(self, restricted: Any) -> tuple[np.ndarray, np.ndarray, Any]:
        """Return what each unit costs, the members that would go, and what of F⁻¹ told it."""
        group, xp = self.group, self.xp
        if group.size == 1:
            inverse = flat(restricted.diagonal_inverse())
            kept = xp.asarray(self.kept, device=self.device)
            inverse = xp.where(kept, inverse, xp.ones_like(inverse))
            costs = engine(self.now, inverse).saliency(self.now, inverse)
            return np.array(_on_host(costs)), np.zeros((self.kept.size, 1), np.int64), inverse
        # Of removed weights, of which F⁻¹ tells nothing, the inverse is that of the unit matrix.
        inverse = self._inside(self.kept, widened(restricted.inverse_blocks(group.size)))
        weights = xp.reshape(self.now, (-1, group.size))
        found = []
        for subset in group.subsets:
            index = xp.asarray(subset, device=self.device)
            block = xp.take(xp.take(inverse, index, axis=1), index, axis=2)
            some = xp.reshape(xp.take(weights, index, axis=1), (-1,))
            found.append(np.asarray(_on_host(engine(some, block).saliency(some, block))))
        costs = np.stack(found)
        best = np.argmin(costs, axis=0)
        return costs[best, np.arange(best.size)], group.subsets[best], inverse

    def _shift(self, restricted: Any, removed: np.ndarray, inverse: Any) -> Any:
        """Return F⁻¹ x, where x is w / diag of what is removed, or w through the groups' blocks."""
        xp, size = self.xp, self.group.size
        w = _where(removed, self.now)
        if size == 1:
            x = w / inverse
        else:
            block = self._inside(removed, inverse)
            x = xp.reshape(xp.linalg.solve(block, xp.reshape(w, (-1, size, 1))), (-1,))
        return flat(restricted.solve(self._parts(x)))

    def _inside(self, places: np.ndarray, blocks: Any) -> Any:
        """Return groups' blocks between some weights, and the unit matrix's elsewhere."""
        xp, size = self.xp, self.group.size
        inside = xp.reshape(xp.asarray(places, device=self.device), (-1, size))
        eye = xp.eye(size, dtype=blocks.dtype, device=self.device)
        return xp.where(inside[:, :, None] & inside[:, None, :], blocks, eye)

    def _result(self, order: np.ndarray) -> PruneResult:
        xp = self.xp
        change = self.now - self.before
        image = flat(self.fisher._form.product(self._parts(change)))
        increase = float(change @ image) / 2
        if self.gradient is not None:
            increase += float(self.gradient @ change)
        weights = xp.astype(self.now, self.dtype)
        return PruneResult(
            self._join(self._parts(weights)),
            self._join(self._parts(xp.asarray(self.kept, device=self.device))),
            increase,
            xp.asarray(order, device=self.device),
        )

    def _parts(self, x: Any) -> list[Any]:
        return cut(x, ends=tuple(np.cumsum((0, *self.layout.sizes)).tolist()))


def _one_vector(name: str, parts: Any, join: Any) -> tuple[Any, Any]:
    """Return what `Layout.split` found; ValueError where it is many vectors side by side."""
    if any(part.ndim != 1 for part in parts):
        raise ValueError(f"{name} must be one vector; got shape {tuple(parts[0].shape)}.")
    return parts, join


@compiled()
def _where(places: np.ndarray, x: Any) -> Any:
    xp = array_namespace(x)
    return xp.where(xp.asarray(places, device=device(x)), x, xp.zeros_like(x))
