"""Programs as graphs: a loss and its gradients traced once, then replayed or compiled."""

from pyrovae.compiling.graph import Graph, UntraceableError, trace

__all__ = ["Graph", "UntraceableError", "trace"]
