"""Reference engine of the projection: a batched singular value decomposition of the slices.

Slices are (..., l, k, s, p), T[λ, κ, σ, π] = A[σ l + λ, κ p + π]; the terms of a slice are its
leading singular triples.
"""

from array_api_compat import array_namespace, device

from .._xp import adjoint
from ._blocks import places


def project(a, *, blocks, power):
    """Share σ u vᴴ between the factors: σ^power u for L, σ^(1 - power) vᴴ for R."""
    xp = array_namespace(a)
    slices, scale = _scaled(_slices(_at_least_single(a), blocks))
    u, sigma, vh = _leading(slices, places(blocks).terms)
    pivots = _pivots(vh)
    phase = _phase(vh, pivots)
    sigma = scale * sigma[..., None, :]
    columns = u * _as(phase[..., None, :] * sigma**power, u)
    rows = vh * _as(_conjugated(phase)[..., None] * _transposed(sigma) ** (1 - power), u)
    left, right = _factors(columns, rows, blocks)
    return xp.astype(left, a.dtype), xp.astype(right, a.dtype)


def projection_error(a, *, blocks):
    """Relative error from the singular values that are left out."""
    xp = array_namespace(a)
    slices, scale = _scaled(_slices(_at_least_single(a), blocks))
    sigma = xp.linalg.svdvals(slices) * scale[..., 0]
    largest = _largest(sigma, (-3, -2, -1))
    sigma = sigma / xp.where(largest > 0, largest, xp.ones_like(largest))
    ranks = xp.asarray(places(blocks).ranks, device=device(a))[..., None]
    is_left_out = xp.arange(sigma.shape[-1], device=device(a)) >= ranks
    squares = sigma * sigma
    lost = xp.sum(xp.where(is_left_out, squares, 0 * squares), axis=(-3, -2, -1))
    total = xp.sum(squares, axis=(-3, -2, -1))
    error = xp.sqrt(lost / xp.where(total > 0, total, xp.ones_like(total)))
    return error if a.dtype in (xp.float64, xp.complex128) else xp.astype(error, _real(a, xp))


