"""`python -m services.recall`: the recall service of the METAREC_ settings in the environment."""

import sys

from metarec.errors import MetarecError
from services.recall.service import build
from services.runtime.server import run
from services.runtime.settings import Settings


def main() -> None:
    """Serve until told to stop."""
    try:
        settings = Settings.from_environment("recall")
    except MetarecError as error:
        sys.exit(f"error: {error.message}")
    run("recall", settings, build)


if __name__ == "__main__":
    main()
