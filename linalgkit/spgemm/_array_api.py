"""Reference engine: expand every product, sort by place, add what falls on one place (ESC)."""

import numpy as np
from array_api_compat import array_namespace, is_jax_array

from .._xp import compiled, segment_extreme, segment_sum
from ._csr import (
    Names,
    check_csr,
    check_memory,
    conjugate,
    fits_int32,
    for_patterns,
    index_dtype,
    like,
    only,
    rows_of_entries,
)
from ._semirings import SEMIRINGS, absent

# Entries whose keys are looked at together: a few MiB, however many there are.
_GATHERED = 1 << 14


def csr_matmul(
    a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, mask_indices, mask_indptr,
    *, shape, semiring, complement, prune, sort, max_memory, itemsize, names,
):  # fmt: skip
    """Multiply two CSR triples; O(products) memory, differentiable in the data."""
    xp = array_namespace(a_indices, b_indices)
    check_csr(names.left, a_data, a_indices, a_indptr, b_indptr.shape[0] - 1, names.lines[0])
    check_csr(names.right, b_data, b_indices, b_indptr, shape[1], names.lines[1])
    index = index_dtype(xp)
    left, right = expand(*_wide(a_indices, a_indptr, b_indptr))
    rows = xp.take(rows_of_entries(a_indptr), left)
    columns = xp.take(xp.astype(b_indices, index), right)
    if mask_indptr is not None:
        check_csr("mask", mask_indices, mask_indices, mask_indptr, shape[1], names.lines[2])
        allowed = rows_of_entries(mask_indptr)
        used = xp.astype(mask_indices[: int(mask_indptr[-1])], index)
        kept = _masked(rows, columns, allowed, used, complement)
        left, right, rows, columns = (x[kept] for x in (left, right, rows, columns))
    order, place, rows, columns = _compress(rows, columns)
    left, right = xp.take(left, order), xp.take(right, order)
    if not prune:
        check_memory(rows.shape[0], shape, itemsize, max_memory)
    data = sum_products(a_data, left, b_data, right, place, rows.shape[0], semiring=semiring)
    if prune:
        (kept,) = for_patterns(data != absent(semiring, data.dtype, array_namespace(data)))
        (kept,) = xp.nonzero(kept)
        data = array_namespace(data).take(data, like(kept, data))
        rows, columns = xp.take(rows, kept), xp.take(columns, kept)
        check_memory(rows.shape[0], shape, itemsize, max_memory)
    boundaries = xp.arange(shape[0] + 1, dtype=index, device=rows.device)
    indptr = xp.searchsorted(rows, boundaries)
    narrow = xp.int32 if fits_int32(*shape, data.shape[0]) else xp.int64
    return data, xp.astype(columns, narrow), xp.astype(indptr, narrow)


def row_flops(a_indices, a_indptr, b_indptr):
    """Count the products of every row, int64."""
    xp = array_namespace(a_indices)
    a_indices, a_indptr, b_indptr = _wide(a_indices, a_indptr, b_indptr)
    a_indices = a_indices[: int(a_indptr[-1])]
    ends = xp.cumulative_sum(_fan_out(a_indices, b_indptr), include_initial=True)
    return xp.take(ends, a_indptr[1:]) - xp.take(ends, a_indptr[:-1])


def row_minima(keys, indices, indptr):
    """Return the smallest keys among the entries of every row, infinite without; on the host."""
    minima = np.full((indptr.size - 1, keys.shape[1]), np.inf)
    filled = np.flatnonzero(np.diff(indptr))
    begins = indptr[filled].astype(np.int64)
    for start in range(0, int(indptr[-1]), _GATHERED):
        stop = min(start + _GATHERED, int(indptr[-1]))
        first = np.searchsorted(begins, start, side="right") - 1
        last = np.searchsorted(begins, stop)
        places = np.maximum(begins[first:last], start) - start
        smallest = np.minimum.reduceat(keys[indices[start:stop]], places, axis=0)
        rows = filled[first:last]  # of which the first may have begun in the part before
        minima[rows] = np.minimum(minima[rows], smallest)
    return minima


def count_triangles(indices, indptr):
    """Count the triangles of a symmetric pattern: products of L L that fall on a place of L."""
    indices, indptr = lower_part(indices, indptr, csr_matmul)
    xp = array_namespace(indices)
    lower = xp.ones_like(indices), indices, indptr
    n = indptr.shape[0] - 1
    data, _, _ = csr_matmul(*lower, *lower, indices, indptr, shape=(n, n), **_COUNTING)
    return xp.sum(data)


def lower_part(indices, indptr, multiply):
    """Return what stands below the diagonal of a square pattern, sorted, free of duplicates."""
    n = indptr.shape[0] - 1
    check_csr("a", indices, indices, indptr, n)
    indices, indptr = _wide(indices, indptr)
    below = indices[: int(indptr[-1])] < rows_of_entries(indptr)
    indptr, indices = only(below, indptr, indices)
    numbers = _arange_like(indptr)  # an identity matrix sorts what it multiplies
    identity = numbers[:-1], numbers[:-1], numbers
    _, indices, indptr = multiply(
        *identity, indices, indices, indptr, None, None, shape=(n, n), **_COUNTING
    )
    return indices, indptr


_COUNTING = {
    "semiring": "plus_pair",
    "complement": False,
    "prune": False,
    "sort": True,
    "max_memory": None,
    "itemsize": 8,
    "names": Names(),
}


def plan_slots(plan, *, only_if_small):
    """Return None: `plan_products` is what this engine keeps."""
    return


