"""Rows divided by their 2-norms, and the gradient of that."""

from typing import Any

from array_api_compat import array_namespace


def normalized(x: Any) -> Any:
    """Divide the rows of `x` by their 2-norms; rows of zeros stay."""
    return x / _norms(x)


def normalized_vjp(cotangent: Any, x: Any) -> Any:
    """Pull a gradient back through `normalized`; it is zero along each row."""
    xp = array_namespace(cotangent)
    x = xp.astype(x, cotangent.dtype, copy=False)
    norms = _norms(x)
    unit = x / norms
    return (cotangent - unit * xp.sum(unit * cotangent, axis=-1, keepdims=True)) / norms


def _norms(x: Any) -> Any:
    """Return the norms of rows, 1 for zeros; the largest entry first, so that no square is lost."""
    xp = array_namespace(x)
    if not x.shape[-1]:
        return xp.ones_like(xp.sum(x, axis=-1, keepdims=True))
    one = xp.ones_like(x[..., :1])
    largest = xp.max(xp.abs(x), axis=-1, keepdims=True)
    largest = xp.where(largest == 0, one, largest)
    squares = xp.sum((x / largest) ** 2, axis=-1, keepdims=True)
    return largest * xp.sqrt(xp.where(squares == 0, one, squares))
