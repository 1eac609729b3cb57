"""P4 of PROTOCOLS: scenarios on clicks (MovieLens-1M in 3 domains by user age).

    python -m bench.accuracy.p4 --data DIR --out DIR [--seeds 0,1,2,3,4] [--parts total,domains,leave-out] [--set NAME=VALUE ...]

label = rating > 3, a random 8:1:1 split of all ratings per seed (the middle tenth is not used), AUC in total and per domain.
Three parts, each in pieces by seed, and by domain where there are several trainings; a piece is a file below --out, so that a
run that was stopped goes on (bench/accuracy/state.py):

total      one model of all domains, users with their training ratings as support; beside bias and bias + ALS
domains    the same learner trained on each domain alone
leave-out  each domain left out of training, then adapted to from 0, 100, 1,000 and 10,000 of its ratings: the scenario's shift
           and the supports of the users among them; beside the same without the shift, and training from scratch
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bench.accuracy.clicks import SCHEMA, Figures, auc, import_clicks, logloss, merged, write_results
from bench.accuracy.command import Given, ended, protocol_parser, read
from bench.accuracy.state import fingerprints, provenance
from metarec.baselines.rating_registry import fit_rating_baselines
from metarec.baselines.rating_tasks import RatingData, RatingTasks, starts
from metarec.data.dataset import Dataset
from metarec.evaluation.episodes import Episodes
from metarec.evaluation.predict import predict_episodes
from metarec.features.encoder import FeatureEncoder
from metarec.meta.blend import support_batch
from metarec.meta.prior import Head, Prior
from metarec.meta.scenario import adapt_scenario
from metarec.tasks.batch import Tables
from metarec.tasks.tables import build_tables
from metarec.training.loop import fit
from metarec.training.progress import Progress
from metarec.training.recipe import Recipe
from metarec.training.recipes import get_recipe

DOMAINS = {"under 25": ("under 18", "18-24"), "25-34": ("25-34",), "35 and over": ("35-44", "45-49", "50-55", "56+")}
BARS = {"total": 0.815}
SLUGS = ("under-25", "25-34", "from-35")
"""Names of the domains in those of files."""

PARTS = ("total", "domains", "leave-out")
TITLES = {
    "total": "P4: one model of all domains, AUC (MovieLens-1M clicks)",
    "domains": "P4: the learner trained on each domain alone, AUC",
    "leave-out": "P4: each domain left out of training and adapted to from some of its ratings, AUC",
}
SHOTS = (0, 100, 1_000, 10_000)
BASELINES = ("bias", "bias_als")
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


def recipe_of(settings: Mapping[str, str]) -> Recipe:
    """The flagship's explicit head alone."""
    base = get_recipe("alpaca")
    heads = tuple(head for head in base.heads if head.target == "explicit")
    return replace(base, name="alpaca_explicit", heads=heads).override(settings)


def load(data: Path, out: Path) -> Dataset:
    """All ratings of the folder as clicks, the user's domain as their scenario."""
    path = out / "clicks.parquet"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        ratings, users = pd.read_parquet(data / "ratings.parquet"), pd.read_parquet(data / "users.parquet")
        of_age = {age: name for name, ages in DOMAINS.items() for age in ages}
        domain = users.set_index("user_id").age.map(of_age)
        if domain.isna().any():
            raise SystemExit(f"ages outside the domains: {sorted(set(users.age) - set(of_age))}")
        clicks = ratings[["user_id", "item_id"]].assign(label=(ratings.rating > 3).astype(int))
        clicks.assign(domain=clicks.user_id.map(domain)).to_parquet(path)
    return Dataset.open(import_clicks(data, path, out / "data", replace(SCHEMA, scenario="domain")))


