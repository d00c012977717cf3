"""Products of fixed patterns: find where everything goes once, then compute values only.

The plan of a product keeps the pattern of the result and, memory permitting, for every product
its place in the row of the result ("slot"). Values then stream through: no search, no sort.
"""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, is_jax_array

from .. import _checks
from .._engine import Engines
from ._chains import left_first, read_three
from ._containers import Operand, read
from ._csr import check_csr, like
from ._products import multiply, read_mask
from ._semirings import promote
from ._sizes import flops

engine = Engines(__package__)


class DataGradients(NamedTuple):
    """Gradients with respect to the values of both operands; None where not wanted.

    Parameters
    ----------
    a_data : array, shape (nnz_a,), or None
        With respect to the left operand's values.
    b_data : array, shape (nnz_b,), or None
        With respect to the right operand's values.
    """

    a_data: Any
    b_data: Any


class Plan:
    """The product of two patterns, ready for values; made by `plan`.

    Parameters
    ----------
    left, right : Operand
        The operands as read.
    mask : Operand or None
        Places to compute, or with `complement` those to leave out.
    complement : bool
        As for `plan`.
    slots : {"auto", True, False}
        As for `plan`.

    Attributes
    ----------
    shape : (int, int)
        Of the result.
    indices, indptr : array of int
        The pattern of the result: compressed rows, or columns where both operands are
        columns. The arrays of every `to_sparse`: not to be written to.
    flops : int
        Products that an execution adds up (before a mask).
    """

    def __init__(self, left: Operand, right: Operand, mask: Any, complement: bool, slots: Any):
        self.shape = left.shape[0], right.shape[1]
        self._wrap = left.wrap
        self._sizes = tuple(int(x.data.shape[0]) for x in (left, right))
        self.layout = "csc" if left.layout == right.layout == "csc" else "csr"
        self._turned = self.layout == "csc"  # computed as the product of the transposes
        if self._turned:
            first, second = right.transposed(), left.transposed()
        else:
            first, second = left, right
        first, self._first_order = _in_rows(first, "a")
        second, self._second_order = _in_rows(second, "b")
        check_csr("a", *first.parts, first.shape[1])
        check_csr("b", *second.parts, second.shape[1])
        xp = array_namespace(first.indices)
        if mask is not None:
            mask = mask._replace(data=mask.indices)
            mask = mask.transposed() if self._turned else mask
        self._result = multiply(
            first._replace(data=xp.ones_like(first.indices, dtype=xp.bool)),
            second._replace(data=xp.ones_like(second.indices, dtype=xp.bool)),
            semiring="or_and",
            mask=mask,
            complement=complement,
        )
        self._first, self._second = first, second  # in rows, as engines take them
        self._is_masked = mask is not None
        self.indices = like(self._result.indices, left.data)
        self.indptr = like(self._result.indptr, left.data)
        self._kept: dict[str, Any] = {}  # what engines make of the patterns for themselves
        self.flops = int(xp.sum(flops(first, second)))
        self.slots = None
        if slots is not False and mask is None:
            make = engine(first.indices).plan_slots
            self.slots = make(self, only_if_small=slots == "auto")

    @property
    def nnz(self) -> int:
        """Entries of the result."""
        return int(self.indices.shape[0])

    @property
    def compression_ratio(self) -> float:
        """Products for every entry of the result."""
        return self.flops / max(self.nnz, 1)

    def __repr__(self) -> str:
        m, n = self.shape
        if self.slots is None:
            kept = "no slots"
        else:
            kept = f"slots of {self.slots.itemsize} bytes, {self.slots.nbytes / 1e6:.1f} MB"
        return (
            f"Plan({m} x {n}, {self.layout}, {self.nnz} entries from {self.flops} products, "
            f"compression {self.compression_ratio:.2f}, {kept})"
        )

    def execute(
        self, a_data: Any, b_data: Any, /, *, semiring: str = "plus_times", out: Any = None
    ) -> Any:
        """Compute the values of the product for new values of the operands.

        Parameters
        ----------
        a_data : array, shape (nnz_a,)
            Values of the left operand in the order of the container that the plan was
            made from; any array library, whichever the pattern came from on the host.
        b_data : array, shape (nnz_b,)
            Values of the right operand, from the same library.
        semiring : str, default "plus_times"
            As in `matmul`.
        out : ndarray, shape (nnz,), optional
            Where to write the result (NumPy only).

        Returns
        -------
        array, shape (nnz,)
            ``matmul(a, b).data``, to the bit; `to_sparse` makes a container of it.

        Raises
        ------
        TypeError
            Containers instead of their values, arrays of different libraries, `out` of a wrong
            dtype.
        ValueError
            Arrays of wrong length, an unknown semiring, `out` that cannot be written.

        Notes
        -----
        Traced: works under ``jit``, ``grad`` and ``vmap`` of torch and JAX. On NumPy arrays
        O(flops) time without search or sort, on CuPy arrays without sort; elsewhere the reference
        engine takes memory for every product.
        """
        a_data, b_data = _values(a_data=a_data, b_data=b_data)
        self._check("a_data", a_data, self._sizes[0])
        self._check("b_data", b_data, self._sizes[1])
        promoted = promote(a_data, b_data, semiring, None)
        a_data, b_data = self._ordered(promoted.a_data, promoted.b_data)
        serving = engine(a_data, b_data)
        if out is not None:
            self._check_out(out, a_data, b_data, promoted.dtype)
            if serving.name == "numba" and out.flags.carray and out.dtype == a_data.dtype:
                return serving.execute_plan(
                    a_data, b_data, self, semiring=promoted.semiring, out=out
                )
        data = serving.execute_plan(a_data, b_data, self, semiring=promoted.semiring)
        if out is not None:
            out[:] = data
            return out
        if data.dtype != promoted.dtype:
            data = array_namespace(data).astype(data, promoted.dtype)
        return data

    def _check_out(self, out: Any, a_data: Any, b_data: Any, dtype: Any) -> None:
        if type(out) is not np.ndarray or type(a_data) is not np.ndarray:
            raise TypeError(f"out needs NumPy arrays throughout; got {type(out).__name__}.")
        self._check("out", out, self.nnz)
        if out.dtype != dtype:
            raise TypeError(f"out must have the result's dtype {dtype}; got {out.dtype}.")
        if not out.flags.writeable:
            raise ValueError("out is read-only; give it memory that can be written.")
        if np.may_share_memory(out, a_data) or np.may_share_memory(out, b_data):
            raise ValueError("out shares memory with an operand; give it memory of its own.")

    def execute_vjp(
        self, cotangent: Any, a_data: Any, b_data: Any, /, *, wrt: Any = None
    ) -> DataGradients:
        """Pull a cotangent of the plus-times values back to the operands' values.

        Parameters
        ----------
        cotangent : array, shape (nnz,)
            Of the values that `execute` returned.
        a_data : array, shape (nnz_a,)
            As for `execute`.
        b_data : array, shape (nnz_b,)
            As for `execute`.
        wrt : collection of {"a_data", "b_data"}, optional
            What is wanted; both by default.

        Returns
        -------
        DataGradients
            Named tuple ``(a_data, b_data)``: the entries of (dC B^H) and (A^H dC) at the places
            that are stored in A and B, in the dtype of each argument (the real part for a real
            one).

        Raises
        ------
        TypeError
            Arrays of different libraries.
        ValueError
            Arrays of wrong length, unknown names in `wrt`.

        Notes
        -----
        O(flops) time. Complex gradients follow torch's convention.
        """
        arrays = _values(cotangent=cotangent, a_data=a_data, b_data=b_data)
        for name, array, size in zip(
            ("cotangent", "a_data", "b_data"), arrays, (self.nnz, *self._sizes), strict=True
        ):
            self._check(name, array, size)
        wanted = _checks.wanted(wrt, DataGradients._fields)
        cotangent, a_data, b_data = arrays
        xp = array_namespace(*arrays)
        dtype = xp.result_type(*arrays)
        if not xp.isdtype(dtype, ("real floating", "complex floating")):
            raise TypeError(f"gradients need floating-point values; got {dtype}.")
        half = "float16" in str(dtype)
        computed = xp.float32 if half else dtype
        values = self._ordered(*(xp.astype(x, computed, copy=False) for x in arrays[1:]))
        roles = DataGradients._fields[::-1] if self._turned else DataGradients._fields
        first, second = engine(cotangent, *values).execute_plan_vjp(
            xp.astype(cotangent, computed, copy=False),
            *values,
            self,
            wrt=tuple(name in wanted for name in roles),
        )
        found = dict(zip(roles, self._given_order(first, second), strict=True))
        return DataGradients(
            *(
                _as_dtype(found[name], given.dtype) if name in wanted else None
                for name, given in zip(DataGradients._fields, arrays[1:], strict=True)
            )
        )

    def to_sparse(self, data: Any) -> Any:
        """Make a sparse container of values, of the kind of the left operand.

        Parameters
        ----------
        data : array, shape (nnz,)
            Values from `execute`.

        Returns
        -------
        sparse array or matrix
            Holds the plan's index arrays, not copies.
        """
        (data,) = _checks.arrays(data=data)
        self._check("data", data, self.nnz)
        result = self._wrap((data, self.indices, self.indptr), self.shape, self.layout)
        if hasattr(type(result), "has_canonical_format"):
            result.has_sorted_indices = result.has_canonical_format = True
        return result

    @cached_property
    def _products(self) -> tuple[Any, Any, Any]:
        """Of every product: its entry of A, its entry of B, and its place in the result."""
        return engine(self._first.indices).plan_products(self)

    def _products_like(self, array: Any) -> tuple[Any, Any, Any]:
        """Return `_products` as arrays of the library of `array`."""
        if is_jax_array(array):
            if "jax" not in self._kept:  # kept for all calls: no constants of one that is traced
                import jax

                with jax.ensure_compile_time_eval():
                    self._kept["jax"] = tuple(map(jax.numpy.asarray, self._products))
            return self._kept["jax"]
        left, right, place = (like(x, array) for x in self._products)
        return left, right, place

    def _ordered(self, a_data: Any, b_data: Any) -> tuple[Any, Any]:
        """From the operands' order of values to that of the computation."""
        data = (b_data, a_data) if self._turned else (a_data, b_data)
        orders = self._first_order, self._second_order
        return tuple(
            x if order is None else array_namespace(x).take(x, like(order, x))
            for x, order in zip(data, orders, strict=True)
        )

    def _given_order(self, first: Any, second: Any) -> tuple[Any, Any]:
        """Back from the computation's order to that of the operands."""
        orders = self._first_order, self._second_order
        return tuple(
            x
            if order is None or x is None
            else array_namespace(x).take(x, like(array_namespace(order).argsort(order), x))
            for x, order in zip((first, second), orders, strict=True)
        )

    @staticmethod
    def _check(name: str, array: Any, size: int) -> None:
        if tuple(array.shape) != (size,):
            raise ValueError(f"{name} must have shape ({size},); got {tuple(array.shape)}.")