def plan_products(plan):
    """Return for every product its entries of A and B and its place in the result."""
    a, b = plan._first, plan._second
    xp = array_namespace(a.indices)
    left, right = expand(*_wide(a.indices, a.indptr, b.indptr))
    index = index_dtype(xp)
    rows = xp.take(rows_of_entries(a.indptr), left)
    columns = xp.take(xp.astype(b.indices, index), right)
    result_rows = rows_of_entries(plan._result.indptr)
    result_columns = xp.astype(plan._result.indices, index)
    if plan._is_masked:
        kept = _masked(rows, columns, result_rows, result_columns, False)
        left, right, rows, columns = (x[kept] for x in (left, right, rows, columns))
    order, place, _, _ = _compress(rows, columns)
    return left, right, xp.take(place, xp.argsort(order))


def execute_plan(a_data, b_data, *, plan):
    """Compute the values of a plan's product."""
    return execute_plan_in(a_data, b_data, plan=plan, semiring="plus_times")


def execute_plan_in(a_data, b_data, *, plan, semiring):
    """Compute them in any semiring."""
    left, right, place = plan._products.like(a_data)
    return sum_products(a_data, left, b_data, right, place, plan.nnz, semiring=semiring)


def execute_plan_vjp(cotangent, a_data, b_data, *, plan, wrt):
    """Gradients: every product passes its cotangent to its two factors."""
    xp = array_namespace(a_data)
    left, right, place = plan._products.like(a_data)
    with np.errstate(all="ignore"):
        passed = xp.take(cotangent, place)
        return tuple(
            segment_sum(passed * xp.take(conjugate(other), there), here, data.shape[0])
            if wanted
            else None
            for wanted, data, here, other, there in (
                ("a_data" in wrt, a_data, left, b_data, right),
                ("b_data" in wrt, b_data, right, a_data, left),
            )
        )


def expand(a_indices, a_indptr, b_indptr):
    """Return for every product its entry of A and its entry of B, in order of summation."""
    xp = array_namespace(a_indices)
    a_indices = a_indices[: int(a_indptr[-1])]
    fan_out = _fan_out(a_indices, b_indptr)
    begins = xp.cumulative_sum(fan_out) - fan_out
    left = xp.repeat(_arange_like(a_indices), fan_out)
    right = _arange_like(left) + xp.take(xp.take(b_indptr, a_indices) - begins, left)
    return left, right


def sum_products(a_data, left, b_data, right, place, count, *, semiring):
    """Multiply entry left[p] of A by entry right[p] of B; add those of one place."""
    if is_jax_array(a_data):
        left, right, place = (like(x, a_data) for x in (left, right, place))
    return _sum_products(a_data, left, b_data, right, place, count, semiring=semiring)


@compiled("count", "semiring")
def _sum_products(a_data, left, b_data, right, place, count, *, semiring):
    xp = array_namespace(a_data, b_data)
    add, multiply, _ = SEMIRINGS[semiring]
    dtype = a_data.dtype
    start = absent(semiring, dtype, xp)
    if xp.isdtype(dtype, "bool"):  # or is max, and is min; not every library reduces bool
        a_data, b_data = xp.astype(a_data, place.dtype), xp.astype(b_data, place.dtype)
        add, start = ("min", int(start)) if add == "min" else ("max", int(start))
    with np.errstate(all="ignore"):  # NaN and Inf propagate, as quietly as in the other engines
        factors = xp.take(a_data, left), xp.take(b_data, right)
        products = _OPERATIONS[multiply](xp, *factors)
        if add == "sum":
            sums = segment_sum(products, place, count)
        else:
            sums = segment_extreme(products, place, count, how=add, start=start)
    return xp.astype(sums, dtype) if sums.dtype != dtype else sums


_OPERATIONS = {
    "times": lambda xp, x, y: x * y,
    "plus": lambda xp, x, y: x + y,
    "min": lambda xp, x, y: xp.minimum(x, y),
    "max": lambda xp, x, y: xp.maximum(x, y),
    "and": lambda xp, x, y: xp.minimum(x, y),
    "pair": lambda xp, x, y: xp.ones_like(x),
}


def _compress(rows, columns):
    """Sort places by (row, column): the order, each one's number, and the distinct places."""
    xp = array_namespace(rows)
    # Stable sorts keep the order of summation.
    order = xp.argsort(columns, stable=True)
    order = xp.take(order, xp.argsort(xp.take(rows, order), stable=True))
    rows, columns = xp.take(rows, order), xp.take(columns, order)
    # A new place opens where row or column changes.
    changes = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
    opens = xp.concat([xp.ones_like(rows[:1], dtype=xp.bool), changes])
    place = xp.cumulative_sum(xp.astype(opens, rows.dtype)) - 1
    return order, place, rows[opens], columns[opens]


def _masked(rows, columns, allowed_rows, allowed_columns, complement):
    """Tell which places are among those allowed (or, with `complement`, are not)."""
    xp = array_namespace(rows)
    both = xp.concat([allowed_rows, rows]), xp.concat([allowed_columns, columns])
    order, place, distinct, _ = _compress(*both)
    is_mask = xp.astype(order < allowed_rows.shape[0], rows.dtype)
    among = xp.take(segment_sum(is_mask, place, distinct.shape[0]) > 0, place)
    among = xp.take(among, xp.argsort(order))[allowed_rows.shape[0] :]
    return ~among if complement else among


def _fan_out(a_indices, b_indptr):
    xp = array_namespace(a_indices)
    return xp.take(b_indptr[1:] - b_indptr[:-1], a_indices)


def _wide(*arrays):
    xp = array_namespace(*arrays)
    return tuple(xp.astype(x, index_dtype(xp)) for x in arrays)


def _arange_like(x):
    xp = array_namespace(x)
    return xp.arange(x.shape[0], dtype=x.dtype, device=x.device)
