"""Schedules: from progress to a number, by functions; any callable of a `Progress` will do in their place.

>>> warm_up = linear(0.0, 1.0, epochs=10)
>>> warm_up(Progress.at(step=250, steps_per_epoch=100))
0.25
>>> warm_up
linear(0.0, 1.0, epochs=10)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyrovae.errors import check_integer, refusal

__all__ = [
    *(
        "Progress",
        "Schedule",
        "constant",
        "cosine",
        "cyclical",
        "default_decay",
        "default_epochs",
        "default_rate",
        "linear",
        "one_cycle",
    ),
]
STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 5000, 50, 500
"""Steps of the default training of a small data set, and the epochs between which it lies."""
PEAK, PEAK_STEPS, LOWEST_PEAK, HIGHEST_PEAK = 0.01, 1000, 1e-3, 0.02
"""The peak of the learning rate in a training of so many steps, and the range of all peaks."""
LEAST_DECAY, MOST_DECAY = 0.99, 0.999
"""Between these lies the decay of Adam's squared gradients."""


@dataclass(frozen=True)
class Progress:
    """How far training has come: the argument of a schedule.

    Args:
        step: optimizer steps taken so far; 0 before the first.
        epoch: epochs so far, a fraction within an epoch: ``step / steps_per_epoch``.
        steps_per_epoch: steps in one epoch.

    >>> Progress.at(step=150, steps_per_epoch=100)
    Progress(step=150, epoch=1.5, steps_per_epoch=100)
    """

    step: int
    epoch: float
    steps_per_epoch: int

    @classmethod
    def at(cls, step: int, steps_per_epoch: int) -> Progress:
        """Return the progress after ``step`` optimizer steps, at least 0, of epochs of at least one step each."""
        if step < 0 or steps_per_epoch < 1:
            raise ValueError(
                f"expected step >= 0 and steps_per_epoch >= 1, got step={step} and steps_per_epoch={steps_per_epoch}; "
                "count the optimizer steps taken so far, and give an epoch at least one batch"
            )
        return cls(step, step / steps_per_epoch, steps_per_epoch)


@dataclass(frozen=True, repr=False)
class Schedule:
    """A number that depends on the progress of training; made by the functions of this room.

    Args:
        name: the name of the function that made it.
        values: that function's values: the last is the target, but for ``one_cycle``, which ends at 0.
        options: that function's other arguments, by name.
    """

    name: str
    values: tuple[float, ...]
    options: tuple[tuple[str, float], ...] = ()

    @property
    def end(self) -> float:
        """The target, a float >= 0."""
        return 0.0 if self.name == "one_cycle" else self.values[-1]

    def __call__(self, progress: Progress) -> float:
        """Return the value at this progress, a float >= 0."""
        options = dict(self.options)
        over = math.inf
        if "epochs" in options:
            over = progress.epoch / options["epochs"]
        elif "steps" in options:
            over = progress.step / options["steps"]
        return _CURVES[self.name](self.values, min(over, 1.0), options)

    def reached(self, progress: Progress) -> bool:
        """Whether the value is at its target ``end`` at this progress.

        After the last step, it says whether training ended before the target was reached: with beta below 1, say, the
        model was never trained on the bound that is reported.
        """
        return self(progress) == self.end

    def __repr__(self) -> str:
        return f"{self.name}({', '.join([*map(str, self.values), *(f'{key}={value}' for key, value in self.options)])})"


def _line(values: tuple[float, ...], over: float, options: Mapping[str, float]) -> float:
    start, end = values[0], values[-1]
    return end if over >= 1 else start + (end - start) * over


def _wave(values: tuple[float, ...], over: float, options: Mapping[str, float]) -> float:
    return _line(values, 1.0 if over >= 1 else (1 - math.cos(math.pi * over)) / 2, options)


def _cycles(values: tuple[float, ...], over: float, options: Mapping[str, float]) -> float:
    return _line(values, 1.0 if over >= 1 else (over * options["cycles"]) % 1.0 / options["ramp"], options)


