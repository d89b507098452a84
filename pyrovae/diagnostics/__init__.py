"""Program and data -> findings, in numbers and in words: calibration, latent structure, predictive checks, draws."""

from pyrovae.diagnostics.agreement import PosteriorComparison, compare_posteriors
from pyrovae.diagnostics.calibration import SBC, sbc
from pyrovae.diagnostics.draws import PosteriorDraws, posterior_draws
from pyrovae.diagnostics.features import PIT, FeatureLOO, leave_one_feature_out, marginal_pit
from pyrovae.diagnostics.imputation import ImputationCalibration, imputation_calibration
from pyrovae.diagnostics.predictive import STATISTICS, PredictiveCheck, predictive_check
from pyrovae.diagnostics.reference import ReferencePosterior, Sampler, reference_posterior
from pyrovae.diagnostics.reliability import Reliability, Typicality, reliability, typicality
from pyrovae.diagnostics.report import Gap, Report, diagnose
from pyrovae.diagnostics.structure import LatentStructure, RateDistortion, latent_structure, rate_distortion
from pyrovae.diagnostics.surgery import Surgery, elbo_surgery

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
