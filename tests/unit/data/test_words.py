"""Words in every script, pairs of letters where a script puts no spaces between them."""

import unicodedata

import pytest

from metarec.data.spelling import MOST_MARKS
from metarec.data.words import LONGEST, spaceless_letters, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Toy Story (1995), it's a B-movie", ["toy", "story", "it", "movie"]),
        ("Café-Noir straße ÀX", ["café", "noir", "straße", "àx"]),
        ("Война и мир", ["война", "мир"]),
        ("한국 영화", ["한국", "영화"]),
        ("मैं हिन्दी फ़िल्म", [unicodedata.normalize("NFC", word) for word in ("मैं", "हिन्दी", "फ़िल्म")]),
        ("رجُل السينما", ["رجُل", "السينما"]),
        ("東京物語", ["東京", "京物", "物語"]),
        ("水、iPhoneが好き", ["水", "iphone", "が好", "好き"]),
        ("ไทยนี้", ["ไท", "ทย", "ยนี้"]),
        ("ຄົນລາວ", ["ຄົນ", "ນລ", "ລາ", "າວ"]),
        ("မြန်မာ", ["မြန်", "န်မာ"]),
        ("ខ្មែរ", ["ខ្មែ", "មែរ"]),
        ("ꦧꦱꦗ", ["ꦧꦱ", "ꦱꦗ"]),
        ("ＵＳＢ充电器", ["usb", "充电", "电器"]),
        ("ﾊﾟｿｺﾝ", ["パソ", "ソコ", "コン"]),
        ("手机\u200b壳", ["手机", "机壳"]),
        ("葛\U000e0100城", ["葛城"]),
        ("ශ්\u200dරී", ["ශ්රී"]),
        ("ㄅㄆㄇ", ["ㄅㄆ", "ㄆㄇ"]),
        ("𠀀𠀁水 ๑๒ Word™", ["𠀀𠀁", "𠀁水", "word"]),
        ("x_1 2001 _", []),
        ("", []),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found


def test_accents_are_the_same_however_they_are_written() -> None:
    assert words(unicodedata.normalize("NFD", "L'été à Zoë")) == words("L'été à Zoë") == ["été", "zoë"]


def test_of_a_long_text_a_part_is_read() -> None:
    (piled,) = words("e" + "\u0301\u0323" * 1_500)
    assert len(piled) <= 1 + MOST_MARKS
    assert len(words("の" * 3_000_000)) == LONGEST - 1


def test_letters_of_scripts_without_spaces_are_counted() -> None:
    assert spaceless_letters("plain words, Élan, हिन्दी, 한국") == 0
    assert spaceless_letters("《東京物語》 (1953)") == 4
