"""The words for the parts of a VAE, and how each part is made; reading the words alone imports no torch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pyrovae.networks import Network
    from pyrovae.presets.spec import Spec

    Preprocess = Callable[[Tensor], Tensor]


class Likelihood(NamedTuple):
    """How a likelihood is made of an open network, the range of its data, and what suits its encoder."""

    make: Callable[[Network, Spec], nn.Module]
    upper: float = math.inf
    lower: float = -math.inf
    leveled: bool = False
    scaled: bool = False
    preprocess: str = "none"

    def bounds(self, spec: Spec) -> tuple[float, float]:
        """The smallest and the largest value of the data."""
        return self.lower, float(spec.levels - 1) if spec.levels else self.upper


def _named(name: str) -> Any:
    """A class by its name: of this library, of Pyro or of torch."""
    import pyro.distributions
    from torch import nn

    from pyrovae import conditionals, distributions

    rooms = (conditionals, distributions, pyro.distributions, nn)
    return next(getattr(room, name) for room in rooms if hasattr(room, name))


def _factorized(family: str, leveled: str = "") -> Callable[[Network, Spec], nn.Module]:
    """A factorized likelihood; ``leveled`` names the family's parameter that the number of levels sets."""

    def make(net: Network, spec: Spec) -> nn.Module:
        import torch

        given: dict[str, Any] = {}
        if leveled and spec.levels:
            given[leveled] = spec.levels - (leveled == "total_count")
        if LIKELIHOODS[spec.likelihood].scaled and spec.scale != "network":
            given["scale"] = torch.nn.Parameter(torch.ones(())) if spec.scale == "learned" else spec.scale
        return _named("Factorized")(_named(family), net, spec.event_shape, **given)

    return make


def _logistic_mixture(net: Network, spec: Spec) -> nn.Module:
    num_components = min(spec.components, 10)
    return _named("LogisticMixture")(net, spec.event_shape, num_components=num_components, levels=spec.levels)


def _categories(net: Network, spec: Spec) -> nn.Module:
    return _named("Categories")(net, spec.event_shape, num_categories=spec.levels)


_unit = functools.partial(Likelihood, upper=1.0, lower=0.0)
_levels = functools.partial(Likelihood, lower=0.0, leveled=True, preprocess="levels")
_counts = functools.partial(Likelihood, lower=0.0, preprocess="log1p")
_real = functools.partial(Likelihood, preprocess="standardize")
LIKELIHOODS: Mapping[str, Likelihood] = {
    "bernoulli": _unit(_factorized("Bernoulli")),
    "continuous_bernoulli": _unit(_factorized("ContinuousBernoulli")),
    "beta": _unit(_factorized("Beta")),
    "binomial": _levels(_factorized("Binomial", "total_count")),
    "beta_binomial": _levels(_factorized("MeanBetaBinomial", "total_count")),
    "discretized_logistic": _levels(_factorized("DiscretizedLogistic", "levels")),
    "discretized_normal": _levels(_factorized("DiscretizedNormal", "levels")),
    "logistic_mixture": _levels(_logistic_mixture),
    "categories": _levels(_categories),
    "poisson": _counts(_factorized("Poisson")),
    "negative_binomial": _counts(_factorized("SizedNegativeBinomial")),
    "zero_inflated_poisson": _counts(_factorized("ZeroInflatedSizedPoisson")),
    "zero_inflated_negative_binomial": _counts(_factorized("ZeroInflatedSizedNegativeBinomial")),
    "gamma": _counts(_factorized("Gamma")),
    "log_normal": _counts(_factorized("LogNormal"), scaled=True),
    "normal": _real(_factorized("Normal"), scaled=True),
    "laplace": _real(_factorized("Laplace"), scaled=True),
    "student_t": _real(_factorized("StudentT")),
}
"""The likelihoods by name; those of levels need ``levels``: the data are the integers 0 to levels - 1."""


def _posterior(name: str, *first: Any) -> Callable[[Network, int, Preprocess | None], nn.Module]:
    return lambda net, size, preprocess: _named(name)(*first, net, size, preprocess=preprocess)


POSTERIORS: Mapping[str, Callable[[Network, int, Preprocess | None], nn.Module]] = {
    "normal": lambda net, size, preprocess: _named("Factorized")(_named("Normal"), net, size, preprocess=preprocess),
    "full_normal": _posterior("FullNormal"),
    "low_rank_normal": lambda net, size, preprocess: _named("LowRank")(
        net, size, rank=min(2, size), preprocess=preprocess
    ),
    "affine_flow": _posterior("AffineFlow"),
    "spline_flow": _posterior("SplineFlow"),
    "spherical": _posterior("Spherical"),
}
"""The posteriors by name."""


def _prior(name: str) -> Callable[[Spec, nn.Module, Tensor | None], nn.Module]:
    return lambda spec, posterior, start: _named(name)(event_shape=spec.latent_dim)


def _vamp(spec: Spec, posterior: nn.Module, start: Tensor | None) -> nn.Module:
    """Pseudo-inputs are rows of the data; without data noise within the bounds, which saved weights then replace."""
    import torch

    lower, upper = LIKELIHOODS[spec.likelihood].bounds(spec)
    if start is None:
        width = upper - lower
        inputs = torch.rand(spec.components, *spec.event_shape)
        inputs = inputs * width + lower if math.isfinite(width) else inputs
    else:
        filled = torch.where(start.isnan(), start.nanmean(0).nan_to_num(), start)
        few = len(filled) < spec.components
        chosen = torch.randint(len(filled), (spec.components,)) if few else torch.randperm(len(filled))
        inputs = filled[chosen[: spec.components]]
    return _named("VampPrior")(posterior, inputs, bounds=(lower, upper))


PRIORS: Mapping[str, Callable[[Spec, nn.Module, Tensor | None], nn.Module]] = {
    "standard_normal": lambda spec, posterior, start: _named("standard_normal")(spec.latent_dim),
    "mixture": lambda spec, posterior, start: _named("GaussianMixture")(
        event_shape=spec.latent_dim, num_components=spec.components
    ),
    "vamp": _vamp,
    "affine_flow": _prior("AffineFlow"),
    "spline_flow": _prior("SplineFlow"),
    "uniform_direction": _prior("UniformDirection"),
}
"""The priors by name."""


def _torch(name: str, *first: Any) -> Callable[..., nn.Module]:
    return lambda *rest: _named(name)(*first, *rest)


ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "silu": _torch("SiLU"),
    "relu": _torch("ReLU"),
    "gelu": _torch("GELU"),
    "elu": _torch("ELU"),
    "tanh": _torch("Tanh"),
    "softplus": _torch("Softplus"),
    "leaky_relu": _torch("LeakyReLU", 0.2),
}
"""The activations by name."""

NETWORKS: Mapping[str, Mapping[str | None, Callable[[int], nn.Module] | None]] = {
    "mlp": {None: None, "layer": _torch("LayerNorm"), "batch": _torch("BatchNorm1d")},
    "convolutional": {None: None, "layer": _torch("GroupNorm", 1), "batch": _torch("BatchNorm2d")},
}
"""The networks by name, each with its normalizations."""
