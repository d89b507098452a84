"""Conditionals of a state-space model: the dynamics of its states, and their posterior given a sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.distributions.path import Either, MarkovPath
from pyrovae.missing import is_complete
from pyrovae.networks.base import Covariates, Network


class Dynamics(nn.Module):
    r"""The prior of a path of states: a transition from each to the next, from a learned state before the first.

    .. math:: p(z_{1:T} \mid c) = \prod_t p(z_t \mid z_{t-1}, c_t)

    Args:
        transition: module with ``forward(z, covariates=None)`` returning the distribution of the next state, a vector.
            Covariates that it reads have a row for each step: shape ``(rows, T, ...)``.
        state: the length of a state.

    >>> import pyro.distributions as dist, pyrovae as pvae
    >>> Dynamics(pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), 2), 2)(20).event_shape
    torch.Size([20, 2])
    """

    def __init__(self, transition: nn.Module, state: int) -> None:
        super().__init__()
        self.transition, self.start = transition, nn.Parameter(torch.zeros(state))
        self.covariate_names = tuple(getattr(transition, "covariate_names", ()))

    def forward(self, num_steps: int, covariates: Covariates | None = None) -> MarkovPath:
        """The distribution of the path, of event shape ``(num_steps, state)``."""
        rows = next((value.shape[:1] for value in (covariates or {}).values()), ())
        return MarkovPath(self.steps(covariates), self.start, num_steps, rows)

    def steps(self, covariates: Covariates | None = None) -> Callable[[Tensor, slice], Any]:
        """The transition as a :class:`~pyrovae.distributions.MarkovPath` takes it."""

        def step(state: Tensor, times: slice) -> Any:
            now = {name: value[:, times] for name, value in (covariates or {}).items()} or None
            return self.transition(state, covariates=now)

        return step


class Smoother(nn.Module):
    r"""The posterior of a path of states: each given the one before and what is seen from it onwards.

    .. math:: q(z_{1:T} \mid x) = \prod_t q(z_t \mid z_{t-1}, h_t), \qquad h_{t} = f(x_t, \dots, x_T)

    After the last step that is seen the states follow the transition, as the exact posterior does: sequences of unequal
    length end in NaN and cost nothing there.

    Args:
        net: a network from ``(time, features + 1)`` to ``(time, h)``, such as ``GRU((T, features + 1), 64, (T, 64))``; it
            reads the sequence backwards, with zeros for missing entries and one more feature: whether the step is seen. A
            module that is no network is given sequences of any length.
        combine: module with ``forward(value, covariates=None)`` returning the distribution of a state given the state
            before and h, joined in one vector; it may read covariates of its step.
        covariates: names of covariates that the net hears beside the data, one feature for each of their entries: controls
            tell the posterior where the states went.

    Reference: Krishnan, Shalit & Sontag 2017, arXiv:1609.09869.
    """

    def __init__(self, net: nn.Module, combine: nn.Module, covariates: Sequence[str] = ()) -> None:
        super().__init__()
        self.net, self.combine, self.heard = net, combine, tuple(covariates)
        self.covariate_names = tuple(dict.fromkeys(("mask", *self.heard, *getattr(combine, "covariate_names", ()))))

    def forward(
        self, x: Tensor, start: Tensor, transition: Callable[[Tensor, slice], Any], covariates: Covariates
    ) -> MarkovPath:
        """The distribution of the path.

        Args:
            x: of shape ``(rows, T, *event_shape)``, zero where missing.
            start: the state before the first.
            transition: :meth:`Dynamics.steps`.
            covariates: the ``mask`` of observed entries, and those that a part reads, with a row for each step.
        """
        rows, num_steps = x.shape[:2]
        seen = covariates["mask"].reshape(rows, num_steps, -1).any(-1)
        length = self.net.in_shape[0] if isinstance(self.net, Network) else num_steps
        parts = x, seen.unsqueeze(-1), *(covariates[name] for name in self.heard)
        features = torch.cat([part.reshape(rows, num_steps, -1).to(x) for part in parts], -1)
        h = _of_length(self.net(_of_length(features, length).flip(1)).flip(1), num_steps)
        names = getattr(self.combine, "covariate_names", ())
        ahead = seen.flip(1).cummax(1).values.flip(1)  # something is seen at this step or later
        is_whole = is_complete()

        def step(state: Tensor, times: slice) -> Any:
            joined = torch.cat([state, h[:, times].expand(*state.shape[:-1], -1)], -1)
            found = self.combine(joined, covariates={n: covariates[n][:, times] for n in names} or None)
            return found if is_whole else Either(ahead[:, times], found, transition(state, times))

        return MarkovPath(step, start, num_steps, (rows,))


def _of_length(x: Tensor, length: int) -> Tensor:
    """Sequences cut or filled with zeros to a length."""
    return nn.functional.pad(x, (0, 0, 0, max(0, length - x.shape[1])))[:, :length]
