"""P3 of PROTOCOLS: emerging items on clicks (MovieLens-1M, the split of Meta-Embedding, Pan et al. 2019).

    python -m bench.accuracy.p3 --data DIR --out DIR [--seeds 0,1,2] [--set NAME=VALUE ...]

The product's own path from end to end: import of `emerging/train.parquet` with its contents, training of the explicit head and
its item side, and `metarec evaluate --episodes FILE --kind item --shots 0,20,40,60`, where every cold item is one episode: the
rows of shots a, b and c are its support, in this order, and its test rows the query. AUC is over all test rows together, from the
score file. Nothing but an item's own posterior changes between phases. Baselines are tuned on held-out training items.

One file per seed below --out; what is finished is not run again (bench/accuracy/state.py).
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from bench.accuracy.clicks import Figures, auc, import_clicks, logloss, write_results
from bench.accuracy.command import Given, ended, protocol_parser, read
from bench.accuracy.state import fingerprints, provenance
from metarec.data.dataset import Dataset
from metarec.evaluation.episode_file import read_episodes
from metarec.evaluation.evaluate import Evaluation
from metarec.evaluation.scores import ScoreFile
from metarec.training.checkpoint import load_checkpoint
from metarec.training.progress import Progress
from metarec.training.recipe import Recipe
from metarec.training.recipes import get_recipe
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
    out.mkdir(parents=True, exist_ok=True)
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


def run(given: Given) -> None:
    """All seeds that are missing; p3.json, p3.md and p3.svg are written anew after each."""
    state = given.state(fingerprints(given.data))
    recipe, work = recipe_of(given.settings).to_dict(), given.out / f"work-{state.digest}"
    pieces = {}
    for seed in given.seeds:
        piece = state.piece(f"seed-{seed}", recipe, lambda seed=seed: run_seed(given.data, work, seed, given.settings))
        if piece is None:
            continue
        pieces[seed] = piece
        result = {"protocol": "P3", "seeds": list(given.seeds), "recipe": recipe, "bars": BARS, **provenance([*pieces.values()])}
        found = {seed: piece["result"] for seed, piece in pieces.items()}
        title = "P3: emerging items, AUC over all test rows (MovieLens-1M)"
        write_results(given.out, "p3", result, found, list(PHASES), title=title, bars=BARS)


def main() -> None:
    """The command."""
    given = read(protocol_parser(__doc__, "folder of MovieLens-1M with emerging/", "0,1,2").parse_args())
    run(given)
    print((given.out / "p3.md").read_text() if (given.out / "p3.md").exists() else "nothing there")


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    sys.exit(ended(main))
