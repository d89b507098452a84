"""Pareto-smoothed importance sampling, batched: how far an estimate from importance weights can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.limits import good_k

WORTH = 0.02
"""Nats below which a tail of weights does not matter."""
ROWS = 64
"""Rows that are fitted at once: their candidates fill about the second-level cache."""


class Psis(NamedTuple):
    """The result of :func:`psis`."""

    k: Tensor
    """The Pareto shape of each datum's weights, of shape (data,): above 0.7 an estimate from them is unreliable."""
    log_weights: Tensor
    """The logarithms of the smoothed weights, which sum to one over the samples; of shape (samples, data)."""
    ess: Tensor
    """The effective sample size of the smoothed weights, of shape (data,)."""


class _Tail(NamedTuple):
    """The largest weights of each row in descending order: excesses over the cutoff, and where they came from."""

    excess: Tensor
    cutoff: Tensor
    place: Tensor
    length: Tensor


def psis(log_weights: Tensor, reff: float = 1.0) -> Psis:
    r"""Smooth the largest importance weights of each datum by a generalized Pareto distribution fitted to them.

    .. math:: w_{(S - M + m)} \leftarrow F^{-1}\bigl(\tfrac{m - 1/2}{M}\bigr), \qquad m = 1, \dots, M

    Equal weights (an exact guide) give k = 0, fewer than five in the tail k = inf; a datum with NaN gets NaN, one without
    any finite weight k = inf and weights NaN.

    Args:
        log_weights: of shape (samples, data) or (samples,), in nats; any constant per datum cancels.
        reff: effective samples per sample, below 1 for a Markov chain.

    Raises:
        ValueError: other shapes, or no samples.

    Reference: Vehtari, Simpson, Gelman, Yao & Gabry 2024, arXiv:1507.02646.

    >>> psis(torch.zeros(100, 3)).k
    tensor([0., 0., 0.], dtype=torch.float64)
    """
    lw, tail, constant, valid = _prepare(log_weights, reff)
    k, sigma = _fit(tail)
    _smooth(lw, tail, k, sigma)
    ess = _normalize(lw)
    if not valid.all():
        lw[~valid] = torch.nan
    k = _settle(k, constant, valid, log_weights)
    return Psis(k, lw.T, ess) if log_weights.ndim == 2 else Psis(k[0], lw[0], ess[0])


def pareto_k(log_weights: Tensor, reff: float = 1.0) -> Tensor:
    """The Pareto shape alone, as in :func:`psis`, in less time: of shape (data,).

    >>> pareto_k(torch.zeros(100, 3))
    tensor([0., 0., 0.], dtype=torch.float64)
    """
    _, tail, constant, valid = _prepare(log_weights, reff)
    k, _ = _fit(tail)
    k = _settle(k, constant, valid, log_weights)
    return k if log_weights.ndim == 2 else k[0]


def beyond_the_draws(log_weights: Tensor, factor: float = 10.0) -> tuple[Tensor, Tensor]:
    r"""The Pareto shape, and how much the fitted tail says that more draws would add to the mean weight, relative to it.

    The quantile function of the tail is integrated from half a draw to as much less as there are more draws:

    .. math:: \frac{M}{S \bar w} \int_{1 / (2 M c)}^{1 / (2 M)}
        \Bigl[\mu + \frac{\sigma}{k} (p^{-k} - 1)\Bigr] \mathrm{d}p

    Weights have a finite mean, the evidence, so that a tail with k above 1 is continued with k = 1 from the largest weight.

    Args:
        log_weights: of shape (samples, data).
        factor: c, how many times as many draws.

    >>> beyond_the_draws(torch.zeros(100, 3))[1]
    tensor([0., 0., 0.], dtype=torch.float64)
    """
    lw, tail, constant, valid = _prepare(log_weights, 1.0)
    k, sigma = _fit(tail)
    few = 1 / (2 * tail.length.double().clamp_min(1))
    shape = k.clamp_max(1.0)
    shape = torch.where((shape * (shape - 1)).abs() < 1e-6, shape - 1e-5, shape)
    sigma = torch.where(k > 1, shape * tail.excess[:, 0] / (few**-shape - 1), sigma)
    powers = (few ** (1 - shape) - (few / factor) ** (1 - shape)) / (1 - shape)
    area = (tail.cutoff[:, 0] - sigma / shape) * few * (1 - 1 / factor) + sigma / shape * powers
    gain = tail.length / len(log_weights) * area / lw.exp().mean(1)
    return _settle(k, constant, valid, log_weights), torch.where(constant, 0.0, gain.nan_to_num(nan=torch.inf))


