"""P5: recommendation in time order over the whole catalogue, the learner beside plain baselines (PROTOCOLS.md).

At every cut each model is trained on what happened before and asked for the users of the interval that follows. Baselines are
tuned on an earlier cut inside the training part, for cold and for warm users apart: what suits one often ruins the other (EASE
on MovieLens-100K), and a baseline is to be met at its best. Users of all cuts are pooled: one user at one cut is one episode.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metarec.baselines.registry import topn_candidates
from metarec.evaluation.temporal_splits import CUTS, VALIDATION_CUT, temporal_splits
from metarec.evaluation.topn_models import METRICS, Scorer, baseline_scorer, choose_candidates, learner_scorer, measure
from metarec.meta.prior import Prior

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset


Floats = NDArray[np.float64]
Trainer = Callable[["Dataset", int], Prior]
Watch = Callable[[str], None]
LEARNER = "metarec"
NUM_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class TopNResult:
    """One model on one protocol: a value per user and metric, pooled over cuts; coverage is the mean over cuts."""

    value_U: Mapping[str, Floats]
    coverage: float
    interval: Mapping[str, tuple[float, float]]

    def mean(self, metric: str) -> float:
        """Mean over users; nan without users."""
        values = self.value_U[metric]
        return float(values.mean()) if len(values) else float("nan")


@dataclass(frozen=True, kw_only=True)
class TopNDelta:
    """Learner against the plain baseline that is best by this metric: (learner - baseline) / baseline, with its 95 % interval."""

    baseline: str
    value: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class TemporalReport:
    """Results by protocol (`P5/cold@k`, `P5/warm`) and model, deltas by protocol and metric, and the settings that were tuned."""

    results: Mapping[str, Mapping[str, TopNResult]]
    deltas: Mapping[str, Mapping[str, TopNDelta]]
    tuned: Mapping[float, Mapping[str, Mapping[str, int]]]
    cuts: tuple[float, ...]
    seed: int

    def to_dict(self) -> dict[str, object]:
        """JSON-able, in the shape of P6; intervals and deltas stand beside."""
        return {
            "protocols": {
                protocol: {
                    model: {
                        **{
                            metric: {
                                "mean": result.mean(metric),
                                "sd": float(result.value_U[metric].std()) if len(result.value_U[metric]) else float("nan"),
                                "episodes": len(result.value_U[metric]),
                                "interval": list(result.interval[metric]),
                            }
                            for metric in METRICS
                        },
                        "coverage@20": {
                            "mean": result.coverage,
                            "sd": 0.0,
                            "episodes": len(result.value_U[METRICS[0]]),
                        },
                    }
                    for model, result in models.items()
                }
                for protocol, models in self.results.items()
            },
            "deltas": {
                protocol: {
                    metric: {"baseline": delta.baseline, "value": delta.value, "interval": list(delta.interval)}
                    for metric, delta in by_metric.items()
                }
                for protocol, by_metric in self.deltas.items()
            },
        }


def evaluate_temporal(
    dataset: "Dataset",
    trainer: Trainer,
    ks: Sequence[int] = (0, 1, 3, 5, 10),
    cuts: Sequence[float] = CUTS,
    seed: int = 0,
    progress: Watch | None = None,
) -> TemporalReport:
    """Train and test at every cut. `trainer(train, seed)` sees the interactions before the cut and nothing else.

    FailedPreconditionError when the dataset has no timestamps.
    """
    say = progress or (lambda _: None)
    splits = temporal_splits(dataset, cuts)
    collected: dict[str, dict[str, list[tuple[Floats, Floats, float]]]] = {}
    tuned: dict[float, dict[str, dict[str, int]]] = {}
    for split in splits:
        tests = {**{f"P5/cold@{k}": split.cold(k) for k in ks}, "P5/warm": split.warm()}
        say(f"cut {split.cut:.0%}: training")
        learner = learner_scorer(trainer(split.train, seed), split.train)
        say(f"cut {split.cut:.0%}: baselines")
        tuned[split.cut] = tune_baselines(split.train, ks)
        candidates = topn_candidates(split.train)
        fitted: dict[tuple[str, int], Scorer] = {}
        for protocol, episodes in tests.items():
            models = collected.setdefault(protocol, {})
            models.setdefault(LEARNER, []).append(measure(learner, episodes, len(dataset.item_ids)))
            for name, place in tuned[split.cut][group_of(protocol)].items():
                if (name, place) not in fitted:
                    fitted[name, place] = baseline_scorer(candidates[name][place]().fit(split.train))
                models.setdefault(name, []).append(measure(fitted[name, place], episodes, len(dataset.item_ids)))
    results = {protocol: {name: _pool(parts, seed) for name, parts in models.items()} for protocol, models in collected.items()}
    return TemporalReport(
        results=results,
        deltas={protocol: {metric: _delta(models, metric, seed) for metric in METRICS} for protocol, models in results.items()},
        tuned=tuned,
        cuts=tuple(cuts),
        seed=seed,
    )


def group_of(protocol: str) -> str:
    """The users a protocol is about: `cold` or `warm`."""
    return "warm" if protocol.endswith("warm") else "cold"


def tune_baselines(train: "Dataset", ks: Sequence[int]) -> dict[str, dict[str, int]]:
    """Per group of users (`cold`, `warm`) and baseline, the position of the candidate that does best at a cut inside `train`.

    Quality is the mean of recall and nDCG over the group's protocols; without episodes the first candidate stands.
    """
    inner = temporal_splits(train, (VALIDATION_CUT,))[0]
    return choose_candidates(inner.train, {"cold": [inner.cold(k) for k in ks], "warm": [inner.warm()]})


def _pool(parts: Sequence[tuple[Floats, Floats, float]], seed: int) -> TopNResult:
    values = dict(zip(METRICS, (np.concatenate([part[n] for part in parts]) for n in (0, 1)), strict=True))
    coverages = [part[2] for part in parts if not np.isnan(part[2])]
    return TopNResult(
        value_U=values,
        coverage=float(np.mean(coverages)) if coverages else float("nan"),
        interval={name: _interval(_resampled(value_U, seed)) for name, value_U in values.items()},
    )


def _delta(models: Mapping[str, TopNResult], metric: str, seed: int) -> TopNDelta:
    plain = {name: result.mean(metric) for name, result in models.items() if name != LEARNER}
    best = max(plain, key=lambda name: (plain[name], name))
    mine_U, best_U = models[LEARNER].value_U[metric], models[best].value_U[metric]
    # The same users are drawn for both models, so that what they share cancels.
    mine_R, best_R = _resampled(mine_U, seed), _resampled(best_U, seed)
    return TopNDelta(
        baseline=best,
        value=float(mine_U.mean() / best_U.mean() - 1) if len(best_U) and best_U.mean() > 0 else float("nan"),
        interval=_interval(mine_R / np.maximum(best_R, 1e-12) - 1),
    )


def _resampled(value_U: Floats, seed: int) -> Floats:
    """Means of bootstrap resamples of users (Efron 1979)."""
    if not len(value_U):
        return np.full(NUM_RESAMPLES, np.nan)
    draws_RU = np.random.default_rng([seed, len(value_U)]).integers(0, len(value_U), (NUM_RESAMPLES, len(value_U)))
    means: Floats = value_U[draws_RU].mean(1)
    return means


def _interval(mean_R: Floats) -> tuple[float, float]:
    low, high = np.quantile(mean_R, (0.025, 0.975))
    return float(low), float(high)
