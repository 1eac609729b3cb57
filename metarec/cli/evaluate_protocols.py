"""`metarec evaluate` beside the plain baselines: on a file of episodes, in time order, and on held-out users."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, cast

from metarec.baselines.registry import too_large
from metarec.cli.evaluate_inputs import Loaded
from metarec.cli.evaluate_options import HELD_OUT, TEMPORAL, Options
from metarec.cli.evaluate_output import watching
from metarec.cli.evaluate_targets import has_targets, not_asked, target_results
from metarec.cli.output import note
from metarec.data.dataset import Dataset
from metarec.errors import FailedPreconditionError
from metarec.evaluation.episode_file import read_episodes
from metarec.evaluation.evaluate import Evaluation
from metarec.evaluation.results import ProtocolResult, Report
from metarec.evaluation.scores import ScoreFile
from metarec.evaluation.temporal import COLD, WARM, evaluate_temporal
from metarec.evaluation.temporal_splits import CUTS, MIN_TARGETS
from metarec.training.loop import fit
from metarec.types import TaskKind

if TYPE_CHECKING:
    from metarec.meta.prior import Prior
    from metarec.training.progress import Progress
    from metarec.training.recipe import Recipe

DEFAULT_SHOTS = (0, 1, 3, 5, 10)
CHOSEN = (
    "what training chose on the held-out users (its epoch and, where the recipe has them, the blend, weights by age and widths "
    "of intervals) flatters the learner a little; give --episodes of other users for figures without that"
)


def comparison(options: Options) -> Report:
    """The checkpoint beside the plain baselines by every protocol that is asked for."""
    dataset = Dataset.open(options.data)
    loaded = Loaded.open(options.checkpoint, dataset)
    other = None if options.joint is None else Loaded.open(options.joint, dataset)
    wanted, notes = _wanted(options.protocols, options.episodes, dataset, loaded)
    results: list[ProtocolResult] = []
    with ExitStack() as stack:
        evaluation = Evaluation(
            prior=loaded.prior,
            dataset=dataset,
            same_data=loaded.same_data,
            joint=None if other is None else other.prior,
            seed=options.seed,
            scores=None if options.scores is None else stack.enter_context(ScoreFile(options.scores, dataset.schema)),
            watch=stack.enter_context(watching()),
        )
        if options.episodes is not None:
            found, said = _file(evaluation, options.episodes, cast(TaskKind, options.kind), options.shots)
            results += found
            notes += said
        shots = options.shots or DEFAULT_SHOTS
        # Before time order, which takes minutes, is it known whether they can be asked.
        held_out: list[ProtocolResult] = []
        if HELD_OUT in wanted:
            held_out, why_not = _held_out(
                evaluation, loaded, shots, needed=HELD_OUT in options.protocols or TEMPORAL not in wanted
            )
            notes += why_not
        if TEMPORAL in wanted:
            try:
                results += (found := _temporal(evaluation, loaded, other, shots, options.cuts))
                notes += _without_users(found, shots)
            except FailedPreconditionError as error:
                if TEMPORAL in options.protocols or not held_out:
                    raise
                notes.append(f"not evaluated in time order (P5): {error.message}")
        results += held_out
        if held_out:
            notes.append(CHOSEN)
            if has_targets(loaded.prior):
                results += (curves := target_results(evaluation, loaded, dataset, shots, alone=options.alone))
                notes += not_asked(curves, dataset)
            elif options.alone:
                notes.append("--alone is left out: the checkpoint has one target")
    if left_out := too_large(dataset):
        notes.append(
            f"{' and '.join(left_out)} are left out of top-N protocols: {len(dataset.item_ids)} items are too many for them"
        )
    facts = {**loaded.facts, "data": str(options.data), "same_data": loaded.same_data}
    path = None if options.episodes is None else str(options.episodes)
    settings = {
        "seed": options.seed,
        "episodes": path,
        "kind": options.kind,
        "shots": options.shots,
        "cuts": options.cuts,
    }
    return Report(learner=evaluation.learner, facts=facts, protocols=results, settings=settings, notes=notes)


def _wanted(
    protocols: Sequence[str], episodes: Path | None, dataset: Dataset, loaded: Loaded
) -> tuple[tuple[str, ...], list[str]]:
    """The protocols to run beside a file of episodes, and why others are not."""
    if protocols or episodes is not None:
        return tuple(protocols), []
    if not dataset.has_timestamps:
        return (HELD_OUT,), ["not evaluated in time order (P5): the dataset has no timestamps"]
    if not loaded.same_data:
        return (TEMPORAL,), ["not evaluated on held-out users: the checkpoint was trained on other data"]
    return (TEMPORAL, HELD_OUT), []


def _held_out(
    evaluation: Evaluation, loaded: Loaded, shots: Sequence[int], *, needed: bool
) -> tuple[list[ProtocolResult], list[str]]:
    """Held-out users, and what is to be said; unless they are `needed`, a note in their place where they cannot be asked."""
    try:
        return evaluation.held_out(*loaded.split(evaluation.dataset), shots)
    except FailedPreconditionError as error:
        if needed:
            raise
        return [], [f"not evaluated on held-out users: {error.message}"]


def _without_users(found: Sequence[ProtocolResult], shots: Sequence[int]) -> list[str]:
    """Which users no cut has enough of."""
    there = {result.name for result in found}
    cold = [f"{COLD}@{k}" for k in shots if f"{COLD}@{k}" not in there]
    notes = []
    if cold:
        who = f"new user has {MIN_TARGETS} items to find beside the shots"
        notes.append(f"{COLD if len(cold) == len(shots) else ', '.join(cold)} is left out: after no cut a {who}")
    if WARM not in there:
        notes.append(f"{WARM} is left out: after no cut a known user has {MIN_TARGETS} items to find")
    return notes


def _file(
    evaluation: Evaluation, path: Path, kind: TaskKind, shots: tuple[int, ...] | None
) -> tuple[list[ProtocolResult], list[str]]:
    rows = read_episodes(path, evaluation.dataset.schema, kind)
    # Several numbers of shots make a curve, which stands beside the whole support.
    asked: list[int | None] = [None] if shots is None else list(shots) if len(shots) == 1 else [None, *shots]
    return evaluation.episodes(rows, asked)


def _temporal(
    evaluation: Evaluation, loaded: Loaded, other: Loaded | None, ks: Sequence[int], cuts: Sequence[float] | None
) -> list[ProtocolResult]:
    def trainer(recipe: "Recipe") -> "Callable[[Dataset, int], Prior]":
        def show(progress: "Progress") -> None:
            if progress.metrics:
                evaluation.watch(f"{progress.target} {progress.where}")

        return lambda train, seed: fit(train, recipe, seed=seed, progress=show)

    trainers = {evaluation.learner: trainer(loaded.ranking_recipe)}
    if other is not None:
        trainers[evaluation.joint_name] = trainer(other.ranking_recipe)
    note(f"in time order: training recipe '{loaded.recipe.name}' anew at each of {len(cuts or CUTS)} cuts; this takes minutes")
    return list(
        evaluate_temporal(
            evaluation.dataset,
            trainers,
            ks,
            cuts or CUTS,
            evaluation.seed,
            progress=evaluation.watch,
            scores=evaluation.scores,
        ).protocols
    )
