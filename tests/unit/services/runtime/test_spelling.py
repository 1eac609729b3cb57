"""Requests are spelled as imported data is, wherever a text stands in them."""

from metarec.v1 import adaptation_pb2, gateway_pb2, recall_pb2
from services.runtime.spelling import spell

DECOMPOSED, COMPOSED = "Cafe\u0301", "Café"


def test_every_text_is_spelled_but_the_requests_own_id_and_names() -> None:
    message = gateway_pb2.RecommendRequest(
        user_id=f" {DECOMPOSED}", scenario=DECOMPOSED, exclude_item_ids=["plain", f"{DECOMPOSED}\n"], num_items=3
    )
    message.user.user_id = DECOMPOSED
    message.user.features["brand"].text = DECOMPOSED
    message.user.features["tags"].list.values.extend([DECOMPOSED, "b"])
    message.user.features["age"].number = 3
    message.target_weights[DECOMPOSED] = 0.5
    spell(message)
    assert (message.user_id, message.scenario, message.num_items) == (COMPOSED, COMPOSED, 3)
    assert list(message.exclude_item_ids) == ["plain", COMPOSED]
    assert message.user.user_id == COMPOSED
    assert message.user.features["brand"].text == COMPOSED
    assert list(message.user.features["tags"].list.values) == [COMPOSED, "b"]
    assert message.user.features["age"].number == 3
    assert dict(message.target_weights) == {DECOMPOSED: 0.5}
    recorded = gateway_pb2.RecordInteractionsRequest(request_id=f" {DECOMPOSED}")
    recorded.interactions.add(user_id=DECOMPOSED, item_id=DECOMPOSED, event_id=f"{DECOMPOSED} ")
    spell(recorded)
    assert (recorded.request_id, recorded.interactions[0].event_id) == (f" {DECOMPOSED}", f"{DECOMPOSED} ")
    assert (recorded.interactions[0].user_id, recorded.interactions[0].item_id) == (COMPOSED, COMPOSED)


def test_a_page_goes_on_where_it_ended_and_members_of_spaces_are_none() -> None:
    page = recall_pb2.ListItemsRequest(page_token=f"{DECOMPOSED} ")
    spell(page)
    assert page.page_token == f"{DECOMPOSED} "
    message = gateway_pb2.RecommendRequest(exclude_item_ids=[" ", "", "a "])
    spell(message)
    assert list(message.exclude_item_ids) == ["", "a"]


def test_messages_within_messages_are_reached() -> None:
    message = adaptation_pb2.AdaptTaskRequest(task_id="t", query_ids=[DECOMPOSED])
    message.support.add(id=DECOMPOSED, user_id=DECOMPOSED)
    spell(message)
    assert (message.query_ids[0], message.support[0].id, message.support[0].user_id) == (COMPOSED, COMPOSED, COMPOSED)
