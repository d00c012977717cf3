"""Projections of torch tensors: by the kernels on CPUs, gradients by the formula of `project_vjp`.

Torch's own gradient of a decomposition divides zero by zero as soon as two singular values are
equal, which those of a slice with padding are.
"""

from typing import Any

import torch

from .. import _torch
from .._engine import wished_engine
from . import _array_api_projection as reference

_ROOM = __package__ or ""


def projected(a: torch.Tensor, *, blocks: Any, gauge: str, method: str) -> Any:
    """Project a tensor; the backward pass goes by the engine of this one."""
    is_fast = wished_engine() != "array_api" and _torch._is_served(
        _ROOM, "project", ((a.device.type, a.dtype),), 1
    )
    return _Projection.apply(a, blocks, gauge, method, is_fast)


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(a: Any, blocks: Any, gauge: str, method: str, is_fast: bool) -> Any:
        if is_fast and _torch._is_plain((a,)):
            options = {"blocks": blocks, "gauge": gauge, "method": method}
            return _torch._run(_ROOM, "project", (a,), options)
        return reference.by_svd(a, blocks, gauge, reference.thin_svd)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        a, ctx.blocks, ctx.gauge, _, ctx.is_fast = inputs
        ctx.save_for_backward(a)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        (a,) = ctx.saved_tensors
        if ctx.is_fast and _torch._is_plain((cotangents, a)):
            options = {"blocks": ctx.blocks, "gauge": ctx.gauge}
            found = _torch._run(_ROOM, "project_vjp", (cotangents, a), options)
        else:
            found = reference.pulled_back(cotangents, a, ctx.blocks, ctx.gauge, reference.thin_svd)
        return found, None, None, None, None
