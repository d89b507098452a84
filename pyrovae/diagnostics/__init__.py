"""Program and data -> findings, in numbers and in words: calibration, latent structure, predictive checks, draws."""

from pyrovae.diagnostics.calibration import SBC, sbc
from pyrovae.diagnostics.structure import LatentStructure, RateDistortion, latent_structure, rate_distortion
from pyrovae.diagnostics.surgery import Surgery, elbo_surgery

__all__ = [
    "SBC",
    "LatentStructure",
    "RateDistortion",
    "Surgery",
    "elbo_surgery",
    "latent_structure",
    "rate_distortion",
    "sbc",
]
