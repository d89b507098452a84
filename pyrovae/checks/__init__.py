"""Program and data -> findings: one file for each check, each with its numbers, its judgment and its figure.

A check is a :class:`Check`: ``run`` from a :class:`Case` to a Dataset, ``judge`` from that to findings. To add one, write
it in a file of its own and name it in :data:`CHECKS`; :func:`diagnose`, the page, the terminal and the command line show
what it finds.
"""

from pyrovae.checks.agreement import PosteriorComparison, compare_posteriors
from pyrovae.checks.calibration import CALIBRATION, SBC, sbc
from pyrovae.checks.covariates import COVARIATES, covariate_information
from pyrovae.checks.diagnose import Report, diagnose, run_checks
from pyrovae.checks.draws import PosteriorDraws, posterior_draws
from pyrovae.checks.findings import Case, Check, Finding, Line, Result, headline
from pyrovae.checks.imputation import IMPUTATION, ImputationCalibration, imputation_calibration
from pyrovae.checks.leave_out import FeatureLOO, leave_one_feature_out
from pyrovae.checks.local import LocalCalibration, local_calibration
from pyrovae.checks.overfitting import OVERFITTING
from pyrovae.checks.pit import marginal_pit
from pyrovae.checks.predictive import PREDICTIVE, STATISTICS, predictive_check
from pyrovae.checks.prior import PRIOR, PriorPredictive, prior_predictive
from pyrovae.checks.rate_distortion import RateDistortion, rate_distortion
from pyrovae.checks.reference import ReferencePosterior, Sampler, reference_posterior
from pyrovae.checks.reliability import RELIABILITY, Reliability, reliability
from pyrovae.checks.sensitivity import PowerScaling, power_scaling
from pyrovae.checks.structure import STRUCTURE, LatentStructure, Surgery, elbo_surgery, latent_structure
from pyrovae.checks.training import TRAINING
from pyrovae.checks.typicality import TYPICALITY, typicality

CHECKS: tuple[Check, ...] = (
    TRAINING,
    RELIABILITY,
    STRUCTURE,
    CALIBRATION,
    TYPICALITY,
    PREDICTIVE,
    PRIOR,
    COVARIATES,
    IMPUTATION,
    OVERFITTING,
)
"""Every check, in the order in which :func:`diagnose` runs them."""

__all__ = [
    "CHECKS",
    "SBC",
    "STATISTICS",
    "Case",
    "Check",
    "FeatureLOO",
    "Finding",
    "ImputationCalibration",
    "LatentStructure",
    "Line",
    "LocalCalibration",
    "PosteriorComparison",
    "PosteriorDraws",
    "PowerScaling",
    "PriorPredictive",
    "RateDistortion",
    "ReferencePosterior",
    "Reliability",
    "Report",
    "Result",
    "Sampler",
    "Surgery",
    "compare_posteriors",
    "covariate_information",
    "diagnose",
    "elbo_surgery",
    "headline",
    "imputation_calibration",
    "latent_structure",
    "leave_one_feature_out",
    "local_calibration",
    "marginal_pit",
    "posterior_draws",
    "power_scaling",
    "predictive_check",
    "prior_predictive",
    "rate_distortion",
    "reference_posterior",
    "reliability",
    "run_checks",
    "sbc",
    "typicality",
]
