"""What rules did, as messages."""

from collections.abc import Mapping

from metarec.ranking.account import RuleReport
from metarec.ranking.rank import RuleEffect
from metarec.ranking.rules import Effect
from metarec.v1 import types_pb2

EFFECTS: Mapping[Effect, "types_pb2.RuleEffectKind.ValueType"] = {
    "filter": types_pb2.RULE_EFFECT_KIND_FILTER,
    "boost": types_pb2.RULE_EFFECT_KIND_BOOST,
    "pin": types_pb2.RULE_EFFECT_KIND_PIN,
    "quota": types_pb2.RULE_EFFECT_KIND_QUOTA,
}


def effect_message(effect: RuleEffect) -> types_pb2.RuleEffect:
    """What a rule did to an item, as a message."""
    return types_pb2.RuleEffect(rule=effect.rule, kind=EFFECTS[effect.effect], boost=effect.boost)


def report_message(report: RuleReport) -> types_pb2.RuleReport:
    """What a rule did to a list, as a message."""
    return types_pb2.RuleReport(
        rule=report.rule,
        kind=EFFECTS[report.effect],
        num_removed=report.num_removed,
        num_changed=report.num_changed,
        num_missing=report.num_missing,
    )
