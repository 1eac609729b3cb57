"""`python -m services.adaptation`: the adaptation service of the METAREC_ settings in the environment."""

import sys

from metarec.errors import MetarecError
from services.adaptation.service import build
from services.runtime.server import run
from services.runtime.settings import Settings


def main() -> None:
    """Serve until told to stop."""
    try:
        settings = Settings.from_environment("adaptation")
    except MetarecError as error:
        sys.exit(f"error: {error.message}")
    run("adaptation", settings, build)


if __name__ == "__main__":
    main()
