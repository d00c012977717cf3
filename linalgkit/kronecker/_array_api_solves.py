"""Reference engine: solves with Kronecker products and sums, by their factors.

Arrays come first, factors after them, as in `_array_api`.
"""

from math import prod

import numpy as np
from array_api_compat import (
    array_namespace,
    device,
    is_cupy_array,
    is_jax_array,
    is_numpy_array,
    is_torch_array,
)

from .._operator import _on_host
from .._xp import adjoint, moveaxis
from ._array_api_products import (
    factor_gradient,
    kron_matvec,
    kron_matvec_vjp,
    mode_product,
    outer,
    summed_to,
)
from ._modes import columns_of, modes
from ._schur import solve_by_schur


def kron_solve(b, *factors, assume_a, columns):
    """Solve mode by mode: the inverse of the product is the product of the inverses."""
    if assume_a == "pos":
        for k, factor in enumerate(factors):
            _check_positive(factor, k)
    if assume_a == "tri":
        check_triangular(factors)
    for k, left, right in modes(columns_of(factors)):
        b = _solve_mode(b, factors[k], left, right * columns, f"factors[{k}]")
    return b


def kron_solve_vjp(cotangent, b, *factors, assume_a, columns, wrt):
    """Pull back: the adjoint solve for b; for the factors, minus the product's pull-back."""
    adjoints = [adjoint(factor) for factor in factors]
    of_b = kron_solve(cotangent, *adjoints, assume_a=assume_a, columns=columns)
    x = kron_solve(b, *factors, assume_a=assume_a, columns=columns)
    _, *others = kron_matvec_vjp(-of_b, x, *factors, columns=columns, wrt=wrt)
    return (summed_to(of_b, tuple(b.shape)) if "b" in wrt else None, *others)


def kron_lstsq(b, *factors, rcond):
    """Solve by the singular values of the product, which are products of the factors'."""
    xp = array_namespace(b)
    left, values, right = zip(
        *(xp.linalg.svd(a, full_matrices=False) for a in factors), strict=True
    )
    c = kron_matvec(b, *(adjoint(u) for u in left), columns=1)
    grid = outer(values, xp.multiply)
    most = xp.max(grid, axis=-1, keepdims=True) if grid.shape[-1] else grid  # of none there is none
    kept = grid > rcond * most
    safe = xp.where(kept, grid, xp.ones_like(grid))
    c = xp.where(kept, c / safe, xp.zeros_like(c))
    return kron_matvec(c, *(adjoint(v) for v in right), columns=1)


def shifted_solve(b, *factors, shift):
    """Solve with (⊗K + shift) by the eigenvectors of the factors' Hermitian parts."""
    xp = array_namespace(b)

    def product(x):
        return kron_matvec(x, *map(hermitian_part, factors), columns=1) + shift * x

    def solve(c, factors):
        values, vectors = zip(*(xp.linalg.eigh(hermitian_part(a)) for a in factors), strict=True)
        c = kron_matvec(c, *(adjoint(q) for q in vectors), columns=1)
        c = divided(c, outer(values, xp.multiply) + shift, "(⊗K + shift)", 1)
        return kron_matvec(c, *vectors, columns=1)

    return implicitly(product, solve, b, factors)


def shifted_solve_vjp(cotangent, b, *factors, shift, wrt):
    """Pull back: the same solve for b; for the factors, minus the product's pull-back."""
    of_b = shifted_solve(cotangent, *factors, shift=shift)
    x = shifted_solve(b, *factors, shift=shift)
    factors = tuple(map(hermitian_part, factors))
    _, *others = kron_matvec_vjp(-of_b, x, *factors, columns=1, wrt=wrt)
    others = [None if gradient is None else hermitian_part(gradient) for gradient in others]
    return (summed_to(of_b, tuple(b.shape)) if "b" in wrt else None, *others)


def kronsum_matvec(x, *factors, columns):
    """Add up the products along each mode."""
    sizes = columns_of(factors)
    return sum(
        mode_product(x, factors[k], left, right * columns) for k, left, right in modes(sizes)
    )


