"""Data whose absence says something: the mask of seen entries as one more part of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Independent

from pyrovae.errors import refusal
from pyrovae.graphs.graph import Covariates, Graph
from pyrovae.graphs.rows import Rows
from pyrovae.programs import DATA
from pyrovae.programs.simulate import Substitute
from pyrovae.programs.sites import sites_of


class MissingnessModel(Graph):
    r"""A graph together with a model of which entries are seen, for entries that are not missing at random.

    .. math:: p(z)\, p(x \mid z)\, p(s \mid x), \qquad q(z \mid x_{\mathrm{seen}})\, p(x_{\mathrm{missing}} \mid z)

    Data are those of the graph, NaN where missing; s is the mask. The latent ``x_missing`` holds the missing entries: the
    guide draws them from the likelihood, the mask weighs them, and ``impute`` returns them so. Of several data sites (a label,
    a modality) one has the mechanism, and the others are missing at random. ``fit`` takes
    ``ImportanceWeightedELBO(20)`` by default. The mechanism is an assumption: data alone do not identify it, so
    that results should be shown for several (both signs of :class:`~pyrovae.conditionals.SelfMasking`, several strengths).

    Args:
        graph: a graph with the data site, whose likelihood has independent entries; draws must be reparameterized for the
            importance-weighted bound (numbers, not counts).
        mechanism: module with ``forward(x, covariates=None)`` returning the distribution of the mask, of the shape of x,
            given complete data: ``SelfMasking``, or ``Factorized(dist.Bernoulli, net, event_shape)`` of all entries.
        site: the name of the data site; the latent is named after it.
        name: the prefix of the mechanism's parameters in Pyro.

    Reference: Ipsen, Mattei & Frellsen 2021, not-MIWAE: deep generative modelling with missing not at random data,
    arXiv:2006.12871.

    >>> import pyrovae as pvae
    >>> vae = pvae.VAE(
    ...     pvae.standard_normal(2),
    ...     pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), 5),
    ...     pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), 2),
    ... )
    >>> both = MissingnessModel(vae, pvae.conditionals.SelfMasking(5, sign=-1))
    >>> x = both.sample(20)
    >>> pvae.impute(both, x, num_samples=3, seed=0).draws.shape
    torch.Size([3, 20, 5])
    """

    model_parts = ("mechanism",)
    training_draws = 20

    def __init__(self, graph: Graph, mechanism: nn.Module, *, site: str = "x", name: str = "missingness") -> None:
        super().__init__(name, mechanism=mechanism)
        self.graph, self.site = graph, site

    @property
    def covariate_names(self) -> tuple[str, ...]:
        """The names that the graph or the mechanism reads."""
        return tuple(dict.fromkeys((*self.graph.covariate_names, *getattr(self.mechanism, "covariate_names", ()))))

    def model(
        self,
        x: Any = None,
        covariates: Covariates | None = None,
        size: int | None = None,
        index: Tensor | None = None,
    ) -> Any:
        """The generative program: the graph's sites, ``x_missing`` and ``s``; arguments as in :meth:`VAE.model`."""
        with poutine.block(hide=[self.site] if x is None else []), _Data(self.site) as found:
            made = self.graph.model(x, self._of(self.graph, covariates), size, index)
        with poutine.block(hide=[DATA]), self.rows(("mechanism",), x, covariates, size, index) as rows:
            if x is None:
                complete = pyro.sample(f"{self.site}_missing", found.fn)
                seen = rows.sample("s", "mechanism", complete).bool()
                hidden = dist.Delta(torch.where(seen, complete, torch.nan), event_dim=found.fn.event_dim)
                filled = pyro.sample(self.site, hidden)
            else:
                filled, seen = rows.seen(self._own(rows))
                drawn = pyro.sample(f"{self.site}_missing", _where(found.fn, ~seen))
                rows.observe("s", "mechanism", torch.where(seen, filled, drawn), value=seen.to(filled))
            return {**made, self.site: filled} if isinstance(made, Mapping) else filled

    def guide(
        self,
        x: Any,
        covariates: Covariates | None = None,
        size: int | None = None,
        index: Tensor | None = None,
    ) -> Any:
        """The guide: that of the graph, then ``x_missing`` from the likelihood at its draw; returns what the former does."""
        own = self._of(self.graph, covariates)
        trace = poutine.trace(self.graph.guide).get_trace(x, own, size, index)
        with poutine.block(), _Data(self.site) as found:
            Substitute({s["name"]: s["value"] for s in sites_of(trace)})(self.graph.model)(x, own, size, index)
        with poutine.block(hide=[DATA]), self.rows((), x, covariates, size, index) as rows:
            pyro.sample(f"{self.site}_missing", _where(found.fn, self._own(rows).isnan()))
        return trace.nodes["_RETURN"]["value"]

    def _own(self, rows: Rows) -> Tensor:
        """The rows of the data site."""
        return rows.value(self.site) if isinstance(rows.data, Mapping) else rows.data  # type: ignore[no-any-return]

    def _of(self, part: Graph, covariates: Covariates | None) -> Covariates | None:
        return {n: v for n, v in (covariates or {}).items() if n in part.covariate_names} or None


class _Data(Messenger):
    """Notes the distribution of a data site, its mask taken off."""

    fn: Any = None

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site = site

    def __exit__(self, kind: Any, *error: Any) -> None:
        super().__exit__(kind, *error)
        if kind is None and self.fn is None:
            raise refusal(f"the graph observes no site {self.site!r}: name one of its data sites", "site")

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self.site:
            self.fn = _bare(msg["fn"])


def _bare(distribution: Any) -> Any:
    if isinstance(distribution, Independent):
        return _bare(distribution.base_dist).to_event(distribution.reinterpreted_batch_ndims)
    return _bare(distribution.base_dist) if isinstance(distribution, dist.MaskedDistribution) else distribution


def _where(distribution: Any, mask: Tensor) -> Any:
    """A distribution of independent entries, of which some count."""
    base = distribution.base_dist if isinstance(distribution, Independent) else distribution
    if base.event_shape:
        raise ValueError(
            f"the missing entries are drawn one by one, and {type(base).__name__} is joint over them: give the graph a "
            "likelihood of independent entries (Factorized)"
        )
    return base.expand(torch.broadcast_shapes(base.batch_shape, mask.shape)).mask(mask).to_event(distribution.event_dim)
