"""Plain Python values to protobuf messages and back, for the client."""

import math
import uuid
from collections.abc import Mapping
from typing import cast

from google.protobuf.timestamp_pb2 import Timestamp

from metarec.client.results import (
    AdaptedScenario,
    AdaptedTask,
    Checkpoint,
    JobStateName,
    LauncherName,
    Prediction,
    TrainingJob,
)
from metarec.errors import InvalidInputError
from metarec.types import FeatureValue, Interaction, Item
from metarec.v1 import adaptation_pb2, training_pb2, types_pb2

LAUNCHERS: dict[LauncherName, "training_pb2.Launcher.ValueType"] = {
    "": training_pb2.LAUNCHER_UNSPECIFIED,
    "local": training_pb2.LAUNCHER_LOCAL,
    "ray_jobs": training_pb2.LAUNCHER_RAY_JOBS,
    "kuberay": training_pb2.LAUNCHER_KUBERAY,
}
STATES: dict[int, JobStateName] = {
    training_pb2.TRAINING_JOB_STATE_PENDING: "pending",
    training_pb2.TRAINING_JOB_STATE_RUNNING: "running",
    training_pb2.TRAINING_JOB_STATE_SUCCEEDED: "succeeded",
    training_pb2.TRAINING_JOB_STATE_FAILED: "failed",
    training_pb2.TRAINING_JOB_STATE_CANCELLED: "cancelled",
}


def put_features(target: Mapping[str, types_pb2.FeatureValue], features: Mapping[str, object], field: str) -> None:
    """Fill the map field `target`. Missing values (None, NaN, empty lists) stay out; InvalidInputError names a value of a type
    that no field can have."""
    for name, value in features.items():
        if value is None or value != value or (isinstance(value, list | tuple) and not value):
            continue
        message = target[name]
        if isinstance(value, str):
            message.text = value
        elif _is_number(value):
            message.number = float(cast(float, value))
        elif isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
            message.list.values.extend(value)
        elif isinstance(value, list | tuple) and all(_is_number(part) for part in value):
            message.vector.values.extend(value)
        else:
            raise InvalidInputError(
                f"feature '{name}' must be a string, a number, a list of strings or a list of numbers, not {value!r}",
                field=f"{field}.{name}",
            )


def get_features(source: Mapping[str, types_pb2.FeatureValue]) -> dict[str, FeatureValue]:
    """The values of a map field, by name."""
    return {name: _feature(value) for name, value in source.items()}


def _feature(value: types_pb2.FeatureValue) -> FeatureValue:
    kind = value.WhichOneof("kind")
    if kind == "list":
        return tuple(value.list.values)
    if kind == "vector":
        return tuple(value.vector.values)
    return None if kind is None else cast(FeatureValue, getattr(value, kind))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def put_interaction(target: types_pb2.Interaction, interaction: Interaction) -> None:
    """Fill `target`. An empty event_id becomes a new one; timestamp 0 becomes the time of arrival."""
    target.event_id = interaction.event_id or uuid.uuid4().hex
    target.user_id, target.item_id = interaction.user_id, interaction.item_id
    target.label, target.scenario = interaction.label, interaction.scenario
    target.labels.update(interaction.labels)
    if interaction.timestamp:
        if not math.isfinite(interaction.timestamp):
            raise InvalidInputError(f"timestamp must be seconds since the epoch, not {interaction.timestamp}", field="timestamp")
        target.event_time.CopyFrom(to_timestamp(interaction.timestamp))


def get_interaction(source: types_pb2.Interaction) -> Interaction:
    """The interaction in `source`."""
    return Interaction(
        user_id=source.user_id,
        item_id=source.item_id,
        label=source.label,
        timestamp=seconds(source.event_time),
        scenario=source.scenario,
        event_id=source.event_id,
        labels=dict(source.labels),
    )


def get_item(source: types_pb2.Item) -> Item:
    """The item in `source`."""
    return Item(item_id=source.item_id, features=get_features(source.features), revision=source.revision)


def get_adapted(response: adaptation_pb2.AdaptTaskResponse) -> AdaptedTask:
    """The result of AdaptTask."""
    return AdaptedTask(
        shots=response.shots,
        checkpoint=response.checkpoint,
        predictions=tuple(Prediction(id=row.id, mean=row.mean, stddev=row.stddev) for row in response.predictions),
        unknown_ids=tuple(response.unknown_ids),
        scenario=_scenario(response.scenario) if response.HasField("scenario") else None,
    )


def _scenario(source: adaptation_pb2.AdaptedScenario) -> AdaptedScenario:
    return AdaptedScenario(
        num_users=source.num_users,
        num_rows=source.num_rows,
        kappa=source.kappa,
        mean_shift=source.mean_shift,
        stddev_shift=source.stddev_shift,
    )


def get_job(job: training_pb2.TrainingJob) -> TrainingJob:
    """The job in `job`."""
    return TrainingJob(
        id=identifier(job.name),
        data=job.data,
        recipe=job.recipe,
        num_workers=job.num_workers,
        seed=job.seed,
        launcher=next((name for name, value in LAUNCHERS.items() if value == job.launcher), ""),
        state=STATES.get(job.state, ""),
        checkpoint=job.checkpoint,
        error=job.error,
        created=seconds(job.create_time),
        ended=seconds(job.end_time) if job.HasField("end_time") else None,
    )


def get_checkpoint(checkpoint: training_pb2.Checkpoint) -> Checkpoint:
    """The checkpoint in `checkpoint`."""
    return Checkpoint(
        id=identifier(checkpoint.name),
        recipe=checkpoint.recipe,
        created=seconds(checkpoint.create_time),
        live=checkpoint.live,
        gate_passed=checkpoint.gate_passed,
        delta=checkpoint.delta,
        schema_hash=checkpoint.schema_hash,
        data_fingerprint=checkpoint.data_fingerprint,
        metrics=dict(checkpoint.metrics),
        gate_metrics=dict(checkpoint.gate_metrics),
    )


def resource_name(collection: str, identity: str) -> str:
    """`collection/identity`; a full resource name is left as it is."""
    return identity if identity.startswith(f"{collection}/") else f"{collection}/{identity}"


def identifier(name: str) -> str:
    """The id in a resource name."""
    return name.rpartition("/")[2]


def to_timestamp(value: float) -> Timestamp:
    """Seconds since the epoch as a Timestamp, to the microsecond."""
    stamp = Timestamp()
    stamp.FromMicroseconds(round(value * 1e6))
    return stamp


def seconds(stamp: Timestamp) -> float:
    """A Timestamp as seconds since the epoch."""
    return stamp.seconds + stamp.nanos / 1e9
