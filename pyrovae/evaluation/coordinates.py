"""How one latent becomes a real vector: its coordinates, and the bijection onto its support."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.constraints import sphere
from torch import Tensor
from torch.distributions import Independent, MixtureSameFamily, biject_to, constraints
from torch.distributions.transforms import IndependentTransform, Transform

from pyrovae.programs.sites import Site


class Direction(Transform):
    r"""A real vector becomes its direction: a point on the sphere, or an angle in the plane.

    The length of the vector is that of a standard normal vector whatever the direction, so that the density of the vector
    is smooth away from 0, and integrates to that of the direction. In place of the Jacobian stands

    .. math:: \log \mathcal{N}(u; 0, I_d) + \log \frac{2 \pi^{d/2}}{\Gamma(d/2)}

    The inverse draws the length.

    Args:
        is_angle: whether the direction is given as an angle.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = False

    def __init__(self, is_angle: bool) -> None:
        super().__init__()
        self.is_angle = is_angle

    def _call(self, u: Tensor) -> Tensor:
        return torch.atan2(u[..., 1], u[..., 0]) if self.is_angle else u / u.norm(dim=-1, keepdim=True)

    def _inverse(self, z: Tensor) -> Tensor:
        unit = torch.stack([z.cos(), z.sin()], -1) if self.is_angle else z
        return unit * torch.randn_like(unit).norm(dim=-1, keepdim=True)

    def log_abs_det_jacobian(self, u: Tensor, z: Tensor) -> Tensor:
        """What is added to the log density of the direction to have that of the vector."""
        half = u.shape[-1] / 2
        return -0.5 * u.square().sum(-1) + (1 - half) * math.log(2) - math.lgamma(half)


@dataclass(frozen=True)
class Coordinates:
    """One latent site: where its coordinates lie in the vector, and how they become its value."""

    name: str
    transform: Transform
    coordinates: slice
    event_shape: torch.Size
    """The shape of one unconstrained draw of the site in its innermost plates."""
    event_dim: int
    """The dimensions of one constrained draw."""
    plates: tuple[tuple[str, int, int], ...]
    """Name, size and dim of the plates around the site, other than particles and data."""

    @property
    def size(self) -> int:
        """The number of coordinates."""
        return self.coordinates.stop - self.coordinates.start

    def log_det(self, part: Tensor, value: Tensor, counted: Tensor | None = None) -> Tensor:
        """The log Jacobian at an unconstrained value, its axes those of the batch and some of the event.

        Args:
            part: the unconstrained value.
            value: the constrained one.
            counted: the coordinates whose Jacobian is wanted, broadcast against the unconstrained value; None for all.
        """
        transform = self.transform
        while isinstance(transform, IndependentTransform):  # has summed entries, of which some may not count
            transform = transform.base_transform
        jacobian = transform.log_abs_det_jacobian(part, value)
        if counted is None:
            return jacobian
        first: tuple[Any, ...] = (..., *[0] * (part.ndim - jacobian.ndim))
        return torch.where(counted[first], jacobian, 0.0)


def bijection(site: Site) -> Transform:
    """The map from real vectors onto the support of a latent of the model.

    Raises:
        ValueError: there is none.
    """
    support, base = site["fn"].support, site["fn"]
    mixed: Any = getattr(constraints, "MixtureSameFamilyConstraint", ())
    if isinstance(support, mixed):  # torch maps its components' alone
        support = support.base_constraint
    innermost = support
    while isinstance(innermost, constraints.independent):
        innermost = innermost.base_constraint
    while isinstance(base, (Independent, MaskedDistribution, MixtureSameFamily)):
        base = base.component_distribution if isinstance(base, MixtureSameFamily) else base.base_dist
    if innermost is sphere or "VonMises" in type(base).__name__:
        return Direction(is_angle=innermost is not sphere)
    try:
        return biject_to(support)
    except NotImplementedError:
        raise ValueError(
            f"latent {site['name']!r} has the support {support}, which has no unconstrained form: use method='importance'"
        ) from None


def check_bounds(site: Site, again: Site) -> None:
    """Refuse a support that differs between two draws of the latents."""
    if not all(map(torch.equal, bounds(site), bounds(again))):
        raise ValueError(
            f"the support of latent {site['name']!r} depends on another latent: use method='importance', or sample it on a "
            "fixed support and move it into place afterwards"
        )


def bounds(site: Site) -> list[Tensor]:
    """The tensors that a latent's support is made of."""
    found, rest = [], [site["fn"].support]
    while rest:
        part = rest.pop()
        if isinstance(part, Tensor):
            found.append(part)
        elif isinstance(part, (list, tuple)):
            rest.extend(part)
        elif isinstance(part, constraints.Constraint):
            rest.extend(vars(part).values())
    return found
