"""Graphical models: one class for each graph, each with a ``model`` and a ``guide`` that are plain Pyro programs."""

from pyrovae.graphs.graph import Graph, Rows
from pyrovae.graphs.hierarchical import HierarchicalVAE
from pyrovae.graphs.vae import VAE

__all__ = ["VAE", "Graph", "HierarchicalVAE", "Rows"]