def settled_k(log_weights: Tensor, bound: Tensor | None = None) -> Tensor:
    r"""The Pareto shape of weights that are to be averaged: at most the limit where their tail is worth less than ``WORTH`` nats.

    Weights that are nearly constant may have any shape, and it says nothing: a normal proposal has lighter tails than the
    posterior of a log rate, so that k is near 1, and still no draw weighs more than a few per cent above the mean. What
    lies beyond the largest of S weights is extrapolated by the fitted tail to ten times as many draws.

    Args:
        log_weights: of shape (samples, rows).
        bound: what the largest weight there can be adds to the mean weight, relative to it, of shape (rows,), where known.

    >>> settled_k(torch.zeros(100, 3))
    tensor([0., 0., 0.], dtype=torch.float64)
    """
    k, worth = beyond_the_draws(log_weights)
    worth = worth if bound is None else torch.fmin(worth, bound)
    return torch.where(worth < WORTH, k.clamp_max(good_k(len(log_weights))), k)


def _prepare(log_weights: Tensor, reff: float) -> tuple[Tensor, _Tail, Tensor, Tensor]:
    if log_weights.ndim not in (1, 2) or not log_weights.shape[0]:
        raise ValueError(f"expected log-weights of shape (samples, data) or (samples,), got {tuple(log_weights.shape)}")
    lw = log_weights.detach()
    lw = (lw if lw.ndim == 2 else lw[:, None]).T.to(torch.float64, copy=True).contiguous()
    largest = lw.amax(1, keepdim=True)
    valid = largest[:, 0].isfinite()
    lw.sub_(torch.where(valid[:, None], largest, 0.0))
    tolerance = 64 * torch.finfo(log_weights.dtype).eps * largest[:, 0].abs().clamp_min(1.0)
    constant = valid & (lw.amin(1) >= -tolerance)
    return lw, _tail(lw, reff), constant, valid


def _tail(lw: Tensor, reff: float) -> _Tail:
    samples = lw.shape[1]
    wanted = math.ceil(min(samples / 5.0, 3 * math.sqrt(samples / reff)))
    top, index = lw.topk(min(wanted + 1, samples), dim=1)
    cutoff = top[:, -1:].clamp_min(math.log(torch.finfo(torch.float64).tiny))
    inside = top > cutoff
    excess = torch.where(inside, top.exp() - cutoff.exp(), 0.0)
    return _Tail(excess, cutoff.exp(), index, inside.sum(1))


def _fit(tail: _Tail) -> tuple[Tensor, Tensor]:
    """The shape and the scale of every row, rows with equally long tails together; inf where a tail is too short."""
    k = torch.full_like(tail.excess[:, 0], torch.inf)
    sigma = torch.ones_like(k)
    for length, rows in _groups(tail.length):
        excess = tail.excess[rows, :length]
        fits = [_fit_pareto(part) for part in excess.split(ROWS)]
        k[rows] = torch.cat([fit[0] for fit in fits])
        sigma[rows] = torch.cat([fit[1] for fit in fits])
    return k, sigma


def _groups(lengths: Tensor) -> Iterator[tuple[int, Tensor | slice]]:
    distinct = lengths.unique().tolist()
    for length in distinct:
        if length > 4:
            yield length, slice(None) if len(distinct) == 1 else (lengths == length).nonzero()[:, 0]


