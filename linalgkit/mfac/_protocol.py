"""What the Fisher matrices share: vectors in any form, and the names of DESIGN's operators.

A matrix has a *form*, which works on parts: `ManyParameters`, `FewParameters` or `Blocks`.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_jax_array

from .. import _checks
from .._operator import Operator
from ._rows import Layout, in_memory, reshaped, storage_name


class SymmetricOperator(Operator):
    """A real operator that is its own transpose, with all products by `matvec`.

    Vectors have shape (d,), or (d, k) for k of them, or are lists of leaves like the gradients.
    """

    layout: Layout

    def matvec(self, x: Any, /) -> Any:
        """Return A x, for x of shape (d,), (d, k) or a list of leaves."""
        raise NotImplementedError

    def matmat(self, x: Any, /) -> Any:
        """Return A X, for X of shape (d, k)."""
        return self.matvec(x)

    def rmatvec(self, x: Any, /) -> Any:
        """Return A x, for x of shape (d,), (d, k) or a list of leaves."""
        return self.matvec(x)

    def rmatmat(self, x: Any, /) -> Any:
        """Return A X, for X of shape (d, k)."""
        return self.matvec(x)

    def __matmul__(self, x: Any) -> Any:
        """Return A x."""
        return self.matvec(x)

    @property
    def T(self) -> Any:
        """The transpose, which it is itself."""
        return self

    @property
    def H(self) -> Any:
        """The conjugate transpose, which it is itself."""
        return self

    def conj(self) -> Any:
        """Return the complex conjugate, which it is itself."""
        return self


class FisherMatrix(SymmetricOperator):
    """A damped Fisher matrix F and its inverse, by a form that works on parts."""

    damping: float
    _form: Any
    _parts: tuple[Any, ...]  # the gradients of each leaf (m, size), as stored

    def __repr__(self) -> str:
        d, m = self.shape[0], self._parts[0].shape[0]
        stored = storage_name(self._parts[0])
        size = m * d * (2 if stored == "bfloat16" else np.dtype(stored).itemsize)
        return (
            f"<{type(self).__name__} {d}×{d} ({m} gradients, stored in {stored}"
            f"{self.structure}, damping {self.damping:.3g}), "
            f"{_name(self.dtype)}: {m * d:,} parameters, {size:,} bytes, "
            f"{d / m:.3g} times smaller than dense>"
        )

    def save(self, file: Any) -> None:
        """Write it to one ``.npz`` file that `linalgkit.load` reads; bfloat16 as its bits."""
        in_memory("gradients", self._parts[0])
        kept = copy(self)  # other threads may be using this one
        for name in self.fields:
            value = getattr(self, name)
            if isinstance(value, tuple):
                value = tuple(_bits(part) for part in value)
            setattr(kept, name, _bits(value))
        kept.dtype = _name(self.dtype)
        Operator.save(kept, file)

    def matvec(self, x: Any, /) -> Any:
        """Return F x, for x of shape (d,), (d, k) or a list of leaves."""
        parts, join = self._split(x)
        return join(self._form.product(parts))

    def solve(self, x: Any, /) -> Any:
        """Return F⁻¹ x, for x of shape (d,), (d, k) or a list of leaves."""
        parts, join = self._split(x)
        return join(self._form.solve(parts))

    def whiten(self, x: Any, /, *, power: float = -0.5) -> Any:
        """Return F^power x: F^(-1/2) x by default.

        Parameters
        ----------
        x : array, shape (d,) or (d, k), or list of arrays
            The vectors.
        power : float
            Any real number for which powers of the damping are within the range of float64.
        """
        power = _checks.number("power", power)
        try:
            _ = self.damping**power, self.damping ** (power - 1)
        except OverflowError:
            raise ValueError(
                f"power={power:.3g} of the damping, {self.damping:.3g}, is beyond float64."
            ) from None
        parts, join = self._split(x)
        return join(self._form.whiten(parts, power))

    def to_dense(self) -> Any:
        """Return F as an array of shape (d, d)."""
        part = self._parts[0]
        in_memory("gradients", part)
        xp = array_namespace(part)
        return self.matmat(xp.eye(self.shape[0], dtype=self.dtype, device=device(part)))

    def diagonal(self) -> Any:
        """Return the diagonal of F."""
        return self._joined(self._form.diagonal())

    def diagonal_inverse(self) -> Any:
        """Return the diagonal of F⁻¹."""
        return self._joined(self._form.diagonal_inverse())

    def inverse_element(self, p: int, q: int) -> float:
        """Return one element of F⁻¹.

        Parameters
        ----------
        p, q : int
            Row and column, of all parameters in the order of their leaves.
        """
        return self._form.inverse_element(*places_of((p, q), self.shape[0]).tolist())

    def inverse_columns(self, indices: Any) -> Any:
        """Return columns of F⁻¹ as an array (d, k), or a list of leaves (..., k).

        Parameters
        ----------
        indices : sequence of int
            Which ones.
        """
        return self._joined(self._form.inverse_columns(places_of(indices, self.shape[0])))

    def inverse_blocks(self, size: int) -> Any:
        """Return the blocks of F⁻¹ along its diagonal, (d / size, size, size).

        Parameters
        ----------
        size : int
            Of a block; every leaf must be a multiple.
        """
        size = _checks.size("size", size, 1)
        in_memory("gradients", self._parts[0])
        check_multiple("size", size, self.layout)
        blocks = self._form.inverse_blocks(size)
        return array_namespace(blocks).astype(blocks, self.dtype)

    def logdet(self) -> float:
        """Return log det F."""
        return self._form.logdet()

    def slogdet(self) -> tuple[float, float]:
        """Return the determinant's sign, which is 1, and its logarithm."""
        return 1.0, self._form.logdet()

    def trace(self) -> float:
        """Return the sum of the diagonal, λ d + Σ |g_i|² / m."""
        return self._form.trace()

    def norm(self) -> float:
        """Return the Frobenius norm."""
        return self._form.norm()

    def inv(self) -> "InverseFisher":
        """Return F⁻¹ as an operator, whose products are `solve`."""
        return InverseFisher(self)

    @property
    def inverse(self) -> Any:
        """SciPy's LinearOperator of F⁻¹, for NumPy arrays."""
        return self.inv().aslinearoperator()

    def _restricted(self, kept: np.ndarray) -> Any:
        return self._form.restricted(kept)

    def _split(self, x: Any) -> tuple[Any, Any]:
        parts, join = self.layout.split("x", x)
        _checks.library_of(self._parts[0], parts[0])
        return parts, join

    def _joined(self, parts: Sequence[Any]) -> Any:
        """Put arrays with a row for a parameter together, in the dtype of results."""
        return self.layout.joined(
            [array_namespace(part).astype(part, self.dtype) for part in parts]
        )


