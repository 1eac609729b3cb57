"""P3 of PROTOCOLS: emerging items on clicks (MovieLens-1M, the split of Meta-Embedding, Pan et al. 2019).

    python -m bench.accuracy.p3 --data DIR --out DIR [--seeds 0,1,2] [--set NAME=VALUE ...]

The product's own path from end to end: import of `emerging/train.parquet` with its contents, training of the explicit head and
its item side, and `metarec evaluate --episodes FILE --kind item --shots 0,20,40,60`, where every cold item is one episode: the
rows of shots a, b and c are its support, in this order, and its test rows the query. AUC is over all test rows together, from the
score file. Nothing but an item's own posterior changes between phases. Baselines are tuned on held-out training items.

One file per seed below --out: what is there already with the same settings is not run again.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from bench.accuracy.clicks import Figures, auc, import_clicks, logloss, settings_digest, summary, write_results
from metarec.data.dataset import Dataset
from metarec.evaluation.episode_file import read_episodes
from metarec.evaluation.evaluate import Evaluation
from metarec.evaluation.scores import ScoreFile
from metarec.training.checkpoint import load_checkpoint
from metarec.training.progress import Progress
from metarec.training.recipes import Recipe, get_recipe
from metarec.training.run import train

PHASES = {"cold": 0, "a": 20, "a+b": 40, "a+b+c": 60}
BARS = {"cold": 0.770, "a": 0.808, "a+b": 0.815, "a+b+c": 0.818}
SETTINGS = {"validation_fraction": "0.02"}


def recipe_of(settings: Mapping[str, str]) -> Recipe:
    """The flagship's explicit head alone: P3 asks for no rankings."""
    base = get_recipe("alpaca")
    heads = tuple(head for head in base.heads if head.target == "explicit")
    return replace(base, name="alpaca_explicit", heads=heads).override({**SETTINGS, **settings})


def write_episodes(emerging: Path, out: Path) -> Path:
    """The cold items as episodes."""
    parts = [pd.read_parquet(emerging / f"shot_{name}.parquet").assign(role="support") for name in "abc"]
    parts.append(pd.read_parquet(emerging / "test.parquet").assign(role="query"))
    path = out / "episodes.parquet"
    pd.concat(parts).assign(protocol="emerging").to_parquet(path)
    return path


def run_seed(data: Path, out: Path, seed: int, settings: Mapping[str, str]) -> Figures:
    """Train with one seed and score the four phases: AUC and logloss by model and phase."""
    dataset_path = import_clicks(data, data / "emerging" / "train.parquet", out / "data")
    recipe = recipe_of(settings)
    registry = out / f"registry-{seed}"
    train(dataset_path, recipe, out=registry, seed=seed, progress=_watch)
    dataset = Dataset.open(dataset_path)
    prior = load_checkpoint(registry)
    rows = read_episodes(write_episodes(data / "emerging", out), dataset.schema, "item")
    path = out / f"scores-{seed}.parquet"
    with ScoreFile(path, dataset.schema) as scores:
        evaluation = Evaluation(prior=prior, dataset=dataset, same_data=True, seed=seed, scores=scores, watch=_say)
        evaluation.episodes(rows, list(PHASES.values()))
    said = pd.read_parquet(path, columns=["protocol", "model", "label", "score", "probability"])
    found: Figures = {}
    for phase, shots in PHASES.items():
        mine = said[said.protocol == f"emerging@{shots}"]
        for model, part in mine.groupby("model", observed=True):
            figures = {"auc": auc(part.label.to_numpy(), part.score.to_numpy())}
            figures["logloss"] = logloss(part.label.to_numpy(), part.probability.to_numpy())
            found.setdefault(str(model), {})[phase] = figures
    return found


def _watch(progress: Progress) -> None:
    if progress.metrics:
        figures = ", ".join(f"{name} {value:.4f}" for name, value in progress.metrics.items() if name.startswith("valid"))
        _say(f"{progress.target} epoch {progress.epoch}/{progress.epochs}: {figures}")


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def run(data: Path, out: Path, seeds: Sequence[int], settings: Mapping[str, str]) -> dict[str, object]:
    """All seeds, those that are there already taken from their files; writes p3.json and p3.md."""
    out.mkdir(parents=True, exist_ok=True)
    digest = settings_digest(recipe_of(settings), settings)
    found: dict[int, Figures] = {}
    for seed in seeds:
        path = out / f"seed-{seed}-{digest}.json"
        if not path.exists():
            _say(f"P3, seed {seed}")
            path.write_text(json.dumps(run_seed(data, out, seed, settings), indent=1))
        found[seed] = json.loads(path.read_text())
    result = {
        "protocol": "P3",
        "seeds": list(seeds),
        "recipe": recipe_of(settings).to_dict(),
        "bars": BARS,
        "models": summary(found),
    }
    write_results(out, "p3", result, list(PHASES), "P3: emerging items, AUC over all test rows", BARS)
    return result


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MovieLens-1M with emerging/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="recipe settings")
    given = parser.parse_args()
    settings = dict(part.split("=", 1) for part in given.set)
    run(given.data, given.out, [int(seed) for seed in given.seeds.split(",")], settings)
    print((given.out / "p3.md").read_text())


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
