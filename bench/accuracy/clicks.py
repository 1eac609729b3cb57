"""What the click protocols P3 and P4 share: import with contents, pooled metrics, tables of several seeds."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from bench.accuracy.curves import save_curve
from metarec.data.dataset import Dataset
from metarec.data.files import Files
from metarec.data.importing import import_dataset
from metarec.data.schema import Field, Label, Schema
from metarec.training.recipes import Recipe

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


def settings_digest(recipe: Recipe, settings: object) -> str:
    """Names what a file of results was made with."""
    return hashlib.sha256(json.dumps([recipe.to_dict(), settings], sort_keys=True, default=str).encode()).hexdigest()[:10]


def summary(found: Mapping[int, Figures]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Mean and sample deviation over seeds by model, column and metric."""
    first = next(iter(found.values()))
    return {
        model: {
            column: {metric: _spread([found[seed][model][column][metric] for seed in found]) for metric in first[model][column]}
            for column in first[model]
        }
        for model in first
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}


def write_results(
    out: Path, name: str, result: dict[str, object], columns: Sequence[str], title: str, bars: Mapping[str, float]
) -> None:
    """`<name>.json` and a Markdown table of AUC, and of logloss, beside the bars."""
    (out / f"{name}.json").write_text(json.dumps(result, indent=1))
    models: dict[str, dict[str, dict[str, dict[str, float]]]] = result["models"]  # type: ignore[assignment]  # made by summary
    lines = [f"# {title}", "", f"Seeds {result['seeds']}; mean and deviation over seeds.", ""]
    for metric in ("auc", "logloss"):
        lines += [f"| {metric} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for model, by in models.items():
            cells = [_cell(by.get(column, {}).get(metric)) for column in columns]
            lines.append(f"| {model} | {' | '.join(cells)} |")
        if metric == "auc" and bars:
            lines.append(f"| **bar** | {' | '.join(f'**{bars[c]:.3f}**' if c in bars else '' for c in columns)} |")
        lines.append("")
    (out / f"{name}.md").write_text("\n".join(lines))
    curves = {
        model: [by[column]["auc"]["mean"] for column in columns]
        for model, by in models.items()
        if all("auc" in by.get(column, {}) for column in columns)
    }
    bar = [bars[column] for column in columns] if all(column in bars for column in columns) else None
    save_curve(out / f"{name}.svg", columns, curves, learner="alpaca", bar=bar, label="AUC")


def _cell(figures: Mapping[str, float] | None) -> str:
    return "" if figures is None else f"{figures['mean']:.4f} ± {figures['sd']:.4f}"
