"""What `metarec advise` does between reading a dataset and printing: hold users out, measure costs, run trials, choose.

Here, above both, training and evaluation meet: trials are trained by the one and judged by the other.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from metarec.cli.advise_store import TrialStore, outcome
from metarec.data.dataset import Dataset
from metarec.data.inspection import Findings, inspect
from metarec.errors import FailedPreconditionError
from metarec.evaluation.advice import Advice, Floor, Outcome, advise
from metarec.evaluation.advice_judge import HeldOutJudge
from metarec.evaluation.advice_untried import untried
from metarec.evaluation.advice_users import MOST, hold_out
from metarec.evaluation.gate import whole_users
from metarec.features.encoder import FeatureEncoder
from metarec.training.candidates import Eligibility, eligible
from metarec.training.halving import Halving
from metarec.training.inputs import Inputs, prepare
from metarec.training.recipe import HeadRecipe
from metarec.training.recipes import get_recipe
from metarec.training.trial import Cost, Report, probe
from metarec.training.tuning import Trials
from metarec.training.tuning_plan import Plan, plan, shortest
from metarec.types import Target
from metarec.version import __version__

START_SECONDS = 12.0
"""What a local Ray cluster and the first processes of trials take to start, about, on an idle machine."""
SPARE = 1.5
"""By how much more a budget is named than should just do: estimates are rough on a machine that others use."""
END_SECONDS = 2.0
"""What is kept of the budget for telling the result."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of `metarec advise`; `directory` keeps what trials have found, so that a second call goes on."""

    target: Target | None
    budget: float
    slots: int
    seed: int
    max_interactions: int
    directory: Path


@dataclass(kw_only=True)
class Watching:
    """Who is told what: stages in words, findings and estimates once they are known, reports as they come."""

    say: Callable[[str], None] = lambda text: None
    found: Callable[["Prepared"], None] = lambda prepared: None
    planned: Callable[["Prepared", Mapping[str, Cost], Plan], None] = lambda prepared, costs, plan: None
    rung: Callable[[int, int, list[str]], None] = lambda rung, rungs, trials: None
    report: Callable[[Report, str], None] = lambda report, metric: None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The data of one run: `train` for trials (`sampled` of what there is), users held out in `judge`, `who` in words."""

    dataset: Dataset
    train: Dataset
    findings: Findings
    target: Target
    eligibility: Eligibility
    inputs: Inputs
    judge: HeldOutJudge
    who: str
    sampled: float

    @property
    def users(self) -> int:
        """How many users judge."""
        return self.judge.users

    @property
    def encoded_bytes(self) -> int:
        """Memory of what every trial gets."""
        events = self.inputs.interactions
        arrays = (events.user_N, events.item_N, events.label_N, events.timestamp_N, events.scenario_N)
        tables = sum(table.dense_NP.numel() * 4 + table.code_N.numel() * 8 for table in (self.inputs.users, self.inputs.items))
        return tables + sum(array.nbytes for array in arrays)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Everything a run has found; `curves` are the points (seconds, metric) of each training by candidate.

    `untried` is recommended where no trial ended within `budget` seconds; `enough` of them should do, by what was measured.
    """

    prepared: Prepared
    costs: Mapping[str, Cost]
    plan: Plan
    floor: Floor
    outcomes: tuple[Outcome, ...]
    curves: Mapping[str, list[list[tuple[float, float]]]]
    advice: Advice | None
    untried: Outcome | None
    budget: float
    enough: float
    seconds: float


def prepare_data(data: Path, options: Options) -> Prepared:
    """Read, inspect, hold out, encode. FailedPreconditionError where nothing could be compared."""
    dataset = Dataset.open(data)
    findings = inspect(dataset)
    target = options.target or findings.targets[0]
    eligibility = eligible(findings, target)
    if not eligibility.candidates:
        raise FailedPreconditionError(
            f"no learner can estimate labels here: all {findings.events} are alike; ask for lists with --target implicit"
        )
    held = hold_out(dataset, findings, findings.question(target), options.seed)
    train = whole_users(held.learning, options.max_interactions, options.seed)
    encoder = FeatureEncoder.fit(dataset.schema, dataset.users, dataset.items, dataset.graph)
    return Prepared(
        dataset=dataset,
        train=train,
        findings=findings,
        target=target,
        eligibility=eligibility,
        inputs=prepare(train, encoder, get_recipe(), options.seed),
        judge=HeldOutJudge.of(
            findings.question(target), held.judging, encoder, findings.shots, seed=options.seed, max_users=MOST
        ),
        who=held.who,
        sampled=len(train.interactions) / max(1, len(held.learning.interactions)),
    )


