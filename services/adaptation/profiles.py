"""InferProfile: completes a user's profile from behaviour, from a stored or an inline support set. Nothing of it is kept."""

from metarec.adaptation.adapted import UserInput
from metarec.adaptation.profile import CompletedField
from metarec.data.schema import Schema
from metarec.errors import InvalidInputError
from metarec.types import Interaction
from metarec.v1 import gateway_pb2
from services.adaptation.tasks import MAX_SUPPORT, Tasks
from services.runtime import convert
from services.runtime.live import LiveCheckpoint


class ProfileInference:
    """Answers with the live checkpoint."""

    def __init__(self, live: LiveCheckpoint, tasks: Tasks) -> None:
        self._live, self._tasks = live, tasks

    def infer(self, request: gateway_pb2.InferProfileRequest) -> gateway_pb2.InferProfileResponse:
        """The response to a request; users that nobody knows get what everybody is like.

        InvalidInputError names a wrong field; FailedPreconditionError when the checkpoint knows nothing of profiles.
        """
        engine = self._live.engine()
        _check(request, engine.prior.schema)
        user = self._tasks.stored_user(request.user_id) if request.user_id else None
        user = user or UserInput()
        support, features = user.support, user.features
        if request.support:
            # All at one time: an inline support set has no order.
            support = [Interaction(user_id="", item_id=row.item_id, label=row.label) for row in request.support]
        if request.features:
            features = convert.user_features(request.features, engine.prior.schema, "features")
        self._tasks.learn_items(engine, [entry.item_id for entry in support])
        adapted, fields = engine.infer_profile(UserInput(support=support, features=features))
        return gateway_pb2.InferProfileResponse(
            fields=[_message(field) for field in fields],
            shots=adapted.shots,
            checkpoint=engine.checkpoint,
            unknown_ids=adapted.unknown_ids,
        )


def _check(request: gateway_pb2.InferProfileRequest, schema: Schema) -> None:
    if request.user_id:
        convert.check_id(request.user_id, "user_id")
    elif not request.support and not request.features:
        raise InvalidInputError("is missing, and so are support and features", field="user_id")
    convert.check_count(len(request.support), "support", least=0, most=MAX_SUPPORT)
    convert.check_unique((row.item_id for row in request.support), "support", "item_id")
    for place, row in enumerate(request.support):
        convert.check_label(row.label, schema.label, f"support[{place}].label")


def _message(field: CompletedField) -> gateway_pb2.InferredField:
    return gateway_pb2.InferredField(
        name=field.name,
        observed=field.observed,
        exclusive=field.exclusive,
        values=[
            gateway_pb2.ValueProbability(
                value=likely.value, probability=likely.probability, lower=likely.lower, upper=likely.upper
            )
            for likely in field.values
        ],
    )
