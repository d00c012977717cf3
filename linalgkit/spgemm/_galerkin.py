"""The triple product R A P of fixed patterns: two plans, one after the other."""

from typing import Any, NamedTuple

from .. import _checks
from .._engine import Engines
from ._chains import fitting, left_first
from ._containers import Operand
from ._patterns import Orders, compressed, in_order, own
from ._plans import DataGradients, Plan, check_length, check_slots, values_of

engine = Engines(__package__)


class GalerkinGradients(NamedTuple):
    """Gradients with respect to the values of three factors; None where not wanted.

    Parameters
    ----------
    r_data : array, shape (nnz_r,), or None
        With respect to the restriction's values; None too where it is P's transpose.
    a_data : array, shape (nnz_a,), or None
        With respect to the fine operator's values.
    p_data : array, shape (nnz_p,), or None
        With respect to the prolongation's values.
    """

    r_data: Any
    a_data: Any
    p_data: Any


class GalerkinPlan:
    """The triple product R A P of three patterns, ready for values; made by `plan_galerkin`.

    Parameters
    ----------
    r : Operand or None
        As read; None for the transpose of `p`.
    a, p : Operand
        As read.
    slots : {"auto", True, False}
        As for `plan_galerkin`.

    Attributes
    ----------
    inner, outer : Plan
        The two products, of which the outer one gives the result.
    left_first : bool
        Whether the inner one is R A; else it is A P.
    """

    def __init__(self, r: Operand | None, a: Operand, p: Operand, slots: Any):
        factors, layout = fitting(r, a, p)
        self._r_is_p = r is None
        self._sizes = tuple(int(x.data.shape[0]) for x in factors)
        names = "p" if r is None else "r", "a", "p"
        ordered = [in_order(x, layout, name) for x, name in zip(factors, names, strict=True)]
        (left, middle, right), orders = zip(*ordered, strict=True)
        self._orders = Orders(*orders)
        self.left_first = left_first(left, middle, right)
        inner = (left, middle) if self.left_first else (middle, right)
        self.inner = Plan(*inner, None, False, slots, a)
        half = middle._replace(
            data=self.inner._result.indices,
            indices=self.inner._result.indices,
            indptr=self.inner._result.indptr,
            shape=self.inner.shape,
        )
        outer = (half, right) if self.left_first else (left, half)
        self.outer = Plan(*outer, None, False, slots, a)

    def __repr__(self) -> str:
        order = "(R A) P" if self.left_first else "R (A P)"
        return f"GalerkinPlan({order}, inner={self.inner!r}, outer={self.outer!r})"

    @property
    def shape(self) -> tuple[int, int]:
        """Of the result."""
        return self.outer.shape

    @property
    def indices(self) -> Any:
        """Of the result: compressed rows, or columns if all factors are. Not to be written to."""
        return self.outer.indices

    @property
    def indptr(self) -> Any:
        """Where rows, or columns, of the result begin. Not to be written to."""
        return self.outer.indptr

    @property
    def nnz(self) -> int:
        """Entries of the result."""
        return self.outer.nnz

    @property
    def flops(self) -> int:
        """Products of both steps."""
        return self.inner.flops + self.outer.flops

    @property
    def compression_ratio(self) -> float:
        """Products of both steps for every entry of the result."""
        return self.flops / max(self.nnz, 1)

    def execute(self, r_data: Any, a_data: Any, p_data: Any, /, *, out: Any = None) -> Any:
        """Compute the values of the triple product.

        Parameters
        ----------
        r_data : array, shape (nnz_r,), or None
            None where the plan was made with the transpose of P.
        a_data, p_data : array, shapes (nnz_a,), (nnz_p,)
            Values in the order of the containers that the plan was made from.
        out : ndarray, shape (nnz,), optional
            Where to write the result (NumPy only).

        Returns
        -------
        array, shape (nnz,)
            Values of the result; `to_sparse` makes a container of them.

        Raises
        ------
        TypeError
            Containers instead of their values, arrays of different libraries, `out` of a wrong
            dtype.
        ValueError
            `r_data` given or missing against the plan, arrays of wrong length, `out` that cannot
            be written.
        """
        values = self._checked(r_data, a_data, p_data)
        left, middle, right = self._orders.there(*values)
        if self.left_first:
            return self.outer.execute(self.inner.execute(left, middle), right, out=out)
        return self.outer.execute(left, self.inner.execute(middle, right), out=out)

    def execute_vjp(
        self, cotangent: Any, r_data: Any, a_data: Any, p_data: Any, /, *, wrt: Any = None
    ) -> GalerkinGradients:
        """Pull a cotangent of the values back to the factors' values.

        Parameters
        ----------
        cotangent : array, shape (nnz,)
            Of the values that `execute` returned.
        r_data : array, shape (nnz_r,), or None
            As for `execute`.
        a_data, p_data : array, shapes (nnz_a,), (nnz_p,)
            As for `execute`.
        wrt : collection of {"r_data", "a_data", "p_data"}, optional
            What is wanted; all by default.

        Returns
        -------
        GalerkinGradients
            Named tuple ``(r_data, a_data, p_data)``, each in the dtype of its argument (the real
            part for a real one). Where R is P's transpose, `p_data` has the gradients of both.

        Raises
        ------
        TypeError
            Arrays of different libraries.
        ValueError
            Arrays of wrong length, unknown names in `wrt`.

        Notes
        -----
        The product of two factors is computed again, and then each of the two plans pulls back.

        Examples
        --------
        Of one column P the product with its transpose is a number, the only entry of R A P:

        >>> import numpy as np
        >>> from scipy.sparse import csr_array
        >>> from linalgkit import spgemm
        >>> a = csr_array([[2.0, -1.0], [-1.0, 2.0]])
        >>> p = csr_array([[1.0], [0.5]])
        >>> plan = spgemm.plan_galerkin(None, a, p)
        >>> found = plan.execute_vjp(np.ones(1), None, a.data, p.data)
        >>> found.a_data, found.p_data
        (array([1.  , 0.5 , 0.5 , 0.25]), array([3., 0.]))
        """
        wanted = _checks.wanted(wrt, GalerkinGradients._fields)
        values = self._checked(r_data, a_data, p_data)
        (cotangent,) = values_of(cotangent=cotangent)
        check_length("cotangent", cotangent, self.nnz)
        left, middle, right = self._orders.there(*values)
        of_left, of_middle = ("p_data" if self._r_is_p else "r_data") in wanted, "a_data" in wanted
        of_right = "p_data" in wanted
        if self.left_first:
            half, needed = self.inner.execute(left, middle), (of_left or of_middle, of_right)
            of_half, right = _pulled(self.outer, cotangent, half, right, needed)
            left, middle = _pulled(self.inner, of_half, left, middle, (of_left, of_middle))
        else:
            half, needed = self.inner.execute(middle, right), (of_left, of_middle or of_right)
            left, of_half = _pulled(self.outer, cotangent, left, half, needed)
            middle, right = _pulled(self.inner, of_half, middle, right, (of_middle, of_right))
        left, middle, right = self._orders.back(left, middle, right)
        if self._r_is_p:
            left, right = None, left + right if of_right else None
        return GalerkinGradients(left, middle, right)

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

    def _checked(self, r_data: Any, a_data: Any, p_data: Any) -> tuple[Any, Any, Any]:
        """Return the values of the three factors as arrays, those of P for its transpose."""
        if (r_data is None) != self._r_is_p:
            needed = "None (R is P transposed)" if self._r_is_p else "the values of R"
            raise ValueError(f"r_data must be {needed} as the plan was made.")
        named = {"a_data": a_data, "p_data": p_data}
        if not self._r_is_p:
            named = {"r_data": r_data} | named
        arrays = dict(zip(named, values_of(**named), strict=True))
        values = arrays.get("r_data", arrays["p_data"]), arrays["a_data"], arrays["p_data"]
        for name, array, size in zip(
            ("p_data" if self._r_is_p else "r_data", "a_data", "p_data"),
            values,
            self._sizes,
            strict=True,
        ):
            check_length(name, array, size)
        return values


def _pulled(
    plan: Plan, cotangent: Any, first: Any, second: Any, needed: tuple[bool, bool]
) -> DataGradients:
    """Pull back through one product what is needed; without a need there may be no cotangent."""
    names = [name for name, wish in zip(DataGradients._fields, needed, strict=True) if wish]
    if not names:
        return DataGradients(None, None)
    return plan.execute_vjp(cotangent, first, second, wrt=names)


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
        With ``execute(r_data, a_data, p_data)``, `execute_vjp` and `to_sparse`.

    Raises
    ------
    TypeError
        An operand is not a sparse container.
    ValueError
        Shapes that do not fit, invalid index arrays.

    See Also
    --------
    galerkin : Once.

    Notes
    -----
    Time of `galerkin`, and once more for the slots; an execution takes O(products) of both steps.

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
    given = [("a", a), ("p", p)] + ([] if r is None else [("r", r)])
    middle, right, *left = own(*(compressed(name, x) for name, x in given))
    check_slots(slots)
    return GalerkinPlan(left[0] if left else None, middle, right, slots)
