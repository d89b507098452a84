"""A whole training step as one function of flat tensors: batch by index, loss, gradients, guard, clipping and Adam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from pyrovae.compiling.graph import UntraceableError

ALIGNMENT = 16
"""Numbers at a multiple of which each tensor begins in a flat one."""


class Flat:
    """Tensors of one dtype, one after the other in one vector.

    Args:
        shapes: of the tensors.
    """

    def __init__(self, shapes: Sequence[Sequence[int]]) -> None:
        self.shapes, self.sizes = shapes, [torch.Size(shape).numel() for shape in shapes]
        self.padded = [-(-size // ALIGNMENT) * ALIGNMENT for size in self.sizes]

    def views(self, vector: Tensor) -> list[Tensor]:
        """The tensors inside a vector."""
        parts = zip(vector.split(self.padded), self.sizes, self.shapes, strict=True)
        return [part[:size].view(shape) for part, size, shape in parts]

    def joined(self, tensors: Sequence[Tensor]) -> Tensor:
        """The vector of some tensors."""
        pieces = []
        for tensor, size, padded in zip(tensors, self.sizes, self.padded, strict=True):
            pieces.append(tensor.reshape(-1))
            if padded > size:
                pieces.append(tensor.new_zeros(padded - size))
        return torch.cat(pieces)


@dataclass(frozen=True)
class Update:
    """The settings of Adam, and of what guards it.

    Args:
        betas: the decays of the two moments.
        eps: added to the root of the second.
        weight_decay: the weight decay.
        decoupled: whether it acts on the weights rather than on the gradient.
        limit: the gradient's norm is clipped to this.
        max_skipped: after more steps in a row that are not finite, nothing moves.
    """

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    decoupled: bool
    limit: float
    max_skipped: int

    @classmethod
    def of(cls, optimizer: Optimizer, limit: float, max_skipped: int) -> Update:
        """The settings of a torch optimizer.

        Raises:
            UntraceableError: it is not Adam or AdamW with one group of parameters, or it has other options.
        """
        group, *others = optimizer.param_groups
        unusual = others or any(group.get(name) for name in ("amsgrad", "maximize", "differentiable"))
        if type(optimizer) not in (Adam, AdamW) or unusual or isinstance(group["lr"], Tensor):
            raise UntraceableError(
                "steps are compiled for Adam and AdamW with one group of parameters and no further options"
            )
        decoupled = bool(group.get("decoupled_weight_decay", type(optimizer) is AdamW))
        return cls(tuple(group["betas"]), group["eps"], group["weight_decay"], decoupled, limit, max_skipped)

    def factors(self, taken: int, steps: int) -> Tensor:
        """The corrections of the two moments' biases for each of the next steps, of shape ``(steps, 2)``."""
        number = torch.arange(taken + 1, taken + steps + 1, dtype=torch.float64)
        first, second = (1 - torch.pow(torch.tensor(beta, dtype=torch.float64), number) for beta in self.betas)
        return torch.stack([1 / first, second.rsqrt()], -1)

    def __call__(
        self, gradient: Tensor, norm: Tensor, state: Sequence[Tensor], rate: Tensor, factors: Tensor
    ) -> list[Tensor]:
        """Weights and moments after an update, given the gradient with its norm, the learning rate and the corrections."""
        weights, first, second = state
        gradient = gradient * (self.limit / (norm + 1e-6)).clamp(max=1.0).to(gradient.dtype)
        if self.weight_decay and self.decoupled:
            weights = weights * (1 - rate * self.weight_decay)
        elif self.weight_decay:
            gradient = gradient + self.weight_decay * weights
        first = first + (1 - self.betas[0]) * (gradient - first)
        second = second * self.betas[1] + (1 - self.betas[1]) * (gradient * gradient)
        return [weights - (rate * factors[0]) * first / (second.sqrt() * factors[1] + self.eps), first, second]


@dataclass(frozen=True)
class Recipe:
    """All that decides a compiled step, as plain values.

    Args:
        source: the source of the graph of loss and gradients, whose input is the numbers of the rows.
        shapes: of the parameters.
        written: the captured tensors that the graph writes to, by their place behind the parameters.
        numbers: the names of what changes from step to step.
        places: for each of these, its place among the captured tensors behind the parameters; None for the learning rate.
        update: Adam's settings.
    """

    source: str
    shapes: list[list[int]]
    written: list[int]
    numbers: list[str]
    places: list[int | None]
    update: Update


@dataclass
class Memory:
    """The tensors that a compiled step reads and writes; it takes nothing else, so that every call is the same.

    Args:
        weights: the parameters, flat.
        first: Adam's first moment.
        second: its second moment.
        counts: the number of the step in its chunk, the steps taken in it, and the steps in a row that were not finite.
        order: the numbers of the rows in each batch of the chunk.
        factors: the corrections of Adam's biases, see :meth:`Update.factors`.
        numbers: learning rate, betas and capacity by step.
        losses: the losses by step.
        norms: the gradient norms by step.
        others: the captured tensors beside the parameters.
    """

    weights: Tensor
    first: Tensor
    second: Tensor
    counts: Tensor
    order: Tensor
    factors: Tensor
    losses: Tensor
    norms: Tensor
    numbers: list[Tensor]
    others: list[Tensor] = field(default_factory=list)

    def tensors(self) -> list[Tensor]:
        """All of them, in order."""
        own = [self.weights, self.first, self.second, self.counts, self.order, self.factors, self.losses, self.norms]
        return [*own, *self.numbers, *self.others]


def whole_step(recipe: Recipe) -> Callable[..., list[Tensor]]:
    """The function of a whole step, which takes the tensors of a :class:`Memory` and changes them."""
    names: dict[str, Any] = {"torch": torch, "device": torch.device, "inf": float("inf"), "nan": float("nan")}
    exec(recipe.source, names)
    graph, flat, update = names["forward"], Flat(recipe.shapes), recipe.update

    def step(*tensors: Tensor) -> list[Tensor]:
        weights, first, second, counts, order, factors, losses, norms, *rest = tensors
        number, taken, bad = counts[0:1], counts[1:2], counts[2:3]
        now = [table.index_select(0, number).view(()) for table in rest[: len(recipe.numbers)]]
        others = rest[len(recipe.numbers) :]
        for value, place in zip(now, recipe.places, strict=True):
            if place is not None:
                others[place] = value
        kept = {place: others[place].clone() for place in recipe.written}
        loss, *gradients = graph(None, *flat.views(weights), *others, order.index_select(0, number).view(-1))
        gradient = flat.joined(gradients)
        norm = gradient.double().square().sum().sqrt()
        stop = (loss + norm).isfinite().logical_not().view(1).logical_or(bad > update.max_skipped)
        scale = factors.index_select(0, taken).view(2).to(weights.dtype)
        moved = update(gradient, norm, (weights, first, second), now[0].to(weights.dtype), scale)
        for tensor, new in zip((weights, first, second), moved, strict=True):
            tensor.copy_(torch.where(stop, tensor, new))
        for place, old in kept.items():
            others[place].copy_(torch.where(stop.view(()), old, others[place]))
        losses.index_copy_(0, number, loss.view(1).to(losses.dtype))
        norms.index_copy_(0, number, norm.view(1))
        stopped = stop.to(counts.dtype)
        counts.copy_(torch.cat([number + 1, taken + 1 - stopped, (bad + 1) * stopped]))
        return []

    return step
