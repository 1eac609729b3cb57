"""The score file: every prediction of an evaluation, so that anyone can compute every metric again (docs/evaluation.md).

One row per (protocol, model, query row). Rows of one (protocol, seed, episode_id) are one episode; where scores tie, the order
of the rows decides. Top-N protocols write each model's list instead: `rank` from 1, label 1 for an item to be found and 0 for
others, and `targets`, how many there were to find. User, item and label have the names of the dataset's schema.
"""

from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from metarec.data.schema import Schema
from metarec.evaluation.entities import Entities
from metarec.evaluation.episodes import Episodes
from metarec.evaluation.metrics import LabelScale, Predictions, relevance_probability

Strings = NDArray[np.object_]

FIGURES = ("score", "estimate", "probability", "variance")
COUNTS = ("rank", "targets")
RESERVED = ("protocol", "seed", "episode_id", "model", *FIGURES, *COUNTS)


class ScoreFile:
    """Writes as results come in; nothing stands at `path` before it is complete."""

    def __init__(self, path: Path, schema: Schema) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.partial")
        # A dataset may call its label `score`: then the plain words stand for its own names.
        own = (schema.user_id, schema.item_id, schema.label.column)
        self.user, self.item, self.label = ("user", "item", "label") if set(own) & set(RESERVED) else own
        self.columns = ("protocol", "seed", "episode_id", self.user, self.item, "model", self.label)
        text = pa.dictionary(pa.int32(), pa.string())
        self.schema = pa.schema(
            [
                *((name, text) for name in self.columns[:-1]),
                (self.label, pa.float64()),
                *((name, pa.float64()) for name in FIGURES),
                *((name, pa.int32()) for name in COUNTS),
            ]
        )

    def __enter__(self) -> "ScoreFile":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.writer = pq.ParquetWriter(self.partial, self.schema, compression="zstd")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.writer.close()
        if kind is None:
            self.partial.replace(self.path)
        else:
            self.partial.unlink(missing_ok=True)

    def write_ratings(
        self, protocol_T: Strings, model: str, episodes: Episodes, entities: Entities, predictions: Predictions, scale: LabelScale
    ) -> None:
        """One model on all query rows; `protocol_T` names each episode's protocol."""
        tasks = episodes.tasks
        task_Q = tasks.query_task_Q
        asked, row_of = np.asarray(entities.user_ids, object)[tasks.user_T[task_Q]], entities.item_ids[tasks.query_item_Q]
        user_Q, item_Q = (asked, row_of) if entities.kind == "user" else (row_of, asked)
        self._write(
            {
                "protocol": protocol_T[task_Q],
                "seed": np.asarray(episodes.seed_T.astype(str), object)[task_Q],
                "episode_id": episodes.name_T[task_Q],
                self.user: user_Q,
                self.item: item_Q,
                "model": np.full(len(task_Q), model, object),
                self.label: tasks.query_label_Q,
                "score": predictions.score_Q,
                "estimate": predictions.estimate_Q,
                "probability": relevance_probability(predictions, scale),
                "variance": predictions.variance_Q,
            }
        )

    def write_lists(
        self,
        protocol: str,
        model: str,
        seed: int,
        episode_U: Strings,
        user_U: Strings,
        item_UN: Strings,
        hit_UN: NDArray[np.bool_],
        score_UN: NDArray[np.floating],
        targets_U: NDArray[np.int64],
    ) -> None:
        """One model's top-N lists (U, N), best first."""
        users, length = item_UN.shape
        count = users * length
        self._write(
            {
                "protocol": np.full(count, protocol, object),
                "seed": np.full(count, str(seed), object),
                "episode_id": np.repeat(episode_U, length),
                self.user: np.repeat(user_U, length),
                self.item: item_UN.reshape(-1),
                "model": np.full(count, model, object),
                self.label: hit_UN.reshape(-1).astype(np.float64),
                "score": score_UN.reshape(-1).astype(np.float64),
                "rank": np.tile(np.arange(1, length + 1), users),
                "targets": np.repeat(targets_U, length),
            }
        )

    def _write(self, columns: "dict[str, NDArray[np.generic] | None]") -> None:
        size = len(next(value for value in columns.values() if value is not None))
        arrays = []
        for field in self.schema:
            value = columns.get(field.name)
            if value is None:
                arrays.append(pa.nulls(size, field.type))
            elif pa.types.is_dictionary(field.type):
                arrays.append(pa.array(value, pa.string()).dictionary_encode().cast(field.type))
            else:
                arrays.append(pa.array(value, field.type, from_pandas=True))
        self.writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema))
