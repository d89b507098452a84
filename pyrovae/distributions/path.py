"""A path of states, each drawn given the one before: its density is one pass over all steps, its draws are step by step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

Step = Callable[[Tensor, slice], Any]


class MarkovPath(TorchDistribution):
    r"""The path of a Markov chain of vectors.

    .. math:: p(z_{1:T}) = \prod_t p_t(z_t \mid z_{t-1})

    Args:
        step: from the states before some steps, ``(*batch, times, d)``, and these steps (a slice) to the distribution of the
            states, with the batch shape ``(*batch, times)`` and the event shape ``(d,)``.
        start: the state z_0, of shape ``(d,)``.
        num_steps: T.
        batch_shape: of the path.

    >>> import pyro.distributions as dist
    >>> walk = MarkovPath(lambda z, times: dist.Normal(z, 1.0).to_event(1), torch.zeros(2), 5)
    >>> walk.rsample((3,)).shape, walk.log_prob(torch.zeros(3, 5, 2)).shape
    (torch.Size([3, 5, 2]), torch.Size([3]))
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(self, step: Step, start: Tensor, num_steps: int, batch_shape: Sequence[int] = ()) -> None:
        self.step, self.start, self.num_steps = step, start, num_steps
        super().__init__(torch.Size(batch_shape), torch.Size([num_steps, len(start)]), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> MarkovPath:
        """The same distribution with its batch axes expanded."""
        new = copy.copy(self)
        new._batch_shape = torch.Size(batch_shape)
        return new

    @property
    def mean(self) -> Tensor:
        """The path of means, each given the mean before: the mean of the path where means are linear in the state."""
        return self._walk(self.batch_shape, lambda found: found.mean)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape ``(*sample_shape, *batch, T, d)``."""
        return self._walk(torch.Size(sample_shape) + self.batch_shape, lambda found: found.rsample())

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density in nats, of shape ``batch``."""
        return self.step_log_prob(value).sum(-1)

    def step_log_prob(self, value: Tensor) -> Tensor:
        """The log density of each step given the one before, of shape ``(*batch, T)``."""
        first = self.start.expand(*value.shape[:-2], 1, -1)
        found = self.step(torch.cat([first, value[..., :-1, :]], -2), slice(0, self.num_steps))
        return found.log_prob(value)  # type: ignore[no-any-return]

    def _walk(self, shape: torch.Size, draw: Callable[[Any], Tensor]) -> Tensor:
        state, states = self.start.expand(*shape, 1, -1), []
        for t in range(self.num_steps):
            state = draw(self.step(state, slice(t, t + 1))).expand_as(state)
            states.append(state)
        return torch.cat(states, -2)


class Either:
    """One distribution where a condition holds, another elsewhere: of vectors, as a step of a :class:`MarkovPath`.

    Args:
        condition: boolean, broadcast against both batch shapes.
        one: the distribution where it holds.
        other: the distribution elsewhere.
    """

    def __init__(self, condition: Tensor, one: Any, other: Any) -> None:
        self.condition, self.one, self.other = condition, one, other

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return torch.where(self.condition.unsqueeze(-1), self.one.mean, self.other.mean)

    def rsample(self) -> Tensor:
        """A draw."""
        return torch.where(self.condition.unsqueeze(-1), self.one.rsample(), self.other.rsample())

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density in nats."""
        return torch.where(self.condition, self.one.log_prob(value), self.other.log_prob(value))
