"""The capacity objective: the divergence is held at a target instead of being penalized."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.objectives.divergence import Divergence, as_particle


class CapacityELBO(TraceMeanField_ELBO):
    r"""The ELBO with a capacity: its divergence is drawn to ``capacity`` nats per datum.

    .. math::
        \sum_i \log p(x_i \mid z_i) - N \gamma\, \bigl|\overline{\mathrm{KL}} - C\bigr|, \qquad
        \overline{\mathrm{KL}} = \tfrac1B \sum_{i \in \mathrm{batch}} \mathrm{KL}\bigl(q(z_i \mid x_i)\,\|\,p(z_i)\bigr)

    The divergence is in closed form where it exists, else a Monte-Carlo estimate from the same draws. It holds all latents
    of a datum, those in plates inside the datum and the guide's auxiliary draws included.

    Args:
        capacity: :math:`C` in nats per datum: a number, a 0-dim tensor, or a schedule that ``fit`` advances.
        gamma: the weight :math:`\gamma`.
        num_particles: draws of the latents for each datum.
        vectorize_particles: draw them along an axis of their own instead of in a loop.
        max_plate_nesting: the number of nested plates, for vectorized particles.

    Raises:
        ValueError: a negative capacity or gamma; a latent without reparameterized draws; a beta, whose place the
            capacity takes (or another scale on a latent).

    Reference: Burgess et al. 2018, arXiv:1804.03599.

    >>> CapacityELBO(capacity=25.0, gamma=100.0).capacity
    25.0
    """

    def __init__(
        self,
        capacity: float | Tensor | Callable[[Any], float],
        gamma: float = 100.0,
        num_particles: int = 1,
        vectorize_particles: bool = False,
        max_plate_nesting: float = float("inf"),
    ) -> None:
        super().__init__(num_particles, max_plate_nesting, vectorize_particles=vectorize_particles)
        if isinstance(capacity, (int, float)) and not 0 <= capacity < float("inf"):
            raise ValueError(f"capacity is a number of nats per datum, finite and at least 0; got {capacity}")
        if not 0 <= gamma < float("inf"):
            raise ValueError(f"gamma must be finite and at least 0, got {gamma}")
        self.schedule = capacity if callable(capacity) and not isinstance(capacity, Tensor) else None
        self.capacity: Any = None if self.schedule else capacity
        self.gamma = gamma

    def advance(self, progress: Any) -> None:
        """Set the capacity from its schedule; the trainer calls this before each step."""
        if self.schedule is not None:
            self.capacity = self.schedule(progress)

    def _get_trace(self, *args: Any, **kwargs: Any) -> tuple[Trace, Trace]:
        """Traces in any order of the latents: the divergence looks after it."""
        return Trace_ELBO._get_trace(self, *args, **kwargs)  # type: ignore[no-any-return]

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[float, Tensor]:
        if self.capacity is None:
            raise ValueError(
                "the capacity's schedule has not started: train with fit, or call advance(progress) before a step"
            )
        divergence = Divergence(model_trace, guide_trace)
        _check_unweighted(divergence.weights())
        per_datum = divergence.per_datum()
        penalty = self.gamma * divergence.size * len(per_datum) * (per_datum.mean() - self.capacity).abs()
        return as_particle(divergence.data_terms - penalty)


def _check_unweighted(weights: Mapping[str, Any]) -> None:
    for name, weight in weights.items():
        if isinstance(weight, Tensor) or not math.isclose(weight, 1.0):
            raise ValueError(
                f"CapacityELBO takes the place of beta, but site {name!r} has one (or another scale): leave beta at 1 and "
                "set capacity and gamma, or use TraceMeanField_ELBO with beta"
            )