def _climb_and_fall(values: tuple[float, ...], over: float, options: Mapping[str, float]) -> float:
    (peak,), warm_up = values, options["warm_up"]
    if over < warm_up:
        return peak * (0.05 + 0.95 * over / warm_up)
    return peak * (1 + math.cos(math.pi * (over - warm_up) / (1 - warm_up))) / 2


_CURVES: Mapping[str, Callable[[tuple[float, ...], float, Mapping[str, float]], float]] = {
    "constant": _line,
    "linear": _line,
    "cosine": _wave,
    "cyclical": _cycles,
    "one_cycle": _climb_and_fall,
}
"""The value of each schedule when this share of its length is over, from 0 to 1."""


def constant(value: float) -> Schedule:
    """Return a schedule of one value, >= 0, throughout.

    >>> constant(0.5)(Progress.at(step=7, steps_per_epoch=10))
    0.5
    """
    return Schedule("constant", (_value("value", value),))


def linear(start: float, end: float, *, epochs: float | None = None, steps: float | None = None) -> Schedule:
    r"""Return a straight line from ``start`` to ``end``, which then stays at ``end``.

    .. math:: s(t) = a + (b - a) \min(1, t / T)

    Args:
        start: the value :math:`a` before the first step, >= 0.
        end: the value :math:`b` from :math:`T` on, >= 0.
        epochs: the length :math:`T` in epochs, > 0; or
        steps: the length in optimizer steps, > 0.

    Raises:
        ValueError: a value is negative, infinite or NaN; or not exactly one of ``epochs`` and ``steps`` is given.
        TypeError: an argument is no number.

    Reference: Bowman et al. 2016, Generating Sentences from a Continuous Space, arXiv:1511.06349.

    >>> [linear(0, 1, steps=4)(Progress.at(step, 100)) for step in (0, 1, 4, 9)]
    [0.0, 0.25, 1.0, 1.0]
    """
    return Schedule("linear", (_value("start", start), _value("end", end)), _length(epochs, steps))


def cosine(start: float, end: float, *, epochs: float | None = None, steps: float | None = None) -> Schedule:
    r"""Return half a cosine wave from ``start`` to ``end``, flat at both ends, which then stays at ``end``.

    .. math:: s(t) = a + (b - a) (1 - \cos(\pi \min(1, t / T))) / 2

    Arguments and errors are those of :func:`linear`.

    Reference: Loshchilov & Hutter 2017, SGDR, arXiv:1608.03983 (the shape).

    >>> [round(cosine(0, 1, steps=4)(Progress.at(step, 100)), 3) for step in (0, 1, 2, 4, 9)]
    [0.0, 0.146, 0.5, 1.0, 1.0]
    """
    return Schedule("cosine", (_value("start", start), _value("end", end)), _length(epochs, steps))


def cyclical(
    start: float = 0.0,
    end: float = 1.0,
    *,
    cycles: int = 4,
    ramp: float = 0.5,
    epochs: float | None = None,
    steps: float | None = None,
) -> Schedule:
    r"""Return a line from ``start`` to ``end`` and a rest at ``end``, several times over; afterwards it stays at ``end``.

    .. math:: s(t) = a + (b - a) \min(1, \tau / R), \quad \tau = (C t / T) \bmod 1, \qquad s(t) = b \text{ for } t \ge T

    Args:
        start: the value :math:`a` at the beginning of each cycle, >= 0.
        end: the value :math:`b` in the rest of each cycle, >= 0.
        cycles: the number of cycles :math:`C`, >= 1.
        ramp: the share :math:`R` of a cycle in which the value climbs, in (0, 1].
        epochs: the length :math:`T` of all cycles together, in epochs, > 0; or
        steps: in optimizer steps, > 0.

    Raises:
        ValueError: a value is out of its range; or not exactly one of ``epochs`` and ``steps`` is given.
        TypeError: an argument is no number.

    Reference: Fu et al. 2019, Cyclical Annealing Schedule, arXiv:1903.10145.

    >>> [cyclical(cycles=2, steps=8)(Progress.at(step, 100)) for step in range(9)]
    [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    """
    check_integer("cycles", cycles)
    share = _number("ramp", ramp)
    if not 0 < share <= 1:
        raise refusal(f"ramp, the share of a cycle spent climbing, must be in (0, 1], got {ramp}", "ramp")
    options = (("cycles", cycles), ("ramp", share), *_length(epochs, steps))
    return Schedule("cyclical", (_value("start", start), _value("end", end)), options)


