"""A user adapted to, and the batches and scores that follow from one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from metarec.adaptation.mixing import mixed_rows, mixed_vector
from metarec.adaptation.state import UserState, Weights
from metarec.adaptation.view import EngineView, Floats, is_vector_learner, task_vector
from metarec.meta.blend import SupportRows, support_batch
from metarec.meta.contract import takes_targets
from metarec.meta.prior import Head
from metarec.models.contract import FastWeights
from metarec.tasks.batch import Batch, EntityTable, Tables
from metarec.types import Features, Interaction, Target


@dataclass(frozen=True, kw_only=True)
class Within:
    """A user's place in a scenario, under the explicit head (metarec.adaptation.scenarios).

    scenario: its name; "" is the default one
    used: the interactions adapted to, their labels less what the scenarios they are from add
    shift_E: the shift of the scenario the user is within, a part of the user's vector
    spread_EE: its covariance, where predictions are to be as uncertain as it is
    """

    scenario: str
    used: tuple[Interaction, ...]
    shift_E: Floats
    spread_EE: NDArray[np.float64] | None = None


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """A user adapted to: what scoring, explaining and storing need.

    `used` are the interactions of the support set whose items are known, `unknown_ids` the others' items. `vector` is the user's
    side of `EngineView.vectors`, None when a head is not linear. `mix` holds the weights of each head's targets that a request
    asks for (metarec.adaptation.weighing); None: as trained. `within` is their place in a scenario; None: no shift concerns them.
    """

    state: UserState
    view: EngineView
    profile: EntityTable
    used: tuple[Interaction, ...]
    unknown_ids: tuple[str, ...]
    vector: Floats | None
    mix: Mapping[Target, tuple[float, ...]] | None = None
    within: Within | None = None

    @property
    def weights(self) -> Mapping[Target, tuple[float, ...]]:
        """What the targets of each head count in the score (metarec.adaptation.mixing); heads of weight 0 are left out."""
        return {head: (weight,) for head, weight in self.view.weights.items()} if self.mix is None else self.mix

    @property
    def shots(self) -> int:
        """Number of interactions adapted to; 0 is a cold start."""
        return len(self.used)

    @property
    def seen_items(self) -> frozenset[str]:
        """Items the user has interacted with."""
        return self.state.seen_items

    def support(self, view: EngineView | None = None, target: Target | None = None) -> Batch:
        """The support set as a batch of one task, as the head of `target` sees it, over the rows of `view` (default: the view
        adapted with)."""
        used = self.within.used if self.within is not None and target == "explicit" else self.used
        view = view or self.view
        return support_batches(view, self.profile, [used], None if target is None else view.heads[target])


@dataclass(frozen=True, kw_only=True)
class UserInput:
    """What adaptation starts from: a support set (any order of times is allowed; ids unique), profile, revision, older items."""

    support: Sequence[Interaction] = ()
    features: Features | None = None
    revision: int = 0
    seen: Sequence[str] = ()


def fast_weights(
    view: EngineView,
    profiles: EntityTable,
    supports: Sequence[Sequence[Interaction]],
    targets: Sequence[Target] | None = None,
) -> dict[Target, FastWeights]:
    """Fast weights of each head for users with these profiles (rows, in order) and support sets of known items."""
    plain = support_batches(view, profiles, supports)
    with torch.no_grad():
        return {
            target: head.learner.adapt(
                head.model,
                head.theta,
                support_batches(view, profiles, supports, head) if takes_targets(head.learner) else plain,
            )
            for target, head in view.heads.items()
            if targets is None or target in targets
        }


def stored_weights(head: Head, fast: FastWeights, place: int) -> Weights:
    """The fast weights of one task of a batch, as `UserState` keeps them."""
    if is_vector_learner(head):
        return {"vector": task_vector(head, fast)[place].float().numpy()}
    return {name: value[place].float().numpy() for name, value in fast.items()}


def user_vector(view: EngineView, weights: Mapping[Target, Weights]) -> Floats | None:
    """The user's side of `EngineView.vectors`; None when a head is not linear."""
    if not all(is_vector_learner(view.heads[target]) for target in view.weights):
        return None
    return np.concatenate([weights[target]["vector"] for target in view.weights])


def query_batch(view: EngineView, profile: EntityTable, row_N: NDArray[np.int64]) -> Batch:
    """Rows of the view to score for one user."""
    row_1N = torch.from_numpy(np.ascontiguousarray(row_N, np.int64))[None]
    return Batch(
        tables=Tables(tasks=profile, rows=view.rows),
        task_T=torch.zeros(1, dtype=torch.int64),
        row_TN=row_1N,
        label_TN=torch.zeros(row_1N.shape),
        mask_TN=torch.ones(row_1N.shape, dtype=torch.bool),
    )


