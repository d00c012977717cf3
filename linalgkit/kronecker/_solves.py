"""Solves with Kronecker products, alone and with something on the diagonal.

Row-major: a vector of n_1 ⋯ n_d entries is the grid ``b.reshape(n_1, ..., n_d)``, and factor k
acts along axis k, as with ``numpy.kron``.
"""

from collections.abc import Callable, Collection, Sequence
from math import inf, prod
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from .. import _checks
from .._engine import Engines
from .._xp import adjoint
from ._hosts import one_blas_thread
from ._modes import (
    batch_shape,
    checked,
    columns_of,
    entries,
    finite,
    grid,
    is_operator,
    mode_by_mode,
    modes,
    rows_of,
    sequence,
    square,
    with_operators,
)
from ._products import as_asked, product, wanted_arrays

engine = Engines(__package__)

_ASSUMPTIONS = ("gen", "sym", "pos", "tri")


class KroneckerSolveGradients(NamedTuple):
    """Gradients of `kron_solve`, `shifted_solve` and `kronsum_solve`; None where not wanted.

    Parameters
    ----------
    factors : tuple of array, the k-th of shape (..., n_k, n_k), or None
        With respect to the factors.
    b : array, shape (..., n_1 ⋯ n_d), or None
        With respect to the right-hand sides.
    """

    factors: Any
    b: Any