class GalerkinPlan:
    """The triple product R A P of three patterns, ready for values; made by `plan_galerkin`.

    Parameters
    ----------
    r : sparse array or matrix, or None
        As for `plan_galerkin`.
    a, p : sparse array or matrix
        As for `plan_galerkin`.
    slots : {"auto", True, False}
        As for `plan_galerkin`.
    """

    def __init__(self, r: Any, a: Any, p: Any, slots: Any):
        left, middle, right = read_three(r, a, p)
        self._r_is_p = r is None
        given = right.transposed() if r is None else read("r", r)
        self._r_size = int(given.data.shape[0])
        self._order = None
        if given.layout != left.layout:  # from the order of the given values to that of the rows
            numbered = given._replace(data=array_namespace(given.indices).arange(self._r_size))
            self._order = numbered.in_layout(left.layout, "r").data
        self.left_first = left_first(left, middle, right)
        self._wrap = middle.wrap
        inner = (left, middle) if self.left_first else (middle, right)
        self.inner = Plan(*inner, None, False, slots)
        half = inner[0]._replace(
            data=self.inner.indices,
            indices=self.inner._result.indices,
            indptr=self.inner._result.indptr,
            shape=self.inner.shape,
            layout=self.inner.layout,
        )
        outer = (half, right) if self.left_first else (left, half)
        self.outer = Plan(*outer, None, False, slots)
        self.outer._wrap = middle.wrap

    def __repr__(self) -> str:
        order = "(R A) P" if self.left_first else "R (A P)"
        return f"GalerkinPlan({order}, inner={self.inner!r}, outer={self.outer!r})"

    @property
    def shape(self) -> tuple[int, int]:
        """Of the result."""
        return self.outer.shape

    @property
    def nnz(self) -> int:
        """Entries of the result."""
        return self.outer.nnz

    @property
    def flops(self) -> int:
        """Products of both steps."""
        return self.inner.flops + self.outer.flops

    def execute(self, r_data: Any, a_data: Any, p_data: Any, /) -> Any:
        """Compute the values of the triple product.

        Parameters
        ----------
        r_data : array, shape (nnz_r,), or None
            None where the plan was made with the transpose of P.
        a_data, p_data : array, shapes (nnz_a,), (nnz_p,)
            Values in the order of the containers that the plan was made from.

        Returns
        -------
        array, shape (nnz,)
            Values of the result; `to_sparse` makes a container of them.

        Raises
        ------
        TypeError
            Containers instead of their values, arrays of different libraries.
        ValueError
            `r_data` given or missing against the plan, arrays of wrong length.
        """
        if (r_data is None) != self._r_is_p:
            needed = "None (R is P transposed)" if self._r_is_p else "the values of R"
            raise ValueError(f"r_data must be {needed} as the plan was made.")
        name, values = ("p_data", p_data) if self._r_is_p else ("r_data", r_data)
        (r_data,) = _values(**{name: values})
        a_data, p_data = _values(a_data=a_data, p_data=p_data)
        sizes = self.inner._sizes[1], self.outer._sizes[1]
        a_size, p_size = sizes if self.left_first else self.inner._sizes
        Plan._check(name, r_data, self._r_size)
        Plan._check("a_data", a_data, a_size)
        Plan._check("p_data", p_data, p_size)
        if self._order is not None:
            r_data = array_namespace(r_data).take(r_data, like(self._order, r_data))
        if self.left_first:
            return self.outer.execute(self.inner.execute(r_data, a_data), p_data)
        return self.outer.execute(r_data, self.inner.execute(a_data, p_data))

    def to_sparse(self, data: Any) -> Any:
        """Make a sparse container of values, of the kind of A.

        Parameters
        ----------
        data : array, shape (nnz,)
            Values from `execute`.

        Returns
        -------
        sparse array or matrix
            Holds the plan's index arrays, not copies.
        """
        return self.outer.to_sparse(data)


