"""Results as tables for people; the command and the report print the same ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from metarec.evaluation.bootstrap import Delta
from metarec.evaluation.metrics import LOWER_IS_BETTER, MOST_GRADES, leading
from metarec.evaluation.results import ALONE, MEDIAN, ProtocolResult

if TYPE_CHECKING:
    from metarec.evaluation.ablation import Ablation

Row = dict[str, object]

RATING_COLUMNS = ("mae", "rmse", "ndcg@5", "ndcg@10", "auc", "logloss", "precision@5", "recall@5", "mrr@5")
LINEAR_GAIN = f"nDCG has linear gain: 2^label says little of labels above {MOST_GRADES:g}."
FEW_USERS = 10
"""Users from which on intervals need no word of warning."""
LIST_COLUMNS = ("recall@20", "ndcg@20", "coverage@20")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under a title, and a line below them. `metric` says what the columns `k=...` hold."""

    title: str
    rows: Sequence[Row]
    note: str = ""
    metric: str = ""


def headline(protocol: ProtocolResult) -> tuple[str, str]:
    """The two metrics that sum a protocol up: what is being minimised or maximised, and how good the order is."""
    metrics = protocol.values[protocol.learner]
    if "recall@20" in metrics:
        return "ndcg@20", "recall@20"
    means = {metric: protocol.mean(protocol.learner, metric) for metric in metrics}
    return leading(means, binary=protocol.binary, steep=protocol.steep)


def order(protocol: ProtocolResult, metric: str = "") -> list[str]:
    """Models as people want to read them: learner first, then joint, then baselines from best to worst by the metric."""
    metric = metric or headline(protocol)[0]
    sign = 1 if metric in LOWER_IS_BETTER else -1

    def place(model: str) -> tuple[int, float, str]:
        bare = model.removesuffix(MEDIAN)
        if bare in (protocol.learner, protocol.joint):
            return int(bare != protocol.learner), float(model != bare), model
        mean = protocol.mean(model, metric)
        return 2, np.inf if np.isnan(mean) else sign * mean, model

    return sorted(protocol.values, key=place)


def main_table(protocol: ProtocolResult) -> Table:
    """Every model of one protocol with its main metrics and the interval of the first."""
    first = headline(protocol)[0]
    shown: tuple[str, ...] = LIST_COLUMNS if first == "ndcg@20" else RATING_COLUMNS
    if protocol.binary:
        shown = tuple(dict.fromkeys((*(metric for metric in headline(protocol) if metric in shown), *shown)))
    if protocol.steep:
        shown = tuple(metric.replace("ndcg@", "ndcg_linear@") for metric in shown)
    summaries = protocol.summaries
    rows: list[Row] = []
    for model in order(protocol):
        row: Row = {"model": model}
        for metric in shown:
            if any(metric in by for by in summaries.values()):
                row[metric] = figure(protocol.mean(model, metric))
            if metric == first:
                row[f"95 % of {metric}"] = span(protocol.intervals[model].get(metric))
        rows.append(row)
    episodes = max((summary.episodes for summary in summaries[protocol.learner].values()), default=0)
    shots = "" if protocol.shots is None else f", {protocol.shots} shots"
    note = _noted(delta_line(protocol), protocol=protocol, linear=protocol.steep)
    return Table(title=f"{protocol.name}: {episodes} episode{'s' if episodes != 1 else ''}{shots}", rows=rows, note=note)


def curve_table(base: str, points: Sequence[ProtocolResult], metric: str) -> Table:
    """One metric of every model at every number of shots."""
    rows: list[Row] = []
    for model in order(points[-1], metric):
        if model.endswith(MEDIAN) and metric != "mae":
            continue  # a median changes no ranking
        rows.append({"model": model, **{f"k={point.shots}": figure(point.mean(model, metric)) for point in points}})
    deltas = [point.deltas.get(point.learner, {}).get(metric) for point in points]
    parts = [f"k={point.shots} {percent(found)}" for point, found in zip(points, deltas, strict=True) if found is not None]
    line = f"Delta: {', '.join(parts)}" if parts else ""
    note = _noted(line, protocol=points[-1], linear=metric.startswith("ndcg_linear"))
    return Table(title=f"{base}: {metric} after k shots", rows=rows, note=note, metric=metric)


def few_users(num_users: int) -> str:
    """A word of warning where intervals are drawn over so few users that they say little."""
    if num_users >= FEW_USERS:
        return ""
    return (
        f"Intervals are over {num_users} user{'s' if num_users > 1 else ''}: they say {'little' if num_users > 1 else 'nothing'}."
    )


def _noted(line: str, *, protocol: ProtocolResult, linear: bool) -> str:
    remarks = " ".join(part for part in (LINEAR_GAIN if linear else "", few_users(protocol.num_users)) if part)
    return ". ".join(part for part in (line, remarks) if part)


def ablation_table(found: "Ablation") -> Table:
    """What each group contributes: the metrics without it, and by how much they are better with it."""
    rows: list[Row] = [{"without": "nothing", "columns": found.columns, **{name: found.whole[name] for name in found.shown}}]
    for name, effects in found.groups.items():
        row: Row = {"without": name, "columns": found.widths[name]}
        for metric in found.shown:
            effect = effects[metric]
            row[metric] = figure(effect.without)
            row[f"its gain in {metric}"] = figure(effect.gain)
            row[f"95 % ({metric})"] = span(effect.interval)
            if effect.seed_sd is not None:
                row[f"sd of seeds ({metric})"] = effect.seed_sd
        rows.append(row)
    columns = dict.fromkeys(column for row in rows[::-1] for column in row)
    rows = [{column: row.get(column) for column in columns} for row in rows]
    trained = f"{len(found.seeds)} trainings each" if len(found.seeds) > 1 else "one training each"
    how = f"trained anew, {trained}" if found.mode == "retrain" else "values blanked at prediction"
    note = "A positive gain: better with the group than without it; its 95 % interval is over users, not over trainings."
    if any(metric.startswith("ndcg_linear") for metric in found.shown):
        note = f"{note} {LINEAR_GAIN}"
    note = f"{note} {few_users(found.users)}".rstrip()
    return Table(title=f"{found.protocol}: {found.episodes} episodes without a group of features ({how})", rows=rows, note=note)


def delta_line(protocol: ProtocolResult) -> str:
    """The deltas of the headline metrics as one line."""
    parts = []
    for model, deltas in protocol.deltas.items():
        for metric in headline(protocol):
            if metric in deltas and not (model.endswith(MEDIAN) and metric != "mae"):
                row = "" if model == protocol.learner else f" ({model})"
                parts.append(f"{metric}{row} {percent(deltas[metric])} against {deltas[metric].baseline}")
    line = f"Delta: {'; '.join(parts)}" if parts else ""
    joint = protocol.deltas_joint.get(protocol.learner, {})
    shown = [f"{metric} {percent(joint[metric])}" for metric in headline(protocol) if metric in joint]
    name = "Delta_alone" if protocol.joint.endswith(ALONE) else "Delta_joint"
    return line + (f". {name}: {'; '.join(shown)}" if shown else "")


def percent(delta: Delta) -> str:
    """A delta with its interval, in percent."""
    low, high = delta.interval
    return f"{100 * delta.value:+.1f} % [{100 * low:+.1f}, {100 * high:+.1f}]"


def figure(value: float) -> float | None:
    """None instead of nan."""
    return None if np.isnan(value) else value


def span(ends: tuple[float, float] | None) -> str:
    """An interval as text."""
    return "-" if ends is None or np.isnan(ends[0]) else f"{ends[0]:.4f}..{ends[1]:.4f}"
