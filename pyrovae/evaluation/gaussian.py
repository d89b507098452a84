"""One Gaussian per datum on the unconstrained latents: what refinement fits, and where annealing starts."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """A normal distribution for each row: ``loc`` (rows, size), ``tril`` (rows, size, size) or scales (rows, size)."""

    loc: Tensor
    tril: Tensor

    def draw(self, num_samples: int) -> Tensor:
        """Reparameterized draws of shape (samples, rows, size)."""
        noise = torch.randn(num_samples, *self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.stretch(noise)

    def log_prob(self, u: Tensor, kept: Tensor | None = None) -> Tensor:
        """Log densities at u of shape (samples, rows, size): shape (samples, rows).

        Args:
            u: the vectors.
            kept: the density of these coordinates alone, of shape (rows, size).
        """
        if kept is not None and not kept.all():
            at_loc = 0.5 * math.log(2 * math.pi) * (~kept).sum(-1)
            return self.marginal(kept).log_prob(torch.where(kept, u, self.loc)) + at_loc
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
            return Gaussian(self.loc, self.tril.where(kept, 1.0))
        covariance = self.tril @ self.tril.mT
        eye = torch.eye(kept.shape[-1], dtype=covariance.dtype, device=covariance.device)
        both = kept[..., :, None] & kept[..., None, :]
        return Gaussian(self.loc, torch.linalg.cholesky(torch.where(both, covariance, eye)))

    def frozen(self, moving: Tensor) -> Gaussian:
        """The same without scale in all but the moving coordinates, of shape (rows, size)."""
        return Gaussian(self.loc, self.tril * (moving if self.tril.ndim == 2 else moving[..., None]))

    def stretch(self, white: Tensor) -> Tensor:
        """The scale times vectors of shape (samples, rows, size)."""
        if self.tril.ndim == 2:
            return self.tril * white
        return torch.einsum("bij,sbj->sbi", self.tril, white)

    def shrink(self, gradient: Tensor) -> Tensor:
        """The transposed scale times gradients of shape (samples, rows, size)."""
        if self.tril.ndim == 2:
            return self.tril * gradient
        return torch.einsum("bij,sbi->sbj", self.tril, gradient)

    def detach(self) -> Gaussian:
        """The same, cut from the graph."""
        return Gaussian(self.loc.detach(), self.tril.detach())

    @classmethod
    def of_draws(cls, draws: Tensor) -> Gaussian:
        """The mean and the scales of draws of shape (samples, rows, size)."""
        return cls(draws.mean(0), draws.std(0).clamp_min(1e-4))
