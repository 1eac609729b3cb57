"""The words of texts in any script.

Words are letters in a row with their marks (vowels of Indic scripts, accents). Scripts that put no spaces between words are cut
into overlapping pairs of letters instead, which find what two texts share without a dictionary (character bigrams: Nie & Ren
1999, "Chinese information retrieval: using characters or words?").
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

SPACELESS = (
    (0x0E00, 0x0E7F),  # Thai
    (0x0E80, 0x0EFF),  # Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # marks that stand for Chinese characters
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),  # Katakana of Ainu
    (0x3400, 0x4DBF),  # Chinese characters
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),  # Katakana of half width
    (0x20000, 0x323AF),
)
"""Code points, first and last, of scripts without spaces between words."""

LAST_MARK = 0x1F000
"""Marks of scripts are below this code point."""

ASCII_WORD = re.compile(r"[a-z]{2,}")


def words(text: str) -> list[str]:
    """Lower-case words of two letters (or a letter and a mark) and more; pairs of letters of scripts without spaces.

    A letter of such a script that stands alone is a word.
    """
    if text.isascii():
        return ASCII_WORD.findall(text.lower())
    found: list[str] = []
    for run in _letters().findall(unicodedata.normalize("NFC", text.lower())):
        if _spaceless().match(run):
            found += _pairs(run)
        elif len(run) > 1:
            found.append(run)
    return found


def spaceless_letters(text: str) -> int:
    """How many letters and marks of scripts without spaces there are."""
    return 0 if text.isascii() else len(_spaceless().findall(text))


def _pairs(run: str) -> Iterator[str]:
    """Each letter with its marks and the next one with its marks."""
    letters = _letter().findall(run)
    if len(letters) == 1:
        yield letters[0]
    for one, two in pairwise(letters):
        yield one + two


@cache
def _letters() -> re.Pattern[str]:
    """A run of letters with their marks, of scripts without spaces or of others."""
    marks, without = _marks(), _class(SPACELESS)
    return re.compile(rf"(?:(?=[{without}])[^\W\d_][{marks}]*)+|(?:(?![{without}])[^\W\d_][{marks}]*)+")


@cache
def _letter() -> re.Pattern[str]:
    return re.compile(rf"[^\W\d_][{_marks()}]*")


@cache
def _spaceless() -> re.Pattern[str]:
    return re.compile(f"[{_class(SPACELESS)}]")


@cache
def _marks() -> str:
    """The marks of all scripts, as the inside of a character class; a scan of some 30 ms, once."""
    ranges: list[tuple[int, int]] = []
    for code in range(0x300, LAST_MARK):
        if unicodedata.category(chr(code)) in ("Mn", "Mc"):
            first = ranges.pop()[0] if ranges and ranges[-1][1] == code - 1 else code
            ranges.append((first, code))
    return _class(tuple(ranges))


def _class(ranges: tuple[tuple[int, int], ...]) -> str:
    return "".join(f"{chr(low)}-{chr(high)}" for low, high in ranges)
