"""Filters when neither ranking nor recall has applied them: the gateway knows ids, but neither contents nor profiles.

So only filters of ids and scenarios can be decided here. All others count against an item: a promise that nobody can check any
more is kept by showing less, down to nothing.
"""

from collections.abc import Sequence

from metarec.ranking.account import RuleReport, Ruling
from metarec.ranking.marks import mark
from metarec.ranking.rules import RuleSet
from metarec.v1 import types_pb2
from services.runtime.rule_messages import report_message


def without_forbidden(
    rules: RuleSet, scenario: str, user_id: str, candidates: Sequence[types_pb2.Candidate]
) -> tuple[list[types_pb2.Candidate], list[types_pb2.RuleReport]]:
    """The candidates that no filter forbids or may forbid, and how many each filter removed."""
    ruling = Ruling(
        rules=rules,
        active=rules.for_request(scenario, user_id, None),
        marks={candidate.item_id: mark(rules, candidate.item_id, None) for candidate in candidates},
    )
    removed: dict[str, int] = {}
    allowed = []
    for candidate in candidates:
        name = ruling.forbidden(candidate.item_id)
        if name is None:
            allowed.append(candidate)
        else:
            removed[name] = removed.get(name, 0) + 1
    reports = [RuleReport(rule=name, effect="filter", num_removed=count) for name, count in removed.items()]
    return allowed, [report_message(report) for report in reports]