def run_advice(data: Path, options: Options, watching: Watching) -> Found:
    """All of it, within the budget. Raises InterruptedRunError on Ctrl-C, FailedPreconditionError when nothing can be tried."""
    started = time.time()
    watching.say("reading and encoding the data")
    prepared = prepare_data(data, options)
    watching.found(prepared)
    heads = {one.name: one.head(prepared.findings.label_kind) for one in prepared.eligibility.candidates}
    store = TrialStore.open(
        options.directory,
        [
            {name: asdict(head) for name, head in heads.items()},
            prepared.dataset.fingerprint,
            options.seed,
            options.budget,
            options.max_interactions,
            options.slots,
            __version__,
        ],
    )
    floor = store.floor or _floor(prepared, options, watching)
    watching.say("measuring what training costs here")
    costs = store.costs or _costs(prepared, heads, options.seed)
    until = started + options.budget - END_SECONDS
    left = until - time.time() - START_SECONDS
    default = get_recipe(several_targets=bool(prepared.findings.further_targets)).name
    chosen = store.plan or plan(costs, slots=options.slots, seconds=left, default=default)
    enough = SPARE * (options.budget - left + shortest(costs, slots=options.slots))
    if chosen is None:
        chosen = Plan.of_nobody(costs)
    else:
        store.begin(floor, costs, chosen)
    watching.planned(prepared, costs, chosen)
    halving = Halving(
        plan=chosen,
        costs=costs,
        slots=options.slots,
        metric=prepared.judge.metrics[0],
        lower_is_better=prepared.judge.lower_is_better,
        until=until,
        first=default,
        unchanged={one.name: one.recipe for one in prepared.eligibility.candidates if one.settings},
        known=store.known,
        watch=lambda rung, trials: watching.rung(rung, len(chosen.shares), trials),
    )
    if chosen.admitted:
        _try(prepared, options, halving, heads, store, watching)
    outcomes = tuple(outcome(one, costs[one.name], chosen, halving) for one in prepared.eligibility.candidates)
    return Found(
        prepared=prepared,
        costs=costs,
        plan=chosen,
        floor=floor,
        outcomes=outcomes,
        curves=store.curves(halving.metric),
        advice=advise(outcomes, floor, halving.metric, target=prepared.target),
        untried=untried(outcomes, default),
        budget=options.budget,
        enough=enough,
        seconds=time.time() - started,
    )


def _try(
    prepared: Prepared,
    options: Options,
    halving: Halving,
    heads: Mapping[str, HeadRecipe],
    store: TrialStore,
    watching: Watching,
) -> None:
    """The trials on Ray Tune, kept and shown as they report."""

    def hear(report: Report) -> None:
        store.add(report)
        watching.report(report, halving.metric)

    watching.say("starting Ray")
    trials = Trials(
        prepared.inputs, prepared.judge, slots=options.slots, seed=options.seed, directory=options.directory, watch=hear
    )
    with trials:
        trials.run(halving, heads, lambda: watching.say("stopping"))


def _floor(prepared: Prepared, options: Options, watching: Watching) -> Floor:
    watching.say("fitting the plain baselines")
    verdicts = prepared.judge.baselines(
        prepared.train, prepared.inputs, seed=options.seed, watch=lambda name: watching.say(f"fitting the plain baseline {name}")
    )
    return Floor(
        metrics={name: verdict.metrics for name, verdict in verdicts.items()},
        value_T={name: verdict.value_T for name, verdict in verdicts.items()},
    )


def _costs(prepared: Prepared, heads: Mapping[str, HeadRecipe], seed: int) -> dict[str, Cost]:
    """Measured for each recipe; changed settings are taken to cost the same."""
    found: dict[str, Cost] = {}
    measured: dict[str, Cost] = {}
    for candidate in prepared.eligibility.candidates:
        head = heads[candidate.name]
        if candidate.recipe not in measured:
            measured[candidate.recipe] = probe(prepared.inputs, head, seed=seed)
        found[candidate.name] = replace(measured[candidate.recipe], epochs=head.epochs, members=head.members)
    return found


def default_slots() -> int:
    """Trials side by side: one for each core."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
