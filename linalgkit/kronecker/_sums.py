"""Kronecker sums: ``A_1 ⊕ ... ⊕ A_d``, the separable operators of differential equations on grids.

Row-major: on the grid ``x.reshape(n_1, ..., n_d)`` the sum applies A_k along axis k and adds up
over k. For two factors: ``A X + X Bᵀ``, and the matrix is ``kron(A, I) + kron(I, B)``.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_numpy_array

from .. import _checks
from .._engine import Engines
from .._operator import _on_host
from .._xp import adjoint
from ._decompositions import Slogdet
from ._hosts import are_well_conditioned
from ._modes import (
    checked,
    columns_of,
    entries,
    fit,
    image,
    is_operator,
    mode_by_mode,
    modes,
    sequence,
)
from ._products import (
    KroneckerGradients,
    as_asked,
    multiplying,
    product,
    wanted_arrays,
)
from ._solves import KroneckerSolveGradients, number

engine = Engines(__package__)

_METHODS = ("auto", "eigh", "schur", "eig")


@engine.traced(vjp="kronsum_matvec_vjp", batched=(0,))
def kronsum_matvec(factors: Sequence[Any], x: Any, /) -> Any:
    """Multiply vectors by the Kronecker sum of square matrices.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., n_k, n_k)
        A_1, ..., A_d. Batch axes lead. Linear operators may stand among them, as for `kron_matvec`.
    x : array, shape (..., n_1 ⋯ n_d)
        Vectors along the last axis, row-major: ``x.reshape(..., n_1, ..., n_d)`` is the grid, and
        A_k acts along its axis k, as with ``numpy.kron``.

    Returns
    -------
    array, shape (..., n_1 ⋯ n_d)
        ``(A_1 ⊕ ... ⊕ A_d) x``. Batch axes broadcast.

    Raises
    ------
    ValueError
        The shapes do not fit each other.

    See Also
    --------
    kronsum_solve : The inverse.

    Notes
    -----
    2 N Σ n_k operations for N = n_1 ⋯ n_d points. The error is at most Σ n_k eps (of the dtype)
    times the sum of the factors' norms. (``scipy.sparse.kronsum(A, B)`` is the sum of
    ``B ⊕ A`` in this order.)

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> a, b, x = np.array([[1.0, 2], [3, 4]]), np.array([[0.0, 1], [1, 0]]), np.arange(4.0)
    >>> kronecker.kronsum_matvec([a, b], x)
    array([ 5.,  7., 11., 17.])
    >>> (np.kron(a, np.eye(2)) + np.kron(np.eye(2), b)) @ x
    array([ 5.,  7., 11., 17.])
    """
    factors = sequence(factors)
    if any(map(is_operator, factors)):
        return _with_operators(factors, x)
    factors, x = checked(factors, x=x)
    fit(factors, "x", x, "kronsum_matvec")
    return engine(x, *factors).kronsum_matvec(x, *factors, columns=1)


@engine.traced()
def kronsum_matvec_vjp(
    cotangent: Any,
    factors: Sequence[Any],
    x: Any,
    /,
    *,
    wrt: Collection[str] | None = None,
) -> KroneckerGradients:
    """Pull a gradient back through `kronsum_matvec`.

    Parameters
    ----------
    cotangent : array, shape (..., n_1 ⋯ n_d)
        Gradient with respect to the products.
    factors : sequence of array, the k-th of shape (..., n_k, n_k)
        As for `kronsum_matvec`.
    x : array, shape (..., n_1 ⋯ n_d)
        As for `kronsum_matvec`.
    wrt : collection of str, optional
        Some of "factors", "x": the others are None and not computed.

    Returns
    -------
    KroneckerGradients
        Each in the dtype of its argument (the real part, for a real one).

    See Also
    --------
    kronsum_matvec : The product.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> a, b = np.eye(2), 2 * np.eye(2)
    >>> kronecker.kronsum_matvec_vjp(np.ones(4), [a, b], np.arange(4.0)).factors[0]
    array([[1., 5.],
           [1., 5.]])
    """
    originals = (*sequence(factors), x)
    factors, cotangent, x = checked(factors, cotangent=cotangent, x=x)
    batch = fit(factors, "x", x, "kronsum_matvec")
    product("cotangent", cotangent, (*batch, x.shape[-1]))
    of_x, *others = engine(cotangent, x, *factors).kronsum_matvec_vjp(
        cotangent, x, *factors, columns=1, wrt=wanted_arrays(wrt, len(factors), "x")
    )
    return KroneckerGradients(*as_asked(wrt, (*others, of_x), originals, "x"))


# Engines take the right-hand sides first: position 0 is b there.
@engine.traced(vjp="kronsum_solve_vjp", batched=(0,))
def kronsum_solve(
    factors: Sequence[Any],
    b: Any,
    /,
    *,
    shift: complex = 0.0,
    method: str = "auto",
) -> Any:
    """Solve with the Kronecker sum of square matrices: Sylvester's equation in any dimension.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., n_k, n_k)
        A_1, ..., A_d. Batch axes lead. Linear operators may stand among them: their entries are
        computed.
    b : array, shape (..., n_1 ⋯ n_d)
        Right-hand sides along the last axis, row-major: ``b.reshape(..., n_1, ..., n_d)`` is the
        grid, and A_k acts along its axis k, as with ``numpy.kron``.
    shift : float or complex, optional
        Added to the sum's diagonal: the reaction term, or minus the squared wave number of a
        Helmholtz equation. A complex one makes the solution complex.
    method : {"auto", "eigh", "schur", "eig"}
        "eigh": by eigenvectors, of the factors' Hermitian parts. "schur": by Schur forms
        (Bartels and Stewart), for any factors, as accurate as the equation allows. "eig": by
        eigenvectors of any factors, with one step of refinement, which is accurate where the
        eigenvectors are well-conditioned. "auto" is "eigh" for Hermitian factors, else "schur" for
        two factors; for more of them "eig", or "schur" where the condition number of some factor's
        eigenvectors exceeds 1e8 (1e3 in single precision).

    Returns
    -------
    array, shape (..., n_1 ⋯ n_d)
        The x with ``(A_1 ⊕ ... ⊕ A_d + shift I) x = b``. For two factors: the X with
        ``A X + X Bᵀ + shift X`` equal to the right-hand side.

    Raises
    ------
    ValueError
        The shapes do not fit each other, or there is no such method.
    LinAlgError
        The sum is singular to working precision: eigenvalues of the factors add up to zero.
    TypeError
        "auto" or "schur" under ``jit``, ``grad`` or ``vmap`` of JAX, where there are no values to
        choose by.

    See Also
    --------
    kronsum_matvec : The product.
    kronsum_solve_vjp : Its gradients.

    Notes
    -----
    O(Σ n_k³ + N Σ n_k) operations for N = n_1 ⋯ n_d points. "eigh" is fast diagonalisation [1]_:
    two Kronecker products and a division by λ_i + μ_j + .... "schur" halves the triangular
    equations, so that nearly all operations are matrix products [2]_; equal factors share one
    Schur form, those of others are found side by side. Gradients solve the adjoint equation, and
    exist also where eigenvalues coincide. Errors are about eps (of the dtype) times the condition
    number of the sum; "eig" multiplies that by the eigenvectors' condition numbers before its step
    of refinement. A factor with NaN or an infinity makes NaN of its item of a batch, but "schur"
    raises LinAlgError.

    References
    ----------
    .. [1] R. E. Lynch, J. R. Rice and D. H. Thomas, "Direct solution of partial difference
       equations by tensor product methods", Numerische Mathematik 6, 1964.
    .. [2] I. Jonsson and B. Kågström, "Recursive blocked algorithms for solving triangular
       systems. Part I", ACM TOMS 28, 2002.

    Examples
    --------
    Poisson's equation on a square, by second differences:

    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> n = 63
    >>> x = np.arange(1, n + 1) / (n + 1)
    >>> d = (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)) * (n + 1) ** 2
    >>> u = np.outer(np.sin(np.pi * x), np.sin(2 * np.pi * x))
    >>> solution = kronecker.kronsum_solve([d, d], (5 * np.pi**2 * u).ravel()).reshape(n, n)
    >>> float(abs(solution - u).max().round(4))
    0.0007
    """
    factors, b = checked(entries(factors), b=b)
    fit(factors, "b", b, "kronsum_solve")
    shift, b, factors = _shifted(shift, b, factors)
    method = chosen_method(factors, b, method)
    return engine(b, *factors).kronsum_solve(b, *factors, shift=shift, method=method, columns=1)


@engine.traced()
def kronsum_solve_vjp(
    cotangent: Any,
    factors: Sequence[Any],
    b: Any,
    /,
    *,
    shift: complex = 0.0,
    method: str = "auto",
    wrt: Collection[str] | None = None,
) -> KroneckerSolveGradients:
    """Pull a gradient back through `kronsum_solve`.

    Parameters
    ----------
    cotangent : array, shape (..., n_1 ⋯ n_d)
        Gradient with respect to the solutions.
    factors : sequence of array, the k-th of shape (..., n_k, n_k)
        As for `kronsum_solve`.
    b : array, shape (..., n_1 ⋯ n_d)
        As for `kronsum_solve`.
    shift : float or complex, optional
        As for `kronsum_solve`.
    method : {"auto", "eigh", "schur", "eig"}
        As for `kronsum_solve`. For "eigh" the factors' gradients are Hermitian.
    wrt : collection of str, optional
        Some of "factors", "b": the others are None and not computed.

    Returns
    -------
    KroneckerSolveGradients
        Each in the dtype of its argument (the real part, for a real one).

    See Also
    --------
    kronsum_solve : The solve.

    Notes
    -----
    The gradient for b solves the adjoint equation; that for the factors is minus the one of
    `kronsum_matvec` with it as cotangent, at x.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> a, b = np.diag([1.0, 2.0]), np.diag([1.0, 3.0])
    >>> kronecker.kronsum_solve_vjp(np.ones(4), [a, b], np.ones(4)).b
    array([0.5       , 0.25      , 0.33333333, 0.2       ])
    """
    originals = (*sequence(factors), b)
    factors, cotangent, b = checked(factors, cotangent=cotangent, b=b)
    batch = fit(factors, "b", b, "kronsum_solve")
    product("cotangent", cotangent, (*batch, b.shape[-1]))
    shift, b, factors, cotangent = _shifted(shift, b, factors, cotangent)
    method = chosen_method(factors, b, method)
    of_b, *others = engine(cotangent, b, *factors).kronsum_solve_vjp(
        cotangent,
        b,
        *factors,
        shift=shift,
        method=method,
        columns=1,
        wrt=wanted_arrays(wrt, len(factors), "b"),
    )
    return KroneckerSolveGradients(*as_asked(wrt, (*others, of_b), originals, "b"))


@engine.traced()
def kronsum_solve_generalized(
    factors: Sequence[Any], masses: Sequence[Any], b: Any, /, *, shift: complex = 0.0
) -> Any:
    """Solve with a Kronecker sum whose other factors are mass matrices instead of identities.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., n_k, n_k)
        A_1, ..., A_d, Hermitian (their Hermitian parts are used): stiffness matrices, say.
        Linear operators may stand among them and the masses: their entries are computed.
    masses : sequence of array, the k-th of shape (..., n_k, n_k)
        B_1, ..., B_d, Hermitian and positive definite (their Hermitian parts are used).
    b : array, shape (..., n_1 ⋯ n_d)
        Right-hand sides along the last axis, row-major: ``b.reshape(..., n_1, ..., n_d)`` is the
        grid, as with ``numpy.kron``.
    shift : float or complex, optional
        The multiple of ``B_1 ⊗ ... ⊗ B_d`` that is added. A complex one makes the solution complex.

    Returns
    -------
    array, shape (..., n_1 ⋯ n_d)
        The x with ``(A_1 ⊗ B_2 ⊗ B_3 ⊗ ... + B_1 ⊗ A_2 ⊗ B_3 ⊗ ... + ...) x = b``, to which
        ``shift (B_1 ⊗ ... ⊗ B_d) x`` is added.

    Raises
    ------
    ValueError
        The shapes do not fit each other.
    LinAlgError
        A mass matrix is not positive definite, or the whole is singular to working precision.

    See Also
    --------
    kronsum_solve : With identities for masses.

    Notes
    -----
    Simultaneous diagonalisation: with A V = B V Λ and Vᴴ B V = I, products with Vᴴ and V along the
    axes around a division by λ_i + μ_j + ... + shift. O(Σ n_k³ + N Σ n_k) operations for N points.
    As for LAPACK's ``sygv``, errors grow with the condition numbers of the B_k.

    Examples
    --------
    Linear finite elements on a square, -Δu = f with u = sin πx sin πy:

    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> n = 63
    >>> x, h, eye = np.arange(1, n + 1) / (n + 1), 1 / (n + 1), np.eye(n)
    >>> beside = np.eye(n, k=1) + np.eye(n, k=-1)
    >>> stiffness, mass = (2 * eye - beside) / h, (4 * eye + beside) * h / 6
    >>> u = np.outer(np.sin(np.pi * x), np.sin(np.pi * x))
    >>> load = kronecker.kron_matvec([mass, mass], (2 * np.pi**2 * u).ravel())
    >>> found = kronecker.kronsum_solve_generalized([stiffness] * 2, [mass] * 2, load)
    >>> float(abs(found.reshape(n, n) - u).max().round(4))
    0.0002
    """
    factors, masses = entries(factors), entries(masses, "masses")
    count = len(factors)
    if len(masses) != count:
        raise ValueError(
            f"masses must hold one mass for each of {count} factors; got {len(masses)}."
        )
    matrices, b = checked((*factors, *masses), b=b)
    factors, masses = matrices[:count], matrices[count:]
    for k, (factor, mass) in enumerate(zip(factors, masses, strict=True)):
        if factor.shape[-2:] != mass.shape[-2:]:
            raise ValueError(
                f"masses[{k}] must have the shape of factors[{k}], {tuple(factor.shape[-2:])}; got "
                f"{tuple(mass.shape[-2:])}."
            )
    fit(factors, "b", b, "kronsum_solve_generalized")
    shift, b, matrices = _shifted(shift, b, matrices)
    return engine(b, *matrices).kronsum_solve_generalized(b, *matrices, shift=shift)


@engine.traced()
def kronsum_expm_multiply(factors: Sequence[Any], x: Any, t: complex = 1.0, /) -> Any:
    """Multiply vectors by the exponential of a Kronecker sum of square matrices.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., n_k, n_k)
        A_1, ..., A_d. Batch axes lead. Linear operators may stand among them: their entries are
        computed.
    x : array, shape (..., n_1 ⋯ n_d)
        Vectors along the last axis, row-major, as for `kronsum_matvec`.
    t : float or complex, optional
        The time.

    Returns
    -------
    array, shape (..., n_1 ⋯ n_d)
        ``expm(t (A_1 ⊕ ... ⊕ A_d)) x``: the solution at time t of ``x' = (A_1 ⊕ ... ⊕ A_d) x``.

    Raises
    ------
    ValueError
        The shapes do not fit each other.

    See Also
    --------
    kronsum_matvec : The operator itself.

    Notes
    -----
    The exponential is the Kronecker product of the factors' exponentials, so one step of any length
    costs O(Σ n_k³ + N Σ n_k) operations for N points. The relative error is about eps (of the
    dtype) times the norm of t A_k, of each factor, where the factors are normal; those far from
    normal add the condition of their exponentials.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> a, b = np.diag([0.0, 1.0]), np.diag([0.0, 2.0])
    >>> np.log(kronecker.kronsum_expm_multiply([a, b], np.ones(4), 0.5))
    array([0. , 1. , 0.5, 1.5])
    """
    factors, x = checked(entries(factors), x=x)
    fit(factors, "x", x, "kronsum_expm_multiply")
    t, x, factors = _shifted(t, x, factors, name="t")
    return engine(x, *factors).kronsum_expm_multiply(x, *factors, t=t)


def kronsum_expm(factors: Sequence[Any], t: complex) -> list[Any]:
    """Return the exponentials of t times the factors: the factors of the sum's exponential."""
    t = number("t", t, is_complex=True)
    return list(engine(*factors).exponentials(*factors, t=t))


