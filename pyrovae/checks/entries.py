"""What each entry of a latent site carries: log densities, KL and means entry by entry, read from a pair of traces."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyrovae.programs import latent_names
from pyrovae.programs.draws import Call
from pyrovae.programs.sites import data_axis

Site = dict[str, Any]


def array(value: Tensor) -> NDArray[Any]:
    """A tensor as numpy on the CPU, floats in double precision."""
    value = value.detach().cpu()
    return (value.double() if value.is_floating_point() else value).numpy()


def sampled_traces(call: Call, num_samples: int) -> tuple[Trace, Trace]:
    """Paired traces in which the guide draws all of its sites; what only the model enumerates is still summed out."""
    traces = call.traces(num_samples)
    if any("_enumerate_dim" in site["infer"] for site in traces[1].nodes.values() if site["type"] == "sample"):
        return call.traces(num_samples, enumerate_discrete=False)
    return traces


def rows_second(value: Tensor, site: Site) -> Tensor:
    """A value of a site's shape, particles first, with the data as its second axis and unused plates dropped.

    Args:
        value: any tensor of the shape of ``site["value"]``.
        site: from a trace whose particles are the leftmost axis.

    Returns:
        Shape ``(particles, data, *rest)``.
    """
    batch = value.ndim - len(site["fn"].event_shape)
    value = value.movedim(data_axis(site), 1)
    unused = [axis for axis in range(2, batch) if value.shape[axis] == 1]
    return value.squeeze(unused) if unused else value


def unwrap(distribution: dist.TorchDistribution) -> tuple[dist.TorchDistribution, int]:
    """The distribution under its ``to_event`` wrappers, and how many axes they made an event.

    >>> unwrap(dist.Normal(torch.zeros(3), 1.0).to_event(1))
    (Normal(loc: torch.Size([3]), scale: torch.Size([3])), 1)
    """
    if isinstance(distribution, Independent):
        base, inner = unwrap(distribution.base_dist)
        return base, inner + distribution.reinterpreted_batch_ndims
    return distribution, 0


def entry_log_prob(site: Site) -> Tensor | None:
    """The log density of each entry, shape ``(*batch, *event_shape)``; None where the entries are joint.

    A missing entry's is zero.
    """
    base, inner = unwrap(site["fn"])
    if base.event_shape:
        return None
    value = base.log_prob(site["value"])
    mask = site["mask"]
    if mask is None or mask is True:
        return value
    mask = torch.as_tensor(mask)
    return torch.where(mask.reshape(mask.shape + (1,) * inner), value, value.new_zeros(()))


def entry_kl(model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
    r"""The KL of each entry of each latent to its prior, per datum, averaged over particles.

    .. math:: \mathrm{KL}_{ij} = \mathbb{E}_q\bigl[\log q(z_{ij} \mid \cdot) - \log p(z_{ij} \mid \cdot)\bigr]

    In closed form where Pyro has one, else from the particles. Where a site's entries are joint (a full covariance, a
    flow), it is the KL of each entry's marginal, both matched by normals; those do not add up to the site's KL. NaN
    where the prior depends on a discrete site that is summed out.

    Args:
        model_trace: with latent values of shape ``(particles, data, *event_shape)``.
        guide_trace: of the same particles.

    Returns:
        By site, nats of shape ``(data, *event_shape)``.
    """
    return {n: _site_kl(model_trace.nodes[n], guide_trace.nodes[n]) for n in latent_names(guide_trace)}


def _site_kl(prior: Site, posterior: Site) -> Tensor:
    value = posterior["value"]
    (p, _), (q, _) = unwrap(prior["fn"]), unwrap(posterior["fn"])
    if len(p.batch_shape) > value.ndim:  # the prior given each value of a site that is summed out
        kl = value.new_full((), float("nan"))
    elif p.event_shape or q.event_shape:
        kl = _normal_kl(moments(posterior), moments(prior))
    else:
        try:
            kl = kl_divergence(q, p)
        except NotImplementedError:
            kl = q.log_prob(value) - p.log_prob(value)
    return rows_second(kl.expand(value.shape), posterior).mean(0)


def _normal_kl(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> Tensor:
    ratio = q[1] / p[1]
    return 0.5 * (ratio + (q[0] - p[0]) ** 2 / p[1] - 1 - ratio.log())


def moments(site: Site, num_samples: int = 500) -> tuple[Tensor, Tensor]:
    """The mean and the variance of each entry of a site's distribution, by draws where there is no closed form."""
    try:
        mean, variance = site["fn"].mean, site["fn"].variance
    except NotImplementedError:
        draws = site["fn"].sample((num_samples,))
        mean, variance = draws.mean(0), draws.var(0)
    return mean, variance


def entry_means(guide_trace: Trace) -> dict[str, Tensor]:
    """The guide's mean of each entry for each particle: its distribution's own where known, else the draw.

    Returns:
        By site, shape ``(particles, data, *event_shape)``.
    """
    return {n: _mean(guide_trace.nodes[n]) for n in latent_names(guide_trace)}


def _mean(site: Site) -> Tensor:
    value = site["value"] if site["value"].is_floating_point() else site["value"].to(torch.get_default_dtype())
    try:
        mean = site["fn"].mean
    except NotImplementedError:
        return rows_second(value, site)
    return rows_second(value if mean.isnan().any() else mean.expand_as(value), site)


__all__ = [
    "Site",
    "array",
    "entry_kl",
    "entry_log_prob",
    "entry_means",
    "moments",
    "rows_second",
    "sampled_traces",
    "unwrap",
]
