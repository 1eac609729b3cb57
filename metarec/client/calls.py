"""Every call of the client as a plain value: the message to send and how to read the answer. Those of the training
service are in training_calls.

`Client` and `AsyncClient` differ only in how they send one, so each call is written once, here. Every function takes `timeout` in
seconds; None takes the policy's. Each call carries a new request id.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from metarec.client import cold, convert, lists
from metarec.client.call import Call, new_call
from metarec.client.results import (
    AdaptedTask,
    Explanation,
    InferredProfile,
    ItemPreview,
    Page,
    Recommendations,
    Recorded,
)
from metarec.types import AdaptedKind, Interaction, Item, User
from metarec.v1 import adaptation_pb2, gateway_pb2, recall_pb2

KINDS = {
    "user": adaptation_pb2.TASK_KIND_USER,
    "item": adaptation_pb2.TASK_KIND_ITEM,
    "scenario": adaptation_pb2.TASK_KIND_SCENARIO,
    "user_in_scenario": adaptation_pb2.TASK_KIND_USER_IN_SCENARIO,
}


def recommend(
    user_id: str,
    *,
    num_items: int = 10,
    scenario: str = "",
    exclude: Iterable[str] = (),
    include_seen: bool = False,
    features: Mapping[str, object] | None = None,
    diversity: float | None = None,
    exploration: float | None = None,
    target_weights: Mapping[str, float] | None = None,
    request_id: str = "",
    timeout: float | None = None,
) -> Call[Recommendations]:
    """Recommend items to a user. `features` is a profile for this call alone; unknown users get the meta-learned prior.

    `diversity` (0 to 1) and `exploration` (share of places) are the service's settings where they are None. `target_weights` are
    weights of targets in the score (the label's column, `interacted`), in place of the trained blend. The same `request_id` (up
    to 128 printable characters; default: a new one) gets the same draws of exploration.
    """
    request = gateway_pb2.RecommendRequest(
        user_id=user_id,
        num_items=num_items,
        scenario=scenario,
        exclude_item_ids=exclude,
        include_seen=include_seen,
        diversity=diversity,
        exploration=exploration,
        target_weights=target_weights,
    )
    if features is not None:
        request.user.user_id = user_id
        convert.put_features(request.user.features, features, "features")
    call = new_call("gateway", "Recommend", request, lists.get_recommendations, timeout)
    return replace(call, request_id=request_id) if request_id else call


def record_interactions(interactions: Iterable[Interaction], *, timeout: float | None = None) -> Call[Recorded]:
    """Record interactions; when it returns, the next recommendations reflect them. An event id has its effect once; an empty one
    is replaced by a new one, and the result says by which."""
    request = gateway_pb2.RecordInteractionsRequest(request_id=uuid.uuid4().hex)
    for interaction in interactions:
        convert.put_interaction(request.interactions.add(), interaction)

    def parse(response: gateway_pb2.RecordInteractionsResponse) -> Recorded:
        return Recorded(
            num_recorded=response.num_recorded,
            num_duplicates=response.num_duplicates,
            shots={user.user_id: user.shots for user in response.users},
            checkpoint=response.checkpoint,
            event_ids=tuple(interaction.event_id for interaction in request.interactions),
            unknown_item_ids=tuple(response.unknown_item_ids),
        )

    return new_call("gateway", "RecordInteractions", request, parse, timeout)


def explain(
    user_id: str,
    item_id: str,
    *,
    scenario: str = "",
    target_weights: Mapping[str, float] | None = None,
    timeout: float | None = None,
) -> Call[Explanation]:
    """Explain the score of an item for a user, under `target_weights` as `recommend` takes them, as terms that add up to it."""
    request = gateway_pb2.ExplainRequest(user_id=user_id, item_id=item_id, scenario=scenario, target_weights=target_weights)
    return new_call("gateway", "Explain", request, lists.get_explanation, timeout)


def upsert_items(items: Iterable[Item], *, timeout: float | None = None) -> Call[tuple[Item, ...]]:
    """Add items or replace their content; returns them with their new revisions. They can be recommended when it returns."""
    request = gateway_pb2.UpsertItemsRequest(request_id=uuid.uuid4().hex)
    for number, item in enumerate(items):
        message = request.items.add(item_id=item.item_id)
        convert.put_features(message.features, item.features, f"items[{number}].features")

    def parse(response: gateway_pb2.UpsertItemsResponse) -> tuple[Item, ...]:
        return tuple(map(convert.get_item, response.items))

    return new_call("gateway", "UpsertItems", request, parse, timeout)


def upsert_users(users: Iterable[User], *, timeout: float | None = None) -> Call[int]:
    """Add users or replace their profiles; returns how many were stored."""
    request = gateway_pb2.UpsertUsersRequest(request_id=uuid.uuid4().hex)
    for number, user in enumerate(users):
        message = request.users.add(user_id=user.user_id)
        convert.put_features(message.features, user.features, f"users[{number}].features")

    def parse(response: gateway_pb2.UpsertUsersResponse) -> int:
        return response.num_upserted

    return new_call("gateway", "UpsertUsers", request, parse, timeout)


def delete_user(user_id: str, *, allow_missing: bool = False, timeout: float | None = None) -> Call[int]:
    """Forget a user; returns how many interactions went. NotFoundError for an unknown user unless `allow_missing`."""
    request = gateway_pb2.DeleteUserRequest(user_id=user_id, allow_missing=allow_missing)

    def parse(response: gateway_pb2.DeleteUserResponse) -> int:
        return response.num_interactions_deleted

    return new_call("gateway", "DeleteUser", request, parse, timeout)


def get_item(item_id: str, *, timeout: float | None = None) -> Call[Item]:
    """One item of the catalogue. NotFoundError when there is none."""
    return new_call("recall", "GetItem", recall_pb2.GetItemRequest(item_id=item_id), convert.get_item, timeout)


def list_items(*, page_size: int = 50, page_token: str = "", timeout: float | None = None) -> Call[Page[Item]]:
    """A page of the catalogue, ordered by item id."""

    def parse(response: recall_pb2.ListItemsResponse) -> Page[Item]:
        return Page(
            items=tuple(map(convert.get_item, response.items)),
            next_page_token=response.next_page_token,
            total_size=response.total_size,
        )

    request = recall_pb2.ListItemsRequest(page_size=page_size, page_token=page_token)
    return new_call("recall", "ListItems", request, parse, timeout)


def list_interactions(
    user_id: str, *, page_size: int = 50, page_token: str = "", timeout: float | None = None
) -> Call[Page[Interaction]]:
    """A page of a user's recorded interactions, newest first."""

    def parse(response: adaptation_pb2.ListInteractionsResponse) -> Page[Interaction]:
        return Page(items=tuple(map(convert.get_interaction, response.interactions)), next_page_token=response.next_page_token)

    request = adaptation_pb2.ListInteractionsRequest(user_id=user_id, page_size=page_size, page_token=page_token)
    return new_call("adaptation", "ListInteractions", request, parse, timeout)


