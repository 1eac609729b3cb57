"""The online feature store as commands speak of it: how advice repeats its address, and what to do where it fails."""

import os
import shlex
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from metarec.errors import UnavailableError
from metarec.features.manifest import shown, store_name

VARIABLE = "METAREC_ONLINE_STORE"


def repeated(online: str, environment: Mapping[str, str] = os.environ) -> str:
    """What a command of advice needs to mean this online store: "", or " --online ADDRESS" where it would take another by itself.

    A password is not printed: PASSWORD stands in its place, for the reader to fill in.
    """
    by_itself = environment.get(VARIABLE) or "sqlite"
    return "" if online == by_itself else f" --online {shlex.quote(shown(online))}"


@contextmanager
def reaching(online: str) -> Iterator[None]:
    """UnavailableError, with what to do, for what the online store's driver raises."""
    try:
        yield
    except _driver_error(online) as error:
        said = f"the online store '{store_name(online)}' cannot be used: {type(error).__name__}: {error}".rstrip(".")
        raise UnavailableError(f"{said}; {remedy(online, error)}") from error


def remedy(online: str, error: Exception) -> str:
    """What to do about an error of the online store's driver."""
    if online == "sqlite":
        return "see that its file may be read and written, and that nothing else keeps it locked"
    if "Authentication" in type(error).__name__:
        return f"name it with its user and password, as {VARIABLE}=redis://USER:PASSWORD@HOST:PORT/DB (USER may be empty)"
    return "see that Redis runs there and is reached from here"


def _driver_error(online: str) -> type[Exception]:
    if online == "sqlite":
        return sqlite3.Error
    from redis.exceptions import RedisError

    return RedisError
