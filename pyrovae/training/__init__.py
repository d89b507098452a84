"""Training: a loss, a state and an engine, and the loop around them that validates, stops early and resumes."""

from pyrovae.training.engine import Eager, Engine, Outcomes, Plan, State
from pyrovae.training.fit import fit
from pyrovae.training.history import History
from pyrovae.training.loss import Loss
from pyrovae.training.optimizer import TorchOptimizer
from pyrovae.training.traced import Traced

__all__ = ["Eager", "Engine", "History", "Loss", "Outcomes", "Plan", "State", "TorchOptimizer", "Traced", "fit"]
