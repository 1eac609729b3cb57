"""The judge and who judges: on the tiny dataset, whose users each love one genre."""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from metarec.data.inspection import inspect
from metarec.data.schema import Label
from metarec.errors import FailedPreconditionError
from metarec.evaluation.advice_judge import HeldOutJudge
from metarec.evaluation.advice_plot import save_curves
from metarec.evaluation.advice_users import hold_out
from metarec.features.encoder import FeatureEncoder
from metarec.meta.prior import Head
from metarec.training.head_run import train_head
from metarec.training.heads import make_head
from metarec.training.inputs import Inputs, prepare
from metarec.training.recipes import get_recipe
from metarec.training.surroundings import Surroundings

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset
    from metarec.evaluation.temporal_splits import TopNEpisode

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = get_recipe("alpaca").override(
    {
        "epochs": "6",
        "explicit.outer_lr": "0.03",
        "batch_size": "16",
        "model.embedding_dim": "4",
        "implicit.episodes.min_query": "1",
        "validation_fraction": "0.1",
    }
)


class Setting:
    """A dataset split as `metarec advise` splits it."""

    def __init__(self, dataset: "Dataset") -> None:
        self.dataset, self.findings = dataset, inspect(dataset)
        held = hold_out(dataset, self.findings, "ratings", 0)
        self.train, self.held_out = held.learning, held.judging
        self.encoder = FeatureEncoder.fit(dataset.schema, dataset.users, dataset.items, dataset.graph)
        self.inputs: Inputs = prepare(self.train, self.encoder, RECIPE, 0)

    def judge(self, question: str) -> HeldOutJudge:
        return HeldOutJudge.of(question, self.held_out, self.encoder, self.findings.shots, seed=0, max_users=500)  # type: ignore[arg-type]  # one of three

    def head(self, target: str, *, trained: bool = True) -> Head:
        recipe = next(head for head in RECIPE.heads if head.target == target)
        recipe = recipe if trained else replace(recipe, epochs=1, outer_lr=1e-9)
        return make_head(recipe, train_head(self.inputs, recipe, 0, Surroundings()).best)


@pytest.fixture(scope="module")
def setting(tiny_dataset: "Dataset") -> Setting:
    return Setting(tiny_dataset)


def users_of(dataset: "Dataset") -> set[int]:
    return set(dataset.interactions.user_N.tolist())


def test_judges_have_no_part_in_training(setting: Setting) -> None:
    judges = users_of(setting.held_out)
    assert len(judges) == 20
    assert not judges & users_of(setting.train)
    assert not setting.inputs.users.code_N.numpy()[list(judges)].any()
    assert set(setting.judge("ratings").episodes.tasks.user_T.tolist()) <= judges


def test_lists_are_asked_of_users_who_appear_after_what_was_learned(tiny_dataset: "Dataset") -> None:
    events = tiny_dataset.interactions
    # One user after the other.
    sequence = replace(events, timestamp_N=1e6 * events.user_N + np.arange(len(events)))
    dataset = tiny_dataset.with_interactions(sequence)
    held = hold_out(dataset, inspect(dataset), "lists", 0)
    assert held.judging.interactions.timestamp_N.min() > held.learning.interactions.timestamp_N.max()
    assert users_of(held.learning) == set(range(40))
    assert users_of(held.judging) == set(range(40, 80))
    assert held.who.startswith("users who appear after 50% of the interactions")


def test_without_times_lists_are_asked_of_users_at_random(tiny_dataset: "Dataset") -> None:
    events = tiny_dataset.interactions
    timeless = tiny_dataset.with_interactions(replace(events, timestamp_N=np.zeros(len(events))))
    held = hold_out(timeless, inspect(timeless), "lists", 0)
    assert held.who == "held-out users"
    assert len(users_of(held.judging)) == 20


