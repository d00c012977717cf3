"""F⁻¹ of many parameters: by Woodbury's identity, through a matrix of size m × m.

F⁻¹ x = (x - Gᵀ M⁻¹ G x) / λ,   M = m λ I + K = C Cᵀ,   W = C⁻¹
"""

from collections.abc import Sequence
from contextlib import nullcontext
from math import hypot
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

from .._engine import Engines, use_engine, wished_engine
from .._operator import _on_host
from .._xp import compiled
from ._lost import attempted, checked, shifted
from ._rows import Rows, check_rows, result_dtype

engine = Engines(__package__)

_TOLERANCE = 1e-7  # of what rounding of the Gram matrix may change in products with F⁻¹


class ManyParameters(NamedTuple):
    """F by the Gram matrix K of its rows, in float64; results are lists with an array a leaf.

    Parameters
    ----------
    rows : Rows
        The gradients.
    damping : float
        The λ of F.
    gram : array, shape (m, m)
        The K of those parameters that are kept; results of the others mean nothing.
    root : array, shape (m, m)
        The W of K.
    """

    rows: Rows
    damping: float
    gram: Any
    root: Any

    @classmethod
    def of(cls, rows: Rows, damping: float) -> "ManyParameters":
        """Factorise K of some rows.

        An error of K moves F⁻¹ of a gradient by that over m λ, relatively: it may be so large.
        """
        if rows.is_read_once:  # the lengths are on the diagonal
            gram = rows.gram(tolerance=0.0)
            check_rows(array_namespace(gram).linalg.diagonal(gram), rows.parts)
            return cls._of_gram(rows, damping, gram)
        lengths = rows.squared_lengths()
        check_rows(lengths, rows.parts)
        largest, shift = float(np.max(_on_host(lengths))), rows.m * damping
        tolerance = _TOLERANCE * shift / (largest * rows.m**0.5) if largest else 0.0
        return cls._of_gram(rows, damping, rows.gram(tolerance=tolerance))

    @classmethod
    def _of_gram(cls, rows: Rows, damping: float, gram: Any) -> "ManyParameters":
        return cls(rows, damping, gram, damped(gram, rows.m * damping, "inverse_cholesky"))

    def restricted(self, kept: np.ndarray) -> "ManyParameters":
        """Return F of the parameters that are kept.

        Columns of G that are removed count as zeros, which changes the Gram matrix alone.
        """
        if kept.all():
            return self
        rows, xp = self.rows, array_namespace(self.gram)
        fewer = kept if 2 * kept.sum() < kept.size else ~kept
        places = np.flatnonzero(fewer)
        step = max(1, (1 << 22) // rows.m)
        gram = xp.zeros_like(self.gram)
        for start in range(0, places.size, step):
            piece = rows.columns(places[start : start + step])
            gram = gram + piece @ piece.T
        gram = gram if fewer is kept else self.gram - gram
        return self._of_gram(rows, self.damping, gram)

    @compiled()
    def product(self, parts: Sequence[Any]) -> Any:
        return self._combined(self.rows.dots(parts) / self.rows.m, parts, self.damping)

    @compiled()
    def solve(self, parts: Sequence[Any]) -> Any:
        """Return F⁻¹ x, for x that is 0 where parameters are removed."""
        coefficients = _solved(self.root, self.rows.dots(parts)) / -self.damping
        return self._combined(coefficients, parts, 1 / self.damping)

    @compiled()
    def compensate(self, parts: Sequence[Any]) -> Any:
        """Return F_SS⁻¹ F_SQ w_Q = G_Sᵀ M_S⁻¹ G_Q w_Q for w that is 0 where not just removed."""
        coefficients = _solved(self.root, self.rows.dots(parts))
        return self.rows.combine(coefficients, None, factor=0.0, dtype=result_dtype(parts[0]))

    @compiled()
    def whiten(self, parts: Sequence[Any], power: float) -> Any:
        xp, m, damping = array_namespace(self.gram), self.rows.m, self.damping
        values, vectors = xp.linalg.eigh(self.gram)
        values = xp.where(values > 0, values, xp.zeros_like(values))
        # ((λ + σ/m)^p - λ^p) / σ, whose limit for σ → 0 is p λ^(p-1) / m.
        ratio = values / (m * damping)
        safe = xp.where(ratio > 1e-12, ratio, xp.ones_like(ratio))
        slope = xp.where(ratio > 1e-12, xp.expm1(power * xp.log1p(safe)) / safe, power * safe)
        factors = damping ** (power - 1) / m * slope
        filtered = (vectors * factors[None, :]) @ vectors.T
        return self._combined(filtered @ self.rows.dots(parts), parts, damping**power)

    @compiled()
    def diagonal(self) -> list[Any]:
        return [self.damping + part for part in self.rows.mean_squares()]

    @compiled()
    def diagonal_inverse(self) -> list[Any]:
        return [(1 - part) / self.damping for part in self.rows.column_norms(self.root)]

    def inverse_element(self, p: int, q: int) -> float:
        z = _on_host(self.root @ self.rows.columns(np.array((p, q))))
        return (float(p == q) - float(z[:, 0] @ z[:, 1])) / self.damping

    def inverse_columns(self, places: np.ndarray) -> list[Any]:
        return self._columns(self.rows.columns(places), places)

    @compiled()
    def _columns(self, columns: Any, places: Any) -> list[Any]:
        coefficients = _solved(self.root, columns) / -self.damping
        parts = self.rows.combine(coefficients, None, factor=0.0, dtype=coefficients.dtype)
        results = []
        for part, begin in zip(parts, self.rows.ends, strict=False):
            xp = array_namespace(part)
            numbers = xp.arange(begin, begin + part.shape[0], device=device(part))
            unit = numbers[:, None] == xp.asarray(places, device=device(part))[None, :]
            results.append(part + xp.astype(unit, part.dtype) / self.damping)
        return results

    @compiled("size")
    def inverse_blocks(self, size: int) -> Any:
        grams = self.rows.column_grams(self.root, size)
        xp = array_namespace(grams)
        eye = xp.eye(size, dtype=grams.dtype, device=device(grams))
        return (eye - grams) / self.damping

    def logdet(self) -> float:
        m, d = self.rows.m, self.rows.ends[-1]
        diagonal = _on_host(array_namespace(self.root).linalg.diagonal(self.root))
        return float((d - m) * np.log(self.damping) - m * np.log(m) - 2 * np.sum(np.log(diagonal)))

    def trace(self) -> float:
        mean = _on_host(_trace(self.gram)) / self.rows.m
        return self.damping * self.rows.ends[-1] + float(mean)

    def norm(self) -> float:
        """Return |F| by |F|² = λ² d + 2 λ tr K / m + |K|² / m²."""
        m, d, damping = self.rows.m, self.rows.ends[-1], self.damping
        mean = float(_on_host(_trace(self.gram))) / m
        size = float(_on_host(_norm(self.gram))) / m
        return hypot(damping * d**0.5, (2 * damping * mean) ** 0.5, size)

    def _combined(self, coefficients: Any, parts: Any, factor: float) -> Any:
        dtype = result_dtype(parts[0])
        return self.rows.combine(coefficients, parts, factor=factor, dtype=dtype)


def damped(gram: Any, shift: float, factorisation: str) -> Any:
    """Return C of M = K + shift I = C Cᵀ, or W = C⁻¹; LinAlgError where the shift is lost."""
    served = _serving(gram)
    factorise = served.cholesky if factorisation == "cholesky" else served.inverse_cholesky
    return checked(attempted(factorise, shifted(gram, shift)), gram, shift)


@compiled()
def _trace(matrix: Any) -> Any:
    xp = array_namespace(matrix)
    return xp.sum(xp.linalg.diagonal(matrix))


@compiled()
def _norm(matrix: Any) -> Any:
    return array_namespace(matrix).linalg.matrix_norm(matrix)


def _solved(root: Any, dots: Any) -> Any:
    """Return M⁻¹ times what G gave."""
    return _serving(root).solve_by_root(root, dots)


def _serving(matrix: Any) -> Any:
    """Return the engine of matrices of size m, which are not Dask's."""
    with use_engine(None) if wished_engine() == "dask" else nullcontext():
        return engine(matrix)
