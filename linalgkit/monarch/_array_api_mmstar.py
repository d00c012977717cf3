"""Reference engine of the MM* factorisation.

Z[i, j] (m × m) are the blocks of P A P: Z[i, j, a, b] = A[a m + i, b m + j], and the factorisation
is Z[i, j] = L1[i] diag(R[:, i, j]) L2[j].
"""

import numpy as np
from array_api_compat import array_namespace, device

from .._operator import _on_host
from .._xp import adjoint, compiled
from ._stacks import ones_for_zeros, scaled, solve


def factorize_mmstar(a, *, allow_complex, sweeps, rng):
    """Factors by a joint eigenbasis, refined by alternating least squares while they improve."""
    xp = array_namespace(a)
    blocks, values, root, norm = _with_singular_values(a)
    norm = float(norm)
    row, column = _pivots(values, blocks.dtype)
    basis = _joint_basis(blocks, row, column, allow_complex, rng)
    if basis.dtype != blocks.dtype:
        blocks = xp.astype(blocks, basis.dtype)
    *factors, error = _in_basis(blocks, basis, row, column)
    for _ in range(sweeps):
        *better, new = _sweep(blocks, *factors)
        if not float(new) < float(error):
            break
        factors, error = better, new
    left, middle, right = factors
    return left, middle * root * root, right, float(error) / norm if norm else 0.0


@compiled()
def _with_singular_values(a):
    """Return the blocks of P A P scaled, their singular values, the root of the scale, the norm."""
    xp, m = array_namespace(a), round(a.shape[-1] ** 0.5)
    a, root = scaled(a, (0, 1))
    blocks = xp.permute_dims(xp.reshape(a, (m, m, m, m)), (1, 3, 0, 2))
    return blocks, xp.linalg.svdvals(blocks), root[..., None], xp.linalg.vector_norm(a)


def _pivots(values, dtype):
    """Choose the row and the column of blocks that are the furthest from singular."""
    xp = array_namespace(values)
    eps = float(xp.finfo(dtype).eps)
    values = np.asarray(_on_host(values), dtype=np.float64)
    largest = values[..., 0]
    inverse_condition = np.divide(
        values[..., -1], largest, out=np.zeros_like(largest), where=largest > 0
    )
    row, column = inverse_condition.min(axis=1).argmax(), inverse_condition.min(axis=0).argmax()
    limit = values.shape[-1] * eps
    for name, line, place in (
        ("row", inverse_condition[row], lambda k: (row, k)),
        ("column", inverse_condition[:, column], lambda k: (k, column)),
    ):
        if line.size and line.min() <= limit:
            i, j = place(line.argmin())
            raise np.linalg.LinAlgError(
                f"every {name} of blocks of P A P has a singular block, block ({i}, {j}) in the "
                f"best: its inverse condition number is {line.min():.1e}. The factorisation needs "
                f"one row and one column of blocks that can be inverted."
            )
    return int(row), int(column)


def _joint_basis(blocks, row, column, allow_complex, rng):
    """Eigenvectors V that the matrices Z[i, c]⁻¹ Z[i, j] Z[r, j]⁻¹ Z[r, c] have in common.

    Each is C⁻¹ D C with D diagonal and C = L2[c], so V = C⁻¹ up to a scaling of its columns.
    """
    xp, m = array_namespace(blocks), blocks.shape[-1]
    family, sizes = _family(blocks, row, column)
    weights, sizes = rng.standard_normal((m, m)), np.asarray(_on_host(sizes), dtype=np.float64)
    weights = np.divide(weights, sizes, out=np.zeros_like(weights), where=sizes > 0)
    weights = xp.asarray(weights, dtype=_real_dtype(family), device=device(blocks))
    mixture = np.asarray(_on_host(_mixed(family, weights)))
    eps = float(xp.finfo(blocks.dtype).eps)
    values, vectors = np.linalg.eig(mixture.astype(np.result_type(mixture, np.float64)))
    tolerance = np.sqrt(eps) * max(np.abs(values).max(initial=0), eps)
    if mixture.dtype.kind != "c":
        if np.abs(values.imag).max(initial=0) <= tolerance:
            values = values.real
        elif not allow_complex:
            number = int((np.abs(values.imag) > tolerance).sum())
            raise np.linalg.LinAlgError(
                f"{number} of {m} eigenvalues that the blocks share are complex, in pairs, so the "
                f"real matrix has no real factors; allow_complex=True gives complex ones."
            )
    basis = _separated(mixture, values, vectors, tolerance)
    dtype = np.result_type(mixture.dtype, np.complex64 if basis.dtype.kind == "c" else np.float32)
    return xp.asarray(basis.astype(dtype), device=device(blocks))


@compiled()
def _family(blocks, row, column):
    """Return the matrices, and their norms."""
    xp = array_namespace(blocks)
    half = solve(blocks[:, column, ...][:, None, ...], blocks)  # Z[i, c]⁻¹ Z[i, j]
    rest = solve(blocks[row, ...], blocks[row, column, ...])
    family = xp.matmul(half, rest[None, ...])
    return family, xp.linalg.vector_norm(family, axis=(-2, -1))


@compiled()
def _mixed(family, weights):
    return array_namespace(family).sum(family * weights[:, :, None, None], axis=(0, 1))