@engine.eager
def plan(
    a: Any,
    b: Any,
    /,
    *,
    mask: Any = None,
    complement: bool = False,
    slots: bool | str = "auto",
) -> Plan:
    """Find the pattern of A B once, for many products of the same patterns.

    Parameters
    ----------
    a : sparse array or matrix, shape (m, k)
        In rows or columns (CSR, CSC; ``a.T`` for a transpose, which copies nothing), from any
        library that `matmul` takes; only the pattern counts. Its index arrays are kept and must
        not change.
    b : sparse array or matrix, shape (k, n)
        From the same library.
    mask : sparse array or matrix, shape (m, n), optional
        Compute only the places that are stored here.
    complement : bool, default False
        Compute only those that are not.
    slots : {"auto", True, False}
        Keep for every product its place in the row of the result (1, 2 or 4 bytes each, as
        the longest row asks). "auto": where they take less than an eighth of the available
        memory. With a mask there are none: a dense row takes their part.

    Returns
    -------
    Plan
        With `execute`, `execute_vjp`, `to_sparse`, `nnz`, `flops`, `compression_ratio`.

    Raises
    ------
    TypeError
        An operand is not a sparse container.
    ValueError
        Shapes that do not fit, invalid index arrays, a format whose values have another order
        than compressed rows or columns.

    See Also
    --------
    matmul : Once, for patterns that are used once.
    plan_galerkin : For the triple product of multigrid.

    Notes
    -----
    Time of one product, and once more for the slots. Sums that cancel are stored: the pattern
    does not depend on values. With slots an execution streams A, gathers B and adds within one
    row of the result; it also keeps, for every entry of A, where its row of B begins and ends (5
    to 16 bytes). Where each product is an entry by itself, in the order of A's entries, there are
    no slots: an execution is one gather.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> from linalgkit import spgemm
    >>> a = csr_array([[1.0, 2.0], [0.0, 3.0]])
    >>> square = spgemm.plan(a, a)
    >>> square.execute(a.data, a.data)
    array([1., 8., 9.])
    >>> square.to_sparse(square.execute(10 * a.data, a.data)).toarray()
    array([[10., 80.],
           [ 0., 90.]])
    """
    left, right = (_compressed(name, x) for name, x in (("a", a), ("b", b)))
    _checks.library_of(left.data, right.data)
    if left.shape[1] != right.shape[0]:
        raise ValueError(
            f"plan needs a of shape (m, k) and b of shape (k, n); got {left.shape} and "
            f"{right.shape}."
        )
    _check_slots(slots)
    shape = left.shape[0], right.shape[1]
    pattern = read_mask(mask, shape, complement, False)
    if pattern is not None:
        _checks.library_of(left.data, pattern.data)
    return Plan(left, right, pattern, complement, slots)


