"""The words for the parts of a VAE and what they stand for, as names of classes: nothing here imports torch."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pyrovae.presets.spec import Spec


class Likelihood(NamedTuple):
    """How a likelihood is made, the range of its data, and what suits its encoder.

    Attributes:
        family: the class of a univariate family for `Factorized`, or of a conditional.
        sized_by: the parameter of the family that ``levels`` sets; the data are then the integers 0 to levels - 1.
        scaled: whether the family has the parameter ``scale``.
        lower: the smallest value of the data.
        upper: the largest, where ``levels`` does not set it.
        preprocess: what suits the encoder's input.
    """

    family: str
    sized_by: str = ""
    scaled: bool = False
    lower: float = -math.inf
    upper: float = math.inf
    preprocess: str = "none"

    @property
    def leveled(self) -> bool:
        """Whether the data are levels."""
        return bool(self.sized_by)

    def bounds(self, spec: Spec) -> tuple[float, float]:
        """The smallest and the largest value of the data."""
        return self.lower, float(spec.levels - 1) if spec.levels else self.upper


_unit = functools.partial(Likelihood, lower=0.0, upper=1.0)
_levels = functools.partial(Likelihood, lower=0.0, preprocess="levels")
_positive = functools.partial(Likelihood, lower=0.0, preprocess="log1p")
_real = functools.partial(Likelihood, preprocess="standardize")
LIKELIHOODS: Mapping[str, Likelihood] = {
    "bernoulli": _unit("Bernoulli"),
    "continuous_bernoulli": _unit("ContinuousBernoulli"),
    "beta": _unit("Beta"),
    "binomial": _levels("Binomial", "total_count"),
    "beta_binomial": _levels("MeanBetaBinomial", "total_count"),
    "discretized_logistic": _levels("DiscretizedLogistic", "levels"),
    "discretized_normal": _levels("DiscretizedNormal", "levels"),
    "logistic_mixture": _levels("LogisticMixture", "levels"),
    "categories": _levels("Categories", "num_categories"),
    "poisson": _positive("Poisson"),
    "negative_binomial": _positive("SizedNegativeBinomial"),
    "zero_inflated_poisson": _positive("ZeroInflatedSizedPoisson"),
    "zero_inflated_negative_binomial": _positive("ZeroInflatedSizedNegativeBinomial"),
    "gamma": _positive("Gamma"),
    "log_normal": _positive("LogNormal", scaled=True),
    "normal": _real("Normal", scaled=True),
    "laplace": _real("Laplace", scaled=True),
    "student_t": _real("StudentT"),
    "table": Likelihood("TableLikelihood"),
}
"""The likelihoods by name."""

KINDS_OF: Mapping[str, str] = {
    "bernoulli": "binary",
    "negative_binomial": "count",
    "log_normal": "positive",
    "normal": "real",
    "student_t": "student_t",
}
"""The likelihoods that are a kind of a table's columns: there all columns are of that kind."""

PREPROCESSES = (None, "none", "log1p", "levels", "standardize")
"""What is done to the encoder's input; None takes what suits the likelihood."""

POSTERIORS: Mapping[str, str] = {
    "normal": "Normal",
    "full_normal": "FullNormal",
    "low_rank_normal": "LowRank",
    "affine_flow": "AffineFlow",
    "spline_flow": "SplineFlow",
    "spherical": "Spherical",
}
"""The posteriors by name: conditionals, or a univariate family."""

PRIORS: Mapping[str, str] = {
    "standard_normal": "standard_normal",
    "mixture": "GaussianMixture",
    "vamp": "VampPrior",
    "affine_flow": "AffineFlow",
    "spline_flow": "SplineFlow",
    "uniform_direction": "UniformDirection",
}
"""The priors by name: conditionals."""

ACTIVATIONS: Mapping[str, str] = {
    "silu": "SiLU",
    "relu": "ReLU",
    "gelu": "GELU",
    "elu": "ELU",
    "tanh": "Tanh",
    "softplus": "Softplus",
    "leaky_relu": "LeakyReLU",
}
"""The activations by name: classes of torch."""

NETWORKS: Mapping[str, Mapping[str | None, str]] = {
    "mlp": {None: "", "layer": "LayerNorm", "batch": "BatchNorm1d"},
    "convolutional": {None: "", "layer": "GroupNorm", "batch": "BatchNorm2d"},
    "local": {None: "", "layer": "GroupNorm", "batch": "BatchNorm2d"},
}
"""The networks by name, each with its normalizations: classes of torch."""
