"""The damped empirical Fisher matrix of m gradients and its inverse, by Woodbury's identity.

    F = λ I + (1/m) Σ g_i g_iᵀ,   M = m λ I + G Gᵀ,   F⁻¹ x = (x - Gᵀ M⁻¹ G x) / λ

Source: "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information"
(arXiv:2107.03356), whose recursion over the gradients is the L D Lᵀ factorisation of M.
"""

from typing import Any, ClassVar, NamedTuple

from array_api_compat import array_namespace, is_dask_array

from .. import _checks
from .._engine import Engines
from ._array_api import is_few
from ._few import FewParameters
from ._many import ManyParameters
from ._protocol import FisherMatrix, dtype_of, leaves_of, parts_of
from ._rows import (
    STORAGE,
    Rows,
    contiguous,
    damping_of,
    first_leaf,
    in_memory,
    read_gradients,
    result_dtype,
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
        is put together, and of scalar parameters they are vectors (m,). Leaves of different dtypes
        are all in the widest. Any m and d. Dask arrays may be chunked along d.
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
    ``F = λ I + Gᵀ G / m``. The gradients are kept, not copied: they must not change afterwards.
    (Arrays that are not contiguous are copied once, and storage makes its own array; of Dask arrays
    it is another step of the graph, so that each pass reads and rounds what they were made from.)

    Nothing of size d × d or a second array of size m × d is made: m² d operations for the Gram
    matrix, m³ for its factor. The Gram matrix is computed in float64; where the damping is large
    enough beside the gradients, short products are in float32. With 2 d ≤ m it is F that is
    factorised instead, by QR of the gradients, for 2 m d² operations: some rows at a time are
    widened for it, and d² numbers are kept.

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
    gradients = leaves_of(layout, tuple(map(contiguous, parts)))
    return EmpiricalFisher(gradients, scales, damping, dtype)


class EmpiricalFisher(FisherMatrix):
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
    the result has its form and dtype, at least float32; of leaves of different dtypes, the widest.
    Sums are in float64 whatever the storage: with float32 gradients, products with F⁻¹ are within a
    relative 1e-6 of those in float64 for damping of 1e-8 squared gradient lengths and more. (JAX
    that was not told to know more sums in float32: 5e-6 with d near m, for which d ≤ m goes the
    way of 2 d ≤ m.) Half precision in storage is of the matrix of the rounded gradients.

    Each product reads G twice: 4 m d operations a vector; or, with 2 d ≤ m, a matrix of size d × d:
    2 d² operations. With Dask arrays the first read is done at once, m numbers a vector come to the
    client, and the result waits to be computed in chunks.
    """

    __module__ = "linalgkit.mfac"
    fields: ClassVar[tuple[str, ...]] = ("gradients", "scales", "damping", "dtype")

    def __init__(self, gradients: Any, scales: Any, damping: float, dtype: Any) -> None:
        self.gradients, self.scales, self.damping = gradients, scales, damping
        self.layout, self._parts = parts_of(gradients)
        self.dtype = dtype_of(dtype)
        self.shape = (self.layout.size,) * 2
        self._form = form_of(Rows(self._parts, scales), damping)


def form_of(rows: Rows, damping: float) -> Any:
    """Factorise F of some rows, or their Gram matrix."""
    part = rows.parts[0]
    if not is_dask_array(part) and is_few(rows.m, rows.ends[-1], part):
        return FewParameters.of(rows, damping, divisor=rows.m)
    return ManyParameters.of(rows, damping)


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
        The solution, in the ``result_type`` of both, at least float32; gradients in half precision
        are not copied.

    Raises
    ------
    ValueError
        The shapes do not fit each other.
    numpy.linalg.LinAlgError
        The damping is 0; or it is lost beside the gradients, and the library tells: JAX, and torch
        without a fast engine, do not.

    See Also
    --------
    empirical_fisher : Keeps the factor for more products.

    Notes
    -----
    ``F = λ I + Gᵀ G / m``, by Woodbury's identity with sums in float64: m² d operations; with
    2 d ≤ m by QR of the gradients. NaN in `gradients` gives NaN or LinAlgError, as the library's
    factorisation has it.

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
    # F⁻¹ x is larger by 1 / λ, which half precision has no room for.
    x = array_namespace(x).astype(x, result_dtype(x), copy=False)
    if x.ndim not in (1, 2) or x.shape[0] != gradients.shape[1]:
        raise ValueError(
            f"x must have shape ({gradients.shape[1]},) or ({gradients.shape[1]}, k); got "
            f"{tuple(x.shape)}."
        )
    return x, gradients
