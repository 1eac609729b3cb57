"""`python -m services.recall`: the recall service of the METAREC_ settings in the environment."""

from services.recall.service import build
from services.runtime.command_line import settings_of
from services.runtime.server import run


def main() -> None:
    """Serve until told to stop."""
    run("recall", settings_of("recall"), build)


if __name__ == "__main__":
    main()
