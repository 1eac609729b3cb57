"""Which dataset schema requests are checked against: the live checkpoint's, else the feature store's, else the dataset's."""

from pathlib import Path

from metarec.data.schema import Schema
from metarec.errors import MetarecError, NoCheckpointError
from services.runtime.features import LazyStore
from services.runtime.live import LiveCheckpoint


class LiveSchema:
    """The schema now. Before anything has been trained there may be none."""

    def __init__(self, live: LiveCheckpoint, store: LazyStore, data: Path | None = None) -> None:
        self._live, self._store, self._data = live, store, data

    @property
    def current(self) -> Schema | None:
        """The schema, or None."""
        engine = self._live.current
        if engine is not None:
            return engine.prior.schema
        found = self._store.schema
        if found is None and self._data is not None:
            try:
                return Schema.read(self._data / "schema.yaml")
            except MetarecError:
                return None
        return found

    def required(self) -> Schema:
        """The schema. NoCheckpointError, which says why nothing is live, when there is none."""
        found = self.current
        if found is None:
            error = self._live.absent()
            raise NoCheckpointError(f"no schema is known yet: {error.message}", metadata=error.metadata)
        return found
