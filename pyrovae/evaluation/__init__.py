"""Evidence per datum: importance weights, bounds, refined guides, annealing, and what each estimate is worth."""

from pyrovae.evaluation import psis
from pyrovae.evaluation.bdmc import Sandwich, bdmc
from pyrovae.evaluation.conditional import log_conditional
from pyrovae.evaluation.elbo import elbo
from pyrovae.evaluation.estimators import AIS, Estimator, Importance, Mixture, Refined
from pyrovae.evaluation.gaps import inference_gaps
from pyrovae.evaluation.impute import impute
from pyrovae.evaluation.imputed import Imputation
from pyrovae.evaluation.log_weights import joint_log_weights, log_weights
from pyrovae.evaluation.marginal import log_marginal
from pyrovae.evaluation.refine import RefinedGuide, refine
from pyrovae.evaluation.smc import SMC

__all__ = [
    "AIS",
    "SMC",
    "Estimator",
    "Importance",
    "Imputation",
    "Mixture",
    "Refined",
    "RefinedGuide",
    "Sandwich",
    "bdmc",
    "elbo",
    "impute",
    "inference_gaps",
    "joint_log_weights",
    "log_conditional",
    "log_marginal",
    "log_weights",
    "psis",
    "refine",
]
