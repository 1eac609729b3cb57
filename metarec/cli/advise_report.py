"""How `metarec advise` tells what it found: tables and sentences for people, one object for machines."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from metarec.cli.output import print_table, stdout
from metarec.data.inspection import FEW
from metarec.evaluation.advice_reasons import columns, command, reasons, table_rows, train_command
from metarec.evaluation.advice_untried import untried_reasons
from metarec.training.recipes import RECIPES, TARGETS_RECIPE

if TYPE_CHECKING:
    from metarec.cli.advise_run import Found, Prepared
    from metarec.training.trial import Cost
    from metarec.training.tuning_plan import Plan

LABELS_ONLY = frozenset(name for name, recipe in RECIPES.items() if all(head.target == "explicit" for head in recipe.heads))
"""Recipes without a head for lists."""
QUESTIONS = {
    "ratings": "the labels of given items",
    "clicks": "yes or no of given items",
    "lists": "the items that a user will take out of all of them",
}


def findings_rows(prepared: "Prepared") -> list[dict[str, object]]:
    """What was found about the data."""
    found = prepared.findings
    shares = found.varied and len(found.labels) <= 10
    labels = ", ".join(f"{name}: {share:.1%}" if shares else f"{name}: {share:g}" for name, share in found.labels.items())
    alike = f"all {next(iter(found.labels), '')}: only whether there is an interaction can be learned"
    per_user, per_item = (", ".join(f"{value:g}" for value in part) for part in (found.events_per_user, found.events_per_item))
    sizes = f"{found.users:,}, {found.items:,}, {found.events:,} (density {found.density:.4f})"
    fields = f"{found.user_fields} of users, {found.item_fields} of items" + (", and a knowledge graph" if found.graph else "")
    learned = f"{len(prepared.train.interactions):,} interactions ({prepared.sampled:.0%})"
    facts = {
        "users, items, interactions": sizes,
        "kinds of task": ", ".join(["users", "items", *(["scenarios"] if len(found.scenarios) > 1 else [])]),
        f"labels ({found.label_kind})": labels if found.varied else alike,
        "interactions per user, quartiles": per_user,
        "interactions per item, quartiles": per_item,
        f"cold (fewer than {FEW})": f"{found.cold_users:.1%} of users, {found.cold_items:.1%} of items",
        "times": "no: users show random interactions first" if found.days is None else f"yes, over {found.days:,.0f} days",
        "scenarios": ", ".join(f"{name}: {count:,}" for name, count in found.scenarios.items()) or "none",
        "fields": fields,
        "further targets": f"{', '.join(found.further_targets)} (not judged here)" if found.further_targets else "none",
        "asked for": f"{QUESTIONS[prepared.judge.question]}, judged by {prepared.judge.metrics[0]}",
        "judged on": f"{prepared.users} {prepared.who}",
        "shots": f"after {', '.join(map(str, found.shots))} interactions each, and the mean of these",
        "trials learn from": f"{learned}, {prepared.encoded_bytes / 2**20:.0f} MiB encoded",
    }
    return [{"": name, "value": value} for name, value in facts.items()]


def eligibility_rows(prepared: "Prepared", costs: "Mapping[str, Cost]", plan: "Plan") -> list[dict[str, object]]:
    """Who is tried, what a training in full would cost on one core, and why others are not."""
    rows: list[dict[str, object]] = []
    for one in prepared.eligibility.candidates:
        why = "tried" if one.name in plan.admitted else "too dear for the budget"
        rows.append({"learner": one.name, "in full, s": f"{costs[one.name].seconds(costs[one.name].epochs):.0f}", "": why})
    rows += [
        {"learner": name, "in full, s": None, "": f"not eligible: {why}"} for name, why in prepared.eligibility.refused.items()
    ]
    return rows


def show(found: "Found", data: str) -> None:
    """The table of trials, the reasons and the command, on standard output."""
    print_table(_rows(found), title=f"after {found.seconds:.0f} s", columns=columns(found.prepared.judge.metrics))
    recommended = _recommendation(found, data)
    if recommended is None:
        return
    console = stdout()
    tried = "" if recommended["tried"] else " (the default, untried)"
    console.print(f"\nrecommended: {recommended['learner']}{tried}", soft_wrap=True, markup=False)
    for sentence in cast(list[str], recommended["reasons"]):
        console.print(f"- {sentence}", soft_wrap=True, markup=False)
    console.print(f"\n{shlex.join(cast(list[str], recommended['command']))}", soft_wrap=True, markup=False)


def order(found: "Found") -> list[str]:
    """Names of the candidates as the table has them."""
    return [str(row["learner"]) for row in _rows(found)]


def _rows(found: "Found") -> list[dict[str, object]]:
    return table_rows(found.advice, found.outcomes, found.floor, found.prepared.judge.metrics, len(found.plan.shares))


def _recommendation(found: "Found", data: str) -> dict[str, object] | None:
    advice = found.advice
    if advice is not None:
        return {
            "learner": advice.chosen.outcome.name,
            "tried": True,
            "recipe": advice.chosen.outcome.recipe,
            "settings": advice.chosen.settings,
            "epochs": advice.chosen.trained.epochs,
            "metrics": dict(advice.chosen.trained.metrics),
            "over_best_baseline": advice.floor.to_dict() if advice.floor else None,
            "above_best_baseline": list(advice.above_floor),
            "over_others": {name: other.gain.to_dict() for name, other in advice.others.items()},
            "within_noise": advice.tied,
            "reasons": _reasons(found),
            "command": command(advice, data),
        }
    if found.untried is None:
        return None
    prepared = found.prepared
    return {
        "learner": found.untried.name,
        "tried": False,
        "recipe": found.untried.recipe,
        "settings": dict(found.untried.settings),
        "reasons": untried_reasons(
            found.floor,
            prepared.judge.metrics[0],
            users=f"{prepared.users} {prepared.who}",
            budget=found.budget,
            enough=found.enough,
        ),
        "command": train_command(found.untried.recipe, found.untried.settings, prepared.target, data),
    }


def to_json(found: "Found", data: str) -> dict[str, object]:
    """Everything; figures that are not defined are null."""
    prepared = found.prepared
    in_full = {name: cost.seconds(cost.epochs) for name, cost in found.costs.items()}
    value: dict[str, object] = {
        "data": data,
        "findings": prepared.findings.to_dict(),
        "target": prepared.target,
        "question": prepared.judge.question,
        "metrics": list(prepared.judge.metrics),
        "users": prepared.users,
        "who": prepared.who,
        "shots": list(prepared.findings.shots),
        "sampled": prepared.sampled,
        "encoded_bytes": prepared.encoded_bytes,
        "budget_seconds": found.budget,
        "seconds": found.seconds,
        "rungs": list(found.plan.shares),
        "baselines": {name: dict(by) for name, by in found.floor.metrics.items()},
        "candidates": [{**asdict(outcome), "seconds_in_full": in_full[outcome.name]} for outcome in found.outcomes],
        "not_eligible": dict(prepared.eligibility.refused),
        "recommendation": _recommendation(found, data),
    }
    plain = _plain(value)
    assert isinstance(plain, dict)
    return plain


def _reasons(found: "Found") -> list[str]:
    assert found.advice is not None
    prepared = found.prepared
    said = reasons(
        found.advice, users=f"{prepared.users} {prepared.who}", shots=prepared.findings.shots, sampled=prepared.sampled
    )
    if prepared.judge.question != "lists" and found.advice.chosen.outcome.recipe in LABELS_ONLY:
        said.append(
            "Its recipe estimates labels alone; lists out of all items are what the recipe 'alpaca' has a second head for "
            "(see --target implicit)."
        )
    further = prepared.findings.further_targets
    if further and found.advice.chosen.outcome.recipe != TARGETS_RECIPE:
        said.append(f"It does not learn {', '.join(further)}, which was not judged; the recipe '{TARGETS_RECIPE}' does.")
    return said


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
