"""Several modalities of one datum, any of which may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.graphs.graph import Covariates, Graph


def random_subsets(rows: Mapping[str, Tensor], generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Hide modalities at random, for ``fit(..., transform=pyrovae.graphs.random_subsets)``: half of the rows stay as they are.

    Each of the others keeps every modality with probability one half, and at least one of those that it has.

    Args:
        rows: modalities by name, each of shape ``(rows, *event_shape)``; NaN is missing.
        generator: the source of randomness; by default torch's global one.

    Reference: Wu & Goodman 2018, arXiv:1802.05335 (training on subsets).

    >>> rows = random_subsets({"a": torch.zeros(100, 2), "b": torch.zeros(100, 3)})
    >>> bool((rows["a"].isnan().all(1) & rows["b"].isnan().all(1)).any())
    False
    """
    has = torch.stack([~x.reshape(len(x), -1).isnan().all(1) for x in rows.values()])
    lots = torch.rand(has.shape, generator=generator) * has.cpu()
    whole = torch.rand(has.shape[1], generator=generator) < 0.5
    kept = ((lots > 0.5) | (lots == lots.max(0).values) | whole).to(has.device)
    return {
        name: torch.where(kept[m].reshape(-1, *[1] * (x.ndim - 1)), x, torch.nan)
        for m, (name, x) in enumerate(rows.items())
    }


class MultimodalVAE(Graph):
    r"""A variational autoencoder of several named modalities, with a shared latent and private ones beside it.

    .. math:: p(z) \prod_m p(z_m)\, p(x_m \mid z, z_m), \qquad q(z \mid x_S) \prod_m q(z_m \mid x_m)

    Data are ``{"image": x1, "text": x2}``, NaN where an entry is missing; one batch may hold every subset of modalities.
    Sites are ``z``, each modality by its name, and ``z_image`` for a private latent. Cross-generation is ``impute`` on rows
    without a modality; log p(a | b) is ``log_conditional(vae, data, given="b")``.

    Complete rows train the experts together and leave each alone undetermined; the transform :func:`random_subsets` of
    ``fit`` trains them for every subset. Over rows of the model itself log p(a | b) exceeds log p(a) on average, by their
    mutual information. On data it may lie below, although both estimates are right (``method="mixture"``), where the
    likelihoods are too narrow: each modality then claims to know the latents better than it does. Wider likelihoods mend it
    (a ``BetaBinomial`` in place of a ``Binomial``).

    Args:
        prior: module with ``forward(covariates=None)`` returning the distribution of ``z``.
        likelihoods: for each modality a module with ``forward(z, covariates=None)``. Where the modality has a private
            latent, its likelihood gets both joined in one vector, the shared one first.
        posterior: module with ``forward(views, covariates=None)``, such as :class:`~pyrovae.conditionals.Experts`; views
            are pairs of data (zero where missing) and mask, by name.
        private: for some modalities a pair: the prior of the private latent, and its posterior of ``views``, which may be
            ``Experts`` of this one view.
        name: the prefix of the parameters' names in Pyro.

    Raises:
        ValueError: there is no modality, or a private latent of an unknown one.

    Reference: Wu & Goodman 2018, arXiv:1802.05335; Shi et al. 2019, arXiv:1911.03393; Lee & Pavlovic 2021, Private-shared
    disentangled multimodal VAE, arXiv:2012.13024.

    >>> import pyro.distributions as dist, pyrovae as pvae
    >>> def normal(of, shape):
    ...     return pvae.Factorized(dist.Normal, pvae.MLP(of, (8,)), shape)
    >>> prior = pvae.standard_normal(2)
    >>> vae = MultimodalVAE(
    ...     prior,
    ...     likelihoods={"a": normal(2, 5), "b": pvae.Factorized(dist.Poisson, pvae.MLP(2, (8,)), 3)},
    ...     posterior=pvae.conditionals.Experts({"a": normal(5, 2), "b": normal(3, 2)}, prior),
    ... )
    >>> data = {"a": torch.zeros(4, 5), "b": torch.full((4, 3), torch.nan)}
    >>> vae.encode(data).shape, pvae.elbo(vae, data, seed=0).elbo.shape
    (torch.Size([4, 2]), (4,))
    """

    def __init__(
        self,
        prior: nn.Module,
        likelihoods: Mapping[str, nn.Module],
        posterior: nn.Module,
        private: Mapping[str, tuple[nn.Module, nn.Module]] | None = None,
        name: str = "mvae",
    ) -> None:
        self.modalities, self.private = tuple(likelihoods), tuple(private or ())
        if not self.modalities or not set(self.private) <= set(self.modalities):
            raise ValueError(
                f"expected private latents of some of the modalities {self.modalities}, got {self.private}"
            )
        parts = {"prior": prior, "posterior": posterior}
        parts |= {f"likelihood_{m}": part for m, part in likelihoods.items()}
        parts |= {f"prior_{m}": pair[0] for m, pair in (private or {}).items()}
        parts |= {f"posterior_{m}": pair[1] for m, pair in (private or {}).items()}
        self.guide_parts = tuple(role for role in parts if role.startswith("posterior"))
        self.model_parts = tuple(role for role in parts if role not in self.guide_parts)
        super().__init__(name, **parts)

    def model(
        self,
        x: Any = None,
        covariates: Covariates | None = None,
        size: int | None = None,
        index: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The generative program: ``z``, private latents and modalities; arguments as in :meth:`VAE.model`."""
        with self.rows(self.model_parts, x, covariates, size, index) as rows:
            z, found = rows.sample("z", "prior"), {}
            for m in self.modalities:
                own = [rows.sample(f"z_{m}", f"prior_{m}")] if m in self.private else []
                latent = torch.cat([z, *own], -1)
                found[m] = rows.observe(m, f"likelihood_{m}", latent, value=rows.value(m))
            return found

    def guide(
        self,
        x: Any,
        covariates: Covariates | None = None,
        size: int | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """The guide: the shared latent given all present modalities, each private one given its own; returns the former."""
        with self.rows(self.guide_parts, x, covariates, size, index) as rows:
            views = {m: rows.seen(rows.value(m)) for m in self.modalities}
            z = rows.sample("z", "posterior", views)
            for m in self.private:
                rows.sample(f"z_{m}", f"posterior_{m}", {m: views[m]})
            return z
