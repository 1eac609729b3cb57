"""The command line that `python -m services.NAME` has in common: no arguments, --help with every setting."""

import argparse
import sys

from metarec.errors import MetarecError
from services.runtime.settings import ENVIRONMENT, Settings


def settings_of(service: str) -> Settings:
    """The settings of `service` from the environment.

    Ends the process where there is nothing to serve: with status 0 after --help, 1 and a line `error: ...` on wrong settings,
    2 on arguments.
    """
    names = [f"  {name}\n      {what}" for name, what in ENVIRONMENT.items()]
    parser = argparse.ArgumentParser(
        prog=f"python -m services.{service}",
        description=f"The {service} service of metarec, until SIGTERM or Ctrl-C. It prints a line when it is ready.\n\n"
        "It takes no arguments: its settings are in the environment, and an unknown METAREC_ name is an error.",
        epilog="\n".join(
            [
                "settings (defaults in brackets; a service reads those that concern it):",
                *names,
                "",
                f"example:\n  METAREC_REGISTRY=registry python -m services.{service}",
                "\n`metarec up` starts all services at once.",
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help="show this and exit")
    parser.parse_args()
    try:
        return Settings.from_environment(service)
    except MetarecError as error:
        sys.exit(f"error: {error.message}")
