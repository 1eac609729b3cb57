"""What the first labels of an emerging item say: against plain Gaussian regression, and exact where it is used."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metarec.adaptation.adapted import UserInput, fast_weights
from metarec.adaptation.engine import Engine
from metarec.adaptation.shifts import ItemShift, decode_shifts, encode_shifts, item_shift
from metarec.adaptation.uncertainty import directions, score_spread
from metarec.adaptation.weighing import weigh
from metarec.errors import MetarecError
from metarec.meta.contract import takes_scale
from metarec.meta.members import as_wide, merged
from metarec.tasks.tables import encode_unknown_users
from metarec.training.registry import Registry
from metarec.types import Interaction, Item

NEW = Item(item_id="new", features={"title": "space story", "genres": ("space",), "year": 1990.0}, revision=1)


@pytest.fixture
def engine(tiny_registry: Path) -> Engine:
    engine = Engine(Registry(tiny_registry).load("live"))
    engine.upsert([NEW])
    return engine


def fan(genre: int, *, of_new: float | None = None) -> UserInput:
    liked = [Interaction(user_id="", item_id=f"i{genre + 4 * k}", label=5.0, timestamp=float(k)) for k in range(4)]
    new = [] if of_new is None else [Interaction(user_id="", item_id="new", label=of_new, timestamp=9.0)]
    return UserInput(support=[*liked, *new], features={"gender": "F"})


def shift_of(engine: Engine, labels: list[float]) -> ItemShift:
    found = item_shift(engine.view, "new", [fan(k % 4, of_new=label) for k, label in enumerate(labels)], labels)
    assert found is not None
    return found


def test_the_shift_is_that_of_gaussian_regression_in_its_dual_form(engine: Engine) -> None:
    labels = [5.0, 1.0, 4.0, 2.0, 5.0]
    found, view = shift_of(engine, labels), engine.view
    head, row = view.heads["explicit"], view.catalogue.row_of["new"]
    raters = [fan(k % 4) for k in range(5)]
    profiles = encode_unknown_users(engine.prior.encoder, [rater.features or {} for rater in raters])
    fast = fast_weights(view, profiles, [rater.support for rater in raters], targets=("explicit",))["explicit"]
    vector_UD, factor_UDD = fast["mean"].double().numpy(), fast["factor"].double().numpy()
    phi_D = head.theta["cache.phi"][row].double().numpy()
    content_U = float(head.theta["mu"] + head.theta["cache.bias"][row]) + vector_UD @ phi_D
    # delta = S X' (X S X' + N)^-1 (y - content), user by user.
    spread_EE = np.diag(view.spreads["explicit"].astype(float))
    x_UE = np.column_stack([vector_UD[:, :-1], np.ones(5)])
    noise_UU = np.diag([np.exp(float(head.theta["noise.log_var"][0])) + np.square(phi_D @ f_DD).sum() for f_DD in factor_UDD])
    gain_EU = spread_EE @ x_UE.T @ np.linalg.inv(x_UE @ spread_EE @ x_UE.T + noise_UU)
    delta_E = gain_EU @ (np.array(labels) - content_U)
    weight = view.weights["explicit"]
    size = len(delta_E) - 1
    assert found.phi_E[-size - 1 : -1].tolist() == pytest.approx((weight * delta_E[:-1]).tolist(), abs=1e-6) or found.phi_E[
        :size
    ].tolist() == pytest.approx((weight * delta_E[:-1]).tolist(), abs=1e-6)
    assert found.bias == pytest.approx(weight * delta_E[-1], abs=1e-8)
    covariance_EE = spread_EE - gain_EU @ x_UE @ spread_EE
    assert found.left == pytest.approx(np.trace(covariance_EE) / np.trace(spread_EE), abs=1e-9)
    assert found.shots == 5


def test_praise_lifts_an_item_and_blame_lowers_it_for_everybody_alike(engine: Engine) -> None:
    user = engine.adapt(fan(0).support)
    before = float(engine.scores(user, ["new"])[0])
    scores = {}
    for label in (1.0, 5.0):
        engine.shift({"new": shift_of(engine, [label] * 6)})
        shifted = engine.restore(user.state)
        scores[label] = float(engine.scores(shifted, ["new"])[0])
        others = engine.prior.item_ids
        assert engine.scores(shifted, others).tolist() == engine.scores(user, others).tolist(), "nobody else moves"
        assert np.array_equal(shifted.vector, user.vector), "and no user"
    assert scores[1.0] < before < scores[5.0]
    engine.shift({})
    assert float(engine.scores(engine.restore(user.state), ["new"])[0]) == pytest.approx(before, abs=1e-6)


def test_explanations_add_up_with_a_shift(engine: Engine) -> None:
    engine.shift({"new": shift_of(engine, [5.0, 4.0, 1.0])})
    for user in (engine.adapt(fan(0).support), engine.adapt(()), engine.adapt(fan(2, of_new=1.0).support, {"gender": "M"})):
        score = float(engine.scores(user, ["new"])[0])
        assert sum(term.value for term in engine.contributions(user, "new")) == pytest.approx(score, abs=1e-4)


def test_the_more_labels_the_less_is_left_uncertain(engine: Engine) -> None:
    user = engine.adapt(fan(0).support)
    left, own = [1.0], [float(score_spread(user, ["new"], cold=False)[1][0])]
    for count in (1, 5, 30):
        shift = shift_of(engine, [4.0] * count)
        engine.shift({"new": shift})
        left.append(shift.left)
        own.append(float(score_spread(engine.restore(user.state), ["new"], cold=False)[1][0]))
    assert left == sorted(left, reverse=True)
    assert own == sorted(own, reverse=True)
    assert left[-1] < 0.9
    assert score_spread(user, ["i1", "unheard"], cold=False)[1].tolist() == [0.0, 0.0]


def test_a_shift_outlives_upserts_and_holds_for_items_without_an_id_alone(engine: Engine) -> None:
    shift = shift_of(engine, [5.0] * 4)
    engine.shift({"new": shift, "i1": shift, "nowhere": shift})
    assert set(engine.view.shifts) == {"new"}
    user = engine.adapt(fan(0).support)
    score = float(engine.scores(user, ["new"])[0])
    engine.upsert([Item(item_id="other", features={"genres": ("drama",)}, revision=1)])
    again = engine.restore(user.state)
    assert float(engine.scores(again, ["new"])[0]) == score
    engine.upsert([Item(item_id="new", features=NEW.features, revision=2)])
    assert float(engine.scores(engine.restore(user.state), ["new"])[0]) == pytest.approx(score, abs=1e-6)
    assert item_shift(engine.view, "i1", [fan(0)], [5.0]) is None
    assert item_shift(engine.view, "nowhere", [fan(0)], [5.0]) is None
    assert item_shift(engine.view, "new", [], []) is None


def test_shifts_travel_as_bytes(engine: Engine) -> None:
    shift = shift_of(engine, [5.0, 2.0])
    checkpoint, found = decode_shifts(encode_shifts("c-1", {"new": shift, "ö": shift}))
    assert (checkpoint, list(found)) == ("c-1", ["new", "ö"])
    assert np.array_equal(found["ö"].phi_E, shift.phi_E)
    assert (found["new"].bias, found["new"].left, found["new"].shots) == (shift.bias, shift.left, shift.shots)
    assert decode_shifts(encode_shifts("c-2", {})) == ("c-2", {})
    for damaged in (b"", b"rubbish that is long enough", encode_shifts("c-1", {"new": shift})[:-3]):
        with pytest.raises(MetarecError, match="cannot be read"):
            decode_shifts(damaged)


def test_directions_are_of_length_one_and_alike_for_the_same_content(engine: Engine) -> None:
    engine.upsert([Item(item_id="twin", features=NEW.features, revision=1)])
    unit_NE = directions(engine.adapt(()), ["new", "twin", "i1", "unheard"])
    assert np.linalg.norm(unit_NE, axis=1).tolist() == pytest.approx([1, 1, 1, 0], abs=1e-5)
    assert float(unit_NE[0] @ unit_NE[1]) == pytest.approx(1, abs=1e-5)


def test_likeness_depends_neither_on_the_unit_of_labels_nor_on_the_number_of_members(engine: Engine) -> None:
    prior, ids = engine.prior, engine.prior.item_ids
    head = prior.heads["explicit"]
    assert takes_scale(head.learner)
    scaled = replace(head, theta=head.learner.rescaled(head.theta, 80.0))
    wide = as_wide(replace(head, theta=merged([head.theta] * 3)))
    plain_NE = directions(engine.adapt(()), ids)
    for explicit, blend in ((scaled, prior.blend / 80), (wide, prior.blend)):
        other = Engine(replace(prior, heads={**prior.heads, "explicit": explicit}, blend=blend))
        unit_NE = directions(other.adapt(()), ids)
        assert np.allclose(unit_NE @ unit_NE.T, plain_NE @ plain_NE.T, atol=1e-5)


def test_likeness_does_not_ask_who_is_near_whom(engine: Engine) -> None:
    prior, ids = engine.prior, engine.prior.item_ids
    head = prior.heads["implicit"]
    theta = {name: value * (50 if name in ("near.id", "near.content") else 1) for name, value in head.theta.items()}
    other = Engine(replace(prior, heads={**prior.heads, "implicit": replace(head, theta=theta)}))
    assert head.theta["near.id"].any()
    assert np.array_equal(directions(other.adapt(()), ids), directions(engine.adapt(()), ids))
    assert np.array_equal(other.view.content_IE, engine.view.content_IE[: len(ids)])


def test_likeness_under_weights_of_targets_is_that_of_the_heads_they_name(engine: Engine) -> None:
    user, ids = engine.adapt(()), engine.prior.item_ids
    alone = {
        target: directions(weigh(user, {name: 2.0}), ids) for target, name in (("explicit", "rating"), ("implicit", "interacted"))
    }
    mean_NN = sum(unit_NE @ unit_NE.T for unit_NE in alone.values()) / 2
    both_NE = directions(user, ids)
    assert np.allclose(both_NE @ both_NE.T, mean_NN, atol=1e-5)
    assert not np.allclose(alone["explicit"] @ alone["explicit"].T, mean_NN, atol=1e-2)
