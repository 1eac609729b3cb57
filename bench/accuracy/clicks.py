"""What the click protocols P3 and P4 share: import with contents, pooled metrics, tables of several seeds."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from bench.accuracy.curves import save_curve
from bench.accuracy.tables import markdown_table, spread
from metarec.data.dataset import Dataset
from metarec.data.files import Files
from metarec.data.importing import import_dataset
from metarec.data.schema import Field, Label, Schema

Figures = dict[str, dict[str, dict[str, float]]]
"""Metric values by model, then by phase or domain."""

SMALLEST = 1e-6

SCHEMA = Schema(
    user_id="user_id",
    item_id="item_id",
    label=Label(column="label", kind="binary"),
    users=tuple(Field(name=name, kind="categorical") for name in ("gender", "age", "occupation", "zip_code")),
    items=(
        Field(name="title", kind="text"),
        Field(name="year", kind="numeric"),
        Field(name="mpaa", kind="categorical"),
        *(Field(name=name, kind="multi_categorical") for name in ("genres", "directors", "actors")),
        Field(name="plot", kind="text"),
    ),
    item_title="title",
    graph=True,
)


def import_clicks(data: Path, interactions: Path, out: Path, schema: Schema = SCHEMA) -> Path:
    """The dataset directory of these interactions with MovieLens-1M's contents, imported once."""
    if not (out / "dataset.json").exists():
        files = Files(
            interactions=interactions,
            users=data / "users.parquet",
            items=data / "items.parquet",
            graph=data / "kg.parquet",
            links=data / "kg_links.parquet",
        )
        import_dataset(files, schema, out)
    Dataset.open(out)
    return out


def auc(label_N: NDArray[np.float64], score_N: NDArray[np.float64]) -> float:
    """Over all rows together; ties count half."""
    positive = float((label_N > 0).sum())
    negative = len(label_N) - positive
    rank_sum = float(rankdata(score_N)[label_N > 0].sum())
    return (rank_sum - positive * (positive + 1) / 2) / (positive * negative)


def logloss(label_N: NDArray[np.float64], probability_N: NDArray[np.float64]) -> float:
    """Mean over all rows."""
    sure_N = np.clip(probability_N, SMALLEST, 1 - SMALLEST)
    return float(-np.log(np.where(label_N > 0, sure_N, 1 - sure_N)).mean())


def summary(found: Mapping[int, Figures]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """The values of all seeds that have them by model, column and metric."""
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for figures in found.values():
        for model, by in figures.items():
            for column, metrics in by.items():
                for metric, value in metrics.items():
                    values.setdefault(model, {}).setdefault(column, {}).setdefault(metric, []).append(value)
    return values


def merged(parts: Sequence[Figures]) -> Figures:
    """Figures of several pieces as one."""
    found: Figures = {}
    for part in parts:
        for model, by in part.items():
            for column, metrics in by.items():
                found.setdefault(model, {}).setdefault(column, {}).update(metrics)
    return found


def write_results(
    out: Path,
    name: str,
    result: Mapping[str, Any],
    found: Mapping[int, Figures],
    columns: Sequence[str],
    *,
    title: str,
    bars: Mapping[str, float],
    rows: bool = False,
) -> None:
    """`<name>.json`, a Markdown table of AUC and of logloss beside the bars, and a plot.

    `result["seeds"]` are the seeds wanted, `found` those that are there; with `rows` the columns are the rows of the table.
    """
    seeds, values = result["seeds"], summary(found)
    models = {
        model: {
            column: {metric: {"mean": float(np.mean(v)), "sd": _deviation(v), "seeds": len(v)} for metric, v in metrics.items()}
            for column, metrics in by.items()
        }
        for model, by in values.items()
    }
    missing = [seed for seed in seeds if seed not in found]
    (out / f"{name}.json").write_text(json.dumps({**result, "models": models, "not_run": missing}, indent=1))
    lines = [f"# {title}", "", f"Seeds {[seed for seed in seeds if seed in found]}: mean ± deviation over seeds.", ""]
    if missing:
        lines[2] += f" Not run: {', '.join(map(str, missing))}."
    for metric in ("auc", "logloss"):
        table = [
            [model, *(spread(by.get(column, {}).get(metric, []), of=len(found)) for column in columns)]
            for model, by in values.items()
            if any(metric in by.get(column, {}) for column in columns)
        ]
        if metric == "auc" and bars:
            table.append(["**bar**", *(f"**{bars[c]:.3f}**" if c in bars else "" for c in columns)])
        head = [metric, *columns]
        if rows:
            head, table = (
                [metric, *(row[0] for row in table)],
                [list(line) for line in zip(columns, *(row[1:] for row in table), strict=True)],
            )
        lines += [*markdown_table(head, table), ""]
    (out / f"{name}.md").write_text("\n".join(lines))
    curves = {
        model: [by[column]["auc"]["mean"] for column in columns]
        for model, by in models.items()
        if all("auc" in by.get(column, {}) for column in columns)
    }
    bar = [bars[column] for column in columns] if all(column in bars for column in columns) else None
    if curves:
        save_curve(out / f"{name}.svg", columns, curves, learner=next(iter(curves)), bar=bar, label="AUC")


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
