"""Products of several factors: the triple product of multigrid, powers of a matrix."""

from typing import Any

from array_api_compat import array_namespace

from .. import _checks
from .._engine import Engines
from ._containers import Operand, read
from ._csr import index_dtype
from ._products import multiply, read_mask
from ._semirings import SEMIRINGS, neutral

engine = Engines(__package__)

# Entries of the first factor by which orders of products are compared, at most.
_SAMPLE = 1 << 14


@engine.eager
def galerkin(r: Any, a: Any, p: Any, /, *, prune: bool = False) -> Any:
    """Multiply R A P, the coarse operator of multigrid, in the cheaper order.

    Parameters
    ----------
    r : sparse array or matrix, shape (m, n), or None
        The restriction; None for the transpose of `p`.
    a : sparse array or matrix, shape (n, n')
        The fine operator; any container that `matmul` takes.
    p : sparse array or matrix, shape (n', m')
        The prolongation.
    prune : bool, default False
        Drop sums that are exactly zero, also between the two products, as SciPy's ``@`` does:
        less work where values cancel. By default the pattern does not depend on values.

    Returns
    -------
    sparse array or matrix, shape (m, m')
        Of the kind of `a`; in rows, or in columns if all factors are.

    Raises
    ------
    TypeError
        An operand is not a sparse container, or they come from different libraries.
    ValueError
        Shapes that do not fit.

    See Also
    --------
    plan_galerkin : For new values on the same patterns, as in each step of a time loop.

    Notes
    -----
    (R A) P or R (A P): whichever has fewer products, by the number of the first product
    (of large factors estimated from a sample of their entries) and a bound of the second.

    Examples
    --------
    Halve a one-dimensional Laplacian by pairs of unknowns:

    >>> import numpy as np
    >>> from scipy.sparse import csr_array, diags_array
    >>> from linalgkit import spgemm
    >>> a = csr_array(diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(6, 6)))
    >>> p = csr_array((np.ones(6), np.arange(6) // 2, np.arange(7)), shape=(6, 3))
    >>> spgemm.galerkin(None, a, p).toarray()
    array([[ 2., -1.,  0.],
           [-1.,  2., -1.],
           [ 0., -1.,  2.]])
    """
    middle, right = read("a", a), read("p", p)
    (left, middle, right), layout = fitting(None if r is None else read("r", r), middle, right)
    left = left.in_layout(layout, "r")
    middle, right = middle.in_layout(layout, "a"), right.in_layout(layout, "p")
    if left_first(left, middle, right):
        product = multiply(multiply(left, middle, prune=prune), right, prune=prune)
    else:
        product = multiply(left, multiply(middle, right, prune=prune), prune=prune)
    return product._replace(wrap=middle.wrap).container()


@engine.eager
def matrix_power(a: Any, k: int, /, *, semiring: str = "plus_times", mask: Any = None) -> Any:
    """Raise a square sparse matrix to a power.

    Parameters
    ----------
    a : sparse array or matrix, shape (n, n)
        Any container that `matmul` takes.
    k : int
        At least 0; the 0th power is the semiring's identity matrix.
    semiring : str, default "plus_times"
        As in `matmul`, but not ``"plus_pair"``, whose products are not associative.
    mask : sparse array or matrix, shape (n, n), optional
        Compute only these places of the power (of the last product).

    Returns
    -------
    sparse array or matrix, shape (n, n)
        Of the kind of `a`, in its layout.

    Raises
    ------
    TypeError
        `a` is not a sparse container.
    ValueError
        `a` is not square, `k` is negative, or the semiring is ``"plus_pair"``.

    Notes
    -----
    By repeated squaring: at most 2 log2(k) products. ``"or_and"`` gives who reaches whom
    in exactly k steps, ``"min_plus"`` the shortest walks of exactly k edges.

    Examples
    --------
    Powers of a shift plus one hold the binomial coefficients:

    >>> from scipy.sparse import csr_array, diags_array
    >>> from linalgkit import spgemm
    >>> step = csr_array(diags_array([1, 1], offsets=[0, 1], shape=(5, 5), dtype=int))
    >>> spgemm.matrix_power(step, 4).toarray()[0]
    array([1, 4, 6, 4, 1])
    """
    base = read("a", a)
    if base.shape[0] != base.shape[1]:
        raise ValueError(f"a must be square; got shape {base.shape}.")
    k = _checks.size("k", k)
    _checks.choice("semiring", semiring, [name for name in SEMIRINGS if name != "plus_pair"])
    pattern = read_mask(mask, base.shape, False, False)
    if k < 2:  # times the identity: sorted, free of duplicates, in the semiring's dtype
        identity = _identity(base, semiring)
        first = base if k else identity
        return multiply(first, identity, semiring=semiring, mask=pattern).container()
    return _power(base, k, semiring, pattern).container()


