"""Episode files (PROTOCOLS P6): any fixed split as a table, one row per support or query interaction.

Columns: user, item and label as the dataset's schema names them, and role (support | query); optional protocol, seed,
episode_id, scenario and timestamp. Rows that share (protocol, seed, episode_id or else user) are one episode; the order of its
support rows in the file is the order in which shots are taken.

Where items are the tasks, an episode is about one item instead, its rows are users, and rows group by item where there is
no episode_id. In this module `user` then stands for the item, and `item` for the user.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from metarec.baselines.rating_tasks import RatingTasks, starts
from metarec.data import values
from metarec.data.reading import Chunk, Source, open_source
from metarec.data.schema import Schema
from metarec.errors import DataError
from metarec.evaluation.entities import Entities
from metarec.evaluation.episodes import Episodes, shuffle_key
from metarec.types import TaskKind

if TYPE_CHECKING:
    from collections.abc import Mapping

ROLES = ("support", "query")
DEFAULT_PROTOCOL = "episodes"


@dataclass(frozen=True, kw_only=True)
class EpisodeRows:
    """A checked episode file: one entry per row, `episode_N` numbering episodes in order of appearance.

    `kind` says whose tasks the episodes are (see the module). `row_N` is the row's number in the file (from 1). `notes` says what
    was noticed and is worth telling.
    """

    file: str
    row_N: NDArray[np.int64]
    user_N: NDArray[np.object_]
    item_N: NDArray[np.object_]
    label_N: NDArray[np.float64]
    query_N: NDArray[np.bool_]
    time_N: NDArray[np.float64] | None
    episode_N: NDArray[np.int64]
    protocol_T: NDArray[np.object_]
    seed_T: NDArray[np.object_]
    name_T: NDArray[np.object_]
    user_T: NDArray[np.object_]
    notes: tuple[str, ...]
    kind: TaskKind = "user"

    def resolve(self, entities: Entities) -> Episodes:
        """The episodes over the tables of an evaluation."""
        tasks = len(self.protocol_T)
        support = np.flatnonzero(~self.query_N)
        support = support[np.argsort(self.episode_N[support], kind="stable")]
        query = np.flatnonzero(self.query_N)
        query = query[np.lexsort((shuffle_key(self.item_N[query]), self.episode_N[query]))]
        item_N = entities.item_rows(self.item_N)
        return Episodes(
            tasks=RatingTasks(
                user_T=entities.user_rows(self.user_T),
                support_start_T1=starts(np.bincount(self.episode_N[support], minlength=tasks)),
                support_item_S=item_N[support],
                support_label_S=self.label_N[support],
                query_start_T1=starts(np.bincount(self.episode_N[query], minlength=tasks)),
                query_item_Q=item_N[query],
                query_label_Q=self.label_N[query],
            ),
            support_time_S=None if self.time_N is None else self.time_N[support],
            protocol_T=self.protocol_T,
            seed_T=self.seed_T,
            name_T=self.name_T,
        )


def read_episodes(path: Path, schema: Schema, kind: TaskKind = "user") -> EpisodeRows:
    """Read and check a file. DataError names the file, the column and the row of what cannot be used."""
    source = open_source(path)
    user, item, label = schema.user_id, schema.item_id, schema.label.column
    if kind == "item":
        user, item = item, user
    source.require([user, item, label])
    source.require(["role"], "episodes need it: support or query")
    time = next((name for name in (schema.timestamp, "timestamp") if name and name in source.columns), None)
    scenario = next((name for name in (schema.scenario, "scenario") if name and name in source.columns), None)
    optional = [name for name in ("protocol", "seed", "episode_id") if name in source.columns]
    wanted = [user, item, label, "role", *optional, *([time] if time else [])]
    raw, row_N = _read(source, wanted)
    if not len(row_N):
        raise DataError("has no rows", file=str(path))
    reader = _Reader(str(path), raw, row_N)
    user_N, item_N = reader.ids(user), reader.ids(item)
    query_N = reader.roles()
    label_N = reader.labels(label, schema)
    time_N = reader.times(time, ~query_N) if time else None
    protocol_N = reader.texts("protocol") if "protocol" in optional else np.full(len(row_N), DEFAULT_PROTOCOL, object)
    seed_N = reader.texts("seed") if "seed" in optional else np.full(len(row_N), "0", object)
    named_N = reader.texts("episode_id", needed=False) if "episode_id" in optional else np.full(len(row_N), None, object)
    # An episode_id that happens to equal a user's id must not join that user's rows.
    own_N = np.array([name is not None for name in named_N], bool)
    name_N = np.where(own_N, named_N, user_N)
    frame = pd.DataFrame({"protocol": protocol_N, "seed": seed_N, "own": own_N, "name": name_N})
    group_N = frame.groupby(["protocol", "seed", "own", "name"], sort=False).ngroup().to_numpy()
    episode_N = np.asarray(group_N, np.int64)
    first_T = np.asarray(np.unique(episode_N, return_index=True)[1], np.int64)
    reader.check_episodes(episode_N, first_T, user_N, query_N, user, kind)
    notes = _notes(source, wanted, scenario, episode_N, item_N, query_N, kind)
    return EpisodeRows(
        file=str(path),
        row_N=row_N,
        user_N=user_N,
        item_N=item_N,
        label_N=label_N,
        query_N=query_N,
        time_N=time_N,
        episode_N=episode_N,
        protocol_T=protocol_N[first_T],
        seed_T=seed_N[first_T],
        name_T=name_N[first_T],
        user_T=user_N[first_T],
        notes=notes,
        kind=kind,
    )


def _read(source: Source, names: list[str]) -> "tuple[Mapping[str, pa.Array], NDArray[np.int64]]":
    """Whole columns and the rows' numbers."""
    chunks: list[Chunk] = []
    for chunk in source.chunks(names):
        if chunk.malformed:
            bad = chunk.malformed[0]
            raise DataError(f"has {bad.actual} columns, the header has {bad.expected}", file=str(source.path), row=bad.row)
        chunks.append(chunk)
    columns = {}
    for name in names:
        parts = [chunk.columns[name] for chunk in chunks]
        # A dictionary may differ from chunk to chunk: plain values can be joined.
        parts = [part.dictionary_decode() if pa.types.is_dictionary(part.type) else part for part in parts]
        columns[name] = pa.concat_arrays(parts) if parts else pa.array([], pa.string())
    return columns, np.concatenate([chunk.row_N for chunk in chunks]) if chunks else np.zeros(0, np.int64)


