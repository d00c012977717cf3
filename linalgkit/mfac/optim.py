"""The published M-FAC optimiser for torch models; it is imported by its own name alone."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from copy import copy, deepcopy
from importlib.util import find_spec
from typing import Any

import torch

from .. import _checks
from ._minimize import check_steps
from ._window import SlidingWindowFisher


class MFAC(torch.optim.Optimizer):
    """Steps preconditioned by the inverse Fisher matrix of the last gradients.

    Parameters
    ----------
    params : iterable
        Parameters or groups of them; groups may have their own `lr`, `momentum` and
        `weight_decay`. One window is over all of them.
    lr : float
        Length of a step.
    n_gradients : int
        Gradients of the window, m.
    damping : float
        The λ > 0 that is added to the diagonal of the Fisher matrix.
    momentum : float
        The μ of the running mean of the steps, at least 0 and less than 1.
    weight_decay : float
        This times the parameters is added to the gradient.
    storage : {"float32", "float64", "float16", "bfloat16"}, optional
        What the window is kept in; float64 for parameters in float64, else float32.
    sparse : bool
        Parameters that are 0 at the start stay 0: for pruned models. Which ones is part of
        `state_dict`, and goes by what is loaded.

    Attributes
    ----------
    window : SlidingWindowFisher
        The gradients.

    Raises
    ------
    ValueError
        An option is out of its range, or a gradient is not finite.

    See Also
    --------
    linalgkit.mfac.mfac_minimize : The same steps for a function of arrays.

    Notes
    -----
    With ``g = ∇f + weight_decay w`` the window gets g, and ``u = F⁻¹ g`` with g within it;
    ``v = μ v + (1 - μ) u`` with momentum, else ``v = u``; ``w -= lr v``. In float64 the steps are
    those of the published optimiser; in float32 they are right where the published ones are not.

    The window of parameters on the CPU is in memory that the Numba engine reads; on CUDA devices
    that CuPy reads, where it is installed. A parameter without a gradient counts as one whose
    gradient is 0, and is not changed; where none has one, nothing happens. Sparse gradients are
    made dense. The window is part of `state_dict`: m numbers a parameter.

    Examples
    --------
    >>> import torch
    >>> from linalgkit.mfac.optim import MFAC
    >>> _ = torch.manual_seed(0)
    >>> inputs, model = torch.randn(64, 3), torch.nn.Linear(3, 1)
    >>> answers = inputs @ torch.tensor([[1.0], [-2.0], [0.5]])
    >>> optimizer = MFAC(model.parameters(), lr=0.1, n_gradients=16, damping=1.0)
    >>> for _ in range(100):
    ...     optimizer.zero_grad()
    ...     loss = ((model(inputs) - answers) ** 2).mean()
    ...     loss.backward()
    ...     _ = optimizer.step()
    >>> bool(loss < 1e-2)
    True
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        n_gradients: int = 1024,
        damping: float = 1e-5,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        storage: str | None = None,
        sparse: bool = False,
    ) -> None:
        _checks.flags(sparse=sparse)
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        parameters = self._parameters()
        if len({p.device for p in parameters}) > 1:
            raise ValueError("all parameters must be on one device.")
        if storage is None:
            wide = any(p.dtype == torch.float64 for p in parameters)
            storage = "float64" if wide else "float32"
        with self._on_device():
            self.window = SlidingWindowFisher(
                n_gradients,
                [tuple(p.shape) for p in parameters],
                damping=damping,
                storage=storage,
                like=_array(parameters[0].detach().reshape(-1)[:0]),
            )
        self._kept = [p.detach() != 0 for p in parameters] if sparse else None

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles are made of."""
        return super().__getstate__() | {"window": self.window, "_kept": self._kept}

    def _parameters(self) -> list[torch.Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take a group of parameters; only while the optimiser is made.

        Parameters
        ----------
        param_group : dict
            The parameters and their options.
        """
        if hasattr(self, "window"):
            raise ValueError("the window is of a fixed set of parameters; make a new MFAC.")
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        check_steps(group["lr"], group["momentum"], group["weight_decay"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model again and returns the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if all(p.grad is None for p in self._parameters()):
            return loss
        gradients = [
            _gradient(p, group["weight_decay"])
            for group in self.param_groups
            for p in group["params"]
        ]
        with self._on_device():
            found = self.window.push_solve([_array(g) for g in self._masked(gradients)])
            steps = [_tensor(u, p) for u, p in zip(found, self._parameters(), strict=True)]
        steps, place = self._masked(steps), 0
        for group in self.param_groups:
            parameters = group["params"]
            some = steps[place : place + len(parameters)]
            place += len(parameters)
            pairs = [(p, u) for p, u in zip(parameters, some, strict=True) if p.grad is not None]
            if pairs:
                self._move(group, *map(list, zip(*pairs, strict=True)))
        return loss

    def _masked(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return tensors of the parameters' shapes, 0 where parameters stay 0."""
        if self._kept is None:
            return tensors
        return [x * kept for x, kept in zip(tensors, self._kept, strict=True)]

    def _on_device(self) -> AbstractContextManager[Any]:
        """Return a context in which CuPy works on the device of the parameters."""
        place = self._parameters()[0].device
        if not _is_for_cupy(place):
            return nullcontext()
        import cupy

        return cupy.cuda.Device(place.index)

    def _move(self, group: dict[str, Any], parameters: list[Any], steps: list[Any]) -> None:
        if group["momentum"]:
            means = []
            for p in parameters:
                if "mean" not in self.state[p]:
                    self.state[p]["mean"] = torch.zeros_like(p)
                means.append(self.state[p]["mean"])
            torch._foreach_lerp_(means, steps, 1 - group["momentum"])
            steps = means
        torch._foreach_add_(parameters, steps, alpha=-group["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Return the state with the window's arrays as tensors.

        Later steps write into them, as into those of torch's own optimisers: ``copy.deepcopy``
        keeps a state in memory.
        """
        window = {key: _as_tensors(value) for key, value in self.window.state().items()}
        return super().state_dict() | {"window": window, "kept": self._kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned; its arrays are copied, to the parameters' device.

        Parameters
        ----------
        state_dict : dict
            From an optimiser of the same parameters and sizes.

        Raises
        ------
        ValueError
            It is none of those. Nothing is changed then.
        """
        rest = dict(state_dict)
        state = rest.pop("window", None)
        if not isinstance(state, dict):
            raise ValueError("the state is not one of MFAC: it has no window of gradients.")
        if "kept" not in rest:
            raise ValueError(
                "the state has no 'kept': the masks of parameters that stay 0, or None."
            )
        place, window = self._parameters()[0].device, copy(self.window)
        with self._on_device():
            arrays = {
                key: _memories(state[key], place)
                for key in ("gradients", "scales", "gram")
                if key in state
            }
            window.restore(state | arrays)
        kept = self._masks_of(rest.pop("kept"))
        super().load_state_dict(deepcopy(rest))
        self.window, self._kept = window, kept

    def _masks_of(self, kept: Any) -> list[torch.Tensor] | None:
        """Return copies of a state's masks; ValueError unless they belong to the parameters."""
        if kept is None:
            return None
        parameters = self._parameters()
        shapes = [getattr(x, "shape", None) for x in kept] if isinstance(kept, list) else None
        if shapes != [p.shape for p in parameters]:
            raise ValueError(
                "the state's masks of parameters that stay 0 have other shapes than the parameters."
            )
        return [
            x.to(p.device, torch.bool, copy=True) for x, p in zip(kept, parameters, strict=True)
        ]


def _gradient(p: torch.Tensor, weight_decay: float) -> torch.Tensor:
    """Return what the window gets of a parameter."""
    if p.grad is None:
        return torch.zeros_like(p)
    g = p.grad if p.grad.layout == torch.strided else p.grad.to_dense()
    return g.add(p, alpha=weight_decay) if weight_decay else g


def _array(tensor: torch.Tensor) -> Any:
    """Return the tensor's memory as an array of the library whose engine reads it fastest."""
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return _memory(tensor)


def _memories(value: Any, place: torch.device) -> Any:
    """Return the memory of a tensor, or of all in a list, on a device; others as they are."""
    if isinstance(value, list | tuple):
        return [_memories(part, place) for part in value]
    return _memory(value.to(place)) if isinstance(value, torch.Tensor) else value


def _memory(tensor: torch.Tensor) -> Any:
    tensor, is_cupy = tensor.detach(), _is_for_cupy(tensor.device)
    if tensor.device.type != "cpu" and not is_cupy:
        return tensor
    if tensor.dtype == torch.bfloat16:  # the window has its bits
        tensor = tensor.view(torch.uint16)
    if not is_cupy:
        return tensor.numpy(force=True)
    import cupy

    return cupy.from_dlpack(tensor)


def _is_for_cupy(place: torch.device) -> bool:
    return place.type == "cuda" and find_spec("cupy") is not None


def _as_tensors(value: Any) -> Any:
    """Return an array's memory as a tensor, or that of all in a tuple as a list."""
    if isinstance(value, tuple):
        return [_as_tensors(part) for part in value]
    tensor = torch.as_tensor(value)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def _tensor(array: Any, like: torch.Tensor) -> torch.Tensor:
    if isinstance(array, torch.Tensor):
        return array.to(like.dtype)
    return torch.from_dlpack(array).to(like.dtype)