# Engines take the right-hand sides first: position 0 is b there.
@engine.traced(vjp="kron_solve_vjp", batched=(0,))
def kron_solve(factors: Sequence[Any], b: Any, /, *, assume_a: str = "gen") -> Any:
    """Solve with the Kronecker product of square matrices.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., n_k, n_k)
        A_1, ..., A_d. Batch axes lead. Operators that solve may stand among them, without batch
        axes: anything with `shape` and `solve` for the columns of a matrix, or `inv` (those of
        linalgkit, or a sparse matrix factorised by ``scipy.sparse.linalg.splu``).
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
    _fit(factors, b, "kron_solve")
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
    batch = _fit(factors, b, "kron_solve")
    _checks.choice("assume_a", assume_a, _ASSUMPTIONS)
    product("cotangent", cotangent, (*batch, b.shape[-1]))
    of_b, *others = engine(cotangent, b, *factors).kron_solve_vjp(
        cotangent,
        b,
        *factors,
        assume_a=assume_a,
        columns=1,
        wrt=wanted_arrays(wrt, "b", len(factors)),
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
    factor's. O(Σ m_k n_k min(m_k, n_k)) operations beside the products.

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
    shift: float = 0.0,
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
    shift : float, optional
        Added to the diagonal: the variance of noise that is the same everywhere.
    noise : array, shape (n_1 ⋯ n_d,) or (n_1, ..., n_d), optional
        Added to the diagonal too, entry by entry. Infinite where a point of the grid is missing:
        there `b` is not read and the solution is zero. The product must be positive semidefinite
        then, and `b` and the factors without batch axes.
    tol : float, optional
        With `noise`: the relative residual to reach, by default 1e-10, or 1e-5 in single precision.
    maxiter : int, optional
        With `noise`: the most steps.
    callback : callable, optional
        With `noise`: called as ``callback(step, residual)`` after each step.

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
        `noise` under ``jit`` or ``vmap``, or with batch axes.

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
    _fit(factors, b, "shifted_solve")
    shift = number("shift", shift)
    tol = None if tol is None else positive("tol", tol)
    maxiter = _checks.size("maxiter", maxiter, 1)
    if callback is not None:
        _checks.function("callback", callback)
    if noise is None:
        return engine(b, *factors).shifted_solve(b, *factors, shift=shift)
    return _with_noise(factors, b, shift, noise, tol, maxiter, callback)


@engine.traced()
def shifted_solve_vjp(
    cotangent: Any,
    factors: Sequence[Any],
    b: Any,
    shift: float = 0.0,
    /,
    *,
    wrt: Collection[str] | None = None,
) -> KroneckerSolveGradients:
    """Pull a gradient back through `shifted_solve` without `noise`.

    Parameters
    ----------
    cotangent : array, shape (..., n_1 ⋯ n_d)
        Gradient with respect to the solutions.
    factors : sequence of array, the k-th of shape (..., n_k, n_k)
        As for `shifted_solve`; their gradients are Hermitian.
    b : array, shape (..., n_1 ⋯ n_d)
        As for `shifted_solve`.
    shift : float, optional
        As for `shifted_solve`.
    wrt : collection of str, optional
        Some of "factors", "b": the others are None and not computed.

    Returns
    -------
    KroneckerSolveGradients
        Each in the dtype of its argument (the real part, for a real one).

    See Also
    --------
    shifted_solve : The solve.

    Notes
    -----
    The gradient for b is the solution for the cotangent; that for the factors is minus the one of
    `kron_matvec` with it as cotangent, at x. Both also exist where eigenvalues coincide.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> a, b = np.diag([1.0, 2.0]), np.diag([1.0, 3.0])
    >>> kronecker.shifted_solve_vjp(np.ones(4), [a, b], np.ones(4), 1.0).b
    array([0.5       , 0.25      , 0.33333333, 0.14285714])
    """
    originals = (*sequence(factors), b)
    factors, cotangent, b = checked(factors, cotangent=cotangent, b=b)
    batch = _fit(factors, b, "shifted_solve")
    product("cotangent", cotangent, (*batch, b.shape[-1]))
    of_b, *others = engine(cotangent, b, *factors).shifted_solve_vjp(
        cotangent,
        b,
        *factors,
        shift=number("shift", shift),
        wrt=wanted_arrays(wrt, "b", len(factors)),
    )
    return KroneckerSolveGradients(*as_asked(wrt, (*others, of_b), originals, "b"))


def _with_operators(factors: Sequence[Any], b: Any, assume_a: str) -> Any:
    """Solve mode by mode where some factors are operators."""
    factors, b = with_operators(factors, b=b)
    _fit(factors, b, "kron_solve")
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
        return factor.solve
    if hasattr(factor, "inv"):
        inverse = factor.inv()
        return lambda columns: inverse @ columns
    raise TypeError(
        f"kron_solve needs factors that are arrays or have solve or inv; factors[{k}] is a "
        f"{type(factor).__name__} with neither. With products alone, an iterative solver of "
        "scipy.sparse.linalg may serve: kron_matvec is the product."
    )


def _with_noise(
    factors: Sequence[Any],
    b: Any,
    shift: float,
    noise: Any,
    tol: float | None,
    maxiter: int,
    callback: Callable[[int, float], Any] | None,
) -> Any:
    """Solve by preconditioned conjugate gradients on the points that are there."""
    named = {f"factors[{k}]": factor for k, factor in enumerate(factors)}
    (noise,) = _checks.floating(noise=_checks.arrays(b=b, noise=noise)[1])
    _checks.real(noise=noise)
    _checks.concrete("shifted_solve with noise", "shift alone", b=b, noise=noise, **named)
    if len(b.shape) > 1 or any(len(factor.shape) > 2 for factor in factors):
        raise TypeError(
            f"shifted_solve with noise takes one right-hand side; got b of shape {tuple(b.shape)} "
            f"and factors of shapes {[tuple(factor.shape) for factor in factors]}."
        )
    for name, factor in named.items():
        finite(name, factor)
    xp = array_namespace(b)
    sizes = columns_of(factors)
    if tuple(noise.shape) not in ((prod(sizes),), sizes):
        raise ValueError(
            f"noise must have shape {(prod(sizes),)} or {sizes}; got {tuple(noise.shape)}."
        )
    real = xp.real(b).dtype if _is_complex(b) else b.dtype
    diagonal = xp.astype(xp.reshape(noise, (prod(sizes),)), real) + shift
    if not bool(xp.all(diagonal >= 0)):
        worst = float(xp.min(diagonal)) if not bool(xp.any(xp.isnan(diagonal))) else float("nan")
        raise ValueError(
            f"noise plus shift must be from 0 to infinity; its least value is {worst:.3g}."
        )
    there = xp.isfinite(diagonal)
    zeros = xp.zeros_like(b)
    b, diagonal = xp.where(there, b, zeros), xp.where(there, diagonal, xp.zeros_like(diagonal))
    finite("b", b)
    eps = float(xp.finfo(b.dtype).eps)
    if tol is None:
        tol = 1e-10 if eps < 1e-10 else 1e-5

    serving = engine(b, *factors)
    factors = [(factor + adjoint(factor)) / 2 for factor in factors]
    values, vectors = serving.kron_eigh(*factors, k=None)
    adjoints = [adjoint(q) for q in vectors]
    spectrum = values[0]
    for value in values[1:]:
        spectrum = xp.reshape(spectrum[:, None] * value[None, :], (-1,))
    # Eigenvalues that are negative by rounding would make the preconditioner indefinite.
    spectrum = xp.where(spectrum > 0, spectrum, xp.zeros_like(spectrum))
    most = float(xp.max(spectrum)) or 1.0
    positive = xp.where(there & (diagonal > eps * most), diagonal, xp.ones_like(diagonal))
    counted = there & (diagonal > eps * most)
    amount = max(int(xp.sum(xp.astype(counted, xp.int64))), 1)
    mean = float(np.exp(float(xp.sum(xp.where(counted, xp.log(positive), 0 * positive))) / amount))
    if not bool(xp.any(counted)):
        mean = eps * most
    inverse = 1 / (spectrum + mean)

    def multiply(x: Any) -> Any:
        y = serving.kron_matvec(x, *factors, columns=1) + diagonal * x
        return xp.where(there, y, zeros)

    def precondition(r: Any) -> Any:
        c = serving.kron_matvec(r, *adjoints, columns=1)
        z = serving.kron_matvec(c * inverse, *vectors, columns=1)
        return xp.where(there, z, zeros)

    # BLAS would wake a thread for each inner product, and wait for it where cores are shared.
    with one_blas_thread(type(b) is np.ndarray):
        return conjugate_gradients(multiply, precondition, b, tol, maxiter, callback)


def conjugate_gradients(
    multiply: Callable[[Any], Any],
    precondition: Callable[[Any], Any],
    b: Any,
    tol: float,
    maxiter: int,
    callback: Callable[[int, float], Any] | None,
) -> Any:
    """Solve a positive definite system; LinAlgError where `maxiter` steps are not enough."""
    xp = array_namespace(b)
    x, r = xp.zeros_like(b), b
    norm = float(xp.linalg.vector_norm(b))
    if norm == 0:
        return x
    direction, slope, residual = xp.zeros_like(b), 1.0, 1.0
    for step in range(1, maxiter + 1):
        z = precondition(r)
        before, slope = (
            slope,
            float(xp.real(xp.vecdot(r, z)) if _is_complex(r) else xp.vecdot(r, z)),
        )
        direction = z + (slope / before) * direction if step > 1 else z
        image = multiply(direction)
        curvature = xp.vecdot(direction, image)
        curvature = float(xp.real(curvature) if _is_complex(r) else curvature)
        if not curvature > 0:
            raise np.linalg.LinAlgError(
                "the matrix is not positive definite to working precision: conjugate gradients "
                f"found a direction of curvature {curvature:.3g} at step {step}. More shift or "
                "noise would make it so."
            )
        x = x + (slope / curvature) * direction
        r = r - (slope / curvature) * image
        residual = float(xp.linalg.vector_norm(r)) / norm
        if residual <= tol:  # of the recurrence: look at the true one before it counts
            r = b - multiply(x)
            residual = float(xp.linalg.vector_norm(r)) / norm
        if callback is not None:
            callback(step, residual)
        if residual <= tol:
            return x
    raise np.linalg.LinAlgError(
        f"no convergence to a relative residual of {tol:.1g} in {maxiter} steps; it came to "
        f"{residual:.2g}. A larger tol, shift or maxiter may help."
    )


def number(name: str, value: Any, *, is_complex: bool = False) -> Any:
    """Return a number as Python's; TypeError or ValueError where it is none, or not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    kinds = (int, float, complex) if is_complex else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise TypeError(f"{name} must be a number; got {value!r} ({type(value).__name__}).")
    if not abs(value) < inf:
        raise ValueError(f"{name} must be finite; got {value!r}.")
    return value if isinstance(value, complex) else float(value)


def positive(name: str, value: Any) -> float:
    """Return a positive number as float; TypeError or ValueError where it is none."""
    found: float = number(name, value)
    if found <= 0:
        raise ValueError(f"{name} must be greater than 0; got {value!r}.")
    return found


def _is_complex(x: Any) -> bool:
    return bool(array_namespace(x).isdtype(x.dtype, "complex floating"))


def _fit(factors: Sequence[Any], b: Any, what: str) -> tuple[int, ...]:
    """Return the batch axes; ValueError unless the shapes fit."""
    square(factors, what)
    grid("b", b, columns_of(factors))
    return batch_shape(factors, tuple(b.shape[:-1]))
