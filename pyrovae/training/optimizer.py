"""One torch optimizer behind Pyro's interface: one fused update for all parameters, in a fixed order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyrovae.compiling.adam import fused_step
from pyrovae.errors import refusal

Factory = Callable[[Iterable[Any]], Optimizer]
OWN_MOST = 0.1
"""The learning rate up to which a group learns at its own multiple of the common one."""
SQUARABLE = 0.05
"""Gradients with a norm above this share of the largest number that can be squared are scaled down to it."""


class TorchOptimizer(PyroOptim):
    r"""Any torch optimizer as the ``optim`` of ``pyro.infer.SVI``, built once over all parameters.

    ``pyro.optim`` keeps one torch optimizer for each tensor, and is handed a set ordered by address; here there is one,
    in the order given, so that one seed gives one result and a fused update costs one kernel.

    Args:
        factory: takes the parameters and returns a ``torch.optim.Optimizer``, e.g.
            ``functools.partial(torch.optim.Adam, lr=1e-3, fused=True)``.
        parameters: the tensors to train, in a fixed order, e.g. ``vae.parameters()``; those that need no gradient are left out.
        clip_norm: the gradients' total norm is clipped to this.
        scheduler: takes the optimizer and returns a ``torch.optim.lr_scheduler``, stepped after each update.

    Raises:
        ValueError: there is no parameter to train; ``clip_norm`` is not positive; at a step, a parameter that is not among
            ``parameters``.

    >>> import functools, torch
    >>> net = torch.nn.Linear(2, 1)
    >>> TorchOptimizer(functools.partial(torch.optim.Adam, lr=1e-3), net.parameters()).torch_optimizer.__class__.__name__
    'Adam'
    """

    def __init__(
        self,
        factory: Factory,
        parameters: Iterable[Tensor],
        *,
        clip_norm: float | None = None,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    ) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        if not self.parameters:
            raise ValueError(
                "no parameter requires a gradient, so there is nothing to train: unfreeze a part of the model"
            )
        if clip_norm is not None and not clip_norm > 0:
            raise refusal(f"clip_norm must be positive, got {clip_norm}", "clip_norm")
        self.torch_optimizer = factory(self.parameters)
        self.scheduler = scheduler(self.torch_optimizer) if scheduler is not None else None
        self.clip_norm = clip_norm
        self.largest_norm = SQUARABLE * min(torch.finfo(parameter.dtype).max for parameter in self.parameters) ** 0.5
        self._known = {id(parameter) for parameter in self.parameters}

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """One update from the gradients that the tensors hold; the gradients are then dropped."""
        self.check_known(params)
        self.update(self.gradient_norm())

    def check_known(self, params: Iterable[Tensor]) -> None:
        """Refuse tensors that appeared after the optimizer was built."""
        unknown = [tuple(parameter.shape) for parameter in params if id(parameter) not in self._known]
        if unknown:
            raise ValueError(
                f"{len(unknown)} parameters are announced that the optimizer was not built with (shapes {unknown[:3]}): "
                "was a part swapped after the optimizer was made? Build a new optimizer"
            )

    def gradients(self) -> list[Tensor]:
        """The gradients there are, in the order of the parameters."""
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def gradient_norm(self) -> Tensor:
        """The Euclidean norm of all gradients together, a 0-dim tensor in double precision.

        In single precision the norm of finite gradients overflows above 1e19, so it is not computed from there.
        """
        gradients = self.gradients()
        if not gradients:
            return self.parameters[0].new_zeros((), dtype=torch.float64)
        if gradients[0].is_cpu:  # numbers of Python are added up in less time than 0-dim tensors
            norm = math.hypot(*(norm.item() for norm in torch._foreach_norm(gradients)))
            if math.isfinite(norm):
                return torch.scalar_tensor(norm, dtype=torch.float64)
        return torch.stack([torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients]).norm()

    def update(self, norm: Tensor, stop: Tensor | None = None) -> None:
        """Clip to ``clip_norm`` given the gradients' norm, step the optimizer and the scheduler, drop the gradients.

        Args:
            norm: the gradients' norm.
            stop: a 0-dim boolean tensor; where it is true, nothing changes. Fused optimizers read it on the device.
        """
        limit = self.largest_norm if self.clip_norm is None else self.clip_norm
        if self.clip_norm is not None or not norm.is_cpu or norm > limit:
            torch._foreach_mul_(self.gradients(), (limit / (norm + 1e-6)).clamp(max=1.0))
        optimizer = self.torch_optimizer
        if norm.is_cpu and self.scheduler is None and (optimizer.state if stop else fused_step(optimizer)):
            pass  # a first step makes the moments, even where it changes nothing
        elif (
            stop is not None
            and self.scheduler is None
            and getattr(self.torch_optimizer, "_step_supports_amp_scaling", False)
        ):
            self.torch_optimizer.found_inf = stop.float()  # type: ignore[attr-defined]
            self.torch_optimizer.step()
        elif stop is None or not stop:
            self.torch_optimizer.step()
            if self.scheduler is not None:
                self.scheduler.step()
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Set every gradient to None."""
        for parameter in self.parameters:
            parameter.grad = None

    def set_learning_rate(self, value: float) -> None:
        """Set the learning rate of every group."""
        for group in self.torch_optimizer.param_groups:
            group["lr"] = rate_of(group, value)

    def get_state(self) -> dict[str, Any]:
        """The optimizer's and the scheduler's state dictionaries."""
        return {
            "optimizer": self.torch_optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
        }

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`get_state` gave."""
        self.torch_optimizer.load_state_dict(state_dict["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state_dict["scheduler"])


def rate_of(group: dict[str, Any], value: float) -> float:
    """The learning rate of a group of parameters, whose option ``rate`` is its multiple of the common one, up to 0.1.

    >>> rate_of({"rate": 10.0}, 1e-3), rate_of({"rate": 10.0}, 0.05), rate_of({"rate": 10.0}, 3.0), rate_of({}, 0.05)
    (0.01, 0.1, 3.0, 0.05)
    """
    return max(value, min(value * group.get("rate", 1.0), OWN_MOST))
