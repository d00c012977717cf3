"""Products of operators, kept as factors until someone asks for the matrix."""

from functools import reduce
from operator import mul
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from .. import _checks
from .._operator import Operator
from ._block_diagonal import merged


class Product(Operator):
    """A product of operators, applied one after the other.

    Parameters
    ----------
    *operators : operator
        Each with as many columns as the next has rows. Products among them are taken apart.

    Attributes
    ----------
    operators : tuple of operator
        The factors, the leftmost first.
    shape : (int, int)
        Rows of the first, columns of the last.
    batch_shape : tuple of int
        Batch axes of the factors that have any: all the same.

    See Also
    --------
    project : Makes one Monarch matrix of the dense product, with an error.
    BlockDiagonal : What Monarch matrices are products of.

    Notes
    -----
    Products of Monarch matrices are no Monarch matrices: M Mᴴ and its products make a larger class
    (Definition 3 of arXiv:2204.00595), in which convolutions are. The factors are kept as they are
    given: what changes in their arrays changes the product. `merged` multiplies those that can be.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import monarch
    >>> rng = np.random.default_rng(0)
    >>> m = monarch.Monarch(rng.standard_normal((4, 4, 4)), rng.standard_normal((4, 4, 4)))
    >>> gram = m @ m.H
    >>> gram
    <Product 16×16 of 2 operators>
    >>> np.allclose(gram.to_dense(), m.to_dense() @ m.to_dense().T)
    True
    >>> gram.merged().operators[1]  # doctest: +NORMALIZE_WHITESPACE
    <BlockDiagonal 16×16 (4 of 4×4, interleaved), float64: 64 parameters, 512 bytes,
    4 times smaller than dense>
    >>> np.allclose(gram.merged().to_dense(), gram.to_dense())
    True
    """

    __module__ = "linalgkit.monarch"

    operators: tuple[Any, ...]

    def __init__(self, *operators: Any) -> None:
        self.operators = tuple(
            factor
            for operator in operators
            for factor in (operator.operators if isinstance(operator, Product) else (operator,))
        )
        for operator in self.operators:
            if not isinstance(operator, Operator):
                raise TypeError(
                    f"a product is one of operators; got {type(operator).__name__}. Multiply "
                    f"arrays by it with @."
                )
        if not self.operators:
            raise ValueError("a product needs at least one operator.")
        for first, second in zip(self.operators, self.operators[1:], strict=False):
            if first.shape[1] != second.shape[0]:
                raise ValueError(
                    f"an operator of shape {first.shape} cannot be multiplied by one of shape "
                    f"{second.shape}: columns of the first must be rows of the second."
                )
        self.shape = self.operators[0].shape[0], self.operators[-1].shape[1]
        batches = {tuple(getattr(operator, "batch_shape", ())) for operator in self.operators}
        batches.discard(())
        if len(batches) > 1:
            raise ValueError(
                f"operators of a product must have the same batch axes, or none; got "
                f"{' and '.join(map(str, sorted(batches)))}."
            )
        self.batch_shape = batches.pop() if batches else ()

    @property
    def dtype(self) -> Any:
        """What the dtypes of the operators promote to."""
        dtypes = [operator.dtype for operator in self.operators]
        if all(dtype == dtypes[0] for dtype in dtypes):
            return dtypes[0]
        values = [getattr(part, name) for part in self.operators for name in part.fields]
        values = [part for v in values for part in (v if isinstance(v, tuple) else (v,))]
        arrays = (value for value in values if hasattr(value, "ndim"))
        return array_namespace(next(arrays, np.empty(0))).result_type(*dtypes)

    def matmat(self, x: Any, /) -> Any:
        """Return A X for X of shape (..., columns, k)."""
        x = _checks.operand("x", x, -2, self.shape[1])
        for operator in reversed(self.operators):
            x = operator.matmat(x)
        return x

    def rmatmat(self, x: Any, /) -> Any:
        """Return A^H X for X of shape (..., rows, k)."""
        x = _checks.operand("x", x, -2, self.shape[0])
        for operator in self.operators:
            x = operator.rmatmat(x)
        return x

    def __matmul__(self, x: Any) -> Any:
        """Return A x for a vector, A X for a matrix, a longer product for an operator."""
        return Product(self, x) if isinstance(x, Operator) else super().__matmul__(x)

    @property
    def T(self) -> "Product":
        """The transpose."""
        return Product(*(operator.T for operator in reversed(self.operators)))

    @property
    def H(self) -> "Product":
        """The conjugate transpose."""
        return Product(*(operator.H for operator in reversed(self.operators)))

    def conj(self) -> "Product":
        """Return the complex conjugate."""
        return Product(*(operator.conj() for operator in self.operators))

    def merged(self) -> "Product":
        """Return the same product with its neighbouring block-diagonal factors multiplied.

        A Monarch matrix is a product of two block-diagonal ones (see `BlockDiagonal`). Where the
        order turns from "LR" to "RL" or back, two of the same kind meet, and their blocks are
        multiplied if that makes products cheaper: M Mᴴ has three block-diagonal factors then, not
        four, and Mᴴ M too. Matrices that are cut stay as they are.

        Returns
        -------
        Product
            Of what the factors' arrays hold now: where they change later, merge again.
        """
        return Product(*merged(self.operators))

    def to_dense(self) -> Any:
        """Return the matrix as an array of shape (..., rows, columns)."""
        dense = self.operators[-1].to_dense()
        if self.batch_shape:
            shape = *self.batch_shape, *dense.shape[-2:]
            dense = array_namespace(dense).broadcast_to(dense, shape)
        for operator in reversed(self.operators[:-1]):
            dense = operator.matmat(dense)
        return dense

    def inv(self) -> "Product":
        """Return the inverse, where every factor has one."""
        return Product(*(operator.inv() for operator in reversed(self.operators)))

    def solve(self, b: Any, /) -> Any:
        """Return x with A x = b, factor by factor."""
        _checks.present(b=b)
        (b,) = _checks.arrays(b=b)
        if b.ndim == len(self.batch_shape) + 1:
            return self.solve(b[..., None])[..., 0]
        for operator in self.operators:
            b = operator.solve(b)
        return b

    def slogdet(self) -> tuple[Any, Any]:
        """Return the determinant's sign (or phase) and the logarithm of its absolute value."""
        signs, logarithms = zip(*(operator.slogdet() for operator in self.operators), strict=True)
        return reduce(mul, signs), sum(logarithms)

    def __repr__(self) -> str:
        size = "×".join(map(str, (*self.batch_shape, *self.shape)))
        return f"<Product {size} of {len(self.operators)} operators>"
