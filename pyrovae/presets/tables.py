"""The words for parts of a VAE, and how each part is made."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import conditionals
from pyrovae import distributions as pdist
from pyrovae.conditionals import Factorized, standard_normal
from pyrovae.networks import Network

if TYPE_CHECKING:
    from pyrovae.presets.words import Words

_INF = math.inf


class Likelihood(NamedTuple):
    """How a likelihood is made of an open network, the range of its data, and what suits its encoder."""

    make: Callable[[Network, Words], nn.Module]
    upper: float = _INF
    lower: float = -_INF
    leveled: bool = False
    scaled: bool = False
    preprocess: str = "none"


def _factorized(family: type, leveled: str = "") -> Callable[[Network, Words], nn.Module]:
    """A factorized likelihood; ``leveled`` names the family's parameter that the number of levels sets."""

    def make(net: Network, words: Words) -> nn.Module:
        given: dict[str, Any] = {leveled: _count(leveled, words)} if leveled else {}
        scaled = LIKELIHOODS[words.likelihood].scaled
        if scaled and words.scale == "learned":
            given["scale"] = nn.Parameter(torch.ones(()))
        elif scaled and words.scale != "network":
            given["scale"] = words.scale
        return Factorized(family, net, words.event_shape, **given)

    return make


def _count(parameter: str, words: Words) -> int:
    return words.top_level + 1 if parameter == "levels" else words.top_level


def _logistic_mixture(net: Network, words: Words) -> nn.Module:
    return conditionals.LogisticMixture(min(words.components, 10), net, words.event_shape, levels=words.top_level + 1)


def _categories(net: Network, words: Words) -> nn.Module:
    return conditionals.Categories(words.top_level + 1, net, words.event_shape)


_unit = functools.partial(Likelihood, upper=1.0, lower=0.0)
_levels = functools.partial(Likelihood, lower=0.0, leveled=True, preprocess="levels")
_counts = functools.partial(Likelihood, lower=0.0, preprocess="log1p")
_real = functools.partial(Likelihood, preprocess="standardize")
LIKELIHOODS: Mapping[str, Likelihood] = {
    "bernoulli": _unit(_factorized(dist.Bernoulli)),
    "continuous_bernoulli": _unit(_factorized(dist.ContinuousBernoulli)),
    "beta": _unit(_factorized(dist.Beta)),
    "binomial": _levels(_factorized(dist.Binomial, "total_count")),
    "beta_binomial": _levels(_factorized(pdist.MeanBetaBinomial, "total_count")),
    "discretized_logistic": _levels(_factorized(pdist.DiscretizedLogistic, "levels")),
    "discretized_normal": _levels(_factorized(pdist.DiscretizedNormal, "levels")),
    "logistic_mixture": _levels(_logistic_mixture),
    "categories": _levels(_categories),
    "poisson": _counts(_factorized(dist.Poisson)),
    "negative_binomial": _counts(_factorized(pdist.SizedNegativeBinomial)),
    "zero_inflated_poisson": _counts(_factorized(pdist.ZeroInflatedSizedPoisson)),
    "zero_inflated_negative_binomial": _counts(_factorized(pdist.ZeroInflatedSizedNegativeBinomial)),
    "gamma": _counts(_factorized(dist.Gamma)),
    "log_normal": _counts(_factorized(dist.LogNormal), scaled=True),
    "normal": _real(_factorized(dist.Normal), scaled=True),
    "laplace": _real(_factorized(dist.Laplace), scaled=True),
    "student_t": _real(_factorized(dist.StudentT)),
}
"""The likelihoods by name; those of ``levels`` need it: the data are the integers 0 to levels - 1."""

Preprocess = Callable[[Tensor], Tensor]

POSTERIORS: Mapping[str, Callable[[Network, int, Preprocess | None], nn.Module]] = {
    "normal": lambda net, size, pre: Factorized(dist.Normal, net, size, preprocess=pre),
    "full_normal": lambda net, size, pre: conditionals.FullNormal(net, size, preprocess=pre),
    "low_rank_normal": lambda net, size, pre: conditionals.LowRank(min(2, size), net, size, preprocess=pre),
    "affine_flow": lambda net, size, pre: conditionals.AffineFlow(net, size, preprocess=pre),
    "spline_flow": lambda net, size, pre: conditionals.SplineFlow(net, size, preprocess=pre),
    "spherical": lambda net, size, pre: conditionals.Spherical(net, size, preprocess=pre),
}
"""The posteriors by name."""


def _vamp(words: Words, posterior: nn.Module, start: Tensor | None) -> nn.Module:
    likelihood = LIKELIHOODS[words.likelihood]
    upper = float(words.top_level) if likelihood.leveled else likelihood.upper
    inputs = _pseudo_inputs(words, start, likelihood.lower, upper)
    return conditionals.VampPrior(posterior, inputs, bounds=(likelihood.lower, upper))


PRIORS: Mapping[str, Callable[[Words, nn.Module, Tensor | None], nn.Module]] = {
    "standard_normal": lambda words, posterior, start: standard_normal(words.latent_dim),
    "mixture": lambda words, posterior, start: conditionals.GaussianMixture(
        words.components, event_shape=words.latent_dim
    ),
    "vamp": _vamp,
    "affine_flow": lambda words, posterior, start: conditionals.AffineFlow(event_shape=words.latent_dim),
    "spline_flow": lambda words, posterior, start: conditionals.SplineFlow(event_shape=words.latent_dim),
    "uniform_direction": lambda words, posterior, start: conditionals.UniformDirection(words.latent_dim),
}
"""The priors by name."""

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "leaky_relu": functools.partial(nn.LeakyReLU, 0.2),
}
"""The activations by name."""

NETWORKS: Mapping[str, Mapping[str | None, Callable[[int], nn.Module] | None]] = {
    "mlp": {None: None, "layer": nn.LayerNorm, "batch": nn.BatchNorm1d},
    "convolutional": {None: None, "layer": functools.partial(nn.GroupNorm, 1), "batch": nn.BatchNorm2d},
}
"""The networks by name, each with its normalizations."""


def _pseudo_inputs(words: Words, start: Tensor | None, lower: float, upper: float) -> Tensor:
    """Some rows of the data; without data, noise within the bounds, which saved weights then replace."""
    shape = (words.components, *words.event_shape)
    if start is None:
        width = upper - lower
        return torch.rand(shape) * width + lower if math.isfinite(width) else torch.rand(shape)
    filled = torch.where(start.isnan(), start.nanmean(0).nan_to_num(), start)
    chosen = torch.randint(len(filled), shape[:1]) if len(filled) < shape[0] else torch.randperm(len(filled))
    return filled[chosen[: shape[0]]]
