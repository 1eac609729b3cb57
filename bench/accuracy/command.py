"""The command line that all protocols share."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.accuracy.state import Prints, State
from metarec.errors import InterruptedRunError, InvalidInputError, MetarecError, NotFoundError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


@dataclass(frozen=True, kw_only=True)
class Given:
    """What was asked for. `settings` are overrides of the recipe."""

    data: Path
    out: Path
    seeds: Sequence[int]
    settings: dict[str, str]
    threads: int
    collect: bool

    def state(self, data: Prints) -> State:
        """The pieces below `out`."""
        return State(out=self.out, data=data, collect=self.collect)


def directory(text: str) -> Path:
    """A directory that is there."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"no directory at '{text}'")
    return Path(text)


def holding(*files: str) -> Callable[[str], Path]:
    """A directory that holds these files."""

    def check(text: str) -> Path:
        path = directory(text)
        missing = [name for name in files if not (path / name).exists()]
        if missing:
            raise argparse.ArgumentTypeError(f"'{text}' has no {', '.join(missing)}")
        return path

    return check


def ended(command: Callable[[], int | None]) -> int:
    """The exit status of `command`, 0 where it gives none: what went wrong is said in a line if it is no fault of the code."""
    try:
        status = command() or 0
    except (KeyboardInterrupt, InterruptedRunError):
        ignore_ctrl_c()
        print("stopped; the same command goes on with what is not finished", file=sys.stderr)
        return EXIT_INTERRUPTED
    except MetarecError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, InvalidInputError | NotFoundError) else EXIT_FAILED
    if status == EXIT_INTERRUPTED:
        ignore_ctrl_c()
    return status


def ignore_ctrl_c() -> None:
    """This process ends because of one: another would show where it was, or change its exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def seed_list(text: str) -> list[int]:
    """Numbers, comma-separated."""
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' must be numbers, comma-separated, such as 0,1,2") from error


def setting(text: str) -> tuple[str, str]:
    """NAME=VALUE as a pair."""
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise argparse.ArgumentTypeError(f"'{text}' must have the form NAME=VALUE, such as epochs=2")
    return name, value


def protocol_parser(doc: str | None, data: str, seeds: str) -> argparse.ArgumentParser:
    """The options of every protocol."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=directory, required=True, help=data)
    parser.add_argument("--out", type=Path, required=True, help="folder of results; finished pieces in it are not run again")
    parser.add_argument("--seeds", type=seed_list, default=seeds, help=f"default: {seeds}")
    parser.add_argument("--set", type=setting, action="append", default=[], metavar="NAME=VALUE", help="recipe settings")
    parser.add_argument("--threads", type=int, default=0, help="of training; 0: the cores, up to 8")
    parser.add_argument("--collect", action="store_true", help="run nothing: write the tables of what is there")
    return parser


def read(given: argparse.Namespace) -> Given:
    """The options as values; torch is told its threads."""
    threads = given.threads or min(8, os.cpu_count() or 1)
    torch.set_num_threads(threads)
    return Given(
        data=given.data.resolve(),
        out=given.out.resolve(),
        seeds=given.seeds,
        settings=dict(given.set),
        threads=threads,
        collect=given.collect,
    )
