"""The product of two sparse matrices: C[i, :] = sum over t of A[i, t] B[t, :].

Row-wise (Gustavson 1978; the dataflow of SMASH, arXiv:2105.14156). Compressed sparse rows are
three arrays: row i has the columns ``indices[indptr[i]:indptr[i + 1]]`` with the values ``data``
there. Sums run over t in stored order, left to right, from zero: bit-equal to SciPy's. Other
semirings put another pair of operations in the place of plus and times.
"""

from typing import Any

from array_api_compat import array_namespace

from .. import _checks
from .._engine import Engines
from ._containers import CSR, Operand, read
from ._csr import MOST_COLUMNS, Names, bytes_of, for_patterns, like, only
from ._semirings import absent, promote

engine = Engines(__package__)


@engine.eager
def matmul(
    a: Any,
    b: Any,
    /,
    *,
    semiring: str = "plus_times",
    mask: Any = None,
    complement: bool = False,
    mask_values: bool = False,
    transpose_a: bool = False,
    transpose_b: bool = False,
    conj_a: bool = False,
    conj_b: bool = False,
    sort: bool = True,
    prune: bool = False,
    accumulate: Any = None,
    max_memory: int | None = None,
) -> Any:
    """Multiply two sparse matrices.

    Parameters
    ----------
    a : sparse array or matrix, shape (m, k)
        From ``scipy.sparse`` or ``cupyx.scipy.sparse`` (any format; CSR and CSC
        are used as they are), pydata/sparse (``COO``, ``GCXS``), a Dask array of
        such blocks, or any object with `data`, `indices`, `indptr` and `shape`.
        Indices may be unsorted or repeated; what COO stores at one place is added as
        the semiring adds. All places of a stored diagonal (DIA) or block (BSR) are
        entries, zeros that fill them up too.
    b : sparse array or matrix, shape (k, n)
        From the same library.
    semiring : str, default "plus_times"
        What adds and multiplies: ``"plus_times"``, ``"min_plus"``, ``"max_plus"``,
        ``"max_min"``, ``"min_max"``, ``"or_and"`` (values become bool) or
        ``"plus_pair"`` (every product is 1: counts, in the operands' dtype, in which small
        integers wrap; int64 from bool). What is not
        stored takes no part, whatever zero means: under ``"min_plus"`` a stored 0.0
        is an edge of length zero.
    mask : sparse array or matrix, shape (m, n), optional
        Compute only the entries whose place is stored here.
    complement : bool, default False
        Compute only those whose place is not stored in `mask`.
    mask_values : bool, default False
        Only entries of `mask` that are not zero count as stored.
    transpose_a, transpose_b : bool, default False
        Multiply by the transpose of that operand.
    conj_a, conj_b : bool, default False
        Multiply by its complex conjugate.
    sort : bool, default True
        Sort the rows of the result. False leaves them as they come, which only
        products with very many columns do in another order, and faster.
    prune : bool, default False
        Drop entries equal to what an absent one means (0; infinity for
        ``"min_plus"``), as SciPy's ``@`` does. By default the pattern of the
        result follows from the patterns of `a`, `b` and `mask` alone.
    accumulate : dtype, optional
        Add in at least this precision; the result has the promoted dtype of the
        operands all the same. By default sums run in that dtype itself, and of
        half precision in float32. Sums of integers are exact but for wrapping, and
        a floating `accumulate` leaves them so.
    max_memory : int, optional
        Bytes that the result may take. The engines for NumPy and CuPy arrays also
        reserve no more: past half of them, the entries are counted first (a masked
        product on the host reserves all places of its mask). The reference engine,
        which serves other libraries, has expanded all products before it looks.

    Returns
    -------
    sparse array or matrix, shape (m, n)
        Of the kind of `a`: an array if `a` is one, a matrix if `a` is one; CSR, or
        CSC if both operands are CSC (or transposed CSR); a named tuple `CSR` if `a`
        is only an object with three arrays (CuPy's containers hold no integers: counts come
        as float64 there). Every row (column) is free of duplicates, and sorted unless
        `sort` is False. Indices are int32 while shape and number of entries fit, else
        int64.

    Raises
    ------
    TypeError
        An operand is dense or not a sparse container, the operands come from
        different libraries, the semiring does not know their dtype (lengths of
        bool, an order of complex numbers), or a flag is neither True nor False.
    ValueError
        Shapes that do not fit, an unknown semiring, invalid index arrays.
    MemoryError
        The result would take more than `max_memory`.

    See Also
    --------
    csr_matmul : The same on raw arrays of any array library.
    plan : For many products of the same patterns.
    galerkin : The triple product of multigrid.

    Notes
    -----
    Time O(m + nnz(a) + products), memory nnz(result) entries and, on the host, one
    row of n values a thread. Where n is very large and rows are short, or where
    there is no room for such a row, a hash table takes its place. Masked products
    have no table: of very many columns they are left to the reference engine where
    8 n bytes are more than there are, and it takes memory for every product. By
    choice there are no other ways to add up a row: no insertion into short rows, no
    merge of two rows, no panels of columns. With NumPy data the result has the same
    bits as SciPy's after ``sort_indices()``, for any number of threads: products are
    added in stored order, in the dtype that NumPy promotes the two data types to
    (integers wrap). NaN and Inf propagate as in a dense product of stored
    entries. A masked product does the work that hits the mask; where the mask is
    far sparser than the products it takes inner products instead. Nothing is
    converted while both operands are rows or both are columns, transposes included
    (columns of A B are rows of its transpose B^T A^T); of one each, the columns
    are converted.

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

    The shortest of all ways of two edges, and those pairs only that have an edge:

    >>> roads = csr_array([[0.0, 3.0, 9.0], [3.0, 0.0, 2.0], [9.0, 2.0, 0.0]])
    >>> spgemm.matmul(roads, roads, semiring="min_plus", mask=roads).toarray()
    array([[ 0., 11.,  5.],
           [11.,  0., 12.],
           [ 5., 12.,  0.]])
    """
    _checks.flags(
        complement=complement,
        mask_values=mask_values,
        transpose_a=transpose_a,
        transpose_b=transpose_b,
        conj_a=conj_a,
        conj_b=conj_b,
        sort=sort,
        prune=prune,
    )
    options = {"semiring": semiring, "prune": prune, "accumulate": accumulate}
    options |= {"complement": complement, "sort": sort, "max_memory": max_memory}
    if any(_is_dask(x) for x in (a, b, mask)):
        blocks = [x for x in (a, b, mask) if _is_dask(x)]
        options |= {"transpose_a": transpose_a, "transpose_b": transpose_b}
        options |= {"conj_a": conj_a, "conj_b": conj_b, "mask_values": mask_values}
        return engine(*blocks).blocked_matmul(a, b, mask=mask, **options)
    left, right = read("a", a), read("b", b)
    if transpose_a:
        left = left.transposed()
    if transpose_b:
        right = right.transposed()
    if left.shape[1] != right.shape[0]:
        raise ValueError(
            f"matmul needs a of shape (m, k) and b of shape (k, n); got {left.shape} and "
            f"{right.shape}{' after transposition' if transpose_a or transpose_b else ''}."
        )
    if conj_a:
        left = left.conjugated()
    if conj_b:
        right = right.conjugated()
    pattern = read_mask(mask, (left.shape[0], right.shape[1]), complement, mask_values)
    result = multiply(left, right, mask=pattern, **options)
    container = result.container()
    if sort and hasattr(type(container), "has_canonical_format"):
        container.has_sorted_indices = container.has_canonical_format = True
    return container


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
    semiring: str = "plus_times",
    mask_indices: Any = None,
    mask_indptr: Any = None,
    complement: bool = False,
    sort: bool = True,
    prune: bool = False,
    accumulate: Any = None,
    max_memory: int | None = None,
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
    semiring : str, default "plus_times"
        What adds and multiplies, as in `matmul`.
    mask_indices, mask_indptr : array, shapes (nnz_mask,), (m + 1,), optional
        Compute only the places of this pattern, or with `complement` all others.
    complement : bool, default False
        Compute only the places that are not in the mask.
    sort : bool, default True
        Sort the rows of the result.
    prune : bool, default False
        Drop entries equal to what an absent one means (0 for plus-times).
    accumulate : dtype, optional
        Add in at least this precision, as in `matmul`.
    max_memory : int, optional
        Bytes that the result may take, as in `matmul`.

    Returns
    -------
    CSR
        Named tuple ``(data, indices, indptr)`` of arrays of the same library; every
        row free of duplicates, and sorted unless `sort` is False.

    Raises
    ------
    TypeError
        Arrays of different libraries, indices that are not integers, a dtype that
        the semiring does not know, a flag that is neither True nor False, or index
        arrays under a JAX transformation.
    ValueError
        Shapes that do not fit, row pointers that decrease, indices out of range, an
        unknown semiring.
    MemoryError
        The result would take more than `max_memory`.

    See Also
    --------
    matmul : The same on sparse containers.
    plan : The pattern once, then traced products of values.

    Notes
    -----
    Time and memory as for `matmul`. On NumPy arrays the values have the same
    bits for any number of threads, on CuPy arrays on every run. With torch and
    JAX the values are differentiable (the pattern is not); the reference engine
    that serves them takes memory for every single product. Of JAX arrays the pattern
    is found on the host, for JAX would compile every step of that for each size.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import spgemm
    >>> one_row = np.array([2.0, 3.0]), np.array([0, 1]), np.array([0, 2])
    >>> one_column = np.array([5.0, 7.0]), np.array([0, 0]), np.array([0, 1, 2])
    >>> spgemm.csr_matmul(*one_row, *one_column, shape=(1, 1)).data
    array([31.])
    >>> spgemm.csr_matmul(*one_row, *one_column, shape=(1, 1), semiring="min_plus").data
    array([7.])
    """
    _checks.flags(complement=complement, sort=sort, prune=prune)
    named = {"a_data": a_data, "a_indices": a_indices, "a_indptr": a_indptr}
    named |= {"b_data": b_data, "b_indices": b_indices, "b_indptr": b_indptr}
    if mask_indices is not None or mask_indptr is not None:
        if mask_indices is None or mask_indptr is None:
            raise ValueError("a mask needs both mask_indices and mask_indptr; got one of them.")
        named |= {"mask_indices": mask_indices, "mask_indptr": mask_indptr}
    elif complement:
        raise ValueError("complement=True needs a mask to complement; got none.")
    arrays = dict(zip(named, _checks.arrays(**named), strict=True))
    _checks.concrete(
        "spgemm.csr_matmul",
        "Plan.execute on a plan made outside of the transformation",
        **{name: array for name, array in arrays.items() if not name.endswith("data")},
    )
    for name, array in arrays.items():
        if array.ndim != 1:
            raise ValueError(f"{name} must have one axis; got shape {tuple(array.shape)}.")
    if not isinstance(shape, tuple | list) or len(shape) != 2:
        raise ValueError(f"shape must be (m, n); got {shape!r}.")
    m, n = _checks.size("shape[0]", shape[0]), _checks.size("shape[1]", shape[1])
    for name in ("a_indptr", "mask_indptr"):
        if name in arrays and arrays[name].shape[0] != m + 1:
            raise ValueError(
                f"{name} must have shape[0] + 1 = {m + 1} entries; got {arrays[name].shape[0]}."
            )
    if arrays["b_indptr"].shape[0] == 0:
        raise ValueError("b_indptr must have at least one entry; got none.")
    names = ("a_indices", "a_indptr", "b_indices", "b_indptr", "mask_indices", "mask_indptr")
    patterns = for_patterns(*map(arrays.get, names))
    data, indices, indptr = _multiply(
        (arrays["a_data"], *patterns[:2], arrays["b_data"], *patterns[2:4]),
        patterns[4:],
        shape=(m, n),
        names=Names(),
        semiring=semiring,
        complement=complement,
        sort=sort,
        prune=prune,
        accumulate=accumulate,
        max_memory=max_memory,
    )
    return CSR(data, like(indices, data), like(indptr, data), (m, n))


def multiply(
    left: Operand,
    right: Operand,
    *,
    mask: Operand | None = None,
    semiring: str = "plus_times",
    accumulate: Any = None,
    max_memory: int | None = None,
    complement: bool = False,
    sort: bool = True,
    prune: bool = False,
    names: tuple[str, str] = ("a", "b"),
) -> Operand:
    """Multiply operands that fit, in the layout that converts least; `names` are for messages."""
    _checks.library_of(left.data, right.data, *([] if mask is None else [mask.data]))
    shape = left.shape[0], right.shape[1]
    layout = "csc" if left.layout == right.layout == "csc" else "csr"
    if layout == "csc":  # columns of A B are rows of (A B)^T = B^T A^T
        operands, turned = (*right.parts, *left.parts), shape[::-1]
        called = Names(*names[::-1], (right.line, left.line, _line(mask)))
    else:
        rows = left.in_layout("csr", names[0]), right.in_layout("csr", names[1])
        operands, turned = (*rows[0].parts, *rows[1].parts), shape
        called = Names(*names, (left.line, right.line, _line(mask)))
    masking = (None, None) if mask is None else mask.in_layout(layout, "mask").parts[1:]
    parts = _multiply(
        operands,
        masking,
        shape=turned,
        names=called,
        semiring=semiring,
        accumulate=accumulate,
        max_memory=max_memory,
        complement=complement,
        sort=sort,
        prune=prune,
    )
    return Operand(*parts, shape, layout, left.wrap)


def read_mask(mask: Any, shape: tuple[int, int], complement: bool, values: bool) -> Operand | None:
    """Read a mask and leave out, if its values count, what is zero in it."""
    if mask is None:
        if complement or values:
            option = "complement" if complement else "mask_values"
            raise ValueError(f"{option}=True needs a mask; got none.")
        return None
    pattern = read("mask", mask)
    if pattern.shape != shape:
        raise ValueError(f"mask must have the result's shape {shape}; got {pattern.shape}.")
    if not values:
        return pattern
    pattern.check("mask")
    (kept,) = for_patterns(pattern.data != 0)
    indptr, indices = only(kept, pattern.indptr, pattern.indices)
    return pattern._replace(data=indices, indices=indices, indptr=indptr)


def _multiply(
    operands: tuple[Any, ...],
    mask: tuple[Any, Any],
    *,
    shape: tuple[int, int],
    names: Names,
    semiring: str,
    accumulate: Any,
    max_memory: int | None,
    complement: bool,
    sort: bool,
    prune: bool,
) -> tuple[Any, Any, Any]:
    """Promote the two data arrays to one dtype, then hand all arrays to the engine."""
    a_data, a_indices, a_indptr, b_data, b_indices, b_indptr = operands
    if max_memory is not None:
        max_memory = _checks.size("max_memory", max_memory)
    if shape[1] > MOST_COLUMNS:
        raise ValueError(f"indices count up to 2**63 - 1; got a shape of {shape}.")
    promoted = promote(a_data, b_data, semiring, accumulate)
    itemsize = 0  # not asked for
    if max_memory is not None:
        itemsize = bytes_of(promoted.dtype, array_namespace(promoted.a_data))
    data, indices, indptr = engine(promoted.a_data, promoted.b_data).csr_matmul(
        promoted.a_data,
        a_indices,
        a_indptr,
        promoted.b_data,
        b_indices,
        b_indptr,
        *mask,
        shape=shape,
        semiring=promoted.semiring,
        complement=complement,
        sort=sort,
        prune=prune,
        max_memory=max_memory,
        itemsize=itemsize,
        names=names,
    )
    if data.dtype != promoted.dtype:
        xp = array_namespace(data)
        data = xp.astype(data, promoted.dtype)
        if prune:  # what was rounded to the value of an absent entry
            (kept,) = for_patterns(data != absent(promoted.semiring, data.dtype, xp))
            indptr, data, indices = only(kept, indptr, data, indices)
    return data, indices, indptr


def _line(mask: Operand | None) -> str:
    return "row" if mask is None else mask.line


def _is_dask(value: Any) -> bool:
    return type(value).__module__.startswith("dask.")
