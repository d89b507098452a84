"""Levels of latents: a chain of stochastic layers above the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pyrovae.graphs.graph import Covariates, Graph


class HierarchicalVAE(Graph):
    r"""A variational autoencoder with any number of stochastic layers and bottom-up inference.

    .. math::
        p(z_L) \Bigl[\prod_{l < L} p(z_l \mid z_{l+1})\Bigr] p(x \mid z_1), \qquad
        q(z_1 \mid x) \prod_{l > 1} q(z_l \mid z_{l-1})

    Sites are ``z1`` (next to the data) to ``zL``; ``fit(vae, x, beta={"z2": 0.5})`` weighs one of them.

    Args:
        priors: from the layer next to the data upwards: modules with ``forward(z_above, covariates=None)``, the last one with
            ``forward(covariates=None)``.
        likelihood: module with ``forward(z1, covariates=None)`` returning the distribution of ``x``.
        posteriors: from the layer next to the data upwards: modules with ``forward(x_or_z_below, covariates=None)``.
        name: the prefix of the parameters' names in Pyro.

    Raises:
        ValueError: there is no layer, or priors and posteriors are not equally many.

    Reference: Rezende, Mohamed & Wierstra 2014, arXiv:1401.4082; Sønderby et al. 2016, arXiv:1602.02282.

    >>> import pyro.distributions as dist, pyrovae as pvae, torch
    >>> def normal(of, shape):
    ...     return pvae.Factorized(dist.Normal, pvae.MLP(of, (8,)), shape)
    >>> vae = HierarchicalVAE(
    ...     priors=[normal(2, 3), pvae.standard_normal(2)],
    ...     likelihood=pvae.Factorized(dist.Poisson, pvae.MLP(3, (8,)), 5),
    ...     posteriors=[normal(5, 3), normal(3, 2)],
    ... )
    >>> {site: tuple(z.shape) for site, z in vae.encode(torch.zeros(4, 5)).items()}
    {'z1': (4, 3), 'z2': (4, 2)}
    """

    def __init__(
        self, priors: Sequence[nn.Module], likelihood: nn.Module, posteriors: Sequence[nn.Module], name: str = "hvae"
    ) -> None:
        if not priors or len(priors) != len(posteriors):
            raise ValueError(
                f"expected a prior and a posterior for each layer, got {len(priors)} priors and {len(posteriors)} posteriors"
            )
        self.depth = len(priors)
        self.model_parts = (*(f"prior{level}" for level in range(self.depth, 0, -1)), "likelihood")
        self.guide_parts = tuple(f"posterior{level}" for level in range(1, self.depth + 1))
        parts = {f"prior{level}": part for level, part in enumerate(priors, 1)}
        parts |= {f"posterior{level}": part for level, part in enumerate(posteriors, 1)}
        super().__init__(name, likelihood=likelihood, **parts)

    def model(
        self,
        x: Tensor | None = None,
        covariates: Covariates | None = None,
        size: int | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """The generative program: sites ``zL`` to ``z1`` and ``x``; arguments as in :meth:`VAE.model`."""
        with self.rows(self.model_parts, x, covariates, size, index) as rows:
            above: tuple[Any, ...] = ()
            for level in range(self.depth, 0, -1):
                above = (rows.sample(f"z{level}", f"prior{level}", *above),)
            return rows.observe("x", "likelihood", *above, value=rows.data)

    def guide(
        self,
        x: Tensor,
        covariates: Covariates | None = None,
        size: int | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """The bottom-up guide: sites ``z1`` to ``zL``; returns the topmost latent."""
        with self.rows(self.guide_parts, x, covariates, size, index) as rows:
            below, mask = rows.seen(rows.data)
            for level in range(1, self.depth + 1):
                below = rows.sample(f"z{level}", f"posterior{level}", below, mask=mask)
            return below
