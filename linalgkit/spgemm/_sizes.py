"""How much work a product is and how large it becomes, before it is computed.

Exact products per row in one pass over A; upper bounds; and Cohen's estimate of the entries
(E. Cohen, "Structure prediction and matrix multiplication", J. Comb. Optim. 2 (1998) 307-332).
"""

from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_cupy_array, is_torch_array, to_device

from .. import _checks
from .._engine import Engines
from ._containers import Operand, read
from ._csr import like

engine = Engines(__package__)

_SAMPLES = 64  # exponential draws per column: a standard error of 13 per cent a row


@engine.eager
def row_flops(a: Any, b: Any, /) -> Any:
    """Count the products that every row of A B adds up.

    Parameters
    ----------
    a : sparse array or matrix, shape (m, k)
        Any container that `matmul` takes.
    b : sparse array or matrix, shape (k, n)
        From the same library.

    Returns
    -------
    array of int, shape (m,)
        ``row_flops[i]`` is the sum over the entries ``a[i, t]`` of the number of
        entries of row t of `b`.

    Raises
    ------
    TypeError
        An operand is not a sparse container.
    ValueError
        The inner dimensions differ, or an operand's index arrays are invalid.

    See Also
    --------
    nnz_upper_bound : Entries of the result at most.
    estimate_nnz : Entries of the result, estimated.

    Notes
    -----
    Time O(m + k + nnz(a) + nnz(b)): the indices of both are checked.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> from linalgkit import spgemm
    >>> star = csr_array([[0, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    >>> spgemm.row_flops(star, star)
    array([3, 3, 3, 3])
    """
    left, right = _read_both(a, b)
    return like(flops(left, right), left.data)


@engine.eager
def nnz_upper_bound(a: Any, b: Any, /) -> int:
    """Bound the number of entries of A B: no row has more than its products or than n.

    Parameters
    ----------
    a : sparse array or matrix, shape (m, k)
        Any container that `matmul` takes.
    b : sparse array or matrix, shape (k, n)
        From the same library.

    Returns
    -------
    int
        At least the number of entries of ``matmul(a, b)``.

    Raises
    ------
    TypeError
        An operand is not a sparse container.
    ValueError
        The inner dimensions differ, or an operand's index arrays are invalid.

    Notes
    -----
    Time O(m + k + nnz(a) + nnz(b)): the indices of both are checked.

    Examples
    --------
    >>> from scipy.sparse import eye_array
    >>> from linalgkit import spgemm
    >>> spgemm.nnz_upper_bound(eye_array(4), eye_array(4))
    4
    """
    left, right = _read_both(a, b)
    products = flops(left, right)
    xp = array_namespace(products)
    return int(xp.sum(xp.where(products < right.shape[1], products, right.shape[1])))


@engine.eager
def estimate_nnz(a: Any, b: Any, /, *, rng: Any = None) -> float:
    """Estimate the number of entries of A B without computing it (Cohen 1998).

    Parameters
    ----------
    a : sparse array or matrix, shape (m, k)
        Any container that `matmul` takes.
    b : sparse array or matrix, shape (k, n)
        From the same library.
    rng : None, int or numpy.random.Generator
        Source of the random keys of the columns.

    Returns
    -------
    float
        Unbiased; a single row's share has a relative standard error of 13 per cent,
        and that of the sum is smaller where rows differ.

    Raises
    ------
    TypeError
        An operand is not a sparse container.
    ValueError
        The inner dimensions differ, or an operand's index arrays are invalid.

    Notes
    -----
    Every column draws 64 exponential keys; the smallest of the keys of a row's columns
    is exponential too, with the number of columns as its rate, and minima of minima need
    no product. Time O(64 (nnz(a) + nnz(b))), memory
    O(64 (m + k + n)), however many entries there are; computed on the host.

    Examples
    --------
    >>> from scipy.sparse import random_array
    >>> from linalgkit import spgemm
    >>> a = random_array((400, 400), density=0.02, rng=0, format="csr")
    >>> round(spgemm.estimate_nnz(a, a, rng=0) / spgemm.matmul(a, a).nnz, 2)
    1.0
    """
    left, right = _read_both(a, b)
    generator = np.random.default_rng(rng)
    keys = generator.standard_exponential((right.shape[1], _SAMPLES))
    for operand in (right, left):
        serving = engine(operand.indices).row_minima
        keys = serving(keys, _host(operand.indices), _host(operand.indptr))
    with np.errstate(divide="ignore"):
        return float(np.sum((_SAMPLES - 1) / keys.sum(axis=1)))


def flops(left: Operand, right: Operand) -> Any:
    """Count the products of every row of operands in rows."""
    return engine(left.indices, left.indptr, right.indptr).row_flops(
        left.indices, left.indptr, right.indptr
    )


def _read_both(a: Any, b: Any) -> tuple[Operand, Operand]:
    left, right = read("a", a).in_layout("csr", "a"), read("b", b).in_layout("csr", "b")
    _checks.library_of(left.data, right.data)
    if left.shape[1] != right.shape[0]:
        raise ValueError(
            f"a product needs a of shape (m, k) and b of shape (k, n); got {left.shape} and "
            f"{right.shape}."
        )
    left.check("a")
    right.check("b")
    return left, right


def _host(array: Any) -> np.ndarray:
    if is_torch_array(array) or is_cupy_array(array):
        array = to_device(array, "cpu")
    return np.asarray(array)
