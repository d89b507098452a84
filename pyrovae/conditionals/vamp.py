"""The VampPrior: the aggregate posterior of learned pseudo-inputs."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.networks.base import Covariates


class VampPrior(nn.Module):
    r"""A mixture of the posterior at K learned pseudo-inputs.

    .. math:: p(z) = \sum_k \pi_k\, q(z \mid u_k)

    The prior shares the weights of the posterior: ``VampPrior.posterior`` is the same module as the VAE's, and a VAE
    refuses a prior with another one.

    Args:
        posterior: the VAE's posterior, the same module.
        pseudo_inputs: the starting values, some rows of the data: ``(K, *data_shape)``.
        bounds: keep the pseudo-inputs between these two numbers, e.g. ``(0, 1)`` for pixels, ``(0, inf)`` for counts.
        weighted: learn the weights too (by default they are equal).

    Raises:
        ValueError: the pseudo-inputs are missing, infinite or out of bounds, or the posterior reads covariates.

    Reference: Tomczak & Welling 2018, VAE with a VampPrior, arXiv:1705.07120.

    >>> import pyro.distributions as dist, pyrovae as pvae
    >>> posterior = pvae.Factorized(dist.Normal, pvae.MLP(6, (16,)), event_shape=2)
    >>> VampPrior(posterior, torch.randn(50, 6))().event_shape
    torch.Size([2])
    """

    covariate_names: tuple[str, ...] = ()

    def __init__(
        self,
        posterior: nn.Module,
        pseudo_inputs: Tensor,
        *,
        bounds: tuple[float, float] = (-float("inf"), float("inf")),
        weighted: bool = False,
    ) -> None:
        super().__init__()
        names = [name for name in getattr(posterior, "covariate_names", ()) if name != "mask"]
        if names:
            raise ValueError(
                f"the posterior reads {', '.join(names)} from the covariates, which pseudo-inputs do not have"
            )
        start = torch.as_tensor(pseudo_inputs).detach().to(torch.get_default_dtype()).clone()
        if start.ndim < 2 or not start.isfinite().all():
            raise ValueError(
                f"pseudo_inputs must be finite rows of data, (K, *data_shape), got shape {tuple(start.shape)}: "
                "choose rows without missing entries, or impute them"
            )
        if (start < bounds[0]).any() or (start > bounds[1]).any():
            raise ValueError(
                f"pseudo_inputs start outside bounds={bounds}: they reach from {start.min()} to {start.max()}"
            )
        self.posterior, self.bounds = posterior, bounds
        self.pseudo_inputs = nn.Parameter(start)
        logits = torch.zeros(len(start))
        if weighted:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits, persistent=False)

    def forward(self, value: None = None, covariates: Covariates | None = None) -> dist.MixtureSameFamily:
        """The mixture; its batch shape is ``()``."""
        inputs = self.pseudo_inputs.clamp(*self.bounds)
        components = self.posterior(inputs, covariates=self._all_observed(inputs))
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)

    def extra_repr(self) -> str:
        """The number of pseudo-inputs and their bounds."""
        return f"pseudo_inputs={tuple(self.pseudo_inputs.shape)}, bounds={self.bounds}"

    def _all_observed(self, inputs: Tensor) -> Covariates | None:
        names = getattr(self.posterior, "covariate_names", ())
        return {"mask": torch.ones_like(inputs, dtype=torch.bool)} if "mask" in names else None
