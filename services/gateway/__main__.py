"""`python -m services.gateway`: the gateway of the METAREC_ settings in the environment."""

import logging
import sys

from metarec.errors import MetarecError
from services.gateway.access import authorization, credentials
from services.gateway.service import build
from services.runtime.command_line import settings_of
from services.runtime.server import run

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main() -> None:
    """Serve until told to stop."""
    settings = settings_of("gateway")
    try:
        tls, authorize = credentials(settings), authorization(settings)
    except MetarecError as error:
        sys.exit(f"error: {error.message}")
    if tls is None and settings.host not in LOOPBACK:
        logging.getLogger(__name__).warning(
            "listening on %s in plain text; set METAREC_TLS_CERT and METAREC_TLS_KEY unless something in front ends TLS",
            settings.host,
        )
    run("gateway", settings, build, credentials=tls, authorize=authorize)


if __name__ == "__main__":
    main()
