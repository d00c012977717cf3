"""CPU engine of solves: LAPACK on the fibres of each mode, products by `_numba_products`."""

import numpy as np
from scipy.linalg import eigh, get_lapack_funcs

from . import _array_api_solves as reference
from ._array_api_solves import (
    check_triangular,
    divided,
    hermitian_part,
    is_lower,
    not_positive,
    of_finite,
    of_shift,
)
from ._modes import columns_of, modes
from ._numba_products import _adjoint, kron_matvec, kron_matvec_vjp, kronsum_matvec_vjp
from ._schur import solve_by_schur


def kron_solve(b, *factors, assume_a, columns):
    """Solve mode by mode, each factor factorised once."""
    if any(factor.ndim > 2 for factor in factors):
        return reference.kron_solve(b, *factors, assume_a=assume_a, columns=columns)
    if assume_a == "tri":
        check_triangular(factors)
    for k, _, right in modes(columns_of(factors)):
        n = len(factors[k])
        if b.size:
            fibres = b.reshape(-1, n, right * columns)
            columns_first = np.ascontiguousarray(fibres.swapaxes(1, 2)).reshape(-1, n)
            if np.may_share_memory(columns_first, b):
                columns_first = columns_first.copy()  # LAPACK overwrites it
            solution = _FIBRES[assume_a](factors[k], columns_first.T, k)
            b = solution.T.reshape(-1, right * columns, n).swapaxes(1, 2).reshape(b.shape)
    return b


def kron_solve_vjp(cotangent, b, *factors, assume_a, columns, wrt):
    """Pull back: the adjoint solve for b; for the factors, minus the product's pull-back."""
    if any(factor.ndim > 2 for factor in factors):
        return reference.kron_solve_vjp(
            cotangent, b, *factors, assume_a=assume_a, columns=columns, wrt=wrt
        )
    options = {"assume_a": assume_a, "columns": columns}
    of_b = kron_solve(cotangent, *map(_adjoint, factors), **options)
    others = [None] * len(factors)
    if wrt != ("b",):
        x = kron_solve(b, *factors, **options)
        _, *others = kron_matvec_vjp(-of_b, x, *factors, columns=columns, wrt=wrt)
    return (of_b if "b" in wrt else None, *others)


def shifted_solve(b, shift, *factors):
    """Solve with (⊗K + shift) by the eigenvectors of the factors' Hermitian parts."""
    values, vectors = _eigenpairs(factors)
    c = kron_matvec(b, *map(_adjoint, vectors), columns=1)
    total = reference.outer(values, np.multiply) + shift[..., None]
    c = divided(c, total, "(⊗K + shift)", 1)
    return kron_matvec(c, *vectors, columns=1)


def shifted_solve_vjp(cotangent, b, shift, *factors, wrt):
    """Pull back: the same solve for b; its product with x for the shift; for the factors, too."""
    if shift.ndim or any(factor.ndim > 2 for factor in factors):
        return reference.shifted_solve_vjp(cotangent, b, shift, *factors, wrt=wrt)
    if wrt == ("b",):
        return shifted_solve(cotangent, shift, *factors), None, *(None for _ in factors)
    both = np.stack([cotangent, b])  # the factors are decomposed once
    of_b, x = shifted_solve(both, shift, *factors)
    others = [None] * len(factors)
    if any(name.startswith("factors") for name in wrt):
        parts = map(hermitian_part, factors)
        _, *others = kron_matvec_vjp(-of_b, x, *parts, columns=1, wrt=wrt)
        others = [None if part is None else hermitian_part(part) for part in others]
    return (
        of_b if "b" in wrt else None,
        of_shift(of_b, x, shift) if "shift" in wrt else None,
        *others,
    )


def kronsum_solve(b, *factors, shift, method, columns):
    """Solve by diagonal or triangular forms of the factors."""
    if method == "schur":
        return solve_by_schur(b, factors, shift, columns)
    if method in ("eig", "auto"):
        return reference.kronsum_solve(b, *factors, shift=shift, method=method, columns=columns)
    values, vectors = _eigenpairs(factors)
    return _by_eigenvectors(b, values, vectors, shift, columns)


