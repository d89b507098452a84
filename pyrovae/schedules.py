"""Schedules: from progress to a number, by functions; any callable of a `Progress` will do in their place.

>>> warm_up = linear(0.0, 1.0, epochs=10)
>>> warm_up(Progress.at(step=250, steps_per_epoch=100))
0.25
>>> warm_up
linear(0.0, 1.0, epochs=10)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

__all__ = ["Progress", "Schedule", "constant", "cosine", "cyclical", "linear", "one_cycle"]


@dataclass(frozen=True)
class Progress:
    """How far training has come: what a schedule is called with.

    Args:
        step: Optimiser steps taken so far; 0 before the first.
        epoch: Epochs so far, a fraction within an epoch: `step / steps_per_epoch`.
        steps_per_epoch: Steps in one epoch.

    >>> Progress.at(step=150, steps_per_epoch=100)
    Progress(step=150, epoch=1.5, steps_per_epoch=100)
    """

    step: int
    epoch: float
    steps_per_epoch: int

    @classmethod
    def at(cls, step: int, steps_per_epoch: int) -> Progress:
        """The progress after `step` steps.

        Args:
            step: Optimiser steps taken so far, at least 0.
            steps_per_epoch: Steps in one epoch, at least 1.

        Raises:
            ValueError: If the step is negative or an epoch has no step.
        """
        if step < 0 or steps_per_epoch < 1:
            raise ValueError(
                f"expected step >= 0 and steps_per_epoch >= 1, got step={step} and steps_per_epoch={steps_per_epoch}; "
                "count the optimiser steps taken so far, and give an epoch at least one batch"
            )
        return cls(step, step / steps_per_epoch, steps_per_epoch)


class Schedule(ABC):
    """A number that depends on the progress of training, with a target that it tends to.

    Attributes:
        end: The target, a float >= 0.
    """

    end: float

    @abstractmethod
    def __call__(self, progress: Progress) -> float:
        """The value at this progress, a float >= 0."""

    def reached(self, progress: Progress) -> bool:
        """Whether the value is at its target `end` at this progress.

        Asked after the last step, it says whether training ended before its target was reached (with beta below 1, say,
        where the model was never trained on the bound that is reported).

        Args:
            progress: The progress, with `step` the number of steps taken.
        """
        return self(progress) == self.end


@dataclass(frozen=True)
class _Span:
    """A length of training, in epochs or in steps."""

    epochs: float | None
    steps: float | None

    def fraction(self, progress: Progress) -> float:
        """The share of this span that is over: 0 at its beginning, 1 at its end and above 1 thereafter."""
        if self.epochs is not None:
            return progress.epoch / self.epochs
        return progress.step / self.steps if self.steps is not None else math.inf

    def __str__(self) -> str:
        return f"steps={self.steps}" if self.epochs is None else f"epochs={self.epochs}"


@dataclass(frozen=True, repr=False)
class _Constant(Schedule):
    end: float

    def __call__(self, progress: Progress) -> float:
        return self.end

    def __repr__(self) -> str:
        return f"constant({self.end})"


@dataclass(frozen=True, repr=False)
class _Linear(Schedule):
    start: float
    end: float
    span: _Span

    def __call__(self, progress: Progress) -> float:
        return _between(self.start, self.end, self.span.fraction(progress))

    def __repr__(self) -> str:
        return f"linear({self.start}, {self.end}, {self.span})"


@dataclass(frozen=True, repr=False)
class _Cosine(Schedule):
    start: float
    end: float
    span: _Span

    def __call__(self, progress: Progress) -> float:
        fraction = self.span.fraction(progress)
        return _between(self.start, self.end, 1.0 if fraction >= 1 else (1 - math.cos(math.pi * fraction)) / 2)

    def __repr__(self) -> str:
        return f"cosine({self.start}, {self.end}, {self.span})"


@dataclass(frozen=True, repr=False)
class _Cyclical(Schedule):
    start: float
    end: float
    cycles: int
    ramp: float
    span: _Span

    def __call__(self, progress: Progress) -> float:
        fraction = self.span.fraction(progress)
        phase = 1.0 if fraction >= 1 else (fraction * self.cycles) % 1.0
        return _between(self.start, self.end, phase / self.ramp)

    def __repr__(self) -> str:
        return f"cyclical({self.start}, {self.end}, cycles={self.cycles}, ramp={self.ramp}, {self.span})"


@dataclass(frozen=True, repr=False)
class _OneCycle(Schedule):
    peak: float
    warm_up: float
    span: _Span
    end: float = 0.0

    def __call__(self, progress: Progress) -> float:
        fraction = min(self.span.fraction(progress), 1.0)
        if fraction < self.warm_up:
            return self.peak * (0.05 + 0.95 * fraction / self.warm_up)
        return self.peak * (1 + math.cos(math.pi * (fraction - self.warm_up) / (1 - self.warm_up))) / 2

    def __repr__(self) -> str:
        return f"one_cycle({self.peak}, warm_up={self.warm_up}, {self.span})"


def constant(value: float) -> Schedule:
    """One value throughout.

    Args:
        value: The value, >= 0.

    Raises:
        ValueError: If the value is negative, infinite or NaN.

    >>> constant(0.5)(Progress.at(step=7, steps_per_epoch=10))
    0.5
    """
    return _Constant(_value("value", value))


def linear(start: float, end: float, *, epochs: float | None = None, steps: float | None = None) -> Schedule:
    r"""A straight line from `start` to `end`, which then stays at `end`.

    $s(t) = a + (b - a) \min(1, t / T)$.

    Args:
        start: The value $a$ before the first step, >= 0.
        end: The value $b$ from $T$ on, >= 0.
        epochs: The length $T$ in epochs, > 0; or
        steps: the length in optimiser steps, > 0.

    Raises:
        ValueError: If a value is negative, infinite or NaN; unless exactly one of `epochs` and `steps` is given.
        TypeError: If an argument is no number.

    References:
        Bowman et al. 2016, Generating Sentences from a Continuous Space, arXiv:1511.06349.

    >>> [linear(0, 1, steps=4)(Progress.at(step, 100)) for step in (0, 1, 4, 9)]
    [0.0, 0.25, 1.0, 1.0]
    """
    return _Linear(_value("start", start), _value("end", end), _span(epochs, steps))


def cosine(start: float, end: float, *, epochs: float | None = None, steps: float | None = None) -> Schedule:
    r"""Half a cosine wave from `start` to `end`, flat at both ends, which then stays at `end`.

    $s(t) = a + (b - a) (1 - \cos(\pi \min(1, t / T))) / 2$.

    Args:
        start: The value $a$ before the first step, >= 0.
        end: The value $b$ from $T$ on, >= 0.
        epochs: The length $T$ in epochs, > 0; or
        steps: the length in optimiser steps, > 0.

    Raises:
        ValueError: If a value is negative, infinite or NaN; unless exactly one of `epochs` and `steps` is given.
        TypeError: If an argument is no number.

    References:
        Loshchilov & Hutter 2017, SGDR, arXiv:1608.03983 (the shape).

    >>> [round(cosine(0, 1, steps=4)(Progress.at(step, 100)), 3) for step in (0, 1, 2, 4, 9)]
    [0.0, 0.146, 0.5, 1.0, 1.0]
    """
    return _Cosine(_value("start", start), _value("end", end), _span(epochs, steps))


def cyclical(
    start: float = 0.0,
    end: float = 1.0,
    *,
    cycles: int = 4,
    ramp: float = 0.5,
    epochs: float | None = None,
    steps: float | None = None,
) -> Schedule:
    r"""A line from `start` to `end` and a rest at `end`, several times over; afterwards it stays at `end`.

    $s(t) = a + (b - a) \min(1, \tau / R)$ with $\tau = (C t / T) \bmod 1$, and $s(t) = b$ for $t \ge T$.

    Args:
        start: The value $a$ at the beginning of each cycle, >= 0.
        end: The value $b$ in the rest of each cycle, >= 0.
        cycles: The number of cycles $C$, >= 1.
        ramp: The share $R$ of a cycle in which the value climbs, in (0, 1].
        epochs: The length $T$ of all cycles together, in epochs, > 0; or
        steps: in optimiser steps, > 0.

    Raises:
        ValueError: If a value is out of its range; unless exactly one of `epochs` and `steps` is given.
        TypeError: If an argument is no number.

    References:
        Fu et al. 2019, Cyclical Annealing Schedule, arXiv:1903.10145.

    >>> [cyclical(cycles=2, steps=8)(Progress.at(step, 100)) for step in range(9)]
    [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    """
    if isinstance(cycles, bool) or not isinstance(cycles, int):
        raise TypeError(f"expected cycles to be a whole number, got {cycles!r}; write cyclical(..., cycles=4)")
    if cycles < 1:
        raise ValueError(f"expected cycles >= 1, got {cycles}; write cyclical(..., cycles=4)")
    share = _number("ramp", ramp)
    if not 0 < share <= 1:
        raise ValueError(
            f"expected ramp in (0, 1], the share of a cycle spent climbing, got {ramp}; the usual one is ramp=0.5"
        )
    return _Cyclical(_value("start", start), _value("end", end), cycles, share, _span(epochs, steps))


def one_cycle(
    peak: float, *, warm_up: float = 0.1, epochs: float | None = None, steps: float | None = None
) -> Schedule:
    r"""A learning rate that climbs to a peak in a straight line and goes to zero along half a cosine wave.

    $s(t) = p (0.05 + 0.95 f / w)$ for $f = t / T < w$, then $p (1 + \cos(\pi (f - w) / (1 - w))) / 2$.

    Args:
        peak: The highest value $p$, > 0.
        warm_up: The share $w$ of the length in which the value climbs, in [0, 1).
        epochs: The length $T$ in epochs, > 0; or
        steps: in optimiser steps, > 0.

    Raises:
        ValueError: If a value is out of its range; unless exactly one of `epochs` and `steps` is given.
        TypeError: If an argument is no number.

    References:
        Smith & Topin 2019, Super-Convergence, arXiv:1708.07120.

    >>> [round(one_cycle(1.0, warm_up=0.5, steps=8)(Progress.at(step, 100)), 3) for step in (0, 2, 4, 6, 8)]
    [0.05, 0.525, 1.0, 0.5, 0.0]
    """
    share = _number("warm_up", warm_up)
    if not 0 <= share < 1:
        raise ValueError(f"expected warm_up in [0, 1), the share of the length spent climbing, got {warm_up}")
    return _OneCycle(_value("peak", peak), share, _span(epochs, steps))


def _between(start: float, end: float, fraction: float) -> float:
    return end if fraction >= 1 else start + (end - start) * fraction


def _number(name: str, value: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"expected {name} to be a number, got {value!r}; write {name}=1.0, say") from None


def _value(name: str, value: float) -> float:
    number = _number(name, value)
    if not 0 <= number < math.inf:
        raise ValueError(f"expected {name} to be finite and at least 0, got {value}; write {name}=0.0 or more")
    return number


def _span(epochs: float | None, steps: float | None) -> _Span:
    given = {name: value for name, value in {"epochs": epochs, "steps": steps}.items() if value is not None}
    if len(given) != 1:
        came = "both" if given else "neither"
        raise ValueError(
            f"expected exactly one of epochs= and steps=, got {came}; write epochs=10 (passes over the data) or "
            "steps=5000 (optimiser steps)"
        )
    for name, value in given.items():
        if not 0 < _number(name, value) < math.inf:
            raise ValueError(
                f"expected {name} to be finite and above 0, got {value}; without a warm-up write constant(1.0)"
            )
    return _Span(epochs, steps)
