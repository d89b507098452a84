"""The entries of latent sites: log densities, KL and means entry by entry, and the dimension ``latent`` of a Dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyrovae.programs import latent_names
from pyrovae.programs.masks import counted
from pyrovae.programs.rows import Tile
from pyrovae.programs.sites import Site, data_axis

if TYPE_CHECKING:
    import xarray as xr

MOMENT_DRAWS = 500
"""Draws per row from which mean and variance of an entry are estimated where its distribution has neither."""


def array(value: Tensor) -> NDArray[Any]:
    """A tensor as numpy on the CPU, floats in double precision."""
    value = value.detach().cpu()
    return (value.double() if value.is_floating_point() else value).numpy()


def along_latent(by_site: Mapping[str, Any], *dims: str) -> xr.DataArray:
    """Arrays by latent site, ``(*dims, *event_shape)``, side by side along ``latent``, whose labels name the entries.

    >>> along_latent({"z": np.ones((4, 2)), "y": np.ones(4)}, "data").latent.values.tolist()
    ['z[0]', 'z[1]', 'y']
    """
    import xarray as xr

    arrays = {name: np.asarray(values) for name, values in by_site.items()}
    shapes = {name: values.shape[len(dims) :] for name, values in arrays.items()}
    labels = [label for name, shape in shapes.items() for label in entry_names(name, shape)]
    sites = [name for name, shape in shapes.items() for _ in range(int(np.prod(shape)))]
    joined = np.concatenate([values.reshape(*values.shape[: len(dims)], -1) for values in arrays.values()], -1)
    latent = ("latent", labels, {"event_shapes": json.dumps(shapes)})
    return xr.DataArray(joined, dims=(*dims, "latent"), coords={"latent": latent, "site": ("latent", sites)})


def by_site(values: xr.DataArray) -> dict[str, NDArray[Any]]:
    """The inverse of :func:`along_latent`: by site, an array of shape ``(*dims, *event_shape)``.

    >>> by_site(along_latent({"z": np.ones((4, 2)), "y": np.ones(4)}, "data"))["z"].shape
    (4, 2)
    """
    shapes = json.loads(values["latent"].attrs["event_shapes"])
    flat = values.transpose(..., "latent").values
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = np.split(flat, ends[:-1], axis=-1)
    return {n: part.reshape((*flat.shape[:-1], *shape)) for (n, shape), part in zip(shapes.items(), parts, strict=True)}


def by_kind(columns: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Columns named ``"<kind> <site>"``, as tasks return them, by kind and site.

    >>> by_kind({"kl z": 1.0, "kl y": 2.0, "log_q": 3.0})
    {'kl': {'z': 1.0, 'y': 2.0}, 'log_q': {'': 3.0}}
    """
    parts: dict[str, dict[str, Any]] = {}
    for key, value in columns.items():
        kind, _, site = key.partition(" ")
        parts.setdefault(kind, {})[site] = value
    return parts


def entry_names(site: str, shape: tuple[int, ...]) -> list[str]:
    """The names of the entries of a site of a shape.

    >>> entry_names("z", (2,)), entry_names("y", ())
    (['z[0]', 'z[1]'], ['y'])
    """
    return [f"{site}[{', '.join(map(str, index))}]" for index in np.ndindex(*shape)] if shape else [site]


def sampled_traces(tile: Tile) -> tuple[Trace, Trace]:
    """Paired traces in which the guide draws all of its sites; what only the model enumerates is still summed out."""
    traces = tile.traces()
    if any("_enumerate_dim" in site["infer"] for site in traces[1].nodes.values() if site["type"] == "sample"):
        return tile.call.traces(tile.num_samples, enumerate_discrete=False)
    return traces


def rows_second(value: Tensor, site: Site) -> Tensor:
    """A value in the shape of a site of a trace, particles first, as ``(particles, data, *rest)``, unused plates dropped."""
    batch = value.ndim - len(site["fn"].event_shape)
    value = value.movedim(data_axis(site), 1)
    unused = [axis for axis in range(2, batch) if value.shape[axis] == 1]
    return value.squeeze(unused) if unused else value


