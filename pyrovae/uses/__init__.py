"""Program and data -> what people want: one file for each use."""

from pyrovae.uses.agreement import Agreement, agreement
from pyrovae.uses.anomalies import Detection, calibration_needed, conformal_p_values, detect
from pyrovae.uses.augmentation import augment
from pyrovae.uses.choosing import Choice, choose
from pyrovae.uses.compression import coded_size, compress, decompress
from pyrovae.uses.contrasts import Contrast, contrast
from pyrovae.uses.effects import LatentEffects, latent_effects
from pyrovae.uses.factors import Factors, factor_loadings, item_bias, rotate
from pyrovae.uses.generation import fit_prior, generation_quality, label_features
from pyrovae.uses.imputation import multiple_imputation, pool
from pyrovae.uses.priors import PriorSensitivity, prior_sensitivity
from pyrovae.uses.representation import representation_quality
from pyrovae.uses.scores import anomaly_scores
from pyrovae.uses.tipping import TippingPoints, tipping_points

__all__ = [
    "Agreement",
    "Choice",
    "Contrast",
    "Detection",
    "Factors",
    "LatentEffects",
    "PriorSensitivity",
    "TippingPoints",
    "agreement",
    "anomaly_scores",
    "augment",
    "calibration_needed",
    "choose",
    "coded_size",
    "compress",
    "conformal_p_values",
    "contrast",
    "decompress",
    "detect",
    "factor_loadings",
    "fit_prior",
    "generation_quality",
    "item_bias",
    "label_features",
    "latent_effects",
    "multiple_imputation",
    "pool",
    "prior_sensitivity",
    "representation_quality",
    "rotate",
    "tipping_points",
]
