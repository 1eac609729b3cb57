"""What `metarec advise` shows while it runs, on standard error: findings, estimates, and every training as it ends."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from rich.status import Status

from metarec.cli.output import note, print_table, stderr

if TYPE_CHECKING:
    from metarec.cli.advise_run import Prepared, Watching
    from metarec.training.trial import Cost, Report
    from metarec.training.tuning_plan import Plan

SECONDS_BETWEEN_LINES = 10.0


class AdviseDisplay:
    """Lines as things happen; on a terminal a spinner beside them. `quiet` leaves the tables out, which machines read as JSON."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._status = Status("", console=stderr()) if sys.stderr.isatty() else None
        self._began = self._last = time.monotonic()

    @property
    def watching(self) -> "Watching":
        """What the run calls."""
        from metarec.cli.advise_run import Watching

        return Watching(say=self._say, found=self._found, planned=self._planned, rung=self._rung, report=self._report)

    def __enter__(self) -> "AdviseDisplay":
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._status is not None:
            self._status.stop()

    def _say(self, text: str) -> None:
        self._last = time.monotonic()
        if self._status is not None:
            self._status.update(text)
        else:
            note(f"[{self._last - self._began:5.0f} s] {text}")

    def _line(self, text: str) -> None:
        self._last = time.monotonic()
        line = f"[{self._last - self._began:5.0f} s] {text}"
        if self._status is not None:
            self._status.console.print(line, markup=False, soft_wrap=True)
        else:
            note(line)

    def _found(self, prepared: "Prepared") -> None:
        from metarec.cli.advise_report import findings_rows

        if not self._quiet:
            print_table(findings_rows(prepared), title="the data")

    def _planned(self, prepared: "Prepared", costs: "Mapping[str, Cost]", plan: "Plan") -> None:
        from metarec.cli.advise_report import eligibility_rows

        if not self._quiet:
            print_table(eligibility_rows(prepared, costs, plan), title="the learners")
        if not plan.admitted:
            self._line("the budget leaves no time for any trial")
            return
        shares = ", ".join(f"{share:.0%}" for share in plan.shares)
        self._line(f"{len(plan.admitted)} trials; rungs of {shares} of the recipes' epochs; about {plan.seconds:.0f} s")

    def _rung(self, rung: int, rungs: int, trials: list[str]) -> None:
        what = f"rung {rung} of {rungs}" if rung <= rungs else f"time is left: finalists with another seed ({rung - rungs})"
        self._line(f"{what}: {', '.join(trials)}")

    def _report(self, report: "Report", metric: str) -> None:
        if report.failed:
            self._line(f"{report.trial} failed: {report.failed}")
            return
        text = (
            f"{report.trial} epoch {report.epoch}/{report.epochs} {metric} {report.metrics[metric]:.4f} ({report.seconds:.1f} s)"
        )
        if report.done:
            self._line(text)
        elif self._status is not None or time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._say(text)