def unwrap(distribution: Any) -> Any:
    """The distribution under its ``to_event`` and mask wrappers.

    >>> unwrap(dist.Normal(torch.zeros(3), 1.0).to_event(1))
    Normal(loc: torch.Size([3]), scale: torch.Size([3]))
    """
    while isinstance(distribution, (Independent, dist.MaskedDistribution)):
        distribution = distribution.base_dist
    return distribution


def entry_log_prob(site: Site, masked: bool = True) -> Tensor | None:
    """The log density of each entry, in the shape of the site's value; None where the entries are joint.

    With ``masked`` a masked entry has log density zero, as in evaluation; else masks are ignored.
    """
    base = unwrap(site["fn"])
    of_entries = getattr(base, "entry_log_prob", None)  # a table's, whose columns are of different kinds
    if base.event_shape and of_entries is None:
        return None
    value = (of_entries or base.log_prob)(site["value"])
    counts = counted(site) if masked else None
    return value if counts is None else torch.where(counts, value, value.new_zeros(()))


def entry_kl(model_trace: Trace, guide_trace: Trace) -> dict[str, Tensor]:
    r"""The KL of each entry of each latent to its prior, per datum, averaged over particles.

    .. math:: \mathrm{KL}_{ij} = \mathbb{E}_q\bigl[\log q(z_{ij} \mid \cdot) - \log p(z_{ij} \mid \cdot)\bigr]

    In closed form where Pyro has one, else from the particles; zero where the entry is masked. Where a site's entries
    are joint (a full covariance, a flow), it is the KL of each entry's marginal, both matched by normals; those do not
    add up to the site's KL. NaN where the prior depends on a discrete site that is summed out.

    Returns:
        By site, nats of shape ``(data, *event_shape)``.
    """
    return {n: _site_kl(model_trace.nodes[n], guide_trace.nodes[n]) for n in latent_names(guide_trace)}


def _site_kl(prior: Site, posterior: Site) -> Tensor:
    value = posterior["value"]
    p, q = unwrap(prior["fn"]), unwrap(posterior["fn"])
    if len(p.batch_shape) > value.ndim:  # the prior given each value of a site that is summed out
        kl = value.new_full((), float("nan"))
    elif p.event_shape or q.event_shape:
        (q_mean, q_variance), (p_mean, p_variance) = moments(posterior), moments(prior)
        ratio = q_variance / p_variance
        kl = 0.5 * (ratio + (q_mean - p_mean) ** 2 / p_variance - 1 - ratio.log())
    else:
        try:
            kl = kl_divergence(q, p)
        except NotImplementedError:
            kl = q.log_prob(value) - p.log_prob(value)
    counts = counted(posterior)
    kl = kl if counts is None else torch.where(counts, kl, kl.new_zeros(()))
    return rows_second(kl.expand(value.shape), posterior).mean(0)


def moments(site: Site) -> tuple[Tensor, Tensor]:
    """The mean and the variance of each entry of a site's distribution.

    Where there is no closed form they are estimated from 500 draws per row, all particles together: of a site that
    depends on no other latent, every particle has the same distribution.
    """
    try:
        return site["fn"].mean, site["fn"].variance
    except NotImplementedError:
        particles = site["value"].shape[0]
        draws = site["fn"].sample((-(-MOMENT_DRAWS // particles),)).flatten(0, 1)
        draws = draws if draws.is_floating_point() else draws.double()
    return draws.mean(0, keepdim=True), draws.var(0, keepdim=True)


def entry_means(guide_trace: Trace, masked: bool = False) -> dict[str, Tensor]:
    """By site, the guide's mean of each entry for each particle: the draw where no mean is known, zero where ``masked``."""
    means = {}
    for name in latent_names(guide_trace):
        site = guide_trace.nodes[name]
        value = site["value"] if site["value"].is_floating_point() else site["value"].to(torch.get_default_dtype())
        try:
            mean = site["fn"].mean
        except NotImplementedError:
            mean = value
        mean = value if mean.isnan().any() else mean.expand_as(value)
        counts = counted(site) if masked else None
        means[name] = rows_second(mean if counts is None else torch.where(counts, mean, 0.0), site)
    return means
