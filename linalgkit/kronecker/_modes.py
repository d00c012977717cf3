"""Factors as the modes of a grid: their checks, and the order in which they are applied.

Row-major: a vector of n_1 ⋯ n_d entries is an array of shape (n_1, …, n_d). Mode k of it is seen
as (left, n_k, right), with left = n_1 ⋯ n_{k-1} and right = n_{k+1} ⋯ n_d, which moves nothing.
"""

import sys
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from array_api_compat import is_array_api_obj as is_array

from .. import _checks
from .._xp import adjoint, moveaxis


def is_operator(factor: Any) -> bool:
    """Tell what multiplies or solves from an array; SuperLU only solves."""
    return (
        type(factor) is not np.ndarray
        and hasattr(factor, "shape")
        and (multiplies(factor) or (hasattr(factor, "solve") and not is_array(factor)))
    )


def checked(factors: Sequence[Any], **others: Any) -> tuple[Any, ...]:
    """Return the factors as a tuple of matrices, then the other arrays, all of one dtype."""
    factors = sequence(factors)
    if _is_plain((*others.values(), *factors)):
        matrices(factors)
        return (factors, *others.values())
    _checks.present(**others)
    named = {f"factors[{k}]": factor for k, factor in enumerate(factors)}
    converted = tuple(map(native, _checks.floating(**others, **named)))
    count = len(others)
    matrices(converted[count:])
    return (converted[count:], *converted[:count])


def entries(factors: Sequence[Any], name: str = "factors") -> tuple[Any, ...]:
    """Return the factors with the matrices of operators among them, for who needs their entries."""
    factors = sequence(factors, name)
    return tuple([_entries(f"{name}[{k}]", a) if is_operator(a) else a
                  for k, a in enumerate(factors)])  # fmt: skip


def _entries(name: str, factor: Any) -> Any:
    if not multiplies(factor):
        raise TypeError(
            f"{name} is a {type(factor).__name__}, which solves but does not multiply; its "
            "entries are needed here."
        )
    if hasattr(factor, "to_dense"):
        return factor.to_dense()
    xp = sys.modules["cupy"] if type(factor).__module__.startswith("cupyx.") else np
    return image(factor, xp.eye(factor.shape[1], dtype=factor.dtype))


def multiplies(operator: Any) -> bool:
    """Tell an operator with products from one that only solves."""
    return hasattr(operator, "matmat") or hasattr(operator, "matvec")


def image(factor: Any, columns: Any) -> Any:
    """Multiply the columns of a matrix by a factor, an array or an operator."""
    return factor.matmat(columns) if hasattr(factor, "matmat") else factor @ columns


def preimage(factor: Any, columns: Any) -> Any:
    """Multiply the columns of a matrix by the conjugate transpose of a factor."""
    if not is_operator(factor):
        return adjoint(factor) @ columns
    return factor.rmatmat(columns) if hasattr(factor, "rmatmat") else factor.H @ columns


def is_fit(factors: Sequence[Any], x: Any) -> bool:
    """Tell whether a call is one of the most, with nothing to convert, to broadcast or to refuse.

    Those are matrices and vectors of NumPy, of one floating dtype and of shapes that fit.
    """
    if not _is_plain((x, *factors)):
        return False
    return _are_fit(tuple([factor.shape for factor in factors]), x.shape)


@lru_cache(1024)
def _are_fit(shapes: tuple[tuple[int, ...], ...], shape: tuple[int, ...]) -> bool:
    if not shape or any(len(one) != 2 for one in shapes):
        return False
    return shape[-1] == prod(columns for _, columns in shapes)


def _is_plain(arrays: Sequence[Any]) -> bool:
    """Tell whether there is nothing to convert: NumPy's arrays of one floating dtype."""
    dtype: Any = getattr(arrays[0], "dtype", None)
    for array in arrays:
        if type(array) is not np.ndarray or array.dtype != dtype:
            return False
    return dtype.char in "fdFD" and dtype.isnative


def native(array: Any) -> Any:
    """Return NumPy's array in the machine's order of bytes, which LAPACK reads; others as is."""
    if type(array) is np.ndarray and not array.dtype.isnative:
        return array.astype(array.dtype.newbyteorder("="))
    return array


def with_operators(factors: Sequence[Any], **others: Any) -> tuple[Any, ...]:
    """Return the factors, operators among them as they are, then the other arrays, of one dtype."""
    _checks.present(**others)
    named = {f"factors[{k}]": a for k, a in enumerate(factors) if not is_operator(a)}
    converted = tuple(map(native, _checks.floating(**others, **named)))
    arrays = iter(converted[len(others) :])
    factors = tuple([a if is_operator(a) else next(arrays) for a in factors])
    matrices(factors)
    if any(len(factor.shape) > 2 for factor in factors):
        raise ValueError(
            "with operators among the factors each is one matrix, without batch axes; got shapes "
            f"{[tuple(factor.shape) for factor in factors]}."
        )
    return (factors, *converted[: len(others)])


