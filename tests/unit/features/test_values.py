import numpy as np
import pandas as pd
import pytest

from metarec.errors import InvalidInputError
from metarec.features.values import as_categories, as_category, as_number, as_text, as_vector


@pytest.mark.parametrize("missing", [None, float("nan"), "", (), np.zeros(0), pd.NA, pd.NaT])
@pytest.mark.parametrize("read", [as_category, as_categories, as_number, as_text, lambda v, f: as_vector(v, f, 2)])
def test_every_form_of_nothing_is_missing(read, missing):
    assert read(missing, "x") is None


@pytest.mark.parametrize(
    ("read", "wrong"),
    [
        (as_category, 1.5),
        (as_category, ("a",)),
        (as_category, True),
        (as_categories, (1, 2)),
        (as_categories, 3.0),
        (as_number, "3"),
        (as_number, True),
        (as_number, float("inf")),
        (as_text, 3.0),
        (lambda v, f: as_vector(v, f, 2), (1.0,)),
        (lambda v, f: as_vector(v, f, 2), (1.0, "x")),
        (lambda v, f: as_vector(v, f, 2), (1.0, float("nan"))),
    ],
)
def test_a_wrong_type_is_refused_by_name(read, wrong):
    with pytest.raises(InvalidInputError, match="'colour'") as refusal:
        read(wrong, "colour")
    assert refusal.value.field == "colour"


def test_repeated_categories_count_once_and_whole_numbers_are_codes():
    assert as_categories(["b", "a", "b"], "x") == ("b", "a")
    assert as_category(np.int64(7), "x") == "7"
