from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from metarec.data.inspection import inspect
from metarec.data.interactions import Interactions
from metarec.data.schema import Label

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


def events(user: list[int], item: list[int], label: list[float] | None = None, times: list[float] | None = None) -> Interactions:
    n = len(user)
    return Interactions(
        user_N=np.array(user, np.int32),
        item_N=np.array(item, np.int32),
        label_N=np.array(label or [4.0] * n, np.float32),
        timestamp_N=np.array(times or [0.0] * n, np.float64),
        scenario_N=np.zeros(n, np.int16),
    )


def test_the_figures_of_a_dataset(tiny_dataset: "Dataset") -> None:
    found = inspect(tiny_dataset)
    assert (found.users, found.items, found.events) == (80, 60, 80 * 14)
    assert found.density == pytest.approx(14 / 60)
    assert found.events_per_user == (14, 14, 14)
    assert found.targets == ("explicit", "implicit")
    assert found.question("explicit") == "ratings"
    assert found.question("implicit") == "lists"
    assert sum(found.labels.values()) == pytest.approx(1)
    assert found.timestamped
    assert found.days is not None
    assert (found.user_fields, found.item_fields, found.graph) == (2, 3, False)


def test_shots_are_those_for_which_users_have_interactions_left(tiny_dataset: "Dataset") -> None:
    # Fourteen interactions each: five shots and five asked for are ten, ten and five are fifteen.
    assert inspect(tiny_dataset).shots == (0, 1, 3, 5)


def test_repeated_interactions_of_a_pair_count_once_where_shots_are_counted(tiny_dataset: "Dataset") -> None:
    repeated = events([0] * 12, [1, 2, 3, 4, 5, 6] * 2)
    found = inspect(tiny_dataset.with_interactions(repeated))
    assert found.events == 12
    assert found.users_with_shots == {1: 1, 3: 0, 5: 0, 10: 0}
    assert found.density == pytest.approx(6 / (80 * 60))


def test_equal_labels_leave_only_the_question_what_users_take(tiny_dataset: "Dataset") -> None:
    found = inspect(tiny_dataset.with_interactions(events([0, 0, 1], [1, 2, 3])))
    assert found.targets == ("implicit",)
    assert found.labels == {"4": 1.0}


def test_further_targets_do_not_make_equal_labels_differ(tiny_dataset: "Dataset") -> None:
    purchases = replace(tiny_dataset.schema, targets=(Label(column="purchase", kind="binary"),))
    found = inspect(replace(tiny_dataset, schema=purchases, interactions=events([0, 0, 1], [1, 2, 3])))
    assert found.further_targets == ("purchase",)
    assert found.targets == ("implicit",)


def test_labels_of_yes_and_no_ask_for_clicks(tiny_dataset: "Dataset") -> None:
    binary = replace(tiny_dataset.schema, label=replace(tiny_dataset.schema.label, kind="binary", minimum=0.0, maximum=1.0))
    found = inspect(replace(tiny_dataset, schema=binary, interactions=events([0, 0, 1], [1, 2, 3], [0.0, 1.0, 1.0])))
    assert found.question("explicit") == "clicks"


def test_one_time_for_all_is_none(tiny_dataset: "Dataset") -> None:
    found = inspect(tiny_dataset.with_interactions(events([0, 1], [1, 1], times=[5.0, 5.0])))
    assert (found.timestamped, found.days) == (False, None)


def test_many_labels_are_told_by_their_quartiles(tiny_dataset: "Dataset") -> None:
    labels = [1 + k / 10 for k in range(41)]
    found = inspect(tiny_dataset.with_interactions(events([0] * 41, list(range(41)), labels)))
    assert list(found.labels) == ["0 %", "25 %", "50 %", "75 %", "100 %"]
    assert found.labels["50 %"] == pytest.approx(3.0)
