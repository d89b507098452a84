"""The ELBO with the classifier's own term: what trains q(y | x) on rows whose label is recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import TraceEnum_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor


class SupervisedELBO(TraceEnum_ELBO):
    r"""The enumerated ELBO plus the guide's log probability of the labels that are recorded.

    .. math:: \mathcal{L} + \alpha \sum_{i:\ y_i\ \text{recorded}} \log q(y_i \mid x_i)

    In the ELBO of a labelled row the guide's q(y | x) does not appear, and would learn from unlabelled rows alone.

    Args:
        weight: :math:`\alpha`, for each labelled row. The paper takes 0.1 N / (labelled rows), with N rows in all. Where that is
            a small number and passes are few, the unlabelled rows outweigh the labels: a classifier that is less accurate than
            one trained on the labelled rows alone, on these rows too, needs more (Pyro's example takes 46).
        num_particles: draws of the latents for each datum.
        vectorize_particles: draw them along an axis of their own instead of in a loop.
        max_plate_nesting: the number of nested plates, for vectorized particles.

    Raises:
        ValueError: the weight is negative or not finite.

    Reference: Kingma et al. 2014, arXiv:1406.5298, equation 9.

    >>> SupervisedELBO(50.0).weight
    50.0
    """

    def __init__(
        self,
        weight: float,
        num_particles: int = 1,
        vectorize_particles: bool = False,
        max_plate_nesting: float = float("inf"),
    ) -> None:
        super().__init__(num_particles, max_plate_nesting, vectorize_particles=vectorize_particles)
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight must be finite and at least 0, got {weight}")
        self.weight = weight

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, a number to differentiate."""
        with _Recorded() as recorded:
            loss = torch.as_tensor(super().differentiable_loss(model, guide, *args, **kwargs))
        return loss - self.weight * recorded.total / self.num_particles

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Minus the bound; its gradients are added to those of the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return float(loss)

    @torch.no_grad()
    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Minus the bound."""
        return float(self.differentiable_loss(model, guide, *args, **kwargs))


class _Recorded(Messenger):
    """Adds up the log probability that latent sites' distributions give to the values that are known."""

    def __init__(self) -> None:
        super().__init__()
        self.total: Any = 0.0

    def _pyro_post_sample(self, msg: Any) -> None:
        known_log_prob = getattr(msg["fn"], "known_log_prob", None)
        if known_log_prob is not None and not msg["is_observed"]:
            self.total = self.total + (msg["scale"] * known_log_prob()).sum()
