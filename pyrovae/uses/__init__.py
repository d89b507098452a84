"""Program and data -> what people want: one file for each use."""

from pyrovae.uses.imputation import multiple_imputation, pool

__all__ = ["multiple_imputation", "pool"]
