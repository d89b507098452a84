"""The exemplar prior: a kernel around the posterior mean of each training row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.errors import check_integer, refusal
from pyrovae.networks.base import Covariates


class ExemplarPrior(nn.Module):
    r"""A mixture of normals around the posterior means of the training rows, with one learned scale.

    .. math:: p(z) = \frac1N \sum_n \mathcal{N}\bigl(z;\ \mu_q(x_n), \sigma^2 I\bigr)

    In training a row's own exemplar is left out, and the sum runs over the nearest exemplars of the batch's rows alone, which
    bounds p(z) from below. In eval mode it runs over all of them; there the ELBO of training rows counts their own exemplars.
    The prior shares the weights of the posterior, as :class:`VampPrior` does.

    Args:
        posterior: the VAE's posterior, the same module; its distribution has a mean.
        exemplars: the training rows, complete, in the order in which ``fit`` gets them: ``(N, *data_shape)``. They are saved
            with the weights.
        num_neighbors: how many nearest exemplars of each row count in training.
        scale: the starting value of sigma.

    Raises:
        ValueError: fewer than two rows, missing entries, or a posterior that reads covariates.

    Reference: Norouzi, Fleet & Norouzi 2020, Exemplar VAE, arXiv:2004.04795.

    >>> import pyro.distributions as dist, pyrovae as pvae
    >>> posterior = pvae.Factorized(dist.Normal, pvae.MLP(6, (16,)), event_shape=2)
    >>> ExemplarPrior(posterior, torch.randn(50, 6))().event_shape
    torch.Size([2])
    """

    covariate_names = ("index",)

    def __init__(self, posterior: nn.Module, exemplars: Tensor, *, num_neighbors: int = 10, scale: float = 0.5) -> None:
        super().__init__()
        names = [name for name in getattr(posterior, "covariate_names", ()) if name != "mask"]
        if names:
            raise ValueError(f"the posterior reads {', '.join(names)} from the covariates, which exemplars do not have")
        if len(exemplars) < 2 or not torch.as_tensor(exemplars).isfinite().all():
            raise ValueError(
                f"expected two or more complete rows as exemplars, got {tuple(exemplars.shape)}: impute them"
            )
        self.posterior, self.num_neighbors = posterior, check_integer("num_neighbors", num_neighbors)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.exemplars: Tensor
        rows = torch.as_tensor(exemplars).detach().to(torch.get_default_dtype())
        self.register_buffer("exemplars", rows)
        self._known: tuple[Any, Tensor] | None = None

    def check_size(self, num_rows: int) -> None:
        """Refuse another number of training rows: a row's own exemplar is found by the row's number.

        Raises:
            ValueError: there are more or fewer exemplars.
        """
        if num_rows != len(self.exemplars):
            raise refusal(
                f"the prior has {len(self.exemplars)} exemplars and the training {num_rows} rows, so that rows would not be left "
                "out of their own prior: give it the rows that are trained on, in their order (divide before: train, held_out = "
                "pyrovae.data.split(x, 0.1), then fit(vae, train, validation=held_out))",
                "exemplars",
            )

    def forward(self, value: None = None, covariates: Covariates | None = None) -> Kernels:
        """The mixture: with a batch shape of rows where they are left out of it, else ``()``."""
        index = (covariates or {}).get("index")
        if not self.training or index is None:
            means = self._means(self.exemplars) if self.training else self._all_means()
            return Kernels(means, self.log_scale.exp(), len(means))
        index = index.long()
        known = self._all_means().clone() if self._known is None else self._known[1]
        distance = torch.cdist(known[index], known).scatter(1, index.unsqueeze(1), math.inf)
        nearest = distance.topk(min(self.num_neighbors, len(known) - 1), largest=False).indices
        chosen = torch.cat([nearest.flatten(), index]).unique()
        means = self._means(self.exemplars[chosen])
        known[chosen] = means.detach()
        self._known = (None, known)
        return Kernels(means, self.log_scale.exp(), len(known) - 1, chosen == index.unsqueeze(1))

    def _means(self, rows: Tensor) -> Tensor:
        names = getattr(self.posterior, "covariate_names", ())
        mask = {"mask": torch.ones_like(rows, dtype=torch.bool)} if "mask" in names else None
        return self.posterior(rows, covariates=mask).mean  # type: ignore[no-any-return]

    @torch.no_grad()
    def _all_means(self) -> Tensor:
        """The means of all exemplars, computed anew where the posterior has changed."""
        from torch.fx.experimental.proxy_tensor import get_proxy_mode

        if get_proxy_mode() is not None:
            raise RuntimeError("the means of exemplars are kept between calls, and a graph would hold the first ones")
        weights = [*self.posterior.parameters(), *self.posterior.buffers()]  # fused optimizers do not count as changes
        if self._known is None or self._known[0] is None or not all(map(_same, self._known[0], weights)):
            kept = [weight.detach().clone() for weight in weights]
            self._known = (kept, torch.cat([self._means(rows) for rows in self.exemplars.split(1024)]))
        return self._known[1]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)


class Kernels(TorchDistribution):
    """An equal mixture of normals with one scale, some of which may be left out for some rows."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, means: Tensor, scale: Tensor, number: int, left_out: Tensor | None = None) -> None:
        self.means, self.scale, self.number, self.left_out = means, scale, number, left_out
        super().__init__(
            torch.Size() if left_out is None else left_out.shape[:-1], means.shape[-1:], validate_args=False
        )

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Kernels:
        """The same distribution with its batch axes expanded."""
        new = Kernels(self.means, self.scale, self.number, self.left_out)
        new._batch_shape = torch.Size(batch_shape)
        return new

    @property
    def mean(self) -> Tensor:
        """The mean of all kernels."""
        return self.means.mean(0).expand(self.batch_shape + self.event_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape ``(*sample_shape, *batch, d)``."""
        shape = torch.Size(sample_shape) + self.batch_shape
        which = torch.randint(len(self.means), shape, device=self.means.device)
        found = self.means[which]
        return (found + self.scale * torch.randn_like(found)).detach()

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density in nats, of shape ``batch``."""
        center = self.means.mean(0).detach()  # so that large means lose no digits below
        means, white = (self.means - center) / self.scale, (value - center) / self.scale
        terms = white @ means.T - 0.5 * means.square().sum(-1)
        if self.left_out is not None:
            terms = terms.masked_fill(self.left_out, -1e10)
        d = self.event_shape[0]
        constant = 0.5 * white.square().sum(-1) + d * (self.scale.log() + 0.5 * math.log(2 * math.pi))
        found = terms.logsumexp(-1) - constant - math.log(self.number)
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))
