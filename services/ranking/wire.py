"""Ranking's messages: requests checked and read, responses written."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from metarec.data.schema import Schema
from metarec.errors import InvalidInputError
from metarec.ranking.rank import RankedItem
from metarec.types import Contribution, Features
from metarec.v1 import gateway_pb2, ranking_pb2, types_pb2
from services.runtime.convert import MAX_ID_BYTES, check_count, check_id, user_features

MAX_CANDIDATES = 2000
KINDS = {
    "global": types_pb2.CONTRIBUTION_KIND_GLOBAL,
    "item": types_pb2.CONTRIBUTION_KIND_ITEM,
    "profile": types_pb2.CONTRIBUTION_KIND_PROFILE,
    "support": types_pb2.CONTRIBUTION_KIND_SUPPORT,
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """One user's candidates to score: ids to the revision of content that recall saw. `profile` stands in for the stored one;
    `emerging` are the candidates that recall brought because they are new."""

    user_id: str
    revisions: dict[str, int]
    emerging: frozenset[str] = frozenset()
    profile: Features | None = None
    num_items: int = 0
    explain: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What there is to say to a request."""

    checkpoint: str
    shots: int
    ranked: Sequence[RankedItem] = ()
    contributions: Sequence[Contribution] = ()
    degradations: Sequence[types_pb2.Degradation] = field(default=())


def rank_request(message: ranking_pb2.RankCandidatesRequest, schema: Schema | None) -> Request:
    """The request in a message; without a schema (there is no checkpoint) the profile is not read.

    InvalidInputError names the field that is wrong.
    """
    check_id(message.user_id, "user_id")
    check_count(len(message.candidates), "candidates", most=MAX_CANDIDATES)
    if message.num_items < 0:
        raise InvalidInputError(f"must be 0 or more, not {message.num_items}", field="num_items")
    revisions: dict[str, int] = {}
    for place, candidate in enumerate(message.candidates):
        item_id = candidate.item_id
        if not item_id or len(item_id) > MAX_ID_BYTES // 4:
            check_id(item_id, f"candidates[{place}].item_id")
        revisions[item_id] = max(candidate.revision, revisions.get(item_id, 0))
    profile = None
    if message.HasField("user"):
        if message.user.user_id and message.user.user_id != message.user_id:
            raise InvalidInputError(f"is '{message.user.user_id}', but user_id is '{message.user_id}'", field="user.user_id")
        profile = {} if schema is None else user_features(message.user.features, schema, "user.features")
    fresh = types_pb2.CANDIDATE_SOURCE_FRESH
    return Request(
        user_id=message.user_id,
        revisions=revisions,
        emerging=frozenset(candidate.item_id for candidate in message.candidates if candidate.source == fresh),
        profile=profile,
        num_items=message.num_items,
    )


def explain_request(message: ranking_pb2.ExplainScoreRequest) -> Request:
    """The request in a message. InvalidInputError names the field that is wrong."""
    check_id(message.user_id, "user_id")
    check_id(message.item_id, "item_id")
    return Request(user_id=message.user_id, revisions={message.item_id: 0}, explain=True)


def rank_response(answer: Answer) -> ranking_pb2.RankCandidatesResponse:
    """The answer to RankCandidates."""
    return ranking_pb2.RankCandidatesResponse(
        items=[ranking_pb2.RankedItem(item_id=item.item_id, score=item.score) for item in answer.ranked],
        checkpoint=answer.checkpoint,
        shots=answer.shots,
        degradations=answer.degradations,
    )


def explain_response(answer: Answer) -> gateway_pb2.ExplainResponse:
    """The answer to ExplainScore."""
    (item,) = answer.ranked
    return gateway_pb2.ExplainResponse(
        item_id=item.item_id,
        score=item.score,
        contributions=[
            types_pb2.Contribution(kind=KINDS[term.kind], item_id=term.item_id, label=term.label, value=term.value)
            for term in answer.contributions
        ],
        checkpoint=answer.checkpoint,
        shots=answer.shots,
    )
