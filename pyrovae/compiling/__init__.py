"""Programs as graphs: a loss and its gradients traced once, then replayed, or compiled with the whole step around them."""

from pyrovae.compiling.elbo import CompiledELBO
from pyrovae.compiling.function import Function, Graphs
from pyrovae.compiling.graph import Graph, UntraceableError, tensors_of, trace
from pyrovae.compiling.library import Library
from pyrovae.compiling.step import Flat, Memory, Recipe, Update

__all__ = [
    "CompiledELBO",
    "Flat",
    "Function",
    "Graph",
    "Graphs",
    "Library",
    "Memory",
    "Recipe",
    "UntraceableError",
    "Update",
    "tensors_of",
    "trace",
]
