"""Solves with Kronecker products, alone and with something on the diagonal.

Row-major: a vector of n_1 ⋯ n_d entries is the grid ``b.reshape(n_1, ..., n_d)``, and factor k
acts along axis k, as with ``numpy.kron``.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from math import inf, prod
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device
from array_api_compat import is_array_api_obj as is_array

from .. import _checks
from .._engine import Engines
from ._modes import (
    batch_shape,
    checked,
    columns_of,
    entries,
    fit,
    grid,
    is_operator,
    mode_by_mode,
    modes,
    rows_of,
    sequence,
    with_operators,
)
from ._noise import is_complex, solve_with_noise
from ._products import as_asked, product, wanted_arrays

engine = Engines(__package__)

_ASSUMPTIONS = ("gen", "sym", "pos", "tri")


class KroneckerSolveGradients(NamedTuple):
    """Gradients of `kron_solve` and `kronsum_solve`; None where not wanted.

    Parameters
    ----------
    factors : tuple of array, the k-th of shape (..., n_k, n_k), or None
        With respect to the factors.
    b : array, shape (..., n_1 ⋯ n_d), or None
        With respect to the right-hand sides.
    """

    factors: Any
    b: Any


class ShiftedSolveGradients(NamedTuple):
    """Gradients of `shifted_solve`; None where not wanted.

    Parameters
    ----------
    factors : tuple of array, the k-th of shape (..., n_k, n_k), or None
        With respect to the factors.
    b : array, shape (..., n_1 ⋯ n_d), or None
        With respect to the right-hand sides.
    shift : array, shape (...), or None
        With respect to the shift.
    """

    factors: Any
    b: Any
    shift: Any


# Engines take the right-hand sides first: position 0 is b there.
@engine.traced(vjp="kron_solve_vjp", batched=(0,))
def kron_solve(factors: Sequence[Any], b: Any, /, *, assume_a: str = "gen") -> Any:
    """Solve with the Kronecker product of square matrices.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., n_k, n_k)
        A_1, ..., A_d. Batch axes lead. Operators that solve may stand among them, without batch
        axes: anything with `shape` and `solve` for the columns of a matrix, or `inv` (those of
        linalgkit, or a sparse matrix factorised by ``scipy.sparse.linalg.splu``). What refuses
        complex columns by TypeError is asked for real and imaginary parts.
    b : array, shape (..., n_1 ⋯ n_d)
        Right-hand sides along the last axis, row-major: ``b.reshape(..., n_1, ..., n_d)`` is the
        grid, and A_k acts along its axis k, as with ``numpy.kron``.
    assume_a : {"gen", "sym", "pos", "tri"}
        What is known of all factors: nothing; Hermitian; Hermitian and positive definite;
        triangular (each upper or lower). Engines that can use it do. Operators know themselves.

    Returns
    -------
    array, shape (..., n_1 ⋯ n_d)
        The x with ``(A_1 ⊗ ... ⊗ A_d) x = b``.

    Raises
    ------
    ValueError
        The shapes do not fit, or a factor is not square (then `kron_lstsq` serves), or not
        triangular where `assume_a` says so.
    LinAlgError
        A factor is singular, or not positive definite where `assume_a` says so.
    TypeError
        An operator among the factors has neither `solve` nor `inv`.

    See Also
    --------
    kron_lstsq : Rectangular and rank-deficient factors.
    shifted_solve : With something added to the diagonal.
    kron_solve_vjp : Its gradients.

    Notes
    -----
    Each factor is factorised once and solved with along its axis: O(Σ n_k³ + N Σ n_k) operations
    for N = n_1 ⋯ n_d points. The relative error is about eps times the product of the factors'
    condition numbers. Gradients are those of "gen", whatever `assume_a` says.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> a, b = np.array([[2.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 1.0], [1.0, 3.0]])
    >>> x = kronecker.kron_solve([a, b], np.array([6.0, 10.0, 2.0, 4.0]))
    >>> np.allclose(np.kron(a, b) @ x, [6.0, 10.0, 2.0, 4.0])
    True

    A sparse factor, factorised once:

    >>> from scipy.sparse import diags_array
    >>> from scipy.sparse.linalg import splu
    >>> d = diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(50, 50), format="csc")
    >>> x = kronecker.kron_solve([splu(d), b], np.ones(100))
    >>> np.allclose(np.kron(d.toarray(), b) @ x, 1)
    True
    """
    factors = sequence(factors)
    _checks.choice("assume_a", assume_a, _ASSUMPTIONS)
    if any(map(is_operator, factors)):
        return _with_operators(factors, b, assume_a)
    factors, b = checked(factors, b=b)
    fit(factors, "b", b, "kron_solve")
    return engine(b, *factors).kron_solve(b, *factors, assume_a=assume_a, columns=1)


@engine.traced()
def kron_solve_vjp(
    cotangent: Any,
    factors: Sequence[Any],
    b: Any,
    /,
    *,
    assume_a: str = "gen",
    wrt: Collection[str] | None = None,
) -> KroneckerSolveGradients:
    """Pull a gradient back through `kron_solve`.

    Parameters
    ----------
    cotangent : array, shape (..., n_1 ⋯ n_d)
        Gradient with respect to the solutions.
    factors : sequence of array, the k-th of shape (..., n_k, n_k)
        As for `kron_solve`.
    b : array, shape (..., n_1 ⋯ n_d)
        As for `kron_solve`.
    assume_a : {"gen", "sym", "pos", "tri"}
        As for `kron_solve`.
    wrt : collection of str, optional
        Some of "factors", "b": the others are None and not computed.

    Returns
    -------
    KroneckerSolveGradients
        Each in the dtype of its argument (the real part, for a real one).

    See Also
    --------
    kron_solve : The solve.

    Notes
    -----
    The gradient for b solves with the conjugate transposes, ``g = (⊗A)⁻ᴴ cotangent``; that for the
    factors is minus the one of `kron_matvec` with cotangent g, at x.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> a, b = np.diag([1.0, 2.0]), np.diag([1.0, 4.0])
    >>> kronecker.kron_solve_vjp(np.ones(4), [a, b], np.ones(4)).b
    array([1.   , 0.25 , 0.5  , 0.125])
    """
    originals = (*sequence(factors), b)
    factors, cotangent, b = checked(factors, cotangent=cotangent, b=b)
    batch = fit(factors, "b", b, "kron_solve")
    _checks.choice("assume_a", assume_a, _ASSUMPTIONS)
    product("cotangent", cotangent, (*batch, b.shape[-1]))
    of_b, *others = engine(cotangent, b, *factors).kron_solve_vjp(
        cotangent,
        b,
        *factors,
        assume_a=assume_a,
        columns=1,
        wrt=wanted_arrays(wrt, len(factors), "b"),
    )
    return KroneckerSolveGradients(*as_asked(wrt, (*others, of_b), originals, "b"))


@engine.traced()
def kron_lstsq(factors: Sequence[Any], b: Any, /, *, rcond: float | None = None) -> Any:
    """Solve least squares with the Kronecker product of matrices of any shape and rank.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., m_k, n_k)
        A_1, ..., A_d. Linear operators may stand among them: their entries are computed.
    b : array, shape (..., m_1 ⋯ m_d)
        Right-hand sides along the last axis, row-major.
    rcond : float, optional
        Singular values of the product below this part of the largest count as zero; by default the
        machine epsilon times the larger side of the product, as in ``numpy.linalg.lstsq``.

    Returns
    -------
    array, shape (..., n_1 ⋯ n_d)
        The x of least norm among those that minimise ``‖(A_1 ⊗ ... ⊗ A_d) x - b‖``.

    Raises
    ------
    ValueError
        The shapes do not fit, or `rcond` is negative.

    See Also
    --------
    kron_solve : Square factors.
    kron_svd : The decomposition behind it.

    Notes
    -----
    By the singular value decompositions of the factors: those of the product are their products.
    So `rcond` cuts the product's own singular values, as for the dense matrix, and not each
    factor's: factors of full rank whose condition numbers multiply up to more than 1 / rcond lose
    directions. With ``rcond=0`` none is lost, as by a factorisation of each factor, and each is
    solved with to its own accuracy. O(Σ m_k n_k min(m_k, n_k)) operations beside the products.

    The relative error is about eps (of the dtype) times the condition number of what is kept, and
    its square times the residual's part. Torch's and JAX's gradients exist where no singular value
    is cut, also where some coincide (not under `torch.func`, whose transforms have no values to
    tell by); where some are cut, the factors' singular values must differ. A factor with NaN or an
    infinity makes NaN of its item of a batch.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> rng = np.random.default_rng(0)
    >>> a, b, y = rng.standard_normal((4, 2)), rng.standard_normal((3, 2)), rng.standard_normal(12)
    >>> x = kronecker.kron_lstsq([a, b], y)
    >>> np.allclose(x, np.linalg.lstsq(np.kron(a, b), y)[0])
    True
    """
    factors, b = checked(entries(factors), b=b)
    grid("b", b, rows_of(factors))
    batch_shape(factors, tuple(b.shape[:-1]))
    if rcond is None:
        eps = float(array_namespace(b).finfo(b.dtype).eps)
        rcond = eps * max(prod(rows_of(factors)), prod(columns_of(factors)))
    rcond = _checks.number("rcond", rcond, 0)
    return engine(b, *factors).kron_lstsq(b, *factors, rcond=rcond)


@engine.traced(vjp="shifted_solve_vjp", batched=(0,))
def shifted_solve(
    factors: Sequence[Any],
    b: Any,
    shift: Any = 0.0,
    /,
    *,
    noise: Any = None,
    tol: float | None = None,
    maxiter: int = 1000,
    callback: Callable[[int, float], Any] | None = None,
) -> Any:
    """Solve with the Kronecker product of Hermitian matrices plus a diagonal matrix.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., n_k, n_k)
        A_1, ..., A_d, Hermitian (their Hermitian parts are used); covariances along the axes, say.
        Linear operators may stand among them: their entries are computed.
    b : array, shape (..., n_1 ⋯ n_d)
        Right-hand sides along the last axis, row-major: ``b.reshape(..., n_1, ..., n_d)`` is the
        grid, as with ``numpy.kron``.
    shift : float or array, shape (...), optional
        Added to the diagonal: the variance of noise that is the same everywhere. Batch axes of an
        array broadcast with those of `b` and the factors: several variances, one decomposition.
    noise : array, shape (n_1 ⋯ n_d,) or (n_1, ..., n_d), optional
        Added to the diagonal too, entry by entry. Infinite where a point of the grid is missing:
        there `b` is not read and the solution is zero. The product must be positive semidefinite
        then, and `shift` and the factors without batch axes; `b` may have some, whose items share
        noise, decompositions and steps.
    tol : float, optional
        With `noise`: the relative residual to reach, by default 1e-10, or 1e-5 in single precision.
    maxiter : int, optional
        With `noise`: the most steps.
    callback : callable, optional
        With `noise`: called as ``callback(step, residual)`` after each step, with the largest
        relative residual of a right-hand side. Without it there are no steps, and no calls.

    Returns
    -------
    array, shape (..., n_1 ⋯ n_d)
        The x with ``(A_1 ⊗ ... ⊗ A_d + shift I + diag(noise)) x = b``.

    Raises
    ------
    ValueError
        The shapes do not fit; or with `noise` values that are not finite (or a negative diagonal).
    LinAlgError
        The matrix is singular, or `maxiter` steps were not enough; the message says how far they
        came.
    TypeError
        `noise` under ``jit``, ``grad`` or ``vmap``, or where torch would differentiate; or with
        batch axes of noise, shift or factors.

    See Also
    --------
    kron_eigh : The decomposition behind it; ``Σ log(λ + shift)`` is the logarithm of the
        determinant.
    shifted_solve_vjp : Gradients, without `noise`.

    Notes
    -----
    Without `noise`, exactly by the factors' eigenvectors: O(Σ n_k³ + N Σ n_k) operations. With it,
    by conjugate gradients on the points that are there, preconditioned by the exact inverse with
    the geometric mean of the diagonal [1]_. Where noise is constant they need one step more than
    points are missing at most, but for rounding, and often far fewer. A Gaussian process with
    covariance ⊗A observed with noise has the mean ``kron_matvec(factors, x)`` on the whole grid.

    Without `noise` the relative error is about eps times the condition number of the whole matrix
    (eps is 2e-16, or 1e-7 in single precision); with it, `tol` times that number. Gradients by
    torch and JAX go to factors, `b` and `shift`, and exist where eigenvalues coincide. With
    `noise` there are none: the iteration's own derivative would not be that of the solution.

    References
    ----------
    .. [1] E. Gilboa, Y. Saatçi and J. P. Cunningham, "Scaling multidimensional inference for
       structured Gaussian processes", IEEE TPAMI 37, 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> t = np.linspace(0, 1, 4)
    >>> k = np.exp(-abs(t[:, None] - t))
    >>> y = np.arange(16.0)
    >>> x = kronecker.shifted_solve([k, k], y, 0.1)
    >>> np.allclose((np.kron(k, k) + 0.1 * np.eye(16)) @ x, y)
    True
    >>> noise = np.zeros(16)
    >>> noise[5] = np.inf
    >>> x = kronecker.shifted_solve([k, k], y, 0.1, noise=noise)
    >>> bool(x[5] == 0), np.allclose(np.delete(np.kron(k, k) @ x + 0.1 * x - y, 5), 0)
    (True, True)
    """
    factors, b = checked(entries(factors), b=b)
    fit(factors, "b", b, "shifted_solve")
    shift = _shift(shift, b)
    batch_shape(factors, tuple(b.shape[:-1]), tuple(shift.shape))
    tol = None if tol is None else positive("tol", tol)
    maxiter = _checks.size("maxiter", maxiter, 1)
    if callback is not None:
        _checks.function("callback", callback)
    if noise is None:
        return engine(b, shift, *factors).shifted_solve(b, shift, *factors)
    return solve_with_noise(factors, b, shift, noise, tol, maxiter, callback)


@engine.traced()
def shifted_solve_vjp(
    cotangent: Any,
    factors: Sequence[Any],
    b: Any,
    shift: Any = 0.0,
    /,
    *,
    wrt: Collection[str] | None = None,
) -> ShiftedSolveGradients:
    """Pull a gradient back through `shifted_solve` without `noise`.

    Parameters
    ----------
    cotangent : array, shape (..., n_1 ⋯ n_d)
        Gradient with respect to the solutions.
    factors : sequence of array, the k-th of shape (..., n_k, n_k)
        As for `shifted_solve`; their gradients are Hermitian.
    b : array, shape (..., n_1 ⋯ n_d)
        As for `shifted_solve`.
    shift : float or array, shape (...), optional
        As for `shifted_solve`.
    wrt : collection of str, optional
        Some of "factors", "b", "shift": the others are None and not computed.

    Returns
    -------
    ShiftedSolveGradients
        Each in the dtype of its argument (the real part, for a real one).

    See Also
    --------
    shifted_solve : The solve.

    Notes
    -----
    The gradient for b is the solution for the cotangent; that for the factors is minus the one of
    `kron_matvec` with it as cotangent, at x; that for the shift is minus its inner product with x.
    All exist where eigenvalues coincide.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> a, b = np.diag([1.0, 2.0]), np.diag([1.0, 3.0])
    >>> gradients = kronecker.shifted_solve_vjp(np.ones(4), [a, b], np.ones(4), 1.0)
    >>> gradients.b
    array([0.5       , 0.25      , 0.33333333, 0.14285714])
    >>> round(float(gradients.shift), 6)
    -0.444019
    """
    originals = (*sequence(factors), b, shift)
    factors, cotangent, b = checked(factors, cotangent=cotangent, b=b)
    batch, shift = fit(factors, "b", b, "shifted_solve"), _shift(shift, b)
    batch = batch_shape(factors, batch, tuple(shift.shape))
    product("cotangent", cotangent, (*batch, b.shape[-1]))
    of_b, of_shift, *others = engine(cotangent, b, shift, *factors).shifted_solve_vjp(
        cotangent, b, shift, *factors, wrt=wanted_arrays(wrt, len(factors), "b", "shift")
    )
    gradients = (*others, of_b, of_shift)
    return ShiftedSolveGradients(*as_asked(wrt, gradients, originals, "b", "shift"))


def _shift(shift: Any, b: Any) -> Any:
    """Return a shift as a real array of the library, in the precision of `b`."""
    xp = array_namespace(b)
    dtype = xp.real(b).dtype if is_complex(b) else b.dtype
    if not is_array(shift) or isinstance(shift, np.generic):
        return xp.asarray(number("shift", shift), dtype=dtype, device=device(b))
    _, shift = _checks.arrays(b=b, shift=shift)
    _checks.real(shift=shift)
    return xp.astype(shift, dtype)


def _with_operators(factors: Sequence[Any], b: Any, assume_a: str) -> Any:
    """Solve mode by mode where some factors are operators."""
    factors, b = with_operators(factors, b=b)
    fit(factors, "b", b, "kron_solve")
    solves = [_solve_of(factor, k, assume_a) for k, factor in enumerate(factors)]
    sizes = columns_of(factors)
    return mode_by_mode(b, sizes, modes(sizes), lambda k, columns: solves[k](columns))


def _solve_of(factor: Any, k: int, assume_a: str) -> Callable[[Any], Any]:
    """Return what solves with a factor for the columns of a matrix."""
    if not is_operator(factor):

        def solve(columns: Any) -> Any:
            xp, width = array_namespace(columns), columns.shape[1]
            flat = xp.reshape(columns, (prod(columns.shape),))
            of_array = engine(flat, factor).kron_solve
            try:
                x = of_array(flat, factor, assume_a=assume_a, columns=width)
            except (np.linalg.LinAlgError, ValueError) as error:  # the engine has one factor
                message = str(error).replace("factors[0]", f"factors[{k}]")
                raise type(error)(message) from None
            return xp.reshape(x, columns.shape)

        return solve
    if hasattr(factor, "solve"):
        return partial(_solved_by, factor)
    if hasattr(factor, "inv"):
        inverse = factor.inv()
        return lambda columns: inverse @ columns
    raise TypeError(
        f"kron_solve needs factors that are arrays or have solve or inv; factors[{k}] is a "
        f"{type(factor).__name__} with neither. With products alone, an iterative solver of "
        "scipy.sparse.linalg may serve: kron_matvec is the product."
    )


def _solved_by(operator: Any, columns: Any) -> Any:
    """Solve; real and imaginary parts by themselves where complex columns are refused."""
    try:
        return operator.solve(columns)
    except TypeError:  # SuperLU of a real matrix
        if not is_complex(columns):
            raise
        xp = array_namespace(columns)
        return operator.solve(xp.real(columns)) + 1j * operator.solve(xp.imag(columns))


def number(name: str, value: Any, *, is_complex: bool = False) -> Any:
    """Return a number as Python's, real ones as float; else TypeError or ValueError."""
    if isinstance(value, np.generic):
        value = value.item()
    if not is_complex or not isinstance(value, complex):
        return _checks.number(name, value)
    if not abs(value) < inf:
        raise ValueError(f"{name} must be finite; got {value!r}.")
    return value


def positive(name: str, value: Any) -> float:
    """Return a positive number as float; TypeError or ValueError where it is none."""
    found = _checks.number(name, value)
    if found <= 0:
        raise ValueError(f"{name} must be greater than 0; got {value!r}.")
    return found