def kronsum_matvec_vjp(cotangent, x, *factors, columns, wrt):
    """Pull the cotangent back: each mode by itself."""
    of_x = kronsum_matvec(cotangent, *map(adjoint, factors), columns=columns)
    gradients = [
        factor_gradient(cotangent, x, factors[k], left, right * columns)
        if f"factors[{k}]" in wrt
        else None
        for k, left, right in modes(columns_of(factors))
    ]
    return (summed_to(of_x, tuple(x.shape)) if "x" in wrt else None, *gradients)


def kronsum_solve(b, *factors, shift, method, columns):
    """Solve by diagonal or triangular forms of the factors."""
    if method == "schur":
        return _by_schur(b, factors, shift, columns)
    if method == "eigh":
        factors = tuple(map(hermitian_part, factors))

    def product(x):
        return kronsum_matvec(x, *factors, columns=columns) + shift * x

    def solve(c, factors):
        if method == "eigh":
            return _by_eigh(c, factors, shift, columns)
        return _by_eig(c, factors, shift, columns)

    return implicitly(product, solve, b, factors)


def kronsum_solve_vjp(cotangent, b, *factors, shift, method, columns, wrt):
    """Pull back: the adjoint solve for b; for the factors, minus the product's pull-back."""
    adjoints = [adjoint(factor) for factor in factors]
    options = {"method": method, "columns": columns}
    of_b = kronsum_solve(cotangent, *adjoints, shift=np.conj(shift).item(), **options)
    x = kronsum_solve(b, *factors, shift=shift, **options)
    _, *others = kronsum_matvec_vjp(-of_b, x, *factors, columns=columns, wrt=wrt)
    if method == "eigh":
        others = [None if gradient is None else hermitian_part(gradient) for gradient in others]
    return (summed_to(of_b, tuple(b.shape)) if "b" in wrt else None, *others)


def kronsum_solve_generalized(b, *matrices, shift):
    """Solve with L⁻¹ A L⁻ᴴ instead of the factors, where L Lᴴ are the masses that follow them."""
    from ._products import kron_matvec
    from ._sums import kronsum_solve  # with rules for gradients, which eigenvectors do not have

    xp, count = array_namespace(b), len(matrices) // 2
    inverses, reduced = [], []
    for k, (factor, mass) in enumerate(zip(matrices[:count], matrices[count:], strict=True)):
        inverse = xp.linalg.inv(_lower(mass, f"masses[{k}]"))
        inverses.append(inverse)
        reduced.append(xp.matmul(xp.matmul(inverse, hermitian_part(factor)), adjoint(inverse)))
    y = kron_matvec(inverses, b)
    z = kronsum_solve(reduced, y, shift=shift, method="eigh")
    return kron_matvec([adjoint(inverse) for inverse in inverses], z)


def kronsum_expm_multiply(x, *factors, t):
    """Multiply by the Kronecker product of the factors' exponentials."""
    return kron_matvec(x, *exponentials(*factors, t=t), columns=1)


def exponentials(*factors, t):
    """Return the exponentials of t A_k."""
    return [_expm(t * factor) for factor in factors]


def hermitian_part(a):
    """Return (A + Aᴴ) / 2."""
    return (a + adjoint(a)) / 2


def divided(c, values, what, columns):
    """Divide by the eigenvalues; LinAlgError where one is zero and values are at hand."""
    xp = array_namespace(c)
    if is_concrete(values) and 0 not in values.shape:
        sizes = xp.abs(values)
        least, most = (float(_on_host(extreme)) for extreme in (xp.min(sizes), xp.max(sizes)))
        if not least > float(xp.finfo(values.dtype).eps) * most and most == most:
            raise np.linalg.LinAlgError(
                f"{what} is singular to working precision: its eigenvalues are from {least:.3g} "
                f"to {most:.3g} in absolute value. Another shift would make it regular."
            )
    if columns > 1:
        wide = xp.broadcast_to(values[..., None], (*values.shape, columns))
        values = xp.reshape(wide, (*values.shape[:-1], values.shape[-1] * columns))
    return c / values


