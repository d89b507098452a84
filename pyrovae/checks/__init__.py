"""Program and data -> findings, in numbers and in words: calibration, latent structure, predictive checks, draws."""

from pyrovae.checks.agreement import PosteriorComparison, compare_posteriors
from pyrovae.checks.calibration import SBC, sbc
from pyrovae.checks.draws import PosteriorDraws, posterior_draws
from pyrovae.checks.features import PIT, FeatureLOO, leave_one_feature_out, marginal_pit
from pyrovae.checks.imputation import ImputationCalibration, imputation_calibration
from pyrovae.checks.predictive import STATISTICS, PredictiveCheck, predictive_check
from pyrovae.checks.reference import ReferencePosterior, Sampler, reference_posterior
from pyrovae.checks.reliability import Reliability, Typicality, reliability, typicality
from pyrovae.checks.report import Gap, Report, diagnose
from pyrovae.checks.structure import LatentStructure, RateDistortion, latent_structure, rate_distortion
from pyrovae.checks.surgery import Surgery, elbo_surgery

__all__ = [
    "PIT",
    "SBC",
    "STATISTICS",
    "FeatureLOO",
    "Gap",
    "ImputationCalibration",
    "LatentStructure",
    "PosteriorComparison",
    "PosteriorDraws",
    "PredictiveCheck",
    "RateDistortion",
    "ReferencePosterior",
    "Reliability",
    "Report",
    "Sampler",
    "Surgery",
    "Typicality",
    "compare_posteriors",
    "diagnose",
    "elbo_surgery",
    "imputation_calibration",
    "latent_structure",
    "leave_one_feature_out",
    "marginal_pit",
    "posterior_draws",
    "predictive_check",
    "rate_distortion",
    "reference_posterior",
    "reliability",
    "sbc",
    "typicality",
]
