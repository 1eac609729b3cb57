"""One spelling for what is written in several ways."""

import unicodedata

import pytest

from metarec.data.spelling import MOST_MARKS, composed, spelled


@pytest.mark.parametrize("text", ["", "plain", "Café Noir", "हिन्दी", "パソコン", "한국", "Å"])
def test_whatever_the_form_the_spelling_is_that_of_import(text: str) -> None:
    for form in ("NFC", "NFD"):
        assert composed(unicodedata.normalize(form, text)) == unicodedata.normalize("NFC", text)
        assert spelled(f" \t{unicodedata.normalize(form, text)}\u3000\n") == unicodedata.normalize("NFC", text)


def test_what_reads_otherwise_stays_apart() -> None:
    assert len({composed(text) for text in ("e", "é", "è", "ｅ", "E")}) == 5


@pytest.mark.parametrize("marks", ["\u0301\u0323", "\u0f73\u0f75\u0f81", "\u3099\u0323", "\u0f71\u0323"])
def test_marks_without_end_are_cut_off(marks: str) -> None:
    # 3,000 of them are put in order within a second if they are not.
    assert len(composed("e" + marks * 1_500)) <= 1 + 2 * MOST_MARKS
