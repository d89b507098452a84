"""Schedules: their values against formulas, their ends, their copies and their refusals."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from pyrovae import schedules
from pyrovae.schedules import Progress, constant, cosine, cyclical, linear

EVERY = [
    constant(0.3),
    linear(0.1, 0.7, epochs=10),
    linear(4.0, 1.0, steps=37),
    cosine(0.1, 0.7, epochs=3),
    cyclical(0.0, 1.0, cycles=3, ramp=0.25, epochs=7),
]


def after(step: int, steps_per_epoch: int = 10) -> Progress:
    return Progress.at(step, steps_per_epoch)


@pytest.mark.parametrize("step", [0, 1, 9, 10, 49, 50, 99, 100, 101, 5000])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.1, 0.7), (4.0, 1.0), (2.0, 2.0)])
def test_values_against_interpolation(step: int, start: float, end: float):
    t = min(step / 100, 1)
    grid = np.linspace(0, 1, 20001)
    assert linear(start, end, epochs=10)(after(step)) == pytest.approx(np.interp(t, [0, 1], [start, end]), abs=1e-12)
    wave = np.interp(t, grid, start + (end - start) * np.sin(np.pi * grid / 2) ** 2)
    assert cosine(start, end, steps=100)(after(step)) == pytest.approx(wave, abs=1e-7)


def test_steps_and_epochs_are_the_same_clock():
    by_epochs, by_steps = linear(0, 1, epochs=2.5), linear(0, 1, steps=250)
    for step in range(0, 400, 7):
        assert by_epochs(after(step, 100)) == pytest.approx(by_steps(after(step, 100)), abs=1e-12)


def test_cyclical_climbs_in_every_cycle_and_rests_after_the_last():
    schedule = cyclical(0.2, 1.0, cycles=4, ramp=0.5, steps=80)
    values = np.array([schedule(after(step)) for step in range(80)]).reshape(4, 20)
    np.testing.assert_allclose(values, np.tile(values[0], (4, 1)), atol=1e-12)
    np.testing.assert_allclose(values[0, :11], np.linspace(0.2, 1.0, 11), atol=1e-12)
    assert set(values[0, 10:]) == {1.0}
    assert {schedule(after(step)) for step in range(80, 200)} == {1.0}


@pytest.mark.parametrize("schedule", EVERY, ids=repr)
def test_the_end_is_reached_exactly_and_for_good(schedule: schedules.Schedule):
    late = [after(step) for step in (100, 101, 10_000)]
    assert [schedule(progress) for progress in late] == [schedule.end] * 3
    assert all(schedule.reached(progress) for progress in late)
    assert all(isinstance(schedule(after(step)), float) for step in (0, 3, 1000))


@pytest.mark.parametrize("schedule", EVERY[1:], ids=repr)
def test_the_end_is_not_reached_at_first(schedule: schedules.Schedule):
    assert not schedule.reached(after(0))
    assert not schedule.reached(after(1))


def test_a_warm_up_of_all_epochs_is_reached_after_its_last_step_only():
    schedule = linear(0, 1, epochs=7)
    assert not schedule.reached(after(7 * 13 - 1, 13))
    assert schedule.reached(after(7 * 13, 13))


@pytest.mark.parametrize("schedule", EVERY, ids=repr)
def test_copies_are_equal_and_the_repr_is_the_call(schedule: schedules.Schedule):
    assert copy.deepcopy(schedule) == schedule == pickle.loads(pickle.dumps(schedule))
    assert eval(repr(schedule), vars(schedules)) == schedule
    assert hash(copy.deepcopy(schedule)) == hash(schedule)


def test_an_epoch_may_be_one_step():
    assert Progress.at(3, 1) == Progress(step=3, epoch=3.0, steps_per_epoch=1)


def test_schedules_are_frozen():
    with pytest.raises(AttributeError):
        EVERY[1].end = 2.0


@pytest.mark.parametrize("number", [1, np.float32(1.0), torch.tensor(1.0)])
def test_numbers_of_any_kind_become_floats(number: float):
    assert type(constant(number)(after(0))) is float


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: constant(-0.1), ValueError, "value must be finite and at least 0, got -0.1"),
        (lambda: constant(math.nan), ValueError, "finite and at least 0, got nan"),
        (lambda: constant(math.inf), ValueError, "finite and at least 0, got inf"),
        (lambda: constant("high"), TypeError, "value must be a number, got 'high'"),
        (lambda: linear(-1, 1, epochs=1), ValueError, "start must be finite and at least 0, got -1"),
        (lambda: linear(0, -1, epochs=1), ValueError, "end must be finite and at least 0, got -1"),
        (lambda: linear(0, 1), ValueError, "exactly one of epochs= and steps=, got neither; write epochs=10"),
        (lambda: cosine(0, 1, epochs=1, steps=1), ValueError, "exactly one of epochs= and steps=, got both"),
        (lambda: linear(0, 1, epochs=0), ValueError, "epochs must be finite and above 0, got 0; .*constant"),
        (lambda: cosine(0, 1, steps=-5), ValueError, "steps must be finite and above 0, got -5"),
        (lambda: linear(0, 1, steps="many"), TypeError, "steps must be a number, got 'many'"),
        (lambda: cyclical(cycles=0, epochs=1), ValueError, "cycles must be at least 1, got 0"),
        (lambda: cyclical(cycles=1.5, epochs=1), TypeError, "cycles must be an integer, got 1.5"),
        (lambda: cyclical(ramp=0, epochs=1), ValueError, r"ramp, .* must be in \(0, 1\].*got 0"),
        (lambda: cyclical(ramp=1.5, epochs=1), ValueError, r"ramp, .* must be in \(0, 1\].*got 1.5"),
        (lambda: Progress.at(-1, 10), ValueError, "got step=-1"),
        (lambda: Progress.at(0, 0), ValueError, "steps_per_epoch=0"),
    ],
)
def test_refusals_say_what_to_write(call, error, message):
    with pytest.raises(error, match=message):
        call()
