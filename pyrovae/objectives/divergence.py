"""The Kullback-Leibler terms of a pair of traces, per datum: what capacity and free bits act on."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import torch_item
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Independent, kl_divergence

Site = dict[str, Any]


class Divergence:
    r"""The log densities of one pair of traces, split into what is per datum and what is not.

    Args:
        model_trace: trace of the model, replayed against the guide.
        guide_trace: trace of the guide.
        plate: the name of the plate over data.

    Raises:
        ValueError: a latent of the guide is not reparameterized, or no latent lies inside the plate.
    """

    def __init__(self, model_trace: Trace, guide_trace: Trace, plate: str = "data") -> None:
        self.model_trace, self.guide_trace, self.plate = model_trace, guide_trace, plate
        latents = [n for n, s in guide_trace.nodes.items() if s["type"] == "sample" and not s["is_observed"]]
        latents = [name for name in latents if name in model_trace.nodes and not _is_subsample(guide_trace.nodes[name])]
        for name in latents:
            if not guide_trace.nodes[name]["fn"].has_rsample:
                raise ValueError(
                    f"this objective needs reparameterized draws, and site {name!r} has none: use TraceGraph_ELBO"
                )
        self.local = [name for name in latents if self._frame(guide_trace.nodes[name]) is not None]
        self.outside = [name for name in latents if name not in self.local]
        if not self.local:
            raise ValueError(
                f"no latent site of the guide lies inside the plate {plate!r}: put it under pyro.plate({plate!r})"
            )

    @property
    def size(self) -> int:
        """The number of rows of the whole data set."""
        return self._frame(self.guide_trace.nodes[self.local[0]]).full_size

    @property
    def data_terms(self) -> Tensor:
        """The scaled log densities of the data and of global latents (minus the guide's), summed."""
        observed = [s for s in self.model_trace.nodes.values() if s["type"] == "sample" and s["is_observed"]]
        total = sum(site["log_prob_sum"] for site in observed)
        for name in self.outside:
            total = total + self.model_trace.nodes[name]["log_prob_sum"] - self.guide_trace.nodes[name]["log_prob_sum"]
        return total

    def per_datum(self) -> Tensor:
        """The divergence summed over sites, batch shape of the plate."""
        return torch.stack([self._site(name) for name in self.local]).sum(0)

    def groups(self) -> list[Tensor]:
        """One row of divergences per datum for each group: the dimensions of a factorized latent, or a whole site."""
        return [group for name in self.local for group in self._groups(name)]

    def _groups(self, name: str) -> list[Tensor]:
        guide, model = self.guide_trace.nodes[name], self.model_trace.nodes[name]
        q, p = _unwrap(guide["fn"]), _unwrap(model["fn"])
        if q is None or p is None:
            return [self._site(name)]
        try:
            terms = kl_divergence(q, p)
        except NotImplementedError:
            return [self._site(name)]
        extra = terms.ndim - len(guide["fn"].batch_shape)
        terms = terms.flatten(-extra) if extra else terms[..., None]
        return [scale_and_mask(term, 1.0, guide["mask"]) for term in terms.unbind(-1)]

    def _site(self, name: str) -> Tensor:
        guide, model = self.guide_trace.nodes[name], self.model_trace.nodes[name]
        try:
            terms = kl_divergence(guide["fn"], model["fn"])
        except NotImplementedError:
            terms = guide["fn"].log_prob(guide["value"]) - model["fn"].log_prob(model["value"])
        return scale_and_mask(terms, 1.0, guide["mask"])

    def _frame(self, site: Site) -> Any:
        frames = [frame for frame in site["cond_indep_stack"] if frame.name == self.plate]
        return frames[0] if frames else None


def as_particle(elbo: Tensor) -> tuple[float, Tensor]:
    """Pyro's pair for one particle: the loss as a number, and the loss to differentiate."""
    return -torch_item(elbo), -elbo


def _is_subsample(site: Site) -> bool:
    return type(site["fn"]).__name__ == "_Subsample"


def _unwrap(distribution: torch.distributions.Distribution) -> torch.distributions.Distribution | None:
    return distribution.base_dist if isinstance(distribution, Independent) else None