@engine.eager
def plan_galerkin(r: Any, a: Any, p: Any, /, *, slots: bool | str = "auto") -> GalerkinPlan:
    """Find the pattern of R A P once, for many triple products of the same patterns.

    Parameters
    ----------
    r : sparse array or matrix, shape (m, n), or None
        The restriction; None for the transpose of `p`.
    a : sparse array or matrix, shape (n, n')
        The fine operator, in rows or columns.
    p : sparse array or matrix, shape (n', m')
        The prolongation.
    slots : {"auto", True, False}
        As for `plan`.

    Returns
    -------
    GalerkinPlan
        With ``execute(r_data, a_data, p_data)`` and ``to_sparse``.

    Raises
    ------
    TypeError
        An operand is not a sparse container.
    ValueError
        Shapes that do not fit, invalid index arrays.

    See Also
    --------
    galerkin : Once.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_array, diags_array
    >>> from linalgkit import spgemm
    >>> a = csr_array(diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(6, 6)))
    >>> p = csr_array((np.ones(6), np.arange(6) // 2, np.arange(7)), shape=(6, 3))
    >>> coarse = spgemm.plan_galerkin(None, a, p)
    >>> coarse.execute(None, 10 * a.data, p.data)
    array([ 20., -10., -10.,  20., -10., -10.,  20.])
    """
    for name, x in (("a", a), ("p", p)) + ((("r", r),) if r is not None else ()):
        _compressed(name, x)
    _check_slots(slots)
    return GalerkinPlan(r, a, p, slots)


