"""Planted: labels follow the genre of an item, so without genres nothing is left, and years are noise."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from metarec.data.schema import Label
from metarec.errors import FailedPreconditionError
from metarec.evaluation.ablation import ablate, blanked
from metarec.evaluation.entities import entities
from metarec.evaluation.hidden_items import ask_for_hidden, hide_items
from metarec.evaluation.tables import ablation_table
from metarec.features.encoder import FeatureEncoder
from metarec.features.groups import choose_groups
from metarec.meta.prior import Head, Prior
from metarec.meta.registry import make_learner
from metarec.models.registry import make_model
from metarec.tasks.batch import Tables
from metarec.tasks.tables import entity_table


@pytest.fixture(scope="module")
def encoder(tiny_dataset):
    return FeatureEncoder.fit(tiny_dataset.schema, tiny_dataset.users, tiny_dataset.items)


def _prior(dataset, encoder, weight):
    """A learner that is not trained: the vector of an item is `weight` times its genre; adaptation finds the taste for it."""
    known = np.bincount(dataset.interactions.item_N, minlength=len(dataset.item_ids)) > 0
    items = entity_table(encoder.encode_items(dataset.items), encoder.item_blocks, known)
    users = entity_table(encoder.encode_users(dataset.users), encoder.user_blocks, np.zeros(len(dataset.user_ids), bool))
    learner, model = make_learner("alpaca", {}), make_model("linear_gaussian", {"embedding_dim": 4})
    theta = dict(learner.init(model, Tables(tasks=users, rows=items), torch.Generator().manual_seed(0)))
    theta["mu"] = torch.tensor(3.0)
    theta |= {name: torch.zeros_like(theta[name]) for name in ("row.id", "task.content")}
    content = torch.zeros_like(theta["row.content"])
    for name, start, stop in encoder.item_blocks:
        if name == "genres":
            content[start : stop - 1] = weight * torch.eye(stop - 1 - start, 4)
    theta["row.content"] = content
    return Prior(
        schema=dataset.schema,
        encoder=encoder,
        item_ids=tuple(map(str, dataset.item_ids)),
        items=items,
        popularity_I=np.bincount(dataset.interactions.item_N, minlength=len(items)).astype(np.float32),
        heads={"explicit": Head(target="explicit", learner=learner, model=model, theta=theta)},
    )


def test_hidden_items_are_gone_from_training_and_alone_in_the_questions(tiny_dataset, encoder):
    train, hidden_I = hide_items(tiny_dataset, seed=3, share=0.4)
    assert not hidden_I[train.interactions.item_N].any()
    assert hidden_I.sum() == 24
    asked = ask_for_hidden(tiny_dataset, hidden_I, seed=3, max_users=20)
    tables = entities(_prior(train, encoder, 1.0), tiny_dataset, asked.user_ids)
    episodes = asked.resolve(tables)
    rows = {int(row): hidden for row, hidden in zip(tables.item_of_row, hidden_I, strict=True)}
    assert all(rows[int(row)] for row in episodes.tasks.query_item_Q)
    assert not any(rows[int(row)] for row in episodes.tasks.support_item_S)
    assert (tables.items.code_N.numpy()[episodes.tasks.query_item_Q] == 0).all()
    assert np.diff(episodes.tasks.query_start_T1).min() >= 5
    assert 0 < len(episodes) <= 20
    events = tiny_dataset.interactions
    label = {(int(u), int(i)): float(x) for u, i, x in zip(events.user_N, events.item_N, events.label_N, strict=True)}
    place = {str(name): k for k, name in enumerate(tiny_dataset.user_ids)}
    for row, task, value in zip(
        episodes.tasks.query_item_Q, episodes.tasks.query_task_Q, episodes.tasks.query_label_Q, strict=True
    ):
        assert label[place[asked.user_ids[task]], int(row)] == value


def test_a_dataset_where_nobody_knows_enough_hidden_items_is_refused(tiny_dataset):
    hidden_I = np.zeros(len(tiny_dataset.item_ids), bool)
    hidden_I[:2] = True
    with pytest.raises(FailedPreconditionError, match="no user has 5 interactions with hidden items"):
        ask_for_hidden(tiny_dataset, hidden_I, seed=0, max_users=20)
    with pytest.raises(FailedPreconditionError, match="hides 0 of them"):
        hide_items(tiny_dataset, seed=0, share=0.001)


@pytest.mark.parametrize("mode", ["retrain", "blank"])
def test_what_carries_the_labels_has_a_gain_and_noise_has_none(tiny_dataset, encoder, mode):
    train, hidden_I = hide_items(tiny_dataset, seed=3, share=0.4)
    asked = ask_for_hidden(tiny_dataset, hidden_I, seed=3, max_users=80)
    groups = choose_groups(encoder, ("categories", "numbers"), fields=True)
    trained = []

    def train_on(encoder, seed):
        trained.append([name for name, _, _ in encoder.item_blocks])
        return _prior(train, encoder, 1.0)

    (found,) = ablate(tiny_dataset, asked, encoder, groups, mode=mode, trained=train_on, seeds=(0, 1))
    assert found.protocol == "hidden_items"
    assert len(trained) == (6 if mode == "retrain" else 2)
    genres, years = found.groups["categories"], found.groups["numbers"]
    assert genres["mae"].gain > 0.3
    assert genres["mae"].interval[0] > 0
    assert genres["mae"].gain == pytest.approx(genres["mae"].without - found.whole["mae"])
    assert genres["ndcg@5"].gain == pytest.approx(found.whole["ndcg@5"] - genres["ndcg@5"].without)
    assert genres["ndcg@5"].gain > 0
    assert years["mae"].gain == 0
    assert years["mae"].seed_sd == 0
    data = found.to_dict()
    assert data["groups"]["numbers"]["columns"] == found.widths["numbers"]


def test_of_clicks_people_are_shown_auc_and_log_loss_and_json_keeps_the_error(tiny_dataset, encoder):
    events = tiny_dataset.interactions
    clicks = replace(
        tiny_dataset,
        schema=replace(tiny_dataset.schema, label=Label(column="liked", kind="binary", minimum=0, maximum=1)),
        interactions=replace(events, label_N=(events.label_N >= 4).astype(np.float32)),
    )
    train, hidden_I = hide_items(clicks, seed=3, share=0.4)
    asked = ask_for_hidden(clicks, hidden_I, seed=3, max_users=80)
    prior = _prior(train, encoder, 1.0)
    groups = choose_groups(encoder, ("categories",), fields=True)
    (found,) = ablate(clicks, asked, encoder, groups, mode="blank", trained=lambda *_: prior, seeds=(0,))
    assert found.shown == ["auc", "logloss"]
    assert set(found.to_dict()["metrics"]) == {"auc", "logloss", "mae", "ndcg@5"}
    assert list(ablation_table(found).rows[0])[2:] == [
        *("auc", "its gain in auc", "95 % (auc)"),
        *("logloss", "its gain in logloss", "95 % (logloss)"),
    ]


def test_blanked_values_look_like_missing_ones(tiny_dataset, encoder):
    known = np.zeros(len(tiny_dataset.item_ids), bool)
    table = entity_table(encoder.encode_items(tiny_dataset.items), encoder.item_blocks, known)
    gone = tiny_dataset.items.assign(genres=None)
    np.testing.assert_array_equal(blanked(table, frozenset({"genres"})).dense_NP.numpy(), encoder.encode_items(gone))
