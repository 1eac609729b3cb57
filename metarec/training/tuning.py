"""The rungs of `metarec advise` on Ray Tune: every training is one Tune trial on one core, reporting as it learns.

With distributed.py the only file of the library that imports ray. Data are encoded once and travel through Ray's object store;
trials keep no checkpoints, since each starts anew (trial.py). Tune asks `Halving` what to train next, as it would ask a search
algorithm: its own schedulers leave trials behind in the middle of their rate's cycle, with figures that no training of its own
gives, and know of no budget (docs/adr/0016-trials-of-whole-cycles.md).
"""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from metarec.errors import InterruptedRunError, MetarecError, UnavailableError
from metarec.training.distributed import cause, cluster, quiet
from metarec.training.halving import Halving, Training
from metarec.training.inputs import Inputs
from metarec.training.recipe import HeadRecipe
from metarec.training.stop import StopFile
from metarec.training.trial import Judge, Report, run_trial

POLL_SECONDS = 0.1
DIED = "its process died"
GRACE_SECONDS = 5.0
"""Trials end by themselves when their time is up; those that do not are ended by Tune so much later."""


class Trials:
    """Runs trials on the cluster of RAY_ADDRESS or on a local one, which starts and ends with the block.

    `slots` trials run side by side. `watch` hears every report as it comes, from another thread. Nothing of Ray's stays in
    `directory`. Raises UnavailableError when Ray cannot be started.
    """

    def __init__(
        self, inputs: Inputs, judge: Judge, *, slots: int, seed: int, directory: Path, watch: Callable[[Report], None]
    ) -> None:
        self._inputs, self._judge, self._slots, self._seed = inputs, judge, slots, seed
        self._directory, self._watch = directory, watch

    def __enter__(self) -> "Trials":
        for name, value in SURROUNDINGS.items():
            os.environ.setdefault(name, value)
        self._directory.mkdir(parents=True, exist_ok=True)
        # What Tune keeps to restore a run is of no use: trials that ended are kept by the caller, others start anew.
        files = tempfile.TemporaryDirectory(prefix="ray-", dir=self._directory, ignore_cleanup_errors=True)
        with ExitStack() as opened:
            self._files = Path(opened.enter_context(files))
            self._stop = StopFile(self._files)
            opened.enter_context(cluster(self._slots))
            quiet()
            # What became of trials is told by us.
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
            from ray import tune

            trainable = tune.with_parameters(_trial, inputs=self._inputs, judge=self._judge)
            self._trainable = tune.with_resources(trainable, {"cpu": 1})
            self._open = opened.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    def run(self, halving: Halving, heads: Mapping[str, HeadRecipe], stopping: Callable[[], None] = lambda: None) -> None:
        """Train what `halving` asks for until it is over; `heads` are the candidates' settings by name.

        `stopping` is called at Ctrl-C, seconds before trials have ended; then InterruptedRunError is raised, and what has ended
        by then is in `halving.ended`.
        """
        failure: list[BaseException] = []

        def fit() -> None:
            try:
                self._fit(halving, heads)
            except BaseException as error:  # handed to the main thread, which raises it
                failure.append(error)

        # Not in the main thread, where Tune would answer Ctrl-C itself, with pages of advice on resuming.
        thread = threading.Thread(target=fit, name="ray-tune", daemon=True)
        with self._stop.on_signals(stopping):
            thread.start()
            while thread.is_alive():
                thread.join(POLL_SECONDS)
        if self._stop.requested():
            raise InterruptedRunError("stopped while trials were running")
        for error in failure:
            if isinstance(error, MetarecError) or not isinstance(error, Exception):
                raise error
            raise UnavailableError(f"ray tune gave up: {error}; try again, or 'metarec doctor'") from error

    def _fit(self, halving: Halving, heads: Mapping[str, HeadRecipe]) -> None:
        from ray import tune

        run = _Run(halving=halving, heads=heads, seed=self._seed, stop=self._stop, watch=self._watch)
        tuner = tune.Tuner(
            self._trainable,
            tune_config=tune.TuneConfig(
                search_alg=_rungs(run),
                num_samples=-1,
                max_concurrent_trials=self._slots,
                reuse_actors=True,
                time_budget_s=max(1.0, halving.until - time.time()) + GRACE_SECONDS,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(self._files),
                callbacks=[_listener(run), _silence()],
                stop=_on_request(self._stop),
                verbose=0,
            ),
        )
        tuner.fit()


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What those that Tune calls have in common while it runs: by Tune's ids, what was given to trials and what they said."""

    halving: Halving
    heads: Mapping[str, HeadRecipe]
    seed: int
    stop: StopFile
    watch: Callable[[Report], None]
    given: dict[str, Training] = field(default_factory=dict)
    said: dict[str, Report] = field(default_factory=dict)


