"""Families of counts: mean and dispersion forms with a size factor, and zero inflation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from pyrovae.distributions.base import Number, Univariate
from pyrovae.distributions.precise import in_double
from pyrovae.distributions.special import log_gamma_ratio


class Counts(Univariate):
    """A distribution of a count (abstract), with log masses that are right up to the largest integer of their dtype."""

    support = constraints.nonnegative_integer

    def log_prob(self, value: Tensor) -> Tensor:
        """The log mass in nats, never positive; computed in double precision, in the dtype of the arguments."""
        return in_double(self, self._checked(value), type(self).log_mass).clamp(max=0)

    @abstractmethod
    def log_mass(self, value: Tensor) -> Tensor:
        """The log mass in nats, in the precision of the arguments."""


class SizedPoisson(Counts):
    r"""The Poisson distribution with a rate per unit of size.

    .. math:: P(k) = \mathrm{Poisson}(k;\ s \lambda)

    Args:
        rate: :math:`\lambda`, the mean at size one.
        size_factor: s, known: an exposure, a library size; for instance ``FromCovariate("size_factor")``.

    >>> SizedPoisson(2.0, size_factor=3.0).mean
    tensor(6.)
    """

    arg_constraints: ClassVar = {"rate": constraints.positive}
    given_constraints: ClassVar = {"size_factor": constraints.positive}

    def __init__(self, rate: Number, size_factor: Number = 1.0, validate_args: bool | None = None) -> None:
        super().__init__({"rate": rate, "size_factor": size_factor}, validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.rate * self.size_factor

    @property
    def variance(self) -> Tensor:
        """The variance."""
        return self.mean

    def log_mass(self, value: Tensor) -> Tensor:
        """The log mass in nats, in the precision of the arguments."""
        return torch.xlogy(value, self.mean) - self.mean - torch.lgamma(value + 1)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Counts, as floating point numbers."""
        return torch.poisson(self.mean.expand(self._extended_shape(torch.Size(sample_shape))))