def kronsum_slogdet(factors: Sequence[Any], shift: complex) -> Slogdet:
    """Return sign and logarithm of the determinant of the sum plus a multiple of the identity."""
    shift = number("shift", shift, is_complex=True)
    return Slogdet(*engine(*factors).kronsum_slogdet(*factors, shift=shift))


def chosen_method(factors: Sequence[Any], b: Any, method: str) -> str:
    """Return the method; for "auto" by what the factors are.

    NumPy's leave the choice between "eig" and "schur" to the engine, which has eigenvectors then.
    """
    _checks.choice("method", method, _METHODS)
    if method in ("eigh", "eig"):
        return method
    named = {f"factors[{k}]": factor for k, factor in enumerate(factors)}
    alternative = "method='eigh' (for Hermitian factors) or method='eig'"
    _checks.concrete(f"kronsum_solve with method={method!r}", alternative, **named)
    if method == "schur":
        _checks.concrete(f"kronsum_solve with method={method!r}", alternative, b=b)
        return method
    eps = float(array_namespace(b).finfo(b.dtype).eps)
    if all(_is_hermitian(factor, eps) for factor in factors):
        return "eigh"
    if len(factors) <= 2:
        return "schur"
    if is_numpy_array(b):
        return "auto"
    bases = [np.linalg.eig(_on_host(factor))[1] for factor in factors]
    return "eig" if are_well_conditioned(bases) else "schur"


