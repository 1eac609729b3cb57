"""P5: recommendation in time order over the whole catalogue, the learner beside plain baselines (PROTOCOLS.md).

At every cut each model is trained on what happened before and asked for the users of the interval that follows. Baselines are
tuned on an earlier cut inside the training part, for cold and for warm users apart: what suits one often ruins the other (EASE
on MovieLens-100K), and a baseline is to be met at its best. Users of all cuts are pooled: one user at one cut is one episode.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from metarec.baselines.registry import topn_candidates
from metarec.errors import FailedPreconditionError
from metarec.evaluation.lists import ListResults
from metarec.evaluation.results import ProtocolResult
from metarec.evaluation.scores import ScoreFile
from metarec.evaluation.temporal_splits import CUTS, VALIDATION_CUT, temporal_splits
from metarec.evaluation.topn_models import Scorer, baseline_scorer, choose_candidates, learner_scorer, measure
from metarec.meta.prior import Prior

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

Trainer = Callable[["Dataset", int], Prior]
Watch = Callable[[str], None]

COLD, WARM = "P5/cold", "P5/warm"
SHOTS = (0, 1, 3, 5, 10)


@dataclass(frozen=True, kw_only=True)
class TemporalReport:
    """Results of the protocols `P5/cold@k` and `P5/warm`, and by cut, group of users and baseline the position of the candidate
    that tuning chose."""

    protocols: Sequence[ProtocolResult]
    tuned: Mapping[float, Mapping[str, Mapping[str, int]]]


def evaluate_temporal(
    dataset: "Dataset",
    trainers: Mapping[str, Trainer],
    ks: Sequence[int] = SHOTS,
    cuts: Sequence[float] = CUTS,
    seed: int = 0,
    progress: Watch | None = None,
    scores: ScoreFile | None = None,
    baselines: bool = True,
) -> TemporalReport:
    """Train and test at every cut. `trainers` are the learner and, if wanted, a jointly trained model second, by name.

    A trainer `(train, seed)` sees the interactions before the cut and nothing else. Without `baselines` the learner is measured
    alone, for more seeds than the first. FailedPreconditionError when the dataset has no timestamps.
    """
    say = progress or (lambda _: None)
    names = [*trainers, ""]
    protocols: dict[str, tuple[str, int | None]] = {f"{COLD}@{k}": (COLD, k) for k in ks}
    protocols[WARM] = (WARM, None)
    lists = ListResults(
        learner=names[0],
        joint=names[1],
        user_ids=np.asarray(dataset.user_ids, object),
        item_ids=np.asarray(dataset.item_ids, object),
        seed=seed,
        scores=scores,
    )
    tuned: dict[float, dict[str, dict[str, int]]] = {}
    for split in temporal_splits(dataset, cuts):
        trained: dict[str, Scorer] = {}
        for name, trainer in trainers.items():
            say(f"cut {split.cut:.0%}: training {name}")
            try:
                trained[name] = learner_scorer(trainer(split.train, seed), split.train)
            except FailedPreconditionError as error:
                raise FailedPreconditionError(f"at the cut at {split.cut:.0%} {error.message}; choose other --cuts") from error
        tuned[split.cut] = {"cold": {}, "warm": {}}
        if baselines:
            say(f"cut {split.cut:.0%}: baselines")
            tuned[split.cut] = tune_baselines(split.train, ks)
        candidates = topn_candidates(split.train)
        fitted: dict[tuple[str, int], Scorer] = {}
        for protocol, (_, shots) in protocols.items():
            episodes = split.warm() if shots is None else split.cold(shots)
            scorers = dict(trained)
            for name, place in tuned[split.cut]["warm" if shots is None else "cold"].items():
                if (name, place) not in fitted:
                    fitted[name, place] = baseline_scorer(candidates[name][place]().fit(split.train))
                scorers[name] = fitted[name, place]
            measured = {name: measure(scorer, episodes, len(dataset.item_ids)) for name, scorer in scorers.items()}
            lists.add(protocol, f"{split.cut:g}", episodes, measured)
    return TemporalReport(protocols=lists.results(protocols), tuned=tuned)


def tune_baselines(train: "Dataset", ks: Sequence[int], only: Sequence[str] = ()) -> dict[str, dict[str, int]]:
    """Per group of users (`cold`, `warm`) and baseline, the position of the candidate that does best at a cut inside `train`.

    Quality is the mean of recall and nDCG over the group's protocols; without episodes, as where all of `train` is of one moment,
    the first candidate stands. `only` names the baselines wanted, all by default.
    """
    if not train.has_timestamps:
        return choose_candidates(train, {"cold": [], "warm": []}, only)
    inner = temporal_splits(train, (VALIDATION_CUT,))[0]
    return choose_candidates(inner.train, {"cold": [inner.cold(k) for k in ks], "warm": [inner.warm()]}, only)
