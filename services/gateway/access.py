"""Who may call the gateway: TLS and bearer tokens end here. Without either it listens in plain text, on loopback by default."""

import hmac
import ssl
from collections.abc import Mapping
from pathlib import Path

import grpc

from metarec.errors import ConfigError, UnauthenticatedError
from services.runtime.interceptors import Authorize
from services.runtime.settings import Settings

SCHEME = "bearer"


def credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """TLS credentials; None without a certificate. ConfigError when the files cannot be read or used."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    key, chain = _read("METAREC_TLS_KEY", settings.tls_key), _read("METAREC_TLS_CERT", settings.tls_cert)
    try:
        # grpc would notice while it opens the port, and report a port that it cannot open.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except ssl.SSLError as error:
        raise ConfigError(
            f"METAREC_TLS_CERT '{settings.tls_cert}' and METAREC_TLS_KEY '{settings.tls_key}' "
            f"must be a certificate chain and its private key in PEM, without a password: {error}",
            field="METAREC_TLS_CERT",
        ) from error
    return grpc.ssl_server_credentials([(key, chain)])


def authorization(settings: Settings) -> Authorize | None:
    """Accepts the tokens of METAREC_AUTH_TOKEN_FILE, one a line (several while one replaces the other); None without a file."""
    path = settings.auth_token_file
    if path is None:
        return None
    tokens = [line.strip() for line in _read("METAREC_AUTH_TOKEN_FILE", path).splitlines() if line.strip()]
    if not tokens:
        raise ConfigError(f"'{path}' holds no token; write one a line", field="METAREC_AUTH_TOKEN_FILE")

    def authorize(metadata: Mapping[str, str | bytes]) -> None:
        value = metadata.get("authorization", "")
        scheme, _, token = value.partition(" ") if isinstance(value, str) else ("", "", "")
        given = token.strip().encode()
        if scheme.lower() != SCHEME or not any(hmac.compare_digest(given, known) for known in tokens):
            raise UnauthenticatedError("send a valid token as metadata 'authorization: Bearer TOKEN'")

    return authorize


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error}", field=name) from error
