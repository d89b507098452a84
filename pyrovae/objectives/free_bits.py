"""Free bits: a floor under each latent dimension's divergence, below which it is not penalized."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.objectives.divergence import Divergence, as_particle


class FreeBitsELBO(TraceMeanField_ELBO):
    r"""The ELBO with free nats: a group of latents costs at least ``free_nats``, so that it need not collapse.

    .. math::
        \sum_i \log p(x_i \mid z_i) - N \sum_j \beta_j \max\Bigl(\lambda,\ \tfrac1B \sum_{i \in \mathrm{batch}}
        \mathrm{KL}\bigl(q(z_{ij} \mid x_i)\,\|\,p(z_{ij})\bigr)\Bigr)

    A group :math:`j` is one dimension of a factorized latent whose divergence has a closed form, else a whole site; plates
    inside the datum are summed into it. Auxiliary draws of the guide are one group with the Delta sites that follow them.
    The floor is one of the divergence, in nats; beta (``pyrovae.beta``, 1 in the reference) multiplies the floored term.

    Args:
        free_nats: :math:`\lambda` in nats per group and datum; or ``{"z2": 0.1}`` by latent, zero for those not named.
        num_particles: draws of the latents for each datum.
        vectorize_particles: draw them along an axis of their own instead of in a loop.
        max_plate_nesting: the number of nested plates, for vectorized particles.

    Raises:
        ValueError: a negative ``free_nats``; a latent without reparameterized draws; an auxiliary draw without a Delta
            site; a beta for each row.

    Reference: Kingma et al. 2016, arXiv:1606.04934, equation 15.

    >>> FreeBitsELBO(0.1).free_nats
    0.1
    """

    def __init__(
        self,
        free_nats: float | Mapping[str, float],
        num_particles: int = 1,
        vectorize_particles: bool = False,
        max_plate_nesting: float = float("inf"),
    ) -> None:
        super().__init__(num_particles, max_plate_nesting, vectorize_particles=vectorize_particles)
        for floor in free_nats.values() if isinstance(free_nats, Mapping) else (free_nats,):
            if not 0 <= floor < float("inf"):
                raise ValueError(f"free_nats must be finite and at least 0, got {floor}")
        self.free_nats = free_nats

    def _get_trace(self, *args: Any, **kwargs: Any) -> tuple[Trace, Trace]:
        """Traces in any order of the latents: the divergence looks after it."""
        return Trace_ELBO._get_trace(self, *args, **kwargs)  # type: ignore[no-any-return]

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[float, Tensor]:
        divergence = Divergence(model_trace, guide_trace)
        _check_weights(divergence.weights())
        groups = divergence.groups()
        floors = self.free_nats if isinstance(self.free_nats, Mapping) else {g.site: self.free_nats for g in groups}
        unknown = set(floors) - {group.site for group in groups}
        if unknown:
            raise ValueError(f"free_nats names {min(unknown)!r}, which is no latent of the guide inside the data plate")
        cost = sum(g.weight * g.divergence.mean().clamp_min(floors.get(g.site, 0.0)) for g in groups)
        return as_particle(divergence.data_terms - divergence.size * len(groups[0].divergence) * cost)


def _check_weights(weights: Mapping[str, Any]) -> None:
    for name, weight in weights.items():
        if isinstance(weight, Tensor) and weight.ndim:
            raise ValueError(
                f"free bits are a floor of the rows' mean, which takes one weight: site {name!r} is scaled by a tensor of "
                f"shape {tuple(weight.shape)}"
            )
