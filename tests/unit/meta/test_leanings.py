"""Leanings of users: against the formula user by user, and what they count."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from metarec.meta.alpaca import Alpaca
from metarec.meta.item_side import ItemSide, learn_item_side
from metarec.meta.leanings import MAX_ROWS, NOISE, POPULAR, ROWS, SHARE, SIGNAL, Leanings, learn_leanings
from metarec.meta.prior import Head
from metarec.meta.prior_users import user_vectors
from metarec.models.linear_gaussian import LinearGaussian
from metarec.tasks.batch import EntityTable
from metarec.tasks.planted import linear_family

pytestmark = pytest.mark.usefixtures("one_thread")

History = tuple[NDArray[np.int64], NDArray[np.float64]]


@pytest.fixture(scope="module")
def planted() -> tuple[ItemSide, Head, EntityTable, list[History]]:
    """The item side of a planted family, with what three users have interacted with: ten items, none, and one."""
    family = linear_family(num_tasks=60, num_rows=60, rows_per_task=30, known=True, seed=1)
    learner, model = Alpaca(noise_shape=0.0), LinearGaussian(embedding_dim=3)
    theta = learner.init(model, family.tables, torch.Generator().manual_seed(0))
    theta |= {"row.content": torch.eye(3), "row.content_bias": torch.tensor([0.1, -0.2, 0.3]), "mu": torch.tensor(family.mean)}
    items = family.tables.rows
    head = Head(target="explicit", learner=learner, model=model, theta=theta).prepared(items)
    side = learn_item_side(user_vectors(head, family.tables.tasks, items, family.layout), items, ("vector",), 0)
    assert side is not None
    rng = np.random.default_rng(2)
    histories = [(rng.permutation(60)[:n].astype(np.int64), rng.normal(size=n) + family.mean) for n in (10, 0, 1)]
    return side, head, items, histories


def learned(planted: tuple[ItemSide, Head, EntityTable, list[History]]) -> Leanings:
    found = learn_leanings(*planted)
    assert found is not None
    return found


def test_a_label_is_moved_by_the_share_of_a_process_of_the_user(
    planted: tuple[ItemSide, Head, EntityTable, list[History]],
) -> None:
    side, head, items, histories = planted
    assert side.places is not None
    place, popular = side.places.places(items).place_ND.numpy(), side.places.places(items).popularity_N.numpy()
    asked, theta, mean = items.at(slice(5, 6)), np.array([0.3, -0.1, 0.2, 0.5]), np.array([3.0, 2.0, 4.0])
    at = side.places.unknown(asked)
    there, popularity = at.place_ND.numpy()[0], float(at.popularity_N[0])
    taste, mu = side.taste_D.numpy(), float(head.theta["mu"])
    phi, bias = head.theta["cache.phi"].double().numpy()[:, :-1], head.theta["cache.bias"].double().numpy()

    def kernel(at: int, where: NDArray[np.float64], how: float) -> float:
        return float(SIGNAL * np.exp(-0.5 * np.square(place[at] - where).sum()) + POPULAR * popular[at] * how)

    expected = []
    for (row_S, label_S), own in zip(histories, mean, strict=True):
        matrix = np.array([[kernel(one, place[two], popular[two]) for two in row_S] for one in row_S]).reshape(
            len(row_S), len(row_S)
        )
        rest = label_S - mu - bias[row_S] - phi[row_S] @ taste
        near = np.array([kernel(one, there, popularity) for one in row_S])
        leaning = near @ np.linalg.inv(matrix + NOISE * np.eye(len(row_S))) @ rest if len(row_S) else 0.0
        share = SHARE * len(row_S) / (len(row_S) + ROWS)
        expected.append((1 - share) * own + share * (mu + theta[-1] + theta[:-1] @ taste + leaning))
    found = learned(planted).mixed(mean, theta, asked)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert found[1] == mean[1]  # who has no history leans nowhere
    assert abs(found[0] - mean[0]) > 0.01


def test_each_user_is_as_they_would_be_alone(planted: tuple[ItemSide, Head, EntityTable, list[History]]) -> None:
    side, head, items, histories = planted
    assert side.places is not None
    asked, theta = items.at(slice(3, 4)), np.zeros(4)
    together = learned(planted).mixed(np.zeros(3), theta, asked)
    for user, history in enumerate(histories):
        alone = learned((side, head, items, [history])).mixed(np.zeros(1), theta, asked)
        assert alone[0] == pytest.approx(together[user], abs=1e-6)
    assert learned((side, head, items, [])).mixed(np.zeros(0), theta, asked).shape == (0,)


def test_an_unknown_item_in_a_history_is_where_its_content_is(planted: tuple[ItemSide, Head, EntityTable, list[History]]) -> None:
    side, head, items, histories = planted
    assert side.places is not None
    code_N = items.code_N.clone()
    code_N[histories[0][0][:2]] = 0
    nameless = replace(items, code_N=code_N)
    found = learned((side, head, nameless, histories))
    expected = side.places.unknown(nameless)
    place = int(np.flatnonzero(np.unique(np.concatenate([row_S for row_S, _ in histories])) == histories[0][0][0])[0])
    torch.testing.assert_close(found.rows.place_ND[place], expected.place_ND[histories[0][0][0]])
    torch.testing.assert_close(found.rows.popularity_N[place], expected.popularity_N[histories[0][0][0]])


def test_of_a_long_history_the_last_rows_count(
    planted: tuple[ItemSide, Head, EntityTable, list[History]], monkeypatch: pytest.MonkeyPatch
) -> None:
    side, head, items, (history, *_) = planted
    last = learned((side, head, items, [(history[0][-4:], history[1][-4:])]))
    monkeypatch.setattr("metarec.meta.leanings.MAX_ROWS", 4)
    found = learned((side, head, items, [history]))
    np.testing.assert_array_equal(found.weight_N, last.weight_N)
    assert MAX_ROWS > 4


def test_an_item_side_of_before_knows_no_places(planted: tuple[ItemSide, Head, EntityTable, list[History]]) -> None:
    side, head, items, histories = planted
    assert learn_leanings(replace(side, places=None), head, items, histories) is None
    assert learn_leanings(None, head, items, histories) is None
