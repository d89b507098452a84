"""The divergence of a guide from the prior, per datum and by groups of latents: capacity and free bits act on it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from pyro.distributions.util import scale_and_mask
from pyro.infer.util import torch_item
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from pyrovae.programs.sites import DATA, Site, expanded, frame_of, has_parents_before, is_delta, site_log_prob, sites_of
from pyrovae.programs.terms import Axes

PYRO_PARTICLES = "num_particles_vectorized"
"""The plate that Pyro's ELBOs draw their particles along."""


class Group(NamedTuple):
    """A part of the divergence."""

    divergence: Tensor
    """Of shape (particles, data): nats per datum, unweighted."""
    weight: Any
    """The scale of its sites without those of their plates: beta."""
    site: str
    """The latent that it belongs to."""


class Divergence:
    r"""The divergence of the guide from the prior, per datum, and the other terms of the ELBO, from one pair of traces.

    A site's divergence is in closed form where one is known and the guide draws its parents first, else a Monte-Carlo
    estimate from the draws of the traces.
    Plates inside the data plate are summed into the datum, with their scales.

    Args:
        model_trace: trace of the model, replayed against the guide.
        guide_trace: trace of the guide.

    Raises:
        ValueError: a latent of the guide is not reparameterized, none lies inside the plate, the plate is sequential, or
            the guide draws the rows jointly.
    """

    def __init__(self, model_trace: Trace, guide_trace: Trace) -> None:
        model = sites_of(model_trace)
        self.observed = [site for site in model if site["is_observed"]]
        self.prior = {site["name"]: site for site in model if not site["is_observed"]}
        known = {site["name"] for site in self.observed}
        guide = [site for site in sites_of(guide_trace) if not site["is_observed"] and site["name"] not in known]
        self.local = [site for site in guide if frame_of(site)]
        self.order = [[site["name"] for site in sites] for sites in (model, guide)]
        self.outside = [site for site in guide if not frame_of(site)]
        check_reparameterized(guide)
        self._check_local()
        self.axes = Axes.of(self.local, PYRO_PARTICLES)

    @property
    def size(self) -> int:
        """The number of rows of the whole data set."""
        return frame_of(self.local[0]).full_size

    @property
    def data_terms(self) -> Tensor:
        """The scaled log densities of the data and of global latents (minus the guide's), summed."""
        total = sum(site["log_prob_sum"] for site in self.observed)
        for site in self.outside:
            prior = self.prior.get(site["name"])
            total = total - site["log_prob_sum"] + (prior["log_prob_sum"] if prior else 0.0)
        return total

    def per_datum(self) -> Tensor:
        """The divergence summed over sites, auxiliary draws included, of shape (particles, data)."""
        terms = [self._site(site) for site in self.local]
        return sum(terms[1:], terms[0])

    def weights(self) -> dict[str, Any]:
        """The scale of each latent site of the guide inside the plate, without those of its plates: beta."""
        return {site["name"]: self._weight(site) for site in self.local}

    def groups(self) -> list[Group]:
        """The dimensions of a factorized latent, else a whole site; a Delta site with the auxiliary draws before it.

        Raises:
            ValueError: an auxiliary draw that no Delta site follows.
        """
        blocks = self._blocks()
        return [
            Group(part, self._weight(block[-1]), block[-1]["name"]) for block in blocks for part in self._parts(block)
        ]

    def _blocks(self) -> list[list[Site]]:
        """The guide's sites in their order; auxiliary draws form one block with the Delta sites that follow them."""
        blocks: list[list[Site]] = []
        draws: list[Site] = []
        for site in self.local:
            auxiliary = self._is_auxiliary(site)
            if draws and (is_delta(site["fn"]) or (auxiliary and self._is_auxiliary(draws[-1]))):
                draws.append(site)
                continue
            blocks.append([site])
            draws = blocks[-1] if auxiliary else draws
        return blocks

    def _parts(self, block: list[Site]) -> list[Tensor]:
        last = block[-1]
        if self._is_auxiliary(last):
            raise ValueError(
                f"the guide's auxiliary draw {last['name']!r} belongs to no latent, since no Delta site follows it, so it "
                "has no group of its own: use CapacityELBO, or sample a Delta of it"
            )
        if len(block) > 1:
            terms = [self._site(site) for site in block]
            return [sum(terms[1:], terms[0])]
        dimensions = (
            _dimensions(last, self.prior[last["name"]]) if has_parents_before(last["name"], *self.order) else []
        )
        return [self._per_datum(term, last) for term in dimensions] if dimensions else [self._site(last)]

    def _site(self, site: Site) -> Tensor:
        if self._is_auxiliary(site):
            return self._per_datum(site_log_prob(site), site)
        prior = self.prior[site["name"]]
        closed = _closed_form(site["fn"], prior["fn"]) if has_parents_before(site["name"], *self.order) else None
        if closed is not None:
            return self._per_datum(scale_and_mask(closed, 1.0, site["mask"]), site)
        return self._per_datum(site_log_prob(site) - site_log_prob(prior), site)

    def _per_datum(self, terms: Tensor, site: Site) -> Tensor:
        inner = math.prod(f.full_size / f.size for f in site["cond_indep_stack"] if f.name != DATA)
        return self.axes.keep(inner * expanded(terms, site), self.axes.particles, self.axes.data)

    def _weight(self, site: Site) -> Any:
        return site["scale"] / math.prod(f.full_size / f.size for f in site["cond_indep_stack"])

    def _is_auxiliary(self, site: Site) -> bool:
        return site["name"] not in self.prior

    def _check_local(self) -> None:
        if not self.local:
            raise ValueError(
                f"no latent site of the guide lies inside the plate {DATA!r}: put it under pyro.plate({DATA!r})"
            )
        if any(not frame_of(site).vectorized for site in self.local):
            raise ValueError(
                f"the plate {DATA!r} is sequential: write `with pyro.plate(...)` instead of `for i in pyro.plate(...)`"
            )
        points = [site["name"] for site in self.local if is_delta(site["fn"])]
        jointly = any(map(self._is_auxiliary, self.outside)) and not any(map(self._is_auxiliary, self.local))
        if points and jointly:
            raise ValueError(
                f"the guide draws {points} jointly over the rows, so there is no divergence per datum: use a guide whose "
                "draws lie inside the data plate, such as AutoNormal or an amortized guide"
            )


