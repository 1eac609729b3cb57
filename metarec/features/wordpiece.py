"""Word pieces of uncased BERT models (Devlin et al. 2019; WordPiece: Wu et al. 2016), from the vocabulary of a `tokenizer.json`.

Texts are cleaned, CJK characters set apart, accents stripped, letters lowered, words split at white space and punctuation and cut
into the longest pieces that the vocabulary has, from the left; a word without any is the unknown piece.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from metarec.errors import InvalidInputError

CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
PARTS = re.compile(r"[^ \t\n\r]+")
"""What is surely apart, whatever normalising does."""
LONGEST_WORD = 100
"""Characters; a longer word is unknown."""


@dataclass(frozen=True, kw_only=True)
class WordPieces:
    """Ids of the pieces in `vocabulary`; `first`, `last` and `unknown` are the pieces around a text and of unknown words."""

    vocabulary: Mapping[str, int]
    first: int
    last: int
    unknown: int

    @staticmethod
    def read(text: str) -> "WordPieces":
        """From a `tokenizer.json`. InvalidInputError when it is of another kind of tokenizer."""
        data = json.loads(text)
        model = data.get("model", {})
        if model.get("type") != "WordPiece" or not (data.get("normalizer") or {}).get("lowercase"):
            raise InvalidInputError("the tokenizer is not one of uncased word pieces")
        vocabulary = {str(piece): int(number) for piece, number in model["vocab"].items()}
        return WordPieces(vocabulary=vocabulary, first=vocabulary["[CLS]"], last=vocabulary["[SEP]"], unknown=vocabulary["[UNK]"])

    def ids(self, text: str, most: int) -> list[int]:
        """The pieces of a text between `first` and `last`, `most` in all."""
        found = [self.first]
        for word in words(text):
            if len(found) >= most - 1:
                break
            found += self._pieces(word)
        return [*found[: most - 1], self.last]

    def _pieces(self, word: str) -> list[int]:
        if len(word) > LONGEST_WORD:
            return [self.unknown]
        found, start = [], 0
        while start < len(word):
            for stop in range(len(word), start, -1):
                number = self.vocabulary.get(word[start:stop] if start == 0 else "##" + word[start:stop])
                if number is not None:
                    break
            else:
                return [self.unknown]
            found.append(number)
            start = stop
        return found


def words(text: str) -> Iterator[str]:
    """The words of a text as the vocabulary spells them, punctuation marks and CJK characters being words of their own.

    Found as they are asked for: of a book, only the beginning is looked at.
    """
    for part in PARTS.finditer(text):
        yield from _words(part[0])


def _words(text: str) -> Iterator[str]:
    decomposed = unicodedata.normalize("NFD", "".join(map(_cleaned, text)))
    # Letter by letter: whole strings lower a final sigma in another way.
    lowered = "".join(char.lower() for char in decomposed if unicodedata.category(char) != "Mn")
    for chunk in lowered.split():
        start = 0
        for place, char in enumerate(chunk):
            if _is_punctuation(char):
                if start < place:
                    yield chunk[start:place]
                yield char
                start = place + 1
        if start < len(chunk):
            yield chunk[start:]


def _cleaned(char: str) -> str:
    if char in "\t\n\r":
        return " "
    if char == "\ufffd" or unicodedata.category(char) in ("Cc", "Cf", "Co"):
        return ""
    if char.isspace():
        return " "
    code = ord(char)
    return f" {char} " if any(low <= code <= high for low, high in CJK) else char


def _is_punctuation(char: str) -> bool:
    code = ord(char)
    symbols = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return symbols or unicodedata.category(char).startswith("P")