def _separated(matrix, values, vectors, tolerance):
    """Eigenvectors, but an orthonormal basis for eigenvalues that lie within `tolerance`.

    There the family is a multiple of the identity as a rule, and any basis will do, but single
    eigenvectors of nearly equal eigenvalues can be nearly parallel.
    """
    order = np.lexsort((values.imag, values.real))
    values, vectors = values[order], vectors[:, order]
    groups = []
    for k, value in enumerate(values):
        near = next((g for g in groups if abs(values[g[0]] - value) <= tolerance), None)
        if near is None:
            groups.append([k])
        else:
            near.append(k)
    basis = np.empty(vectors.shape, dtype=np.result_type(values, matrix))
    for group in groups:
        if len(group) == 1:
            column = vectors[:, group]
            basis[:, group] = column if basis.dtype.kind == "c" else column.real
        else:
            shifted = matrix - values[group].mean() * np.eye(len(values))
            basis[:, group] = np.linalg.svd(shifted)[2][-len(group) :].conj().T
    return basis


@compiled()
def _in_basis(blocks, basis, row, column):
    """Return the factors, normalised, that V gives, and their error."""
    left = array_namespace(blocks).matmul(blocks[:, column, ...], basis)
    right = solve(left[row, ...], blocks[row, ...])  # (j, t, b)
    factors = _normalised(left, _diagonals(blocks, left, right), right)
    return *factors, _error(blocks, *factors)


@compiled()
def _sweep(blocks, left, middle, right):
    """Improve each factor by the least squares of what remains: never worse but for rounding.

    Returns the factors, normalised, and their error.
    """
    xp = array_namespace(blocks)
    remains = blocks - _product(left, middle, right)
    design = _apart(middle) * right[None, ...]  # (i, j, t, b)
    left = left + _step(_beside(remains, 1), _beside(design, 1))
    remains = blocks - _product(left, middle, right)
    design = left[:, None, ...] * _across(middle)  # (i, j, a, t)
    order = (1, 0, 3, 2)
    flipped = _step(
        _beside(xp.permute_dims(remains, order), 1), _beside(xp.permute_dims(design, order), 1)
    )
    right = right + xp.permute_dims(flipped, (0, 2, 1))
    remains = blocks - _product(left, middle, right)
    factors = _normalised(left, middle + _diagonals(remains, left, right), right)
    return *factors, _error(blocks, *factors)


def _step(target, design):
    """Minimise ‖target − X design‖ over X, for each matrix of the stacks."""
    xp = array_namespace(target)
    gram = xp.matmul(design, adjoint(design))
    return xp.matmul(xp.matmul(target, adjoint(design)), xp.linalg.pinv(gram))


def _diagonals(blocks, left, right):
    """Minimise ‖Z[i, j] − L1[i] diag(d) L2[j]‖ over d, for each i and j: R as (t, i, j)."""
    xp = array_namespace(blocks)
    first, second = xp.matmul(adjoint(left), left), xp.matmul(right, adjoint(right))
    gram = first[:, None, ...] * xp.permute_dims(second, (0, 2, 1))[None, ...]
    projected = xp.matmul(adjoint(left)[:, None, ...], blocks)  # (i, j, t, b)
    conjugate = xp.permute_dims(adjoint(right), (0, 2, 1))
    moments = xp.sum(projected * conjugate[None, ...], axis=-1)
    solved = xp.matmul(xp.linalg.pinv(gram), moments[..., None])[..., 0]
    return xp.permute_dims(solved, (2, 0, 1))


def _normalised(left, middle, right):
    """Give columns of L1 and rows of L2 unit length: R takes what they lose."""
    xp = array_namespace(left)
    columns = ones_for_zeros(xp.linalg.vector_norm(left, axis=-2))  # (i, t)
    rows = ones_for_zeros(xp.linalg.vector_norm(right, axis=-1))  # (j, t)
    scale = xp.permute_dims(columns[:, None, :] * rows[None, :, :], (2, 0, 1))
    return left / columns[:, None, :], middle * scale, right / rows[..., None]


def _error(blocks, left, middle, right):
    xp = array_namespace(blocks)
    return xp.linalg.vector_norm(blocks - _product(left, middle, right))


def _product(left, middle, right):
    xp = array_namespace(left)
    return xp.matmul(left[:, None, ...] * _across(middle), right[None, ...])


def _across(middle):
    """R (t, i, j) as (i, j, 1, t)."""
    return array_namespace(middle).permute_dims(middle, (1, 2, 0))[:, :, None, :]


def _apart(middle):
    """R (t, i, j) as (i, j, t, 1)."""
    return array_namespace(middle).permute_dims(middle, (1, 2, 0))[..., None]


def _beside(matrices, axis):
    """Put the matrices (i, j, a, b) of each i side by side: (i, a, j b)."""
    xp = array_namespace(matrices)
    i, j, rows, columns = matrices.shape
    return xp.reshape(xp.permute_dims(matrices, (0, 2, 1, 3)), (i, rows, j * columns))


def _real_dtype(x):
    xp = array_namespace(x)
    if not xp.isdtype(x.dtype, "complex floating"):
        return x.dtype
    return xp.float32 if x.dtype == xp.complex64 else xp.float64
