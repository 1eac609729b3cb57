"""The options of `metarec evaluate`: how they are read, and which of them mean something together."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from metarec.cli.output import check_writable

if TYPE_CHECKING:
    from metarec.evaluation.ablation import Mode

TEMPORAL, HELD_OUT = "temporal", "held-out"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was asked for, by the names of the command's options."""

    checkpoint: Path
    data: Path
    episodes: Path | None
    kind: str
    leave_out: bool
    shots: tuple[int, ...] | None
    protocols: tuple[str, ...]
    cuts: tuple[float, ...] | None
    joint: Path | None
    seed: int
    ablate: "Mode | None"
    groups: tuple[str, ...]
    ablate_seeds: int
    profiles: bool
    alone: bool
    json_path: str | None
    scores: Path | None
    report: Path | None

    @property
    def only_figures(self) -> bool:
        """Whether figures of profiles or scenarios are asked for, in place of predictions beside baselines."""
        return self.profiles or self.kind == "scenario"

    def check(self) -> None:
        """click.UsageError names options that mean nothing together, and files that cannot be written."""
        json_file = None if self.json_path in (None, "-") else Path(str(self.json_path))
        check_writable({"--json": json_file, "--scores": self.scores, "--report": self.report})
        if self.leave_out and self.kind != "scenario":
            raise click.UsageError("--leave-out only means something with --kind scenario")
        lists = (self.protocols, self.cuts, self.joint, self.scores)
        if self.only_figures:
            others = (*lists, self.report, self.episodes, self.ablate, self.groups, self.alone)
            if any(others) or (self.profiles and self.kind != "user"):
                which = "--profiles" if self.profiles else "--kind scenario"
                raise click.UsageError(f"{which} takes only --checkpoint, --data, --shots, --seed and --json")
            return
        chosen = self.protocols or self.episodes is not None
        if self.alone and (self.ablate is not None or (HELD_OUT not in self.protocols and chosen)):
            raise click.UsageError("--alone only means something for the protocol 'held-out'")
        if self.ablate is None and (self.groups or self.ablate_seeds > 1):
            raise click.UsageError("--group and --ablate-seeds say more about --ablate; give that too")
        if self.ablate is not None:
            if any(lists) or self.shots or self.kind != "user":
                raise click.UsageError("--ablate takes none of --protocol, --shots, --cuts, --joint, --scores and --kind item")
            return
        if self.kind == "item" and self.episodes is None:
            raise click.UsageError("--kind item only means something with --episodes")
        if self.cuts is not None and TEMPORAL not in self.protocols and chosen:
            raise click.UsageError("--cuts only means something for the protocol 'temporal'")


def parse_shots(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """`0,1,5` as numbers in rising order."""
    if value is None:
        return None
    try:
        shots = sorted({int(part) for part in value.split(",")})
    except ValueError:
        shots = [-1]
    if shots[0] < 0:
        raise click.BadParameter(f"'{value}' must be numbers of support rows such as 5 or 0,1,3,5,10")
    return tuple(shots)


def parse_cuts(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """`0.8,0.9` as numbers that rise within (0, 1)."""
    if value is None:
        return None
    wanted = f"'{value}' must be rising shares of all interactions such as 0.9 or 0.5,0.7,0.9"
    try:
        cuts = tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(wanted) from None
    from metarec.evaluation.temporal_splits import rising

    if not rising(cuts):
        raise click.BadParameter(wanted)
    return cuts
