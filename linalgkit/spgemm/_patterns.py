"""Patterns that plans keep: read from containers, their own, with values in a known order."""

from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_cupy_array, is_jax_array, is_torch_array

from ._containers import Operand, read
from ._csr import like


def compressed(name: str, value: Any) -> Operand:
    """Read a container whose values have the order of its entries."""
    operand = read(name, value)
    if operand.data is not getattr(value, "data", None) and hasattr(value, "tocsr"):
        raise ValueError(
            f"{name} must be CSR or CSC, whose order of values a plan keeps to; got "
            f"{getattr(value, 'format', type(value).__name__)}. Convert it first."
        )
    return operand


def own(*operands: Operand) -> list[Operand]:
    """Return operands with index arrays of their own, in NumPy's unless they are on a device.

    Containers sort their rows in place, SciPy's unasked, and a pattern would change under a plan.
    """
    copies: dict[int, Any] = {}  # an array of two operands is copied once

    def copy(array: Any) -> Any:
        if id(array) not in copies:
            is_there = is_on_device(array)
            seen = array if is_there else np.asarray(array)
            copies[id(array)] = array_namespace(seen).asarray(seen, copy=True)
        return copies[id(array)]

    return [x._replace(indices=copy(x.indices), indptr=copy(x.indptr)) for x in operands]


def on_host(operand: Operand) -> Operand:
    """Return an operand with index arrays in NumPy's unless they are on a device."""
    if is_on_device(operand.indices):
        return operand
    return operand._replace(indices=np.asarray(operand.indices), indptr=np.asarray(operand.indptr))


def is_on_device(array: Any) -> bool:
    """Tell whether NumPy cannot look at an array's memory."""
    return is_cupy_array(array) or (is_torch_array(array) and array.device.type != "cpu")


def in_order(operand: Operand, layout: str, name: str) -> tuple[Operand, Any]:
    """Return an operand in a layout, and from where its values come if their order changed.

    There are as many of them as before: what stands past the last row stays there.
    """
    if operand.layout == layout:
        return operand, None
    xp = array_namespace(operand.indices)
    numbers = xp.arange(operand.data.shape[0], device=operand.indices.device)
    turned = operand._replace(data=numbers).in_layout(layout, name)
    unused = numbers[turned.data.shape[0] :]
    order = xp.concat([turned.data, unused])
    indices = xp.concat([turned.indices, xp.astype(unused, turned.indices.dtype)])
    return turned._replace(data=order, indices=indices), order


class Kept:
    """Index arrays of a plan as arrays of the values' library, where they are.

    Parameters
    ----------
    *arrays : array of int, or None
        As they were found.
    """

    def __init__(self, *arrays: Any):
        self.arrays = arrays
        self._there: dict[str, tuple[Any, ...]] = {}

    def like(self, array: Any) -> tuple[Any, ...]:
        """Return them in the library of an array."""
        place = _place(array)
        if place is None:
            return self._found(array)
        if place not in self._there:
            if place == "jax":
                import jax

                with jax.ensure_compile_time_eval():  # no constants of one call that is traced
                    self._there[place] = self._found(jax.numpy.zeros(0))
            else:
                self._there[place] = self._found(array)
                if is_cupy_array(array):  # other streams may use them
                    array.device.synchronize()
        return self._there[place]

    def _found(self, array: Any) -> tuple[Any, ...]:
        return tuple(None if x is None else like(x, array) for x in self.arrays)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_there": {}}


class Orders:
    """From the order in which users have values to that of a computation, and back.

    Parameters
    ----------
    *orders : array of int, or None
        From where each array's values come; None where they stay.
    """

    def __init__(self, *orders: Any):
        self._there = Kept(*orders)

    def there(self, *values: Any) -> tuple[Any, ...]:
        """Bring values into the computation's order."""
        return _taken(values, self._there)

    def back(self, *values: Any) -> tuple[Any, ...]:
        """Bring values of the computation into the user's order; None stays."""
        return _taken(values, self._back)

    @cached_property
    def _back(self) -> Kept:
        orders = self._there.arrays
        return Kept(*(None if x is None else array_namespace(x).argsort(x) for x in orders))


def _place(array: Any) -> str | None:
    """Name where copies are kept for all calls; None where there are none, or only for one call."""
    if is_jax_array(array):
        return "jax"
    if is_cupy_array(array):
        return f"cupy {array.device.id}"
    if is_torch_array(array) and array.device.type != "cpu":
        from .._torch import keeps_tensors

        return str(array.device) if keeps_tensors() else None
    return None


def _taken(values: tuple[Any, ...], orders: Kept) -> tuple[Any, ...]:
    if all(order is None for order in orders.arrays):
        return values
    places = [None if x is None else orders.like(x) for x in values]
    return tuple(
        x if place is None or place[k] is None else array_namespace(x).take(x, place[k])
        for k, (x, place) in enumerate(zip(values, places, strict=True))
    )
