"""Levels of latents: a chain of stochastic layers above the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pyrovae.graphs.graph import Covariates, Graph


class HierarchicalVAE(Graph):
    r"""A variational autoencoder with any number of stochastic layers, and inference from below or from above.

    .. math::
        p(z_L) \Bigl[\prod_{l < L} p(z_l \mid z_{l+1})\Bigr] p(x \mid z_1), \qquad
        q(z_1 \mid x) \prod_{l > 1} q(z_l \mid z_{l-1}) \quad\text{or}\quad q(z_L \mid x) \prod_{l < L} q(z_l \mid x, z_{l+1})

    Sites are ``z1`` (next to the data) to ``zL``. Any part may read latents drawn before it as covariates of their names: a
    skip path is ``ConcatCovariates(net, 3, covariates={"z2": 2})`` in the likelihood. One level is weighed by
    ``fit(vae, x, beta={"z2": schedules.linear(0, 1, epochs=20)})``, or freed of some nats by ``FreeBitsELBO({"z2": 0.1})``.

    Args:
        priors: from the layer next to the data upwards: modules with ``forward(z_above, covariates=None)``, the last one with
            ``forward(covariates=None)``.
        likelihood: module with ``forward(z1, covariates=None)`` returning the distribution of ``x``.
        posteriors: from the layer next to the data upwards: modules with ``forward(x_or_z_below, covariates=None)``; with
            ``features`` each gets those of its level, and the layers are drawn from the top down.
        features: from the data upwards a network for each level, from the features below to its own (a ladder); an empty
            sequence gives each posterior the data. None for inference from the bottom up.
        name: the prefix of the parameters' names in Pyro.

    Raises:
        ValueError: there is no layer, or priors, posteriors and features are not equally many.

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

    From the top down, with a ladder of features:

    >>> below = pvae.ConcatCovariates(pvae.MLP(8 + 2, (8,)), 8, covariates={"z2": 2})
    >>> vae = HierarchicalVAE(
    ...     priors=[normal(2, 3), pvae.standard_normal(2)],
    ...     likelihood=pvae.Factorized(dist.Poisson, pvae.MLP(3, (8,)), 5),
    ...     posteriors=[pvae.Factorized(dist.Normal, below, 3), normal(8, 2)],
    ...     features=[pvae.MLP(5, (8,), out_shape=8), pvae.MLP(8, (8,), out_shape=8)],
    ... )
    >>> {site: tuple(z.shape) for site, z in vae.encode(torch.zeros(4, 5)).items()}
    {'z2': (4, 2), 'z1': (4, 3)}
    """

    def __init__(
        self,
        priors: Sequence[nn.Module],
        likelihood: nn.Module,
        posteriors: Sequence[nn.Module],
        features: Sequence[nn.Module] | None = None,
        name: str = "hvae",
    ) -> None:
        if not priors or len(priors) != len(posteriors) or (features and len(features) != len(priors)):
            raise ValueError(
                f"expected a prior and a posterior for each layer, got {len(priors)} priors and {len(posteriors)} posteriors"
                + (f" and {len(features)} networks of features" if features else "")
            )
        self.depth, self.top_down, self.is_ladder = len(priors), features is not None, bool(features)
        self.provided = tuple(f"z{level}" for level in range(1, self.depth + 1))
        parts = {f"posterior{level}": part for level, part in enumerate(posteriors, 1)}
        parts |= {f"features{level}": part for level, part in enumerate(features or (), 1)}
        self.guide_parts = tuple(parts)
        self.model_parts = (*(f"prior{level}" for level in range(self.depth, 0, -1)), "likelihood")
        parts |= {f"prior{level}": part for level, part in enumerate(priors, 1)}
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
            drawn: dict[str, Any] = {}
            for level in range(self.depth, 0, -1):
                above = [drawn[f"z{level + 1}"]] if drawn else []
                drawn[f"z{level}"] = rows.sample(f"z{level}", f"prior{level}", *above, **drawn)
            return rows.observe("x", "likelihood", drawn["z1"], value=rows.data, **drawn)

    def guide(
        self,
        x: Tensor,
        covariates: Covariates | None = None,
        size: int | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """The guide: sites ``z1`` to ``zL``, or ``zL`` to ``z1``; returns the latent that is drawn last."""
        with self.rows(self.guide_parts, x, covariates, size, index) as rows:
            value, mask = rows.seen(rows.data)
            drawn: dict[str, Any] = {"mask": mask}
            levels, seen = range(1, self.depth + 1), [value]
            for level in levels if self.is_ladder else ():
                part = f"features{level}"
                seen.append(getattr(self, part)(seen[-1], rows.read(part, mask=mask)))
            for level in reversed(levels) if self.top_down else levels:
                if self.top_down:
                    value = seen[level] if self.is_ladder else seen[0]
                drawn[f"z{level}"] = rows.sample(f"z{level}", f"posterior{level}", value, **drawn)
                value = drawn[f"z{level}"]
            return value
