"""The Fisher matrix of the last m gradients, one of which is replaced at each step.

Source: the dynamic algorithm of "M-FAC" (arXiv:2107.03356). The Gram matrix of the window is kept
in float64; a new gradient changes one row of it, for one read of the window.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
from array_api_compat import (
    array_namespace,
    device,
    is_array_api_obj,
    is_cupy_array,
    is_jax_array,
    is_numpy_array,
)

from .. import _checks
from .._engine import Engines
from .._xp import compiled
from ._array_api import is_few, wide_dtype, widened
from ._few import FewParameters
from ._many import checked, damped
from ._rows import (
    Layout,
    Rows,
    check_rows,
    damping_of,
    first_leaf,
    in_memory,
    result_dtype,
    row_maxima,
    row_scales,
    to_bfloat16,
)

engine = Engines(__package__)

_STORAGE = ("float64", "float32", "float16", "bfloat16")


class SlidingWindowFisher:
    """The damped empirical Fisher matrix of the last m gradients.

    Parameters
    ----------
    m : int
        Gradients of the window.
    d : int or sequence of tuples of int
        The number of parameters, or the shapes of leaves.
    damping : float
        The λ > 0 that is added to the diagonal.
    storage : {"float32", "float64", "float16", "bfloat16"}
        What the window is kept in. Rows in float16 are scaled by powers of two, so that small
        gradients do not vanish.
    warmup : {"paper", "count"}
        While fewer than m gradients have come, their sum is divided by m, as the published
        optimiser does, or by their number.
    like : array, optional
        An array whose library and device the window gets; NumPy by default.

    Attributes
    ----------
    m, damping, storage, warmup
        As given.
    shape : (int, int)
        (d, d).

    Raises
    ------
    ValueError
        A size is not positive, or a name is not known.
    numpy.linalg.LinAlgError
        The damping is 0.

    See Also
    --------
    empirical_fisher : For gradients that stay.
    mfac_minimize : Steps preconditioned by it.

    Notes
    -----
    ``F = λ I + Gᵀ G / m``. `push` reads the window once; `solve` reads it twice. For the gradient
    that has just come, ``F⁻¹ g_j = m Gᵀ M⁻¹ e_j`` needs no subtraction and one more read:
    `push_solve`. The published recurrences compute it as ``g / λ`` less a sum that takes all digits
    away; in float32 they are wrong by more than the result for small dampings. The Cholesky factor
    of M is made anew after each push, for m³ / 3 operations, so that nothing drifts. With
    2 d ≤ m it is F itself that is factorised, for 2 m d² operations.

    Relative errors, for damping of 1e-8 squared gradient lengths and more: 1e-7 of float32 results,
    in half precision too, where F is the matrix of the rounded gradients and `push_solve` solves
    for the rounded one; 1e-15 in float64, but 1e-9 with m / 2 < d ≤ m, where the Gram matrix has
    fewer digits than F. JAX that was not told to know more than float32 sums in it, and has F
    factorised for all d ≤ m: 1e-6, or 5e-6 with d near m (`asv_bench/exact_mfac.py`).

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit.mfac import SlidingWindowFisher
    >>> fisher = SlidingWindowFisher(2, 3, damping=0.5, storage="float64")
    >>> fisher.push_solve(np.array([1.0, 0.0, 0.0]))  # F = I / 2 + g gᵀ / 2
    array([1., 0., 0.])
    >>> fisher.push(np.array([0.0, 3.0, 0.0]))
    >>> fisher.solve(np.array([1.0, 10.0, 1.0]))
    array([1., 2., 2.])
    """

    __module__ = "linalgkit.mfac"

    def __init__(
        self,
        m: int,
        d: int | Sequence[tuple[int, ...]],
        *,
        damping: float = 1e-5,
        storage: str = "float32",
        warmup: str = "paper",
        like: Any = None,
    ) -> None:
        self.m = _checks.size("m", m, 1)
        shapes = _shapes_of(d) if isinstance(d, list | tuple) else None
        if shapes is None:
            self.layout = Layout(((_checks.size("d", d, 1),),), True)
        else:
            self.layout = Layout(shapes, False)
            if not shapes or 0 in self.layout.sizes:
                raise ValueError(f"d must be the shapes of leaves that are not empty; got {d!r}.")
        _checks.choice("storage", storage, _STORAGE)
        _checks.choice("warmup", warmup, ("paper", "count"))
        self.damping, self.storage, self.warmup = damping_of(damping), storage, warmup
        self.shape = (self.layout.size,) * 2
        self._counts = np.zeros(2, np.int64)  # gradients that have come, the row of the next one
        like = np.empty(0) if like is None else like
        if not is_array_api_obj(like):
            raise TypeError(f"like must be an array; got {like!r} ({type(like).__name__}).")
        in_memory("like", like)
        xp, place = array_namespace(like), device(like)
        bits = storage == "bfloat16" and (is_numpy_array(like) or is_cupy_array(like))
        name = "uint16" if bits else storage
        if not hasattr(xp, name):
            raise TypeError(f"arrays of {xp.__name__} have no {storage}.")
        parts = tuple(
            xp.zeros((self.m, size), dtype=getattr(xp, name), device=place)
            for size in self.layout.sizes
        )
        wide = wide_dtype(like)
        self._rows = Rows(parts, xp.ones(self.m, dtype=wide, device=place))
        self._is_few = is_few(self.m, self.layout.size, like)
        size = 0 if self._is_few else self.m  # few parameters need no Gram matrix
        self._gram = xp.zeros((size, size), dtype=wide, device=place)
        self._factor: Any = None

    def __repr__(self) -> str:
        d = self.shape[0]
        return (
            f"<SlidingWindowFisher {d}×{d} ({self.count} of {self.m} gradients, stored in "
            f"{self.storage}, damping {self.damping:.3g})>"
        )

    def push(self, g: Any, /) -> None:
        """Put a gradient in, and the oldest one out.

        Parameters
        ----------
        g : array, shape (d,), or list of arrays
            The gradient.

        Raises
        ------
        ValueError
            It is not finite, or its squared length overflows. The window is as before then.
        """
        self._push(g)

    def solve(self, x: Any, /) -> Any:
        """Return F⁻¹ x, for x of shape (d,), (d, k) or a list of leaves."""
        parts, join = self._split("x", x)
        if self._is_few:
            return join(self._few().solve(parts))
        coefficients = self._solved(self._rows.dots(parts)) / -self.damping
        dtype = result_dtype(parts[0])
        return join(self._rows.combine(coefficients, parts, factor=1 / self.damping, dtype=dtype))

    def push_solve(self, g: Any, /) -> Any:
        """Put a gradient in, and return F⁻¹ g with it in the window: the published step.

        Parameters
        ----------
        g : array, shape (d,), or list of arrays
            The gradient.

        Raises
        ------
        ValueError
            It is not finite, or its squared length overflows. The window is as before then.
        numpy.linalg.LinAlgError
            The damping is lost beside the gradients. This one is in the window then.
        """
        solve_unit, next_count = None, min(self.m, self.count + 1)
        shift = self._divisor(next_count) * self.damping
        if is_cupy_array(self._gram) and not self._is_few:
            begin = getattr(engine(self._gram), "unit_solver", None)  # the reference has none
            solve_unit = begin and begin(self._gram, int(self._counts[1]), shift)
        row, parts, join = self._push(g)
        if self._is_few:
            return join(self._few().solve_row(row, result_dtype(parts[0])))
        if solve_unit:
            solved = solve_unit(self._gram)
        else:
            xp, place = array_namespace(self._gram), device(self._gram)
            unit = np.zeros(self.m)
            unit[row] = 1
            solved = self._solved(xp.asarray(unit, dtype=self._gram.dtype, device=place))
        coefficients = self._divisor(self.count) * solved
        combined = self._rows.combine(coefficients, None, factor=0.0, dtype=result_dtype(parts[0]))
        if solve_unit:  # last, because it waits for the device
            checked(solved, self._gram, shift)
        return join(combined)

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on from here, in the window's own arrays.

        What is pushed later is written into them, but for JAX's: ``copy.deepcopy`` keeps a state in
        memory.
        """
        return {
            "gradients": self._rows.parts,
            "scales": self._rows.scales,
            "gram": self._gram,
            "count": self._counts[0, ...],
            "next": self._counts[1, ...],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned; its arrays are copied.

        Parameters
        ----------
        state : dict
            From a window of the same sizes and storage.

        Raises
        ------
        ValueError
            Something is missing, of other sizes or storage than here, or not finite. The window is
            as before then.
        TypeError
            Something is of another kind, or of another library than here.
        """
        own = self.state()
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a dict; got {type(state).__name__}.")
        if missing := own.keys() - state.keys():
            raise ValueError(f"the state has no {', '.join(map(repr, sorted(missing)))}.")
        parts = state["gradients"]
        if not isinstance(parts, list | tuple):
            raise TypeError(
                f"the state's gradients must be a list of arrays; got {type(parts).__name__}."
            )
        if len(parts) != len(own["gradients"]):
            raise ValueError(
                f"the state has gradients of {len(parts)} leaves; this window has "
                f"{len(own['gradients'])}."
            )
        names = ("gradients",) * len(parts) + ("scales", "gram")
        given = (*parts, state["scales"], state["gram"])
        wanted = (*own["gradients"], own["scales"], own["gram"])
        for name, array, like in zip(names, given, wanted, strict=True):
            _check_like(name, array, like)
        count = _checks.size("the state's count", state["count"])
        place = _checks.size("the state's next", state["next"])
        if count > self.m or place >= self.m or (count < self.m and place != count):
            raise ValueError(
                f"the state's count and next do not belong to a window of {self.m} gradients; got "
                f"{count} and {place}."
            )
        xp = array_namespace(*given)
        *copies, scales, gram = (xp.asarray(array, copy=True) for array in given)
        rows = Rows(tuple(copies), scales)
        check_rows(rows.squared_lengths(), rows.parts)
        for name, array in (("scales", scales), ("gram", gram)):
            if not bool(xp.all(xp.isfinite(array))):
                raise ValueError(f"the state's {name} is not finite.")
        self._rows, self._gram, self._factor = rows, gram, None
        self._counts = np.array([count, place])

    @property
    def count(self) -> int:
        """Gradients that have come, at most m."""
        return int(self._counts[0])

    def _divisor(self, count: int) -> int:
        """Return what the sum over gradients is divided by when so many have come."""
        return self.m if self.warmup == "paper" else max(1, count)

    def _split(self, name: str, x: Any) -> tuple[tuple[Any, ...], Any]:
        """Return a vector's parts, of the window's library, and what puts parts together."""
        if isinstance(x, list | tuple) and not self.layout.is_flat:
            _checks.present(**{f"{name}[{k}]": leaf for k, leaf in enumerate(x)})
            if len(x) != len(self.layout.shapes):
                raise ValueError(
                    f"{name} must have {len(self.layout.shapes)} leaves; got {len(x)}."
                )
        parts, join = self.layout.split(name, x)
        _checks.arrays(window=self._rows.scales, **{name: parts[0]})
        return parts, join

    def _push(self, g: Any) -> tuple[int, tuple[Any, ...], Any]:
        _checks.concrete("push", "fisher_solve", g=first_leaf(g))
        parts, join = self._split("g", g)
        parts = tuple(detached(part) for part in parts)
        for part in parts:
            if part.ndim != 1:
                raise ValueError(f"g must be one gradient; got shape {tuple(part.shape)}.")
        maxima = [row_maxima(part) for part in parts]
        for k, (largest, part) in enumerate(zip(maxima, parts, strict=True)):
            if not isfinite(float(largest)):
                place, leaf = place_of_bad(part), f" of leaf {k}" if len(parts) > 1 else ""
                raise ValueError(f"g is not finite at {place}{leaf}; the window is as before.")
        with np.errstate(over="ignore"):  # it is looked for
            new = _one_row(parts, maxima, storage=self.storage)
            length = float(new.squared_lengths()[0])
        if not isfinite(length):
            raise ValueError(
                f"g is too large: its squared length overflows, or {self.storage} has no such "
                f"numbers; the window is as before."
            )
        row = int(self._counts[1])
        self._rows, self._gram = _with_row(self._rows, self._gram, row, new)
        self._factor = None
        if is_jax_array(self._gram):  # nothing is written in place there
            self._counts = self._counts.copy()
        self._counts[:] = min(self.m, self.count + 1), (row + 1) % self.m
        return row, parts, join

    def _few(self) -> FewParameters:
        """Return F of few parameters; it is kept until the next push."""
        if self._factor is None:
            self._factor = FewParameters.of(
                self._rows, self.damping, divisor=self._divisor(self.count), is_window=True
            )
        return self._factor

    def _solved(self, right: Any) -> Any:
        """Return M⁻¹ b; the factor is kept until the next push."""
        if self._factor is None:
            shift = self._divisor(self.count) * self.damping
            self._factor = damped(self._gram, shift, "cholesky")
        return engine(self._gram).cholesky_solve(self._factor, right)


def _check_like(name: str, array: Any, own: Any) -> None:
    """Raise unless an array of a state is of the window's library, shape and dtype."""
    if not is_array_api_obj(array):
        raise TypeError(f"the state's {name} must be an array; got {type(array).__name__}.")
    _checks.arrays(window=own, state=array)
    if array.shape != own.shape or array.dtype != own.dtype:
        raise ValueError(
            f"the state has {name} of shape {tuple(array.shape)} in {array.dtype}; this window has "
            f"{tuple(own.shape)} in {own.dtype}."
        )


def place_of_bad(array: Any) -> int:
    """Return the first place whose number is not finite."""
    xp = array_namespace(array)
    return int(xp.argmin(xp.astype(xp.isfinite(array), xp.int8)))


def detached(array: Any) -> Any:
    """Return a tensor of torch as data alone, without the graph that made it."""
    return array.detach() if hasattr(array, "detach") else array


def _shapes_of(d: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    if not all(isinstance(shape, list | tuple) for shape in d):
        raise TypeError(f"d must be a number, or the shapes of leaves as tuples; got {d!r}.")
    return tuple(tuple(_checks.size("d", side) for side in shape) for shape in d)


@compiled("storage")
def _one_row(parts: Sequence[Any], maxima: Sequence[Any], *, storage: str) -> Rows:
    """Return a gradient as the window keeps it."""
    xp, wide = array_namespace(parts[0]), wide_dtype(parts[0])
    if storage == "float16":
        scale = row_scales(maxima)
        parts = [part / array_namespace(part).astype(scale, part.dtype) for part in parts]
    else:
        scale = xp.ones((), dtype=wide, device=device(parts[0]))
    if storage == "bfloat16":
        kept = tuple(to_bfloat16(part)[None, :] for part in parts)
    else:
        dtype = getattr(xp, storage)
        kept = tuple(xp.astype(part, dtype, copy=False)[None, :] for part in parts)
    return Rows(kept, xp.reshape(scale, (1,)))


@compiled()
def _with_row(rows: Rows, gram: Any, row: int, new: Rows) -> tuple[Rows, Any]:
    """Return the window and its Gram matrix with another row, written in place where that goes."""
    pairs = zip(rows.parts, new.parts, strict=True)
    written = tuple(_set(own, (row, ...), part[0, ...]) for own, part in pairs)
    rows = Rows(written, _set(rows.scales, row, new.scales[0, ...]))
    if gram.shape[0]:
        dots = rows.dots([_readable(part[0, ...]) for part in new.parts]) * new.scales
        gram = _set(_set(gram, (row, ...), dots), (..., row), dots)
    return rows, gram


def _readable(row: Any) -> Any:
    """Return a stored row as a vector of at least float32."""
    if row.dtype == getattr(array_namespace(row), "uint16", None):
        return array_namespace(row).astype(widened(row), array_namespace(row).float32)
    return array_namespace(row).astype(row, result_dtype(row), copy=False)


def _set(array: Any, place: Any, values: Any) -> Any:
    """Write in place, or for JAX in a copy."""
    if is_jax_array(array):
        return array.at[place].set(values)
    array[place] = values
    return array