def adapt_task(
    task_id: str = "",
    *,
    kind: AdaptedKind = "user",
    support: Sequence[tuple[str, float] | tuple[str, str, float]] = (),
    query: Iterable[str] = (),
    features: Mapping[str, object] | None = None,
    scenario: str = "",
    target: str = "",
    labels: Mapping[str, Mapping[str, float]] | None = None,
    timeout: float | None = None,
) -> Call[AdaptedTask]:
    """Adapt to one task and predict. `support` is (row id, label) pairs; without any, the stored support of `task_id` is used.

    Of users, `target` names a further target to predict in place of the label, and `labels` are those of further targets that are
    known of support rows, by row id.

    Kind `scenario` takes the name of one as `task_id`, kind `user_in_scenario` as `scenario`; what others did there is
    (user id, item id, label) in `support`, or what is stored.
    """
    request = adaptation_pb2.AdaptTaskRequest(kind=KINDS[kind], task_id=task_id, query_ids=query, scenario=scenario)
    request.target = target
    for row in support:
        further = (labels or {}).get(row[-2], {})
        request.support.add(user_id=row[0] if len(row) == 3 else "", id=row[-2], label=row[-1], labels=further)
    convert.put_features(request.features, features or {}, "features")
    return new_call("adaptation", "AdaptTask", request, convert.get_adapted, timeout)


def infer_profile(
    user_id: str = "",
    *,
    support: Sequence[tuple[str, float]] = (),
    features: Mapping[str, object] | None = None,
    timeout: float | None = None,
) -> Call[InferredProfile]:
    """Complete a user's profile from behaviour; nothing is stored. `support` ((item id, label) pairs) and `features` (the fields
    that are known) stand in for what is stored. FailedPreconditionError when the checkpoint knows nothing of profiles."""
    request = gateway_pb2.InferProfileRequest(user_id=user_id)
    for item_id, label in support:
        request.support.add(item_id=item_id, label=label)
    convert.put_features(request.features, features or {}, "features")
    return new_call("gateway", "InferProfile", request, cold.get_profile, timeout)


def preview_items(
    items: Iterable[Item], *, num_neighbours: int = 5, timeout: float | None = None
) -> Call[tuple[ItemPreview, ...]]:
    """What to expect of items from their content alone; their ids may be empty, and nothing is stored.
    FailedPreconditionError when the checkpoint knows nothing of profiles."""
    request = recall_pb2.PreviewItemsRequest(num_neighbours=num_neighbours)
    for number, item in enumerate(items):
        message = request.items.add(item_id=item.item_id)
        convert.put_features(message.features, item.features, f"items[{number}].features")
    return new_call("recall", "PreviewItems", request, cold.get_previews, timeout)
