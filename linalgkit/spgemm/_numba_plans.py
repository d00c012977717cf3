"""CPU engine of plans: slots, values and gradients of products of known patterns."""

from functools import cached_property, partial

import numpy as np

from .. import _threads
from .._checks import kernel_array
from .._intrinsics import RINGS
from . import _numba_slots as _kernels
from ._numba_operands import SMALL, available_memory, operand, running_products
from ._semirings import absent

# Rows of B up to which its values stay in the near caches.
_NEAR = 1 << 18


class _Patterns:
    """The index arrays of a plan as kernels take them, kept with it."""

    def __init__(self, plan):
        self.columns = plan._second.shape[1]
        parts = plan._first, plan._second, plan._result
        sizes = [array.size for x in parts for array in x.parts[1:]]
        index = np.int32 if max(self.columns, *sizes) < 2**31 else np.int64
        a, b, c = (
            operand(name, x.indices, x.indices, x.indptr, 0, index)
            for name, x in zip("abc", parts, strict=True)
        )
        self.a, self.b, (self.c_indices, self.c_indptr) = a[1:], b[1:], c[1:]
        self.begins, _, self.longest_source = running_products(a, b)
        self.bounds = _threads.chunk_bounds(self.begins, minimum=SMALL)
        longest = max(int(np.diff(self.c_indptr).max(initial=0)), self.longest_source)
        self.width = np.min_scalar_type(longest)  # of slots, and of the lengths of B's rows

    @cached_property
    def sources(self):
        """Of every entry of A: where its row of B begins, and the length of that row."""
        indices, indptr = self.a
        used, b_indptr = indices[: int(indptr[-1])], self.b[1]
        lengths = np.diff(b_indptr).astype(self.width)
        return tuple(kernel_array(x[used]) for x in (b_indptr[:-1], lengths))

    @cached_property
    def is_gather(self):
        """Whether every entry of the result is one product, in the order of A's entries."""
        if self.longest_source > 1 or not np.array_equal(self.a[1], self.c_indptr):
            return False
        return np.array_equal(self.b[0][self.sources[0]], self.c_indices)

    @cached_property
    def is_far(self):
        """Whether A's rows ask for rows of B far from those that the row before asked for."""
        indices, indptr = self.a
        rows = np.linspace(1, indptr.size - 2, 64).astype(int) if indptr.size > 64 else []
        far = 0
        for i in rows:
            before, here = indices[indptr[i - 1] : indptr[i]], indices[indptr[i] : indptr[i + 1]]
            if before.size and here.size:
                steps = np.abs(
                    np.subtract.outer(here[:32].astype(np.int64), before[:32].astype(np.int64))
                )
                far += np.mean(steps.min(axis=1) > 8) > 0.5
        return bool(far > 16 and self.b[1].size > _NEAR // 8)

    @cached_property
    def a_by_columns(self):
        """Entries of A ordered by column, then row: where each stands, its row; and pointers."""
        used, inner = int(self.a[1][-1]), self.b[1].size - 1
        columns = self.a[0][:used]
        order = np.argsort(columns, kind="stable")
        ends = np.concatenate(
            [[0], np.cumsum(np.bincount(columns.astype(np.int64), minlength=inner))]
        )
        lengths = np.diff(self.a[1].astype(np.int64))
        rows = np.repeat(np.arange(lengths.size), lengths)[order]
        return tuple(kernel_array(x.astype(np.int64)) for x in (order, rows, ends))

    @cached_property
    def bounds_of_b(self):
        """Chunks of B's rows of about equal work: products, each a bisection."""
        _, _, ends = self.a_by_columns
        work = np.diff(ends) * np.diff(self.b[1].astype(np.int64))
        return _threads.chunk_bounds(np.concatenate([[0], np.cumsum(work)]), minimum=SMALL // 4)


def plan_slots(plan, *, only_if_small):
    """Find the place of every product in its row of the result; None without room or need."""
    patterns = _patterns(plan)
    is_large = plan.flops * patterns.width.itemsize > available_memory() // 8
    if patterns.is_gather or (only_if_small and is_large):
        return None
    slots = np.empty(plan.flops, dtype=patterns.width)
    _threads.run_chunks(
        _kernels.find_slots, patterns.bounds, *patterns.a, *patterns.b, patterns.c_indices,
        patterns.c_indptr, patterns.begins, slots,
        scratch=partial(np.zeros, patterns.columns, dtype=np.uint32),
    )  # fmt: skip
    return slots


def execute_plan(a_data, b_data, *, plan, out=None):
    """Compute the values of a plan's product; every row by one thread, in stored order."""
    return execute_plan_in(a_data, b_data, plan=plan, semiring="plus_times", out=out)


def execute_plan_in(a_data, b_data, *, plan, semiring, out=None):
    """Compute them in any semiring."""
    patterns = _patterns(plan)
    zero = a_data.dtype.type(absent(semiring, a_data.dtype, np))
    ring = RINGS[semiring], zero
    a_data, b_data = kernel_array(a_data), kernel_array(b_data)
    if out is None:
        out = np.empty(plan.nnz, dtype=a_data.dtype)
    if patterns.is_gather:
        bounds = _threads.chunk_bounds((plan.nnz, 1), minimum=SMALL)
        _threads.run_chunks(
            _kernels.gather, bounds, *ring, a_data, b_data, patterns.sources[0], out
        )
    elif plan.slots is not None:
        _threads.run_chunks(
            _kernels.add_slots, patterns.bounds, *ring, a_data, patterns.a[1], b_data,
            *patterns.sources, patterns.c_indptr, patterns.begins, plan.slots, patterns.is_far, out,
        )  # fmt: skip
    else:
        _threads.run_chunks(
            _kernels.add_rows, patterns.bounds, *ring, a_data, *patterns.a, b_data, *patterns.b,
            patterns.c_indices, patterns.c_indptr, out,
            scratch=partial(np.empty, patterns.columns, dtype=a_data.dtype),
        )  # fmt: skip
    return out


def execute_plan_vjp(cotangent, a_data, b_data, *, plan, wrt):
    """Gradients: rows of A, and rows of B, each by one thread."""
    patterns = _patterns(plan)
    dtype = np.result_type(cotangent, a_data, b_data)
    cotangent, a_conj, b_conj = (
        kernel_array(x.astype(dtype, copy=False)) for x in (cotangent, a_data.conj(), b_data.conj())
    )
    left = right = None
    if "a_data" in wrt:
        left = np.zeros(a_data.size, dtype=dtype)

        def kernel(start, stop, scratch):
            _kernels.left_gradient(
                start, stop, cotangent, *patterns.a, b_conj, *patterns.b, patterns.c_indices,
                patterns.c_indptr, left, *scratch,
            )  # fmt: skip

        def scratch():
            return np.zeros(patterns.columns, dtype), np.zeros(patterns.columns, np.uint8)

        _threads.run_chunks(kernel, patterns.bounds, scratch=scratch)
    if "b_data" in wrt:
        right = np.zeros(b_data.size, dtype=dtype)
        _threads.run_chunks(
            _kernels.right_gradient, patterns.bounds_of_b, cotangent, a_conj,
            *patterns.a_by_columns, *patterns.b, patterns.c_indices, patterns.c_indptr, right,
        )  # fmt: skip
    return left, right


def _patterns(plan):
    if "numba" not in plan._kept:
        plan._kept["numba"] = _Patterns(plan)
    return plan._kept["numba"]
