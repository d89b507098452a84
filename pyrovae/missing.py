"""Missing entries: NaN in the data, filled inside the support and masked entry by entry, without a branch on the data.

Missing at random is assumed. Masking after the density is computed gives NaN gradients, and a fill of zero does so under
log-normal, Weibull or Pareto likelihoods: an entry is filled first, with a point in the interior of the support.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import pyro.distributions as dist
import torch
from pyro.distributions.util import is_validation_enabled
from torch import Tensor
from torch.distributions import constraints, transform_to

from pyrovae.distributions.precise import check_exact

_COMPLETE: ContextVar[bool] = ContextVar("complete", default=False)
_NUMBERS: ContextVar[tuple[Tensor, int] | None] = ContextVar("numbers", default=None)

_REMEDIES = {
    "boolean": (
        "grey values are no data for a Bernoulli (its masses would not sum to one): binarize them, or use a likelihood on "
        "integer levels (binomial, discretized logistic) or on the unit interval (continuous Bernoulli, beta)"
    ),
    "integer": "this likelihood is for counts: give integers in its range, or use a likelihood on the real line",
    "bounded": "scale the data into the interval, off its ends, or use a likelihood on the real line",
    "other": "transform the data into the support, or use a likelihood whose support holds them",
}


@contextmanager
def complete_data(complete: bool = True) -> Iterator[None]:
    """Take data as complete inside the ``with`` block, where :func:`observed` and :func:`fill_zeros` look for no NaN.

    For steps over rows that are known to be complete (``Data.complete``). The flag belongs to the thread, and is restored
    on exit. NaN that comes nevertheless makes the density NaN.

    Args:
        complete: False does nothing, so that a flag can be passed on.

    >>> with complete_data():
    ...     is_complete()
    True
    """
    token = _COMPLETE.set(complete or _COMPLETE.get())
    try:
        yield
    finally:
        _COMPLETE.reset(token)


def is_complete() -> bool:
    """Whether the data are known to be complete: inside :func:`complete_data`."""
    return _COMPLETE.get()


def interior_point(support: constraints.Constraint, like: Tensor) -> Tensor:
    """A point well inside a support: 0 on the real line, 1 above 0, the middle of an interval, the least integer.

    Args:
        support: the support of one entry, or of an event.
        like: a tensor whose shape, dtype and device the point takes.

    >>> interior_point(constraints.positive, torch.zeros(2))
    tensor([1., 1.])
    """
    if isinstance(support, constraints.independent):
        return interior_point(support.base_constraint, like)
    if hasattr(support, "interior"):
        return support.interior(like)
    if support is constraints.boolean:
        return torch.zeros_like(like)
    if support is constraints.one_hot:
        return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)[0].expand_as(like)
    if support.is_discrete:
        lowest = getattr(support, "lower_bound", 0)
        return torch.zeros_like(like) + lowest
    try:
        transform = transform_to(support)
    except NotImplementedError:
        raise ValueError(
            f"no point is known inside the support {support}, so missing entries cannot be filled: give the distribution "
            "a support of torch.distributions.constraints, or a method mask_entries(mask)"
        ) from None
    shape = transform.inverse_shape(like.shape)
    return transform(torch.zeros(shape, dtype=like.dtype, device=like.device)).expand_as(like)


def observed(distribution: dist.TorchDistribution, x: Tensor, site: str = "x") -> tuple[dist.TorchDistribution, Tensor]:
    r"""The distribution over the observed entries of ``x``, and ``x`` with its missing entries filled.

    .. math:: \log p(x_{\mathrm{obs}}) = \sum_{j:\ x_j\ \text{is not NaN}} \log p(x_j)

    Args:
        distribution: with event shape ``event_shape``; its entries independent (``.to_event``), or with a method
            ``mask_entries(mask)`` that returns the marginal over the observed entries. A joint distribution without it
            takes rows that are all observed or all missing.
        x: data of shape ``(*batch, *event_shape)``; NaN is missing.
        site: the name of the data site, for messages.

    Raises:
        ValueError: shapes differ; while Pyro's validation is on also an infinite entry, an entry outside the support, or
            a partly missing row under a joint distribution.

    >>> d, x = observed(dist.Normal(torch.zeros(3), 1.0).to_event(1), torch.tensor([[0.0, float("nan"), 0.0]]))
    >>> d.log_prob(x) - 2 * dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.0))
    tensor([0.])
    """
    event_dim = len(distribution.event_shape)
    if x.shape[x.ndim - event_dim :] != distribution.event_shape or x.ndim <= event_dim:
        raise wrong_shape(distribution, x, site)
    base, reinterpreted = _base(distribution)
    if is_complete():
        if is_validation_enabled():
            _check(base, x, site)
        return distribution, x
    mask = ~torch.isnan(x)
    own = len(base.event_shape)
    point = interior_point(base.support, x)
    filled = torch.where(mask, x, point)
    if is_validation_enabled():
        _check(base, filled, site)
    if event_dim and callable(getattr(distribution, "mask_entries", None)):
        return distribution.mask_entries(mask), filled
    entries = mask.flatten(-own).all(-1) if own else mask
    if own and is_validation_enabled() and not (entries == mask.flatten(-own).any(-1)).all():
        raise ValueError(
            f"{site} has rows that are partly missing, and {type(base).__name__} is joint over its entries: drop the rows, "
            "make them all NaN, or use a distribution with a method mask_entries(mask)"
        )
    return base.mask(entries).to_event(reinterpreted), filled


def wrong_shape(distribution: dist.TorchDistribution, x: Tensor, site: str) -> ValueError:
    """The error where data have another shape than a likelihood: an axis that ``.to_event`` did not count, or another event.

    >>> str(wrong_shape(dist.Normal(torch.zeros(6, 5), 1.0), torch.zeros(6, 5), "x"))[:55]
    "x has shape (6, 5), and the likelihood's distribution t"
    """
    shape, event = tuple(x.shape), tuple(distribution.event_shape)
    axes = x.ndim - 1 - len(event)
    if axes > 0 and tuple(distribution.batch_shape[-axes:]) + event == shape[1:]:
        return ValueError(
            f"{site} has shape {shape}, and the likelihood's distribution takes the last {axes} of its axes for rows: "
            f"write .to_event({x.ndim - 1}) in its forward, dist.Normal(loc, scale).to_event({x.ndim - 1})"
        )
    return ValueError(
        f"{site} must have shape (rows, {', '.join(map(str, event))}) for this likelihood, one axis of rows before those of "
        f"a datum, got {shape}: reshape the data, or change the likelihood's event_shape"
    )


def fill_zeros(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the data with zeros for missing entries, as a posterior sees them, and the mask (True where observed)."""
    if is_complete():
        return x, x.new_ones((), dtype=torch.bool).expand(x.shape)
    mask = ~torch.isnan(x)
    return torch.where(mask, x, x.new_zeros(())), mask