class InverseFisher(SymmetricOperator):
    """The inverse of a Fisher matrix as an operator; made by its `inv`.

    Parameters
    ----------
    fisher : FisherMatrix
        The matrix F.
    """

    __module__ = "linalgkit.mfac"

    def __init__(self, fisher: FisherMatrix) -> None:
        self.fisher, self.layout = fisher, fisher.layout
        self.shape, self.dtype = fisher.shape, fisher.dtype

    def __repr__(self) -> str:
        return f"<inverse of {self.fisher!r}>"

    def matvec(self, x: Any, /) -> Any:
        """Return F⁻¹ x, for x of shape (d,), (d, k) or a list of leaves."""
        return self.fisher.solve(x)

    def solve(self, x: Any, /) -> Any:
        """Return F x, for x of shape (d,), (d, k) or a list of leaves."""
        return self.fisher.matvec(x)

    def diagonal(self) -> Any:
        """Return the diagonal of F⁻¹."""
        return self.fisher.diagonal_inverse()

    def slogdet(self) -> tuple[float, float]:
        """Return the determinant's sign, which is 1, and its logarithm."""
        return 1.0, -self.fisher.logdet()

    def inv(self) -> FisherMatrix:
        """Return F."""
        return self.fisher


def places_of(indices: Any, size: int) -> np.ndarray:
    """Return indices of parameters as an array of NumPy; IndexError where there is none."""
    places = np.asarray(indices)
    if places.ndim != 1 or places.size == 0 or places.dtype.kind not in "iu":
        raise TypeError(f"indices must be integers, at least one; got {indices!r}.")
    if places.min() < -size or places.max() >= size:
        raise IndexError(f"indices must be within the {size} parameters; got {indices!r}.")
    return places.astype(np.int64) % size


def check_multiple(name: str, size: int, layout: Layout) -> None:
    """Raise ValueError where a leaf is not cut into whole blocks."""
    for shape, entries in zip(layout.shapes, layout.sizes, strict=True):
        if entries % size:
            raise ValueError(
                f"{name}={size} must divide the parameters of every leaf; one of shape {shape} has "
                f"{entries}."
            )


def dtype_of(dtype: Any) -> Any:
    """Return a dtype; NumPy's for its types, and for a name as `save` writes it."""
    return np.dtype(dtype) if isinstance(dtype, str | type) else dtype


def leaves_of(layout: Layout, parts: Sequence[Any]) -> Any:
    """Return gradients as they were given: one array (m, d), or leaves (m, ...)."""
    if layout.is_flat:
        return parts[0]
    m = parts[0].shape[0]
    return tuple(
        part if len(shape) == 1 else reshaped(part, (m, *shape))
        for part, shape in zip(parts, layout.shapes, strict=True)
    )


def parts_of(gradients: Any) -> tuple[Layout, tuple[Any, ...]]:
    """Return the layout and the parts of gradients that `leaves_of` gave."""
    is_flat = not isinstance(gradients, tuple)
    leaves = (gradients,) if is_flat else gradients
    shapes = tuple(tuple(leaf.shape[1:]) for leaf in leaves)
    m = leaves[0].shape[0]
    parts = tuple(leaf if leaf.ndim == 2 else reshaped(leaf, (m, -1)) for leaf in leaves)
    return Layout(shapes, is_flat), parts


def _name(dtype: Any) -> str:
    return str(dtype).rpartition(".")[2]  # torch.float32


def _bits(value: Any) -> Any:
    """Return bfloat16 of torch and JAX as NumPy's uint16, which is how NumPy's is stored."""
    if not hasattr(value, "shape") or not str(getattr(value, "dtype", "")).endswith("bfloat16"):
        return value
    if is_jax_array(value):
        return np.asarray(value).view(np.uint16)
    import torch

    return value.detach().cpu().view(torch.int16).numpy().view(np.uint16)
