"""Training: a loop around ``pyro.infer.SVI`` that guards, validates, stops early and resumes."""

from pyrovae.training.fit import fit
from pyrovae.training.history import History
from pyrovae.training.optimizer import TorchOptimizer

__all__ = ["History", "TorchOptimizer", "fit"]
