"""Weights of targets that a request names: sums of the targets' own scores, explained exactly, refused where senseless."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metarec.adaptation.engine import Engine
from metarec.adaptation.uncertainty import score_spread
from metarec.adaptation.view import ItemShift
from metarec.adaptation.weighing import MAX_WEIGHT, left_out, target_names, weigh
from metarec.errors import InvalidInputError
from metarec.meta.prior import Prior
from metarec.training.registry import Registry
from metarec.types import Interaction, Item

SUPPORT = [
    Interaction(user_id="u", item_id=item_id, label=label, timestamp=1e6 + place)
    for place, (item_id, label) in enumerate([("i1", 5.0), ("i2", 1.0), ("i5", 4.0)])
]
WEIGHTS = {"rating": 0.7, "interacted": -2.0}


@pytest.fixture(scope="module", params=[0.0, 0.3], ids=["ratings left out in training", "blended"])
def engine(request: pytest.FixtureRequest, tiny_registry: Path) -> Engine:
    return Engine(replace(Registry(tiny_registry).load("live"), blend=request.param))


def only(prior: Prior, target: str) -> Engine:
    return Engine(replace(prior, heads={name: head for name, head in prior.heads.items() if name == target}))


def test_targets_are_named_by_their_column(engine: Engine) -> None:
    assert target_names(engine.prior) == {"rating": ("explicit", 0), "interacted": ("implicit", 0)}
    label = replace(engine.prior.schema.label, column="interacted")
    taken = replace(engine.prior, schema=replace(engine.prior.schema, label=label))
    assert target_names(taken) == {"interacted": ("explicit", 0), "any_interacted": ("implicit", 0)}


def test_weighed_scores_are_the_sum_of_each_targets_own(engine: Engine) -> None:
    ids = [*engine.prior.item_ids, "nobody knows"]
    rating, taken = (
        part.scores(part.adapt(SUPPORT), ids) for part in (only(engine.prior, "explicit"), only(engine.prior, "implicit"))
    )
    found = engine.scores(weigh(engine.adapt(SUPPORT), WEIGHTS), ids)
    np.testing.assert_allclose(found, 0.7 * rating - 2 * taken, rtol=1e-4, atol=1e-5)


def test_the_trained_weights_give_the_trained_scores(engine: Engine) -> None:
    ids, adapted = engine.prior.item_ids, engine.adapt(SUPPORT)
    same = weigh(adapted, {"interacted": 1.0, "rating": engine.prior.blend})
    np.testing.assert_allclose(engine.scores(same, ids), engine.scores(adapted, ids), rtol=1e-5, atol=1e-6)
    assert weigh(adapted, {}) is adapted


@pytest.mark.parametrize("item_id", ["i1", "i9", "new", "nobody knows"])
def test_the_terms_add_up_to_the_weighed_score(engine: Engine, item_id: str) -> None:
    engine.upsert([Item(item_id="new", features={"genres": ("space",)}, revision=1)])
    adapted = weigh(engine.adapt(SUPPORT), WEIGHTS)
    terms = engine.contributions(adapted, item_id)
    assert sum(term.value for term in terms) == pytest.approx(float(engine.scores(adapted, [item_id])[0]), abs=1e-4)


def test_a_shift_of_an_emerging_item_counts_as_much_as_ratings_do(tiny_registry: Path) -> None:
    engine = Engine(replace(Registry(tiny_registry).load("live"), blend=0.5))
    engine.upsert([Item(item_id="new", features={"genres": ("space",)}, revision=1)])
    plain = engine.adapt(SUPPORT)
    assert engine.vectors is not None
    phi_E = np.zeros(engine.vectors.phi_IE.shape[1], np.float32)
    engine.shift({"new": ItemShift(phi_E=phi_E, bias=0.5 * 0.2, left=0.5, shots=3)})
    shifted = engine.adapt(SUPPORT)
    for weights, gain in (({"rating": 2.0, "interacted": 1.0}, 2 * 0.2), ({"interacted": 1.0}, 0.0)):
        before, after = (engine.scores(weigh(adapted, weights), ["i1", "new"]) for adapted in (plain, shifted))
        np.testing.assert_allclose(after - before, [0.0, gain], atol=1e-5)
        terms = engine.contributions(weigh(shifted, weights), "new")
        assert sum(term.value for term in terms) == pytest.approx(float(after[1]), abs=1e-4)


def test_uncertainty_grows_with_the_weights(engine: Engine) -> None:
    ids = ["i3", "i9"]
    once, twice = (score_spread(weigh(engine.adapt(SUPPORT), {"rating": weight}), ids, cold=True)[0] for weight in (1.0, 2.0))
    assert (np.abs(once).sum(1) > 0).all()
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)


def test_a_target_that_the_checkpoint_did_not_learn_is_left_out_and_said_to_be(engine: Engine) -> None:
    ids, both = engine.prior.item_ids, {"rating": 0.7, "interacted": -2.0}
    lists = only(engine.prior, "implicit")
    adapted = lists.adapt(SUPPORT)
    known = weigh(adapted, {"interacted": -2.0})
    np.testing.assert_array_equal(lists.scores(weigh(adapted, both), ids), lists.scores(known, ids))
    said = f"the other weights, without target 'rating', which checkpoint '{engine.prior.checkpoint}' did not learn"
    assert left_out(lists.prior, both) == said
    assert left_out(engine.prior, both) == ""
    assert left_out(lists.prior, {"rating": 0.0, "interacted": 1.0}) == ""
    ratings = only(engine.prior, "explicit")
    assert left_out(ratings.prior, {"interacted": 1.0}).startswith("the trained weights, without target 'interacted'")


@pytest.mark.parametrize("weights", [{"rating": 1.0}, {"rating": 1.0, "interacted": 0.0}])
def test_without_any_target_left_the_trained_weights_count(engine: Engine, weights: dict[str, float]) -> None:
    lists = only(engine.prior, "implicit")
    adapted = lists.adapt(SUPPORT)
    assert weigh(adapted, weights) is adapted
    assert left_out(lists.prior, weights).startswith("the trained weights, without target 'rating'")


@pytest.mark.parametrize(
    ("weights", "field", "message"),
    [
        ({"clicks": 1.0}, "target_weights.clicks", "rating, interacted"),
        ({"rating": float("nan")}, "target_weights.rating", "1e\\+06"),
        ({"interacted": float("-inf")}, "target_weights.interacted", "1e\\+06"),
        ({"rating": 1e300}, "target_weights.rating", "1e\\+06"),
        ({"rating": 0.0}, "target_weights", "all 0"),
    ],
)
def test_weights_that_make_no_sense_are_refused(engine: Engine, weights: dict[str, float], field: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        weigh(engine.adapt([]), weights)
    assert caught.value.field == field


def test_the_largest_weights_give_scores_that_are_numbers_and_the_same_order(engine: Engine) -> None:
    ids, adapted = engine.prior.item_ids, engine.adapt(SUPPORT)
    one, most = (engine.scores(weigh(adapted, {"rating": size, "interacted": -size}), ids) for size in (1.0, MAX_WEIGHT))
    np.testing.assert_allclose(most, MAX_WEIGHT * one, rtol=1e-4, atol=1.0)
