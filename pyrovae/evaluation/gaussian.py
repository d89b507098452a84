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

    def log_prob(self, u: Tensor) -> Tensor:
        """Log densities at u of shape (samples, rows, size): shape (samples, rows)."""
        centered = u - self.loc
        if self.tril.ndim == 2:
            white, log_det = centered / self.tril, self.tril.log().sum(-1)
        else:
            solved = torch.linalg.solve_triangular(self.tril, centered.permute(1, 2, 0), upper=False)
            white, log_det = solved.permute(2, 0, 1), self.tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * white.square().sum(-1) - log_det - 0.5 * u.shape[-1] * math.log(2 * math.pi)

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
