"""Plain top-N baselines against brute force on a small data set."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from metarec.baselines.ials import ImplicitALS
from metarec.baselines.neighbours import Ease, ItemKNN
from metarec.baselines.popularity import GroupPopularity, Popularity, RecentPopularity
from metarec.baselines.registry import TOPN, too_large, topn_candidates
from metarec.data.dataset import Dataset
from metarec.errors import ConfigError

USERS, ITEMS = 14, 9


@dataclass(frozen=True)
class Events:
    """What baselines read of a data set."""

    interactions: SimpleNamespace
    item_ids: NDArray[np.int64] = field(default_factory=lambda: np.arange(ITEMS))
    users: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame({"gender": ["f", "m"] * (USERS // 2), "age": np.arange(20.0, 20 + USERS)})
    )
    has_timestamps: bool = True

    @property
    def taken(self) -> "Events":
        return self


def train() -> Dataset:
    random = np.random.default_rng(4)
    user_N, item_N = np.nonzero(random.random((USERS, ITEMS)) < np.linspace(0.8, 0.15, ITEMS))
    times = random.permutation(len(user_N)).astype(float)
    return cast(Dataset, Events(SimpleNamespace(user_N=user_N, item_N=item_N, timestamp_N=times)))


def binary(data: Dataset) -> NDArray[np.float64]:
    matrix = np.zeros((USERS, ITEMS))
    matrix[data.interactions.user_N, data.interactions.item_N] = 1
    return matrix


SUPPORTS = [np.array([0, 3]), np.array([2]), np.array([], np.int64)]
ROWS = np.array([0, 1, 2])


@pytest.mark.parametrize("name", sorted(TOPN))
def test_every_baseline_scores_every_item_and_ranks_by_popularity_without_support(name: str) -> None:
    data = train()
    scores = TOPN[name][0]().fit(data).score(SUPPORTS, ROWS)
    assert scores.shape == (3, ITEMS)
    assert np.isfinite(scores).all()
    if name != "recent_popularity":
        count_I = binary(data).sum(0)
        assert (np.diff(count_I[np.argsort(-scores[2], kind="stable")]) <= 0).all()


@pytest.mark.parametrize("name", sorted(TOPN))
def test_a_users_scores_do_not_depend_on_the_others(name: str) -> None:
    fitted = TOPN[name][0]().fit(train())
    together, alone = fitted.score(SUPPORTS, ROWS), fitted.score(SUPPORTS[:1], ROWS[:1])
    assert (np.argsort(-together[0], kind="stable") == np.argsort(-alone[0], kind="stable")).all()


def test_popularity_counts_users() -> None:
    assert Popularity().fit(train()).score(SUPPORTS, ROWS)[0].tolist() == binary(train()).sum(0).tolist()


def test_recent_popularity_counts_the_newest_interactions() -> None:
    data = train()
    size = len(data.interactions.user_N)
    newest = data.interactions.timestamp_N >= size - round(0.25 * size)
    counts = np.bincount(data.interactions.item_N[newest], minlength=ITEMS)
    assert np.floor(RecentPopularity(0.25).fit(data).score(SUPPORTS, ROWS)[0]).tolist() == counts.tolist()


def test_group_popularity_is_the_groups_share_shrunk_to_everyones() -> None:
    matrix = binary(train())
    group = matrix[1::2].sum(0)
    share = matrix.sum(0) / matrix.sum()
    expected = (group + 7 * share) / (group.sum() + 7)
    np.testing.assert_allclose(GroupPopularity("gender", 7.0).fit(train()).score(SUPPORTS, ROWS)[1], expected, rtol=1e-6)


def test_group_popularity_cuts_numbers_at_quantiles() -> None:
    fitted = GroupPopularity("age", 1.0).fit(train())
    assert fitted.group_U[0] == fitted.group_U[1] != fitted.group_U[-1]
    assert (np.diff(fitted.group_U) >= 0).all()


def test_item_knn_sums_the_shrunken_cosines() -> None:
    matrix, scores = binary(train()), ItemKNN(5.0).fit(train()).score(SUPPORTS, ROWS)
    for item in range(ITEMS):
        expected = sum(
            (matrix[:, item] @ matrix[:, other]) / (np.sqrt(matrix[:, item].sum() * matrix[:, other].sum()) + 5)
            for other in SUPPORTS[0]
            if other != item
        )
        assert scores[0, item] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_item_knn_keeps_the_nearest_neighbours_of_the_scored_item() -> None:
    fitted = ItemKNN(1.0, neighbours=2).fit(train())
    whole = ItemKNN(1.0).fit(train()).similarity_II
    for item in range(ITEMS):
        # Items as near as the second nearest stay with it.
        near = whole[:, item] >= np.sort(whole[:, item])[-2]
        np.testing.assert_array_equal(fitted.similarity_II[:, item], np.where(near, whole[:, item], 0))


def test_ease_solves_a_ridge_regression_per_item_without_the_item_itself() -> None:
    matrix, fitted = binary(train()), Ease(3.0).fit(train())
    for item in range(ITEMS):
        others = [other for other in range(ITEMS) if other != item]
        design = matrix[:, others]
        weights = np.linalg.solve(design.T @ design + 3 * np.eye(ITEMS - 1), design.T @ matrix[:, item])
        np.testing.assert_allclose(fitted.weight_II[others, item], weights, atol=1e-10)
        assert fitted.weight_II[item, item] == 0


def test_ials_folds_a_user_in_by_least_squares_over_the_whole_catalogue() -> None:
    fitted = ImplicitALS(3, 0.2, 0.05, exponent=1.0).fit(train())
    items = fitted.item_ID
    support = SUPPORTS[0]
    weight = 0.05 * (len(support) + 0.2 * ITEMS)
    design = np.concatenate([items[support], np.sqrt(0.2) * items, np.sqrt(weight) * np.eye(3)])
    target = np.concatenate([np.ones(len(support)), np.zeros(ITEMS + 3)])
    user = np.linalg.lstsq(design, target)[0]
    np.testing.assert_allclose(fitted.score(SUPPORTS, ROWS)[0], items @ user, atol=1e-5)


def test_ials_sweeps_lower_its_objective() -> None:
    matrix = binary(train())

    def objective(epochs: int) -> float:
        items = ImplicitALS(3, 0.2, 0.05, exponent=0.0, epochs=epochs).fit(train()).item_ID
        gram = 0.2 * items.T @ items + 0.05 * np.eye(3)
        users = np.stack([np.linalg.solve(gram + items[row > 0].T @ items[row > 0], items[row > 0].sum(0)) for row in matrix])
        score = users @ items.T
        fit = (matrix * (1 - score) ** 2).sum() + 0.2 * (score**2).sum()
        return float(fit + 0.05 * ((users**2).sum() + (items**2).sum()))

    assert objective(1) > objective(3) > objective(9)


def test_candidates_follow_what_the_data_has() -> None:
    data = cast(Events, train())
    assert {"popularity_by_age", "popularity_by_gender", "recent_popularity"} <= set(topn_candidates(cast(Dataset, data)))
    bare = replace(data, has_timestamps=False, users=pd.DataFrame({"city": ["x"] * USERS}))
    found = topn_candidates(cast(Dataset, bare))
    assert "recent_popularity" not in found
    assert not any(name.startswith("popularity_by") for name in found)


def test_catalogues_too_large_for_all_pairs_do_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not too_large(train())
    monkeypatch.setattr("metarec.baselines.registry.MAX_PAIRED_ITEMS", ITEMS - 1)
    assert too_large(train()) == ("item_knn", "ease")
    assert not {"item_knn", "ease"} & set(topn_candidates(train()))
    assert "ials" in topn_candidates(train())


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match=r"fraction 0\.0 is outside"):
        RecentPopularity(0.0)
    with pytest.raises(ConfigError, match="users have no field 'city'"):
        GroupPopularity("city").fit(train())
    with pytest.raises(ConfigError, match=r"shrinkage -1\.0 is negative"):
        ItemKNN(-1.0)
    with pytest.raises(ConfigError, match="must be positive"):
        Ease(0.0)
