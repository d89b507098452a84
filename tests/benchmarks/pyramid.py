"""A VAE of grey images whose decoder writes pixels from coarse to fine: 49 given the latent, then seven times the pixels between.

The 49 pixels in every fourth row and column are independent given the latent. The pixels between are written in six steps, each
independent given the latent and all pixels of the steps before (as in Reed et al. 2017, arXiv:1703.03664), so that a step has
twice as close neighbors as the last. Every pixel has a mixture of discretized logistic distributions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import pixel_unshuffle

import pyrovae as pvae
from pyrovae.distributions import DiscretizedLogisticMixture
from pyrovae.uses.coder import Entries, entries_of

LEVELS, SIZE = 256, 28
BETWEEN = (3, 1, 2)
"""Of four pixels in a square the first is known; the order of the others: the opposite one first."""
Steps = Callable[[Callable[[], Tensor]], Iterator[tuple[Tensor, DiscretizedLogisticMixture]]]


class StepByStep(dist.TorchDistribution):
    """Images whose pixels are drawn in steps, each given the pixels of the steps before.

    Args:
        steps: from a function that returns the images as far as they are known, ``(rows, 1, 28, 28)``, to the places of each
            step's pixels in a flat image and their distribution.
        batch_shape: of the distribution.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.integer_interval(0, LEVELS - 1), 3)

    def __init__(self, steps: Steps, batch_shape: Sequence[int]) -> None:
        self.steps = steps
        super().__init__(torch.Size(batch_shape), torch.Size([1, SIZE, SIZE]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log mass of images, of shape ``batch``."""
        rows = value.expand(self.batch_shape + self.event_shape).reshape(-1, *self.event_shape)
        found = [
            part.log_prob(rows.flatten(1)[:, at.reshape(-1)].unflatten(1, at.shape)) for at, part in self._all(rows)
        ]
        return torch.stack(found).sum(0).reshape(self.batch_shape)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Images of levels; one for each row."""
        rows = torch.zeros(self.batch_shape.numel(), *self.event_shape)
        for at, part in self._all(rows):
            rows.flatten(1)[:, at.reshape(-1)] = part.sample().flatten(1)
        return rows.reshape(self.batch_shape + self.event_shape)

    def entries(self, values: np.ndarray) -> Iterator[Entries]:
        """The masses of the pixels, step by step: how `pyrovae.uses.compress` codes a distribution that it does not know."""
        known = torch.from_numpy(values).reshape(-1, *self.event_shape)
        for at, part in self.steps(lambda: known.float()):
            places = at.reshape(-1).numpy()
            for found in entries_of(part, "x", values[:, places]):
                yield found._replace(places=places[found.places])

    def _all(self, rows: Tensor) -> Iterator[tuple[Tensor, DiscretizedLogisticMixture]]:
        return self.steps(lambda: rows)


class Residual(nn.Module):
    """Two convolutions beside a shortcut, the second of which starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        nn.init.zeros_(second.weight)
        self.body = nn.Sequential(nn.ReLU(), first, nn.ReLU(), second)

    def forward(self, h: Tensor) -> Tensor:
        """Maps of the same shape."""
        return h + self.body(h)


class Pyramid(nn.Module):
    """The likelihood: maps of features of the latent at 7 x 7 and 14 x 14 places, and a network for each step.

    Args:
        latent_dim: the number of latents.
        widths: channels of the networks at 7 x 7 and 14 x 14 places.
        blocks: residual blocks of each network.
        components: of the mixtures.
    """

    def __init__(self, latent_dim: int, widths: Sequence[int], blocks: int, components: int) -> None:
        super().__init__()
        self.components, numbers = components, 3 * components
        coarse, fine = widths
        self.stem = nn.Sequential(nn.Linear(latent_dim, 400), nn.ReLU(), nn.Linear(400, coarse * 49))
        self.coarse = nn.Sequential(nn.Unflatten(1, (coarse, 7, 7)), Residual(coarse), nn.ReLU())
        self.fine = nn.Sequential(nn.Conv2d(coarse, 2 * fine, 1), nn.PixelShuffle(2), nn.ReLU())
        self.first = nn.Conv2d(coarse, numbers, 1)
        self.steps = nn.ModuleList()
        for width, features in ((coarse, coarse), (fine, fine // 2)):
            for known in (1, 2, 3):
                into = nn.Conv2d(features + 2 * known, width, 3, padding=1)
                refined = [Residual(width) for _ in range(blocks)]
                self.steps.append(nn.Sequential(into, *refined, nn.ReLU(), nn.Conv2d(width, numbers, 1)))
        for head in (self.first, *(step[-1] for step in self.steps)):
            with torch.no_grad():
                head.weight.mul_(0.1)
                head.bias.copy_(
                    torch.cat([torch.zeros(components), torch.linspace(-1, 1, components), -2 * torch.ones(components)])
                )
        numbers_of = torch.arange(SIZE**2).reshape(1, 1, SIZE, SIZE)
        self.places = [pixel_unshuffle(numbers_of[..., ::step, ::step], 2)[0] for step in (2, 1)]

    def forward(self, z: Tensor, covariates: Any = None) -> StepByStep:
        """The distribution of images given latents ``(*batch, latent_dim)``."""
        coarse = self.coarse(self.stem(z.reshape(-1, z.shape[-1])))
        maps = coarse, self.fine(coarse)

        def steps(read: Callable[[], Tensor]) -> Iterator[tuple[Tensor, DiscretizedLogisticMixture]]:
            yield self.places[0][:1], self.mixture(self.first(coarse))
            for number, net in enumerate(self.steps):
                level, n = divmod(number, 3)
                squares = pixel_unshuffle(read()[..., :: 2 - level, :: 2 - level], 2)
                known = squares[:, [0, *BETWEEN[:n]]]
                seen = torch.cat([known / 127.5 - 1, (known > 0).to(known), maps[level]], 1)
                yield self.places[level][BETWEEN[n]][None], self.mixture(net(seen))

        return StepByStep(steps, z.shape[:-1])

    def mixture(self, raw: Tensor) -> DiscretizedLogisticMixture:
        """Mixtures from maps of ``3 * components`` numbers."""
        logits, loc, scale = raw.split(self.components, 1)
        widths = scale.clamp(-7.0, 3.0).exp().unsqueeze(2)
        nothing = loc.unsqueeze(2)[:, :, :0]
        return DiscretizedLogisticMixture(logits, loc.unsqueeze(2), widths, nothing, LEVELS, validate_args=False)


class Scaled(nn.Module):
    """Levels to the range [-1, 1], as a module that is saved with its parts."""

    def forward(self, x: Tensor) -> Tensor:
        """The scaled levels."""
        return x / 127.5 - 1


def make(latent_dim: int = 32, widths: Sequence[int] = (48, 32), blocks: int = 1, components: int = 4) -> pvae.VAE:
    """The VAE, its weights drawn from torch's random state."""
    options = {"normalization": nn.BatchNorm1d}
    posterior = pvae.Factorized(
        dist.Normal, pvae.MLP((1, SIZE, SIZE), (500, 400), **options), latent_dim, preprocess=Scaled()
    )
    return pvae.VAE(pvae.standard_normal(latent_dim), Pyramid(latent_dim, widths, blocks, components), posterior)
