"""P5 of PROTOCOLS: lists in time order at rolling cuts (MovieLens-100K, which has timestamps).

    python -m bench.accuracy.p5 --data DIR --out DIR [--seeds 0,1,2] [--set NAME=VALUE ...]

`--data` is an imported dataset directory. What `metarec evaluate --protocol temporal` runs: at every cut both heads and
their blend are trained on what happened before, and the plain baselines are tuned and fitted on the same. They do not depend on
the seed, so only the first seed runs them; the others give the learner's spread.

One file per seed below --out; what is finished is not run again (bench/accuracy/state.py).
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.accuracy.command import Given, ended, protocol_parser, read
from bench.accuracy.curves import save_curve
from bench.accuracy.state import provenance
from bench.accuracy.tables import NOT_RUN, markdown_table
from metarec.data.dataset import Dataset
from metarec.evaluation.results import Report
from metarec.evaluation.temporal import evaluate_temporal
from metarec.training.loop import fit
from metarec.training.recipe import Recipe
from metarec.training.recipes import get_recipe

METRICS = ("ndcg@20", "recall@20")
LEARNER = "alpaca"


def recipe_of(settings: Mapping[str, str]) -> Recipe:
    """The flagship's."""
    return get_recipe(LEARNER).override(settings)


def run_seed(dataset: Dataset, seed: int, recipe: Recipe, *, baselines: bool) -> dict[str, Any]:
    """The report of one seed as JSON, with the seconds it took."""
    started = time.monotonic()
    seconds: list[float] = []

    def trainer(train: Dataset, seed: int) -> Any:
        began = time.monotonic()
        prior = fit(train, recipe, seed=seed)
        seconds.append(time.monotonic() - began)
        return prior

    found = evaluate_temporal(dataset, {LEARNER: trainer}, seed=seed, progress=_say, baselines=baselines)
    report = Report(learner=LEARNER, facts={"seed": seed}, protocols=found.protocols).to_dict()
    return {**report, "seconds": time.monotonic() - started, "training_seconds": seconds}


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def run(given: Given) -> None:
    """All seeds that are missing; p5.json, p5.md and p5.svg are written anew after each."""
    dataset, recipe = Dataset.open(given.data), recipe_of(given.settings)
    state = given.state({"dataset": dataset.fingerprint})
    pieces: list[dict[str, Any]] = []
    for place, seed in enumerate(given.seeds):
        # The first seed has the baselines.
        name = f"seed-{seed}" if place == 0 else f"seed-{seed}-learner"
        piece = state.piece(
            name, recipe.to_dict(), lambda place=place, seed=seed: run_seed(dataset, seed, recipe, baselines=place == 0)
        )
        if piece is None and place == 0:
            return
        if piece is not None:
            pieces.append(piece)
            write(given, recipe, pieces)


def write(given: Given, recipe: Recipe, pieces: Sequence[dict[str, Any]]) -> None:
    """The table and the plot of what is there."""
    found = [piece["result"] for piece in pieces]
    done = [one["checkpoint"]["seed"] for one in found]
    result = {
        "protocol": "P5",
        "seeds": done,
        "not_run": [seed for seed in given.seeds if seed not in done],
        "recipe": recipe.to_dict(),
        "models": summary(found),
        "deltas": found[0]["deltas"],
        "episodes": {name: by[LEARNER]["ndcg@20"]["episodes"] for name, by in found[0]["protocols"].items()},
        "training_seconds": [one["training_seconds"] for one in found],
        **provenance(list(pieces)),
    }
    (given.out / "p5.json").write_text(json.dumps(result, indent=1))
    (given.out / "p5.md").write_text(markdown(result))
    protocols, metric = list(result["episodes"]), METRICS[0]
    curves = {model: [by[protocol][metric]["mean"] for protocol in protocols] for model, by in result["models"].items()}
    # The bar of P5 is the best plain baseline of each column.
    best = [max(curve[place] for model, curve in curves.items() if model != LEARNER) for place in range(len(protocols))]
    save_curve(
        given.out / "p5.svg",
        [_column(name) for name in protocols],
        curves,
        learner=LEARNER,
        bar=best,
        label="nDCG@20",
        bar_label="best baseline",
    )


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Mean and sample deviation over seeds by model, protocol and metric; baselines have one seed."""
    models: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for protocol, by in found[0]["protocols"].items():
        for model in by:
            for metric in METRICS:
                values = [
                    one["protocols"][protocol][model][metric]["mean"] for one in found if model in one["protocols"][protocol]
                ]
                spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
                models.setdefault(model, {}).setdefault(protocol, {})[metric] = {"mean": float(np.mean(values)), "sd": spread}
    return models


def markdown(result: Mapping[str, Any]) -> str:
    """A table of nDCG@20 and recall@20 with the learner's deltas below."""
    models, protocols = result["models"], list(result["episodes"])
    counts = ", ".join(f"{_column(name)}: {count}" for name, count in result["episodes"].items())
    lines = [
        "# P5: lists in time order, ndcg@20 / recall@20 (MovieLens-100K)",
        "",
        f"Training seeds {result['seeds']}: means over them for the learner; baselines do not depend on them. Users pooled over "
        f"five cuts: {counts}.",
    ]
    if result["not_run"]:
        lines.append(f"{NOT_RUN.capitalize()}: seeds {', '.join(map(str, result['not_run']))}.")
    rows = []
    for model, by in sorted(models.items(), key=lambda pair: pair[0] != LEARNER):
        rows.append([model, *(" / ".join(f"{by[protocol][metric]['mean']:.3f}" for metric in METRICS) for protocol in protocols)])
    mine = models[LEARNER]
    deviations = [" / ".join(f"{mine[protocol][metric]['sd']:.3f}" for metric in METRICS) for protocol in protocols]
    rows.append([f"deviation of {LEARNER}", *deviations])
    for metric in METRICS:
        cells = [_delta(result["deltas"][protocol][LEARNER][metric]) for protocol in protocols]
        rows.append([f"Delta of {metric} to the best, %, seed {result['seeds'][0]}", *cells])
    lines += ["", *markdown_table(["", *map(_column, protocols)], rows)]
    return "\n".join([*lines, ""])


def _column(protocol: str) -> str:
    return protocol.removeprefix("P5/").replace("cold@", "k = ")


def _delta(found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    return f"{100 * found['value']:+.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> None:
    """The command."""
    given = read(protocol_parser(__doc__, "imported dataset directory with timestamps", "0,1,2").parse_args())
    given.out.mkdir(parents=True, exist_ok=True)
    run(given)
    print((given.out / "p5.md").read_text() if (given.out / "p5.md").exists() else "nothing there")


if __name__ == "__main__":
    sys.exit(ended(main))
