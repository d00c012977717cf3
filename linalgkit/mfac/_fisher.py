"""The damped empirical Fisher matrix of m gradients and its inverse, by Woodbury's identity.

    F = λ I + (1/m) Σ g_i g_iᵀ,   M = m λ I + G Gᵀ,   F⁻¹ x = (x - Gᵀ M⁻¹ G x) / λ

Source: "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information"
(arXiv:2107.03356), whose recursion over the gradients is the L D Lᵀ factorisation of M.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

from .. import _checks
from .._engine import Engines, use_engine, wished_engine
from .._operator import Operator, _on_host
from ._rows import (
    STORAGE,
    Layout,
    Rows,
    check_rows,
    damping_of,
    in_memory,
    read_gradients,
    reshaped,
    result_dtype,
    stored,
)

engine = Engines(__package__)

_TOLERANCE = 1e-7  # of what rounding of the Gram matrix may change in products with F⁻¹


class FisherSolveGradients(NamedTuple):
    """Gradients of `fisher_solve`; None where not wanted.

    Parameters
    ----------
    x : array, shape of x, or None
        With respect to the vectors.
    gradients : array, shape (m, d), or None
        With respect to the gradients.
    """

    x: Any
    gradients: Any


@engine.eager
def empirical_fisher(
    gradients: Any, *, damping: float = 1e-5, storage: str | None = None
) -> "EmpiricalFisher":
    """Return the damped empirical Fisher matrix of some gradients, ready to be inverted.

    Parameters
    ----------
    gradients : array, shape (m, d), or list of arrays, shape (m, ...)
        One gradient a row. A list has one array for each of a model's parameter tensors; nothing
        is put together. Any m and d. Dask arrays may be chunked along d.
    damping : float
        The λ > 0 that is added to the diagonal.
    storage : {"float32", "float16", "bfloat16"}, optional
        What to keep the gradients in; as given by default. Rows in float16 are scaled by powers of
        two, so that small gradients do not vanish.

    Returns
    -------
    EmpiricalFisher
        An operator of shape (d, d) with `solve`, `diagonal_inverse` and more.

    Raises
    ------
    ValueError
        The shapes do not fit each other, or a gradient is not finite.
    numpy.linalg.LinAlgError
        The damping is 0, or too small for the size of the gradients.

    See Also
    --------
    block_fisher : Only blocks along the diagonal.
    fisher_solve : One product, differentiable and under ``jit``.

    Notes
    -----
    ``F = λ I + Gᵀ G / m``. Nothing of size d × d or a second array of size m × d is made: m² d
    operations for the Gram matrix, m³ for its factor. The Gram matrix is computed in float64; where
    the damping is large enough beside the gradients, short products are in float32.

    References
    ----------
    .. [1] E. Frantar, E. Kurtic, D. Alistarh, "M-FAC: Efficient Matrix-Free Approximations of
       Second-Order Information", arXiv:2107.03356.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit.mfac import empirical_fisher
    >>> gradients = np.array([[3.0, 0.0, 4.0], [0.0, 2.0, 0.0]])
    >>> fisher = empirical_fisher(gradients, damping=0.1)
    >>> x = np.array([1.0, 2.0, 3.0])
    >>> np.allclose(fisher.solve(fisher @ x), x)
    True
    >>> dense = 0.1 * np.eye(3) + gradients.T @ gradients / 2
    >>> np.allclose(fisher.diagonal_inverse(), np.linalg.inv(dense).diagonal())
    True
    """
    _checks.concrete("empirical_fisher", "fisher_solve", gradients=_first(gradients))
    layout, parts, dtype = read_gradients(gradients)
    damping = damping_of(damping)
    if storage is not None:
        _checks.choice("storage", storage, STORAGE)
    parts, scales = stored(parts, storage)
    m = parts[0].shape[0]
    leaves = tuple(
        part if len(shape) == 1 else reshaped(part, (m, *shape))
        for part, shape in zip(parts, layout.shapes, strict=True)
    )
    return EmpiricalFisher(leaves[0] if layout.is_flat else leaves, scales, damping, dtype)


class EmpiricalFisher(Operator):
    """F = λ I + Gᵀ G / m of m gradients of d parameters; made by `empirical_fisher`.

    Parameters
    ----------
    gradients : array, shape (m, d), or tuple of arrays, shape (m, ...)
        As stored: NumPy and CuPy hold bfloat16 as bits in uint16.
    scales : array, shape (m,)
        Row i of G is ``scales[i]`` times what is stored.
    damping : float
        The λ of F.
    dtype : dtype or str
        Of results that belong to no vector, such as the diagonal.

    Attributes
    ----------
    gradients, scales, damping, dtype
        As given.
    shape : (int, int)
        (d, d).

    See Also
    --------
    empirical_fisher : Checks its arguments and makes one.

    Notes
    -----
    A vector may have shape (d,), (d, k) for k of them, or be a list of leaves like the gradients;
    the result has its form and dtype, at least float32. Sums are in float64 whatever the storage:
    with float32 gradients, products with F⁻¹ are within a relative 1e-6 of those in float64 for
    damping of 1e-8 squared gradient lengths and more.

    Each product reads G twice: 4 m d operations a vector. With Dask arrays the first read is done
    at once, m numbers a vector come to the client, and the result waits to be computed in chunks.
    """

    __module__ = "linalgkit.mfac"
    fields: ClassVar[tuple[str, ...]] = ("gradients", "scales", "damping", "dtype")

    def __init__(self, gradients: Any, scales: Any, damping: float, dtype: Any) -> None:
        leaves = gradients if isinstance(gradients, tuple) else (gradients,)
        m = leaves[0].shape[0]
        shapes = tuple(tuple(leaf.shape[1:]) for leaf in leaves)
        self.layout = Layout(shapes, not isinstance(gradients, tuple))
        self.gradients, self.scales, self.damping = gradients, scales, damping
        self.dtype = np.dtype(dtype) if isinstance(dtype, str) else dtype
        parts = tuple(leaf if leaf.ndim == 2 else reshaped(leaf, (m, -1)) for leaf in leaves)
        self._rows = Rows(parts, scales)
        self.shape = (self.layout.size,) * 2
        self._gram, self._root = _factorised(self._rows, damping)

    def __repr__(self) -> str:
        d, part = self.shape[0], self._rows.parts[0]
        return (
            f"<EmpiricalFisher {d}×{d} ({self._rows.m} gradients, stored in {part.dtype}, damping "
            f"{self.damping:.3g}), {self.dtype}>"
        )

    def save(self, file: Any) -> None:
        """Write it to one ``.npz`` file that `linalgkit.load` reads."""
        kept, self.dtype = self.dtype, str(self.dtype).rpartition(".")[2]  # torch.float32
        try:
            super().save(file)
        finally:
            self.dtype = kept

    def matvec(self, x: Any, /) -> Any:
        """Return F x, for x of shape (d,) or a list of leaves."""
        parts, join = self.layout.split("x", x)
        return join(self._product(parts))

    def matmat(self, x: Any, /) -> Any:
        """Return F X, for X of shape (d, k)."""
        return self.matvec(x)

    rmatvec, rmatmat = matvec, matmat

    def __matmul__(self, x: Any) -> Any:
        """Return F x."""
        return self.matvec(x)

    def _product(self, parts: Any) -> Any:
        coefficients = self._rows.dots(parts) / self._rows.m
        return self._combined(coefficients, parts, self.damping)

    def solve(self, x: Any, /) -> Any:
        """Return F⁻¹ x, for x of shape (d,), (d, k) or a list of leaves."""
        parts, join = self.layout.split("x", x)
        coefficients = _solved(self._root, self._rows.dots(parts)) / -self.damping
        return join(self._combined(coefficients, parts, 1 / self.damping))

    def whiten(self, x: Any, /, *, power: float = -0.5) -> Any:
        """Return F^power x: F^(-1/2) x by default.

        Parameters
        ----------
        x : array, shape (d,) or (d, k), or list of arrays
            The vectors.
        power : float
            Any real number.
        """
        parts, join = self.layout.split("x", x)
        xp, m = array_namespace(self._gram), self._rows.m
        values, vectors = xp.linalg.eigh(self._gram)
        values = xp.where(values > 0, values, xp.zeros_like(values))
        # ((λ + σ/m)^p - λ^p) / σ, whose limit for σ → 0 is p λ^(p-1) / m.
        ratio = values / (m * self.damping)
        safe = xp.where(ratio > 1e-12, ratio, xp.ones_like(ratio))
        slope = xp.where(ratio > 1e-12, xp.expm1(power * xp.log1p(safe)) / safe, power * safe)
        factors = self.damping ** (power - 1) / m * slope
        filtered = (vectors * factors[None, :]) @ vectors.T
        coefficients = filtered @ self._rows.dots(parts)
        return join(self._combined(coefficients, parts, self.damping**power))

    def diagonal(self) -> Any:
        """Return the diagonal of F."""
        xp = array_namespace(self._gram)
        scale = (1 / self._rows.m) ** 0.5
        eye = scale * xp.eye(self._rows.m, dtype=self._gram.dtype, device=device(self._gram))
        norms = self._rows.column_norms(eye)
        return self._joined([self.damping + part for part in norms])

    def diagonal_inverse(self) -> Any:
        """Return the diagonal of F⁻¹, ``(1 - |W g_p|²) / λ`` for the columns g_p of G."""
        norms = self._rows.column_norms(self._root)
        return self._joined([(1 - part) / self.damping for part in norms])

    def inverse_element(self, p: int, q: int) -> float:
        """Return one element of F⁻¹, for 4 m + 2 m² operations.

        Parameters
        ----------
        p, q : int
            Row and column, of all parameters in the order of their leaves.
        """
        places = self._places((p, q))
        z = self._root @ self._rows.columns(places, self._ends)
        return (float(places[0] == places[1]) - float(z[:, 0] @ z[:, 1])) / self.damping

    def inverse_columns(self, indices: Any) -> Any:
        """Return columns of F⁻¹ as an array (d, k), or a list of leaves (..., k).

        Parameters
        ----------
        indices : sequence of int
            Which ones.
        """
        places = self._places(indices)
        coefficients = _solved(self._root, self._rows.columns(places, self._ends)) / -self.damping
        parts = self._rows.combine(coefficients, None, factor=0.0, dtype=self.dtype)
        results = []
        for part, begin, shape in zip(parts, self._ends, self.layout.shapes, strict=False):
            xp = array_namespace(part)
            rows = xp.arange(begin, begin + part.shape[0], device=device(part))
            unit = rows[:, None] == xp.asarray(places, device=device(part))[None, :]
            full = part + xp.astype(unit, part.dtype) / self.damping
            results.append(full if self.layout.is_flat else reshaped(full, (*shape, len(places))))
        return results[0] if self.layout.is_flat else results

    def inverse_blocks(self, size: int) -> Any:
        """Return the blocks of F⁻¹ along its diagonal, (d / size, size, size).

        Parameters
        ----------
        size : int
            Of a block; every leaf must be a multiple.
        """
        size = _checks.size("size", size, 1)
        check_multiple("size", size, self.layout)
        return self._inverse_blocks(self._root, size)

    def logdet(self) -> float:
        """Return log det F = d log λ + log det(M / (m λ))."""
        xp = array_namespace(self._root)
        logarithms = xp.log(xp.linalg.diagonal(self._root))
        m, d = self._rows.m, self.shape[0]
        return (
            (d - m) * float(np.log(self.damping))
            - m * float(np.log(m))
            - 2 * float(xp.sum(logarithms))
        )

    @property
    def inverse(self) -> Any:
        """SciPy's LinearOperator of F⁻¹, for NumPy arrays."""
        return inverse_operator(self)

    def _restricted(self, kept: np.ndarray) -> "_Restricted":
        return _Restricted(self, kept)

    def _combined(self, coefficients: Any, parts: Any, factor: float) -> Any:
        dtype = result_dtype(parts[0])
        return self._rows.combine(coefficients, parts, factor=factor, dtype=dtype)

    def _inverse_blocks(self, root: Any, size: int) -> Any:
        grams = self._rows.column_grams(root, size)
        xp = array_namespace(grams)
        eye = xp.eye(size, dtype=grams.dtype, device=device(grams))
        return xp.astype((eye - grams) / self.damping, self.dtype)

    def _joined(self, parts: Sequence[Any]) -> Any:
        return self.layout.joined(
            [array_namespace(part).astype(part, self.dtype) for part in parts]
        )

    @property
    def _ends(self) -> list[int]:
        return np.cumsum((0, *self.layout.sizes)).tolist()

    def _places(self, indices: Any) -> np.ndarray:
        return places_of(indices, self.shape[0])