def _base(distribution: dist.TorchDistribution) -> tuple[dist.TorchDistribution, int]:
    if isinstance(distribution, torch.distributions.Independent):
        base, inner = _base(distribution.base_dist)
        return base, inner + distribution.reinterpreted_batch_ndims
    return distribution, 0


def _check(base: dist.TorchDistribution, filled: Tensor, site: str) -> None:
    support = base.support
    if filled.isinf().any():
        raise ValueError(
            f"{site} holds infinite values in {rows_text(filled.isinf())}: mark a missing entry with NaN, drop or clip the rest"
        )
    if support.is_discrete:
        check_exact(filled, site)
    inside = support.check(filled)
    if not inside.all():
        own = len(base.event_shape)
        wrong = ~inside if not own else (~inside)[(...,) + (None,) * own].expand_as(filled)
        example = filled.masked_select(wrong.expand_as(filled))[0].item()
        raise ValueError(
            f"{site} holds values outside the support of {support_text(base)} in {rows_text(wrong)}, "
            f"e.g. {example:g}: {_REMEDIES[_kind(support)]}"
        )


def support_text(distribution: dist.TorchDistribution) -> str:
    """The class of a distribution with its support, which is named by its class where it holds a bound for each entry.

    >>> support_text(dist.Binomial(torch.tensor([3.0, 4.0]), 0.5))
    'Binomial (IntegerInterval)'
    """
    support = distribution.support
    bounds = [bound for bound in vars(support).values() if isinstance(bound, Tensor) and bound.numel() > 1]
    return f"{type(distribution).__name__} ({type(support).__name__.lstrip('_') if bounds else support})"


def _kind(support: constraints.Constraint) -> str:
    if support is constraints.boolean:
        return "boolean"
    if support.is_discrete:
        return "integer"
    return "bounded" if isinstance(support, (constraints.interval, constraints.half_open_interval)) else "other"


@contextmanager
def numbered_rows(index: Tensor, total: int) -> Iterator[None]:
    """Let messages inside the ``with`` block name the rows of a batch by their numbers in the data set.

    Args:
        index: the numbers of the batch's rows.
        total: the rows of the data set.
    """
    token = _NUMBERS.set((index, total))
    try:
        yield
    finally:
        _NUMBERS.reset(token)


def rows_text(wrong: Tensor) -> str:
    """How many rows hold an entry that is wrong, and which; inside :func:`numbered_rows` by their numbers in the data set.

    >>> rows_text(torch.tensor([[False, False], [False, True]]))
    '1 of 2 rows (1)'
    >>> with numbered_rows(torch.tensor([7, 3]), 10):
    ...     rows_text(torch.tensor([[False, False], [False, True]]))
    'at least 1 of 10 rows (3)'
    """
    rows, total, found = wrong.reshape(wrong.shape[0], -1).any(-1).nonzero()[:, 0], wrong.shape[0], ""
    if (numbers := _NUMBERS.get()) is not None and len(numbers[0]) == total:
        found = "at least " if numbers[1] > total else ""
        rows, total = numbers[0].to(rows.device)[rows].sort().values, numbers[1]
    shown = ", ".join(map(str, rows[:5].tolist())) + (", ..." if len(rows) > 5 else "")
    return f"{found}{len(rows)} of {total} rows ({shown})"
