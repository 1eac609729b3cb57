"""What `metarec train` shows while it runs: a bar per head on a terminal, else a line per epoch; always on standard error."""

import sys
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from metarec.cli.output import stderr
from metarec.training.progress import Progress

STAGES = {
    "features": "building the feature store",
    "encoder": "encoding features",
    "start": "starting parameters",
    "early_stop": "",
    "workers": "starting Ray Train",
    "waiting": "waiting",
    "refit": "learning what age and spread of support say",
    "items": "learning what contents say of items",
    "blend": "choosing the blend on validation users",
    "scenarios": "learning what users of each scenario have in common",
    "left_out": "",
    "learned": "",
    "profiles": "learning to complete profiles",
    "gate": "judging beside the plain baselines",
    "unjudged": "not judged:",
    "publish": "publishing",
    "stopping": "stopping: saving the state (once more to stop at once)",
}
QUIET = ("member", "epoch", "seconds", "kept")
"""Figures of an epoch that are told otherwise or not at all."""
TOLD = ("left_out", "learned", "unjudged")
"""Stages whose notes are part of the result."""


class TrainDisplay:
    """Receives the progress of a run (metarec.training.progress.Watch); `notes` are those that belong to its result."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        if sys.stderr.isatty():
            self._bars = Bars(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=stderr(),
            )

    def __enter__(self) -> "TrainDisplay":
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, progress: Progress) -> None:
        """Show it."""
        if progress.stage in TOLD:
            self.notes.append(progress.note)
        if progress.stage != "train":
            said = (progress.target, STAGES.get(progress.stage, progress.stage), progress.note)
            self._say(" ".join(filter(None, said)))
            return
        if self._bars is None:
            if progress.metrics:
                self._say(f"{progress.target} {progress.where} {self._figures(progress)}")
            return
        if progress.target not in self._tasks:
            self._tasks[progress.target] = self._bars.add_task(progress.target, total=None, note="")
        task = self._tasks[progress.target]
        if progress.steps:
            done, total = progress.fraction
            self._bars.update(task, completed=done, total=total)
        if progress.metrics:
            self._bars.update(task, note=f"{progress.where} {self._figures(progress)}")

    def _figures(self, progress: Progress) -> str:
        figures = [f"{name} {value:.4f}" for name, value in progress.metrics.items() if name not in QUIET]
        return " ".join([*figures, f"{progress.metrics.get('seconds', 0.0):.1f} s", *filter(None, [progress.note])])

    def _say(self, line: str) -> None:
        if self._bars is not None:
            self._bars.console.print(line)
        else:
            print(line, file=sys.stderr, flush=True)
