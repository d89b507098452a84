"""Text as tokens and back."""

import pytest
import torch

from pyrovae.data import Vocabulary


def test_characters_go_to_codes_and_back_with_the_end_before_the_padding():
    vocabulary = Vocabulary.of(["aab", "b"])
    assert vocabulary.tokens[2:] == ("a", "b")  # by frequency, then by name
    x = vocabulary.encode(["ab", "b?"])
    nan = torch.nan
    torch.testing.assert_close(x, torch.tensor([[2.0, 3.0, 0.0], [3.0, 1.0, 0.0]]), equal_nan=True)
    torch.testing.assert_close(vocabulary.encode(["b"], 3), torch.tensor([[3.0, 0.0, nan]]), equal_nan=True)
    assert vocabulary.decode(x) == ["ab", "b\ufffd"]
    assert vocabulary.decode(torch.tensor([[3.0, 0.0, 2.0]])) == ["b"]
    assert repr(vocabulary) == "Vocabulary(4 characters)"


def test_a_long_text_is_cut_and_loses_its_end():
    vocabulary = Vocabulary.of(["aab"])
    torch.testing.assert_close(vocabulary.encode(["aab"], 3), torch.tensor([[2.0, 2.0, 3.0]]))
    assert not vocabulary.encode(["aab"], 4).isnan().any()
    assert vocabulary.decode(torch.tensor([[2.0, torch.nan]])) == ["a"]


def test_words_are_split_from_punctuation_and_the_rare_ones_are_left_out():
    texts = ["O, that's the way", "the way, O"]
    vocabulary = Vocabulary.of(texts, words=True, most=6)
    assert vocabulary.split(texts[0]) == ["O", ",", "that's", "the", "way"]
    assert set(vocabulary.tokens) == {"", "\ufffd", ",", "O", "the", "way"}
    assert vocabulary.decode(vocabulary.encode(texts)) == ["O , \ufffd the way", "the way , O"]


def test_texts_are_strings_in_a_sequence():
    for wrong in ("abc", [], [1, 2]):
        with pytest.raises(TypeError, match="expected a sequence of strings, one per row"):
            Vocabulary.of(wrong)
    with pytest.raises(ValueError, match="most must be at least 3, got 2"):
        Vocabulary.of(["a"], most=2)
