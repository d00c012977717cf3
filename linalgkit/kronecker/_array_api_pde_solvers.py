"""Solvers of sums of Kronecker products on arrays of coefficients, to be called again and again.

Each is a small object, so that a solution can be pickled with what its deviations need.
"""

from math import prod

import numpy as np
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, gmres

from ._array_api_products import kron_dense

DENSE = 2000  # unknowns up to which a system that is no Kronecker sum is factorised
DEPENDENT = 1e8  # condition of eigenvectors from which Schur forms serve instead


def multiplied(factors, x):
    """Return (A₁ ⊗ … ⊗ A_d) X; None is the identity."""
    for axis, factor in enumerate(factors):
        if factor is None:
            continue
        left, right = prod(x.shape[:axis]), prod(x.shape[axis + 1 :])
        view = x.reshape(left, x.shape[axis], right)
        if left == 1:
            product = factor @ view[0]
        elif right == 1:
            product = view[:, :, 0] @ factor.T
        else:
            product = factor @ view
        x = product.reshape(*x.shape[:axis], factor.shape[0], *x.shape[axis + 1 :])
    return x


def multiplied_at(rows, x):
    """Return Σ X[i, …, j] rows_1[p, i] … rows_d[p, j] for every p."""
    first, *others = rows
    part = first @ x.reshape(len(x), -1)
    for factor in others:
        part = np.einsum("pk,pkr->pr", factor, part.reshape(*factor.shape, -1))
    return part[:, 0]


def broadcast_along(factor, axis, ndim):
    """Shape a number or an array of one axis for products with arrays of all axes."""
    if np.ndim(factor) == 0:
        return factor
    return np.reshape(factor, [-1 if k == axis else 1 for k in range(ndim)])


def flat_operator(apply, shape):
    """Return a map of arrays of this shape as an operator on vectors."""
    size = prod(shape)
    return LinearOperator((size, size), lambda v: apply(v.reshape(shape)).ravel(), dtype=float)


def solver_of(terms, shape):
    """Return the solver of Σ_t (A_t1 ⊗ … ⊗ A_td) Y = R; None among the factors is the identity.

    Exact for Kronecker sums of two axes (Schur) and more (eigenvectors), and for few unknowns;
    otherwise GMRES, preconditioned by the Kronecker sum of the terms' means.
    """
    sums, is_sum = _as_sum(terms, shape)
    if is_sum:
        return _solver_of_sum(sums)
    if prod(shape) <= DENSE:
        return _Dense(terms, shape)
    return _Iterative(terms, shape, _solver_of_sum(sums))


class _Dense:
    """The LU decomposition of the whole matrix."""

    def __init__(self, terms, shape):
        self.factors = linalg.lu_factor(
            sum(
                kron_dense(
                    *(np.eye(n) if a is None else a for a, n in zip(term, shape, strict=True))
                )
                for term in terms
            ),
            check_finite=False,
        )
        diagonal = np.abs(np.diagonal(self.factors[0]))
        self.log_determinant = float(np.sum(np.log(diagonal)))

    def __call__(self, right):
        return linalg.lu_solve(self.factors, right.ravel()).reshape(right.shape)


class _Iterative:
    """GMRES, preconditioned by the solver of a Kronecker sum."""

    def __init__(self, terms, shape, nearby):
        self.terms, self.shape, self.nearby = terms, shape, nearby
        self.log_determinant = nearby.log_determinant

    def __call__(self, right):
        operator = flat_operator(
            lambda y: sum(multiplied(term, y) for term in self.terms), self.shape
        )
        inverse = flat_operator(self.nearby, self.shape)
        y, _ = gmres(operator, right.ravel(), rtol=1e-13, restart=60, maxiter=5, M=inverse)
        return y.reshape(self.shape)


class _Sylvester:
    """Schur forms of the two factors of a Kronecker sum."""

    def __init__(self, factors):
        (self.t, self.u), (self.s, self.v) = (linalg.schur(a, output="real") for a in factors)
        self.log_determinant = _log_determinant([linalg.eigvals(a) for a in factors])

    def __call__(self, right):
        trsyl = linalg.get_lapack_funcs("trsyl", (self.t, self.s))
        y, scale, _ = trsyl(self.t, self.s, self.u.T @ right @ self.v, tranb="T")
        return self.u @ (scale * y) @ self.v.T


class _Diagonal:
    """Eigenvectors of the factors of a Kronecker sum."""

    def __init__(self, values, vectors):
        self.vectors = vectors
        self.inverses = [linalg.inv(part) for part in vectors]
        self.divisor = _outer_sum(values)
        self.log_determinant = _log_determinant(values)

    def __call__(self, right):
        inside = multiplied(self.inverses, right + 0j) / self.divisor
        return multiplied(self.vectors, inside).real


class _Triangular:
    """Complex Schur forms, where the eigenvectors of a factor hardly differ."""

    def __init__(self, factors, values):
        self.factors, self.log_determinant = factors, _log_determinant(values)

    def __call__(self, right):
        from ._sums import kronsum_solve

        return kronsum_solve(self.factors, right.ravel(), method="schur").reshape(right.shape)


def _solver_of_sum(factors):
    if not all(np.all(np.isfinite(factor)) for factor in factors):
        raise linalg.LinAlgError("the matrices of the equation are not finite.")
    if len(factors) == 2:
        return _Sylvester(factors)
    values, vectors = zip(*(linalg.eig(factor) for factor in factors), strict=True)
    if max(np.linalg.cond(part) for part in vectors) > DEPENDENT:
        return _Triangular(factors, values)
    return _Diagonal(values, vectors)


def _outer_sum(values):
    return sum(broadcast_along(part, k, len(values)) for k, part in enumerate(values))


def _log_determinant(values):
    return float(np.sum(np.log(np.maximum(np.abs(_outer_sum(values)), 1e-300))))


def _as_sum(terms, shape):
    """Return one matrix an axis, whose Kronecker sum is the operator or near it, and which."""
    sums = [np.zeros((n, n)) for n in shape]
    is_sum = True
    for term in terms:
        acting = [axis for axis, factor in enumerate(term) if factor is not None]
        means = {axis: np.trace(term[axis]) / shape[axis] for axis in acting}
        spreads = {axis: linalg.norm(term[axis] - means[axis] * np.eye(shape[axis]))
                   for axis in acting}  # fmt: skip
        # The axis on which the term is least like a multiple of one keeps its matrix.
        main = max(acting, key=spreads.__getitem__, default=0)
        others = prod(means[axis] for axis in acting if axis != main)
        is_sum &= all(spreads[axis] <= 1e-13 * abs(means[axis]) for axis in acting if axis != main)
        sums[main] = sums[main] + others * (term[main] if acting else np.eye(shape[0]))
    return sums, is_sum
