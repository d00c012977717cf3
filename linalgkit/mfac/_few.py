"""F⁻¹ of fewer parameters than gradients: a matrix of size d × d, by QR of the gradients.

    F = λ I + Gᵀ G / m = Rᵀ R,   [G / √m; √λ I] = Q R,   F⁻¹ = T Tᵀ,   T = R⁻¹

R comes from the gradients and not from their products, so that F⁻¹ has twice the digits that
products in float64 leave it, and nothing is subtracted.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from .._engine import Engines
from ._array_api import damped_rows, widened
from ._rows import Rows, check_rows, result_dtype

engine = Engines(__package__)


class FewParameters:
    """F by its factor R, with the methods of `ManyParameters`.

    Of parameters that are not kept nothing is known: they have an F of their own, which is 1.
    """

    def __init__(self, triangle: Any, ends: Sequence[int], whole: Any = None) -> None:
        self.triangle, self._ends = triangle, ends
        self._whole = triangle if whole is None else whole
        self._root, self._q = engine(triangle).inverse_triangle(triangle), triangle[:0, :]

    @classmethod
    def of(
        cls,
        rows: Rows,
        damping: float,
        ends: Sequence[int],
        *,
        divisor: int,
        is_window: bool = False,
    ) -> "FewParameters":
        """Factorise F of some rows, whose sum is divided by `divisor`; keep Q for a window."""
        check_rows(rows.squared_lengths(), rows.parts)
        xp = array_namespace(rows.scales)
        together = xp.concat([widened(part) for part in rows.parts], axis=1)
        stacked = damped_rows(rows.scales[:, None] * together, damping, divisor)
        if is_window:
            q, triangle = engine(stacked).qr(stacked)
            found = cls(triangle, ends)
            found._q = divisor**0.5 * q
        else:
            found = cls(engine(stacked).triangle(stacked), ends)
        size, inverse = (xp.sum(x**2) ** 0.5 for x in (found.triangle, found._root))
        if not bool(size * inverse < float(xp.finfo(stacked.dtype).eps) ** -0.6):
            raise np.linalg.LinAlgError(
                f"the damping, {damping:.3g}, is lost beside the gradients, which have "
                f"{float(size) ** 2:.3g} for a mean squared length. Take a larger one."
            )
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
        x = self._flat(parts)
        return self._parts(self._whole.T @ (self._whole @ x), parts)

    def solve(self, parts: Sequence[Any]) -> list[Any]:
        return self._parts(self._solved(self._flat(parts)), parts)

    def solve_row(self, row: int, dtype: Any) -> list[Any]:
        """Return F⁻¹ g = √m T q for a row g = √m Rᵀ q of the window.

        ``T Tᵀ g`` would blow up what rounding takes out of the span of the gradients.
        """
        x = self._root @ self._q[row, :]
        return [array_namespace(x).astype(part, dtype) for part in self._split(x)]

    def compensate(self, parts: Sequence[Any]) -> list[Any]:
        """Return F_SS⁻¹ F_SQ w_Q for w that is 0 where not just removed."""
        x = self._flat(parts)
        return self._parts(self._solved(self._whole.T @ (self._whole @ x)), parts)

    def whiten(self, parts: Sequence[Any], power: float) -> list[Any]:
        xp = array_namespace(self._root)
        vectors, values, _ = xp.linalg.svd(self._root)
        x = vectors.T @ self._flat(parts)
        factors = values ** (-2 * power)
        return self._parts(vectors @ (factors[:, None] * x if x.ndim == 2 else factors * x), parts)

    def diagonal(self) -> list[Any]:
        return self._split(array_namespace(self.triangle).sum(self._whole**2, axis=0))

    def diagonal_inverse(self) -> list[Any]:
        return self._split(array_namespace(self._root).sum(self._root**2, axis=1))

    def inverse_element(self, p: int, q: int) -> float:
        return float(self._root[p, :] @ self._root[q, :])

    def inverse_columns(self, places: np.ndarray) -> list[Any]:
        xp = array_namespace(self._root)
        some = xp.take(self._root, xp.asarray(places, device=device(self._root)), axis=0)
        return self._split(self._root @ some.T)

    def inverse_blocks(self, size: int) -> Any:
        xp = array_namespace(self._root)
        rows = xp.reshape(self._root, (-1, size, self._root.shape[0]))
        return rows @ xp.permute_dims(rows, (0, 2, 1))

    def logdet(self) -> float:
        xp = array_namespace(self.triangle)
        return 2 * float(xp.sum(xp.log(xp.abs(xp.linalg.diagonal(self.triangle)))))

    def _solved(self, x: Any) -> Any:
        return self._root @ (self._root.T @ x)

    def _flat(self, parts: Sequence[Any]) -> Any:
        return array_namespace(*parts).concat([widened(part) for part in parts], axis=0)

    def _split(self, x: Any) -> list[Any]:
        return [x[a:b, ...] for a, b in pairwise(self._ends)]

    def _parts(self, x: Any, like: Sequence[Any]) -> list[Any]:
        xp, dtype = array_namespace(x), result_dtype(like[0])
        return [xp.astype(part, dtype) for part in self._split(x)]
