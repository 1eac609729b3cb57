"""What scenarios bring (`metarec evaluate --kind scenario`): users within them with and without the shift of those there, and how
fast a scenario that training has never seen is learned from its first interactions (P4 of PROTOCOLS for any dataset).

Whoever is asked is a user that training held out. Means over rows; intervals of gains by bootstrap over users.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from metarec.data.dataset import Dataset
from metarec.errors import FailedPreconditionError
from metarec.evaluation.bootstrap import Interval, Resampler, interval
from metarec.evaluation.scenario_tests import InScenario, Shifts, adapt_to, draw_tests, predicted
from metarec.features.encoder import FeatureEncoder
from metarec.meta.prior import Head, Prior
from metarec.meta.scenario import has_scenarios
from metarec.tasks.batch import Tables
from metarec.tasks.layout import TaskLayout
from metarec.tasks.tables import build_tables

SHOTS = (0, 5)
SIZES = (0, 100, 1_000, 10_000)
MIN_ROWS = 20
"""Rows of held-out users in a scenario that make it worth a figure."""
ALONE, WITHIN, SCRATCH = "users alone", "within the scenario", "trained from scratch"


@dataclass(frozen=True, kw_only=True)
class ScenarioFigures:
    """One model on the rows of held-out users in one scenario, from `shots` own rows each.

    size: interactions of other users there that the scenario was learned from; None: all of training
    gain: how much lower the loss (mean absolute error, or log loss) is than that of users alone, with its interval
    """

    scenario: str
    size: int | None
    shots: int
    model: str
    users: int
    rows: int
    metrics: Mapping[str, float]
    gain: float
    gain_interval: Interval


def evaluate_known(
    prior: Prior, dataset: Dataset, held_out: Dataset, *, shots: Sequence[int], seed: int
) -> list[ScenarioFigures]:
    """Held-out users within the scenarios of the training data. FailedPreconditionError: none, or too little to ask."""
    head, names = _head(prior), dataset.interactions.scenarios
    known = {names.index(name): scenario for name, scenario in prior.scenarios.items() if name in names}
    if not known:
        raise FailedPreconditionError(
            "the checkpoint knows no scenario of this dataset; train one on data with a scenario column (docs/data.md)"
        )
    asked = _Asked.of(prior, dataset, held_out)
    found = []
    for scenario in sorted(known):
        tests = draw_tests(asked.layout, [scenario], shots=max(shots), seed=seed)
        for k in shots:
            shifts: dict[str, Shifts] = {ALONE: {}, WITHIN: known}
            said = {model: asked.says(prior, head, tests, used, k) for model, used in shifts.items()}
            found += asked.figures(names[scenario], None, k, tests, said)
    if not found:
        raise FailedPreconditionError(
            f"held-out users have fewer than {MIN_ROWS} interactions in each scenario after {min(shots)} shots; "
            f"{'ask for fewer' if min(shots) else 'train with a larger validation_fraction, which holds out more users'}"
        )
    return found


def leave_out(
    dataset: Dataset,
    train: Dataset,
    held_out: Dataset,
    trained: Callable[[Dataset, FeatureEncoder], Prior],
    encoder: FeatureEncoder,
    *,
    sizes: Sequence[int],
    seed: int,
    watch: Callable[[str], None] = lambda _: None,
) -> list[ScenarioFigures]:
    """Each scenario left out of training, then learned from so many of its interactions, beside a training on these alone."""
    events, names, found = train.interactions, dataset.interactions.scenarios, []
    for scenario, name in enumerate(names):
        mine_N = events.scenario_N == scenario
        if not name or not mine_N.any() or mine_N.all():
            continue
        watch(f"training without '{name}'")
        prior = trained(train.with_interactions(events.select(~mine_N)), encoder)
        asked = _Asked.of(prior, dataset, held_out)
        tests = draw_tests(asked.layout, [scenario], shots=0, seed=seed)
        if sum(len(test.query_Q) for test in tests) < MIN_ROWS:
            continue
        order = np.random.default_rng([seed, 43, scenario]).permutation(np.flatnonzero(mine_N))
        for size in sorted({min(size, len(order)) for size in sizes}):
            shown = train.with_interactions(events.select(np.sort(np.concatenate([order[:size], np.flatnonzero(~mine_N)]))))
            shifts = asked.learned(prior, shown, scenario)
            said = {
                ALONE: asked.says(prior, _head(prior), tests, {}, 0),
                WITHIN: asked.says(prior, _head(prior), tests, shifts, 0),
            }
            if size:
                watch(f"training on {size} interactions of '{name}' alone")
                alone = trained(train.with_interactions(events.select(order[:size])), encoder)
                said[SCRATCH] = _Asked.of(alone, dataset, held_out).says(alone, _head(alone), tests, {}, 0)
            found += asked.figures(name, size, 0, tests, said)
    return found


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Held-out users as strangers with their profiles, their rows, and how labels are judged."""

    dataset: Dataset
    layout: TaskLayout
    tables: Tables

    @classmethod
    def of(cls, prior: Prior, dataset: Dataset, held_out: Dataset) -> "_Asked":
        nobody = np.zeros(len(dataset.user_ids), bool)
        tables = replace(build_tables(dataset, prior.encoder, known_users_mask=nobody), rows=prior.items)
        return cls(dataset=dataset, layout=_layout(dataset, held_out), tables=tables)

    def says(self, prior: Prior, head: Head, tests: Sequence[InScenario], shifts: Shifts, shots: int) -> NDArray[np.float64]:
        """Predicted labels; probabilities of binary ones."""
        mean_Q = predicted(head, self.tables, self.layout, tests, shifts, shots=shots)
        return mean_Q if prior.link is None else np.asarray(prior.link.probability(mean_Q), np.float64)

    def learned(self, prior: Prior, shown: Dataset, scenario: int) -> Shifts:
        """The shift of a scenario from what is shown of its users, there and elsewhere."""
        layout = _layout(self.dataset, shown)
        rows_of = {}
        for user in np.unique(layout.row_tasks[layout.scenario_N == scenario]).tolist():
            rows = layout.rows_of(user)
            rows_of[user] = np.arange(rows.start, rows.stop)
        found = adapt_to(_head(prior), self.tables, layout, rows_of)
        return {scenario: found[scenario]} if scenario in found else {}

    def figures(
        self, name: str, size: int | None, shots: int, tests: Sequence[InScenario], said: Mapping[str, NDArray[np.float64]]
    ) -> list[ScenarioFigures]:
        """Of each model; none where too little is asked."""
        sizes_T = np.array([len(test.query_Q) for test in tests], np.int64)
        if sizes_T.sum() < MIN_ROWS:
            return []
        label_Q = self.layout.label_N[np.concatenate([test.query_Q for test in tests])].astype(np.float64)
        binary = self.dataset.schema.label.kind == "binary"
        user_T = np.array([test.user for test in tests])
        task_Q = np.repeat(np.arange(len(tests)), sizes_T)
        loss = {model: _loss(label_Q, mean_Q, binary=binary) for model, mean_Q in said.items()}
        resampler, found = Resampler.of(np.zeros(len(tests)), user_T), []
        for model, mean_Q in said.items():
            gain_Q = loss[ALONE] - loss[model]
            gain_T = np.asarray(np.bincount(task_Q, gain_Q, len(tests)) * (len(tests) / len(label_Q)), np.float64)
            found.append(
                ScenarioFigures(
                    scenario=name,
                    size=size,
                    shots=shots,
                    model=model,
                    users=len(np.unique(user_T)),
                    rows=len(label_Q),
                    metrics=_metrics(label_Q, mean_Q, float(loss[model].mean()), binary=binary),
                    gain=float(gain_Q.mean()),
                    gain_interval=interval(resampler.means({"gain": gain_T})["gain"]),
                )
            )
        return found