class SizedNegativeBinomial(Counts):
    r"""The negative binomial in mean and dispersion form, with a rate per unit of size.

    .. math:: P(k) = \frac{\Gamma(k + \theta)}{\Gamma(\theta)\, k!}
        \Bigl(\frac{\theta}{\theta + \mu}\Bigr)^{\theta} \Bigl(\frac{\mu}{\theta + \mu}\Bigr)^{k},
        \qquad \mu = s \lambda,\quad \mathrm{Var} = \mu + \mu^2 / \theta

    Args:
        rate: :math:`\lambda`, the mean at size one.
        dispersion: :math:`\theta`, the inverse dispersion: Poisson as it grows.
        size_factor: s, known: a library size; for instance ``FromCovariate("size_factor")``.

    Reference: Lopez et al. 2018, scVI, doi:10.1038/s41592-018-0229-2.

    >>> SizedNegativeBinomial(2.0, dispersion=4.0, size_factor=2.0).variance
    tensor(8.)
    """

    arg_constraints: ClassVar = {"rate": constraints.positive, "dispersion": constraints.positive}
    given_constraints: ClassVar = {"size_factor": constraints.positive}

    def __init__(
        self, rate: Number, dispersion: Number, size_factor: Number = 1.0, validate_args: bool | None = None
    ) -> None:
        super().__init__({"rate": rate, "dispersion": dispersion, "size_factor": size_factor}, validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.rate * self.size_factor

    @property
    def variance(self) -> Tensor:
        """The variance."""
        return self.mean + self.mean.square() / self.dispersion

    def log_mass(self, value: Tensor) -> Tensor:
        """The log mass in nats, in the precision of the arguments."""
        mean, theta = self.mean, self.dispersion
        choices = log_gamma_ratio(theta, value) - torch.lgamma(value + 1)
        return choices - theta * torch.log1p(mean / theta) + torch.xlogy(value, mean) - value * torch.log(theta + mean)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Counts, as floating point numbers."""
        rate = torch.distributions.Gamma(self.dispersion, self.dispersion / self.mean, validate_args=False)
        return torch.poisson(rate.sample(torch.Size(sample_shape)))


class ZeroInflated(Counts):
    """A distribution of a count with extra zeros (abstract)."""

    gate_logits: Tensor

    @abstractmethod
    def counts(self) -> Counts:
        """The distribution of the counts that are not extra zeros."""

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return torch.sigmoid(-self.gate_logits) * self.counts().mean

    def log_mass(self, value: Tensor) -> Tensor:
        """The log mass in nats, in the precision of the arguments."""
        kept = logsigmoid(-self.gate_logits) + self.counts().log_mass(value)
        return torch.where(value == 0, torch.logaddexp(logsigmoid(self.gate_logits), kept), kept)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Counts, as floating point numbers."""
        shape = self._extended_shape(torch.Size(sample_shape))
        kept = torch.bernoulli(torch.sigmoid(-self.gate_logits).expand(shape))
        return kept * self.counts().expand(self.batch_shape).sample(torch.Size(sample_shape))


class ZeroInflatedSizedPoisson(ZeroInflated):
    r"""A Poisson with a rate per unit of size, and extra zeros.

    .. math:: P(k) = \pi\, [k = 0] + (1 - \pi)\, \mathrm{Poisson}(k;\ s \lambda)

    Args:
        rate: :math:`\lambda`, the mean at size one, of the counts that are not extra zeros.
        gate_logits: the log odds of an extra zero.
        size_factor: s, known; for instance ``FromCovariate("size_factor")``.

    Reference: Lambert 1992, doi:10.2307/1269547.

    >>> ZeroInflatedSizedPoisson(2.0, gate_logits=0.0).mean
    tensor(1.)
    """

    arg_constraints: ClassVar = {"rate": constraints.positive, "gate_logits": constraints.real}
    given_constraints: ClassVar = {"size_factor": constraints.positive}

    def __init__(
        self, rate: Number, gate_logits: Number, size_factor: Number = 1.0, validate_args: bool | None = None
    ) -> None:
        super().__init__({"rate": rate, "gate_logits": gate_logits, "size_factor": size_factor}, validate_args)

    def counts(self) -> SizedPoisson:
        """The distribution of the counts that are not extra zeros."""
        return SizedPoisson(self.rate, self.size_factor, validate_args=False)


class ZeroInflatedSizedNegativeBinomial(ZeroInflated):
    r"""A negative binomial in mean and dispersion form, and extra zeros.

    .. math:: P(k) = \pi\, [k = 0] + (1 - \pi)\, \mathrm{NB}(k;\ s \lambda, \theta)

    Args:
        rate: :math:`\lambda`, the mean at size one, of the counts that are not extra zeros.
        dispersion: :math:`\theta`, the inverse dispersion.
        gate_logits: the log odds of an extra zero.
        size_factor: s, known; for instance ``FromCovariate("size_factor")``.

    Reference: Lopez et al. 2018, scVI, doi:10.1038/s41592-018-0229-2.

    >>> ZeroInflatedSizedNegativeBinomial(2.0, dispersion=4.0, gate_logits=0.0).mean
    tensor(1.)
    """

    arg_constraints: ClassVar = {
        "rate": constraints.positive,
        "dispersion": constraints.positive,
        "gate_logits": constraints.real,
    }
    given_constraints: ClassVar = {"size_factor": constraints.positive}

    def __init__(
        self,
        rate: Number,
        dispersion: Number,
        gate_logits: Number,
        size_factor: Number = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        parameters = {"rate": rate, "dispersion": dispersion, "gate_logits": gate_logits, "size_factor": size_factor}
        super().__init__(parameters, validate_args)

    def counts(self) -> SizedNegativeBinomial:
        """The distribution of the counts that are not extra zeros."""
        return SizedNegativeBinomial(self.rate, self.dispersion, self.size_factor, validate_args=False)


class MeanBetaBinomial(Counts):
    r"""The beta-binomial in mean and concentration form.

    .. math:: P(k) = \binom{n}{k} \frac{B(k + a, n - k + b)}{B(a, b)}, \qquad
        a = c\, \sigma(\ell),\quad b = c\, \sigma(-\ell)

    The masses sum to one also where the concentration is large (the binomial limit).

    Args:
        logits: :math:`\ell`, the log odds of the mean.
        concentration: c; binomial as it grows.
        total_count: n.

    Reference: Townsend et al. 2019, BB-ANS, arXiv:1901.04866 (for images).

    >>> MeanBetaBinomial(0.0, concentration=2.0, total_count=4).log_prob(torch.tensor(3.0)).exp()
    tensor(0.2000)
    """

    arg_constraints: ClassVar = {"logits": constraints.real, "concentration": constraints.positive}
    given_constraints: ClassVar = {"total_count": constraints.nonnegative_integer}

    def __init__(
        self, logits: Number, concentration: Number, total_count: Number, validate_args: bool | None = None
    ) -> None:
        parameters = {"logits": logits, "concentration": concentration, "total_count": total_count}
        super().__init__(parameters, validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The integers from 0 to n."""
        return constraints.integer_interval(0, self.total_count)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        a, b = self._shapes()
        return self.total_count * a / (a + b)

    @property
    def variance(self) -> Tensor:
        """The variance."""
        a, b = self._shapes()
        n, total = self.total_count, a + b
        return n * (a / total) * (b / total) * (total + n) / (total + 1)

    def log_mass(self, value: Tensor) -> Tensor:
        """The log mass in nats, in the precision of the arguments."""
        a, b = self._shapes()
        rest = self.total_count - value
        choices = log_gamma_ratio(rest + 1, value) - torch.lgamma(value + 1)
        return choices + log_gamma_ratio(a, value) + log_gamma_ratio(b, rest) - log_gamma_ratio(a + b, self.total_count)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Counts, as floating point numbers."""
        shape = self._extended_shape(torch.Size(sample_shape))
        a, b = self._shapes()
        probs = torch.distributions.Beta(a, b, validate_args=False).sample(torch.Size(sample_shape))
        return torch.binomial(self.total_count.to(probs.dtype).expand(shape).contiguous(), probs)

    def _shapes(self) -> tuple[Tensor, Tensor]:
        least = 1e-6
        return (
            self.concentration * torch.sigmoid(self.logits) + least,
            self.concentration * torch.sigmoid(-self.logits) + least,
        )
