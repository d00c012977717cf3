"""The product of two sparse matrices: C[i, :] = sum over t of A[i, t] B[t, :].

Row-wise (Gustavson 1978; the dataflow of SMASH, arXiv:2105.14156). Compressed sparse rows are
three arrays: row i has the columns ``indices[indptr[i]:indptr[i + 1]]`` with the values ``data``
there. Sums run over t in stored order, left to right, from zero: bit-equal to SciPy's.
"""

from typing import Any, NamedTuple

from array_api_compat import array_namespace

from .. import _checks
from .._engine import Engines

engine = Engines(__package__)

# What no engine can serve, and why.
EXCEPTIONS = {
    ("matmul", "array_api_strict"): "takes sparse containers; csr_matmul takes raw arrays",
    ("matmul", "torch"): "takes sparse containers; csr_matmul takes raw arrays",
    ("matmul", "jax"): "takes sparse containers; csr_matmul takes raw arrays",
}


class CSR(NamedTuple):
    """Compressed sparse rows as three arrays, in SciPy's order of names.

    Parameters
    ----------
    data : array, shape (nnz,)
        The values.
    indices : array of int, shape (nnz,)
        Their columns.
    indptr : array of int, shape (rows + 1,)
        Row i has the entries ``indptr[i]`` to ``indptr[i + 1]``.
    """

    data: Any
    indices: Any
    indptr: Any


@engine.eager
def matmul(a: Any, b: Any, /, *, prune: bool = False) -> Any:
    """Multiply two sparse matrices.

    Parameters
    ----------
    a : sparse array or matrix, shape (m, k)
        From ``scipy.sparse`` (any format; CSR and CSC are used as they are) or
        ``cupyx.scipy.sparse``. Indices may be unsorted or repeated.
    b : sparse array or matrix, shape (k, n)
        From the same library.
    prune : bool, default False
        Drop entries whose sum is exactly zero, as SciPy's ``@`` does. By default
        the pattern of the result follows from the patterns of `a` and `b` alone.

    Returns
    -------
    sparse array or matrix, shape (m, n)
        An array if `a` is one, a matrix if `a` is one; CSR, or CSC if both are
        CSC. Every row (column) is sorted and free of duplicates. Indices are
        int32 while shape and number of entries fit, else int64.

    Raises
    ------
    TypeError
        An operand is dense or not a sparse container, or the two come from
        different libraries.
    ValueError
        The inner dimensions differ, or an operand's index arrays are invalid.

    See Also
    --------
    csr_matmul : The same on raw arrays of any array library.

    Notes
    -----
    Time O(m + nnz(a) + products), memory nnz(result) entries and one row of n
    values a thread. With NumPy data the result has the same bits as SciPy's
    after ``sort_indices()``, for any number of threads: products are added in
    stored order, in the dtype that NumPy promotes the two data types to
    (integers wrap). NaN and Inf propagate as in a dense product of stored
    entries. CSC times CSC is computed as the product of the transposes and
    converts nothing; of CSR and CSC mixed, the CSC operand is converted.

    References
    ----------
    .. [1] K. Shivdikar, "SMASH: Sparse Matrix Atomic Scratchpad Hashing",
       MS thesis, Northeastern University, 2021. arXiv:2105.14156.
    .. [2] F. Gustavson, "Two fast algorithms for sparse matrices",
       ACM Trans. Math. Software 4 (1978) 250-269.

    Examples
    --------
    Two steps along a ring of five nodes reach the nodes two ahead:

    >>> import numpy as np
    >>> from scipy.sparse import csr_array
    >>> from linalgkit import spgemm
    >>> step = csr_array(np.roll(np.eye(5), 1, axis=1))
    >>> spgemm.matmul(step, step).indices
    array([2, 3, 4, 0, 1], dtype=int32)
    """
    _check_container("a", a)
    _check_container("b", b)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(
            f"matmul needs a of shape (m, k) and b of shape (k, n); got {a.shape} and {b.shape}."
        )
    if a.format == b.format == "csc":  # columns of A B are rows of (A B)^T = B^T A^T
        container, first, second, shape = type(a), b, a, (b.shape[1], a.shape[0])
    else:
        first, second = a.tocsr(), b.tocsr()
        container, shape = type(first), (a.shape[0], b.shape[1])
    _checks.library_of(first.data, second.data)
    product = _multiply(
        (first.data, first.indices, first.indptr, second.data, second.indices, second.indptr),
        shape=shape,
        prune=prune,
    )
    result = container(product, shape=(a.shape[0], b.shape[1]))
    result.has_sorted_indices = result.has_canonical_format = True
    return result


