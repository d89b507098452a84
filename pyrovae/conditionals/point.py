"""A posterior without spread: what makes an autoencoder of a variational one."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyrovae.conditionals.base import Conditional


class Point(Conditional):
    r"""A point given by a network: the encoder of a deterministic autoencoder.

    .. math:: q(z \mid x) = \delta(z - f(x))

    With it, and ``fit(..., beta=0.0)``, a ``VAE`` trains as an autoencoder: a baseline for representations and
    reconstructions. It has no density, so that ``elbo``, ``log_marginal`` and ``compare`` refuse it.

    Args:
        net: a network; an open one is closed with the event's shape.
        event_shape: the shape of one latent.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    >>> import torch, pyrovae as pvae
    >>> Point(pvae.MLP(5, (8,)), 2)(torch.zeros(3, 5)).batch_shape
    torch.Size([3])
    """

    def distribution(self, raw: Tensor) -> dist.Delta:
        """The point, the network's output itself."""
        return dist.Delta(raw, event_dim=len(self.event_shape))
