"""Program and data -> findings, in numbers and in words: calibration, latent structure, predictive checks, draws."""

from pyrovae.diagnostics.calibration import SBC, sbc

__all__ = ["SBC", "sbc"]