def support_batches(
    view: EngineView, profiles: EntityTable, supports: Sequence[Sequence[Interaction]], head: Head | None = None
) -> Batch:
    """Support sets of known items as a batch; row k of `profiles` is the task of set k.

    For a `head` of several targets there is a row for every label of an interaction, as `label_rows` lists them.
    """
    schema = view.prior.schema
    columns = tuple(label.column for label in schema.targets) if head is not None and takes_targets(head.learner) else ()
    timed = schema.timestamp is not None
    rows: list[SupportRows] = []
    targets: list[NDArray[np.int64]] = []
    for support in supports:
        listed = label_rows(support, columns)
        rows.append(
            (
                view.catalogue.rows(entry.item_id for entry, _, _ in listed),
                np.array([label for _, label, _ in listed], np.float32),
                np.array([entry.timestamp for entry, _, _ in listed], np.float64) if timed else None,
            )
        )
        targets.append(np.array([number for _, _, number in listed], np.int64))
    batch = support_batch(Tables(tasks=profiles, rows=view.rows), range(len(rows)), rows)
    if not columns:
        return batch
    target_TN = np.zeros(batch.row_TN.shape, np.int64)
    for place, numbers in enumerate(targets):
        target_TN[place, : len(numbers)] = numbers
    return replace(batch, target_TN=torch.from_numpy(target_TN))


def label_rows(support: Sequence[Interaction], columns: Sequence[str]) -> list[tuple[Interaction, float, int]]:
    """Every label of every interaction, those of one interaction together, with the number of its target: 0 for the label, k for
    the k-th of `columns`."""
    return [
        (entry, label, number)
        for entry in support
        for number, label in enumerate((entry.label, *(entry.labels.get(column) for column in columns)))
        if label is not None
    ]


def known_support(view: EngineView, support: Sequence[Interaction]) -> tuple[tuple[Interaction, ...], tuple[str, ...]]:
    """The interactions whose items the view has, and the ids of the others."""
    row_of = view.catalogue.row_of
    used = tuple(entry for entry in support if entry.item_id in row_of)
    return used, tuple(entry.item_id for entry in support if entry.item_id not in row_of)


def support_revisions(view: EngineView, support: Sequence[Interaction]) -> dict[str, int]:
    """Revisions of the support items' content as `UserState` keeps them."""
    upserted, row_of = view.catalogue.upserted, view.catalogue.row_of
    found = {}
    for entry in support:
        item = upserted.get(entry.item_id)
        if item is not None:
            found[entry.item_id] = item.revision
        elif entry.item_id not in row_of:
            found[entry.item_id] = -1
    return found


def score(view: EngineView, adapted: Adapted, row_N: NDArray[np.int64]) -> Floats:
    """Scores of rows of `view` under the adapted weights."""
    if adapted.mix is None and view.vectors is not None and adapted.vector is not None:
        return cast(Floats, view.vectors.bias_I[row_N] + view.vectors.phi_IE[row_N] @ adapted.vector)
    score_N = np.zeros(len(row_N), np.float32)
    for target, weights in adapted.weights.items():
        score_N += _head_score(view, target, weights, adapted, row_N)
    share = shift_share(adapted)
    if share and view.shifts and adapted.vector is not None:
        row_K, phi_KE, bias_K = view.shifted_rows
        shift_I = np.zeros(len(view.rows), np.float32)
        shift_I[row_K] = bias_K + phi_KE @ adapted.vector
        score_N += np.float32(share) * shift_I[row_N]
    return score_N


def shift_share(adapted: Adapted) -> float:
    """What of emerging items' shifts counts in the user's scores; they are made for the trained weight of the explicit head."""
    if adapted.mix is None:
        return 1.0
    trained = adapted.view.weights.get("explicit", 0.0)
    return adapted.mix.get("explicit", (0.0,))[0] / trained if trained else 0.0


def _head_score(view: EngineView, target: Target, weights: Sequence[float], adapted: Adapted, row_N: NDArray[np.int64]) -> Floats:
    head, stored = view.heads[target], adapted.state.weights[target]
    if is_vector_learner(head):
        phi_ID, bias_I = mixed_rows(head, view.rows, weights)
        return cast(Floats, bias_I[row_N] + phi_ID[row_N] @ mixed_vector(head, weights, stored["vector"]))
    fast = {name: torch.from_numpy(value)[None] for name, value in stored.items()}
    with torch.no_grad():
        found = head.learner.predict(head.model, head.theta, fast, query_batch(view, adapted.profile, row_N))
    return cast(Floats, np.float32(weights[0]) * found.mean_TQ[0].float().numpy())
