"""P1 and P2 of PROTOCOLS: new users, new items, both (MovieLens-1M, MeLU's split, Lee et al. 2019).

    python -m bench.accuracy.p1 --data DIR --out DIR [--seeds 0,1,2] [--learners maml,anil] [--set NAME=VALUE ...]

The commands a user would run, once per seed: import of the warm ratings with contents, `metarec train --set ...` of the explicit
head, `metarec evaluate --episodes DIR/episodes.parquet --shots 0,1,3,5,10 --json`. Means over the episodes of five drawings, then
mean and deviation over the seeds of training; every plain baseline beside the learner. `--learners` are other learners, by their
recipes, beside it: trained with the first seed alone, asked the same episodes.

One file per learner and seed below --out; what is finished is not run again (bench/accuracy/state.py).
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from bench.accuracy.clicks import SCHEMA
from bench.accuracy.command import Given, ended, protocol_parser, read
from bench.accuracy.curves import save_curve
from bench.accuracy.state import fingerprints, provenance
from bench.accuracy.tables import markdown_table, spread
from metarec.data.dataset import Dataset
from metarec.data.files import Files
from metarec.data.importing import import_dataset
from metarec.data.schema import Label
from metarec.evaluation.entities import entities
from metarec.evaluation.episode_file import read_episodes
from metarec.evaluation.rating_run import Contest, label_scale, learner_name, learner_predictor, run_contest
from metarec.evaluation.results import Report
from metarec.training.checkpoint import load_checkpoint
from metarec.training.recipe import Recipe
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
FLAGSHIP = "alpaca"
OTHERS = ("maml", "fomaml", "anil", "meta_sgd", "reptile", "joint", "neural_process")
METRICS = ("mae", "rmse", "ndcg@5")

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


def recipe_of(learner: str, settings: Mapping[str, str]) -> Recipe:
    """The learner's recipe with these settings; learners beside the flagship take those of training alone (`epochs`)."""
    return get_recipe(learner).override(chosen(learner, settings))


def chosen(learner: str, settings: Mapping[str, str]) -> dict[str, str]:
    """The settings that are meant for this learner."""
    own = {"learner", "model", "episodes", "implicit"}
    return {path: value for path, value in settings.items() if learner == FLAGSHIP or not own & set(path.split("."))}


def run_seed(given: Given, work: Path, learner: str, seed: int) -> dict[str, Any]:
    """Train and evaluate with one seed: figures, expected calibration errors, and how long the training command took."""
    dataset = import_warm(given.data, work / "data")
    registry = work / f"{learner}-{seed}"
    started = time.monotonic()
    overrides = [part for path, value in chosen(learner, given.settings).items() for part in ("--set", f"{path}={value}")]
    _metarec(
        *("train", "--data", dataset, "--out", registry, "--recipe", learner, "--seed", seed, "--no-gate"),
        *("--threads", given.threads, *overrides),
    )
    seconds = time.monotonic() - started
    if learner == FLAGSHIP:
        report = work / f"evaluation-{seed}.json"
        shots = ",".join(map(str, SHOTS))
        _metarec(
            *("evaluate", "--checkpoint", registry, "--data", dataset, "--episodes", given.data / "episodes.parquet"),
            *("--shots", shots, "--json", report),
        )
        said = json.loads(report.read_text())
    else:
        said = asked(given.data, dataset, registry)
    figures: Figures = {}
    for protocol, models in said["protocols"].items():
        figures[protocol] = {
            model: {metric: values["mean"] for metric, values in metrics.items() if metric in METRICS}
            for model, metrics in models.items()
        }
    calibration = {
        protocol: models[said["learner"]]["error"] for protocol, models in said["calibration"].items() if protocol in PROTOCOLS
    }
    return {"learner": said["learner"], "figures": figures, "calibration": calibration, "train_seconds": seconds}


