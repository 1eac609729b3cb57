"""Results of an evaluation: values per episode, their means, intervals and deltas, and the JSON that P6 asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metarec.evaluation.bootstrap import Delta, Interval, Resampler, delta, interval
from metarec.evaluation.calibration import Calibration
from metarec.evaluation.metrics import Floats, Summary, best_model, summarise

if TYPE_CHECKING:
    from metarec.evaluation.ablation import Ablation

MEDIAN = "_median"
"""Ending of the rows whose estimate is the median of the discrete predictive distribution."""
ALONE = "_alone"
"""Ending of a learner that was trained on one of several targets alone; it takes the place of the jointly trained model."""


@dataclass(frozen=True, kw_only=True)
class ProtocolResult:
    """One protocol: for each model a value per episode and metric.

    `learner` and `joint` name models that are no plain baselines (joint: "" without one). `shots` is the number of support rows
    that were shown (None: all of them), `base` the protocol without its `@shots`. `constant` holds figures of the whole
    protocol, such as coverage, that no episode has alone. `steep` labels are shown with nDCG of linear gain, and of `binary` ones
    other metrics lead (LabelScale).
    """

    name: str
    base: str
    shots: int | None
    learner: str
    joint: str
    seed_T: NDArray[np.generic]
    user_T: NDArray[np.generic]
    values: Mapping[str, Mapping[str, Floats]]
    constant: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    resampling_seed: int = 0
    steep: bool = False
    binary: bool = False

    @cached_property
    def summaries(self) -> dict[str, dict[str, Summary]]:
        """Mean, deviation over seeds and number of episodes by model and metric."""
        found = {
            model: {metric: summarise(value_T, self.seed_T) for metric, value_T in metrics.items()}
            for model, metrics in self.values.items()
        }
        for model, figures in self.constant.items():
            found[model] |= {name: Summary(mean=value, sd=0.0, episodes=len(self.seed_T)) for name, value in figures.items()}
        return found

    @property
    def num_users(self) -> int:
        """Distinct users, whom intervals are over."""
        return len(np.unique(self.user_T))

    def mean(self, model: str, metric: str) -> float:
        """nan where the model has no such metric."""
        summary = self.summaries[model].get(metric)
        return float("nan") if summary is None else summary.mean

    @cached_property
    def resampled(self) -> dict[str, dict[str, Floats]]:
        """Means of bootstrap resamples of users by model and metric."""
        flat = {f"{model}\n{metric}": value_T for model, metrics in self.values.items() for metric, value_T in metrics.items()}
        drawn = Resampler.of(self.seed_T, self.user_T, seed=self.resampling_seed).means(flat)
        return {model: {metric: drawn[f"{model}\n{metric}"] for metric in metrics} for model, metrics in self.values.items()}

    @cached_property
    def intervals(self) -> dict[str, dict[str, Interval]]:
        """Confidence intervals by model and metric."""
        return {model: {name: interval(mean_R) for name, mean_R in by.items()} for model, by in self.resampled.items()}

    def plain(self, *, median: bool = False) -> list[str]:
        """The plain baselines, as they are or with the median as their estimate."""
        mine = {self.learner, self.joint, self.learner + MEDIAN, self.joint + MEDIAN}
        return [model for model in self.values if model not in mine and model.endswith(MEDIAN) == median]

    def best_plain(self, metric: str, *, median: bool = False) -> str:
        """The plain baseline that is best by `metric`, "" without one."""
        means = {model: self.mean(model, metric) for model in self.plain(median=median)}
        return best_model(metric, {model: mean for model, mean in means.items() if not np.isnan(mean)})

    @cached_property
    def deltas(self) -> dict[str, dict[str, Delta]]:
        """Delta of the learner (and of its median row) against the plain baseline that is best by each metric."""
        found: dict[str, dict[str, Delta]] = {}
        for model, median in ((self.learner, False), (self.learner + MEDIAN, True)):
            if model in self.values:
                best = {metric: self.best_plain(metric, median=median) for metric in self.values[model]}
                found[model] = {metric: self._delta(model, metric, name) for metric, name in best.items() if name}
        return found

    @cached_property
    def deltas_joint(self) -> dict[str, dict[str, Delta]]:
        """Delta_joint: the learner against the jointly trained model; empty without one."""
        found: dict[str, dict[str, Delta]] = {}
        for ending in ("", MEDIAN) if self.joint else ():
            model, other = self.learner + ending, self.joint + ending
            if model in self.values and other in self.values:
                shared = [metric for metric in self.values[model] if metric in self.values[other]]
                found[model] = {metric: self._delta(model, metric, other) for metric in shared}
        return found

    def _delta(self, model: str, metric: str, other: str) -> Delta:
        sides = ((self.mean(name, metric), self.resampled[name][metric]) for name in (model, other))
        return delta(metric, other, *sides)


@dataclass(frozen=True, kw_only=True)
class Report:
    """All protocols of one evaluation, and what was evaluated. `notes` are for people to read beside the figures; `ablations`
    say what groups of features contribute."""

    learner: str
    facts: Mapping[str, object]
    protocols: Sequence[ProtocolResult]
    settings: Mapping[str, object] = field(default_factory=dict)
    notes: Sequence[str] = ()
    ablations: "Sequence[Ablation]" = ()

    def to_dict(self) -> dict[str, object]:
        """`protocols` exactly as P6 says; everything else stands beside it."""
        return {
            "protocols": {
                protocol.name: {
                    model: {metric: _summary(summary) for metric, summary in by.items()}
                    for model, by in protocol.summaries.items()
                }
                for protocol in self.protocols
            },
            "learner": self.learner,
            "deltas": _nested({protocol.name: protocol.deltas for protocol in self.protocols}),
            "deltas_joint": _nested({p.name: p.deltas_joint for p in self.protocols if p.joint}),
            "intervals": {
                protocol.name: {
                    model: {metric: [_plain(end) for end in ends] for metric, ends in by.items()}
                    for model, by in protocol.intervals.items()
                }
                for protocol in self.protocols
            },
            "calibration": {
                protocol.name: {model: found.to_dict() for model, found in protocol.calibration.items()}
                for protocol in self.protocols
                if protocol.calibration
            },
            "shots": {protocol.name: protocol.shots for protocol in self.protocols},
            "checkpoint": dict(self.facts),
            "settings": dict(self.settings),
            "notes": list(self.notes),
            **({"ablation": {found.protocol: found.to_dict() for found in self.ablations}} if self.ablations else {}),
        }

    def curves(self) -> dict[str, list[ProtocolResult]]:
        """The protocols of each k-shot curve by base name, in order of k; only curves of two points or more."""
        found: dict[str, list[ProtocolResult]] = {}
        for protocol in self.protocols:
            if protocol.shots is not None:
                found.setdefault(protocol.base, []).append(protocol)
        return {base: sorted(points, key=lambda p: p.shots or 0) for base, points in found.items() if len(points) > 1}


def _summary(summary: Summary) -> dict[str, object]:
    return {"mean": _plain(summary.mean), "sd": _plain(summary.sd), "episodes": summary.episodes}


def _nested(deltas: Mapping[str, Mapping[str, Mapping[str, Delta]]]) -> dict[str, object]:
    return {
        protocol: {model: {metric: found.to_dict() for metric, found in by.items()} for model, by in models.items()}
        for protocol, models in deltas.items()
    }


def _plain(value: float) -> float | None:
    """JSON has no nan."""
    return None if np.isnan(value) else float(value)
