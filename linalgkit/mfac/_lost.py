"""Where the damping is lost beside the gradients: seen in factors, told in words."""

from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array

from .._xp import compiled


def attempted(factorise: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Return what a library's factorisation gives; None where it finds that there is none."""
    try:
        return factorise(*args, **options)
    except Exception as error:
        if type(error).__name__ not in ("LinAlgError", "_LinAlgError"):  # torch has its own
            raise
        return None


def checked(result: Any, gram: Any, shift: float) -> Any:
    """Return what K + shift I was factorised or solved to; LinAlgError where that is not finite."""
    if result is None or not bool(_is_finite(result)):
        xp = array_namespace(gram)
        largest = float(xp.max(xp.linalg.diagonal(gram)))
        raise np.linalg.LinAlgError(
            f"the damping times the number of gradients, {shift:.3g}, is lost beside the squared "
            f"length of a gradient, {largest:.3g}. Take a damping of at least "
            f"{1e-13 * largest:.1g}."
        )
    return result


def check_triangle(triangle: Any, inverse: Any, damping: float) -> None:
    """Raise LinAlgError where F = Rᵀ R and its inverse leave no digits of each other."""
    size, other = (float(_norm(x)) for x in (triangle, inverse))
    if not size * other < float(array_namespace(triangle).finfo(triangle.dtype).eps) ** -0.6:
        raise np.linalg.LinAlgError(
            f"the damping, {damping:.3g}, is lost beside the gradients, which have "
            f"{size**2:.3g} for a mean squared length. Take a larger one."
        )


def check_blocks(found: Any, damping: float) -> Any:
    """Return factors or a diagonal of blocks; LinAlgError where there are none."""
    if found is None or not bool(_is_finite(found)):
        raise np.linalg.LinAlgError(
            f"a block is not positive definite: the damping, {damping:.3g}, is lost beside the "
            f"gradients. Take a larger one."
        )
    return found


@compiled()
def shifted(matrix: Any, shift: float) -> Any:
    """Return K + shift I."""
    if is_numpy_array(matrix):  # a step of the optimiser waits for it
        result = matrix.copy()
        result.reshape(-1)[:: matrix.shape[0] + 1] += shift
        return result
    xp = array_namespace(matrix)
    return matrix + shift * xp.eye(matrix.shape[0], dtype=matrix.dtype, device=device(matrix))


@compiled()
def _is_finite(result: Any) -> Any:
    """Tell it of a vector, or of factors by their diagonals, where what is not finite comes to."""
    xp = array_namespace(result)
    return xp.all(xp.isfinite(result if result.ndim == 1 else xp.linalg.diagonal(result)))


@compiled()
def _norm(matrix: Any) -> Any:
    return array_namespace(matrix).sum(matrix**2) ** 0.5
