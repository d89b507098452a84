"""The plain values that a program reaches, by the way to each."""

from types import SimpleNamespace

from pyrovae.programs.outside import changed, plain_state


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
