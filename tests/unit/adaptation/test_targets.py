"""Several targets in the engine: their labels are adapted to, requests weigh them, and terms add up."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from metarec.adaptation.engine import Engine
from metarec.adaptation.state import UserState
from metarec.adaptation.uncertainty import score_spread
from metarec.adaptation.weighing import target_names, weigh
from metarec.data.dataset import Dataset
from metarec.data.schema import Label
from metarec.errors import InvalidInputError
from metarec.meta.prior import Prior
from metarec.tasks.batch import Batch, Tables
from metarec.training.loop import fit
from metarec.training.recipes import get_recipe
from metarec.types import Interaction, Item

QUICK = {"epochs": "3", "batch_size": "16", "model.embedding_dim": "5", "validation_fraction": "0.2"}


@pytest.fixture(scope="module")
def prior(tiny_dataset: Dataset) -> Prior:
    """Beside the rating of everything, for half of it whether it was bought; the maps are moved away from multiples of one."""
    events, random = tiny_dataset.interactions, np.random.default_rng(3)
    bought_N = np.where(random.random(len(events)) < 0.5, events.label_N >= 4, np.nan).astype(np.float32)
    several = replace(
        tiny_dataset,
        schema=replace(tiny_dataset.schema, targets=(Label(column="bought", kind="binary"),)),
        interactions=replace(events, extra_NK=bought_N[:, None]),
    )
    found = fit(several, get_recipe("alpaca_targets").override(QUICK), seed=0)
    head = found.heads["explicit"]
    map_KDD = head.theta["targets.map"]
    moved = map_KDD + 0.2 * torch.randn(map_KDD.shape, generator=torch.Generator().manual_seed(1))
    head = replace(head, theta={**head.theta, "targets.map": moved})
    return replace(found, blend=0.3, heads={**found.heads, "explicit": head}, checkpoint="c-1")


@pytest.fixture
def engine(prior: Prior) -> Engine:
    return Engine(prior)


def acted(*rows: tuple[str, float, dict[str, float]]) -> list[Interaction]:
    return [
        Interaction(user_id="u", item_id=item_id, label=label, labels=labels, timestamp=1e6 + place)
        for place, (item_id, label, labels) in enumerate(rows)
    ]


SUPPORT = acted(("i1", 5.0, {"bought": 1.0}), ("i2", 1.0, {}), ("i5", 4.0, {"bought": 0.0}), ("i7", 3.0, {"unheard": 9.0}))
IDS = [f"i{k}" for k in range(60)]


def test_each_target_scores_as_its_learner_predicts(engine: Engine) -> None:
    assert target_names(engine.prior) == {"rating": ("explicit", 0), "bought": ("explicit", 1), "interacted": ("implicit", 0)}
    head = engine.prior.heads["explicit"]
    rows, order = engine.view.rows, engine.catalogue.rows(["i1", "i1", "i2", "i5", "i5", "i7"])
    adapted = engine.adapt(SUPPORT)
    tables = Tables(tasks=adapted.profile, rows=rows)

    def batch(row_N: np.ndarray, label: list[float], target: list[int]) -> Batch:
        return Batch(
            tables=tables,
            task_T=torch.zeros(1, dtype=torch.int64),
            row_TN=torch.from_numpy(row_N)[None],
            label_TN=torch.tensor([label]),
            mask_TN=torch.ones(1, len(row_N), dtype=torch.bool),
            target_TN=torch.tensor([target]),
        )

    support = batch(order, [5.0, 1.0, 1.0, 4.0, 0.0, 3.0], [0, 1, 0, 0, 1, 0])
    with torch.no_grad():
        fast = head.learner.adapt(head.model, head.theta, support)
        for number, name in enumerate(("rating", "bought")):
            query = batch(engine.catalogue.rows(IDS), [0.0] * 60, [number] * 60)
            expected = head.learner.predict(head.model, head.theta, fast, query).mean_TQ[0].numpy()
            found = engine.scores(weigh(adapted, {name: 1.0}), IDS)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_weighed_scores_are_the_sum_and_their_terms_add_up(engine: Engine) -> None:
    engine.upsert([Item(item_id="new", features={"genres": ("space",)}, revision=1)])
    ids = [*IDS, "new", "nobody knows"]
    adapted = engine.adapt(SUPPORT, {"gender": "F"})
    weights = {"rating": 0.5, "bought": -3.0, "interacted": 2.0}
    weighed = weigh(adapted, weights)
    alone = sum(weight * engine.scores(weigh(adapted, {name: 1.0}), ids) for name, weight in weights.items())
    found = engine.scores(weighed, ids)
    np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-5)
    for item_id in ("i1", "i9", "new", "nobody knows"):
        terms = engine.contributions(weighed, item_id)
        assert [term.item_id for term in terms if term.kind == "support"] == ["i1", "i2", "i5", "i7"]
        assert sum(term.value for term in terms) == pytest.approx(float(found[ids.index(item_id)]), abs=1e-4)


def test_without_weights_scores_are_the_trained_blend_of_the_label(engine: Engine) -> None:
    adapted = engine.adapt(SUPPORT)
    same = weigh(adapted, {"interacted": 1.0, "rating": 0.3})
    np.testing.assert_allclose(engine.scores(adapted, IDS), engine.scores(same, IDS), rtol=1e-4, atol=1e-5)


def test_labels_of_a_further_target_move_the_user_and_survive_the_state(engine: Engine) -> None:
    plain = engine.adapt([replace(entry, labels={}) for entry in SUPPORT])
    adapted = engine.adapt(SUPPORT)
    assert np.abs(engine.scores(adapted, IDS) - engine.scores(plain, IDS)).max() > 1e-3
    stored = UserState.decode(adapted.state.encode())
    assert [entry.labels for entry in stored.support] == [entry.labels for entry in SUPPORT]
    weights = {"bought": 1.0}
    restored = engine.restore(stored)
    np.testing.assert_array_equal(engine.scores(weigh(restored, weights), IDS), engine.scores(weigh(adapted, weights), IDS))
    again = engine.restore(replace(stored, checkpoint="another"))
    np.testing.assert_allclose(engine.scores(again, IDS), engine.scores(adapted, IDS), rtol=1e-5, atol=1e-6)


def test_uncertainty_is_that_of_the_weighed_targets(engine: Engine) -> None:
    both = score_spread(weigh(engine.adapt(SUPPORT), {"rating": 1.0, "bought": 2.0}), IDS, cold=True)[0]
    parts = [score_spread(weigh(engine.adapt(SUPPORT), {name: 1.0}), IDS, cold=True)[0] for name in ("rating", "bought")]
    np.testing.assert_allclose(both, parts[0] + 2 * parts[1], rtol=1e-3, atol=1e-5)


def test_an_unknown_target_is_answered_with_the_known_ones(engine: Engine) -> None:
    with pytest.raises(InvalidInputError, match="its targets are: rating, bought, interacted"):
        weigh(engine.adapt([]), {"sold": 1.0})


def test_a_further_target_is_predicted_in_its_own_units(engine: Engine) -> None:
    adapted = engine.adapt(SUPPORT)
    mean_N, variance_N = engine.predict(adapted, IDS, "bought")
    np.testing.assert_allclose(mean_N, engine.scores(weigh(adapted, {"bought": 1.0}), IDS), rtol=1e-4, atol=1e-5)
    label_N, of_label_N = engine.predict(adapted, IDS)
    assert variance_N is not None
    assert of_label_N is not None
    assert variance_N.mean() < of_label_N.mean(), "a share varies less than a grade"
    np.testing.assert_array_equal(engine.predict(adapted, IDS, "rating")[0], label_N)
    with pytest.raises(InvalidInputError, match="it predicts: rating, bought") as caught:
        engine.predict(adapted, IDS, "interacted")
    assert caught.value.field == "target"
