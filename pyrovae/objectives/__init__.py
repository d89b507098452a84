"""Objectives that Pyro lacks, each a drop-in loss for ``pyro.infer.SVI``."""

from pyrovae.objectives.capacity import CapacityELBO
from pyrovae.objectives.free_bits import FreeBitsELBO

__all__ = ["CapacityELBO", "FreeBitsELBO"]
