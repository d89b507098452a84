"""Text: one latent for each sentence."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import nn

from pyrovae.data import Vocabulary, as_data
from pyrovae.graphs.vae import VAE


class SentenceVAE(VAE):
    r"""A variational autoencoder of text: one latent for a whole sentence, and tokens each given those before it.

    .. math:: p(z) \prod_t p(x_t \mid x_{<t}, z), \qquad q(z \mid x_{1:T})

    Data are codes ``(rows, T)`` as :meth:`pyrovae.data.Vocabulary.encode` gives them. A strong decoder needs no latent:
    ``Tokens(word_dropout=0.3)``, ``fit(..., objective=FreeBitsELBO(0.1))`` or ``beta=schedules.cyclical(0, 1, epochs=20)`` keep
    it in use.

    Args:
        prior: module with ``forward(covariates=None)`` returning the distribution of ``z``.
        likelihood: module with ``forward(z, covariates=None)``: :class:`~pyrovae.conditionals.Tokens`.
        posterior: module with ``forward(x, covariates=None)`` returning the guide's distribution of ``z``.
        vocabulary: the tokens and their codes.
        name: the prefix of the parameters' names in Pyro.

    Reference: Bowman et al. 2016, Generating sentences from a continuous space, arXiv:1511.06349.

    >>> import pyro.distributions as dist, pyrovae as pvae
    >>> lines = ["to be", "or not", "to be"]
    >>> vocabulary = pvae.data.Vocabulary.of(lines)
    >>> x, tokens = vocabulary.encode(lines), len(vocabulary)
    >>> read = pvae.Chain(pvae.networks.EmbedSteps(tokens, 7, 8), pvae.GRU((7, 8), 16))
    >>> vae = SentenceVAE(
    ...     pvae.standard_normal(2),
    ...     pvae.conditionals.Tokens(pvae.GRU((7, 10), 16, per_step=True), tokens, latent_dim=2),
    ...     pvae.Factorized(dist.Normal, read, 2),
    ...     vocabulary,
    ... )
    >>> _ = pvae.fit(vae, x, epochs=2, seed=0)
    >>> len(vae.generate(3)), len(vae.interpolate("to be", "or not", 5))
    (3, 5)
    """

    likelihood: Any

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        posterior: nn.Module,
        vocabulary: Vocabulary,
        name: str = "sentence",
    ) -> None:
        super().__init__(prior, likelihood, posterior, name)
        self.vocabulary = vocabulary

    def generate(self, num_samples: int, covariates: Any = None) -> list[str]:
        """Sentences drawn from the model, one for each row of the covariates if there are any."""
        return self.vocabulary.decode(self.sample(num_samples, covariates))

    def interpolate(
        self, first: str, second: str, num: int = 7, covariates: Any = None, draw: bool = False
    ) -> list[str]:
        """Sentences at points on the line between the latents of two sentences.

        Args:
            first: the sentence at the beginning.
            second: the sentence at the end.
            num: how many points, both ends among them.
            covariates: for each name, the one row of all points.
            draw: draw the tokens, by one noise for all points, so that neighbours differ as their latents do; by default each
                is the likeliest one after those before it, which repeats itself where the latents say little.
        """
        one = {name: torch.as_tensor(value) for name, value in (covariates or {}).items()}
        two, every = ({n: v.expand(rows, *v.shape[1:]) for n, v in one.items()} or None for rows in (2, num))
        ends = self.encode(self.vocabulary.encode([first, second], self.likelihood.num_steps), two)
        z = torch.lerp(ends[:1], ends[1:], torch.linspace(0, 1, num).unsqueeze(-1).to(ends))

        shape = self.likelihood.num_steps, len(self.vocabulary)
        noise = dist.Gumbel(0.0, 1.0).sample(shape) if draw else None

        def part(z: Any, own: Any) -> Any:
            return self.likelihood(z, covariates=own).greedy(noise)

        return self.vocabulary.decode(self._over(part, as_data(z, every), num))