def test_lists_are_asked_of_users_at_random_where_nobody_is_before_a_cut(tiny_dataset: "Dataset") -> None:
    events = tiny_dataset.interactions
    one_moment = np.where(np.arange(len(events)) == len(events) - 1, 2000.0, 1000.0)
    dataset = tiny_dataset.with_interactions(replace(events, timestamp_N=one_moment))
    held = hold_out(dataset, inspect(dataset), "lists", 0)
    assert held.who == "held-out users"
    assert len(held.learning.interactions) > len(held.judging.interactions) > 0


def test_too_few_users_to_judge_are_told(tiny_dataset: "Dataset") -> None:
    events = tiny_dataset.interactions
    few = tiny_dataset.with_interactions(events.select(events.user_N < 30))
    with pytest.raises(FailedPreconditionError, match=r"30 of 30 users have 10 interactions .* needs 40 of them"):
        hold_out(few, inspect(few), "ratings", 0)


def test_lists_are_judged_by_those_who_took_something(tiny_dataset: "Dataset") -> None:
    """With binary labels: users who took nothing judge nothing, and too few who took something are told."""
    schema = replace(tiny_dataset.schema, label=Label(column="clicked", kind="binary"))

    def log(early: int, late: int) -> "Dataset":
        """So many users took their oldest item, and so many their newest."""
        events = tiny_dataset.interactions
        order = np.lexsort((np.arange(len(events)), events.user_N))
        last_U = np.cumsum(np.bincount(events.user_N, minlength=80)) - 1
        first_U = np.append(0, last_U[:-1] + 1)
        label_N = np.zeros(len(events), np.float32)
        label_N[order[np.concatenate([first_U[:early], last_U[:late]])]] = 1.0
        time_N = 1e6 * events.user_N + np.arange(len(events))
        return replace(tiny_dataset, schema=schema, interactions=replace(events, label_N=label_N, timestamp_N=time_N))

    def judge(dataset: "Dataset") -> HeldOutJudge:
        findings = inspect(dataset)
        held = hold_out(dataset, findings, "lists", 0)
        assert users_of(held.judging) <= users_of(dataset.taken)
        encoder = FeatureEncoder.fit(dataset.schema, dataset.users, dataset.items, dataset.graph)
        return HeldOutJudge.of("lists", held.judging, encoder, findings.shots, seed=0, max_users=500)

    few = r"30 of 80 users have .* one of label 1 among them, and .* needs 40 of them"
    with pytest.raises(FailedPreconditionError, match=few):
        judge(log(0, 30))
    assert judge(log(0, 60)).users == 20
    assert judge(log(80, 75)).users == 35
    with pytest.raises(FailedPreconditionError, match="5 of the 40 users who judge have an event of label 1 after their first"):
        judge(log(80, 45))


def test_a_trained_head_is_judged_better_than_an_untrained_one(setting: Setting) -> None:
    judge = setting.judge("ratings")
    assert judge.lower_is_better
    learned, raw = (judge(setting.head("explicit", trained=trained), setting.inputs) for trained in (True, False))
    assert learned.metrics["mae"] < raw.metrics["mae"]
    assert list(learned.metrics) == ["mae", "ndcg@5"]
    assert len(learned.value_T) == len(judge.episodes)
    assert np.mean(learned.value_T) == pytest.approx(learned.metrics["mae"])


def test_lists_are_judged_over_the_catalogue(setting: Setting) -> None:
    judge = setting.judge("lists")
    assert not judge.lower_is_better
    found = judge(setting.head("implicit"), setting.inputs)
    assert list(found.metrics) == ["ndcg@20", "recall@20"]
    plain = judge.baselines(setting.train, setting.inputs, seed=0, watch=lambda name: None)
    assert {"popularity", "ials", "item_knn"} <= set(plain)
    assert 0 < plain["popularity"].metrics["ndcg@20"] < found.metrics["ndcg@20"] < 1


