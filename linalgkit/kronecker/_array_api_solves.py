"""Reference engine: solves with Kronecker products and sums, by their factors.

Arrays come first, factors after them, as in `_array_api`.
"""

from functools import partial, wraps
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
    as_array,
    factor_gradient,
    kron_matvec,
    kron_matvec_vjp,
    mode_product,
    outer,
    summed_to,
)
from ._hosts import are_well_conditioned
from ._modes import columns_of, modes
from ._schur import solve_by_schur

_HALF = ("float16", "bfloat16")


def in_single(function):
    """Compute in single precision where arrays are of half precision, which LAPACK does not know.

    Results are of half precision again.
    """

    @wraps(function)
    def call(*arrays, **options):
        xp, dtype = array_namespace(*arrays), arrays[0].dtype
        if dtype not in [getattr(xp, name) for name in _HALF if hasattr(xp, name)]:
            return function(*arrays, **options)

        def narrowed(value):
            if isinstance(value, tuple | list):
                return tuple(map(narrowed, value))
            return None if value is None else xp.astype(value, dtype)

        return narrowed(function(*(xp.astype(a, xp.float32) for a in arrays), **options))

    return call


@in_single
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


@in_single
def kron_solve_vjp(cotangent, b, *factors, assume_a, columns, wrt):
    """Pull back: the adjoint solve for b; for the factors, minus the product's pull-back."""
    adjoints = [adjoint(factor) for factor in factors]
    of_b = kron_solve(cotangent, *adjoints, assume_a=assume_a, columns=columns)
    x = kron_solve(b, *factors, assume_a=assume_a, columns=columns)
    _, *others = kron_matvec_vjp(-of_b, x, *factors, columns=columns, wrt=wrt)
    return (summed_to(of_b, tuple(b.shape)) if "b" in wrt else None, *others)


@in_single
def kron_lstsq(b, *factors, rcond):
    """Solve by the singular values of the product, which are products of the factors'.

    Singular vectors have no derivatives where values coincide, but pseudo-inverses of full rank
    have: those differentiate them instead where no value is cut.
    """
    xp = array_namespace(b)
    is_known = all(map(is_concrete, (b, *factors)))

    def by_inverses():
        return kron_matvec(b, *(xp.linalg.pinv(a, rtol=0.0) for a in factors), columns=1)

    def by_values():
        left, values, right = singular_parts(factors)
        grid, kept = _cut(values, rcond)
        if is_known and is_differentiated(b, *factors) and bool(xp.all(kept)):
            return by_inverses()
        c = kron_matvec(b, *map(adjoint, left), columns=1)
        c = xp.where(kept, c / xp.where(kept, grid, xp.ones_like(grid)), xp.zeros_like(c))
        return kron_matvec(c, *map(adjoint, right), columns=1)

    if is_known or not is_jax_array(b) or any(0 in a.shape for a in factors):
        return by_values()
    import jax

    _, kept = _cut([xp.linalg.svdvals(jax.lax.stop_gradient(a)) for a in factors], rcond)
    return jax.lax.cond(xp.all(kept), by_inverses, by_values)


def _cut(values, rcond):
    """Return the singular values of the product, and which of them count."""
    xp = array_namespace(*values)
    grid = outer(values, xp.multiply)
    most = xp.max(grid, axis=-1, keepdims=True) if grid.shape[-1] else grid  # of none there is none
    return grid, grid > rcond * most


@in_single
def shifted_solve(b, shift, *factors):
    """Solve with (⊗K + shift) by the eigenvectors of the factors' Hermitian parts."""
    xp, shift = array_namespace(b), shift[..., None]

    def product(x):
        return kron_matvec(x, *map(hermitian_part, factors), columns=1) + shift * x

    def solve(c, factors):
        values, vectors = eigenpairs(factors)
        c = kron_matvec(c, *map(adjoint, vectors), columns=1)
        c = divided(c, outer(values, xp.multiply) + shift, "(⊗K + shift)", 1)
        return kron_matvec(c, *vectors, columns=1)

    return implicitly(product, solve, b, factors)


@in_single
def shifted_solve_vjp(cotangent, b, shift, *factors, wrt):
    """Pull back: the same solve for b; its product with x for the shift; for the factors, too."""
    of_b = shifted_solve(cotangent, shift, *factors)
    x = shifted_solve(b, shift, *factors)
    factors = tuple(map(hermitian_part, factors))
    _, *others = kron_matvec_vjp(-of_b, x, *factors, columns=1, wrt=wrt)
    others = [None if gradient is None else hermitian_part(gradient) for gradient in others]
    return (
        summed_to(of_b, tuple(b.shape)) if "b" in wrt else None,
        of_shift(of_b, x, shift) if "shift" in wrt else None,
        *others,
    )


def of_shift(of_b, x, shift):
    """Return the gradient for the shift: -Re⟨x, (M⁻¹ cotangent)⟩ in each item, added up."""
    xp = array_namespace(x)
    products = xp.conj(x) * of_b if xp.isdtype(x.dtype, "complex floating") else x * of_b
    products = -xp.sum(products, axis=-1)
    if xp.isdtype(x.dtype, "complex floating"):
        products = xp.real(products)
    return as_array(summed_to(products, tuple(shift.shape)))


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


