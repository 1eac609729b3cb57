"""What the demo shows of `metarec evaluate`: one table, recommendation in time order and ratings of held-out users."""

from collections.abc import Mapping
from typing import cast

from demo_steps import Demo
from rich.table import Table

CUTS = "0.9"
"""The last of P5's five cuts: each trains the learner and tunes the baselines anew, which takes minutes on two cores."""
SHOTS = "0,1,3,5,10"
METRICS = {"ndcg@20": True, "mae": False}
"""The figure to show of a protocol, the first that it has; whether higher is better."""
Protocols = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]


def figures(result: Mapping[str, object]) -> dict[str, object]:
    """What summary.json keeps of the result: every protocol and model, who the learner is, and for each protocol the delta of the
    figure that is shown against the best plain baseline."""
    protocols, learner = cast(Protocols, result["protocols"]), str(result["learner"])
    deltas = cast(Protocols, result["deltas"])
    shown = {name: _metric(models) for name, models in protocols.items()}
    delta = {name: {"metric": metric, **deltas[name][learner][metric]} for name, metric in shown.items() if metric}
    return {"protocols": protocols, "learner": learner, "delta": delta}


def show(demo: Demo, result: Mapping[str, object]) -> None:
    """A table for each metric: a row for each model, a column for each protocol, the best of each column in bold."""
    protocols, learner = cast(Protocols, result["protocols"]), str(result["learner"])
    demo.say(
        f"P5: trained anew on the first {float(CUTS):.0%} of all ratings in time order, judged on the rest (one cut of five);"
    )
    demo.say("held_out: the checkpoint itself on the ratings of users that its training held out")
    for metric, higher in METRICS.items():
        columns = {name: models for name, models in protocols.items() if _metric(models) == metric}
        if not columns:
            continue
        models = list(dict.fromkeys(model for column in columns.values() for model in column if not model.endswith("_median")))
        table = Table(box=None, padding=(0, 2, 0, 6), header_style="bold")
        table.add_column(f"{metric} ({'higher' if higher else 'lower'} is better)")
        for name in columns:
            table.add_column(name, justify="right")
        for model in sorted(models, key=lambda name: name != learner):
            cells = [_cell(column, model, metric, models, higher=higher) for column in columns.values()]
            table.add_row(f"[bold]{model}[/] (the learner)" if model == learner else model, *cells)
        demo.console.print(table)


def _metric(models: Mapping[str, Mapping[str, object]]) -> str:
    return next((metric for metric in METRICS if any(metric in found for found in models.values())), "")


def _cell(
    column: Mapping[str, Mapping[str, Mapping[str, float]]], model: str, metric: str, models: list[str], *, higher: bool
) -> str:
    values = {name: column[name][metric]["mean"] for name in models if name in column and metric in column[name]}
    known = {name: value for name, value in values.items() if value is not None}
    if model not in known:
        return "-"
    best = known[model] == (max if higher else min)(known.values())
    return f"[bold]{known[model]:.3f}[/]" if best else f"{known[model]:.3f}"