class Split:
    """One seed: who trains, who tests, and the users' episodes between them."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed
        order = np.random.default_rng([seed, 41]).permutation(len(dataset.interactions))
        place = np.empty(len(order))
        place[order] = np.arange(len(order)) / len(order)
        self.train_N, self.test_N = place < 0.8, place >= 0.9
        self.domain_N = np.asarray(dataset.interactions.scenario_N)
        self.names = [str(name) for name in dataset.interactions.scenarios]
        # One encoding for all models of a seed: contents do not depend on ratings.
        self.encoder = FeatureEncoder.fit(dataset.schema, dataset.users, dataset.items, dataset.graph)

    def learn(self, mask_N: Mask, recipe: Recipe) -> Prior:
        """A prior from these interactions."""
        data = self.dataset.with_interactions(self.dataset.interactions.select(mask_N))
        return fit(data, recipe, seed=self.seed, encoder=self.encoder, progress=_watch)

    def episodes(self, support_N: Mask, query_N: Mask) -> tuple[Episodes, NDArray[np.int64]]:
        """One episode per user with query rows, and where these rows are in the dataset."""
        events = self.dataset.interactions
        users = np.unique(events.user_N[query_N])
        task_U = np.full(len(self.dataset.user_ids), -1)
        task_U[users] = np.arange(len(users))

        def rows(mask_N: Mask) -> NDArray[np.int64]:
            mine = np.flatnonzero(mask_N & (task_U[events.user_N] >= 0))
            return mine[np.argsort(task_U[events.user_N[mine]], kind="stable")]

        support, query = rows(support_N), rows(query_N)
        tasks = RatingTasks(
            user_T=users.astype(np.int64),
            support_start_T1=starts(np.bincount(task_U[events.user_N[support]], minlength=len(users))),
            support_item_S=events.item_N[support].astype(np.int64),
            support_label_S=events.label_N[support].astype(np.float64),
            query_start_T1=starts(np.bincount(task_U[events.user_N[query]], minlength=len(users))),
            query_item_Q=events.item_N[query].astype(np.int64),
            query_label_Q=events.label_N[query].astype(np.float64),
        )
        names = np.asarray([str(self.dataset.user_ids[user]) for user in users], object)
        plain = np.full(len(users), "p4", object)
        return Episodes(tasks=tasks, support_time_S=None, protocol_T=plain, seed_T=np.zeros(len(users)), name_T=names), query

    def tables(self, prior: Prior) -> Tables:
        """Users as strangers with their profiles, and the prior's items."""
        nobody = np.zeros(len(self.dataset.user_ids), bool)
        return replace(build_tables(self.dataset, self.encoder, known_users_mask=nobody), rows=prior.items)

    def figures(self, score_Q: Floats, probability_Q: Floats | None, query: NDArray[np.int64]) -> dict[str, dict[str, float]]:
        """AUC (and logloss) in total and per domain that has rows."""
        label_Q, domain_Q = self.dataset.interactions.label_N[query].astype(np.float64), self.domain_N[query]
        found = {}
        for column in ("total", *self.names):
            mine = np.ones(len(query), bool) if column == "total" else domain_Q == self.names.index(column)
            if not mine.any():
                continue
            found[column] = {"auc": auc(label_Q[mine], score_Q[mine])}
            if probability_Q is not None:
                found[column]["logloss"] = logloss(label_Q[mine], probability_Q[mine])
        return found

    def predicted(self, prior: Prior, head: Head, episodes: Episodes) -> tuple[Floats, Floats | None]:
        """Scores and probabilities of the query rows."""
        score_Q, _ = predict_episodes(head, self.tables(prior), episodes)
        return score_Q, None if prior.link is None else prior.link.probability(score_Q)


def total(split: Split, recipe: Recipe) -> Figures:
    """One model of all domains beside the baselines."""
    prior = split.learn(split.train_N, recipe)
    episodes, query = split.episodes(split.train_N, split.test_N)
    found = {"alpaca": split.figures(*split.predicted(prior, prior.head("explicit"), episodes), query)}
    events = split.dataset.interactions.select(split.train_N)
    nothing = np.zeros((len(split.dataset.user_ids), 0), np.float32)
    data = RatingData.of(
        events, nothing, np.zeros((len(split.dataset.item_ids), 0), np.float32), minimum=0, maximum=1, binary=True
    )
    for name, fitted in fit_rating_baselines(data, seed=split.seed, only=BASELINES, watch=_say).items():
        score_Q, _ = fitted.predict(episodes.tasks)
        found[name] = split.figures(score_Q, score_Q, query)
    return found


def alone(split: Split, recipe: Recipe, name: str) -> Figures:
    """The learner on one domain alone."""
    mine_N = split.domain_N == split.names.index(name)
    prior = split.learn(split.train_N & mine_N, recipe)
    episodes, query = split.episodes(split.train_N & mine_N, split.test_N & mine_N)
    score_Q, probability_Q = split.predicted(prior, prior.head("explicit"), episodes)
    return {"alpaca on the domain alone": {name: split.figures(score_Q, probability_Q, query)["total"]}}


def leave_out(split: Split, recipe: Recipe, name: str) -> Figures:
    """The curve of a domain that was left out, by number of its ratings."""
    number = split.names.index(name)
    mine_N = split.domain_N == number
    prior = split.learn(split.train_N & ~mine_N, recipe)
    head = prior.head("explicit")
    rows = np.random.default_rng([split.seed, 43, number]).permutation(np.flatnonzero(split.train_N & mine_N))
    found: Figures = {}
    for shots in SHOTS:
        known_N = np.zeros(len(split.train_N), bool)
        known_N[rows[:shots]] = True
        episodes, query = split.episodes(known_N, split.test_N & mine_N)
        column = f"{name} @{shots}"
        shift = adapt_scenario(head, scenario_supports(split, prior, known_N)).head(head)
        for model, used in (("scenario adapted", shift), ("users adapted alone", head)):
            said = split.figures(*split.predicted(prior, used, episodes), query)
            found.setdefault(model, {})[column] = said["total"]
        found.setdefault("trained from scratch", {})[column] = scratch(split, recipe, known_N, episodes, query)
    return found


