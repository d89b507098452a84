"""The loss of any objective of Pyro as a tensor that can be differentiated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


def is_differentiable(objective: Any) -> bool:
    """Whether an objective gives its value as a tensor; ``TraceGraph_ELBO`` and ``RenyiELBO`` give gradients alone.

    Its class, or the closest of the ancestors that define a loss, defines ``differentiable_loss``.
    """
    losses = [{"differentiable_loss", "loss_and_grads"} & set(vars(cls)) for cls in type(objective).__mro__]
    return "differentiable_loss" in next((found for found in losses if found), set())


def differentiable_loss(
    objective: Any,
    model: Callable,
    guide: Callable,
    args: tuple,
    kwargs: Mapping[str, Any],
    parameters: Iterable[Tensor],
) -> Tensor:
    """Minus the bound by the objective's own computation, a 0-dim tensor whose derivative is the objective's gradient.

    Args:
        objective: an ELBO of Pyro or pyrovae.
        model: the model.
        guide: the guide.
        args: positional arguments of both.
        kwargs: keyword arguments of both.
        parameters: the tensors to differentiate by, which hold no gradient; they hold none afterwards.
    """
    if is_differentiable(objective):
        return torch.as_tensor(objective.differentiable_loss(model, guide, *args, **kwargs))
    value = objective.loss_and_grads(model, guide, *args, **kwargs)
    surrogate = torch.zeros(())
    for tensor in parameters:
        if tensor.grad is not None:
            surrogate = surrogate + (tensor.grad * tensor).sum()
            tensor.grad = None
    return value + surrogate - surrogate.detach()