def as_particle(elbo: Tensor) -> tuple[float, Tensor]:
    """Pyro's pair for one particle: the loss as a number, and the loss to differentiate."""
    return -torch_item(elbo), -elbo


def check_reparameterized(sites: list[Site]) -> None:
    """Refuse latents whose draws pass no gradient on."""
    for site in sites:
        if not site["is_observed"] and not site["fn"].has_rsample:
            raise ValueError(
                f"latent {site['name']!r} has no reparameterized draws, which this objective needs: use a relaxed or "
                "continuous distribution, or pyro.infer.TraceGraph_ELBO / TraceEnum_ELBO"
            )


def _closed_form(q: Distribution, p: Distribution) -> Tensor | None:
    """The divergence in closed form, or None. A Delta has none: its log density holds the Jacobian of a transformation."""
    if is_delta(q):
        return None
    try:
        terms = kl_divergence(q, p)
    except NotImplementedError:
        return None
    return terms if isinstance(terms, Tensor) else None


def _dimensions(site: Site, prior: Site) -> list[Tensor]:
    """The divergences of the dimensions of a factorized latent, each of the plates' shape; none if there is no closed form."""
    q, p = site["fn"], prior["fn"]
    if not isinstance(q, Independent) or not isinstance(p, Independent):
        return []
    terms = _closed_form(q.base_dist, p.base_dist)
    if terms is None:
        return []
    terms = terms.flatten(len(q.batch_shape)) if terms.ndim > len(q.batch_shape) else terms[..., None]
    return [scale_and_mask(term, 1.0, site["mask"]) for term in terms.unbind(-1)]
