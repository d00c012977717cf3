"""F⁻¹ of many parameters: by Woodbury's identity, through a matrix of size m × m.

F⁻¹ x = (x - Gᵀ M⁻¹ G x) / λ,   M = m λ I + K = C Cᵀ,   W = C⁻¹
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from .._engine import Engines, use_engine, wished_engine
from .._operator import _on_host
from ._rows import Rows, check_rows, result_dtype

engine = Engines(__package__)

_TOLERANCE = 1e-7  # of what rounding of the Gram matrix may change in products with F⁻¹


class ManyParameters:
    """F by the Gram matrix K of its rows, in float64; results are lists with an array a leaf.

    Parameters
    ----------
    rows : Rows
        The gradients.
    damping : float
        The λ of F.
    ends : sequence of int
        Where leaves begin and the last one ends, among all parameters.
    gram : array, shape (m, m), optional
        The K of those parameters that are kept; results of the others mean nothing.
    """

    def __init__(self, rows: Rows, damping: float, ends: Sequence[int], gram: Any = None) -> None:
        self._rows, self._damping, self._ends = rows, damping, ends
        if gram is None:
            self._gram, self._root = _factorised(rows, damping)
        else:
            self._gram, self._root = gram, _root_of(gram, rows.m * damping)

    def restricted(self, kept: np.ndarray) -> "ManyParameters":
        """Return F of the parameters that are kept.

        Columns of G that are removed count as zeros, which changes the Gram matrix alone.
        """
        if kept.all():
            return self
        rows, xp = self._rows, array_namespace(self._gram)
        fewer = kept if 2 * kept.sum() < kept.size else ~kept
        places = np.flatnonzero(fewer)
        step = max(1, (1 << 22) // rows.m)
        gram = xp.zeros_like(self._gram)
        for start in range(0, places.size, step):
            piece = rows.columns(places[start : start + step], self._ends)
            gram = gram + piece @ piece.T
        gram = gram if fewer is kept else self._gram - gram
        return ManyParameters(rows, self._damping, self._ends, gram)

    def product(self, parts: Sequence[Any]) -> Any:
        return self._combined(self._rows.dots(parts) / self._rows.m, parts, self._damping)

    def solve(self, parts: Sequence[Any]) -> Any:
        """Return F⁻¹ x, for x that is 0 where parameters are removed."""
        coefficients = _solved(self._root, self._rows.dots(parts)) / -self._damping
        return self._combined(coefficients, parts, 1 / self._damping)

    def compensate(self, parts: Sequence[Any]) -> Any:
        """Return F_SS⁻¹ F_SQ w_Q = G_Sᵀ M_S⁻¹ G_Q w_Q for w that is 0 where not just removed."""
        coefficients = _solved(self._root, self._rows.dots(parts))
        return self._rows.combine(coefficients, None, factor=0.0, dtype=result_dtype(parts[0]))

    def whiten(self, parts: Sequence[Any], power: float) -> Any:
        xp, m, damping = array_namespace(self._gram), self._rows.m, self._damping
        values, vectors = xp.linalg.eigh(self._gram)
        values = xp.where(values > 0, values, xp.zeros_like(values))
        # ((λ + σ/m)^p - λ^p) / σ, whose limit for σ → 0 is p λ^(p-1) / m.
        ratio = values / (m * damping)
        safe = xp.where(ratio > 1e-12, ratio, xp.ones_like(ratio))
        slope = xp.where(ratio > 1e-12, xp.expm1(power * xp.log1p(safe)) / safe, power * safe)
        factors = damping ** (power - 1) / m * slope
        filtered = (vectors * factors[None, :]) @ vectors.T
        return self._combined(filtered @ self._rows.dots(parts), parts, damping**power)

    def diagonal(self) -> list[Any]:
        xp, m = array_namespace(self._gram), self._rows.m
        eye = (1 / m) ** 0.5 * xp.eye(m, dtype=self._gram.dtype, device=device(self._gram))
        return [self._damping + part for part in self._rows.column_norms(eye)]

    def diagonal_inverse(self) -> list[Any]:
        return [(1 - part) / self._damping for part in self._rows.column_norms(self._root)]

    def inverse_element(self, p: int, q: int) -> float:
        z = self._root @ self._rows.columns(np.array((p, q)), self._ends)
        return (float(p == q) - float(z[:, 0] @ z[:, 1])) / self._damping

    def inverse_columns(self, places: np.ndarray) -> list[Any]:
        coefficients = _solved(self._root, self._rows.columns(places, self._ends)) / -self._damping
        parts = self._rows.combine(coefficients, None, factor=0.0, dtype=coefficients.dtype)
        results = []
        for part, begin in zip(parts, self._ends, strict=False):
            xp = array_namespace(part)
            rows = xp.arange(begin, begin + part.shape[0], device=device(part))
            unit = rows[:, None] == xp.asarray(places, device=device(part))[None, :]
            results.append(part + xp.astype(unit, part.dtype) / self._damping)
        return results

    def inverse_blocks(self, size: int) -> Any:
        grams = self._rows.column_grams(self._root, size)
        xp = array_namespace(grams)
        eye = xp.eye(size, dtype=grams.dtype, device=device(grams))
        return (eye - grams) / self._damping

    def logdet(self) -> float:
        xp, m = array_namespace(self._root), self._rows.m
        logarithms = xp.log(xp.linalg.diagonal(self._root))
        return (
            (self._ends[-1] - m) * float(np.log(self._damping))
            - m * float(np.log(m))
            - 2 * float(xp.sum(logarithms))
        )

    def _combined(self, coefficients: Any, parts: Any, factor: float) -> Any:
        dtype = result_dtype(parts[0])
        return self._rows.combine(coefficients, parts, factor=factor, dtype=dtype)


def _factorised(rows: Rows, damping: float) -> tuple[Any, Any]:
    """Return K and W.

    An error of K moves F⁻¹ of a gradient by that over m λ, relatively: it may be so large.
    """
    shift = rows.m * damping
    if rows.is_read_once:  # the lengths are on the diagonal
        gram = rows.gram(tolerance=0.0)
        check_rows(array_namespace(gram).linalg.diagonal(gram), rows.parts)
        return gram, _root_of(gram, shift)
    lengths = rows.squared_lengths()
    check_rows(lengths, rows.parts)
    largest = float(np.max(_on_host(lengths)))
    gram = rows.gram(tolerance=_TOLERANCE * shift / (largest * rows.m**0.5) if largest else 0.0)
    return gram, _root_of(gram, shift)


def _root_of(gram: Any, shift: float) -> Any:
    """Return W = C⁻¹ for K + shift I = C Cᵀ."""
    return damped(gram, shift, "inverse_cholesky")


def damped(gram: Any, shift: float, factorisation: str) -> Any:
    """Return a factor of M = K + shift I; LinAlgError where the shift is lost."""
    xp = array_namespace(gram)
    eye = xp.eye(gram.shape[0], dtype=gram.dtype, device=device(gram))
    served = _serving(gram)
    factorise = served.cholesky if factorisation == "cholesky" else served.inverse_cholesky
    try:
        factor = factorise(gram + shift * eye)
    except Exception as error:
        if type(error).__name__ not in ("LinAlgError", "_LinAlgError"):  # torch has its own
            raise
        factor = None
    if factor is None or not bool(xp.all(xp.isfinite(factor))):
        largest = float(xp.max(xp.linalg.diagonal(gram)))
        raise np.linalg.LinAlgError(
            f"the damping times the number of gradients, {shift:.3g}, is lost beside the squared "
            f"length of a gradient, {largest:.3g}. Take a damping of at least "
            f"{1e-13 * largest:.1g}."
        )
    return factor


def _solved(root: Any, dots: Any) -> Any:
    """Return M⁻¹ times what G gave."""
    return _serving(root).solve_by_root(root, dots)


def _serving(matrix: Any) -> Any:
    """Return the engine of matrices of size m, which are not Dask's."""
    with use_engine(None) if wished_engine() == "dask" else nullcontext():
        return engine(matrix)
