"""What the trials of `metarec advise` have found, on disk: an interrupted run with the same settings goes on from there."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from metarec.evaluation.advice import Floor, Outcome, Trained
from metarec.training.candidates import Candidate
from metarec.training.files import canonical, sha256, write_atomically
from metarec.training.halving import Halving
from metarec.training.trial import Cost, Report
from metarec.training.tuning_plan import Plan


@dataclass(kw_only=True)
class TrialStore:
    """The file `path`, written anew after each training that has come to its end."""

    path: Path
    floor: Floor | None = None
    costs: dict[str, Cost] | None = None
    plan: Plan | None = None
    reports: list[Report] = field(default_factory=list)

    @classmethod
    def open(cls, directory: Path, facts: object) -> "TrialStore":
        """What an earlier run with these settings (JSON-able) has left in the directory, or nothing."""
        path = directory / f"trials-{sha256(canonical(facts))[:12]}.json"
        if not path.exists():
            directory.mkdir(parents=True, exist_ok=True)
            return cls(path=path)
        data = json.loads(path.read_bytes())
        shares, admitted = tuple(data["plan"].pop("shares")), tuple(data["plan"].pop("admitted"))
        return cls(
            path=path,
            floor=Floor(**data["floor"]),
            costs={name: Cost(**cost) for name, cost in data["costs"].items()},
            plan=Plan(shares=shares, admitted=admitted, **data["plan"]),
            reports=[Report.from_dict(report) for report in data["reports"]],
        )

    @property
    def known(self) -> dict[int, dict[str, Report]]:
        """Trainings that have come to their end, by rung and candidate."""
        found: dict[int, dict[str, Report]] = {}
        for report in self.reports:
            if report.done:
                found.setdefault(report.rung, {})[report.trial] = report
        return found

    def begin(self, floor: Floor, costs: Mapping[str, Cost], chosen: Plan) -> None:
        """Note what all trials have in common; trainings that broke off begin anew."""
        known = self.known
        self.reports = [report for report in self.reports if report.trial in known.get(report.rung, {})]
        self.floor, self.costs, self.plan = floor, dict(costs), chosen
        self._write()

    def add(self, report: Report) -> None:
        """Note a report."""
        self.reports.append(report)
        if report.done:
            self._write()

    def curves(self, metric: str) -> dict[str, list[list[tuple[float, float]]]]:
        """Points of each training, by candidate."""
        found: dict[str, dict[int, list[tuple[float, float]]]] = {}
        for report in self.reports:
            if not report.failed:
                points = found.setdefault(report.trial, {}).setdefault(report.rung, [])
                points.append((report.seconds, report.metrics[metric]))
        return {name: list(by.values()) for name, by in found.items()}

    def _write(self) -> None:
        assert self.floor is not None
        assert self.costs is not None
        assert self.plan is not None
        data = {
            "floor": asdict(self.floor),
            "costs": {name: asdict(cost) for name, cost in self.costs.items()},
            "plan": asdict(self.plan),
            "reports": [report.to_dict() for report in self.reports],
        }
        write_atomically(self.path, json.dumps(data).encode())


def outcome(candidate: Candidate, cost: Cost, chosen: Plan, halving: Halving) -> Outcome:
    """What became of a candidate; the further seeds of the last rung are one training with mean figures."""
    reports = [by[candidate.name] for _, by in sorted(halving.ended.items()) if candidate.name in by]
    by_rung: dict[int, list[Trained]] = {}
    for report in reports:
        if report.done and not math.isnan(report.metrics[halving.metric]):
            rung = min(report.rung, len(chosen.shares))
            by_rung.setdefault(rung, []).append(_trained(report, rung, cost.epochs))
    estimate = chosen.left_out.get(candidate.name)
    refused = f"not tried: too dear for the budget (about {estimate:.0f} s in full)" if estimate is not None else ""
    return Outcome(
        name=candidate.name,
        recipe=candidate.recipe,
        settings=candidate.settings,
        trainings=tuple(Trained.mean(repeats) for repeats in by_rung.values()),
        refused=refused,
        failed=next((f"failed: {why}" for report in reports if (why := _failure(report, halving.metric))), ""),
        out_of_time=any(not report.done and not report.failed for report in reports if report.rung <= len(chosen.shares)),
    )


def _failure(report: Report, metric: str) -> str:
    """Why a training counts for nothing; "" where it counts or has not come to its end."""
    return f"its {metric} is no number" if report.done and math.isnan(report.metrics[metric]) else report.failed


def _trained(report: Report, rung: int, planned: int) -> Trained:
    return Trained(
        rung=rung,
        epochs=report.epochs,
        planned=planned,
        metrics=report.metrics,
        value_T=report.value_T,
        seconds=report.seconds,
        adapt_ms=report.costs["adapt_ms"],
        score_ms=report.costs["score_ms"],
        state_bytes=report.costs["state_bytes"],
    )