def implicitly(product, solve, b, factors):
    """Solve; JAX differentiates the equation, not the solver.

    (Derivatives of eigenvectors do not exist where eigenvalues coincide; those of x do.)
    """
    if not is_jax_array(b):
        return solve(b, factors)
    import jax

    xp = array_namespace(b)
    like = jax.eval_shape(product, b)
    return jax.lax.custom_linear_solve(
        product,
        xp.broadcast_to(b, like.shape),
        lambda _, c: solve(c, factors),
        lambda _, c: solve(c, [moveaxis(factor, -1, -2) for factor in factors]),
    )


def check_triangular(factors):
    """Raise ValueError where a factor is not triangular, and values are at hand."""
    for k, factor in enumerate(factors):
        if is_concrete(factor):
            xp = array_namespace(factor)
            if not is_lower(factor) and bool(xp.any(xp.tril(factor, k=-1) != 0)):
                raise ValueError(
                    f"factors[{k}] is neither upper nor lower triangular, as assume_a='tri' says."
                )


def is_lower(factor):
    """Tell whether nothing stands above the diagonal."""
    xp = array_namespace(factor)
    return not bool(xp.any(xp.triu(factor, k=1) != 0))


def is_concrete(array):
    """Tell whether the values are at hand: no tracer of JAX, no transform of torch."""
    if is_jax_array(array):
        import jax

        return not isinstance(array, jax.core.Tracer)
    if is_torch_array(array):
        import torch

        return (
            type(array) is torch.Tensor  # no shape alone
            and array.device.type != "meta"
            and not torch.compiler.is_compiling()
            and not torch._C._are_functorch_transforms_active()
        )
    return True


def solve_named(a, b, name):
    """Solve A X = B; LinAlgError names a singular factor, where values are at hand."""
    xp = array_namespace(a, b)
    try:
        x = xp.linalg.solve(a, b)
    except (np.linalg.LinAlgError, RuntimeError) as error:  # torch's is a RuntimeError
        if not type(error).__name__.endswith("LinAlgError"):
            raise
        raise np.linalg.LinAlgError(f"{name} is singular.") from error
    if (is_jax_array(x) or is_cupy_array(x)) and is_concrete(x) and not xp.all(xp.isfinite(x)):
        sign, _ = xp.linalg.slogdet(a)
        if bool(xp.any(sign == 0)):  # else what was to be solved is not finite
            raise np.linalg.LinAlgError(f"{name} is singular.")
    return x


def _solve_mode(x, a, left, right, name):
    """Solve along the middle axis of (..., left, n, right)."""
    xp, n = array_namespace(x), a.shape[-1]
    if a.ndim == 2:  # one system, and all else as columns
        shape = (*x.shape[:-1], left, n, right)
        fibres = moveaxis(xp.reshape(x, shape), -2, 0)
        columns = xp.reshape(fibres, (n, prod(fibres.shape[1:])))
        y = xp.reshape(solve_named(a, columns, name), fibres.shape)
        return xp.reshape(moveaxis(y, 0, -2), x.shape)
    batch = np.broadcast_shapes(tuple(a.shape[:-2]), tuple(x.shape[:-1]))
    x = xp.broadcast_to(x, (*batch, x.shape[-1]))
    a = xp.broadcast_to(a, (*batch, n, n))
    fibres = moveaxis(xp.reshape(x, (*batch, left, n, right)), -2, -3)
    y = solve_named(a, xp.reshape(fibres, (*batch, n, left * right)), name)
    y = moveaxis(xp.reshape(y, (*batch, n, left, right)), -3, -2)
    return xp.reshape(y, x.shape)


