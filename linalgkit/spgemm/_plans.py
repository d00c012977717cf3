"""Products of fixed patterns: find where everything goes once, then compute values only.

The plan of a product keeps the pattern of the result and, memory permitting, for every product
its place in the row of the result ("slot"). Values then stream through: no search, no sort.
"""

from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from .. import _checks
from .._engine import Engines
from ._containers import Operand
from ._csr import like
from ._patterns import Kept, Orders, compressed, in_order, is_on_device, on_host, own
from ._products import multiply, read_mask
from ._semirings import promote
from ._sizes import flops

engine = Engines(__package__)
engine.method("execute_plan", vjp="execute_plan_vjp")


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
        The operands with index arrays that nobody else changes.
    mask : Operand or None
        Places to compute, or with `complement` those to leave out.
    complement : bool
        As for `plan`.
    slots : {"auto", True, False}
        As for `plan`.
    kind : Operand
        Of whose kind results are.

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

    def __init__(
        self,
        left: Operand,
        right: Operand,
        mask: Operand | None,
        complement: bool,
        slots: Any,
        kind: Operand,
    ):
        self.shape = left.shape[0], right.shape[1]
        self._wrap = kind.wrap
        self._sizes = tuple(int(x.data.shape[0]) for x in (left, right))
        self.layout = "csc" if left.layout == right.layout == "csc" else "csr"
        self._turned = self.layout == "csc"  # computed as the product of the transposes
        named = [("a", left), ("b", right)]
        if self._turned:
            named = [("b", right.transposed()), ("a", left.transposed())]
        ordered = [in_order(operand, "csr", name) for name, operand in named]
        first, second = (operand for operand, _ in ordered)
        self._orders = Orders(*(order for _, order in ordered))
        first.check(named[0][0])
        second.check(named[1][0])
        xp = array_namespace(first.indices)
        if mask is not None:
            mask = on_host(mask)
            mask = mask._replace(data=mask.indices)
            mask = mask.transposed() if self._turned else mask
        result = multiply(
            first._replace(data=xp.ones_like(first.indices, dtype=xp.bool)),
            second._replace(data=xp.ones_like(second.indices, dtype=xp.bool)),
            semiring="or_and",
            mask=mask,
            complement=complement,
        )
        # In rows, as engines take them. Values are not kept.
        self._first, self._second, self._result = (
            x._replace(data=x.indices) for x in (first, second, result)
        )
        self._is_masked = mask is not None
        self._is_on_device = is_on_device(first.indices)
        self.indices = like(result.indices, kind.data)
        self.indptr = like(result.indptr, kind.data)
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
            made from; any array library, wherever the pattern came from, but on a GPU if it is
            there.
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
        Traced: works under ``jit``, ``grad`` and ``vmap`` of torch and JAX. On NumPy arrays and
        CPU tensors O(flops) time without search or sort, on CuPy arrays and CUDA tensors without
        sort. Elsewhere the reference engine takes memory for every product: in JAX; in torch for
        other semirings, second derivatives, forward mode and ``torch.compile``.
        """
        a_data, b_data = values_of(a_data=a_data, b_data=b_data)
        check_length("a_data", a_data, self._sizes[0])
        check_length("b_data", b_data, self._sizes[1])
        promoted = promote(a_data, b_data, semiring, None)
        a_data, b_data = self._ordered(promoted.a_data, promoted.b_data)
        options: dict[str, Any] = {"plan": self}
        if out is not None:
            self._check_out(out, a_data, b_data, promoted.dtype)
            is_fit = out.flags.carray and out.dtype == a_data.dtype
            if is_fit and engine(a_data, b_data).name == "numba":
                options["out"] = out
        if promoted.semiring == "plus_times":
            data = engine(a_data, b_data).execute_plan(a_data, b_data, **options)
        else:
            options["semiring"] = promoted.semiring
            data = engine(a_data, b_data).execute_plan_in(a_data, b_data, **options)
        if out is not None:
            if data is not out:
                out[:] = data
            return out
        if data.dtype != promoted.dtype:
            data = array_namespace(data).astype(data, promoted.dtype)
        return data

    def _check_out(self, out: Any, a_data: Any, b_data: Any, dtype: Any) -> None:
        if type(out) is not np.ndarray or type(a_data) is not np.ndarray:
            raise TypeError(f"out needs NumPy arrays throughout; got {type(out).__name__}.")
        check_length("out", out, self.nnz)
        if out.dtype != dtype:
            raise TypeError(f"out must have the result's dtype {dtype}; got {out.dtype}.")
        if not out.flags.writeable:
            raise ValueError("out is read-only; give it memory that can be written.")
        if np.shares_memory(out, a_data) or np.shares_memory(out, b_data):
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
        arrays = values_of(cotangent=cotangent, a_data=a_data, b_data=b_data)
        for name, array, size in zip(
            ("cotangent", "a_data", "b_data"), arrays, (self.nnz, *self._sizes), strict=True
        ):
            check_length(name, array, size)
        wanted = _checks.wanted(wrt, DataGradients._fields)
        xp = array_namespace(*arrays)
        dtype = xp.result_type(*arrays)
        if not xp.isdtype(dtype, ("real floating", "complex floating")):
            raise TypeError(f"gradients need floating-point values; got {dtype}.")
        half = "float16" in str(dtype)
        computed = xp.float32 if half else dtype
        cotangent, a_data, b_data = (xp.astype(x, computed, copy=False) for x in arrays)
        values = self._ordered(a_data, b_data)
        names = DataGradients._fields  # of the engine's operands too, which may be the other two
        roles = names[::-1] if self._turned else names
        first, second = engine(cotangent, *values).execute_plan_vjp(
            cotangent,
            *values,
            plan=self,
            wrt=tuple(name for name, role in zip(names, roles, strict=True) if role in wanted),
        )
        found = dict(zip(roles, self._orders.back(first, second), strict=True))
        return DataGradients(
            *(
                _checks.as_dtype_of(found[name], given) if name in wanted else None
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
        check_length("data", data, self.nnz)
        result = self._wrap((data, self.indices, self.indptr), self.shape, self.layout)
        if hasattr(type(result), "has_canonical_format"):
            result.has_sorted_indices = result.has_canonical_format = True
        return result

    def _ordered(self, a_data: Any, b_data: Any) -> tuple[Any, ...]:
        """From the operands' order of values to that of the computation."""
        if self._is_on_device and not is_on_device(a_data):
            raise TypeError(
                "a plan whose pattern is on a GPU takes values there; make it from arrays on the "
                "host for values anywhere."
            )
        return self._orders.there(*((b_data, a_data) if self._turned else (a_data, b_data)))

    @property
    def _products(self) -> Kept:
        """Of every product: its entry of A, its entry of B, and its place in the result."""
        if "products" not in self._kept:
            found = engine(self._first.indices).plan_products(self)
            self._kept["products"] = Kept(*found)
        return self._kept["products"]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_kept": {}}  # what is made again where it is wanted


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
        library that `matmul` takes; only the pattern counts, and a copy of it is kept. Values
        come in the order that they have now: sort first what is to be sorted (SciPy sorts in
        place where it needs to, as in ``spsolve``).
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
    left, right = compressed("a", a), compressed("b", b)
    _checks.library_of(left.data, right.data)
    if left.shape[1] != right.shape[0]:
        raise ValueError(
            f"plan needs a of shape (m, k) and b of shape (k, n); got {left.shape} and "
            f"{right.shape}."
        )
    check_slots(slots)
    shape = left.shape[0], right.shape[1]
    pattern = read_mask(mask, shape, complement, False)
    if pattern is not None:
        _checks.library_of(left.data, pattern.data)
    left, right = own(left, right)
    return Plan(left, right, pattern, complement, slots, left)


def values_of(**named: Any) -> tuple[Any, ...]:
    """Return arrays of values; TypeError for the containers that hold them."""
    for name, value in named.items():
        if hasattr(value, "indptr") or hasattr(value, "tocsr"):
            raise TypeError(
                f"{name} must be the values alone, in the plan's order; got "
                f"{type(value).__module__}.{type(value).__qualname__}. Pass its .data."
            )
    _checks.present(**named)
    return _checks.arrays(**named)


def check_length(name: str, array: Any, size: int) -> None:
    """Raise ValueError unless an array has so many entries on its one axis."""
    if tuple(array.shape) != (size,):
        raise ValueError(f"{name} must have shape ({size},); got {tuple(array.shape)}.")


def check_slots(slots: Any) -> None:
    """Raise ValueError unless an option is what a plan knows."""
    if not (isinstance(slots, bool) or (isinstance(slots, str) and slots == "auto")):
        raise ValueError(f"slots must be 'auto', True or False; got {slots!r}.")
