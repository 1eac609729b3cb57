"""AdaptTask: the inner loop for a user or an item, from a stored or an inline support set, with predictions.

Scenarios are in scenario_tasks.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from metarec.adaptation.adapted import UserInput
from metarec.adaptation.engine import Engine
from metarec.adaptation.view import Floats
from metarec.data.schema import Schema
from metarec.errors import InvalidInputError, NotFoundError
from metarec.interactions.log import InteractionLog
from metarec.types import Features, Interaction
from metarec.v1 import adaptation_pb2
from services.adaptation.publisher import Publisher, adapt_each
from services.runtime import convert
from services.runtime.features import LazyStore
from services.runtime.live import LiveCheckpoint, upsert_each

MAX_SUPPORT = 1000
MAX_QUERIES = 1000
USER_KINDS = (adaptation_pb2.TASK_KIND_UNSPECIFIED, adaptation_pb2.TASK_KIND_USER)
SCENARIO_KINDS = (adaptation_pb2.TASK_KIND_SCENARIO, adaptation_pb2.TASK_KIND_USER_IN_SCENARIO)


class Tasks:
    """Adapts tasks without keeping anything of them."""

    def __init__(self, log: InteractionLog, store: LazyStore, live: LiveCheckpoint, publisher: Publisher) -> None:
        self._log, self._store, self._live, self._publisher = log, store, live, publisher

    def adapt(self, request: adaptation_pb2.AdaptTaskRequest) -> adaptation_pb2.AdaptTaskResponse:
        """The response to a request. InvalidInputError names a wrong field; NoCheckpointError while none is live."""
        engine = self._live.engine()
        item = request.kind == adaptation_pb2.TASK_KIND_ITEM
        check_task(request, engine.prior.schema)
        return self._item(engine, request) if item else self._user(engine, request)

    def _user(self, engine: Engine, request: adaptation_pb2.AdaptTaskRequest) -> adaptation_pb2.AdaptTaskResponse:
        user = self.stored_user(request.task_id) if request.task_id else None
        support: Sequence[Interaction] = () if user is None else user.support
        features: Features | None = None if user is None else user.features
        if request.support:
            # All at one time: an inline support set has no order.
            support = [
                Interaction(user_id="", item_id=row.id, label=row.label, labels=dict(row.labels)) for row in request.support
            ]
        if request.features:
            features = convert.user_features(request.features, engine.prior.schema, "features")
        ids = list(request.query_ids)
        self.learn_items(engine, [*(entry.item_id for entry in support), *ids])
        (adapted,) = engine.within(adapt_each(engine, [UserInput(support=support, features=features)]), [""])
        return task_response(engine, adapted.shots, ids, *engine.predict(adapted, ids, request.target), adapted.unknown_ids)

    def _item(self, engine: Engine, request: adaptation_pb2.AdaptTaskRequest) -> adaptation_pb2.AdaptTaskResponse:
        rows = [(row.id, row.label) for row in request.support]
        if request.task_id and not rows:
            rows = [(entry.user_id, entry.label) for entry in self._log.item_support(request.task_id)]
        content: Features | str = request.task_id
        if request.task_id:
            self.learn_items(engine, [request.task_id])
        if request.features:
            content = convert.item_features(request.features, engine.prior.schema, "features")
        elif request.task_id not in engine.catalogue:
            if request.task_id and not rows:
                raise NotFoundError(
                    f"item '{request.task_id}' is unknown; upsert it, or send features or a support set",
                    metadata={"item_id": request.task_id},
                )
            content = {}
        found = [(user_id, self.stored_user(user_id), label) for user_id, label in rows]
        # What a rater said of this very item is the label; in their own support set it would count twice.
        raters = [(_without(user, request.task_id), label) for _, user, label in found if user is not None]
        unknown = [user_id for user_id, user, _ in found if user is None]
        ids = list(request.query_ids)
        others = [_without(self.stored_user(user_id) or UserInput(), request.task_id) for user_id in ids]
        mean, variance = engine.predict_item(content, [user for user, _ in raters], [label for _, label in raters], others)
        return task_response(engine, len(raters), ids, mean, variance, unknown)

    def stored_user(self, user_id: str) -> UserInput | None:
        """Support set and profile of a user whom the log or the feature store knows."""
        record = self._log.user(user_id)
        if record is not None:
            return self._publisher.input(record)
        online = self._store.read_user(user_id)
        return None if online is None else UserInput(features=online.features)

    def learn_items(self, engine: Engine, item_ids: Sequence[str]) -> None:
        """Items that others have upserted and this process has not met."""
        unknown = list(dict.fromkeys(item_id for item_id in item_ids if item_id not in engine.catalogue))
        if unknown:
            found = self._store.read_items(unknown)
            with self._live.lock:
                upsert_each(engine, found.values())


def _without(user: UserInput, item_id: str) -> UserInput:
    """The user as if they had never met the item."""
    return replace(user, support=[entry for entry in user.support if entry.item_id != item_id]) if item_id else user


def check_task(request: adaptation_pb2.AdaptTaskRequest, schema: Schema) -> None:
    """InvalidInputError names the field of a request that is wrong, or that its kind of task has no use for."""
    if request.kind not in adaptation_pb2.TaskKind.values():
        raise InvalidInputError(f"{request.kind} is no kind of task", field="kind")
    if request.task_id:
        convert.check_id(request.task_id, "task_id")
    convert.check_count(len(request.support), "support", least=0, most=MAX_SUPPORT)
    convert.check_count(len(request.query_ids), "query_ids", least=0, most=MAX_QUERIES)
    if request.scenario and request.kind != adaptation_pb2.TASK_KIND_USER_IN_SCENARIO:
        raise InvalidInputError("is for tasks of TASK_KIND_USER_IN_SCENARIO alone", field="scenario")
    if request.scenario:
        convert.check_id(request.scenario, "scenario")
    of_users = request.kind in USER_KINDS
    if request.target and not of_users:
        raise InvalidInputError("is for tasks of TASK_KIND_USER alone", field="target")
    first: dict[tuple[str, str], int] = {}
    for place, row in enumerate(request.support):
        if row.labels and not of_users:
            raise InvalidInputError("are for tasks of TASK_KIND_USER alone", field=f"support[{place}].labels")
        convert.check_labels(row.labels, schema, f"support[{place}].labels")
        if row.user_id:
            if request.kind not in SCENARIO_KINDS:
                raise InvalidInputError(
                    "is for scenarios alone; rows of other tasks have one id", field=f"support[{place}].user_id"
                )
            convert.check_id(row.user_id, f"support[{place}].user_id")
        convert.check_id(row.id, f"support[{place}].id")
        convert.check_label(row.label, schema.label, f"support[{place}].label")
        # The task's own user may be named or left out.
        key = ("" if row.user_id == request.task_id else row.user_id, row.id)
        if key in first:
            raise InvalidInputError(f"'{row.id}' is in support[{first[key]}] already", field=f"support[{place}].id")
        first[key] = place
    for place, query_id in enumerate(request.query_ids):
        convert.check_id(query_id, f"query_ids[{place}]")


def task_response(
    engine: Engine,
    shots: int,
    ids: Sequence[str],
    mean_N: Floats,
    variance_N: Floats | None,
    unknown: Sequence[str],
    scenario: adaptation_pb2.AdaptedScenario | None = None,
) -> adaptation_pb2.AdaptTaskResponse:
    """The response with these predictions; a learner without variances has deviations of 0."""
    deviation = [0.0] * len(ids) if variance_N is None else [math.sqrt(max(0.0, value)) for value in variance_N.tolist()]
    return adaptation_pb2.AdaptTaskResponse(
        shots=shots,
        checkpoint=engine.checkpoint,
        predictions=[
            adaptation_pb2.Prediction(id=row_id, mean=value, stddev=spread)
            for row_id, value, spread in zip(ids, mean_N.tolist(), deviation, strict=True)
        ],
        unknown_ids=unknown,
        scenario=scenario,
    )
