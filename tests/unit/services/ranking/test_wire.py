import pytest

from metarec.errors import InvalidInputError
from metarec.ranking.rank import RankedItem
from metarec.types import Contribution
from metarec.v1 import ranking_pb2, types_pb2
from services.ranking.wire import Answer, explain_request, explain_response, rank_request, rank_response

Rank = ranking_pb2.RankCandidatesRequest


def candidate(item_id: str, revision: int = 0) -> types_pb2.Candidate:
    return types_pb2.Candidate(item_id=item_id, revision=revision)


def test_a_request_carries_each_candidate_once_with_its_newest_revision() -> None:
    read = rank_request(Rank(user_id="u", candidates=[candidate("a"), candidate("b", 2), candidate("a", 3)], num_items=2))
    assert (read.user_id, read.revisions, read.num_items, read.profile) == ("u", {"a": 3, "b": 2}, 2, None)


def test_every_kind_of_feature_is_read() -> None:
    user = types_pb2.User(user_id="u")
    user.features["text"].text = "t"
    user.features["number"].number = 2.5
    user.features["list"].list.values.extend(["a", "b"])
    user.features["vector"].vector.values.extend([1.0, 2.0])
    user.features["none"].SetInParent()
    read = rank_request(Rank(user_id="u", candidates=[candidate("a")], user=user))
    assert read.profile == {"text": "t", "number": 2.5, "list": ("a", "b"), "vector": (1.0, 2.0), "none": None}


def test_an_empty_profile_is_a_profile() -> None:
    assert rank_request(Rank(user_id="u", candidates=[candidate("a")], user=types_pb2.User())).profile == {}


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (Rank(candidates=[candidate("a")]), "user_id"),
        (Rank(user_id="u" * 257, candidates=[candidate("a")]), "user_id"),
        (Rank(user_id="u"), "candidates"),
        (Rank(user_id="u", candidates=[candidate(str(k)) for k in range(2001)]), "candidates"),
        (Rank(user_id="u", candidates=[candidate("a"), candidate("")]), "candidates[1].item_id"),
        (Rank(user_id="u", candidates=[candidate("ä" * 129)]), "candidates[0].item_id"),
        (Rank(user_id="u", candidates=[candidate("a")], num_items=-1), "num_items"),
        (Rank(user_id="u", candidates=[candidate("a")], user=types_pb2.User(user_id="v")), "user.user_id"),
    ],
)
def test_a_wrong_request_is_refused_with_its_field(message: Rank, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        rank_request(message)
    assert caught.value.field == field


@pytest.mark.parametrize(("user_id", "item_id", "field"), [("", "i", "user_id"), ("u", "", "item_id")])
def test_an_explanation_needs_user_and_item(user_id: str, item_id: str, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        explain_request(ranking_pb2.ExplainScoreRequest(user_id=user_id, item_id=item_id))
    assert caught.value.field == field


def test_ids_of_256_bytes_are_fine() -> None:
    assert rank_request(Rank(user_id="u" * 256, candidates=[candidate("ä" * 128)])).user_id == "u" * 256


def test_answers_are_written_out_in_full() -> None:
    degradation = types_pb2.Degradation(stage="features", reason="UNAVAILABLE", fallback="the prior")
    terms = [Contribution(kind="support", value=0.5, item_id="b", label=4.0), Contribution(kind="global", value=0.25)]
    answer = Answer(
        checkpoint="c-1",
        shots=2,
        ranked=[RankedItem(item_id="a", score=0.75)],
        contributions=terms,
        degradations=[degradation],
    )
    ranked = rank_response(answer)
    assert [(item.item_id, item.score) for item in ranked.items] == [("a", 0.75)]
    assert (ranked.checkpoint, ranked.shots, list(ranked.degradations)) == ("c-1", 2, [degradation])
    explained = explain_response(answer)
    assert (explained.item_id, explained.score, explained.checkpoint, explained.shots) == ("a", 0.75, "c-1", 2)
    first, second = explained.contributions
    assert (first.kind, first.item_id, first.label, first.value) == (types_pb2.CONTRIBUTION_KIND_SUPPORT, "b", 4.0, 0.5)
    assert (second.kind, second.value) == (types_pb2.CONTRIBUTION_KIND_GLOBAL, 0.25)
