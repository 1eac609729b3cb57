"""`python -m services.adaptation`: the adaptation service of the METAREC_ settings in the environment."""

from services.adaptation.service import build
from services.runtime.command_line import settings_of
from services.runtime.server import run


def main() -> None:
    """Serve until told to stop."""
    run("adaptation", settings_of("adaptation"), build)


if __name__ == "__main__":
    main()
