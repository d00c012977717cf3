"""The nearest Monarch matrix to a dense one: truncated singular value decompositions of its slices.

Source: Theorem 1 and Algorithm 1 of arXiv:2204.00595, for general block sizes (k, q, p, l, s, r).
The slice (λ, κ) of A is the s × p matrix A[σ l + λ, κ p + π] over (σ, π); see `_blocks`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from array_api_compat import array_namespace

from .. import _checks
from .._engine import Engines
from .._xp import adjoint
from ._blocks import Blocks, resolved
from ._operators import Monarch
from ._stacks import scaled, single, transposed

engine = Engines(__package__)

_GAUGES = ("balanced", "left", "right")
_METHODS = ("auto", "svd")
_SWEEPS = 10_000  # of a weighted projection: a safeguard


class ProjectionGradients(NamedTuple):
    """Gradients of `project`.

    Parameters
    ----------
    a : array, shape (..., m, n)
        With respect to the matrix.
    """

    a: Any


@engine.eager
def project(
    a: Any,
    /,
    *,
    nblocks: int | None = None,
    blocks: Sequence[int] | None = None,
    rank: int = 1,
    gauge: str = "balanced",
    weight: Any = None,
    method: str = "auto",
    rtol: float = 1e-6,
) -> Monarch:
    """Find the nearest Monarch matrix to a dense one.

    Parameters
    ----------
    a : array, shape (..., m, n)
        The matrix, of any shape; batch axes lead.
    nblocks : int, optional
        The number of blocks of each factor: k = l = `nblocks`.
    blocks : (int, int, int, int, int, int), optional
        All block sizes (k, q, p, l, s, r), instead of `nblocks` and `rank`: k q = l r, k p ≥ n and
        l s ≥ m. Without either, what `choose_blocks` gives for the shape.
    rank : int, optional
        The rank of each slice.
    gauge : {"balanced", "left", "right"}, optional
        Which factor has the singular values: both their square roots, or one of them all.
    weight : array, shape (n, n) or (..., n, n), optional
        A covariance C = E[x xᴴ] of inputs: minimises the mean of ‖A x − M x‖² instead.
    method : {"auto", "svd"}, optional
        "svd" decomposes all slices completely; "auto" finds only the terms that are wanted, where
        the engine can and it is faster. The results agree to rounding.
    rtol : float, optional
        A weighted projection ends when a sweep decreases the squared error by less than this part
        of it.

    Returns
    -------
    Monarch
        An operator of the shape of `a` (what blocks have beyond it is cut off) and its dtype, with
        the factors `left` (..., l, s, r) and `right` (..., k, q, p).

    Raises
    ------
    ValueError
        `a` is no matrix, has NaN or infinite entries, or block sizes do not fit its shape; `rank`
        is more than the slices can have; `weight` is not Hermitian and semidefinite.
    TypeError
        `a` is not numeric, or its values are not there (under ``jit``).

    See Also
    --------
    projection_error : Only the error, without factors.
    project_vjp : Its gradient.
    choose_blocks : Block sizes for a shape or a number of parameters.
    lstsq : The operator that fits pairs of inputs and outputs.

    Notes
    -----
    The l k slices of A, each s × p, are approximated one by one (Theorem 1 of [1]_)::

        T[σ, π] = A[σ l + λ, κ p + π] ≈ Σ_a σ_a u_a v_aᴴ
        L[λ, :, ρ_a] = √σ_a u_a,   R[κ, θ_a, :] = √σ_a v_aᴴ    with κ q + θ_a = ρ_a l + λ

    with as many terms as the slice has (ρ, θ): ⌊q/l⌋ or ⌈q/l⌉. The squared error is the sum of the
    squares of all σ left out, and no Monarch matrix of these sizes has a smaller one; here it is
    within 1e-12 of that (float64; 1e-6 in float32), relatively, or at the level of rounding if A is
    itself such a matrix. The first of the entries of v_a that are largest, but for rounding, is
    real and positive. Of equal singular values any choice is as good; then only the error can be
    compared. Slices of zeros give zeros. Each slice is scaled on its own, so entries of 1e-150 and
    1e150 keep their accuracy.

    A full decomposition takes O(m n min(s, p)) operations; the terms alone take products with Gram
    matrices, 5 to 10 times faster for one term: so NumPy arrays and torch tensors on CPUs are
    projected, others always by full decompositions. A weighted projection has no closed form: it
    alternates between the factors, as `lstsq` does, from the unweighted one. Its error never rises.
    A sweep takes O(l (r p)³) operations, which is O(n^3.5) for square blocks: it is for matrices of
    some hundred columns. Half precision is computed in single precision; with the gauge "left" or
    "right" a singular value beyond 65,504 can be infinite in float16. Torch differentiates what has
    no weight by the formula of `project_vjp`.

    References
    ----------
    .. [1] T. Dao et al., "Monarch: Expressive Structured Matrices for Efficient and Accurate
       Training", ICML 2022, arXiv:2204.00595.

    Examples
    --------
    Every Kronecker product is a Monarch matrix:

    >>> import numpy as np
    >>> from linalgkit import monarch
    >>> rng = np.random.default_rng(0)
    >>> a = np.kron(rng.standard_normal((8, 8)), rng.standard_normal((8, 8)))
    >>> m = monarch.project(a, nblocks=8)
    >>> m.left.shape, m.right.shape
    ((8, 8, 8), (8, 8, 8))
    >>> np.allclose(m.to_dense(), a)
    True
    """
    _checks.present(a=a)
    a, weight = _checks.arrays(a=a, weight=weight)
    (a,) = _checks.floating(a=a)
    _checks.concrete("project", "gradients of monarch_matmul", a=a, weight=weight)
    sizes = _checked(a, nblocks, blocks, rank)
    _checks.choice("gauge", gauge, _GAUGES)
    _checks.choice("method", method, _METHODS)
    _checks.number("rtol", rtol, 0)
    if weight is not None:
        weight = _checked_weight(weight, a)
        wide, weight = _checks.floating(a=single(a), weight=weight)
        a = _checks.as_dtype_of(_reweighted(wide, weight, sizes, rtol), a)
    left, right = engine(a).project(a, blocks=sizes, gauge=gauge, method=method)
    return Monarch(left, right, shape=tuple(a.shape[-2:]))


@engine.eager
def projection_error(
    a: Any,
    /,
    *,
    nblocks: int | None = None,
    blocks: Sequence[int] | None = None,
    rank: int = 1,
) -> Any:
    """Compute how far the nearest Monarch matrix is, without making it.

    Parameters
    ----------
    a : array, shape (..., m, n)
        As for `project`.
    nblocks : int, optional
        As for `project`.
    blocks : (int, int, int, int, int, int), optional
        As for `project`.
    rank : int, optional
        As for `project`.

    Returns
    -------
    array, shape (...)
        ‖A − M‖ / ‖A‖ in the Frobenius norm, for each matrix; 0 for a matrix of zeros.

    Raises
    ------
    ValueError
        `a` is no matrix, has NaN or infinite entries, or block sizes do not fit its shape.
    TypeError
        `a` is not numeric, or its values are not there (under ``jit``).

    See Also
    --------
    project : The nearest matrix.

    Notes
    -----
    ::

        ‖A − M‖² = Σ σ_a²   over all slices and the singular values a that are left out

    It is a sum of what is left out, not a difference of norms: right also where A is a Monarch
    matrix but for a relative error of 1e-12, and about eps where it is one.

    Examples
    --------
    A Hadamard matrix is a Monarch matrix; that of the Fourier transform is one after a permutation:

    >>> import numpy as np
    >>> from scipy.linalg import hadamard
    >>> from linalgkit import monarch
    >>> bool(monarch.projection_error(hadamard(64), nblocks=8) < 1e-15)
    True
    >>> dft = np.fft.fft(np.eye(64))
    >>> round(float(monarch.projection_error(dft, nblocks=8)), 3)
    0.935
    >>> permuted = dft[:, np.arange(64).reshape(8, 8).T.ravel()]
    >>> bool(monarch.projection_error(permuted, nblocks=8) < 1e-14)
    True
    """
    _checks.present(a=a)
    (a,) = _checks.floating(a=a)
    _checks.concrete("projection_error", "gradients of monarch_matmul", a=a)
    return engine(a).projection_error(a, blocks=_checked(a, nblocks, blocks, rank))


@engine.eager
def project_vjp(
    cotangent: tuple[Any, Any],
    a: Any,
    /,
    *,
    nblocks: int | None = None,
    blocks: Sequence[int] | None = None,
    rank: int = 1,
    gauge: str = "balanced",
) -> ProjectionGradients:
    """Pull gradients of the factors back through `project`.

    Parameters
    ----------
    cotangent : (array, array)
        Gradients with respect to `left` (..., l, s, r) and `right` (..., k, q, p); None for zeros.
    a : array, shape (..., m, n)
        As for `project`.
    nblocks : int, optional
        As for `project`.
    blocks : (int, int, int, int, int, int), optional
        As for `project`.
    rank : int, optional
        As for `project`.
    gauge : {"balanced", "left", "right"}, optional
        As for `project`.

    Returns
    -------
    ProjectionGradients
        Of `a`, in its dtype (the real part, for a real one).

    Raises
    ------
    ValueError
        As for `project`, or the cotangents have not the shapes of the factors.
    TypeError
        `a` is not numeric, or its values are not there (under ``jit``).

    See Also
    --------
    project : The projection; this is for the one without weight.

    Notes
    -----
    By the derivatives of singular values and vectors, with the phase that `project` gives them; in
    each slice, with i over all directions but a::

        dσ_a = Re u_aᴴ dT v_a
        du_a = Σ_i u_i (σ_a u_iᴴ dT v_a + σ_i v_iᴴ dTᴴ u_a) / (σ_a² − σ_i²)

    There is no derivative of a term whose σ_a is zero or equal to another of its slice, kept or
    not, nor where two entries of v_a are the largest. Terms in which the denominator vanishes are
    left out; near to that the gradient is as large as one over the difference. Complex gradients
    follow torch's convention.

    Examples
    --------
    Both factors grow by the square root of what A grows by:

    >>> import numpy as np
    >>> from linalgkit import monarch
    >>> a = np.random.default_rng(0).standard_normal((6, 4))
    >>> m = monarch.project(a, nblocks=2)
    >>> gradient = monarch.project_vjp((m.left, None), a, nblocks=2).a
    >>> np.allclose(np.vdot(gradient, a), np.vdot(m.left, m.left) / 2)
    True
    """
    if not isinstance(cotangent, Sequence) or len(cotangent) != 2:
        raise ValueError(f"cotangent must be (left, right); got {type(cotangent).__name__}.")
    original, alternative = a, "gradients of monarch_matmul"
    of_left, of_right = cotangent
    _checks.present(a=a)
    of_left, of_right, a = _checks.floating(cotangent_left=of_left, cotangent_right=of_right, a=a)
    _checks.concrete("project_vjp", alternative, a=a, cotangent=of_left, second=of_right)
    sizes = k, q, p, count, rows, inner = _checked(a, nblocks, blocks, rank)
    _checks.choice("gauge", gauge, _GAUGES)
    for name, array, shape in (
        ("left", of_left, (count, rows, inner)),
        ("right", of_right, (k, q, p)),
    ):
        expected = (*a.shape[:-2], *shape)
        if array is not None and tuple(array.shape) != expected:
            raise ValueError(
                f"the cotangent of the {name} factor must have its shape {expected}; "
                f"got {tuple(array.shape)}."
            )
    gradient = engine(a).project_vjp((of_left, of_right), a, blocks=sizes, gauge=gauge)
    return ProjectionGradients(_checks.as_dtype_of(gradient, original))


def _checked(a: Any, nblocks: int | None, blocks: Sequence[int] | None, rank: int) -> Blocks:
    """Return the block sizes; ValueError unless they and `a` are fit."""
    if a.ndim < 2:
        raise ValueError(f"a must have shape (..., rows, columns); got {tuple(a.shape)}.")
    sizes = resolved(tuple(a.shape[-2:]), nblocks, blocks, rank)
    _checks.finite(a=a)
    return sizes


def _checked_weight(weight: Any, a: Any) -> Any:
    """Return the weight with the batch axes of `a`; ValueError unless it can be a covariance."""
    xp = array_namespace(a)
    (weight,) = _checks.floating(weight=weight)
    weight = single(weight)
    shape = (*a.shape[:-2], a.shape[-1], a.shape[-1])
    if tuple(weight.shape) not in (shape, shape[-2:]):
        raise ValueError(
            f"weight must have shape {shape[-2:]}{f' or {shape}' if a.ndim > 2 else ''}, for the "
            f"columns of a; got {tuple(weight.shape)}."
        )
    _checks.finite(weight=weight)
    if 0 in weight.shape:
        return xp.broadcast_to(weight, shape)
    limit = 100 * weight.shape[-1] * float(xp.finfo(weight.dtype).eps)
    most = float(xp.max(xp.abs(weight)))
    if float(xp.max(xp.abs(weight - adjoint(weight)))) > limit * most:
        raise ValueError("weight must be Hermitian (symmetric, if real), as covariances are.")
    if float(xp.min(xp.linalg.eigvalsh(weight))) < -limit * most:
        raise ValueError("weight must be positive semidefinite; it has a negative eigenvalue.")
    if not xp.isdtype(a.dtype, "complex floating"):  # then only the real part counts
        weight = xp.real(weight) if xp.isdtype(weight.dtype, "complex floating") else weight
    return xp.broadcast_to(weight, shape)


def _reweighted(a: Any, weight: Any, blocks: Blocks, rtol: float) -> Any:
    """Return the dense matrix that alternating least squares comes to from the projection."""
    from ._fitting import lstsq  # which starts at projections itself

    xp = array_namespace(a)
    if a.ndim > 2:
        parts = [_reweighted(a[i, ...], weight[i, ...], blocks, rtol) for i in range(a.shape[0])]
        return xp.stack(parts) if parts else a
    a, root = scaled(a, (-2, -1))
    weight, _ = scaled(weight, (-2, -1))  # by any number: the minimum is in the same place
    factors = engine(a).project(a, blocks=blocks, gauge="balanced", method="auto")
    start = Monarch(*factors, shape=tuple(a.shape))
    values, vectors = xp.linalg.eigh(weight)
    values = xp.where(values > 0, values, xp.zeros_like(values))
    # The rows of X are samples of that covariance: with C = V w Vᴴ, X = √w Vᵀ.
    x = xp.astype(xp.sqrt(values), a.dtype)[:, None] * transposed(vectors)
    dense = lstsq(x, xp.matmul(x, transposed(a)), x0=start, tol=rtol, maxiter=_SWEEPS).x.to_dense()
    return dense * root * root
