"""Reference engine: expand every product, sort by place, add what falls on one place (ESC)."""

import numpy as np
from array_api_compat import array_namespace

from .._xp import segment_sum
from ._csr import check_csr


def csr_matmul(a_data, a_indices, a_indptr, b_data, b_indices, b_indptr, *, shape, prune):
    """Multiply two CSR triples; O(products) memory, differentiable in the data."""
    xp = array_namespace(a_data, b_data)
    check_csr("a", a_data, a_indices, a_indptr, b_indptr.shape[0] - 1)
    check_csr("b", b_data, b_indices, b_indptr, shape[1])
    index = xp.__array_namespace_info__().default_dtypes()["indexing"]
    a_indices, a_indptr, b_indices, b_indptr = (
        xp.astype(x, index) for x in (a_indices, a_indptr, b_indices, b_indptr)
    )
    a_indices = a_indices[: int(a_indptr[-1])]

    # Expand: product p comes from entry left[p] of A and entry right[p] of B.
    fan_out = xp.take(b_indptr[1:] - b_indptr[:-1], a_indices)
    begins = xp.cumulative_sum(fan_out) - fan_out
    left = xp.repeat(_arange_like(a_indices), fan_out)
    right = _arange_like(left) + xp.take(xp.take(b_indptr, a_indices) - begins, left)
    row_of_entry = xp.repeat(_arange_like(a_indptr[1:]), a_indptr[1:] - a_indptr[:-1])
    rows, columns = xp.take(row_of_entry, left), xp.take(b_indices, right)

    # Sort by (row, column). Stable sorts keep the order of summation: rows come in order already.
    order = xp.argsort(columns, stable=True)
    order = xp.take(order, xp.argsort(xp.take(rows, order), stable=True))
    left, right, rows, columns = (xp.take(x, order) for x in (left, right, rows, columns))

    # Compress: a new place opens where row or column changes.
    opens = xp.concat(
        [
            xp.ones_like(rows[:1], dtype=xp.bool),
            (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1]),
        ]
    )
    place = xp.cumulative_sum(xp.astype(opens, index)) - 1
    rows, columns = rows[opens], columns[opens]
    data = _sum_products(xp, a_data, left, b_data, right, place, rows.shape[0])
    if prune:
        kept = data != 0
        data, rows, columns = data[kept], rows[kept], columns[kept]
    boundaries = xp.arange(shape[0] + 1, dtype=index, device=rows.device)
    indptr = xp.searchsorted(rows, boundaries)
    narrow = xp.int32 if max(*shape, data.shape[0]) < 2**31 else xp.int64
    return data, xp.astype(columns, narrow), xp.astype(indptr, narrow)


def _sum_products(xp, a_data, left, b_data, right, place, count):
    dtype = a_data.dtype
    if xp.isdtype(dtype, "bool"):  # or of ands
        a_data, b_data = xp.astype(a_data, place.dtype), xp.astype(b_data, place.dtype)
    with np.errstate(all="ignore"):  # NaN and Inf propagate, as quietly as in the other engines
        products = xp.take(a_data, left) * xp.take(b_data, right)
        sums = segment_sum(products, place, count)
    return sums != 0 if xp.isdtype(dtype, "bool") else sums


def _arange_like(x):
    xp = array_namespace(x)
    return xp.arange(x.shape[0], dtype=x.dtype, device=x.device)
