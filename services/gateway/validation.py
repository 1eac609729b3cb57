"""Checks requests before any stage sees them: presence, lengths, ranges. What needs the schema is checked by the stages."""

import math
from collections.abc import Mapping

from metarec.errors import InvalidInputError
from metarec.v1 import gateway_pb2
from services.runtime.convert import check_count, check_id, check_label, check_labels, check_share, check_time, check_unique

MAX_ITEMS = 200
DEFAULT_ITEMS = 10
MAX_EXCLUDED = 1000
MAX_BATCH = 1000
MAX_TARGETS = 100


def check_recommend(request: gateway_pb2.RecommendRequest) -> None:
    """InvalidInputError names the first field that is out of range."""
    check_id(request.user_id, "user_id")
    check_scenario(request.scenario, "scenario")
    if not 0 <= request.num_items <= MAX_ITEMS:
        raise InvalidInputError(f"must be 1 to {MAX_ITEMS}, or 0 for {DEFAULT_ITEMS}, not {request.num_items}", field="num_items")
    check_count(len(request.exclude_item_ids), "exclude_item_ids", least=0, most=MAX_EXCLUDED)
    for name in ("diversity", "exploration"):
        if request.HasField(name):
            check_share(getattr(request, name), name)
    check_weights(request.target_weights)
    if request.user.user_id and request.user.user_id != request.user_id:
        raise InvalidInputError(f"is '{request.user.user_id}', but user_id is '{request.user_id}'", field="user.user_id")


def check_interactions(request: gateway_pb2.RecordInteractionsRequest) -> None:
    """InvalidInputError names the first interaction and field that is missing or out of range."""
    check_count(len(request.interactions), "interactions", most=MAX_BATCH)
    for number, interaction in enumerate(request.interactions):
        at = f"interactions[{number}]"
        check_id(interaction.event_id, f"{at}.event_id")
        check_id(interaction.user_id, f"{at}.user_id")
        check_id(interaction.item_id, f"{at}.item_id")
        check_scenario(interaction.scenario, f"{at}.scenario")
        check_label(interaction.label, None, f"{at}.label")
        check_labels(interaction.labels, None, f"{at}.labels")
        check_time(interaction.event_time, f"{at}.event_time")


def check_explain(request: gateway_pb2.ExplainRequest) -> None:
    """InvalidInputError names the first field that is missing or too long."""
    check_id(request.user_id, "user_id")
    check_id(request.item_id, "item_id")
    check_scenario(request.scenario, "scenario")
    check_weights(request.target_weights)


def check_items(request: gateway_pb2.UpsertItemsRequest) -> None:
    """InvalidInputError unless there are 1 to 1000 items with ids, each once."""
    check_count(len(request.items), "items", most=MAX_BATCH)
    check_unique((item.item_id for item in request.items), "items", "item_id")


def check_users(request: gateway_pb2.UpsertUsersRequest) -> None:
    """InvalidInputError unless there are 1 to 1000 users with ids, each once."""
    check_count(len(request.users), "users", most=MAX_BATCH)
    check_unique((user.user_id for user in request.users), "users", "user_id")


def check_profile(request: gateway_pb2.InferProfileRequest) -> None:
    """InvalidInputError unless there is a user, a support set of at most 1000 items, each once, or a known field."""
    if request.user_id:
        check_id(request.user_id, "user_id")
    elif not request.support and not request.features:
        raise InvalidInputError("is missing, and so are support and features", field="user_id")
    check_count(len(request.support), "support", least=0, most=MAX_BATCH)
    check_unique((row.item_id for row in request.support), "support", "item_id")
    for number, row in enumerate(request.support):
        check_label(row.label, None, f"support[{number}].label")


def check_weights(weights: Mapping[str, float]) -> None:
    """InvalidInputError unless every weight is finite; which targets there are, the stages know."""
    check_count(len(weights), "target_weights", least=0, most=MAX_TARGETS)
    for name, weight in weights.items():
        check_id(name, "target_weights")
        if not math.isfinite(weight):
            raise InvalidInputError(f"must be a finite number, not {weight}", field=f"target_weights.{name}")


def check_scenario(value: str, field: str) -> None:
    """InvalidInputError when `value` has more than 256 bytes; empty is the default scenario."""
    if value:
        check_id(value, field)
