"""Kronecker sums solved in triangular form, on the host: Bartels and Stewart in blocks.

With Schur forms A_k = Q_k T_k Q_kᴴ the equation is ``(T_1 ⊕ ... ⊕ T_d + shift) y = c`` for upper
triangular T_k. The largest mode is halved: the lower half of y is solved first, and taken from the
upper half of c by one matrix product (I. Jonsson and B. Kågström, "Recursive blocked algorithms
for solving triangular systems", ACM TOMS 28, 2002). What remains for LAPACK is small.
"""

from ctypes import CFUNCTYPE, byref, c_char, c_int, c_void_p
from functools import cache
from math import prod

import numpy as np
from numba.extending import get_cython_function_address
from scipy.linalg import get_lapack_funcs, solve_triangular

from .._threads import run_chunks
from ._hosts import one_blas_thread
from ._modes import modes

_LEAF = 64  # order of the equations of two modes that LAPACK solves
_THREADED = 1 << 18  # points of a grid that more threads of BLAS rotate in less time
_SLICES = 32  # of those of more modes that are solved slice by slice


def solve_by_schur(b, factors, shift, columns):
    """Solve for every vector of the batch."""
    sizes = tuple(factor.shape[-1] for factor in factors)
    batch = np.broadcast_shapes(*(f.shape[:-2] for f in factors), b.shape[:-1])
    dtype = np.result_type(b, *factors, np.asarray(shift, np.result_type(b)).dtype)
    if dtype.char not in "fdFD":
        raise TypeError(f"method='schur' goes by LAPACK, which has no {dtype}; convert the arrays.")
    x = np.empty((*batch, prod(sizes), columns), dtype)
    b = np.broadcast_to(b.reshape(*b.shape[:-1], prod(sizes), columns), x.shape)
    factors = [np.broadcast_to(f, (*batch, *f.shape[-2:])) for f in factors]
    forms = {}
    with one_blas_thread(prod(sizes) < _THREADED):
        for index in np.ndindex(batch):
            one = [f[index] for f in factors]
            key = tuple((f.__array_interface__["data"], f.strides) for f in one)
            if key not in forms:  # else a broadcast axis: the same matrices again
                forms = {key: _forms(one, shift)}
            for column in range(columns):
                place = (*index, slice(None), column)
                x[place] = _solve(forms[key], b[place])
    return x.reshape(*batch, prod(sizes) * columns)


def _forms(factors, shift):
    """Return Schur forms and bases, real where two real factors are; the shift is in the first."""
    is_complex = isinstance(shift, complex) or any(np.iscomplexobj(f) for f in factors)
    # (A real form has pairs of eigenvalues in blocks: LAPACK solves with those of two factors.)
    kind = np.result_type(*factors, 1j) if is_complex or len(factors) != 2 else factors[0].dtype
    places = [0 if np.array_equal(f, factors[0]) else k for k, f in enumerate(factors)]
    found = dict.fromkeys(places)

    def decompose(start, stop):
        for k in list(found)[start:stop]:
            found[k] = _schur(factors[k], kind)

    # Schur forms and small blocks gain nothing from more threads of BLAS, and lose where those find
    # no free core; so decompositions run side by side, each in one.
    run_chunks(decompose, range(len(found) + 1), blas=True)
    triangles, bases = map(list, zip(*(found[k] for k in places), strict=True))
    triangles[0] = triangles[0] + shift * np.eye(len(triangles[0]), dtype=kind)
    return triangles, bases, is_complex


def _schur(a, dtype):
    """Return T and Q of A = Q T Qᴴ, by LAPACK's own entry: SciPy's lets no other thread run."""
    n, is_complex = len(a), dtype.kind == "c"
    t, q = np.array(a, dtype, order="F"), np.empty((n, n), dtype, order="F")
    if n == 0:
        return t, q
    spectrum = [np.empty(n, dtype) for _ in range(1 if is_complex else 2)]
    reals = [np.empty(n, t.real.dtype)] if is_complex else []
    size, chosen, info = c_int(n), c_int(), c_int()
    work, room = np.empty(1, dtype), c_int(-1)  # to be asked for the room that it needs
    for _ in range(2):
        _gees(dtype.char)(
            byref(c_char(b"V")), byref(c_char(b"N")), None, byref(size), _at(t), byref(size),
            byref(chosen), *map(_at, spectrum), _at(q), byref(size), _at(work), byref(room),
            *map(_at, reals), None, byref(info),
        )  # fmt: skip
        room = c_int(int(work[0].real))
        work = np.empty(room.value, dtype)
    if info.value:
        raise np.linalg.LinAlgError(
            "LAPACK found no Schur form: its iteration did not converge, or an entry is not finite."
        )
    return t, q


@cache
def _gees(char):
    """Return LAPACK's function for a dtype, as Python calls it without its lock."""
    name = dict(zip("fdFD", "sdcz", strict=True))[char] + "gees"
    return CFUNCTYPE(None)(get_cython_function_address("scipy.linalg.cython_lapack", name))


def _at(array):
    return c_void_p(array.ctypes.data)


def _solve(forms, b):
    triangles, bases, is_complex = forms
    sizes = [len(t) for t in triangles]
    y = np.ascontiguousarray(_rotated(b, [q.conj().T for q in bases]).reshape(sizes))
    with one_blas_thread():
        _solve_triangular(triangles, y)
    x = _rotated(y.reshape(-1), bases)
    return x if is_complex else x.real


def _rotated(x, bases):
    for k, left, right in modes([len(q) for q in bases]):
        shaped = x.reshape(left, len(bases[k]), right)
        x = np.matmul(bases[k], shaped) if right != 1 else shaped[..., 0] @ bases[k].T
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
