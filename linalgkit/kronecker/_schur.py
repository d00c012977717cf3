"""Kronecker sums solved in triangular form, on the host: Bartels and Stewart in blocks.

With Schur forms A_k = Q_k T_k Q_kᴴ the equation is ``(T_1 ⊕ ... ⊕ T_d + shift) y = c`` for upper
triangular T_k. The largest mode is halved: the lower half of y is solved first, and taken from the
upper half of c by one matrix product (I. Jonsson and B. Kågström, "Recursive blocked algorithms
for solving triangular systems", ACM TOMS 28, 2002). What remains for LAPACK is small.
"""

from math import prod

import numpy as np
from scipy.linalg import get_lapack_funcs, schur, solve_triangular

from ._modes import modes

_LEAF = 64  # order of the equations of two modes that LAPACK solves
_SLICES = 32  # of those of more modes that are solved slice by slice


def solve_by_schur(b, factors, shift, columns):
    """Solve for every vector of the batch."""
    sizes = tuple(factor.shape[-1] for factor in factors)
    batch = np.broadcast_shapes(*(f.shape[:-2] for f in factors), b.shape[:-1])
    dtype = np.result_type(b, *factors, np.asarray(shift, np.result_type(b)).dtype)
    x = np.empty((*batch, prod(sizes), columns), dtype)
    b = np.broadcast_to(b.reshape(*b.shape[:-1], prod(sizes), columns), x.shape)
    factors = [np.broadcast_to(f, (*batch, *f.shape[-2:])) for f in factors]
    forms = {}
    for index in np.ndindex(batch):
        one = [f[index] for f in factors]
        key = tuple((f.__array_interface__["data"], f.strides) for f in one)
        if key not in forms:  # else a broadcast axis: the same matrices again
            forms = {key: _forms(one, shift)}
        for column in range(columns):
            x[(*index, slice(None), column)] = _solve(forms[key], b[(*index, slice(None), column)])
    return x.reshape(*batch, prod(sizes) * columns)


def _forms(factors, shift):
    """Return Schur forms and bases, real where two real factors are; the shift is in the first."""
    is_real = len(factors) <= 2 and not isinstance(shift, complex)
    output = "real" if is_real and not any(np.iscomplexobj(f) for f in factors) else "complex"
    found = []
    for k, factor in enumerate(factors):
        if k and np.array_equal(factor, factors[0]):
            found.append(found[0])
        else:
            found.append(schur(factor, output=output, check_finite=False))
    triangles = [t for t, _ in found]
    triangles[0] = triangles[0] + shift * np.eye(len(triangles[0]), dtype=triangles[0].dtype)
    return (
        triangles,
        [q for _, q in found],
        np.iscomplexobj(shift) or any(np.iscomplexobj(f) for f in factors),
    )


def _solve(forms, b):
    triangles, bases, is_complex = forms
    sizes = [len(t) for t in triangles]
    y = np.ascontiguousarray(_rotated(b, [q.conj().T for q in bases]).reshape(sizes))
    _solve_triangular(triangles, y)
    x = _rotated(y.reshape(-1), bases)
    return x if is_complex else x.real


def _rotated(x, bases):
    for k, left, right in modes([len(q) for q in bases]):
        shaped = x.reshape(left, len(bases[k]), right)
        x = np.matmul(bases[k], shaped) if right > 1 else shaped[..., 0] @ bases[k].T
    return x.reshape(-1)


def _solve_triangular(triangles, y):
    """Overwrite y, of one axis a mode, by the solution."""
    sizes = y.shape
    k = int(np.argmax(sizes))
    if y.size == 0:
        return
    if len(sizes) == 1:
        y[...] = _regular(triangles[0], y)
    elif len(sizes) == 2 and sizes[k] <= _LEAF:
        _sylvester(*triangles, y)
    elif sizes[k] == 1:  # all ones: what remains is a number
        y /= sum(t[0, 0] for t in triangles)
    elif sizes[k] > 1 and len(sizes) > 2 and sizes[k] <= _SLICES:
        _by_slices(triangles, y)
    else:
        _by_halves(triangles, y, k)


def _by_halves(triangles, y, k):
    t = triangles[k]
    half = len(t) // 2
    half += int(t[half, half - 1] != 0)  # not through a pair of complex eigenvalues
    lower, upper = ((slice(None),) * k + (part,) for part in (slice(half, None), slice(None, half)))
    _solve_triangular([*triangles[:k], t[half:, half:], *triangles[k + 1 :]], y[lower])
    moved = np.moveaxis(y[lower], k, 0)
    update = t[:half, half:] @ moved.reshape(len(moved), -1)
    y[upper] -= np.moveaxis(update.reshape(half, *moved.shape[1:]), 0, k)
    _solve_triangular([*triangles[:k], t[:half, :half], *triangles[k + 1 :]], y[upper])


def _by_slices(triangles, y):
    """Solve for one slice of the first mode after the other, the last one first."""
    first, second, *others = triangles
    for i in reversed(range(len(first))):
        if i + 1 < len(first):
            y[i] -= np.tensordot(first[i, i + 1 :], y[i + 1 :], 1)
        shifted = second + first[i, i] * np.eye(len(second), dtype=second.dtype)
        _solve_triangular([shifted, *others], y[i])


def _regular(t, y):
    is_regular = np.abs(np.diagonal(t)).min() > np.finfo(t.dtype).eps * np.abs(t).max()
    if not is_regular and np.isfinite(t).all():
        _raise_singular()
    if t.dtype.kind == "f" and np.any(np.diagonal(t, -1)):  # a real form of one factor
        return np.linalg.solve(t, y)
    return solve_triangular(t, y, check_finite=False)


def _sylvester(first, second, y):
    """Solve T_1 Y + Y T_2ᵀ = C in place, by LAPACK."""
    (trsyl,) = get_lapack_funcs(("trsyl",), (first, second, y))
    if y.dtype.kind == "c":
        # LAPACK knows no plain transpose of complex matrices: T_2ᵀ = conj(T_2)ᴴ.
        solution, scale, info = trsyl(first, second.conj(), y, tranb="C")
    else:
        solution, scale, info = trsyl(first, second, y, tranb="T")
    if info > 0:
        _raise_singular()
    y[...] = solution * (1 / scale)


def _raise_singular():
    raise np.linalg.LinAlgError(
        "the Kronecker sum is singular to working precision: eigenvalues of the factors add up "
        "to zero. Another shift would make it regular."
    )