@in_single
def kronsum_solve(b, *factors, shift, method, columns):
    """Solve by diagonal or triangular forms of the factors.

    With method "auto" (of NumPy's arrays), by eigenvectors if those are well-conditioned.
    """
    forms = None
    if method == "auto":
        forms = [_eig(factor) for factor in factors]
        method = "eig" if are_well_conditioned([v for _, v in forms]) else "schur"
    if method == "schur":
        return _by_schur(b, factors, shift, columns)
    if method == "eigh":
        factors = tuple(map(hermitian_part, factors))

    def product(x):
        return kronsum_matvec(x, *factors, columns=columns) + shift * x

    def solve(c, some):
        if method == "eigh":
            return _by_eigh(c, some, shift, columns)
        known = forms if some is factors else None
        return _by_eig(c, some, shift, columns, known or [_eig(factor) for factor in some])

    return implicitly(product, solve, b, factors)


@in_single
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


@in_single
def kronsum_slogdet(*factors, shift):
    """Multiply the sums of eigenvalues, which are those of the sum."""
    xp = array_namespace(*factors)
    is_real = xp.isdtype(factors[0].dtype, "real floating") and not isinstance(shift, complex)
    total = outer([_eig(factor)[0] for factor in factors], xp.add) + shift
    sizes = xp.abs(total)
    safe = xp.where(sizes > 0, sizes, xp.ones_like(sizes))
    sign = xp.prod(total / safe, axis=-1)
    logarithms = xp.where(sizes > 0, xp.log(safe), xp.full_like(sizes, -xp.inf))
    sign = xp.sign(xp.real(sign)) if is_real else sign
    return as_array(sign), as_array(xp.sum(logarithms, axis=-1))


@in_single
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


@in_single
def kronsum_expm_multiply(x, *factors, t):
    """Multiply by the Kronecker product of the factors' exponentials."""
    return kron_matvec(x, *exponentials(*factors, t=t), columns=1)


@in_single
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
        sizes, eps = xp.abs(values), float(xp.finfo(values.dtype).eps)
        least, most = xp.min(sizes, axis=-1), xp.max(sizes, axis=-1)
        is_singular = ~(least > eps * most) & xp.isfinite(most)  # each item by itself
        if bool(xp.any(is_singular)):
            first = int(xp.argmax(xp.astype(xp.reshape(is_singular, (-1,)), xp.int8)))
            least, most = (float(xp.reshape(part, (-1,))[first]) for part in (least, most))
            raise np.linalg.LinAlgError(
                f"{what} is singular to working precision: its eigenvalues are from {least:.3g} "
                f"to {most:.3g} in absolute value. Another shift would make it regular."
            )
    if columns > 1:
        wide = xp.broadcast_to(values[..., None], (*values.shape, columns))
        values = xp.reshape(wide, (*values.shape[:-1], values.shape[-1] * columns))
    with np.errstate(invalid="ignore"):  # NaN of one item
        return c / values


def eigenpairs(factors):
    """Return eigenvalues and eigenvectors of the factors' Hermitian parts."""
    xp = array_namespace(*factors)
    return zip(*(of_finite(xp.linalg.eigh, hermitian_part(a)) for a in factors), strict=True)


def singular_parts(factors):
    """Return left singular vectors, singular values and right ones of the factors."""
    svd = partial(array_namespace(*factors).linalg.svd, full_matrices=False)
    return zip(*(of_finite(svd, a) for a in factors), strict=True)


def of_finite(decompose, a):
    """Decompose matrices; what those with NaN or an infinity have is NaN.

    (LAPACK, as NumPy and torch call it, would raise for all matrices of a batch.)
    """
    xp = array_namespace(a)
    if is_jax_array(a) or is_cupy_array(a) or not is_concrete(a):
        return decompose(a)
    is_finite = xp.all(xp.isfinite(a), axis=(-2, -1))
    if bool(xp.all(is_finite)):
        return decompose(a)

    def spoiled(part):
        mask = xp.reshape(is_finite, (*is_finite.shape, *[1] * (part.ndim - is_finite.ndim)))
        return xp.where(mask, part, xp.full_like(part, xp.nan))

    cleared = xp.where(is_finite[..., None, None], a, xp.zeros_like(a))
    return tuple(spoiled(part) for part in decompose(cleared))


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
            type(array) in (torch.Tensor, torch.nn.Parameter)  # no shape alone
            and array.device.type != "meta"
            and not torch.compiler.is_compiling()
            and not torch._C._are_functorch_transforms_active()
        )
    return True


def is_differentiated(*arrays):
    """Tell whether torch watches what is computed with some of its tensors."""
    if not any(map(is_torch_array, arrays)):
        return False
    import torch

    return (
        (torch.is_grad_enabled() and any(array.requires_grad for array in arrays))
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


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
    values, vectors = eigenpairs(factors)
    c = kron_matvec(b, *map(adjoint, vectors), columns=columns)
    c = divided(c, outer(values, xp.add) + shift, "the Kronecker sum", columns)
    return kron_matvec(c, *vectors, columns=columns)


def _by_eig(b, factors, shift, columns, forms):
    """Solve in the eigenvectors' basis, and once more for the residual."""
    xp = array_namespace(b)
    values, vectors = map(list, zip(*forms, strict=True))
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
    if is_differentiated(b, *factors):
        raise TypeError(
            "method='schur' works on NumPy's arrays, which carry no gradients; for gradients "
            "by the reference engine, and for second ones, use method='eig' or 'eigh'."
        )
    x = solve_by_schur(_on_host(b), tuple(map(_on_host, factors)), shift, columns)
    return _from_host(x, b)


def _eig(a):
    """Return eigenvalues and eigenvectors of any matrix, complex."""
    return of_finite(_eig_of_finite, a)


def _eig_of_finite(a):
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
