"""A step of torch's fused Adam by its kernel alone."""

from __future__ import annotations

import torch
from torch.optim import Adam, AdamW, Optimizer
from torch.optim import optimizer as hooks

ONE = torch.tensor(1.0)
"""Torch would make a tensor of a number for each parameter."""


def fused_step(optimizer: Optimizer) -> bool:
    """Take a step of Adam or AdamW on the processor by the fused kernel; whether that was possible.

    The numbers are those of ``optimizer.step()``, whose hooks, profiling and grouping take several times as long as the kernel
    does where the parameters are few. It is not possible in the first step, for optimizers with other options, with several
    groups or with hooks, and for subclasses.

    Args:
        optimizer: the optimizer.
    """
    group, *others = optimizer.param_groups
    unusual = ("amsgrad", "maximize", "capturable", "differentiable")
    if type(optimizer) not in (Adam, AdamW) or others or not group["fused"] or any(group[name] for name in unusual):
        return False
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks or "step" in vars(optimizer):
        return False
    if hooks._global_optimizer_pre_hooks or hooks._global_optimizer_post_hooks:
        return False
    parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
    if not all(p.is_cpu and p.dtype == parameters[0].dtype and p in optimizer.state for p in parameters):
        return False
    states = [optimizer.state[parameter] for parameter in parameters]
    steps = [state["step"] for state in states]
    is_decoupled = group.get("decoupled_weight_decay", type(optimizer) is AdamW)
    with torch.no_grad():
        torch._foreach_add_(steps, ONE)
        (torch._fused_adamw_ if is_decoupled else torch._fused_adam_)(
            parameters,
            [parameter.grad for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            steps,
            lr=float(group["lr"]),
            beta1=float(group["betas"][0]),
            beta2=float(group["betas"][1]),
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )
    return True