def _fit_pareto(excess: Tensor) -> tuple[Tensor, Tensor]:
    """Zhang & Stephens' fit (2009, doi:10.1198/tech.2009.08017), with a weak prior on the shape towards one half.

    Args:
        excess: of shape (rows, tail), positive, descending.
    """
    n = excess.shape[1]
    candidates = 30 + math.isqrt(n)
    grid = 1 - (candidates / (torch.arange(1, candidates + 1, dtype=excess.dtype, device=excess.device) - 0.5)).sqrt()
    quartile = excess[:, n - int(n / 4 + 0.5)]
    b = grid / (3 * quartile[:, None]) + 1 / excess[:, :1]
    shape = _mean_log1p(-b, excess)
    profile = n * ((-(b / shape)).log() - shape - 1)
    weight = profile.softmax(1)
    weight = torch.where(weight >= 10 * torch.finfo(weight.dtype).eps, weight, 0.0)
    b = (b * weight).sum(1) / weight.sum(1)
    k = torch.log1p(-b[:, None] * excess).mean(1)
    return (n * k + 5.0) / (n + 10), -k / b


def _mean_log1p(b: Tensor, excess: Tensor) -> Tensor:
    """The mean over the tail of log(1 + b x), of shape (rows, candidates), with an eighth of the logarithms.

    (1 + u)(1 + v) = 1 + (u + v + uv), and u, v have one sign, so nothing cancels while u stays off -1; near -1 the plain
    product (1 + u)(1 + v) is exact. Products that overflow are redone.

    Args:
        b: of shape (rows, candidates), descending.
        excess: of shape (rows, tail), descending.
    """
    n = excess.shape[1]
    u = b[:, :, None] * torch.nn.functional.pad(excess, (0, -n % 8))[:, None, :]
    steep = b * excess[:, :1] < -0.5
    first = int(steep.any(0).to(torch.uint8).argmax()) if steep.any() else b.shape[1]
    plain = (1 + u[:, first:]).unflatten(-1, (8, -1)).prod(-2).log().sum(-1)
    for _ in range(3):
        half = u.shape[-1] // 2
        left, right = u[..., :half], u[..., half:]
        u = torch.addcmul(left + right, left, right)
    total = torch.log1p(u).sum(-1)
    total[:, first:] = torch.where(steep[:, first:], plain, total[:, first:])
    wrong = ~total.isfinite().all(1)
    if wrong.any():
        total[wrong] = torch.log1p(b[wrong, :, None] * excess[wrong, None, :]).sum(-1)
    return total / n


def _smooth(lw: Tensor, tail: _Tail, k: Tensor, sigma: Tensor) -> None:
    """Put the quantiles of the fitted tails in place of the largest weights, none above the largest raw one."""
    for length, rows in _groups(tail.length):
        order = torch.arange(length - 0.5, 0.0, -1.0, dtype=lw.dtype, device=lw.device) / length
        quantiles = _quantiles(-torch.log1p(-order), k[rows, None], sigma[rows, None])
        smoothed = (quantiles + tail.cutoff[rows]).log().clamp_max_(0.0)
        index = tail.place[rows, :length]
        smoothed = torch.where(k[rows, None].isfinite(), smoothed, lw[rows].gather(1, index))
        if isinstance(rows, slice):
            lw.scatter_(1, index, smoothed)
        else:
            lw[rows] = lw[rows].scatter(1, index, smoothed)


def _normalize(lw: Tensor) -> Tensor:
    """Make the weights of each row sum to one, in place, and return their effective sample sizes; the largest is near 1."""
    sizes = []
    for part in lw.split(ROWS):
        weights = part.exp()
        total = weights.sum(1, keepdim=True)
        part -= total.log()
        sizes.append(total[:, 0] ** 2 / weights.square().sum(1))
    return torch.cat(sizes)


def _quantiles(exponential: Tensor, k: Tensor, sigma: Tensor) -> Tensor:
    flat = k.abs() < torch.finfo(k.dtype).eps
    return sigma * torch.where(flat, exponential, torch.expm1(k * exponential) / torch.where(flat, 1.0, k))


def _settle(k: Tensor, constant: Tensor, valid: Tensor, log_weights: Tensor) -> Tensor:
    k = torch.where(constant, 0.0, k)
    k = torch.where(valid, k, torch.inf)
    nan = log_weights.isnan()
    return torch.where(nan.any(0) if nan.ndim == 2 else nan.any()[None], torch.nan, k)


__all__ = ["Psis", "good_k", "pareto_k", "psis", "settled_k"]
