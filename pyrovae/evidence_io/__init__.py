"""A program and data to ArviZ: posterior draws, predictive checks and per-datum reliability in one container."""

from pyrovae.evidence_io.convert import from_pyro_svi

__all__ = ["from_pyro_svi"]
