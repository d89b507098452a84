"""Sequences of tokens, each given those before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import pad

from pyrovae.distributions.base import Maskable

END = 0
"""The token that ends a sequence; all tokens after it are the same."""


class TokenSequence(Maskable):
    r"""A sequence of at most T tokens, each given those before it; token 0 ends it.

    .. math:: p(x_{1:T}) = \prod_{t \le e} p(x_t \mid x_{<t}), \qquad e = \min\{t:\ x_t = 0\} \cup \{T\}

    After the end all tokens are 0, with certainty, so that a shorter sequence costs nothing there. Where the last tokens are
    missing the mass is that of the tokens before them.

    Args:
        logits: from tokens ``(*batch, T)`` to the logits ``(*batch, T, K)`` of each token given those before it.
        num_steps: T.
        num_tokens: K, the end included.
        batch_shape: of the distribution.

    >>> even = TokenSequence(lambda x: torch.zeros(*x.shape, 3), num_steps=4, num_tokens=3)
    >>> even.log_prob(torch.tensor([[1.0, 2.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]])) / torch.tensor(3.0).log()
    tensor([-3., -inf])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor],
        num_steps: int,
        num_tokens: int,
        batch_shape: Sequence[int] = (),
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.num_tokens = logits, num_tokens
        super().__init__(torch.Size(batch_shape), torch.Size([num_steps]), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """The integers from 0 to ``num_tokens - 1``, in each step."""
        return constraints.independent(constraints.integer_interval(0, self.num_tokens - 1), 1)

    def mask_entries(self, mask: Tensor) -> Any:
        """The marginal over the tokens before the missing ones.

        Args:
            mask: True where observed, of shape ``(*batch, T)``.

        Raises:
            ValueError: a token is observed after a missing one (while validation is on).
        """
        if self._validate_args and (mask[..., 1:] & ~mask[..., :-1]).any():
            raise ValueError(
                "a token is observed after a missing one: only the last tokens of a sequence may be missing"
            )
        return super().mask_entries(mask)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log mass in nats, of shape ``batch``."""
        value = self._checked(value)
        steps = self.logits(value).log_softmax(-1)
        codes = value.long().expand(steps.shape[:-1])
        terms = steps.gather(-1, codes.unsqueeze(-1)).squeeze(-1)
        after = torch.zeros_like(terms).masked_fill(codes != END, -torch.inf)
        terms = torch.where(_ended(codes), after, terms)
        return (terms if self._mask is None else torch.where(self._mask, terms, 0.0)).sum(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape ``(*sample_shape, *batch, T)``, token by token."""
        return self._walk(torch.Size(sample_shape), lambda logits, t: dist.Categorical(logits=logits).sample())

    def greedy(self, noise: Tensor | None = None) -> Tensor:
        """The sequence whose every token is the likeliest after those before it, of shape ``(*batch, T)``.

        Args:
            noise: added to the logits of each token, of shape ``(T, K)`` or ``(*batch, T, K)``. With standard Gumbel noise
                the sequence is a draw, and one noise for several distributions gives draws that differ as these do.
        """
        noise = torch.zeros(self.event_shape[0], 1) if noise is None else noise
        return self._walk(torch.Size(), lambda logits, t: (logits + noise[..., t, :].to(logits)).argmax(-1))

    @torch.no_grad()
    def _walk(self, shape: torch.Size, pick: Callable[[Tensor, int], Tensor]) -> Tensor:
        value = torch.full((*shape, *self.batch_shape, *self.event_shape), float(END))
        for t in range(value.shape[-1]):
            logits = self.logits(value)[..., t, :]
            value = value.to(logits)
            value[..., t] = pick(logits, t).to(logits).masked_fill(_ended(value)[..., t], END)
        return value


def _ended(codes: Tensor) -> Tensor:
    """Whether a sequence has ended before each step."""
    return pad((codes == END).cumsum(-1)[..., :-1] > 0, (1, 0))
