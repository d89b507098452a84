"""Conditional distributions: modules whose ``forward`` returns a Pyro distribution."""

from pyrovae.distributions.factorized import Factorized, FromContext, standard_normal

__all__ = ["Factorized", "FromContext", "standard_normal"]