@engine.eager
def csr_matmul(
    a_data: Any,
    a_indices: Any,
    a_indptr: Any,
    b_data: Any,
    b_indices: Any,
    b_indptr: Any,
    /,
    *,
    shape: tuple[int, int],
    prune: bool = False,
) -> CSR:
    """Multiply two sparse matrices given as raw compressed sparse rows.

    Parameters
    ----------
    a_data, a_indices, a_indptr : array, shapes (nnz_a,), (nnz_a,), (m + 1,)
        Values, column indices and row pointers of the left matrix (m, k), from
        any array library. Indices may be unsorted or repeated.
    b_data, b_indices, b_indptr : array, shapes (nnz_b,), (nnz_b,), (k + 1,)
        The right matrix (k, n).
    shape : (int, int)
        The shape (m, n) of the result.
    prune : bool, default False
        Drop entries whose sum is exactly zero.

    Returns
    -------
    CSR
        Named tuple ``(data, indices, indptr)`` of arrays of the same library;
        every row sorted and free of duplicates.

    Raises
    ------
    TypeError
        Arrays of different libraries, indices that are not integers, or index
        arrays under a JAX transformation.
    ValueError
        Shapes that do not fit, row pointers that decrease, indices out of range.

    See Also
    --------
    matmul : The same on SciPy's and CuPy's sparse containers.

    Notes
    -----
    Time and memory as for `matmul`. On NumPy arrays the values have the same
    bits for any number of threads, on CuPy arrays on every run. With torch and
    JAX the values are differentiable (the pattern is not); the reference engine
    that serves them takes memory for every single product.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import spgemm
    >>> one_row = np.array([2.0, 3.0]), np.array([0, 1]), np.array([0, 2])
    >>> one_column = np.array([5.0, 7.0]), np.array([0, 0]), np.array([0, 1, 2])
    >>> spgemm.csr_matmul(*one_row, *one_column, shape=(1, 1)).data
    array([31.])
    """
    operands = _checks.arrays(
        a_data=a_data,
        a_indices=a_indices,
        a_indptr=a_indptr,
        b_data=b_data,
        b_indices=b_indices,
        b_indptr=b_indptr,
    )
    _checks.concrete(
        "spgemm.csr_matmul",
        "it on concrete indices, outside of the transformation",
        a_indices=operands[1],
        a_indptr=operands[2],
        b_indices=operands[4],
        b_indptr=operands[5],
    )
    for name, array in zip(_NAMES, operands, strict=True):
        if array.ndim != 1:
            raise ValueError(f"{name} must have one axis; got shape {tuple(array.shape)}.")
    if len(shape) != 2:
        raise ValueError(f"shape must be (m, n); got {shape!r}.")
    m, n = _checks.size("shape[0]", shape[0]), _checks.size("shape[1]", shape[1])
    if operands[2].shape[0] != m + 1:
        raise ValueError(
            f"a_indptr must have shape[0] + 1 = {m + 1} entries; got {operands[2].shape[0]}."
        )
    if operands[5].shape[0] == 0:
        raise ValueError("b_indptr must have at least one entry; got none.")
    return CSR(*_multiply(operands, shape=(m, n), prune=prune))


_NAMES = ("a_data", "a_indices", "a_indptr", "b_data", "b_indices", "b_indptr")


def _multiply(operands: tuple[Any, ...], *, shape: tuple[int, int], prune: bool) -> Any:
    """Promote the two data types to one, then hand the six arrays to the engine."""
    a_data, a_indices, a_indptr, b_data, b_indices, b_indptr = operands
    if a_data.dtype != b_data.dtype:
        xp = array_namespace(a_data, b_data)
        dtype = xp.result_type(a_data.dtype, b_data.dtype)
        a_data, b_data = xp.astype(a_data, dtype), xp.astype(b_data, dtype)
    return engine(a_data, b_data).csr_matmul(
        a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, shape=shape, prune=prune
    )


def _check_container(name: str, value: Any) -> None:
    package = type(value).__module__.partition(".")[0]
    if package not in ("scipy", "cupyx") or not hasattr(value, "tocsr"):
        kind = type(value)
        raise TypeError(
            f"{name} must be a sparse array of scipy.sparse or cupyx.scipy.sparse; got "
            f"{kind.__module__}.{kind.__qualname__}. For raw (data, indices, indptr) use "
            f"csr_matmul; if an operand is dense, use {name}'s own `@`."
        )