class _Bare:
    """Tune pickles those that it calls, so that a run might be restored in another process; these runs never are."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return object, ()


def _listener(run: _Run) -> Any:
    """Passes reports on, and the reasons of failures."""
    from ray import tune

    class Listener(_Bare, tune.Callback):  # type: ignore[misc]  # ray ships without usable types
        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
            if "report" in result:
                run.said[trial.trial_id] = Report.from_dict(result["report"])
                run.watch(run.said[trial.trial_id])

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            # After on_trial_complete of the search, which is not told why.
            error = trial.get_error()
            failed = run.halving.fail(run.given[trial.trial_id], DIED if error is None else cause(error))
            if failed is not None:
                run.watch(failed)

    return Listener()


def _rungs(run: _Run) -> Any:
    """Asks `Halving` what to train next, in place of a search algorithm."""
    from ray.tune.search import Searcher

    common = {"until": run.halving.until, "stop": run.stop}

    class Rungs(_Bare, Searcher):  # type: ignore[misc]  # as above
        def save(self, checkpoint_path: str) -> None:
            return None

        def suggest(self, trial_id: str) -> Any:
            training = None if run.stop.requested() else run.halving.next()
            if training is None:
                return Searcher.FINISHED if run.stop.requested() or run.halving.over else None
            run.given[trial_id] = training
            head = replace(run.heads[training.trial], epochs=training.epochs)
            seed = run.seed + training.repeat
            return {"asked": {"trial": training.trial, "rung": training.rung, "recipe": head, "seed": seed, **common}}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            run.halving.end(run.given[trial_id].trial, run.said.get(trial_id))
            if error:
                run.halving.fail(run.given[trial_id], DIED)

    return Rungs()


def _on_request(stop: StopFile) -> Any:
    """Ends all trials once that is asked for."""
    from ray import tune

    class OnRequest(_Bare, tune.Stopper):  # type: ignore[misc]  # as above
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return stop.requested()

    return OnRequest()


def _silence() -> Any:
    """In place of Tune's own reporter, which prints on standard output, whatever the verbosity, when a trial ends unheard."""
    from ray.tune.progress_reporter import TrialProgressCallback

    class Silence(_Bare, TrialProgressCallback):  # type: ignore[misc]  # as above
        def _print(self, msg: str) -> None:
            return None

    return Silence()


SURROUNDINGS: Mapping[str, str] = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # The new output greets on standard output whatever the verbosity.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Reports come through the listener; the files that Tune would keep of them are of no use.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


def _trial(config: dict[str, Any], *, inputs: Inputs, judge: Judge) -> None:
    """A trial as Tune calls it, in a process of its own."""
    import torch
    from ray import tune

    torch.set_num_threads(1)
    asked = config["asked"]
    run_trial(
        asked["trial"],
        asked["rung"],
        inputs,
        asked["recipe"],
        judge,
        lambda report: tune.report({"report": report.to_dict()}),
        seed=asked["seed"],
        stopped=lambda: time.time() > asked["until"] or asked["stop"].requested(),
    )
