"""The `metarec` command. Command modules load only when their command runs, so that `metarec --help` is instant."""

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from metarec.cli.output import escape_what_cannot_be_shown, print_error
from metarec.errors import InterruptedRunError, InvalidInputError, MetarecError
from metarec.threads import is_beside_running
from metarec.version import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "data": ("metarec.cli.data:data", "Fetch, import and inspect datasets."),
    "features": ("metarec.cli.features:features", "Build and read the feature store."),
    "advise": ("metarec.cli.advise:advise", "Try learners on a dataset and recommend one, with reasons."),
    "train": ("metarec.cli.train:train", "Meta-train on a dataset and publish a checkpoint."),
    "evaluate": ("metarec.cli.evaluate:evaluate", "Evaluate a checkpoint beside the plain baselines."),
    "recall": ("metarec.cli.recall:recall", "Report how much of the exact answer recall finds."),
    "checkpoints": ("metarec.cli.checkpoints:checkpoints", "List, promote and roll back checkpoints."),
    "up": ("metarec.cli.up:up", "Start every service on this machine."),
    "recommend": ("metarec.cli.recommend:recommend", "Recommend items to a user."),
    "feedback": ("metarec.cli.feedback:feedback", "Record interactions."),
    "explain": ("metarec.cli.explain:explain", "Explain a score as terms that add up to it."),
    "rules": ("metarec.cli.rules:rules", "Check rules that are put on top of ranking."),
    "adapt": ("metarec.cli.adapt:adapt", "Adapt to one task and predict."),
    "items": ("metarec.cli.items:items", "List, get and upsert items."),
    "users": ("metarec.cli.users:users", "Upsert and delete users."),
    "jobs": ("metarec.cli.jobs:jobs", "Create, list and cancel training jobs."),
    "doctor": ("metarec.cli.doctor:doctor", "Check this machine and say what to do."),
}
"""Name of each command -> (`module:attribute`, one-line help). A new command is one module and one line here."""

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

OF_THE_MACHINE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
}
"""Failures of files that are no fault of the code: rights, full disks, folders where files should be."""


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used, not when help is shown."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and one-line helps without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
Example:
  metarec data fetch ml-100k --out data
  metarec train --data data --out registry --promote
  metarec up --registry registry --data data
""",
)
@click.version_option(__version__, prog_name="metarec")
def cli() -> None:
    """metarec: a recommender that learns to learn."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 success, 1 failure, 2 wrong usage or input, 130 interrupted."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    escape_what_cannot_be_shown()
    try:
        status = cli.main(args=list(argv) if argv is not None else None, prog_name="metarec", standalone_mode=False)
    except click.exceptions.Abort:
        print_error("interrupted")
        _leave(EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        _leave(error.exit_code)
    except InterruptedRunError as error:
        print_error(str(error))
        _leave(EXIT_INTERRUPTED)
    except InvalidInputError as error:
        print_error(str(error))
        _leave(EXIT_USAGE)
    except MetarecError as error:
        print_error(str(error))
        _leave(EXIT_ERROR)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; that is no failure of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(EXIT_ERROR)
    except OSError as error:
        if error.errno not in OF_THE_MACHINE:
            raise
        print_error(f"'{error.filename}': {error.strerror}" if error.filename else str(error.strerror))
        _leave(EXIT_ERROR)
    _leave(status if isinstance(status, int) else 0)


def _leave(status: int) -> NoReturn:
    """Exit; without the end of the interpreter where a thread still computes for a command that was interrupted."""
    if is_beside_running():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