def project_vjp(of_left, of_right, a, *, blocks, power):
    """Pull back through the leading singular triples, the shares of σ and the phase.

    With du and dv split by the other triples b, T̄ = z_u vᴴ + u z_vᴴ + σ̄ u vᴴ and, for σ' = σ_b,

        z_u = Σ_b u_b (σ A_b + σ' B_b) / (σ² - σ'²) + (ū - U Uᴴ ū) / σ,    A = Uᴴ ū,  B = Vᴴ v̄

    (z_v with A and B exchanged); the term of the triple itself is ±(A - B) / 4 σ. The phase adds
    -i h / v_m to the entry v̄_m that it makes real, h = -Im(ūᴴ u + v̄ᴴ v).
    """
    xp = array_namespace(a)
    slices, scale = _scaled(_slices(_at_least_single(a), blocks))
    terms = places(blocks).terms
    u_all, sigma_all, vh_all = xp.linalg.svd(slices, full_matrices=False)
    count = min(terms, sigma_all.shape[-1])
    pivots = _pivots(vh_all[..., :count, :])
    phase = _phase(vh_all, _pivots(vh_all))
    u_all = u_all * _as(phase[..., None, :], u_all)
    v_all = adjoint(vh_all * _as(_conjugated(phase)[..., None], u_all))
    u, v, sigma = u_all[..., :count], v_all[..., :count], sigma_all[..., None, :count]
    floor = sigma_all.shape[-1] * float(xp.finfo(sigma.dtype).eps) * sigma_all[..., None, :1]
    is_there = sigma > floor
    safe = xp.where(is_there, sigma, xp.ones_like(sigma))

    bar_left, bar_right = (xp.astype(x, u.dtype) for x in (of_left, of_right))
    columns, rows = _terms(bar_left, bar_right, blocks)
    columns = columns[..., :count] * _as(scale**power, u)
    rows = _conjugated(_transposed(rows[..., :count, :])) * _as(scale ** (1 - power), u)
    of_sigma = power * safe ** (power - 1) * _inner(columns, u)
    of_sigma = of_sigma + (1 - power) * safe**-power * _inner(rows, v)
    of_u, of_v = columns * _as(safe**power, u), rows * _as(safe ** (1 - power), u)
    if xp.isdtype(a.dtype, "complex floating"):
        turn = -(_inner(of_u, u, xp.imag) + _inner(of_v, v, xp.imag))
        at = _transposed(_one_hot(pivots, v.shape[-2]))
        height = xp.sum(xp.where(at, xp.abs(v), 0 * xp.abs(v)), axis=-2, keepdims=True)
        of_v = of_v - 1j * _as(at, u) * _as(turn / height, u)

    a_b, b_b = xp.matmul(adjoint(u_all), of_u), xp.matmul(adjoint(v_all), of_v)
    others = sigma_all[..., :, None]
    gap = (sigma - others) * (sigma + others)
    own = xp.arange(sigma_all.shape[-1], device=device(a))[:, None] == xp.arange(
        count, device=device(a)
    )
    is_other = ~own & (xp.abs(gap) > 0)
    weight = xp.where(is_other, 1 / xp.where(is_other, gap, xp.ones_like(gap)), 0 * gap)
    itself = _as(xp.where(own, 0.25 / safe, 0 * gap), u) * (a_b - b_b)
    weight, near, far = _as(weight, u), _as(sigma, u), _as(others, u)
    inverse = _as(1 / safe, u)
    z_u = xp.matmul(u_all, weight * (near * a_b + far * b_b) + itself)
    z_u = z_u + (of_u - xp.matmul(u_all, a_b)) * inverse
    z_v = xp.matmul(v_all, weight * (near * b_b + far * a_b) - itself)
    z_v = z_v + (of_v - xp.matmul(v_all, b_b)) * inverse
    mask = _as(is_there, u)
    gradient = xp.matmul((z_u + u * _as(of_sigma, u)) * mask, adjoint(v))
    gradient = gradient + xp.matmul(u * mask, adjoint(z_v))
    return xp.astype(_joined(gradient / _as(scale, u), a.shape, blocks), a.dtype)


def _slices(a, blocks):
    """Read A, padded by zeros, as (..., l, k, s, p)."""
    xp = array_namespace(a)
    k, _, p, count, rows, _ = blocks
    batch = a.shape[:-2]
    for axis, size in ((-2, rows * count), (-1, k * p)):
        if a.shape[axis] < size:
            shape = [*a.shape]
            shape[axis] = size - a.shape[axis]
            a = xp.concat([a, xp.zeros(tuple(shape), dtype=a.dtype, device=device(a))], axis=axis)
    a = xp.reshape(a, (*batch, rows, count, k, p))
    lead = range(len(batch))
    n = len(batch)
    return xp.permute_dims(a, (*lead, n + 1, n + 2, n, n + 3))


def _joined(slices, shape, blocks):
    """Undo `_slices`."""
    xp = array_namespace(slices)
    k, _, p, count, rows, _ = blocks
    n = slices.ndim - 4
    a = xp.permute_dims(slices, (*range(n), n + 2, n, n + 1, n + 3))
    a = xp.reshape(a, (*slices.shape[:n], rows * count, k * p))
    return a[..., : shape[-2], : shape[-1]]


def _scaled(slices):
    """Divide each slice by its largest entry: squares neither overflow nor vanish."""
    xp = array_namespace(slices)
    scale = _largest(xp.abs(slices), (-2, -1))[..., None, None]
    scale = xp.where(scale > 0, scale, xp.ones_like(scale))
    return slices / _as(scale, slices), scale


def _leading(slices, terms):
    """Return the leading singular triples, zeros where there are fewer than `terms`."""
    xp = array_namespace(slices)
    u, sigma, vh = xp.linalg.svd(slices, full_matrices=False)
    u, sigma, vh = u[..., :terms], sigma[..., :terms], vh[..., :terms, :]
    missing = terms - sigma.shape[-1]
    if missing:
        u, vh = _widened(u, missing, -1), _widened(vh, missing, -2)
        sigma = _widened(sigma, missing, -1)
    return u, sigma, vh