def _is_hermitian(a: Any, eps: float) -> bool:
    """Tell whether matrices equal their conjugate transposes, each up to its own rounding."""
    if 0 in a.shape:
        return True
    xp = array_namespace(a)
    difference = xp.max(xp.abs(a - adjoint(a)), axis=(-2, -1))
    largest = xp.max(xp.abs(a), axis=(-2, -1))
    return bool(xp.all(difference <= eps * a.shape[-1] * largest))


def _shifted(
    shift: Any, b: Any, factors: Sequence[Any], *others: Any, name: str = "shift"
) -> tuple[Any, ...]:
    """Return shift, right-hand side and factors, all complex where the shift is."""
    shift = number(name, shift, is_complex=True)
    if isinstance(shift, complex):
        xp = array_namespace(b)
        dtype = xp.result_type(b.dtype, xp.complex64)
        b, *rest = (xp.astype(array, dtype) for array in (b, *factors, *others))
        factors, others = tuple(rest[: len(factors)]), tuple(rest[len(factors) :])
    return (shift, b, factors, *others)


def _with_operators(factors: Sequence[Any], x: Any) -> Any:
    """Add up mode by mode where some factors are linear operators."""
    factors, x = multiplying(factors, x)
    fit(factors, "x", x, "kronsum_matvec")
    sizes = columns_of(factors)
    return sum(
        mode_by_mode(x, sizes, [step], lambda k, columns: image(factors[k], columns))
        for step in modes(sizes)
    )
