"""Users within scenarios, as serving moves them, against heads whose prior is moved and adapted with anew."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metarec.adaptation.adapted import UserInput, support_batches
from metarec.adaptation.engine import Engine
from metarec.adaptation.scenarios import (
    as_shift,
    decode_scenarios,
    encode_scenarios,
    fit_scenarios,
    label_weights,
    scenario_effect,
    within,
)
from metarec.errors import MetarecError
from metarec.meta.prior import Prior
from metarec.training.registry import Registry
from metarec.types import Interaction, Item

ITEMS = [f"i{k}" for k in range(60)]


@pytest.fixture(scope="module")
def prior(tiny_registry: Path) -> Prior:
    return Registry(tiny_registry).load("live")


@pytest.fixture
def engine(prior: Prior) -> Engine:
    return Engine(prior)


def rows(scenario: str, *labels: tuple[str, float]) -> list[Interaction]:
    return [
        Interaction(user_id="", item_id=item, label=label, timestamp=float(place), scenario=scenario)
        for place, (item, label) in enumerate(labels)
    ]


def grumpy(scenario: str = "night", users: int = 30) -> Iterator[UserInput]:
    """Everybody in the scenario gives two grades less than a lover of one genre and a despiser of the others would."""
    rng = np.random.default_rng(3)
    for user in range(users):
        chosen = rng.choice(60, 8, replace=False).tolist()
        loved = [(f"i{k}", (4.6 if k % 4 == user % 4 else 1.8) - 1.5) for k in chosen]
        yield UserInput(support=rows(scenario, *((item, max(1.0, label)) for item, label in loved)))


def use(engine: Engine, users: Iterator[UserInput]) -> None:
    engine.use_scenarios({name: as_shift(found) for name, found in fit_scenarios(engine.view, users).items()})


def test_newcomers_of_the_scenario_are_moved_and_nobody_else(engine: Engine) -> None:
    nobody = engine.adapt([])
    use(engine, grumpy())
    nobody = engine.adapt([])
    at_night, by_day, elsewhere = engine.within([nobody] * 3, ["night", "day", ""])
    assert by_day is nobody
    assert elsewhere is nobody
    mean, _ = engine.predict(nobody, ITEMS)
    moved, _ = engine.predict(at_night, ITEMS)
    assert -2.0 < float((moved - mean).mean()) < -0.3
    assert float((moved - mean).mean()) == pytest.approx(
        scenario_effect(engine.view, engine.view.scenarios["night"].mean_E)[0], abs=1e-4
    )
    assert (engine.scores(at_night, ITEMS) < engine.scores(nobody, ITEMS)).mean() > 0.9
    assert (engine.view.scenarios["night"].num_users, engine.view.scenarios["night"].num_rows) == (30, 240)


def test_a_user_of_the_scenario_alone_is_one_of_the_moved_prior(engine: Engine, prior: Prior) -> None:
    scenario = fit_scenarios(engine.view, grumpy())["night"]
    engine.use_scenarios({"night": as_shift(scenario)})
    moved = Engine(replace(prior, heads={**prior.heads, "explicit": scenario.head(prior.heads["explicit"])}))
    support = rows("night", ("i0", 3.0), ("i5", 1.0), ("i9", 2.0))
    (found,) = engine.within([engine.adapt(support, {"gender": "F"})], ["night"])
    np.testing.assert_allclose(engine.scores(found, ITEMS), moved.scores(moved.adapt(support, {"gender": "F"}), ITEMS), atol=1e-4)
    mean, variance = engine.predict(found, ITEMS)
    expected, spread = moved.predict(moved.adapt(support, {"gender": "F"}), ITEMS)
    assert variance is not None
    assert spread is not None
    np.testing.assert_allclose(mean, expected, atol=1e-4)
    np.testing.assert_allclose(variance, spread, rtol=1e-4)


def test_what_a_user_did_elsewhere_counts_less_what_that_scenario_adds(engine: Engine) -> None:
    use(engine, grumpy())
    shift_E = engine.view.scenarios["night"].mean_E.astype(np.float64)
    plain, night = rows("", ("i0", 5.0), ("i1", 2.0)), rows("night", ("i4", 4.0), ("i6", 1.0))
    user = engine.adapt([*plain, *night])
    inside, outside = engine.within([user, user], ["night", ""])
    # The same by hand: all rows, those of the night with the shift taken from their labels, in float64.
    head = engine.view.heads["explicit"]
    batch = support_batches(engine.view, user.profile, [user.used])
    phi_TNE = head.theta["cache.phi"][batch.row_TN].double().numpy()
    corrected = batch.label_TN.double().numpy() - (phi_TNE @ shift_E) * np.array([[0, 0, 1, 1]])
    theta = {name: value.double() for name, value in head.theta.items()}
    fast = head.learner.adapt(head.model, theta, replace(batch, label_TN=torch.from_numpy(corrected)))
    vector_E = fast["mean"][0].numpy()
    np.testing.assert_allclose(outside.state.weights["explicit"]["vector"], vector_E, atol=1e-5)
    np.testing.assert_allclose(inside.state.weights["explicit"]["vector"], vector_E + shift_E, atol=1e-5)


def test_explanations_within_a_scenario_add_up(engine: Engine) -> None:
    use(engine, grumpy())
    engine.upsert([Item(item_id="new", features={"genres": ("space",)}, revision=1)])
    users = [
        engine.adapt([]),
        engine.adapt([*rows("night", ("i4", 4.0), ("i6", 1.0)), *rows("", ("i9", 3.0))], {"gender": "M", "age": 30.0}),
    ]
    for user in users:
        for found in engine.within([user, user], ["night", ""]):
            for item in ("i0", "new", "unheard of"):
                terms = engine.contributions(found, item)
                assert sum(term.value for term in terms) == pytest.approx(float(engine.scores(found, [item])[0]), abs=1e-4)
    kinds = [term.kind for term in engine.contributions(engine.within(users[:1], ["night"])[0], "i0")]
    assert kinds == ["global", "item", "profile", "scenario"]
    # What the user said is told as they said it.
    told = engine.contributions(engine.within(users[1:], ["night"])[0], "i0")
    assert [term.label for term in told if term.kind == "support"] == [4.0, 1.0, 3.0]


def test_predictions_say_how_little_a_scenario_is_known(engine: Engine) -> None:
    young, old = (fit_scenarios(engine.view, grumpy(users=users))["night"] for users in (2, 60))
    shifts = {"night": as_shift(young)}
    nobody = engine.adapt([])
    _, certain = engine.predict(within([nobody], ["night"], shifts)[0], ITEMS)
    spread = {}
    for name, scenario in (("young", young), ("old", old)):
        user = within([nobody], ["night"], shifts, scenario.covariance_EE.numpy())[0]
        _, variance = engine.predict(user, ITEMS)
        assert variance is not None
        spread[name] = float(variance.mean())
        fast = label_weights(engine.view, user)["factor"][0].double()
        head = engine.view.heads["explicit"]
        expected = torch.diag(torch.exp(head.theta["prior.log_var"].double())) + scenario.covariance_EE
        torch.testing.assert_close(fast @ fast.T, expected, atol=1e-5, rtol=1e-4)
    assert certain is not None
    assert float(certain.mean()) < min(spread.values())


def test_scenarios_survive_an_upsert_and_the_wire(engine: Engine) -> None:
    use(engine, grumpy())
    engine.upsert([Item(item_id="new", features={"genres": ("space",)}, revision=1)])
    checkpoint, found = decode_scenarios(encode_scenarios("c-1", engine.view.scenarios))
    assert checkpoint == "c-1"
    assert list(found) == ["night"]
    np.testing.assert_array_equal(found["night"].mean_E, engine.view.scenarios["night"].mean_E)
    assert decode_scenarios(encode_scenarios("c-2", {})) == ("c-2", {})
    with pytest.raises(MetarecError, match="cannot be read"):
        decode_scenarios(b"rubbish that is long enough")


def test_profiles_of_another_schema_are_left_out_of_the_evidence(engine: Engine) -> None:
    users = list(grumpy(users=5))
    users[2] = replace(users[2], features={"age": "young", "shoe": 3.0})
    assert fit_scenarios(engine.view, users)["night"].num_users == 5
