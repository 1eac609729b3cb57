"""The read path with its degradation chain: recall, then ranking; a stage that fails is replaced, and the answer says by what.

recall down: the live checkpoint's popular items. Ranking down: the order of recall, without boosts, pins and quotas, but with
filters. Only a request that is wrong in itself, or one with nothing left to answer from, fails.
"""

import logging
from collections.abc import Collection, Sequence

from metarec.errors import InvalidInputError, MetarecError
from metarec.v1 import gateway_pb2, ranking_pb2, recall_pb2, types_pb2
from services.gateway.filters import without_forbidden
from services.gateway.popular import Popular
from services.gateway.stages import Stages
from services.gateway.validation import DEFAULT_ITEMS
from services.runtime import request as requests
from services.runtime.rules import RuleBook

logger = logging.getLogger(__name__)

MIN_CANDIDATES, MAX_CANDIDATES, CANDIDATES_PER_ITEM = 200, 500, 20
"""How many candidates to rank: enough to choose from, and no more, for each costs the gateway over a microsecond to pass on."""
RECALL_SHARE = 0.5
"""Part of the time left that recall may take: what remains is enough for ranking to answer."""
RANKING_SHARE = 0.9
"""Part of the time left after recall that ranking may take: what remains is enough to answer without it."""


class Recommender:
    """Answers Recommend from the stages that are up."""

    def __init__(self, stages: Stages, popular: Popular, rules: RuleBook | None = None) -> None:
        self._stages, self._popular, self._rules = stages, popular, rules or RuleBook(None)
        self._failing: dict[str, str] = {}

    async def recommend(self, request: gateway_pb2.RecommendRequest) -> gateway_pb2.RecommendResponse:
        """The items, best first, and what had to be replaced on the way."""
        num_items = request.num_items or DEFAULT_ITEMS
        retrieved, degradations = await self._retrieve(request, num_items)
        response = gateway_pb2.RecommendResponse(
            checkpoint=retrieved.checkpoint, shots=retrieved.shots, rules=retrieved.rules, rules_version=retrieved.rules_version
        )
        current = requests.current()
        response.request_id = "" if current is None else current.id
        if retrieved.candidates:
            ranked = await self._rank(request, retrieved.candidates, num_items, degradations)
            if ranked is None:
                self._keep_order(response, request, retrieved, num_items, degradations)
            else:
                _fill(response, ranked, retrieved.candidates, num_items)
        response.degradations.extend(_unique(degradations))
        response.degraded = bool(degradations)
        return response

    def _keep_order(
        self,
        response: gateway_pb2.RecommendResponse,
        request: gateway_pb2.RecommendRequest,
        retrieved: recall_pb2.RetrieveCandidatesResponse,
        num_items: int,
        degradations: list[types_pb2.Degradation],
    ) -> None:
        """Fill the list in the order of recall, less what filters forbid."""
        rules = self._rules.current(None)
        reason = degradations[-1].reason
        candidates: Sequence[types_pb2.Candidate] = retrieved.candidates
        kept = "filters were kept by recall"
        if rules and rules.version != retrieved.rules_version:
            candidates, removed = without_forbidden(rules, request.scenario, request.user_id, candidates)
            response.rules.extend(removed)
            response.rules_version = rules.version
            kept = f"filters were kept by leaving out {len(retrieved.candidates) - len(candidates)} items that they may forbid"
        if response.rules_version:
            fallback = f"{kept}; boosts, pins and quotas were left out"
            degradations.append(types_pb2.Degradation(stage="rules", reason=reason, fallback=fallback))
        # Scores of different sources do not compare, so the order itself is the score.
        for place, candidate in enumerate(candidates[:num_items], 1):
            response.items.add(item_id=candidate.item_id, score=1 / place, source=candidate.source, propensity=1.0)

    async def _retrieve(
        self, request: gateway_pb2.RecommendRequest, num_items: int
    ) -> tuple[recall_pb2.RetrieveCandidatesResponse, list[types_pb2.Degradation]]:
        message = recall_pb2.RetrieveCandidatesRequest(
            user_id=request.user_id,
            num_candidates=min(MAX_CANDIDATES, max(MIN_CANDIDATES, CANDIDATES_PER_ITEM * num_items)),
            scenario=request.scenario,
            exclude_item_ids=request.exclude_item_ids,
            include_seen=request.include_seen,
            user=request.user if request.HasField("user") else None,
            target_weights=request.target_weights,
        )
        try:
            response = await self._stages.recall.call(self._stages.recall_stub.RetrieveCandidates, message, RECALL_SHARE)
            self._watch("recall", None)
            return response, list(response.degradations)
        except InvalidInputError:
            raise
        except MetarecError as error:
            return await self._retrieve_popular(request.exclude_item_ids, error)

    async def _retrieve_popular(
        self, excluded: Collection[str], error: MetarecError
    ) -> tuple[recall_pb2.RetrieveCandidatesResponse, list[types_pb2.Degradation]]:
        popular = await self._popular.items()
        if not popular:
            # Nothing is live, so nothing can be popular: say what recall said.
            raise error
        left_out = set(excluded)
        response = recall_pb2.RetrieveCandidatesResponse()
        for place, item_id in enumerate((item_id for item_id in popular if item_id not in left_out), 1):
            response.candidates.add(item_id=item_id, score=1 / place, source=types_pb2.CANDIDATE_SOURCE_POPULAR)
        fallback = "popular items of the live checkpoint; items the user has seen may be among them"
        return response, [self._degradation("recall", error, fallback)]

    async def _rank(
        self,
        request: gateway_pb2.RecommendRequest,
        candidates: Sequence[types_pb2.Candidate],
        num_items: int,
        degradations: list[types_pb2.Degradation],
    ) -> ranking_pb2.RankCandidatesResponse | None:
        message = ranking_pb2.RankCandidatesRequest(
            user_id=request.user_id,
            candidates=candidates,
            num_items=num_items,
            scenario=request.scenario,
            user=request.user if request.HasField("user") else None,
            diversity=request.diversity if request.HasField("diversity") else None,
            exploration=request.exploration if request.HasField("exploration") else None,
            exclude_item_ids=request.exclude_item_ids,
            include_seen=request.include_seen,
            target_weights=request.target_weights,
        )
        try:
            ranked: ranking_pb2.RankCandidatesResponse = await self._stages.ranking.call(
                self._stages.ranking_stub.RankCandidates, message, RANKING_SHARE
            )
        except InvalidInputError:
            raise
        except MetarecError as error:
            degradations.append(self._degradation("ranking", error, "items in the order of recall"))
            return None
        self._watch("ranking", None)
        degradations.extend(ranked.degradations)
        return ranked

    def _degradation(self, stage: str, error: MetarecError, fallback: str) -> types_pb2.Degradation:
        self._watch(stage, error)
        return types_pb2.Degradation(stage=stage, reason=error.reason, fallback=fallback)

    def _watch(self, stage: str, error: MetarecError | None) -> None:
        """Log that a stage began to fail, fails for another reason, or is back: not each request that it degrades."""
        reason = None if error is None else error.reason
        if self._failing.get(stage) == reason:
            return
        if error is None:
            del self._failing[stage]
            logger.warning("%s is back", stage)
        else:
            self._failing[stage] = error.reason
            logger.warning("%s fails, answers are degraded: %s", stage, error.message)


