"""Ranking's messages: requests checked and read, responses written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from metarec.data.schema import Schema
from metarec.errors import InvalidInputError
from metarec.ranking.account import RuleReport
from metarec.ranking.diversity import DiversityReport
from metarec.ranking.rank import RankedItem
from metarec.types import Contribution, Features
from metarec.v1 import gateway_pb2, ranking_pb2, types_pb2
from services.runtime.convert import MAX_ID_BYTES, check_count, check_id, check_share, user_features
from services.runtime.rule_messages import effect_message, report_message

MAX_CANDIDATES = 2000
MAX_EXCLUDED = 1000
KINDS = {
    "global": types_pb2.CONTRIBUTION_KIND_GLOBAL,
    "item": types_pb2.CONTRIBUTION_KIND_ITEM,
    "profile": types_pb2.CONTRIBUTION_KIND_PROFILE,
    "support": types_pb2.CONTRIBUTION_KIND_SUPPORT,
    "rule": types_pb2.CONTRIBUTION_KIND_RULE,
    "scenario": types_pb2.CONTRIBUTION_KIND_SCENARIO,
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """One user's candidates to score.

    revisions: ids to the revision of content that recall saw
    emerging: the candidates that recall brought because they are new
    profile: stands in for the stored one
    excluded, include_seen: what rules may not, and may, bring in
    diversity, exploration: None for the service's settings
    target_weights: by name of the target; empty for the trained ones
    """

    user_id: str
    revisions: dict[str, int]
    emerging: frozenset[str] = frozenset()
    profile: Features | None = None
    num_items: int = 0
    explain: bool = False
    scenario: str = ""
    excluded: frozenset[str] = frozenset()
    include_seen: bool = False
    diversity: float | None = None
    exploration: float | None = None
    target_weights: Mapping[str, float] = field(default_factory=dict)
    request_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What there is to say to a request."""

    checkpoint: str
    shots: int
    ranked: Sequence[RankedItem] = ()
    contributions: Sequence[Contribution] = ()
    degradations: Sequence[types_pb2.Degradation] = field(default=())
    rules: Sequence[RuleReport] = ()
    rules_version: str = ""
    diversity: DiversityReport | None = None


def rank_request(message: ranking_pb2.RankCandidatesRequest, schema: Schema | None, request_id: str = "") -> Request:
    """The request in a message; without a schema (there is no checkpoint) the profile is not read.

    InvalidInputError names the field that is wrong.
    """
    check_id(message.user_id, "user_id")
    check_count(len(message.candidates), "candidates", most=MAX_CANDIDATES)
    check_count(len(message.exclude_item_ids), "exclude_item_ids", least=0, most=MAX_EXCLUDED)
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
        scenario=message.scenario,
        excluded=frozenset(message.exclude_item_ids),
        include_seen=message.include_seen,
        diversity=check_share(message.diversity, "diversity") if message.HasField("diversity") else None,
        exploration=check_share(message.exploration, "exploration") if message.HasField("exploration") else None,
        target_weights=dict(message.target_weights),
        request_id=request_id,
    )


def explain_request(message: ranking_pb2.ExplainScoreRequest, request_id: str = "") -> Request:
    """The request in a message. InvalidInputError names the field that is wrong."""
    check_id(message.user_id, "user_id")
    check_id(message.item_id, "item_id")
    return Request(
        user_id=message.user_id,
        revisions={message.item_id: 0},
        explain=True,
        scenario=message.scenario,
        target_weights=dict(message.target_weights),
        request_id=request_id,
    )


def rank_response(answer: Answer) -> ranking_pb2.RankCandidatesResponse:
    """The answer to RankCandidates."""
    response = ranking_pb2.RankCandidatesResponse(
        items=[
            ranking_pb2.RankedItem(
                item_id=item.item_id,
                score=item.score,
                rank_before=item.rank_before,
                rule_effects=[effect_message(effect) for effect in item.effects],
                propensity=item.propensity,
                explored=item.explored,
            )
            for item in answer.ranked
        ],
        checkpoint=answer.checkpoint,
        shots=answer.shots,
        degradations=answer.degradations,
        rules=[report_message(report) for report in answer.rules],
        rules_version=answer.rules_version,
    )
    if answer.diversity is not None:
        response.diversity.strength = answer.diversity.strength
        response.diversity.similarity_before = answer.diversity.similarity_before
        response.diversity.similarity_after = answer.diversity.similarity_after
        response.diversity.score_traded = answer.diversity.score_traded
    return response


def explain_response(answer: Answer) -> gateway_pb2.ExplainResponse:
    """The answer to ExplainScore."""
    (item,) = answer.ranked
    return gateway_pb2.ExplainResponse(
        item_id=item.item_id,
        score=item.score,
        contributions=[
            types_pb2.Contribution(
                kind=KINDS[term.kind], item_id=term.item_id, label=term.label, value=term.value, rule=term.rule
            )
            for term in answer.contributions
        ],
        checkpoint=answer.checkpoint,
        shots=answer.shots,
        rule_effects=[effect_message(effect) for effect in item.effects],
        degradations=answer.degradations,
    )
