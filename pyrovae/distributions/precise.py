"""Log masses and densities in which large log-gamma terms cancel, computed in double precision.

In single precision the log mass of a count near 1e6 is wrong by about a nat: it is the difference of numbers near 1e7.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pyrovae.distributions.special import log_gamma_ratio

_SMALL_COUNT = 1024
"""Up to this total count a binomial's log masses lose less than 0.001 nats in single precision."""


def to_double(tensor: Tensor) -> Tensor:
    """A tensor in double precision; in its own on a device that has none (Apple's MPS).

    >>> to_double(torch.zeros(())).dtype
    torch.float64
    """
    return tensor if tensor.device.type == "mps" else tensor.double()


def in_double(distribution: Any, value: Tensor, log_prob: Callable[[Any, Tensor], Tensor]) -> Tensor:
    """Evaluate a log mass or density in double precision, and return it in the dtype of the arguments.

    Args:
        distribution: whose tensors, those of inner distributions included, are cast in a copy.
        value: where to evaluate.
        log_prob: called with the copy and the cast value.

    >>> in_double(dist.Poisson(torch.tensor(1e6)), torch.tensor(1e6), dist.Poisson.log_prob)
    tensor(-7.8267)
    """
    twin, dtype = _doubled(distribution)
    if value.is_floating_point():
        dtype = torch.promote_types(dtype, value.dtype)
    return log_prob(twin, to_double(value)).to(dtype)


def check_exact(value: Tensor, what: str) -> None:
    """Refuse integers beyond those that their dtype tells apart: 2**24 in single precision.

    Args:
        value: integers, as floating point numbers.
        what: the name of the value, for the message.

    Raises:
        ValueError: one is larger.

    >>> check_exact(torch.tensor(2.0**24), "x")
    """
    if not value.is_floating_point() or not value.numel():
        return
    limit = 2 / torch.finfo(value.dtype).eps
    if value.max() > limit:
        raise ValueError(
            f"{what} holds {value.max():.0f}, but {value.dtype} cannot tell integers beyond {limit:.0f} apart: give data and "
            "model in double precision (torch.float64, vae.double()), or count in a larger unit"
        )


def log_prob_of(distribution: Any, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The log density of any distribution; of Pyro's own families that lose digits in single precision, in double.

    Args:
        distribution: of a program that may use ``pyro.distributions`` directly.
        value: where to evaluate.
        *args: of its ``log_prob``.
        **kwargs: of its ``log_prob``.

    >>> log_prob_of(dist.Binomial(10**6, torch.tensor(0.5)), torch.tensor(5e5))
    tensor(-7.1335)
    """
    base = distribution
    while (inner := getattr(base, "base_dist", None)) is not None and type(base) not in _FORMS:
        base = inner
    exact = type(base) not in _LOG_GAMMA or value.dtype == torch.float64
    if exact or (type(base) is dist.Binomial and _is_small(base.total_count)):
        return distribution.log_prob(value, *args, **kwargs)  # type: ignore[no-any-return]
    return in_double(distribution, value, lambda twin, doubled: twin.log_prob(doubled, *args, **kwargs))


class Precise:
    """A mixin before a family of Pyro: log masses and densities are computed in double precision."""

    _validate_args: bool
    support: Any

    def log_prob(self, value: Tensor) -> Tensor:
        """The log mass or density in nats, in the dtype of the arguments; a log mass is never positive."""
        discrete = self.support.is_discrete
        if discrete and self._validate_args:
            check_exact(value, "the value")
        found = in_double(self, value, Precise._log_prob)
        return found.clamp(max=0) if discrete else found

    def _log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value)  # type: ignore[misc]


class StudentT(dist.StudentT):
    """Pyro's Student t with precise log densities at any number of degrees of freedom: it tends to the normal."""

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density in nats."""
        if self._validate_args:
            self._validate_sample(value)
        half, white = 0.5 * self.df, (value - self.loc) / self.scale
        constant = log_gamma_ratio(half, torch.full_like(half, 0.5)) - 0.5 * (half.log() + math.log(2 * math.pi))
        return constant - self.scale.log() - (half + 0.5) * torch.log1p(white.square() / self.df)


_LOG_GAMMA: tuple[type, ...] = (
    dist.Poisson,
    dist.ZeroInflatedPoisson,
    dist.NegativeBinomial,
    dist.ZeroInflatedNegativeBinomial,
    dist.GammaPoisson,
    dist.Binomial,
    dist.BetaBinomial,
    dist.Beta,
    dist.Gamma,
    dist.Chi2,
    dist.InverseGamma,
)
_FORMS = {family: type(family.__name__, (Precise, family), {"__module__": __name__}) for family in _LOG_GAMMA}
_FORMS[dist.StudentT] = StudentT
globals().update({form.__name__: form for form in _FORMS.values()})  # pickle finds a class by its name


class SmallBinomial(dist.Binomial):
    """Pyro's binomial, of a total count that is known to lose no digits: its log masses need no second look at the count."""


def precise(family: Any, total_count: float | Tensor | None = None) -> Any:
    """The precise form of a family of Pyro whose log masses or densities lose digits; any other family as it is.

    Args:
        family: a distribution class.
        total_count: the largest count of a binomial, where it is fixed: small ones lose no digits.

    >>> precise(dist.Normal), precise(dist.Poisson).__mro__[1].__name__
    (<class 'pyro.distributions.torch.Normal'>, 'Precise')
    """
    if family is dist.Binomial and total_count is not None:
        return SmallBinomial if _is_small(torch.as_tensor(total_count)) else _FORMS[family]
    return _FORMS.get(family, family)


def _is_small(total_count: Tensor) -> bool:
    """Whether all total counts are small; while a graph is traced no number can be read, and the answer is no."""
    return get_proxy_mode() is None and bool(total_count.detach().max() <= _SMALL_COUNT)


def _doubled(distribution: Any) -> tuple[Any, torch.dtype]:
    """A copy with every floating point tensor in double precision, and the dtype that they had."""
    twin, dtype = copy.copy(distribution), torch.get_default_dtype()
    found = []
    for name, value in vars(distribution).items():
        if isinstance(value, Tensor) and value.is_floating_point():
            vars(twin)[name] = to_double(value)
            found.append(value.dtype)
        elif isinstance(value, Distribution):
            vars(twin)[name], inner = _doubled(value)
            found.append(inner)
    return twin, functools.reduce(torch.promote_types, found) if found else dtype
