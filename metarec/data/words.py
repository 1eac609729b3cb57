"""The words of texts in any script.

Words are letters in a row with their marks (vowels of Indic scripts, accents). Scripts that put no spaces between words are cut
into overlapping pairs of letters instead, which find what two texts share without a dictionary (character bigrams: Nie & Ren
1999, "Chinese information retrieval: using characters or words?").
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise

from metarec.data.spelling import FIRST_MARK, LAST_MARK, char_class, composed

SPACELESS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x3005, 0x3007),  # marks that stand for Chinese characters
    (0x3040, 0x312F),  # Hiragana, Katakana, Bopomofo
    (0x31A0, 0x31FF),  # more of Bopomofo and Katakana
    (0x3400, 0x4DBF),  # Chinese characters
    (0x4E00, 0x9FFF),
    (0xA980, 0xA9DF),  # Javanese
    (0xAA60, 0xAADF),  # more of Burmese, Tai Viet
    (0xF900, 0xFAFF),  # Chinese characters again
    (0x20000, 0x323AF),
)
"""Code points, first and last, of scripts without spaces between words."""

IGNORED = re.compile(
    "[\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0100-\U000e01ef]"
)
"""Characters without a width: joiners, directions, variants of how a letter looks."""

WIDE = re.compile("[\uff21-\uff3a\uff41-\uff5a\uff66-\uffdc]+")
"""Letters of full and of half width, which are others of the usual width."""

LONGEST = 100_000
"""Characters of a text that are read."""

ASCII_WORD = re.compile(r"[a-z]{2,}")


def words(text: str) -> list[str]:
    """Lower-case words of two letters (or a letter and a mark) and more; pairs of letters of scripts without spaces.

    A letter of such a script that stands alone is a word. What comes after LONGEST characters is not read.
    """
    text = text[:LONGEST]
    if text.isascii():
        return ASCII_WORD.findall(text.lower())
    text = WIDE.sub(lambda part: unicodedata.normalize("NFKC", part[0]), IGNORED.sub("", text)).lower()
    found: list[str] = []
    for spaceless, word in _words().findall(composed(text)):
        if spaceless:
            found += _pairs(spaceless)
        elif len(word) > 1:
            found.append(word)
    return found


def spaceless_letters(text: str) -> int:
    """How many letters and marks of scripts without spaces there are."""
    return 0 if text.isascii() else len(_spaceless().findall(text))


def _pairs(run: str) -> list[str]:
    """Each letter with its marks and the next one with its marks."""
    letters = _letter().findall(run) if _mark().search(run) else run
    return [one + two for one, two in pairwise(letters)] or [run]


@cache
def _words() -> re.Pattern[str]:
    """Letters in a row with their marks: those of scripts without spaces as the first group, others as the second."""
    letters = char_class(_codes(SPACELESS, _is_letter))
    other = rf"[^\W\d_{letters}]"
    return re.compile(rf"([{letters}][{letters}{_marks()}]*)|({other}(?:{other}|[{_marks()}])*)")


@cache
def _letter() -> re.Pattern[str]:
    """A letter with its marks."""
    return re.compile(rf"[^{_marks()}][{_marks()}]*")


@cache
def _mark() -> re.Pattern[str]:
    return re.compile(f"[{_marks()}]")


@cache
def _spaceless() -> re.Pattern[str]:
    """A letter or mark of a script without spaces."""
    return re.compile(f"[{char_class(_codes(SPACELESS, lambda char: _is_letter(char) or _is_mark(char)))}]")


@cache
def _marks() -> str:
    """The marks of all scripts, as the inside of a character class; a scan of some 20 ms, once."""
    return char_class(_codes(((FIRST_MARK, LAST_MARK),), _is_mark))


def _is_letter(char: str) -> bool:
    return unicodedata.category(char).startswith("L")


def _is_mark(char: str) -> bool:
    return unicodedata.category(char) in ("Mn", "Mc")


def _codes(ranges: Iterable[tuple[int, int]], wanted: Callable[[str], bool]) -> Iterator[int]:
    return (code for low, high in ranges for code in range(low, high + 1) if wanted(chr(code)))