def _widened(x, missing, axis):
    xp = array_namespace(x)
    shape = [*x.shape]
    shape[axis] = missing
    return xp.concat([x, xp.zeros(tuple(shape), dtype=x.dtype, device=device(x))], axis=axis)


def _pivots(vh):
    """Find the largest entry of each row; of those that are as good as equal, the first."""
    xp = array_namespace(vh)
    size = xp.abs(vh)
    limit = 1 - float(xp.finfo(vh.dtype).eps) ** 0.5
    is_largest = size >= limit * xp.max(size, axis=-1, keepdims=True)
    return xp.argmax(xp.astype(is_largest, xp.int8), axis=-1)


def _one_hot(pivots, size):
    xp = array_namespace(pivots)
    return xp.arange(size, device=device(pivots)) == pivots[..., None]


def _phase(vh, pivots):
    """Return the sign or phase of the pivot entries; 1 for zeros."""
    xp = array_namespace(vh)
    entry = xp.sum(xp.where(_one_hot(pivots, vh.shape[-1]), vh, 0 * vh), axis=-1)
    size = xp.abs(entry)
    is_there = size > 0
    size = xp.where(is_there, size, xp.ones_like(size))
    return xp.where(is_there, entry / _as(size, vh), xp.ones_like(entry))


def _factors(columns, rows, blocks):
    """Put columns (..., l, k, s, terms) and rows (..., l, k, terms, p) where they belong."""
    xp = array_namespace(columns)
    k, q, p, count, height, inner = blocks
    batch, found = columns.shape[:-4], places(blocks)
    columns = xp.reshape(_transposed(columns), (*batch, -1, height))
    left = _taken(columns, found.left, xp)
    left = _transposed(xp.reshape(left, (*batch, count, inner, height)))
    right = _taken(xp.reshape(rows, (*batch, -1, p)), found.right, xp)
    return left, xp.reshape(right, (*batch, k, q, p))


def _terms(left, right, blocks):
    """Undo `_factors`; zeros where a slice has fewer terms."""
    xp = array_namespace(left)
    k, q, p, count, height, inner = blocks
    batch, found = left.shape[:-3], places(blocks)
    columns = xp.reshape(_transposed(left), (*batch, count * inner, height))
    columns = _taken(_widened(columns, 1, -2), found.of_left % (count * inner + 1), xp)
    rows = _widened(xp.reshape(right, (*batch, k * q, p)), 1, -2)
    rows = _taken(rows, found.of_right % (k * q + 1), xp)
    columns = _transposed(xp.reshape(columns, (*batch, count, k, found.terms, height)))
    return columns, xp.reshape(rows, (*batch, count, k, found.terms, p))


def _taken(x, which, xp):
    return xp.take(x, xp.asarray(which.reshape(-1), device=device(x)), axis=-2)


def _inner(x, y, part=None):
    """Return Re(xᴴ y) of the columns, or another part of it."""
    xp = array_namespace(x)
    product = xp.sum(_conjugated(x) * y, axis=-2, keepdims=True)
    if not xp.isdtype(x.dtype, "complex floating"):
        return product
    return (part or xp.real)(product)


def _largest(x, axes):
    xp = array_namespace(x)
    return xp.max(x, axis=axes)


def _at_least_single(a):
    xp = array_namespace(a)
    known = (xp.float32, xp.float64, xp.complex64, xp.complex128)
    return a if a.dtype in known else xp.astype(a, xp.float32)


def _real(a, xp):
    return xp.float32 if a.dtype == xp.complex64 else a.dtype


def _as(x, like):
    xp = array_namespace(like)
    return x if x.dtype == like.dtype else xp.astype(x, like.dtype)


def _transposed(x):
    xp = array_namespace(x)
    return xp.permute_dims(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def _conjugated(x):
    xp = array_namespace(x)
    return xp.conj(x) if xp.isdtype(x.dtype, "complex floating") else x
