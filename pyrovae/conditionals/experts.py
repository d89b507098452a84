"""One posterior of several views of a datum, any of which may be missing: products and mixtures of experts."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.distributions.mixture import DiagonalNormalMixture
from pyrovae.errors import check_word
from pyrovae.networks.base import Covariates

COMBINE = ("product", "mixture", "mixture of products")


class Experts(nn.Module):
    r"""A posterior of several views, made of the posteriors of single views and of the prior.

    .. math:: q(z \mid x_S) \propto p(z) \prod_{v \in S} \Bigl[\frac{q(z \mid x_v)}{p(z)}\Bigr]^{w_v}, \qquad
        q(z \mid x_v) = \mathcal{N}\bigl(z;\ \mu_v(x_v), (\sigma_0^{-2} + \sigma_v^{-2}(x_v))^{-1}\bigr)

    S holds the views that are present in a row. An expert gives :math:`\mu_v`, the mean that its view alone leads to, and
    :math:`\sigma_v`, the standard deviation of what the view adds to the prior's :math:`\mathcal{N}(\mu_0, \sigma_0^2)`: no view
    makes the posterior wider. ``"product"`` takes all views of S; ``"mixture"`` an equal mixture of the posteriors of single
    ones; ``"mixture of products"`` one over all subsets of S. A row without any view has the prior. An expert is fed no
    zeros for missing rows: a row that has its view takes their place, and they ignore the result. Where all is linear and
    normal the product is the exact posterior.

    In training a mixture is stratified: several draws of a row are shared out among its components, for two views by
    ``fit(..., objective=Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1))``. Draws in eval mode
    are independent.

    An expert whose view tells nothing yet still moves the mean, as the posterior of a ``VAE`` does. Means that count in
    proportion to their precision, the other way to write this product, stay where they are as soon as training has widened
    the experts, and the latents are never used.

    Args:
        experts: for each view a module with ``forward(x, covariates=None)`` returning a normal with independent entries, of
            :math:`\mu_v` and :math:`\sigma_v`.
        prior: module with ``forward(covariates=None)`` returning such a normal: the prior.
        combine: one of the three words above.
        weighted: learn the weights w_v, which are 1 otherwise.

    Raises:
        ValueError: another word, or no expert.
        TypeError: an expert's distribution is no normal with independent entries.

    Reference: Wu & Goodman 2018, arXiv:1802.05335 (products); Shi et al. 2019, arXiv:1911.03393 (mixtures); Sutter et al.
    2021, arXiv:2105.02470 (mixtures of products); Cao & Fleet 2014, arXiv:1410.7827 (weights).

    >>> import pyrovae as pvae
    >>> experts = {view: pvae.Factorized(dist.Normal, pvae.MLP(3, (8,)), 2) for view in ("a", "b")}
    >>> posterior = Experts(experts, pvae.standard_normal(2))
    >>> seen, missing = torch.ones(4, 3, dtype=torch.bool), torch.zeros(4, 3, dtype=torch.bool)
    >>> posterior({"a": (torch.ones(4, 3), seen), "b": (torch.zeros(4, 3), missing)}).batch_shape
    torch.Size([4])
    """

    members: Tensor

    def __init__(
        self, experts: Mapping[str, nn.Module], prior: nn.Module, *, combine: str = "product", weighted: bool = False
    ) -> None:
        super().__init__()
        if not experts:
            raise ValueError("expected an expert for each view, got none: write experts={'image': posterior, ...}")
        self.combine = check_word("combine", combine, COMBINE)
        self.experts, self.prior = nn.ModuleDict(experts), prior
        names = [n for part in (*experts.values(), prior) for n in getattr(part, "covariate_names", ())]
        self.covariate_names = tuple(dict.fromkeys(name for name in names if name != "mask"))
        self.log_weights = nn.Parameter(torch.zeros(len(experts)), requires_grad=weighted)
        views = range(len(experts))
        sets = [set(s) for size in (*views, len(views)) for s in combinations(views, size) if s]
        chosen = {"product": sets[-1:], "mixture": [{v} for v in views], "mixture of products": sets}[combine]
        self.register_buffer("members", torch.tensor([[v in s for v in views] for s in chosen]), persistent=False)

    def forward(self, views: Mapping[str, tuple[Tensor, Tensor]], covariates: Covariates | None = None) -> Any:
        """The posterior of rows of views.

        Args:
            views: by name, the data ``(rows, *event_shape)`` with zeros for missing entries, and the mask of observed ones.
            covariates: for each name, a tensor of as many rows.
        """
        if unknown := set(self.experts) - set(views):
            raise ValueError(
                f"there is an expert {min(unknown)!r}, and no such view, only {', '.join(map(repr, views))}"
            )
        prior = _normal(self.prior(covariates=_read(self.prior, covariates)), "prior")
        base = prior.scale.square().reciprocal()
        found = [self._added(name, *views[name], covariates, prior.loc * base, base) for name in self.experts]
        seen = torch.stack([row for row, _, _ in found], -1)  # (rows, views)
        pull, precision = (torch.stack([parts[i] for parts in found], -2) for i in (1, 2))  # (rows, views, d)
        weight = (self.log_weights.exp() * self.members).unsqueeze(-1)  # (components, views, 1)
        total = base.unsqueeze(-2) + (weight * precision.unsqueeze(-3)).sum(-2)
        loc = ((prior.loc * base).unsqueeze(-2) + (weight * pull.unsqueeze(-3)).sum(-2)) / total
        if len(self.members) == 1:
            return dist.Normal(loc.squeeze(-2), total.squeeze(-2).rsqrt()).to_event(1)
        complete = (seen.unsqueeze(-2) | ~self.members).all(-1)  # (rows, components)
        usable = complete | ~seen.any(-1, keepdim=True)
        logits = torch.where(usable, 0.0, -1e10).to(loc)
        return DiagonalNormalMixture(logits, loc, total.rsqrt(), stratified=self.training)

    def _added(
        self, name: str, x: Tensor, mask: Tensor, covariates: Covariates | None, pull: Tensor, base: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Which rows have a view, and what it adds to the prior's mean times precision and to its precision: zero elsewhere."""
        seen, expert = mask.reshape(len(mask), -1).any(-1), self.experts[name]
        fed = torch.where(seen, torch.arange(len(x), device=x.device), seen.long().argmax())
        own = {key: value[fed] for key, value in {**(covariates or {}), "mask": mask}.items()}
        normal = _normal(expert(x[fed], covariates=_read(expert, own)), name)
        if normal.loc.shape[-1:] != base.shape[-1:]:
            lengths = f"vectors of length {normal.loc.shape[-1]}, and the prior those of length {base.shape[-1]}"
            raise ValueError(f"the expert {name!r} returns {lengths}")
        precision = normal.scale.square().reciprocal().expand_as(normal.loc)
        added = torch.stack([normal.loc * (base + precision) - pull, precision])
        return seen, *torch.where(seen.unsqueeze(-1), added, 0.0)


def _normal(distribution: Any, name: str) -> Any:
    base = getattr(distribution, "base_dist", None)
    if not isinstance(base, dist.Normal) or len(distribution.event_shape) != 1:
        raise TypeError(
            f"the expert {name!r} returns {type(distribution).__name__}, expected a normal over a vector with independent "
            "entries: Factorized(dist.Normal, net, event_shape)"
        )
    return base


def _read(part: nn.Module, covariates: Covariates | None) -> Covariates | None:
    names = getattr(part, "covariate_names", ())
    return {name: (covariates or {})[name] for name in names} or None
