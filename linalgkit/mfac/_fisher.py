"""The damped empirical Fisher matrix of m gradients and its inverse, by Woodbury's identity.

    F = λ I + (1/m) Σ g_i g_iᵀ,   M = m λ I + G Gᵀ,   F⁻¹ x = (x - Gᵀ M⁻¹ G x) / λ

Source: "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information"
(arXiv:2107.03356), whose recursion over the gradients is the L D Lᵀ factorisation of M.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from array_api_compat import array_namespace, is_dask_array

from .. import _checks
from .._engine import Engines
from .._operator import Operator
from ._array_api import is_few
from ._few import FewParameters
from ._many import ManyParameters
from ._rows import (
    STORAGE,
    Layout,
    Rows,
    damping_of,
    first_leaf,
    in_memory,
    read_gradients,
    reshaped,
    stored,
)

engine = Engines(__package__)


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
    the damping is large enough beside the gradients, short products are in float32. With 2 d ≤ m
    it is F that is factorised instead, by QR of the gradients, for 2 m d² operations.

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
    _checks.concrete("empirical_fisher", "fisher_solve", gradients=first_leaf(gradients))
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

    Each product reads G twice: 4 m d operations a vector; or, with 2 d ≤ m, a matrix of size d × d:
    2 d² operations. With Dask arrays the first read is done
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
        if is_few(m, self.layout.size) and not is_dask_array(parts[0]):
            self._form: Any = FewParameters.of(self._rows, damping, divisor=m)
        else:
            self._form = ManyParameters.of(self._rows, damping)

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
        return self._form.product(parts)

    def solve(self, x: Any, /) -> Any:
        """Return F⁻¹ x, for x of shape (d,), (d, k) or a list of leaves."""
        parts, join = self.layout.split("x", x)
        return join(self._form.solve(parts))

    def whiten(self, x: Any, /, *, power: float = -0.5) -> Any:
        """Return F^power x: F^(-1/2) x by default.

        Parameters
        ----------
        x : array, shape (d,) or (d, k), or list of arrays
            The vectors.
        power : float
            Any real number.
        """
        power = _checks.number("power", power)
        parts, join = self.layout.split("x", x)
        return join(self._form.whiten(parts, power))

    def diagonal(self) -> Any:
        """Return the diagonal of F."""
        return self._joined(self._form.diagonal())

    def diagonal_inverse(self) -> Any:
        """Return the diagonal of F⁻¹, ``(1 - |W g_p|²) / λ`` for the columns g_p of G."""
        return self._joined(self._form.diagonal_inverse())

    def inverse_element(self, p: int, q: int) -> float:
        """Return one element of F⁻¹, for 4 m + 2 m² operations.

        Parameters
        ----------
        p, q : int
            Row and column, of all parameters in the order of their leaves.
        """
        return self._form.inverse_element(*self._places((p, q)).tolist())

    def inverse_columns(self, indices: Any) -> Any:
        """Return columns of F⁻¹ as an array (d, k), or a list of leaves (..., k).

        Parameters
        ----------
        indices : sequence of int
            Which ones.
        """
        columns = self._form.inverse_columns(self._places(indices))
        return self._joined(columns)

    def inverse_blocks(self, size: int) -> Any:
        """Return the blocks of F⁻¹ along its diagonal, (d / size, size, size).

        Parameters
        ----------
        size : int
            Of a block; every leaf must be a multiple.
        """
        size = _checks.size("size", size, 1)
        check_multiple("size", size, self.layout)
        blocks = self._form.inverse_blocks(size)
        return array_namespace(blocks).astype(blocks, self.dtype)

    def logdet(self) -> float:
        """Return log det F = d log λ + log det(M / (m λ))."""
        return self._form.logdet()

    @property
    def inverse(self) -> Any:
        """SciPy's LinearOperator of F⁻¹, for NumPy arrays."""
        return inverse_operator(self)

    def _restricted(self, kept: np.ndarray) -> Any:
        return self._form.restricted(kept)

    def _joined(self, parts: Sequence[Any]) -> Any:
        """Put arrays with a row for a parameter together, in the dtype of results."""
        parts = [array_namespace(part).astype(part, self.dtype) for part in parts]
        if self.layout.is_flat:
            return parts[0]
        return [
            reshaped(part, (*shape, *part.shape[1:]))
            for part, shape in zip(parts, self.layout.shapes, strict=True)
        ]

    def _places(self, indices: Any) -> np.ndarray:
        return places_of(indices, self.shape[0])


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
        The solution, in the ``result_type`` of both; gradients in half precision are not copied.

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
    _checks.present(cotangent=cotangent)
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
    _checks.present(x=x, gradients=gradients)
    in_memory("gradients", gradients)
    (gradients,) = _checks.floating(gradients=gradients)
    if gradients.ndim != 2 or 0 in gradients.shape:
        raise ValueError(
            f"gradients must have shape (m, d), both at least 1; got {tuple(gradients.shape)}."
        )
    # The vectors alone are cast: gradients are widened where they are read, without a copy.
    x, _ = _checks.floating(x=x, gradients=gradients[:0, :])
    _checks.real(x=x, gradients=gradients)
    if x.ndim not in (1, 2) or x.shape[0] != gradients.shape[1]:
        raise ValueError(
            f"x must have shape ({gradients.shape[1]},) or ({gradients.shape[1]}, k); got "
            f"{tuple(x.shape)}."
        )
    return x, gradients
