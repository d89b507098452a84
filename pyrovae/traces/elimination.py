"""Summing discrete sites out of a product of factors, by variable elimination over plates."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Factor(NamedTuple):
    """A log density, its axes counted from the right: enumerated ones, then particles, then plates."""

    log_prob: Tensor
    plates: frozenset[int]
    """Dims (negative) of the plates that it lives in, other than those that are kept."""


def eliminate(factors: list[Factor], enumerated: dict[int, frozenset[int]]) -> Tensor:
    r"""The log of the sum over discrete sites of a product of factors, plates multiplied.

    .. math:: \log \sum_{y} \prod_f f(y)

    A site inside a plate is summed there, before the plate is multiplied, deepest plates first.

    Args:
        factors: log densities that broadcast against each other.
        enumerated: for the dim (negative) of each enumerated site, the dims of the plates around the site.

    Returns:
        A tensor whose plate and enumeration axes are of size 1.

    >>> uniform = Factor(torch.full((3, 1), 0.5).log(), frozenset())
    >>> eliminate([uniform], {-2: frozenset()}).exp()
    tensor([[1.5000]])
    """
    for dim, plates in sorted(enumerated.items(), key=lambda item: -len(item[1])):
        touched = [f for f in factors if _varies(f.log_prob, dim)]
        factors = [f for f in factors if not _varies(f.log_prob, dim)]
        joint = _product([Factor(_sum(f.log_prob, f.plates - plates), f.plates & plates) for f in touched])
        factors.append(Factor(joint.logsumexp(dim, keepdim=True), plates))
    return _product([Factor(_sum(f.log_prob, f.plates), frozenset()) for f in factors])


def _varies(log_prob: Tensor, dim: int) -> bool:
    return log_prob.ndim >= -dim and log_prob.shape[dim] > 1


def _sum(log_prob: Tensor, dims: frozenset[int]) -> Tensor:
    return log_prob.sum(tuple(dims), keepdim=True) if dims else log_prob


def _product(factors: list[Factor]) -> Tensor:
    total = factors[0].log_prob
    for factor in factors[1:]:
        total = total + factor.log_prob
    return total


def responsibilities(
    factors: list[Factor], enumerated: dict[int, frozenset[int]], kept: tuple[int, ...]
) -> list[Tensor]:
    """The expected value of each factor under the posterior of the sites that were summed out, over the kept axes.

    The derivative of the log sum with respect to a factor's exponent is that expectation.

    Args:
        factors: as in :func:`eliminate`.
        enumerated: as in :func:`eliminate`.
        kept: the dims (negative) of the axes that are not summed.
    """
    with torch.enable_grad():
        exponents = [_exponent(f.log_prob, kept) for f in factors]
        finite = [f.log_prob.detach().clamp_min(torch.finfo(f.log_prob.dtype).min / 1e6) for f in factors]
        raised = [Factor(v * e, f.plates) for v, e, f in zip(finite, exponents, factors, strict=True)]
        return list(torch.autograd.grad(eliminate(raised, enumerated).sum(), exponents))


def _exponent(log_prob: Tensor, kept: tuple[int, ...]) -> Tensor:
    shape = [log_prob.shape[d] if d in kept else 1 for d in range(-log_prob.ndim, 0)]
    return torch.ones(shape, dtype=log_prob.dtype, device=log_prob.device, requires_grad=True)
