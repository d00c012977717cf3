"""Solves with a Kronecker product plus noise that differs from point to point, or is infinite.

By conjugate gradients on the points that are there, preconditioned by the exact inverse with the
mean noise.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from .. import _checks
from .._engine import Engines
from .._xp import adjoint
from ._array_api_products import outer
from ._array_api_solves import is_differentiated
from ._hosts import one_blas_thread
from ._modes import columns_of

engine = Engines(__package__)


def solve_with_noise(
    factors: Sequence[Any],
    b: Any,
    shift: Any,
    noise: Any,
    tol: float | None,
    maxiter: int,
    callback: Callable[[int, float], Any] | None,
) -> Any:
    """Solve by preconditioned conjugate gradients on the points that are there."""
    named = {f"factors[{k}]": factor for k, factor in enumerate(factors)}
    (noise,) = _checks.floating(noise=_checks.arrays(b=b, noise=noise)[1])
    _checks.real(noise=noise)
    _checks.concrete(
        "shifted_solve with noise",
        "shift alone",
        why="the number of steps depends on them",
        b=b,
        shift=shift,
        noise=noise,
        **named,
    )
    if is_differentiated(b, shift, noise, *factors):
        raise TypeError(
            "shifted_solve with noise has no gradients; detach the tensors, or call it under "
            "torch.no_grad(). Noise that is the same everywhere is `shift`, which has them."
        )
    if len(shift.shape) or any(len(factor.shape) > 2 for factor in factors):
        raise TypeError(
            "shifted_solve with noise takes one shift and one matrix a factor; got shift of shape "
            f"{tuple(shift.shape)} and factors of shapes {[tuple(a.shape) for a in factors]}."
        )
    _checks.finite(shift=shift, **named)
    xp = array_namespace(b)
    sizes = columns_of(factors)
    if tuple(noise.shape) not in ((prod(sizes),), sizes):
        raise ValueError(
            f"noise must have shape {(prod(sizes),)} or {sizes}; got {tuple(noise.shape)}."
        )
    diagonal = xp.astype(xp.reshape(noise, (prod(sizes),)), shift.dtype) + shift
    if not bool(xp.all(diagonal >= 0)):
        worst = float(xp.min(diagonal)) if not bool(xp.any(xp.isnan(diagonal))) else float("nan")
        raise ValueError(
            f"noise plus shift must be from 0 to infinity; its least value is {worst:.3g}."
        )
    there = xp.isfinite(diagonal)
    zeros = xp.zeros_like(b)
    b, diagonal = xp.where(there, b, zeros), xp.where(there, diagonal, xp.zeros_like(diagonal))
    _checks.finite(b=b)
    if 0 in b.shape:
        return b
    eps = float(xp.finfo(b.dtype).eps)
    if tol is None:
        tol = 1e-10 if eps < 1e-10 else 1e-5

    serving = engine(b, *factors)
    factors = [(factor + adjoint(factor)) / 2 for factor in factors]
    values, vectors = serving.kron_eigh(*factors, k=None)
    adjoints = [adjoint(q) for q in vectors]
    spectrum = outer(values, xp.multiply)
    # Eigenvalues that are negative by rounding would make the preconditioner indefinite.
    spectrum = xp.where(spectrum > 0, spectrum, xp.zeros_like(spectrum))
    most = float(xp.max(spectrum)) or 1.0
    positive = xp.where(there & (diagonal > eps * most), diagonal, xp.ones_like(diagonal))
    counted = there & (diagonal > eps * most)
    amount = max(int(xp.sum(xp.astype(counted, xp.int64))), 1)
    mean = float(np.exp(float(xp.sum(xp.where(counted, xp.log(positive), 0 * positive))) / amount))
    if not bool(xp.any(counted)):
        mean = eps * most
    inverse = 1 / (spectrum + mean)

    def multiply(x: Any) -> Any:
        y = serving.kron_matvec(x, *factors, columns=1) + diagonal * x
        return xp.where(there, y, zeros)

    def precondition(r: Any) -> Any:
        c = serving.kron_matvec(r, *adjoints, columns=1)
        z = serving.kron_matvec(c * inverse, *vectors, columns=1)
        return xp.where(there, z, zeros)

    # BLAS would wake a thread for each inner product, and wait for it where cores are shared.
    with one_blas_thread(type(b) is np.ndarray):
        return conjugate_gradients(multiply, precondition, b, tol, maxiter, callback)


def conjugate_gradients(
    multiply: Callable[[Any], Any],
    precondition: Callable[[Any], Any],
    b: Any,
    tol: float,
    maxiter: int,
    callback: Callable[[int, float], Any] | None,
) -> Any:
    """Solve a positive definite system for vectors along the last axis, each by itself.

    LinAlgError where `maxiter` steps are not enough for one of them.
    """
    xp = array_namespace(b)
    x, r, direction = xp.zeros_like(b), b, xp.zeros_like(b)
    norm = xp.linalg.vector_norm(b, axis=-1, keepdims=True)
    is_going = norm > 0
    norm, was_going = xp.where(is_going, norm, xp.ones_like(norm)), is_going
    slope, residual, step = xp.ones_like(norm), 1.0, 0
    while bool(xp.any(is_going)):
        if step == maxiter:
            raise np.linalg.LinAlgError(
                f"no convergence to a relative residual of {tol:.1g} in {maxiter} steps; it came "
                f"to {residual:.2g}. A larger tol, shift or maxiter may help."
            )
        step += 1
        z = precondition(r)
        before, slope = slope, _inner(r, z)
        # Those that are done wait, and would begin anew.
        is_steady = is_going & was_going
        turn = xp.where(is_steady, slope, 0 * slope) / xp.where(is_steady, before, 0 * slope + 1)
        direction = z + turn * direction
        image = multiply(direction)
        curvature = _inner(direction, image)
        if bool(xp.any(is_going & ~(curvature > 0))):
            worst = float(xp.min(xp.where(is_going, curvature, xp.abs(curvature))))
            raise np.linalg.LinAlgError(
                "the matrix is not positive definite to working precision: conjugate gradients "
                f"found a direction of curvature {worst:.3g} at step {step}. More shift or "
                "noise would make it so."
            )
        length = xp.where(is_going, slope, 0 * slope)
        length = length / xp.where(is_going, curvature, xp.ones_like(curvature))
        x, r = x + length * direction, r - length * image
        residuals = xp.linalg.vector_norm(r, axis=-1, keepdims=True) / norm
        if bool(xp.all(residuals <= tol)):  # of the recurrence: look at the true ones first
            r = b - multiply(x)
            residuals = xp.linalg.vector_norm(r, axis=-1, keepdims=True) / norm
        was_going, is_going = is_going, residuals > tol
        residual = float(xp.max(residuals))
        if callback is not None:
            callback(step, residual)
    return x


def _inner(x: Any, y: Any) -> Any:
    """Return the real part of the inner product along the last axis, which stays."""
    xp = array_namespace(x)
    products = xp.vecdot(x, y)
    return (xp.real(products) if is_complex(x) else products)[..., None]


def is_complex(x: Any) -> bool:
    """Tell the kind of an array's numbers."""
    return bool(array_namespace(x).isdtype(x.dtype, "complex floating"))
