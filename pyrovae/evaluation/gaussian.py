"""One Gaussian per datum on the unconstrained latents: what refinement fits, and where annealing starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal


class Gaussian(NamedTuple):
    """A normal distribution for each row: ``loc`` (rows, size), ``tril`` (rows, size, size) or scales (rows, size).

    Beside scales there may be a ``factor`` (rows, size, rank): the covariance is then that of the scales, and factor times
    factor transposed.
    """

    loc: Tensor
    tril: Tensor
    factor: Tensor | None = None

    @property
    def family(self) -> str:
        """``"full"``, ``"low_rank"`` or ``"normal"``."""
        return "full" if self.tril.ndim == 3 else "normal" if self.factor is None else "low_rank"

    @property
    def scale(self) -> Tensor:
        """What stretches white noise: the Cholesky factor, or the standard deviation of each coordinate."""
        return self.tril if self.factor is None else (self.tril.square() + self.factor.square().sum(-1)).sqrt()

    def each(self, change: Callable[[Tensor], Tensor]) -> Gaussian:
        """The same change for all of its tensors."""
        return Gaussian(change(self.loc), change(self.tril), None if self.factor is None else change(self.factor))

    def put(self, index: Tensor, other: Gaussian) -> Gaussian:
        """Those of some rows replaced by others of the same family."""
        factor = None if self.factor is None or other.factor is None else self.factor.index_copy(0, index, other.factor)
        return Gaussian(self.loc.index_copy(0, index, other.loc), self.tril.index_copy(0, index, other.tril), factor)

    def draw(self, num_samples: int) -> Tensor:
        """Reparameterized draws of shape (samples, rows, size)."""
        like: dict[str, Any] = {"dtype": self.loc.dtype, "device": self.loc.device}
        noise = torch.randn(num_samples, *self.loc.shape, **like)
        if self.factor is None:
            return self.loc + self.stretch(noise)
        common = torch.randn(num_samples, len(self.loc), self.factor.shape[-1], **like)
        return self.loc + self.tril * noise + torch.einsum("bir,sbr->sbi", self.factor, common)

    def log_prob(self, u: Tensor, kept: Tensor | None = None) -> Tensor:
        """Log densities at u of shape (samples, rows, size): shape (samples, rows).

        Args:
            u: the vectors.
            kept: the density of these coordinates alone, of shape (rows, size).
        """
        if kept is not None and not kept.all():
            at_loc = 0.5 * math.log(2 * math.pi) * (~kept).sum(-1)
            return self.marginal(kept).log_prob(torch.where(kept, u, self.loc)) + at_loc
        if self.factor is not None:
            return LowRankMultivariateNormal(self.loc, self.factor, self.tril.square(), validate_args=False).log_prob(u)
        centered = u - self.loc
        if self.tril.ndim == 2:
            white, log_det = centered / self.tril, self.tril.log().sum(-1)
        else:
            solved = torch.linalg.solve_triangular(self.tril, centered.permute(1, 2, 0), upper=False)
            white, log_det = solved.permute(2, 0, 1), self.tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * white.square().sum(-1) - log_det - 0.5 * u.shape[-1] * math.log(2 * math.pi)

    def marginal(self, kept: Tensor) -> Gaussian:
        """The coordinates that are kept, of shape (rows, size); the others become independent, of variance one."""
        if self.tril.ndim == 2:
            factor = None if self.factor is None else self.factor * kept[..., None]
            return Gaussian(self.loc, self.tril.where(kept, 1.0), factor)
        covariance = self.tril @ self.tril.mT
        eye = torch.eye(kept.shape[-1], dtype=covariance.dtype, device=covariance.device)
        both = kept[..., :, None] & kept[..., None, :]
        return Gaussian(self.loc, torch.linalg.cholesky(torch.where(both, covariance, eye)))

    def frozen(self, moving: Tensor) -> Gaussian:
        """The same without scale in all but the moving coordinates, of shape (rows, size)."""
        scale = self.scale
        return Gaussian(self.loc, scale * (moving if scale.ndim == 2 else moving[..., None]))

    def stretch(self, white: Tensor) -> Tensor:
        """The scale times vectors of shape (samples, rows, size)."""
        scale = self.scale
        return scale * white if scale.ndim == 2 else torch.einsum("bij,sbj->sbi", scale, white)

    def shrink(self, gradient: Tensor) -> Tensor:
        """The transposed scale times gradients of shape (samples, rows, size)."""
        scale = self.scale
        return scale * gradient if scale.ndim == 2 else torch.einsum("bij,sbi->sbj", scale, gradient)

    def detach(self) -> Gaussian:
        """The same, cut from the graph."""
        return self.each(Tensor.detach)

    @classmethod
    def of_draws(cls, draws: Tensor) -> Gaussian:
        """The mean and the scales of draws of shape (samples, rows, size)."""
        return cls(draws.mean(0), draws.std(0).clamp_min(1e-4))
