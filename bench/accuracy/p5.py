"""P5 of PROTOCOLS: lists in time order at rolling cuts (MovieLens-100K, which has timestamps).

    python -m bench.accuracy.p5 --data DIR --out DIR [--seeds 0,1,2] [--set NAME=VALUE ...]

`--data` is an imported dataset directory. What `metarec evaluate --protocol temporal` runs: at every cut both heads and
their blend are trained on what happened before, and the plain baselines are tuned and fitted on the same. They do not depend on
the seed, so only the first seed runs them; the others give the learner's spread.

One file per seed below --out: what is there already with the same settings is not run again. Writes p5.json and p5.md.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.accuracy.clicks import settings_digest
from metarec.data.dataset import Dataset
from metarec.evaluation.results import Report
from metarec.evaluation.temporal import evaluate_temporal
from metarec.training.loop import fit
from metarec.training.recipes import Recipe, get_recipe

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


def run(data: Path, out: Path, seeds: Sequence[int], settings: Mapping[str, str]) -> dict[str, Any]:
    """All seeds, those that are there already taken from their files."""
    out.mkdir(parents=True, exist_ok=True)
    dataset, recipe = Dataset.open(data), recipe_of(settings)
    digest = settings_digest(recipe, [dataset.fingerprint, dict(settings)])
    found: list[dict[str, Any]] = []
    for place, seed in enumerate(seeds):
        path = out / f"seed-{seed}-{'all' if place == 0 else 'learner'}-{digest}.json"
        if not path.exists():
            _say(f"P5, seed {seed}")
            path.write_text(json.dumps(run_seed(dataset, seed, recipe, baselines=place == 0), indent=1))
        found.append(json.loads(path.read_text()))
    result = {
        "protocol": "P5",
        "seeds": list(seeds),
        "recipe": recipe.to_dict(),
        "models": summary(found),
        "deltas": found[0]["deltas"],
        "episodes": {name: by[LEARNER]["ndcg@20"]["episodes"] for name, by in found[0]["protocols"].items()},
        "seconds": [one["seconds"] for one in found],
        "training_seconds": [one["training_seconds"] for one in found],
    }
    (out / "p5.json").write_text(json.dumps(result, indent=1))
    (out / "p5.md").write_text(markdown(result))
    return result


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
    lines = [
        "# P5: lists in time order, ndcg@20 / recall@20",
        "",
        f"Seeds {result['seeds']}: means and, for the learner, deviations over seeds. Users pooled over five cuts: "
        + ", ".join(f"{name} {count}" for name, count in result["episodes"].items())
        + ".",
        "",
        f"| | {' | '.join(name.removeprefix('P5/') for name in protocols)} |",
        "|---" * (len(protocols) + 1) + "|",
    ]
    for model, by in sorted(models.items(), key=lambda pair: pair[0] != LEARNER):
        cells = [" / ".join(f"{by[protocol][metric]['mean']:.3f}" for metric in METRICS) for protocol in protocols]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    deviations = [" / ".join(f"{models[LEARNER][protocol][metric]['sd']:.3f}" for metric in METRICS) for protocol in protocols]
    lines.append(f"| deviation of {LEARNER} | {' | '.join(deviations)} |")
    for metric in METRICS:
        cells = [_delta(result["deltas"][protocol][LEARNER][metric]) for protocol in protocols]
        lines.append(f"| Delta of {metric} to the best, %, seed {result['seeds'][0]} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _delta(found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    return f"{100 * found['value']:+.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="imported dataset directory with timestamps")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="recipe settings")
    given = parser.parse_args()
    settings = dict(part.split("=", 1) for part in given.set)
    run(given.data, given.out, [int(seed) for seed in given.seeds.split(",")], settings)
    print((given.out / "p5.md").read_text())


if __name__ == "__main__":
    main()
