"""Model comparison by held-out log evidence."""

from pyrovae.comparison.baselines import factor_analysis, probabilistic_pca
from pyrovae.comparison.held_out import compare
from pyrovae.comparison.pointwise import Difference, Pointwise
from pyrovae.comparison.predictions import crps
from pyrovae.comparison.table import Comparison
from pyrovae.comparison.weights import pseudo_bma_weights, stacking_weights

__all__ = [
    "Comparison",
    "Difference",
    "Pointwise",
    "compare",
    "crps",
    "factor_analysis",
    "probabilistic_pca",
    "pseudo_bma_weights",
    "stacking_weights",
]
