"""`python -m services.training`: the training service of the METAREC_ settings in the environment."""

from services.runtime.command_line import settings_of
from services.runtime.server import run
from services.training.service import build


def main() -> None:
    """Serve until told to stop."""
    run("training", settings_of("training"), build)


if __name__ == "__main__":
    main()
