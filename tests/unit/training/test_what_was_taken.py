"""Of binary labels, lists are learned from events of label 1 and judged by them, so that a log of what was shown will do."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from metarec.baselines.registry import topn_candidates
from metarec.data.interactions import Interactions
from metarec.data.schema import Label
from metarec.errors import FailedPreconditionError
from metarec.evaluation.held_out import draw_held_out, topn_episodes
from metarec.evaluation.recall_report import held_out_cases
from metarec.evaluation.temporal_splits import temporal_splits
from metarec.evaluation.topn_models import baseline_scorer
from metarec.meta.blend import prior_scores, support_batch
from metarec.meta.prior import Prior
from metarec.tasks.batch import Tables
from metarec.tasks.tables import entity_table
from metarec.training.blending import best_blend
from metarec.training.heads import head_layout
from metarec.training.inputs import prepare
from metarec.training.loop import fit
from metarec.training.recipes import get_recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metarec.data.dataset import Dataset
    from metarec.tasks.batch import Batch

SHOWN, LIKED = range(5), range(5, 10)
"""Items that nearly everybody was shown and hardly anybody took; items that half were shown, who nearly all took them."""


@pytest.fixture(scope="module")
def log(tiny_dataset: "Dataset") -> "Dataset":
    """A log of what 80 users were shown, most of it not taken."""
    rng = np.random.default_rng(3)
    shown_I, taken_I = np.full(60, 0.3), np.full(60, 0.3)
    shown_I[SHOWN], taken_I[SHOWN] = 0.95, 0.02
    shown_I[LIKED], taken_I[LIKED] = 0.5, 0.95
    user_N, item_N = np.nonzero(rng.random((80, 60)) < shown_I)
    order = rng.permutation(len(user_N))
    events = Interactions(
        user_N=user_N[order].astype(np.int32),
        item_N=item_N[order].astype(np.int32),
        label_N=(rng.random(len(order)) < taken_I[item_N[order]]).astype(np.float32),
        timestamp_N=1e6 + 1000.0 * user_N[order] + np.arange(len(order)) % 997,
        scenario_N=np.zeros(len(order), np.int32),
        scenarios=("",),
    )
    schema = replace(tiny_dataset.schema, label=Label(column="clicked", kind="binary"))
    return replace(tiny_dataset, schema=schema, interactions=events)


@pytest.fixture(scope="module")
def prior(log: "Dataset") -> Prior:
    recipe = get_recipe("alpaca").override({"epochs": "2", "explicit.members": "1", "implicit.model.embedding_dim": "8"})
    return fit(log, recipe, seed=0)


def test_a_new_user_gets_what_is_taken_not_what_is_shown(log: "Dataset", prior: Prior) -> None:
    users = entity_table(prior.encoder.encode_users(log.users.iloc[:1]), prior.encoder.user_blocks, np.zeros(1, bool))
    none = (np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0))
    [score_I] = prior_scores(prior, users, [none])
    assert set(np.argsort(-score_I)[:5]) == set(LIKED)
    assert score_I[SHOWN].max() < np.median(score_I)
    assert set(np.argsort(-prior.popularity_I)[:5]) == set(LIKED)


def test_what_was_not_taken_leaves_the_head_for_lists_as_it_is(log: "Dataset", prior: Prior) -> None:
    users = entity_table(prior.encoder.encode_users(log.users.iloc[:1]), prior.encoder.user_blocks, np.zeros(1, bool))
    alone = replace(prior, heads={"implicit": prior.heads["implicit"]})
    taken = (np.array([7, 20]), np.array([1.0, 1.0], np.float32), np.array([1.0, 4.0]))
    more = (np.array([7, 3, 20, 30]), np.array([1.0, 0.0, 1.0, 0.0], np.float32), np.array([1.0, 2.0, 4.0, 5.0]))
    np.testing.assert_allclose(prior_scores(alone, users, [more]), prior_scores(alone, users, [taken]), rtol=1e-5, atol=1e-6)
    # The head for labels learns from it: that is where P(label 1) comes from.
    explicit = replace(prior, heads={"explicit": prior.heads["explicit"]})
    assert not np.allclose(prior_scores(explicit, users, [more]), prior_scores(explicit, users, [taken]), atol=1e-4)


def test_the_blend_is_asked_of_users_who_show_what_they_let_be(
    log: "Dataset", prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in serving: the head for labels adapts to both labels, and what is to be found was taken, if it is one item a user."""
    events = log.interactions
    first = np.zeros(len(events), bool)
    taken = np.flatnonzero(events.label_N > 0)
    first[taken[np.unique(events.user_N[taken], return_index=True)[1]]] = True
    recipe = get_recipe("alpaca").for_labels("binary")
    inputs = prepare(log.with_interactions(replace(events, label_N=first.astype(np.float32))), prior.encoder, recipe, 0)
    asked: list[Batch] = []
    best: list[float] = []

    def choose(heads: object, supports: "Sequence[Batch]", quality: "Callable[[int, np.ndarray], np.ndarray]") -> float:
        asked.extend(supports)
        for number, batch in enumerate(supports):
            score_TI = np.zeros((batch.num_tasks, 60), np.float32)
            mine = {(int(user), int(item)) for user, item in zip(events.user_N[first], events.item_N[first], strict=True)}
            for place, user in enumerate(batch.task_T.tolist()):
                score_TI[place, [item for who, item in mine if who == user]] = 1.0
            best.extend(quality(number, score_TI).tolist())
        return 0.25

    monkeypatch.setattr("metarec.training.blending.choose_blend", choose)
    assert best_blend(inputs, {head.target: head for head in recipe.heads}, prior.heads, 0) == 0.25
    assert any((batch.mask_TN & (batch.label_TN == 0)).any() for batch in asked)
    assert set(best) <= {0.0, 1.0}
    assert 1.0 in best


