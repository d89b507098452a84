"""The plain values that a program reaches, by the way to each."""

import sys
from collections import deque
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from pyrovae.programs.outside import LIBRARIES, MOST_VALUES, changed, plain_state


def function(number):
    def found(x, held=(number,)):
        return x

    return found


def test_every_function_of_many_is_looked_into():
    found = plain_state([function(number) for number in range(50)], ())
    held = {value for path, value in found.items() if path.startswith("found's defaults[0][0][0]")}
    assert held == set(range(50))


def test_a_value_that_is_new_moves_no_other():
    many = [SimpleNamespace(held=function(number)) for number in range(3)]
    before = plain_state(many, ())
    many[2].new = SimpleNamespace(numbers=[5, 6, 7])
    assert changed(before, plain_state(many, ())) is None
    many[0].held.__defaults__ = ((9,),)
    assert changed(before, plain_state(many, ())).startswith("found's defaults[0][0][0]")


class Slotted:
    __slots__ = ("calls",)

    def __init__(self, calls):
        self.calls = calls


class Base:
    calls = 0


class Derived(Base):
    pass


def kept(value):
    return lambda: value


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda n: deque([n], 5), "value[0]"),
        (lambda n: {"beta": np.float32(n)}, "value['beta']"),
        (Slotted, "value.calls"),
        (lambda n: SimpleNamespace(last=[Slotted(n)]), "value.last[0].calls"),
        (lambda n: {"last": torch.zeros(n)}, "value['last']"),
        (torch.zeros, "value"),
    ],
)
def test_values_that_are_other_ones_are_found(make, path):
    assert changed(plain_state(kept(make(1)), LIBRARIES), plain_state(kept(make(2)), LIBRARIES)) == path
    one = make(1)
    assert changed(plain_state(kept(one), LIBRARIES), plain_state(kept(one), LIBRARIES)) is None


def test_numbers_that_are_replaced_by_data_are_found():
    module = torch.nn.Linear(2, 2)
    before = plain_state(kept(module), LIBRARIES)
    module.weight.data.clamp_(-0.1, 0.1)
    assert changed(before, plain_state(kept(module), LIBRARIES)) is None
    module.weight.data = module.weight.data.clamp(-0.1, 0.1)
    assert changed(before, plain_state(kept(module), LIBRARIES)) == "value._parameters['weight']"


def test_a_number_of_a_base_class_is_found(monkeypatch):
    program = kept(Derived())
    before = plain_state(program, LIBRARIES)
    monkeypatch.setattr(Base, "calls", 1)
    assert changed(before, plain_state(program, LIBRARIES)) == "value.calls"


class Refusing(dict):
    def items(self):
        raise OSError("the file is closed")


def test_objects_that_refuse_to_be_looked_at_are_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "without_file", ModuleType("without_file"))
    sys.modules["without_file"].__file__ = None
    for name in ("gone.module", "without_file", None):
        made = type("Made", (), {"__module__": name, "number": 3})
        assert 3 in plain_state(kept(made()), LIBRARIES).values()
    assert plain_state(kept([Refusing(a=1), 7]), LIBRARIES)["value[1]"] == 7


def test_of_very_many_values_the_near_ones_are_looked_at():
    many, near = [[[0] * 200 for _ in range(200)] for _ in range(200)], {"calls": 0}

    def program():
        return many, near

    before = plain_state(program, LIBRARIES)
    assert len(before) <= MOST_VALUES
    near["calls"] = 1
    assert changed(before, plain_state(program, LIBRARIES)) == "near['calls']"