class _Reader:
    """Columns of one file as values, with errors that name the first bad row."""

    def __init__(self, file: str, raw: "Mapping[str, pa.Array]", row_N: NDArray[np.int64]) -> None:
        self.file, self.raw, self.row_N = file, raw, row_N

    def ids(self, name: str) -> NDArray[np.object_]:
        return self._strings(name, values.ids(self.raw[name]), "id is missing")

    def texts(self, name: str, *, needed: bool = True) -> NDArray[np.object_]:
        return self._strings(name, values.strings(self.raw[name]), "value is missing" if needed else "")

    def roles(self) -> NDArray[np.bool_]:
        role_N = self.texts("role")
        bad_N = ~np.isin(role_N.astype(str), ROLES)
        if bad_N.any():
            raise self._error("role", bad_N, f"is '{role_N[int(np.argmax(bad_N))]}', must be 'support' or 'query'")
        return np.asarray(role_N == "query", bool)

    def labels(self, name: str, schema: Schema) -> NDArray[np.float64]:
        return self._numbers(name, values.labels(self.raw[name], schema.label))

    def times(self, name: str, needed_N: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Seconds; query rows may lack one."""
        found = values.times(self.raw[name])
        problems = {problem: mask & needed_N for problem, mask in found.problems.items()}
        return np.nan_to_num(self._numbers(name, values.Column(values=found.values, problems=problems)))

    def check_episodes(
        self,
        episode_N: NDArray[np.int64],
        first_T: NDArray[np.int64],
        user_N: NDArray[np.object_],
        query_N: NDArray[np.bool_],
        user: str,
        kind: TaskKind,
    ) -> None:
        other_N = user_N != user_N[first_T][episode_N]
        if other_N.any():
            at = int(np.argmax(other_N))
            raise self._error(
                user,
                other_N,
                f"{kind} '{user_N[at]}' shares an episode with '{user_N[first_T[episode_N[at]]]}'; an episode has one {kind}",
            )
        empty_N = np.bincount(episode_N, query_N)[episode_N] == 0
        if empty_N.any():
            at = int(np.argmax(empty_N))
            raise self._error("role", empty_N, f"the episode of {kind} '{user_N[at]}' that begins here has no query row")

    def _strings(self, name: str, found: values.Column, missing: str) -> NDArray[np.object_]:
        self._raise(name, found)
        text = np.asarray(found.values.to_numpy(zero_copy_only=False), object)
        absent_N = found.values.is_null().to_numpy(zero_copy_only=False)
        if missing and absent_N.any():
            raise self._error(name, absent_N, missing)
        return text

    def _numbers(self, name: str, found: values.Column) -> NDArray[np.float64]:
        self._raise(name, found)
        return np.asarray(found.values.to_numpy(zero_copy_only=False), np.float64)

    def _raise(self, name: str, found: values.Column) -> None:
        for problem, mask in found.problems.items():
            if mask.any():
                value = self.raw[name][int(np.argmax(mask))].as_py()
                shown = value.decode(errors="replace") if isinstance(value, bytes) else value
                raise self._error(name, mask, problem if value is None else f"{problem}: '{shown}'")

    def _error(self, column: str, bad_N: NDArray[np.bool_], problem: str) -> DataError:
        count = int(bad_N.sum())
        more = f" (and {count - 1} more rows)" if count > 1 else ""
        return DataError(problem + more, file=self.file, column=column, row=int(self.row_N[int(np.argmax(bad_N))]))


def _notes(
    source: Source,
    used: list[str],
    scenario: str | None,
    episode_N: NDArray[np.int64],
    item_N: NDArray[np.object_],
    query_N: NDArray[np.bool_],
    kind: TaskKind,
) -> tuple[str, ...]:
    notes = []
    unused = [name for name in source.columns if name not in used and name != scenario]
    if unused:
        notes.append(f"columns not used: {', '.join(unused)}")
    if scenario is not None:
        notes.append(f"column '{scenario}' is not used: no model of this evaluation depends on the scenario")
    pairs = pd.DataFrame({"episode": episode_N, "item": item_N})
    support = pd.MultiIndex.from_frame(pairs[~query_N])
    repeated = int(pd.MultiIndex.from_frame(pairs[query_N]).isin(support).sum()) if (~query_N).any() else 0
    if repeated:
        notes.append(f"{repeated} query rows ask for {'an item' if kind == 'user' else 'a user'} of their own support set")
    return tuple(notes)