def test_what_was_taken_once_and_let_be_later_was_taken(log: "Dataset", prior: Prior) -> None:
    """A log of what was shown has many events of one pair; the head for labels learns from the latest, as of ratings."""
    events = log.interactions
    again = replace(events, label_N=np.zeros(len(events), np.float32), timestamp_N=events.timestamp_N + 1e6)
    recipe = get_recipe("alpaca").for_labels("binary")
    once, twice = (
        prepare(log.with_interactions(shown), prior.encoder, recipe, 0) for shown in (events, events.followed_by(again))
    )
    for head in recipe.heads:
        layouts = [head_layout(inputs, head, validation=False) for inputs in (once, twice)]
        assert layouts[0].label_N.max() == 1
        assert bool((layouts[0].label_N == 0).any()) == (head.target == "explicit")
        if head.target == "implicit":
            np.testing.assert_array_equal(layouts[0].row_N, layouts[1].row_N)
        else:
            assert not layouts[1].label_N.any()


def test_it_has_no_share_in_an_explanation(log: "Dataset", prior: Prior) -> None:
    users = entity_table(prior.encoder.encode_users(log.users.iloc[:1]), prior.encoder.user_blocks, np.zeros(1, bool))
    tables = Tables(tasks=users, rows=prior.items)
    head = prior.heads["implicit"]
    support = support_batch(tables, [0], [(np.array([7, 3]), np.array([1.0, 0.0], np.float32), np.array([1.0, 2.0]))])
    query = support_batch(tables, [0], [(np.array([8, 9, 40]), np.ones(3, np.float32), np.zeros(3))])
    terms = head.learner.contributions(head.model, head.theta, support, query)  # type: ignore[attr-defined]  # of this learner
    assert terms["support"][0, :, 0].abs().min() > 0
    assert not terms["support"][0, :, 1].any()
    total_TQ = terms["global"] + terms["item"] + terms["profile"] + terms["support"].sum(2)
    fast = head.learner.adapt(head.model, head.theta, support)
    torch.testing.assert_close(total_TQ, head.learner.predict(head.model, head.theta, fast, query).mean_TQ, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["popularity", "recent_popularity", "popularity_by_gender", "ials", "item_knn", "ease"])
def test_to_baselines_it_never_happened(log: "Dataset", name: str) -> None:
    make = topn_candidates(log)[name][0]
    [episode, *_] = topn_episodes(draw_held_out(log, max_shots=10, seed=0, max_users=5, max_query=50), 10)
    assert 0 < len(episode.taken_S) < len(episode.support_S)
    with_all, with_taken = baseline_scorer(make().fit(log)), baseline_scorer(make().fit(log.taken))
    only = replace(episode, support_S=episode.taken_S, label_S=np.ones(len(episode.taken_S), np.float32))
    np.testing.assert_array_equal(with_all([episode]), with_taken([only]))


def test_lists_are_to_find_what_is_taken(log: "Dataset") -> None:
    taken = {(int(u), int(i)) for u, i in zip(log.taken.interactions.user_N, log.taken.interactions.item_N, strict=True)}
    split = temporal_splits(log, (0.7,))[0]
    episodes = [
        *split.cold(3),
        *split.warm(),
        *topn_episodes(draw_held_out(log, max_shots=3, seed=0, max_users=50, max_query=50), 3),
    ]
    assert len(episodes) > 60
    for episode in episodes:
        assert len(episode.target_Q)
        assert all((episode.user, int(item)) in taken for item in episode.target_Q)
    for case in held_out_cases(log, max_users=50, seed=0):
        assert case.targets


def test_where_nobody_took_anything_there_are_no_lists(log: "Dataset") -> None:
    nothing = log.with_interactions(replace(log.interactions, label_N=np.zeros(len(log.interactions), np.float32)))
    with pytest.raises(FailedPreconditionError, match="no held-out user has an event of label 1 after their first 3"):
        topn_episodes(draw_held_out(nothing, max_shots=3, seed=0, max_users=50, max_query=50), 3)
    with pytest.raises(FailedPreconditionError, match=r"no task has enough interactions of label 1 .*; import more data$"):
        fit(nothing, get_recipe("alpaca"), seed=0)


def test_of_ratings_every_event_counts(tiny_dataset: "Dataset") -> None:
    assert tiny_dataset.taken is tiny_dataset
    [head] = [head for head in get_recipe("alpaca").for_labels("rating").heads if head.target == "implicit"]
    assert "positive_only" not in head.learner_settings
