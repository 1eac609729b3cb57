"""Recommendations and explanations out of protobuf messages."""

from collections.abc import Iterable

from metarec.client.results import (
    Degradation,
    Diversity,
    Explanation,
    Recommendations,
    RecommendedItem,
    RuleEffect,
    RuleEffectName,
    RuleReport,
)
from metarec.types import CandidateSourceName, Contribution, ContributionKindName
from metarec.v1 import gateway_pb2, types_pb2

SOURCES: dict[int, CandidateSourceName] = {
    types_pb2.CANDIDATE_SOURCE_PERSONAL: "personal",
    types_pb2.CANDIDATE_SOURCE_POPULAR: "popular",
    types_pb2.CANDIDATE_SOURCE_CONTENT: "content",
    types_pb2.CANDIDATE_SOURCE_FRESH: "fresh",
    types_pb2.CANDIDATE_SOURCE_CALLER: "caller",
    types_pb2.CANDIDATE_SOURCE_RULE: "rule",
}
KINDS: dict[int, ContributionKindName] = {
    types_pb2.CONTRIBUTION_KIND_GLOBAL: "global",
    types_pb2.CONTRIBUTION_KIND_ITEM: "item",
    types_pb2.CONTRIBUTION_KIND_PROFILE: "profile",
    types_pb2.CONTRIBUTION_KIND_SUPPORT: "support",
    types_pb2.CONTRIBUTION_KIND_RULE: "rule",
    types_pb2.CONTRIBUTION_KIND_SCENARIO: "scenario",
}
RULE_EFFECTS: dict[int, RuleEffectName] = {
    types_pb2.RULE_EFFECT_KIND_FILTER: "filter",
    types_pb2.RULE_EFFECT_KIND_BOOST: "boost",
    types_pb2.RULE_EFFECT_KIND_PIN: "pin",
    types_pb2.RULE_EFFECT_KIND_QUOTA: "quota",
}


def get_recommendations(response: gateway_pb2.RecommendResponse) -> Recommendations:
    """The result of Recommend."""
    return Recommendations(
        items=tuple(
            RecommendedItem(
                item_id=item.item_id,
                score=item.score,
                source=SOURCES.get(item.source, ""),
                rank_before=item.rank_before,
                rules=_effects(item.rule_effects),
                propensity=item.propensity,
                explored=item.explored,
            )
            for item in response.items
        ),
        degraded=response.degraded,
        degradations=_degradations(response.degradations),
        checkpoint=response.checkpoint,
        shots=response.shots,
        rules=tuple(
            RuleReport(
                rule=report.rule,
                effect=RULE_EFFECTS.get(report.kind, ""),
                num_removed=report.num_removed,
                num_changed=report.num_changed,
                num_missing=report.num_missing,
            )
            for report in response.rules
        ),
        rules_version=response.rules_version,
        diversity=_diversity(response.diversity) if response.HasField("diversity") else None,
        request_id=response.request_id,
    )


def _diversity(report: types_pb2.DiversityReport) -> Diversity:
    return Diversity(
        strength=report.strength,
        similarity_before=report.similarity_before,
        similarity_after=report.similarity_after,
        score_traded=report.score_traded,
    )


def _effects(effects: Iterable[types_pb2.RuleEffect]) -> tuple[RuleEffect, ...]:
    return tuple(RuleEffect(rule=effect.rule, effect=RULE_EFFECTS.get(effect.kind, ""), boost=effect.boost) for effect in effects)


def get_explanation(response: gateway_pb2.ExplainResponse) -> Explanation:
    """The result of Explain."""
    return Explanation(
        item_id=response.item_id,
        score=response.score,
        contributions=tuple(
            Contribution(kind=KINDS[part.kind], value=part.value, item_id=part.item_id, label=part.label, rule=part.rule)
            for part in response.contributions
        ),
        checkpoint=response.checkpoint,
        shots=response.shots,
        rules=_effects(response.rule_effects),
        degradations=_degradations(response.degradations),
    )


def _degradations(parts: Iterable[types_pb2.Degradation]) -> tuple[Degradation, ...]:
    return tuple(Degradation(stage=part.stage, reason=part.reason, fallback=part.fallback) for part in parts)
