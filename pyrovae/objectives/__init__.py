"""Objectives that Pyro lacks, each a drop-in loss for ``pyro.infer.SVI``."""

from pyrovae.objectives.capacity import CapacityELBO
from pyrovae.objectives.free_bits import FreeBitsELBO
from pyrovae.objectives.importance import ImportanceWeightedELBO, StickingTheLanding
from pyrovae.objectives.supervised import SupervisedELBO

__all__ = ["CapacityELBO", "FreeBitsELBO", "ImportanceWeightedELBO", "StickingTheLanding", "SupervisedELBO"]
