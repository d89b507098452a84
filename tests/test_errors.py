"""Errors name the argument at fault; checks at the door stand on each side of their limits."""

import pickle

import pytest

from pyrovae.errors import check_integer, check_word, did_you_mean, refusal


def test_an_error_keeps_its_argument_also_through_pickle():
    error = pickle.loads(pickle.dumps(refusal("no", argument="epochs", kind=TypeError)))
    assert (type(error), str(error), error.argument) == (TypeError, "no", "epochs")
    assert refusal("no").argument is None


@pytest.mark.parametrize(("value", "kind"), [(0, ValueError), (4, ValueError), (True, TypeError), (2.0, TypeError)])
def test_integers_out_of_range_or_of_another_kind_are_refused(value, kind):
    with pytest.raises(kind, match="size must be") as caught:
        check_integer("size", value, least=1, most=3)
    assert caught.value.argument == "size"


def test_the_limits_themselves_are_allowed():
    assert [check_integer("size", value, least=1, most=3) for value in (1, 3)] == [1, 3]


def test_words_are_looked_up_and_the_closest_is_proposed():
    assert check_word("kind", None, [None, "a"]) is None
    with pytest.raises(
        ValueError, match="kind must be one of alpha, beta, got 'alhpa'; did you mean 'alpha'"
    ) as caught:
        check_word("kind", "alhpa", ["alpha", "beta"])
    assert caught.value.argument == "kind"
    assert did_you_mean("zzz", ["alpha"]) == ""
    with pytest.raises(ValueError, match="kind must be one of"):
        check_word("kind", ["alpha"], ["alpha"])
