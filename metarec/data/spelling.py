"""One spelling for what is told apart by its letters: ids, categories, the words of texts."""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache

MOST_MARKS = 30
"""In a row (as in UAX #15, stream-safe text): to put more of them in order takes the square of their number."""

FIRST_MARK, LAST_MARK = 0x300, 0x1F000
"""Marks of scripts are between these code points."""


def spelled(text: str) -> str:
    """The text as import spells ids and categories: without surrounding spaces, composed."""
    return composed(text.strip())


def composed(text: str) -> str:
    """The text with letters and marks composed (Unicode's NFC); marks beyond MOST_MARKS in a row go where that changes it."""
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text
    return unicodedata.normalize("NFC", _piled().sub(r"\1", text))


def char_class(codes: Iterable[int]) -> str:
    """The inside of a regular expression's character class of these ascending code points."""
    ranges: list[tuple[int, int]] = []
    for code in codes:
        first = ranges.pop()[0] if ranges and ranges[-1][1] == code - 1 else code
        ranges.append((first, code))
    return "".join(f"{chr(low)}-{chr(high)}" for low, high in ranges)


@cache
def _piled() -> re.Pattern[str]:
    """Marks beyond the first MOST_MARKS in a row; a scan of some 40 ms, once."""
    return re.compile(f"([{_marks()}]{{{MOST_MARKS}}})[{_marks()}]+")


def _marks() -> str:
    """What composing puts in order, as the inside of a character class: marks, and three of Tibetan that are made of marks."""
    normal = ((code, unicodedata.normalize("NFD", chr(code))) for code in range(FIRST_MARK, LAST_MARK))
    return char_class(code for code, parts in normal if unicodedata.combining(parts[0]))
