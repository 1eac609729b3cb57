import pytest

from metarec.data.schema import Field, Label, Schema
from metarec.errors import InvalidInputError
from metarec.ranking.account import RuleReport
from metarec.ranking.diversity import DiversityReport
from metarec.ranking.rank import RankedItem, RuleEffect
from metarec.types import Contribution
from metarec.v1 import ranking_pb2, types_pb2
from services.ranking.wire import Answer, explain_request, explain_response, rank_request, rank_response

Rank = ranking_pb2.RankCandidatesRequest


def candidate(item_id: str, revision: int = 0) -> types_pb2.Candidate:
    return types_pb2.Candidate(item_id=item_id, revision=revision)


def test_a_request_carries_each_candidate_once_with_its_newest_revision() -> None:
    read = rank_request(Rank(user_id="u", candidates=[candidate("a"), candidate("b", 2), candidate("a", 3)], num_items=2), SCHEMA)
    assert (read.user_id, read.revisions, read.num_items, read.profile) == ("u", {"a": 3, "b": 2}, 2, None)


SCHEMA = Schema(
    user_id="user",
    item_id="item",
    label=Label(column="rating", kind="rating", minimum=1.0, maximum=5.0),
    users=(Field(name="gender", kind="categorical"), Field(name="age", kind="numeric")),
)


def profile(**texts: str) -> types_pb2.User:
    return types_pb2.User(features={name: types_pb2.FeatureValue(text=text) for name, text in texts.items()})


def test_a_profile_is_read_by_the_schema() -> None:
    user = profile(gender="F")
    user.features["age"].number = 30
    assert rank_request(Rank(user_id="u", candidates=[candidate("a")], user=user), SCHEMA).profile == {"gender": "F", "age": 30.0}
    assert rank_request(Rank(user_id="u", candidates=[candidate("a")], user=types_pb2.User()), SCHEMA).profile == {}
    assert rank_request(Rank(user_id="u", candidates=[candidate("a")]), SCHEMA).profile is None


@pytest.mark.parametrize("name", ["age", "shoe_size"])
def test_a_profile_that_does_not_fit_the_schema_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        rank_request(Rank(user_id="u", candidates=[candidate("a")], user=profile(**{name: "x"})), SCHEMA)
    assert caught.value.field == f"user.features.{name}"


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
        rank_request(message, SCHEMA)
    assert caught.value.field == field


@pytest.mark.parametrize(("user_id", "item_id", "field"), [("", "i", "user_id"), ("u", "", "item_id")])
def test_an_explanation_needs_user_and_item(user_id: str, item_id: str, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        explain_request(ranking_pb2.ExplainScoreRequest(user_id=user_id, item_id=item_id))
    assert caught.value.field == field


def test_ids_of_256_bytes_are_fine() -> None:
    assert rank_request(Rank(user_id="u" * 256, candidates=[candidate("ä" * 128)]), SCHEMA).user_id == "u" * 256


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


def test_what_a_list_is_asked_to_be_is_read_and_checked() -> None:
    message = ranking_pb2.RankCandidatesRequest(
        user_id="u", candidates=[types_pb2.Candidate(item_id="a")], scenario="home", exclude_item_ids=["x"], include_seen=True
    )
    plain = rank_request(message, None, "r1")
    assert (plain.diversity, plain.exploration, plain.request_id) == (None, None, "r1")
    assert (plain.scenario, plain.excluded, plain.include_seen) == ("home", frozenset({"x"}), True)
    message.diversity, message.exploration = 0.0, 0.5
    asked = rank_request(message, None)
    assert (asked.diversity, asked.exploration) == (0.0, 0.5)
    for name in ("diversity", "exploration"):
        wrong = ranking_pb2.RankCandidatesRequest(user_id="u", candidates=message.candidates, **{name: 1.5})  # type: ignore[arg-type]  # the name is the case's
        with pytest.raises(InvalidInputError, match="0 to 1") as caught:
            rank_request(wrong, None)
        assert caught.value.field == name


def test_what_shaped_a_list_is_written() -> None:
    item = RankedItem(
        item_id="a",
        score=2.0,
        rank_before=7,
        effects=(RuleEffect(rule="push", effect="boost", boost=0.5),),
        propensity=0.25,
        explored=True,
    )
    message = rank_response(
        Answer(
            checkpoint="c",
            shots=1,
            ranked=[item],
            rules=[RuleReport(rule="no-war", effect="filter", num_removed=3)],
            rules_version="v",
            diversity=DiversityReport(strength=0.5, similarity_before=0.75, similarity_after=0.25, score_traded=1.5),
        )
    )
    (written,) = message.items
    assert (written.rank_before, written.propensity, written.explored) == (7, 0.25, True)
    assert [(effect.rule, effect.kind, effect.boost) for effect in written.rule_effects] == [
        ("push", types_pb2.RULE_EFFECT_KIND_BOOST, 0.5)
    ]
    assert [(report.rule, report.kind, report.num_removed) for report in message.rules] == [
        ("no-war", types_pb2.RULE_EFFECT_KIND_FILTER, 3)
    ]
    assert (message.rules_version, message.diversity.score_traded, message.diversity.similarity_after) == ("v", 1.5, 0.25)
