"""The engine: adaptation as in training, emerging items, stored states, exact terms."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metarec.adaptation.adapted import UserInput, fast_weights
from metarec.adaptation.engine import Engine
from metarec.adaptation.state import UserState
from metarec.errors import FailedPreconditionError, InvalidInputError, NotFoundError
from metarec.features.sentence_block import SentenceBlock
from metarec.meta.blend import prior_scores
from metarec.meta.prior import Head, Prior
from metarec.meta.registry import make_learner
from metarec.models.registry import make_model
from metarec.tasks.batch import Tables
from metarec.tasks.tables import encode_unknown_items, encode_unknown_users
from metarec.training.registry import Registry
from metarec.types import Interaction, Item

PROFILE = {"gender": "F", "age": 30.0}


def rated(*pairs: tuple[str, float], start: float = 1_000_000.0) -> list[Interaction]:
    return [
        Interaction(user_id="u", item_id=item_id, label=label, timestamp=start + 60 * place)
        for place, (item_id, label) in enumerate(pairs)
    ]


@pytest.fixture(scope="module")
def prior(tiny_registry: Path) -> Prior:
    return Registry(tiny_registry).load("live")


@pytest.fixture(scope="module")
def gradient_prior(prior: Prior) -> Prior:
    """The same items under a learner whose score is not linear, next to the implicit head."""
    learner, model = make_learner("maml"), make_model("melu", {"embedding_dim": 4, "hidden_dim": 8})
    users = encode_unknown_users(prior.encoder, [{}])
    theta = learner.init(model, Tables(tasks=users, rows=prior.items), torch.Generator().manual_seed(3))
    return replace(prior, heads={**prior.heads, "explicit": Head(target="explicit", learner=learner, model=model, theta=theta)})


@pytest.fixture
def engine(prior: Prior) -> Engine:
    return Engine(prior)


@pytest.fixture(params=["linear", "gradient"])
def either(request: pytest.FixtureRequest, prior: Prior, gradient_prior: Prior) -> Engine:
    return Engine(prior if request.param == "linear" else gradient_prior)


SUPPORT = rated(("i1", 5.0), ("i2", 1.0), ("i5", 4.0))


def test_scores_equal_those_of_evaluation(either: Engine) -> None:
    prior = either.prior
    adapted = either.adapt(SUPPORT, PROFILE)
    rows = either.catalogue.rows([entry.item_id for entry in SUPPORT])
    labels, times = np.array([5, 1, 4], np.float32), np.array([entry.timestamp for entry in SUPPORT])
    expected = prior_scores(prior, encode_unknown_users(prior.encoder, [PROFILE]), [(rows, labels, times)])[0]
    np.testing.assert_allclose(either.scores(adapted, prior.item_ids), expected, rtol=1e-4, atol=1e-5)


def test_feedback_turns_the_list_to_its_genre(engine: Engine) -> None:
    ids = engine.prior.item_ids
    for genre in range(4):
        support = rated((f"i{genre}", 5.0), (f"i{genre + 4}", 5.0), (f"i{genre + 8}", 5.0))
        scores = engine.scores(engine.adapt(support), ids)
        best = [ids[row] for row in np.argsort(-scores)[:5]]
        assert sum(int(item_id[1:]) % 4 == genre for item_id in best) >= 4


def test_nobody_in_particular_gets_the_prior(engine: Engine) -> None:
    nobody = engine.adapt([])
    assert (nobody.shots, nobody.state.support, nobody.state.profile) == (0, (), "")
    np.testing.assert_array_equal(engine.scores(nobody, ["i0"]), engine.scores(engine.adapt([], {"age": None}), ["i0"]))
    assert engine.scores(nobody, ["i0"]) != engine.scores(engine.adapt([], PROFILE), ["i0"])


def test_a_batch_of_users_equals_one_after_another(either: Engine) -> None:
    users = [UserInput(support=SUPPORT, features=PROFILE, revision=4), UserInput(), UserInput(support=SUPPORT[:1])]
    for one, user in zip(either.adapt_many(users), users, strict=True):
        alone = either.adapt(user.support, user.features, revision=user.revision)
        assert one.state.revision == user.revision
        assert one.used == alone.used
        np.testing.assert_allclose(either.scores(one, ["i3", "x"]), either.scores(alone, ["i3", "x"]), rtol=1e-4, atol=1e-5)


def test_unknown_support_items_are_left_out_and_named(engine: Engine) -> None:
    support = [*SUPPORT, *rated(("mystery", 5.0), start=2e6)]
    adapted = engine.adapt(support)
    assert (adapted.shots, adapted.unknown_ids) == (3, ("mystery",))
    assert adapted.seen_items == {"i1", "i2", "i5", "mystery"}
    np.testing.assert_array_equal(engine.scores(adapted, ["i7"]), engine.scores(engine.adapt(SUPPORT), ["i7"]))


def test_an_unknown_item_scores_like_one_without_id_and_content(either: Engine) -> None:
    adapted = either.adapt(SUPPORT, PROFILE)
    before = either.scores(adapted, ["unheard"])
    either.upsert([Item(item_id="blank", features={}, revision=1)])
    np.testing.assert_allclose(either.scores(either.adapt(SUPPORT, PROFILE), ["blank"]), before, rtol=1e-5, atol=1e-6)
    assert either.knows(adapted, ["i0", "unheard"]).tolist() == [True, False]


def test_an_emerging_item_scores_by_its_content(engine: Engine) -> None:
    engine.upsert(
        [Item(item_id=f"new{k}", features={"genres": (genre,)}, revision=1) for k, genre in enumerate(("space", "drama"))]
    )
    fan = engine.adapt(rated(("i0", 5.0), ("i4", 5.0), ("i8", 5.0), ("i1", 1.0)))
    space, drama = engine.scores(fan, ["new0", "new1"])
    assert space > drama


def test_later_items_do_not_change_what_is_known_of_a_user(either: Engine) -> None:
    before = either.adapt(SUPPORT, PROFILE)
    either.upsert([Item(item_id=f"n{k}", features={"genres": ("space",)}, revision=1) for k in range(30)])
    after = either.adapt(SUPPORT, PROFILE)
    np.testing.assert_array_equal(either.scores(before, ["i3"]), either.scores(after, ["i3"]))
    assert either.scores(after, ["n3"]).shape == (1,)


def test_an_older_revision_never_replaces_a_newer_one(engine: Engine) -> None:
    assert engine.outdated({"i0": 0, "new": 1, "i1": 2}) == ["new", "i1"]
    item = Item(item_id="new", features={"year": 1999.0, "foreign": "x"}, revision=2)
    assert engine.upsert([item, replace(item, revision=1)]) == ["new"]
    assert engine.upsert([replace(item, revision=2, features={})]) == []
    assert engine.catalogue.features("new") == {"year": 1999.0}
    assert engine.outdated({"new": 2}) == []


def test_a_wrong_item_changes_nothing(engine: Engine) -> None:
    view = engine.view
    with pytest.raises(InvalidInputError, match="'year'"):
        engine.upsert([Item(item_id="a", features={}, revision=1), Item(item_id="b", features={"year": "old"}, revision=1)])
    assert engine.view is view
    assert "a" not in engine.catalogue


def test_new_content_of_a_known_item_equals_an_engine_built_with_it(either: Engine) -> None:
    items = [
        Item(item_id="i3", features={"genres": ("space",), "year": 2001.0}, revision=1),
        Item(item_id="z", features={}, revision=1),
    ]
    either.upsert(items)
    fresh = Engine(either.prior)
    fresh.upsert(items[:1])
    fresh.upsert(items[1:])
    one, other = (each.scores(each.adapt(SUPPORT), ["i3", "z", "i4"]) for each in (either, fresh))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_stored_state_scores_as_the_one_it_was(either: Engine) -> None:
    adapted = either.adapt(SUPPORT, PROFILE, revision=7, seen=("old",))
    restored = either.restore(UserState.decode(adapted.state.encode()), PROFILE)
    assert restored.state.weights.keys() == adapted.state.weights.keys()
    assert (restored.shots, restored.state.revision, restored.seen_items) == (3, 7, adapted.seen_items)
    np.testing.assert_array_equal(either.scores(restored, either.prior.item_ids), either.scores(adapted, either.prior.item_ids))


@pytest.mark.parametrize("change", ["checkpoint", "profile", "content", "newly known"])
def test_a_state_of_something_else_is_adapted_again(engine: Engine, change: str) -> None:
    support = [*SUPPORT, *rated(("n", 5.0), start=2e6)] if change == "newly known" else SUPPORT
    state = engine.adapt(support, PROFILE, revision=3).state
    wrong = {target: {name: value + 9 for name, value in weights.items()} for target, weights in state.weights.items()}
    state, profile = replace(state, weights=wrong), dict(PROFILE)
    if change == "checkpoint":
        state = replace(state, checkpoint="c-other")
    elif change == "profile":
        profile["age"] = 60.0
    else:
        engine.upsert([Item(item_id="i1" if change == "content" else "n", features={"genres": ("horror",)}, revision=1)])
    restored, expected = engine.restore(state, profile), engine.adapt(support, profile)
    np.testing.assert_array_equal(engine.scores(restored, ["i9"]), engine.scores(expected, ["i9"]))
    assert restored.state.checkpoint == engine.checkpoint
    assert restored.state.revision == 3


def test_predictions_are_in_units_of_the_label(engine: Engine) -> None:
    adapted = engine.adapt(rated(("i0", 5.0), ("i4", 5.0), ("i1", 1.0), ("i2", 1.0)))
    mean, variance = engine.predict(adapted, ["i8", "i9", "never heard of"])
    assert mean[0] > 4
    assert mean[0] - mean[1] > 1
    assert variance is not None
    assert (variance > 0).all()
    few, _ = engine.predict(engine.adapt([]), ["i8"])
    assert 1 < few[0] < 5


def test_without_an_explicit_head_the_prediction_is_the_score(prior: Prior) -> None:
    engine = Engine(replace(prior, heads={"implicit": prior.heads["implicit"]}))
    adapted = engine.adapt(SUPPORT)
    mean, variance = engine.predict(adapted, ["i8"])
    assert variance is None
    np.testing.assert_array_equal(mean, engine.scores(adapted, ["i8"]))


@pytest.mark.parametrize("item_id", ["i7", "i1", "unheard", "emerging"])
@pytest.mark.parametrize("shots", [0, 1, 3])
def test_the_terms_add_up_to_the_score(either: Engine, item_id: str, shots: int) -> None:
    either.upsert([Item(item_id="emerging", features={"genres": ("drama",)}, revision=1)])
    adapted = either.adapt(SUPPORT[:shots], PROFILE)
    terms = either.contributions(adapted, item_id)
    assert [term.kind for term in terms] == ["global", "item", "profile"] + ["support"] * shots
    assert sum(term.value for term in terms) == pytest.approx(float(either.scores(adapted, [item_id])[0]), abs=1e-4)


def test_vectors_give_the_scores(engine: Engine) -> None:
    adapted = engine.adapt(SUPPORT, PROFILE)
    vectors = engine.vectors
    assert vectors is not None
    assert adapted.vector is not None
    expected = engine.scores(adapted, engine.prior.item_ids)
    np.testing.assert_allclose(vectors.phi_IE @ adapted.vector + vectors.bias_I, expected, rtol=1e-5, atol=1e-6)


def test_readers_see_whole_views_while_items_arrive(engine: Engine) -> None:
    errors: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                adapted = engine.adapt(SUPPORT)
                known = engine.catalogue.ids[: len(adapted.view.rows)]
                assert np.isfinite(engine.scores(adapted, known)).all()
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(60):
        engine.upsert([Item(item_id=f"n{number}", features={"year": 1990.0}, revision=1)])
    stop.set()
    for reader in readers:
        reader.join()
    assert not errors


def fans_of(engine: Engine, genre: int) -> UserInput:
    return UserInput(support=rated(*((f"i{genre + 4 * k}", 5.0) for k in range(5)), (f"i{(genre + 1) % 4}", 1.0)))


def test_an_item_is_adapted_to_its_first_ratings(engine: Engine) -> None:
    """Ratings that contradict its content turn an item to the taste of those who like it."""
    space, drama = fans_of(engine, 0), fans_of(engine, 1)
    content = {"genres": ("space",)}
    before, _ = engine.predict_item(content, [], [], [space, drama])
    after, variance = engine.predict_item(content, [space, drama] * 6, [1.0, 5.0] * 6, [space, drama])
    assert before[0] > before[1]
    assert after[0] - after[1] < before[0] - before[1] - 0.3
    assert (variance > 0).all()


def test_an_item_task_equals_the_dual_form_of_the_regression(engine: Engine) -> None:
    """The same posterior as a Gaussian process over users: another formula, written from the users' vectors alone."""
    users = [fans_of(engine, genre) for genre in (0, 1, 2, 3)]
    labels, others = np.array([5.0, 1.0, 2.0]), users[1:]
    mean, _ = engine.predict_item({"genres": ("space",)}, users[:3], list(labels), others)
    head = engine.prior.heads["explicit"]
    theta = {name: value.double().numpy() for name, value in head.theta.items()}
    item = encode_unknown_items(engine.prior.encoder, [{"genres": ("space",)}]).dense_NP.double().numpy()[0]
    start = np.append(item @ theta["row.content"], item @ theta["row.content_bias"])
    spread = np.append(np.square(theta["row.id"][1:]).mean(0), np.square(theta["row.id_bias"][1:]).mean())
    fast = [
        fast_weights(engine.view, encode_unknown_users(engine.prior.encoder, [{}]), [user.support])["explicit"] for user in users
    ]
    x = np.array([[*part["mean"][0].double().numpy()[:-1], 1.0] for part in fast])
    level = theta["mu"] + np.array([float(part["mean"][0, -1]) for part in fast])
    own = [np.square(np.append(start[:-1], 1.0) @ part["factor"][0].double().numpy()).sum() for part in fast]
    kernel = (x * spread) @ x.T
    gain = np.linalg.solve(kernel[:3, :3] + np.diag(own[:3]) + np.exp(theta["noise.log_var"][0]) * np.eye(3), kernel[:3, 1:])
    expected = level[1:] + x[1:] @ start + gain.T @ (labels - level[:3] - x[:3] @ start)
    np.testing.assert_allclose(mean, expected, rtol=1e-4)


