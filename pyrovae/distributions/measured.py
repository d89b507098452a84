"""Measurements whose errors are known, entry by entry: spectra, photometry, assays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions.base import Number, Univariate
from pyrovae.distributions.precise import StudentT


class Measured(Univariate):
    """A distribution of a measurement with a known error (abstract)."""

    given_constraints: ClassVar = {"error": constraints.nonnegative}
    support = constraints.real
    has_rsample = True
    loc: Tensor

    @abstractmethod
    def total(self) -> TorchDistribution:
        """The distribution of the measurement, scatter and error together."""

    @property
    def mean(self) -> Tensor:
        """The mean; the center where the tails are too heavy for one."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The variance, scatter and error together; infinite or NaN where the tails are too heavy for one."""
        return self.total().variance

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density in nats."""
        return self.total().log_prob(self._checked(value))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Measurements, error included."""
        return self.total().rsample(torch.Size(sample_shape))


class MeasuredNormal(Measured):
    r"""A normal value with normal scatter, measured with a known normal error.

    .. math:: p(y) = \mathcal{N}(y;\ \mu,\ s^2 + e^2)

    Args:
        loc: :math:`\mu`.
        scatter: s, beyond the known error; at least 0.
        error: e, known: the standard error of this entry, at least 0; for instance ``FromCovariate("error")``.

    Reference: Hogg, Bovy & Lang 2010, arXiv:1008.4686.

    >>> MeasuredNormal(0.0, scatter=3.0, error=4.0).stddev
    tensor(5.)
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scatter": constraints.nonnegative}

    def __init__(self, loc: Number, scatter: Number, error: Number, validate_args: bool | None = None) -> None:
        super().__init__({"loc": loc, "scatter": scatter, "error": error}, validate_args)

    def total(self) -> dist.Normal:
        """A normal."""
        return dist.Normal(self.loc, torch.hypot(self.scatter, self.error), validate_args=False)


class MeasuredStudentT(Measured):
    r"""A measurement with heavy tails, whose scale holds a known error and learned scatter.

    .. math:: p(y) = t_\nu\bigl(y;\ \mu, \sqrt{s^2 + e^2}\bigr)

    Args:
        df: :math:`\nu`, the degrees of freedom.
        loc: :math:`\mu`.
        scatter: s, beyond the known error; at least 0.
        error: e, known, at least 0; for instance ``FromCovariate("error")``.

    Reference: Lange, Little & Taylor 1989, doi:10.2307/2290063.

    >>> MeasuredStudentT(5.0, 0.0, scatter=3.0, error=4.0).mean
    tensor(0.)
    """

    arg_constraints: ClassVar = {
        "df": constraints.positive,
        "loc": constraints.real,
        "scatter": constraints.nonnegative,
    }

    def __init__(
        self, df: Number, loc: Number, scatter: Number, error: Number, validate_args: bool | None = None
    ) -> None:
        super().__init__({"df": df, "loc": loc, "scatter": scatter, "error": error}, validate_args)

    def total(self) -> StudentT:
        """A Student t."""
        return StudentT(self.df, self.loc, torch.hypot(self.scatter, self.error), validate_args=False)
