"""What metarec declares to Feast: entities, feature views, feature services, and where a store keeps its files.

The only file that imports Feast, and only inside functions: the import takes seconds.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote, urlsplit

from metarec.errors import ConfigError
from metarec.features.manifest import shown, store_name
from metarec.features.online import EntityKey
from metarec.features.sources import TIME
from metarec.features.wire import KEYS, SERVICES, Kind, Value, ViewName

if TYPE_CHECKING:
    from feast import FeatureStore as Feast

PROJECT = "metarec"
LOAD_ROWS = 500
"""Rows of a view that are loaded online at once: whoever wants the store meanwhile waits for so many."""


_importing = threading.Lock()


def open_feast(path: Path, online: str, *, patience_seconds: float | None = None) -> "Feast":
    """Feast on the store directory at `path`, with this online store: "sqlite" or a redis:// address (else ConfigError).

    With `patience_seconds` an answer of Redis is waited for no longer than that, and nothing is tried again.
    """
    with _unchecked():
        from feast import FeatureStore as Feast

    return Feast(config=_config(path, online, patience_seconds))


def _as_written(target: object = None, **_: object) -> object:
    """What it decorates, with or without settings."""
    return _as_written if target is None else target


@contextmanager
def _unchecked() -> Iterator[None]:
    """Import Feast as it is written, one thread at a time.

    It has typeguard write checks of types into its classes while it is imported, for those who declare features by hand; that is
    most of the time of the import.
    """
    import typeguard

    with _importing:
        if "feast" in sys.modules:
            yield
            return
        checked = typeguard.typechecked
        typeguard.typechecked = _as_written  # type: ignore[assignment]  # a decorator of fewer overloads
        try:
            yield
        finally:
            typeguard.typechecked = checked


def wire_types() -> tuple[Callable[[str], EntityKey], Callable[[], Value]]:
    """Feast's messages, made by: the key of an entity from the name of its join key, a value that holds nothing."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey as Key
    from feast.protos.feast.types.Value_pb2 import Value as Message

    return lambda key: cast(EntityKey, Key(join_keys=[key])), cast(Callable[[], Value], Message)


def definitions(kinds: Mapping[ViewName, Mapping[str, Kind]]) -> list[object]:
    """Entities, feature views and feature services of a schema."""
    from feast import Entity, FeatureService, FeatureView, Field, FileSource
    from feast.types import Array, Bytes, FeastType, Float32, Float64, Int64, String
    from feast.value_type import ValueType

    types: dict[Kind, FeastType] = {
        "categorical": String,
        "text": String,
        "numeric": Float64,
        "integer": Int64,
        "bytes": Bytes,
        "multi_categorical": Array(String),
        "vector": Array(Float32),
    }
    entities = {
        key: Entity(name=name, join_keys=[key], value_type=ValueType.STRING)
        for key, name in ((KEYS["user_profile"], "user"), (KEYS["item_content"], "item"))
    }
    views = {
        name: FeatureView(
            name=name,
            entities=[entities[KEYS[name]]],
            # A row holds until a later one replaces it.
            ttl=timedelta(0),
            schema=[Field(name=KEYS[name], dtype=String), *(Field(name=f, dtype=types[kind]) for f, kind in features.items())],
            # Relative to the store, so that a store that is moved or mounted elsewhere still works.
            source=FileSource(name=f"{name}_file", path=f"offline/{name}.parquet", timestamp_field=TIME),
            online=True,
        )
        for name, features in kinds.items()
    }
    services = [FeatureService(name=name, features=[views[view] for view in members]) for name, members in SERVICES.items()]
    return [*entities.values(), *views.values(), *services]


def _config(path: Path, online: str, patience_seconds: float | None) -> object:
    from feast import RepoConfig
    from feast.repo_config import RegistryConfig

    return RepoConfig(
        project=PROJECT,
        repo_path=path.resolve(),
        provider="local",
        # Kept for the life of the process: the definitions change only with the dataset.
        registry=RegistryConfig(path=str((path / "registry.db").resolve()), cache_ttl_seconds=0),
        offline_store={"type": "dask"},
        online_store=_online_config(path, online, patience_seconds),
        entity_key_serialization_version=3,
        materialization={"online_write_batch_size": LOAD_ROWS},
    )


def _online_config(path: Path, online: str, patience_seconds: float | None) -> dict[str, object]:
    if online == "sqlite":
        return {"type": "sqlite", "path": str((path / "online.db").resolve())}
    name = store_name(online)
    url = urlsplit(online)
    if url.scheme not in ("redis", "rediss") or not url.hostname:
        raise ConfigError(f"online store '{shown(online)}' is neither 'sqlite' nor 'redis://HOST:PORT[/DB]'", field="online")
    options = [f"{url.hostname}:{url.port or 6379}", f"db={url.path.strip('/') or 0}"]
    for part, value in (("username", url.username), ("password", url.password)):
        if value and "," in unquote(value):
            raise ConfigError(
                f"the {part} of online store '{name}' has a comma, which Feast cannot take; choose another", field="online"
            )
        # As JSON, or Feast would take one of digits for a number.
        options += [f"{part}={json.dumps(unquote(value))}"] if value else []
    options += ["ssl=true"] if url.scheme == "rediss" else []
    if patience_seconds is not None:
        # Left to itself the driver waits for ever, and tries what fails three times more, seconds apart.
        options += [f"socket_connect_timeout={patience_seconds}", f"socket_timeout={patience_seconds}", "retry=null"]
    return {"type": "redis", "connection_string": ",".join(options)}
