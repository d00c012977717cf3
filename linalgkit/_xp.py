"""The few things that rooms need and the array-API standard lacks.

Each takes arrays of any library and returns arrays of that library, differentiable where the
library differentiates.
"""

import sys
from collections.abc import Callable, Iterable
from functools import cache, wraps
from typing import Any, TypeVar

import numpy as np
from array_api_compat import (
    array_namespace,
    device,
    is_cupy_array,
    is_jax_array,
    is_numpy_array,
    is_torch_array,
)

Function = TypeVar("Function", bound=Callable[..., Any])

_BLOCK = 16  # rows that are substituted one by one, in all blocks of a larger system at a time


def moveaxis(x: Any, source: int, destination: int) -> Any:
    """Move one axis by ``permute_dims`` (``torch.func.vmap`` has no rule for moveaxis)."""
    xp = array_namespace(x)
    order = list(range(x.ndim))
    order.insert(destination % x.ndim, order.pop(source % x.ndim))
    return xp.permute_dims(x, tuple(order))


def adjoint(x: Any) -> Any:
    """Return the conjugate transposes of the matrices in the last two axes."""
    xp = array_namespace(x)
    order = (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)
    x = xp.permute_dims(x, order)
    return xp.conj(x) if xp.isdtype(x.dtype, "complex floating") else x


def padded(x: Any, size: int, axis: int, *, ahead: bool = False) -> Any:
    """Bring an axis to `size` entries by zeros behind those of x, or ahead of them."""
    if x.shape[axis] == size:
        return x
    xp = array_namespace(x)
    shape = list(x.shape)
    shape[axis] = size - x.shape[axis]
    zeros = xp.zeros(tuple(shape), dtype=x.dtype, device=device(x))
    return xp.concat([zeros, x] if ahead else [x, zeros], axis=axis)


def segment_sum(values: Any, segments: Any, count: int) -> Any:
    """Sum `values` (n,) into `count` segments named by `segments` (n,), in order of position."""
    xp = array_namespace(values, segments)
    if is_jax_array(values):
        return xp.zeros(count, dtype=values.dtype).at[segments].add(values)
    zeros = xp.zeros(count, dtype=values.dtype, device=values.device)
    if is_torch_array(values):
        return zeros.index_add(0, segments, values)
    if is_numpy_array(values):
        np.add.at(zeros, segments, values)
        return zeros
    if is_cupy_array(values):
        return _cupy_segments(values, segments, zeros, "sum + value")
    for k in range(values.shape[0]):  # the strict standard has no scatter at all
        zeros[int(segments[k])] += values[k]
    return zeros


def _cupy_segments(values: Any, segments: Any, starts: Any, step: str) -> Any:
    """Reduce segments on a CUDA device, by one thread each.

    CuPy's ``ufunc.at`` adds by atomics, in any order, and knows neither int64 nor NaN.
    """
    import cupy as cp

    order = cp.argsort(segments, kind="stable")
    bounds = cp.arange(starts.size + 1, dtype=segments.dtype)
    ends = cp.searchsorted(segments[order], bounds)
    reduce = cp.ElementwiseKernel(
        "T start, int64 begin, int64 end, raw T values, raw int64 order",
        "T sum",
        f"sum = start; for (long long k = begin; k < end; ++k) "
        f"{{ const T value = values[order[k]]; sum = {step}; }}",
        "linalgkit_segments",
    )
    return reduce(starts, ends[:-1], ends[1:], values, order)


def segment_extreme(values: Any, segments: Any, count: int, *, how: str, start: Any) -> Any:
    """Reduce `values` (n,) to `count` segments by "min" or "max"; `start` where there are none.

    NaN propagates, as in ``minimum`` and ``maximum``.
    """
    xp = array_namespace(values, segments)
    if is_jax_array(values):
        at = xp.full(count, start, dtype=values.dtype).at[segments]
        return at.min(values) if how == "min" else at.max(values)
    result = xp.full(count, start, dtype=values.dtype, device=values.device)
    if is_torch_array(values):
        return result.scatter_reduce(0, segments, values, "a" + how)
    function = xp.minimum if how == "min" else xp.maximum
    if is_numpy_array(values):
        function.at(result, segments, values)
        return result
    if is_cupy_array(values):
        better = "sum < value" if how == "min" else "sum > value"
        return _cupy_segments(values, segments, result, f"{better} || sum != sum ? sum : value")
    for k in range(values.shape[0]):  # the strict standard has no scatter at all
        result[int(segments[k])] = function(result[int(segments[k])], values[k])
    return result


