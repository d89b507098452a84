"""Summing discrete sites out of a product of factors, by variable elimination over plates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Factor(NamedTuple):
    """A log density: one axis for each discrete site that it depends on, then the axes of particles and plates."""

    log_prob: Tensor
    sites: tuple[str, ...]
    """The names of the discrete sites, in the order of their axes."""
    plates: frozenset[int]
    """Dims (negative) of the plates that it lives in, other than those that are kept."""


def eliminate(factors: list[Factor], enumerated: Mapping[str, frozenset[int]]) -> Tensor:
    r"""The log of the sum over discrete sites of a product of factors, plates multiplied.

    .. math:: \log \sum_{y} \prod_f f(y)

    A site inside a plate is summed there, before the plate is multiplied, deepest plates first; among equals the site
    whose neighbors have the fewest joint states, so that a chain is summed along its length.

    Args:
        factors: log densities with the same number of axes right of those of their sites.
        enumerated: for each discrete site, the dims (negative) of the plates around it.

    Returns:
        A tensor without the sites' axes, whose plate axes are of size 1 unless they are kept.

    Raises:
        ValueError: two sites meet in plates that cross, so that neither can be summed first.

    >>> uniform = Factor(torch.full((3, 1), 0.5).log(), ("y",), frozenset())
    >>> eliminate([uniform], {"y": frozenset()}).exp()
    tensor([1.5000])
    """
    remaining = dict(enumerated)
    while remaining:
        site = _cheapest(factors, remaining)
        plates = remaining.pop(site)
        touched = [f for f in factors if site in f.sites]
        if not touched:
            continue
        _check_nested(site, plates, touched, remaining)
        joint = _product([Factor(_sum(f.log_prob, f.plates - plates), f.sites, f.plates & plates) for f in touched])
        summed = joint.log_prob.logsumexp(joint.sites.index(site))
        factors = [f for f in factors if site not in f.sites]
        factors.append(Factor(summed, tuple(s for s in joint.sites if s != site), plates))
    return _product([Factor(_sum(f.log_prob, f.plates), (), frozenset()) for f in factors]).log_prob


def _cheapest(factors: list[Factor], remaining: Mapping[str, frozenset[int]]) -> str:
    scopes: dict[str, dict[str, int]] = {site: {} for site in remaining}
    for factor in factors:
        sizes = dict(zip(factor.sites, factor.log_prob.shape, strict=False))
        for site in factor.sites:
            scopes[site].update(sizes)
    return min(remaining, key=lambda site: (-len(remaining[site]), math.prod(scopes[site].values())))


def _check_nested(
    site: str, plates: frozenset[int], touched: list[Factor], remaining: Mapping[str, frozenset[int]]
) -> None:
    for factor in touched:
        for other in factor.sites:
            if other != site and remaining[other] & (factor.plates - plates):
                raise ValueError(
                    f"discrete sites {site!r} and {other!r} meet in plates that cross, so neither can be summed out first: "
                    "put one of them outside of the crossing plate, or sample it in the guide"
                )


def _sum(log_prob: Tensor, dims: frozenset[int]) -> Tensor:
    return log_prob.sum(tuple(dims), keepdim=True) if dims else log_prob


def _product(factors: list[Factor]) -> Factor:
    sites = tuple(dict.fromkeys(site for factor in factors for site in factor.sites))
    total = _aligned(factors[0], sites)
    for factor in factors[1:]:
        total = total + _aligned(factor, sites)
    return Factor(total, sites, frozenset())


def _aligned(factor: Factor, sites: tuple[str, ...]) -> Tensor:
    """The log density with an axis for each of the sites, of size 1 where it does not depend on one."""
    order = [factor.sites.index(site) for site in sites if site in factor.sites]
    log_prob = factor.log_prob.permute(*order, *range(len(order), factor.log_prob.ndim))
    return log_prob[tuple(slice(None) if site in factor.sites else None for site in sites)]


def responsibilities(
    factors: list[Factor], enumerated: Mapping[str, frozenset[int]], kept: tuple[int, ...]
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
        raised = [f._replace(log_prob=v * e) for v, e, f in zip(finite, exponents, factors, strict=True)]
        return list(torch.autograd.grad(eliminate(raised, enumerated).sum(), exponents))


def _exponent(log_prob: Tensor, kept: tuple[int, ...]) -> Tensor:
    shape = [log_prob.shape[d] if d in kept else 1 for d in range(-log_prob.ndim, 0)]
    return torch.ones(shape, dtype=log_prob.dtype, device=log_prob.device, requires_grad=True)
