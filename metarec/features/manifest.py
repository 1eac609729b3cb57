"""store.json: what a feature store directory holds and how far it has been loaded online."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from metarec.errors import ConfigError, FailedPreconditionError, NotFoundError

FILE = "store.json"


@dataclass(frozen=True, kw_only=True)
class StoreManifest:
    """What is in the directory.

    `schema` is Schema.to_dict of the dataset in the offline sources and `fingerprint` its fingerprint; `applied` is the one
    whose definitions Feast has; `materialized` says up to when (seconds) each online store, by name, is loaded.
    """

    schema: Mapping[str, object]
    fingerprint: str
    applied: str = ""
    materialized: Mapping[str, float] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write it into the store directory, atomically."""
        partial = path / f".{FILE}.{os.getpid()}"
        partial.write_text(json.dumps(asdict(self), indent=1))
        os.replace(partial, path / FILE)

    @staticmethod
    def read(path: Path) -> "StoreManifest":
        """Read it; NotFoundError when there is no store, FailedPreconditionError when the file is damaged."""
        if not (path / FILE).exists():
            raise NotFoundError(f"no feature store at '{path}'; run `metarec features build --data DIR --out {path}`")
        try:
            return StoreManifest(**json.loads((path / FILE).read_text()))
        except (json.JSONDecodeError, TypeError) as error:
            raise FailedPreconditionError(f"'{path / FILE}' is damaged; delete '{path}' and build the store again") from error


def store_name(online: str) -> str:
    """The online store without its password, as the manifest names it. ConfigError, without it too, when it is no URL."""
    if online == "sqlite":
        return online
    try:
        url = urlsplit(online)
        name = f"{url.scheme}://{url.hostname}:{url.port or 6379}/{url.path.strip('/') or 0}"
    except ValueError:
        name = ""
    # An @ further on is that of a password with one of these in it, of which the rest would be taken for the database.
    if not name or "@" in url.path + url.query + url.fragment:
        raise ConfigError(
            f"the online store's address '{shown(online)}' is no URL of Redis, 'redis://:PASSWORD@HOST:PORT/DB'; in a password, "
            "/ ? # [ ] are written %2F %3F %23 %5B %5D",
            field="online",
        )
    return name


def shown(online: str) -> str:
    """The address of an online store as it may be printed: with PASSWORD for its password, and whether or not it is a URL."""
    secret, at, where = online.rpartition("@")
    scheme, separator, login = secret.partition("://")
    if not at:
        return online
    if not separator:
        return f"...@{where}"
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}{':PASSWORD' if colon else ''}@{where}"