def _layout(dataset: Dataset, part: Dataset) -> TaskLayout:
    return TaskLayout.from_interactions(
        part.interactions, kind="user", num_tasks=len(dataset.user_ids), num_rows=len(dataset.item_ids)
    )


def _head(prior: Prior) -> Head:
    head = prior.heads.get("explicit")
    if head is None or not has_scenarios(head):
        raise FailedPreconditionError(
            f"checkpoint '{prior.checkpoint}' has no explicit head of learner 'alpaca', whose users scenarios move; train one "
            "with recipe 'alpaca'",
            metadata={"checkpoint": prior.checkpoint},
        )
    return head.prepared(prior.items)


def _loss(label_Q: NDArray[np.float64], mean_Q: NDArray[np.float64], *, binary: bool) -> NDArray[np.float64]:
    if not binary:
        return np.asarray(np.abs(label_Q - mean_Q), np.float64)
    p_Q = np.clip(mean_Q, 1e-6, 1 - 1e-6)
    return np.asarray(-(label_Q * np.log(p_Q) + (1 - label_Q) * np.log1p(-p_Q)))


def _metrics(label_Q: NDArray[np.float64], mean_Q: NDArray[np.float64], loss: float, *, binary: bool) -> dict[str, float]:
    if not binary:
        return {"mae": loss, "rmse": float(np.sqrt(np.square(label_Q - mean_Q).mean()))}
    both = 0 < label_Q.sum() < len(label_Q)
    return {"logloss": loss, **({"auc": float(roc_auc_score(label_Q, mean_Q))} if both else {})}
