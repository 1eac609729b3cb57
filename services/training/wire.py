"""Jobs and checkpoints on the wire."""

from google.protobuf.timestamp_pb2 import Timestamp

from metarec.training.registry import CheckpointInfo
from metarec.v1 import training_pb2
from services.training.jobs import JobRecord

LAUNCHERS = {
    training_pb2.LAUNCHER_LOCAL: "local",
    training_pb2.LAUNCHER_RAY_JOBS: "ray_jobs",
    training_pb2.LAUNCHER_KUBERAY: "kuberay",
}
STATES = {
    "pending": training_pb2.TRAINING_JOB_STATE_PENDING,
    "running": training_pb2.TRAINING_JOB_STATE_RUNNING,
    "succeeded": training_pb2.TRAINING_JOB_STATE_SUCCEEDED,
    "failed": training_pb2.TRAINING_JOB_STATE_FAILED,
    "cancelled": training_pb2.TRAINING_JOB_STATE_CANCELLED,
}


def job_proto(record: JobRecord) -> training_pb2.TrainingJob:
    """A job record on the wire."""
    launcher = next(value for value, name in LAUNCHERS.items() if name == record.launcher)
    return training_pb2.TrainingJob(
        name=f"trainingJobs/{record.spec.job_id}",
        data=record.spec.data,
        recipe=record.spec.recipe,
        num_workers=record.spec.num_workers,
        seed=record.spec.seed,
        launcher=launcher,
        state=STATES[record.state],
        checkpoint=record.checkpoint,
        error=record.error,
        create_time=timestamp(record.created),
        end_time=timestamp(record.ended) if record.ended is not None else None,
    )


def checkpoint_proto(info: CheckpointInfo) -> training_pb2.Checkpoint:
    """A registry entry on the wire."""
    return training_pb2.Checkpoint(
        name=f"checkpoints/{info.id}",
        recipe=info.recipe,
        create_time=timestamp(info.created),
        live=info.live,
        gate_passed=info.gate_passed,
        delta=info.delta,
        metrics=info.metrics,
        schema_hash=info.schema_hash,
        data_fingerprint=info.data_fingerprint,
        gate_metrics=info.gate_metrics,
    )


def timestamp(seconds: float) -> Timestamp:
    """Seconds since the epoch as a protobuf Timestamp."""
    result = Timestamp()
    result.FromMilliseconds(int(seconds * 1000))
    return result
