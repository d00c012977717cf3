"""Helpers that the tests of every room use. Not imported by the package.

A room lists one `Case` per public function in ``tests/<room>/cases.py``; ``tests/test_engines.py``
runs every case on every engine and array library that the capability table promises.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np


class Case(NamedTuple):
    """How one public function is tested everywhere; sizes at most 16."""

    function: str  # "room.name"
    make: Callable[[Any, str, np.random.Generator], tuple[tuple[Any, ...], dict[str, Any]]]
    """Arguments from (library, dtype, rng); arrays made by ``library.asarray``."""
    oracle: Callable[..., Any]
    """The result from the same arguments as NumPy arrays; not linalgkit's own code."""
    tolerance: dict[str, float]
    """Relative to the largest entry, by dtype."""
    seen: Callable[[Any], Any] = lambda result: result
    """What of the result the oracle gives: arrays, numbers, sparse containers."""


class Library(NamedTuple):
    """One array library as tests need it."""

    name: str
    asarray: Callable[[Any], Any]
    asnumpy: Callable[[Any], np.ndarray]
    array_type: type


def library(name: str) -> Library:
    """Import an array library; ImportError where it is missing."""
    if name == "numpy":
        return Library(name, np.asarray, np.asarray, np.ndarray)
    if name == "array_api_strict":
        strict = import_module(name)
        return Library(name, strict.asarray, np.asarray, type(strict.asarray(0)))
    if name == "torch":
        torch = import_module(name)
        return Library(
            name,
            lambda x: torch.asarray(np.array(x)),  # a copy: torch warns of read-only arrays
            lambda x: x.detach().cpu().numpy(),
            torch.Tensor,
        )
    if name == "jax":
        jax = import_module(name)
        return Library(name, jax.numpy.asarray, np.asarray, jax.Array)
    if name == "cupy":
        cupy = import_module(name)
        return Library(name, cupy.asarray, cupy.asnumpy, cupy.ndarray)
    raise ValueError(f"no array library {name!r}.")


def public(name: str) -> Callable[..., Any]:
    """Return the public function ``room.name``."""
    room, _, function = name.partition(".")
    return getattr(import_module(f"linalgkit.{room}"), function)


def flat(result: Any) -> list[Any]:
    """Return arrays and numbers of a result: a sparse container, a tuple, nested at will."""
    if result is None:
        return []
    if isinstance(result, tuple | list):
        return [array for part in result for array in flat(part)]
    if hasattr(result, "indptr"):
        return [result.data, result.indices, result.indptr]
    return [result]


def rebuilt(value: Any, arrays: Iterator[Any], used: Library) -> Any:
    """Return arguments with other arrays in the places that `flat` names."""
    if isinstance(value, used.array_type):
        return next(arrays)
    if isinstance(value, tuple | list):
        return tuple(rebuilt(part, arrays, used) for part in value)
    if hasattr(value, "indptr"):
        parts = {part: next(arrays) for part in ("data", "indices", "indptr")}
        return SimpleNamespace(**parts, shape=value.shape)
    return value


def assert_close(result: Any, expected: Any, tolerance: float, used: Library) -> None:
    """Compare a result in a library's arrays with NumPy's, relative to the largest entry."""
    got, wanted = flat(result), flat(expected)
    assert len(got) == len(wanted)
    for array, truth in zip(got, wanted, strict=True):
        if isinstance(truth, int | float):
            assert type(array) is type(truth)
            array = np.asarray(array)
        else:
            assert isinstance(array, used.array_type), f"{type(array)} is not {used.array_type}"
            array = used.asnumpy(array)
        truth = np.asarray(truth)
        assert array.shape == truth.shape
        scale = max(1.0, float(np.max(np.abs(truth), initial=0)))
        np.testing.assert_allclose(array, truth, rtol=0, atol=tolerance * scale)


def central_gradient(
    function: Callable[..., float], arrays: list[np.ndarray], step: float = 1e-6
) -> list[np.ndarray]:
    """Gradient of a real function of real float64 arrays by central differences."""
    gradients = []
    for array in arrays:
        gradient = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + step
            above = function(*arrays)
            array[index] = kept - step
            below = function(*arrays)
            array[index] = kept
            gradient[index] = (above - below) / (2 * step)
        gradients.append(gradient)
    return gradients


def autograd(
    name: str, function: Callable[..., Any], arrays: list[np.ndarray], *, jit: bool = True
) -> list[np.ndarray]:
    """Gradient of the same function by torch or JAX; without `jit` where JAX cannot compile it."""
    if name == "torch":
        import torch

        leaves = [torch.tensor(array, requires_grad=True) for array in arrays]
        return [g.numpy() for g in torch.autograd.grad(function(*leaves), leaves)]
    import jax

    gradient = jax.grad(function, argnums=tuple(range(len(arrays))))
    if jit:  # as a whole: operation by operation, JAX compiles each of them
        gradient = jax.jit(gradient)
    return [np.asarray(g) for g in gradient(*map(jax.numpy.asarray, arrays))]
