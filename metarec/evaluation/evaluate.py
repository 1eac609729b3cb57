"""The protocols of `metarec evaluate` put together: a file of episodes, and users that training held out.

The command hands in what it has loaded: evaluation knows nothing of registries or training runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from metarec.errors import FailedPreconditionError
from metarec.evaluation.entities import Entities, entities, mirrored_entities
from metarec.evaluation.episode_file import EpisodeRows
from metarec.evaluation.episodes import MAX_QUERY, Episodes, held_out_episodes
from metarec.evaluation.held_out import EVERYTHING, draw_held_out, fit_topn_baselines, topn_episodes
from metarec.evaluation.held_out_links import judged_by_others
from metarec.evaluation.item_tasks import ItemTasks
from metarec.evaluation.lists import ListResults
from metarec.evaluation.rating_run import (
    Contest,
    Predictor,
    baseline_predictor,
    fit_baselines,
    label_scale,
    learner_name,
    learner_predictor,
    moved,
    rating_target,
    run_contest,
    training_rows,
)
from metarec.evaluation.results import ProtocolResult
from metarec.evaluation.scores import ScoreFile
from metarec.evaluation.topn_models import learner_scorer, measure
from metarec.meta.prior import Prior

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

MAX_HELD_OUT_USERS = 1000
MAX_TUNING_INTERACTIONS = 1_000_000
HELD_OUT, HELD_OUT_LISTS = "held_out", "held_out_lists"
ALIKE = "all labels that are asked for are alike"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is evaluated: a prior, a jointly trained one beside it (or None), and the dataset that gives profiles and contents.

    `same_data` says whether the prior was trained on this very dataset. `watch` is told what happens next.
    """

    prior: Prior
    dataset: "Dataset"
    same_data: bool
    joint: Prior | None = None
    seed: int = 0
    scores: ScoreFile | None = None
    watch: Callable[[str], None] = lambda _: None

    @property
    def learner(self) -> str:
        """Name of the learner in reports."""
        return learner_name(self.prior)

    @property
    def joint_name(self) -> str:
        """Name of the jointly trained model, "" without one."""
        if self.joint is None:
            return ""
        name = learner_name(self.joint)
        return name if name != self.learner else f"{name}_joint"

    def episodes(self, rows: EpisodeRows, shots: Sequence[int | None]) -> tuple[list[ProtocolResult], list[str]]:
        """P6: the episodes of a file, and what is to be said about them."""
        items = rows.kind == "item"
        dataset = self.dataset.mirrored() if items else self.dataset
        gather = mirrored_entities if items else entities
        tables = gather(self.prior, self.dataset, rows.user_T, rows.item_N)
        episodes = rows.resolve(tables)
        keep_N = training_rows(dataset, episodes, tables, same_data=self.same_data)
        said = self._item_notes(tables) if items else self._notes(episodes, tables, int((~keep_N).sum()))
        contest = self._contest(dataset, keep_N, episodes, tables)
        notes = [*rows.notes, *said, *([f"{ALIKE}: auc, ndcg and the like say nothing here"] if labels_alike(episodes) else [])]
        return self._run(contest, episodes, tables, shots), notes

    def held_out(self, train: "Dataset", held_out: "Dataset", shots: Sequence[int]) -> tuple[list[ProtocolResult], list[str]]:
        """Episodes of the users in `held_out`, and what is to be said about them; baselines learn from `train`. Lists too where
        there is no order in time for P5.

        Lists alone where all labels are alike: what ranks given items by label could not be told from chance then.
        FailedPreconditionError where there is nothing to ask.
        """
        users = np.asarray(self.dataset.user_ids, object)
        tables = entities(self.prior, self.dataset, users[np.unique(held_out.interactions.user_N)])
        drawn = held_out_episodes(
            held_out.interactions,
            tables.item_of_row,
            np.asarray(self.dataset.item_ids, object),
            user_ids=users,
            max_shots=max(shots),
            seed=self.seed,
            max_users=MAX_HELD_OUT_USERS,
            max_query=MAX_QUERY,
            protocol=HELD_OUT,
        )
        episodes = drawn.with_users(tables.user_rows(drawn.name_T))
        lists = "implicit" in self.prior.heads and not self.dataset.has_timestamps
        if "explicit" not in self.prior.heads and labels_alike(episodes):
            if not lists:
                raise FailedPreconditionError(f"{ALIKE}; what users take out of all items is judged in time order")
            return self._held_out_lists(train, held_out, shots), [f"{ALIKE}: held-out users are judged by lists alone"]
        contest = self._contest(train, np.ones(len(train.interactions), bool), episodes, tables)
        asked, models = [episodes.first_shots(k) for k in shots], dict(contest.models)
        for name, prior in ((self.learner, self.prior), (self.joint_name, self.joint)):
            if prior is not None and prior.link is not None:
                models[name] = judged_by_others([models[name]] * len(asked), prior.link, asked)[0]
        results = self._run(replace(contest, models=models), episodes, tables, list(shots))
        if not lists:
            return results, []
        try:
            return results + self._held_out_lists(train, held_out, shots), []
        except FailedPreconditionError as error:  # what is known of labels stands
            return results, [f"held-out users are not judged by lists: {error.message}"]

    def _held_out_lists(self, train: "Dataset", held_out: "Dataset", shots: Sequence[int]) -> list[ProtocolResult]:
        asked = draw_held_out(held_out, max_shots=max(shots), seed=self.seed, max_users=MAX_HELD_OUT_USERS, max_query=EVERYTHING)
        self.watch("top-N baselines")
        scorers = {self.learner: learner_scorer(self.prior, train)}
        if self.joint is not None:
            scorers[self.joint_name] = learner_scorer(self.joint, train)
        scorers |= fit_topn_baselines(train, shots=shots, seed=self.seed, max_tuning_interactions=MAX_TUNING_INTERACTIONS)
        lists = ListResults(
            learner=self.learner,
            joint=self.joint_name,
            user_ids=np.asarray(train.user_ids, object),
            item_ids=np.asarray(train.item_ids, object),
            seed=self.seed,
            scores=self.scores,
        )
        for k in shots:
            tests = topn_episodes(asked, k)
            measured = {name: measure(scorer, tests, len(train.item_ids)) for name, scorer in scorers.items()}
            lists.add(f"{HELD_OUT_LISTS}@{k}", HELD_OUT, tests, measured)
        return lists.results({f"{HELD_OUT_LISTS}@{k}": (HELD_OUT_LISTS, k) for k in shots})

    def _contest(self, train: "Dataset", keep_N: "np.ndarray", episodes: Episodes, tables: Entities) -> Contest:
        if not keep_N.any():
            raise FailedPreconditionError("no interactions of the dataset are left for the plain baselines to learn from")
        scale = label_scale(self.dataset, episodes.tasks.query_label_Q)
        kind = self.prior.head(rating_target(self.prior)).kind
        if kind == "item" and tables.kind == "user":
            raise FailedPreconditionError(
                f"checkpoint '{self.prior.checkpoint}' has tasks of kind 'item'; evaluate it on --episodes with --kind item",
                metadata={"checkpoint": self.prior.checkpoint},
            )
        if kind == "user" and tables.kind == "item":
            models: dict[str, Predictor] = {self.learner: ItemTasks(self.prior, tables, train, scale)}
        else:
            models = {self.learner: learner_predictor(self.prior, tables, scale)}
        if self.joint is not None and tables.kind == "user":
            other = entities(self.joint, self.dataset, tables.user_ids, tables.item_ids)
            predict = learner_predictor(self.joint, other, scale)
            models[self.joint_name] = moved(predict, tables, other)

        def tell(name: str) -> None:
            self.watch(f"fitting {name}")

        fitted = fit_baselines(train, keep_N, tables, seed=self.seed, watch=tell)
        models |= {name: baseline_predictor(model, scale) for name, model in fitted.items()}
        return Contest(learner=self.learner, joint=self.joint_name if tables.kind == "user" else "", models=models, scale=scale)

    def _run(self, contest: Contest, episodes: Episodes, tables: Entities, shots: Sequence[int | None]) -> list[ProtocolResult]:
        return run_contest(contest, episodes, tables, shots, seed=self.seed, scores=self.scores, watch=self.watch)

    def _item_notes(self, tables: Entities) -> list[str]:
        notes = []
        known = {str(item) for item in self.dataset.item_ids} | set(self.prior.item_ids)
        nameless = sum(item not in known for item in tables.user_ids)
        if nameless:
            notes.append(f"{nameless} items are not in the dataset: they have no content")
        strangers = len(tables.item_ids) - len(self.dataset.user_ids)
        if strangers:
            notes.append(f"{strangers} users are not in the dataset: they have neither profile nor history")
        if self.joint is not None:
            notes.append("the jointly trained checkpoint is left out: it has no tasks whose rows are users")
        return notes

    def _notes(self, episodes: Episodes, tables: Entities, left_out: int) -> list[str]:
        notes = []
        unknown = int((tables.items.code_N.numpy()[np.unique(episodes.tasks.query_item_Q)] == 0).sum())
        if unknown:
            notes.append(f"{unknown} of the items asked for are unknown to training: they are predicted from their content")
        known_users = {str(user) for user in self.dataset.user_ids}
        strangers = sum(user not in known_users for user in tables.user_ids)
        if strangers:
            notes.append(f"{strangers} users are not in the dataset: they have no profile")
        known_items = {str(item) for item in self.dataset.item_ids} | set(self.prior.item_ids)
        nameless = sum(str(item) not in known_items for item in tables.item_ids)
        if nameless:
            notes.append(f"{nameless} items are not in the dataset: they have no content")
        if left_out and self.same_data:
            notes.append(
                f"{left_out} interactions of the dataset are answers of these episodes: the checkpoint has been trained on them, "
                "so its figures are too good; the baselines have not seen them"
            )
        elif left_out:
            notes.append(
                f"the checkpoint was trained on other data: baselines learn from the dataset without {left_out} interactions, "
                "those of the users of these episodes and of items that the checkpoint does not know"
            )
        return notes


def labels_alike(episodes: Episodes) -> bool:
    """Whether all query rows have one label: no order of them is better than another."""
    return len(episodes.tasks.query_label_Q) > 0 and float(np.ptp(episodes.tasks.query_label_Q)) == 0
