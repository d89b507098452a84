"""Program and data -> what people want: one file for each use."""

from pyrovae.uses.choosing import Choice, choose
from pyrovae.uses.imputation import multiple_imputation, pool

__all__ = ["Choice", "choose", "multiple_imputation", "pool"]
