"""Evidence per datum: importance weights, bounds, refined guides, annealing, and what each estimate is worth."""

from pyrovae.evaluation.elbo import Bound, bound, elbo, kl, reconstruction
from pyrovae.evaluation.estimators import AIS, Estimator, Importance, Refined
from pyrovae.evaluation.log_weights import joint_log_weights, log_weights
from pyrovae.evaluation.marginal import log_marginal
from pyrovae.evaluation.refine import RefinedGuide, refine

__all__ = [
    "AIS",
    "Bound",
    "Estimator",
    "Importance",
    "Refined",
    "RefinedGuide",
    "bound",
    "elbo",
    "joint_log_weights",
    "kl",
    "log_marginal",
    "log_weights",
    "reconstruction",
    "refine",
]
