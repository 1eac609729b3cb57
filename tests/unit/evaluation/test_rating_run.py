"""Predicting episodes: batches equal single tasks, nothing but the support reaches a model, medians stand beside means."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from metarec.data.dataset import Dataset
from metarec.evaluation.entities import entities
from metarec.evaluation.episode_file import EpisodeRows, read_episodes
from metarec.evaluation.evaluate import Evaluation
from metarec.evaluation.predict import CHUNK_ROWS, predict_episodes
from metarec.evaluation.rating_run import training_rows
from metarec.meta.prior import Prior
from metarec.tasks.batch import Batch
from metarec.training.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def prior(tiny_registry: Path) -> Prior:
    return load_checkpoint(tiny_registry)


def episode_frame(seed: int = 0) -> pd.DataFrame:
    """New users, known users, a new item, and a user and an item that nobody has heard of."""
    random = np.random.default_rng(seed)
    rows = []
    for user in ("new1", "new2", "u3", "stranger", "u7"):
        items = [f"i{k}" for k in random.permutation(60)[:11]]
        items[4] = "unheard-of"
        for place, item in enumerate(items):
            rows.append((user, item, int(random.integers(1, 6)), "support" if place < 6 else "query"))
    return pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "role"])


def rows_of(frame: pd.DataFrame, dataset: Dataset, directory: Path) -> EpisodeRows:
    frame.to_parquet(directory / "e.parquet")
    return read_episodes(directory / "e.parquet", dataset.schema)


def test_unknown_items_have_code_0_and_known_ones_the_checkpoints_row(prior: Prior, tiny_dataset: Dataset) -> None:
    found = entities(prior, tiny_dataset, ["u1", "nobody", "u1"], ["i3", "unheard-of"])
    assert found.user_ids == ("u1", "nobody")
    assert found.item_ids[: len(prior.item_ids)].tolist() == list(prior.item_ids)
    assert found.item_ids[-1] == "unheard-of"
    assert int(found.items.code_N[-1]) == 0
    assert torch.equal(found.items.code_N[:-1], prior.items.code_N)
    # A stranger's profile is that of a user with every field missing, not that of some user of the dataset.
    missing = torch.from_numpy(prior.encoder.encode_users([{}]))
    assert torch.equal(found.users.dense_NP[1:], missing)
    assert not torch.equal(found.users.dense_NP[:1], missing)


def test_items_of_the_dataset_that_training_never_saw_come_with_their_content(prior: Prior, tiny_dataset: Dataset) -> None:
    extra = tiny_dataset.items.iloc[[1]].assign(item_id="brand-new")
    wider = replace(
        tiny_dataset,
        item_ids=np.append(tiny_dataset.item_ids, "brand-new"),
        items=pd.concat([tiny_dataset.items, extra], ignore_index=True),
    )
    found = entities(prior, wider, ["u1"])
    row = found.item_rows(["brand-new"])[0]
    assert int(found.items.code_N[row]) == 0
    assert torch.equal(found.items.dense_NP[row], prior.items.dense_NP[1])
    assert found.item_of_row[-1] == row


@pytest.mark.parametrize("chunk", [CHUNK_ROWS, 12])
def test_predictions_in_bulk_equal_those_of_each_episode_alone(
    prior: Prior, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr("metarec.evaluation.predict.CHUNK_ROWS", chunk)
    rows = rows_of(episode_frame(), tiny_dataset, tmp_path)
    tables = entities(prior, tiny_dataset, rows.user_T, rows.item_N)
    episodes = rows.resolve(tables).first_shots(4)
    head = prior.head("explicit")
    mean_Q, variance_Q = predict_episodes(head, tables.tables, episodes)
    assert variance_Q is not None
    tasks = episodes.tasks
    for task in range(len(tasks)):
        support, query = (slice(*start[task : task + 2]) for start in (tasks.support_start_T1, tasks.query_start_T1))

        def batch(items: np.ndarray, labels: np.ndarray, task: int = task) -> Batch:
            return Batch(
                tables=tables.tables,
                task_T=torch.tensor([tasks.user_T[task]]),
                row_TN=torch.from_numpy(items)[None],
                label_TN=torch.from_numpy(labels).float()[None],
                mask_TN=torch.ones(1, len(items), dtype=torch.bool),
            )

        fast = head.learner.adapt(head.model, head.theta, batch(tasks.support_item_S[support], tasks.support_label_S[support]))
        asked = batch(tasks.query_item_Q[query], np.zeros(query.stop - query.start))
        said = head.learner.predict(head.model, head.theta, fast, asked)
        np.testing.assert_allclose(mean_Q[query], said.mean_TQ[0].detach().numpy(), rtol=1e-4, atol=1e-5)
        assert said.variance_TQ is not None
        np.testing.assert_allclose(variance_Q[query], said.variance_TQ[0].detach().numpy(), rtol=1e-4)


def test_labels_to_predict_and_rows_of_other_episodes_change_no_prediction(
    prior: Prior, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    frame = episode_frame()
    evaluation = Evaluation(prior=prior, dataset=tiny_dataset, same_data=True)

    def predictions(data: pd.DataFrame) -> np.ndarray:
        rows = rows_of(data, tiny_dataset, tmp_path)
        tables = entities(prior, tiny_dataset, rows.user_T, rows.item_N)
        return predict_episodes(prior.head("explicit"), tables.tables, rows.resolve(tables))[0]

    before = predictions(frame)
    twisted = frame.assign(rating=np.where(frame.role == "query", 6 - frame.rating, frame.rating))
    np.testing.assert_array_equal(before, predictions(twisted))
    alone = predictions(frame[frame.user_id == "u3"])
    place = (frame[frame.role == "query"].user_id == "u3").to_numpy()
    np.testing.assert_allclose(alone, before[place], atol=1e-5)
    assert evaluation.learner == "alpaca"


def test_baselines_never_learn_from_the_answers(prior: Prior, tiny_dataset: Dataset, tmp_path: Path) -> None:
    events = tiny_dataset.interactions
    mine = np.flatnonzero(events.user_N == 3)
    frame = pd.DataFrame(
        {
            "user_id": "u3",
            "item_id": [str(tiny_dataset.item_ids[row]) for row in events.item_N[mine]],
            "rating": events.label_N[mine],
            "role": ["support"] * 4 + ["query"] * (len(mine) - 4),
        }
    )
    rows = rows_of(frame, tiny_dataset, tmp_path)
    tables = entities(prior, tiny_dataset, rows.user_T, rows.item_N)
    episodes = rows.resolve(tables)
    keep_N = training_rows(tiny_dataset, episodes, tables, same_data=True)
    assert np.flatnonzero(~keep_N).tolist() == mine[4:].tolist()
    # On other data than the checkpoint's, nothing that the episodes' users did is known.
    strict_N = training_rows(tiny_dataset, episodes, tables, same_data=False)
    assert not strict_N[events.user_N == 3].any()
    assert strict_N[events.user_N != 3].all()
    results, notes = Evaluation(prior=prior, dataset=tiny_dataset, same_data=True).episodes(rows, [None])
    assert len(results) == 1
    assert any(f"{len(mine) - 4} interactions of the dataset are answers" in note for note in notes)


def test_medians_are_grades_and_rank_like_the_mean(prior: Prior, tiny_dataset: Dataset, tmp_path: Path) -> None:
    rows = rows_of(episode_frame(), tiny_dataset, tmp_path)
    result = Evaluation(prior=prior, dataset=tiny_dataset, same_data=True).episodes(rows, [None])[0][0]
    for model in ("alpaca", "bias", "bias_als", "support_mean", "content_ridge"):
        np.testing.assert_array_equal(result.values[model]["ndcg@5"], result.values[f"{model}_median"]["ndcg@5"])
        assert not np.array_equal(result.values[model]["mae"], result.values[f"{model}_median"]["mae"])
    total = result.values["alpaca_median"]["mae"] * 5
    np.testing.assert_allclose(total, total.round(), atol=1e-9)  # five whole errors
    assert result.deltas["alpaca_median"]["mae"].baseline.endswith("_median")
    assert not any(name.endswith("_median") for name in result.plain())


def test_shots_give_a_curve_whose_first_point_knows_no_support(prior: Prior, tiny_dataset: Dataset, tmp_path: Path) -> None:
    evaluation = Evaluation(prior=prior, dataset=tiny_dataset, same_data=True)
    frame = episode_frame()
    results = {r.name: r for r in evaluation.episodes(rows_of(frame, tiny_dataset, tmp_path), [None, 0, 6])[0]}
    assert set(results) == {"episodes", "episodes@0", "episodes@6"}
    np.testing.assert_array_equal(results["episodes"].values["alpaca"]["mae"], results["episodes@6"].values["alpaca"]["mae"])
    queries = rows_of(frame[frame.role == "query"], tiny_dataset, tmp_path)
    bare = evaluation.episodes(queries, [None])[0][0]
    np.testing.assert_allclose(bare.values["alpaca"]["mae"], results["episodes@0"].values["alpaca"]["mae"], atol=1e-6)
    one = evaluation.episodes(rows_of(frame, tiny_dataset, tmp_path), [0])[0]
    assert [(r.name, r.shots) for r in one] == [("episodes", 0)]


def test_a_joint_checkpoint_stands_beside_and_gives_delta_joint(prior: Prior, tiny_dataset: Dataset, tmp_path: Path) -> None:
    evaluation = Evaluation(prior=prior, dataset=tiny_dataset, same_data=True, joint=prior)
    result = evaluation.episodes(rows_of(episode_frame(), tiny_dataset, tmp_path), [None])[0][0]
    np.testing.assert_array_equal(result.values["alpaca"]["mae"], result.values["alpaca_joint"]["mae"])
    assert result.deltas_joint["alpaca"]["mae"].value == 0
    assert "alpaca_joint" not in result.plain()


def test_what_is_unknown_is_said(prior: Prior, tiny_dataset: Dataset, tmp_path: Path) -> None:
    notes = " ".join(
        Evaluation(prior=prior, dataset=tiny_dataset, same_data=True).episodes(
            rows_of(episode_frame(), tiny_dataset, tmp_path), [None]
        )[1]
    )
    assert "3 users are not in the dataset" in notes
    assert "1 items are not in the dataset" in notes