def one_cycle(
    peak: float, *, warm_up: float = 0.1, epochs: float | None = None, steps: float | None = None
) -> Schedule:
    r"""Return a learning rate that climbs to a peak in a straight line and falls to zero along half a cosine wave.

    .. math::
        s(t) = p\,(0.05 + 0.95 f / w) \text{ for } f = t / T < w, \quad \text{then} \quad
        p\,(1 + \cos(\pi (f - w) / (1 - w))) / 2

    Args:
        peak: the highest value :math:`p`, >= 0.
        warm_up: the share :math:`w` of the length in which the value climbs, in [0, 1).
        epochs: the length :math:`T` in epochs, > 0; or
        steps: in optimizer steps, > 0.

    Raises:
        ValueError: a value is out of its range; or not exactly one of ``epochs`` and ``steps`` is given.
        TypeError: an argument is no number.

    Reference: Smith & Topin 2019, Super-Convergence, arXiv:1708.07120.

    >>> [round(one_cycle(1.0, warm_up=0.5, steps=8)(Progress.at(step, 100)), 3) for step in (0, 2, 4, 6, 8)]
    [0.05, 0.525, 1.0, 0.5, 0.0]
    """
    share = _number("warm_up", warm_up)
    if not 0 <= share < 1:
        raise refusal(f"warm_up, the share of the length spent climbing, must be in [0, 1), got {warm_up}", "warm_up")
    return Schedule("one_cycle", (_value("peak", peak),), (("warm_up", share), *_length(epochs, steps)))


def default_epochs(steps_per_epoch: int) -> int:
    """Epochs where nothing else is asked for: about 5,000 steps, in 50 to 500 epochs.

    >>> default_epochs(9), default_epochs(400)
    (500, 50)
    """
    return min(max(FEWEST_EPOCHS, math.ceil(STEPS / steps_per_epoch)), MOST_EPOCHS)


def default_rate(steps: int, warm_up: float = 0.3) -> Schedule:
    r"""The learning rate where nothing else is asked for: one cycle over all steps T, the lower the more there are.

    .. math:: p(T) = 0.01 \sqrt{1000 / T}, \quad \text{between } 0.001 \text{ and } 0.02

    >>> default_rate(4000)
    one_cycle(0.005, warm_up=0.3, steps=4000)
    """
    peak = min(max(PEAK * math.sqrt(PEAK_STEPS / steps), LOWEST_PEAK), HIGHEST_PEAK)
    return one_cycle(float(f"{peak:.3g}"), warm_up=warm_up, steps=steps)


def default_decay(steps: int) -> float:
    r"""Adam's decay of squared gradients where nothing else is asked for: a memory of a twentieth of T steps.

    .. math:: \beta_2(T) = 1 - 20 / T, \quad \text{between } 0.99 \text{ and } 0.999

    >>> default_decay(500), default_decay(5000), default_decay(50_000)
    (0.99, 0.996, 0.999)
    """
    return min(max(1 - 20 / steps, LEAST_DECAY), MOST_DECAY)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise refusal(f"{name} must be a number, got {value!r:.100}; write {name}=1.0, say", name, TypeError) from None


def _value(name: str, value: Any) -> float:
    number = _number(name, value)
    if not 0 <= number < math.inf:
        raise refusal(f"{name} must be finite and at least 0, got {value}", name)
    return number


def _length(epochs: float | None, steps: float | None) -> tuple[tuple[str, float]]:
    given = [(name, value) for name, value in (("epochs", epochs), ("steps", steps)) if value is not None]
    if len(given) != 1:
        raise ValueError(
            f"expected exactly one of epochs= and steps=, got {'both' if given else 'neither'}; write epochs=10 (passes over "
            "the data) or steps=5000 (optimizer steps)"
        )
    name, value = given[0]
    if not 0 < _number(name, value) < math.inf:
        raise refusal(f"{name} must be finite and above 0, got {value}; without a warm-up write constant(1.0)", name)
    return ((name, value),)
