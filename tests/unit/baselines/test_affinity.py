"""The plain baseline of emerging items, on data where its parts are known."""

import numpy as np
import pytest

from metarec.baselines.affinity import Affinity, fit_affinity
from metarec.baselines.rating_tasks import RatingData, RatingTasks
from metarec.errors import ConfigError

GROUPS = np.eye(2)[np.arange(20) % 2]
"""Twenty items in two groups."""


def data() -> RatingData:
    """Thirty users: every third rates a point higher, even ones like the first group and odd ones the second."""
    user_R, item_T = np.meshgrid(np.arange(30), np.arange(20), indexing="ij")
    user_N, item_N = user_R.ravel(), item_T.ravel()
    label_N = 2.5 + (user_N % 3 == 0) + np.where(user_N % 2 == item_N % 2, 1.0, -1.0)
    return RatingData(
        user_N=item_N,
        item_N=user_N,
        label_N=label_N,
        user_UP=np.zeros((20, 0), np.float32),
        item_IP=np.zeros((30, 0), np.float32),
        minimum=0,
        maximum=5,
    )


def task(support: list[tuple[int, float]], query: list[int]) -> RatingTasks:
    """One new item of the second group."""
    return RatingTasks(
        user_T=np.array([0]),
        support_start_T1=np.array([0, len(support)]),
        support_item_S=np.array([row for row, _ in support], np.int64),
        support_label_S=np.array([label for _, label in support]),
        query_start_T1=np.array([0, len(query)]),
        query_item_Q=np.array(query),
        query_label_Q=np.zeros(len(query)),
    )


def test_an_item_nobody_rated_gets_its_users_levels_and_their_liking_of_its_group() -> None:
    fitted = Affinity(GROUPS, 1e-6, 1e-6, 5.0).fit(data()).moved(np.array([[0.0, 3.0]]))
    assert fitted.predict(task([], [3, 2, 1])) == pytest.approx([4.5, 1.5, 3.5], abs=1e-4)


def test_the_first_raters_move_everybody_by_their_shrunken_mean() -> None:
    fitted = Affinity(GROUPS, 1e-6, 1e-6, 2.0).fit(data()).moved(np.array([[0.0, 1.0]]))
    said = fitted.predict(task([(3, 4.0), (1, 3.0)], [5]))
    assert said == pytest.approx([3.5 - 2 * 0.5 / (2 + 2)], abs=1e-4)


def test_shrinkages_are_chosen_on_held_out_items_and_the_rest_is_as_fitted() -> None:
    found = fit_affinity(data(), GROUPS, GROUPS[:1], seed=0)
    assert set(found.settings) == {"row_shrinkage", "group_shrinkage", "task_shrinkage"}
    assert found.settings["group_shrinkage"] == 5.0  # without noise, the least is best
    assert found.predict(task([], [0]))[0][0] == pytest.approx(4.5, abs=0.9)


def test_a_shrinkage_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="group_shrinkage"):
        Affinity(GROUPS, 1.0, 0.0, 1.0)
