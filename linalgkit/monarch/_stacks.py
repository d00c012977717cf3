"""Stacks of matrices, and how operators are made of them: blocks have shape (..., k, q, p)."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np
from array_api_compat import array_namespace, device, is_cupy_array, is_jax_array

from .. import _checks
from .._xp import compiled, moveaxis
from ._roots import has_dtype

Method = TypeVar("Method", bound=Callable[..., Any])


def conj(x: Any) -> Any:
    """Return the complex conjugate; a real array as it is."""
    xp = array_namespace(x)
    return xp.conj(x) if xp.isdtype(x.dtype, "complex floating") else x


def transposed(x: Any) -> Any:
    """Exchange the last two axes."""
    return moveaxis(x, -1, -2)


def swap(x: Any) -> Any:
    """Exchange the two axes before the last one."""
    return moveaxis(x, -3, -2)


def cut(x: Any, blocks: int, size: int) -> Any:
    """Cut the second-to-last axis in blocks."""
    return array_namespace(x).reshape(x, (*x.shape[:-2], blocks, size, x.shape[-1]))


def join(x: Any) -> Any:
    """Undo `cut`."""
    shape = (*x.shape[:-3], x.shape[-3] * x.shape[-2], x.shape[-1])
    return array_namespace(x).reshape(x, shape)


def eyes(blocks: Any) -> Any:
    """Return a unit matrix for each block."""
    xp = array_namespace(blocks)
    eye = xp.eye(blocks.shape[-1], dtype=blocks.dtype, device=device(blocks))
    return xp.broadcast_to(eye, blocks.shape)


def product(blocks: Any, x: Any) -> Any:
    """Multiply stacks of any two dtypes."""
    blocks, x = _checks.floating(blocks=blocks, x=x)
    return array_namespace(blocks).matmul(blocks, x)


def ones_for_zeros(x: Any) -> Any:
    """Return x with ones for zeros, to be divided by."""
    xp = array_namespace(x)
    return xp.where(x != 0, x, xp.ones_like(x))


def scaled(x: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
    """Return x / 4^e with a largest entry between one and four along axes, and 2^e.

    Nothing overflows or vanishes when it is squared. Multiply and divide by 2^e twice: 4^e may be
    infinite, and so may its inverse, which a complex division forms.
    """
    xp = array_namespace(x)
    if xp.isdtype(x.dtype, "complex floating"):  # whose absolute value may be infinite
        sizes = xp.maximum(xp.abs(xp.real(x)), xp.abs(xp.imag(x)))
    else:
        sizes = xp.abs(x)
    most = ones_for_zeros(xp.max(sizes, axis=axes, keepdims=True))
    root = 2.0 ** xp.floor(xp.log2(most) / 2)
    return x / root / root, root


def norms(x: Any, axes: tuple[int, ...]) -> Any:
    """Return square roots of sums of squares, which may overflow or vanish; axes are kept."""
    xp = array_namespace(x)
    parts, root = scaled(x, axes)
    return xp.linalg.vector_norm(parts, axis=axes, keepdims=True) * root * root


def is_half(x: Any) -> bool:
    """Tell whether an array has half precision, in which libraries decompose nothing."""
    return has_dtype(x, "float16", "bfloat16")


def single(x: Any) -> Any:
    """Return halves in single precision."""
    return array_namespace(x).astype(x, array_namespace(x).float32) if is_half(x) else x


def by_single(method: Method) -> Method:
    """Let operators of half precision compute in single precision.

    Results are halves again, unless there is an argument of higher precision.
    """

    @wraps(method)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        blocks = self._blocks()
        if not is_half(blocks[0]):
            return method(self, *arguments, **options)
        result = method(self._with(*map(single, blocks)), *arguments, **options)
        if any(getattr(argument, "dtype", None) != self.dtype for argument in arguments):
            return result
        return _narrowed(result, self.dtype)

    return call  # type: ignore[return-value]


def _narrowed(result: Any, dtype: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(_narrowed(part, dtype) for part in result)
    if hasattr(result, "_with"):
        return result._with(*(_narrowed(blocks, dtype) for blocks in result._blocks()))
    return array_namespace(result).astype(result, dtype)


def right_sides(b: Any, blocks: Any, rows: int) -> tuple[Any, bool]:
    """Return `b` as an array of the blocks' library, and whether it has vectors, not columns."""
    _checks.present(b=b)
    _, b = _checks.floating(blocks=blocks, b=b)
    is_vector = b.ndim == blocks.ndim - 2
    return _checks.operand("b", b, -1 if is_vector else -2, rows), is_vector


def solve_blocks(name: str, blocks: Any, right: Any) -> Any:
    """Solve with each block; LinAlgError names one that is singular, where values are at hand."""
    xp = array_namespace(blocks, right)
    common = xp.result_type(blocks.dtype, right.dtype)
    blocks, right = xp.astype(blocks, common), xp.astype(right, common)
    try:
        solution, is_finite = _solution(blocks, right)
    except (np.linalg.LinAlgError, RuntimeError) as error:  # torch's is a RuntimeError
        if not type(error).__name__.endswith("LinAlgError"):
            raise
        raise np.linalg.LinAlgError(_singular(name, blocks)) from error
    if is_jax_array(solution):
        import jax

        if isinstance(solution, jax.core.Tracer):
            return solution
    if (is_jax_array(solution) or is_cupy_array(solution)) and not bool(is_finite):
        sign, _ = xp.linalg.slogdet(blocks)
        if bool(xp.any(sign == 0)):  # else what was to be solved is not finite
            raise np.linalg.LinAlgError(_singular(name, blocks))
    return solution


def solve(a: Any, b: Any) -> Any:
    """Solve for stacks of matrices that broadcast (CuPy's own solve takes equal stacks only)."""
    xp = array_namespace(a, b)
    stack = np.broadcast_shapes(tuple(a.shape[:-2]), tuple(b.shape[:-2]))
    a, b = (xp.broadcast_to(x, (*stack, *x.shape[-2:])) for x in (a, b))
    return xp.linalg.solve(a, b)


@compiled()
def _solution(blocks: Any, right: Any) -> tuple[Any, Any]:
    """Return the solution, and whether all of it is finite where no error tells."""
    xp = array_namespace(blocks, right)
    is_told = not (is_jax_array(right) or is_cupy_array(right))
    solution = solve(blocks, right) if is_cupy_array(right) else xp.linalg.solve(blocks, right)
    return solution, None if is_told else xp.all(xp.isfinite(solution))


def _singular(name: str, blocks: Any) -> str:
    xp = array_namespace(blocks)
    sign, _ = xp.linalg.slogdet(blocks)
    zeros = [tuple(map(int, k)) for k in zip(*xp.nonzero(sign == 0), strict=True)]
    where = f" {zeros[0][0] if len(zeros[0]) == 1 else zeros[0]}" if zeros else ""
    return f"block{where} of the {name} factor is singular."