def _fill(
    response: gateway_pb2.RecommendResponse,
    ranked: ranking_pb2.RankCandidatesResponse,
    candidates: Sequence[types_pb2.Candidate],
    num_items: int,
) -> None:
    """What ranking answered, with the source of each item and, beside them, what recall's rules removed."""
    response.checkpoint, response.shots = ranked.checkpoint, ranked.shots
    best = ranked.items[:num_items]
    source = _sources(candidates, {item.item_id for item in best})
    for item in best:
        response.items.add(
            item_id=item.item_id,
            score=item.score,
            source=source.get(item.item_id, types_pb2.CANDIDATE_SOURCE_RULE),
            rank_before=item.rank_before,
            rule_effects=item.rule_effects,
            propensity=item.propensity,
            explored=item.explored,
        )
    earlier = {report.rule: report for report in response.rules}
    for report in ranked.rules:
        if report.rule in earlier:
            earlier[report.rule].num_removed += report.num_removed
        else:
            response.rules.append(report)
    response.rules_version = ranked.rules_version or response.rules_version
    if ranked.HasField("diversity"):
        response.diversity.CopyFrom(ranked.diversity)


def _sources(candidates: Sequence[types_pb2.Candidate], item_ids: set[str]) -> "dict[str, types_pb2.CandidateSource.ValueType]":
    """Where these items came from. What ranks high was mostly recalled high, so the search ends early."""
    found = {}
    for candidate in candidates:
        item_id = candidate.item_id
        if item_id in item_ids:
            found[item_id] = candidate.source
            if len(found) == len(item_ids):
                break
    return found


def _unique(degradations: Sequence[types_pb2.Degradation]) -> list[types_pb2.Degradation]:
    """Both stages may have found the same store unreadable."""
    return list({(d.stage, d.reason): d for d in degradations}.values())
