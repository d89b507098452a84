"""Conditional normalizing flows through zuko: autoregressive splines and masked affine maps, as priors and as posteriors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.conditionals.raw import Covariates, Raw, as_vector
from pyrovae.distributions.flow import FlowDistribution
from pyrovae.distributions.links import RAW_ONE, positive
from pyrovae.networks import Network

_FEATURE_BOUND = 10.0


class Flow(nn.Module, ABC):
    r"""A conditional normalising flow: a normal pushed through masked autoregressive maps (abstract).

    With no network it is a learned prior: its base is the standard normal, and a density costs one pass through each
    map, a draw one pass an entry. With a network it is a posterior: the network gives the base's location and scale and
    some features on which the maps depend; a draw and its density cost one pass, another value's density one an entry.

    Args:
        net: a network; an open one is closed with ``2 d + features`` numbers. None for a learned prior.
        event_shape: d, the length of the vector.
        transforms: the number of maps; the order of the entries is reversed from one to the next.
        hidden: widths of the maps' own masked networks.
        features: the number of features that the maps see, each kept in (-10, 10); only with a network.
        inverse: draws, not densities, in one pass; by default so with a network. A conditional prior sets it to False.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.
    """

    def __init__(
        self,
        net: Network | None = None,
        event_shape: int | Sequence[int] | None = None,
        *,
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
        features: int = 32,
        inverse: bool | None = None,
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.size = as_vector(event_shape, type(self).__name__)
        if transforms < 1:
            raise ValueError(f"transforms must be at least 1, got {transforms}")
        self.event_shape = torch.Size((self.size,))
        self.inverse = (net is not None) if inverse is None else inverse
        self._sizes = (self.size, self.size, features)
        self.raw = None if net is None else Raw(net, (sum(self._sizes),), preprocess=preprocess)
        self.covariate_names = () if self.raw is None else self.raw.covariate_names
        self._origin: Tensor
        self.register_buffer("_origin", torch.zeros(self.size), persistent=False)
        options = {
            "hidden_features": tuple(hidden),
            "activation": nn.SiLU,
            "context": 0 if net is None else features,
        }
        build = import_zuko().flows.autoregressive.MaskedAutoregressiveTransform
        order = torch.arange(self.size)
        self.maps = nn.ModuleList(
            build(self.size, order=order.flip(0) if i % 2 else order, **options, **self._univariate())
            for i in range(transforms)
        )

    def forward(self, value: Tensor | None = None, covariates: Covariates | None = None) -> FlowDistribution:
        """The distribution given ``value`` of shape ``(*batch, *in_shape)``."""
        if self.raw is None:
            base, features = dist.Normal(self._origin, torch.ones_like(self._origin)), None
        else:
            loc, scale, features = self.raw(value, covariates).split(self._sizes, -1)
            base = dist.Normal(loc, positive(scale + RAW_ONE))
            features = features / (1 + features.abs() / _FEATURE_BOUND)
        maps = [map_(features) for map_ in self.maps]
        return FlowDistribution(base.to_event(1), maps if self.inverse else [map_.inv for map_ in reversed(maps)])

    @abstractmethod
    def _univariate(self) -> dict[str, Any]:
        """The map of one entry given its parameters, and these parameters' shapes."""

    def __repr__(self) -> str:
        # zuko's own representation draws random numbers
        kind = "prior" if self.raw is None else f"net={type(self.raw.net).__name__}"
        shape = f"event_shape={self.size}, transforms={len(self.maps)}, inverse={self.inverse}"
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
        hidden: widths of the maps' own masked networks.
        features: the number of features that the maps see, each kept in (-10, 10); only with a network.
        inverse: draws, not densities, in one pass; by default so with a network. A conditional prior sets it to False.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Raises:
        ValueError: the event is not a vector, or a closed network's shape differs.

    Reference: Papamakarios et al. 2017, arXiv:1705.07057; Kingma et al. 2016, arXiv:1606.04934.

    >>> AffineFlow(event_shape=4)().event_shape
    torch.Size([4])
    """

    def _univariate(self) -> dict[str, Any]:
        return {"univariate": import_zuko().transforms.MonotonicAffineTransform, "shapes": ((), ())}


class SplineFlow(Flow):
    r"""Autoregressive monotone rational-quadratic splines on [-5, 5], the identity outside.

    .. math:: y_j = \mathrm{spline}\bigl(\epsilon_j;\ \theta_j(\cdot_{<j})\bigr)

    With eight bins a spline.

    Args:
        net: a network; an open one is closed with ``2 d + features`` numbers. None for a learned prior.
        event_shape: d, the length of the vector.
        transforms: the number of maps; the order of the entries is reversed from one to the next.
        hidden: widths of the maps' own masked networks.
        features: the number of features that the maps see, each kept in (-10, 10); only with a network.
        inverse: draws, not densities, in one pass; by default so with a network. A conditional prior sets it to False.
        preprocess: applied to the network's input, e.g. ``torch.log1p``.

    Raises:
        ValueError: the event is not a vector, or a closed network's shape differs.

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
    """The package zuko, imported on demand; what its import changes in torch for the whole process is put back."""
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
