"""Graphical models: one class for each graph, each with a ``model`` and a ``guide`` that are plain Pyro programs."""

from pyrovae.graphs.amortized import AmortizedGuide
from pyrovae.graphs.graph import Graph
from pyrovae.graphs.hierarchical import HierarchicalVAE
from pyrovae.graphs.missingness import MissingnessModel
from pyrovae.graphs.multimodal import MultimodalVAE, random_subsets
from pyrovae.graphs.rows import Rows
from pyrovae.graphs.semi_supervised import SemiSupervisedVAE
from pyrovae.graphs.sentence import SentenceVAE
from pyrovae.graphs.state_space import StateSpaceVAE
from pyrovae.graphs.vae import VAE

__all__ = [
    "VAE",
    "AmortizedGuide",
    "Graph",
    "HierarchicalVAE",
    "MissingnessModel",
    "MultimodalVAE",
    "Rows",
    "SemiSupervisedVAE",
    "SentenceVAE",
    "StateSpaceVAE",
    "random_subsets",
]