class _Restricted:
    """F of the parameters that are kept; results of the others mean nothing.

    Columns of G that are removed count as zeros, which changes the Gram matrix alone.
    """

    def __init__(self, fisher: EmpiricalFisher, kept: np.ndarray) -> None:
        self._fisher = fisher
        rows, xp = fisher._rows, array_namespace(fisher._gram)
        if kept.all():
            self._root = fisher._root
            return
        fewer = kept if 2 * kept.sum() < kept.size else ~kept
        places = np.flatnonzero(fewer)
        step = max(1, (1 << 22) // rows.m)
        gram = xp.zeros_like(fisher._gram)
        for start in range(0, places.size, step):
            piece = rows.columns(places[start : start + step], fisher._ends)
            gram = gram + piece @ piece.T
        gram = gram if fewer is kept else fisher._gram - gram
        self._root = _root_of(gram, rows.m * fisher.damping)

    def diagonal_inverse(self) -> Any:
        norms = self._fisher._rows.column_norms(self._root)
        return [(1 - part) / self._fisher.damping for part in norms]

    def inverse_blocks(self, size: int) -> Any:
        return self._fisher._inverse_blocks(self._root, size)

    def solve(self, parts: Any) -> Any:
        """Return F_SS⁻¹ x for x that is 0 where parameters are removed."""
        damping = self._fisher.damping
        coefficients = _solved(self._root, self._fisher._rows.dots(parts)) / -damping
        return self._fisher._combined(coefficients, parts, 1 / damping)

    def compensate(self, parts: Any) -> Any:
        """Return F_SS⁻¹ F_SQ w_Q = G_Sᵀ M_S⁻¹ G_Q w_Q for w that is 0 where not just removed."""
        rows = self._fisher._rows
        coefficients = _solved(self._root, rows.dots(parts))
        return rows.combine(coefficients, None, factor=0.0, dtype=result_dtype(parts[0]))


@engine.traced(vjp="fisher_solve_vjp")
def fisher_solve(x: Any, gradients: Any, /, *, damping: float = 1e-5) -> Any:
    """Return F⁻¹ x of the damped empirical Fisher matrix, differentiable in x and the gradients.

    Parameters
    ----------
    x : array, shape (d,) or (d, k)
        The vectors.
    gradients : array, shape (m, d)
        One gradient a row.
    damping : float
        The λ > 0 that is added to the diagonal.

    Returns
    -------
    array, shape of x
        The solution.

    Raises
    ------
    ValueError
        The shapes do not fit each other.
    numpy.linalg.LinAlgError
        The damping is 0.

    See Also
    --------
    empirical_fisher : Keeps the factor for more products.

    Notes
    -----
    ``F = λ I + Gᵀ G / m``, by Woodbury's identity with sums in float64: m² d operations. NaN in
    `gradients` gives NaN or LinAlgError, as the library's Cholesky factorisation has it.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit.mfac import fisher_solve
    >>> g = np.array([[3.0, 0.0, 4.0]])
    >>> np.allclose(fisher_solve(g[0], g, damping=0.1), g[0] / (0.1 + 25))
    True
    """
    x, gradients = _operands(x, gradients)
    return engine(x, gradients).fisher_solve(x, gradients, damping=damping_of(damping))


@engine.traced()
def fisher_solve_vjp(
    cotangent: Any, /, x: Any, gradients: Any, *, damping: float = 1e-5, wrt: Any = None
) -> FisherSolveGradients:
    """Return the gradients of `fisher_solve` for a gradient of its result.

    Parameters
    ----------
    cotangent : array, shape of x
        Gradient with respect to the result.
    x, gradients : array
        As for `fisher_solve`.
    damping : float
        As for `fisher_solve`.
    wrt : sequence of str, optional
        The names of those that are wanted; all by default.

    Returns
    -------
    FisherSolveGradients
        `x` and `gradients`; None for what is not wanted.

    Raises
    ------
    ValueError
        The shapes do not fit each other, or `wrt` names no argument.

    Notes
    -----
    With y = F⁻¹ x: ``x̄ = F⁻¹ ȳ`` and ``Ḡ = -(G x̄ yᵀ + G y x̄ᵀ) / m``.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit.mfac import fisher_solve_vjp
    >>> x, g = np.array([1.0, 0.0]), np.array([[1.0, 1.0]])
    >>> fisher_solve_vjp(x, x, g, damping=1.0).x
    array([ 0.66666667, -0.33333333])
    """
    x, gradients = _operands(x, gradients)
    (cotangent,) = _checks.floating(cotangent=cotangent)
    if cotangent.shape != x.shape:
        raise ValueError(
            f"cotangent must have the shape of x, {tuple(x.shape)}; got {tuple(cotangent.shape)}."
        )
    names = _checks.wanted(wrt, FisherSolveGradients._fields)
    found = engine(cotangent, x, gradients).fisher_solve_vjp(
        cotangent, x, gradients, damping=damping_of(damping), wrt=names
    )
    return FisherSolveGradients(*found)


def inverse_operator(fisher: Any) -> Any:
    """Return SciPy's LinearOperator of F⁻¹."""
    from scipy.sparse.linalg import LinearOperator

    def matvec(x: Any) -> Any:
        return fisher.solve(x.reshape(-1))  # SciPy also passes (n, 1)

    products = {
        "matvec": matvec,
        "rmatvec": matvec,
        "matmat": fisher.solve,
        "rmatmat": fisher.solve,
    }
    return LinearOperator(fisher.shape, dtype=fisher.dtype, **products)


def places_of(indices: Any, size: int) -> np.ndarray:
    """Return indices of parameters as an array of NumPy; IndexError where there is none."""
    places = np.asarray(indices)
    if places.ndim != 1 or places.size == 0 or places.dtype.kind not in "iu":
        raise TypeError(f"indices must be integers, at least one; got {indices!r}.")
    if places.min() < -size or places.max() >= size:
        raise IndexError(f"indices must be within the {size} parameters; got {indices!r}.")
    return places.astype(np.int64) % size


def check_multiple(name: str, size: int, layout: Layout) -> None:
    """Raise ValueError where a leaf is not cut into whole blocks."""
    for shape, entries in zip(layout.shapes, layout.sizes, strict=True):
        if entries % size:
            raise ValueError(
                f"{name}={size} must divide the parameters of every leaf; one of shape {shape} has "
                f"{entries}."
            )


def _operands(x: Any, gradients: Any) -> tuple[Any, Any]:
    in_memory("gradients", gradients)
    x, gradients = _checks.floating(x=x, gradients=gradients)
    _checks.real(x=x, gradients=gradients)
    if gradients.ndim != 2 or 0 in gradients.shape:
        raise ValueError(
            f"gradients must have shape (m, d), both at least 1; got {tuple(gradients.shape)}."
        )
    if x.ndim not in (1, 2) or x.shape[0] != gradients.shape[1]:
        raise ValueError(
            f"x must have shape ({gradients.shape[1]},) or ({gradients.shape[1]}, k); got "
            f"{tuple(x.shape)}."
        )
    return x, gradients


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


def _first(gradients: Any) -> Any:
    return gradients[0] if isinstance(gradients, list | tuple) and gradients else gradients