def test_lists_ask_for_everything_after_the_shots(setting: Setting) -> None:
    judge = setting.judge("lists")
    asked: dict[int, list[int]] = {}

    def nothing(episodes: "Sequence[TopNEpisode]") -> np.ndarray:
        asked[len(episodes[0].support_S)] = [len(episode.target_Q) for episode in episodes]
        return np.zeros((len(episodes), len(judge.item_ids)), np.float32)

    judge._lists(nothing)
    # Fourteen interactions each.
    assert asked == {k: [14 - k] * len(judge.episodes) for k in (0, 1, 3, 5)}


def test_baselines_are_judged_by_the_same_ruler(setting: Setting) -> None:
    judge = setting.judge("ratings")
    plain = judge.baselines(setting.train, setting.inputs, seed=0, watch=lambda name: None)
    assert set(plain) == {"support_mean", "bias", "bias_als", "item_content_ridge"}
    # By hand, without shots: the mean of what trained, for each label asked for.
    tasks, mean = judge.episodes.tasks, float(setting.train.interactions.label_N.mean())
    error_T = np.add.reduceat(np.abs(tasks.query_label_Q - mean), tasks.query_start_T1[:-1]) / np.diff(tasks.query_start_T1)
    alone = replace(judge, shots=(0,)).baselines(setting.train, setting.inputs, seed=0, watch=lambda name: None)
    np.testing.assert_allclose(alone["support_mean"].value_T, error_T)


def test_clicks_are_judged_by_auc(tiny_dataset: "Dataset") -> None:
    events = tiny_dataset.interactions
    clicks = replace(
        tiny_dataset,
        schema=replace(tiny_dataset.schema, label=Label(column="rating", kind="binary")),
        interactions=replace(events, label_N=(events.label_N > 3).astype(np.float32)),
    )
    setting = Setting(clicks)
    found = setting.judge("clicks")(setting.head("explicit"), setting.inputs)
    assert 0.5 < found.metrics["auc"] <= 1


def test_clicks_that_tell_no_user_s_items_apart_are_refused(tiny_dataset: "Dataset") -> None:
    events = tiny_dataset.interactions
    # Users who say yes to everything, and users who say no.
    clicks = replace(
        tiny_dataset,
        schema=replace(tiny_dataset.schema, label=Label(column="rating", kind="binary")),
        interactions=replace(events, label_N=(events.user_N % 2).astype(np.float32)),
    )
    with pytest.raises(FailedPreconditionError, match=r"none of the 20 users .* both yes and no .* --target implicit"):
        Setting(clicks).judge("clicks")


def test_costs_are_those_of_serving(setting: Setting) -> None:
    judge = setting.judge("ratings")
    costs = judge.costs(setting.head("explicit"), setting.inputs)
    assert costs["adapt_ms"] > 0
    assert costs["score_ms"] > 0
    # At least the user's vector, a float a dimension.
    assert costs["state_bytes"] > 4 * 5


def test_a_judge_travels_to_trials(setting: Setting) -> None:
    judge, head = setting.judge("ratings"), setting.head("explicit")
    travelled = pickle.loads(pickle.dumps(judge))
    assert travelled(head, setting.inputs) == judge(head, setting.inputs)


def test_curves_are_drawn_with_names_and_floor(tmp_path: Path) -> None:
    curves = {"maml": [[(1.0, 0.9), (2.0, 0.85)]], "alpaca": [[(0.5, 0.9), (1.0, 0.8)], [(0.5, 0.95), (3.0, 0.7)]]}
    save_curves(curves, "mae", chosen="alpaca", floor=("bias", 0.82), path=tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text()
    assert text.index(">maml<") < text.index(">alpaca<") < text.index(">plain: bias<")
    # Trainings that ended in nothing, or none at all, are no reason to lose the others.
    for part in (curves, {**curves, "joint": [[(1.0, float("nan"))]]}, {}):
        save_curves(part, "mae", chosen="", floor=None, path=tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
