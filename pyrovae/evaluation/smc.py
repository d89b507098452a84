"""Sequential Monte Carlo for paths of states: importance sampling that resamples on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrovae.evaluation.estimators import Estimator
from pyrovae.programs.rows import Block


@dataclass(frozen=True)
class SMC(Estimator):
    r"""Sequential Monte Carlo with the guide as proposal; each sample is a run of its own, with many particles.

    .. math:: \hat p(x) = \prod_t \frac1P \sum_p w_{tp}, \qquad
        w_{tp} = \frac{p(z_{tp} \mid z_{t-1,p})\, p(x_t \mid z_{tp})}{q(z_{tp} \mid z_{t-1,p}, x)}

    The weights of a whole path spread further with each step; here particles are drawn anew by their weights where these are
    uneven, so that the estimate stays unbiased and its error grows slowly with the length.

    Args:
        num_particles: P.
        threshold: resample a row where the effective number of its particles is below this share; 0 never resamples, and is
            importance sampling.

    Reference: Doucet & Johansen 2009, A tutorial on particle filtering and smoothing; Maddison et al. 2017, Filtering
    variational objectives, arXiv:1705.09279.
    """

    num_particles: int = 64
    threshold: float = 0.5
    name = "smc"
    num_samples = 8

    def per_row(self, num_samples: int) -> int:
        """The particles of one run."""
        return self.num_particles

    def log_weights(self, block: Block) -> Tensor:
        """One estimate for each run.

        Raises:
            ValueError: the program is no graph with a path of states.
        """
        graph: Any = next((owner for owner in block.work.program.owners if hasattr(owner, "steps")), None)
        if graph is None:
            raise ValueError("sequential Monte Carlo takes a graph with a path of states: StateSpaceVAE")
        prior, posterior, emit = graph.steps(block.batch.x, block.batch.covariates)
        rows, found = len(block.batch.index), []
        for tile in block.tiles():
            shape = (tile.num_samples, self.num_particles, rows)
            state = prior.start.expand(*shape, 1, -1)
            log_w, total = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape[0], rows, dtype=torch.float64)
            for t in range(prior.num_steps):
                now = slice(t, t + 1)
                proposal, transition = posterior.step(state, now), prior.step(state, now)
                state = proposal.rsample().expand_as(state)
                terms = transition.log_prob(state) + emit(state, now) - proposal.log_prob(state)
                log_w = log_w + terms.squeeze(-1).double().cpu()
                state, log_w, total = self._resampled(state, log_w, total)
            found.append(total + log_w.logsumexp(1) - math.log(self.num_particles))
        return torch.cat(found)

    def _resampled(self, state: Tensor, log_w: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Particles drawn anew where their weights are uneven, which then begin at one; systematically, row by row."""
        share = log_w.softmax(1)
        uneven = 1 / share.square().sum(1) < self.threshold * self.num_particles  # (samples, rows)
        if not uneven.any():
            return state, log_w, total
        points = (torch.arange(self.num_particles) + torch.rand(*uneven.shape, 1)) / self.num_particles
        ends = share.movedim(1, -1).cumsum(-1)
        drawn = torch.searchsorted(ends.contiguous(), points.double()).clamp_max(self.num_particles - 1).movedim(-1, 1)
        chosen = torch.where(uneven.unsqueeze(1), drawn, torch.arange(self.num_particles)[:, None])
        state = state.gather(1, chosen[..., None, None].expand_as(state).to(state.device))
        total = torch.where(uneven, total + log_w.logsumexp(1) - math.log(self.num_particles), total)
        return state, log_w.masked_fill(uneven.unsqueeze(1), 0.0), total
