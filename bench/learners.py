"""What every learner costs and gives on one dataset: accuracy on held-out users, training, adaptation, size of the state.

    python bench/learners.py --data data/ml-100k --out results/learners [--learner NAME ...] [--seeds N]

A fifth of the users is held out before anything is trained or chosen; recipes hold out validation users among the rest. The
oldest ten ratings of a held-out user are the support set, up to a hundred later ones are asked for. Only ratings heads are
compared. Times are processor time with one thread. Adaptation is `Engine.adapt` of one user at a time, profile included, with
twenty ratings; scoring is of the whole catalogue. The state is what the online store would keep, interactions and all.

One file per learner and seed below --out: what is there already with the same settings is not run again.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metarec.adaptation.engine import Engine
from metarec.data.dataset import Dataset
from metarec.evaluation.entities import entities
from metarec.evaluation.episodes import held_out_episodes
from metarec.evaluation.rating_run import (
    Contest,
    baseline_predictor,
    fit_baselines,
    label_scale,
    learner_predictor,
    run_contest,
)
from metarec.features.encoder import FeatureEncoder
from metarec.meta.prior import Prior
from metarec.tasks.splits import cold_user_split
from metarec.training.inputs import split
from metarec.training.loop import fit
from metarec.training.recipe import Recipe
from metarec.training.recipes import get_recipe
from metarec.types import Interaction

ENTRIES: dict[str, tuple[str, dict[str, str]]] = {
    "alpaca": ("alpaca", {}),
    "maml": ("maml", {}),
    "maml, learned rates": ("maml", {"learner.learned_rates": "layer"}),
    "maml, adversarial": ("maml", {"learner.adversarial": "0.5"}),
    "maml, label shift": ("maml", {"learner.label_shift": "0.3"}),
    "fomaml": ("fomaml", {}),
    "anil": ("anil", {}),
    "meta_sgd": ("meta_sgd", {}),
    "reptile": ("reptile", {}),
    "joint": ("joint", {}),
    "neural_process": ("neural_process", {}),
}
"""Recipe and settings of each row of the table."""

SHOTS = (0, 10)
HELD_OUT_SHARE = 0.2
SUPPORT, REQUESTS = 20, 200
METRICS = ("mae", "rmse", "ndcg@5")


def recipe_of(entry: str) -> Recipe:
    """The ratings head of an entry."""
    name, settings = ENTRIES[entry]
    recipe = get_recipe(name)
    recipe = replace(recipe, heads=tuple(head for head in recipe.heads if head.target == "explicit"))
    return recipe.override({f"explicit.{path}": value for path, value in settings.items()})


def run(dataset: Dataset, entry: str, seed: int, *, with_plain: bool) -> dict[str, Any]:
    """One learner with one seed; `with_plain` adds the plain baselines on the same episodes."""
    users = cold_user_split(dataset.interactions, HELD_OUT_SHARE, seed)
    train, held_out = split(dataset, np.isin(np.arange(len(dataset.user_ids)), dataset.interactions.user_N[users.test_N]))
    encoder = FeatureEncoder.fit(dataset.schema, dataset.users, dataset.items, dataset.graph)
    start = time.process_time()
    prior = fit(train, recipe_of(entry), seed=seed, encoder=encoder)
    seconds = time.process_time() - start
    learned, plain = accuracy(prior, dataset, train, held_out, seed, with_plain=with_plain)
    return {
        "entry": entry,
        "seed": seed,
        "train_cpu_seconds": seconds,
        "accuracy": learned,
        "plain": plain,
        **serving(prior, held_out),
    }


def accuracy(
    prior: Prior, dataset: Dataset, train: Dataset, held_out: Dataset, seed: int, *, with_plain: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics of the learner, and of each plain baseline, by number of shots."""
    names = np.asarray(dataset.user_ids, object)
    tables = entities(prior, dataset, names[np.unique(held_out.interactions.user_N)])
    items = np.asarray(dataset.item_ids, object)
    drawn = held_out_episodes(
        held_out.interactions, tables.item_of_row, items, user_ids=names, max_shots=max(SHOTS), seed=seed, max_users=10_000
    )
    episodes = drawn.with_users(tables.user_rows(drawn.name_T))
    scale = label_scale(dataset, episodes.tasks.query_label_Q)
    models = {"learner": learner_predictor(prior, tables, scale)}
    if with_plain:
        everything = np.ones(len(train.interactions), bool)
        fitted = fit_baselines(train, everything, tables, seed=seed, watch=note)
        models |= {name: baseline_predictor(model, scale) for name, model in fitted.items()}
    results = run_contest(Contest(learner="learner", joint="", models=models, scale=scale), episodes, tables, SHOTS, seed=seed)
    found: dict[str, Any] = {model: {} for model in models}
    for result in results:
        for model in models:
            calibration = result.calibration.get(model)
            found[model][str(result.shots)] = {
                **{metric: result.summaries[model][metric].mean for metric in METRICS},
                "calibration_error": None if calibration is None else calibration.error,
                "users": len(result.user_T),
            }
    return found.pop("learner"), found


