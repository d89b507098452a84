"""Conditional normalizing flows through zuko: autoregressive splines and masked affine maps, as priors and as posteriors."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.conditionals.base import Conditional, EventShape, Net, Preprocess, as_length
from pyrovae.distributions.flow import FlowDistribution
from pyrovae.distributions.links import RAW_ONE, positive
from pyrovae.errors import check_integer

_FEATURE_BOUND = 10.0


class Flow(Conditional):
    r"""A conditional normalizing flow: a normal pushed through masked autoregressive maps (abstract).

    Without a network the flow is a learned prior: its base is the standard normal, a density costs one pass through each
    map, and a draw costs one pass per entry. With a network it is a posterior: the network gives location and scale of
    the base and some features, on which the maps depend; a draw with its density costs one pass, and the density of any
    other value costs one pass per entry.
    """

    def __init__(
        self,
        net: Net = None,
        event_shape: EventShape = None,
        *,
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
        features: int = 32,
        inverse: bool | None = None,
        preprocess: Preprocess = None,
    ) -> None:
        d = as_length(event_shape, type(self).__name__)
        check_integer("transforms", transforms)
        context = 0 if net is None else features
        super().__init__(net, d, start=torch.zeros(0 if net is None else 2 * d + features), preprocess=preprocess)
        self.inverse = (net is not None) if inverse is None else inverse
        build = functools.partial(
            import_zuko().flows.autoregressive.MaskedAutoregressiveTransform,
            context=context,
            hidden_features=tuple(hidden),
            activation=nn.SiLU,
            **self._univariate(),
        )
        order = torch.arange(d)
        self.maps = nn.ModuleList(build(d, order=order.flip(0) if i % 2 else order) for i in range(transforms))

    def distribution(self, raw: Tensor) -> FlowDistribution:
        """The flow given location and raw scale of its base and the raw features."""
        (d,), features = self.event_shape, None
        if self.net is None:
            base = dist.Normal(raw.new_zeros(d), raw.new_ones(d))
        else:
            loc, scale, features = raw.split((d, d, raw.shape[-1] - 2 * d), -1)
            base = dist.Normal(loc, positive(scale + RAW_ONE))
            features = features / (1 + features.abs() / _FEATURE_BOUND)
        maps = [map_(features) for map_ in self.maps]
        maps = maps if self.inverse else [map_.inv for map_ in reversed(maps)]
        return FlowDistribution(base.to_event(1), maps, self.maps.parameters)

    @abstractmethod
    def _univariate(self) -> dict[str, Any]:
        """The class of an entry's map, and the shapes of the parameters of one map."""

    def __repr__(self) -> str:
        # zuko's own representation draws random numbers
        kind = "prior" if self.net is None else f"net={type(self.net).__name__}"
        shape = f"{self.extra_repr()}, transforms={len(self.maps)}, inverse={self.inverse}"
        return f"{type(self).__name__}({kind}, {shape})"

    def __reduce__(self) -> tuple[Any, ...]:
        # unpickling would import zuko plainly, which turns distribution validation off for the whole process
        return _empty_after_zuko, (type(self),), self.__getstate__()


class AffineFlow(Flow):
    r"""Masked affine autoregressive maps: a MAF as a prior, an IAF as a posterior.

    .. math:: y_j = a_j(y_{<j})\, \epsilon_j + b_j(y_{<j}) \quad\text{(prior)}, \qquad
        y_j = a_j(\epsilon_{<j})\, \epsilon_j + b_j(\epsilon_{<j}) \quad\text{(posterior)}

    Args:
        net: a network; an open one is closed with ``2 d + features`` numbers. None for a learned prior.
        event_shape: d, the length of the vector.
        transforms: the number of maps; the order of the entries is reversed from one to the next.
        hidden: widths of the hidden layers of each map's masked network.
        features: the number of features that the maps see, each kept in (-10, 10); only with a network.
        inverse: make draws cost one pass, not densities; True by default with a network. Write False for a conditional
            prior.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Reference: Papamakarios et al. 2017, arXiv:1705.07057; Kingma et al. 2016, arXiv:1606.04934.

    >>> AffineFlow(event_shape=4)().event_shape
    torch.Size([4])
    """

    def _univariate(self) -> dict[str, Any]:
        return {"univariate": import_zuko().transforms.MonotonicAffineTransform, "shapes": ((), ())}


class SplineFlow(Flow):
    r"""Autoregressive monotone rational-quadratic splines on [-5, 5], the identity outside.

    .. math:: y_j = \mathrm{spline}\bigl(\epsilon_j;\ \theta_j(\cdot_{<j})\bigr)

    Each spline has eight bins.

    Args:
        net: a network; an open one is closed with ``2 d + features`` numbers. None for a learned prior.
        event_shape: d, the length of the vector.
        transforms: the number of maps; the order of the entries is reversed from one to the next.
        hidden: widths of the hidden layers of each map's masked network.
        features: the number of features that the maps see, each kept in (-10, 10); only with a network.
        inverse: make draws cost one pass, not densities; True by default with a network. Write False for a conditional
            prior.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Reference: Durkan et al. 2019, Neural spline flows, arXiv:1906.04032.

    >>> import pyrovae as pvae
    >>> SplineFlow(pvae.MLP(6, (16,)), event_shape=4)(torch.zeros(7, 6)).batch_shape
    torch.Size([7])
    """

    bins = 8

    def _univariate(self) -> dict[str, Any]:
        shapes = ((self.bins,), (self.bins,), (self.bins - 1,))
        return {"univariate": import_zuko().transforms.MonotonicRQSTransform, "shapes": shapes}


def import_zuko() -> ModuleType:
    """Import zuko on demand, and undo the changes that its import makes to torch for the whole process."""
    distribution, inverse = torch.distributions.Distribution, torch.distributions.transforms._InverseTransform
    validate, arg_constraints, name = distribution._validate_args, distribution.arg_constraints, inverse.__name__
    try:
        import zuko
    finally:
        distribution._validate_args, inverse.__name__ = validate, name
        distribution.arg_constraints = arg_constraints  # type: ignore[method-assign]
    return zuko


def _empty_after_zuko(cls: type[Flow]) -> Flow:
    import_zuko()
    return cls.__new__(cls)
