"""Conditional distributions: modules whose ``forward`` returns a Pyro distribution."""

from pyrovae.distributions.columns import Category, Column, Count, Positive, Real
from pyrovae.distributions.counts import (
    MeanBetaBinomial,
    SizedNegativeBinomial,
    SizedPoisson,
    ZeroInflatedSizedNegativeBinomial,
    ZeroInflatedSizedPoisson,
)
from pyrovae.distributions.discrete import (
    Categories,
    InteriorRelaxedOneHot,
    LevelCategorical,
    OneHot,
    RelaxedOneHot,
)
from pyrovae.distributions.discretized import DiscretizedLogistic, DiscretizedNormal
from pyrovae.distributions.factorized import Factorized, FromCovariate, standard_normal
from pyrovae.distributions.flow import AffineFlow, FlowDistribution, SplineFlow
from pyrovae.distributions.gaussian import CholeskyNormal, FullNormal, LowRank, LowRankNormal
from pyrovae.distributions.logistic_mixture import DiscretizedLogisticMixture, LogisticMixture
from pyrovae.distributions.measured import MeasuredNormal, MeasuredStudentT
from pyrovae.distributions.mixture import DiagonalNormalMixture, GaussianMixture
from pyrovae.distributions.multinomial import Multinomials, TotalMultinomial
from pyrovae.distributions.simplex import AdditiveLogisticNormal, InteriorDirichlet, SimplexDirichlet, SimplexNormal
from pyrovae.distributions.spherical import PowerSpherical, Spherical, UniformDirection, UniformSphere
from pyrovae.distributions.table import TableDistribution, TableLikelihood, TableNetwork, TableSchema
from pyrovae.distributions.vamp import VampPrior

__all__ = [
    "AdditiveLogisticNormal",
    "AffineFlow",
    "Categories",
    "Category",
    "CholeskyNormal",
    "Column",
    "Count",
    "DiagonalNormalMixture",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "DiscretizedNormal",
    "Factorized",
    "FlowDistribution",
    "FromCovariate",
    "FullNormal",
    "GaussianMixture",
    "InteriorDirichlet",
    "InteriorRelaxedOneHot",
    "LevelCategorical",
    "LogisticMixture",
    "LowRank",
    "LowRankNormal",
    "MeanBetaBinomial",
    "MeasuredNormal",
    "MeasuredStudentT",
    "Multinomials",
    "OneHot",
    "Positive",
    "PowerSpherical",
    "Real",
    "RelaxedOneHot",
    "SimplexDirichlet",
    "SimplexNormal",
    "SizedNegativeBinomial",
    "SizedPoisson",
    "Spherical",
    "SplineFlow",
    "TableDistribution",
    "TableLikelihood",
    "TableNetwork",
    "TableSchema",
    "TotalMultinomial",
    "UniformDirection",
    "UniformSphere",
    "VampPrior",
    "ZeroInflatedSizedNegativeBinomial",
    "ZeroInflatedSizedPoisson",
    "standard_normal",
]