def fitting(
    r: Operand | None, a: Operand, p: Operand
) -> tuple[tuple[Operand, Operand, Operand], str]:
    """Return the factors of a triple product and a layout for all; raise unless they are sound.

    Without `r` the left factor is the transpose of `p`. Two products that have each factor in the
    same layout convert none of them twice, nor what is between them.
    """
    left, given = (p.transposed(), {"a": a, "p": p}) if r is None else (r, {"r": r, "a": a, "p": p})
    _checks.library_of(left.data, a.data, p.data)
    if left.shape[1] != a.shape[0] or a.shape[1] != p.shape[0]:
        raise ValueError(
            f"galerkin needs r of shape (m, n), a of shape (n, n') and p of shape (n', m'); got "
            f"{left.shape}{' (p transposed)' if r is None else ''}, {a.shape} and {p.shape}."
        )
    for name, operand in given.items():
        operand.check(name)
    in_columns = all(operand.layout == "csc" for operand in given.values())
    return (left, a, p), "csc" if in_columns else "csr"


def left_first(left: Operand, middle: Operand, right: Operand) -> bool:
    """Tell whether (R A) P has fewer products than R (A P), of sound factors in one layout."""

    def cost(first: Operand, second: Operand, entries: int, rows: int) -> float:
        if first.layout == "csc":  # as many as of the transposes
            first, second = second.transposed(), first.transposed()
        xp = array_namespace(second.indptr)
        used = first.indices[: int(first.indptr[-1])]
        count, index = used.shape[0], index_dtype(xp)
        if count == 0:
            return 0.0
        if count > _SAMPLE:  # the rows that all meet would cost a tenth of R A P
            # Steps of a golden section fall in with no grid.
            steps = xp.arange(_SAMPLE, dtype=index, device=used.device) * int(0.618034 * count)
            used = xp.take(used, steps % count)
        row = xp.astype(used, index)
        met = xp.take(second.indptr, row + 1) - xp.take(second.indptr, row)
        total = count * float(xp.mean(xp.astype(met, xp.float64)))
        return total * (1 + entries / max(rows, 1))  # each entry then meets a row of the third

    from_left = cost(left, middle, right.indices.shape[0], right.shape[0])
    from_right = cost(middle, right, left.indices.shape[0], left.shape[1])
    return from_left <= 1.1 * from_right  # equal where R is P's transpose and A symmetric


def _power(base: Operand, k: int, semiring: str, mask: Operand | None) -> Operand:
    if k == 1:
        return base
    half = _power(base, k // 2, semiring, None)
    if k % 2 == 0:
        return multiply(half, half, semiring=semiring, mask=mask)
    return multiply(multiply(half, half, semiring=semiring), base, semiring=semiring, mask=mask)


def _identity(like: Operand, semiring: str) -> Operand:
    xp, index = array_namespace(like.data), array_namespace(like.indptr)
    dtype = xp.bool if semiring == "or_and" else like.data.dtype
    n = like.shape[0]
    data = xp.full(n, neutral(semiring, dtype, xp), dtype=dtype, device=like.data.device)
    numbers = index.arange(n + 1, dtype=like.indptr.dtype, device=like.indptr.device)
    return like._replace(data=data, indices=numbers[:-1], indptr=numbers)