def kronsum_solve_vjp(cotangent, b, *factors, shift, method, columns, wrt):
    """Pull back: the adjoint solve for b; for the factors, minus the product's pull-back."""
    if any(factor.ndim > 2 for factor in factors):
        return reference.kronsum_solve_vjp(
            cotangent, b, *factors, shift=shift, method=method, columns=columns, wrt=wrt
        )
    options = {"method": method, "columns": columns}
    adjoints = map(_adjoint, factors)
    of_b = kronsum_solve(cotangent, *adjoints, shift=np.conj(shift).item(), **options)
    others = [None] * len(factors)
    if wrt != ("b",):
        x = kronsum_solve(b, *factors, shift=shift, **options)
        _, *others = kronsum_matvec_vjp(-of_b, x, *factors, columns=columns, wrt=wrt)
        if method == "eigh":
            others = [None if part is None else hermitian_part(part) for part in others]
    return (of_b if "b" in wrt else None, *others)


def kronsum_solve_generalized(b, *matrices, shift):
    """Solve by simultaneous diagonalisation: A V = B V Λ with Vᴴ B V = I."""
    if any(matrix.ndim > 2 for matrix in matrices):
        return reference.kronsum_solve_generalized(b, *matrices, shift=shift)
    count = len(matrices) // 2
    values, vectors = _eigenpairs(matrices[:count], matrices[count:])
    return _by_eigenvectors(b, values, vectors, shift, columns=1)


def _by_eigenvectors(b, values, vectors, shift, columns):
    c = kron_matvec(b, *map(_adjoint, vectors), columns=columns)
    c = divided(c, reference.outer(values, np.add) + shift, "the Kronecker sum", columns)
    return kron_matvec(c, *vectors, columns=columns)


def _eigenpairs(factors, masses=None):
    """Decompose the factors; those that are equal to the first once."""
    found = []
    for k, factor in enumerate(factors):
        is_first = k and np.array_equal(factor, factors[0])
        if is_first and (masses is None or np.array_equal(masses[k], masses[0])):
            found.append(found[0])
        elif masses is None:
            found.append(of_finite(np.linalg.eigh, hermitian_part(factor)))
        else:
            found.append(_generalized(factor, masses[k], k))
    return zip(*found, strict=True)


def _generalized(factor, mass, k):
    if not np.isfinite(mass).all():
        raise not_positive(f"masses[{k}]")
    try:
        return eigh(hermitian_part(factor), hermitian_part(mass), check_finite=False)
    except np.linalg.LinAlgError as error:
        if "positive" not in str(error):
            raise
        raise not_positive(f"masses[{k}]") from error


def _general(factor, fibres, k):
    factorize, solve = get_lapack_funcs(("getrf", "getrs"), (factor, fibres))
    lu, pivots, info = factorize(factor)
    if info > 0:
        raise np.linalg.LinAlgError(f"factors[{k}] is singular.")
    return solve(lu, pivots, fibres, overwrite_b=True)[0]


def _hermitian(factor, fibres, k):
    name = "he" if factor.dtype.kind == "c" else "sy"
    factorize, size = get_lapack_funcs((name + "trf", name + "trf_lwork"), (factor, fibres))
    (solve,) = get_lapack_funcs((name + "trs",), (factor, fibres))
    work = max(1, int(size(len(factor))[0].real))
    ldl, pivots, info = factorize(factor, lower=True, lwork=work)
    if info > 0:
        raise np.linalg.LinAlgError(f"factors[{k}] is singular.")
    return solve(ldl, pivots, fibres, lower=True, overwrite_b=True)[0]


def _positive(factor, fibres, k):
    factorize, solve = get_lapack_funcs(("potrf", "potrs"), (factor, fibres))
    lower, info = factorize(factor, lower=True)
    if info > 0:
        raise np.linalg.LinAlgError(
            f"factors[{k}] is not positive definite, as assume_a='pos' says it is."
        )
    return solve(lower, fibres, lower=True, overwrite_b=True)[0]


def _triangular(factor, fibres, k):
    (solve,) = get_lapack_funcs(("trtrs",), (factor, fibres))
    x, info = solve(factor, fibres, lower=is_lower(factor), overwrite_b=True)
    if info > 0:
        raise np.linalg.LinAlgError(f"factors[{k}] is singular.")
    return x


_FIBRES = {"gen": _general, "sym": _hermitian, "pos": _positive, "tri": _triangular}
