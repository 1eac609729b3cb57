"""P1 and P2 of PROTOCOLS: new users, new items, both (MovieLens-1M, MeLU's split, Lee et al. 2019).

    python -m bench.accuracy.p1 --data DIR --out DIR [--seeds 0,1,2] [--set NAME=VALUE ...]

The commands a user would run, once per seed: import of the warm ratings with contents, `metarec train --set ...` of the explicit
head, `metarec evaluate --episodes DIR/episodes.parquet --shots 0,1,3,5,10 --json`. Means over the episodes of five drawings, then
mean and deviation over the seeds of training; every plain baseline beside the learner.

One file per seed below --out: what is there already with the same settings is not run again.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from bench.accuracy.clicks import SCHEMA, settings_digest
from bench.accuracy.curves import save_curve
from metarec.data.dataset import Dataset
from metarec.data.files import Files
from metarec.data.importing import import_dataset
from metarec.data.schema import Label
from metarec.training.recipes import get_recipe

PROTOCOLS = ("user_cold", "item_cold", "user_and_item_cold")
SHOTS = (0, 1, 3, 5, 10)
BARS = {
    "user_cold": {"mae": 0.676, "ndcg@5": 0.830, "median": 0.645},
    "item_cold": {"mae": 0.855, "ndcg@5": 0.707, "median": 0.828},
    "user_and_item_cold": {"mae": 0.850, "ndcg@5": 0.707, "median": 0.825},
}
K_SHOT_BAR = {0: 0.760, 1: 0.748, 3: 0.733, 5: 0.722, 10: 0.703}
SCHEMA_1M = replace(SCHEMA, label=Label(column="rating", kind="rating", minimum=1, maximum=5))

Figures = dict[str, dict[str, dict[str, float]]]
"""Metric values by protocol (`user_cold`, `user_cold@5`), then by model."""


def import_warm(data: Path, out: Path) -> Path:
    """The dataset directory of the warm ratings, imported once."""
    if not (out / "dataset.json").exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        ratings = pq.read_table(data / "ratings.parquet", filters=[("state", "=", "warm")])
        warm = out.parent / "warm.parquet"
        pq.write_table(ratings.select(["user_id", "item_id", "rating"]), warm)
        files = Files(
            interactions=warm,
            users=data / "users.parquet",
            items=data / "items.parquet",
            graph=data / "kg.parquet",
            links=data / "kg_links.parquet",
        )
        import_dataset(files, SCHEMA_1M, out)
    Dataset.open(out)
    return out


def run_seed(data: Path, dataset: Path, out: Path, seed: int, settings: Mapping[str, str]) -> dict[str, object]:
    """Train and evaluate with one seed: figures, expected calibration errors, and how long the training command took."""
    registry = out / f"registry-{seed}"
    started = time.monotonic()
    chosen = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    _metarec("train", "--data", dataset, "--out", registry, "--seed", seed, "--no-gate", *chosen)
    seconds = time.monotonic() - started
    report = out / f"evaluation-{seed}.json"
    shots = ",".join(map(str, SHOTS))
    _metarec(
        *("evaluate", "--checkpoint", registry, "--data", dataset, "--episodes", data / "episodes.parquet"),
        *("--shots", shots, "--json", report),
    )
    said = json.loads(report.read_text())
    figures: Figures = {}
    for protocol, models in said["protocols"].items():
        figures[protocol] = {
            model: {metric: values["mean"] for metric, values in metrics.items() if metric in {"mae", "rmse", "ndcg@5"}}
            for model, metrics in models.items()
        }
    calibration = {
        protocol: models[said["learner"]]["error"] for protocol, models in said["calibration"].items() if protocol in PROTOCOLS
    }
    return {"learner": said["learner"], "figures": figures, "calibration": calibration, "train_seconds": seconds}


def _metarec(*arguments: object) -> None:
    """One command; its table goes to standard error, its failure ends this run."""
    print("metarec " + " ".join(map(str, arguments)), file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "metarec.cli.main", *map(str, arguments)], stdout=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        sys.exit(done.returncode)


def run(data: Path, out: Path, seeds: Sequence[int], settings: Mapping[str, str]) -> dict[str, object]:
    """All seeds, those that are there already taken from their files; writes p1.json and p1.md."""
    dataset = import_warm(data, out / "data")
    recipe = get_recipe("alpaca").override(settings)
    digest = settings_digest(recipe, dict(settings))
    found: list[dict[str, object]] = []
    for seed in seeds:
        path = out / f"seed-{seed}-{digest}.json"
        if not path.exists():
            path.write_text(json.dumps(run_seed(data, dataset, out, seed, settings), indent=1))
        found.append(json.loads(path.read_text()))
    result: dict[str, object] = {
        "protocol": "P1",
        "seeds": list(seeds),
        "recipe": recipe.to_dict(),
        "bars": BARS,
        "k_shot_bar": K_SHOT_BAR,
        "runs": found,
    }
    (out / "p1.json").write_text(json.dumps(result, indent=1))
    (out / "p1.md").write_text(markdown(found, seeds))
    curves = {
        model: [float(np.mean([_figures(run)[f"user_cold@{k}"][model]["mae"] for run in found])) for k in SHOTS]
        for model in _models(found, median=False)
    }
    save_curve(
        out / "p1.svg",
        [str(k) for k in SHOTS],
        curves,
        learner=str(found[0]["learner"]),
        bar=list(K_SHOT_BAR.values()),
        label="MAE of new users after k ratings",
        lower_is_better=True,
    )
    return result


def markdown(found: Sequence[Mapping[str, object]], seeds: Sequence[int]) -> str:
    """Tables of both headline metrics, of the median estimate and of the k-shot curve, beside the bars."""
    learner = str(found[0]["learner"])
    lines = ["# P1 and P2: new users, new items, both (MovieLens-1M)", "", f"Training seeds {list(seeds)}: mean ± deviation.", ""]
    lines += ["| MAE / nDCG@5 | " + " | ".join(PROTOCOLS) + " |", "|---" * 4 + "|"]
    for model in _models(found, median=False):
        cells = [f"{_cell(found, p, model, 'mae')} / {_cell(found, p, model, 'ndcg@5')}" for p in PROTOCOLS]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    lines.append("| **bar** | " + " | ".join(f"**{BARS[p]['mae']:.3f} / {BARS[p]['ndcg@5']:.3f}**" for p in PROTOCOLS) + " |")
    lines += ["", "| MAE of the median grade | " + " | ".join(PROTOCOLS) + " |", "|---" * 4 + "|"]
    for model in _models(found, median=True):
        lines.append(f"| {model} | {' | '.join(_cell(found, p, model, 'mae') for p in PROTOCOLS)} |")
    lines.append("| **bar** | " + " | ".join(f"**{BARS[p]['median']:.3f}**" for p in PROTOCOLS) + " |")
    lines += ["", "| user_cold, MAE after k shots | " + " | ".join(map(str, SHOTS)) + " |", "|---" * (len(SHOTS) + 1) + "|"]
    for model in _models(found, median=False):
        lines.append(f"| {model} | {' | '.join(_cell(found, f'user_cold@{k}', model, 'mae') for k in SHOTS)} |")
    lines.append("| **bar** | " + " | ".join(f"**{K_SHOT_BAR[k]:.3f}**" for k in SHOTS) + " |")
    lines += ["", f"Expected calibration error of {learner}'s predictive intervals: " + _calibration(found) + ".", ""]
    seconds = [float(run["train_seconds"]) for run in found]  # type: ignore[arg-type]  # written by run_seed
    lines.append(f"`metarec train` took {min(seconds):.0f} to {max(seconds):.0f} s, both heads, without the gate.")
    return "\n".join(lines) + "\n"


def _figures(run: Mapping[str, object]) -> Figures:
    return run["figures"]  # type: ignore[return-value]  # written by run_seed


def _models(found: Sequence[Mapping[str, object]], *, median: bool) -> list[str]:
    """Best first by the MAE of new users."""
    models = _figures(found[0])["user_cold"]
    mine = [model for model in models if model.endswith("_median") == median and "mae" in models[model]]
    return sorted(mine, key=lambda model: models[model]["mae"])


def _cell(found: Sequence[Mapping[str, object]], protocol: str, model: str, metric: str) -> str:
    values = [_figures(run)[protocol][model][metric] for run in found]
    mean = f"{np.mean(values):.4f}"
    return f"{mean} ± {np.std(values, ddof=1):.4f}" if len(values) > 1 and np.ptp(values) > 0 else mean


def _calibration(found: Sequence[Mapping[str, object]]) -> str:
    parts = []
    for protocol in PROTOCOLS:
        values = [run["calibration"][protocol] for run in found]  # type: ignore[index]  # written by run_seed
        parts.append(f"{protocol} {np.mean(values):.3f}")
    return ", ".join(parts)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MovieLens-1M with episodes.parquet")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="recipe settings")
    given = parser.parse_args()
    settings = dict(part.split("=", 1) for part in given.set)
    run(given.data.resolve(), given.out.resolve(), [int(seed) for seed in given.seeds.split(",")], settings)
    print((given.out / "p1.md").read_text())


if __name__ == "__main__":
    main()
