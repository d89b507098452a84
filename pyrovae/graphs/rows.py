"""One batch of rows inside the data plate: what the programs of a graph are written with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.missing import fill_zeros, observed, wrong_shape

Covariates = Mapping[str, Tensor]


@dataclass
class Rows:
    """One batch of rows inside the data plate: sites are drawn and observed through it.

    Args:
        graph: the graph whose parts are used.
        data: the rows in the graph's dtype and on its device; None where they are simulated.
        covariates: the covariates of the rows, by name.
        index: the numbers of the rows in the data set; None where they are simulated.
    """

    graph: nn.Module
    data: Any
    covariates: dict[str, Tensor] = field(default_factory=dict)
    index: Tensor | None = None

    def value(self, name: str) -> Any:
        """One of several data sites' rows by its name; None where the program simulates them.

        Raises:
            TypeError: the data are no dict.
            ValueError: the dict lacks the name.
        """
        if self.data is None:
            return None
        if not isinstance(self.data, Mapping):
            kind = type(self.graph).__name__
            raise TypeError(
                f"{kind} takes a dict of data with {name!r} among its keys, got {type(self.data).__name__}: write "
                f"{{{name!r}: tensor, ...}}, with NaN for what is missing"
            )
        if name not in self.data:
            found = ", ".join(map(repr, self.data))
            raise ValueError(
                f"the data have no {name!r}, only {found}: give a tensor of NaN where all of it is missing"
            )
        return self.data[name]

    def read(self, part: str, **given: Any) -> dict[str, Any] | None:
        """The covariates that a part reads, those that the graph provides included; None where it reads none."""
        known = {"index": self.index, **self.covariates, **given}
        return {name: known[name] for name in covariate_names(getattr(self.graph, part))} or None

    def distribution(self, part: Any, *values: Any, **given: Tensor) -> Any:
        """The distribution of a part given other values of the graph.

        Args:
            part: the part's name; or a distribution, which is returned as it is.
            *values: what its ``forward`` takes by position.
            **given: covariates that the graph provides beside those of the user (a mask, a label).

        Raises:
            TypeError: the part returns something else than a Pyro distribution.
        """
        if not isinstance(part, str):
            return part
        found = getattr(self.graph, part)(*values, covariates=self.read(part, **given))
        if not isinstance(found, TorchDistributionMixin):
            raise TypeError(
                f"the {part}'s forward must return a distribution of pyro.distributions, got {type(found).__module__}."
                f"{type(found).__name__}: write import pyro.distributions as dist, and dist.Normal(...).to_event(1)"
            )
        return found

    def sample(self, site: str, part: Any, *values: Any, infer: dict[str, Any] | None = None, **given: Tensor) -> Any:
        """Draw a latent site from a part, given other values of the graph; arguments as in :meth:`distribution`."""
        return pyro.sample(site, self.distribution(part, *values, **given), infer=infer)

    def sum_out(self, site: str, part: Any, *values: Any, **given: Tensor) -> Any:
        """Like :meth:`sample`, but a site whose values can be listed is summed out exactly under ``TraceEnum_ELBO``."""
        distribution = self.distribution(part, *values, **given)
        infer = {"enumerate": "parallel"} if distribution.has_enumerate_support else None
        return pyro.sample(site, distribution, infer=infer)

    def observe(self, site: str, part: Any, *values: Any, value: Tensor | None, **given: Tensor) -> Any:
        """Observe a data site, its missing entries filled and masked; draw it where ``value`` is None.

        Args:
            site: the site's name.
            part: the part's name, or a distribution.
            *values: what its ``forward`` takes by position.
            value: of shape ``(rows, *event_shape)``; NaN is missing.
            **given: covariates that the graph provides.
        """
        distribution = self.distribution(part, *values, **given)
        if value is None:
            return pyro.sample(site, distribution)
        value = _one_tensor(value, site)
        if value.ndim != 1 + len(distribution.event_shape):  # would be broadcast against the latents' rows
            raise wrong_shape(distribution, value, site)
        distribution, filled = observed(distribution, value, site)
        return pyro.sample(site, distribution, obs=filled)

    def seen(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The data as a posterior sees them, zero where missing, and the mask (True where observed)."""
        return fill_zeros(_one_tensor(value, "x"))


def _one_tensor(value: Any, site: str) -> Tensor:
    """Refuse a dict where the program reads one tensor."""
    if isinstance(value, Mapping):
        keys = ", ".join(map(repr, value))
        raise TypeError(
            f"{site} must be one tensor, got a dict with the keys {keys}: give the tensor alone; a Dataset of dicts yields it "
            "under the key 'x', and its other parts as named covariates, or not at all"
        )
    return value


def covariate_names(part: nn.Module) -> tuple[str, ...]:
    """The names that a part reads from the covariates."""
    return tuple(getattr(part, "covariate_names", ()))
