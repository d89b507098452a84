"""Free bits: a floor under each latent dimension's divergence, below which it is not penalized."""

from __future__ import annotations

from pyro.infer import TraceMeanField_ELBO
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.objectives.divergence import Divergence, as_particle


class FreeBitsELBO(TraceMeanField_ELBO):
    r"""The ELBO with free nats: a group of latents costs at least ``free_nats``, so that it need not collapse.

    .. math::
        \sum_i \log p(x_i \mid z_i) - N \sum_j \max\Bigl(\lambda,\ \tfrac1B \sum_{i \in \mathrm{batch}}
        \mathrm{KL}\bigl(q(z_{ij} \mid x_i)\,\|\,p(z_{ij})\bigr)\Bigr)

    A group :math:`j` is one dimension of a factorized latent whose divergence has a closed form, else a whole site.

    Args:
        free_nats: :math:`\lambda` in nats per group and datum.
        num_particles: draws of the latents for each datum.
        vectorize_particles: draw them along an axis of their own instead of in a loop.
        max_plate_nesting: the number of nested plates, for vectorized particles.

    Raises:
        ValueError: a negative ``free_nats``; a latent without reparameterized draws.

    Reference: Kingma et al. 2016, arXiv:1606.04934, equation 15.

    >>> FreeBitsELBO(0.1).free_nats
    0.1
    """

    def __init__(
        self,
        free_nats: float,
        num_particles: int = 1,
        vectorize_particles: bool = False,
        max_plate_nesting: float = float("inf"),
    ) -> None:
        super().__init__(num_particles, max_plate_nesting, vectorize_particles=vectorize_particles)
        if not 0 <= free_nats < float("inf"):
            raise ValueError(f"free_nats must be finite and at least 0, got {free_nats}")
        self.free_nats = free_nats

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[float, Tensor]:
        divergence = Divergence(model_trace, guide_trace)
        groups = divergence.groups()
        particles = groups[0].numel() // groups[0].shape[-1]
        cost = sum(group.mean().clamp_min(self.free_nats) for group in groups)
        return as_particle(divergence.data_terms - divergence.size * particles * cost)
