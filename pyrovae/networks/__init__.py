"""Networks: from tensors to tensors, for any number of leading batch axes."""

from pyrovae.networks.base import Network
from pyrovae.networks.batch_axes import BatchAxes
from pyrovae.networks.mlp import MLP

__all__ = ["MLP", "BatchAxes", "Network"]