def asked(data: Path, dataset_path: Path, registry: Path) -> dict[str, Any]:
    """The report of a checkpoint on the episodes without plain baselines: those stand beside the flagship."""
    dataset, prior = Dataset.open(dataset_path), load_checkpoint(registry)
    rows = read_episodes(data / "episodes.parquet", dataset.schema)
    tables = entities(prior, dataset, rows.user_T, rows.item_N)
    episodes = rows.resolve(tables)
    scale, name = label_scale(dataset, episodes.tasks.query_label_Q), learner_name(prior)
    contest = Contest(learner=name, joint="", models={name: learner_predictor(prior, tables, scale)}, scale=scale)
    # As with `metarec evaluate --shots`: the curve beside the whole support.
    results = run_contest(contest, episodes, tables, [None, *SHOTS], seed=0)
    return Report(learner=name, facts={}, protocols=results).to_dict()


def _metarec(*arguments: object) -> None:
    """One command; its table is not shown, its failure ends this run."""
    print("metarec " + " ".join(map(str, arguments)), file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "metarec.cli.main", *map(str, arguments)], stdout=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        sys.exit(done.returncode)


def run(given: Given, learners: Sequence[str]) -> None:
    """All that is missing; p1.json, p1.md and p1.svg are written anew after every piece."""
    state = given.state(fingerprints(given.data))
    work = given.out / f"work-{state.digest}"
    wanted = [(FLAGSHIP, seed) for seed in given.seeds] + [(learner, given.seeds[0]) for learner in learners]
    pieces: dict[tuple[str, int], dict[str, Any]] = {}
    for learner, seed in wanted:
        settings = recipe_of(learner, given.settings).to_dict()
        piece = state.piece(
            f"{learner}-seed-{seed}", settings, lambda learner=learner, seed=seed: run_seed(given, work, learner, seed)
        )
        if piece is not None:
            pieces[learner, seed] = piece
            write(given, pieces, learners)


def write(given: Given, pieces: Mapping[tuple[str, int], dict[str, Any]], learners: Sequence[str]) -> None:
    """The tables of what is there; nothing as long as the flagship is not."""
    found = [piece["result"] for (learner, _), piece in pieces.items() if learner == FLAGSHIP]
    if not found:
        return
    others = {learner: pieces[learner, given.seeds[0]]["result"] for learner in learners if (learner, given.seeds[0]) in pieces}
    missing = [str(seed) for seed in given.seeds if (FLAGSHIP, seed) not in pieces]
    result = {
        "protocol": "P1",
        "seeds": [seed for seed in given.seeds if (FLAGSHIP, seed) in pieces],
        "recipe": recipe_of(FLAGSHIP, given.settings).to_dict(),
        "bars": BARS,
        "k_shot_bar": K_SHOT_BAR,
        "runs": found,
        "learners": others,
        "not_run": {FLAGSHIP: missing, "learners": [learner for learner in learners if learner not in others]},
        **provenance(list(pieces.values())),
    }
    (given.out / "p1.json").write_text(json.dumps(result, indent=1))
    (given.out / "p1.md").write_text(markdown(result, learners))
    curves = {
        model: [float(np.mean([one["figures"][f"user_cold@{k}"][model]["mae"] for one in found])) for k in SHOTS]
        for model in _models(found)
    }
    save_curve(
        given.out / "p1.svg",
        [str(k) for k in SHOTS],
        curves,
        learner=FLAGSHIP,
        bar=list(K_SHOT_BAR.values()),
        label="MAE of new users after k ratings",
        lower_is_better=True,
    )


