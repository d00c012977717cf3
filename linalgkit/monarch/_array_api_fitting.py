"""Reference engine of least squares over Monarch matrices: one exact step for each factor.

Samples are rows: X (N, k p), Y (N, l s), and the model is Y ≈ X Mᵀ. Rows t = ρ l + λ of R belong to
block λ of L, so both steps fall apart into one problem for each λ.
"""

from array_api_compat import array_namespace, device

from .._xp import adjoint, compiled
from ._stacks import conj, transposed


def compressed_samples(x, y):
    """Replace N samples by as many as there are columns: X = Q T, Y by QᴴY, and what that loses."""
    if x.shape[0] <= x.shape[1]:
        return x, y, 0.0
    triangle, kept, lost = _compressed(x, y)
    return triangle, kept, float(lost) ** 2


@compiled()
def _compressed(x, y):
    xp = array_namespace(x)
    q, triangle = xp.linalg.qr(x)
    kept = xp.matmul(adjoint(q), y)
    return triangle, kept, xp.linalg.vector_norm(y - xp.matmul(q, kept))


def improved_factors(x, y, left, right):
    """Minimise ‖Y − X Mᵀ‖² over L, then over R; the factors and the new sum of squares.

    Both steps solve for the change of least norm, from what remains of Y: singular problems need
    no care, and errors of the normal equations are corrected in the next sweep.
    """
    left, right, norm = _improved(x, y, left, right)
    return left, right, float(norm) ** 2


@compiled()
def _improved(x, y, left, right):
    xp = array_namespace(x)
    (k, q, p), (count, _, inner) = right.shape, left.shape
    targets = _by_block(y, left.shape[1], count)  # (l, N, s)
    u = _inner(x, right, count)
    design = adjoint(u)
    change = _least(xp.matmul(design, u), xp.matmul(design, _remains(targets, u, left)))
    left = left + transposed(change)

    remains = _remains(targets, u, left)
    weighted = xp.matmul(remains, conj(left))  # (l, N, r)
    lefts = xp.matmul(adjoint(left), left)
    samples = xp.permute_dims(xp.reshape(x, (-1, k, p)), (1, 0, 2))  # (k, N, p)
    changes = []
    for block in range(count):
        owners = xp.asarray([(rho * count + block) // q for rho in range(inner)], device=device(x))
        parts = xp.take(samples, owners, axis=0)  # (r, N, p)
        columns = xp.reshape(xp.permute_dims(parts, (1, 0, 2)), (-1, inner * p))
        gram = xp.reshape(xp.matmul(adjoint(columns), columns), (inner, p, inner, p))
        gram = gram * lefts[block, :, None, :, None]
        moments = xp.matmul(adjoint(parts), transposed(weighted[block, ...])[..., None])
        size = inner * p
        change = _least(xp.reshape(gram, (size, size)), xp.reshape(moments, (size, 1)))
        changes.append(xp.reshape(change, (inner, p)))
    rows = xp.reshape(xp.stack(changes, axis=1), (k, q, p))  # (r, l, p): t = ρ l + λ
    right = right + rows
    left, right = _balanced(left, right)
    return left, right, _norm_of_remains(x, y, left, right)


def sum_of_squares(x, y, left, right):
    """Return ‖Y − X Mᵀ‖²."""
    return float(_norm_of_remains(x, y, left, right)) ** 2


@compiled()
def _norm_of_remains(x, y, left, right):
    targets = _by_block(y, left.shape[1], left.shape[0])
    remains = _remains(targets, _inner(x, right, left.shape[0]), left)
    return array_namespace(x).linalg.vector_norm(remains)


def _inner(x, right, count):
    """Return X Rᵀ as (l, N, r)."""
    xp = array_namespace(x)
    k, q, p = right.shape
    samples = xp.permute_dims(xp.reshape(x, (-1, k, p)), (1, 0, 2))
    u = xp.permute_dims(xp.matmul(samples, transposed(right)), (1, 0, 2))
    return _by_block(xp.reshape(u, (x.shape[0], k * q)), k * q // count, count)


def _by_block(y, rows, count):
    """Read (N, rows · l) as (l, N, rows)."""
    xp = array_namespace(y)
    return xp.permute_dims(xp.reshape(y, (y.shape[0], rows, count)), (2, 0, 1))


def _remains(targets, u, left):
    return targets - array_namespace(u).matmul(u, transposed(left))


def _least(gram, moments):
    """Solve G d = b for Hermitian semidefinite G with the least norm of d."""
    xp = array_namespace(gram)
    values, vectors = xp.linalg.eigh(gram)
    limit = gram.shape[-1] * float(xp.finfo(gram.dtype).eps) * values[..., -1:]
    is_large = values > limit
    inverse = xp.where(is_large, 1 / xp.where(is_large, values, xp.ones_like(values)), 0 * values)
    inverse = xp.astype(inverse, gram.dtype)[..., None]
    return xp.matmul(vectors, inverse * xp.matmul(adjoint(vectors), moments))


def _balanced(left, right):
    """Give row t of R and its column of L equal norms, which leaves M as it is."""
    xp = array_namespace(left)
    (k, q, _), (count, _, inner) = right.shape, left.shape
    rows = xp.reshape(xp.linalg.vector_norm(right, axis=-1), (inner, count))
    columns = xp.permute_dims(xp.linalg.vector_norm(left, axis=-2), (1, 0))
    usable = (rows > 0) & (columns > 0)
    ones = xp.ones_like(rows)
    factor = xp.sqrt(xp.where(usable, rows, ones) / xp.where(usable, columns, ones))
    left = left * xp.permute_dims(factor, (1, 0))[:, None, :]
    return left, right / xp.reshape(factor, (k, q, 1))