def solve_unit_lower(lower: Any, right: Any) -> Any:
    """Solve L X = B for unit lower triangular L (..., n, n) and B (..., n, k).

    What stands on and above the diagonal of `lower` is not read as part of L. Torch and JAX
    solve natively; elsewhere blocks on the diagonal are inverted, all at once, and others applied.
    """
    xp = array_namespace(lower, right)
    if is_torch_array(lower):
        return xp.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
    if is_jax_array(lower):
        from jax.scipy.linalg import solve_triangular

        return solve_triangular(lower, right, lower=True, unit_diagonal=True)
    n, solved = lower.shape[-1], xp.astype(right, xp.result_type(lower, right), copy=True)
    begin = 0
    if n > _BLOCK:
        blocks = [slice(k, k + _BLOCK) for k in range(0, n - _BLOCK + 1, _BLOCK)]
        triangles = xp.stack([lower[..., rows, rows] for rows in blocks])
        inverses = xp.zeros_like(triangles) + xp.eye(
            _BLOCK, dtype=triangles.dtype, device=device(triangles)
        )
        _substitute(triangles, inverses, 0)
        for number, rows in enumerate(blocks):
            solved[..., rows, :] -= lower[..., rows, :begin] @ solved[..., :begin, :]
            solved[..., rows, :] = inverses[number, ...] @ solved[..., rows, :]
            begin = rows.stop
    _substitute(lower, solved, begin)
    return solved


def _substitute(lower: Any, solved: Any, begin: int) -> None:
    """Solve for rows from `begin` on, one by one, in place."""
    for i in range(max(begin, 1), lower.shape[-1]):
        solved[..., i : i + 1, :] -= lower[..., i : i + 1, :i] @ solved[..., :i, :]


def scan(step: Callable[[Any, Any], tuple[Any, Any]], state: Any, items: Any) -> tuple[Any, Any]:
    """Carry `state` through ``state, out = step(state, item)`` over the leading axis of `items`.

    Returns the last state and the stacked outputs. On JAX it is ``lax.scan`` (compile time does
    not grow with the length), elsewhere a loop. Items and outputs are arrays or tuples of arrays;
    in a tuple of items None stands for itself. `items` has at least one entry.
    """
    first = items[0] if isinstance(items, tuple) else items
    if is_jax_array(first):
        from jax.lax import scan as native

        return native(step, state, items)
    xp = array_namespace(first)
    outputs = []
    for k in range(first.shape[0]):
        if isinstance(items, tuple):
            item = tuple(None if part is None else part[k, ...] for part in items)
        else:
            item = items[k, ...]
        state, output = step(state, item)
        outputs.append(output)
    if isinstance(outputs[0], tuple):
        return state, tuple(xp.stack(part) for part in zip(*outputs, strict=True))
    return state, xp.stack(outputs)


def compiled(*static: str) -> Callable[[Function], Function]:
    """Let JAX compile a pure function as a whole, once for each shape; others just call it.

    Operation by operation JAX compiles every one of them, for every shape: 0.1 s each. Arguments
    and results may be tuples and lists of arrays; numbers are no part of what is compiled, other
    than arguments named in `static`, which are hashable and no arrays. Transforms of JAX pass
    through.
    """

    def decorate(function: Function) -> Function:
        @cache
        def native() -> Callable[..., Any]:
            from jax import jit

            return jit(function, static_argnames=static)

        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            is_jax = "jax" in sys.modules and (_has_jax(arguments) or _has_jax(options.values()))
            return (native() if is_jax else function)(*arguments, **options)

        return call  # type: ignore[return-value]

    return decorate


def _has_jax(values: Iterable[Any]) -> bool:
    return any(
        _has_jax(value) if isinstance(value, tuple | list) else is_jax_array(value)
        for value in values
    )