def scratch(split: Split, recipe: Recipe, known_N: Mask, episodes: Episodes, query: NDArray[np.int64]) -> dict[str, float]:
    """The recipe trained on these few ratings alone; without any, nobody is told apart."""
    if not known_N.any():
        return {"auc": 0.5, "logloss": float(np.log(2))}
    prior = split.learn(known_N, recipe)
    score_Q, probability_Q = split.predicted(prior, prior.head("explicit"), episodes)
    return split.figures(score_Q, probability_Q, query)["total"]


def scenario_supports(split: Split, prior: Prior, known_N: Mask, chunk: int = 256) -> list[Any]:
    """What the scenario's users did, in batches."""
    episodes, _ = split.episodes(known_N, known_N)
    tasks, tables = episodes.tasks, split.tables(prior)
    edges = list(zip(tasks.support_start_T1[:-1], tasks.support_start_T1[1:], strict=True))
    rows = [(tasks.support_item_S[a:b], tasks.support_label_S[a:b].astype(np.float32), None) for a, b in edges]
    users = torch.from_numpy(tasks.user_T)
    own = replace(tables, tasks=tables.tasks.at(users))
    return [support_batch(own, range(first, min(first + chunk, len(rows))), rows) for first in range(0, len(rows), chunk)]


def _watch(progress: Progress) -> None:
    if progress.metrics and progress.epoch == progress.epochs:
        _say(f"{progress.target}: {progress.epochs} epochs, validation loss {progress.metrics.get('validation_loss', 0):.4f}")


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def work(part: str) -> dict[str, Callable[[Split, Recipe], Figures]]:
    """The pieces of a part by name: one training each, or as many as a curve from scratch needs."""
    if part == "total":
        return {"total": total}
    make = alone if part == "domains" else leave_out
    return {f"{part}-{slug}": partial(make, name=name) for name, slug in zip(DOMAINS, SLUGS, strict=True)}


def run(given: Given, parts: Sequence[str]) -> None:
    """All parts and seeds that are missing; p4-PART.json, .md and .svg are written anew after every piece."""
    state, recipe = given.state(fingerprints(given.data)), recipe_of(given.settings)
    splits: dict[int, Split] = {}

    def make(piece: Callable[[Split, Recipe], Figures], seed: int) -> Figures:
        if seed not in splits:
            splits.clear()  # one encoding at a time
            splits[seed] = Split(load(given.data, given.out / f"work-{state.digest}"), seed)
        return piece(splits[seed], recipe)

    for part in parts:
        pieces: dict[int, list[dict[str, Any]]] = {}
        for seed in given.seeds:
            for name, one in work(part).items():
                piece = state.piece(f"{name}-seed-{seed}", recipe.to_dict(), lambda one=one, seed=seed: make(one, seed))
                if piece is not None:
                    pieces.setdefault(seed, []).append(piece)
                    write(given, part, pieces)


def write(given: Given, part: str, pieces: Mapping[int, Sequence[dict[str, Any]]]) -> None:
    """The table of what is there of a part."""
    found = {seed: merged([piece["result"] for piece in mine]) for seed, mine in pieces.items()}
    columns = {
        "total": ["total", *DOMAINS],
        "domains": list(DOMAINS),
        "leave-out": [f"{name} @{shots}" for name in DOMAINS for shots in SHOTS],
    }[part]
    result = {
        "protocol": f"P4 {part}",
        "seeds": list(given.seeds),
        "recipe": recipe_of(given.settings).to_dict(),
        "bars": BARS,
        **provenance([piece for mine in pieces.values() for piece in mine]),
    }
    title, bars = TITLES[part], BARS if part == "total" else {}
    write_results(given.out, f"p4-{part}", result, found, columns, title=title, bars=bars, rows=part == "leave-out")


def main() -> None:
    """The command."""
    parser = protocol_parser(__doc__, "folder of MovieLens-1M", "0,1,2,3,4")
    parser.add_argument("--parts", default=",".join(PARTS))
    said = parser.parse_args()
    given, parts = read(said), said.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"unknown part '{unknown[0]}'; known: {', '.join(PARTS)}")
    run(given, parts)
    for part in parts:
        table = given.out / f"p4-{part}.md"
        print(table.read_text() if table.exists() else f"nothing there of {part}")


if __name__ == "__main__":
    sys.exit(ended(main))
