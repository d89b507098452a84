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
LARGE = 2**14
"""Numbers from which on a tensor has a vector to itself: its gradient is then read where the product of matrices wrote it."""


class Flat:
    """Tensors of one dtype in a few vectors: the small ones of a group one after the other in one, each large one in its own.

    Args:
        shapes: of the tensors.
        groups: the number of each tensor's group.
    """

    def __init__(self, shapes: Sequence[Sequence[int]], groups: Sequence[int]) -> None:
        self.shapes, self.sizes = shapes, [torch.Size(shape).numel() for shape in shapes]
        self.padded = [-(-size // ALIGNMENT) * ALIGNMENT for size in self.sizes]
        together: dict[tuple[int, int], list[int]] = {}
        for place, (size, group) in enumerate(zip(self.sizes, groups, strict=True)):
            together.setdefault((group, place if size >= LARGE else -1), []).append(place)
        self.parts, self.groups = list(together.values()), [group for group, _ in together]
        """For each vector the places of its tensors, and its group."""

    def zeros(self, dtype: torch.dtype) -> list[Tensor]:
        """Vectors of zeros."""
        return [torch.zeros(sum(self.padded[place] for place in part), dtype=dtype) for part in self.parts]

    def views(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors inside the vectors."""
        found: dict[int, Tensor] = {}
        for part, vector in zip(self.parts, vectors, strict=True):
            pieces = vector.split([self.padded[place] for place in part])
            found |= {p: piece[: self.sizes[p]].view(self.shapes[p]) for p, piece in zip(part, pieces, strict=True)}
        return [found[place] for place in range(len(self.shapes))]

    def joined(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The vectors of some tensors."""
        vectors = []
        for part in self.parts:
            pieces = []
            for place in part:
                pieces.append(tensors[place].reshape(-1))
                if self.padded[place] > self.sizes[place]:
                    pieces.append(tensors[place].new_zeros(self.padded[place] - self.sizes[place]))
            vectors.append(torch.cat(pieces) if len(pieces) > 1 else pieces[0])
        return vectors


@dataclass(frozen=True)
class Update:
    """The settings of Adam for a group of parameters, and of what guards it.

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
    def of(cls, optimizer: Optimizer, limit: float, max_skipped: int) -> list[Update]:
        """The settings of a torch optimizer, for each of its groups of parameters.

        Raises:
            UntraceableError: it is not Adam or AdamW, or it has other options.
        """
        unusual = ("amsgrad", "maximize", "differentiable")
        found = []
        for group in optimizer.param_groups:
            if type(optimizer) not in (Adam, AdamW) or any(group.get(name) for name in unusual):
                raise UntraceableError("steps are compiled for Adam and AdamW with no further options")
            if isinstance(group["lr"], Tensor):
                raise UntraceableError("steps are compiled for learning rates that are numbers, not tensors")
            decoupled = bool(group.get("decoupled_weight_decay", type(optimizer) is AdamW))
            settings = tuple(group["betas"]), group["eps"], group["weight_decay"], decoupled
            found.append(cls(*settings, limit, max_skipped))
        return found

    def factors(self, taken: int, steps: int) -> Tensor:
        """The corrections of the two moments' biases for each of the next steps, of shape ``(steps, 2)``."""
        number = torch.arange(taken + 1, taken + steps + 1, dtype=torch.float64)
        first, second = (1 - torch.pow(torch.tensor(beta, dtype=torch.float64), number) for beta in self.betas)
        return torch.stack([1 / first, second.rsqrt()], -1)

    def __call__(self, gradient: Tensor, state: Sequence[Tensor], settings: Sequence[Tensor]) -> list[Tensor]:
        """Weights and moments after an update.

        Args:
            gradient: the gradient.
            state: weights and moments.
            settings: the factor that clips the gradient, the learning rate, and the corrections of the two moments.
        """
        (weights, first, second), (scale, rate, unbiased, root_unbiased) = state, settings
        gradient = gradient * scale
        if self.weight_decay and self.decoupled:
            weights = weights * (1 - rate * self.weight_decay)
        elif self.weight_decay:
            gradient = gradient + self.weight_decay * weights
        first = first + (1 - self.betas[0]) * (gradient - first)
        second = second * self.betas[1] + (1 - self.betas[1]) * (gradient * gradient)
        return [weights - (rate * unbiased) * first / (second.sqrt() * root_unbiased + self.eps), first, second]


@dataclass(frozen=True)
class Recipe:
    """All that decides a compiled step, as plain values.

    Args:
        source: the source of the graph of loss and gradients, whose input is the numbers of the rows.
        shapes: of the parameters.
        groups: the number of each parameter's group.
        written: the captured tensors that the graph writes to, by their place behind the parameters.
        numbers: the names of what changes from step to step, beside the learning rate.
        places: for each of these, its place among the captured tensors behind the parameters.
        updates: Adam's settings for each group.
    """

    source: str
    shapes: list[list[int]]
    groups: list[int]
    written: list[int]
    numbers: list[str]
    places: list[int]
    updates: list[Update]


@dataclass
class Memory:
    """The tensors that a compiled step reads and writes; it takes nothing else, so that every call is the same.

    Args:
        weights: the vectors of the parameters, see :class:`Flat`.
        first: those of Adam's first moment.
        second: those of its second moment.
        counts: the number of the step in its chunk, the steps taken in it, and the steps in a row that were not finite.
        order: the numbers of the rows in each batch of the chunk.
        rates: the learning rate of each group, by step.
        factors: the corrections of Adam's biases for each group, see :meth:`Update.factors`, by the steps taken.
        losses: the losses by step.
        norms: the gradient norms by step.
        numbers: betas and capacity by step.
        others: the captured tensors beside the parameters.
    """

    weights: list[Tensor]
    first: list[Tensor]
    second: list[Tensor]
    counts: Tensor
    order: Tensor
    rates: Tensor
    factors: Tensor
    losses: Tensor
    norms: Tensor
    numbers: list[Tensor]
    others: list[Tensor] = field(default_factory=list)

    def tensors(self) -> list[Tensor]:
        """All of them, in order."""
        own = [self.counts, self.order, self.rates, self.factors, self.losses, self.norms]
        return [*self.weights, *self.first, *self.second, *own, *self.numbers, *self.others]


def forward_of(source: str) -> Callable[..., list[Tensor]]:
    """The function that a graph's source defines; its first argument is not used."""
    names: dict[str, Any] = {"torch": torch, "device": torch.device, "inf": float("inf"), "nan": float("nan")}
    exec(source, names)
    return names["forward"]


def whole_step(recipe: Recipe) -> Callable[..., list[Tensor]]:
    """The function of a whole step, which takes the tensors of a :class:`Memory` and changes them."""
    graph, flat, updates = forward_of(recipe.source), Flat(recipe.shapes, recipe.groups), recipe.updates
    count = len(flat.parts)

    def step(*tensors: Tensor) -> list[Tensor]:
        state = [tensors[:count], tensors[count : 2 * count], tensors[2 * count : 3 * count]]
        counts, order, rates, factors, losses, norms, *rest = tensors[3 * count :]
        number, taken, bad = counts[0:1], counts[1:2], counts[2:3]
        others = rest[len(recipe.numbers) :]
        for table, place in zip(rest, recipe.places, strict=False):
            others[place] = table.index_select(0, number).view(())
        kept = {place: others[place].clone() for place in recipe.written}
        loss, *gradients = graph(None, *flat.views(state[0]), *others, order.index_select(0, number).view(-1))
        gradients = flat.joined(gradients)
        squares = [gradient.double().square().sum() for gradient in gradients]
        norm = torch.stack(squares).sum().sqrt() if count > 1 else squares[0].sqrt()
        stop = (loss + norm).isfinite().logical_not().view(1).logical_or(bad > updates[0].max_skipped)
        scale = (updates[0].limit / (norm + 1e-6)).clamp(max=1.0).view(1)
        columns = [rates.index_select(0, number).view(-1, 1), factors.index_select(0, taken).view(-1, 2)]
        # joined, these are computed once, and not again for every few weights
        settings = torch.cat([scale, torch.cat(columns, 1).view(-1)]).to(state[0][0].dtype)
        for group, gradient, *old in zip(flat.groups, gradients, *state, strict=True):
            new = updates[group](gradient, old, [settings[0], *settings[1 + 3 * group : 4 + 3 * group]])
            for tensor, value in zip(old, new, strict=True):
                tensor.copy_(torch.where(stop, tensor, value))
        for place, before in kept.items():
            others[place].copy_(torch.where(stop.view(()), before, others[place]))
        losses.index_copy_(0, number, loss.view(1).to(losses.dtype))
        norms.index_copy_(0, number, norm.view(1))
        stopped = stop.to(counts.dtype)
        counts.copy_(torch.cat([number + 1, taken + 1 - stopped, (bad + 1) * stopped]))
        return []

    return step
