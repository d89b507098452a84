"""Text as tokens: characters or words, and their codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrovae.errors import check_integer

END, UNKNOWN = "", "\ufffd"
"""The token that ends a text, with code 0; the one for tokens that are not listed, with code 1."""
WORDS = r"(?u)\w+(?:'\w+)*|[^\w\s]"


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of texts, characters or words, and their codes.

    Attributes:
        tokens: by their codes; the first two are the end of a text and a token that is not listed.
        words: whether tokens are words and punctuation, split by scikit-learn, instead of characters.

    >>> vocabulary = Vocabulary.of(["to be", "or not"])
    >>> vocabulary.decode(vocabulary.encode(["to be", "robot"]))
    ['to be', 'robot']
    >>> Vocabulary.of(["To be, or not"], words=True).split("to be,")
    ['to', 'be', ',']
    """

    tokens: tuple[str, ...]
    words: bool = False

    @classmethod
    def of(cls, texts: Sequence[str], words: bool = False, most: int = 10_000) -> Vocabulary:
        """The most frequent tokens of texts.

        Args:
            texts: one string per row.
            words: take words and punctuation instead of characters.
            most: at most so many tokens.
        """
        empty, counts = cls((END, UNKNOWN), words), Counter[str]()
        for text in _checked(texts):
            counts.update(empty.split(text))
        found = sorted(counts, key=lambda token: (-counts[token], token))
        return cls((END, UNKNOWN, *found[: check_integer("most", most, least=3) - 2]), words)

    def __len__(self) -> int:
        return len(self.tokens)

    def split(self, text: str) -> list[str]:
        """The tokens of a text."""
        return _splitter()(text) if self.words else list(text)

    def encode(self, texts: Sequence[str], num_steps: int | None = None) -> Tensor:
        """Codes of texts, ``(rows, num_steps)``: the end closes each text, and NaN follows it.

        Args:
            texts: one string per row.
            num_steps: the length of a row; by default that of the longest text and its end. A longer text is cut: its last
                tokens are missing, the end among them.
        """
        codes = {token: code for code, token in enumerate(self.tokens)}
        rows = [[*(codes.get(token, 1) for token in self.split(text)), 0] for text in _checked(texts)]
        length = max(map(len, rows)) if num_steps is None else check_integer("num_steps", num_steps)
        x = torch.full((len(rows), length), torch.nan)
        for row, found in zip(x, rows, strict=True):
            row[: len(found)] = torch.tensor(found[:length], dtype=x.dtype)
        return x

    def decode(self, codes: Tensor) -> list[str]:
        """The texts of rows of codes, up to the end or the first missing one."""
        texts = []
        for row in codes.nan_to_num(0.0).long().tolist():
            found = [self.tokens[code] for code in row[: row.index(0) if 0 in row else len(row)]]
            texts.append((" " if self.words else "").join(found))
        return texts

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} {'words' if self.words else 'characters'})"


def _splitter() -> Callable[[str], Any]:
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(token_pattern=WORDS).build_tokenizer()  # type: ignore[no-any-return]


def _checked(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str) or not len(texts) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"expected a sequence of strings, one per row, got {type(texts).__name__}: write [text], say")
    return texts