def markdown(result: Mapping[str, Any], learners: Sequence[str]) -> str:
    """Both headline metrics, the median estimate and the k-shot curve beside the bars; then learners side by side."""
    found, others = result["runs"], result["learners"]
    lines = ["# P1 and P2: new users, new items, both (MovieLens-1M)", ""]
    lines.append(f"{FLAGSHIP} and the plain baselines: training seeds {result['seeds']}, mean ± deviation over them.")
    if result["not_run"][FLAGSHIP]:
        lines.append(f"Not run: seeds {', '.join(result['not_run'][FLAGSHIP])} of {FLAGSHIP}.")

    def both(one: Sequence[Any], model: str, protocol: str) -> str:
        return f"{_cell(one, protocol, model, 'mae')} / {_cell(one, protocol, model, 'ndcg@5')}"

    rows = [[model, *(both(found, model, p) for p in PROTOCOLS)] for model in _models(found)]
    rows.append(["**bar**", *(f"**{BARS[p]['mae']:.3f} / {BARS[p]['ndcg@5']:.3f}**" for p in PROTOCOLS)])
    lines += ["", *markdown_table(["MAE / nDCG@5", *PROTOCOLS], rows)]
    rows = [[model, *(_cell(found, p, model, "mae") for p in PROTOCOLS)] for model in _models(found, median=True)]
    rows.append(["**bar**", *(f"**{BARS[p]['median']:.3f}**" for p in PROTOCOLS)])
    lines += ["", *markdown_table(["MAE of the median grade", *PROTOCOLS], rows)]
    rows = [[model, *(_cell(found, f"user_cold@{k}", model, "mae") for k in SHOTS)] for model in _models(found)]
    rows.append(["**bar**", *(f"**{K_SHOT_BAR[k]:.3f}**" for k in SHOTS)])
    lines += ["", *markdown_table(["user_cold, MAE after k shots", *map(str, SHOTS)], rows)]
    if learners:
        seed = result["seeds"][0]
        lines += [
            "",
            f"Learners side by side, training seed {seed} alone: MAE / nDCG@5, MAE without support, seconds of training.",
        ]
        table = []
        for learner in (FLAGSHIP, *learners):
            one = found[0] if learner == FLAGSHIP else others.get(learner)
            cells = (
                ["not run"] * 5
                if one is None
                else [
                    *(both([one], one["learner"], p) for p in PROTOCOLS),
                    _cell([one], "user_cold@0", one["learner"], "mae"),
                    f"{one['train_seconds']:.0f}",
                ]
            )
            table.append([learner, *cells])
        lines += ["", *markdown_table(["learner", *PROTOCOLS, "user_cold, k = 0", "train, s"], table)]
    errors = ", ".join(f"{p} {np.mean([one['calibration'][p] for one in found]):.3f}" for p in PROTOCOLS)
    lines += ["", f"Expected calibration error of {FLAGSHIP}'s predictive intervals: {errors}.", ""]
    seconds = [float(one["train_seconds"]) for one in found]
    lines.append(f"`metarec train` took {min(seconds):.0f} to {max(seconds):.0f} s, all heads, without the gate.")
    return "\n".join(lines) + "\n"


def _models(found: Sequence[Mapping[str, Any]], *, median: bool = False) -> list[str]:
    """Best first by the MAE of new users."""
    models = found[0]["figures"]["user_cold"]
    mine = [model for model in models if model.endswith("_median") == median and "mae" in models[model]]
    return sorted(mine, key=lambda model: float(models[model]["mae"]))


def _cell(found: Sequence[Mapping[str, Any]], protocol: str, model: str, metric: str) -> str:
    return spread([one["figures"][protocol][model][metric] for one in found])


def main() -> None:
    """The command."""
    parser = protocol_parser(__doc__, "folder of MovieLens-1M with episodes.parquet", "0,1,2")
    parser.add_argument("--learners", default=",".join(OTHERS), help="recipes beside the flagship, '' for none")
    said = parser.parse_args()
    given = read(said)
    run(given, [name for name in said.learners.split(",") if name])
    print((given.out / "p1.md").read_text() if (given.out / "p1.md").exists() else "nothing there")


if __name__ == "__main__":
    sys.exit(ended(main))
