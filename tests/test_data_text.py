"""Text as tokens and back."""

import gzip

import pytest
import torch

from pyrovae.data import Vocabulary, load, load_text, padded


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


def test_sequences_of_unequal_length_are_padded_with_missing_steps(tmp_path):
    nan = torch.nan
    steps = padded([[[1, 2], [3, 4]], [[5, 6]]])
    torch.testing.assert_close(steps, torch.tensor([[[1.0, 2], [3, 4]], [[5, 6], [nan, nan]]]), equal_nan=True)
    (tmp_path / "a.json").write_text("[[1, 2, 3], [4]]")
    x = load(tmp_path / "a.json").dense().x
    torch.testing.assert_close(x, torch.tensor([[1.0, 2, 3], [4, nan, nan]]), equal_nan=True)
    with gzip.open(tmp_path / "b.json.gz", "wt") as file:
        file.write('{"train": [[1], [2, 3]], "test": [[4]]}')
    assert load(tmp_path / "b.json.gz", array="train").dense().x.shape == (2, 2)
    for wrong, words in (([[1, [2]]], "steps of one shape"), ([[1], []], "at least one step"), ([], "got 0 with")):
        with pytest.raises(ValueError, match=words):
            padded(wrong)
    with pytest.raises(
        ValueError, match=r"b\.json\.gz: expected one list of sequences, got: 'train', 'test'; say which"
    ):
        load(tmp_path / "b.json.gz")
    (tmp_path / "a.json").write_text("[[1, 2")
    with pytest.raises(ValueError, match=r"a\.json: Expecting"):
        load(tmp_path / "a.json")


def test_the_lines_of_a_text_file_are_rows_of_codes(tmp_path):
    path = tmp_path / "poem.txt"
    path.write_text("to be\n\nor not to be\n")
    rows, vocabulary = load_text(path, words=True)
    assert vocabulary.decode(rows.dense().x) == ["to be", "or not to be"]
    short, characters = load_text(path, num_steps=6)
    assert characters.decode(short.dense().x) == ["to be"]
    assert short.dense().x.shape == (1, 6)
    with pytest.raises(ValueError, match="expected lines of fewer than 3 tokens"):
        load_text(path, num_steps=3)


def test_load_reads_the_lines_of_a_text_and_splits_them(tmp_path):
    path = tmp_path / "poem.txt"
    path.write_text("to be\nor not to be\n" * 10)
    for variant, words in (("words", True), ("characters", False)):
        rows = load(path, variant)
        vocabulary = Vocabulary(rows.levels["token"], words=rows.variant == "words")
        assert set(vocabulary.decode(rows.train.dense().x)) == {"to be", "or not to be"}
        assert (len(rows.train), len(rows.test), vocabulary.words) == (16, 2, words)
    with pytest.raises(ValueError, match="expected no labels= for lines of text"):
        load(path, "words", labels="a")
    path.write_text("To be, or not to be\nthat is the question\n")
    with pytest.raises(ValueError, match=r"poem\.txt: line 2 has 1 fields.*prose are read under variant='words'"):
        load(path)
