"""`python -m services.training`: the training service of the METAREC_ settings in the environment."""

import sys

from metarec.errors import MetarecError
from services.runtime.server import run
from services.runtime.settings import Settings
from services.training.service import build


def main() -> None:
    """Serve until told to stop."""
    try:
        settings = Settings.from_environment("training")
    except MetarecError as error:
        sys.exit(f"error: {error.message}")
    run("training", settings, build)


if __name__ == "__main__":
    main()
