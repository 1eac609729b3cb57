"""The engine of serving: a prior, the items it can score, and adaptation to a user in the request path.

`adapt` is the learner's own, the same function as in training (DESIGN 4). Everything is thread-safe: readers work on one
immutable view, `upsert` replaces it.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from metarec.adaptation.adapted import (
    Adapted,
    UserInput,
    fast_weights,
    known_support,
    stored_weights,
    support_revisions,
    user_vector,
)
from metarec.adaptation.items import TaskUsers, item_row, predict_item
from metarec.adaptation.labels import predict_labels, score_items
from metarec.adaptation.preview import ItemPreview, preview_items
from metarec.adaptation.profile import CompletedField, complete_profile
from metarec.adaptation.scenarios import as_shift, within
from metarec.adaptation.state import UserState, profile_digest
from metarec.adaptation.terms import score_terms
from metarec.adaptation.view import EngineView, Floats, ItemShift, ItemVectors, ScenarioShift, row_at
from metarec.errors import FailedPreconditionError
from metarec.features.graph import GRAPH_FIELD
from metarec.meta.catalogue import Catalogue
from metarec.meta.prior import Prior
from metarec.tasks.batch import EntityTable
from metarec.tasks.tables import encode_unknown_items, encode_unknown_users
from metarec.types import Contribution, Features, FeatureValue, Interaction, Item


class Engine:
    """Adapts and scores with one prior. `catalogue` holds the items it knows.

    FailedPreconditionError for a prior with a head whose tasks are not users, or with texts that cannot be encoded here.
    """

    def __init__(self, prior: Prior) -> None:
        for target, head in prior.heads.items():
            if head.kind != "user":
                raise FailedPreconditionError(
                    f"head '{target}' of checkpoint '{prior.checkpoint}' has tasks of kind '{head.kind}' and ranks nothing for "
                    "users; serve a checkpoint whose heads are of kind 'user'",
                    metadata={"checkpoint": prior.checkpoint},
                )
        # Before anything is served: an item that arrives later must not be the first to find out.
        prior.encoder.check()
        self.prior = prior
        self.catalogue = Catalogue(prior)
        self._write = threading.Lock()
        self.own_scenarios = {name: as_shift(scenario) for name, scenario in prior.scenarios.items()}
        """Shifts of the scenarios of the training data."""
        self._view = replace(EngineView.first(prior, self.catalogue.snapshot), scenarios=self.own_scenarios)
        self._user_fields = frozenset(prior.encoder.user_fields)
        self._item_fields = frozenset((*prior.encoder.item_fields, GRAPH_FIELD))

    @property
    def checkpoint(self) -> str:
        """Id of the prior's checkpoint."""
        return self.prior.checkpoint

    @property
    def view(self) -> EngineView:
        """The current view; take it once where several values must agree."""
        return self._view

    @property
    def vectors(self) -> ItemVectors | None:
        """Item vectors whose products with `Adapted.vector` are ranking scores; None when a head is not linear."""
        return self._view.vectors

    def outdated(self, revisions: Mapping[str, int]) -> list[str]:
        """Ids of which the engine has no or an older content than these revisions."""
        known = self.catalogue.revision
        return [item_id for item_id, revision in revisions.items() if (have := known(item_id)) is None or have < revision]

    def upsert(self, items: Iterable[Item]) -> list[str]:
        """Add items or replace their content, unless the engine has that revision or a later one; returns the ids that changed.

        Fields that the checkpoint's schema does not have are left out. InvalidInputError when a feature has the wrong type; then
        nothing changes.
        """
        with self._write:
            known = self.catalogue.revision
            latest: dict[str, Item] = {}
            for item in items:
                have = latest[item.item_id].revision if item.item_id in latest else known(item.item_id)
                if have is None or have < item.revision:
                    latest[item.item_id] = self._readable(item)
            if latest:
                changed_N = self.catalogue.upsert(list(latest.values()))
                self._view = self._view.next(self.catalogue.snapshot, changed_N)
            return list(latest)

    def shift(self, shifts: Mapping[str, ItemShift]) -> None:
        """Score emerging items with what their first labels say, in place of earlier shifts (metarec.adaptation.shifts)."""
        with self._write:
            self._view = self._view.shifted(shifts)

    def use_scenarios(self, shifts: Mapping[str, ScenarioShift]) -> None:
        """Move users within scenarios by these shifts, in place of earlier ones (metarec.adaptation.scenarios)."""
        with self._write:
            self._view = replace(self._view, scenarios=dict(shifts))

    def within(self, adapted: Sequence[Adapted], scenarios: Sequence[str]) -> list[Adapted]:
        """The users within these scenarios, one for each ("": the default one); as they are where no shift concerns them."""
        return within(adapted, scenarios)

    def _readable(self, item: Item) -> Item:
        features = {name: value for name, value in item.features.items() if name in self._item_fields}
        encoder = self.prior.encoder
        if item.item_id in encoder.facts and features.get(GRAPH_FIELD) is None:
            # The encoder finds what the knowledge graph says of a known item by its id.
            features[encoder.item_id] = item.item_id
        return replace(item, features=features)

    def adapt(
        self,
        support: Sequence[Interaction],
        features: Features | None = None,
        *,
        revision: int = 0,
        seen: Sequence[str] = (),
    ) -> Adapted:
        """Adapt to one user from a support set with one entry per item; without support or profile, the prior.

        Profile fields that the checkpoint's schema does not have are left out. `revision` and `seen` go into the state.
        """
        return self.adapt_many([UserInput(support=support, features=features, revision=revision, seen=seen)])[0]

    def adapt_many(self, users: Sequence[UserInput]) -> list[Adapted]:
        """Adapt to several users in one batch."""
        if not users:
            return []
        view = self._view
        profiles = self._profiles([user.features for user in users])
        used, unknown = zip(*(known_support(view, user.support) for user in users), strict=True)
        fast = fast_weights(view, profiles, used)
        adapted = []
        for place, user in enumerate(users):
            weights = {target: stored_weights(view.heads[target], part, place) for target, part in fast.items()}
            state = UserState(
                checkpoint=self.checkpoint,
                revision=user.revision,
                support=tuple(user.support),
                seen=tuple(user.seen),
                profile=profile_digest(self._profile(user.features)),
                revisions=support_revisions(view, user.support),
                weights=weights,
            )
            adapted.append(
                Adapted(
                    state=state,
                    view=view,
                    profile=row_at(profiles, place),
                    used=used[place],
                    unknown_ids=unknown[place],
                    vector=user_vector(view, weights),
                )
            )
        return adapted

    def restore(self, state: UserState, features: Features | None = None) -> Adapted:
        """The user as stored; adapts again when the weights are of another checkpoint, profile or content of a support item."""
        view = self._view
        fresh = (
            state.checkpoint == self.checkpoint
            and set(state.weights) == set(view.heads)
            and state.profile == profile_digest(self._profile(features))
            and state.revisions == support_revisions(view, state.support)
        )
        if not fresh:
            return self.adapt(state.support, features, revision=state.revision, seen=state.seen)
        used, unknown = known_support(view, state.support)
        return Adapted(
            state=state,
            view=view,
            profile=self._profiles([features]),
            used=used,
            unknown_ids=unknown,
            vector=user_vector(view, state.weights),
        )

    def scores(self, adapted: Adapted, item_ids: Sequence[str]) -> Floats:
        """Ranking scores: implicit + blend * explicit. Ids nobody knows get the score of an item without id and content."""
        return score_items(adapted, item_ids)

    def knows(self, adapted: Adapted, item_ids: Sequence[str]) -> NDArray[np.bool_]:
        """Which of the ids are in the catalogue that `adapted` sees."""
        return adapted.view.catalogue.rows(item_ids) >= 0

    def contributions(self, adapted: Adapted, item_id: str) -> list[Contribution]:
        """Terms that add up to the item's score: global, item, profile, and one for each interaction used, oldest first."""
        return score_terms(adapted, item_id)

    def predict(self, adapted: Adapted, item_ids: Sequence[str], target: str = "") -> tuple[Floats, Floats | None]:
        """Predictive mean and variance of the label of each item; the variance is None when the learner has none.

        `target` names a further target to predict in its place; InvalidInputError lists those there are. A checkpoint without an
        explicit head predicts its ranking score. Means are those of the predictive distribution, so they may lie a little outside
        the range. Of a binary label they are probabilities, by the checkpoint's link.
        """
        return predict_labels(adapted, item_ids, target)

    def predict_item(
        self,
        item: Features | str,
        raters: Sequence[UserInput],
        labels: Sequence[float],
        others: Sequence[UserInput],
    ) -> tuple[Floats, Floats]:
        """Mean and variance of the labels `others` would give an item, adapted to the `labels` of `raters`: an item as a task.

        `item` is its content, or the id of a known item. FailedPreconditionError when the checkpoint has no closed-form explicit
        head, NotFoundError for an unknown id.
        """
        view = self._view
        return predict_item(
            view, item_row(view, item, self._item_fields), self._task_users(view, raters), labels, self._task_users(view, others)
        )

    def infer_profile(self, user: UserInput) -> tuple[Adapted, tuple[CompletedField, ...]]:
        """The user adapted to, and every field of their profile: as given, or with probabilities. Nothing is kept.

        FailedPreconditionError when the checkpoint knows nothing of profiles.
        """
        adapted, before = self.adapt_many([user, UserInput(features=user.features)])
        return adapted, complete_profile(adapted, before, self._profile(user.features))

    def preview_items(self, items: Sequence[Item], *, neighbours: int) -> list[ItemPreview]:
        """Items from their content alone, which need not be known and do not become known; ids may be empty.

        FailedPreconditionError when the checkpoint knows nothing of profiles.
        """
        contents = [self._readable(item).features for item in items]
        table = encode_unknown_items(self.prior.encoder, contents)
        return preview_items(self._view, table, [item.item_id for item in items], neighbours=neighbours)

    def _task_users(self, view: EngineView, users: Sequence[UserInput]) -> TaskUsers:
        return TaskUsers(
            profiles=self._profiles([user.features for user in users]),
            supports=[known_support(view, user.support)[0] for user in users],
        )

    def _profile(self, features: Features | None) -> dict[str, FeatureValue]:
        return {name: value for name, value in (features or {}).items() if name in self._user_fields}

    def _profiles(self, features: Sequence[Features | None]) -> EntityTable:
        return encode_unknown_users(self.prior.encoder, [self._profile(entry) for entry in features])
