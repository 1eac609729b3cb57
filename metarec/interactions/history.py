"""Brings a dataset's interactions into the log: once, in pieces, continuing where a crash stopped it."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from metarec.data.dataset import MANIFEST
from metarec.errors import NotFoundError
from metarec.interactions.log import InteractionLog
from metarec.types import Interaction

if TYPE_CHECKING:
    from metarec.data.dataset import Dataset

CHUNK = 5_000
"""Interactions per transaction: recorded events wait for one piece at most."""


def import_history(
    log: InteractionLog, dataset: "Dataset", *, watch: Callable[[int, int], bool] | None = None, chunk: int = CHUNK
) -> int:
    """Import what the log does not have yet of `dataset`; returns the number of events recorded now.

    Events are named `dataset:<fingerprint>:<row>`, so those of an unchanged dataset are recorded once. `watch` is told the rows
    done and their total after each piece and ends the import (to be continued) by returning False.
    """
    source = source_of(dataset.fingerprint)
    total, recorded = len(dataset.interactions), 0
    start = log.import_progress(source)
    while start is not None:
        stop = min(start + chunk, total)
        events = list(_events(dataset, source, start, stop))
        recorded += log.import_chunk(source, events, next_row=stop, done=stop == total)
        if watch is not None and not watch(stop, total):
            break
        start = log.import_progress(source)
    return recorded


def rows_left(log: InteractionLog, path: Path) -> int:
    """How many rows of the dataset at `path` the log lacks, told from its manifest alone. NotFoundError when it is no dataset."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except OSError as error:
        raise NotFoundError(f"no dataset at '{path}': {error}") from error
    start = log.import_progress(source_of(manifest["fingerprint"]))
    return 0 if start is None else int(manifest["interactions"]) - start


def source_of(fingerprint: str) -> str:
    """The name of a dataset as a history."""
    return f"dataset:{fingerprint}"


def _events(dataset: "Dataset", source: str, start: int, stop: int) -> Iterator[Interaction]:
    events = dataset.interactions
    columns = (events.user_N, events.item_N, events.label_N, events.timestamp_N, events.scenario_N)
    names = [target.column for target in dataset.schema.targets]
    further = (
        [{}] * (stop - start) if events.extra_NK is None else [_known(names, row) for row in events.extra_NK[start:stop].tolist()]
    )
    rows = zip(*(column[start:stop].tolist() for column in columns), further, strict=True)
    for row, (user, item, label, time, scenario, labels) in enumerate(rows, start):
        yield Interaction(
            user_id=str(dataset.user_ids[user]),
            item_id=str(dataset.item_ids[item]),
            label=label,
            timestamp=time,
            scenario=events.scenarios[scenario] if events.scenarios else "",
            # Padded, so that of equal times the later row is the larger id and its label stands.
            event_id=f"{source}:{row:010d}",
            labels=labels,
        )


def _known(names: list[str], labels: list[float]) -> dict[str, float]:
    return {name: label for name, label in zip(names, labels, strict=True) if not math.isnan(label)}
