"""F⁻¹ of fewer parameters than gradients: a matrix of size d × d, by QR of the gradients.

    F = λ I + Gᵀ G / m = Rᵀ R,   [G / √m; √λ I] = Q R,   F⁻¹ = T Tᵀ,   T = R⁻¹

R comes from the gradients and not from their products, so that F⁻¹ has twice the digits that
products in float64 leave it, and nothing is subtracted.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from .._engine import Engines
from .._operator import _on_host
from .._xp import compiled
from ._array_api import _ENTRIES, damped_rows, widened
from ._lost import check_triangle
from ._rows import Rows, check_rows, cut, flat, result_dtype

engine = Engines(__package__)


class FewParameters:
    """F by its factor R, with the methods of `ManyParameters`.

    Of parameters that are not kept nothing is known: they have an F of their own, which is 1.
    """

    def __init__(self, triangle: Any, ends: tuple[int, ...], whole: Any = None) -> None:
        self.triangle, self._ends = triangle, ends
        self._whole = triangle if whole is None else whole
        self._root, self._q = engine(triangle).inverse_triangle(triangle), None

    @classmethod
    def of(
        cls, rows: Rows, damping: float, *, divisor: int, is_window: bool = False
    ) -> "FewParameters":
        """Factorise F of some rows, whose sum is divided by `divisor`; keep Q for a window."""
        check_rows(rows.squared_lengths(), rows.parts)
        ends = tuple(rows.ends)
        if is_window:
            stacked = _stacked((), rows, damping, divisor)
            q, triangle = engine(stacked).qr(stacked)
            found = cls(triangle, ends)
            found._q = divisor**0.5 * q
        else:
            found = cls(_triangle(rows, damping, divisor), ends)
        check_triangle(found.triangle, found._root, damping)
        return found

    def restricted(self, kept: np.ndarray) -> "FewParameters":
        """Return F of the parameters that are kept."""
        if kept.all():
            return self
        xp, place = array_namespace(self.triangle), device(self.triangle)
        eye = xp.asarray(np.eye(kept.size)[~kept], dtype=self.triangle.dtype, device=place)
        left = xp.where(xp.asarray(kept, device=place), self.triangle, xp.zeros_like(self.triangle))
        stacked = xp.concat([left, eye], axis=0)
        return FewParameters(engine(stacked).triangle(stacked), self._ends, self._whole)

    def product(self, parts: Sequence[Any]) -> list[Any]:
        return self._applied(parts, None, self._whole)

    def solve(self, parts: Sequence[Any]) -> list[Any]:
        return self._applied(parts, self._root, None)

    def solve_row(self, row: int, dtype: Any) -> list[Any]:
        """Return F⁻¹ g = √m T q for a row g = √m Rᵀ q of the window.

        ``T Tᵀ g`` would blow up what rounding takes out of the span of the gradients.
        """
        return _of_row(self._root, self._q, row, ends=self._ends, dtype=dtype)

    def compensate(self, parts: Sequence[Any]) -> list[Any]:
        """Return F_SS⁻¹ F_SQ w_Q for w that is 0 where not just removed."""
        return self._applied(parts, self._root, self._whole)

    def whiten(self, parts: Sequence[Any], power: float) -> list[Any]:
        return _whitened(parts, self._root, power, ends=self._ends, dtype=result_dtype(parts[0]))

    def diagonal(self) -> list[Any]:
        return _squares(self._whole, ends=self._ends, axis=0)

    def diagonal_inverse(self) -> list[Any]:
        return _squares(self._root, ends=self._ends, axis=1)

    def inverse_element(self, p: int, q: int) -> float:
        return float(self._root[p, :] @ self._root[q, :])

    def inverse_columns(self, places: np.ndarray) -> list[Any]:
        xp = array_namespace(self._root)
        some = xp.take(self._root, xp.asarray(places, device=device(self._root)), axis=0)
        return cut(self._root @ some.T, self._ends)

    def inverse_blocks(self, size: int) -> Any:
        xp = array_namespace(self._root)
        rows = xp.reshape(self._root, (-1, size, self._root.shape[0]))
        return rows @ xp.permute_dims(rows, (0, 2, 1))

    def logdet(self) -> float:
        diagonal = _on_host(array_namespace(self.triangle).linalg.diagonal(self.triangle))
        return 2 * float(np.sum(np.log(np.abs(diagonal))))

    def trace(self) -> float:
        return float(_on_host(_sum_of_squares(self._whole)))

    def norm(self) -> float:
        return float(_on_host(_sum_of_squares(self._whole.T @ self._whole))) ** 0.5

    def _applied(self, parts: Sequence[Any], root: Any, whole: Any) -> list[Any]:
        return _applied(parts, root, whole, ends=self._ends, dtype=result_dtype(parts[0]))


def _triangle(rows: Rows, damping: float, divisor: int) -> Any:
    """Return R of [G / √m; √λ I], by pieces of rows beneath the R of those before."""
    d = rows.ends[-1]
    step = max(4 * d, _ENTRIES // d)
    above: tuple[Any, ...] = ()
    for start in range(0, rows.m, step):
        some = slice(start, min(rows.m, start + step))
        piece = Rows(tuple(part[some, :] for part in rows.parts), rows.scales[some])
        last = damping if some.stop == rows.m else None  # small rows come last: QR is stabler so
        stacked = _stacked(above, piece, last, divisor)
        above = (engine(stacked).triangle(stacked),)
    return above[0]


@compiled()
def _stacked(above: tuple[Any, ...], rows: Rows, damping: float | None, divisor: int) -> Any:
    xp = array_namespace(rows.scales)
    wide = [widened(part) for part in rows.parts]
    together = wide[0] if len(wide) == 1 else xp.concat(wide, axis=1)
    pieces = [*above, (rows.scales[:, None] / divisor**0.5) * together]
    return xp.concat(pieces, axis=0) if damping is None else damped_rows(pieces, damping)


@compiled("ends", "dtype")
def _applied(
    parts: Sequence[Any], root: Any, whole: Any, *, ends: tuple[int, ...], dtype: Any
) -> list[Any]:
    """Multiply by T Tᵀ, by Rᵀ R, or by one after the other."""
    x = flat(parts)
    if whole is not None:
        x = whole.T @ (whole @ x)
    if root is not None:
        x = root @ (root.T @ x)
    return cut(x, ends, dtype)


@compiled("ends", "dtype")
def _of_row(root: Any, q: Any, row: int, *, ends: tuple[int, ...], dtype: Any) -> list[Any]:
    return cut(root @ q[row, :], ends, dtype)


@compiled("ends", "dtype")
def _whitened(
    parts: Sequence[Any], root: Any, power: float, *, ends: tuple[int, ...], dtype: Any
) -> list[Any]:
    vectors, values, _ = array_namespace(root).linalg.svd(root)
    x = vectors.T @ flat(parts)
    factors = values ** (-2 * power)
    x = vectors @ (factors[:, None] * x if x.ndim == 2 else factors * x)
    return cut(x, ends, dtype)


@compiled("ends", "axis")
def _squares(matrix: Any, *, ends: tuple[int, ...], axis: int) -> list[Any]:
    return cut(array_namespace(matrix).sum(matrix**2, axis=axis), ends)


@compiled()
def _sum_of_squares(matrix: Any) -> Any:
    return array_namespace(matrix).sum(matrix**2)