def test_content_is_the_prior_of_an_item(engine: Engine) -> None:
    space, drama = fans_of(engine, 0), fans_of(engine, 1)
    by_content, _ = engine.predict_item({"genres": ("space",)}, [], [], [space, drama])
    assert by_content[0] > by_content[1]
    engine.upsert([Item(item_id="new", features={"genres": ("space",)}, revision=1)])
    by_id, _ = engine.predict_item("new", [], [], [space, drama])
    np.testing.assert_allclose(by_id, by_content, rtol=1e-5)
    expected, _ = engine.predict(engine.adapt(space.support), ["new"])
    np.testing.assert_allclose(by_id[:1], expected, rtol=1e-4)


def test_item_tasks_need_a_closed_form_explicit_head(engine: Engine, gradient_prior: Prior, prior: Prior) -> None:
    with pytest.raises(NotFoundError, match="'nope'"):
        engine.predict_item("nope", [], [], [])
    with pytest.raises(FailedPreconditionError, match=r"maml.*learner 'alpaca' or 'alpaca_targets'"):
        Engine(gradient_prior).predict_item({}, [], [], [UserInput()])
    with pytest.raises(FailedPreconditionError, match="no explicit head"):
        Engine(replace(prior, heads={"implicit": prior.heads["implicit"]})).predict_item({}, [], [], [UserInput()])
    mean, _ = engine.predict_item({}, [], [], [])
    assert mean.shape == (0,)


def test_a_checkpoint_whose_texts_cannot_be_encoded_here_is_not_served(prior: Prior) -> None:
    text = SentenceBlock(name="plot", model="another", mean_H=np.zeros(8), components_HD=np.zeros((8, 2)))
    for blocks in ({"item_encoders": (*prior.encoder.item_encoders, text)}, {"user_encoders": (text,)}):
        with pytest.raises(FailedPreconditionError, match="sentence"):
            Engine(replace(prior, encoder=replace(prior.encoder, **blocks)))