def serving(prior: Prior, held_out: Dataset) -> dict[str, Any]:
    """Median times of one user's requests, and the size of the state."""
    engine, items = Engine(prior), prior.item_ids
    requests = [support_of(held_out, int(user)) for user in np.unique(held_out.interactions.user_N)[:REQUESTS]]
    for support, features in requests[:20]:
        engine.scores(engine.adapt(support, features), items)
    adapting = [timed(lambda s=support, f=features: engine.adapt(s, f)) for support, features in requests]
    adapted = [engine.adapt(support, features) for support, features in requests]
    scoring = [timed(lambda a=user: engine.scores(a, items)) for user in adapted]
    full = next(user for user in adapted if user.shots == SUPPORT)
    weights = full.state.weights["explicit"]
    return {
        "adapt_p50_ms": 1000 * float(np.median(adapting)),
        "score_p50_ms": 1000 * float(np.median(scoring)),
        "catalogue": len(items),
        "weights_bytes": int(sum(value.nbytes for value in weights.values())),
        "state_bytes": len(full.state.encode()),
    }


def support_of(dataset: Dataset, user: int) -> tuple[list[Interaction], dict[str, Any]]:
    """The user's oldest ratings and profile."""
    events = dataset.interactions
    rows = np.flatnonzero(events.user_N == user)
    rows = rows[np.argsort(events.timestamp_N[rows], kind="stable")][:SUPPORT]
    support = [
        Interaction(
            user_id=str(dataset.user_ids[user]),
            item_id=str(dataset.item_ids[events.item_N[row]]),
            label=float(events.label_N[row]),
            timestamp=float(events.timestamp_N[row]),
        )
        for row in rows
    ]
    return support, {str(name): value for name, value in dataset.users.iloc[user].to_dict().items() if value is not None}


def timed(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


COLUMNS: dict[str, tuple[tuple[str, ...], str]] = {
    "MAE, 0 ratings": (("accuracy", "0", "mae"), ".4f"),
    "MAE, 10 ratings": (("accuracy", "10", "mae"), ".4f"),
    "nDCG@5, 10 ratings": (("accuracy", "10", "ndcg@5"), ".4f"),
    "training, CPU s": (("train_cpu_seconds",), ".0f"),
    "adapt, p50 CPU ms": (("adapt_p50_ms",), ".2f"),
    "score all, p50 CPU ms": (("score_p50_ms",), ".2f"),
    "fast weights, bytes": (("weights_bytes",), ",.0f"),
    "state, bytes": (("state_bytes",), ",.0f"),
}
"""Where the figures of the table are in a run, and how they are written."""


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """The Markdown table: means over seeds; plain baselines below."""
    lines = [f"| learner | seeds | {' | '.join(COLUMNS)} |", "|---" * (2 + len(COLUMNS)) + "|"]
    for entry, runs in found.items():
        cells = [format(mean(runs, path), style) for path, style in COLUMNS.values()]
        lines.append(f"| {entry} | {len(runs)} | {' | '.join(cells)} |")
    plain = [run["plain"] for runs in found.values() for run in runs if run["plain"]]
    for name in plain[0] if plain else ():
        runs = [{"accuracy": models[name]} for models in plain]
        cells = [format(mean(runs, path), style) if path[0] == "accuracy" else "" for path, style in COLUMNS.values()]
        lines.append(f"| plain: {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def mean(runs: list[dict[str, Any]], path: tuple[str, ...]) -> float:
    """Of what lies at a path in each run."""
    values: list[Any] = list(runs)
    for key in path:
        values = [value[key] for value in values]
    return float(np.mean(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--learner", action="append", choices=list(ENTRIES), help="only these; the table holds all there are")
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = Dataset.open(arguments.data)
    arguments.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in ENTRIES:
        for seed in range(arguments.seeds):
            settings = json.dumps([recipe_of(entry).to_dict(), dataset.fingerprint, seed, SHOTS, HELD_OUT_SHARE], sort_keys=True)
            digest = hashlib.blake2b(settings.encode(), digest_size=4).hexdigest()
            path = arguments.out / f"{entry.replace(', ', '-').replace(' ', '_')}-{seed}-{digest}.json"
            if not path.exists() and (arguments.learner is None or entry in arguments.learner):
                note(f"{entry}, seed {seed}")
                path.write_text(json.dumps(run(dataset, entry, seed, with_plain=entry == "alpaca"), indent=1) + "\n")
            if path.exists():
                found.setdefault(entry, []).append(json.loads(path.read_text()))
    text = table(found)
    (arguments.out / "learners.md").write_text(text)
    (arguments.out / "learners.json").write_text(json.dumps(found, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
