"""Integers by their cumulative masses -> bits and back: the entropy coder, and the masses of the discrete distributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor
from torch import distributions as base

from pyrovae.distributions import (
    DiscretizedLogisticMixture,
    SizedNegativeBinomial,
    SizedPoisson,
    TableDistribution,
    TokenSequence,
    TotalMultinomial,
)
from pyrovae.distributions.counts import ZeroInflated
from pyrovae.distributions.discretized import Discretized, DiscretizedLogistic
from pyrovae.distributions.tokens import END
from pyrovae.errors import refusal

Cumulative = Callable[[Any], np.ndarray]
MAX_LEVELS = 4096
"""A family without a cumulative distribution of its own is added up over at most so many levels."""


class Entries(NamedTuple):
    """Some entries of each row, independent of each other given the entries before them.

    Args:
        places: where they stand in a flat row: what indexes it.
        cumulative: from integers ``(rows * entries,)`` to the mass up to them.
        levels: how many values there are, 0 and up; None for counts without a bound.
    """

    places: Any
    cumulative: Cumulative
    levels: int | None


class Stack:
    """The coder of constriction, begun with bits that hold nothing, of which it keeps those that are needed.

    Args:
        words: 32 bits each; or the seed of random ones.
        count: how many random ones there are.
    """

    def __init__(self, words: np.ndarray | int, count: int) -> None:
        try:
            from constriction import stream
        except ImportError:
            raise ImportError("compression needs constriction: pip install pyrovae[compression]") from None
        if isinstance(words, int):
            words = np.random.Generator(np.random.Philox(words)).integers(1, 2**32, count, dtype=np.uint32)
        self.model, self.coder = stream.model, stream.stack.AnsCoder(words)
        self.begun = self.least = len(words)

    def push(self, symbols: np.ndarray, cumulative: Cumulative, depth: int) -> None:
        """Code integers below ``2**depth``, each by its cumulative masses."""
        steps: list[tuple[np.ndarray, np.ndarray]] = []

        def follow(level: int, probability: np.ndarray) -> np.ndarray:
            steps.append((symbols >> level & 1, probability))
            return steps[-1][0]

        _halvings(cumulative, depth, follow)
        for bits, probability in reversed(steps):
            self.coder.encode_reverse(bits.astype(np.int32), self.model.Bernoulli(perfect=False), probability)

    def pop(self, cumulative: Cumulative, depth: int) -> np.ndarray:
        """Take integers back, or draw some from bits that code something else."""

        def draw(level: int, probability: np.ndarray) -> np.ndarray:
            return self.coder.decode(self.model.Bernoulli(perfect=False), probability).astype(np.int64)

        found = _halvings(cumulative, depth, draw)
        self.least = min(self.least, self.coder.num_words())
        if self.least < 3:
            raise refusal("the bits to draw latents from ran out: give a smaller batch_size", "batch_size")
        return found

    def push_uniform(self, symbols: np.ndarray, size: int) -> None:
        """Code integers below ``size``, all equally likely."""
        self.coder.encode_reverse(symbols.astype(np.int32), self.model.Uniform(size))

    def pop_uniform(self, count: int, size: int) -> np.ndarray:
        """Take back integers below ``size``."""
        return self.coder.decode(self.model.Uniform(size), count).astype(np.int64)

    def words(self) -> np.ndarray:
        """What is there, without the initial words that were never needed."""
        return self.coder.get_compressed()[self._unused :]

    @property
    def initial(self) -> int:
        """How many initial words are kept."""
        return self.begun - self._unused

    @property
    def _unused(self) -> int:
        return self.least - 3


def _halvings(cumulative: Cumulative, depth: int, choose: Callable[[int, np.ndarray], np.ndarray]) -> np.ndarray:
    """Find integers below ``2**depth`` by halves: of each interval, the probability of the upper half given both."""
    low: Any = 0.0
    high: Any = 1.0
    found: Any = np.int64(0)
    for level in reversed(range(depth)):
        middle = cumulative((2 * found + 1 << level) - 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            upper = np.nan_to_num((high - middle) / (high - low), nan=0.5, posinf=1.0, neginf=0.0).clip(0.0, 1.0)
        bits = choose(level, upper)
        low, high, found = np.where(bits, middle, low), np.where(bits, high, middle), 2 * found + bits
    return found


def entries_of(distribution: Any, site: str, values: np.ndarray) -> Iterator[Entries]:
    """The entries of rows by the cumulative masses of a likelihood over rows, in the order in which they are decoded.

    Args:
        distribution: of batch shape ``(rows,)``. One of your own, whose entries depend on those before them, has a method
            ``entries(values)`` that yields them.
        site: its name, for errors.
        values: the rows as integers ``(rows, entries)``. Only entries that were yielded are read: a decoder fills them in
            before it asks for the next.

    Raises:
        ValueError: a density, entries that depend on each other, or a family without cumulative masses.

    >>> coin = dist.Bernoulli(probs=torch.tensor([[0.25, 0.5]])).to_event(1)
    >>> [entries] = entries_of(coin, "x", np.zeros((1, 2), dtype=int))
    >>> entries.cumulative(np.array([0, 0])).round(6).tolist(), entries.levels
    ([0.75, 0.5], 2)
    """
    found, places = independent(distribution), np.arange(distribution.event_shape.numel())
    if callable(getattr(found, "entries", None)):
        yield from found.entries(values)
    elif isinstance(found, TableDistribution):
        for group, part in found.groups():
            yield Entries(group.places.numpy(), *_cumulative(independent(part), f"{site} ({group.kind.kind} columns)"))
    elif isinstance(found, DiscretizedLogisticMixture):
        yield from _mixture(found, values)
    elif isinstance(found, TokenSequence):
        yield from _tokens(found, values)
    elif isinstance(found, TotalMultinomial):
        yield from _multinomial(found, values)
    else:
        yield Entries(places, *_cumulative(found, site))


def independent(distribution: Any) -> Any:
    """A distribution with its independent entries in the batch; the mask of rows that lack nothing goes."""
    while isinstance(distribution, base.Independent | dist.MaskedDistribution) or (
        isinstance(distribution, ExpandedDistribution)
        and distribution.batch_shape == distribution.base_dist.batch_shape
    ):
        distribution = distribution.base_dist
    return distribution


def flat(tensor: Tensor, shape: torch.Size) -> np.ndarray:
    """A parameter of entries of a shape, in double precision, as one axis."""
    return tensor.detach().double().expand(shape).reshape(-1).cpu().numpy()


def _cumulative(found: Any, site: str) -> tuple[Cumulative, int | None]:
    from scipy import special  # not on import: it sets a filter of warnings

    name, shape = type(found).__name__, found.batch_shape
    discrete = not found.event_shape and found.support.is_discrete
    if not discrete:
        why = "a density" if not found.support.is_discrete else "a joint mass of entries that depend on each other"
        raise refusal(
            f"the likelihood at {site!r}, {name}, is {why}: only distributions of one integer an entry can be coded, such as "
            "Bernoulli, Categories, DiscretizedLogistic or Poisson",
            "program",
        )
    if isinstance(found, base.Bernoulli):
        zero = flat(torch.sigmoid(-found.logits.double()), shape)
        return (lambda k: np.where(k < 1, zero, 1.0)), 2
    if isinstance(found, base.Categorical):
        sums = found.logits.detach().double().softmax(-1).cumsum(-1)
        table = sums.expand(*shape, -1).reshape(-1, sums.shape[-1]).cpu().numpy()
        return _looked_up(table), table.shape[-1]
    if isinstance(found, Discretized):
        loc, scale, levels = (flat(part, shape) for part in (found.loc, found.scale, found.levels))
        survival = lambda x: found._log_survival(torch.from_numpy(x)).exp().numpy()  # noqa: E731
        return (lambda k: survival((loc + 1 - (2 * k + 1) / (levels - 1)) / scale)), int(levels.max())
    if isinstance(found, base.Binomial):
        total = flat(found.total_count, shape)
        return _binomial(total, flat(found.probs, shape)), int(total.max()) + 1
    if isinstance(found, base.Poisson | SizedPoisson):
        rate = flat(found.mean, shape)
        return (lambda k: special.pdtr(k, rate)), None
    if isinstance(found, base.NegativeBinomial | SizedNegativeBinomial | dist.GammaPoisson):
        mean, variance = flat(found.mean, shape), flat(found.variance, shape)
        failures = _failures(found, shape)
        return (lambda k: special.betainc(failures, k + 1.0, mean / variance)), None
    if isinstance(found, ZeroInflated | dist.ZeroInflatedDistribution):
        counts = found.counts() if isinstance(found, ZeroInflated) else found.base_dist
        extra = torch.sigmoid(found.gate_logits) if isinstance(found, ZeroInflated) else found.gate
        gate, (inner, _) = flat(extra, shape), _cumulative(counts.expand(shape), site)
        return (lambda k: gate + (1 - gate) * inner(k)), None
    upper = getattr(found.support, "upper_bound", None)
    count = 1 + int(torch.as_tensor(MAX_LEVELS if upper is None else upper).max())
    if count > MAX_LEVELS:
        raise refusal(f"no cumulative masses are known of {name}, the likelihood at {site!r}: take another", "program")
    values = torch.arange(count, dtype=torch.get_default_dtype())
    masses = [flat(found.log_prob(value.expand(shape)).double().exp(), shape) for value in values]
    return _looked_up(np.stack(masses, -1).cumsum(-1)), count


def _binomial(total: np.ndarray, probs: np.ndarray) -> Cumulative:
    from scipy import special

    up_to = lambda k: special.betainc(np.maximum(total - k, 1.0), k + 1.0, 1 - probs)  # noqa: E731
    return lambda k: np.where(k >= total, 1.0, up_to(k))


def _failures(found: Any, shape: torch.Size) -> np.ndarray:
    """The first parameter of a negative binomial: the count of failures, or the inverse dispersion."""
    name = next(n for n in ("total_count", "dispersion", "concentration") if hasattr(found, n))
    return flat(getattr(found, name), shape)


def _looked_up(table: np.ndarray) -> Cumulative:
    """From tables of cumulative masses ``(entries, levels)``, whose last is made one."""
    table = table / table[:, -1:]
    entries = np.arange(len(table))
    return lambda k: table[entries, np.minimum(k, table.shape[1] - 1)]


def _mixture(found: DiscretizedLogisticMixture, values: np.ndarray) -> Iterator[Entries]:
    """The channels one by one: those before move the locations, and tell the components apart."""
    from scipy.special import expit

    last, channels, size = found.levels - 1, found.event_shape[0], found.event_shape[1:].numel()

    def by_component(parameter: Tensor) -> Tensor:
        """Components first and positions along one axis, in double precision."""
        lead = parameter.shape[: parameter.ndim - found.position_dim]
        return parameter.detach().double().cpu().reshape(*lead, size).movedim(1, 0)

    log_weights, loc, scale, coupling = map(by_component, (found.logits, found.loc, found.scale, found.coupling))
    pairs = iter(coupling.unbind(2))
    for c in range(channels):
        places = np.arange(c * size, (c + 1) * size)
        before = torch.from_numpy(2 * values[:, : c * size] / last - 1).unflatten(-1, (c, size)).unbind(1) if c else ()
        center = loc[:, :, c] + sum(next(pairs) * value for value in before if found.coupling.numel())
        weights, middle, width = (t.flatten(1).numpy() for t in (log_weights.softmax(0), center, scale[:, :, c]))

        def cumulative(k: Any, weights: Any = weights, middle: Any = middle, width: Any = width) -> np.ndarray:
            return (weights * expit(((2 * k + 1) / last - 1 - middle) / width)).sum(0)

        yield Entries(places, cumulative, found.levels)
        own = DiscretizedLogistic(center, scale[:, :, c], found.levels, validate_args=False)
        log_weights = log_weights + own.log_prob(torch.from_numpy(values[:, places]))


def _tokens(found: TokenSequence, values: np.ndarray) -> Iterator[Entries]:
    """The tokens one by one, each given those before it; after the end there is one token, with certainty."""
    ended = np.zeros(len(values), dtype=bool)
    for t in range(values.shape[1]):
        before = np.where(np.arange(values.shape[1]) < t, values, END)
        logits = found.logits(torch.from_numpy(before).to(torch.get_default_dtype()))[:, t]
        masses = logits.detach().double().softmax(-1).cpu().numpy()
        masses[ended] = np.eye(found.num_tokens)[END]
        yield Entries(np.array([t]), _looked_up(masses.cumsum(-1)), found.num_tokens)
        ended |= values[:, t] == END


def _multinomial(found: TotalMultinomial, values: np.ndarray) -> Iterator[Entries]:
    """The counts one by one, each binomial in what those before it leave of the total; the last is certain."""
    left = flat(found.total_count, found.batch_shape)
    probs = found.logits.detach().double().softmax(-1).cpu().numpy()
    mass = probs[:, ::-1].cumsum(1)[:, ::-1]  # of an entry and those after it
    for j in range(values.shape[1]):
        share = np.minimum(probs[:, j] / np.maximum(mass[:, j], np.finfo(float).tiny), 1.0)
        yield Entries(np.array([j]), _binomial(left, share), int(left.max()) + 1)
        left = left - values[:, j]