def _by_eigh(b, factors, shift, columns):
    xp = array_namespace(b)
    values, vectors = zip(*map(xp.linalg.eigh, factors), strict=True)
    c = kron_matvec(b, *map(adjoint, vectors), columns=columns)
    c = divided(c, outer(values, xp.add) + shift, "the Kronecker sum", columns)
    return kron_matvec(c, *vectors, columns=columns)


def _by_eig(b, factors, shift, columns):
    """Solve in the eigenvectors' basis, and once more for the residual."""
    xp = array_namespace(b)
    values, vectors = zip(*map(_eig, factors), strict=True)
    values, vectors = list(values), list(vectors)
    total = outer(values, xp.add) + shift
    is_real = xp.isdtype(b.dtype, "real floating") and not isinstance(shift, complex)

    def solve(c):
        c = xp.astype(c, total.dtype)
        c = kron_solve(c, *vectors, assume_a="gen", columns=columns)
        c = kron_matvec(divided(c, total, "the Kronecker sum", columns), *vectors, columns=columns)
        return xp.real(c) if is_real else c

    x = solve(b)
    return x + solve(b - kronsum_matvec(x, *factors, columns=columns) - shift * x)


def _by_schur(b, factors, shift, columns):
    """Solve on the host, in the library's arrays."""
    if is_numpy_array(b):
        return solve_by_schur(b, factors, shift, columns)
    if is_torch_array(b):
        import torch

        if torch.is_grad_enabled() and any(a.requires_grad for a in (b, *factors)):
            raise TypeError(
                "method='schur' works on NumPy's arrays, which carry no gradients; for gradients "
                "by the reference engine, and for second ones, use method='eig' or 'eigh'."
            )
    x = solve_by_schur(_on_host(b), tuple(map(_on_host, factors)), shift, columns)
    return _from_host(x, b)


def _eig(a):
    xp = array_namespace(a)
    if is_torch_array(a) or is_jax_array(a) or is_numpy_array(a):
        values, vectors = xp.linalg.eig(a)
        dtype = xp.result_type(a.dtype, xp.complex64)
        return xp.astype(values, dtype), xp.astype(vectors, dtype)
    values, vectors = np.linalg.eig(_on_host(a))
    dtype = np.result_type(values, np.complex64)
    return _from_host(values.astype(dtype), a), _from_host(vectors.astype(dtype), a)


def _expm(a):
    """Return the matrix exponential."""
    if is_torch_array(a):
        import torch

        return torch.linalg.matrix_exp(a)
    if is_jax_array(a):
        from jax.scipy.linalg import expm
    elif is_cupy_array(a):
        from cupyx.scipy.linalg import expm
    else:
        from scipy.linalg import expm

        return expm(a) if is_numpy_array(a) else _from_host(expm(_on_host(a)), a)
    return expm(a)


def _from_host(values, like):
    xp = array_namespace(like)
    return xp.asarray(values, device=device(like))


def _check_positive(factor, k):
    """Raise LinAlgError where a factor is not positive definite, and values are at hand."""
    if not is_concrete(factor):
        return
    xp = array_namespace(factor)
    try:
        lower = xp.linalg.cholesky(factor)
    except (np.linalg.LinAlgError, RuntimeError) as error:
        if not type(error).__name__.endswith("LinAlgError"):
            raise
        lower = None
    if lower is None or not bool(xp.all(xp.isfinite(lower))):
        raise np.linalg.LinAlgError(
            f"factors[{k}] is not positive definite, as assume_a='pos' says it is."
        )


def _lower(mass, name):
    """Return the Cholesky factor; LinAlgError where there is none."""
    xp = array_namespace(mass)
    try:
        lower = xp.linalg.cholesky(hermitian_part(mass))
        is_good = not is_concrete(lower) or bool(xp.all(xp.isfinite(lower)))
    except Exception as error:  # each library has its own
        if "positive" not in str(error).lower():
            raise
        is_good = False
    if not is_good:
        raise not_positive(name)
    return lower


def not_positive(name):
    """Return the error about a mass matrix."""
    return np.linalg.LinAlgError(f"{name} must be positive definite, and finite.")