def _values(**named: Any) -> tuple[Any, ...]:
    """Return arrays of values; TypeError for the containers that hold them."""
    for name, value in named.items():
        if hasattr(value, "indptr") or hasattr(value, "tocsr"):
            raise TypeError(
                f"{name} must be the values alone, in the plan's order; got "
                f"{type(value).__module__}.{type(value).__qualname__}. Pass its .data."
            )
    return _checks.arrays(**named)


def _compressed(name: str, value: Any) -> Operand:
    operand = read(name, value)
    if operand.data is not getattr(value, "data", None) and hasattr(value, "tocsr"):
        raise ValueError(
            f"{name} must be CSR or CSC, whose order of values a plan keeps to; got "
            f"{getattr(value, 'format', type(value).__name__)}. Convert it first."
        )
    return operand


def _check_slots(slots: Any) -> None:
    if not (isinstance(slots, bool) or (isinstance(slots, str) and slots == "auto")):
        raise ValueError(f"slots must be 'auto', True or False; got {slots!r}.")


def _in_rows(operand: Operand, name: str) -> tuple[Operand, Any]:
    """Return an operand in rows, and from where its values come if their order changed."""
    if operand.layout == "csr":
        return operand, None
    xp = array_namespace(operand.indices)
    numbered = operand._replace(data=xp.arange(operand.data.shape[0]))
    rows = numbered.in_layout("csr", name)
    unused = numbered.data[rows.data.shape[0] :]  # past the last row, which stay there
    return rows, xp.concat([rows.data, unused])


def _as_dtype(array: Any, dtype: Any) -> Any:
    xp = array_namespace(array)
    if xp.isdtype(array.dtype, "complex floating") and not xp.isdtype(dtype, "complex floating"):
        array = xp.real(array)
    return xp.astype(array, dtype, copy=False)