def mode_by_mode(
    x: Any, sizes: Sequence[int], plan: Sequence[tuple[int, int, int]], apply: Any
) -> Any:
    """Replace the fibres of each mode, as columns of a matrix Z, by those of ``apply(k, Z)``."""
    xp = array_namespace(x)
    for k, left, right in plan:
        fibres = moveaxis(xp.reshape(x, (*x.shape[:-1], left, sizes[k], right)), -2, 0)
        others = fibres.shape[1:]
        image = apply(k, xp.reshape(fibres, (sizes[k], prod(others))))
        image = moveaxis(xp.reshape(image, (image.shape[0], *others)), 0, -2)
        x = xp.reshape(image, (*x.shape[:-1], left * image.shape[-2] * right))
    return x


def sequence(factors: Any, name: str = "factors") -> tuple[Any, ...]:
    """Return the factors as a tuple; TypeError where they are no sequence of matrices."""
    if is_operator(factors) or not hasattr(factors, "__iter__"):
        raise TypeError(f"{name} must be a sequence of matrices; got one {type(factors).__name__}.")
    factors = tuple(factors)
    if not factors:
        raise ValueError(f"{name} must hold at least one matrix; got none.")
    return factors


def matrices(factors: Sequence[Any]) -> None:
    """Raise ValueError unless every factor is a matrix, with batch axes that fit together."""
    for k, factor in enumerate(factors):
        if factor is None:
            raise TypeError(f"factors[{k}] must be a matrix; got None.")
        if len(factor.shape) < 2:
            raise ValueError(
                f"factors[{k}] must be a matrix of shape (..., m, n); got shape "
                f"{tuple(factor.shape)}."
            )
    batch_shape(factors)


def batch_shape(factors: Sequence[Any], *others: tuple[int, ...]) -> tuple[int, ...]:
    """Return the batch axes of the factors (and of others) after broadcasting."""
    shapes = [tuple(factor.shape[:-2]) for factor in factors]
    if not any(shapes) and len(others) < 2:
        return others[0] if others else ()
    try:
        return np.broadcast_shapes(*shapes, *others)
    except ValueError:
        raise ValueError(
            f"the batch axes must fit together by broadcasting; the factors have {shapes}"
            + "".join(f", the vectors {other}" for other in others)
            + "."
        ) from None


def fit(factors: Sequence[Any], name: str, x: Any, what: str) -> tuple[int, ...]:
    """Return the batch axes of square factors and `x` on their grid; ValueError unless they fit."""
    square(factors, what)
    grid(name, x, columns_of(factors))
    return batch_shape(factors, tuple(x.shape[:-1]))


def square(factors: Sequence[Any], what: str) -> None:
    """Raise ValueError unless every factor is square."""
    for k, factor in enumerate(factors):
        if factor.shape[-1] != factor.shape[-2]:
            raise ValueError(
                f"{what} needs square factors; factors[{k}] has shape {tuple(factor.shape)}."
            )


def grid(name: str, x: Any, sizes: Sequence[int], axis: int = -1) -> None:
    """Raise ValueError unless `x` has one entry a grid point on its last axis (or `axis`)."""
    if x.ndim < -axis or x.shape[axis] != prod(sizes):
        where = "last" if axis == -1 else "second-to-last"
        raise ValueError(
            f"{name} must have {'·'.join(map(str, sizes))} = {prod(sizes)} entries on its {where} "
            f"axis, one a point of the grid; got shape {tuple(x.shape)}."
        )


def columns_of(factors: Sequence[Any]) -> tuple[int, ...]:
    """Return n_1, …, n_d."""
    return tuple([factor.shape[-1] for factor in factors])


def rows_of(factors: Sequence[Any]) -> tuple[int, ...]:
    """Return m_1, …, m_d."""
    return tuple([factor.shape[-2] for factor in factors])


def steps(rows: Sequence[int], columns: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (mode, left, right) of each mode product, in the order of fewest operations.

    Modes j and k applied one after the other cost m_j n_j n_k + m_j m_k n_k times what both orders
    share, against m_k n_k n_j + m_k m_j n_j: j goes first where 1/m_j - 1/n_j is larger. So modes
    that shrink the grid come first, and those that grow it last.
    """
    sizes, found = list(columns), []
    # (An empty mode counts as half a point: first where it empties the grid, last where it fills.)
    gains = [1 / (m or 0.5) - 1 / (n or 0.5) for m, n in zip(rows, columns, strict=True)]
    for k in sorted(range(len(sizes)), key=lambda k: (-gains[k], -k)):
        found.append((k, prod(sizes[:k]), prod(sizes[k + 1 :])))
        sizes[k] = rows[k]
    return found


def modes(sizes: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (mode, left, right) of every mode of a grid, in their order."""
    return [(k, prod(sizes[:k]), prod(sizes[k + 1 :])) for k in range(len(sizes))]


def sizes_of(factors: Sequence[Any]) -> list[str]:
    """Return the shapes of the factors as operators show them."""
    return ["×".join(map(str, factor.shape[-2:])) for factor in factors]


def for_columns(factors: Sequence[Any]) -> list[Any]:
    """Put a batch axis for the columns behind the batch axes that there are."""
    return [factor if factor.ndim == 2 else factor[..., None, :, :] for factor in factors]
